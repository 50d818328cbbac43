"""Tables that more than one study shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.lab.show.blocks import Column, Table
from secateur.lab.show.stats.columns import check_columns

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["comparison_table"]

_TESTS = {"t": "paired t-test", "wilcoxon": "Wilcoxon signed-rank test", "permutation": "sign-flip permutation test"}
_CORRECTIONS = {
    "holm": "Holm's correction",
    "bonferroni": "Bonferroni's correction",
    "fdr": "false discovery rate by Benjamini and Hochberg",
    "none": "no correction",
}
_NEEDED = ("against", "n", "difference", "low", "high", "p", "p_corrected", "effect", "verdict")


def comparison_table(frame: DataFrame, name: str, caption: str) -> Table:
    """Return what `compare` found as a table for a report; its basis says which test and correction it was.

    Raises:
        UnknownNameError: the frame is not `compare`'s.
        InputError: the name cannot name a file.

    >>> import pandas
    >>> from secateur.lab.show.stats import compare
    >>> runs = pandas.DataFrame({"method": ["a"] * 2 + ["b"] * 2, "seed": [0, 1] * 2, "loss": [1.0, 2, 3, 5]})
    >>> table = comparison_table(compare(runs, value="loss", within=(), better="lower"), "loss", "Losses.")
    >>> table.basis
    "paired t-test, Holm's correction over 1 test; 0 runs without a partner left out"
    """
    check_columns(frame, [*_NEEDED, "test", "correction", "confidence", "dropped"])
    *within, method = frame.columns[: list(frame.columns).index("against")]
    wilcoxon = "wilcoxon" in set(frame["test"])
    level = f"{100 * frame['confidence'].iloc[0]:g} %" if len(frame) else "95 %"
    columns = [
        *(Column(str(key), format=".0%" if key == "sparsity" else "") for key in within),
        Column(str(method)),
        Column("against"),
        Column("pairs", key="n"),
        Column("difference", format="+.4f"),
        Column("from", level, format="+.4f", key="low"),
        Column("to", level, format="+.4f", key="high"),
        Column("p", format=".3g"),
        Column("p corrected", format=".3g", key="p_corrected"),
        Column("rank-biserial" if wilcoxon else "effect d_z", format="+.2f", key="effect"),
        Column("verdict"),
    ]
    return Table.of(frame, name, caption, columns, _basis(frame))


def _basis(frame: DataFrame) -> str:
    if not len(frame):
        return "no runs to compare"
    tests, dropped = int(frame["p"].notna().sum()), int(frame["dropped"].sum())
    how = f"{_TESTS[frame['test'].iloc[0]]}, {_CORRECTIONS[frame['correction'].iloc[0]]}"
    over = f" over {tests} test{'s' if tests != 1 else ''}"
    return f"{how}{over}; {dropped} run{'s' if dropped != 1 else ''} without a partner left out"
