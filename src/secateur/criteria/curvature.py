"""Curvature: what a weight costs when the loss is a bowl around it (LeCun et al., 1990; Hassibi and Stork, 1993)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from secateur.criteria.base import LossCriterion
from secateur.criteria.fisher_blocks import check_blocks, fisher_blocks, saliencies
from secateur.criteria.parameter_gradients import Curvature, Objective, by_weight, check_curvature, coordinates
from secateur.criteria.weight_rows import Reduce, Side, check_reduce, check_side, parameters_of, unit_sums
from secateur.types import Sites

__all__ = ["OptimalBrainDamage", "OptimalBrainSurgeon"]


@dataclass(frozen=True)
class OptimalBrainDamage(LossCriterion):
    """Scores a weight by ½ h w², what the loss gains without it in a bowl of curvature h (LeCun et al., 1990).

    Slopes and the curvature between weights are left out. The diagonal h of the curvature is, by choice,

    - ``"gauss-newton"``, as the authors take it: exact for the outputs' loss, and linear in the network. One backward
      pass for each sample and class.
    - ``"fisher"``: its estimate from one label for each sample, drawn from the model's own outputs. One backward pass
      for each sample.
    - ``"empirical"``: the squared gradients of the samples' losses (diagonal empirical Fisher; Theis et al., 2018).
    - ``"hutchinson"``: the Hessian itself, estimated from random signs; two backward passes for each probe and batch,
      so the cheapest with large batches. It can be negative.

    A channel's score is the sum over the weights that produce it.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean over a batch.
        curvature: one of the above.
        probes: how many random vectors for each batch, with ``"hutchinson"``.
        seed: of what is drawn.
        side: the weights of a channel that count.
        reduce: how several weights of a tied group become one score; ``"joint"`` adds all up.
        batch_size: samples a pass, where the data are in memory.

    >>> import torch
    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, 2.0]])
    >>> data = [(torch.tensor([[3.0, 1.0]]), torch.zeros(1, 1))]     # (3 w1 + w2)²: second derivatives 18 and 2
    >>> OptimalBrainDamage(data, nn.functional.mse_loss)(model, weights(model))
    {'weight': tensor([[9.0..., 4.0...]])}
    """

    curvature: Curvature = "gauss-newton"
    probes: int = 1
    seed: int = 0
    side: Side = "incoming"
    reduce: Reduce = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_curvature(self, self.curvature, self.probes)
        check_side(self, self.side)
        check_reduce(self, self.reduce)

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, high = keep; each has its site's shape."""
        objective = Objective(model, sites, self.data, self.batch_size, self._loss, "OptimalBrainDamage")
        curved = objective.diagonal(self.curvature, self.probes, self.seed)
        parameters = {name: p.detach() for name, p in parameters_of(model, sites).items()}
        costs = {
            name: by_weight(h * coordinates(parameters[name]).double().square() / 2, parameters[name])
            for name, h in curved.items()
        }
        return unit_sums(costs, sites, self.side, self.reduce)


@dataclass(frozen=True)
class OptimalBrainSurgeon(LossCriterion):
    """Scores a weight by what the loss gains without it when all others make up for it: w² / 2 [F⁻¹]ᵢᵢ.

    The saliency of Hassibi and Stork (1993), with the Hessian taken as the empirical Fisher matrix, in blocks along each
    weight (WoodFisher: Singh and Alistarh, 2020). It says what is lost once the others are adjusted, so take the solver
    `secateur.solvers.WoodFisher`, which does that. One backward pass for each sample (or group of samples); memory is
    8 bytes · `block` a weight.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean over a batch.
        block: how many weights that follow each other make up for each other.
        damping: added to the diagonal, as a share of its mean.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: unfit data, sites of channels, or an option out of range.

    >>> import torch
    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, 2.0]])
    >>> data = [(torch.eye(2), torch.zeros(2, 1))]           # gradients (2, 0) and (0, 4), so F = diag(2, 8)
    >>> OptimalBrainSurgeon(data, nn.functional.mse_loss, damping=1e-9)(model, weights(model))
    {'weight': tensor([[ 1., 16.]])}
    """

    block: int = 64
    damping: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_blocks("OptimalBrainSurgeon", self.block, self.damping)

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, 0 or more; high = keep."""
        objective = Objective(model, sites, self.data, self.batch_size, self._loss, "OptimalBrainSurgeon")
        return saliencies(model, sites, fisher_blocks(objective, self.block, self.damping))
