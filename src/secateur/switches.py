"""Switches of the whole process, which several threads may turn at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import copy_context
from threading import Lock
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["AUTOCAST", "Together", "defaults_put_back", "math_attention", "plain_operations", "unfused_attention"]

AUTOCAST = ("cpu", "cuda", "mps", "xpu")
"""The kinds of device that have an autocast."""


class Together:
    """A context that threads are in together: the first turns the switch, and the last puts it back.

    Each by itself would put back what it found, and what one found another had turned.

    >>> from contextlib import nullcontext
    >>> together = Together(nullcontext)
    >>> with together(), together():
    ...     together.inside
    2
    """

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self.inside = 0
        self._make, self._lock, self._open = make, Lock(), ExitStack()
        self._context = copy_context()  # what was set in one is to be put back in the same, whichever thread does

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Be inside."""
        with self._lock:
            if self.inside == 0:
                self._context.run(self._open.enter_context, self._make())
            self.inside += 1
        try:
            yield
        finally:
            with self._lock:
                self.inside -= 1
                if self.inside == 0:
                    self._context.run(self._open.close)


@contextmanager
def defaults_put_back() -> Iterator[None]:
    """Put back autocast and the default type where a forward pass left them otherwise, as one that was stopped half way does.

    >>> with defaults_put_back():
    ...     torch.set_default_dtype(torch.float64)
    >>> torch.get_default_dtype()
    torch.float32
    """
    default, nesting = torch.get_default_dtype(), _autocast_nesting()
    casts = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in AUTOCAST]
    try:
        yield
    finally:
        if torch.get_default_dtype() is not default:
            torch.set_default_dtype(default)
        for kind, enabled, dtype in casts:
            if (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) != (enabled, dtype):
                torch.set_autocast_enabled(kind, enabled)
                torch.set_autocast_dtype(kind, dtype)
        for _ in range(_autocast_nesting() - nesting):
            torch.autocast_decrement_nesting()
            torch.clear_autocast_cache()  # of weights that were cast


def _autocast_nesting() -> int:
    """How many autocasts stand around."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


@contextmanager
def _slow_path() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _without_libraries() -> Iterator[None]:
    libraries: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    enabled = [library.enabled for library in libraries]
    try:
        for library in libraries:
            library.enabled = False
        yield
    finally:
        for library, was in zip(libraries, enabled, strict=True):
            library.enabled = was


unfused_attention = Together(_slow_path)
"""Lets encoders take the one path that they take in training too.

Their fast path in evaluation leaves zeros where their slow one leaves numbers that padding hides: a cut model, which may be
of another shape than the fast one takes, is compared on the slow one.
"""

math_attention = Together(lambda: sdpa_kernel(SDPBackend.MATH))
"""Has attention computed by plain operations, which can be counted, and differentiated in every way."""

plain_operations = Together(_without_libraries)
"""Switches off the fused kernels of recurrent layers."""
