"""What every room does with a model: calling it, its modes, its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.types import ExampleInputs, InputError

__all__ = [
    "check_finite",
    "check_made",
    "check_module",
    "device_of",
    "digest",
    "evaluating",
    "modes_kept",
    "own_tensors",
    "restore",
    "snapshot",
    "split_inputs",
    "tensors",
    "threads",
]


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer of the model by every name it has: the tensors themselves."""
    return {
        **dict(model.named_buffers(remove_duplicate=False)),
        **dict(model.named_parameters(remove_duplicate=False)),
    }


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer of the model by name, those that no file keeps included."""
    named: list[tuple[str, Tensor]] = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: tensor.detach() for name, tensor in named}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the model's tensors."""
    return {name: tensor.clone() for name, tensor in tensors(model).items()}


def restore(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy the tensors of `state` into the model."""
    for name, tensor in tensors(model).items():
        tensor.copy_(state[name])


def check_made(model: nn.Module) -> None:
    """Refuse a model with lazy parameters that have no shape yet."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InputError(f"parameter {name} has no shape yet; run the model once on an input first")


def check_module(model: object, doing: str) -> None:
    """Refuse what is no module."""
    if not isinstance(model, nn.Module):
        raise InputError(f"{doing}: the model is a {type(model).__name__}; pass an nn.Module")


def check_finite(model: nn.Module, when: str, remedy: str) -> None:
    """Raise an InputError that names the first tensor of the model that holds NaN or infinite values.

    Buffers may hold infinities, as attention masks and limits do.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in tensors(model).items():
        # A sum is finite unless a term is not, or it overflows; only then is each entry looked at.
        if not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum())):
            continue
        wrong = ~torch.isfinite(tensor) if name in parameters else torch.isnan(tensor)
        if bool(wrong.any()):
            bad = int(wrong.sum())
            raise InputError(f"{when}: {name} of the model holds {bad} NaN or infinite values; {remedy}")


def split_inputs(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return example inputs as positional and keyword arguments.

    Raises:
        InputError: they are no tensor, tuple or mapping, hold no tensor, or hold an empty one.

    >>> split_inputs(torch.zeros(1)), split_inputs({"x": torch.zeros(1)})
    (((tensor([0.]),), {}), ((), {'x': tensor([0.])}))
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, Mapping):
        kwargs = {str(name): value for name, value in example_inputs.items()}
    elif isinstance(example_inputs, tuple):
        args = example_inputs
    elif isinstance(example_inputs, Tensor):
        args = (example_inputs,)
    else:
        raise InputError(
            f"example_inputs is a {type(example_inputs).__name__}; "
            "give a tensor, a tuple of positional inputs, or a dict of keyword inputs"
        )
    found = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    if not found:
        raise InputError(
            "example_inputs hold no tensor; pass a batch that the model takes, such as torch.zeros(1, 3, 224, 224)"
        )
    if any(x.numel() == 0 for x in found):
        raise InputError(
            f"example_inputs hold an empty tensor (shapes {[tuple(x.shape) for x in found]}); give at least one sample"
        )
    if any(bool(torch.isnan(x).any()) for x in found):
        raise InputError("example_inputs hold NaN, which verifies nothing; give a real sample, or noise")
    return args, kwargs


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer; the CPU if it has none."""
    return next((tensor.device for tensor in tensors(model).values()), torch.device("cpu"))


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module back in the training or evaluation mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, without gradients, and leave it as it was.

    Modules that keep tables for evaluation drop them when they are put in training mode, so that is done on the way in
    and on the way out: a table made from other weights, or while tracing, must not be used.
    """
    with modes_kept(model), torch.no_grad():
        model.train()
        model.eval()
        try:
            yield
        finally:
            model.train()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch take `count` threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def digest(named: Iterable[tuple[str, Tensor]], text: str = "") -> str:
    """Return a hash of the names, types, shapes and contents of tensors, and of a text.

    >>> digest([("a", torch.zeros(2))]) == digest([("a", torch.zeros(2))])
    True
    >>> digest([("a", torch.zeros(2))]) == digest([("a", torch.ones(2))])
    False
    """
    total = blake2b(text.encode(), digest_size=16)
    for name, tensor in named:
        total.update(f"|{name}:{tensor.dtype}:{tuple(tensor.shape)}|".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()
