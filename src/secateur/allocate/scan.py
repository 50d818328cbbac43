"""What each site bears: every one pruned alone, by several fractions, and the model rated each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.calls import usual
from secateur.checks import check_name, is_number
from secateur.copies import copied
from secateur.criteria.base import scores_of
from secateur.files import require
from secateur.labelled import Samples
from secateur.measure.quality import rated
from secateur.rate.masks import rate as rate_masks
from secateur.selection import select
from secateur.state import own_tensors
from secateur.structure import Structure, cut
from secateur.structure.flow import Flow
from secateur.structure.sites import check_same_model, masked_tensors
from secateur.types import Criterion, InputError, Keep, Loss, Metric, Scores, Sites

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Sensitivity", "SensitivityRow", "sensitivity"]

BATCH = 500

Rate = Callable[[nn.Module], object]
"""Rates a model: returns a number (a loss), figures by name, or a dataclass of figures such as `Evaluation`."""


@dataclass(frozen=True)
class SensitivityRow:
    """One site pruned alone.

    Attributes:
        site: its name.
        sparsity: the fraction that was asked for.
        removed, units: how many of how many units went.
        figures: what the model was rated at.
    """

    site: str
    sparsity: float
    removed: int
    units: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Sensitivity:
    """What a model is rated at with each of its sites pruned alone.

    Attributes:
        baseline: the figures of the whole model.
        rows: the sites in their order, the fractions in theirs.
    """

    baseline: Mapping[str, float]
    rows: tuple[SensitivityRow, ...]

    @property
    def units(self) -> dict[str, int]:
        """How many units each site has."""
        return {row.site: row.units for row in self.rows}

    def value(self, figure: str) -> float:
        """Return a figure of the whole model."""
        check_name("figure of the sensitivity scan", figure, self.baseline)
        return self.baseline[figure]

    def curve(self, site: str, figure: str) -> dict[int, float]:
        """Return a figure by the number of removed units, that of the whole model included."""
        check_name("site", site, self.units)
        return {0: self.value(figure)} | {row.removed: row.figures[figure] for row in self.rows if row.site == site}

    def losses(self, metric: str = "loss", minimum: int = 1) -> dict[str, list[float]]:
        """Return for each site the rise of a figure when 0, 1, 2, … units go, as far as was scanned.

        Between the scanned points it is a line.

        Args:
            metric: the figure; ``"-accuracy"`` takes one that is high = good.
            minimum: units that every site keeps at least.

        >>> Sensitivity({"loss": 1.0}, (SensitivityRow("a", 0.5, 2, 4, {"loss": 3.0}),)).losses()
        {'a': [0.0, 1.0, 2.0]}
        """
        sign, figure = (-1.0, metric[1:]) if metric.startswith("-") else (1.0, metric)
        losses = {}
        for site, units in self.units.items():
            points = sorted(self.curve(site, figure).items())
            most = min(points[-1][0], max(units - minimum, 0))
            rises = sign * (np.array([value for _, value in points]) - self.value(figure))
            losses[site] = np.interp(np.arange(most + 1), [removed for removed, _ in points], rises).tolist()
        return losses

    def frame(self) -> DataFrame:
        """Return a table with the columns site, sparsity, removed, units, and one for each figure."""
        rows = [{**{k: v for k, v in vars(row).items() if k != "figures"}, **row.figures} for row in self.rows]
        table: DataFrame = require("pandas", "lab").DataFrame(rows)
        return table


@usual
def sensitivity(
    model: nn.Module,
    sites: Sites,
    criterion: Criterion | Scores,
    sparsities: Sequence[float],
    evaluate: Rate | None = None,
    *,
    data: Samples | None = None,
    loss: str | Loss = "cross_entropy",
    metric: str | Metric | None = None,
    minimum: int = 1,
) -> Sensitivity:
    """Prune each site alone by each fraction, and rate the model each time, as it was before but for that site.

    Units are zeroed, not cut, which gives the same answers sooner; only where a norm takes statistics over a site's
    units the model is really cut. The model itself is left as it is.

    Args:
        model: the model that `sites` were found in.
        sites: from `channels`, `weights` or `blocks`.
        criterion: what says which units go first: a criterion, or scores that are there already.
        sparsities: the fractions of each site's units to remove, in [0, 1].
        evaluate: called with a model; returns its loss, figures by name, or an `Evaluation`.
        data: in its place, labelled samples to find the loss and the accuracy on.
        loss: of those samples: a name that `fit` takes, or a function of (outputs, targets).
        metric: of those samples too, as `evaluate` takes it; a figure called ``"metric"``.
        minimum: how many units every site keeps at least.

    Raises:
        InputError: no fractions, one outside [0, 1], or figures that are not numbers.

    >>> from secateur.criteria import Magnitude
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> for parameter in model.parameters():
    ...     _ = parameter.data.copy_(torch.arange(1.0, 1.0 + parameter.numel()).view_as(parameter))
    >>> x = torch.ones(1, 2)
    >>> found = sensitivity(model, channels(model, x), Magnitude(), [0.5], lambda m: m(x).item())
    >>> found.baseline, [(row.site, row.removed, row.figures) for row in found.rows]
    ({'loss': 23.0}, [('0', 1, {'loss': 19.0})])
    """
    check_same_model(model, sites)
    if isinstance(sparsities, (str, float, int)) or not list(sparsities):
        raise InputError(f"sensitivity: sparsities is {sparsities!r}; give a list of fractions, such as [0.25, 0.5]")
    if (evaluate is None) == (data is None):
        raise InputError("sensitivity: give evaluate, which rates a model, or data to find the loss on")
    rate: Rate = evaluate or partial(_figures_on, data=data, loss=loss, metric=metric)
    scores = scores_of(criterion, model, sites, "sensitivity") if callable(criterion) else criterion
    trial = copied(model)
    baseline = _figures(rate(trial))
    rows = []
    for name in sites:
        site_scores = {name: scores[name]}
        for sparsity in sparsities:
            keep = select(site_scores, sparsity, scope="layer", minimum=minimum)
            figures = _figures(_rated(model, trial, sites, keep, rate))
            removed = int((~keep[name]).sum())
            rows.append(SensitivityRow(name, float(sparsity), removed, keep[name].numel(), figures))
    return Sensitivity(baseline, tuple(rows))


def _figures_on(
    model: nn.Module, data: Samples | None, loss: str | Loss, metric: str | Metric | None
) -> dict[str, float]:
    assert data is not None
    further = {} if metric is None else {"metric": rated(model, data, metric, BATCH, "sensitivity")}
    rating = rate_masks(model, Sites({}), [{}], data, loss)
    accuracy = float(rating.accuracy[0])
    return {"loss": float(rating.losses[0]), **({} if isnan(accuracy) else {"accuracy": accuracy}), **further}


def _rated(model: nn.Module, trial: nn.Module, sites: Sites, keep: Keep, evaluate: Rate) -> object:
    if isinstance(sites.structure, Structure) and set(keep) & set(Flow(model, sites).partial):
        return evaluate(cut(model, sites, keep))
    with _replaced(trial, masked_tensors(model, sites, keep)):
        return evaluate(trial)


@contextmanager
def _replaced(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Put other values into some tensors of the model, and the old ones back."""
    tensor_by_name = own_tensors(model)
    before = {name: tensor_by_name[name].detach().clone() for name in tensors}
    try:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor_by_name[name].copy_(tensor)
        yield
    finally:
        with torch.no_grad():
            for name, tensor in before.items():
                tensor_by_name[name].copy_(tensor)


def _figures(evaluation: object) -> dict[str, float]:
    """The numbers in what `evaluate` returned, by name."""
    figures: Any = evaluation
    if isinstance(figures, Tensor) and figures.numel() == 1:
        figures = float(figures)
    if is_number(figures):
        return {"loss": float(figures)}
    if is_dataclass(figures) and not isinstance(figures, type):
        figures = asdict(figures)
    if isinstance(figures, Mapping):
        numbers = {str(k): float(v) for k, v in figures.items() if isinstance(v, (int, float))}
        if numbers:
            return numbers
    raise InputError(
        f"sensitivity: evaluate returned a {type(evaluation).__name__}; it must return a number, figures by name, "
        "or an Evaluation"
    )
