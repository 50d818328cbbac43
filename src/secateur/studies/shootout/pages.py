"""The report on the comparison of criteria: ranks, tests against magnitude and random, classes, solvers, costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secateur.files import require
from secateur.lab.show import figures
from secateur.lab.show.blocks import Basis, Block, Card, Column, Picture, Section, Table
from secateur.lab.show.class_damage import class_damage
from secateur.lab.show.judgement import judged, paired, untested
from secateur.lab.show.sections import mean, mean_card, pick
from secateur.lab.show.stats import area, compare
from secateur.lab.show.stats.columns import SHARE
from secateur.lab.show.stats.comparisons import UNTESTED
from secateur.lab.show.words import formatted, percent
from secateur.studies.kit.grouped import Mean, grouped, means
from secateur.studies.kit.parts import Part
from secateur.studies.shootout.ways import CONTROLS, SOLVERS

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["NOTES", "cards", "curves", "ranked", "sections", "words"]

NOTES = (
    "Each criterion scores a trained network once; the lowest scores go, the same fraction of every layer (scope layer) or "
    "of all units pooled (scope global). The training images that criteria are shown are drawn by the seed, the same for "
    "all criteria of a seed, so that intervals over seeds carry the luck of that draw, too. Channels are really cut, single "
    "weights are set to zero; the output layer stays whole. Fine-tuning is one epoch with Adam, rate 0.001, on images drawn "
    "by the seed, at one sparsity, in scope layer; removed weights stay zero.",
    "Random and magnitude always run. Criteria are ranked on the test images, and a rank or a best of that kind is a "
    "description of this comparison: the best of many flatters itself a little. What the tests show is corrected for it.",
    "Criteria that score units only by norms that the networks lack (bn-scale), and those that aim at classes, take no "
    "part. OBD takes the Fisher diagonal of the given labels, OBS and WoodFisher blocks of 16 weights, WoodFisher two "
    "steps. Movement is summed over one epoch of training on the images shown, at batch 32. SynFlow takes one step. Active "
    "fraction and activation rank look at the map behind the ReLU, before a pool; absolute Taylor is divided by each layer's "
    "Euclidean norm. All cut in one shot: loss change, which does not add up, is better in steps that measure anew.",
    "Ranks are those of accuracy among the criteria at one scope, sparsity and seed, 1 the best. Tests are paired by "
    "seed and corrected by Holm's method over all tests of one table. A forward pass is one over all images shown; "
    "costs are processor time.",
)


OVER = "accuracy over sparsities"
"""What a criterion keeps over all sparsities; a mean accuracy is one over seeds, at one sparsity."""


def ranked(rows: DataFrame) -> DataFrame:
    """Return the rows with a column ``rank``: of accuracy among the methods at one scope, sparsity and seed, 1 the best.

    >>> import pandas
    >>> rows = {"method": list("ab"), "scope": "layer", "sparsity": 0.5, "seed": 0, "accuracy": [0.8, 0.9]}
    >>> ranked(pandas.DataFrame(rows))["rank"].tolist()
    [2.0, 1.0]
    """
    places = rows.groupby(["scope", "sparsity", "seed"])["accuracy"].rank(ascending=False)
    return rows.assign(rank=places)


def _units(part: Part) -> list[str]:
    return list(dict.fromkeys(part.pruned["unit"])) if len(part.pruned) else []


def _of_unit(part: Part, kind: str, unit: str) -> DataFrame:
    """The cells of a kind, one row each."""
    rows = part.kind(kind)
    return pick(rows, unit=unit) if len(rows) else rows


def sections(part: Part) -> list[Section]:
    """Return the sections of each kind of unit."""
    parts = []
    for unit in _units(part):
        plain, tuned = (_of_unit(part, kind, unit) for kind in ("prune", "tune"))
        basis = part.basis(plain)
        blocks = {
            "all criteria": [*_maps(unit, plain, basis), _overview(part, unit, plain, tuned, basis)],
            "tests": [*_area_tests(unit, plain, basis), *_tests(unit, plain, "", basis)],
            "after fine-tuning": _tuned(part, unit, tuned),
            "solvers, no training": _solved(part, unit, plain),
            "classes": _classes(part, unit, plain, tuned),
        }
        parts += [
            Section(f"{unit.capitalize()}: {title}", unit_blocks)
            for title, unit_blocks in blocks.items()
            if unit_blocks
        ]
    return parts


# All criteria


def _maps(unit: str, plain: DataFrame, basis: Basis) -> list[Block]:
    blocks: list[Block] = []
    for scope, scope_rows in plain.groupby("scope", sort=False):
        table = 100 * scope_rows.pivot_table(index="method", columns="sparsity", values="accuracy", sort=False)
        table = table.loc[table.mean(axis=1).sort_values(ascending=False, kind="stable").index]
        table.columns = [percent(sparsity) for sparsity in table.columns]
        axes = ("removed", "")
        drawing = figures.heatmap(
            table, label="Test accuracy (%)", axes_labels=axes, show=lambda x: f"{formatted(x, '.1f')}"
        )
        caption = (
            f"Mean test accuracy by the part of the {unit} removed, scope {scope}, no training; the highest on top."
        )
        alt = f"Heat map; the mean test accuracy is highest with {table.index[0]} and lowest with {table.index[-1]}."
        blocks.append(Picture(f"{unit}-{scope}", drawing, caption, alt, basis, table.reset_index()))
    return blocks


def _overview(part: Part, unit: str, plain: DataFrame, tuned: DataFrame, basis: Basis) -> Table:
    """One row a criterion and scope: the table that a reader takes home."""
    scored = _of_unit(part, "score", unit)
    verdicts = {(scope, c): _verdicts(rows, c) for scope, rows in plain.groupby("scope") for c in CONTROLS}

    def at(sparsity: float) -> Callable[[DataFrame], Any]:
        return lambda rows: pick(rows, sparsity=sparsity)["accuracy"]

    def against(control: str) -> Callable[[DataFrame], Any]:
        return lambda rows: verdicts[rows["scope"].iloc[0], control].get(rows["method"].iloc[0])

    def same(frame: DataFrame, rows: DataFrame, *keys: str) -> DataFrame:
        return pick(frame, **{key: rows[key].iloc[0] for key in keys}) if len(frame) else frame

    sparsities = sorted(plain["sparsity"].unique())
    columns = [
        *(Mean(at(sparsity), Column(f"accuracy at {percent(sparsity)}", format=".4f")) for sparsity in sparsities),
        Mean(lambda rows: _areas(rows)["area"], Column(OVER, format=".4f"), "95 %", share=True),
        Mean("rank", Column("mean rank", format=".1f")),
        *(Mean(against(control), Column(f"against {control}")) for control in CONTROLS),
        Mean(lambda rows: mean(same(tuned, rows, "scope", "method"), "accuracy"), Column("fine-tuned", format=".4f")),
        Mean(lambda rows: mean(same(scored, rows, "method"), "forward_passes"), Column("forward passes", format=".3g")),
        Mean(lambda rows: rows["seed"].nunique(), Column("seeds")),
    ]
    caption = (
        f"Criteria that remove {unit}, the highest {OVER} of each scope first (the area under the curve, divided by the range of "
        "sparsities); what paired tests of it show against the controls, corrected over the criteria of a scope; accuracy after fine-tuning; "
        "what scoring costs."
    )
    titles = {"network": "network", "unit": "unit", "scope": "scope", "method": "criterion"}
    groups = {key: Column(title) for key, title in titles.items()}
    rows = ranked(plain).assign(network=part.model)
    table = grouped(rows, f"{unit}-overview", caption, groups, columns, basis)
    place = len(groups) + len(sparsities)
    return replace(table, rows=sorted(table.rows, key=lambda row: (row[2], -row[place])))


def _areas(rows: DataFrame) -> DataFrame:
    """Accuracy averaged over the sparsities, as column ``area``: one row a method and seed of one scope.

    Curves that lack a sparsity, as in a study under way, are left out; at one sparsity it is the accuracy itself.
    """
    count = rows["sparsity"].nunique()
    if count < 2:
        return rows.assign(area=rows["accuracy"])
    return area(rows[rows.groupby(["method", "seed"])["sparsity"].transform("size") == count])


def _verdicts(rows: DataFrame, control: str) -> dict[str, str]:
    """What the paired tests of the areas of one scope show of each method beside a control."""
    areas = _areas(rows)
    if untested(areas, control, value="area"):
        return {}
    tests = compare(areas, value="area", baseline=control, within=())
    return dict(zip(tests["method"], tests["verdict"], strict=True))


def _area_tests(unit: str, plain: DataFrame, basis: Basis) -> list[Block]:
    """The tests that the overview tells the verdicts of, one table a scope and control."""
    blocks: list[Block] = []
    for scope, scope_rows in plain.groupby("scope", sort=False):
        for control in CONTROLS:
            caption = f"Each criterion against {control}, scope {scope}: accuracy averaged over the sparsities."
            name = f"{unit}-{scope}-areas-{control}"
            blocks += paired(_areas(scope_rows), name, caption, value="area", baseline=control, within=())
    return [replace(b, basis=basis.also(str(b.basis))) if isinstance(b, Table) else b for b in blocks]


def _tests(unit: str, rows: DataFrame, suffix: str, basis: Basis) -> list[Block]:
    """Paired tests of every criterion against both controls."""
    if not len(rows):
        return []
    others = {c: [m for m in dict.fromkeys(rows["method"]) if m != c] for c in CONTROLS}
    blocks = judged(rows, others, basis, within=("scope", "sparsity"))
    return [b if isinstance(b, str) else replace(b, name=f"{unit}-{b.name}{suffix}") for b in blocks]


# After fine-tuning, solvers, classes


def _tuned(part: Part, unit: str, rows: DataFrame) -> list[Block]:
    if not len(rows):
        return []
    basis = part.basis(rows)
    order = rows.groupby("method")["accuracy"].mean().sort_values(ascending=False, kind="stable")
    ordered = rows.set_index("method").loc[list(order.index)].reset_index()
    columns = [Mean("accuracy", Column("accuracy", format=".4f"), "95 %")]
    caption = (
        f"Test accuracy with {percent(rows['sparsity'].iloc[0])} of the {unit} of every layer removed and one epoch of "
        "fine-tuning. The unpruned networks were not trained further, so a difference from them includes what that does."
    )
    table = grouped(ordered, f"{unit}-tuned", caption, {"method": Column("network")}, columns, basis)
    beside = [["unpruned", *means(part.trained, columns)]]
    dense = part.kind("dense")
    if unit == "channels" and "accuracy" in dense:
        beside.append(["as small, from scratch", *means(dense[dense["accuracy"].notna()], columns)])
    drawing = figures.bars_with_intervals(ordered, value="accuracy", label="Accuracy", share=True)
    alt = f"Bars of test accuracy after fine-tuning; the highest is {order.index[0]}'s, {formatted(order.iloc[0], '.4f')}."
    return [
        Picture(f"{unit}-tuned-bars", drawing, caption, alt, basis, rows),
        replace(table, rows=[*table.rows, *beside]),
        *_tests(unit, rows, "-tuned", basis),
    ]


def _solved(part: Part, unit: str, plain: DataFrame) -> list[Block]:
    """Solvers beside the controls at the same scope and sparsity."""
    rows = _of_unit(part, "solve", unit)
    if not len(rows):
        return []
    basis = part.basis(rows)
    controls = plain[plain["method"].isin(CONTROLS) & plain["scope"].isin(set(rows["scope"]))]

    def control(name: str) -> Callable[[DataFrame], float]:
        return lambda solver_rows: mean(
            pick(controls, method=name, scope=solver_rows["scope"].iloc[0], sparsity=solver_rows["sparsity"].iloc[0]),
            "accuracy",
        )

    columns = [
        Mean("accuracy", Column("accuracy", format=".4f"), "95 %"),
        *(Mean(control(name), Column(name, format=".4f")) for name in CONTROLS),
        Mean("forward_passes", Column("forward passes", format=".3g")),
    ]
    groups = {"method": Column("solver"), "scope": Column("scope"), "sparsity": Column("removed", format=".0%")}
    caption = f"Solvers, which also repair, beside the controls that remove as many {unit}, without training."
    blocks: list[Block] = [grouped(rows, f"{unit}-solvers", caption, groups, columns, basis)]
    for name in SOLVERS:
        solver_rows = pick(rows, method=name)
        if len(solver_rows):
            both = _joined(solver_rows, pick(controls, scope=solver_rows["scope"].iloc[0], method="magnitude"))
            tests = judged(both, {"magnitude": [name]}, basis)
            blocks += [b if isinstance(b, str) else replace(b, name=f"{unit}-{b.name}-{name}") for b in tests]
    return blocks


def _joined(rows: DataFrame, other: DataFrame) -> DataFrame:
    both: DataFrame = require("pandas", "lab").concat([rows, other], ignore_index=True)
    return both


def _classes(part: Part, unit: str, plain: DataFrame, tuned: DataFrame) -> list[Block]:
    """What magnitude costs each class, at the sparsity and scope at which is fine-tuned."""
    if not len(tuned) or not len(part.trained):
        return []
    rows = pick(plain, scope="layer", sparsity=tuned["sparsity"].iloc[0])
    blocks = class_damage(part.trained, rows, part.classes, method="magnitude", basis=part.basis(rows))
    return [b if isinstance(b, str) else replace(b, name=f"{unit}-{b.name}") for b in blocks]


def cards(part: Part) -> list[Card]:
    """Return the accuracy of the unpruned networks, and what magnitude and the highest criterion cost at the middle sparsity."""
    rows = _headed(part)
    if rows is None or not len(part.trained):
        return []
    note = f"{part.trained['seed'].nunique()} seeds"
    heads = [mean_card("unpruned accuracy", part.trained["accuracy"], note, within=SHARE)]
    base, removed = part.trained.set_index("seed")["accuracy"], sorted(set(rows["sparsity"]))
    at_middle = pick(rows, sparsity=removed[len(removed) // 2])
    means = at_middle.groupby("method")["accuracy"].mean()
    best = means.drop("magnitude", errors="ignore")
    names = {"magnitude": "", **({best.idxmax(): "the highest, chosen on the test images"} if len(best) else {})}
    for method, words_ in names.items():
        runs = pick(at_middle, method=method)
        changes = (100 * (runs["accuracy"] - runs["seed"].map(base))).dropna()
        if len(changes):
            title = (
                f"{percent(runs['sparsity'].iloc[0])} of the {runs['unit'].iloc[0]} of each layer removed by {method}"
            )
            heads.append(mean_card(title, changes, words_, shape="+.2f", unit=" points", within=(-100, 100)))
    return heads


def _headed(part: Part) -> DataFrame | None:
    """The rows that the head of the page is about: the first kind of unit, each layer alone."""
    units = _units(part)
    rows = pick(part.pruned, unit=units[0], scope="layer") if units else part.pruned
    return rows if len(rows) else None


def curves(parts: Sequence[Part]) -> dict[str, DataFrame]:
    """Return the accuracies of the controls and of the three criteria that keep most over all networks."""
    rows = {f"{part.model} on {part.data}": frame for part in parts if (frame := _headed(part)) is not None}
    rows = {title: frame for title, frame in rows.items() if frame["sparsity"].nunique() > 1}
    if not rows:
        return {}
    areas = require("pandas", "lab").concat([_areas(frame) for frame in rows.values()])
    best = areas[~areas["method"].isin(CONTROLS)].groupby("method")["area"].mean().nlargest(3)
    return {title: frame[frame["method"].isin([*CONTROLS, *best.index])] for title, frame in rows.items()}


def words(part: Part) -> list[str]:
    """Return who is shown to beat magnitude, who does not beat random, and what fine-tuning leaves of it."""
    sentences = []
    for unit in _units(part):
        sentences += _probed(_of_unit(part, "score", unit))
        plain, tuned = (_of_unit(part, kind, unit) for kind in ("prune", "tune"))
        for scope, rows in plain.groupby("scope", sort=False):
            count = f"{rows['sparsity'].nunique()} sparsities, {rows['seed'].nunique()} seeds"
            areas = _areas(rows).groupby("method")["area"].mean()
            highest = f"{_highest(areas, OVER)}. " if len(areas) else ""
            sentences.append(f"{unit.capitalize()}, scope {scope}, {count}: {highest}{_beaten(rows)}")
        if len(tuned):
            accuracies = tuned.groupby("method")["accuracy"].mean()
            sentences.append(
                f"After one epoch of fine-tuning at {percent(tuned['sparsity'].iloc[0])} of the {unit}: "
                f"{_highest(accuracies, 'mean accuracy')}; unpruned, not tuned, {formatted(mean(part.trained, 'accuracy'), '.4f')}."
            )
    return sentences


def _probed(scored: DataFrame) -> list[str]:
    """How many probes the traces of the Hessian took, and how sure their ranks are."""
    if "probes" not in scored or not scored["probes"].notna().any():
        return []
    rows = scored[scored["probes"].notna()]
    least, most = int(rows["probes"].min()), int(rows["probes"].max())
    count = f"{least}" if least == most else f"{least} to {most}"
    return [
        f"Hessian trace: estimated from {count} probes, not the exact diagonal; between two seeds of them the ranks within "
        f"a layer are foretold to correlate by {formatted(rows['probe_correlation'].min(), '.2f')} or more."
    ]


def _highest(accuracies: Series, quantity: str) -> str:
    """The highest of a quantity, said to be chosen on what it is measured on, beside the controls."""
    return (
        f"of {len(accuracies)} criteria the highest {quantity}, chosen on the test images themselves, is "
        f"{accuracies.idxmax()}'s, {formatted(accuracies.max(), '.4f')}, beside {_at(accuracies, 'magnitude')} by magnitude and "
        f"{_at(accuracies, 'random')} at random"
    )


def _beaten(rows: DataFrame) -> str:
    """What the tests of one scope show against both controls, or that there were none, and why."""
    verdicts = {control: _verdicts(rows, control) for control in CONTROLS}
    beat = [method for method, verdict in verdicts["magnitude"].items() if verdict == "better"]
    methods = [method for method in dict.fromkeys(rows["method"]) if method in verdicts["random"]]
    lost = [method for method in methods if verdicts["random"][method] not in ("better", UNTESTED)]
    claims = {"magnitude": ("Shown to beat magnitude", beat), "random": ("Not shown to beat random", lost)}
    sentences = []
    for control, (claim, winners) in claims.items():
        reason = untested(_areas(rows), control, value="area")
        without = [method for method, verdict in verdicts[control].items() if verdict == UNTESTED]
        if reason:
            sentences.append(f"Against {control} not tested: {reason}.")
            continue
        sentences.append(f"{claim}: {', '.join(winners) or 'none'}.")
        if without:
            sentences.append(f"Not tested against {control}: {', '.join(without)}.")
    return " ".join(sentences)


def _at(means: Series, method: str) -> str:
    return f"{formatted(means[method], '.4f')}" if method in means else "–"
