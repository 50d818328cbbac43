"""Masked ≡ cut where an input that the code may decide by is set otherwise than on the example: what differs there is said."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.structure.cases import Case, Cases
from secateur.structure.difference import compared_tensors, difference, is_usable
from secateur.structure.draws import Draw
from secateur.structure.frames import EXAMPLE, Inputs
from secateur.structure.masking import mask
from secateur.structure.reference import Reference
from secateur.structure.trace import first_line
from secateur.structure.turns import GIVEN, LEFT_OUT, Turn
from secateur.structure.verify import IN_DOUBLE, IN_SINGLE, Rows, Sliced, allowed_on, run_alone
from secateur.trees import changed

__all__ = ["verify_turned"]


def verify_turned(
    reference: Reference, cut: nn.Module, rows: Rows, tolerance: float, statistics: bool
) -> tuple[str, ...]:
    """Return in words where a cut module answers otherwise than the masked model as an input is set otherwise.

    Tensors that a cut makes smaller, as features that are returned on demand, are seen to be, and are not compared.

    Args:
        reference: the masked model.
        cut: the cut module; it is left as it is.
        rows: what it keeps of each tensor.
        tolerance: the greatest relative difference in the model's own type.
        statistics: whether the masked model takes statistics over what is cut, so that it does not run by itself on draws.
    """
    structure = reference.structure
    if structure is None or not structure.graph.turns:
        return ()
    compared, texts = _Compared(reference, cut, rows, tolerance, statistics), dict[Turn, str]()
    for turn, training in structure.graph.turns:
        why = compared.differs(turn, training)
        if why:
            texts.setdefault(turn, f"{'in train mode ' if training else ''}{why}")
    return tuple(f"with {turn} {why}: {_remedy(turn)}" for turn, why in texts.items())


def _remedy(turn: Turn) -> str:
    on_example = f"{turn.name} {turn.given}" if turn.given in (GIVEN, LEFT_OUT) else f"{turn.name}={turn.given}"
    return f"it was cut for {on_example}; call it so, or leave the sites out with ignore="


@dataclass(eq=False)
class _Compared:
    """The masked model beside the cut one, on inputs of which one is set otherwise."""

    reference: Reference
    cut: nn.Module
    rows: Rows
    tolerance: float
    statistics: bool

    def differs(self, turn: Turn, training: bool) -> str:
        """Why the two part, in words; empty where they do not."""
        inputs = turn.change(self.reference.inputs)
        if not self.statistics:
            with suppress(_CannotRunError):  # an op has no float64
                return self._on_draws(inputs, training)
        try:
            return self._in_own_type(inputs, training)
        except _CannotRunError as error:
            # What was made up may mean nothing.
            meaningless = turn.enough == 1 or isinstance(error, _NoNumbersError)
            return "" if meaningless else f"the cut model was not verified ({first_line(error)})"

    def _on_draws(self, inputs: Inputs, training: bool) -> str:
        """Why the two part on weights drawn anew; of a large model float64 is asked only where its own type does not show that they agree."""
        if not self._cheap and not self._on_draw(inputs, training, double=False):
            return ""
        return self._on_draw(inputs, training, double=True)

    def _on_draw(self, inputs: Inputs, training: bool, double: bool) -> str:
        reference = self._in_training if training else self.reference
        draw = Draw(reference.tensors, reference.drawn_buffers)
        args, kwargs = changed(inputs, lambda x: x.double() if double and x.is_floating_point() else x)
        expected = _expected(lambda: reference.outputs(draw, (args, kwargs), double=double))
        case = Case(EXAMPLE, draw, (args, kwargs), expected, double)
        allowed = IN_DOUBLE if double else allowed_on(expected, IN_SINGLE)
        return _parting(expected, lambda: Sliced(reference, self.cut, self.rows).run(case), allowed)

    def _in_own_type(self, inputs: Inputs, training: bool) -> str:
        expected = _expected(lambda: run_alone(self._masked, inputs, training))
        allowed = allowed_on(expected, self.tolerance)
        return _parting(expected, lambda: run_alone(self.cut, inputs, training), allowed)

    @cached_property
    def _cheap(self) -> bool:
        return Cases(self.reference).cheap

    @cached_property
    def _in_training(self) -> Reference:
        structure = self.reference.structure
        assert structure is not None
        return self.reference.with_structure(replace(structure, graph=replace(structure.graph, training=True)))

    @cached_property
    def _masked(self) -> nn.Module:
        return mask(self.reference.model, self.reference.sites, self.reference.keep)


class _CannotRunError(Exception):
    """The masked model does not run, so that nothing can be compared."""


class _NoNumbersError(_CannotRunError):
    """It answers NaN, or with what nothing was written into."""


class _NothingInside(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fills new room with NaN, so that what nothing was written into before it is read is seen."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in EMPTY and result.is_floating_point() and not result.is_meta:
            result.fill_(torch.nan)
        return result


EMPTY = {torch.ops.aten.empty, torch.ops.aten.new_empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided}


def _expected(run: Callable[[], Any]) -> Any:
    try:
        with _NothingInside():
            expected = run()
    except Exception as error:
        raise _CannotRunError(first_line(error)) from error
    if not is_usable(expected):
        raise _NoNumbersError("the masked model answers NaN")
    return expected


def _parting(expected: Any, run: Callable[[], Any], allowed: float) -> str:
    try:
        pairs = list(zip(compared_tensors(expected), compared_tensors(run()), strict=False))
    except Exception as error:  # noqa: BLE001  (code may raise anything on sizes it was not made for)
        return f"the cut model cannot run ({first_line(error)})"
    same = [(mine, other) for mine, other in pairs if mine.shape == other.shape]
    deviation = difference([mine for mine, _ in same], [other for _, other in same])
    return "" if deviation <= allowed else f"the cut model differs from the masked one by {deviation:.1e}"
