"""Several runs or studies on one page: their curves over each other, their means side by side, and paired tests."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.files import require
from secateur.lab.keep import query
from secateur.lab.keep.store import Store
from secateur.lab.plan.recipe import Recipe
from secateur.lab.show import figures, pooling
from secateur.lab.show.blocks import Basis, Block, Card, Column, Picture, Section, Table
from secateur.lab.show.chance import not_learnt
from secateur.lab.show.judgement import areas, paired
from secateur.lab.show.report import Report
from secateur.lab.show.sections import interval, mean_card, pick, several
from secateur.lab.show.shares import as_removed, unlike_asked
from secateur.lab.show.stats import area
from secateur.lab.show.stats.columns import SHARE
from secateur.lab.show.style import styles, styles_of_runs
from secateur.lab.show.words import counted, file_name, formatted
from secateur.types import InputError, UnknownNameError

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["labels", "overlay"]

_NEEDED = ("method", "sparsity", "accuracy")


@dataclass(frozen=True, eq=False)
class _Runs:
    """The networks of all runs: one row each, with ``run``, ``network``, ``method``, ``sparsity``, ``seed``, ``accuracy``."""

    rows: DataFrame
    differing: Table | None
    basis: Basis
    warnings: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(self.rows["run"]))


def labels(stores: Sequence[Store]) -> list[str]:
    """Return what each store is called: its folder's name, with as much of its path as tells it from the others.

    Raises:
        InputError: one is there twice.
    """
    places = [store.path.resolve().parts for store in stores]
    if len(set(places)) < len(places):
        raise InputError(
            f"a run is compared with itself: {', '.join(str(store.path) for store in stores)}; give each once"
        )
    depth = 1
    while len({place[-depth:] for place in places}) < len(places):
        depth += 1
    return ["/".join(place[-depth:]).lstrip("/") for place in places]


def overlay(stores: Sequence[Store], *, where: query.Where = None) -> Report:
    """Return one report on the pruned networks of several stores, computing nothing.

    Only like is averaged with like: networks whose recipes, and those of the cells that they build upon, differ by
    nothing but the seed (`secateur.lab.show.pooling`). What else differs within a run stands in the method's name; what
    differs between runs is listed, for that is what the page compares. The tests are those of every report, paired by
    seed: the first run is what the others are held against; with one run, its first method.

    Args:
        stores: the runs.
        where: conditions that the networks must fulfil, such as ``["scope=global", "sparsity<0.9"]``.

    Raises:
        InputError: a store is there twice, or no network has a method, a sparsity and an accuracy.
        UnknownNameError: no store has a parameter or a metric that a condition names.
    """
    runs = _runs(stores, where)
    sections = [*_each_network(runs), *_differences(runs), *_judged(runs)]
    title = " and ".join(runs.names) if len(runs.names) < 4 else f"{len(runs.names)} runs"
    words = ["secateur", "report", *(str(store.path) for store in stores)]
    for condition in query.conditions(where):
        words += ["--where", f"{condition.name}{condition.operator}{condition.value}"]
    return Report(
        f"{title} compared" if len(runs.names) > 1 else title,
        (*runs.warnings, _summary(runs)),
        _cards(runs),
        sections,
        command=shlex.join(words),
    )


def _runs(stores: Sequence[Store], where: query.Where) -> _Runs:
    rows = _frame(stores, where)
    recipes = pooling.with_needed(stores, rows["id"])
    facts = pooling.deciding(recipes, rows["id"].tolist())
    facts = facts.drop(columns=[name for name in ("method", "sparsity") if name in facts])
    network = [name for name in ("model", "data") if name in rows]
    rows["network"] = rows[network].astype(str).agg(" on ".join, axis=1) if network else "network"
    apart = [
        name for name in pooling.apart(facts, rows[["run", "network", "method", "sparsity"]]) if name not in network
    ]
    for name in apart:
        rows["method"] += [
            _said(name, value, usual) for value, usual in zip(*_with_usual(rows["run"], facts[name]), strict=True)
        ]
    differing = _differing(rows, facts.drop(columns=[*apart, *network], errors="ignore"))
    groups = ("run", "network", "method")
    unlike = [
        f"{run}: {said}" for run, group in rows.groupby("run", sort=False) for said in unlike_asked(group, groups)
    ]
    warnings = [*_left_out(stores, rows, where), *_blind(stores, recipes), *unlike]
    rows = as_removed(rows, groups).reset_index(drop=True)
    seeds = counted(rows["seed"].nunique() if "seed" in rows else 0, "seed")
    basis = Basis(f"{counted(len(rows), 'network')}, {seeds}", "", tuple(rows["id"]))
    return _Runs(rows, differing, basis, warnings)


def _left_out(stores: Sequence[Store], rows: DataFrame, where: query.Where) -> list[str]:
    """Which runs have nothing to be compared, and why."""
    there = set(rows["run"])
    empty = [label for label in labels(stores) if label not in there]
    if not empty:
        return []
    fits = "fits the conditions and has" if query.conditions(where) else "has"
    return [
        f"WARNING: left out {'is' if len(empty) == 1 else 'are'} {', '.join(empty)}: no finished cell there {fits} a method, "
        "a sparsity and an accuracy."
    ]


def _blind(stores: Sequence[Store], recipes: Mapping[str, Recipe]) -> list[str]:
    """Of which runs the unpruned networks answer as if blindly."""
    whole = [identity for identity, recipe in recipes.items() if recipe.kind in ("train", "load")]
    return [
        f"{label}: {warning}"
        for store, label in zip(stores, labels(stores), strict=True)
        for warning in not_learnt(store.frame([identity for identity in whole if identity in store.ids()]))
    ]


def _with_usual(runs: Series[str], values: Series[Any]) -> tuple[list[str], list[str]]:
    """The values as text, and beside each the one that its run has most often."""
    plain = values.map(_plain)
    return plain.tolist(), plain.groupby(runs).transform(lambda group: group.mode().iloc[0]).tolist()


def _said(name: str, value: str, usual: str) -> str:
    """What a method's name says of a parameter that differs within a run: nothing where it is as usual."""
    return "" if value == usual else f", {name} {value}"


def _frame(stores: Sequence[Store], where: query.Where) -> DataFrame:
    """The pruned networks of all stores."""
    frames, unknown = [], []
    for store, label in zip(stores, labels(stores), strict=True):
        try:
            frames.append(store.query(where=where).assign(run=label))
        except UnknownNameError as error:
            unknown.append(error)
    if unknown and len(unknown) == len(stores):
        raise unknown[0]
    both = require("pandas", "lab").concat([frame.astype(object) for frame in frames], ignore_index=True)
    missing = [name for name in _NEEDED if name not in both]
    rows = both[:0] if missing else both.dropna(subset=list(_NEEDED))
    if not len(rows):
        raise InputError(
            f"no finished cell in {', '.join(str(store.path) for store in stores)} fits and has a method, a sparsity and an "
            "accuracy; `secateur runs compare --by NAME` averages by other parameters"
        )
    rows = rows.reset_index(drop=True).infer_objects()
    return rows.assign(method=rows["method"].astype(str))


def _plain(value: object) -> str:
    return "–" if value is None or value != value else str(value)


def _differing(rows: DataFrame, facts: DataFrame) -> Table | None:
    """What the recipes of different runs differ in: one row a parameter, one column a run."""
    runs = list(dict.fromkeys(rows["run"]))
    lines = []
    for name in facts.columns:
        values = {
            run: sorted({_plain(value) for value in facts.loc[rows.index[rows["run"] == run], name]}) for run in runs
        }
        if len({tuple(value) for value in values.values()}) > 1:
            lines.append([name, *(", ".join(values[run][:4]) for run in runs)])
    if not lines:
        return None
    columns = [Column("parameter"), *(Column(run) for run in runs)]
    return Table(
        "differing", "What the recipes of the runs differ in, besides method, sparsity and seed.", columns, lines
    )


def _each_network(runs: _Runs) -> list[Section]:
    """The curves of each network, and the means behind them."""
    sections = []
    for place, (network, rows) in enumerate(runs.rows.groupby("network", sort=False)):
        suffix = "" if place == 0 else f"-{file_name(str(network))}"
        blocks: list[Block] = [
            _curves(rows, str(network), f"accuracy{suffix}", runs.basis),
            *_means(rows, f"means{suffix}", runs),
        ]
        sections.append(Section(str(network), blocks))
    return sections


def _series(rows: DataFrame) -> DataFrame:
    """The rows with the run in the method's name, where there are several runs."""
    return rows.assign(method=rows["method"] + " · " + rows["run"]) if rows["run"].nunique() > 1 else rows


def _curves(rows: DataFrame, network: str, name: str, basis: Basis) -> Picture:
    series = _series(rows)[["method", "sparsity", "seed", "accuracy"]]
    look = {f"{method} · {run}": style for (method, run), style in styles_of_runs(rows["method"], rows["run"]).items()}
    look = look if rows["run"].nunique() > 1 else styles(series["method"])
    means = series.groupby(["method", "sparsity"])["accuracy"].mean()
    method, sparsity = means.idxmax()
    drawing = figures.accuracy_by_sparsity(series, look=look)
    alt = f"Accuracy by sparsity, one line a method and run; the highest is {formatted(means.max(), '.4f')}, {method} at {100 * sparsity:g} %."
    drawn = ": means and 95 % intervals" if several(rows) else ", one seed"
    caption = f"Test accuracy of {network} by the part removed, all runs{drawn}."
    return Picture(name, drawing, caption, alt, basis, series)


def _means(rows: DataFrame, name: str, runs: _Runs) -> list[Block]:
    columns = [Column("method"), Column("removed", format=".0%")]
    for run in runs.names:
        columns += [Column(run, format=".4f"), Column(f"95 %, {run}")]
    lines = []
    for (method, sparsity), group in rows.groupby(["method", "sparsity"], sort=False):
        line: list[Any] = [method, sparsity]
        for run in runs.names:
            values = pick(group, run=run)["accuracy"]
            line += [values.mean(), interval(values, within=SHARE)] if len(values) else [None, ""]
        lines.append(line)
    lines.sort(key=lambda line: (line[0], line[1]))
    caption = f"{'Mean test' if several(rows) else 'Test'} accuracy of each run."
    return [Table(name, caption, columns, lines, runs.basis)]


def _differences(runs: _Runs) -> list[Section]:
    return [Section("What differs between the runs", [runs.differing])] if runs.differing is not None else []


def _judged(runs: _Runs) -> list[Section]:
    blocks: list[Block] = []
    for place, (network, rows) in enumerate(runs.rows.groupby("network", sort=False)):
        suffix = "" if place == 0 else f"-{file_name(str(network))}"
        blocks += _tests(rows, runs.names, str(network), f"tests{suffix}")
        heights = areas(_series(rows), runs.basis)
        blocks += [
            Table(f"{b.name}{suffix}", b.caption, b.columns, b.rows, b.basis) for b in heights if isinstance(b, Table)
        ]
    return [Section("More than luck?", blocks)] if blocks else []


def _tests(rows: DataFrame, names: Sequence[str], network: str, name: str) -> list[Block]:
    """Each run against the first one where they have a method and a sparsity in common; else each method against the first."""
    both = _in_common(rows, names[0])
    if len(both):
        caption = f"{network}: accuracy of each run against {names[0]}, by method and part removed."
        return paired(both, name, caption, baseline=names[0], by="run", within=("method", "sparsity"))
    series = _series(rows)
    first = next((m for m in series["method"] if "random" in m), series["method"].iloc[0])
    caption = f"{network}: accuracy of each method against {first}."
    return paired(series, name, caption, baseline=first, within=("sparsity",))


def _in_common(rows: DataFrame, first: str) -> DataFrame:
    """The rows of what the first run has, and at least one other."""

    def shared(group: Iterable[str]) -> bool:
        return first in set(group) and len(set(group)) > 1

    return (
        rows[rows.groupby(["method", "sparsity"])["run"].transform(shared)] if rows["run"].nunique() > 1 else rows[:0]
    )


def _cards(runs: _Runs) -> list[Card]:
    """The first three methods and runs by the accuracy that they keep over the sparsities that all runs have."""
    network = runs.rows["network"].iloc[0]
    rows = pick(runs.rows, network=network)
    in_all = rows.groupby("sparsity")["run"].transform("nunique") == rows["run"].nunique()
    rows = _series(rows[in_all] if in_all.any() else rows)
    whole = rows["sparsity"].nunique()
    if whole > 1:
        rows = rows[rows.groupby(["method", "seed"])["sparsity"].transform("nunique") == whole]
        heights: Mapping[str, Any] = (
            {m: group["area"] for m, group in area(rows).groupby("method")} if len(rows) else {}
        )
    else:
        heights = {m: group["accuracy"] for m, group in rows.groupby("method")}
    best = sorted(heights, key=lambda method: -float(heights[method].mean()))[:3]
    note = f"accuracy over sparsities, {network}" if whole > 1 else f"accuracy, {network}"
    return [mean_card(method, heights[method], note, within=SHARE) for method in best]


def _summary(runs: _Runs) -> str:
    counts = ", ".join(
        f"{run} ({counted(len(group), 'network')})" for run, group in runs.rows.groupby("run", sort=False)
    )
    if not several(runs.rows):
        return f"Compared are {counts}, of one seed: no intervals, and nothing is tested."
    bands = "A band or an interval is the 95 % interval of a mean over seeds."
    return f"Compared are {counts}. {bands} Differences are tested paired by seed, and corrected over all tests of a table."
