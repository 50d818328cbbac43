"""The part of the units that was really removed, in place of the part that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from secateur.lab.show.words import percent

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["ASKED", "as_removed", "unlike_asked"]

ASKED = "asked_sparsity"
"""The column with the part that was asked for."""

_ROUNDING = 0.005
"""A difference that whole per cents do not show: a fraction of a layer is a whole number of units."""
_FEW = 3
"""So many sparsities of a method are told one by one."""


def as_removed(frame: DataFrame, apart: Sequence[str] = ("method",)) -> DataFrame:
    """Return the rows with what was really removed as ``sparsity``, and what was asked for as `ASKED`.

    A minimum, or layers of few units, leave less (or take more) than a fraction asks for. Runs that were asked for the
    same stay one group, whose sparsity is the mean of what they removed; where that rounds to what was asked for, it is
    that. What two different questions answer alike is one run, not two: the first one stays.

    Args:
        frame: one row a run, with ``sparsity`` and ``seed``, and ``units_removed`` where it is known.
        apart: the columns that tell runs of one question apart, besides the seed.

    >>> import pandas
    >>> runs = pandas.DataFrame({"method": "l2", "seed": 0, "sparsity": [0.3, 0.6, 0.9], "units_removed": [0.0, 0.0, 0.901]})
    >>> as_removed(runs)[["sparsity", ASKED]].values.tolist()
    [[0.0, 0.3], [0.9, 0.9]]
    """
    rows = _with_removed(frame, apart)
    if ASKED not in rows or "units_removed" not in rows:
        return rows
    keys = [name for name in dict.fromkeys((*apart, "sparsity", "seed")) if name in rows]
    again = rows.duplicated(keys) & (rows["sparsity"] != rows[ASKED])
    return rows[~again]


def unlike_asked(frame: DataFrame, apart: Sequence[str] = ("method",)) -> list[str]:
    """Return the sentence that says where the part removed is not the part asked for; a warning where nothing went.

    >>> import pandas
    >>> runs = pandas.DataFrame({"method": ["l1", "l2"], "seed": 0, "sparsity": 0.3, "units_removed": 0.0})
    >>> unlike_asked(runs)
    ['WARNING: what was removed is not what was asked for: l1, l2: 0 % in place of 30 %. Tables and figures go by what was removed.']
    """
    rows = _with_removed(frame, apart)
    if ASKED not in rows:
        return []
    rows = rows[(rows["sparsity"] != rows[ASKED]) & rows["sparsity"].notna()]
    methods: dict[str, list[str]] = {}
    for method, group in rows.groupby("method", sort=False):
        pairs = sorted(set(zip(group[ASKED], group["sparsity"], strict=True)))
        methods.setdefault(_replaced(pairs), []).append(str(method))
    if not methods:
        return []
    told = "; ".join(f"{', '.join(names)}: {words}" for words, names in methods.items())
    head = "WARNING: what" if (rows["sparsity"] == 0).any() else "What"
    return [f"{head} was removed is not what was asked for: {told}. Tables and figures go by what was removed."]


def _with_removed(frame: DataFrame, apart: Sequence[str]) -> DataFrame:
    if "sparsity" not in frame:
        return frame
    rows = frame.assign(**{ASKED: frame["sparsity"]})
    if "units_removed" not in frame or not len(frame):
        return rows
    keys = [name for name in dict.fromkeys((*apart, "sparsity")) if name in frame]
    removed = frame.groupby(keys, dropna=False)["units_removed"].transform("mean").astype(float).round(4)
    unlike = (removed - frame["sparsity"].astype(float)).abs() > _ROUNDING
    return rows.assign(sparsity=frame["sparsity"].where(~unlike, removed))


def _replaced(pairs: Sequence[tuple[float, float]]) -> str:
    parts = [f"{percent(removed)} in place of {percent(asked)}" for asked, removed in pairs[:_FEW]]
    return ", ".join(parts) + (f" and {len(pairs) - _FEW} more" if len(pairs) > _FEW else "")
