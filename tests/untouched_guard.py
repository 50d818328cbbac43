"""After every call of the public face, the models that it was given are bit-equal to what they were.

`install` puts a watch around each public function and around the methods of each public class, wherever a module of
secateur holds them. The outermost call alone is watched: it is the one that a user makes.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

ROOMS = (
    *(
        "",
        ".activations",
        ".allocate",
        ".criteria",
        ".measure",
        ".pruning",
        ".repair",
        ".result",
        ".saving",
        ".schedules",
        ".search",
    ),
    *(
        ".selection",
        ".solvers",
        ".structure",
        ".structure.cutting",
        ".structure.flow",
        ".train",
        ".rate",
        ".transforms",
    ),
    ".rate.masks",
)
# What trains or loads weights is meant to change the model; of `distill`, the teacher stays as it is.
CHANGES = {
    "fit": ("model",),
    "fit_replicas": ("models",),
    "distill": ("model",),
    "recover": ("model",),
    "load_weights": ("model",),
    "train_held": ("model",),
}
EXEMPT = {
    *(
        "ActivationPenalty",
        "Callback",
        "Distillation",
        "Distortion",
        "GroupLasso",
        "HoldShared",
        "HoldZeros",
        "LogEpochs",
    ),
    *(
        "GradualMagnitude",
        "Recovery",
        "Reinitialise",
        "RewindRate",
        "RigL",
        "Run",
        "SparseEvolution",
        "SumMovement",
        "TrainCycle",
    ),
    *("HoldShared", "TrainSparse", "TrainTicket", "TrainingMasks", "WeightPenalty"),
}
SMALL = 2**16

_state = threading.local()


class Touched(AssertionError):
    """A public function changed a model that it was given."""


@dataclass
class Seen:
    """A tensor with all that must stay."""

    tensor: Tensor
    numbers: Any
    requires_grad: bool
    grad: Tensor | None
    grad_numbers: Any
    pointer: int


class Fingerprint:
    """All of a model that a call could change."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.attributes = {path: dict(vars(module)) for path, module in self.modules.items()}
        self.inside = {
            (path, name): _entries(value) for path, held in self.attributes.items() for name, value in held.items()
        }
        self.tensors = {name: _seen(tensor) for name, tensor in _tensors(model)}

    def differences(self) -> Iterator[str]:
        """Say what is not as it was."""
        now = dict(self.model.named_modules(remove_duplicate=False))
        if list(now) != list(self.modules) or any(now[path] is not m for path, m in self.modules.items()):
            yield "the submodules"
            return
        for path, module in self.modules.items():
            before, after = self.attributes[path], dict(vars(module))
            for name in before.keys() | after.keys():
                label = f"{path}.{name}" if path else name
                if name not in before or name not in after:
                    yield f"attribute {label} {'came' if name in after else 'went'}"
                elif before[name] is not after[name] and not _plain_equal(before[name], after[name]):
                    yield f"attribute {label}"
                elif _entries(after[name]) != self.inside[path, name]:
                    yield f"what is in {label}"
        tensors = dict(_tensors(self.model))
        for name, seen in self.tensors.items():
            if tensors.get(name) is not seen.tensor:
                yield f"{name} is another tensor"
            else:
                yield from (f"{what} of {name}" for what in _changes(seen))


def _plain_equal(a: object, b: object) -> bool:
    return isinstance(a, (bool, int, float, str)) and type(a) is type(b) and a == b


def _entries(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [(key, id(inner)) for key, inner in value.items()]
    return [id(inner) for inner in value] if isinstance(value, (list, tuple, set)) else None


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"{path}.{name}", value


def _seen(tensor: Tensor) -> Seen:
    grad = tensor.grad if tensor.is_leaf else None
    pointer = tensor.data_ptr() if _dense(tensor) else 0
    return Seen(tensor, _numbers(tensor), tensor.requires_grad, grad, None if grad is None else _numbers(grad), pointer)


def _dense(tensor: Tensor) -> bool:
    made = not isinstance(tensor, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer))
    return made and tensor.layout == torch.strided and tensor.device.type != "meta"


def _numbers(tensor: Tensor) -> Any:
    """The numbers of a small tensor; the sums of the bits of a large one, whole and by place."""
    if not _dense(tensor):
        return None
    flat = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)
    if len(flat) <= SMALL or len(flat) % 8:
        return flat.clone()
    words = flat.view(torch.int64)
    return torch.stack([words.sum(), words[::2].sum(), words[::7].sum(), words[: len(words) // 3].sum()])


def _changes(seen: Seen) -> Iterator[str]:
    now = _seen(seen.tensor)
    if not _equal(now.numbers, seen.numbers):
        yield "the numbers"
    if now.pointer != seen.pointer:
        yield "the memory"
    if now.requires_grad != seen.requires_grad:
        yield "requires_grad"
    if now.grad is not seen.grad or not _equal(now.grad_numbers, seen.grad_numbers):
        yield "the gradient"


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and a.shape == b.shape and bool((a == b).all()))


def watched(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with a look at the models that it is given, before and after; in a failed call, too."""
    names = list(inspect.signature(function).parameters)
    # An object that is being made has nothing to look into yet.
    free = ("self",) if function.__name__ == "__init__" else CHANGES.get(function.__name__, ())
    state, fingerprint, models_in, touched = _state, Fingerprint, _models, Touched

    def run(*args: Any, **kwargs: Any) -> Any:
        given = [v for n, v in (*zip(names, args, strict=False), *kwargs.items()) if n not in free] + [
            *args[len(names) :]
        ]
        models = [] if getattr(state, "inside", False) else models_in(given)
        if not models:
            return function(*args, **kwargs)
        before, state.inside = [fingerprint(model) for model in models], True
        try:
            return function(*args, **kwargs)
        finally:
            state.inside = False
            for one in before:
                changed = list(one.differences())
                if changed:
                    raise touched(f"{function.__qualname__} changed the model that it was given: {', '.join(changed)}")

    # With the globals of what is watched, as doctest takes no function of another module for a module's own.
    made = FunctionType(run.__code__, function.__globals__, function.__name__, closure=run.__closure__)
    result = functools.wraps(function)(made)
    result.watched = True  # type: ignore[attr-defined]
    return result


def _models(given: list[Any]) -> list[nn.Module]:
    """The modules among the arguments, in mappings and sequences of them, and held by objects of secateur's own."""
    models: dict[int, nn.Module] = {}
    for value in given:
        if isinstance(value, Mapping):
            inner = list(value.values())
        elif isinstance(value, (list, tuple)):
            inner = list(value)
        elif type(value).__module__.startswith("secateur.") and not isinstance(value, nn.Module):
            inner = list(getattr(value, "__dict__", {}).values())
            inner += list(getattr(getattr(value, "space", None), "__dict__", {}).values())
        else:
            inner = [value]
        models |= {id(one): one for one in inner if isinstance(one, nn.Module)}
    return list(models.values())


def install() -> list[str]:
    """Watch the public face, and return the names of what is watched."""
    for room in ROOMS:
        importlib.import_module(f"secateur{room}")
    public: dict[int, Any] = {}
    for room in ROOMS:
        module = sys.modules[f"secateur{room}"]
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if name not in EXEMPT and getattr(value, "__module__", "").startswith("secateur."):
                public[id(value)] = value
    functions = {id(f): watched(f) for f in public.values() if isinstance(f, FunctionType)}
    for module in [m for n, m in sys.modules.items() if n == "secateur" or n.startswith("secateur.")]:
        for name, value in list(vars(module).items()):
            if id(value) in functions:
                setattr(module, name, functions[id(value)])
    classes = [c for c in public.values() if inspect.isclass(c) and not issubclass(c, (nn.Module, Exception))]
    watched_methods = [f"{c.__qualname__}.{name}" for c in classes for name in _watch_class(c)]
    return sorted([f.__name__ for f in functions.values()] + watched_methods)


def _watch_class(kind: type) -> Iterator[str]:
    if getattr(kind, "_is_protocol", False):
        return
    for owner in [c for c in kind.__mro__ if c.__module__.startswith("secateur.")]:
        for name, value in list(vars(owner).items()):
            plain = isinstance(value, FunctionType) and not hasattr(value, "watched")
            if plain and (not name.startswith("_") or name in ("__call__", "__init__")):
                setattr(owner, name, watched(value))
                yield name
