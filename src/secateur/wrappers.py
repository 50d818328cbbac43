"""What stands around a model, or in its place: taken off where that is safe, else refused before any work."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from secateur.types import InputError

__all__ = ["COMPILED", "DISTRIBUTED", "check_module", "check_readable", "unwrapped"]

COMPILED, DISTRIBUTED = "OptimizedModule", "DistributedDataParallel"
WRAPPERS = {"DataParallel": "module", DISTRIBUTED: "module", COMPILED: "_orig_mod"}
"""Modules of torch's own that compute what one module in them does, with the attribute that holds it."""

SHARDED = ("FullyShardedDataParallel", "FSDPModule")
"""Classes whose modules hold parts of the weights, which other processes hold the rest of."""

INSTEAD = {
    "ExportedProgram": "pass the Python module that it was exported from",
    "function": "pass an nn.Module: the one whose forward it is",
}
"""What to pass in place of what is no module, by the name of its class."""

UNREADABLE = {
    "torch.ao.nn.intrinsic.modules.fused": "",
    "torch.ao.nn.": "quantized, so its weights are no numbers that could be cut; prune the model before it is quantized",
    "torch.nn.quantized": "quantized, so its weights are no numbers that could be cut; prune the model before",
    "torch.ao.quantization.": "made for quantization; prune the model before it is prepared for that",
    "torchao.": "quantized, so its weights are no numbers that could be cut; prune the model before it is quantized",
}
"""Modules that cannot be cut, by where they are defined, with what to say of them; nothing where they can."""


def _torchs_own(value: object, names: Collection[str]) -> str:
    """The name of the class of torch's own, among those named, that a value is of; none where there is none."""
    kinds = (kind.__name__ for kind in type(value).__mro__ if kind.__module__.startswith("torch."))
    return next((name for name in kinds if name in names), "")


def unwrapped(value: Any, keeping: Collection[str] = ()) -> Any:
    """Return the module that wrappers of torch's own stand around, and everything else as it is.

    `nn.DataParallel`, `DistributedDataParallel` and what `torch.compile` returns compute what the module in them does, on
    its own tensors: what is found in that holds for them, too.

    Args:
        value: a module, or anything else.
        keeping: classes of wrappers that are left.

    >>> unwrapped(nn.DataParallel(nn.Linear(1, 2)))
    Linear(in_features=1, out_features=2, bias=True)
    """
    while isinstance(value, nn.Module) and (kind := _torchs_own(value, WRAPPERS)) and kind not in keeping:
        value = getattr(value, WRAPPERS[kind])
    return value


def check_module(model: object, doing: str, *, compiled: bool = False) -> None:
    """Refuse what is no module, only stands around one, or has lazy parameters that have no shape yet.

    Args:
        model: what was given.
        doing: what for, to say it in the message.
        compiled: whether the module may be one of `torch.compile`: it can be run, but not read or copied.

    >>> check_module(nn.DataParallel(nn.Linear(1, 1)), "bench")
    Traceback (most recent call last):
    ...
    secateur.types.InputError: bench: the model is a DataParallel, which wraps the model proper; pass model.module
    """
    if not isinstance(model, nn.Module):
        remedy = INSTEAD.get(type(model).__name__, "pass an nn.Module")
        raise InputError(f"{doing}: the model is a {type(model).__name__}; {remedy}")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"{doing}: the model is a {type(model).__name__}, compiled by TorchScript, whose code cannot be read or "
            "changed; pass the Python module that it was made from"
        )
    kind = _torchs_own(model, WRAPPERS)
    if kind == DISTRIBUTED:
        raise InputError(
            f"{doing}: the model is a {kind}, which several processes train together, and secateur trains in one; pass "
            "model.module there, and wrap what comes back again"
        )
    if kind and not (compiled and kind == COMPILED):
        raise InputError(f"{doing}: the model is a {kind}, which wraps the model proper; pass model.{WRAPPERS[kind]}")
    _check_whole(model, doing)


def _check_whole(model: nn.Module, doing: str) -> None:
    """Refuse a model whose tensors are not all there."""
    for path, module in model.named_modules():
        if kind := _torchs_own(module, SHARDED):
            raise InputError(
                f"{doing}: {path or 'the model'} is a {kind}, whose weights are spread over processes; gather them into "
                "a model that is not, with torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
                "options=StateDictOptions(full_state_dict=True)), and pass that"
            )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InputError(f"parameter {name} has no shape yet; run the model once on an input first")


def check_readable(model: nn.Module, doing: str) -> None:
    """Refuse a model of which a part has code or weights that cannot be read and changed.

    >>> check_readable(nn.Sequential(nn.ReLU()), "channels")
    """
    if isinstance(model, GraphModule) and "eval" in vars(model):
        raise InputError(
            f"{doing}: the model is an exported program, whose modes and code cannot be changed; pass the Python module "
            "that it was exported from"
        )
    for path, module in model.named_modules():
        part = f"{path} of the model" if path else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"{doing}: {part} is compiled by TorchScript, whose code cannot be read or changed; put the Python "
                "module in its place that it was made from"
            )
        if any(getattr(code, "is_of_masked_copy", False) for code in (*module._forward_hooks.values(), module.forward)):
            raise InputError(
                f"{doing}: the model is a copy that sc.mask made, in which {part} computes with what was kept alone; pass the model that "
                "was masked, with one mask for all that goes"
            )
        kind = type(module).__module__
        if reason := next((reason for start, reason in UNREADABLE.items() if kind.startswith(start)), ""):
            raise InputError(f"{doing}: {part}, a {type(module).__name__}, is {reason}")
