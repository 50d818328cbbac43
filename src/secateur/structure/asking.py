"""What a model's code asks about the run that it is in, its mode and gradients, and what it hears of its mode."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.module import Module

from secateur.switches import Together

__all__ = ["ModeReads", "is_of_torch", "mode_reads", "said_in_training"]

OF_TORCH = str(Path(torch.__file__).parent) + os.sep
OURS = str(Path(__file__).parent) + os.sep
OF_EVERY_ROOM = str(Path(__file__).parent.parent)


def is_of_torch(module: nn.Module) -> bool:
    """Whether a module is a layer of torch's own.

    >>> is_of_torch(nn.Dropout()), is_of_torch(type("Mine", (nn.Dropout,), {"__module__": "mine"})())
    (True, False)
    """
    return type(module).__module__.startswith("torch.")


def _model_asks() -> bool:
    """Whether code that is neither torch's nor ours asks."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    return frame is not None and not frame.f_code.co_filename.startswith(OF_TORCH)


class _Listener(Protocol):
    """Hears of each time that a mode is asked for or set."""

    def asked(self, module: nn.Module, training: bool) -> bool:
        """Return the mode to tell of a module, given what it would be without this listener."""

    def put(self, module: nn.Module, training: bool) -> None:
        """Hear of a mode that is set."""


class _Listeners(threading.local):
    """Those of this thread, the outermost first; all threads share the class of modules."""

    def __init__(self) -> None:
        self.all: list[_Listener] = []
        self.gradients: list[ModeReads] = []


LISTENERS = _Listeners()


def _get(module: nn.Module) -> bool:
    try:
        training: bool = module.__dict__["training"]
    except KeyError:
        raise AttributeError("training") from None
    for listener in LISTENERS.all:
        training = listener.asked(module, training)
    return training


def _put(module: nn.Module, training: bool) -> None:
    module.__dict__["training"] = training
    for listener in LISTENERS.all:
        listener.put(module, training)


@contextmanager
def _modes_as_property() -> Iterator[None]:
    Module.training = property(_get, _put)  # type: ignore[assignment]
    try:
        yield
    finally:
        del Module.training


MODES_HEARD = Together(_modes_as_property)


@contextmanager
def _listening(listener: _Listener) -> Iterator[None]:
    with MODES_HEARD():
        LISTENERS.all.append(listener)
        try:
            yield
        finally:
            LISTENERS.all.remove(listener)


ENABLED = torch.is_grad_enabled
REQUIRED: Any = torch._C.TensorBase.requires_grad


def _note_gradients() -> None:
    """Note it where the code that asks is the model's; inputs are copied in the pass, by code of ours."""
    if any(not reads.asked_gradients for reads in LISTENERS.gradients):
        file = sys._getframe(2).f_code.co_filename
        if not file.startswith((OURS, OF_TORCH)) and os.path.dirname(file) != OF_EVERY_ROOM:
            for reads in LISTENERS.gradients:
                reads.asked_gradients = reads.asked_gradients or reads.counts()


def _enabled() -> bool:
    _note_gradients()
    return ENABLED()


def _requires(tensor: Tensor) -> bool:
    _note_gradients()
    required: bool = REQUIRED.__get__(tensor)
    return required


@contextmanager
def _gradients_as_property() -> Iterator[None]:
    torch.is_grad_enabled = _enabled
    Tensor.requires_grad = property(_requires, REQUIRED.__set__)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.is_grad_enabled = ENABLED
        del Tensor.requires_grad


GRADIENTS_HEARD = Together(_gradients_as_property)


@lru_cache(maxsize=4096)
def _may_ask_unheard(kind: type) -> bool:
    """Whether a class does something of its own when the mode changes, or its code looks it up in what a module holds.

    >>> class Looks(nn.Module):
    ...     def forward(self, x):
    ...         return x if vars(self)["training"] else -x
    >>> _may_ask_unheard(Looks), _may_ask_unheard(nn.Dropout)
    (True, False)
    """
    if kind.__module__.startswith("torch."):
        return False
    written = [cls for cls in kind.__mro__ if not cls.__module__.startswith("torch.")]
    methods = [value for cls in written for value in vars(cls).values() if isinstance(value, FunctionType)]
    return getattr(kind, "train", None) is not Module.train or any(map(_looks_mode_up, methods))


def _looks_mode_up(function: FunctionType) -> bool:
    """Whether the code of a function, or of those that it calls by name, has ``"training"`` and what holds it."""
    codes, visited = [function.__code__], set[CodeType]()
    while codes:
        code = codes.pop()
        if code in visited:
            continue
        visited.add(code)
        if "training" in code.co_consts and not {"vars", "__dict__"}.isdisjoint(code.co_names):
            return True
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
        called = (function.__globals__.get(name) for name in code.co_names)
        codes += [f.__code__ for f in called if isinstance(f, FunctionType) and f.__module__ == function.__module__]
    return False


class ModeReads:
    """Whether code that is not torch's asks which mode a model is in, and whether gradients are recorded.

    Attributes:
        asked_mode: whether any did, or does something of its own when the mode changes.
        asked_gradients: whether any asked if gradients are on, or if a tensor requires them.
        counts: whether what is asked now counts.
    """

    def __init__(self, model: nn.Module, counts: Callable[[], bool]) -> None:
        self.asked_mode = any(_may_ask_unheard(kind) for kind in set(map(type, model.modules())))
        self.asked_gradients = False
        self.counts = counts

    def asked(self, _module: nn.Module, training: bool) -> bool:
        """Note the code that reads the mode now."""
        self.asked_mode = self.asked_mode or (self.counts() and _model_asks())
        return training

    def put(self, module: nn.Module, training: bool) -> None:
        """Nothing is noted of what is set."""


@contextmanager
def mode_reads(model: nn.Module, counts: Callable[[], bool] = lambda: True) -> Iterator[ModeReads]:
    """Watch whether code that is not torch's reads ``training`` of any module, or asks for gradients; nothing else becomes slower.

    Args:
        model: the model that runs.
        counts: whether what is read now counts.

    >>> class Two(nn.Module):
    ...     def forward(self, x):
    ...         return (x, x) if self.training else x
    >>> model = nn.Sequential(nn.Dropout(), Two())
    >>> with mode_reads(model) as reads:
    ...     _ = model[0](torch.ones(1))
    ...     before = reads.asked_mode
    ...     _ = model(torch.ones(1))
    >>> before, reads.asked_mode
    (False, True)
    """
    reads = ModeReads(model, counts)
    with _listening(reads), GRADIENTS_HEARD():
        LISTENERS.gradients.append(reads)
        try:
            yield reads
        finally:
            LISTENERS.gradients.remove(reads)


class _SaidInTraining:
    """Has code that is not torch's hear that modules are in train mode, until it puts them in eval mode itself."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = {id(module) for module in modules}

    def asked(self, module: nn.Module, training: bool) -> bool:
        """Say that it is in train mode if the model's code asks."""
        return training or (id(module) in self.modules and _model_asks())

    def put(self, module: nn.Module, training: bool) -> None:
        """Say so no longer of what is put in eval mode."""
        if not training:
            self.modules.discard(id(module))


@contextmanager
def said_in_training(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Have code that is not torch's hear that modules are in train mode, which are in eval mode for torch's own code."""
    with _listening(_SaidInTraining(modules)):
        yield
