"""What every room does with a model: calling it, its modes, its tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from hashlib import blake2b
from inspect import signature
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.checks import in_one_line, wrong_value
from secateur.hints import explain
from secateur.types import ExampleInputs, InputError, SecateurError, brief
from secateur.untouched import UNMADE, ParameterWrites, untouched
from secateur.wrappers import COMPILED, DISTRIBUTED, unwrapped

__all__ = [
    "all_finite",
    "arguments_of",
    "as_usual",
    "called",
    "called_in_place",
    "check_finite",
    "check_ordinary",
    "check_usable",
    "device_of",
    "digest",
    "evaluating",
    "first_names",
    "fresh",
    "looking",
    "modes_kept",
    "ordinary",
    "own_tensors",
    "resting",
    "restore",
    "running",
    "shaping",
    "snapshot",
    "split_inputs",
    "tensors",
    "threads",
    "training",
    "usual",
]

UNCHANGED = (SecateurError, MemoryError, torch.OutOfMemoryError)
"""Errors of a forward pass that say what is wrong themselves."""

P = ParamSpec("P")
R = TypeVar("R")


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer of the model by every name it has: the tensors themselves."""
    return {
        **dict(model.named_buffers(remove_duplicate=False)),
        **dict(model.named_parameters(remove_duplicate=False)),
    }


def first_names(model: nn.Module) -> dict[int, str]:
    """Return the first name of every parameter and buffer by its identity: the one that stands for all that it has."""
    return {id(tensor): name for name, tensor in reversed(own_tensors(model).items())}


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


def check_ordinary(model: nn.Module, doing: str) -> None:
    """Refuse a model of which a tensor was made under `torch.inference_mode`: autograd does not take it, ever."""
    for name, tensor in tensors(model).items():
        if tensor.is_inference():
            raise InputError(
                f"{doing}: {name} of the model was made under torch.inference_mode, so nothing can be derived by it or "
                "trained; build and load the model outside of that mode (calling secateur inside of it does no harm)"
            )


def check_finite(model: nn.Module, when: str, remedy: str) -> None:
    """Raise an InputError that names the first tensor of the model that holds NaN or infinite values.

    Buffers may hold infinities, as attention masks and limits do.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in tensors(model).items():
        if all_finite(tensor):
            continue
        wrong = ~torch.isfinite(tensor) if name in parameters else torch.isnan(tensor)
        if bool(wrong.any()):
            bad = int(wrong.sum())
            raise InputError(f"{when}: {name} of the model holds {bad} NaN or infinite values; {remedy}")


def all_finite(tensor: Tensor) -> bool:
    """Return whether there is no NaN and no infinity among the values; on the meta device there are none at all.

    >>> all_finite(torch.tensor([1e38, 3e38])), all_finite(torch.tensor([float("inf")]))
    (True, False)
    """
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # A sum is finite unless a term is not, or it overflows; only then is each entry looked at.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def split_inputs(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return example inputs as positional and keyword arguments.

    Raises:
        InputError: they are no tensor, tuple or mapping, hold no tensor, or hold an empty one.

    >>> split_inputs(torch.zeros(1)), split_inputs({"x": torch.zeros(1)})
    (((tensor([0.]),), {}), ((), {'x': tensor([0.])}))
    """
    args, kwargs = arguments_of(example_inputs)
    input_tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    if not input_tensors:
        raise InputError(
            "example_inputs hold no tensor; pass a batch that the model takes, such as torch.zeros(1, 3, 224, 224)"
        )
    if any(x.numel() == 0 for x in input_tensors):
        raise InputError(
            f"example_inputs hold an empty tensor (shapes {[tuple(x.shape) for x in input_tensors]}); "
            "give at least one sample"
        )
    if any(bool(torch.isnan(x).any()) for x in input_tensors if not x.is_meta):
        raise InputError("example_inputs hold NaN, which verifies nothing; give a real sample, or noise")
    return args, kwargs


def fresh(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the same inputs in containers and tensors of their own, which a forward pass may fill and write into.

    >>> x = torch.zeros(1)
    >>> (copy,), _ = fresh((x,), {})
    >>> _ = copy.add_(1)
    >>> x
    tensor([0.])
    """
    copies: dict[int, Tensor] = {}

    def copied(x: Tensor) -> Tensor:
        return copies.setdefault(id(x), x.detach().clone().requires_grad_(x.requires_grad))

    inputs: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(Tensor, copied, (args, dict(kwargs)))
    return inputs


def called(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what a model answers to example inputs, which it gets in copies.

    Raises:
        InputError: it raises something, which is then the cause: it does not take them.

    >>> called(nn.Linear(2, 1), (torch.zeros(1, 3),), {})
    Traceback (most recent call last):
    secateur.types.InputError: the model's forward pass failed on the example inputs (1, 3): RuntimeError: ...mat1 \
and mat2 shapes cannot be multiplied (1x3 and 2x1). Pass inputs that the model takes.
    """
    return called_in_place(model, *fresh(args, kwargs))


def called_in_place(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what a model answers to these very inputs, into which it may write; else as `called`."""
    try:
        return model(*args, **kwargs)
    except UNCHANGED:
        raise
    except Exception as error:
        leaves = pytree.tree_leaves((args, dict(kwargs)))
        shapes = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else brief(x) for x in leaves)
        raise InputError(
            f"the model's forward pass failed on the example inputs {shapes}: {in_one_line(error)}. "
            "Pass inputs that the model takes."
        ) from error


def arguments_of(inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what `split_inputs` does, without a look at the values: for inputs that were looked at before.

    >>> arguments_of({"x": torch.zeros(1)})
    ((), {'x': tensor([0.])})
    """
    if isinstance(inputs, Tensor):
        return (ordinary(inputs),), {}
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(inputs, Mapping):
        kwargs = {str(name): value for name, value in inputs.items()}
    elif isinstance(inputs, tuple):
        args = inputs
    else:
        raise InputError(
            f"example_inputs is a {type(inputs).__name__}; "
            "give a tensor, a tuple of positional inputs, or a dict of keyword inputs"
        )
    ordinary_inputs: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(Tensor, ordinary, (args, kwargs))
    return ordinary_inputs


def check_usable(tensor: Tensor, doing: str, name: str) -> None:
    """Refuse a tensor with which hardly any op of torch can do anything.

    >>> check_usable(torch.zeros(2, device="meta"), "evaluate", "inputs")
    Traceback (most recent call last):
    ...
    secateur.types.InputError: evaluate: inputs on the meta device hold no values; load them first
    """
    if tensor.is_meta:
        raise InputError(f"{doing}: {name} on the meta device hold no values; load them first")
    if tensor.is_nested or tensor.layout is not torch.strided:
        layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
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


def ordinary(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy of one that was made under `torch.inference_mode`, which autograd does not take.

    >>> with torch.inference_mode():
    ...     inferred = torch.zeros(2)
    >>> ordinary(inferred).is_inference()
    False
    """
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


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
    """Put the model in evaluation mode, without gradients, and leave it as it was: see `resting`."""
    with resting(model), torch.no_grad():
        yield


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, and leave it as it was: see `untouched`.

    Modules that keep tables for evaluation drop them when they are put in training mode, so that is done on the way in:
    a table made from other weights must not be used. Changing modes may itself write into parameters, as where adapters
    are merged into weights.
    """
    writes = ParameterWrites(model)
    with untouched(model):
        try:
            with writes, torch.no_grad():
                model.train()
                model.eval()
            yield
        finally:
            with torch.no_grad():
                writes.put_back()


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
        if tensor.numel():  # the strides of an empty one forbid a view
            # A copy, as a tensor of one number that was expanded cannot be seen as bytes.
            flat = tensor.detach().cpu().clone(memory_format=torch.contiguous_format).reshape(-1)
            total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()


_WITHIN: ContextVar[bool] = ContextVar("within a call of the library", default=False)

AUTOCAST = ("cpu", "cuda", "mps", "xpu")
"""The kinds of device that have an autocast."""


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
