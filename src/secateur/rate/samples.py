"""The losses of single samples, from any loss that returns a mean."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.losses import PackedLoss
from secateur.trees import Packing, TreeDef, changed, tensors_within
from secateur.types import InputError, Loss

__all__ = ["SampleLoss"]

TOLERANCE = 1e-4
"""The greatest relative difference between a loss and the mean of its samples' losses."""


class SampleLoss:
    """The loss of each sample, of a loss that is their mean.

    Where the function takes ``reduction``, as those of torch do, it gives the samples' losses itself; any other is
    called on each sample as a batch of one (through `torch.vmap`, or one by one where that fails).

    Args:
        loss: of (outputs, targets).
        doing: who asks, for the errors.

    >>> SampleLoss(torch.nn.functional.mse_loss, "score")(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1))
    tensor([1., 9.])
    """

    def __init__(self, loss: Loss, doing: str) -> None:
        self.loss, self.doing = loss, doing
        self.each = _unreduced(loss)
        self.vmapped = True

    def of_packed(self, packing: Packing | None) -> SampleLoss:
        """Return the same for several outputs that lie in one tensor like this; None for one tensor by itself."""
        plain = self.loss.loss if isinstance(self.loss, PackedLoss) else self.loss
        lies = self.loss.packing if isinstance(self.loss, PackedLoss) else None
        if packing is lies:
            return self
        return SampleLoss(plain if packing is None else PackedLoss(plain, packing), self.doing)

    def __call__(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the losses ``(samples,)``; targets are a tensor, several in a container, or None."""
        if self.each is not None:
            losses: Tensor = self.each(outputs, targets)
            return losses.reshape(len(outputs), -1).mean(1)
        tree, rows = TreeDef.of(targets), tensors_within(targets)
        if self.vmapped:
            try:
                return self._ones(torch.vmap(partial(self._one, tree))(outputs, rows), outputs)
            except Exception:  # noqa: BLE001  (whatever vmap does not take; a fault of the loss itself comes again below)
                self.vmapped = False
        singles = [self._one(tree, output, [part[at] for part in rows]) for at, output in enumerate(outputs)]
        return self._ones(torch.stack(singles), outputs)

    def of_units(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the losses ``(units, samples)`` of outputs ``(units, samples, …)``."""
        units, samples = outputs.shape[:2]
        if self.loss is cross_entropy and outputs.ndim == 3 and targets.ndim == 1:
            # Fifteen times as fast where the samples lie innermost.
            losses: Tensor = cross_entropy(outputs.transpose(1, 2), targets.expand(units, -1), reduction="none")
            return losses
        repeated = changed(targets, lambda part: part.expand(units, *part.shape).flatten(0, 1))
        return self(outputs.flatten(0, 1), repeated).view(units, samples)

    def check(self, losses: Tensor, outputs: Tensor, targets: Any) -> None:
        """Refuse a loss that is not the mean of its samples' losses.

        Raises:
            InputError: it is not, as where classes have weights or labels are ignored.
        """
        whole, mean = float(self.loss(outputs, targets)), float(losses.double().mean())
        if not abs(whole - mean) <= TOLERANCE * max(abs(whole), abs(mean), TOLERANCE):
            raise InputError(
                f"{self.doing}: the loss of a batch is {whole:.6g}, and the mean over its samples {mean:.6g}; give a loss "
                "that is the plain mean of its samples' losses (no weights of classes, no labels that are ignored)"
            )

    def _one(self, tree: TreeDef, output: Tensor, target: Sequence[Tensor]) -> Tensor:
        return self.loss(output[None], tree.filled([part[None] for part in target]))

    def _ones(self, losses: Tensor, outputs: Tensor) -> Tensor:
        if losses.shape != (len(outputs),):
            raise InputError(
                f"{self.doing}: the loss gave a tensor of shape {tuple(losses.shape[1:])} for a batch; "
                "give one that returns the mean, a scalar"
            )
        return losses


def _unreduced(loss: Loss) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The loss without its mean; None where it cannot be asked for."""
    if isinstance(loss, nn.modules.loss._Loss):
        return _of_module(loss)
    try:
        parameters = inspect.signature(loss).parameters
    except (TypeError, ValueError):
        return None
    if "reduction" not in parameters:
        return None
    options: dict[str, Any] = {"reduction": "none"}
    return lambda outputs, targets: loss(outputs, targets, **options)


def _of_module(loss: nn.modules.loss._Loss) -> Callable[[Tensor, Tensor], Tensor]:
    def each(outputs: Tensor, targets: Tensor) -> Tensor:
        before, loss.reduction = loss.reduction, "none"
        try:
            losses: Tensor = loss(outputs, targets)
            return losses
        finally:
            loss.reduction = before

    return each
