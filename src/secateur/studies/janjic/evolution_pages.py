"""The report of the genetic algorithm's studies: its evolutions, its populations, its gap, and what beats it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from secateur.lab import figures
from secateur.lab.blocks import Block, Card, Column, Picture, Section, Table
from secateur.lab.classes import class_damage
from secateur.lab.judgement import judged
from secateur.lab.report import Report
from secateur.lab.sections import interval, mean, pick
from secateur.lab.study import Results
from secateur.studies.janjic.evolution import AUTHORS, CONVERGED
from secateur.studies.janjic.evolution_pictures import contour, evolution, overlap, solutions, trials, weights_before
from secateur.studies.janjic.published import BANDS, MEANS, POSITIVE, Trials
from secateur.studies.kit.parts import Part, report

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["pages"]

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


def pages(results: Results, title: str, published: Trials) -> Report:
    """Return the report; a study that has not finished yet shows what there is."""
    return report(
        results,
        title,
        partial(_sections, published=published),
        _summary,
        _cards,
        NOTES,
    )


def _sections(part: Part, published: Trials) -> list[Section]:
    found = part.kind("search")
    if not len(found):
        return []
    theirs = published if part.model == published.model else None
    own = found[found["network"] == AUTHORS]
    evolved = _evolved(own)
    made = []
    if len(evolved):
        first = part.results.options["protocols"][0]
        made += _evolutions(part, pick(evolved, protocol=first), theirs)
        made.append(Section("Populations", _populations(part, evolved, theirs)))
        made.append(Section("How much the data searched on flatter", [_gaps(part, evolved)]))
    honest = pick(own, protocol="honest")
    if len(honest):
        made.append(Section("Against other searches", _others(part, honest)))
    converged = found[found["network"] == CONVERGED]
    if len(converged):
        made.append(Section("Converged networks", _converged(part, converged)))
    if len(honest):
        made.append(Section("Classes", _classes(part, honest)))
    return made


def _evolved(rows: DataFrame) -> DataFrame:
    return rows[rows["damage"].notna()] if "damage" in rows else rows[:0]


def _evolutions(part: Part, rows: DataFrame, theirs: Trials | None) -> list[Section]:
    """The author's pictures: he had one network, so they are drawn for the first one."""
    if not len(rows):
        return []
    shown = pick(rows, seed=rows["seed"].min())
    found = trials(part, shown)
    split = {"thesis": "test images, searched on", "honest": "validation images, searched on"}
    basis = part.basis(shown, split[shown["protocol"].iloc[0]])
    layers = [one.weights for one in trials(part, rows.drop_duplicates("seed"))]
    last: list[Block] = [contour(rows, part.basis(rows, split[rows["protocol"].iloc[0]]))]
    return [
        Section("The layer before pruning", weights_before(layers, theirs, basis)),
        Section("Evolution", [block for one in found for block in evolution(one, basis)]),
        Section("Solutions", [*solutions(found, theirs, basis), *last]),
    ]


# Populations


def _populations(part: Part, rows: DataFrame, theirs: Trials | None) -> list[Block]:
    """Tables 5.1 and 5.2, and the bands that were expected."""
    blocks: list[Block] = []
    for protocol in dict.fromkeys(rows["protocol"]):
        own = pick(rows, protocol=protocol)
        beside = theirs if protocol == "thesis" else None
        blocks += [_population(part, own, name, protocol, beside) for name in ("fitness", "accuracy", "compression")]
        if beside is not None:
            blocks.append(_best(part, own, beside))
        if protocol == "thesis" and (part.model, part.data) in BANDS:
            blocks += _bands(part, own)
    return blocks


def _best(part: Part, rows: DataFrame, theirs: Trials) -> Table:
    """The best trial of all damage rates beside the text's, each judged on the images that it was evolved on."""
    top = rows.loc[rows.groupby("seed")["searched_fitness"].idxmax()]
    before = 100 * mean(part.trained, "accuracy")
    ours = [mean(top, "damage"), mean(top, "searched_fitness"), before]
    ours += [before + mean(top, "searched_change"), mean(top, "compression")]
    damage, fitness, accuracy, compression = theirs.best
    columns = [
        Column("best trial"),
        Column("damage", format=".0%"),
        Column("fitness", format=".3f"),
        Column("accuracy before", "%", format=".2f"),
        Column("accuracy", "%", format=".2f"),
        Column("removed", format=".1%"),
    ]
    table = [["ours", *ours], ["the text's, on MNIST", damage, fitness, theirs.base, accuracy, compression]]
    caption = (
        "The fittest of each network's trials, means over the networks, and the text's, judged where they were evolved."
    )
    return Table("best-trial", caption, columns, table, part.basis(top, "images searched on"))


def _population(part: Part, rows: DataFrame, name: str, protocol: str, theirs: Trials | None) -> Table:
    keys = [f"{when}_{name}_{what}" for when in ("initial", "final") for what in ("min", "mean", "max")]
    digits = ".4f" if name == "fitness" else ".2f"
    titles = [key.replace(f"_{name}", "").replace("_", ", ") for key in keys]
    printed = getattr(theirs, name) if theirs is not None else {}
    columns = [Column("damage", format=".0%"), *(Column(title, format=digits) for title in titles)]
    columns += [Column(title, format=digits, published=True) for title in titles] if printed else []
    if name == "fitness":
        columns.append(Column("of the final ones above 0", format=".1f"))
    table = []
    for damage, runs in rows.groupby("damage"):
        row: list[Any] = [damage, *(mean(runs, key) for key in keys)]
        row += list(printed.get(damage, [None] * len(keys))) if printed else []
        table.append(row + ([mean(runs, "positive")] if name == "fitness" else []))
    unit = "" if name == "fitness" else " in per cent"
    caption = (
        f"{name.capitalize()}{unit} of the initial and the final populations, protocol {protocol}: least, mean and "
        "greatest of each network's population, averaged over the networks."
    )
    return Table(f"population-{name}-{protocol}", caption, columns, table, part.basis(rows, "images searched on"))


def _bands(part: Part, rows: DataFrame) -> list[Block]:
    table: list[list[Any]] = []

    def add(what: str, value: float, low: float, high: float) -> None:
        table.append([what, value, low, high, low <= round(value, 4) <= high])

    known = (part.model, part.data)
    for damage, runs in rows.groupby("damage"):
        if damage <= 0.5:
            for name, key in (("fitness", "searched_fitness"), ("compression", "compression")):
                add(f"best {name}, damage {100 * damage:g} %", mean(runs, key), *BANDS[known][name])
        if damage in MEANS.get(known, {}):
            what = f"mean compression at the end, damage {100 * damage:g} %"
            add(what, mean(runs, "final_compression_mean"), *MEANS[known][damage])
        if damage == 0.9:
            add("individuals above 0, damage 90 %", mean(runs, "positive"), 0, POSITIVE)
    columns = [
        Column("quantity"),
        *(Column(t, format=".3f") for t in ("ours", "expected from", "to")),
        Column("inside"),
    ]
    if not table:
        return ["No damage rate was tried of which it was known beforehand what to expect."]
    inside = sum(row[-1] for row in table)
    caption = f"{inside} of {len(table)} quantities lie where trials before this study lay; means over the networks."
    return [Table("bands", caption, columns, table, part.basis(rows, "images searched on"))]


def _gaps(part: Part, rows: DataFrame) -> Table:
    columns = [
        Column("protocol"),
        Column("damage", format=".0%"),
        Column("fitness", "searched on", format=".3f"),
        Column("fitness", "untouched", format=".3f"),
        Column("95 %"),
        Column("change", "points, searched on", format="+.2f"),
        Column("change", "points, untouched", format="+.2f"),
        Column("gap", "points", format="+.2f"),
        Column("95 % of the gap"),
        Column("removed", format=".1%"),
    ]
    table = []
    for (protocol, damage), runs in rows.groupby(["protocol", "damage"], sort=False):
        row: list[Any] = [protocol, damage, mean(runs, "searched_fitness"), mean(runs, "untouched_fitness")]
        row += [interval(runs["untouched_fitness"]), mean(runs, "searched_change"), mean(runs, "untouched_change")]
        table.append([*row, mean(runs, "gap"), interval(runs["gap"]), mean(runs, "compression")])
    caption = (
        "The best solution of the genetic algorithm on the images that it was evolved on and on others that it never saw, "
        "means over the networks."
    )
    return Table("gap", caption, columns, table, part.basis(rows, "validation and test images"))


# Other searches


def _others(part: Part, rows: DataFrame) -> list[Block]:
    basis = part.basis(rows)
    order = rows.groupby("method")["untouched_fitness"].mean().sort_values(ascending=False).index
    ranked = rows.set_index("method").loc[list(order)].reset_index()
    bars = figures.bars_with_intervals(ranked, value="untouched_fitness", label="Fitness on untouched test images")
    said = f"{order[0]} is first with {mean(pick(rows, method=order[0]), 'untouched_fitness'):.3f}"
    caption = "Fitness on the untouched test images of what each search found on the validation images, best first."
    blocks: list[Block] = [
        _table(part, ranked, "searches", caption),
        Picture(
            "searches-bars", bars, caption, f"Bars; {said}.", basis, ranked[["method", "seed", "untouched_fitness"]]
        ),
        *_progress(part, rows),
    ]
    methods = list(dict.fromkeys(rows["method"]))
    controls = {name: [m for m in methods if m not in ("magnitude", "random")] for name in ("magnitude", "random")}
    return [*blocks, *judged(rows, controls, basis, value="untouched_fitness", within=())]


def _table(part: Part, rows: DataFrame, name: str, caption: str) -> Table:
    numbers = {
        "untouched_fitness": Column("fitness", "untouched", format=".3f", best="max"),
        "untouched_change": Column("change", "points, untouched", format="+.2f"),
        "compression": Column("removed", format=".1%"),
        "searched_fitness": Column("fitness", "searched on", format=".3f"),
        "gap": Column("gap", "points", format="+.2f"),
        "accuracy": Column("test", format=".4f"),
        "validation_accuracy": Column("validation", format=".4f"),
        "train_accuracy": Column("training", format=".4f"),
        "magnitude_accuracy": Column("test, as many by magnitude", format=".4f"),
        "random_accuracy": Column("test, as many at random", format=".4f"),
        "spent": Column("evaluations", format=",.0f"),
    }
    columns = [Column("search"), *numbers.values(), Column("95 % of the fitness, untouched")]
    table = [
        [method, *(mean(runs, key) for key in numbers), interval(runs["untouched_fitness"])]
        for method, runs in rows.groupby("method", sort=False)
    ]
    return Table(name, caption, columns, table, part.basis(rows))


def _progress(part: Part, rows: DataFrame) -> list[Block]:
    steps = part.steps(rows)
    # Every method at the same numbers of evaluations, so that means are means of all networks.
    budget = float(rows["evaluations"].iloc[0])
    parts = []
    for (method, _), own in steps.groupby(["method", "id"], sort=False):
        for mark in range(1, 11):
            spent = own[own["evaluations"] <= mark * budget / 10 + 1e-6]
            best = float(spent["best"].iloc[-1]) if len(spent) else 0.0
            parts.append({"method": method, "evaluations": mark * budget / 10, "best": best})
    frame = steps.iloc[:0][["method", "evaluations", "best"]].from_records(parts)
    drawn = figures.path(
        frame, step="evaluations", value="best", label=("Evaluations", "Best fitness so far (searched on)")
    )
    ends = frame[frame["evaluations"] == budget].groupby("method")["best"].mean()
    alt = f"Lines that rise; at the end {ends.idxmax()} is highest with {ends.max():.3f} on the images searched on."
    caption = "The best fitness so far on the images searched on, by evaluations: mean and range over the networks."
    return [Picture("progress", drawn, caption, alt, part.basis(rows, "validation images"), frame)]


def _converged(part: Part, rows: DataFrame) -> list[Block]:
    """Whether a search removes more of a layer that has converged than magnitude does, at no less accuracy."""
    basis = part.basis(rows)
    caption = "What searches remove of converged networks; chosen on the validation images, judged on the test images."
    blocks: list[Block] = [_table(part, rows, "converged", caption)]
    if "magnitude" not in set(rows["method"]) or rows["method"].nunique() < 2:
        return blocks
    theirs = pick(rows, method="magnitude").set_index("seed")
    for method in dict.fromkeys(rows["method"]):
        if method != "magnitude":
            own = pick(rows, method=method).set_index("seed")
            blocks.append(
                _more(
                    method,
                    (own["compression"] - theirs["compression"]).dropna(),
                    (own["accuracy"] - theirs["accuracy"]).dropna(),
                )
            )
    methods = [m for m in dict.fromkeys(rows["method"]) if m != "magnitude"]
    for value in ("compression", "accuracy"):
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
        f"{method} against one-shot magnitude: {change:+.1f} percentage points of the layer removed, {lost:+.2f} points "
        f"of test accuracy, means of {len(removed)} pairs: {verdict}."
    )


def _classes(part: Part, rows: DataFrame) -> list[Block]:
    chosen = _chosen(rows)
    removed = rows.groupby("method")["compression"].transform("mean").round(3)
    return class_damage(
        part.trained,
        rows.assign(sparsity=removed),
        part.classes,
        method=chosen,
        sparsity=float(removed[rows["method"] == chosen].iloc[0]),
        basis=part.basis(rows),
    )


def _chosen(rows: DataFrame) -> str:
    """The search whose solutions are best on the validation images, which the test images did not choose."""
    return str(rows.groupby("method", sort=False)["searched_fitness"].mean().idxmax())


# Words


def _summary(part: Part) -> list[str]:
    found = part.kind("search")
    if not len(found):
        return []
    words, own = [], found[found["network"] == AUTHORS]
    evolved = _evolved(own)
    for protocol in dict.fromkeys(evolved["protocol"]):
        runs = pick(evolved, protocol=protocol)
        best = _chosen(runs)
        top = pick(runs, method=best)
        words.append(
            f"Protocol {protocol}: {best} damage is fittest on the images searched on, {mean(top, 'searched_fitness'):.2f} "
            f"({mean(top, 'searched_change'):+.2f} points, {100 * mean(top, 'compression'):.1f} % removed); on untouched "
            f"images it is worth {mean(top, 'untouched_fitness'):.2f}, a gap of {mean(top, 'gap'):.2f} points."
        )
    honest = pick(own, protocol="honest")
    if len(honest):
        best = _chosen(honest)
        top = pick(honest, method=best)
        words.append(
            f"Best of the {honest['method'].nunique()} searches on the validation images: {best}; on the test images "
            f"{mean(top, 'untouched_fitness'):.2f} ({mean(top, 'untouched_change'):+.2f} points, "
            f"{100 * mean(top, 'compression'):.1f} % removed)."
        )
    return words


def _cards(part: Part) -> list[Card]:
    found = part.kind("search")
    evolved = _evolved(found)
    cards = []
    if len(evolved):
        best = evolved.loc[evolved["searched_fitness"].idxmax()]
        cards.append(
            Card("fittest evolved", f"{best['searched_fitness']:.2f}", f"{best['method']}, {best['protocol']}")
        )
        first = pick(evolved, seed=evolved["seed"].min(), protocol=evolved["protocol"].iloc[0])
        note = f"of {len(first)} damage rates, one network"
        cards.append(Card("removed in common", f"{100 * overlap(trials(part, first)):.1f} %", note))
    honest = pick(found, network=AUTHORS, protocol="honest")
    if len(honest):
        best_search = _chosen(honest)
        value = mean(pick(honest, method=best_search), "untouched_fitness")
        cards.append(Card("best search, untouched fitness", f"{value:.2f}", best_search))
    return cards
