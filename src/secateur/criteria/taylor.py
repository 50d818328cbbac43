"""Taylor: what the loss would change by, to first order, from gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.checks import check_name, check_whole
from secateur.criteria.base import LossCriterion
from secateur.criteria.batches import moved
from secateur.criteria.unit_gradients import Gated, by_unit, estimate, gradient, real_product
from secateur.criteria.weight_rows import parameters_of
from secateur.losses import answers, check_answers, check_slope, gives_numbers, is_cross_entropy
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
    measures, and is what pruning wants. Two other readings are what most tools ship; they count a unit that hurts as one
    that helps:

    - ``"absolute"`` (Molchanov et al., 2017): the absolute value of each sample's change, averaged over samples, and
      divided by the Euclidean norm of the site's scores, as the paper does so that layers compare at global scope.
    - ``"squared"`` (Molchanov et al., 2019): the square of the change to a minibatch's mean loss, averaged over
      minibatches; `minibatch=1` squares sample by sample.

    A unit's `reads` show all of it but two things. Where a norm takes statistics over the units, that those change is
    left out. Where a recurrent layer reads its own units, its recurrent weights stand in for the reads in its loop.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean over a batch.
        sign: ``"signed"``, ``"absolute"`` or ``"squared"``; None is signed for classes, and absolute where outputs are
            numbers (one column, or targets that are floats under another loss than the cross-entropy): the units that are
            lowest with their sign all push such an output the same way, and removed together they do the greatest harm.
        on: for channels, ``"activations"``, or ``"weights"``: weight times gradient, summed over the weights and biases
            that produce the unit, and over all data before the sign is dropped (over each minibatch before the square,
            as Molchanov et al., 2019, have it). Single weights and blocks, which have no
            activations of their own, are always scored by their weights.
        normalise: whether to divide each site's scores by their Euclidean norm; None does so for the absolute value.
        minibatch: how many samples' gradients are averaged before they are squared, with ``"squared"``; the paper takes
            the minibatches of training.
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
    normalise: bool | None = None
    minibatch: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, minibatch=self.minibatch)
        check_name("sign", self.sign, SIGNS, or_none=True)
        check_name("place of the gates (on)", self.on, GATED)

    @property
    def adds_up(self) -> bool:
        """Whether each estimates the change without one unit, with its sign."""
        return (self.sign == "signed" or (self.sign is None and is_cross_entropy(self.loss))) and not self.normalise

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, high = keep; each has its site's shape."""
        if self.on == "weights" or any(site.kind != "channel" for site in sites.values()):
            return self._on_weights(model, sites)
        signs: set[str] = set()

        def sums(batch: Gated) -> dict[str, Tensor]:
            signs.add(sign := self._sign(batch.numbers))
            return self._sums(batch, sign)

        scores = estimate(Flow(model, sites), self.data, self.batch_size, self._loss, "Taylor", sums)
        return self._normal(scores, signs.pop())

    def _sign(self, numbers: bool) -> str:
        return self.sign or ("absolute" if numbers else "signed")

    def _normal(self, scores: dict[str, Tensor], sign: str) -> dict[str, Tensor]:
        """The scores, each site's divided by their norm where that is asked for (Molchanov et al., 2017, section 2.3)."""
        if not (sign == "absolute" if self.normalise is None else self.normalise):
            return scores
        norms = {name: score.norm() for name, score in scores.items()}
        return {name: score / torch.where(norms[name] > 0, norms[name], 1) for name, score in scores.items()}

    def _sums(self, batch: Gated, sign: str) -> dict[str, Tensor]:
        along = gradient(batch.outputs, batch.targets, batch.loss)
        loops = batch.loops(along)
        size = self.minibatch if sign == "squared" else 1
        sums_by_site = {name: _summed(rows, sign, size) for name, rows in batch.changes(along).items()}
        # What a loop does is known only for the batch as a whole.
        return sums_by_site | {
            name: sums_by_site.get(name, 0) + _summed(loop.unsqueeze(0) / batch.count, sign, 1) * batch.count
            for name, loop in loops.items()
        }

    def _on_weights(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """The same by weight times gradient: of the mean loss over all data, or of each minibatch's, squared."""
        parameters = {name: p.detach() for name, p in parameters_of(model, sites).items()}
        squared = self.sign == "squared"
        totals: dict[str, Tensor] = {}
        count, numbers = 0, False
        for slopes, size, numbers in self._slopes(model, sites):  # noqa: B007  (the last one is asked for below)
            changes = {
                name: -real_product(parameters[name], slope.to(torch.promote_types(slope.dtype, torch.float64)))
                for name, slope in slopes.items()
            }
            for name, site in sites.items():
                change = _of_site(changes, site)
                totals[name] = totals.get(name, 0) + (change.square() if squared else change) * size
            count += size
        means = {
            name: (total / count).to(parameters[sites[name].members[0].parameter].dtype.to_real())
            for name, total in totals.items()
        }
        sign = "signed" if squared else self._sign(numbers)
        return self._normal({name: _signed(mean, sign) for name, mean in means.items()}, sign)

    def _slopes(self, model: nn.Module, sites: Sites) -> Iterator[tuple[dict[str, Tensor], int, bool]]:
        """The gradients of the mean losses by each parameter of the sites, of how many samples, and if outputs are numbers."""
        check_finite(model, "Taylor", REPAIR)
        needed = {member.parameter for site in sites.values() for member in site.members}
        leaves = {n: p.detach().requires_grad_() for n, p in parameters_of(model, sites).items() if n in needed}
        for number, batch in enumerate(moved(self.data, self.batch_size, "Taylor", device_of(model)), 1):
            for part in batch.split(self.minibatch if self.sign == "squared" else len(batch)):
                with evaluating(model), torch.enable_grad():
                    outputs = answers(
                        part.run(lambda *args, **kwargs: run_with(model, leaves, args, kwargs)), self.loss
                    )
                    check_answers(outputs, part.targets, self.loss, f"Taylor, batch {number}")
                    mean = self._loss(outputs, part.targets)
                    check_slope(mean)
                    grads = torch.autograd.grad(mean, list(leaves.values()), allow_unused=True)
                slopes = {
                    name: torch.zeros_like(leaf) if grad is None else grad
                    for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
                }
                yield slopes, len(part), gives_numbers(self.loss, outputs, part.targets)


def _signed(changes: Tensor, sign: str) -> Tensor:
    if sign == "signed":
        return changes
    return changes.abs() if sign == "absolute" else changes.square()


def _summed(changes: Tensor, sign: str, size: int) -> Tensor:
    """The sum over samples, ``(samples, units)``, of what is signed of the mean of each `size` of them."""
    if size == 1:
        return _signed(changes, sign).sum(0)
    return torch.stack([_signed(part.mean(0), sign) * len(part) for part in torch.split(changes, size)]).sum(0)


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
