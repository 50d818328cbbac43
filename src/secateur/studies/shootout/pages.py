"""The report on the comparison of criteria: ranks, tests against magnitude and random, classes, solvers, costs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secateur.files import require
from secateur.lab import figures
from secateur.lab.blocks import Basis, Block, Column, Picture, Section, Table
from secateur.lab.classes import class_damage
from secateur.lab.judgement import judged, paired, untested
from secateur.lab.report import Report
from secateur.lab.sections import interval, mean, pick
from secateur.lab.stats import area, compare
from secateur.lab.stats.comparisons import UNTESTED
from secateur.lab.study import Results
from secateur.studies.kit.parts import Part, report
from secateur.studies.shootout.ways import CONTROLS, SOLVERS

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["TITLE", "pages", "ranked"]

TITLE = "Criteria held against each other"

NOTES = (
    "Each criterion scores a trained network once, from the same first training images; the lowest scores go, the same "
    "fraction of every layer (scope layer) or of all units pooled (scope global). Channels are really cut, single weights "
    "are set to zero; the output layer stays whole. Fine-tuning is one epoch with Adam, rate 0.001, at one sparsity, "
    "in scope layer; removed weights stay zero.",
    "Criteria that score units only by norms that the networks lack (bn-scale), and those that aim at classes, take no "
    "part. OBD takes the Fisher diagonal of the given labels, OBS and WoodFisher blocks of 16 weights, WoodFisher two "
    "steps. Movement is summed over one epoch of training on the images shown, at batch 32. SynFlow takes one step.",
    "Ranks are those of accuracy among the criteria at one scope, sparsity and seed, 1 the best. Tests are paired by "
    "seed and corrected by Holm's method over all tests of one table. A forward pass is one over all images shown; "
    "costs are processor time.",
)


def pages(results: Results) -> Report:
    """Return the report; it bears with cells that are not there yet."""
    return report(results, TITLE, _sections, _summary, notes=NOTES)


def ranked(rows: DataFrame) -> DataFrame:
    """Return the rows with a column ``rank``: of accuracy among the methods at one scope, sparsity and seed, 1 the best.

    >>> import pandas
    >>> rows = {"method": list("ab"), "scope": "layer", "sparsity": 0.5, "seed": 0, "accuracy": [0.8, 0.9]}
    >>> ranked(pandas.DataFrame(rows))["rank"].tolist()
    [2.0, 1.0]
    """
    places = rows.groupby(["scope", "sparsity", "seed"])["accuracy"].rank(ascending=False)
    return rows.assign(rank=places)


def _rows(part: Part, kind: str) -> DataFrame:
    """One row for each network that is left, whatever was done to it."""
    found = part.histories
    return pick(found, kind=kind).dropna(axis=1, how="all") if len(found) else found


def _units(part: Part) -> list[str]:
    rows = _rows(part, "prune")
    return list(dict.fromkeys(rows["unit"])) if len(rows) else []


def _sections(part: Part) -> list[Section]:
    sections = []
    for unit in _units(part):
        cells, rows = pick(part.kind("prune"), unit=unit), pick(_rows(part, "prune"), unit=unit)
        basis, plain = part.basis(cells), pick(rows, tuned=0)
        made = [
            Section(f"{unit.capitalize()}: all criteria", _overall(part, unit, cells, rows, basis)),
            Section(f"{unit.capitalize()}: tests", [*_area_tests(unit, plain, basis), *_tests(unit, plain, "", basis)]),
            Section(f"{unit.capitalize()}: after fine-tuning", _tuned(part, unit, pick(rows, tuned=1), basis)),
            Section(f"{unit.capitalize()}: solvers, no training", _solved(part, unit, plain)),
            Section(f"{unit.capitalize()}: classes", _classes(part, unit, cells, plain, basis)),
        ]
        sections += [section for section in made if section.blocks]
    return sections


# All criteria


def _overall(part: Part, unit: str, cells: DataFrame, rows: DataFrame, basis: Basis) -> list[Block]:
    return [*_maps(unit, pick(rows, tuned=0), basis), _overview(part, unit, cells, rows, basis)]


def _maps(unit: str, plain: DataFrame, basis: Basis) -> list[Block]:
    blocks: list[Block] = []
    for scope, here in plain.groupby("scope", sort=False):
        table = 100 * here.pivot_table(index="method", columns="sparsity", values="accuracy", sort=False)
        table = table.loc[table.mean(axis=1).sort_values(ascending=False, kind="stable").index]
        table.columns = [f"{100 * sparsity:.4g} %" for sparsity in table.columns]
        drawing = figures.heatmap(
            table, label="Test accuracy (%)", axes_labels=("removed", ""), show=lambda x: f"{x:.1f}"
        )
        caption = f"Mean test accuracy by the part of the {unit} removed, scope {scope}, no training; the best on top."
        alt = f"Heat map of criteria and sparsities; on the mean {table.index[0]} is best and {table.index[-1]} worst."
        blocks.append(Picture(f"{unit}-{scope}", drawing, caption, alt, basis, table.reset_index()))
    return blocks


def _overview(part: Part, unit: str, cells: DataFrame, rows: DataFrame, basis: Basis) -> Table:
    """One row a criterion and scope: the table that a reader takes home."""
    plain, tuned = ranked(pick(rows, tuned=0)), pick(rows, tuned=1)
    sparsities = sorted(plain["sparsity"].unique())
    columns = [Column("network"), Column("unit"), Column("scope"), Column("criterion")]
    columns += [Column(f"accuracy at {100 * sparsity:.4g} %", format=".4f") for sparsity in sparsities]
    columns += [
        Column("mean accuracy", format=".4f"),
        Column("95 %"),
        Column("mean rank", format=".1f"),
        Column("against random"),
        Column("against magnitude"),
        Column("fine-tuned", format=".4f"),
        Column("forward passes", format=".3g"),
        Column("seeds"),
    ]
    scopes = dict(iter(plain.groupby("scope")))
    verdicts = {(scope, c): _verdicts(here, c) for scope, here in scopes.items() for c in CONTROLS}
    made: list[list[Any]] = []
    for (scope, method), own in plain.groupby(["scope", "method"], sort=False):
        areas = _areas(own)["area"]
        one: list[Any] = [part.model, unit, scope, method]
        one += [mean(pick(own, sparsity=sparsity), "accuracy") for sparsity in sparsities]
        one += [areas.mean(), interval(areas), own["rank"].mean()]
        one += [verdicts[scope, control].get(method) for control in CONTROLS]
        one += [mean(pick(tuned, scope=scope, method=method), "accuracy")]
        one += [mean(pick(cells, method=method), "forward_passes"), own["seed"].nunique()]
        made.append(one)
    made.sort(key=lambda one: (one[2], -one[4 + len(sparsities)]))
    caption = (
        f"Criteria that remove {unit}, the best mean accuracy (area under the curve) of each scope first; what paired "
        "tests of it show against the controls, corrected over the criteria of a scope; accuracy after fine-tuning; "
        "what scoring costs."
    )
    return Table(f"{unit}-overview", caption, columns, made, basis)


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
    for scope, here in plain.groupby("scope", sort=False):
        for control in CONTROLS:
            caption = f"Each criterion against {control}, scope {scope}: accuracy averaged over the sparsities."
            name = f"{unit}-{scope}-areas-{control}"
            blocks += paired(_areas(here), name, caption, value="area", baseline=control, within=())
    return [replace(b, basis=basis.also(str(b.basis))) if isinstance(b, Table) else b for b in blocks]


def _tests(unit: str, rows: DataFrame, suffix: str, basis: Basis) -> list[Block]:
    """Paired tests of every criterion against both controls."""
    if not len(rows):
        return []
    others = {c: [m for m in dict.fromkeys(rows["method"]) if m != c] for c in CONTROLS}
    blocks = judged(rows, others, basis, within=("scope", "sparsity"))
    return [b if isinstance(b, str) else replace(b, name=f"{unit}-{b.name}{suffix}") for b in blocks]


# After fine-tuning, solvers, classes


def _tuned(part: Part, unit: str, rows: DataFrame, basis: Basis) -> list[Block]:
    if not len(rows):
        return []
    share = f"{100 * rows['sparsity'].iloc[0]:.4g} %"
    order = rows.groupby("method")["accuracy"].mean().sort_values(ascending=False, kind="stable")
    made = [[name, at, interval(pick(rows, method=name)["accuracy"])] for name, at in order.items()]
    made.append(["unpruned", mean(part.trained, "accuracy"), interval(part.trained["accuracy"])])
    dense = part.cells[part.cells["kind"] == "dense"]
    if unit == "channels" and len(dense) and mean(dense, "accuracy") == mean(dense, "accuracy"):
        made.append(["as small, from scratch", mean(dense, "accuracy"), interval(dense["accuracy"].dropna())])
    columns = [Column("network"), Column("accuracy", format=".4f"), Column("95 %")]
    caption = f"Test accuracy with {share} of the {unit} of every layer removed and one epoch of fine-tuning."
    table = Table(f"{unit}-tuned", caption, columns, made, basis)
    drawing = figures.bars_with_intervals(
        rows.set_index("method").loc[list(order.index)].reset_index(), value="accuracy", label="Accuracy", share=True
    )
    alt = f"Bars of accuracy after fine-tuning; {order.index[0]} is best with {order.iloc[0]:.4f}."
    return [
        Picture(f"{unit}-tuned-bars", drawing, caption, alt, basis, rows),
        table,
        *_tests(unit, rows, "-tuned", basis),
    ]


def _solved(part: Part, unit: str, plain: DataFrame) -> list[Block]:
    """Solvers beside the controls at the same scope and sparsity."""
    rows = _rows(part, "solve")
    rows = pick(rows, unit=unit) if len(rows) else rows
    if not len(rows):
        return []
    cells = pick(part.kind("solve"), unit=unit)
    basis = part.basis(cells)
    controls = plain[plain["method"].isin(CONTROLS) & plain["scope"].isin(set(rows["scope"]))]
    columns = [Column("solver"), Column("scope"), Column("removed", format=".0%"), Column("accuracy", format=".4f")]
    columns += [
        Column("95 %"),
        *(Column(name, format=".4f") for name in CONTROLS),
        Column("forward passes", format=".3g"),
    ]
    made = []
    for (method, scope, sparsity), own in rows.groupby(["method", "scope", "sparsity"], sort=False):
        beside = pick(controls, scope=scope, sparsity=sparsity)
        row = [method, scope, sparsity, own["accuracy"].mean(), interval(own["accuracy"])]
        row += [mean(pick(beside, method=name), "accuracy") for name in CONTROLS]
        made.append([*row, mean(pick(cells, method=method), "forward_passes")])
    caption = f"Solvers, which also repair, beside the controls that remove as many {unit}, without training."
    blocks: list[Block] = [Table(f"{unit}-solvers", caption, columns, made, basis)]
    for name in SOLVERS:
        own = pick(rows, method=name)
        if len(own):
            both = _joined(own, pick(controls, scope=own["scope"].iloc[0], method="magnitude"))
            found = judged(both, {"magnitude": [name]}, basis)
            blocks += [b if isinstance(b, str) else replace(b, name=f"{unit}-{b.name}-{name}") for b in found]
    return blocks


def _joined(one: DataFrame, other: DataFrame) -> DataFrame:
    both: DataFrame = require("pandas", "lab").concat([one, other], ignore_index=True)
    return both


def _classes(part: Part, unit: str, cells: DataFrame, plain: DataFrame, basis: Basis) -> list[Block]:
    if "class_accuracy" not in cells:
        return []
    known = cells[cells["class_accuracy"].notna()].assign(sparsity=lambda rows: rows["tune_at"])
    blocks = class_damage(part.trained, known, part.classes, method="magnitude", basis=basis)
    return [b if isinstance(b, str) else replace(b, name=f"{unit}-{b.name}") for b in blocks]


def _summary(part: Part) -> list[str]:
    """Who is shown to beat magnitude, who does not beat random, and what fine-tuning leaves of it."""
    words = []
    for unit in _units(part):
        rows = pick(_rows(part, "prune"), unit=unit)
        plain, tuned = pick(rows, tuned=0), pick(rows, tuned=1)
        for scope, here in plain.groupby("scope", sort=False):
            best = here.groupby("method")["accuracy"].mean()
            words.append(
                f"{unit.capitalize()}, scope {scope}, {here['sparsity'].nunique()} sparsities, {here['seed'].nunique()} "
                f"seeds: the best mean accuracy is {best.idxmax()}'s, {best.max():.4f}, beside {_at(best, 'magnitude')} by "
                f"magnitude and {_at(best, 'random')} at random. {_beaten(part, here)}"
            )
        if len(tuned):
            after = tuned.groupby("method")["accuracy"].mean()
            words.append(
                f"After one epoch of fine-tuning at {100 * tuned['sparsity'].iloc[0]:.4g} % of the {unit}: {after.idxmax()} "
                f"{after.max():.4f}, magnitude {_at(after, 'magnitude')}, random {_at(after, 'random')}, unpruned "
                f"{mean(part.trained, 'accuracy'):.4f}."
            )
    return words


def _beaten(part: Part, rows: DataFrame) -> str:
    """What the tests of one scope show against both controls, or that there were none, and why."""
    asked, areas = part.results.options["criteria"], _areas(rows)
    reasons = {
        control: "no control was asked for"
        if asked and control not in asked
        else untested(areas, control, value="area")
        for control in CONTROLS
    }
    verdicts = {control: _verdicts(rows, control) for control in CONTROLS}
    beat = [method for method, verdict in verdicts["magnitude"].items() if verdict == "better"]
    methods = [method for method in dict.fromkeys(rows["method"]) if method in verdicts["random"]]
    lost = [method for method in methods if verdicts["random"][method] not in ("better", UNTESTED)]
    words = {"magnitude": f"Shown to beat magnitude: {', '.join(beat) or 'none'}."}
    words["random"] = f"Not shown to beat random: {', '.join(lost) or 'none'}."
    for control, reason in reasons.items():
        without = [method for method, verdict in verdicts[control].items() if verdict == UNTESTED]
        if reason:
            words[control] = f"Against {control} not tested: {reason}."
        elif without:
            words[control] += f" Not tested against {control}: {', '.join(without)}."
    return f"{words['magnitude']} {words['random']}"


def _at(means: Any, method: str) -> str:
    return f"{means[method]:.4f}" if method in means else "–"
