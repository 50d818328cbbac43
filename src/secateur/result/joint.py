"""What a joint cut did to the loss, beside what the scores of its units foretold."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["JointCut"]

FAR = 1.5
"""A loss above so many times the one foretold is far from it."""


@dataclass(frozen=True)
class JointCut:
    """The mean loss on the samples that the scores come from, with all units there and with all that go gone together.

    Attributes:
        before: of the whole model.
        foretold: what the scores foretell: `before`, and for scores that add up the sum of those of the units that go.
        after: of the masked model, repaired where it was.
        samples: how many.
    """

    before: float
    foretold: float
    after: float
    samples: int

    @property
    def is_far_worse(self) -> bool:
        """Whether the loss is far above what was foretold, and above what the whole model has."""
        return not self.after <= FAR * max(self.before, self.foretold)

    def __str__(self) -> str:
        """Return the three in words.

        >>> print(JointCut(0.3, -0.17, 1.61, 500))
        loss 0.3 → 1.61 on 500 samples, where the scores foretold -0.17
        """
        words = f"loss {self.before:.4g} → {self.after:.4g} on {self.samples:,} samples"
        return f"{words}, where the scores foretold {self.foretold:.4g}"
