"""The model itself, whole or masked, run from its inputs: what takes any model, and what all else must equal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from secateur.labelled import Data, check_outputs, iterate
from secateur.rate.tally import Tally, UnitTally
from secateur.state import device_of, evaluating
from secateur.structure.sites import masked_tensors
from secateur.types import Keep, Loss, Sites
from secateur.untouched import run_with

__all__ = ["PlainLoop", "masked_outputs", "tally_pass"]


def tally_pass(model: nn.Module, data: Data, loss: Loss, batch_size: int, what: str) -> Tally:
    """Run the model over the data in evaluation mode, without gradients, and leave it as it was."""
    device, tally = device_of(model), Tally()
    with evaluating(model):
        for number, (inputs, targets) in enumerate(iterate(data, batch_size, what), 1):
            targets = targets.to(device)
            outputs = model(inputs.to(device))
            check_outputs(outputs, targets, f"{what}, batch {number}")
            tally.add(outputs, targets, float(loss(outputs, targets)) * len(targets))
    return tally


def masked_outputs(model: nn.Module, sites: Sites, keep: Keep, inputs: Tensor) -> object:
    """Return what the masked model answers, in evaluation mode.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, 2.0]])
    >>> masked_outputs(model, weights(model), {"weight": torch.tensor([[True, False]])}, torch.ones(1, 2))
    tensor([[1.]])
    """
    # Anew for each mask: a table that a module keeps for evaluation was made from other weights.
    with evaluating(model):
        outputs: object = run_with(model, masked_tensors(model, sites, keep), (inputs,))
        return outputs


class PlainLoop:
    """Measures each unit by a full forward pass of the model without it.

    Args:
        model: the model.
        sites: whose units are measured, of any kind.
        advance: called with the number of units that are done.
    """

    def __init__(self, model: nn.Module, sites: Sites, advance: Callable[[float], None] = lambda units: None) -> None:
        self.model, self.sites, self.advance = model, sites, advance

    def measure(self, inputs: Tensor, targets: Tensor, tally: UnitTally) -> None:
        """Add the changes of every unit on a batch."""
        with evaluating(self.model):
            tally.start(self.model(inputs), targets)
        for name, site in self.sites.items():
            for unit in tally.chosen[name].tolist():
                kept = torch.ones(site.size, dtype=torch.bool)
                kept[unit] = False
                outputs = masked_outputs(self.model, self.sites, {name: kept.view(site.shape)}, inputs)
                assert isinstance(outputs, Tensor)
                tally.add_outputs(name, slice(unit, unit + 1), outputs[None])
                self.advance(1)
