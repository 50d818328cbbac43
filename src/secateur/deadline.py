"""A deadline for long work: its loops ask between units of work whether there is time left, and are ended where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from math import inf
from time import monotonic
from typing import Self

__all__ = ["Deadline", "OutOfTime", "check_time"]


class OutOfTime(BaseException):
    """The deadline of the work is over.

    No `Exception`, so that code that goes on after any error, as where something is tried, does not go on after this.
    """


@dataclass(frozen=True)
class Deadline:
    """The moment at which work ends.

    Attributes:
        ends: by the monotonic clock, in seconds.

    >>> with Deadline.after(60.0).enforced():
    ...     check_time()
    >>> with Deadline.after(0.0).enforced():
    ...     check_time()
    Traceback (most recent call last):
    secateur.deadline.OutOfTime
    """

    ends: float = inf

    @classmethod
    def after(cls, seconds: float | None) -> Self:
        """Return the moment so many seconds from now; None for never."""
        return cls() if seconds is None else cls(monotonic() + seconds)

    def sooner(self, seconds: float) -> Self:
        """Return the moment so many seconds before this one."""
        return replace(self, ends=self.ends - seconds)

    @property
    def over(self) -> bool:
        """Whether the moment is past."""
        return monotonic() >= self.ends

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Let `check_time` end what runs within, once the moment is past."""
        token = _DEADLINE.set(self)
        try:
            yield
        finally:
            _DEADLINE.reset(token)


NEVER = Deadline()

_DEADLINE: ContextVar[Deadline] = ContextVar("the deadline of the work under way", default=NEVER)


def check_time() -> None:
    """Say that a unit of work is done; long loops call it so that they can be ended.

    A criterion, solver or timer of one's own that takes long calls it, too: nothing happens where no deadline is enforced.

    Raises:
        OutOfTime: the deadline is over.
    """
    if _DEADLINE.get().over:
        raise OutOfTime
