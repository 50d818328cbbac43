"""S. Wijnja et al., 2020: how networks bear iterative magnitude pruning with resetting, by how their weights begin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json, Recipe
from secateur.lab.plan.study import Cell, Context, Outcome, Publication
from secateur.models.initialisation import SCHEMES
from secateur.studies.calli.augment import cifar_form
from secateur.studies.kit import networks
from secateur.studies.kit.parts import study
from secateur.studies.wijnja.pages import NOTES, cards, sections, words
from secateur.studies.wijnja.training import CONTROLS, WAYS, SeedBlock, figures_of

__all__ = ["CONV", "DENSE"]

SOURCE = Publication("wijnja", "S. Wijnja, E. Wierstra, T. Hamburger", 2020, "Making Networks Prune-Ready")

_TOLD = ("train_images", "rated", "validation", "batch_size", "lr", "rate", "scope", "colour")
TICKET = "ticket"


@dataclass(frozen=True, eq=False)
class _Grid:
    """The cells of one network on one data set.

    The networks of a block of seeds that agree in all else are trained in one cell, as replicas; a further cell for each
    takes its figures out.
    """

    study: str
    settled: Mapping[str, Json]

    def cells(self) -> Iterator[Cell]:
        """Yield a block's rounds for each scheme, then what builds upon them."""
        seeds, block = range(self.settled["seeds"]), self.settled["replicas"]
        for scheme, first in product(self.settled["schemes"], seeds[::block]):
            yield from self._block(scheme, list(seeds[first : first + block]))

    def _block(self, scheme: str, seeds: list[int]) -> Iterator[Cell]:
        last: Cell | None = None
        for number in range(self.settled["rounds"] + 1):
            if last is not None and scheme == self.settled["control_scheme"] and number in self.settled["controls"]:
                for treatment in CONTROLS:
                    yield from self._with_figures("control", scheme, seeds, last, number, treatment=treatment)
            if last is not None and scheme == self.settled["control_scheme"] and number == self.settled["long_round"]:
                for treatment in ("unpruned", TICKET, *CONTROLS) if self.settled["longer"] > 1 else ():
                    passes = self._passes() * self.settled["longer"]
                    yield from self._with_figures("long", scheme, seeds, last, number, passes, treatment=treatment)
            cells = list(self._with_figures("round", scheme, seeds, last, number, treatment=TICKET))
            yield from cells
            last = cells[0]
            if number == 0:
                for way, sparsity in product(WAYS, self.settled["other_sparsities"]):
                    yield from self._with_figures("other", scheme, seeds, last, 0, way=way, sparsity=sparsity)

    def _with_figures(
        self, kind: str, scheme: str, seeds: list[int], last: Cell | None, number: int, passes: int = 0, **how: Json
    ) -> Iterator[Cell]:
        """Yield the cell that trains a block, then one for each of its networks."""
        lookup = {key: self.settled[key] for key in ("data", "model")}
        options = self.settled["model_options"]
        if not self.settled["colour"]:
            options = networks.fitted(lookup["data"], lookup["model"], options)
        training = {key: self.settled[key] for key in _TOLD} | {
            "epochs": passes or self._passes(),
            "model_options": options,
        }
        parameters = {"scheme": scheme, "round": number, **how, **training, **lookup}
        needs = () if last is None else (last.id,)
        trained = Cell(Recipe(self.study, f"train-{kind}", {"seeds": seeds, **parameters}, needs), train_cell)
        yield trained
        columns = {"sparsity": removed(self.settled["rate"], number), **how}
        for place, seed in enumerate(seeds):
            row = {"seed": seed, "scheme": scheme, "round": number, **columns, **lookup}
            name = "ticket" if kind in ("round", "control") else kind
            yield Cell(Recipe(self.study, name, {**row, "place": place}, (trained.id,), {"place": place}), figures_cell)

    def _passes(self) -> int:
        epochs: Mapping[str, int] = self.settled["epochs"]
        return epochs.get(self.settled["data"], next(iter(epochs.values())))


def removed(rate: float, rounds: int) -> float:
    """Return the share of a hidden layer's weights that is gone after so many rounds.

    >>> removed(0.2, 2)
    0.36
    """
    return round(1 - (1 - rate) ** rounds, 4)


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    networks.check(settled, networks.taken_options)
    return [
        cell
        for single in networks.singles(settled)
        for cell in _Grid(name, {**single, "model_options": networks.taken_options(single)}).cells()
    ]


def train_cell(context: Context) -> Outcome:
    """Train the networks of a block, and keep their figures and the masks of the next round."""
    masks = context.artefact() if context.recipe.needs else {}
    recipe = context.recipe.parameters
    splits = {name: networks.loaded(networks.split(context, recipe, name)) for name in ("train", "validation", "test")}
    splits["test"] = networks.first(splits["test"], recipe["rated"])
    if recipe["colour"]:
        splits = {name: replace(images, images=cifar_form(images.images)) for name, images in splits.items()}
    histories, tensors = SeedBlock(recipe, splits, masks, goes_on=context.recipe.kind == "train-round").trained()
    rows = [{"network": seed, **row} for seed, rows in zip(context["seeds"], histories, strict=True) for row in rows]
    means = {name: float(tensors[name].mean()) for name in ("accuracy", "loss", "density")}
    return Outcome(means, rows, tensors)


def figures_cell(context: Context) -> Outcome:
    """Take one network's figures out of its block's."""
    metrics = figures_of(context.artefact(), context["place"])
    history = [dict(row) for row in context.record().history if row["network"] == context["seed"]]
    return Outcome(metrics, [{key: value for key, value in row.items() if key != "network"} for row in history])


def _options(*changed: tuple[str, Json]) -> Options:
    names = tuple(SCHEMES)
    shared = {option.name: option for option in networks.OPTIONS}
    table = (
        *(shared[name] for name in ("seeds", "batch_size", "validation", "data", "data_dir", "model", "model_options")),
        Option(
            "epochs",
            "mapping",
            {"fashion-mnist": 5, "mnist-5k": 12},
            "passes a round, by data set; others as the first",
        ),
        Option("train_images", "count", 20_000, "training images, at most", least=1),
        Option("rated", "count", None, "test images, the first; null for all", least=1, optional=True),
        Option("lr", "number", 1.2e-3, "learning rate of Adam", least=0),
        Option("schemes", "text", [*THEIRS, OURS], "how weights begin", allowed=names, many="list"),
        Option("rounds", "count", 25, "how often is pruned", least=1),
        Option(
            "rate",
            "number",
            0.2,
            "the share of the weights left that a round takes; half of it of the output layer",
            least=0,
            most=1,
        ),
        Option("scope", "text", "layer", "where weights compete", allowed=("layer", "global")),
        Option("colour", "flag", False, "grey images as CIFAR-10 has them, 3 × 32 × 32"),
        Option("replicas", "count", 5, "how many seeds are trained as one", least=1),
        Option(
            "controls",
            "count",
            [4, 7, 11, 15, 20],
            "the rounds at which tickets stand beside their controls",
            many="any",
        ),
        Option("control_scheme", "text", "xavier-normal", "the scheme of the controls", allowed=names),
        Option("longer", "count", 4, "how many times as long the longer training is; 1 for none", least=1),
        Option("long_round", "count", 11, "the round of the longer training"),
        Option("other_sparsities", "number", [0.8, 0.95], "what the other ways remove", many="any", least=0, most=1),
    )
    return Options(table).changed(**dict(changed))


THEIRS = ("xavier-normal", "xavier-uniform", "kaiming-normal", "kaiming-uniform")
"""The schemes that the text compares."""

OURS = "sign-balanced"
"""Of our own schemes the best of benchmarks/robust_init.py, chosen on other networks, seeds and validation images."""


def _study(name: str, title: str, summary: str, *changed: tuple[str, Json]) -> Any:
    return study(
        name,
        title,
        summary,
        source=SOURCE,
        options=_options(*changed),
        cells=_cells,
        sections=sections,
        words=words,
        cards=cards,
        notes=NOTES,
        trained=False,
    )


DENSE = _study(
    "wijnja",
    "Prune-ready: does the initialisation decide how well a network bears pruning?",
    "LeNet-300-100 begun in several ways, pruned in rounds and reset to its first weights; tickets beside their controls.",
    ("seeds", 5),
    ("batch_size", 60),
    ("data", ["fashion-mnist", "mnist-5k"]),
    ("model", "lenet-300-100"),
    ("validation", 500),
)
CONV = _study(
    "wijnja-conv",
    "Prune-ready: convolutional networks",
    "Conv-2 (and Conv-4, Conv-6 by option) begun in several ways, pruned in rounds and reset to their first weights.",
    ("seeds", 5),
    ("batch_size", 60),
    ("data", "fashion-mnist"),
    ("model", "conv-2"),
    ("validation", 500),
    ("colour", True),
    ("schemes", list(THEIRS)),
    ("lr", 1e-3),
    ("epochs", {"fashion-mnist": 2}),
    ("train_images", 1000),
    ("rated", 2000),
    ("rate", 0.4),
    ("rounds", 11),
    ("controls", []),
    ("longer", 1),
    ("other_sparsities", []),
)
