"""Taylor: what the loss would change by, to first order, from gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.checks import check_name
from secateur.criteria.base import LossCriterion
from secateur.criteria.batches import moved
from secateur.criteria.unit_gradients import Gated, by_unit, estimate, gradient
from secateur.criteria.weight_rows import parameters_of
from secateur.losses import answers, check_answers, check_slope, gives_numbers
from secateur.state import check_finite, device_of, evaluating
from secateur.structure.flow import Flow
from secateur.structure.sites import REPAIR
from secateur.types import Site, Sites
from secateur.untouched import run_with

__all__ = ["Taylor"]

SIGNS = ("signed", "absolute", "squared")
GATED = ("activations", "weights")


@dataclass(frozen=True)
class Taylor(LossCriterion):
    """Scores a unit by the first-order estimate of how the mean loss changes when it alone is removed.

    For a channel the estimate is minus activation times gradient, summed over all that passes where layers read it, and
    averaged over samples; for a single weight minus the weight times its gradient. Signed, it estimates what `LossChange`
    measures, and is what pruning wants. The absolute value (Molchanov et al., 2017) and the square (Molchanov et al.,
    2019), taken sample by sample for activations, are what most tools ship; they count a unit that hurts as one that
    helps.

    A unit's `reads` show all of it but two things. Where a norm takes statistics over the units, that those change is
    left out. Where a recurrent layer reads its own units, its recurrent weights stand in for the reads in its loop.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean over a batch.
        sign: ``"signed"``, ``"absolute"`` or ``"squared"``; None is signed for classes, and absolute where outputs are
            numbers (one column, or targets that are floats under another loss than the cross-entropy): the units that are
            lowest with their sign all push such an output the same way, and removed together they do the greatest harm.
        on: for channels, ``"activations"``, or ``"weights"``: weight times gradient, summed over the weights and biases
            that produce the unit, and over all data before sign and square. Single weights and blocks, which have no
            activations of their own, are always scored by their weights.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: unfit data, or NaN in the model or its outputs.
        UnknownNameError: another `sign` or `on`.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> model[0].weight.data, model[1].weight.data = torch.tensor([[2.0], [1.0]]), torch.tensor([[3.0, -1.0]])
    >>> data = [(torch.ones(1, 1), torch.zeros(1, 1))]           # the output is 2·3 − 1 = 5
    >>> Taylor(data, lambda y, t: y.sum(), sign="signed")(model, channels(model, torch.ones(1, 1)))
    {'0': tensor([-6.,  1.])}
    """

    sign: Literal["signed", "absolute", "squared"] | None = None
    on: Literal["activations", "weights"] = "activations"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("sign", self.sign, SIGNS, or_none=True)
        check_name("place of the gates (on)", self.on, GATED)

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, high = keep; each has its site's shape."""
        if self.on == "weights" or any(site.kind != "channel" for site in sites.values()):
            return self._on_weights(model, sites)
        return estimate(Flow(model, sites), self.data, self.batch_size, self._loss, "Taylor", self._sums)

    def _sums(self, batch: Gated) -> dict[str, Tensor]:
        along = gradient(batch.outputs, batch.targets, batch.loss)
        loops = batch.loops(along)
        sums_by_site = {name: self._signed(rows, batch.numbers).sum(0) for name, rows in batch.changes(along).items()}
        # What a loop does is known only for the batch as a whole.
        return sums_by_site | {
            name: sums_by_site.get(name, 0) + self._signed(loop, batch.numbers) for name, loop in loops.items()
        }

    def _signed(self, changes: Tensor, numbers: bool) -> Tensor:
        sign = self.sign or ("absolute" if numbers else "signed")
        if sign == "signed":
            return changes
        return changes.abs() if sign == "absolute" else changes.square()

    def _on_weights(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        slopes, numbers = self._slopes(model, sites)
        parameters = parameters_of(model, sites)
        changes = {name: -slope * parameters[name].detach() for name, slope in slopes.items()}
        return {name: self._signed(_of_site(changes, site), numbers) for name, site in sites.items()}

    def _slopes(self, model: nn.Module, sites: Sites) -> tuple[dict[str, Tensor], bool]:
        """The gradient of the mean loss for each parameter of the sites, and whether the outputs are numbers."""
        check_finite(model, "Taylor", REPAIR)
        needed = {member.parameter for site in sites.values() for member in site.members}
        leaves = {n: p.detach().requires_grad_() for n, p in parameters_of(model, sites).items() if n in needed}
        totals = {name: torch.zeros_like(leaf, dtype=torch.float64) for name, leaf in leaves.items()}
        count, numbers = 0, False
        with evaluating(model), torch.enable_grad():
            for number, batch in enumerate(moved(self.data, self.batch_size, "Taylor", device_of(model)), 1):
                outputs = answers(batch.run(lambda *args, **kwargs: run_with(model, leaves, args, kwargs)), self.loss)
                check_answers(outputs, batch.targets, self.loss, f"Taylor, batch {number}")
                mean = self._loss(outputs, batch.targets)
                check_slope(mean)
                grads = torch.autograd.grad(mean, list(leaves.values()), allow_unused=True)
                for name, grad in zip(leaves, grads, strict=True):
                    if grad is not None:
                        totals[name].add_(grad, alpha=len(batch))
                count, numbers = count + len(batch), gives_numbers(self.loss, outputs, batch.targets)
        return {name: (total / count).to(leaves[name].dtype) for name, total in totals.items()}, numbers


def _of_site(changes: dict[str, Tensor], site: Site) -> Tensor:
    """The sums over the weights that produce each unit; all members' where none does."""
    if site.kind == "weight":
        return changes[site.name]
    if site.kind == "block":
        return torch.stack(
            [
                sum((changes[m.parameter].sum() for m in site.members if m.unit == u), torch.zeros(()))
                for u in range(site.size)
            ]
        )
    producers = [m for m in site.members if m.role == "out"] or list(site.members)
    return torch.stack([by_unit(changes[m.parameter], m) for m in producers]).sum(0)
