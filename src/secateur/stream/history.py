"""How a language model became smaller: the `history` of the result of a walk, and of one without some blocks or experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

__all__ = ["DepthHistory", "ExpertHistory", "WalkHistory"]


@dataclass(frozen=True)
class WalkHistory:
    """What the blocks lost on a walk, and what that did to the perplexity.

    Attributes:
        errors: by block, how much of the uncut model's residual stream is missing behind it (a share of its square).
        before, after: perplexities of the uncut and the cut model on held-out text; None where none was given.
        untrained: that of the cut model before its recovery; None where there was none.
        recovery: what the recovery returned; None where there was none.
    """

    errors: Mapping[str, float]
    before: float | None = None
    after: float | None = None
    untrained: float | None = None
    recovery: Any = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        as_dicts = getattr(self.recovery, "to_dicts", None)
        perplexity = {"before": self.before, "untrained": self.untrained, "after": self.after}
        return {"errors": dict(self.errors), "perplexity": perplexity, "recovery": as_dicts() if as_dicts else None}


@dataclass(frozen=True)
class DepthHistory:
    """Which blocks went, and what each was worth.

    Attributes:
        removed: their paths, in the order in which they went.
        scores: of every block before any went: its influence, or the rise of the mean loss without it.
    """

    removed: tuple[str, ...]
    scores: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class ExpertHistory:
    """What each expert was worth.

    Attributes:
        scores: of every expert, by layer of experts ``(experts,)``.
    """

    scores: Mapping[str, Tensor]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {"scores": {name: scores.tolist() for name, scores in self.scores.items()}}
