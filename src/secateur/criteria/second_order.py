"""Second order: the loss change with its curvature along each unit's gate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from secateur.checks import check_name
from secateur.criteria.base import LossCriterion
from secateur.criteria.unit_gradients import Gated, estimate, gradient
from secateur.labelled import are_classes
from secateur.losses import PackedLoss, is_plain_cross_entropy
from secateur.structure.flow import Flow, Read
from secateur.switches import math_attention
from secateur.trees import TreeDef, tensors_within
from secateur.types import InputError, Loss, Sites

__all__ = ["SecondOrder", "drawn", "roots"]

CURVATURES = ("squared", "fisher", "gauss-newton", "hessian")


@dataclass(frozen=True)
class SecondOrder(LossCriterion):
    """Scores a channel by the second-order estimate of how the mean loss changes when it alone is removed.

    A gate g multiplies the unit, and is shut from 1 to 0. Taylor's theorem gives for a sample's loss
    L(0) − L(1) ≈ −∂L/∂g + ½ ∂²L/∂g². So with s = −∂L/∂g, the first-order change (see `Taylor`), the estimate is the mean
    of s + ½ c, where the curvature c along the gate (LeCun et al., 1990, take its like along a weight) is, by choice,

    - ``"squared"``: s² itself, the empirical Fisher (as in Theis et al., 2018). One backward pass in all.
    - ``"fisher"``: the mean over labels y of (∂ log p_y/∂g)², by the square of s for a label drawn from the model's own
      outputs. One backward pass more.
    - ``"gauss-newton"``: (∂z/∂g)ᵀ H (∂z/∂g), with H the Hessian of the loss at the outputs z (Schraudolph, 2002). Exact
      for the outputs' loss and linear in the network, which for a network of ReLUs is the Hessian. One backward pass more
      for each class.
    - ``"hessian"``: exact. One backward pass more for each unit, which costs more than measuring (`LossChange`); to
      compare with.

    What a recurrent layer does inside its loop counts to first order only.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean over a batch; ``"fisher"``
            takes outputs as logits of classes.
        curvature: one of the above.
        seed: of the labels drawn by ``"fisher"``.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: unfit data, NaN in the model or its outputs, or sites of single weights.
        UnknownNameError: another curvature.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> model[0].weight.data, model[1].weight.data = torch.tensor([[2.0], [1.0]]), torch.tensor([[3.0, -1.0]])
    >>> data = [(torch.ones(1, 1), torch.zeros(1, 1))]           # the output is 2·3 − 1 = 5
    >>> criterion = SecondOrder(data, nn.functional.mse_loss, "gauss-newton")
    >>> criterion(model, channels(model, torch.ones(1, 1)))["0"].round()        # (5 − 6)² − 5² and (5 + 1)² − 5²
    tensor([-24.,  11.])
    """

    curvature: Literal["squared", "fisher", "gauss-newton", "hessian"] = "squared"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("curvature", self.curvature, CURVATURES)

    @property
    def adds_up(self) -> bool:
        """True: each estimates the change without one unit."""
        return True

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, high = keep; each has its site's shape."""
        generator = torch.Generator().manual_seed(self.seed)
        flow = Flow(model, sites)
        return estimate(flow, self.data, self.batch_size, self._loss, "SecondOrder", lambda b: self._sums(b, generator))

    def _sums(self, batch: Gated, generator: torch.Generator) -> dict[str, Tensor]:
        along = gradient(batch.outputs, batch.targets, batch.loss)
        loops = batch.loops(along)
        sums_by_site = self._curved(batch, along, generator)
        return sums_by_site | {name: sums_by_site.get(name, 0) + loop for name, loop in loops.items()}

    def _curved(self, batch: Gated, along: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        if self.curvature == "hessian":
            return _with_hessian(batch)
        if self.curvature == "squared":
            return {name: _half_squared(s, s) for name, s in batch.changes(along).items()}
        sums_by_site = {name: s.sum(0) for name, s in batch.changes(along, last=False).items()}
        answers = (batch.outputs, batch.targets, batch.loss)
        drawing = self.curvature == "fisher"
        # With H = Σ_k ±_k r_k r_kᵀ each root adds ½ ±_k (r_k · ∂z/∂g)²; a label that is drawn adds ½ (∂L_y/∂g)².
        for direction, sign in [drawn(*answers, generator, "SecondOrder")] if drawing else roots(*answers):
            for name, s in batch.changes(direction, last=False).items():
                sums_by_site[name] = sums_by_site[name] + (s.square() * sign).sum(0) / 2
        return sums_by_site


def _half_squared(first: Tensor, curved: Tensor) -> Tensor:
    """The sums over samples of first + ½ curved²."""
    return torch.addcmul(first, curved, curved, value=0.5).sum(0)


def drawn(outputs: Tensor, targets: Any, loss: Loss, generator: torch.Generator, doing: str) -> tuple[Tensor, Tensor]:
    """Return the gradient of each sample's loss at its outputs for a label drawn from them, and its sign, 1.

    Raises:
        InputError: the outputs are no logits of classes, or the targets no labels.
    """
    if not are_classes(outputs, targets) or isinstance(loss, PackedLoss):
        raise InputError(
            f"{doing}: curvature='fisher' draws class labels, and needs outputs (samples, classes), one tensor, and "
            "whole-number targets (samples,); these are others. Take another, such as 'gauss-newton'."
        )
    chances = outputs.detach().float().softmax(1).cpu()
    labels = torch.multinomial(chances, 1, generator=generator).squeeze(1).to(targets.device)
    return gradient(outputs, labels, loss), outputs.new_ones(())


def roots(outputs: Tensor, targets: Any, loss: Loss) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield vectors whose outer products add up to the Hessian of each sample's loss at its outputs, with their signs."""
    # Targets that are probabilities add up to 1, so they leave the Hessian as it is.
    probabilities = outputs.ndim == 2 and isinstance(targets, Tensor) and targets.shape == outputs.shape
    if is_plain_cross_entropy(loss) and (probabilities or are_classes(outputs, targets)):
        # H = diag(p) − p pᵀ = Σ_c p_c (e_c − p)(e_c − p)ᵀ, so r_c = √p_c (e_c − p).
        chances = outputs.softmax(1)
        eye = torch.eye(chances.shape[1], dtype=chances.dtype, device=chances.device)
        for label in range(chances.shape[1]):
            yield chances[:, label : label + 1].sqrt() * (eye[label] - chances), chances.new_ones(())
        return
    yield from _eigenvectors(outputs, targets, loss)


def _eigenvectors(outputs: Tensor, targets: Any, loss: Loss) -> Iterator[tuple[Tensor, Tensor]]:
    """The same for any loss, by eigenvalues: H = Σ_k λ_k v_k v_kᵀ, so r_k = √|λ_k| v_k with the sign of λ_k."""
    tree = TreeDef.of(targets)

    def of_one(z: Tensor, y: list[Tensor]) -> Tensor:
        return loss(z.unsqueeze(0), tree.filled([part.unsqueeze(0) for part in y]))

    curved = vmap(jacrev(jacrev(of_one)))(outputs, tensors_within(targets))
    size = outputs[0].numel()
    values, vectors = torch.linalg.eigh(curved.detach().reshape(len(outputs), size, size))
    for at in range(size):
        root = values[:, at].abs().sqrt().unsqueeze(1) * vectors[:, :, at]
        yield root.reshape(outputs.shape), values[:, at].sign().unsqueeze(1)


def _with_hessian(batch: Gated) -> dict[str, Tensor]:
    """The sums over samples of −∂L/∂g_u + ½ ∂²L/∂g_u² for each gate; the gates of a site count for all samples at once."""
    gates: dict[str, Tensor] = {}

    def tap(read: Read, passing: Tensor) -> Tensor:
        if read.site not in gates:
            gates[read.site] = passing.new_ones(len(read.index), requires_grad=True)
        return passing * read.spread(gates[read.site])

    # The fused attention kernels cannot be differentiated twice.
    with math_attention():
        total = batch.loss(batch.again(tap), batch.targets) * batch.count
    slopes = torch.autograd.grad(total, list(gates.values()), create_graph=True)
    sums_by_site = {}
    for (name, gate), slope in zip(gates.items(), slopes, strict=True):
        bends = [_derivative(slope[unit], gate)[unit] for unit in range(len(gate))]
        sums_by_site[name] = torch.stack(bends) / 2 - slope.detach()
    return sums_by_site


def _derivative(value: Tensor, of: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(of)
    (grad,) = torch.autograd.grad(value, of, retain_graph=True, allow_unused=True)
    return torch.zeros_like(of) if grad is None else grad
