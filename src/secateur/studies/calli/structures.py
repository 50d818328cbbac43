"""E. Çallı, 2017, sections 1.4, 1.7.2 and 2.3.1: cheaper structures in the place of convolutions, and what they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from secateur import measure, models
from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json, Recipe
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.lab.show.blocks import Column, Section, Table
from secateur.lab.show.sections import pick
from secateur.lab.show.words import formatted
from secateur.studies.calli.common import SOURCE
from secateur.studies.calli.smaller import SettingsOf, WaySetting, cells, smaller_options
from secateur.studies.calli.smaller_pages import NOTES, Pages
from secateur.studies.kit.parts import Part, study
from secateur.transforms import Replace

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STUDY", "WAYS"]

IMITATED, PLAIN = "imitated", "not trained"

NETWORKS = {"34-layer": "resnet-34", "50-layer": "resnet-50"}
STAGES = {"conv1": "conv1", **{f"layer{n}": f"conv{n + 1}_x" for n in range(1, 5)}, "fc": "fc"}
"""The rows of Table 1.1 by the name of the network's part."""

CONVOLUTIONS = ((3, 16, 16), (3, 16, 64), (3, 64, 64), (5, 32, 48), (3, 128, 256))
"""Kernel, inputs and outputs of the layers whose multiply-accumulates are counted beside the formulas."""

SIZE = 12
"""Their height and width."""


def _settings(structure: str, options: Mapping[str, Json], settled: Mapping[str, Json]) -> Sequence[WaySetting]:
    whole = {"structure": structure, **options}
    return [WaySetting(IMITATED, 1.0, whole, with_data=True), WaySetting(PLAIN, 0.0, whole)]


WAYS: Mapping[str, SettingsOf] = {
    "separable": partial(_settings, "separable", {}),
    "separable, 2 filters": partial(_settings, "separable", {"filters": 2}),
    "composed": partial(_settings, "composed", {}),
    "1-D": partial(_settings, "one-dimensional", {"middle": 0.5}),
    "bottleneck": partial(_settings, "bottleneck", {}),
}

FORMULAS: Mapping[str, Callable[[int, int, int], tuple[int, dict[str, int]]]] = {
    "separable": lambda k, m, n: (measure.separable_macs(k, m, 1, n), {"filters": 1}),
    "composed": lambda k, m, n: (measure.composed_macs(k, m, n // 2, n), {"middle": n // 2}),
    "one-dimensional": lambda k, m, n: (measure.composed_macs(k, m, n // 2, n), {"middle": n // 2}),
    "bottleneck": lambda k, m, n: (measure.bottleneck_macs(k, m, m // 2, n), {"middle": m // 2}),
}
"""What a structure takes a place by its formula, and the options that make it so: of kernel, inputs, outputs."""


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    both = list(cells(name, settled, Replace.kind, WAYS))
    lookup = both[0].lookup
    parameters = {"seed": 0, "width": settled["table_width"], "size": settled["table_size"], **lookup}
    return [*both, Cell(Recipe(name, "sizes", parameters), sizes_cell, lookup=lookup)]


def sizes_cell(context: Context) -> Outcome:
    """Count what structures take beside their formulas, and the parts of both networks of Table 1.1."""
    rows = [*_by_formula(), *_table(context["width"], context["size"])]
    return Outcome({"counted": len(rows)}, [{"step": number, **row} for number, row in enumerate(rows)])


def _by_formula() -> Iterator[dict[str, Json]]:
    for kernel, inputs, outputs in CONVOLUTIONS:
        layer = nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2))
        x, places = torch.zeros(1, inputs, SIZE, SIZE), SIZE * SIZE
        whole = measure.convolution_macs(kernel, inputs, outputs, places=places)
        for structure, formula in FORMULAS.items():
            macs, options = formula(kernel, inputs, outputs)
            counted = measure.macs(Replace(structure, **options)(layer, x).model, x)  # type: ignore[arg-type]
            shape = f"{kernel}×{kernel}, {inputs} → {outputs}"
            yield {
                "phase": "formula",
                "layer": shape,
                "structure": structure,
                "formula": macs * places,
                "macs": counted,
                "whole": whole,
            }


def _table(width: float, size: int) -> Iterator[dict[str, Json]]:
    for title, name in NETWORKS.items():
        model = models.build(name, seed=0, width=width, input_size=size)
        for part, macs, parameters in _parts(model.eval(), torch.zeros(1, 3, size, size)):
            yield {"phase": "table", "layer": part, "structure": title, "macs": macs, "parameters": parameters}


def _parts(model: nn.Module, x: Tensor) -> Iterator[tuple[str, int, int]]:
    with torch.no_grad():
        for name, child in model.named_children():
            x = x.flatten(1) if isinstance(child, nn.Linear) else x
            if name in STAGES:
                yield STAGES[name], measure.macs(child, x), measure.parameters(child).total
            x = child(x)


def _rows(part: Part, phase: str) -> DataFrame:
    return pick(part.lines(part.kind("sizes")), phase=phase).dropna(axis=1, how="all")


def _further(part: Part) -> list[Section]:
    sizes = part.kind("sizes")
    if not len(sizes):
        return []
    basis = part.basis(sizes)
    names = ("layer", "structure", "formula", "macs", "whole")
    rows = [[row[name] for name in names] for _, row in _rows(part, "formula").iterrows()]
    columns = [
        Column("layer"),
        Column("structure"),
        *(Column(n, format=",.0f") for n in ("formula", "counted", "layer's")),
    ]
    caption = f"Multiply–accumulates at {SIZE}×{SIZE} places, by the text's formulas and counted."
    formulas = Table("formulas", caption, columns, rows, basis)
    stages, both = _stages(part)
    heads = [
        Column("part"),
        *(Column(f"{net}, {count}", format=",.0f") for net in both for count in ("MACs", "parameters")),
    ]
    table = Table("table-1-1", "The parts of both networks of Table 1.1.", heads, stages, basis)
    return [Section("What the structures take", [formulas]), Section("The blocks of Table 1.1", [table])]


def _stages(part: Part) -> tuple[list[list[Json]], list[str]]:
    """The parts of Table 1.1, a row each, and the networks."""
    rows = _rows(part, "table")
    nets = list(dict.fromkeys(rows["structure"]))
    stages: list[list[Json]] = []
    for name in dict.fromkeys(rows["layer"]):
        picked = [pick(rows, layer=name, structure=net).iloc[0] for net in nets]
        stages.append([name, *(float(row[count]) for row in picked for count in ("macs", "parameters"))])
    sums = [sum(stage[column] for stage in stages) for column in range(1, len(stages[0]))]
    return [*stages, ["all", *sums]], nets


PAGES = Pages(
    "Accuracy of imitation",
    "Imitated",
    lambda _: False,
    {"separable": tuple(way for way in WAYS if way != "separable")},
    ("macs_left", "parameters_left"),
    _further,
)


def _words(part: Part) -> list[str]:
    sentences = PAGES.words(part)
    if not len(part.kind("sizes")):
        return sentences
    formulas = _rows(part, "formula")
    equal = int((formulas["formula"] == formulas["macs"]).sum())
    stages, nets = _stages(part)
    sizes = [
        f"{net} {formatted(stages[-1][1 + 2 * n], ',.0f')} MACs, {formatted(stages[-1][2 + 2 * n], ',.0f')} parameters"
        for n, net in enumerate(nets)
    ]
    return [
        *sentences,
        f"By formula and counted: equal in {equal} of {len(formulas)} configurations.",
        f"Table 1.1: {'; '.join(sizes)}.",
    ]


STUDY = study(
    "calli-structures",
    "Cheaper structures in the place of convolutions",
    "Separable, composed, one-dimensional and bottleneck convolutions that imitate those of a trained network, what they take by "
    "the text's formulas and counted, and the blocks of its Table 1.1.",
    source=SOURCE,
    options=smaller_options(
        tuple(WAYS),
        Option("table_width", "number", 1.0, "width of the networks of Table 1.1", least=0.01),
        Option("table_size", "count", 224, "size of their images", least=32),
        model="conv-2",
        model_options={"width": 0.25},
        tune=2,
    ),
    cells=_cells,
    sections=PAGES.sections,
    words=_words,
    cards=PAGES.cards,
    notes=(
        "'Imitated': each structure is trained on images to make what the layer made in the unchanged network of what the changed "
        "one before it gives. '"
        + PLAIN
        + "': the nearest to the layer's weight (separable, 1-D), or drawn (composed, bottleneck).",
        "1-D convolutions have half as many channels between as outputs; the text's section on them is a heading.",
        "Table 1.1 prints 3.6 and 3.8 · 10⁹ and calls them FLOPs, and three blocks in each part; its networks, which are counted here, have 3, 4, 6 and 3.",
        *NOTES,
    ),
)
