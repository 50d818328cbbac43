"""The losses of single samples, from any loss that returns a mean."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.types import InputError, Loss

__all__ = ["SampleLoss"]

TOLERANCE = 1e-4
"""The greatest relative difference between a loss and the mean of its samples' losses."""


class SampleLoss:
    """The loss of each sample, of a loss that is their mean.

    Where the function takes ``reduction``, as those of torch do, it gives the samples' losses itself; any other is
    called on each sample as a batch of one (through `torch.vmap`, or one by one where that fails).

    >>> SampleLoss(torch.nn.functional.mse_loss)(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1))
    tensor([1., 9.])
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.each = _unreduced(loss)
        self.vmapped = True

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses ``(samples,)``."""
        if self.each is not None:
            losses: Tensor = self.each(outputs, targets)
            return losses.reshape(len(outputs), -1).mean(1)
        if self.vmapped:
            try:
                return self._ones(torch.vmap(self._one)(outputs, targets), outputs)
            except Exception:  # noqa: BLE001  (whatever vmap does not take; a fault of the loss itself comes again below)
                self.vmapped = False
        return self._ones(torch.stack([self._one(o, t) for o, t in zip(outputs, targets, strict=True)]), outputs)

    def of_units(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses ``(units, samples)`` of outputs ``(units, samples, …)``."""
        units, samples = outputs.shape[:2]
        if self.loss is cross_entropy and outputs.ndim == 3 and targets.ndim == 1:
            # Fifteen times as fast where the samples lie innermost.
            losses: Tensor = cross_entropy(outputs.transpose(1, 2), targets.expand(units, -1), reduction="none")
            return losses
        repeated = targets.expand(units, *targets.shape).flatten(0, 1)
        return self(outputs.flatten(0, 1), repeated).view(units, samples)

    def check(self, losses: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Refuse a loss that is not the mean of its samples' losses.

        Raises:
            InputError: it is not, as where classes have weights or labels are ignored.
        """
        whole, mean = float(self.loss(outputs, targets)), float(losses.double().mean())
        if not abs(whole - mean) <= TOLERANCE * max(abs(whole), abs(mean), TOLERANCE):
            raise InputError(
                f"LossChange: the loss of a batch is {whole:.6g}, and the mean over its samples {mean:.6g}; give a loss "
                "that is the plain mean of its samples' losses (no weights of classes, no labels that are ignored)"
            )

    def _one(self, output: Tensor, target: Tensor) -> Tensor:
        return self.loss(output[None], target[None])

    def _ones(self, losses: Tensor, outputs: Tensor) -> Tensor:
        if losses.shape != (len(outputs),):
            raise InputError(
                f"LossChange: the loss gave a tensor of shape {tuple(losses.shape[1:])} for a batch; "
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
