"""L. Charpentier, 2020, sections 4.1 and 4.2: what a factor of the training makes of the units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product

from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Study
from secateur.studies.charpentier.common import SOURCE
from secateur.studies.charpentier.factors_pages import Factor, factor_study
from secateur.studies.charpentier.measured import OPTIONS, measured
from secateur.studies.kit import networks

__all__ = ["BATCH_SIZE", "DROPOUT", "Question", "ask"]


@dataclass(frozen=True)
class Question:
    """A factor of the training, and how networks are trained at each of its values.

    Attributes:
        name, title, summary: the study's.
        factor: what it is called, and its reference.
        values: the option that holds its values.
        train: from a value and the study's options to the options at which a network is trained.
        note: how it was done; ``{epochs}`` stands for an option.
        defaults: of the study's options.
        without: an option that the factor takes the place of.
        outermost: whether all networks are trained at one value before the next, or each at all values.
    """

    name: str
    title: str
    summary: str
    factor: Factor
    values: Option
    train: Callable[[Mapping[str, Json], Json], Mapping[str, Json]]
    note: str
    defaults: Mapping[str, Json]
    without: str = ""
    outermost: bool = False


def ask(question: Question) -> Study:
    """Return the study that answers a question.

    >>> len(ask(replace(_BATCH_SIZE, name="mine")).plan({"seeds": 1, "batch_sizes": [8], "model": "ann-128"}))
    5
    """

    def cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
        values, singles = settled[question.values.name], networks.singles(settled)
        pairs = (
            product(values, singles) if question.outermost else ((v, network) for network in singles for v in values)
        )
        return [
            cell
            for value, single in pairs
            for base in networks.bases(name, {**single, **question.train(settled, value)})
            for cell in measured(base, settled, **{question.factor.key: value})
        ]

    shared = (option for option in (*networks.OPTIONS, networks.LOSS) if option.name != question.without)
    options = Options((*shared, *OPTIONS, question.values)).changed(**question.defaults)
    return factor_study(
        question.name,
        question.title,
        question.summary,
        source=SOURCE,
        options=options,
        cells=cells,
        factor=lambda settled: replace(question.factor, values=settled[question.values.name]),
        notes=[question.note],
    )


_OURS = (
    "The section is a heading without a text; the reading is ours, and there is no published figure to compare with."
)

_BATCH_SIZE = Question(
    "charpentier-batch-size",
    "What the batch size does to the units",
    "Networks trained with batches of 8 to 512 images: shares of important, zero and worse units, and what cuts cost.",
    Factor("batch_size", "batch size", 32),
    Option("batch_sizes", "count", [8, 16, 32, 64, 128, 256, 512], "images a step", least=2, many="list"),
    lambda settled, value: {"batch_size": value},
    "Every network is trained for {epochs} epochs with Adam at one learning rate, so a small batch size also means more "
    f"steps: the effect is that of both together. {_OURS} The thesis trains with batches of 32.",
    {"epochs": 5, "model": ["ann-128", "mlp-3"]},
    without="batch_size",
)
BATCH_SIZE = ask(_BATCH_SIZE)

DROPOUT = ask(
    Question(
        "charpentier-dropout",
        "What dropout does to the units",
        "Networks trained with dropout of 0 to 0.6: shares of important, zero and worse units, and what cuts cost.",
        Factor("dropout", "dropout", 0.0),
        Option("dropouts", "number", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "rates of dropout", 0, 0.99, many="list"),
        lambda settled, value: {"model_options": {**settled["model_options"], "dropout": value}},
        "Dropout acts behind every hidden layer in training alone; units are measured, cut and rated without it. Training "
        "takes {epochs} epochs at batches of {batch_size}, and keeps the epoch of the lowest validation loss. " + _OURS,
        {"epochs": 10, "batch_size": 32, "model": ["ann-128", "mlp-3"]},
        outermost=True,
    )
)
