"""L. Charpentier, 2020, section 4.1: does the batch size of the training decide how many units are needed?"""

from __future__ import annotations

from collections.abc import Mapping

from secateur.lab.options import Option, Options
from secateur.lab.recipe import Json
from secateur.lab.report import Report
from secateur.lab.study import Cell, Results, Study
from secateur.studies.charpentier.common import SOURCE
from secateur.studies.charpentier.factors_pages import Factor, factor_report
from secateur.studies.charpentier.measured import OPTIONS, measured
from secateur.studies.kit import networks

__all__ = ["STUDY"]

NAME = "charpentier-batch-size"
TITLE = "What the batch size does to the units"


def _options() -> Options:
    shared = tuple(option for option in networks.OPTIONS if option.name != "batch_size")
    sizes = Option("batch_sizes", "count", [8, 16, 32, 64, 128, 256, 512], "images a step", least=2, many="list")
    return Options((*shared, *OPTIONS, sizes)).changed(epochs=5, model=["ann-128", "mlp-3"])


def _cells(settled: Mapping[str, Json]) -> list[Cell]:
    networks.check(settled)
    cells = []
    for name, model in networks.grid(settled):
        for batch_size in settled["batch_sizes"]:
            known = {"data": name, "model": model, "batch_size": batch_size}
            for seed in range(settled["seeds"]):
                base = networks.trained(NAME, seed, {**settled, "batch_size": batch_size}, name, model)
                cells += measured(NAME, base, settled, known)
    return cells


def _pages(results: Results) -> Report:
    options = results.options
    factor = Factor("batch_size", "batch size", 32, options["batch_sizes"])
    notes = [
        f"Every network is trained for {options['epochs']} epochs with Adam at one learning rate, so a small batch size "
        "also means more steps: the effect is that of both together. The section is a heading without a text; the "
        "reading is ours, and there is no published figure to compare with. The thesis trains with batches of 32.",
    ]
    return factor_report(results, TITLE, factor, notes)


STUDY = Study(
    name=NAME,
    title=TITLE,
    source=SOURCE,
    summary="Networks trained with batches of 8 to 512 images: shares of important, zero and worse units, and what cuts cost.",
    cells=_cells,
    pages=_pages,
    defaults=_options(),
)
