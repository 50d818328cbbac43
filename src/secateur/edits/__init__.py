"""What was done to a model, as plain data that does it again: one file an edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from secateur.calls import looking, usual
from secateur.checks import check_name
from secateur.copies import copied
from secateur.edits.base import Edit
from secateur.edits.cut import Cut
from secateur.edits.depth import Depth, Shallower
from secateur.edits.graph import GraphCut
from secateur.edits.low_rank import Factored
from secateur.edits.masked import Masked
from secateur.edits.quantize import InputGrid, Quantised, quantised
from secateur.edits.sharing import Shared, nearest
from secateur.edits.structures import Replaced

__all__ = [
    "EDITS",
    "Cut",
    "Depth",
    "Edit",
    "Factored",
    "GraphCut",
    "InputGrid",
    "Masked",
    "Quantised",
    "Replaced",
    "Shallower",
    "Shared",
    "from_dict",
    "joined_edits",
    "nearest",
    "quantised",
    "replay",
    "to_dict",
]

EDITS: Mapping[str, type[Edit]] = {
    edit.kind: edit for edit in (Cut, GraphCut, Masked, Depth, Shallower, Factored, Replaced, Shared, Quantised)
}
"""All edits, by the name that a saved folder gives them."""


@looking
def to_dict(edit: Edit) -> dict[str, Any]:
    """Return an edit as mappings, lists, plain values and tensors, its kind among them."""
    return {"kind": edit.kind, **edit.to_dict()}


@looking
def from_dict(record: Mapping[str, Any]) -> Edit:
    """Return the edit that `to_dict` described.

    Raises:
        UnknownNameError: an edit of a kind that this version does not know.
        FileError, LookupError, TypeError, ValueError: `record` is no such description.
    """
    kind = record["kind"]
    check_name("edit", kind, EDITS)
    return EDITS[kind].from_dict(record)


def joined_edits(earlier: Sequence[Edit], later: Sequence[Edit]) -> tuple[Edit, ...]:
    """Return edits one after another; masks that follow upon masks are one edit with them.

    >>> from torch import tensor
    >>> first, second = Masked({"weight": tensor([True, False])}), Masked({"weight": tensor([False, True])})
    >>> [edit.masks["weight"].tolist() for edit in joined_edits([first], [second])]
    [[False, False]]
    """
    edits = list(earlier)
    for edit in later:
        if edits and isinstance(edit, Masked) and isinstance(edits[-1], Masked):
            edits[-1] = edit.after(edits[-1])
        else:
            edits.append(edit)
    return tuple(edits)


@usual
def replay(edits: Sequence[Edit], model: nn.Module) -> nn.Module:
    """Return a copy of `model` with the edits done one after another.

    Raises:
        FileError: an edit does not fit.

    >>> small = replay([Depth({"1": False})], nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    >>> small[1]
    Skip()
    """
    result = model
    for edit in edits:
        result = edit.apply(result)
    return copied(model) if result is model else result
