"""Checks that every room makes, of numbers and names: one error, which says what is wrong and what to give."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from inspect import Parameter, signature
from math import inf
from types import UnionType
from typing import Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

from secateur.types import InputError, UnknownNameError, brief, unknown_name

__all__ = [
    "check_fields",
    "check_fraction",
    "check_name",
    "check_number",
    "check_options",
    "check_plain",
    "check_whole",
    "explain",
    "from_plain",
    "has_type",
    "imported",
    "in_one_line",
    "is_number",
    "is_whole",
    "within",
]


def in_one_line(error: BaseException) -> str:
    """Return an error's class and words, without line breaks.

    >>> in_one_line(ValueError("two\\nlines"))
    'ValueError: two lines'
    """
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}" if words else type(error).__name__


def is_whole(value: object, least: float = -inf) -> TypeGuard[int]:
    """Whether a value is a whole number of at least `least`; True and False are none.

    >>> is_whole(3), is_whole(3, least=4), is_whole(True), is_whole(3.0)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a whole or a floating-point number, nan and infinity too; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def within(value: object, interval: str) -> bool:
    """Whether a value is a number in an interval, in which nan is never.

    >>> within(0, "[0, 1)"), within(1, "[0, 1)"), within(float("inf"), "(0, inf)"), within(True, "[0, 1]")
    (True, False, False, False)
    """
    least, most = map(float, interval[1:-1].split(","))
    if not is_number(value) or not least <= value <= most:
        return False
    return (value > least or interval[0] == "[") and (value < most or interval[-1] == "]")


def check_whole(
    doing: object,
    least: int = 1,
    meaning: str = "",
    /,
    *,
    most: float = inf,
    or_none: bool = False,
    **values: object,
) -> None:
    """Refuse what is not a whole number in a range.

    Args:
        doing: what is done, with which the error begins; or the object whose options the values are.
        least, most: the range.
        meaning: what the number is, in words.
        or_none: None is right too.
        values: the values by name.

    Raises:
        InputError: a value is another; it is named, with what to give.

    >>> check_whole("latency", repeats=0)
    Traceback (most recent call last):
    ...
    secateur.types.InputError: latency: repeats=0 must be a whole number, 1 or more
    """
    for name, value in values.items():
        if not ((is_whole(value, least) and value <= most) or (or_none and value is None)):
            words = f", {least} or more" if most == inf else f" from {least} to {most}"
            raise _error(doing, name, value, "a whole number" + words, meaning, or_none)


def check_number(
    doing: object, interval: str, meaning: str = "", /, *, or_none: bool = False, **values: object
) -> None:
    """Refuse what is not a number in an interval, written as in mathematics; otherwise like `check_whole`.

    >>> check_number("repair", "[0, inf)", ridge=-1.0)
    Traceback (most recent call last):
    ...
    secateur.types.InputError: repair: ridge=-1.0 must be a finite number, 0 or more
    """
    for name, value in values.items():
        if not (within(value, interval) or (or_none and value is None)):
            raise _error(doing, name, value, _in_words(interval), meaning, or_none)


def check_fraction(doing: object, **values: Any) -> None:
    """Refuse what is not a fraction removed.

    >>> check_fraction("select", sparsity=1.5)
    Traceback (most recent call last):
    ...
    secateur.types.InputError: select: sparsity=1.5 must be a number in [0, 1]: the fraction removed
    """
    check_number(doing, "[0, 1]", "the fraction removed", **values)


def check_name(kind: str, name: object, known: Collection[str], *, or_none: bool = False) -> None:
    """Refuse a name that is not known, with the nearest one that is: an `UnknownNameError`."""
    if not (isinstance(name, str) and name in known) and not (or_none and name is None):
        raise unknown_name(kind, name, known)


def check_listed(doing: object, **values: object) -> None:
    """Refuse a single text where names are listed: each of its letters would be taken for one.

    >>> check_listed("WeightPenalty", parameters="fc.weight")
    Traceback (most recent call last):
    ...
    secateur.types.InputError: WeightPenalty: parameters='fc.weight' must be a list of names, such as ['fc.weight']
    """
    for name, value in values.items():
        if isinstance(value, str):
            raise _error(doing, name, value, f"a list of names, such as [{value!r}]", "", or_none=False)


def check_options(doing: object, kind: type, /, *, or_none: bool = False, **values: object) -> None:
    """Refuse what is no value of a dataclass of options.

    >>> check_options("fit", type(None), options={"epochs": 1})
    Traceback (most recent call last):
    ...
    secateur.types.InputError: fit: options={'epochs': 1} must be made by NoneType(…)
    """
    for name, value in values.items():
        if not isinstance(value, kind) and not (or_none and value is None):
            raise _error(doing, name, value, f"made by {kind.__name__}(…)", "", or_none)


PLAIN: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "int": ("a whole number", is_whole),
    "float": ("a number", is_number),
    "str": ("text", lambda value: isinstance(value, str)),
    "None": ("None", lambda value: value is None),
}
"""The types that an option of plain data is declared with: in words, and what has them."""


def check_plain(options: Any) -> None:
    """Refuse options of a dataclass that are of another kind than they are declared with: bool, int, float, str, None.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Method:
    ...     rounds: int | None = None
    >>> check_plain(Method(rounds=0.5))
    Traceback (most recent call last):
    ...
    secateur.types.InputError: Method: rounds=0.5 must be a whole number or None
    """
    for option in fields(options):
        kinds = str(option.type).split(" | ")
        value = getattr(options, option.name)
        if set(kinds) <= set(PLAIN) and not any(PLAIN[kind][1](value) for kind in kinds):
            raise _error(options, option.name, value, " or ".join(PLAIN[kind][0] for kind in kinds), "", False)


def has_type(value: object, hint: Any) -> bool:
    """Whether a value is of the type that a hint names; a whole number is a float, True and False are no numbers.

    A hint that says nothing which can be looked at, such as a callable's, is met by all.

    >>> has_type({"a": 1}, Mapping[str, float]), has_type((1, None), tuple[int, int | None]), has_type([True], list[int])
    (True, True, False)
    >>> has_type((), Collection[str]), has_type(("a", "b"), Collection[str])
    (True, True)
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(has_type(value, choice) for choice in inner)
    if origin is Literal:
        return value in inner
    if hint in (int, float):
        return is_whole(value) if hint is int else is_number(value)
    kind = type(None) if hint is None else origin or hint
    if kind is Any or not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True
    if not isinstance(value, kind) or (isinstance(value, str) and kind is not str and kind is not object):
        return False
    if isinstance(value, Mapping) and len(inner) == 2:
        return all(has_type(key, inner[0]) and has_type(part, inner[1]) for key, part in value.items())
    if isinstance(value, tuple) and origin is tuple and inner and inner[-1] is not ...:
        return len(value) == len(inner) and all(map(has_type, value, inner))
    return not (isinstance(value, Collection) and inner) or all(has_type(part, inner[0]) for part in value)


def explain(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse the first argument of a call that is of another type than the function declares.

    It is asked after a call that failed: what works is not looked at, and what fails for another reason is not explained.

    Raises:
        InputError: there is one.

    >>> def double(number: int) -> int:
    ...     return 2 * number
    >>> explain(double, ("4",), {})
    Traceback (most recent call last):
    secateur.types.InputError: double: number='4' is a str; give an int
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


def check_fields(options: Any, *names: str) -> None:
    """Refuse fields of a dataclass that are of another type than they are declared with.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Space:
    ...     biases: tuple[str, ...] | None
    >>> check_fields(Space(3), "biases")
    Traceback (most recent call last):
    secateur.types.InputError: Space: biases=3 is an int; give a tuple of str or None
    """
    hints = get_type_hints(type(options))
    for name in names:
        value = getattr(options, name)
        if not has_type(value, hints[name]):
            raise InputError(
                f"{type(options).__name__}: {name}={brief(value)} is {_a(type(value))}; give {_said(hints[name])}"
            )


def _a(kind: type) -> str:
    return f"{'an' if kind.__name__[:1] in 'aeiouAEIOU' else 'a'} {kind.__name__}"


def _said(hint: Any) -> str:
    """A type in words.

    >>> _said(int | None), _said(Mapping[str, float])
    ('an int or None', 'a Mapping of str, float')
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_said, inner)))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if hint in (type(None), None):
        return "None"
    name = getattr(origin or hint, "__name__", str(hint))
    parts = [getattr(part, "__name__", str(part)) for part in inner if part is not ...]
    article = "an" if name[:1] in "aeiouAEIOU" else "a"
    return f"{article} {name}" + (f" of {', '.join(parts)}" if parts else "")


Made = TypeVar("Made")


def from_plain(kind: type[Made], record: Mapping[str, Any]) -> Made:
    """Return a dataclass from plain data as JSON gives them, every field of the type that it is declared with.

    Lists become tuples and mappings dataclasses where those are declared.

    Raises:
        TypeError, ValueError: a field is missing, is not the dataclass's, or is of another type.

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
    values = {name: _shaped(value, hints.get(name, Any)) for name, value in record.items()}
    for name, value in values.items():
        if name in hints and not has_type(value, hints[name]):
            hint = getattr(hints[name], "__name__", hints[name])
            raise ValueError(f"{kind.__name__}: {name}={brief(value)} is of another type than {hint}")
    return kind(**values)


def _shaped(value: Any, hint: Any) -> Any:
    """A plain value with tuples and dataclasses where a hint has them."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        shaped = (_shaped(value, choice) for choice in inner if choice is not type(None))
        return next((new for new in shaped if has_type(new, hint)), value)
    if isinstance(value, dict):
        if is_dataclass(hint):
            return from_plain(hint, value)  # type: ignore[arg-type]
        return {key: _shaped(part, inner[-1] if inner else Any) for key, part in value.items()}
    if not isinstance(value, list):
        return value
    hints = inner if origin is tuple and inner and inner[-1] is not ... else [*inner[:1], Any][:1] * len(value)
    parts = [_shaped(part, of_part) for part, of_part in zip(value, hints, strict=False)] + value[len(hints) :]
    return tuple(parts) if origin is tuple or hint is tuple else parts


def _in_words(interval: str) -> str:
    least, most = interval[1:-1].split(", ")
    if most != "inf":
        return f"a number in {interval}"
    words = "a finite number" if interval[-1] == ")" else "a number"
    if least == "-inf":
        return words
    return f"{words}, {least} or more" if interval[0] == "[" else f"{words} above {least}"


def _error(doing: object, name: str, value: object, words: str, meaning: str, or_none: bool) -> InputError:
    who = doing if isinstance(doing, str) else type(doing).__name__
    none = ", or None" if or_none else ""
    return InputError(f"{who}: {name}={brief(value)} must be {words}{none}{': ' if meaning else ''}{meaning}")


def imported(path: str, doing: str, kind: str) -> Callable[..., Any]:
    """Return the callable that an import path names.

    Args:
        path: ``"package.module:name"``.
        doing: who asks, for the errors.
        kind: what it is to be, for the errors, such as ``"factory"``.

    Raises:
        UnknownNameError: there is no such module, or it has no such attribute.
        InputError: it is nothing that can be called.

    >>> imported("torch.nn.functional:mse_loss", "fit", "loss").__name__
    'mse_loss'
    """
    module_name, _, attribute = path.partition(":")
    try:
        thing: Any = import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:
        raise UnknownNameError(
            f"{doing}: cannot import {module_name!r} ({error}); write 'package.module:{kind}', "
            "with the package installed or its folder on PYTHONPATH"
        ) from error
    for part in attribute.split("."):
        if not hasattr(thing, part):
            public = [name for name in dir(thing) if not name.startswith("_")]
            raise unknown_name(f"attribute of {module_name}", attribute, public)
        thing = getattr(thing, part)
    if not callable(thing):
        raise InputError(f"{doing}: is a {type(thing).__name__}; name a function or class to call")
    called: Callable[..., Any] = thing
    return called
