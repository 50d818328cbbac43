"""Whole numbers that carry where they come from: an attribute of a module, or a dimension of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = [
    "Attribute",
    "Carrier",
    "Dimension",
    "Origin",
    "Origins",
    "UseLog",
    "Uses",
    "both_uses",
    "carried",
    "origins_of",
    "plain",
]


@dataclass(frozen=True)
class Attribute:
    """An attribute of the module at `path`."""

    path: str
    name: str

    def __str__(self) -> str:
        return f"self.{self.name} of {self.path}" if self.path else f"self.{self.name}"


@dataclass(frozen=True)
class Dimension:
    """A dimension of a tensor of `shape` that the forward pass of the module at `path` has in its hands.

    With `given`, the size was read from a tensor that the module did not make itself.
    """

    path: str
    shape: tuple[int, ...]
    dim: int
    given: bool = False

    def __str__(self) -> str:
        where = f" in {self.path}" if self.path else ""
        return f"read from the shape {self.shape} of a tensor{where}"


Origin = Attribute | Dimension
Origins = frozenset[Origin]
_Read = TypeVar("_Read", Attribute, Dimension, Origins)


@dataclass(eq=False)
class Uses:
    """What a forward pass did with the whole numbers that its modules hold.

    Attributes:
        read: the attributes that it read.
        values: what those of them were that are single numbers.
        numbers: the attributes, and the dimensions of tensors, whose size entered arithmetic on tensors, or became a
            number that could not be followed.
        lost: those that became a whole number that could not be followed, as by ``int()``.
        sizes: the attributes that set sizes, and the dimensions that they set, or were found to be equal to.
        copied: the dimensions whose size set others, and those.
        written: the dimensions that take a size which is a number in code that is not torch's.
        parameters: the ids of the parameters that it gave to a torch function.
        first_names: the path by which a module is called here, by each of its paths.
        together: what set sizes, one or several that a size was computed of, and the dimensions that they set.
    """

    read: set[Attribute] = field(default_factory=set)
    values: dict[Attribute, int] = field(default_factory=dict)
    numbers: set[Origin] = field(default_factory=set)
    lost: set[Origin] = field(default_factory=set)
    sizes: dict[Attribute, set[Dimension]] = field(default_factory=dict)
    copied: dict[Dimension, set[Dimension]] = field(default_factory=dict)
    written: set[Dimension] = field(default_factory=set)
    parameters: set[int] = field(default_factory=set)
    first_names: dict[str, str] = field(default_factory=dict)
    together: dict[Origins, set[Dimension]] = field(default_factory=dict)

    def may_change(self, attribute: Attribute) -> bool:
        """Whether the attribute was read and, as far as could be seen, for no arithmetic."""
        return attribute in self.read and attribute not in self.numbers

    def only_sizes(self, attribute: Attribute) -> bool:
        """Whether all that the attribute was read for was seen, and was to set sizes."""
        return self.may_change(attribute) and attribute in self.sizes and attribute not in self.lost

    def lost_sizes(self) -> set[int | None]:
        """Return the numbers that stand in code as if written there, but come from what was lost from sight."""
        return {o.shape[o.dim] if isinstance(o, Dimension) else self.values.get(o) for o in self.lost}


def both_uses(a: Uses, b: Uses) -> Uses:
    """Return what two forward passes did."""
    return Uses(
        read=a.read | b.read,
        values={**a.values, **b.values},
        numbers=a.numbers | b.numbers,
        lost=a.lost | b.lost,
        sizes=_merged(a.sizes, b.sizes),
        copied=_merged(a.copied, b.copied),
        written=a.written | b.written,
        parameters=a.parameters | b.parameters,
        first_names={**a.first_names, **b.first_names},
        together=_merged(a.together, b.together),
    )


def _merged(a: Mapping[_Read, set[Dimension]], b: Mapping[_Read, set[Dimension]]) -> dict[_Read, set[Dimension]]:
    merged = {origin: set(dimensions) for origin, dimensions in a.items()}
    for origin, dimensions in b.items():
        merged.setdefault(origin, set()).update(dimensions)
    return merged


class UseLog:
    """Where numbers write what becomes of them, as long as it is open."""

    def __init__(self) -> None:
        self.uses = Uses()
        self.open = True

    def number(self, origins: Origins) -> None:
        """Note that these entered arithmetic."""
        if self.open:
            self.uses.numbers |= origins

    def lose(self, origins: Origins) -> None:
        """Note that these became a whole number that goes its own ways."""
        if self.open:
            self.uses.lost |= origins

    def size(self, origins: Origins, dimensions: Iterable[Dimension]) -> None:
        """Note that these set a size, and of which dimensions."""
        if origins:
            self.uses.together.setdefault(origins, set()).update(dimensions)
        for origin in origins:
            if isinstance(origin, Attribute):
                self.uses.sizes.setdefault(origin, set()).update(dimensions)
            else:
                self.uses.copied.setdefault(origin, set()).update(dimensions)

    def write(self, dimensions: Iterable[Dimension]) -> None:
        """Note that the code says the size of these."""
        self.uses.written.update(dimensions)


class Carrier:
    """What a number of a known origin does: it hands its origins on to whatever is computed from it."""

    origins: Origins
    log: UseLog

    def __float__(self) -> float:
        self.log.number(self.origins)  # as math.sqrt does, and what it makes of it cannot be followed
        return float(plain(self))

    def __int__(self) -> int:
        self.log.lose(self.origins)
        return int(plain(self))

    __trunc__ = __int__

    def __eq__(self, other: object) -> bool:
        equal = bool(plain(self) == plain(other))
        if equal:
            self._compared(other)
        return equal

    def __ne__(self, other: object) -> bool:
        return not self == other

    def _compared(self, other: object) -> None:
        """Note where an attribute is a dimension's size, as where a forward pass asserts the number of its channels."""
        if isinstance(other, Carrier):
            for attributes, dimensions in ((self.origins, other.origins), (other.origins, self.origins)):
                named = frozenset(origin for origin in attributes if isinstance(origin, Attribute))
                measured = [replace(origin, given=False) for origin in dimensions if isinstance(origin, Dimension)]
                if len(named) == len(attributes) and len(measured) == len(dimensions):
                    self.log.size(named, measured)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        self.log.number(self.origins)
        return getattr(ufunc, method)(*plain(inputs), **plain(kwargs))

    def __reduce__(self) -> Any:
        value = plain(self)
        return type(value), (value,)

    def __copy__(self) -> Any:
        return plain(self)

    def __deepcopy__(self, memo: Any) -> Any:
        return plain(self)


class _Size(Carrier, int):
    """A whole number that carries its origins."""

    __hash__ = int.__hash__


class _Fraction(Carrier, float):
    """A number computed from sizes: it may become a size again; in arithmetic on tensors it tells on them."""

    __hash__ = float.__hash__


def carried(value: Any, origins: Origins, log: UseLog) -> Any:
    """Return a number, or a tuple of them, with its origins; anything else, or once the log is closed, as it is."""
    if not log.open:
        return value
    if type(value) is tuple:
        return tuple(carried(v, origins, log) for v in value)
    kind = {int: _Size, float: _Fraction}.get(type(value))
    if kind is None:
        return value
    carrier: Carrier = kind(value)
    carrier.origins, carrier.log = origins, log
    return carrier


def plain(value: Any) -> Any:
    """Return `value` with every carrier in it as a plain number; what has none is returned itself."""
    if isinstance(value, _Size):
        return int.__int__(value)
    if isinstance(value, _Fraction):
        return float.__float__(value)
    if isinstance(value, slice):
        return slice(*plain((value.start, value.stop, value.step)))
    if type(value) in (list, tuple, torch.Size):
        bare = [plain(v) for v in value]
        return value if all(a is b for a, b in zip(bare, value, strict=True)) else type(value)(bare)
    if type(value) is dict:
        named = {k: plain(v) for k, v in value.items()}
        return value if all(named[k] is v for k, v in value.items()) else named
    return value


def origins_of(value: Any) -> Origins:
    """Return the origins of all carriers in a value."""
    if isinstance(value, Carrier):
        return value.origins
    if isinstance(value, slice):
        return origins_of((value.start, value.stop, value.step))
    if isinstance(value, dict):
        return origins_of(list(value.values()))
    parts = value if isinstance(value, (list, tuple)) else ()
    return frozenset().union(*map(origins_of, parts))


def _method(name: str) -> Callable[..., Any]:
    """The method `name` of numbers, with the origins of all operands on what it returns."""

    def method(self: Carrier, *operands: Any) -> Any:
        value, others = plain(self), plain(operands)
        result = getattr(value, name)(*others)
        if result is NotImplemented and isinstance(others[0], float):
            result = getattr(float(value), name)(*others)
        if result is NotImplemented and not isinstance(others[0], Tensor):
            self.log.number(self.origins)  # an array, say, which takes the bare number
        return carried(result, self.origins | origins_of(operands), self.log)

    return method


BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow")
UNARY = ("neg", "pos", "abs", "round", "floor", "ceil")
for _kind in (_Size, _Fraction):
    for _name in (*BINARY, *(f"r{name}" for name in BINARY), *UNARY):
        setattr(_kind, f"__{_name}__", _method(f"__{_name}__"))
