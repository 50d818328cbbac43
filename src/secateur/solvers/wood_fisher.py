"""WoodFisher: the surgeon's update over blocks of the Fisher matrix (Hassibi and Stork, 1993; Singh and Alistarh, 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from secateur.calls import usual
from secateur.checks import check_name, check_whole, within
from secateur.copies import copied
from secateur.criteria.batches import check_batches
from secateur.criteria.fisher_blocks import check_blocks, check_weights, fisher_blocks, repaired, saliencies
from secateur.criteria.parameter_gradients import Objective
from secateur.criteria.weight_rows import parameters_of
from secateur.labelled import Data
from secateur.losses import loss_function
from secateur.selection import SCOPES, Scope, select
from secateur.solvers.solution import Fractions, Solution, Solver
from secateur.types import Keep, Loss, Sites

__all__ = ["WoodFisher"]


@dataclass(frozen=True)
class WoodFisher(Solver):
    """Removes the single weights of least saliency, and moves the others to make up for them (Singh and Alistarh, 2020).

    The loss is taken as a bowl whose curvature is the empirical Fisher matrix, in blocks of weights that follow each
    other. What goes is chosen by `secateur.criteria.OptimalBrainSurgeon`; what stays in each block goes to the bottom of
    the bowl with all of the block's removed weights at zero, solved together. One backward pass for each sample and
    step; memory is 8 bytes · `block` a weight, twice.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean over a batch.
        block: how many weights that follow each other make up for each other.
        damping: added to the diagonal, as a share of its mean; more holds the weights nearer to where they are.
        steps: in how many steps the sparsity is reached, each with the curvature anew, as the bowl fits only nearby; the
            same fraction of what is left goes in each. A pattern is reached in one.
        scope: what competes; see `select`.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: unfit data, sites of channels, or an option out of range.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, 2.0]])
    >>> data = (torch.tensor([[1.0, 1.0]]), torch.zeros(1, 1))      # the loss knows the sum w1 + w2 alone
    >>> WoodFisher(data, nn.functional.mse_loss, damping=1e-6).solve(model, weights(model), 0.5).tensors
    {'weight': tensor([[0.0000, 3.0000]])}
    """

    data: Data = field(repr=False)
    loss: str | Loss = "cross_entropy"
    block: int = 64
    damping: float = 1e-2
    steps: int = 4
    scope: Scope = "global"
    batch_size: int = 500

    def __post_init__(self) -> None:
        check_batches("WoodFisher", self.data, self.batch_size)
        loss_function(self.loss)
        check_blocks("WoodFisher", self.block, self.damping)
        check_whole(self, steps=self.steps)
        check_name("scope", self.scope, SCOPES)

    @usual
    def solve(
        self, model: nn.Module, sites: Sites, sparsity: Fractions | None = None, *, pattern: str | None = None
    ) -> Solution:
        """Return masks and weights for a sparsity, or for N of every M weights (``pattern="2:4"``)."""
        check_weights("WoodFisher", sites)
        work = copied(model)
        parameters = parameters_of(work, sites)
        keep: Keep | None = None
        for goal in self._goals(sparsity, pattern):
            objective = Objective(work, sites, self.data, self.batch_size, loss_function(self.loss), "WoodFisher")
            fisher = fisher_blocks(objective, self.block, self.damping)
            keep = select(saliencies(work, sites, fisher, keep), goal, scope=self.scope, pattern=pattern)
            with torch.no_grad():
                for name, mask in keep.items():
                    parameters[name].copy_(repaired(parameters[name], fisher[name], mask))
        assert keep is not None
        return Solution(keep, {name: parameters[name].detach().clone() for name in sites})

    def _goals(self, sparsity: Fractions | None, pattern: str | None) -> Iterator[Fractions | None]:
        """The sparsity after each step."""
        for step in range(1, (1 if pattern is not None else self.steps) + 1):
            if step == self.steps or sparsity is None:
                yield sparsity
            elif isinstance(sparsity, Mapping):
                yield {name: self._after(step, fraction) for name, fraction in sparsity.items()}
            else:
                yield self._after(step, sparsity)

    def _after(self, step: int, sparsity: float) -> float:
        if not within(sparsity, "[0, 1]"):
            return sparsity  # `select` says what is wrong
        return float(1 - (1 - sparsity) ** (step / self.steps))
