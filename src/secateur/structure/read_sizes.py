"""Tie the axes that a module's code makes of one size: where it reads the size of one and gives it to the other.

As in ``b, t, width = x.shape`` and later ``heads.reshape(b, t, width)``: a module that is run anew needs both to be of one
size. A graph could be written with two; where none can be, they are one axis. So are those that one attribute sizes; and of
``width // self.heads`` neither can change, unless the width is made of both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.fx import Node

from secateur.structure.axes import Axis, atoms, freeze, is_fixed, resolve, unify
from secateur.structure.carriers import Attribute, Dimension, Origins, Uses
from secateur.structure.nodes import innermost, module_paths, named_arguments
from secateur.structure.rules import Value, op_name, shape_of
from secateur.structure.sized_axes import RESHAPES

__all__ = ["Tie", "tie_alike", "tie_first_reads", "tie_parts", "tie_read_sizes", "ties_of"]

Tie = Callable[[Uses, Mapping[Node, Any]], None]
"""Makes one of axes, given what was read and set, and what the rules found for every node."""


def tie_read_sizes(uses: Uses, values: Mapping[Node, Any]) -> None:
    """Make one of every axis whose size was read and the axes of reshaped tensors that took the very size.

    So are those that an attribute sizes. What is a fraction of a size stays, with all that makes the fraction.
    """
    places = _Places(uses, values)
    for origin, dimensions in sorted(uses.copied.items(), key=str):
        for dimension in sorted(dimensions, key=str):
            size, copied = origin.shape[origin.dim], dimension.shape[dimension.dim]
            if copied == size:
                targets = list(places.axes(dimension, reshaped=True))
                for axis in [*targets[1:], *places.axes(origin)] if targets else ():
                    unify(targets[0], axis, lambda origin=origin: f"its size is {origin}")  # type: ignore[misc]
            elif 1 < copied < size and size % copied == 0:
                _hold_fraction(uses, places, origin, dimension)
    for attribute in sorted(uses.values, key=str):
        _make_one([resolve(axis) for axis in places.sized(attribute)], str(attribute))


def tie_first_reads(uses: Uses, values: Mapping[Node, Any]) -> None:
    """Make one of an axis that took a size and the one that it was read from, where both could shrink by themselves.

    What a module has in its hands first is what it is given, and of that its code reads the shape as a rule.
    """
    places = _Places(uses, values)
    for origin, axis, source in _apart(uses, places):
        unify(source, axis, lambda origin=origin: f"its size is {origin}")  # type: ignore[misc]
    for origin, dimension in _fractions(uses, places):
        _hold_fraction(uses, places, origin, dimension)


def tie_alike(uses: Uses, values: Mapping[Node, Any]) -> None:
    """Make one of the axes that take one number of the same attributes, as queries and values do of ``self.head_dim``."""
    for attributes, axes in list(_alike(uses, _Places(uses, values))):
        _make_one(axes, " and ".join(sorted(map(str, attributes))))


def tie_parts(uses: Uses, values: Mapping[Node, Any]) -> None:
    """Make one of the parts into which a tensor is split by one number of the same attributes, as by ``(self.c, self.c)``."""
    for attributes, axes in list(_parts(uses, values)):
        _make_one(axes, " and ".join(sorted(map(str, attributes))))


def ties_of(uses: Uses, values: Mapping[Node, Any]) -> tuple[Tie, ...]:
    """Return what ties the axes that could shrink by themselves, and of which the code makes one size.

    It reads the size of one, or a fraction of it, and gives it to the other; or it gives both the number of an attribute.
    """
    places = _Places(uses, values)
    by_tie: dict[Tie, tuple[Iterator[Any], ...]] = {
        tie_first_reads: (_apart(uses, places), _fractions(uses, places)),
        tie_alike: (_alike(uses, places),),
        tie_parts: (_parts(uses, values),),
    }
    return tuple(tie for tie, apart in by_tie.items() if any(next(found, None) for found in apart))


def _make_one(axes: list[Axis], sized_by: str) -> None:
    """Tie the axes that share a size; where one cannot change, none can."""
    because = f"it shares its size with what cannot change ({sized_by})"
    if any(map(is_fixed, axes)):
        _freeze(axes, because)
    for axis in axes[1:]:
        unify(axes[0], axis, lambda: because)


def _alike(uses: Uses, places: _Places) -> Iterator[tuple[Origins, list[Axis]]]:
    """The axes of reshaped tensors that take one number of the same attributes, made of as many units each, but not of the same.

    A stream is as wide as all heads are, by one attribute; of one unit each heads and their dimensions are not. What
    others set as well, to an equal number, is of either.
    """
    setters = _setters(uses)
    for origins, dimensions in sorted(uses.together.items(), key=lambda item: sorted(map(str, item[0]))):
        by_form: defaultdict[tuple[int, ...], list[Axis]] = defaultdict(list)
        for dimension in sorted(dimensions, key=str) if all(isinstance(o, Attribute) for o in origins) else ():
            if len(setters[dimension]) == 1:
                for axis in map(resolve, places.axes(dimension, reshaped=True)):
                    by_form[tuple(atom.size for atom in atoms(axis))].append(axis)
        for axes in by_form.values():
            if not all(_is_one(axes[0], axis) for axis in axes) and not all(map(is_fixed, axes)):
                yield origins, axes


def _parts(uses: Uses, values: Mapping[Node, Any]) -> Iterator[tuple[Origins, list[Axis]]]:
    """The axes of equal parts of one tensor whose sizes are one number of the same attributes, but which are not of the same units."""
    setters = _setters(uses)
    for node, parts in values.items():
        if node.op != "call_function" or op_name(node) not in SPLITS or not isinstance(parts, list):
            continue
        path, dim = innermost(node), named_arguments(node)["dim"]
        by_number: defaultdict[tuple[Origins, int], list[Axis]] = defaultdict(list)
        for part in parts:
            several = setters.get(Dimension(uses.first_names.get(path, path), part.shape, dim % len(part.axes)), [])
            if len(several) == 1 and all(isinstance(origin, Attribute) for origin in several[0]):
                by_number[several[0], part.shape[dim]].append(resolve(part.axes[dim]))
        for (origins, _), axes in by_number.items():
            if not all(_is_one(axes[0], axis) for axis in axes) and not all(map(is_fixed, axes)):
                yield origins, axes


SPLITS = {"split", "split_with_sizes"}


def _setters(uses: Uses) -> Mapping[Dimension, list[Origins]]:
    """What set the size of each dimension: of several, to an equal number, it is of either."""
    setters: defaultdict[Dimension, list[Origins]] = defaultdict(list)
    for origins, dimensions in uses.together.items():
        for dimension in dimensions:
            setters[dimension].append(origins)
    return setters


def _is_one(a: Axis, b: Axis) -> bool:
    """Whether two axes are made of the same units."""
    return set(atoms(a)) == set(atoms(b))


def _apart(uses: Uses, places: _Places) -> Iterator[tuple[Dimension, Axis, Axis]]:
    """The axes that took a size that none of theirs has, each with the first that it may have been read from."""
    for origin, dimensions in sorted(uses.copied.items(), key=str):
        sources = places.holders(origin)
        for dimension in sorted(dimensions, key=str):
            if sources and origin.shape[origin.dim] == dimension.shape[dimension.dim]:
                for node in places.holders(dimension, reshaped=True):
                    axis = places.values[node].axes[dimension.dim]
                    # Of what cannot change its size was not read, where nothing before is as large and cannot change either.
                    of = [n for n in sources if places.is_before(n, node)] if is_fixed(axis) else sources
                    axes = [places.values[n].axes[origin.dim] for n in of]
                    if axes and not any(is_fixed(a) if is_fixed(axis) else _is_one(axis, a) for a in axes):
                        yield origin, axis, axes[0]


def _fractions(uses: Uses, places: _Places) -> Iterator[tuple[Dimension, Dimension]]:
    """The sizes that were computed as fractions of sizes of what a module is given, which are not made of them."""
    for origin, dimensions in sorted(uses.copied.items(), key=str):
        for dimension in sorted(dimensions, key=str):
            size, part = origin.shape[origin.dim], dimension.shape[dimension.dim]
            is_fraction = origin.given and 1 < part < size and size % part == 0
            axes = [*places.axes(origin), *places.axes(dimension, reshaped=True)] if is_fraction else []
            if not all(map(is_fixed, axes)) and not _is_made_of(places, origin, dimension):
                yield origin, dimension


def _is_made_of(places: _Places, origin: Dimension, dimension: Dimension) -> bool:
    """Whether all that a size may have been read from is made of the units of what took a fraction of it."""
    needed = {atom for axis in places.axes(dimension, reshaped=True) for atom in atoms(axis)}
    return all(needed.issubset(atoms(axis)) for axis in places.axes(origin))


def _hold_fraction(uses: Uses, places: _Places, origin: Dimension, dimension: Dimension) -> None:
    """Freeze a size that is computed as a fraction of another, unless the other is made of it."""
    if _is_made_of(places, origin, dimension):
        return
    wholes, parts = list(places.axes(origin)), list(places.axes(dimension, reshaped=True))
    count = origin.shape[origin.dim] // dimension.shape[dimension.dim]
    for attribute, dimensions in uses.sizes.items():
        if dimension in dimensions and uses.values.get(attribute) == count:
            parts += places.sized(attribute)
    _freeze([*wholes, *parts], f"a size is computed of it, {origin}")


def _freeze(axes: list[Axis], because: str) -> None:
    for axis in axes:
        if not is_fixed(axis):
            freeze(axis, because)


_Held = defaultdict[tuple[str, tuple[int, ...]], dict[Node, None]]
"""Tensors by the module that has them in its hands, and by their shapes."""


def _takes_size(node: Node, dim: int) -> bool:
    """Whether an op reshapes to a size that it is given there, rather than to what is left (−1)."""
    if node.op != "call_function" or op_name(node) not in RESHAPES:
        return False
    sizes = node.args[1] if len(node.args) == 2 else None
    return not isinstance(sizes, (list, tuple)) or sizes[dim] != -1


class _Places:
    """The tensors that each module's own code has in its hands, by their shapes: what it computes, and what enters it."""

    def __init__(self, uses: Uses, values: Mapping[Node, Any]) -> None:
        self.uses, self.values = uses, values
        self.order = {node: number for number, node in enumerate(values)}
        self.nodes: _Held = defaultdict(dict)
        self.given: _Held = defaultdict(dict)
        self.passed_on: _Held = defaultdict(dict)
        paths = {node: module_paths(node) or [""] for node in values}
        for node, stack in paths.items():
            for neighbour in (*node.all_input_nodes, node):
                if not isinstance(values.get(neighbour), Value):
                    continue
                theirs = paths[neighbour]
                for path in stack:
                    if path == stack[-1] or path not in theirs:
                        self.nodes[uses.first_names.get(path, path), shape_of(neighbour)][neighbour] = None
                    if path not in theirs and not any(values[neighbour].source):
                        self.given[uses.first_names.get(path, path), shape_of(neighbour)][neighbour] = None
                common = next((path for path in reversed(theirs) if path in stack), "")
                for path in (common, *(path for path in theirs if path not in stack)):
                    self.passed_on[uses.first_names.get(path, path), shape_of(neighbour)][neighbour] = None

    def holders(self, dimension: Dimension, reshaped: bool = False) -> list[Node]:
        """Return what a dimension may be of; reshaped tensors alone where that is asked for.

        Where nothing in the module computes with one of that shape, it is of those that go from one of its parts to another.
        """
        key = dimension.path, dimension.shape
        held = (self.given.get(key) if dimension.given else None) or self.nodes.get(key)
        if reshaped:
            return [node for node in held or () if _takes_size(node, dimension.dim)]
        return list(held or self.passed_on.get(key) or ())

    def is_before(self, node: Node, other: Node) -> bool:
        """Whether a node runs before another one."""
        return self.order[node] < self.order[other]

    def axes(self, dimension: Dimension, reshaped: bool = False) -> Iterator[Axis]:
        """Yield the axes that a dimension may be of; of reshaped tensors alone where that is asked for."""
        for node in self.holders(dimension, reshaped):
            yield self.values[node].axes[dimension.dim]

    def sized(self, attribute: Attribute) -> Iterator[Axis]:
        """Yield the axes of reshaped tensors that an attribute's very number sizes."""
        for dimension in sorted(self.uses.sizes.get(attribute, ()), key=str):
            if dimension.shape[dimension.dim] == self.uses.values[attribute]:
                yield from self.axes(dimension, reshaped=True)
