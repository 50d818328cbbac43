"""The surroundings of a call of the public face: as if nothing were set around it, on the model within its wrappers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from types import FunctionType
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn

from secateur.checks import wrong_value
from secateur.hints import explain
from secateur.state import own_tensors, tensors
from secateur.switches import AUTOCAST, defaults_put_back
from secateur.types import InputError, SecateurError
from secateur.untouched import UNMADE
from secateur.wrappers import COMPILED, DISTRIBUTED, unwrapped

__all__ = ["as_usual", "check_usable", "looking", "running", "shaping", "training", "usual"]

P = ParamSpec("P")
R = TypeVar("R")
_WITHIN: ContextVar[bool] = ContextVar("within a call of the library", default=False)


def check_usable(tensor: Tensor, doing: str, name: str) -> None:
    """Refuse a tensor with which hardly any op of torch can do anything.

    >>> check_usable(torch.zeros(2, device="meta"), "evaluate", "inputs")
    Traceback (most recent call last):
    ...
    secateur.types.InputError: evaluate: inputs on the meta device hold no values; load them first
    """
    if tensor.is_meta:
        raise InputError(f"{doing}: {name} on the meta device hold no values; load them first")
    if tensor.is_nested:
        raise InputError(f"{doing}: {name} are nested tensors; pad them, as by torch.nested.to_padded_tensor(x, 0.0)")
    if tensor.layout is not torch.strided:
        layout = str(tensor.layout).removeprefix("torch.")
        raise InputError(f"{doing}: {name} are {layout} tensors; make them dense, as by .to_dense()")
    if tensor.is_quantized or (tensor.is_floating_point() and tensor.dtype.itemsize < 2):
        raise InputError(f"{doing}: {name} are {tensor.dtype}, in which torch computes little; make them float32 first")


def _check_arguments(doing: str, arguments: Iterable[object], meta: bool = False) -> None:
    """Refuse models and example inputs of a call that cannot be computed with; `meta` says whether all may be without values."""
    named = [
        (name, tensor)
        for argument in {id(argument): argument for argument in arguments}.values()
        for name, tensor in _tensors_of(argument)
    ]
    if meta and all(tensor.is_meta for _, tensor in named):
        return
    for name, tensor in named:
        check_usable(tensor, doing, name)


def _tensors_of(argument: object) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model, or of example inputs, in words."""
    if isinstance(argument, nn.Module):
        for name, tensor in own_tensors(argument).items():
            if not isinstance(tensor, UNMADE):
                yield f"the values of {name} of the model", tensor
    parts = list(argument.values()) if isinstance(argument, Mapping) else argument
    for part in parts if isinstance(parts, (tuple, list)) else (parts,):
        if isinstance(part, Tensor):
            yield "the tensors given", part


@contextmanager
def as_usual(model: object = None, doing: str = "secateur", computes: bool = True) -> Iterator[None]:
    """Work as if nothing were set around the call.

    Inference mode and autocast are off, gradients are on where the outermost call begins, and what is made without a
    word about it is float32 on the CPU. A float64 model keeps a default dtype of float64, which its forward pass may
    count on, and which makes nothing less exact.

    >>> with torch.inference_mode(), as_usual():
    ...     torch.is_grad_enabled(), torch.ones(1).is_inference()
    (True, False)
    """
    with ExitStack() as stack:
        stack.enter_context(defaults_put_back())
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not _WITHIN.get():
            if computes:
                _check_arguments(doing, (model,))
            stack.callback(_WITHIN.reset, _WITHIN.set(True))
            stack.enter_context(torch.enable_grad())
        for device in AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        default = torch.get_default_dtype()
        if default is not torch.float32 and not (default is torch.float64 and _is_double(model)):
            stack.callback(torch.set_default_dtype, default)
            torch.set_default_dtype(torch.float32)
        yield


def _is_double(model: object) -> bool:
    if not isinstance(model, nn.Module):
        return False
    floating = (tensor.dtype for tensor in tensors(model).values() if tensor.is_floating_point())
    return next(floating, None) is torch.float64


def _model_among(arguments: Iterable[object]) -> object:
    """The first module among the arguments, or what one of them holds as its model."""
    for argument in arguments:
        if isinstance(argument, nn.Module):
            return argument
        if isinstance(inner_model := getattr(argument, "model", None), nn.Module):
            return inner_model
    return None


def usual(
    function: Callable[P, R], computes: bool = True, meta: bool = False, keeping: Collection[str] = ()
) -> Callable[P, R]:
    """Run a function of the public face `as_usual`, whatever it is called within, on the model that wrappers stand around.

    Args:
        function: the function.
        computes: whether tensors that cannot be computed with are refused.
        meta: whether tensors on the meta device, which have shapes and no values, are not.
        keeping: the wrappers that the function is given with what they stand around (see `unwrapped`).

    >>> @usual
    ... def blank():
    ...     return torch.zeros(1)
    >>> with torch.inference_mode():
    ...     blank().is_inference()
    False
    """
    context, model_among, within, check, doing = as_usual, _model_among, _WITHIN, _check_arguments, function.__name__
    ours, explain_call, unwrap, refused = SecateurError, explain, unwrapped, wrong_value
    # What works by chance, as every text stands for True, no failure would tell.
    flags = [name for name, option in signature(function).parameters.items() if option.annotation in (bool, "bool")]

    def run(*wrapped_args: P.args, **wrapped_kwargs: P.kwargs) -> R:
        args = tuple(unwrap(argument, keeping) for argument in wrapped_args)
        kwargs = {name: unwrap(argument, keeping) for name, argument in wrapped_kwargs.items()}
        arguments = (*args, *kwargs.values())
        model = model_among(arguments)
        for flag in flags:
            if not isinstance(kwargs.get(flag, True), bool):
                raise refused(doing, flag, kwargs[flag], "True or False")
        if computes and not within.get():
            check(doing, (*arguments, model), meta)
        try:
            with context(model, doing, computes=False):  # it was looked at with the other arguments
                return function(*args, **kwargs)
        except ours:
            raise
        except Exception:
            if not within.get():
                explain_call(function, args, kwargs)
            raise

    # With the names of what is wrapped, as doctest takes no function of another module for a module's own.
    names = function.__globals__
    wrapper = FunctionType(run.__code__, names, function.__name__, closure=run.__closure__)
    wrapper.__dict__["usual"] = True
    return cast(Callable[P, R], wraps(function)(wrapper))


def running(function: Callable[P, R]) -> Callable[P, R]:
    """As `usual`, for a function that runs the model, and takes one of `torch.compile` as it is."""
    return usual(function, keeping=(COMPILED,))


def training(function: Callable[P, R]) -> Callable[P, R]:
    """As `usual`, for a function that trains, which one process of several may not do by itself.

    >>> @training
    ... def of(model):
    ...     return type(model).__name__
    >>> of(nn.DataParallel(nn.ReLU()))
    'ReLU'
    """
    return usual(function, keeping=(DISTRIBUTED,))


def shaping(function: Callable[P, R]) -> Callable[P, R]:
    """As `usual`, for a function whose outcome follows from shapes: tensors on the meta device will do.

    >>> @shaping
    ... def outputs(layer, x):
    ...     return layer(x).shape
    >>> outputs(nn.Linear(2, 1, device="meta"), torch.zeros(3, 2, device="meta"))
    torch.Size([3, 1])
    """
    return usual(function, meta=True)


def looking(function: Callable[P, R]) -> Callable[P, R]:
    """As `usual`, for a function that only looks at tensors, not at their values: those of every kind will do.

    >>> @looking
    ... def entries(module):
    ...     return sum(p.numel() for p in module.parameters())
    >>> entries(nn.Linear(2, 1, device="meta"))
    3
    """
    return usual(function, computes=False)
