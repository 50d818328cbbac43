"""How a transform trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secateur.train import History

__all__ = ["TransformTraining"]


@dataclass(frozen=True)
class TransformTraining:
    """The epochs of the training that a transform did."""

    epochs: History

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of each epoch."""
        return {"epochs": self.epochs.to_dicts()}
