"""Give units that the model does not need a new beginning, and train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.checks import check_name, check_number, check_whole
from secateur.criteria.loss_change import LossChange
from secateur.criteria.loss_change.labels import LABELS
from secateur.labelled import Data, batches, check_samples
from secateur.losses import loss_function
from secateur.models.initialisation import LAYER_SCHEMES, draw_weight
from secateur.randomness import private_draws
from secateur.structure.sites import channels
from secateur.train.callbacks import Callback, Run
from secateur.types import InputError, Loss, Member, Site, Sites

__all__ = ["Reinitialise", "reinitialise_units"]

Found = Mapping[str, list[int]]
"""The numbers of units, by site."""


@dataclass(frozen=True, eq=False)
class Reinitialise(Callback):
    """Draws the weights of zero and worse units anew every few epochs, and trains on (Charpentier, 2020, 4.3).

    Before an epoch the loss change of every unit is measured, and those with the labels given begin anew: their
    incoming weights by a scheme, their outgoing weights at zero (so that the outputs do not jump) or drawn too, biases
    at zero, norms as new; the optimiser's moments of all these are set to zero. It depends on nothing but the weights,
    the data and the seed, so a training that resumes from its checkpoint ends the same.

    Attributes:
        every: after how many epochs, each time; the last epoch is never followed by one.
        data: labelled samples to measure on: a `Split`, a pair (inputs, targets), or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean of its samples' losses.
        labels: which units begin anew, by significance (see `UnitWorth.label`).
        scheme: how incoming weights are drawn: one of the schemes of `secateur.models.initialise` that draw each layer by itself.
        outgoing: outgoing weights are drawn by the scheme and multiplied by this; 0 sets them to zero, None keeps them.
        cycles: how many times at most; None for no limit.
        seed: of the weights that are drawn.
        tolerance, alpha: of the labels; the tolerance is a share of the loss.
        at_random: the control: as many units of each site begin anew, but drawn at random among all of them.
        on_found: called with the epoch that begins and the units, by site.

    Raises:
        InputError: an option is out of range, or the model has no units that can be told apart.
        UnknownNameError: a label or scheme of no known name.

    >>> from secateur.train import fit
    >>> model, seen = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), []
    >>> with torch.no_grad():
    ...     _ = model[2].weight[:, 1].zero_()  # nothing reads unit 1
    >>> data = torch.randn(8, 2), torch.tensor([0, 1] * 4)
    >>> again = Reinitialise(1, data, on_found=lambda epoch, units: seen.append((epoch, 1 in units["0"])))
    >>> _ = fit(model, data, epochs=2, lr=1e-9, callbacks=[again])
    >>> seen
    [(2, True)]
    """

    every: int
    data: Data = field(repr=False)
    loss: str | Loss = "cross_entropy"
    labels: tuple[str, ...] = ("zero", "worse")
    scheme: str = "kaiming-uniform"
    outgoing: float | None = 0.0
    cycles: int | None = None
    seed: int = 0
    tolerance: float = 0.0
    alpha: float = 0.05
    at_random: bool = False
    on_found: Callable[[int, Found], object] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_whole(self, every=self.every)
        check_whole(self, 0, seed=self.seed)
        check_whole(self, 0, or_none=True, cycles=self.cycles)
        check_number(self, "(-inf, inf)", "without one the weights stay", or_none=True, outgoing=self.outgoing)
        check_samples(self.data, "Reinitialise")
        loss_function(self.loss)
        for label in self.labels:
            check_name("label", label, LABELS)
        check_name("initialisation", self.scheme, LAYER_SCHEMES)

    def identity(self) -> str:
        """Return the options; the data are not looked at."""
        loss = loss_function(self.loss)
        name = getattr(loss, "__qualname__", type(loss).__name__)
        options = (self.every, name, self.labels, self.scheme, self.outgoing, self.cycles, self.seed)
        return f"Reinitialise {options} {(self.tolerance, self.alpha)}{' at random' if self.at_random else ''}"

    def on_begin(self, run: Run) -> None:
        """Find the units and begin them anew, where it is time."""
        done = len(run.records)
        cycle, rest = divmod(done, self.every)
        if not done or rest or (self.cycles is not None and cycle > self.cycles):
            return
        sites = self._sites(run)
        labels = LossChange(self.data, self.loss)(run.model, sites).label(
            self.alpha, self.tolerance, reading="significance"
        )
        units = {
            name: [n for n, label in enumerate(unit_labels) if label in self.labels]
            for name, unit_labels in labels.items()
        }
        if self.at_random:
            draws = np.random.default_rng([self.seed, done, 1])
            units = {
                name: sorted(draws.permutation(sites[name].size)[: len(numbers)].tolist())
                for name, numbers in units.items()
            }
        # One number from two, so that no other seed gives the same weights in another epoch.
        seed = int(np.random.SeedSequence([self.seed, done]).generate_state(1)[0])
        with private_draws(seed):
            reinitialise_units(run.model, sites, units, self.scheme, self.outgoing, run.optimizer.state)
        if self.on_found is not None:
            self.on_found(done + 1, units)

    def _sites(self, run: Run) -> Sites:
        batch = next(batches(self.data, 2, "Reinitialise"))
        sites = channels(run.model, batch.rows(slice(2)).to(run.device).inputs)
        if not sites:
            raise InputError(
                "Reinitialise: the model has no units that could be removed; see channels(…).frozen for why"
            )
        return sites


def reinitialise_units(
    model: nn.Module,
    sites: Sites,
    units: Found,
    scheme: str = "kaiming-uniform",
    outgoing: float | None = 0.0,
    moments: Mapping[Tensor, Mapping[str, Any]] | None = None,
) -> None:
    """Draw the weights of units anew, in place, from the global random numbers.

    Args:
        model: the model, changed in place.
        sites: from `channels` on it.
        units: numbers of units, by site.
        scheme: how weights are drawn (see `secateur.models.initialise`), as for their whole layer.
        outgoing: what drawn outgoing weights are multiplied by; 0 sets them to zero, None keeps them.
        moments: an optimiser's ``state``; what it holds of the changed weights becomes zero.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> before = model[0].weight.detach().clone()
    >>> reinitialise_units(model, channels(model, torch.zeros(1, 2)), {"0": [1]})
    >>> (model[0].weight == before).all(1).tolist(), model[0].bias[1].item(), model[2].weight[0, 1].item()
    ([True, False], 0.0, 0.0)
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, numbers in units.items():
            if not numbers:
                continue
            site = sites[name]
            for member in site.members:
                if member.role == "in" and outgoing is None:
                    continue
                parameter = parameters[member.parameter]
                fresh = _fresh(model, member, parameter, scheme, outgoing)
                _put(parameter, member, numbers, fresh)
                for moment in (moments or {}).get(parameter, {}).values():
                    if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                        _put(moment, member, numbers, torch.zeros_like(moment))
            _forget_statistics(model, site, numbers)


def _fresh(model: nn.Module, member: Member, parameter: Tensor, scheme: str, outgoing: float | None) -> Tensor:
    """A whole parameter as it would begin."""
    fresh = torch.zeros_like(parameter)
    if parameter.ndim > 1:
        if member.role == "in" and not outgoing:
            return fresh
        draw_weight(model.get_submodule(member.parameter.rpartition(".")[0]), fresh, LAYER_SCHEMES[scheme])
        return fresh * outgoing if member.role == "in" and outgoing is not None else fresh
    # A norm begins with scales of one and shifts of zero.
    return fresh + 1 if member.role == "scale" and member.parameter.endswith("weight") else fresh


def _put(tensor: Tensor, member: Member, numbers: list[int], fresh: Tensor) -> None:
    """Take the units' entries from `fresh`."""
    assert member.dim is not None
    assert member.index is not None
    rows = member.index[numbers].flatten().to(tensor.device)
    tensor.index_copy_(member.dim, rows, fresh.index_select(member.dim, rows))


def _forget_statistics(model: nn.Module, site: Site, numbers: list[int]) -> None:
    """Running means and variances of norms over the units begin anew."""
    for member in site.members:
        norm = model.get_submodule(member.parameter.rpartition(".")[0])
        for name, value in (("running_mean", 0.0), ("running_var", 1.0)):
            statistic = getattr(norm, name, None)
            if isinstance(statistic, Tensor) and member.dim == 0:
                _put(statistic, member, numbers, torch.full_like(statistic, value))
