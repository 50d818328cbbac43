"""The part of a model that runs again when something in it changes: the rest has run once, and its values are kept."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from secateur.rate.program import Instruction, Line, Program
from secateur.structure.flow import Read
from secateur.switches import math_attention

__all__ = ["Shut", "Suffix", "Values", "affected", "opened"]

Values = Mapping[Node, Any]
"""What is known of the nodes of a graph."""


@dataclass(frozen=True, eq=False)
class Shut:
    """An operand of an op of which positions are shut: they are zero for this op alone.

    Attributes:
        node: the op.
        source: the node that holds the operand.
        dim: the dimension along which the positions lie.
        index: the positions of each unit, int64 ``(units, positions)``.
    """

    node: Node
    source: Node
    dim: int
    index: Tensor

    @classmethod
    def at(cls, read: Read, steps: Mapping[Node, Instruction]) -> Shut:
        """Return what is shut where units are read."""
        return cls(read.node, steps[read.node].current[read.source], read.dim, read.index)

    def gates(self, keep: Tensor) -> Tensor:
        """Return which positions are open when units are kept ``(units,)`` or ``(masks, units)``."""
        return opened(self.index, keep, int(self.source.meta["val"].shape[self.dim]))

    def without(self, units: Tensor) -> Tensor:
        """Return which positions are open when each of these units alone is gone, ``(units, positions)``."""
        size = int(self.source.meta["val"].shape[self.dim])
        return torch.ones(len(units), size, dtype=torch.bool).scatter_(1, self.index[units].cpu(), False)

    def __call__(self, x: Tensor, gate: Tensor) -> Tensor:
        """Zero what the gate ``(…, positions)`` shuts; not by a product, as an infinite entry would make it NaN."""
        after = self.source.meta["val"].ndim - self.dim - 1
        return torch.where(gate.to(x.device).view(*gate.shape[:-1], *[1] * self.dim, -1, *[1] * after), x, 0.0)


def opened(index: Tensor, keep: Tensor, size: int) -> Tensor:
    """Return which of `size` positions are open when units are kept: those of no unit are.

    >>> opened(torch.tensor([[0, 2], [1, 3]]), torch.tensor([True, False]), 5).int().tolist()
    [1, 0, 1, 0, 1]
    """
    gates = torch.ones(*keep.shape[:-1], size, dtype=torch.bool)
    shut = (~keep).unsqueeze(-1).expand(*keep.shape, index.shape[1]).flatten(-2)
    return gates.index_copy_(-1, index.flatten().cpu(), ~shut)


class Suffix:
    """Runs a program again from where something changes.

    Args:
        program: the whole.
        shut: operands of which positions are shut.
        replaced: nodes whose values are given anew, such as parameters, or results that are brought up to date.
    """

    def __init__(self, program: Program, shut: Iterable[Shut] = (), replaced: Iterable[Node] = ()) -> None:
        self.program, self.shut, anew = program, tuple(shut), tuple(replaced)
        self.shut_at: dict[Node, list[int]] = {}
        for number, operand in enumerate(self.shut):
            self.shut_at.setdefault(operand.node, []).append(number)
        dirty = affected(program.steps, set(self.shut_at), set(anew))
        self.touched = program.output in dirty
        steps = [step for step in program.steps if step.node in dirty and step.node not in anew]
        self.line = Line(steps, {program.output})
        used = {node for step in steps for node in step.operands} | {program.output}
        self.replaced = tuple(node for node in anew if node in used)
        self.boundary = used - {step.node for step in steps} - set(self.replaced)
        self.vmapped = True

    @cached_property
    def bytes(self) -> int:
        """What its values take at one time, beside what is kept."""
        return self.line.peak

    def end(self, values: Values, replacements: Sequence[Tensor] = (), gates: Sequence[Tensor] = ()) -> Tensor:
        """Return the model's outputs, given what is kept of the whole, the values given anew, and the gates."""
        run = {node: values[node] for node in self.boundary} | dict(zip(self.replaced, replacements, strict=True))

        def instead(node: Node, values: Values) -> Values:
            shut: dict[Node, Any] = {}
            for number in self.shut_at.get(node, ()):
                operand = self.shut[number]
                shut[operand.source] = operand(
                    shut[operand.source] if operand.source in shut else values[operand.source], gates[number]
                )
            return shut

        self.line.run(run, instead)
        outputs: Tensor = run[self.program.output]
        return outputs

    def stacked(self, values: Values, replacements: Sequence[Tensor] = (), gates: Sequence[Tensor] = ()) -> Tensor:
        """Return the outputs ``(changes, samples, …)`` of several changes, each a row of the replacements and of the gates."""
        count = len([*replacements, *gates][0])
        if self.vmapped and count > 1:
            try:
                # Of the kinds of attention, only the plain one takes a further axis.
                with warnings.catch_warnings(), math_attention():
                    warnings.simplefilter("ignore")  # that an op has no rule of its own, and is run in a loop
                    outputs: Tensor = torch.vmap(lambda r, s: self.end(values, r, s))(list(replacements), list(gates))
                    return outputs
            except Exception:  # noqa: BLE001  (whatever vmap does not take; a fault of the op itself comes again below)
                self.vmapped = False
        return torch.stack(
            [self.end(values, [r[n] for r in replacements], [s[n] for s in gates]) for n in range(count)]
        )


def affected(steps: Iterable[Instruction], at: set[Node], replaced: set[Node]) -> set[Node]:
    """Return the nodes whose values change: `replaced`, those `at` which something is shut, and all that takes up these."""
    dirty = set(replaced)
    for step in steps:
        if step.node in at or any(operand in dirty for operand in step.operands):
            dirty.add(step.node)
    return dirty
