"""Pruning as one of the steps that `compress` combines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from secateur.labelled import Samples
from secateur.pruning.line import prune
from secateur.pruning.options import PruneOptions
from secateur.result import Result
from secateur.types import ExampleInputs

__all__ = ["Prune"]


@dataclass(frozen=True, eq=False)
class Prune(PruneOptions):
    """The options of `prune`, called as a transform is: with (model, example inputs), for the result.

    Attributes:
        data: what `prune` takes; `compress` gives its own where this is None.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> Prune("l2", 0.25)(model, torch.zeros(1, 8)).model[0].out_features
    12
    """

    kind: ClassVar[str] = "prune"
    data: Samples | None = field(default=None, repr=False)

    def __call__(self, model: nn.Module, example_inputs: ExampleInputs) -> Result:
        """Return the result of `prune`, which is not timed.

        Raises:
            InputError, UnknownNameError, TraceError, CutError: see `prune`.
        """
        return prune(model, example_inputs, options=self, data=self.data, latency=False)
