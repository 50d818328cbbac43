"""One round of iterative pruning for several networks at once: their masks, their training, and all that is asked of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from secateur import models
from secateur.criteria import Snip
from secateur.data import Split
from secateur.lab.plan.recipe import Json
from secateur.measure import calibration_error, evaluate, predict
from secateur.structure import weights
from secateur.train import TrainOptions
from secateur.types import Keep

__all__ = ["CONTROLS", "WAYS", "Round", "figures_of"]

CONTROLS = ("reinitialised", "shuffled", "random mask", "small")
"""What a ticket stands beside."""

WAYS = ("one-shot", "snip")
"""The other ways to prune."""

ELSEWHERE = 1_000_000
"""What is added to a seed to draw other weights, or a mask."""

GRADIENT_IMAGES = 1000
EARLY = "early"
MASK, WEIGHT = "mask:", "weight:"


@dataclass(frozen=True, eq=False)
class Round:
    """The networks of one block: begun, masked, trained and rated.

    Attributes:
        kind: of the cell.
        recipe: its parameters.
        splits: the data.
        needed: the tensors of the round before: packed masks, and the weights of the first round.
    """

    kind: str
    recipe: Mapping[str, Any]
    splits: Mapping[str, Split]
    needed: Mapping[str, Tensor]
