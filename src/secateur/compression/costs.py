"""What a smaller model costs, as a fraction of the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from secateur.compression.options import Goal
from secateur.measure import compare_latency, file_bytes, macs, parameters
from secateur.runtimes import Runtime
from secateur.types import ExampleInputs

__all__ = ["Costs"]


@dataclass(frozen=True, eq=False)
class Costs:
    """Measures what the goal is about.

    Attributes:
        goal: what is to become less.
        original: what fractions are of.
        inputs: what both are called with.
        runtime: where latency is measured.
    """

    goal: Goal
    original: nn.Module
    inputs: ExampleInputs
    runtime: Runtime

    def __call__(self, model: nn.Module) -> float:
        """Return the cost of a model as a fraction of the original's; latency is measured in turns with it."""
        if self.goal.what == "latency":
            both = {"original": self.original, "smaller": model}
            speedup = compare_latency(both, self.inputs, runtime=self.runtime).speedups["smaller"].median
            return 1 / speedup
        count = COUNTS[self.goal.what]
        return count(model, self.inputs) / count(self.original, self.inputs)


COUNTS: dict[str, Callable[[nn.Module, ExampleInputs], int]] = {
    "macs": macs,
    "parameters": lambda model, inputs: parameters(model).total,
    "bytes": lambda model, inputs: file_bytes(model),
}
