"""Important, zero, worse or undecided: intervals and tests of many changes at once."""

from __future__ import annotations

from math import sqrt
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
    "adjusted",
    "check_options",
    "half_widths",
    "images_needed",
    "practical_numbers",
    "significance_numbers",
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


def half_widths(error: Tensor, alpha: float, correction: Correction | None) -> Tensor:
    """Return half the width of each change's interval: z standard errors, at level `alpha` for each or for all at once.

    >>> half_widths(torch.tensor([1.0, 1.0]), 0.05, None), half_widths(torch.tensor([1.0, 1.0]), 0.1, "bonferroni")
    (tensor([1.9600, 1.9600]), tensor([1.9600, 1.9600]))
    """
    if correction == "fdr":
        raise InputError(
            "label: correction='fdr' has no intervals; take 'holm' or 'bonferroni' (for all units at once), None, or "
            "reading='significance'"
        )
    tests = 1 if correction is None else max(len(error), 1)
    z = torch.special.ndtri(torch.tensor(1 - alpha / 2 / tests, dtype=torch.float64))
    return error * z.to(error)


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


def images_needed(change: Tensor, half: Tensor, tolerance: float, count: int) -> Tensor:
    """Return about how many samples would decide each unit, were its change what was measured; inf where none would.

    An interval shrinks with the root of the samples, and is to fit into what lies between the change and the nearest
    border that it must not cross.

    >>> images_needed(torch.tensor([0.3]), torch.tensor([0.4]), 0.1, 100)       # half as wide: four times as many
    tensor([400.])
    """
    room = torch.stack([change - tolerance, -change, tolerance - change.abs()]).amax(0)
    # What has no error is decided by any sample.
    shrunk = torch.where(half > 0, half / room.clamp(min=0), torch.zeros_like(half))
    return count * shrunk.square()


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
