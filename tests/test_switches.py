"""Switches that several threads turn together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event, Thread

from secateur.switches import Together


def test_the_last_thread_puts_back_what_the_first_turned() -> None:
    """Some switches of torch are variables of a context, which each thread has for itself."""
    variable = ContextVar("variable", default="as it was")
    states: list[str] = []

    @contextmanager
    def turned() -> Iterator[None]:
        token = variable.set("turned")
        try:
            yield
        finally:
            states.append(variable.get())
            variable.reset(token)
            states.append(variable.get())

    together, first_is_in, second_is_in = Together(turned), Event(), Event()

    def first() -> None:
        with together():
            first_is_in.set()
            second_is_in.wait(5)

    thread = Thread(target=first)
    thread.start()
    first_is_in.wait(5)
    with together():
        second_is_in.set()
        thread.join()
    assert states == ["turned", "as it was"]
