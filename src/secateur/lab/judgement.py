"""What a comparison of methods amounts to: tests against the controls, one number a curve, and who is on the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from secateur.lab.blocks import Basis, Block, Column, Table
from secateur.lab.sections import interval
from secateur.lab.stats import area, compare, pareto
from secateur.lab.tables import comparison_table

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["areas", "front", "judged"]


def judged(
    frame: DataFrame,
    controls: Mapping[str, Sequence[str]],
    basis: Basis,
    *,
    value: str = "accuracy",
    within: Sequence[str] = ("sparsity",),
) -> list[Block]:
    """Return paired tests of each method against its control, and a sentence that says what they show.

    Args:
        frame: one row a run, with ``method``, ``seed``, the columns of `within`, and `value`.
        controls: control → the methods that it is the control of; one that is not there is left out.
        basis: what the rows are.
        value: the column to compare.
        within: the columns within which methods are compared.

    >>> import pandas
    >>> runs = pandas.DataFrame({"method": ["l2"] * 3 + ["random"] * 3, "seed": [0, 1, 2] * 2, "sparsity": 0.5,
    ...                          "accuracy": [0.90, 0.88, 0.89, 0.80, 0.79, 0.78]})
    >>> judged(runs, {"random": ["l2"]}, Basis("3 seeds"))[0]
    'l2 is better than random in 1 of 1 comparisons, worse in 0 (p corrected below 0.05; 3 pairs at most).'
    """
    blocks: list[Block] = []
    for control, methods in controls.items():
        rows = frame[frame["method"].isin([control, *methods])]
        if control not in set(rows["method"]) or rows["method"].nunique() < 2:
            continue
        found = compare(rows, value=value, baseline=control, within=within)
        for method, tests in found.groupby("method", sort=False):
            shown = tests["verdict"].value_counts()
            blocks.append(
                f"{method} is better than {control} in {shown.get('better', 0)} of {len(tests)} comparisons, worse in "
                f"{shown.get('worse', 0)} (p corrected below 0.05; {int(tests['n'].max())} pairs at most)."
            )
        table = comparison_table(
            found, f"against-{control.replace(' ', '-')}", f"Each method against {control}: {value}."
        )
        blocks.append(replace(table, basis=basis.also(str(table.basis))))
    return blocks


def areas(frame: DataFrame, basis: Basis) -> list[Block]:
    """Return one number a method: its accuracy averaged over the sparsities (the area under the curve).

    Curves of another range than most, as in a study under way, are left out.
    """
    ranges = frame.groupby(["method", "seed"])["sparsity"].agg(["min", "max", "size"])
    usual = ranges.value_counts().index[0] if len(ranges) else (0, 0, 0)
    whole = ranges[(ranges == list(usual)).all(axis=1)].index
    chosen = frame[frame.set_index(["method", "seed"]).index.isin(whole)]
    if usual[2] < 2 or not len(chosen):
        return []
    found = area(chosen)
    rows = [
        [method, group["area"].mean(), interval(group["area"]), len(group)]
        for method, group in found.groupby("method", sort=False)
    ]
    rows.sort(key=lambda row: -float(row[1]))
    columns = [Column("method"), Column("mean accuracy", format=".4f", best="max"), Column("95 %"), Column("seeds")]
    caption = (
        f"Accuracy averaged over all sparsities from {100 * usual[0]:g} to {100 * usual[1]:g} % (area under the "
        "accuracy–sparsity curve), the best first."
    )
    return [Table("areas", caption, columns, rows, basis)]


def front(frame: DataFrame, cost: str, label: str, basis: Basis) -> list[Block]:
    """Return the networks that no other beats in both accuracy and cost, means over seeds.

    Args:
        frame: one row a run, with ``method``, ``sparsity``, ``accuracy`` and `cost`.
        cost: a column where less is better, such as parameters.
        label: what it is called.
        basis: what the rows are.
    """
    means = frame.groupby(["method", "sparsity"], sort=False)[["accuracy", cost]].mean().dropna().reset_index()
    if not len(means):
        return []
    best = means[pareto(means, maximise=["accuracy"], minimise=[cost])].sort_values(cost, ascending=False)
    columns = [
        Column("method"),
        Column("removed", format=".0%", key="sparsity"),
        Column(label, format=",.0f", key=cost),
        Column("accuracy", format=".4f"),
    ]
    caption = f"The Pareto front: networks that no other one beats in both accuracy and {label}."
    return [Table.of(best, f"front-{cost.replace('_', '-')}", caption, columns, basis)]
