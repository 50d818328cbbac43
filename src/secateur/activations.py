"""What the units of a model answer on data, counted in one pass: how often they fire, and their moments.

Statistics of parts of the data merge into those of the whole, in any order: what workers counted apart adds up. Counts
and maxima are exact to the bit; means and variances merge by the update of Chan et al. (1979), in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.calls import usual
from secateur.checks import check_number, check_whole
from secateur.hints import Checked
from secateur.labelled import Samples, batches, check_samples, together
from secateur.state import check_finite, device_of
from secateur.structure.flow import Flow, Read, reads
from secateur.structure.infer import Structure
from secateur.structure.maps import MapPass, feature_maps
from secateur.structure.sites import REPAIR
from secateur.types import InputError, Sites

__all__ = ["UnitCounts", "UnitStatistics", "activation_counts", "activation_statistics"]

BATCH = 500
EXACT = 2**24
"""Ones that a sum in float32 holds exactly."""
PART = 2**20
"""Values of a map that stay in the cache until they are counted."""
PARTS, FEWEST = 20, 16
"""Parts that a pass has, so that tracing the model on one of them costs little; and samples of a part, as each reads all weights."""


@dataclass(eq=False)
class UnitCounts(Checked):
    """How often each unit of a site fires.

    Attributes:
        threshold: absolute values up to this count as zero.
        values: how many activations every unit had: samples × places.
        active: how many of them are not zero, int64 ``(units,)``; empty before anything was added.

    >>> first, second = UnitCounts(), UnitCounts()
    >>> first.add(torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]]))     # two units, one sample of two places
    >>> second.add(torch.tensor([[[3.0, 2.0]], [[0.0, 5.0]]]))
    >>> first.merge(second)
    >>> first.values, first.active.tolist(), first.fraction.tolist()
    (4, [3, 1], [0.75, 0.25])
    """

    threshold: float = 0.0
    values: int = 0
    active: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    @property
    def fraction(self) -> Tensor:
        """How often each unit fires: a probability, float64 ``(units,)``."""
        return self.active.double() / self.values

    def add(self, rows: Tensor) -> None:
        """Add a batch's activations, ``(units, samples, places)``."""
        self._add_along(rows, 0, torch.arange(len(rows), device=rows.device).unsqueeze(1))

    def add_read(self, read: Read, activations: Tensor, spent: bool = False) -> None:
        """Add what is in a map, without sorting it by unit; a `spent` one is overwritten, as new memory takes time."""
        self._add_along(activations, read.dim, read.index.to(activations.device), spent)

    def _add_along(self, activations: Tensor, dim: int, index: Tensor, spent: bool = False) -> None:
        """Add a map that has each unit at some positions of a dimension, ``(units, positions)``."""
        active_D = _active(activations, dim, self.threshold, spent)
        places = activations.numel() // activations.shape[dim]
        # By far the most units lie at one position.
        active = active_D[index[:, 0]] if index.shape[1] == 1 else active_D[index].sum(1)
        self._add(active, places * index.shape[1])

    def merge(self, other: UnitCounts) -> None:
        """Add what was counted on other data."""
        if other.values:
            self._check_alike(other)
            self._add(other.active, other.values)

    def _check_alike(self, other: UnitCounts) -> None:
        """Refuse counts of other units, or above another threshold."""
        if other.threshold != self.threshold:
            raise InputError(f"counts above {other.threshold} cannot be added to counts above {self.threshold}")
        self._check_units(other.active)

    def _check_units(self, of_units: Tensor) -> None:
        if self.values and of_units.shape != self.active.shape:
            raise InputError(
                f"what was counted of {of_units.numel()} units cannot be added to counts of {self.active.numel()}; "
                "merge only what is of the same site of the same model"
            )

    def _add(self, active: Tensor, values: int) -> None:
        self._check_units(active)
        self.active = self.active.to(active.device) + active if self.values else active
        self.values += values


@dataclass(eq=False)
class UnitStatistics(Checked):
    """What each unit of a site answers; all tensors ``(units,)`` and float64 but the counts.

    Attributes:
        counts: how often each fires.
        mean, mean_absolute, maximum: of its activations.
        deviations: the sum of their squared deviations from the mean.

    >>> statistics = UnitStatistics()
    >>> for batch in ([[[1.0, -3.0]]], [[[2.0, 0.0]]]):
    ...     statistics.add(torch.tensor(batch))
    >>> [float(x) for x in (statistics.mean, statistics.mean_absolute, statistics.variance, statistics.maximum)]
    [0.0, 1.5, 3.5, 2.0]
    """

    counts: UnitCounts = field(default_factory=UnitCounts)
    mean: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    mean_absolute: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    deviations: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    maximum: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    @property
    def variance(self) -> Tensor:
        """The variance of each unit's activations, over all of them (not one less)."""
        return self.deviations / self.counts.values

    def add(self, rows: Tensor) -> None:
        """Add a batch's activations, ``(units, samples, places)``."""
        self._add(rows, 0, torch.arange(len(rows), device=rows.device).unsqueeze(1))

    def add_read(self, read: Read, activations: Tensor, spent: bool = False) -> None:
        """Add what is in a map, without sorting it by unit."""
        self._add(activations, read.dim, read.index.to(activations.device))

    def _add(self, activations: Tensor, dim: int, index: Tensor) -> None:
        """Add a map that has each unit at some positions of a dimension, ``(units, positions)``."""
        counts = UnitCounts(self.counts.threshold)
        counts._add_along(activations, dim, index)
        others = _other_dims(activations, dim)
        values = activations.double()
        mean_D = values.mean(others, keepdim=True)
        # Behind a ReLU each value is its own size, and one pass over them is saved.
        sizes_D = mean_D if bool(activations.min() >= 0) else values.abs().mean(others, keepdim=True)
        squares_D = (values - mean_D).square_().sum(others)
        of_units = [part.flatten()[index] for part in (mean_D, sizes_D, squares_D, activations.amax(others).double())]
        means, sizes, squares, greatest = of_units
        mean = means.mean(1)
        # The squared deviations from a unit's mean: those from the mean of each of its positions, and these means' own.
        between = activations.numel() // mean_D.numel() * (means - mean.unsqueeze(1)).square()
        self.merge(UnitStatistics(counts, mean, sizes.mean(1), (squares + between).sum(1), greatest.amax(1)))

    def merge(self, other: UnitStatistics) -> None:
        """Add the statistics of other data: those of both together."""
        if not other.counts.values:
            return
        self.counts._check_alike(other.counts)
        for of_units in (other.mean, other.mean_absolute, other.deviations, other.maximum):
            self.counts._check_units(of_units)
        if not self.counts.values:
            self.mean, self.mean_absolute = other.mean, other.mean_absolute
            self.deviations, self.maximum = other.deviations, other.maximum
        else:
            self._combine(other)
        self.counts.merge(other.counts)

    def _combine(self, other: UnitStatistics) -> None:
        # With the share s = m / (n + m) of the other's m values among all, and δ the difference of the means:
        # mean + s·δ, and the squared deviations add up with n·s·δ² (Chan, Golub and LeVeque, 1979).
        n, m = self.counts.values, other.counts.values
        share, difference = m / (n + m), other.mean - self.mean
        self.mean = self.mean + share * difference
        self.mean_absolute = self.mean_absolute + share * (other.mean_absolute - self.mean_absolute)
        self.deviations = self.deviations + other.deviations + n * share * difference.square()
        self.maximum = torch.maximum(self.maximum, other.maximum)


@usual
def activation_counts(
    model: nn.Module, sites: Sites, data: Samples, *, threshold: float = 0.0, batch_size: int = BATCH
) -> dict[str, UnitCounts]:
    """Return how often each unit fires on the data, in one pass, by site.

    Activations are those of the units' maps (`secateur.structure.maps`): after the nonlinearity where there is one, and before
    a pool. A map that several layers read is counted once.

    Args:
        model: in evaluation mode or not, it is run as in evaluation, and left as it is.
        sites: from `channels` on this model.
        data: the split to count on, of any kind that `fit` takes; targets are not used.
        threshold: absolute values up to this count as zero.
        batch_size: samples a pass at most, where the data are in memory; fewer where their maps would not stay in the cache.

    Raises:
        InputError: sites of single weights or of another model, units that no layer reads, NaN in the model.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> model[0].weight.data = torch.tensor([[1.0], [-1.0]])
    >>> data = torch.tensor([[1.0], [2.0], [3.0], [-1.0]]), torch.zeros(4)
    >>> activation_counts(model, channels(model, torch.zeros(1, 1)), data)["0"].active.tolist()
    [3, 1]
    """
    check_number("activation_counts", "[0, inf)", threshold=threshold)
    return _one_pass(model, sites, data, batch_size, "activation_counts", lambda: UnitCounts(threshold))


@usual
def activation_statistics(
    model: nn.Module, sites: Sites, data: Samples, *, threshold: float = 0.0, batch_size: int = BATCH
) -> dict[str, UnitStatistics]:
    """Return what each unit answers on the data, in one pass, by site; the arguments are those of `activation_counts`.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> model[0].weight.data = torch.tensor([[2.0], [-1.0]])
    >>> data = torch.tensor([[1.0], [3.0]]), torch.zeros(2)
    >>> statistics = activation_statistics(model, channels(model, torch.zeros(1, 1)), data)["0"]
    >>> statistics.mean.tolist(), statistics.variance.tolist()
    ([4.0, 0.0], [4.0, 0.0])
    """
    check_number("activation_statistics", "[0, inf)", threshold=threshold)
    return _one_pass(
        model, sites, data, batch_size, "activation_statistics", lambda: UnitStatistics(UnitCounts(threshold))
    )


class _Collects(Protocol):
    def add_read(self, read: Read, activations: Tensor, spent: bool) -> None: ...


Collected = TypeVar("Collected", bound=_Collects)


def _one_pass(
    model: nn.Module, sites: Sites, data: Samples, batch_size: int, doing: str, empty: Callable[[], Collected]
) -> dict[str, Collected]:
    """What `empty` makes for each site, with everything added that passes its reads."""
    check_whole(doing, batch_size=batch_size)
    check_samples(data, doing)
    check_finite(model, doing, REPAIR)
    flow, collected = Flow(model, sites), {name: empty() for name in sites}

    def add(read: Read, activations: Tensor, spent: bool) -> None:
        collected[read.site].add_read(read, activations, spent)

    run = MapPass(flow, add, partial(_maps, doing))
    device = device_of(model)
    with torch.no_grad():
        for batch in batches(data, _part_size(sites, data, batch_size), doing):
            run(batch.to(device).inputs)
    return collected


def _maps(doing: str, structure: Structure, reads: Mapping[str, tuple[Read, ...]]) -> dict[str, tuple[Read, ...]]:
    """The maps of each site, which must have some."""
    maps_by_site = feature_maps(structure, reads)
    for name, maps in maps_by_site.items():
        if not maps:
            raise InputError(
                f"{doing}: no layer reads the units of site {name!r}; leave it out: "
                f"channels(model, inputs, ignore=[{name!r}])"
            )
    return maps_by_site


def _part_size(sites: Sites, data: Samples, most: int) -> int:
    """How many samples run at once, where they are in memory; see `PART`, `PARTS` and `FEWEST`."""
    whole = together(data)
    if whole is None:
        return most
    size = min(most, _samples_in_cache(sites), max(len(whole) // PARTS, FEWEST))
    # Parts of another size are traced anew, so all are of one where a size near by allows it.
    return next((near for near in range(size, size // 2, -1) if len(whole) % near == 0), size)


def _samples_in_cache(sites: Sites) -> int:
    """How many samples have maps that stay in the cache until they are counted, at least `FEWEST`."""
    structure = sites.structure
    if not isinstance(structure, Structure):
        return FEWEST  # the sites are refused when the model runs
    inputs = tree_leaves((structure.graph.args, structure.graph.kwargs))
    samples = next((len(x) for x in inputs if isinstance(x, Tensor) and x.ndim), 1)
    maps = [read for site_maps in feature_maps(structure, reads(structure)).values() for read in site_maps]
    largest = max((read.source.meta["val"].numel() for read in maps), default=1)
    return max(PART * samples // max(largest, 1), FEWEST)


def _other_dims(activations: Tensor, dim: int) -> list[int]:
    return [other for other in range(activations.ndim) if other != dim]


def _active(activations: Tensor, dim: int, threshold: float, spent: bool) -> Tensor:
    """How many entries are above the threshold in size, along all other dimensions, int64; NaN counts as not zero."""
    others = _other_dims(activations, dim)
    if activations.numel() <= PART or not dim:
        return _above(activations, others, threshold, spent)
    # What stays in the cache between marking and summing is counted many times as fast.
    samples = max(PART // max(activations[0].numel(), 1), 1)
    parts = activations.split(samples)  # type: ignore[no-untyped-call]
    return torch.stack([_above(part, others, threshold, spent) for part in parts]).sum(0)


def _above(part: Tensor, others: list[int], threshold: float, spent: bool) -> Tensor:
    """The same of a part, which is overwritten if it is spent."""
    # Ones are written in the part's own type: tensors of bool, and their sums, take ten times as long.
    ones = part if spent else part.clone()
    ones = ones.abs_().le_(threshold).neg_().add_(1) if threshold else ones.ne_(0)
    exact = part.numel() <= EXACT
    return ones.sum(others, dtype=torch.float32).long() if exact else torch.count_nonzero(ones, dim=others)
