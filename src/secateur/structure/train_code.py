"""Code that train mode alone runs: whether a model has any, and how it is run there so that two runs can be compared.

Torch's own layers stay in eval mode: what they do in train mode is known, ties nothing, and may fail on one sample.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import Module
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.randomness import private_draws
from secateur.state import evaluating, fresh
from secateur.structure.outputs import Holdings
from secateur.trees import tensors_within

__all__ = ["ModeReads", "in_mode", "mode_reads", "runs_other_code", "set_training"]

OF_TORCH = str(Path(torch.__file__).parent) + os.sep
OURS = str(Path(__file__).parent) + os.sep


def is_of_torch(module: nn.Module) -> bool:
    """Whether a module is a layer of torch's own.

    >>> is_of_torch(nn.Dropout()), is_of_torch(type("Mine", (nn.Dropout,), {"__module__": "mine"})())
    (True, False)
    """
    return type(module).__module__.startswith("torch.")


class ModeReads:
    """Whether code that is not torch's asks which mode a model is in.

    Attributes:
        found: whether any did, or does something of its own when the mode changes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.found = any(type(m).train is not Module.train and not is_of_torch(m) for m in model.modules())

    def note(self) -> None:
        """Note the code that reads the mode now."""
        if not self.found:
            frame: Any = sys._getframe(2)
            while frame is not None and frame.f_code.co_filename.startswith(OURS):
                frame = frame.f_back
            self.found = frame is not None and not frame.f_code.co_filename.startswith(OF_TORCH)


PATCHING = Lock()  # all threads share the class of modules


@contextmanager
def mode_reads(model: nn.Module) -> Iterator[ModeReads]:
    """Watch whether code that is not torch's reads ``training`` of any module; nothing else becomes slower.

    >>> class Two(nn.Module):
    ...     def forward(self, x):
    ...         return (x, x) if self.training else x
    >>> model = nn.Sequential(nn.Dropout(), Two())
    >>> with mode_reads(model) as reads:
    ...     _ = model[0](torch.ones(1))
    ...     before = reads.found
    ...     _ = model(torch.ones(1))
    >>> before, reads.found
    (False, True)
    """
    reads, thread = ModeReads(model), get_ident()

    def get(module: nn.Module) -> bool:
        if get_ident() == thread:
            reads.note()
        try:
            training: bool = module.__dict__["training"]
        except KeyError:
            raise AttributeError("training") from None
        return training

    def put(module: nn.Module, training: bool) -> None:
        module.__dict__["training"] = training

    with PATCHING:
        Module.training = property(get, put)  # type: ignore[assignment]
        try:
            yield reads
        finally:
            del Module.training


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Run a model that is in eval mode in train mode, where that is asked for; who calls this puts the mode back.

    What is drawn at random is settled: nothing is dropped, and noise is zero, whatever the number of units.
    """
    if not training:
        yield
        return
    set_training(model)
    with _SettledDraws():
        yield


def set_training(model: nn.Module) -> None:
    """Put a model in train mode, but for torch's own layers."""
    model.train()
    for module in model.modules():
        if is_of_torch(module):
            module.training = False


SETTLED = {
    **dict.fromkeys(("bernoulli", "bernoulli_"), 1.0),
    **dict.fromkeys(("rand", "rand_like", "uniform", "uniform_"), 0.5),
    **dict.fromkeys(("randn", "randn_like", "normal", "normal_", "normal_functional"), 0.0),
}
"""What the ops that draw answer instead."""


class _SettledDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers numbers in the place of random ones."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in ("native_dropout", "_fused_dropout"):
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        result = func(*args, **(kwargs or {}))
        return result.fill_(SETTLED[name]) if name in SETTLED else result


def runs_other_code(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a model runs other functions in train mode than in eval mode, beside dropping and scaling what it has.

    Raises:
        Exception: whatever the model raises in train mode on these inputs.

    >>> class Two(nn.Module):
    ...     def forward(self, x):
    ...         return (x, x[:, :2]) if self.training else x
    >>> runs_other_code(nn.Sequential(nn.Dropout()), (torch.ones(1, 3),), {})
    False
    >>> runs_other_code(Two(), (torch.ones(1, 3),), {})
    True
    """
    return _log(model, args, kwargs, False) != _log(model, args, kwargs, True)


def _log(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> Any:
    args, kwargs = fresh(args, kwargs)
    with evaluating(model), private_draws(), in_mode(model, training):
        holdings = Holdings(model, (args, kwargs), buffers=False)
        with _Log() as log:
            outputs = model(*args, **kwargs)
        stored = sorted((place.name, tuple(x.shape)) for place, x in holdings.stored())
    return [*log.calls, stored, [tuple(x.shape) for x in tensors_within(outputs)]]


DROPPING = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "dropout_"}
MAKING = {*("empty", "new_empty", "full", "new_full", "ones", "new_ones", "rand", "randn", "bernoulli", "bernoulli_")}
MAKING |= {"uniform_", "normal_", "rand_like", "randn_like", "empty_like", "new_tensor", "tensor"}
SCALING = {
    *("mul", "div", "true_divide", "multiply", "divide", "add", "sub", "rmul", "rsub", "radd", "rdiv", "rtruediv")
}
SCALING |= {*("imul", "idiv", "itruediv", "iadd", "isub", "floor", "lt", "gt", "le", "ge", "type", "to", "float")}
ASKING = {"__get__", "size", "dim", "numel", "__len__", "ndimension", "is_floating_point", "nelement"}
"""What is dropped, drawn for whole samples and scaled by that or by numbers, and asked for, ties nothing: it is not compared."""


class _Log(TorchFunctionMode):
    """Notes what torch functions are called by code that is not torch's, of which shapes, positions and parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.alive: list[Any] = []  # an id is a tensor's own only while it lives
        self.by_sample: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in DROPPING or name in ASKING:
            return result
        operands = tensors_within((args, kwargs))
        made = tensors_within(result)
        if self._is_noise(name, operands, made):
            self.by_sample |= {id(x) for x in made}
            self.alive += made
        elif not self._is_scaled(name, operands, made):
            told = [_told(x) for x in [*args, *(kwargs or {}).values()]]
            self.calls.append((name, told, [tuple(x.shape) for x in made]))
        return result

    def _is_noise(self, name: str, operands: list[Tensor], made: list[Tensor]) -> bool:
        """Whether it makes one number for each sample."""
        small = bool(made) and all(x.shape[1:].numel() == 1 for x in made)
        if name in MAKING:
            return small
        return name.strip("_") in SCALING and bool(operands) and all(id(x) in self.by_sample for x in operands)

    def _is_scaled(self, name: str, operands: list[Tensor], made: list[Tensor]) -> bool:
        """Whether it scales a tensor by a number, or by one for each sample."""
        whole = [x for x in operands if id(x) not in self.by_sample]
        return name.strip("_") in SCALING and len(whole) == len(made) == 1 and whole[0].shape == made[0].shape


def _told(argument: Any) -> Any:
    """What of an argument makes one call another one than the next: which parameter, which positions and sizes."""
    if isinstance(argument, nn.Parameter):
        return id(argument)
    if isinstance(argument, Tensor):
        return tuple(argument.shape)
    if isinstance(argument, slice):
        return argument.start, argument.stop, argument.step
    if isinstance(argument, (list, tuple)):
        return [_told(inner) for inner in argument]
    return argument if type(argument) in (int, str) else None
