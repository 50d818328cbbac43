"""Criteria made for networks before they are trained: SNIP, GraSP and SynFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.checks import check_number
from secateur.copies import copied
from secateur.criteria.base import CriterionBase, LossCriterion
from secateur.criteria.parameter_gradients import Objective, by_weight, coordinates
from secateur.criteria.unit_gradients import real_product
from secateur.criteria.weight_rows import Reduce, Side, check_reduce, check_side, parameters_of, unit_sums
from secateur.losses import answers, check_answers
from secateur.randomness import private_draws
from secateur.state import called, check_finite, device_of, evaluating, own_tensors, split_inputs
from secateur.structure.sites import REPAIR, inputs_of
from secateur.switches import math_attention
from secateur.trees import changed, tensors_within
from secateur.types import ExampleInputs, InputError, Sites

__all__ = ["GraSP", "Snip", "SynFlow"]


@dataclass(frozen=True)
class Snip(LossCriterion):
    """Scores a weight by the absolute value of weight times gradient, as a share of the whole (Lee et al., 2019).

    How much the loss moves with a weight, whichever way. Scores of all sites together add up to 1; a channel's is the
    sum over the weights that produce it. One forward and backward pass over the data.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean over a batch.
        side: the weights of a channel that count.
        reduce: how several weights of a tied group become one score; ``"joint"`` adds all up.
        batch_size: samples a pass, where the data are in memory.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, -3.0]])
    >>> data = [(torch.tensor([[1.0, 1.0]]), torch.zeros(1, 1))]     # the gradient of the output is (1, 1)
    >>> Snip(data, lambda y, t: y.sum())(model, weights(model))
    {'weight': tensor([[0.2500, 0.7500]])}
    """

    side: Side = "incoming"
    reduce: Reduce = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_side(self, self.side)
        check_reduce(self, self.reduce)

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, in [0, 1]; high = keep."""
        slopes = Objective(model, sites, self.data, self.batch_size, self._loss, "Snip").gradients()
        felt = {name: change.abs() for name, change in _changes(model, sites, slopes).items()}
        scores = unit_sums(felt, sites, self.side, self.reduce)
        total = sum((score.double().sum() for score in scores.values()), torch.zeros((), dtype=torch.float64))
        return scores if total == 0 else {name: (score / total).float() for name, score in scores.items()}


def _changes(model: nn.Module, sites: Sites, slopes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each weight times its slope."""
    parameters = {name: p.detach() for name, p in parameters_of(model, sites).items()}
    return {n: by_weight(slope * coordinates(parameters[n]), parameters[n]) for n, slope in slopes.items()}


@dataclass(frozen=True)
class GraSP(LossCriterion):
    """Scores a weight by what its removal takes from the flow of gradients, w · (Hg) (Wang et al., 2020).

    With g the gradient of the mean loss and H its Hessian, removing w changes |g|² by −2 w · (Hg) to first order: a
    network that is yet to be trained wants to keep it. (The paper's score is minus this, and removes the highest.) Two
    passes over the data, the second with two backward passes. A channel's score is the sum over the weights that produce
    it.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean over a batch.
        temperature: outputs are divided by it before the loss, as the authors do with 200 to even out the softmax.
        side: the weights of a channel that count.
        reduce: how several weights of a tied group become one score; ``"joint"`` adds all up.
        batch_size: samples a pass, where the data are in memory.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, 2.0]])
    >>> data = [(torch.tensor([[1.0, 1.0]]), torch.zeros(1, 1))]     # loss (w1 + w2)²: g = (6, 6), Hg = (24, 24)
    >>> GraSP(data, nn.functional.mse_loss, temperature=1)(model, weights(model))
    {'weight': tensor([[24., 48.]])}
    """

    temperature: float = 200.0
    side: Side = "incoming"
    reduce: Reduce = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "(0, inf)", temperature=self.temperature)
        check_side(self, self.side)
        check_reduce(self, self.reduce)

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, of either sign; high = keep."""
        objective = Objective(model, sites, self.data, self.batch_size, self._cooled, "GraSP")
        flows = _changes(model, sites, objective.products(objective.gradients()))
        return unit_sums(flows, sites, self.side, self.reduce)

    def _cooled(self, outputs: Any, targets: Any) -> Tensor:
        outputs = answers(outputs, self.loss)
        check_answers(outputs, targets, self.loss, "GraSP")
        return self._loss(changed(outputs, self._divided), targets)

    def _divided(self, outputs: Tensor) -> Tensor:
        return outputs / self.temperature if outputs.is_floating_point() else outputs


@dataclass(frozen=True)
class SynFlow(CriterionBase):
    """Scores a weight by its share of the synaptic flow: |w| · ∂R/∂|w| (Tanaka et al., 2020).

    R is the sum of the outputs on an input of ones, with the absolute value of every parameter; scores are given as
    shares of R. No data are needed. In a network without biases whose activations are linear or ReLU the scores of the
    weights of every layer add up to 1, and each hidden unit's incoming weights to its outgoing ones; so a large layer has
    small scores, and is thinned first.

    Running means of norms count as zero, and integer inputs (tokens) are taken as given. Removing step by step matters
    here: the authors take 100 rounds, each of the same fraction of what is left, which is
    ``Iterative(SynFlow(), sparsity, steps=100, curve="geometric")``.

    Attributes:
        inputs: example inputs; None takes those that the sites were found with, which single weights do not have.
        side: the weights of a channel that count.
        reduce: how several weights of a tied group become one score; ``"joint"`` adds all up.

    Raises:
        InputError: no inputs, a model that holds NaN, or a flow beyond what double precision holds.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    >>> model[0].weight.data, model[2].weight.data = torch.tensor([[2.0], [-1.0]]), torch.tensor([[3.0, 4.0]])
    >>> SynFlow()(model, channels(model, torch.zeros(1, 1)))    # 2·3 and 1·4 of 10
    {'0': tensor([0.6000, 0.4000])}
    """

    inputs: ExampleInputs | None = None
    side: Side = "incoming"
    reduce: Reduce = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_side(self, self.side)
        check_reduce(self, self.reduce)

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, 0 or more; high = keep."""
        parameters_of(model, sites)
        check_finite(model, "SynFlow", REPAIR)
        args, kwargs = self._ones(model, sites)
        flowing = _absolute(model)
        leaves = dict(flowing.named_parameters(remove_duplicate=False))
        with evaluating(flowing), torch.enable_grad(), math_attention():
            outputs = tensors_within(flowing(*args, **kwargs))
            flow = torch.stack([y.sum() for y in outputs if y.is_floating_point()]).sum()
            grads = torch.autograd.grad(flow, list(leaves.values()), allow_unused=True)
        if not bool(torch.isfinite(flow)):
            raise InputError(f"SynFlow: the flow is {flow.item()}, beyond what numbers hold; scale the weights down")
        # Shares, as the flow through many layers is beyond single precision.
        shares = {
            name: real_product(leaf, torch.zeros_like(leaf) if grad is None or flow == 0 else grad / flow).detach()
            for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
        }
        return unit_sums(shares, sites, self.side, self.reduce)

    def _ones(self, model: nn.Module, sites: Sites) -> tuple[tuple[object, ...], dict[str, object]]:
        inputs = inputs_of(sites) if self.inputs is None else self.inputs
        if inputs is None:
            raise InputError("SynFlow: single weights do not tell the shape of the input; give SynFlow(example_inputs)")
        args, kwargs = split_inputs(inputs)
        if self.inputs is not None:
            with evaluating(model), private_draws():
                called(model, args, kwargs)
        device = device_of(model)

        def ones(x: Tensor) -> Tensor:
            dtype = torch.float64 if _is_doubled(model) else x.dtype
            return torch.ones_like(x, dtype=dtype, device=device) if x.is_floating_point() else x.to(device)

        inputs_of_ones: tuple[tuple[object, ...], dict[str, object]] = changed((args, kwargs), ones)
        return inputs_of_ones


def _is_doubled(model: nn.Module) -> bool:
    """Whether it is run in double precision; code that makes complex numbers of its inputs names their type."""
    return not any(tensor.is_complex() for tensor in own_tensors(model).values())


def _absolute(model: nn.Module) -> nn.Module:
    """A copy in double precision, unless it is complex, with absolute parameters and running means of zero."""
    flowing = copied(model).double() if _is_doubled(model) else copied(model)
    with torch.no_grad():
        for name, tensor in own_tensors(flowing).items():
            if isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(tensor.is_floating_point() or tensor.is_complex()).copy_(tensor.abs())
            elif name.endswith("running_mean"):
                tensor.zero_()
    return flowing
