"""Checks that every room makes, of numbers and names: one error, which says what is wrong and what to give."""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib import import_module
from math import inf
from typing import Any, TypeGuard

from secateur.types import InputError, UnknownNameError, brief, unknown_name

__all__ = [
    "check_fraction",
    "check_name",
    "check_number",
    "check_options",
    "check_whole",
    "imported",
    "in_one_line",
    "is_number",
    "is_whole",
    "within",
    "wrong_value",
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
            raise wrong_value(doing, name, value, "a whole number" + words, meaning, or_none)


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
            raise wrong_value(doing, name, value, _in_words(interval), meaning, or_none)


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
            raise wrong_value(doing, name, value, f"a list of names, such as [{value!r}]", "", or_none=False)


def check_options(doing: object, kind: type, /, *, or_none: bool = False, **values: object) -> None:
    """Refuse what is no value of a dataclass of options.

    >>> check_options("fit", type(None), options={"epochs": 1})
    Traceback (most recent call last):
    ...
    secateur.types.InputError: fit: options={'epochs': 1} must be made by NoneType(…)
    """
    for name, value in values.items():
        if not isinstance(value, kind) and not (or_none and value is None):
            raise wrong_value(doing, name, value, f"made by {kind.__name__}(…)", "", or_none)


def _in_words(interval: str) -> str:
    least, most = interval[1:-1].split(", ")
    if most != "inf":
        return f"a number in {interval}"
    words = "a finite number" if interval[-1] == ")" else "a number"
    if least == "-inf":
        return words
    return f"{words}, {least} or more" if interval[0] == "[" else f"{words} above {least}"


def wrong_value(
    doing: object, name: str, value: object, words: str, meaning: str = "", or_none: bool = False
) -> InputError:
    """Return the error of a value that must be something else, in words."""
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
