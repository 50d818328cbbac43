"""L. Charpentier, 2020, section 4.2: does dropout in the training change how many units are needed?"""

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

NAME = "charpentier-dropout"
TITLE = "What dropout does to the units"


def _options() -> Options:
    rates = Option("dropouts", "number", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "rates of dropout", 0, 0.99, many="list")
    made = Options((*networks.OPTIONS, *OPTIONS, rates))
    return made.changed(epochs=10, batch_size=32, model=["ann-128", "mlp-3"])


def _cells(settled: Mapping[str, Json]) -> list[Cell]:
    cells = []
    for rate in settled["dropouts"]:
        here = {**settled, "model_options": {**settled["model_options"], "dropout": rate}}
        networks.check(here)
        for name, model in networks.grid(here):
            known = {"data": name, "model": model, "dropout": rate}
            for seed in range(here["seeds"]):
                base = networks.trained(NAME, seed, here, name, model)
                cells += measured(NAME, base, here, known)
    return cells


def _pages(results: Results) -> Report:
    options = results.options
    factor = Factor("dropout", "dropout", 0.0, options["dropouts"])
    notes = [
        "Dropout acts behind every hidden layer in training alone; units are measured, cut and rated without it. "
        f"Training takes {options['epochs']} epochs at batches of {options['batch_size']}, and keeps the epoch of the "
        "lowest validation loss. The section is a heading without a text; the reading is ours, and there is no "
        "published figure to compare with.",
    ]
    return factor_report(results, TITLE, factor, notes)


STUDY = Study(
    name=NAME,
    title=TITLE,
    source=SOURCE,
    summary="Networks trained with dropout of 0 to 0.6: shares of important, zero and worse units, and what cuts cost.",
    cells=_cells,
    pages=_pages,
    defaults=_options(),
)
