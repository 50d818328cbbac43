"""What `LossChange` finds: the change of the loss with each unit removed, how sure it is, and what to call the unit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, nan
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.criteria.loss_change.labels import (
    LABELS,
    TOLERANCES,
    Correction,
    Reading,
    Uncertainty,
    check_options,
    practical_numbers,
    significance_numbers,
)
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


ENOUGH = 1000
"""From so many samples on changes follow a normal law, nearly: measured, see docs/criteria.md."""
FEW = (
    f"few samples, whose changes follow no normal law yet: labels by significance may be wrong; {ENOUGH:,} and more are to "
    "be trusted"
)


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
        self,
        alpha: float = 0.05,
        tolerance: float | None = None,
        correction: Correction | None = "holm",
        reading: Reading = "practical",
        pooled: bool = True,
    ) -> dict[str, list[str]]:
        """Return what each unit is: ``"important"``, ``"zero"``, ``"worse"`` or ``"undecided"`` (Charpentier, 2020).

        Each change has an interval (`interval`), and the loss a practical tolerance. A unit is *important* where
        its interval lies above the tolerance, *zero* where it lies within the tolerance on both sides of 0, *worse*
        where it lies below 0 (the model is better without it), and *undecided* where it is too wide to say; more samples
        decide more units (see `images`). Units that were estimated alone are *unmeasured*.

        With ``reading="significance"``, after the thesis, a unit is *important* or *worse* when its change is beyond the
        tolerance, there the precision of the changes, beyond chance, and *zero* otherwise. Then zero says that there is
        no evidence, and with few samples much is zero that the model needs.

        Args:
            alpha: the probability of error that is allowed, in (0, 1).
            tolerance: the share of the whole model's loss that does not matter, ≥ 0; by default 0.001, and 1e-5, the
                precision that the changes are held to, by significance.
            correction: for asking about many units at once, over all units of all sites: with ``"holm"`` and
                ``"bonferroni"`` no label at all is wrong with probability 1 − `alpha` (intervals hold all at once, which
                is the same for both; Holm's test is sharper by significance); ``"fdr"`` (Benjamini and Hochberg, 1995;
                by significance) holds the expected share of wrong ones among the important and the worse; None corrects
                nothing.
            reading: ``"practical"`` or ``"significance"``.
            pooled: of the intervals, as `interval` has it.

        Returns:
            For each site its units' labels, in order; those of single weights as the weight's entries lie in memory.

        Raises:
            InputError: `alpha` or `tolerance` is out of range, or the correction has no intervals.
            UnknownNameError: a correction or reading of no known name.

        >>> base = Base(1.0, 0.5, torch.zeros(2), 10_000, torch.tensor([5_000, 5_000]))
        >>> changes = UnitWorth(base, {"fc": torch.tensor([0.5, 0.01, 0.0, -0.5])})
        >>> changes.error["fc"] = torch.tensor([0.02, 0.02, 1e-4, 0.02])
        >>> changes.label()
        {'fc': ['important', 'undecided', 'zero', 'worse']}
        >>> changes.label(reading="significance")
        {'fc': ['important', 'zero', 'zero', 'worse']}
        """
        check_options(alpha, tolerance, correction, reading)
        change, error = (self._measured(part) for part in (self, self.error))
        allowed = self._allowed(tolerance, reading)
        if reading == "significance":
            numbers = significance_numbers(change, error, alpha, allowed, correction)
        else:
            half = self._spread_of(alpha, correction, pooled).half_widths()
            numbers = practical_numbers(change, half, allowed, PRECISION * abs(self.base.loss))
        by_site = self._spread(numbers, LABELS.index("unmeasured"))
        return {name: [LABELS[n] for n in site.flatten().tolist()] for name, site in by_site.items()}

    def interval(
        self, alpha: float = 0.05, correction: Correction | None = "holm", pooled: bool = True
    ) -> dict[str, Tensor]:
        """Return the ends of each change's interval, ``(*shape, 2)``, float64; nan where it was not measured.

        It is change ± t · √((pooled + (n − 1) · error²) / n) over n samples, where pooled is the mean of error² over the
        site: each unit has one sample more, as wide as those of its site are, since the loss changes on few samples a
        lot and a unit may have seen the quiet ones alone (after G. K. Smyth, 2004, Linear models and empirical Bayes
        methods). t is Student's of n degrees of freedom, at `alpha` over the number of units.

        Args:
            alpha, correction: as `label` has them.
            pooled: False: change ± t · error, of n − 1 degrees; too narrow where the samples are few.

        >>> base = Base(1.0, 0.5, torch.zeros(2), 100, torch.tensor([50, 50]))
        >>> changes = UnitWorth(base, {"fc": torch.tensor([0.5])})
        >>> changes.error["fc"] = torch.tensor([0.1])
        >>> [round(end, 2) for end in changes.interval()["fc"][0].tolist()]
        [0.3, 0.7]
        """
        check_options(alpha, None, correction, "practical")
        change, half = self._measured(self), self._spread_of(alpha, correction, pooled).half_widths()
        ends = (self._spread(end, nan) for end in (change - half, change + half))
        return {name: torch.stack(pair, dim=-1) for name, pair in _zipped(*ends).items()}

    def images(
        self,
        alpha: float = 0.05,
        tolerance: float | None = None,
        correction: Correction | None = "holm",
        pooled: bool = True,
    ) -> dict[str, Tensor]:
        """Return about how many samples would decide each unit, were its change what was measured, float64.

        Those of units that are decided are no more than were measured on; inf where no number would do, nan where a unit
        was not measured.

        >>> base = Base(1.0, 0.5, torch.zeros(2), 100, torch.tensor([50, 50]))
        >>> changes = UnitWorth(base, {"fc": torch.tensor([0.101])})
        >>> changes.error["fc"] = torch.tensor([0.1])
        >>> changes.images()["fc"].round()                 # the interval, 0.101 ± 0.198, must end above 0.001
        tensor([394.], dtype=torch.float64)
        """
        check_options(alpha, tolerance, correction, "practical")
        spread = self._spread_of(alpha, correction, pooled)
        return self._spread(spread.images_needed(self._measured(self), self._allowed(tolerance, "practical")), nan)

    def summary(self, alpha: float = 0.05, tolerance: float | None = None) -> str:
        """Return how many units have each label, by either reading, and how many samples would decide the undecided.

        >>> base = Base(1.0, 0.5, torch.zeros(2), 100, torch.tensor([50, 50]))
        >>> changes = UnitWorth(base, {"fc": torch.tensor([0.5, 0.051, 0.0, -0.5])})
        >>> changes.error["fc"] = torch.tensor([0.1, 0.1, 1e-4, 0.1])
        >>> print(changes.summary())
        4 units on 100 samples, loss 1
        few samples, whose changes follow no normal law yet: labels by significance may be wrong; 1,000 and more are to be trusted
        practical (tolerance 0.1 % of the loss): 1 important, 0 zero, 1 worse, 2 undecided
        significance (zero: no evidence): 1 important, 2 zero, 1 worse
        about 2,206 samples would decide half of the undecided, 2,588 nine in ten
        """
        share = TOLERANCES["practical"] if tolerance is None else tolerance
        titles = {
            "practical": f"practical (tolerance {100 * share:g} % of the loss)",
            "significance": "significance (zero: no evidence)",
        }
        head = (
            f"{sum(x.numel() for x in self.values()):,} units on {self.base.count:,} samples, loss {self.base.loss:.4g}"
        )
        labels = {"practical": self.label(alpha, tolerance), "significance": self.label(alpha, reading="significance")}
        few = [FEW] if self.base.count < ENOUGH else []
        lines = [head, *few, *(f"{titles[reading]}: {_counts(by_site)}" for reading, by_site in labels.items())]
        needed = [
            count
            for name, counts in self.images(alpha, tolerance).items()
            for count, label in zip(counts.flatten().tolist(), labels["practical"][name], strict=True)
            if label == "undecided"
        ]
        if needed:
            half, most = (sorted(needed)[min(ceil(share * len(needed)), len(needed)) - 1] for share in (0.5, 0.9))
            lines.append(f"about {half:,.0f} samples would decide half of the undecided, {most:,.0f} nine in ten")
        return "\n".join(lines)

    def _spread_of(self, alpha: float, correction: Correction | None, pooled: bool) -> Uncertainty:
        """How sure the changes of the measured units are."""
        means = {
            name: torch.full_like(error, float(error[self.exact[name]].double().square().mean()))
            for name, error in self.error.items()
        }
        shared = self._measured(means) if pooled else None
        return Uncertainty.of(self._measured(self.error), shared, self.base.count, alpha, correction)

    def _allowed(self, tolerance: float | None, reading: str) -> float:
        """The change of the loss that does not matter."""
        return (TOLERANCES[reading] if tolerance is None else tolerance) * abs(self.base.loss)

    def _spread(self, values: Tensor, otherwise: float) -> dict[str, Tensor]:
        """Values of all measured units, in order, by site; `otherwise` where a unit was not measured."""
        by_site, start = {}, 0
        for name, exact in self.exact.items():
            stop = start + int(exact.sum())
            by_site[name] = torch.full(exact.shape, otherwise, dtype=values.dtype)
            by_site[name][exact.cpu()] = values[start:stop].cpu()
            start = stop
        return by_site

    def _measured(self, values: Mapping[str, Tensor]) -> Tensor:
        """The values of all units that were measured, in order."""
        return torch.cat([torch.zeros(0), *(values[name][self.exact[name]].flatten() for name in self)]).double()

    def frame(self) -> DataFrame:
        """Return a pandas table with a row for each unit: site, unit, loss change, its error and interval, accuracies.

        Besides its labels by either reading (``label``, ``significance``), about how many ``images`` would decide it, and
        whether the change is exact. The columns ``class 0``, ``class 1``, … are the changes of the accuracy on each class.
        ``unit`` counts along the site; that of a single weight is its place in the flattened weight.
        """
        labels, significance = self.label(), self.label(reading="significance")
        interval, images, rows = self.interval(), self.images(), []
        for name, change in self.items():
            ends = interval[name].reshape(-1, 2)
            columns = [change, self.error[name], ends[:, 0], ends[:, 1], self.accuracy[name], images[name]]
            classes = self.class_accuracy[name].reshape(change.numel(), -1).tolist()
            exact = self.exact[name].flatten().tolist()
            for unit, values in enumerate(zip(*(c.flatten().tolist() for c in columns), strict=True)):
                row: dict[str, object] = {"site": name, "unit": unit}
                row |= dict(zip(("loss", "error", "low", "high", "accuracy", "images"), values, strict=True))
                row |= {f"class {k}": value for k, value in enumerate(classes[unit])}
                row |= {"label": labels[name][unit], "significance": significance[name][unit], "exact": exact[unit]}
                rows.append(row)
        return require("pandas", "lab").DataFrame(rows)

    def __repr__(self) -> str:
        units = sum(x.numel() for x in self.values())
        return f"UnitWorth({units} units of {len(self)} sites, loss {self.base.loss:.4g} on {self.base.count} samples)"


def _zipped(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    return {name: (value, second[name]) for name, value in first.items()}


def _counts(labels: Mapping[str, list[str]]) -> str:
    counts = Counter(label for names in labels.values() for label in names)
    shown = ("important", "zero", "worse", "undecided", "unmeasured")
    return ", ".join(
        f"{counts[label]:,} {label}" for label in shown if label in ("important", "zero", "worse") or counts[label]
    )


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
