"""Important, zero, worse or undecided: intervals and tests of many changes at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, inf, pi, sqrt, tan
from typing import Literal

import torch
from torch import Tensor

from secateur.checks import check_name, check_number
from secateur.types import InputError

__all__ = [
    "CORRECTIONS",
    "LABELS",
    "READINGS",
    "TOLERANCES",
    "Correction",
    "Reading",
    "Uncertainty",
    "adjusted",
    "check_options",
    "practical_numbers",
    "significance_numbers",
    "student",
]

Correction = Literal["holm", "bonferroni", "fdr"]
CORRECTIONS = ("holm", "bonferroni", "fdr")
LABELS = ("zero", "important", "worse", "undecided", "unmeasured")

Reading = Literal["practical", "significance"]
READINGS = ("practical", "significance")
TOLERANCES = {"practical": 1e-3, "significance": 1e-5}
"""What share of the loss a change may have that does not matter, by reading; the latter is the precision of the changes."""


def significance_numbers(
    change: Tensor, error: Tensor, alpha: float, tolerance: float, correction: Correction | None
) -> Tensor:
    """Return the position in `LABELS` of each unit's label by significance alone, int64; see `UnitWorth.label`."""
    beyond = change.abs() - tolerance
    z = torch.where(beyond > 0, beyond / error, 0.0)  # without an error, what is beyond is beyond for sure
    p = torch.special.erfc(z / sqrt(2))  # both tails: the interval has two ends
    sure = (beyond > 0) & (adjusted(p, correction) <= alpha)
    return torch.where(sure, torch.where(change > 0, 1, 2), 0)


@dataclass(frozen=True)
class Uncertainty:
    """How sure the changes of some units are: all that an interval's width follows from.

    Half of it is t · √((pooled + (n − 1) · error²) / n), with t of n degrees of freedom: each unit has one sample more,
    as wide as those of its site are on average. The loss changes on few samples a lot and on most hardly, so that a unit
    may have seen the quiet ones alone; a variance that is held to the others' is the moderated one of Smyth (2004), here
    with the weight of one sample. Without `pooled` it is t · error, of n − 1 degrees.

    Attributes:
        error: the standard error of each change, float64.
        pooled: the mean of the squared errors of its site; None where each unit stands for itself.
        count: n, samples.
        level: the probability of error of each interval.
    """

    error: Tensor
    pooled: Tensor | None
    count: int
    level: float

    @classmethod
    def of(
        cls, error: Tensor, pooled: Tensor | None, count: int, alpha: float, correction: Correction | None
    ) -> Uncertainty:
        """Return the spread at level `alpha` for each unit or for all at once.

        Raises:
            InputError: the correction has no intervals.
        """
        if correction == "fdr":
            raise InputError(
                "label: correction='fdr' has no intervals; take 'holm' or 'bonferroni' (for all units at once), None, or "
                "reading='significance'"
            )
        return cls(error, pooled, count, alpha if correction is None else alpha / max(len(error), 1))

    def half_widths(self) -> Tensor:
        """Return half the width of each change's interval; infinite where nothing is known of the spread.

        >>> Uncertainty(torch.tensor([1.0]), None, 10**9, 0.05).half_widths()
        tensor([1.9600])
        """
        own, rest = self._squares()
        widths: Tensor = (own / self.count + rest / self.count**2).clamp(min=0).sqrt()
        return torch.where(self.error.isinf(), self.error, widths)

    def images_needed(self, change: Tensor, tolerance: float) -> Tensor:
        """Return about how many samples would decide each unit, were its change what was measured; inf where none would.

        The interval is to fit into what lies between the change and the nearest border that it must not cross.

        >>> Uncertainty(torch.tensor([0.25]), None, 100, 0.05).images_needed(torch.tensor([0.5]), 0.25).round()
        tensor([394.])
        """
        room = torch.stack([change - tolerance, -change, tolerance - change.abs()]).amax(0).clamp(min=0)
        # own / m + rest / m² = room², solved for m
        own, rest = self._squares()
        root = (own.square() + 4 * room.square() * rest).clamp(min=0).sqrt()
        # What has no spread is decided by any sample.
        return torch.where(
            self.error + (self.pooled if self.pooled is not None else 0) > 0, (own + root) / (2 * room**2), 0.0
        )

    def _squares(self) -> tuple[Tensor, Tensor]:
        """The squared half width times m, and times m², of m samples: what falls with their number, and with its square."""
        variance = self.count * self.error.square()
        if self.pooled is None:
            return student(self.level, self.count - 1) ** 2 * variance, torch.zeros_like(variance)
        t = student(self.level, self.count)
        return t**2 * variance, t**2 * (self.count * self.pooled - variance)


def student(level: float, freedom: int) -> float:
    """Return the quantile of Student's t that |t| exceeds with probability `level`, to five digits (G. W. Hill, 1970).

    >>> round(student(0.05, 1), 3), round(student(0.05, 10), 3), round(student(0.05, 10**9), 3), student(0.05, 0)
    (12.706, 2.228, 1.96, inf)
    """
    n = freedom
    if n < 1:
        return inf
    if n == 1:
        return 1 / tan(level * pi / 2)
    if n == 2:
        return sqrt(2 / (level * (2 - level)) - 2)
    a = 1 / (n - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * sqrt(a * pi / 2) * n
    y = (d * level) ** (2 / n)
    if y > 0.05 + a:
        x = float(torch.special.ndtri(torch.tensor(level / 2, dtype=torch.float64)))
        c += 0.3 * (n - 4.5) * (x + 0.6) if n < 5 else 0.0
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = x**2
        y = expm1(a * ((((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x) ** 2)
    else:
        y = ((1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)) * y - 1) * (n + 1) / (
            n + 2
        ) + 1 / y
    return sqrt(n * y)


def practical_numbers(change: Tensor, half: Tensor, tolerance: float, precision: float) -> Tensor:
    """Return the position in `LABELS` of each unit's label by its interval ``change ± half``, int64.

    >>> change, half = torch.tensor([0.5, 0.01, -0.5, 0.1]), torch.tensor([0.1, 0.02, 0.1, 0.1])
    >>> [LABELS[n] for n in practical_numbers(change, half, 0.05, 0.0).tolist()]
    ['important', 'zero', 'worse', 'undecided']
    """
    low, high = change - half, change + half
    inside = (low >= -tolerance) & (high <= tolerance)
    numbers = torch.where(inside, LABELS.index("zero"), LABELS.index("undecided"))
    numbers = torch.where(low > tolerance, LABELS.index("important"), numbers)
    return torch.where(high < -precision, LABELS.index("worse"), numbers)


def adjusted(p: Tensor, correction: Correction | None) -> Tensor:
    """Return p-values corrected for their number: each is to be compared with the level of all.

    Holm (1979), Bonferroni, or the false discovery rate of Benjamini and Hochberg (1995).

    >>> adjusted(torch.tensor([0.01, 0.04, 0.03]), "bonferroni")
    tensor([0.0300, 0.1200, 0.0900])
    >>> adjusted(torch.tensor([0.01, 0.04, 0.03]), "holm")
    tensor([0.0300, 0.0600, 0.0600])
    >>> adjusted(torch.tensor([0.01, 0.04, 0.03]), "fdr")
    tensor([0.0300, 0.0400, 0.0400])
    """
    if correction is None or not len(p):
        return p
    count = len(p)
    if correction == "bonferroni":
        return (p * count).clamp(max=1)
    ascending, order = p.sort()
    rank = torch.arange(1, count + 1, dtype=p.dtype, device=p.device)
    if correction == "holm":
        adjusted_ascending = (ascending * (count + 1 - rank)).cummax(0).values
    else:
        adjusted_ascending = (ascending * count / rank).flip(0).cummin(0).values.flip(0)
    return torch.empty_like(p).index_copy_(0, order, adjusted_ascending.clamp(max=1))


def check_options(alpha: float, tolerance: float | None, correction: object, reading: object) -> None:
    """Refuse options of labels that are out of range."""
    check_number("label", "(0, 1)", "0.05 is usual", alpha=alpha)
    check_number("label", "[0, inf)", "a share of the loss", or_none=True, tolerance=tolerance)
    check_name("correction", correction, CORRECTIONS, or_none=True)
    check_name("reading of labels", reading, READINGS)
