"""Activity: what channels answer on data (Hu et al., 2016; Molchanov et al., 2017; Çallı, 2017; Lin et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.fx import Node

from secateur.activations import activation_counts
from secateur.checks import check_name, check_number
from secateur.criteria.base import DataCriterion
from secateur.criteria.batches import moved
from secateur.criteria.weight_rows import Reduce, check_reduce, reduced
from secateur.state import check_finite, device_of
from secateur.structure.flow import Flow, Read
from secateur.structure.layers import MOVES
from secateur.structure.maps import feature_maps, watching
from secateur.structure.rules import op_name
from secateur.structure.sites import REPAIR
from secateur.types import InputError, Sites

__all__ = ["ActivationCount", "ActivationRank", "ActiveFraction", "MeanActivation"]


Place = Literal["map", "read"]
"""Where activations are looked at: at the feature map (see `secateur.structure.maps`), or where a layer reads them."""


@dataclass(frozen=True)
class ActiveFraction(DataCriterion):
    """Scores a channel by the fraction of its activations that are not zero: 1 − APoZ (Hu et al., 2016).

    Activations are those of the paper's maps: after the ReLU and before a pool, which leaves fewer zeros
    (``at="read"`` takes them where layers read them). Without a ReLU nearly none is zero, and `threshold` or another
    criterion says more.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs; the targets
            are not used.
        threshold: absolute values up to this count as zero.
        reduce: how several maps of a channel become one score; ``"joint"`` pools their activations.
        at: ``"map"``, or ``"read"``.
        batch_size: samples a pass, where the data are in memory.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> model[0].weight.data = torch.tensor([[1.0], [-1.0]])
    >>> data = [(torch.tensor([[1.0], [2.0], [3.0], [-1.0]]), torch.zeros(4))]
    >>> ActiveFraction(data)(model, channels(model, torch.zeros(1, 1)))
    {'0': tensor([0.7500, 0.2500])}
    """

    threshold: float = 0.0
    reduce: Reduce = "joint"
    at: Place = "map"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "[0, inf)", threshold=self.threshold)
        check_reduce(self, self.reduce)
        check_name("place of activations (at)", self.at, get_args(Place))

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, in [0, 1]; high = keep."""
        return _means(self, self.reduce, self.at, model, sites, self._active)

    def _active(self, read: Read, rows: Tensor) -> Tensor:
        return (rows.abs() > self.threshold).double()


@dataclass(frozen=True)
class ActivationCount(DataCriterion):
    """Scores a channel by how many of its activations are not zero (Çallı, 2017, sections 1.5.2 and 1.5.3).

    Counted over all samples and places, after the nonlinearity; `ActiveFraction` is the same as a probability. The
    thresholds of `secateur.selection` say which counts are too few: `AtMost`, `BelowQuantile`, `Outliers`.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs; the targets
            are not used.
        threshold: absolute values up to this count as zero.
        batch_size: samples a pass, where the data are in memory.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> model[0].weight.data = torch.tensor([[1.0], [-1.0]])
    >>> data = [(torch.tensor([[1.0], [2.0], [3.0], [-1.0]]), torch.zeros(4))]
    >>> ActivationCount(data)(model, channels(model, torch.zeros(1, 1)))
    {'0': tensor([3., 1.], dtype=torch.float64)}
    """

    threshold: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "[0, inf)", threshold=self.threshold)

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the counts; in float64, which holds them exactly."""
        counts = activation_counts(model, sites, self.data, threshold=self.threshold, batch_size=self.batch_size)
        return {name: site_counts.active.double() for name, site_counts in counts.items()}


@dataclass(frozen=True)
class MeanActivation(DataCriterion):
    """Scores a channel by the mean of its absolute activations (Molchanov et al., 2017, name the mean as a criterion).

    Activations are taken where layers read them.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs; the targets
            are not used.
        absolute: whether values below zero count by their size; False takes the plain mean.
        reduce: how several reads of a channel become one score; ``"joint"`` pools their activations.
        batch_size: samples a pass, where the data are in memory.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1))
    >>> model[0].weight.data = torch.tensor([[1.0], [-2.0]])
    >>> data = [(torch.tensor([[1.0], [-3.0]]), torch.zeros(2))]
    >>> MeanActivation(data)(model, channels(model, torch.zeros(1, 1)))
    {'0': tensor([2., 4.])}
    """

    absolute: bool = True
    reduce: Reduce = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduce(self, self.reduce)

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, high = keep."""
        return _means(self, self.reduce, "read", model, sites, self._size)

    def _size(self, read: Read, rows: Tensor) -> Tensor:
        return rows.abs().double() if self.absolute else rows.double()


@dataclass(frozen=True)
class ActivationRank(DataCriterion):
    """Scores a channel by the mean rank of its feature maps (HRank: Lin et al., 2020).

    A map is what one sample gives in one channel, height × width (a volume's last two dimensions taken as one), as the
    paper has it: after the ReLU and before a pool, which takes rank away (``at="read"`` takes it where layers read it;
    behind a `flatten` it is as it was before). A channel that has no map, as a neuron, is taken as a map of one row: its
    rank is 1 where it answers at all.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs; the targets
            are not used.
        reduce: how several maps of a channel become one score; ``"joint"`` pools them.
        at: ``"map"``, or ``"read"``.
        batch_size: samples a pass, where the data are in memory.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    >>> model[0].weight.data = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
    >>> data = [(torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]]), torch.zeros(1))]     # the identity, and zero
    >>> ActivationRank(data)(model, channels(model, torch.zeros(1, 1, 2, 2)))
    {'0': tensor([2., 0.])}
    """

    reduce: Reduce = "joint"
    at: Place = "map"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduce(self, self.reduce)
        check_name("place of maps (at)", self.at, get_args(Place))

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, 0 or more; high = keep."""
        return _means(self, self.reduce, self.at, model, sites, _ranks)


def _ranks(read: Read, rows: Tensor) -> Tensor:
    maps = rows.reshape(*rows.shape[:2], *_map_shape(read, rows.shape[2]))
    ranks: Tensor = torch.linalg.matrix_rank(maps)
    return ranks.unsqueeze(2).double()


def _map_shape(read: Read, values: int) -> tuple[int, int]:
    """Height and width of what one sample has in one channel, as it was before it was flattened."""
    node = read.source
    shape = list(node.meta["val"].shape)
    spatial = [size for dim, size in enumerate(shape) if dim not in (0, read.dim)]
    while len(spatial) < 2 or prod(spatial) != values:
        input_value = node.all_input_nodes[0].meta["val"] if len(node.all_input_nodes) == 1 else None
        if op_name(node) not in (*MOVES, "dropout") or not isinstance(input_value, Tensor):
            return 1, values
        node = node.all_input_nodes[0]
        spatial = list(input_value.shape[2:])
    return spatial[0], values // spatial[0]


Measure = Callable[[Read, Tensor], Tensor]
"""From what passes a read, ``(units, samples, values)``, to what is averaged over all but the units."""


def _means(
    of: DataCriterion, reduce: Reduce, at: Place, model: nn.Module, sites: Sites, measure: Measure
) -> dict[str, Tensor]:
    """The mean of what is measured at each map or read, and over these."""
    doing = type(of).__name__
    other = next((name for name, site in sites.items() if site.kind != "channel"), None)
    if other is not None:
        raise InputError(
            f"{doing} scores channels, which {other!r} does not have; take channels(model, example_inputs)"
        )
    check_finite(model, doing, REPAIR)
    flow, tally = Flow(model, sites), _Tally(measure)
    for batch in moved(of.data, of.batch_size, doing, device_of(model)):
        places = flow.reads(batch.inputs)
        if at == "map":
            places = feature_maps(flow.at(batch.inputs)[0], places)
        with torch.no_grad():
            flow(batch.inputs, see=tally.watch(places))
    return {name: tally.score(name, reduce, doing) for name in sites}


class _Tally:
    """Sums and counts of what is measured, by site and place."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self.sums: dict[str, dict[int, Tensor]] = {}
        self.counts: dict[str, dict[int, int]] = {}

    def watch(self, places: Mapping[str, tuple[Read, ...]]) -> Callable[[Node, Any], Any]:
        """Return what sees the ops run, and adds up what is in each source when its op has taken it."""
        numbers = {read: number for site_places in places.values() for number, read in enumerate(site_places)}
        return watching(numbers, lambda read, passing: self._add(numbers[read], read, passing))

    def _add(self, number: int, read: Read, passing: Tensor) -> None:
        values_by_unit = self.measure(read, read.rows(passing)).flatten(1)
        sums, counts = self.sums.setdefault(read.site, {}), self.counts.setdefault(read.site, {})
        sums[number] = sums.get(number, 0) + values_by_unit.sum(1)
        counts[number] = counts.get(number, 0) + values_by_unit.shape[1]

    def score(self, name: str, reduce: Reduce, doing: str) -> Tensor:
        """Return a site's means."""
        if name not in self.sums:
            raise InputError(
                f"{doing}: no layer reads the units of site {name!r}; leave it out: "
                f"channels(model, inputs, ignore=[{name!r}])"
            )
        sums, counts = list(self.sums[name].values()), list(self.counts[name].values())
        if reduce == "joint":
            return (torch.stack(sums).sum(0) / sum(counts)).float()
        means = [(read_sum / count).unsqueeze(1) for read_sum, count in zip(sums, counts, strict=True)]
        return reduced(means, lambda rows: rows[:, 0], reduce).float()
