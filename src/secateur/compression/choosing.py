"""One cut of a compression: which units go, and the weights that make up for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateur.allocate import budget
from secateur.compression.options import CompressOptions
from secateur.criteria import by_name
from secateur.criteria.base import scores_of
from secateur.labelled import Batch, Samples, batches, together
from secateur.repair import repair
from secateur.result import Method, Result
from secateur.structure import channels
from secateur.types import ExampleInputs, Loss

__all__ = ["calibration", "smaller"]


def calibration(data: Samples, count: int, seed: int) -> Batch:
    """Return `count` samples of the training data: drawn with the seed where they are in memory, else the first.

    >>> len(calibration((torch.zeros(9, 1), torch.zeros(9)), 4, seed=0))
    4
    """
    whole = together(data)
    if whole is not None:
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
        return whole.rows(order[:count])
    taken: list[Batch] = []
    for batch in batches(data, count, "training data"):  # type: ignore[arg-type]
        taken.append(batch)
        if sum(map(len, taken)) >= count:
            break
    return taken[0]
