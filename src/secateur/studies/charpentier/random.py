"""L. Charpentier, 2020, section 3.1: what it costs to remove nodes at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from secateur.criteria import Magnitude
from secateur.files import require
from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Card, Column, Picture, Section, Table
from secateur.lab.show.class_damage import class_damage
from secateur.lab.show.sections import by_seed, interval, mean, mean_card, pick
from secateur.lab.show.stats import summarise
from secateur.lab.show.words import formatted
from secateur.rate.masks import rate as rate_masks
from secateur.selection import select
from secateur.structure import channels
from secateur.studies.charpentier.common import SOURCE, bases, options, printed
from secateur.studies.kit import networks
from secateur.studies.kit.controls import drawn
from secateur.studies.kit.distributions import describe_table, quartiles, statistics
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.networks import example, loss_of, network, split
from secateur.studies.kit.parts import Part, class_rows, study

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STUDY"]

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


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    networks.check_count(settled, "removed", networks.taken_options)
    cells = []
    for base in bases(name, settled):
        draws = [{"n": n, "draws": settled["draws"]} for n in settled["removed"]]
        cells += [base, *(base.then("remove", remove_cell, parameters) for parameters in draws)]
    return cells


def remove_cell(context: Context) -> Outcome:
    """Rate a network without n of its nodes, for many draws at once, and without those of the lowest L2 norm."""
    model, recipe = network(context)
    sites, n = channels(model, example(context, recipe)), context["n"]
    keeps = drawn(model, sites, n, context["draws"], (context["seed"], n))
    share = n / sum(site.size for site in sites.values())
    keeps.append(select(Magnitude(p=2)(model, sites), share, minimum=0))
    ratings = rate_masks(model, sites, keeps, split(context, recipe, "test"), loss_of(recipe))
    metrics: dict[str, Json] = {
        "share": share,
        "loss": float(ratings.losses[:-1].mean()),
        "accuracy": float(ratings.accuracy[:-1].mean()),
        "accuracy_std": float(ratings.accuracy[:-1].std()),
        "class_accuracy": ratings.class_accuracy[:-1].mean(0).tolist(),
        "magnitude_loss": float(ratings.losses[-1]),
        "magnitude_accuracy": float(ratings.accuracy[-1]),
        "magnitude_class_accuracy": ratings.class_accuracy[-1].tolist(),
    }
    return Outcome(metrics, artefact={"loss": ratings.losses[:-1], "accuracy": ratings.accuracy[:-1]})


# The report


def _draws(part: Part) -> DataFrame:
    """One row a draw."""
    pandas = require("pandas", "lab")
    rows = []
    for cell in part.kind("remove").to_dict("records"):
        tensors = part.results.store.artefact(cell["id"])
        values = {name: tensors[name].numpy() for name in ("accuracy", "loss")}
        rows.append(pandas.DataFrame({"n": cell["n"], "seed": cell["seed"], **values}))
    return pandas.concat(rows, ignore_index=True)


def _sections(part: Part) -> list[Section]:
    cells, draws = part.kind("remove"), _draws(part)
    sections = [Section("Random removal", _distributions(part, cells, draws))]
    if printed("bands", part.data, part.model):
        sections.append(Section("Against what was expected", [_bands(part, cells, draws)]))
    return [
        *sections,
        Section("Against magnitude", [_controls(part, cells)]),
        Section("Classes", _classes(part, cells)),
    ]


def _distributions(part: Part, cells: DataFrame, draws: DataFrame) -> list[Block]:
    theirs = printed("random", part.data, part.model)
    basis = part.basis(cells).also(f"{int(cells['draws'].iloc[0])} draws a network")
    blocks: list[Block] = []
    for value, share in (("accuracy", True), ("loss", False)):
        ours, print_ = statistics(draws, "n", value), theirs.get(value)
        words = f"{value.capitalize()} without n nodes drawn at random"
        beside = "; published beside" if theirs else ""
        labels = ("Nodes removed", f"Test {value}")
        drawing = figures.box(draws, x="n", value=value, label=labels, published=quartiles(print_), share=share)
        ends = [f"{formatted(ours['mean'].iloc[at], '.4f')} at n = {ours.index[at]}" for at in (0, -1)]
        alt = f"Box plots; the mean goes from {ends[0]} to {ends[1]}."
        caption = f"{words}, all draws of all networks{beside}."
        blocks.append(Picture(f"box-{value}", drawing, caption, alt, basis, ours.reset_index()))
        caption = f"{words}: the statistics of one network's draws, averaged over the networks{beside}."
        blocks.append(describe_table(draws, "n", value, f"describe-{value}", caption, basis, theirs=print_))
    return blocks


def _drops(part: Part, cells: DataFrame, n: int) -> list[float]:
    """How many points each network's mean accuracy falls."""
    before = part.trained.set_index("seed")["accuracy"]
    after = pick(cells, n=n).set_index("seed")["accuracy"]
    return [float(x) for x in (100 * (before - after)).dropna()]


def _bands(part: Part, cells: DataFrame, draws: DataFrame) -> Table:
    rows: list[list[Any]] = []

    def row(quantity: str, values: list[float], middle: float, tolerance: float, digits: int) -> None:
        ours = summarise(values).mean
        ends = [round(middle - tolerance, digits), round(middle + tolerance, digits)]
        rows.append(
            [quantity, round(ours, digits), interval(values, shape=f".{digits}f"), *ends, ends[0] <= ours <= ends[1]]
        )

    for n, (middle, tolerance) in printed("bands", part.data).items():
        if n == 0:
            row("accuracy of the whole network", list(part.trained["accuracy"]), middle, tolerance, 4)
        elif n in set(cells["n"]):
            row(f"points lost, n = {n}", _drops(part, cells, n), middle, tolerance, 2)
    for n, spread in printed("spreads", part.data).items():
        if n in set(cells["n"]):
            row(f"std of accuracy, n = {n}", list(pick(cells, n=n)["accuracy_std"]), spread, 0.35 * spread, 4)
    columns = [Column(title) for title in ("quantity", "ours", "95 %", "expected from", "to", "inside")]
    inside = sum(bool(line[-1]) for line in rows)
    caption = (
        f"{inside} of {len(rows)} quantities lie in their bands{_grows(statistics(draws, 'n', 'accuracy')['std'])}."
    )
    return Table("bands", caption, columns, rows, part.basis(cells))


def _grows(spreads: DataFrame) -> str:
    if len(spreads) < 2:
        return ""
    grows = "grows" if bool(spreads.is_monotonic_increasing) else "does not grow at every step"
    return f"; the spread {grows} with the number of nodes"


def _controls(part: Part, cells: DataFrame) -> Table:
    columns = [
        Mean("accuracy", Column("random, accuracy", format=".4f"), "95 %"),
        Mean("magnitude_accuracy", Column("magnitude, accuracy", format=".4f")),
        Mean(
            lambda rows: 100 * (rows["magnitude_accuracy"] - rows["accuracy"]),
            Column("magnitude − random", "points", format="+.2f"),
            "95 % of it",
        ),
        Mean("loss", Column("random, loss", format=".4f")),
        Mean("magnitude_loss", Column("magnitude, loss", format=".4f")),
    ]
    caption = (
        "The same numbers of nodes removed at random (mean of the draws) and by the lowest L2 norm, paired by network."
    )
    groups = {"n": Column("nodes removed")}
    return grouped(cells, "magnitude", caption, groups, columns, part.basis(cells), sort=True)


def _classes(part: Part, cells: DataFrame) -> list[Block]:
    after = class_rows(cells, {"random": "class_accuracy", "magnitude": "magnitude_class_accuracy"}, cells["share"])
    return class_damage(part.trained, after, part.classes, method="random", basis=part.basis(cells))


def _words(part: Part) -> list[str]:
    cells = part.kind("remove")
    words = [f"The whole networks reach a mean test accuracy of {formatted(mean(part.trained, 'accuracy'), '.4f')}."]
    for n in sorted(set(cells["n"])):
        drop = summarise(_drops(part, cells, n)).mean
        words.append(f"Without {n} random node{'s' if n > 1 else ''} it is {formatted(drop, '.2f')} points lower.")
    return [" ".join(words), *_differences(part, cells)]


def _differences(part: Part, cells: DataFrame) -> list[str]:
    """Where the published mean lies outside of what any of our networks has, said as it is."""
    theirs = printed("random", part.data, part.model).get("accuracy", {})
    places: dict[bool, list[str]] = {False: [], True: []}
    for n, runs in cells.groupby("n"):
        if n in theirs:
            low, high, mean_ = runs["accuracy"].min(), runs["accuracy"].max(), theirs[n][0]
            words = f"n = {n} ({formatted(mean_, '.4f')} published, ours {formatted(low, '.4f')} to {formatted(high, '.4f')})"
            places[bool(low <= mean_ <= high)].append(words)
    sentences = []
    if places[False]:
        sentences.append(f"No network of ours reproduces the published mean accuracy at {'; '.join(places[False])}.")
    if places[True]:
        sentences.append(f"The published mean lies among our networks' means at {'; '.join(places[True])}.")
    return [" ".join(sentences)]


def _cards(part: Part) -> list[Card]:
    cells = part.kind("remove")
    most = max(cells["n"])
    return [
        mean_card("whole network", by_seed(part.trained, "accuracy"), "test accuracy", within=(0, 1)),
        mean_card(
            f"{most} nodes removed at random",
            [-drop for drop in _drops(part, cells, most)],
            "mean of all draws, no retraining",
            shape="+.2f",
            unit=" points",
        ),
    ]


STUDY = study(
    "charpentier-random",
    "Nodes removed at random",
    "1 to 64 of the 128 nodes of a network of one hidden layer removed at random, hundreds of draws in several networks.",
    source=SOURCE,
    options=options(
        Option("removed", "count", [1, 2, 4, 8, 16, 32, 64], "how many nodes to remove", least=1, many="list"),
        Option("draws", "count", 300, "random choices of nodes in each network", least=2),
        seeds=8,
    ),
    cells=_cells,
    sections=_sections,
    words=_words,
    cards=_cards,
    notes=NOTES,
)
