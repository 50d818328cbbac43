"""Networks that answer as if blindly: what pruning does to them says nothing of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.lab.show.words import counted, formatted, percent
from secateur.measure import has_learnt

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["not_learnt"]


def not_learnt(rows: DataFrame) -> list[str]:
    """Return the warning that unpruned networks are no better than chance; nothing where all have learnt.

    Args:
        rows: one row an unpruned network, with ``accuracy`` and ``class_accuracy`` where there are classes.

    >>> import pandas
    >>> blind = pandas.DataFrame({"accuracy": [0.5], "class_accuracy": [[0.0, 1.0]]})
    >>> not_learnt(blind)[0][:78]
    'WARNING: 1 of 1 unpruned network has not learnt: its test accuracy is 50.0 %, '
    """
    if not len(rows) or "class_accuracy" not in rows:
        return []
    rated = [isinstance(classes, (list, tuple)) and not has_learnt(classes) for classes in rows["class_accuracy"]]
    blind = rows[rated]
    if not len(blind):
        return []
    low, high = (percent(accuracy, 1) for accuracy in (blind["accuracy"].min(), blind["accuracy"].max()))
    chance = f"{formatted(100 / len(blind['class_accuracy'].iloc[0]), '.1f')} %"
    verb, whose, them = ("has", "its", "it") if len(blind) == 1 else ("have", "their", "them")
    return [
        f"WARNING: {len(blind)} of {counted(len(rows), 'unpruned network')} {verb} not learnt: {whose} test accuracy is "
        f"{low if low == high else f'{low} to {high}'}, where blind answers have about {chance}. What pruning does to {them} "
        "says nothing of networks that have learnt."
    ]
