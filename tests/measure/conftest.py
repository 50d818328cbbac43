"""What the tests of measures share."""

from __future__ import annotations

import pytest
from clocks import Clock

from secateur.runtimes import timing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that forward passes are timed by."""
    clock = Clock()
    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(timing, name, clock)
    return clock
