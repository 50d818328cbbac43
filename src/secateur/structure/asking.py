"""What a model's code asks about the run that it is in: its mode, and what it hears of that."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules.module import Module

from secateur.switches import Together

__all__ = ["ModeReads", "is_of_torch", "mode_reads", "said_in_training"]

OF_TORCH = str(Path(torch.__file__).parent) + os.sep
OURS = str(Path(__file__).parent) + os.sep


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


class ModeReads:
    """Whether code that is not torch's asks which mode a model is in.

    Attributes:
        asked_mode: whether any did, or does something of its own when the mode changes.
    """

    def __init__(self, model: nn.Module, counts: Callable[[], bool]) -> None:
        self.asked_mode = any(type(m).train is not Module.train and not is_of_torch(m) for m in model.modules())
        self._counts = counts

    def asked(self, _module: nn.Module, training: bool) -> bool:
        """Note the code that reads the mode now."""
        self.asked_mode = self.asked_mode or (self._counts() and _model_asks())
        return training

    def put(self, module: nn.Module, training: bool) -> None:
        """Nothing is noted of what is set."""


@contextmanager
def mode_reads(model: nn.Module, counts: Callable[[], bool] = lambda: True) -> Iterator[ModeReads]:
    """Watch whether code that is not torch's reads ``training`` of any module; nothing else becomes slower.

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
    with _listening(reads):
        yield reads


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
