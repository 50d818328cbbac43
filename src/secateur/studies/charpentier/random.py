"""L. Charpentier, 2020, section 3.1: what it costs to remove nodes at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from secateur.criteria import Magnitude
from secateur.files import require
from secateur.lab import figures
from secateur.lab.blocks import Block, Card, Column, Picture, Section, Table
from secateur.lab.classes import class_damage
from secateur.lab.options import Option
from secateur.lab.recipe import Json, Recipe
from secateur.lab.report import Report
from secateur.lab.sections import interval, mean, pick
from secateur.lab.stats import summarise
from secateur.lab.study import Cell, Context, Outcome, Results, Study
from secateur.rate.masks import rate as rate_masks
from secateur.selection import select
from secateur.structure import channels
from secateur.studies.charpentier.common import SOURCE, bases, check, options
from secateur.studies.charpentier.measured import drawn
from secateur.studies.charpentier.published import BANDS, RANDOM, SPREADS
from secateur.studies.kit.networks import example, network, split
from secateur.studies.kit.parts import Part, class_rows, describe_table, quartiles, report, statistics

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STUDY"]

NAME = "charpentier-random"

OPTIONS = options(
    Option("removed", "count", [1, 2, 4, 8, 16, 32, 64], "how many nodes to remove", least=1, many="list"),
    Option("draws", "count", 300, "random choices of nodes in each network", least=2),
    seeds=8,
)

NOTES = (
    "The text gives a network of one hidden layer of 128 nodes, Adam with learning rate 0.001, 5 epochs, batches of 32. "
    "Here the last training images are held out, and the weights of the epoch of the lowest validation loss are kept.",
    "Nodes are removed by Algorithm 1: the weights to and from them and their biases become zero. Each draw is new, from "
    "all nodes. Nothing is chosen and nothing retrained, so all is rated on the test images, as in the text.",
    "The text has one network, and so many draws that its tables do not tell how many. Our statistics are those of one "
    "network's draws, averaged over the networks. The bands are what ten networks gave in trials of this method before "
    "the study was written; they are no figures of the text.",
    "The tables of the text on MNIST also stand beside results on mnist-5k, which has only 4,000 training images.",
)


def _cells(settled: Mapping[str, Json]) -> list[Cell]:
    check(NAME, OPTIONS, settled)
    made = []
    for base, known in bases(NAME, settled):
        made.append(base)
        for n in settled["removed"]:
            own = {"seed": base.recipe.seed, "n": n, "draws": settled["draws"], **known}
            made.append(Cell(Recipe(NAME, "remove", own, (base.id,), known), remove_cell))
    return made


def remove_cell(context: Context) -> Outcome:
    """Rate a network without n of its nodes, for many draws at once, and without those of the lowest L2 norm."""
    model, recipe = network(context)
    sites, n = channels(model, example(context, recipe)), context["n"]
    keeps = drawn(model, sites, n, context["draws"], (context["seed"], n))
    share = n / sum(site.size for site in sites.values())
    keeps.append(select(Magnitude(p=2)(model, sites), share, minimum=0))
    found = rate_masks(model, sites, keeps, split(context, recipe, "test"))
    metrics: dict[str, Json] = {
        "share": share,
        "loss": float(found.losses[:-1].mean()),
        "accuracy": float(found.accuracy[:-1].mean()),
        "accuracy_std": float(found.accuracy[:-1].std()),
        "class_accuracy": found.class_accuracy[:-1].mean(0).tolist(),
        "magnitude_loss": float(found.losses[-1]),
        "magnitude_accuracy": float(found.accuracy[-1]),
        "magnitude_class_accuracy": found.class_accuracy[-1].tolist(),
    }
    return Outcome(metrics, artefact={"loss": found.losses[:-1], "accuracy": found.accuracy[:-1]})


# The report


def _pages(results: Results) -> Report:
    return report(results, "Nodes removed at random", _sections, _summary, _cards, NOTES)


def _draws(part: Part) -> DataFrame:
    """One row a draw."""
    pandas = require("pandas", "lab")
    rows = []
    for cell in part.kind("remove").to_dict("records"):
        kept = part.results.store.artefact(cell["id"])
        rows.append(pandas.DataFrame({"n": cell["n"], "seed": cell["seed"]} | {k: v.numpy() for k, v in kept.items()}))
    return pandas.concat(rows, ignore_index=True)


def _sections(part: Part) -> list[Section]:
    cells, draws = part.kind("remove"), _draws(part)
    made = [Section("Random removal", _distributions(part, cells, draws))]
    if part.data in BANDS and part.model == "ann-128":
        made.append(Section("Against what was expected", [_bands(part, cells, draws)]))
    return [*made, Section("Against magnitude", [_controls(part, cells)]), Section("Classes", _classes(part, cells))]


def _distributions(part: Part, cells: DataFrame, draws: DataFrame) -> list[Block]:
    theirs = RANDOM.get(part.data, {}) if part.model == "ann-128" else {}
    basis = part.basis(cells).also(f"{int(cells['draws'].iloc[0])} draws a network")
    blocks: list[Block] = []
    for value, share in (("accuracy", True), ("loss", False)):
        ours = statistics(draws, "n", value)
        said = f"{value.capitalize()} without n nodes drawn at random"
        beside = "; published beside" if theirs else ""
        drawn_ = figures.box(
            draws,
            x="n",
            value=value,
            label=("Nodes removed", f"Test {value}"),
            published=quartiles(theirs.get(value)),
            share=share,
        )
        alt = f"Box plots; the mean goes from {ours['mean'].iloc[0]:.4f} at n = {ours.index[0]} to {ours['mean'].iloc[-1]:.4f} at n = {ours.index[-1]}."
        blocks.append(
            Picture(
                f"box-{value}", drawn_, f"{said}, all draws of all networks{beside}.", alt, basis, ours.reset_index()
            )
        )
        caption = f"{said}: the statistics of one network's draws, averaged over the networks{beside}."
        blocks.append(describe_table(draws, "n", value, f"describe-{value}", caption, basis, theirs=theirs.get(value)))
    return blocks


def _drops(part: Part, cells: DataFrame, n: int) -> list[float]:
    """How many points each network's mean accuracy falls."""
    base = part.trained.set_index("seed")["accuracy"]
    now = pick(cells, n=n).set_index("seed")["accuracy"]
    return [float(x) for x in (100 * (base - now)).dropna()]


def _bands(part: Part, cells: DataFrame, draws: DataFrame) -> Table:
    rows = []

    def row(what: str, values: list[float], middle: float, room: float, digits: int) -> None:
        found = summarise(values).mean
        ends = [round(middle - room, digits), round(middle + room, digits)]
        rows.append([what, round(found, digits), interval(values), *ends, ends[0] <= found <= ends[1]])

    for n, (middle, room) in BANDS[part.data].items():
        if n == 0:
            row("accuracy of the whole network", list(part.trained["accuracy"]), middle, room, 4)
        elif n in set(cells["n"]):
            row(f"points lost, n = {n}", _drops(part, cells, n), middle, room, 2)
    for n, spread in SPREADS[part.data].items():
        if n in set(cells["n"]):
            row(f"std of accuracy, n = {n}", list(pick(cells, n=n)["accuracy_std"]), spread, 0.35 * spread, 4)
    columns = [Column(title) for title in ("quantity", "ours", "95 %", "expected from", "to", "inside")]
    inside = sum(bool(one[-1]) for one in rows)
    spreads = statistics(draws, "n", "accuracy")["std"]
    caption = f"{inside} of {len(rows)} quantities lie in their bands{_grows(spreads)}."
    return Table("bands", caption, columns, rows, part.basis(cells))


def _grows(spreads: DataFrame) -> str:
    if len(spreads) < 2:
        return ""
    grows = "grows" if bool(spreads.is_monotonic_increasing) else "does not grow at every step"
    return f"; the spread {grows} with the number of nodes"


def _controls(part: Part, cells: DataFrame) -> Table:
    columns = [
        Column("nodes removed"),
        Column("random, accuracy", format=".4f"),
        Column("95 %"),
        Column("magnitude, accuracy", format=".4f"),
        Column("magnitude − random", "points", format="+.2f"),
        Column("95 % of it"),
        Column("random, loss", format=".4f"),
        Column("magnitude, loss", format=".4f"),
    ]
    rows = []
    for n, runs in cells.groupby("n"):
        gap = 100 * (runs["magnitude_accuracy"] - runs["accuracy"])
        rows.append(
            [
                n,
                mean(runs, "accuracy"),
                interval(runs["accuracy"]),
                mean(runs, "magnitude_accuracy"),
                gap.mean(),
                interval(gap),
                mean(runs, "loss"),
                mean(runs, "magnitude_loss"),
            ]
        )
    caption = (
        "The same numbers of nodes removed at random (mean of the draws) and by the lowest L2 norm, paired by network."
    )
    return Table("magnitude", caption, columns, rows, part.basis(cells))


def _classes(part: Part, cells: DataFrame) -> list[Block]:
    after = class_rows(cells, {"random": "class_accuracy", "magnitude": "magnitude_class_accuracy"}, cells["share"])
    return class_damage(part.trained, after, part.classes, method="random", basis=part.basis(cells))


def _summary(part: Part) -> list[str]:
    cells = part.kind("remove")
    words = [f"The whole networks reach a mean test accuracy of {mean(part.trained, 'accuracy'):.4f}."]
    for n in sorted(set(cells["n"])):
        drop = summarise(_drops(part, cells, n)).mean
        words.append(f"Without {n} random node{'s' if n > 1 else ''} it is {drop:.2f} points lower.")
    return [" ".join(words), *_differences(part, cells)]


def _differences(part: Part, cells: DataFrame) -> list[str]:
    """Where the published mean lies outside of what any of our networks has, said as it is."""
    theirs = RANDOM.get(part.data, {}).get("accuracy", {}) if part.model == "ann-128" else {}
    beyond: list[str] = []
    within: list[str] = []
    for n, runs in cells.groupby("n"):
        if n in theirs:
            low, high, published = runs["accuracy"].min(), runs["accuracy"].max(), theirs[n][0]
            said = f"n = {n} ({published:.4f} published, ours {low:.4f} to {high:.4f})"
            (within if low <= published <= high else beyond).append(said)
    words = []
    if beyond:
        words.append(f"No network of ours reproduces the published mean accuracy at {'; '.join(beyond)}.")
    if within:
        words.append(f"The published mean lies among our networks' means at {'; '.join(within)}.")
    return [" ".join(words)] if words else []


def _cards(part: Part) -> list[Card]:
    cells = part.kind("remove")
    most = max(cells["n"])
    drop, seeds = summarise(_drops(part, cells, most)).mean, len(part.trained)
    return [
        Card("whole network", f"{mean(part.trained, 'accuracy'):.4f}", f"test accuracy, {seeds} networks"),
        Card(f"{most} nodes removed at random", f"−{drop:.2f} points", "mean of all draws, no retraining"),
    ]


STUDY = Study(
    name=NAME,
    title="Nodes removed at random",
    source=SOURCE,
    summary="1 to 64 of the 128 nodes of a network of one hidden layer removed at random, hundreds of draws in several networks.",
    cells=_cells,
    pages=_pages,
    defaults=OPTIONS,
)
