"""A model is left as it is: run with other tensors, or run and put back as it was."""

from __future__ import annotations

import random
import sys
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.types import InputError

__all__ = [
    "ParameterWrites",
    "random_kept",
    "replaced",
    "run_with",
    "untouched",
    "writes_refused",
    "writes_undone",
]

DEPTH = 5
"""How deep containers and objects on a module are looked into: an attribute, its object, its lists, their entries."""

PLAIN = {str, bytes, int, float, complex, bool, type(None), type, ModuleType, FunctionType, MethodType}
PLAIN |= {BuiltinFunctionType, torch.dtype, torch.device, torch.Size}
"""Types of values that hold nothing that a forward pass could move."""


UNMADE = (UninitializedBuffer, UninitializedParameter)


@contextmanager
def replaced(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the model hold other tensors in place of its own, wherever it holds those; nothing is written into its own.

    Unlike `torch.func.functional_call`, it goes by the tensors themselves: a module under two names, or a tensor that
    two modules share, is replaced once under all its names, and put back whole.

    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False))
    >>> weight = model[0].weight
    >>> with replaced(model, {"0.weight": torch.tensor([[3.0]])}):
    ...     model(torch.ones(1, 1)).item()
    3.0
    >>> model[0].weight is weight
    True
    """
    new = {id(_tensor(model, name)): tensor for name, tensor in tensors.items()}
    holders: list[dict[str, Any]] = [h for m in model.modules() for h in (m._parameters, m._buffers)]
    slots = [(holder, key, original) for holder in holders for key, original in holder.items() if id(original) in new]
    try:
        for holder, key, original in slots:
            holder[key] = new[id(original)]
        yield
    finally:
        for holder, key, original in slots:
            holder[key] = original


def _tensor(model: nn.Module, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    for holder in (module._parameters, module._buffers):
        tensor = holder.get(attribute)
        if tensor is not None:
            return tensor
    raise InputError(f"the model has no parameter or buffer {name!r}")


def run_with(
    model: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> Any:
    """Return what the model computes with other tensors in place of its own; see `replaced`.

    Its buffers are copies, so that what it writes into them, and the graph of derivatives of that, goes with the call.
    """
    with replaced(model, {**{name: buffer.clone() for name, buffer in model.named_buffers()}, **tensors}):
        return model(*args, **(kwargs or {}))


@contextmanager
def random_kept(device: torch.device | None = None) -> Iterator[None]:
    """Put back the state of the global random numbers: Python's, numpy's, torch's on the CPU and on `device`.

    Where other threads are at work nothing is put back, as they would draw the same numbers twice: `private_draws` is for
    what draws there. (Threads that do not outlive the program, as those that watch or draw bars, do not count.)
    """
    numpy = sys.modules.get("numpy")
    states = random.getstate(), torch.get_rng_state(), numpy.random.get_state() if numpy else None
    cuda = device if device is not None and device.type == "cuda" else None
    on_device = torch.cuda.get_rng_state(cuda) if cuda else None
    try:
        yield
    finally:
        if not any(thread is not threading.current_thread() for thread in threading.enumerate() if not thread.daemon):
            random.setstate(states[0])
            torch.set_rng_state(states[1])
            if numpy:
                numpy.random.set_state(states[2])
            if cuda and on_device is not None:
                torch.cuda.set_rng_state(on_device, cuda)


@contextmanager
def untouched(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Put back all that a forward pass may move in a model: everything but numbers written into parameters.

    Buffers (the tensors themselves and their values), attributes, caches in lists and dictionaries, modes, hooks,
    parameters that were assigned anew, `requires_grad`, `.grad`, generators, and the global random numbers. Only buffers
    and other small tensors are copied, so it costs little however many parameters there are.

    Yields:
        What puts it back at once, but for the random numbers, to run the model anew.

    >>> norm = nn.BatchNorm1d(1)
    >>> with untouched(norm):
    ...     _ = norm(torch.tensor([[1.0], [3.0]]))
    ...     norm.running_mean.item()
    0.2...
    >>> norm.running_mean.item(), norm.num_batches_tracked.item()
    (0.0, 0)
    """
    device = next((p.device for p in model.parameters()), None)
    with random_kept(device):
        state = _State(model)
        try:
            yield state.put_back
        finally:
            state.put_back()


class _State:
    """What the modules of a model hold, as it was when this was made."""

    def __init__(self, model: nn.Module) -> None:
        self.visited: dict[int, Any] = {}  # held, as an id is an object's own only while it lives
        self.containers: list[tuple[Any, Any]] = []
        self.empty_tables: list[OrderedDict[Any, Any]] = []  # of hooks, which are most of what modules hold
        self.tensors: list[_TensorState] = []
        self.generators: list[tuple[Any, Any]] = []
        for module in model.modules():
            self._look(module, 0)

    def _look(self, value: Any, depth: int) -> None:
        kind = type(value)
        if kind in PLAIN or id(value) in self.visited or depth > DEPTH:
            return
        self.visited[id(value)] = value
        if kind in (dict, OrderedDict, defaultdict):
            self._hold(value, dict(value), value.values(), depth)
        elif kind in (list, deque, set):
            self._hold(value, list(value), value, depth)
        elif isinstance(value, Tensor):
            if not isinstance(value, UNMADE):
                self.tensors.append(_TensorState.of(value))
        elif isinstance(value, (torch.Generator, random.Random)):
            self.generators.append((value, _generator_state(value)))
        elif isinstance(value, tuple):
            self._hold(None, None, value, depth)
        elif type(getattr(value, "__dict__", None)) is dict and not isinstance(value, type):
            attributes = value.__dict__
            # A module is looked into wherever it hangs, however deep the object that holds it.
            self._hold(attributes, dict(attributes), attributes.values(), 0 if isinstance(value, nn.Module) else depth)

    def _hold(self, container: Any, before: Any, values: Iterable[Any], depth: int) -> None:
        if container is not None:
            self.containers.append((container, before))
        for value in values:
            if type(value) is OrderedDict and not value:
                self.empty_tables.append(value)
            elif type(value) not in PLAIN:
                self._look(value, depth + 1)

    def put_back(self) -> None:
        """Make everything as it was."""
        for table in filter(None, self.empty_tables):
            table.clear()
        for container, before in self.containers:
            _refill(container, before)
        for tensor in self.tensors:
            tensor.put_back()
        for generator, state in self.generators:
            generator.setstate(state) if isinstance(generator, random.Random) else generator.set_state(state)


def _generator_state(generator: Any) -> Any:
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _refill(container: Any, before: Any) -> None:
    """Give a container the entries that it had, by identity; one that has them is not written to."""
    if isinstance(container, dict):
        for key in [key for key in container if key not in before]:
            del container[key]
        for key, value in before.items():
            if key not in container or container[key] is not value:
                container[key] = value
    elif len(container) != len(before) or any(a is not b for a, b in zip(container, before, strict=True)):
        container.clear()
        container.update(before) if isinstance(container, set) else container.extend(before)


@dataclass(frozen=True, eq=False)
class _TensorState:
    """A tensor as it was: its memory, and a copy of its numbers unless it is a parameter."""

    tensor: Tensor
    alias: Tensor
    numbers: Tensor | None
    leaf: bool
    requires_grad: bool
    grad: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor) -> _TensorState:
        plain = tensor.layout == torch.strided and tensor.device.type != "meta" and type(tensor) is Tensor
        numbers = tensor.detach().clone() if plain else None
        grad = tensor.grad if tensor.is_leaf else None
        return cls(tensor, tensor.data, numbers, tensor.is_leaf, tensor.requires_grad, grad)

    def put_back(self) -> None:
        tensor, alias = self.tensor, self.alias
        if self.leaf and not tensor.is_leaf:
            tensor.detach_()  # an op in place, with gradients, has hung it on a graph
        moved = tensor.layout == torch.strided and tensor.data_ptr() != alias.data_ptr()
        if moved or tensor.shape != alias.shape or tensor.dtype != alias.dtype:
            tensor.data = alias
        # Written through `.data`, so that a graph that was built before does not take it for a change.
        if self.numbers is not None and not torch.equal(tensor.data, self.numbers):
            with torch.inference_mode(tensor.is_inference()):
                tensor.data.copy_(self.numbers)
        if tensor.is_leaf:
            if tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
            if tensor.grad is not self.grad:
                tensor.grad = self.grad


class ParameterWrites(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees what is written into a model's parameters in place, and puts the numbers back.

    >>> layer = nn.Linear(1, 1)
    >>> with ParameterWrites(layer) as writes, torch.no_grad():
    ...     _ = layer.bias.data.clamp_(5, 6)
    ...     print(writes.names)
    ['bias']
    """

    def __init__(self, model: nn.Module, note: Callable[..., None] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.note = note
        named = ((n, p) for n, p in model.named_parameters() if not isinstance(p, UNMADE))
        self._at = {p.untyped_storage()._cdata: (n, p.detach()) for n, p in named if p.layout == torch.strided}
        self._before: list[tuple[Tensor, Tensor]] = []
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Copy a parameter before the first op that writes into it."""
        for written in _written(func, args, kwargs or {}):
            hit = self._at.pop(written.untyped_storage()._cdata, None) if written.layout == torch.strided else None
            if hit is not None:
                name, parameter = hit
                self.names.append(name)
                self._before.append((parameter, parameter.clone()))
        result = func(*args, **(kwargs or {}))
        if self.note is not None:
            self.note(func, args, kwargs or {}, result)
        return result

    def put_back(self) -> None:
        """Write the old numbers into the parameters that were written to."""
        for parameter, before in self._before:
            parameter.data.copy_(before)


@contextmanager
def writes_undone(model: nn.Module, note: Callable[..., None] | None = None) -> Iterator[ParameterWrites]:
    """Put back what is written into a model's parameters in place; every op is looked at.

    >>> layer = nn.Linear(1, 1)
    >>> with writes_undone(layer), torch.no_grad():
    ...     layer.weight.fill_(5).item()
    5.0
    >>> layer.weight.item() == 5
    False
    """
    writes = ParameterWrites(model, note)
    try:
        with writes:
            yield writes
    finally:
        writes.put_back()


@contextmanager
def writes_refused(model: nn.Module, note: Callable[..., None] | None = None) -> Iterator[None]:
    """Refuse a forward pass that writes into the model's parameters, and put their numbers back.

    Every op is looked at, so it takes longer than `untouched`; one pass shows what a model does.

    Args:
        model: the model.
        note: is told of every op, what it is given by position and by name, and what it answers.
    """
    with writes_undone(model, note) as writes:
        yield
    if writes.names:
        raise InputError(
            f"the model's forward pass writes into its parameter {writes.names[0]!r}, so running it would change the "
            "model; compute with a changed copy (weight = self.weight.clamp(-1, 1)), or keep the tensor in a buffer; where it "
            "does so on its first call alone, call it once before"
        )


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    into = [args[place] if place < len(args) else kwargs.get(name) for place, name in _written_places(func)]
    return [leaf for leaf in pytree.tree_leaves(into) if isinstance(leaf, Tensor)] if into else []


@cache
def _written_places(func: Any) -> tuple[tuple[int, str], ...]:
    """Which arguments an op writes into: their places and names."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return ()
    arguments = enumerate(schema.arguments)
    return tuple((place, a.name) for place, a in arguments if a.alias_info is not None and a.alias_info.is_write)
