"""The report of the genetic algorithm's studies: its evolutions, its populations, its gap, and what beats it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Card, Column, Picture, Section, Table
from secateur.lab.show.class_damage import class_damage
from secateur.lab.show.judgement import judged
from secateur.lab.show.sections import by_seed, interval, mean, mean_card, pick
from secateur.lab.show.words import formatted, percent
from secateur.studies.janjic.evolution import AUTHORS, CONVERGED
from secateur.studies.janjic.evolution_claims import claims_table
from secateur.studies.janjic.evolution_pictures import (
    contour,
    evolution,
    final_populations,
    overlap,
    solutions,
    trials,
    weights_before,
    zero_fitness,
)
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part
from secateur.studies.kit.published import published

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["NOTES", "cards", "progress", "sections", "words"]

Trials = Mapping[str, Any]
"""What the text prints of a network's five trials (`published.toml`)."""

_SEARCHED = "images searched on"

NOTES = (
    "Fitness is the change of accuracy in percentage points plus the fraction of the layer's weights that is removed, as "
    "the text's figures show (Tables 5.1 and 5.2). The layer is the last one: the published compressions are multiples of "
    "one in 2,000 for the convolutional network, whose last layer has 200 × 10 weights.",
    "The text does not state the rates of crossover and mutation, nor the size of tournaments; ours are those of "
    "secateur.search.Genetic. It swaps the two networks' compressions in its conclusion; those of sections 5.1.1 and "
    "5.1.2 are taken.",
    "Networks are trained by stochastic gradient descent with learning rate 0.05, as the text says, in batches of 10, as "
    "in the demonstration of torch7 that the networks come from; batch_size=1 is the text to the letter. The last training "
    "images are held out; with several epochs the weights of the lowest validation loss are kept.",
    "Protocol 'thesis' searches on the test images, as the author did, and judges on them; the validation images are then "
    "the untouched ones. Protocol 'honest' searches on the validation images and judges on the test images, which chose "
    "nothing. The gap is the change of accuracy on the images searched on less that on the untouched ones.",
    "Every search may rate as many masks as the genetic algorithm does; a gradient on all images counts as three. "
    "Searches of biases also shift the layer's ten biases; no other weight changes. Converged networks are trained with "
    "Adam, to the epoch of the lowest validation loss.",
    "Training accuracy is that of the first 5,000 training images.",
)


def sections(part: Part, theirs: Mapping[str, Trials]) -> list[Section]:
    """Return the sections; `theirs` has the text's trials by the network's name."""
    searches = part.kind("search")
    if not len(searches):
        return []
    trials_ = theirs.get(part.model)
    by_author = searches[searches["network"] == AUTHORS]
    evolved, honest = _evolved(by_author), pick(by_author, protocol="honest")
    converged = searches[searches["network"] == CONVERGED]
    parts = []
    if len(evolved):
        parts += _evolutions(part, pick(evolved, protocol=part.options["protocols"][0]), trials_)
        parts.append(Section("Populations", _populations(part, evolved, trials_)))
        parts.append(Section("How much the data searched on flatter", [_gaps(part, evolved)]))
    if len(honest):
        parts.append(Section("Against other searches", _others(part, honest)))
    if len(converged):
        parts.append(Section("Converged networks", _converged(part, converged)))
    if len(honest):
        parts.append(Section("Classes", _classes(part, honest)))
    return parts


def _evolved(rows: DataFrame) -> DataFrame:
    return rows[rows["damage"].notna()] if "damage" in rows else rows[:0]


def _evolutions(part: Part, rows: DataFrame, theirs: Trials | None) -> list[Section]:
    """The author's pictures: he had one network, so they are drawn for the first one."""
    if not len(rows):
        return []
    first = pick(rows, seed=rows["seed"].min())
    evolutions = trials(part, first)
    images = {"thesis": "test images, searched on", "honest": "validation images, searched on"}
    split = images[rows["protocol"].iloc[0]]
    basis = part.basis(first, split)
    layers = [trial.weights for trial in trials(part, rows.drop_duplicates("seed"))]
    solved = [
        *solutions(evolutions, theirs, basis),
        final_populations(evolutions, basis),
        contour(rows, part.basis(rows, split)),
        zero_fitness(100 * mean(part.trained, "accuracy"), part.basis(part.trained)),
    ]
    return [
        Section("The layer before pruning", weights_before(layers, theirs, basis)),
        Section("Evolution", [block for trial in evolutions for block in evolution(trial, basis)]),
        Section("Solutions", solved),
    ]


# Populations


def _populations(part: Part, rows: DataFrame, theirs: Trials | None) -> list[Block]:
    """Tables 5.1 and 5.2, and the bands that were expected."""
    blocks: list[Block] = []
    for protocol in dict.fromkeys(rows["protocol"]):
        runs = pick(rows, protocol=protocol)
        beside = theirs if protocol == "thesis" else None
        blocks += [_population(part, runs, name, protocol, beside) for name in ("fitness", "accuracy", "compression")]
        if beside is not None:
            blocks += [_best(part, runs, beside), claims_table(part, runs, beside["claims"], _SEARCHED)]
        bands = published("janjic")["bands"].get(part.model, {}).get(part.data)
        if protocol == "thesis" and bands:
            blocks += _bands(part, runs, bands)
    return blocks


def _best(part: Part, rows: DataFrame, theirs: Trials) -> Table:
    """The best trial of all damage rates beside the text's, each judged on the images that it was evolved on."""
    top = rows.loc[rows.groupby("seed")["searched_fitness"].idxmax()]
    before = 100 * mean(part.trained, "accuracy")
    ours = [mean(top, "damage"), mean(top, "searched_fitness"), before]
    ours += [before + mean(top, "searched_change"), mean(top, "compression")]
    damage, fitness, accuracy, compression = theirs["best"]
    columns = [
        Column("best trial"),
        Column("damage", format=".0%"),
        Column("fitness", format=".3f"),
        Column("accuracy before", "%", format=".2f"),
        Column("accuracy", "%", format=".2f"),
        Column("removed", format=".1%"),
    ]
    table = [["ours", *ours], ["the text's, on MNIST", damage, fitness, theirs["base"], accuracy, compression]]
    caption = (
        "The fittest of each network's trials, means over the networks, and the text's, judged where they were evolved."
    )
    return Table("best-trial", caption, columns, table, part.basis(top, _SEARCHED))


def _population(part: Part, rows: DataFrame, name: str, protocol: str, theirs: Trials | None) -> Table:
    digits = ".4f" if name == "fitness" else ".2f"
    places = [(when, statistic) for when in ("initial", "final") for statistic in ("min", "mean", "max")]
    columns = [
        Mean(f"{when}_{name}_{statistic}", Column(f"{when}, {statistic}", format=digits)) for when, statistic in places
    ]
    printed = (theirs or {}).get(name, {})
    if printed:
        columns += [
            Mean(_printed(printed, at), Column(f"{when}, {statistic}", format=digits, published=True))
            for at, (when, statistic) in enumerate(places)
        ]
    if name == "fitness":
        columns.append(Mean("positive", Column("of the final ones above 0", format=".1f")))
    unit = "" if name == "fitness" else " in per cent"
    caption = (
        f"{name.capitalize()}{unit} of the initial and the final populations, protocol {protocol}: least, mean and "
        "greatest of each network's population, averaged over the networks."
    )
    groups, title = {"damage": Column("damage", format=".0%")}, f"population-{name}-{protocol}"
    return grouped(rows, title, caption, groups, columns, part.basis(rows, _SEARCHED), sort=True)


def _printed(table: Mapping[float, list[float]], at: int) -> Any:
    return lambda rows: table[rows["damage"].iloc[0]][at] if rows["damage"].iloc[0] in table else None


def _bands(part: Part, rows: DataFrame, bands: Mapping[str, Any]) -> list[Block]:
    table: list[list[Any]] = []

    def add(quantity: str, value: float, low: float, high: float) -> None:
        table.append([quantity, value, low, high, low <= round(value, 4) <= high])

    for damage, runs in rows.groupby("damage"):
        rate = f"{100 * damage:g} %"
        if damage <= 0.5:
            for name, key in (("fitness", "searched_fitness"), ("compression", "compression")):
                add(f"best {name}, damage {rate}", mean(runs, key), *bands[name])
        if damage in bands.get("means", {}):
            quantity = f"mean compression at the end, damage {rate}"
            add(quantity, mean(runs, "final_compression_mean"), *bands["means"][damage])
        if damage == 0.9:
            add(f"individuals above 0, damage {rate}", mean(runs, "positive"), *bands["positive"])
    columns = [
        Column("quantity"),
        *(Column(title, format=".3f") for title in ("ours", "expected from", "to")),
        Column("inside"),
    ]
    if not table:
        return ["No damage rate was tried of which it was known beforehand what to expect."]
    inside = sum(row[-1] for row in table)
    caption = f"{inside} of {len(table)} quantities lie where trials before this study lay; means over the networks."
    return [Table("bands", caption, columns, table, part.basis(rows, _SEARCHED))]


def _gaps(part: Part, rows: DataFrame) -> Table:
    columns = [
        Mean("searched_fitness", Column("fitness", "searched on", format=".3f")),
        Mean("untouched_fitness", Column("fitness", "untouched", format=".3f"), "95 %"),
        Mean("searched_change", Column("change", "points, searched on", format="+.2f")),
        Mean("untouched_change", Column("change", "points, untouched", format="+.2f")),
        Mean("gap", Column("gap", "points", format="+.2f"), "95 % of the gap"),
        Mean("compression", Column("removed", format=".1%")),
    ]
    caption = (
        "The best solution of the genetic algorithm on the images that it was evolved on and on others that it never saw, "
        "means over the networks."
    )
    groups = {"protocol": Column("protocol"), "damage": Column("damage", format=".0%")}
    return grouped(rows, "gap", caption, groups, columns, part.basis(rows, "validation and test images"))


# Other searches


def _others(part: Part, rows: DataFrame) -> list[Block]:
    basis = part.basis(rows)
    order = rows.groupby("method")["untouched_fitness"].mean().sort_values(ascending=False).index
    ranked = rows.set_index("method").loc[list(order)].reset_index()
    bars = figures.bars_with_intervals(ranked, value="untouched_fitness", label="Fitness on untouched test images")
    alt = f"Bars; {order[0]} is first with {formatted(mean(pick(rows, method=order[0]), 'untouched_fitness'), '.3f')}."
    caption = (
        "Fitness on the untouched test images of what each search found on the validation images, the highest first."
    )
    numbers = ranked[["method", "seed", "untouched_fitness"]]
    methods = [m for m in dict.fromkeys(rows["method"]) if m not in ("magnitude", "random")]
    controls = {"magnitude": methods, "random": methods}
    return [
        _table(part, ranked, "searches", caption),
        Picture("searches-bars", bars, caption, alt, basis, numbers),
        *progress(part, rows),
        *judged(rows, controls, basis, value="untouched_fitness", within=()),
    ]


def _table(part: Part, rows: DataFrame, name: str, caption: str) -> Table:
    columns = [
        Mean("untouched_fitness", Column("fitness", "untouched", format=".3f", best="max")),
        Mean("untouched_change", Column("change", "points, untouched", format="+.2f")),
        Mean("compression", Column("removed", format=".1%")),
        Mean("searched_fitness", Column("fitness", "searched on", format=".3f")),
        Mean("gap", Column("gap", "points", format="+.2f")),
        Mean("accuracy", Column("test", format=".4f")),
        Mean("validation_accuracy", Column("validation", format=".4f")),
        Mean("train_accuracy", Column("training", format=".4f")),
        Mean("magnitude_accuracy", Column("test, as many by magnitude", format=".4f")),
        Mean("random_accuracy", Column("test, as many at random", format=".4f")),
        Mean("spent", Column("evaluations", format=",.0f")),
        Mean(lambda runs: interval(runs["untouched_fitness"], shape=".3f"), Column("95 % of the fitness, untouched")),
    ]
    return grouped(rows, name, caption, {"method": Column("search")}, columns, part.basis(rows))


def progress(part: Part, rows: DataFrame) -> list[Block]:
    """Return the picture of the best fitness so far by evaluations, one line for each method."""
    steps = part.steps(rows)
    # Every method at the same numbers of evaluations, so that means are means of all networks.
    budget = float(rows["evaluations"].iloc[0])
    parts = []
    for (method, _), run_steps in steps.groupby(["method", "id"], sort=False):
        for mark in range(1, 11):
            until = run_steps[run_steps["evaluations"] <= mark * budget / 10 + 1e-6]
            best = float(until["best"].iloc[-1]) if len(until) else 0.0
            parts.append({"method": method, "evaluations": mark * budget / 10, "best": best})
    frame = steps.iloc[:0][["method", "evaluations", "best"]].from_records(parts)
    label = ("Evaluations", "Best fitness so far (searched on)")
    drawing = figures.path(frame, step="evaluations", value="best", label=label)
    ends = frame[frame["evaluations"] == budget].groupby("method")["best"].mean()
    alt = f"Lines that rise; at the end {ends.idxmax()} is highest with {formatted(ends.max(), '.3f')} on the images searched on."
    caption = "The best fitness so far on the images searched on, by evaluations: mean and range over the networks."
    return [Picture("progress", drawing, caption, alt, part.basis(rows, "validation images"), frame)]


def _converged(part: Part, rows: DataFrame) -> list[Block]:
    """Whether a search removes more of a layer that has converged than magnitude does, at no less accuracy."""
    basis = part.basis(rows)
    caption = "What searches remove of converged networks; chosen on the validation images, judged on the test images."
    blocks: list[Block] = [_table(part, rows, "converged", caption)]
    methods = [m for m in dict.fromkeys(rows["method"]) if m != "magnitude"]
    if "magnitude" not in set(rows["method"]) or not methods:
        return blocks
    values = ["compression", "accuracy"]
    theirs = pick(rows, method="magnitude").set_index("seed")[values]
    for method in methods:
        gaps = pick(rows, method=method).set_index("seed")[values] - theirs
        blocks.append(_more(method, *(gaps[value].dropna() for value in values)))
    for value in values:
        for block in judged(rows, {"magnitude": methods}, basis, value=value, within=()):
            blocks += [replace(block, name=f"converged-{value}")] if isinstance(block, Table) else []
    return blocks


def _more(method: str, removed: Any, accuracy: Any) -> str:
    if not len(removed):
        return f"{method} against one-shot magnitude: not compared, no network has both."
    change, lost = 100 * float(removed.mean()), 100 * float(accuracy.mean())
    verdict = (
        "more of the layer at no less test accuracy" if change > 0 and lost >= 0 else "not more at no less accuracy"
    )
    return (
        f"{method} against one-shot magnitude: {formatted(change, '+.1f')} percentage points of the layer removed, {formatted(lost, '+.2f')} points "
        f"of test accuracy, means of {len(removed)} pairs: {verdict}."
    )


def _classes(part: Part, rows: DataFrame) -> list[Block]:
    method = _fittest(rows)
    removed = rows.groupby("method")["compression"].transform("mean").round(3)
    return class_damage(
        part.trained,
        rows.assign(sparsity=removed),
        part.classes,
        method=method,
        sparsity=float(removed[rows["method"] == method].iloc[0]),
        basis=part.basis(rows),
    )


def _fittest(rows: DataFrame) -> str:
    """The search whose solutions are best on the images searched on, which the others did not choose."""
    return str(rows.groupby("method", sort=False)["searched_fitness"].mean().idxmax())


# Words


def words(part: Part) -> list[str]:
    """Return the fittest evolutions of each protocol, and the best of all searches."""
    searches = part.kind("search")
    if not len(searches):
        return []
    by_author = searches[searches["network"] == AUTHORS]
    evolved, honest = _evolved(by_author), pick(by_author, protocol="honest")
    sentences = []
    for protocol in dict.fromkeys(evolved["protocol"]):
        runs = pick(evolved, protocol=protocol)
        best = _fittest(runs)
        top = pick(runs, method=best)
        sentences.append(
            f"Protocol {protocol}: {best} damage is fittest on the images searched on, {formatted(mean(top, 'searched_fitness'), '.2f')} "
            f"({formatted(mean(top, 'searched_change'), '+.2f')} points, {percent(mean(top, 'compression'), 1)} removed); on untouched "
            f"images it is worth {formatted(mean(top, 'untouched_fitness'), '.2f')}, a gap of {formatted(mean(top, 'gap'), '.2f')} points."
        )
    if len(honest):
        best = _fittest(honest)
        top = pick(honest, method=best)
        sentences.append(
            f"Best of the {honest['method'].nunique()} searches on the validation images: {best}; on the test images "
            f"{formatted(mean(top, 'untouched_fitness'), '.2f')} ({formatted(mean(top, 'untouched_change'), '+.2f')} points, "
            f"{percent(mean(top, 'compression'), 1)} removed)."
        )
    return sentences


def cards(part: Part) -> list[Card]:
    """Return the fittest evolution, what all of them removed, and the best search."""
    searches = part.kind("search")
    if not len(searches):
        return []
    evolved, honest = _evolved(searches), pick(searches, network=AUTHORS, protocol="honest")
    heads = []
    if len(evolved):
        best = evolved.loc[evolved["searched_fitness"].idxmax()]
        note = f"{best['method']}, {best['protocol']}"
        heads.append(Card("fittest evolved", formatted(best["searched_fitness"], ".2f"), note, "the best of all runs"))
        first = pick(evolved, seed=evolved["seed"].min(), protocol=evolved["protocol"].iloc[0])
        note = f"of {len(first)} damage rates, one network"
        share = formatted(overlap(trials(part, first)), ".1%")
        heads.append(Card("removed in common", share, note, "one run, no interval"))
    if len(honest):
        search = _fittest(honest)
        values = by_seed(pick(honest, method=search), "untouched_fitness")
        heads.append(mean_card("best search, untouched fitness", values, search, shape=".2f"))
    return heads
