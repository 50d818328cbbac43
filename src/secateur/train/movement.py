"""How far a training moves each weight away from zero, summed as it goes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.train.callbacks import Callback, Run
from secateur.types import InputError

__all__ = ["SumMovement"]


class SumMovement(Callback):
    """Sums −w · gradient of every parameter over the steps of a training, for the criterion `Movement`.

    Pass it to `fit` as a callback, or call `add` in a loop of your own, after ``backward`` and before the step.

    Attributes:
        moved: the sums, by the parameter's name; float32, on the model's device.

    Raises:
        InputError: the training goes on from a checkpoint, whose earlier steps were not summed.

    >>> from secateur.criteria import Movement
    >>> from secateur.structure import weights
    >>> from secateur.train.loop import fit
    >>> model = nn.Linear(1, 1, bias=False)
    >>> model.weight.data = torch.tensor([[2.0]])
    >>> movement = SumMovement()
    >>> one = (torch.ones(1, 1), torch.full((1, 1), 3.0))      # the gradient of (w − 3)² at 2 is −2
    >>> _ = fit(model, one, epochs=1, loss="mse", optimizer="sgd", lr=0.1, callbacks=[movement])
    >>> Movement(movement.moved)(model, weights(model))
    {'weight': tensor([[4.]])}
    """

    def __init__(self) -> None:
        self.moved: dict[str, Tensor] = {}

    def on_start(self, run: Run) -> None:
        """Begin at zero."""
        if run.step:
            raise InputError(
                f"SumMovement: the training goes on after {run.step} steps that it has not seen; train without a "
                "checkpoint, or remove the old one"
            )
        self.moved = {}

    def on_gradients(self, run: Run) -> None:
        """Add one step's."""
        self.add(run.model)

    def add(self, model: nn.Module) -> None:
        """Add what the gradients that the model holds now say."""
        with torch.no_grad():
            for name, parameter in model.named_parameters(remove_duplicate=False):
                if name not in self.moved:
                    self.moved[name] = torch.zeros_like(parameter, dtype=torch.float32)
                if parameter.grad is not None:
                    self.moved[name].sub_(parameter * parameter.grad)
