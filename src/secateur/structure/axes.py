"""The axis algebra: what every dimension of every tensor is made of, and which dimensions are the same.

An axis is an `Atom` (n independent units), a `Prod` of axes (what ``view`` and ``flatten`` make; row-major, the last
factor runs fastest) or a `Sum` of axes (what ``cat`` and ``chunk`` make). Saying that two axes are the same
refines atoms, as a type checker refines type variables: an atom of 768 that meets a product of 12 and 64 becomes that
product, everywhere at once. What cannot be refined is frozen, with the reason; nothing is ever guessed.

>>> channels, pixels = Atom(3), fixed(4, "pixels")
>>> flat = product(channels, pixels)              # what flatten makes of (3, 2, 2)
>>> features = Atom(12)                           # the in-axis of the Linear that follows
>>> unify(features, flat)
>>> keep_vector(features, {channels: torch.tensor([True, False, True])}).int().tolist()
[1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

__all__ = [
    "Atom",
    "Axis",
    "Prod",
    "Sum",
    "atoms",
    "factor",
    "fixed",
    "freeze",
    "is_fixed",
    "keep_vector",
    "positions",
    "product",
    "resolve",
    "split",
    "total",
    "unify",
]


class Atom:
    """An axis of `size` independent units, until it is found to be more (`link`) or is frozen (a reason)."""

    __slots__ = ("frozen", "link", "size")

    def __init__(self, size: int, frozen: str | None = None) -> None:
        self.size = size
        self.frozen = frozen
        self.link: Axis | None = None

    def __repr__(self) -> str:
        return f"{self.size}{'!' if self.frozen else ''}" if self.link is None else repr(resolve(self))


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Prod:
    """Row-major product of two or more axes; the last factor runs fastest."""

    factors: tuple[Axis, ...]
    size: int

    def __repr__(self) -> str:
        return "(" + "×".join(map(repr, self.factors)) + ")"


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Sum:
    """Concatenation of two or more axes."""

    parts: tuple[Axis, ...]
    size: int

    def __repr__(self) -> str:
        return "(" + "+".join(map(repr, self.parts)) + ")"


Axis = Atom | Prod | Sum


def fixed(size: int, reason: str = "not a channel axis") -> Atom:
    """Return an axis that is never cut, with the reason."""
    return Atom(size, reason)


def product(*axes: Axis) -> Axis:
    """Return the row-major product of `axes`; factors of size 1 vanish, nested products are flattened."""
    factors: list[Axis] = []
    for axis in map(resolve, axes):
        if isinstance(axis, Prod):
            factors.extend(axis.factors)
        elif axis.size != 1:
            factors.append(axis)
    if len(factors) > 1:
        return Prod(tuple(factors), prod(f.size for f in factors))
    return factors[0] if factors else fixed(1)


def total(*axes: Axis) -> Axis:
    """Return the concatenation of `axes`; empty parts vanish, nested sums are flattened."""
    parts: list[Axis] = []
    for axis in map(resolve, axes):
        if isinstance(axis, Sum):
            parts.extend(axis.parts)
        elif axis.size:
            parts.append(axis)
    if len(parts) > 1:
        return Sum(tuple(parts), sum(p.size for p in parts))
    return parts[0] if parts else fixed(0)


def resolve(axis: Axis) -> Axis:
    """Return what `axis` is known to be by now, with every link followed."""
    if isinstance(axis, Atom):
        if axis.link is None:
            return axis
        axis.link = resolve(axis.link)  # path compression: long chains of unifications stay cheap
        return axis.link
    if isinstance(axis, Prod):
        return axis if all(_is_settled(f) for f in axis.factors) else product(*axis.factors)
    return axis if all(_is_settled(p) for p in axis.parts) else total(*axis.parts)


def _is_settled(axis: Axis) -> bool:
    if isinstance(axis, Atom):
        return axis.link is None
    inner = axis.factors if isinstance(axis, Prod) else axis.parts
    return all(_is_settled(a) for a in inner)


def atoms(axis: Axis) -> Iterator[Atom]:
    """Yield every atom that `axis` is made of, in order; one that occurs twice is yielded twice."""
    axis = resolve(axis)
    if isinstance(axis, Atom):
        yield axis
    else:
        for inner in axis.factors if isinstance(axis, Prod) else axis.parts:
            yield from atoms(inner)


def is_fixed(axis: Axis) -> bool:
    """Whether nothing in `axis` can be cut."""
    return all(atom.frozen for atom in atoms(axis))


def freeze(axis: Axis, reason: str) -> None:
    """Freeze every atom of `axis`; the first reason given is the one kept."""
    for atom in atoms(axis):
        atom.frozen = atom.frozen or reason


def _clash() -> str:
    return "shapes that do not refine each other"


def unify(a: Axis, b: Axis, reason: Callable[[], str] = _clash) -> None:
    """Make two axes of equal size the same one, refining both; what does not fit is frozen with `reason`."""
    a, b = resolve(a), resolve(b)
    if a is b:
        return
    if a.size != b.size:
        raise ValueError(f"axes of sizes {a.size} and {b.size} cannot be the same ({reason()})")
    if isinstance(a, Atom):
        _bind(a, b)
    elif isinstance(b, Atom):
        _bind(b, a)
    elif not _unify_compound(a, b, reason):
        freeze(a, reason())
        freeze(b, reason())


def _bind(atom: Atom, axis: Axis) -> None:
    if atom.frozen:
        freeze(axis, atom.frozen)
    elif isinstance(axis, Atom) and axis.frozen:
        atom.frozen = axis.frozen
    atom.link = axis


def _unify_compound(a: Prod | Sum, b: Prod | Sum, reason: Callable[[], str]) -> bool:
    if isinstance(a, Prod) and isinstance(b, Prod):
        # The finer of the two last factors divides the coarser one, or neither can be refined to fit the other.
        fine, coarse = (a, b) if a.factors[-1].size <= b.factors[-1].size else (b, a)
        return _peel_factor(fine, coarse, reason)
    if isinstance(a, Sum) and isinstance(b, Sum):
        return _peel_part(a, b, reason)
    prod_, sum_ = (a, b) if isinstance(a, Prod) else (b, a)
    assert isinstance(prod_, Prod)
    return _peel_factor(prod_, sum_, reason) or _peel_part(prod_, sum_, reason)


def _peel_factor(a: Prod, b: Axis, reason: Callable[[], str]) -> bool:
    """Unify the last factor of `a` with the matching factor of `b`, and then what is left of both."""
    last = a.factors[-1]
    halves = factor(b, last.size)
    if halves is None:
        return False
    unify(last, halves[1], reason)
    unify(product(*a.factors[:-1]), halves[0], reason)
    return True


def _peel_part(a: Axis, b: Axis, reason: Callable[[], str]) -> bool:
    """Unify the first part of one with the first part of the other, and then what is left of both."""
    size = min(_first_part(a).size, _first_part(b).size)
    halves_a = split(a, size)
    halves_b = split(b, size) if halves_a else None
    if halves_a is None or halves_b is None:
        return False
    unify(halves_a[0], halves_b[0], reason)
    unify(halves_a[1], halves_b[1], reason)
    return True


def _first_part(axis: Axis) -> Axis:
    axis = resolve(axis)
    return axis.parts[0] if isinstance(axis, Sum) else axis


def factor(axis: Axis, size: int) -> tuple[Axis, Axis] | None:
    """Write `axis` as a product whose right factor has `size`, refining it; None when it is no such product."""
    axis = resolve(axis)
    if size == axis.size:
        return fixed(1), axis
    if size == 1:
        return axis, fixed(1)
    if size == 0 or axis.size % size:
        return None
    if isinstance(axis, Atom):
        return _factor_atom(axis, size)
    return _factor_prod(axis, size) if isinstance(axis, Prod) else _factor_sum(axis, size)


def _factor_atom(atom: Atom, size: int) -> tuple[Axis, Axis]:
    left, right = Atom(atom.size // size, atom.frozen), Atom(size, atom.frozen)
    if not atom.frozen:
        atom.link = product(left, right)
    return left, right


def _factor_prod(axis: Prod, size: int) -> tuple[Axis, Axis] | None:
    done = 1
    for at in range(len(axis.factors) - 1, -1, -1):
        current = axis.factors[at]
        if done * current.size > size:
            break
        done *= current.size
        if done == size:
            return product(*axis.factors[:at]), product(*axis.factors[at:])
    if size % done:
        return None
    halves = factor(current, size // done)
    if halves is None:
        return None
    return product(*axis.factors[:at], halves[0]), product(halves[1], *axis.factors[at + 1 :])


def _factor_sum(axis: Sum, size: int) -> tuple[Axis, Axis] | None:
    if all(p.size % size == 0 for p in axis.parts):
        halves = [factor(p, size) for p in axis.parts]
        if any(h is None for h in halves):
            return None
        pairs = [h for h in halves if h is not None]
        lefts, rights = [h[0] for h in pairs], [h[1] for h in pairs]
        left: Axis = total(*lefts)
    else:  # every row is a concatenation of several parts: all rows are alike, and their number is fixed
        rights, rest = [], axis
        while rest.size > size:
            pieces = split(rest, size)
            if pieces is None:
                return None
            rights.append(pieces[0])
            rest = pieces[1]  # type: ignore[assignment]
        rights.append(rest)
        left = fixed(len(rights), "rows of a concatenation")
    for other in rights[1:]:
        unify(rights[0], other)
    return left, rights[0]


def split(axis: Axis, size: int) -> tuple[Axis, Axis] | None:
    """Write `axis` as a concatenation whose first part has `size`, refining it; None when it is no such sum."""
    axis = resolve(axis)
    if size == axis.size:
        return axis, fixed(0)
    if size == 0:
        return fixed(0), axis
    if not 0 < size < axis.size:
        return None
    if isinstance(axis, Atom):
        first, rest = Atom(size, axis.frozen), Atom(axis.size - size, axis.frozen)
        if not axis.frozen:
            axis.link = total(first, rest)
        return first, rest
    return _split_sum(axis, size) if isinstance(axis, Sum) else _split_prod(axis, size)


def _split_sum(axis: Sum, size: int) -> tuple[Axis, Axis] | None:
    done = 0
    for at, part in enumerate(axis.parts):
        if done + part.size > size:
            halves = split(part, size - done)
            if halves is None:
                return None
            return total(*axis.parts[:at], halves[0]), total(halves[1], *axis.parts[at + 1 :])
        done += part.size
    raise AssertionError("size is smaller than the sum")


def _split_prod(axis: Prod, size: int) -> tuple[Axis, Axis] | None:
    inner = axis.factors[1:]
    step = prod(f.size for f in inner)
    halves = split(axis.factors[0], size // step) if size % step == 0 else None
    return None if halves is None else (product(halves[0], *inner), product(halves[1], *inner))


def keep_vector(axis: Axis, keep: Mapping[Atom, Tensor]) -> Tensor:
    """Expand the atoms' keep vectors through `axis`: bool ``(axis.size,)``; atoms not in `keep` stay whole."""
    axis = resolve(axis)
    if isinstance(axis, Atom):
        return keep.get(axis, torch.ones(axis.size, dtype=torch.bool))
    if isinstance(axis, Sum):
        return torch.cat([keep_vector(p, keep) for p in axis.parts])
    result = torch.ones(1, dtype=torch.bool)
    for inner in axis.factors:
        result = (result[:, None] & keep_vector(inner, keep)[None, :]).flatten()
    return result


def positions(axis: Axis, atom: Atom) -> Tensor | None:
    """Return where each unit of `atom` lies in `axis`: int64 ``(atom.size, places)``; None where it does not.

    Where the atom stands twice in a product (an outer product flattened), a place that a unit owns both ways is named
    twice.
    """
    places_by_way = [_places(units, atom.size) for units in _unit_numbers(axis, atom)]
    return torch.cat(places_by_way, dim=1) if places_by_way else None


def _places(units: Tensor, size: int) -> Tensor:
    order = torch.argsort(units, stable=True)
    return order[int((units < 0).sum()) :].reshape(size, -1)


def _unit_numbers(axis: Axis, atom: Atom) -> list[Tensor]:
    """For each way in which `atom` makes up `axis`: the unit that owns each position, -1 where none does."""
    axis = resolve(axis)
    if isinstance(axis, Atom):
        return [torch.arange(atom.size)] if axis is atom else []
    inner: Sequence[Axis] = axis.factors if isinstance(axis, Prod) else axis.parts
    numbers_by_part = [_unit_numbers(a, atom) for a in inner]
    if isinstance(axis, Sum):
        ways = max(len(f) for f in numbers_by_part)
        return [
            torch.cat([f[way] if way < len(f) else _absent(a) for a, f in zip(inner, numbers_by_part, strict=True)])
            for way in range(ways)
        ]
    numbers = []
    for at, ways_here in enumerate(numbers_by_part):
        outer, after = prod(a.size for a in inner[:at]), prod(a.size for a in inner[at + 1 :])
        numbers += [mine.repeat_interleave(after).repeat(outer) for mine in ways_here]
    return numbers


def _absent(axis: Axis) -> Tensor:
    return torch.full((axis.size,), -1)
