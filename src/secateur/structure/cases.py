"""What a cut is verified on: draws of parameters and inputs, with what the masked model answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from secateur.structure.cost import Cost
from secateur.structure.difference import is_usable
from secateur.structure.draws import Draw
from secateur.structure.frames import EXAMPLE, Frame, Inputs, as_typed, drawn_inputs, other_frames
from secateur.structure.reference import Reference, Statistics
from secateur.types import VerificationError

__all__ = ["GAINS", "Case", "Cases"]

CHEAP = 10**8
"""Multiply-accumulates and parameters up to which a model is run several times."""


@dataclass(frozen=True, eq=False)
class Case:
    """A draw of parameters and inputs, with what the masked model answers in float64 (or in its own types)."""

    frame: Frame
    draw: Draw
    inputs: Inputs
    outputs: Any
    double: bool = True

    def __str__(self) -> str:
        return f"{self.frame}" if self.double else f"{self.frame}, in its own types"


class Cases:
    """The draws that a cut is verified on; the masked model runs on each once, whatever number of cuts is tried."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.skipped: dict[str, None] = {}

    @cached_property
    def trained(self) -> Cases | None:
        """The same in train mode; None where that runs no other code."""
        structure = self.reference.structure
        if structure is None or structure.trained is None:
            return None
        return Cases(self.reference.with_structure(structure.trained))

    @cached_property
    def untraced(self) -> Cases:
        """The same in train mode where that could not be traced."""
        structure = self.reference.structure
        assert structure is not None
        graph = replace(structure.graph, training=True, untrained="")
        return Cases(self.reference.with_structure(replace(structure, graph=graph)))

    @cached_property
    def cheap(self) -> bool:
        """Whether the model is run at the example's shapes, in float64 and several times."""
        structure = self.reference.structure
        size = sum(t.numel() for t in self.reference.tensors.values())
        return size + (Cost(structure).macs({}) if structure is not None else 0) <= CHEAP

    @cached_property
    def elsewhere(self) -> list[Case]:
        """Draws at another batch and another length or size, where the original runs there."""
        frames = list(other_frames(self.reference.inputs))
        for frame in frames:
            if cases := self.at(frame):
                return cases
        self.skipped["the original runs at no other batch, length or size that was tried"] = None
        return []

    @cached_property
    def at_example(self) -> list[Case]:
        """Draws at the example's shapes."""
        return self.at(EXAMPLE)

    @cached_property
    def once_at_example(self) -> list[Case]:
        """One draw there, which is enough beside those elsewhere: each costs what the example costs."""
        return self.at(EXAMPLE, GAINS[:1])

    @cached_property
    def example(self) -> Any:
        """What the masked model answers to the example, in its own type."""
        return self.reference.on_example()

    def at(self, frame: Frame, gains: Sequence[float] | None = None) -> list[Case]:
        """Draws at some shapes, as many as there are gains; none where the original does not run there on numbers."""
        gains = gains or (GAINS if self.cheap else GAINS[:1])
        for redrawn in (True, False):
            if cases := self._tried(frame, gains, redrawn, double=True):
                return cases
        # An op of the model has no float64: the draws still tell more than the example alone.
        return self._tried(frame, gains, True, double=False) if frame is EXAMPLE else []

    def _tried(self, frame: Frame, gains: Sequence[float], redrawn: bool, double: bool) -> list[Case]:
        try:
            return list(self._cases(frame, gains, redrawn, double))
        except VerificationError:
            raise
        except Exception as error:  # noqa: BLE001  (what a model raises at shapes it was not made for is its own)
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            self.skipped[f"{frame}: {reason}"] = None
            return []

    def _cases(self, frame: Frame, gains: Sequence[float], redrawn: bool, double: bool) -> Iterator[Case]:
        reference, statistics = self.reference, None
        for seed, gain in enumerate(gains):
            inputs = drawn_inputs(reference.inputs, frame, reference.table_rows, seed, redrawn=redrawn)
            inputs = inputs if double else as_typed(inputs, reference.inputs)
            statistics = statistics or self._statistics(frame, inputs)
            for mild in (False, True):
                draw = Draw(reference.tensors, reference.drawn_buffers, seed, gain, mild)
                outputs = reference.outputs(draw, inputs, statistics, double=double)
                if is_usable(outputs):
                    yield Case(frame, draw, inputs, outputs, double)
                    break

    def _statistics(self, frame: Frame, inputs: Inputs) -> Statistics | None:
        reference = self.reference
        if frame is EXAMPLE or reference.statistics is None:
            return reference.statistics
        return reference.statistics_at(as_typed(inputs, reference.inputs))


GAINS = (1.0, 2.0, 0.5)
"""How much each layer amplifies, a draw each: what saturates with one gain is in its middle with another."""
