"""L. Charpentier, 2020, section 4.3: give units that are not needed a new beginning, and train on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from secateur import models
from secateur.lab import figures
from secateur.lab.blocks import Block, Column, Picture, Section, Table
from secateur.lab.options import Option, Options
from secateur.lab.recipe import Json, Recipe
from secateur.lab.report import Report
from secateur.lab.sections import interval, mean, pick
from secateur.lab.study import Cell, Context, Outcome, Results, Study
from secateur.models.schemes import SCHEMES
from secateur.studies.charpentier.common import SOURCE
from secateur.studies.charpentier.factors_pages import Factor, compared, factor_report
from secateur.studies.charpentier.measured import OPTIONS, measured
from secateur.studies.kit import networks
from secateur.studies.kit.parts import Part
from secateur.train import Reinitialise

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STUDY"]

NAME = "charpentier-reinit"
TITLE = "New beginnings for units that are not needed"
PLAIN = "plain"


def _options() -> Options:
    own = (
        Option("every", "count", 5, "epochs before units begin anew, each time", least=1),
        Option("cycles", "count", None, "how many times at most", optional=True),
        Option("schemes", "text", ["kaiming-uniform"], "how weights are drawn", allowed=tuple(SCHEMES), many="list"),
        Option("outgoing", "number", 0.0, "scale of new outgoing weights; null keeps the old ones", optional=True),
    )
    made = Options((*networks.OPTIONS, *OPTIONS, *own))
    return made.changed(epochs=20, batch_size=32, model=["ann-128", "mlp-3"])


def _arms(settled: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """The ways of training, by name, with what their recipes have besides."""
    shared = {key: settled[key] for key in ("every", "cycles", "outgoing")}
    arms: dict[str, dict[str, Json]] = {PLAIN: {}}
    for scheme in settled["schemes"]:
        for words, at_random in (("zero and worse units", False), ("random units", True)):
            arms[f"{words}, {scheme}"] = {**shared, "scheme": scheme, "at_random": at_random}
    return arms


def _cells(settled: Mapping[str, Json]) -> list[Cell]:
    networks.check(settled)
    cells = []
    for name, model in networks.grid(settled):
        for seed in range(settled["seeds"]):
            plain = networks.trained(NAME, seed, settled, name, model)
            for arm, options in _arms(settled).items():
                known = {"data": name, "model": model, "arm": arm}
                base = plain
                if options:
                    what = {**plain.recipe.parameters, **options, "measured": settled["measured"], "arm": arm}
                    base = Cell(Recipe(NAME, "reinitialise", what, defaults={"arm": arm}), reinitialise_cell)
                cells += measured(NAME, base, settled, known)
    return cells


def reinitialise_cell(context: Context) -> Outcome:
    """Train a network in which units begin anew every few epochs."""
    recipe, begun = context.recipe.parameters, {}
    model = models.build(recipe["model"], seed=recipe["seed"], **recipe["model_options"])
    again = Reinitialise(
        every=recipe["every"],
        data=networks.first(networks.split(context, recipe, "train"), recipe["measured"]),
        scheme=recipe["scheme"],
        outgoing=recipe["outgoing"],
        cycles=recipe["cycles"],
        seed=recipe["seed"],
        at_random=recipe["at_random"],
        on_found=lambda epoch, units: begun.update({str(epoch): sum(map(len, units.values()))}),
    )
    outcome = networks.fit_and_rate(context, recipe, model, recipe["seed"], [again])
    return Outcome({**outcome.metrics, "begun_anew": begun}, outcome.history, outcome.artefact)


def _pages(results: Results) -> Report:
    options = results.options
    factor = Factor("arm", "training", PLAIN, list(_arms(options)))
    notes = [
        f"Every network is trained for {options['epochs']} epochs in all. Before an epoch, every {options['every']} of "
        "them, each unit's loss change is measured on training images, and the zero and worse units begin anew: incoming "
        f"weights by the scheme, outgoing ones {_outgoing(options['outgoing'])}, and the optimiser forgets them. The "
        "control begins as many units of each layer anew that are drawn at random. All keep the epoch of the lowest "
        "validation loss, as the plain training does. The section is a heading without a text; the reading is ours, and "
        "there is no published figure to compare with.",
    ]
    return factor_report(
        results, TITLE, factor, notes, lambda part: _training(part, factor), lambda part: _said(part, factor)
    )


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
    arms = {one.recipe.needs[0]: one.recipe.parameters["arm"] for one in store.records(part.measured["id"])}
    epochs = store.histories(list(arms))
    return epochs.assign(arm=[arms[identity] for identity in epochs["id"]])


def _table(part: Part, factor: Factor, last: DataFrame) -> Table:
    columns = [
        Column("training"),
        Column("networks", format=".0f"),
        Column("begun anew, mean a network", format=".1f"),
        Column("test accuracy", format=".4f", best="max"),
        Column("95 %"),
        Column("test loss", format=".4f", best="min"),
        Column("validation accuracy", format=".4f"),
        Column("validation accuracy, last epoch", format=".4f"),
        Column("validation loss, last epoch", format=".4f"),
    ]
    rows = []
    for arm in factor.values:
        runs, ends = pick(part.measured, arm=arm), pick(last, arm=arm)
        if len(runs):
            rated = [
                mean(runs, "accuracy"),
                interval(runs["accuracy"]),
                mean(runs, "loss"),
                mean(runs, "validation_accuracy"),
            ]
            ended = [mean(ends, "validation_accuracy"), mean(ends, "validation_loss")]
            rows.append([arm, len(runs), _begun(part, arm), *rated, *ended])
    caption = "The trainings: units that began anew, and the networks at the epoch of the lowest validation loss and at the end."
    return Table("trainings", caption, columns, rows, part.basis(part.measured, "test and validation set"))


def _begun(part: Part, arm: str) -> float:
    """How many units began anew in one training, on the mean."""
    frame = part.results.frame
    if "arm" not in frame or "begun_anew" not in frame:
        return 0.0
    found = pick(frame, kind="reinitialise", model=part.model, data=part.data, arm=arm)["begun_anew"]
    return float(sum(sum(counts.values()) for counts in found) / len(found)) if len(found) else 0.0


def _curves(part: Part, epochs: DataFrame) -> Picture:
    drawn = figures.path(epochs, step="epoch", value="validation_loss", by="arm", label=("Epoch", "Validation loss"))
    ends = epochs[epochs["epoch"] == epochs["epoch"].max()].groupby("arm", sort=False)["validation_loss"].mean()
    alt = "Mean validation loss after the last epoch: " + ", ".join(f"{arm} {loss:.4f}" for arm, loss in ends.items())
    caption = "Validation loss by epoch: mean over the networks, and their range."
    return Picture("curves", drawn, caption, alt, part.basis(part.measured, "validation set"), epochs)


def _said(part: Part, factor: Factor) -> str:
    plain = pick(part.measured, arm=PLAIN).set_index("seed")["accuracy"]
    parts = []
    for arm in factor.values[1:]:
        gap = (100 * (pick(part.measured, arm=arm).set_index("seed")["accuracy"] - plain)).dropna()
        if len(gap):
            parts.append(f"{arm}: {gap.mean():+.2f} points {interval(gap)}".strip())
    return f"Test accuracy against plain training for as many epochs, paired by seed: {'; '.join(parts) or 'not known yet'}."


STUDY = Study(
    name=NAME,
    title=TITLE,
    source=SOURCE,
    summary="Training in which zero and worse units begin anew every few epochs, against plain training as long and a random control.",
    cells=_cells,
    pages=_pages,
    defaults=_options(),
)
