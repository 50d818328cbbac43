"""The plan of a cut: which rows of which tensors stay, and which attributes change; and a copy of the model that it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.copies import copied
from secateur.structure.axes import Atom, keep_vector
from secateur.structure.held import set_attributes
from secateur.structure.infer import Structure
from secateur.structure.mend import Edits, edits

__all__ = ["Plan", "apply_plan", "make_plan"]


@dataclass(frozen=True, eq=False)
class Plan:
    """What a cut does, as plain data.

    Attributes:
        rows: for each tensor that shrinks, the indices to keep along each dimension that shrinks.
        attributes: the module attributes that change, with their new values.
    """

    rows: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)
    attributes: Edits = field(default_factory=dict)


def make_plan(model: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor]) -> Plan:
    """Return what must be sliced and mended so that the units that the keep vectors of `gone` mark False are gone."""
    rows: dict[str, dict[int, Tensor]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in {**structure.tensors, **structure.derived}.items():
        keep_vectors = {dim: keep_vector(axis, gone) for dim, axis in enumerate(value.axes)}
        masks_by_dim = {dim: k for dim, k in keep_vectors.items() if not bool(k.all())}
        if masks_by_dim:
            rows[name] = {dim: k.nonzero().flatten() for dim, k in masks_by_dim.items()}
            shapes[name] = tuple(
                int(masks_by_dim[d].sum()) if d in masks_by_dim else s for d, s in enumerate(value.shape)
            )
    # What a property computes has no rows of its own.
    rows = {name: dims for name, dims in rows.items() if name not in structure.derived or _is_held(model, name)}
    return Plan(rows, edits(model, structure.joint, gone, shapes))


def _is_held(model: nn.Module, name: str) -> bool:
    path, _, attribute = name.rpartition(".")
    return attribute in vars(model.get_submodule(path))


def apply_plan(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a copy of `model` with the plan's tensors sliced and attributes set."""
    # A tensor that shrinks is put into the memo, so that the copy takes the small one and never copies the large one.
    memo: dict[int, Any] = {}
    for name, rows in plan.rows.items():
        old = _find_tensor(model, name)
        memo[id(old)] = _sliced(old, rows)
    result = copied(model, memo)
    set_attributes(result, plan.attributes)
    return result


def _find_tensor(model: nn.Module, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    tensor = getattr(model.get_submodule(path), attribute)
    assert isinstance(tensor, Tensor)
    return tensor


def _sliced(tensor: Tensor, rows: Mapping[int, Tensor]) -> Tensor:
    data = tensor.detach()
    for dim, index in rows.items():
        data = data.index_select(dim, index.to(data.device))
    # Selecting lays rows out in the order of the dimensions; convolutions are quicker on the order that the model has.
    data = data.contiguous(memory_format=_order_of(tensor))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=tensor.requires_grad)
    return data.requires_grad_(tensor.requires_grad)


def _order_of(tensor: Tensor) -> torch.memory_format:
    """The order of a tensor's dimensions in memory: channels last where they are so and not otherwise."""
    for dims, order in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.ndim == dims and tensor.is_contiguous(memory_format=order) and not tensor.is_contiguous():
            return order
    return torch.contiguous_format
