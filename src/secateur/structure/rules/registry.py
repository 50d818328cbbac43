"""What a rule is: a small function, one for each ATen op, that says how the op ties the axes of its operands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.fx import Node

from secateur.structure.axes import Axis, fixed, freeze, is_fixed, unify
from secateur.structure.carriers import Dimension
from secateur.structure.nodes import innermost, where

__all__ = ["RULES", "Call", "Ties", "Value", "freeze_all", "op_name", "output_shapes", "rule", "shape_of"]


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of one tensor in the graph.

    Attributes:
        axes: one axis a dimension.
        zero: whether the entries of a removed unit are zero in the masked model.
        source: for each dimension the parameter's dimension ``(name, dim)`` that it still is, if any.
    """

    axes: tuple[Axis, ...]
    zero: bool = True
    source: tuple[tuple[str, int] | None, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(a.size for a in self.axes)


@dataclass(eq=False)
class Ties:
    """What the rules write down beside the axes themselves.

    Attributes:
        roles: for a parameter's dimension, whether ops used it to produce ("out") or to consume ("in") units.
        statistics: nodes that take statistics over axes that may be cut, or sum what masking does not make zero, so that they
            see fewer channels afterwards.
        groups: nodes with a number of groups, and the axis whose size that number is.
        unmasked: parameters' dimensions that masking leaves as they are, as another tensor makes their units zero.
        units: what the units of an axis are called, where an op tells; the first one said of an atom counts.
        aligned: axes that an op takes at multiples of a size alone, with that multiple.
        counted: dimensions whose size the code has from a module or from a tensor, and not as a number written in it.
        batchless: nodes that no input reaches, so that none of their dimensions is that of the samples.
    """

    roles: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    statistics: dict[Node, tuple[Axis, ...]] = field(default_factory=dict)
    groups: dict[Node, Axis] = field(default_factory=dict)
    units: list[tuple[Axis, str]] = field(default_factory=list)
    unmasked: set[tuple[str, int]] = field(default_factory=set)
    aligned: list[tuple[Axis, int]] = field(default_factory=list)
    counted: frozenset[Dimension] = frozenset()
    batchless: frozenset[Node] = frozenset()


@dataclass(frozen=True, eq=False)
class Call:
    """One op in the graph with its arguments by name, tensors as `Value`."""

    node: Node
    arguments: dict[str, Any]
    ties: Ties

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    @cached_property
    def reason(self) -> str:
        """Where this op is, for people."""
        return where(self.node)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the (first) output."""
        return shape_of(self.node)

    def is_counted(self, dim: int) -> bool:
        """Whether the code has the size of this dimension of the output from a module or from a tensor."""
        return Dimension(innermost(self.node), self.shape, dim) in self.ties.counted

    def values(self) -> list[Value]:
        """Every tensor among the arguments."""
        return [
            v
            for arg in self.arguments.values()
            for v in (arg if isinstance(arg, (list, tuple)) else [arg])
            if isinstance(v, Value)
        ]

    def unify(self, a: Axis, b: Axis) -> None:
        """Make two axes the same one; where they do not fit, this op is the reason."""
        if a.size != b.size:
            self.freeze(a, b)
        else:
            unify(a, b, lambda: f"shapes that do not refine each other at {self.reason}")

    def freeze(self, *axes: Axis, because: str = "") -> None:
        """Freeze axes with this op as the reason."""
        for axis in axes:
            if not is_fixed(axis):
                freeze(axis, f"{because or 'tied to a size that cannot change'} at {self.reason}")

    def role(self, value: Value, dim: int, role: str) -> None:
        """Note that dimension `dim` of a weight is used to produce ("out") or to consume ("in") units."""
        source = value.source[dim] if dim < len(value.source) else None
        if source:
            self.ties.roles.setdefault(source, set()).add(role)

    def unit(self, axis: Axis, name: str) -> None:
        """Note what the units of `axis` are called."""
        if not is_fixed(axis):
            self.ties.units.append((axis, name))

    def align(self, axis: Axis, size: int) -> None:
        """Note that this op takes `axis` at multiples of `size` alone."""
        if not is_fixed(axis):
            self.ties.aligned.append((axis, size))

    def statistic(self, *axes: Axis) -> None:
        """Note that this op takes statistics over `axes`."""
        if any(not is_fixed(a) for a in axes):
            self.ties.statistics[self.node] = (*self.ties.statistics.get(self.node, ()), *axes)


Rule = Callable[[Call], "Value | list[Value]"]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the ATen ops `names`; an in-place op takes the rule of its plain form."""

    def register(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, f"two rules for {name}"
            RULES[name] = function
        return function

    return register


def op_name(node: Node) -> str:
    """Return the op's name without namespace, overload and in-place mark: ``add`` for ``aten.add_.Tensor``."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema is not None else getattr(node.target, "__name__", str(node.target))
    short = name.removeprefix("aten::")
    return short[:-1] if short.endswith("_") and not short.endswith("__") else short


def shape_of(node: Node) -> tuple[int, ...]:
    """Return the shape of a node's (first) tensor; () where it has none."""
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    return tuple(int(s) for s in value.shape) if isinstance(value, Tensor) else ()


def output_shapes(node: Node) -> list[tuple[int, ...]]:
    """Return the shapes of all outputs of a node; () for what is no tensor."""
    traced_output = node.meta.get("val")
    if isinstance(traced_output, (list, tuple)):
        return [tuple(m.shape) if isinstance(m, Tensor) else () for m in traced_output]
    return [shape_of(node)]


def freeze_all(call: Call, because: str) -> Value | list[Value]:
    """Freeze all that an op touches; its outputs carry no units."""
    for value in call.values():
        call.freeze(*value.axes, because=because)
    traced_output = call.node.meta.get("val")
    reason = f"{because} at {call.reason}"
    if isinstance(traced_output, (list, tuple)):
        return [fixed_value(tuple(m.shape), reason) if isinstance(m, Tensor) else Value(()) for m in traced_output]
    return fixed_value(call.shape, reason)


def fixed_value(shape: Iterable[int], reason: str) -> Value:
    """Return a value of frozen axes."""
    return Value(tuple(fixed(int(s), reason) for s in shape))
