"""What every room does with a model: calling it, its modes, its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.checks import in_one_line
from secateur.switches import defaults_put_back
from secateur.trees import copied_with, leaves_within, look_into, tensors_within
from secateur.types import ExampleInputs, InputError, SecateurError, brief
from secateur.untouched import ParameterWrites, untouched

__all__ = [
    "all_finite",
    "arguments_of",
    "called",
    "called_in_place",
    "check_finite",
    "check_ordinary",
    "device_of",
    "digest",
    "evaluating",
    "first_names",
    "fresh",
    "modes_kept",
    "ordinary",
    "own_tensors",
    "resting",
    "restore",
    "snapshot",
    "split_inputs",
    "tensors",
    "threads",
]

UNCHANGED = (SecateurError, MemoryError, torch.OutOfMemoryError)
"""Errors of a forward pass that say what is wrong themselves."""


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
    look_into(example_inputs)
    args, kwargs = _apart(*arguments_of(example_inputs))
    input_tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    if not input_tensors:
        raise InputError(
            "example_inputs hold no tensor; pass a batch that the model takes, such as torch.zeros(1, 3, 224, 224)"
        )
    if any(x.is_nested for x in input_tensors):  # of a submodule's call too, of which no caller was asked
        raise InputError("example_inputs hold nested tensors; pad them, as by torch.nested.to_padded_tensor(x, 0.0)")
    if any(x.numel() == 0 for x in input_tensors):
        raise InputError(
            f"example_inputs hold an empty tensor (shapes {[tuple(x.shape) for x in input_tensors]}); "
            "give at least one sample"
        )
    if any(bool(torch.isnan(x).any()) for x in input_tensors if not x.is_meta):
        raise InputError("example_inputs hold NaN, which verifies nothing; give a real sample, or noise")
    return args, kwargs


def _apart(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs with a copy where one is given twice: a trace would take the two for one, whatever others are given."""
    leaves, form = pytree.tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if len({id(x) for x in tensors}) == len(tensors):
        return args, kwargs
    first = {id(x): number for number, x in reversed(list(enumerate(leaves)))}
    apart = [x.clone() if isinstance(x, Tensor) and first[id(x)] != number else x for number, x in enumerate(leaves)]
    separate: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_unflatten(apart, form)
    return separate


def fresh(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the same inputs in containers, objects and tensors of their own, which a forward pass may fill and write into.

    Modules among them stay the same, and so does what cannot be copied and holds no tensor.

    Raises:
        InputError: an input that holds tensors cannot be copied.

    >>> x, cache = torch.zeros(1), []
    >>> (copy, filled), _ = fresh((x, cache), {})
    >>> filled.append(copy.add_(1))
    >>> x, cache
    (tensor([0.]), [])
    """
    inputs = (args, dict(kwargs))
    by_id: dict[int, Any] = {id(module): module for module in leaves_within(inputs, nn.Module)}
    for x in tensors_within(inputs):
        by_id.setdefault(id(x), x.detach().clone().requires_grad_(x.requires_grad))
    try:
        copies: tuple[tuple[Any, ...], dict[str, Any]] = copied_with(inputs, by_id)
    except Exception as error:
        raise InputError(_uncopied(inputs, by_id, error)) from error
    return copies


def _uncopied(inputs: tuple[tuple[Any, ...], dict[str, Any]], by_id: Mapping[int, Any], error: Exception) -> str:
    """What to say of inputs that cannot be copied."""
    for place, value in (*enumerate(inputs[0]), *inputs[1].items()):
        try:
            copied_with(value, by_id)
        except Exception:  # noqa: BLE001  (copying runs the code of any class)
            return (
                f"example_inputs[{place!r}], a {type(value).__name__}, holds tensors and cannot be copied ({in_one_line(error)}), "
                "so that running the model could change it; give its class a __deepcopy__"
            )
    return f"example_inputs cannot be copied: {in_one_line(error)}"


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
        if isinstance(error, NotImplementedError) and (operator := HIGHER_ORDER.search(str(error))):
            raise InputError(_higher_order(model, operator[1])) from error
        leaves = pytree.tree_leaves((args, dict(kwargs)))
        shapes = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else brief(x) for x in leaves)
        raise InputError(
            f"the model's forward pass failed on the example inputs {shapes}: {in_one_line(error)}. "
            "Pass inputs that the model takes."
        ) from error


HIGHER_ORDER = re.compile(r"HigherOrderOperator (\w+) and mode")
INSTEAD = {"cond": "torch.where", "flex_attention": "torch.nn.functional.scaled_dot_product_attention"}


def _higher_order(model: nn.Module, operator: str) -> str:
    instead = f"call {INSTEAD[operator]} in its place" if operator in INSTEAD else "write out what it does"
    return (
        f"the forward pass of {type(model).__name__} calls torch's higher-order operator {operator!r}, which runs functions that "
        f"nobody can follow from outside; {instead}, or give the parts of the model that do not call it, one by one"
    )


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
    with defaults_put_back(), untouched(model):
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
