"""Keep masks in a row, from nothing removed to all that may go: what a bisection walks over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.allocate.dynamic import Choices, Floats, Portions
from secateur.allocate.ratios import loss_by_removed
from secateur.allocate.scan import Sensitivity
from secateur.selection import Scope, select
from secateur.types import Keep, Scores, unknown_name

__all__ = ["Steps", "by_scores", "by_sensitivity"]

POINTS = 17
"""At how many numbers of removed units a site's own saving is counted; between them it is a line."""


@dataclass(frozen=True)
class Steps:
    """The masks of step 0 (nothing removed) to step `last`; each step removes no less than the one before."""

    last: int
    at: Callable[[int], dict[str, Tensor]]


def by_scores(scores: Scores, scope: Scope, options: Mapping[str, Any]) -> Steps:
    """Return one step a unit: the lowest scores of all sites, or the same fraction of each.

    >>> steps = by_scores({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([2.0, 4.0])}, "global", {"minimum": 1})
    >>> [[int(kept.sum()) for kept in steps.at(step).values()] for step in range(steps.last + 1)]
    [[2, 2], [1, 2], [1, 1]]
    """
    total = sum(score.numel() for score in scores.values())
    most = sum(max(score.numel() - options["minimum"], 0) for score in scores.values())
    last = most if scope == "global" else total
    return Steps(last, lambda step: select(scores, step / max(total, 1), scope=scope, **options))


def by_sensitivity(
    scores: Scores, scan: Sensitivity, metric: str, count: Callable[[Keep], int], options: Mapping[str, Any]
) -> Steps:
    """Return one step for every saving: at each site as many units go as lose least together by the scan."""
    missing = [name for name in scores if name not in scan.units]
    if missing:
        raise unknown_name("site of the sensitivity scan", missing[0], scan.units)
    curves = loss_by_removed(scan, metric, options["minimum"])
    saved = {name: _saved(scores[name], name, len(curves[name]), count) for name in scores}
    table = Portions({name: Choices(saved[name].tolist(), curves[name].tolist()) for name in scores})

    def at(step: int) -> dict[str, Tensor]:
        counts = table.at(table.most * step / table.steps)
        fractions = {name: removed / scores[name].numel() for name, removed in counts.items()}
        return select(scores, fractions, scope="layer", **options)

    return Steps(table.steps, at)


def _saved(score: Tensor, name: str, choices: int, count: Callable[[Keep], int]) -> Floats:
    """What removing 0, 1, 2, … units of one site saves, all else left whole."""
    points = np.unique(np.linspace(0, choices - 1, min(choices, POINTS)).round().astype(int))
    keep_masks = [torch.arange(score.numel()) >= removed for removed in points.tolist()]
    left = np.array([count({name: mask.reshape(score.shape)}) for mask in keep_masks], dtype=np.float64)
    saved: Floats = np.interp(np.arange(choices), points, left[0] - left).round()
    return saved
