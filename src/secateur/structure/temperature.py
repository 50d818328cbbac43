"""Freeze the head dimensions whose size is also the attention's temperature, as in ``scores / head_dim**0.5``.

A module reads one attribute, or one shape, for both. Cut, it would divide by the root of what is left: another function.
So such a head dimension stays whole, with all that the same attribute sizes; heads and widths can still be cut. So does a
head dimension that shares its attribute with one that cannot change, such as queries whose halves are rotated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch.fx import Node

from secateur.structure.axes import Atom, Axis, atoms, is_fixed, resolve, unify
from secateur.structure.carriers import Attribute, Uses
from secateur.structure.rules import Ties
from secateur.structure.sized_axes import SizedAxes

__all__ = ["HEAD_DIMENSION", "freeze_temperatures"]

HEAD_DIMENSION = "head dimension"


def freeze_temperatures(uses: Uses, values: Mapping[Node, Any], ties: Ties) -> None:
    """Freeze every head dimension whose size was seen to enter arithmetic, with the reason."""
    places = SizedAxes(uses, values)
    words: defaultdict[Atom, set[str]] = defaultdict(set)
    for axis, unit in ties.units:
        for atom in atoms(axis):
            words[atom].add(unit)
    hot = {atom for atom, units in words.items() if HEAD_DIMENSION in units and not atom.frozen}
    frozen: set[Atom] = set()
    for origin in sorted(uses.numbers, key=str):
        for atom in places.atoms(uses.sizes.get(origin, ()) if isinstance(origin, Attribute) else [origin]):
            if atom in hot:
                atom.frozen = atom.frozen or f"its size also sets the attention's temperature ({origin})"
                frozen.add(atom)
    # What the same attribute sizes, such as the values beside queries and keys, would have to shrink alike.
    for attribute, dimensions in uses.sizes.items():
        axes = list(map(resolve, places.axes(dimensions, reshaped=True)))
        of_all_heads = [axis for axis in axes if any("head" in words[atom] for atom in atoms(axis))]
        _tie_to_parts([axis for axis in axes if axis not in of_all_heads], hot, attribute)
        axes = list(map(resolve, axes))
        held = [axis for axis in axes if is_fixed(axis)]
        by_temperature = any(frozen.intersection(atoms(axis)) for axis in held)
        for atom in (axis for axis in axes if isinstance(axis, Atom) and held):
            if not atom.frozen and "head" not in words[atom] and (by_temperature or atom in hot):
                because = "with the attention's temperature" if by_temperature else "with what cannot change"
                atom.frozen = f"it shares its size {because} ({attribute})"
                ties.units.append((atom, HEAD_DIMENSION))


def _tie_to_parts(axes: list[Axis], hot: set[Atom], attribute: Attribute) -> None:
    """Make one of the axes that an attribute sizes where a head dimension goes by parts, as where halves are rotated."""
    in_parts = [axis for axis in axes if not isinstance(axis, Atom) and not hot.isdisjoint(atoms(axis))]
    for axis in axes if in_parts else ():
        if isinstance(axis, Atom) and not axis.frozen and axis.size == in_parts[0].size:
            unify(axis, in_parts[0], lambda: f"it shares its size with what cannot change ({attribute})")
