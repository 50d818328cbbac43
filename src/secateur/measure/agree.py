"""How far two scorings agree: their ranks, the units they would remove, and what removing those costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from secateur.calls import usual
from secateur.checks import check_name, check_number
from secateur.files import require
from secateur.labelled import Data
from secateur.measure.quality import evaluate
from secateur.selection import select
from secateur.structure.sites import with_zeros
from secateur.types import InputError, Keep, Loss, Scores, Sites

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Agreement", "agreement", "spearman"]


@dataclass(frozen=True)
class Agreement:
    """How far scores `a` agree with scores `b`.

    Attributes:
        spearman: Spearman's rank correlation over all units; nan where one side is constant.
        by_site: the same within each site.
        bottom: for each fraction of all units, the share of `b`'s lowest that are among `a`'s lowest.
        top: the same for the highest.
        best: whether the unit that `a` would remove first has `b`'s lowest score.
        suffered: for each fraction, the mean loss after removing that share of all units by `a` and by `b`; empty where
            no model was given.
        loss: the mean loss of the whole model; nan where none was given.
        added: for each fraction, what `b`'s scores of the units that `a` removes, and of those that `b` removes, add up to:
            where `b` is measured one by one, what the joint change would be if changes added up; empty as `suffered`.
    """

    spearman: float
    by_site: Mapping[str, float]
    bottom: Mapping[float, float]
    top: Mapping[float, float]
    best: bool
    suffered: Mapping[float, tuple[float, float]] = field(default_factory=dict)
    loss: float = nan
    added: Mapping[float, tuple[float, float]] = field(default_factory=dict)

    @property
    def joint(self) -> dict[float, tuple[float, float]]:
        """For each fraction, the change of the loss when all its units go together, by `a` and by `b`."""
        return {at: (a - self.loss, b - self.loss) for at, (a, b) in self.suffered.items()}

    def frame(self) -> DataFrame:
        """Return one row a fraction: overlaps, and where a model was given the losses suffered, their changes and sums."""
        nothing = (nan, nan)
        rows = [
            {"fraction": at, "bottom": self.bottom[at], "top": self.top[at]}
            | dict(zip(("loss_a", "loss_b"), self.suffered.get(at, nothing), strict=True))
            | dict(zip(("joint_a", "joint_b"), self.joint.get(at, nothing), strict=True))
            | dict(zip(("added_a", "added_b"), self.added.get(at, nothing), strict=True))
            for at in self.bottom
        ]
        return require("pandas", "lab").DataFrame(rows)

    def __str__(self) -> str:
        sites = ", ".join(f"{name} {rho:.3f}" for name, rho in self.by_site.items())
        lines = [f"Spearman {self.spearman:.4f} ({sites}); best unit {'found' if self.best else 'not found'}"]
        for at, low in self.bottom.items():
            line = f"lowest {at:.0%}: {low:.0%} shared; highest: {self.top[at]:.0%}"
            if at in self.suffered:
                a, b = self.suffered[at]
                line += f"; loss after removal {a:.4f}, against {b:.4f} (whole model {self.loss:.4f})"
                (a, b), (sum_a, sum_b) = self.joint[at], self.added[at]
                line += f"; joint change {a:+.4f}, against {b:+.4f} (the second's scores add up to {sum_a:+.4f}, {sum_b:+.4f})"
            lines.append(line)
        return "\n".join(lines)


@usual
def agreement(
    a: Scores,
    b: Scores,
    *,
    fractions: Sequence[float] = (0.1, 0.25, 0.5),
    model: nn.Module | None = None,
    sites: Sites | None = None,
    data: Data | None = None,
    loss: str | Loss = "cross_entropy",
) -> Agreement:
    """Compare scores `a`, such as a cheap estimate, with scores `b`, such as exact loss changes.

    With `model`, `sites` and `data` it also removes the lowest fractions by either, all sites pooled (each keeps its
    best unit), and gives the loss suffered and its joint change: the ranks of units removed one by one need not tell that,
    nor does the sum of their changes, which stands beside it.

    Args:
        a, b: one tensor a site; the same sites and shapes.
        fractions: of all units, in (0, 1); at least one unit is taken.
        model, sites, data: all three, or none.
        loss: as in `evaluate`.

    Raises:
        InputError: other sites or shapes, NaN, a fraction out of range, or a model without sites or data.
        UnknownNameError: `b` has no such site.

    >>> a = {"fc": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    >>> b = {"fc": torch.tensor([10.0, 30.0, 20.0, 40.0])}
    >>> print(agreement(a, b, fractions=[0.5]))
    Spearman 0.8000 (fc 0.800); best unit found
    lowest 50%: 50% shared; highest: 50%
    """
    flat_a, flat_b = _pooled(a, b)
    for at in fractions:
        check_number("agreement", "(0, 1)", "a fraction of the units", fractions=at)
    needed = [x is not None for x in (model, sites, data)]
    if any(needed) and not all(needed):
        raise InputError("agreement: to see the loss suffered give model, sites and data, all three")
    suffered: dict[float, tuple[float, float]] = {}
    added: dict[float, tuple[float, float]] = {}
    whole = nan
    if model is not None and sites is not None and data is not None:
        whole = evaluate(model, data, loss).loss
        both = {at: [select(scores, at) for scores in (a, b)] for at in fractions}
        for at, (by_a, by_b) in both.items():
            first, second = (evaluate(with_zeros(model, sites, keep), data, loss).loss for keep in (by_a, by_b))
            suffered[at] = (first, second)
            added[at] = (_sum(b, by_a), _sum(b, by_b))
    return Agreement(
        spearman=spearman(flat_a, flat_b),
        by_site={name: spearman(_flat(a[name]), _flat(b[name])) for name in a},
        bottom={at: _overlap(flat_a, flat_b, at) for at in fractions},
        top={at: _overlap(-flat_a, -flat_b, at) for at in fractions},
        best=bool(flat_b[flat_a.argmin()] == flat_b.min()),
        suffered=suffered,
        loss=whole,
        added=added,
    )


def _sum(scores: Scores, keep: Keep) -> float:
    """The sum of the scores of what goes."""
    return float(sum(_flat(scores[name])[~mask.flatten()].sum() for name, mask in keep.items()))


def _flat(scores: Tensor) -> Tensor:
    return scores.detach().flatten().double().cpu()


def _pooled(a: Scores, b: Scores) -> tuple[Tensor, Tensor]:
    """All scores of each as one row, checked."""
    if not a:
        raise InputError("agreement: there are no scores to compare")
    for name in a:
        check_name("site", name, b)
        if a[name].shape != b[name].shape:
            raise InputError(
                f"agreement: the scores of {name!r} have shapes {tuple(a[name].shape)} and {tuple(b[name].shape)}"
            )
    if len(b) > len(a):
        raise InputError(f"agreement: site {next(n for n in b if n not in a)!r} has scores on one side only")
    pooled = [torch.cat([_flat(scores[name]) for name in a]) for scores in (a, b)]
    if any(bool(torch.isnan(row).any()) for row in pooled):
        raise InputError("agreement: there are NaN among the scores; repair the criterion or its data")
    return pooled[0], pooled[1]


def _ranks(values: Tensor) -> Tensor:
    """The ranks of `values`, equal ones sharing the mean of theirs."""
    _, group, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = (last - (counts - 1) / 2)[group]
    return ranks


def spearman(a: Tensor, b: Tensor) -> float:
    """Return Spearman's rank correlation of two rows of numbers; nan where one is constant.

    >>> round(spearman(torch.arange(5.0), torch.tensor([0.0, 4.0, 1.0, 9.0, 16.0])), 4)      # one pair swapped: 1 − 6 · 2 / 120
    0.9
    """
    first, second = (ranks - ranks.mean() for ranks in (_ranks(a), _ranks(b)))
    spread = float(first.norm() * second.norm())
    return float(first @ second) / spread if spread else nan


def _overlap(a: Tensor, b: Tensor, fraction: float) -> float:
    """The share of the lowest of `b` that are among the lowest of `a`; of equals the earlier ones."""
    count = max(round(fraction * len(a)), 1)
    lowest = [set(torch.argsort(row, stable=True)[:count].tolist()) for row in (a, b)]
    return len(lowest[0] & lowest[1]) / count
