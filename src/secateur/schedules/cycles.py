"""Train, count, cut what is silent, and again until nothing is (Çallı, 2017, section 2.2.1; after Hu et al., 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.checks import check_whole
from secateur.labelled import Data
from secateur.result import Result
from secateur.schedules.options import check_rating
from secateur.schedules.shrinking import Shrinking, loss_and_accuracy
from secateur.schedules.walk import Schedule, Walk
from secateur.selection import AtMost, Rule, checked_masks
from secateur.state import snapshot
from secateur.structure.infer import Structure
from secateur.types import Criterion, InputError, Loss, brief

__all__ = ["CycleTraining", "Cycles"]


class CycleTraining(Protocol):
    """What trains between the cuts: `secateur.train.TrainCycle`, or one of your own."""

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Return the optimizer of all cycles, for the unpruned model."""
        ...

    def __call__(self, model: nn.Module, optimizer: Optimizer, cycle: int) -> object:
        """Train the model in place with the optimizer; `cycle` counts from 1."""
        ...


@dataclass(frozen=True)
class Cycles(Schedule):
    """Trains some epochs, scores, cuts what a threshold says, and goes on with the smaller model until nothing goes.

    The model is really cut between the cycles, each cut verified, and the optimizer goes on with the moments of what is
    left. It ends when `patience` cycles in a row removed nothing, after `cycles` cycles, when every site is down to its
    minimum, or before a cycle that would leave a site with fewer: then the last good model, that of the cycle before, is
    the result; of the first cycle, the model as it is trained, uncut. ``history.ending`` says which it was.

    Attributes:
        criterion: what scores after each training: `ActivationCount` in the text.
        train: what trains; see `CycleTraining`.
        rule: which scores are too low: `AtMost`, `BelowQuantile`, `Outliers`, or a function from scores to masks.
        cycles: how many cycles at most.
        patience: how many cycles in a row may remove nothing before it ends; more than 1 where chance has a hand in it.
        data: labelled samples to log the loss on, after each cut; None logs none.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean of its samples' losses.
        minimum: how many units every site keeps at least.

    >>> import torch
    >>> from secateur.criteria import ActivationCount
    >>> from secateur.structure import channels
    >>> from secateur.train import TrainCycle, TrainOptions
    >>> data = torch.rand(64, 2), torch.rand(64, 1)
    >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> with torch.no_grad():
    ...     _ = model[0].weight.abs_(), model[0].bias.copy_(torch.tensor([1.0, -9.0, 1.0, 1.0]))    # unit 1 never fires
    >>> train = TrainCycle(data, TrainOptions(epochs=1, loss="mse", optimizer="sgd", lr=1e-3))
    >>> pruned = Cycles(ActivationCount(data), train)(model, channels(model, torch.zeros(1, 2)))
    >>> [step.units for step in pruned.history.steps], pruned.model[0].out_features
    ([(('0', 1),), ()], 3)
    >>> pruned.history.ending
    'cycle 2 removed nothing'
    """

    criterion: Criterion
    train: CycleTraining
    rule: Rule = field(default_factory=AtMost)
    cycles: int = 25
    patience: int = 1
    data: Data | None = field(default=None, repr=False)
    loss: str | Loss = "cross_entropy"
    minimum: int = 1

    def __post_init__(self) -> None:
        check_whole(self, cycles=self.cycles, patience=self.patience)
        check_rating(self)
        check_whole(self, 1, "the units that every site keeps", minimum=self.minimum)
        if not callable(self.train) or not callable(getattr(self.train, "optimizer", None)):
            raise InputError(
                f"Cycles: train={brief(self.train)} has no optimizer(model), which makes the one that all cycles share; "
                "give a secateur.train.TrainCycle, or an object of your own with it (see CycleTraining)"
            )

    def _prune(self, walk: Walk) -> Result:
        if not isinstance(walk.sites.structure, Structure):
            raise InputError("Cycles cuts channels; find the sites with channels(model, example_inputs)")
        optimizer_tensors = {n: walk.tensors.pop(n) for n in list(walk.tensors) if n.startswith(OPTIMIZER)}
        now = Shrinking.of(walk, masked=False)
        optimizer = self.train.optimizer(now.model)
        _load(optimizer, now.model, optimizer_tensors)
        walk.begin(*loss_and_accuracy(walk.model, self.data, self.loss))
        ending = ""
        while not (ending := self._ending(walk, now)):
            before = deepcopy(now.model)
            if ending := self._cycle(walk, now, optimizer):
                if walk.steps:
                    now.model = before
                break
        result = walk.finish(now.model)
        return replace(result, history=replace(result.history, ending=ending))

    def _cycle(self, walk: Walk, now: Shrinking, optimizer: Optimizer) -> str:
        """Train, score and cut; return why that cannot be, where it would leave too few units."""
        cycle = len(walk.steps) + 1
        self.train(now.model, optimizer, cycle)
        keep = checked_masks(self.rule, self.criterion(now.model, now.sites), "Cycles")
        emptied = _too_few(keep, self.minimum)
        if emptied:
            last_good = "that of the cycle before" if cycle > 1 else "as that cycle trained it, uncut"
            return f"cycle {cycle} would leave {emptied}; the model is {last_good}"
        gone = now.remove(keep, optimizer)
        walk.tensors = {**snapshot(now.model), **_state(optimizer, now.model)}
        walk.remove(gone, *loss_and_accuracy(now.model, self.data, self.loss))
        return ""

    def _ending(self, walk: Walk, now: Shrinking) -> str:
        """Why it is over after the cycles that are done; empty where it is not."""
        done, quiet = len(walk.steps), 0
        while quiet < done and not walk.steps[done - 1 - quiet].units:
            quiet += 1
        if quiet >= self.patience:
            return f"cycle {done} removed nothing" if quiet == 1 else f"the last {quiet} cycles removed nothing"
        if done and not any(site.size > self.minimum for site in now.sites.values()):
            return f"after cycle {done} every site is down to {self.minimum}"
        return f"{done} cycles were the cap" if done >= self.cycles else ""


def _too_few(keep: Mapping[str, Tensor], minimum: int) -> str:
    """Which sites masks leave with too few units, in words; empty where none."""
    counts = {name: int(site_mask.sum()) for name, site_mask in keep.items()}
    few = [
        f"{name!r} with {counts[name]} of {keep[name].numel()} units"
        for name in keep
        if counts[name] < min(minimum, keep[name].numel())
    ]
    return ", ".join(few)


OPTIMIZER = "optimizer "
"""Begins the names of an optimizer's tensors in a checkpoint; no tensor of a model has a space in its name."""


def _state(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """An optimizer's tensors, by its parameters' names."""
    return {
        f"{OPTIMIZER}{name} {key}": value.detach().clone()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _load(optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put such tensors back."""
    parameters = dict(model.named_parameters())
    for entry, value in tensors.items():
        _, name, key = entry.split(" ")
        scalar = value.ndim == 0  # a count of steps stays where torch keeps it
        optimizer.state[parameters[name]][key] = value if scalar else value.to(parameters[name].device)
