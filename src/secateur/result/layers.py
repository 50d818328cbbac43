"""Layers that were put in another form, and the proof that a saved folder gives the same: what a report says of both."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LayerReport", "Replayed"]


@dataclass(frozen=True)
class LayerReport:
    """What was done to one layer.

    Attributes:
        name: its module path.
        form: what it is now, in words, such as ``"rank 13 of 64"``.
        parameters: of the layer, before and after.
        error: the part of its outputs' squares that is lost, or of its weights' where no data were looked at; None where
            nobody knows.

    >>> print(LayerReport("fc1", "rank 13 of 64", (4096, 1664), 0.0213))
    fc1: rank 13 of 64, parameters 4,096 → 1,664, error 2.1%
    """

    name: str
    form: str
    parameters: tuple[int, int]
    error: float | None = None

    def __str__(self) -> str:
        error = "" if self.error is None else f", error {self.error:.1%}"
        return f"{self.name}: {self.form}, parameters {self.parameters[0]:,} → {self.parameters[1]:,}{error}"


@dataclass(frozen=True)
class Replayed:
    """The edits were done again to the original, as loading a saved folder does, and the answers compared.

    Attributes:
        example: the greatest relative difference between the two on the example inputs.
    """

    example: float

    def __str__(self) -> str:
        return f"done again to the original, the edits give the same answers to {self.example:.1e} on the example"
