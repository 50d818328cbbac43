"""PyTorch itself, op by op."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from secateur import state
from secateur.checks import check_whole
from secateur.hints import Checked
from secateur.runtimes.base import Run
from secateur.runtimes.inputs import caller
from secateur.state import device_of
from secateur.types import ExampleInputs

__all__ = ["Eager"]


@dataclass(frozen=True)
class Eager(Checked):
    """Times models in eager PyTorch, on the device that they are on; an accelerator's work is waited for.

    Attributes:
        threads: of the CPU.

    >>> run = Eager()(nn.Linear(4, 2), torch.zeros(1, 4))
    >>> run().shape
    torch.Size([1, 2])
    """

    threads: int = 1

    def __post_init__(self) -> None:
        check_whole(self, threads=self.threads)

    def __call__(self, model: nn.Module, example_inputs: ExampleInputs) -> Run:
        """Return what runs the model once."""
        call, device = caller(model, example_inputs), device_of(model)

        def run() -> object:
            if torch.get_num_threads() == self.threads:
                return _finished(call, device)
            with state.threads(self.threads):
                return _finished(call, device)

        return run

    def on_one_thread(self, model: nn.Module) -> bool:
        """Whether all of the work is done by one thread of this process, so that its processor time is the time."""
        return self.threads == 1 and device_of(model).type == "cpu"


def _finished(call: Run, device: torch.device) -> object:
    with torch.no_grad():
        outputs = call()
    # An accelerator returns before it is done.
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return outputs
