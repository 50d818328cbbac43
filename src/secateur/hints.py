"""The types that arguments and fields are declared with: looked at, told in words, and made from plain data."""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache, wraps
from inspect import Parameter, signature
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from secateur.checks import is_number, is_whole, wrong_value
from secateur.types import InputError, SecateurError, brief

__all__ = ["Checked", "as_declared", "check_fields", "explain", "from_plain", "has_type"]

COUNTABLE = (list, tuple, set, frozenset, dict, range)
"""The collections whose parts are looked at; others may read them from a disk."""


def has_type(value: object, hint: Any) -> bool:
    """Whether a value is of the type that a hint names.

    A whole number is a float, True and False are no numbers, a list stands for a tuple of any length, and what has a
    protocol's methods is of the protocol.

    >>> from collections.abc import Callable, Collection, Mapping
    >>> has_type({"a": 1}, Mapping[str, float]), has_type((1, None), tuple[int, int | None]), has_type([True], list[int])
    (True, True, False)
    >>> has_type((), Collection[str]), has_type(["a", "b"], tuple[str, ...]), has_type(print, Callable[[int], object])
    (True, True, True)
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(has_type(value, choice) for choice in inner)
    if origin is Literal:
        return value.__hash__ is not None and value in inner
    if hint in (int, float):
        return is_whole(value) if hint is int else is_number(value)
    kind = type(None) if hint is None else origin or hint
    if kind is Any or not isinstance(kind, type):
        return True
    if getattr(kind, "_is_protocol", False) and not issubclass(kind, Iterable):
        return all(_has(value, name) for name in _methods(kind))
    many = origin is tuple and inner[-1] is ...
    if not isinstance(value, (tuple, list) if many else kind) or (isinstance(value, str) and kind not in (str, object)):
        return False
    if all(part is Any for part in inner) or not isinstance(value, COUNTABLE):
        return True
    if isinstance(value, Mapping) and len(inner) == 2:
        return all(has_type(key, inner[0]) and has_type(part, inner[1]) for key, part in value.items())
    if origin is tuple and not many:
        return len(value) == len(inner) and all(map(has_type, value, inner))
    return all(has_type(part, inner[0]) for part in value)


def _has(value: object, name: str) -> bool:
    """Whether an object has an attribute, without computing what a property of its class says."""
    return any(name in vars(kind) for kind in type(value).__mro__) or hasattr(value, name)


def _methods(protocol: type) -> set[str]:
    """The names that a protocol asks for."""
    bases = [base for base in protocol.__mro__ if getattr(base, "_is_protocol", False)]
    names = {name for base in bases for name in [*vars(base), *vars(base).get("__annotations__", {})]}
    return {name for name in names if not name.startswith("_")} | ({"__call__", "__len__"} & names)


def explain(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse the first argument of a call that is of another type than the function declares.

    It is asked after a call that failed: what works is not looked at, and what fails for another reason is not explained.

    Raises:
        InputError: there is one.

    >>> def double(number: int) -> int:
    ...     return 2 * number
    >>> explain(double, ("4",), {})
    Traceback (most recent call last):
    secateur.types.InputError: double: number='4' is a str; give a whole number
    """
    try:
        parameters, hints = signature(function), get_type_hints(function)
        values = parameters.bind(*args, **kwargs).arguments
    except (NameError, TypeError):  # a hint of a library that is not there, or arguments of other names
        return
    for name, value in values.items():
        kind = parameters.parameters[name].kind
        each = value if kind is Parameter.VAR_POSITIONAL else [value]
        if kind is Parameter.VAR_KEYWORD or name not in hints:
            continue
        for argument in each:
            if not has_type(argument, hints[name]):
                raise InputError(
                    f"{function.__name__}: {name}={brief(argument)} is {_a(type(argument))}; give {_said(hints[name])}"
                )


@lru_cache(maxsize=512)
def _hints(kind: type) -> Mapping[str, Any]:
    try:
        return get_type_hints(kind)
    except NameError:  # a hint of a library that is not there, or of a class within a function
        return {}


def check_fields(options: Any) -> None:
    """Refuse fields of a dataclass that are of another type than they are declared with.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Space:
    ...     biases: tuple[str, ...] | None
    ...     rounds: int | None = None
    >>> check_fields(Space(3))
    Traceback (most recent call last):
    secateur.types.InputError: Space: biases=3 must be a tuple of str or None
    >>> check_fields(Space(None, rounds=0.5))
    Traceback (most recent call last):
    secateur.types.InputError: Space: rounds=0.5 must be a whole number or None
    """
    hints = _hints(options.__class__)
    for option in fields(options):
        if option.init and option.name in hints and hasattr(options, option.name):
            value = getattr(options, option.name)
            if not has_type(value, hints[option.name]):
                raise wrong_value(options, option.name, value, _said(hints[option.name]))


class Checked:
    """The base of dataclasses whose fields are of the types that they are declared with, or there is an `InputError`.

    A class's own `__post_init__` is asked first: it says more than the type. What it does not refuse is looked at after it,
    and what it fails at for want of the type is told.

    >>> from dataclasses import dataclass
    >>> from secateur.checks import check_whole
    >>> @dataclass(frozen=True)
    ... class Method(Checked):
    ...     rounds: int
    ...     def __post_init__(self) -> None:
    ...         check_whole(self, rounds=abs(self.rounds))
    >>> Method(0)
    Traceback (most recent call last):
    secateur.types.InputError: Method: rounds=0 must be a whole number, 1 or more
    >>> Method("no")
    Traceback (most recent call last):
    secateur.types.InputError: Method: rounds='no' must be a whole number
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Have the fields looked at once an object is made."""
        super().__init_subclass__(**options)
        if "__post_init__" in vars(cls):
            cls.__post_init__ = _looking_at_fields(vars(cls)["__post_init__"])  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        check_fields(self)


def _looking_at_fields(asked_first: Callable[..., None]) -> Callable[..., None]:
    @wraps(asked_first)
    def post_init(self: Any, *values: Any) -> None:
        try:
            asked_first(self, *values)
        except (AttributeError, TypeError, ValueError, LookupError) as error:
            if not isinstance(error, SecateurError):
                check_fields(self)
            raise
        if type(self).__post_init__ is post_init:  # not where a class's own calls this one
            check_fields(self)

    return post_init


PLAIN = {bool: "True or False", int: "a whole number", float: "a number", str: "text", None: "None", type(None): "None"}
"""Types of plain data in words."""


def _a(kind: type) -> str:
    return f"{'an' if kind.__name__[:1] in 'aeiouAEIOU' else 'a'} {kind.__name__}"


def _said(hint: Any) -> str:
    """A type in words.

    >>> _said(int | None), _said(Mapping[str, float])
    ('a whole number or None', 'a Mapping of str, float')
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_said, inner)))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if hint in PLAIN:
        return PLAIN[hint]
    if origin is abc.Callable:
        return "a function"
    name = getattr(origin or hint, "__name__", str(hint))
    parts = [getattr(part, "__name__", str(part)) for part in inner if part is not ...]
    article = "an" if name[:1] in "aeiouAEIOU" else "a"
    return f"{article} {name}" + (f" of {', '.join(parts)}" if parts else "")


Made = TypeVar("Made")


def from_plain(kind: type[Made], record: Mapping[str, Any]) -> Made:
    """Return a dataclass from plain data as JSON gives them, every field of the type that it is declared with.

    Lists become tuples and mappings dataclasses where those are declared.

    Raises:
        TypeError, ValueError, OverflowError: a field is missing, is not the dataclass's, or is of another type.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Site:
    ...     units: int
    ...     kept: tuple[int, ...] = ()
    >>> from_plain(Site, {"units": 3, "kept": [2, 1]})
    Site(units=3, kept=(2, 1))
    >>> from_plain(Site, {"units": "3"})
    Traceback (most recent call last):
    ValueError: Site: units='3' is of another type than int
    """
    hints = get_type_hints(kind)
    if not isinstance(record, Mapping):
        raise TypeError(f"{kind.__name__}: {brief(record)} is no mapping")
    return kind(**{n: as_declared(f"{kind.__name__}: {n}", value, hints.get(n, Any)) for n, value in record.items()})


def as_declared(name: str, value: object, hint: Any) -> Any:
    """Return a value of plain data as it is declared.

    Raises:
        ValueError: it is of another type.

    >>> as_declared("kept", [2, 1], tuple[int, ...]), as_declared("loss", 1, float)
    ((2, 1), 1.0)
    """
    shaped = _shaped(value, hint)
    if not has_type(shaped, hint):
        raise ValueError(f"{name}={brief(shaped)} is of another type than {getattr(hint, '__name__', hint)}")
    return shaped


def _shaped(value: Any, hint: Any) -> Any:
    """A plain value with tuples and dataclasses where a hint has them."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        shaped = (_shaped(value, choice) for choice in inner if choice is not type(None))
        return next((new for new in shaped if has_type(new, hint)), value)
    if hint is float and is_whole(value):
        return float(value)  # or too large for one: an OverflowError
    if isinstance(value, dict):
        if is_dataclass(hint):
            return from_plain(hint, value)  # type: ignore[arg-type]
        return {key: _shaped(part, inner[-1] if inner else Any) for key, part in value.items()}
    if not isinstance(value, list):
        return value
    hints = inner if origin is tuple and inner and inner[-1] is not ... else [*inner[:1], Any][:1] * len(value)
    parts = [_shaped(part, of_part) for part, of_part in zip(value, hints, strict=False)] + value[len(hints) :]
    return tuple(parts) if origin is tuple or hint is tuple else parts
