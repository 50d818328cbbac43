"""Carry an optimizer over a cut: its parameters become the small model's, and its moments are cut with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.types import InputError

__all__ = ["carry_over", "check_optimizer"]

Rows = Mapping[str, Mapping[int, Tensor]]


def check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer that has none of the model's parameters, or state that cannot be cut.

    Raises:
        InputError: with the state that is neither a scalar nor of its parameter's shape.
    """
    owned = {id(p): name for name, p in model.named_parameters()}
    optimizer_parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(id(p) in owned for p in optimizer_parameters):
        raise InputError("cut: the optimizer has none of this model's parameters; make it with model.parameters()")
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.numel() != 1 and value.shape != parameter.shape:
                raise InputError(
                    f"cut: {type(optimizer).__name__} keeps {key!r} of shape {tuple(value.shape)} for "
                    f"{owned.get(id(parameter), 'a parameter')}, which cannot be cut with it; make a new optimizer"
                )


def carry_over(optimizer: Optimizer, model: nn.Module, small: nn.Module, rows: Rows) -> None:
    """Point `optimizer` at the parameters of `small`, in place, and cut its state as they were cut."""
    names = {id(p): name for name, p in model.named_parameters()}
    fresh = dict(small.named_parameters(remove_duplicate=False))
    replaced: dict[int, nn.Parameter] = {key: fresh[name] for key, name in names.items() if name in fresh}
    state = {}
    for parameter, values in optimizer.state.items():
        cut = rows.get(names.get(id(parameter), ""), {})
        state[replaced.get(id(parameter), parameter)] = {k: _cut_like(v, parameter, cut) for k, v in values.items()}
    for group in optimizer.param_groups:
        group["params"] = [replaced.get(id(p), p) for p in group["params"]]
    optimizer.state.clear()
    optimizer.state.update(state)


def _cut_like(value: Any, parameter: Tensor, rows: Mapping[int, Tensor]) -> Any:
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    for dim, index in rows.items():
        value = value.index_select(dim, index.to(value.device))
    return value
