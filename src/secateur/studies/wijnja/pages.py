"""The report of how initialisations bear pruning: which scheme is best at which sparsity, and whether tickets win."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from secateur.files import require
from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Card, Column, Picture, Section, Table
from secateur.lab.show.judgement import areas, paired, untested
from secateur.lab.show.sections import interval, mean, mean_card, pick
from secateur.lab.show.stats import compare
from secateur.lab.show.stats.comparisons import UNTESTED
from secateur.lab.show.style import styles
from secateur.lab.show.words import bounds, formatted, named, percent
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part, class_rows, class_section
from secateur.studies.wijnja.ticket_pages import longer, lottery, lottery_words, others
from secateur.studies.wijnja.why_pages import why

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["NOTES", "cards", "sections", "words"]

NOTES = (
    "A round trains a network from its initial weights under its mask (passes: {epochs}; at most {train_images} "
    "training images, Adam with learning rate {lr}, batches of {batch_size}), then takes {rate:.0%} of the weights that are "
    "left in each layer, those of least magnitude, and half that share in the output layer (Frankle and Carbin, 2019); "
    "biases stay. The sparsity in tables is that of the hidden layers' schedule, 1 − (1 − {rate:g})^round; the density beside it is "
    "counted. What is rated is the network at the end of its training; the early-stopping iteration is that of the lowest "
    "validation loss, looked at after each pass.",
    "Networks of one scheme that differ in their seeds alone are trained as one stacked model where that is faster (dense "
    "layers), and one after another otherwise; both give each network what it would get alone.",
    "A control has a ticket's mask with other weights (reinitialised), its weights with the mask shuffled within each layer "
    "(shuffled), or as many weights drawn from all layers alike (random mask); the small network is dense, and has about as many parameters.",
    "All figures are those of test images, which decided nothing: masks come from weights alone, and the number of passes was "
    "set beforehand. The custom scheme was chosen on other seeds and images (benchmarks/robust_init.py).",
    "The text leaves its method to be filled in: magnitude pruning with resetting, Xavier and Kaiming, normal and uniform, "
    "a feed-forward and a convolutional network of Frankle and Carbin, several seeds. Here Xavier is Glorot and Bengio's with gain 1, "
    "Kaiming He et al.'s with fan in and the gain of a ReLU.",
)


def sections(part: Part) -> list[Section]:
    """Return the sections of the report."""
    rows = part.kind("ticket")
    tickets = pick(rows, treatment="ticket")
    pages = [
        Section("Which scheme bears pruning best", _by_scheme(part, tickets)),
        *([Section("Scheme against scheme", _tests(part, tickets))] if tickets["scheme"].nunique() > 1 else []),
        Section("Early stopping", [_early(part, tickets)]),
        Section("Other measures than accuracy", _measures(part, tickets)),
    ]
    if rows["treatment"].nunique() > 1:
        pages.append(Section("Do tickets win?", lottery(part, rows)))
    if "ticket" in set(part.kind("long").get("treatment", [])):
        pages.append(Section("Longer training", longer(part)))
    if len(part.kind("other")):
        pages.append(Section("Other ways to prune", others(part, best_scheme(tickets))))
    return [*pages, *why(part, tickets)]


def _by_scheme(part: Part, tickets: DataFrame) -> list[Block]:
    runs = tickets.assign(method=tickets["scheme"])
    dense = mean(pick(tickets, sparsity=0.0), "accuracy")
    basis = part.basis(tickets, "test images").also("mean and 95 % interval of the mean")
    drawing = figures.accuracy_by_sparsity(runs, baseline=dense, look=styles(runs["scheme"]), density=True)
    ends = runs[runs["sparsity"] == runs["sparsity"].max()].groupby("scheme")["accuracy"].mean()
    alt = f"Accuracy by weights left; at the sparsest {named(ends)}."
    caption = "Test accuracy by the share of weights left, after training from the initial weights under the mask."
    data = runs[["scheme", "seed", "sparsity", "accuracy"]]
    return [
        Picture("accuracy", drawing, caption, alt, basis, data),
        *areas(runs, basis),
        _falls(part, tickets),
        _curve(part, tickets),
    ]


def falls_at(runs: DataFrame, points: float = 1.0) -> float:
    """Return the sparsity at which one network's accuracy has fallen so many points below the unpruned one's, for good.

    Straight lines are drawn between the rounds; nan where it never falls so far.
    """
    runs = runs.sort_values("sparsity")
    below = (100 * (runs["accuracy"].iloc[0] - runs["accuracy"]) - points).to_list()
    places = runs["sparsity"].to_list()
    last = max((index for index, value in enumerate(below) if value < 0), default=0)
    if last + 1 >= len(below):
        return float("nan")
    share = -below[last] / (below[last + 1] - below[last])
    return float(places[last] + share * (places[last + 1] - places[last]))


def _fall_rows(tickets: DataFrame) -> DataFrame:
    """One row a network: the sparsity at which its accuracy has fallen by a point."""
    keys = tickets.groupby(["scheme", "seed"], sort=False)
    rows: DataFrame = keys[["sparsity", "accuracy"]].apply(falls_at).rename("falls").reset_index()
    return rows


def _falls(part: Part, tickets: DataFrame) -> Table:
    columns = [
        Mean("falls", Column("falls by a point at", format=".1%"), "95 %", share=True),
        Mean(lambda rows: int(rows["falls"].notna().sum()), Column("networks")),
    ]
    caption = (
        "The sparsity from which on accuracy is more than a point below the unpruned network's; mean over networks."
    )
    return grouped(
        _fall_rows(tickets), "falls", caption, {"scheme": Column("scheme")}, columns, part.basis(tickets, "test images")
    )


def _curve(part: Part, tickets: DataFrame) -> Table:
    table = tickets.pivot_table(index="sparsity", columns="scheme", values="accuracy", sort=False)
    density = tickets.groupby("sparsity")["density"].mean()
    columns = [
        Column("removed", format=".1%"),
        Column("weights left", format=".1%"),
        *(Column(str(name), format=".4f") for name in table),
    ]
    rows = [
        [sparsity, density[sparsity], *values]
        for sparsity, values in zip(table.index, table.to_numpy().tolist(), strict=True)
    ]
    return Table(
        "curve", "Test accuracy at each round, mean over networks.", columns, rows, part.basis(tickets, "test images")
    )


def _tests(part: Part, tickets: DataFrame) -> list[Block]:
    caption = "Each scheme against the one of the highest mean accuracy over all rounds, paired by seed."
    best = best_scheme(tickets)
    return [_leaders(part, tickets), *paired(tickets, "schemes", caption, baseline=best, by="scheme")]


def best_scheme(tickets: DataFrame) -> str:
    """Return the scheme of the highest mean accuracy over all rounds, each counting alike."""
    means = tickets.groupby("scheme", sort=False)["accuracy"].mean()
    return str(means.idxmax())


def leaders(tickets: DataFrame) -> list[list[Any]]:
    """Return for each sparsity the scheme of the highest mean, by how many points it leads the next, the interval and p.

    The differences are paired by seed; the p-values are corrected for all sparsities together (Holm).
    """
    rows = []
    for sparsity, group in tickets.groupby("sparsity", sort=True):
        if group["scheme"].nunique() < 2:
            continue
        first, second = group.groupby("scheme")["accuracy"].mean().nlargest(2).index
        pair = group[group["scheme"].isin([first, second])].assign(duel=sparsity)
        rows.append((sparsity, first, second, pair.replace({"scheme": {first: "first", second: "second"}})))
    if not rows or untested(_joined(rows), "second", by="scheme"):
        return [[sparsity, first, second, None, "–", None, UNTESTED] for sparsity, first, second, _ in rows]
    tests = compare(_joined(rows), value="accuracy", by="scheme", baseline="second", within=["sparsity"])
    return [
        [
            sparsity,
            first,
            second,
            100 * test["difference"],
            bounds(100 * test["low"], 100 * test["high"]),
            test["p_corrected"],
            test["verdict"],
        ]
        for (sparsity, first, second, _), test in zip(rows, tests.to_dict("records"), strict=True)
    ]


def _joined(rows: list[tuple[Any, Any, Any, DataFrame]]) -> DataFrame:
    frame: DataFrame = require("pandas", "lab").concat([pair for *_, pair in rows], ignore_index=True)
    return frame


def _leaders(part: Part, tickets: DataFrame) -> Table:
    columns = [
        Column("removed", format=".1%"),
        Column("best"),
        Column("next"),
        Column("lead", "points", format="+.2f"),
        Column("95 %"),
        Column("p corrected", format=".3g"),
        Column("verdict"),
    ]
    caption = (
        "The scheme of the highest mean at each sparsity beside the next, chosen on the same test images on which they are "
        "compared: the lead of the first is flattered by the choice."
    )
    return Table("leaders", caption, columns, leaders(tickets), part.basis(tickets, "test images"))


def _early(part: Part, tickets: DataFrame) -> Table:
    rows = tickets[tickets["sparsity"].isin(_shown(tickets))]
    columns = [
        Mean("early_iteration", Column("iteration", format=",.0f"), "95 %"),
        Mean("early_accuracy", Column("accuracy there, validation", format=".4f")),
        Mean("accuracy", Column("at the end", format=".4f")),
    ]
    caption = "The iteration of the lowest validation loss, at which training would be stopped early; means."
    groups = {"scheme": Column("scheme"), "sparsity": Column("removed", format=".1%")}
    return grouped(rows, "early", caption, groups, columns, part.basis(rows, "validation images"))


def _shown(tickets: DataFrame) -> list[float]:
    """Some of the sparsities: the first, and about every fourth."""
    levels = sorted(set(tickets["sparsity"]))
    return levels[:: max(1, len(levels) // 6)]


def _measures(part: Part, tickets: DataFrame) -> list[Block]:
    rows = tickets[tickets["sparsity"].isin(_shown(tickets))]
    columns = [
        Mean("loss", Column("loss", format=".4f"), "95 %"),
        Mean("calibration_error", Column("calibration error", format=".4f"), "95 %", share=True),
        Mean("worst_class", Column("worst class", format=".4f")),
    ]
    rows = rows.assign(worst_class=[min(values) for values in rows["class_accuracy"]])
    caption = "Test loss, expected calibration error (Guo et al., 2017; 15 bins of confidence) and the accuracy of the worst class."
    groups = {"scheme": Column("scheme"), "sparsity": Column("removed", format=".1%")}
    basis = part.basis(rows, "test images")
    return [grouped(rows, "measures", caption, groups, columns, basis), *_classes(part, tickets)]


def _classes(part: Part, tickets: DataFrame) -> list[Block]:
    dense = pick(tickets, sparsity=0.0).set_index(["scheme", "seed"])["class_accuracy"]
    pruned = tickets[tickets["sparsity"].isin([level for level in _shown(tickets) if level])]
    if not len(pruned):
        return []
    first = pick(pruned, scheme=best_scheme(tickets))
    base = [dense[(scheme, seed)] for scheme, seed in zip(first["scheme"], first["seed"], strict=True)]
    runs = class_rows(first, {"ticket": "class_accuracy"}, first["sparsity"])
    return class_section(
        part, runs.assign(threshold=runs["sparsity"], base_class_accuracy=base), part.basis(first), "of the weights"
    )


def words(part: Part) -> list[str]:
    """Return the conclusions, from the numbers."""
    rows = part.kind("ticket")
    tickets = pick(rows, treatment="ticket")
    return [_best_words(tickets), *_spread_words(tickets), *lottery_words(part, rows)]


def _best_words(tickets: DataFrame) -> str:
    """Which scheme, by how much, how sure."""
    runs = tickets.groupby(["scheme", "seed"], sort=False)["accuracy"].mean().reset_index()
    best = best_scheme(tickets)
    means = runs.groupby("scheme", sort=False)["accuracy"].mean()
    head = f"Over all rounds {best} has the highest mean test accuracy, {percent(means[best], 2)}"
    if len(means) < 2 or untested(runs, best, by="scheme"):
        return f"{head}."
    tests = compare(runs, value="accuracy", by="scheme", baseline=best, within=())
    return f"{head}; beside it {'; '.join(map(_tested_words, tests.to_dict('records')))}."


def _tested_words(test: Mapping[str, Any]) -> str:
    """A scheme's difference from the best, with its interval where it was tested."""
    sure = UNTESTED
    if test["verdict"] != UNTESTED:
        sure = f"{bounds(100 * test['low'], 100 * test['high'])}, corrected p {formatted(test['p_corrected'], '.2g')}"
    return f"{test['scheme']} {formatted(100 * test['difference'], '+.2f')} points ({sure})"


def _spread_words(tickets: DataFrame) -> list[str]:
    tested = [row for row in leaders(tickets) if row[-1] == "better"]
    levels = tickets["sparsity"].nunique()
    falls = _fall_rows(tickets).groupby("scheme", sort=False)["falls"].mean()
    words_ = "; ".join(f"{name} at {percent(value, 1)}" for name, value in falls.items() if value == value)
    return [
        f"The best scheme is surely ahead of the next (corrected p below .05) at {len(tested)} of {levels} sparsities"
        + (f": {', '.join(f'{row[1]} at {percent(row[0])}' for row in tested)}." if tested else "."),
        *([f"Accuracy has fallen by a point, on average: {words_}."] if words_ else []),
    ]


def cards(part: Part) -> list[Card]:
    """Return the cards: the best scheme, and how sparse it can be."""
    tickets = pick(part.kind("ticket"), treatment="ticket")
    best = best_scheme(tickets)
    falls = _fall_rows(pick(tickets, scheme=best))["falls"]
    runs = pick(tickets, scheme=best).groupby("seed")["accuracy"].mean()
    head = Card(
        "best over all rounds",
        best,
        f"mean accuracy {percent(runs.mean(), 2)}",
        interval(100 * runs, within=(0, 100), shape=".2f") or "one run, no interval",
    )
    return [
        head,
        *(
            [
                mean_card(
                    "falls by a point at",
                    100 * falls.dropna(),
                    f"removed, {best}",
                    shape=".1f",
                    unit=" %",
                    within=(0, 100),
                )
            ]
            if falls.notna().any()
            else []
        ),
    ]
