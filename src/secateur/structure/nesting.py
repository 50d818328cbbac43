"""Sites that lie in one axis of a tensor, as groups and the channels inside each: what they keep multiplies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import product

from secateur.structure.axes import Atom, Axis, Prod, Sum, resolve
from secateur.structure.infer import Structure
from secateur.types import Sites

__all__ = ["nested"]


def nested(sites: Sites) -> list[tuple[str, ...]]:
    """Return the names of the sites whose units make up one axis together, for each axis that several make up.

    A site that an axis has twice (an outer product, flattened) is named twice. An axis whose sites are some of another
    one's is not listed by itself.

    >>> import torch
    >>> from torch import nn
    >>> from secateur.structure.sites import channels
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.Conv2d(8, 2, 1))
    >>> nested(channels(model, torch.zeros(1, 3, 2, 2)))
    [('0', '0:2')]
    """
    structure = sites.structure
    if not isinstance(structure, Structure):
        return []
    names = {structure.units[name]: name for name in sites}
    axes = (axis for value in structure.tensors.values() for axis in value.axes)
    terms = {term for axis in axes for term in _terms(axis, names) if len(term) > 1}
    counts = {term: Counter(term) for term in sorted(terms)}
    return [term for term in counts if not any(counts[term] < other for other in counts.values())]


def _terms(axis: Axis, names: Mapping[Atom, str]) -> set[tuple[str, ...]]:
    """The products of sites that an axis is a sum of, without what cannot be cut."""
    axis = resolve(axis)
    if isinstance(axis, Prod):
        factors = [_terms(factor, names) for factor in axis.factors]
        return {tuple(sorted(sum(term, ()))) for term in product(*factors)}
    if isinstance(axis, Sum):
        return set().union(*(_terms(part, names) for part in axis.parts))
    return {(names[axis],) if axis in names else ()}
