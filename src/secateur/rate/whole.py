"""The model itself, whole or masked, run from its inputs: what takes any model, and what all else must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.labelled import SampleBatch, Samples, batches, check_rows, logits_of
from secateur.losses import answers, check_answers
from secateur.rate.tally import Tally, UnitTally
from secateur.rate.trying import loss_of_answers, try_model
from secateur.state import device_of, evaluating
from secateur.structure.sites import masked_tensors
from secateur.trees import Packing, changed, joined
from secateur.types import Keep, Loss, Sites
from secateur.untouched import run_with, untouched

__all__ = ["Masked", "PlainLoop", "answered", "masked_runs", "tally_pass"]


def tally_pass(model: nn.Module, data: Samples, loss: Loss, batch_size: int, doing: str) -> Tally:
    """Run the model over the data in evaluation mode, without gradients, and leave it as it was."""
    device, tally = device_of(model), Tally()
    with evaluating(model):
        for number, batch in enumerate(batches(data, batch_size, doing), 1):
            batch = batch.to(device)
            outputs = answers(try_model(model, batch, where := f"{doing}, batch {number}"), loss)
            check_answers(outputs, batch.targets, loss, where)
            total = float(loss_of_answers(outputs, batch.targets, loss, where)) * len(batch)
            tally.add(logits_of(outputs), batch.targets, total, len(batch))
    return tally


def answered(
    model: nn.Module,
    data: Samples,
    batch_size: int,
    doing: str,
    device: torch.device | None = None,
    *,
    whole: bool = False,
) -> tuple[Any, Any]:
    """Return all that a model answers on data, and the targets, each nested as a batch of them is.

    Args:
        model: runs in evaluation mode, without gradients, and is left as it was.
        data: the samples.
        batch_size: samples a pass, where the data are in memory.
        doing: who asks, for the errors.
        device: where all is put; None leaves it on the model's.
        whole: all that the model returns, as functions of a user's own are given it; else of named outputs the logits.

    Raises:
        InputError: outputs that hold NaN, or one tensor without a row for each sample.

    >>> answered(nn.Identity(), (torch.eye(2), torch.tensor([0, 1])), 1, "answer")
    (tensor([[1., 0.],
            [0., 1.]]), tensor([0, 1]))
    """
    home = device_of(model)
    outputs, targets = [], []
    with evaluating(model):
        for number, batch in enumerate(batches(data, batch_size, doing), 1):
            batch = batch.to(home)
            rows = try_model(model, batch, where := f"{doing}, batch {number}")
            rows = rows if whole else logits_of(rows)
            check_rows(rows, len(batch), where)
            outputs.append(changed(rows, lambda part: part.detach().to(device or home)))
            targets.append(changed(batch.targets, lambda part: part.to(device or home)))
    return joined(outputs), joined(targets)


Masked = Callable[[Keep, SampleBatch], Any]
"""From keep masks and samples to what the masked model answers."""


@contextmanager
def masked_runs(model: nn.Module, sites: Sites) -> Iterator[Masked]:
    """Yield what runs the model under masks, in evaluation mode; each run finds the model as it was.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, 2.0]])
    >>> with masked_runs(model, weights(model)) as run:
    ...     run({"weight": torch.tensor([[True, False]])}, SampleBatch(torch.ones(1, 2)))
    tensor([[1.]])
    """
    with evaluating(model), untouched(model) as renew:

        def run(keep: Keep, batch: SampleBatch) -> Any:
            tensors = masked_tensors(model, sites, keep)
            outputs = batch.run(lambda *args, **kwargs: run_with(model, tensors, args, kwargs))
            renew()  # a table that a module keeps for evaluation was made from other weights
            return outputs

        yield run


class PlainLoop:
    """Measures each unit by a full forward pass of the model without it.

    Args:
        model: the model.
        sites: whose units are measured, of any kind.
        advance: called with the number of units that are done.
    """

    def __init__(self, model: nn.Module, sites: Sites, advance: Callable[[float], None] = lambda units: None) -> None:
        self.model, self.sites, self.advance = model, sites, advance

    def measure(self, batch: SampleBatch, tally: UnitTally) -> None:
        """Add the changes of every unit on a batch."""
        with masked_runs(self.model, self.sites) as run:
            whole = answers(run({}, batch), tally.loss)
            packing = None if isinstance(whole, Tensor) else Packing.of(whole, len(batch))
            tally.start(whole if packing is None else packing.pack(whole), batch.targets, packing)
            for name, site in self.sites.items():
                for unit in tally.chosen[name].tolist():
                    keep = torch.ones(site.size, dtype=torch.bool)
                    keep[unit] = False
                    outputs = answers(run({name: keep.view(site.shape)}, batch), tally.loss)
                    rows = outputs if packing is None else packing.pack(outputs)
                    tally.add_outputs(name, slice(unit, unit + 1), rows[None])
                    self.advance(1)
