"""Switches that several threads turn together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Event, Thread

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.switches import Together
from secateur.types import SecateurError


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


class Switching(nn.Module):
    """Turns a switch of torch's around what it computes, and back, without a context."""

    def __init__(self, switch: str) -> None:
        super().__init__()
        self.a, self.b, self.switch = nn.Linear(4, 6), nn.Linear(6, 2), switch

    def forward(self, x: Tensor) -> Tensor:
        around = torch.autocast("cpu", torch.bfloat16)
        if self.switch == "autocast":
            around.__enter__()
        elif self.switch == "enabled":
            torch.set_autocast_enabled("cpu", True)
        else:
            torch.set_default_dtype(torch.float64)
        y: Tensor = self.b(self.a(x).relu())
        if self.switch == "autocast":
            around.__exit__(None, None, None)
        torch.set_autocast_enabled("cpu", False)
        torch.set_default_dtype(torch.float32)
        return y.float()


@pytest.mark.parametrize("switch", ["autocast", "enabled", "dtype"])
def test_switches_that_a_forward_pass_turns_are_put_back_where_it_is_stopped(switch: str) -> None:
    with suppress(SecateurError):
        sc.prune(Switching(switch).eval(), torch.randn(2, 4), "l2", 0.5, latency=False)
    assert not torch.is_autocast_enabled("cpu")
    assert torch.get_default_dtype() is torch.float32
    torch.autocast_increment_nesting()
    assert torch.autocast_decrement_nesting() == 0
