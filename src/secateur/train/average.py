"""A running average of the weights: what a training ends with in the place of its last step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.state import snapshot, tensors
from secateur.train.callbacks import Callback, Run

__all__ = ["AverageWeights"]

STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class AverageWeights(Callback):
    """Averages the model's tensors over the steps, the later the more: a ← d · a + (1 − d) · w (Polyak and Juditsky, 1992).

    In the first steps the decay d is (1 + t) / (10 + t) where that is less, so that where the training began is soon
    forgotten. The running statistics of norms are averaged as the weights are; other buffers are as they are in the
    model. The average is a part of the run: it validates, is kept as the best, resumes, and is what the
    model holds at the end.

    Attributes:
        decay: d, in (0, 1).
    """

    decay: float

    def on_start(self, run: Run) -> None:
        """Begin with the weights as they are; a resumed training has its average already."""
        if run.average is None:
            run.average = snapshot(run.model)

    def on_step(self, run: Run) -> None:
        """Take in the weights of a step."""
        assert run.average is not None
        rate = 1 - min(self.decay, (1 + run.step) / (10 + run.step))
        moving: list[tuple[Tensor, Tensor]] = []
        weights = dict(run.model.named_parameters(remove_duplicate=False))
        for name, tensor in tensors(run.model).items():
            if name in weights or name.endswith(STATISTICS):
                moving.append((run.average[name], tensor))
            else:
                run.average[name].copy_(tensor)
        torch._foreach_lerp_([mean for mean, _ in moving], [tensor for _, tensor in moving], rate)
