"""What `LossChange` finds: the change of the loss with each unit removed, how sure it is, and what to call the unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.criteria.loss_change.labels import LABELS, Correction, label_numbers
from secateur.files import require
from secateur.rate.tally import Sums, Tally, UnitTally

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Base", "UnitWorth"]

PRECISION = 1e-5
"""The part of the loss to which every engine gives the plain loop's changes."""


@dataclass(frozen=True, eq=False)
class Base:
    """What the whole model does on the data that the changes were measured on.

    Attributes:
        loss: mean over the samples.
        accuracy: fraction of samples answered rightly; nan where the targets are not classes.
        class_accuracy: the same for each class's samples, float64 ``(classes,)``; nan for a class without any.
        count: samples.
        class_count: samples of each class, int64 ``(classes,)``.
    """

    loss: float
    accuracy: float
    class_accuracy: Tensor
    count: int
    class_count: Tensor


class UnitWorth(dict[str, Tensor]):
    """The change of the mean loss when each unit alone is removed: scores by site, high = keep.

    Attributes:
        base: what the whole model does on the same data.
        error: the standard error of each change, of the site's shape; infinite with one sample. This, the accuracies
            and the classes' are nan for what was not measured.
        accuracy: the change of the accuracy, of the site's shape, float64; nan where the targets are not classes.
        class_accuracy: the same for each class's samples, ``(*shape, classes)``; nan for a class without any.
        exact: whether the change was measured, bool of the site's shape; False where it is an estimate.
    """

    def __init__(self, base: Base, changes: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(changes or {})
        self.base = base
        self.error: dict[str, Tensor] = {}
        self.accuracy: dict[str, Tensor] = {}
        self.class_accuracy: dict[str, Tensor] = {}
        self.exact = {name: torch.ones(x.shape, dtype=torch.bool) for name, x in self.items()}

    @classmethod
    def of(cls, tally: UnitTally) -> UnitWorth:
        """Return the changes of the mean loss, once every chosen unit was measured on every sample.

        Raises:
            InputError: there were no samples.
        """
        tally.check()
        changes, count = cls(_base(tally.whole)), tally.whole.count
        for name, sums in tally.sums.items():
            shape = tally.sites[name].shape
            mean = sums.loss / count
            changes[name] = mean.float().reshape(shape)
            changes.error[name] = _error(mean, sums.square, count).float().reshape(shape)
            accuracy, by_class = _accuracies(tally.whole, sums)
            changes.accuracy[name] = accuracy.reshape(shape)
            changes.class_accuracy[name] = by_class.reshape(*shape, by_class.shape[1])
            changes.exact[name] = (sums.count == count).reshape(shape)
        return changes

    def label(
        self, alpha: float = 0.05, tolerance: float | None = None, correction: Correction | None = "holm"
    ) -> dict[str, list[str]]:
        """Return ``"important"``, ``"zero"``, ``"worse"`` or ``"unmeasured"`` for each unit (Charpentier, 2020).

        A unit is *important* when its change is above `tolerance` beyond chance, *worse* when it is below
        ``-tolerance`` beyond chance (the model is better without it), and *zero* otherwise: there is no evidence that
        its removal changes the loss by more than the tolerance. Units that were estimated alone are *unmeasured*, and
        do not count among the many. Beyond chance means that the interval change ± z · error
        lies wholly beyond the tolerance, z the normal quantile of ``1 - alpha / 2``, after the correction.

        Args:
            alpha: the probability of error that is allowed, in (0, 1).
            tolerance: the change of the loss that does not matter, ≥ 0; by default 1e-5 of the whole model's loss, the
                precision that the changes are held to: below it a rounding that is always the same looks sure.
            correction: for asking about many units at once, over all units of all sites: ``"holm"`` and
                ``"bonferroni"`` hold the probability of a single wrong label at `alpha`, ``"fdr"`` (Benjamini and
                Hochberg, 1995) the expected share of wrong ones among the important and the worse; None corrects nothing.

        Returns:
            For each site its units' labels, in order; those of single weights as the weight's entries lie in memory.

        Raises:
            InputError: `alpha` or `tolerance` is out of range.
            UnknownNameError: a correction of no known name.

        >>> base = Base(1.0, 0.5, torch.zeros(2), 100, torch.tensor([50, 50]))
        >>> changes = UnitWorth(base, {"fc": torch.tensor([0.5, 0.01, -0.5])})
        >>> changes.error["fc"] = torch.tensor([0.1, 0.1, 0.1])
        >>> changes.label()
        {'fc': ['important', 'zero', 'worse']}
        """
        if tolerance is None:
            tolerance = PRECISION * abs(self.base.loss)
        labels = [[LABELS[-1]] * x.numel() for x in self.values()]
        measured_units = [
            (i, unit) for i, name in enumerate(self) for unit in self.exact[name].flatten().nonzero().flatten().tolist()
        ]
        change, error = (self._measured(part) for part in (self, self.error))
        numbers = label_numbers(change, error, alpha, tolerance, correction).tolist()
        for (i, unit), number in zip(measured_units, numbers, strict=True):
            labels[i][unit] = LABELS[number]
        return dict(zip(self, labels, strict=True))

    def _measured(self, values: Mapping[str, Tensor]) -> Tensor:
        """The values of all units that were measured, in order."""
        return torch.cat([torch.zeros(0), *(values[name][self.exact[name]].flatten() for name in self)]).double()

    def frame(self) -> DataFrame:
        """Return a pandas table with a row for each unit: site, unit, loss change, error, accuracies, label, exact.

        The columns ``class 0``, ``class 1``, … are the changes of the accuracy on each class. ``unit`` counts along
        the site; that of a single weight is its place in the flattened weight.
        """
        labels, rows = self.label(), []
        for name, change in self.items():
            columns = [change, self.error[name], self.accuracy[name], self.exact[name]]
            classes = self.class_accuracy[name].reshape(change.numel(), -1).tolist()
            for unit, (loss, error, accuracy, exact) in enumerate(
                zip(*(c.flatten().tolist() for c in columns), strict=True)
            ):
                row = {"site": name, "unit": unit, "loss": loss, "error": error, "accuracy": accuracy}
                row |= {f"class {k}": value for k, value in enumerate(classes[unit])}
                rows.append(row | {"label": labels[name][unit], "exact": exact})
        return require("pandas", "lab").DataFrame(rows)

    def __repr__(self) -> str:
        units = sum(x.numel() for x in self.values())
        return f"UnitWorth({units} units of {len(self)} sites, loss {self.base.loss:.4g} on {self.base.count} samples)"


def _base(whole: Tally) -> Base:
    asked, right = _asked_and_right(whole)
    accuracy = whole.accuracy
    return Base(
        loss=whole.loss,
        accuracy=nan if accuracy is None else accuracy,
        class_accuracy=right.double() / asked.double(),
        count=whole.count,
        class_count=asked,
    )


def _asked_and_right(whole: Tally) -> tuple[Tensor, Tensor]:
    """The samples of each class, and those of them that are answered rightly; of no class where there are none."""
    wrong, right = torch.zeros(2, 0, dtype=torch.int64) if whole.answers is None else whole.answers
    return wrong + right, right


def _accuracies(whole: Tally, sums: Sums) -> tuple[Tensor, Tensor]:
    """The changes of the accuracy ``(units,)``, and on each class ``(units, classes)``."""
    units = len(sums.loss)
    if whole.answers is None:
        return torch.full((units,), nan, dtype=torch.float64), torch.zeros(units, 0, dtype=torch.float64)
    asked, right = _asked_and_right(whole)
    change = (torch.zeros(1, len(right)).expand(units, -1) if sums.right is None else sums.right - right).double()
    return change.sum(1) / whole.count, change / asked.double()


def _error(mean: Tensor, square: Tensor, count: int) -> Tensor:
    """The standard error of the mean of paired differences; infinite with one sample, which tells nothing of it."""
    if count == 1:
        return torch.full_like(mean, torch.inf)
    variance = (square - count * mean.square()).clamp(min=0) / (count - 1)
    return (variance / count).sqrt()
