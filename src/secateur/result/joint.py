"""What a joint cut did to the loss, beside what the scores of its units foretold."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["JointCut"]

FAR = 1.5
"""A loss above so many times the one foretold may be far from it, …"""

FELT = 0.1
"""… if the difference is at least this part of what all units together are worth."""


@dataclass(frozen=True)
class JointCut:
    """The mean loss on the samples that the scores come from, with all units there and with all that go gone together.

    Attributes:
        before: of the whole model.
        foretold: what the scores foretell: `before`, and for scores that add up the sum of those of the units that go.
        after: of the masked model, repaired where it was.
        empty: of the model without any unit of the sites, which says what they are worth.
        samples: how many.
    """

    before: float
    foretold: float
    after: float
    empty: float
    samples: int

    @property
    def is_far_worse(self) -> bool:
        """Whether the loss is far above what was foretold, and above what the whole model has."""
        expected = max(self.before, self.foretold)
        return not self.after <= FAR * expected and not self.after - expected <= FELT * (self.empty - self.before)

    def __str__(self) -> str:
        """Return the three in words.

        >>> print(JointCut(0.3, -0.17, 1.61, 2.3, 500))
        loss 0.3 → 1.61 on 500 samples, where the scores foretold -0.17
        """
        words = f"loss {self.before:.4g} → {self.after:.4g} on {self.samples:,} samples"
        return f"{words}, where the scores foretold {self.foretold:.4g}"
