"""Which classes a cut hurts: each class's accuracy before and after, over seeds and methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from secateur.files import require
from secateur.lab.show import figures
from secateur.lab.show.blocks import Basis, Block, Column, Picture, Table
from secateur.lab.show.stats import summarise
from secateur.lab.show.words import points
from secateur.types import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["class_changes", "class_damage"]


def class_changes(before: DataFrame, after: DataFrame, classes: Sequence[str]) -> DataFrame:
    """Return how much each class's accuracy changed, over the seeds that both tables have.

    Args:
        before: the unpruned networks: the columns ``seed`` and ``class_accuracy`` (one fraction a class).
        after: the pruned ones, with ``method`` and ``sparsity`` as well.
        classes: the classes' names.

    Returns:
        One row for each method, sparsity and class: ``before`` and ``after`` (means), ``change`` with its 95 %
        interval ``low`` to ``high`` (nan with one seed), paired by seed, and ``n`` seeds; fractions all.

    Raises:
        InputError: a network was rated on another number of classes.

    >>> import pandas
    >>> full = pandas.DataFrame({"seed": [0, 1], "class_accuracy": [[0.9, 0.5], [0.9, 0.7]]})
    >>> cut = full.assign(method="l1", sparsity=0.5, class_accuracy=[[0.8, 0.5], [0.6, 0.7]])
    >>> class_changes(full, cut, ["cat", "dog"])[["class", "before", "after", "change"]].round(3).values.tolist()
    [['cat', 0.9, 0.7, -0.2], ['dog', 0.6, 0.6, 0.0]]
    """
    for values in [*before["class_accuracy"], *after["class_accuracy"]]:
        if len(values) != len(classes):
            raise InputError(
                f"class_changes: a network was rated on {len(values)} classes, but {len(classes)} are named; name each once"
            )
    full = before.set_index("seed")["class_accuracy"]
    rows: list[dict[str, Any]] = []
    for (method, sparsity), group in after.groupby(["method", "sparsity"], sort=False):
        pairs = [
            (full[seed], now) for seed, now in zip(group["seed"], group["class_accuracy"], strict=True) if seed in full
        ]
        for place, name in enumerate(classes):
            class_pairs = [(was[place], now[place]) for was, now in pairs if _known(was[place], now[place])]
            if class_pairs:
                rows.append({"method": method, "sparsity": sparsity, "class": name, **_change(class_pairs)})
    columns = ["method", "sparsity", "class", "before", "after", "change", "low", "high", "n"]
    return require("pandas", "lab").DataFrame(rows, columns=columns)


def class_damage(
    before: DataFrame,
    after: DataFrame,
    classes: Sequence[str],
    *,
    method: str | None = None,
    sparsity: float | None = None,
    basis: str | Basis = "",
    removed: str = "removed",
) -> list[Block]:
    """Return the blocks that say which classes pruning hurts most: words, bars of one method, all methods, numbers.

    Args:
        before, after, classes: as for `class_changes`.
        method: whose bars to draw; the first one of `after` when None.
        sparsity: at which; when None, the first one at which the mean accuracy of `method` has fallen by a point.
        basis: what the numbers were computed from.
        removed: what follows "50 %" in words, where the sparsity is a part of something else than the units.

    Returns:
        The blocks ``classes``, ``classes-methods`` and ``classes-numbers`` under a paragraph; none where the
        networks have no accuracy for each class.
    """
    if not all("class_accuracy" in frame and len(frame) for frame in (before, after)):
        return []
    # Networks that answer something else than classes have none, or an empty list.
    before, after = (frame[frame["class_accuracy"].str.len().gt(0)] for frame in (before, after))
    if not (len(before) and len(after)):
        return []
    changes = class_changes(before, after, classes)
    name = str(method if method in set(changes["method"]) else changes["method"].iloc[0])
    of_method = changes[changes["method"] == name]
    sparsity = _first_fall(of_method) if sparsity is None else sparsity
    at_sparsity = changes[changes["sparsity"] == sparsity]
    worst_first = at_sparsity[at_sparsity["method"] == name].sort_values("change", kind="stable")
    part = f"{100 * sparsity:.4g} % {removed}"
    blocks: list[Block] = [_words(worst_first, at_sparsity, name, part), _bars(worst_first, name, part, basis)]
    if at_sparsity["method"].nunique() > 1:
        blocks.append(_map(at_sparsity, list(worst_first["class"]), part, basis))
    return [*blocks, _numbers(at_sparsity, part, basis)]


def _known(*values: float | None) -> bool:
    return all(value is not None and value == value for value in values)


def _change(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    means = {"before": sum(was for was, _ in pairs) / len(pairs), "after": sum(now for _, now in pairs) / len(pairs)}
    # A class can lose no more than it had, and gain no more than it lacked.
    summary = summarise((now - was for was, now in pairs), within=(-means["before"], 1 - means["before"]))
    return means | {"change": summary.mean, "low": summary.low, "high": summary.high, "n": len(pairs)}


def _first_fall(changes: DataFrame) -> float:
    falls = changes.groupby("sparsity")["change"].mean()
    hurt = [sparsity for sparsity, change in falls.items() if change < -0.01]
    return float(hurt[0] if hurt else falls.index[-1])


def _interval(row: Any) -> str:
    return (
        f"95 % {points(100 * row['low'], 1)} to {points(100 * row['high'], 1)}"
        if row["low"] == row["low"]
        else "one seed"
    )


def _words(shown: DataFrame, here: DataFrame, method: str, part: str) -> str:
    worst = [
        f"{row['class']} ({points(100 * row['change'], 1)} points, {_interval(row)})" for _, row in shown[:3].iterrows()
    ]
    words = f"Hurt most with {part}, method {method}: {', '.join(worst)}."
    least = here.loc[here["change"].idxmin()]
    if least["method"] != method:
        words += f" Of all methods, {least['method']} hurts one class most: {least['class']} ({points(100 * least['change'], 1)} points)."
    return (
        f"{words} Shown is the first sparsity at which the mean accuracy has fallen by a point, or the one asked for."
    )


def _bars(shown: DataFrame, method: str, part: str, basis: str | Basis) -> Picture:
    drawing = figures.class_bars(
        list(shown["class"]),
        list(shown["before"]),
        list(shown["after"]),
        names=("unpruned", f"{part}, {method}"),
        notes=[f"({_interval(row)})" for _, row in shown.iterrows()],
    )
    first = shown.iloc[0]
    return Picture(
        "classes",
        drawing,
        f"Test accuracy of each class, unpruned and with {part}, method {method}; the change in "
        "percentage points stands beside, the class that is hurt most on top.",
        f"Bars of the accuracy of each class before and after pruning; {first['class']} changes by {points(100 * first['change'], 1)} points.",
        basis,
        shown,
    )


def _map(here: DataFrame, order: Sequence[str], part: str, basis: str | Basis) -> Picture:
    methods = list(dict.fromkeys(here["method"]))
    table = (100 * here.pivot(index="method", columns="class", values="change")).loc[methods, list(order)]
    worst = here.loc[here["change"].idxmin()]
    return Picture(
        "classes-methods",
        figures.heatmap(
            table,
            label="Change (points)",
            diverging=True,
            show=lambda value: points(value, 1),
        ),
        f"Change of each class's accuracy in percentage points, every method with {part}.",
        f"Heat map of methods and classes; the darkest loss is {worst['class']} with {worst['method']}, {points(100 * worst['change'], 1)} points.",
        basis,
        here,
    )


def _numbers(here: DataFrame, part: str, basis: str | Basis) -> Table:
    columns = [
        Column("method"),
        Column("class"),
        Column("before", format=".4f"),
        Column("after", format=".4f"),
        Column("change", "points", format="+.2f", key="points", worst="min"),
        Column("95 % from", "points", format="+.2f", key="from"),
        Column("to", "points", format="+.2f", key="upto"),
        Column("seeds", format=".0f", key="n"),
    ]
    rows = here.assign(points=100 * here["change"], **{"from": 100 * here["low"], "upto": 100 * here["high"]})
    caption = f"Accuracy of each class with {part}, and its change paired by seed; the worst is marked."
    return Table.of(rows, "classes-numbers", caption, columns, basis)
