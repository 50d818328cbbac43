"""Important, zero or worse: tests of many changes at once."""

from __future__ import annotations

from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from secateur.checks import check_name, check_number

__all__ = ["CORRECTIONS", "LABELS", "Correction", "adjusted", "label_numbers"]

Correction = Literal["holm", "bonferroni", "fdr"]
CORRECTIONS = ("holm", "bonferroni", "fdr")
LABELS = ("zero", "important", "worse", "unmeasured")


def label_numbers(
    change: Tensor, error: Tensor, alpha: float, tolerance: float, correction: Correction | None
) -> Tensor:
    """Return the position in `LABELS` of each unit's label, int64; see `UnitWorth.label`."""
    _check(alpha, tolerance, correction)
    beyond = change.abs() - tolerance
    z = torch.where(beyond > 0, beyond / error, 0.0)  # without an error, what is beyond is beyond for sure
    p = torch.special.erfc(z / sqrt(2))  # both tails: the interval has two ends
    sure = (beyond > 0) & (adjusted(p, correction) <= alpha)
    return torch.where(sure, torch.where(change > 0, 1, 2), 0)


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


def _check(alpha: float, tolerance: float, correction: object) -> None:
    check_number("label", "(0, 1)", "0.05 is usual", alpha=alpha)
    check_number("label", "[0, inf)", "a change of the loss", tolerance=tolerance)
    check_name("correction", correction, CORRECTIONS, or_none=True)
