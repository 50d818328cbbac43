"""L. Charpentier, 2020, section 4.3: give units that are not needed a new beginning, and train on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from secateur import models
from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json, Recipe
from secateur.lab.plan.study import Cell, Context, Outcome, Results
from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Column, Picture, Section, Table
from secateur.lab.show.sections import interval, pick
from secateur.lab.show.words import formatted, named
from secateur.models.initialisation import LAYER_SCHEMES
from secateur.studies.charpentier.common import SOURCE, options
from secateur.studies.charpentier.factors_pages import Factor, compared, factor_study
from secateur.studies.charpentier.measured import OPTIONS, measured
from secateur.studies.kit import networks
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part
from secateur.train import Reinitialise

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STUDY"]

PLAIN = "plain"


def _arms(settled: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """The ways of training, by name, with what their recipes have besides."""
    shared = {key: settled[key] for key in ("every", "cycles", "outgoing")}
    arms: dict[str, dict[str, Json]] = {PLAIN: {}}
    for scheme in settled["schemes"]:
        for words, at_random in (("zero and worse units", False), ("random units", True)):
            arms[f"{words}, {scheme}"] = {**shared, "scheme": scheme, "at_random": at_random}
    return arms


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    return [
        cell
        for plain in networks.bases(name, settled)
        for arm, options in _arms(settled).items()
        for cell in measured(_base(plain, arm, options, settled), settled, arm=arm)
    ]


def _base(plain: Cell, arm: str, options: Mapping[str, Json], settled: Mapping[str, Json]) -> Cell:
    """The cell that trains a network in one of the ways."""
    if not options:
        return plain
    parameters = {**plain.recipe.parameters, **options, "measured": settled["measured"], "arm": arm}
    recipe = Recipe(plain.recipe.study, "reinitialise", parameters, defaults={"arm": arm})
    return Cell(recipe, reinitialise_cell, lookup=plain.lookup)


def reinitialise_cell(context: Context) -> Outcome:
    """Train a network in which units begin anew every few epochs."""
    recipe, anew = context.recipe.parameters, {}
    model = models.build(recipe["model"], seed=recipe["seed"], **recipe["model_options"])
    again = Reinitialise(
        every=recipe["every"],
        data=networks.first(networks.split(context, recipe, "train"), recipe["measured"]),
        loss=networks.loss_of(recipe),
        scheme=recipe["scheme"],
        outgoing=recipe["outgoing"],
        cycles=recipe["cycles"],
        seed=recipe["seed"],
        at_random=recipe["at_random"],
        on_found=lambda epoch, units: anew.update({str(epoch): sum(map(len, units.values()))}),
    )
    outcome = networks.fit_and_rate(context, recipe, model, recipe["seed"], [again])
    return Outcome({**outcome.metrics, "begun_anew": anew}, outcome.history, outcome.artefact)


def _notes(results: Results) -> list[str]:
    options = results.options
    return [
        f"Every network is trained for {options['epochs']} epochs in all. Before an epoch, every {options['every']} of "
        "them, each unit's loss change is measured on training images, and the zero and worse units begin anew: incoming "
        f"weights by the scheme, outgoing ones {_outgoing(options['outgoing'])}, and the optimiser forgets them. The "
        "control begins as many units of each layer anew that are drawn at random. All keep the epoch of the lowest "
        "validation loss, as the plain training does. The section is a heading without a text; the reading is ours, and "
        "there is no published figure to compare with.",
    ]


def _outgoing(scale: float | None) -> str:
    return "stay" if scale is None else f"are drawn and multiplied by {scale:g}" if scale else "are zero"


def _training(part: Part, factor: Factor) -> list[Section]:
    """What the trainings did, before anything is cut."""
    epochs = _epochs(part)
    last = epochs[epochs["epoch"] == epochs["epoch"].max()]
    blocks: list[Block] = [_table(part, factor, last), _curves(part, epochs)]
    blocks += compared(last, factor, "validation_accuracy", "compare-last", "Validation accuracy after the last epoch.")
    return [Section("Plain training and new beginnings", blocks)]


def _epochs(part: Part) -> DataFrame:
    """The epochs of the trained networks, with the way in which each was trained."""
    store = part.results.store
    arms = {record.recipe.needs[0]: record.recipe.parameters["arm"] for record in store.records(part.measured["id"])}
    epochs = store.histories(list(arms))
    return epochs.assign(arm=[arms[identity] for identity in epochs["id"]])


def _table(part: Part, factor: Factor, last: DataFrame) -> Table:
    ends = last.set_index(["arm", "seed"])[["validation_accuracy", "validation_loss"]].add_suffix("_last")
    rows = factor.ordered(part.measured).join(ends, on=["arm", "seed"])
    columns = [
        Mean(len, Column("networks", format=".0f")),
        Mean(lambda runs: _begun(part, runs["arm"].iloc[0]), Column("begun anew, mean a network", format=".1f")),
        Mean("accuracy", Column("test accuracy", format=".4f", best="max"), "95 %"),
        Mean("loss", Column("test loss", format=".4f", best="min")),
        Mean("validation_accuracy", Column("validation accuracy", format=".4f")),
        Mean("validation_accuracy_last", Column("validation accuracy, last epoch", format=".4f")),
        Mean("validation_loss_last", Column("validation loss, last epoch", format=".4f")),
    ]
    caption = "The trainings: units that began anew, and the networks at the epoch of the lowest validation loss and at the end."
    basis = part.basis(part.measured, "test and validation set")
    return grouped(rows, "trainings", caption, {"arm": Column("training")}, columns, basis)


def _begun(part: Part, arm: str) -> float:
    """How many units began anew in one training, on the mean."""
    cells = part.kind("reinitialise")
    counts = pick(cells, arm=arm)["begun_anew"] if len(cells) else []
    return float(sum(sum(by_epoch.values()) for by_epoch in counts) / len(counts)) if len(counts) else 0.0


def _curves(part: Part, epochs: DataFrame) -> Picture:
    drawing = figures.path(epochs, step="epoch", value="validation_loss", by="arm", label=("Epoch", "Validation loss"))
    ends = epochs[epochs["epoch"] == epochs["epoch"].max()].groupby("arm", sort=False)["validation_loss"].mean()
    alt = "Mean validation loss after the last epoch: " + named(ends, ".4f")
    caption = "Validation loss by epoch: mean over the networks, and their range."
    return Picture("curves", drawing, caption, alt, part.basis(part.measured, "validation set"), epochs)


def _against_plain(part: Part, factor: Factor) -> str:
    plain = pick(part.measured, arm=PLAIN).set_index("seed")["accuracy"]
    gaps = []
    for arm in factor.values[1:]:
        gap = (100 * (pick(part.measured, arm=arm).set_index("seed")["accuracy"] - plain)).dropna()
        if len(gap):
            gaps.append(f"{arm}: {formatted(gap.mean(), '+.2f')} points {interval(gap, shape='+.2f')}".strip())
    return f"Test accuracy against plain training for as many epochs, paired by seed: {'; '.join(gaps) or 'not known yet'}."


STUDY = factor_study(
    "charpentier-reinit",
    "New beginnings for units that are not needed",
    "Training in which zero and worse units begin anew every few epochs, against plain training as long and a random control.",
    source=SOURCE,
    options=options(
        *OPTIONS,
        Option("every", "count", 5, "epochs before units begin anew, each time", least=1),
        Option("cycles", "count", None, "how many times at most", optional=True),
        Option(
            "schemes", "text", ["kaiming-uniform"], "how weights are drawn", allowed=tuple(LAYER_SCHEMES), many="list"
        ),
        Option("outgoing", "number", 0.0, "scale of new outgoing weights; null keeps the old ones", optional=True),
        epochs=20,
        model=["ann-128", "mlp-3"],
    ),
    cells=_cells,
    factor=lambda settled: Factor("arm", "training", PLAIN, list(_arms(settled))),
    notes=_notes,
    further=_training,
    first_words=_against_plain,
)
