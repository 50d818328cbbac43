"""Ctrl-C that is heard only where it does no harm."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupts"]


class Interrupts:
    """While it is entered, Ctrl-C raises KeyboardInterrupt inside `heard` alone, at once or when that is reached.

    So it strikes no half-written record and no half-read message. A second Ctrl-C is heard everywhere, until the end is
    near (`hush`): workers that were half ended would be waited for without end. Where someone else handles the signal, or
    outside the main thread, nothing is changed.
    """

    def __init__(self) -> None:
        self._count, self._open, self._ours, self._hushed = 0, False, False, False

    def hush(self) -> None:
        """Hear no more: what is done from here on is short, and done to its end."""
        self._hushed = True

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._ours = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._ours = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Let Ctrl-C through.

        Raises:
            KeyboardInterrupt: it came, before or now.
        """
        self._open = True
        try:
            if self._count:
                raise KeyboardInterrupt
            yield
        finally:
            self._open = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if not self._hushed and (self._open or self._count > 1):
            raise KeyboardInterrupt
