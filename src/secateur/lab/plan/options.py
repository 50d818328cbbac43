"""What options a study takes, described once: their kind, what is allowed, their default, their meaning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from secateur.checks import check_name, is_number, is_whole
from secateur.lab.plan.recipe import Json
from secateur.types import InputError, unknown_name

__all__ = ["Option", "Options"]

Kind = Literal["count", "number", "part", "text", "flag", "mapping"]

_WORDS: Mapping[Kind, tuple[str, str]] = {
    "count": ("a whole number", "whole numbers"),
    "number": ("a number", "numbers"),
    "part": ("how many, 1 or more, or a fraction above 0 and below 1", "counts or fractions"),
    "text": ("a text", "texts"),
    "flag": ("true or false", "true and false"),
    "mapping": ('a mapping, such as {"a":1}', "mappings"),
}
_EXAMPLES = {"count": "[1,2]", "number": "[0.2,0.5]", "part": "[0.1]", "text": '["a","b"]', "flag": "[true]"}


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: its name.
        kind: ``count`` (a whole number), ``number``, ``part`` (how many, or a fraction between 0 and 1), ``text``,
            ``flag`` or ``mapping``.
        default: its value when none is given.
        help: what it means, in a few words.
        least, most: the bounds of a number; a count is 0 or more unless `least` says otherwise.
        allowed: the texts that are allowed; any when empty.
        many: ``no`` (one value), ``list`` (a list with at least one), ``any`` (a list, also an empty one) or ``either``.
        optional: whether it may be None.

    >>> Option("seeds", "count", 3, "how many networks to train", least=1).check("study 'demo'", 0)
    Traceback (most recent call last):
    secateur.types.InputError: study 'demo': seeds is 0; give a whole number of at least 1 (how many networks to train)
    """

    name: str
    kind: Kind
    default: Json
    help: str
    least: float | None = None
    most: float | None = None
    allowed: Sequence[str] = ()
    many: Literal["no", "list", "any", "either"] = "no"
    optional: bool = False

    def check(self, where: str, value: Json) -> None:
        """Refuse a value that is not allowed; `where` begins the error.

        Raises:
            InputError: it is of the wrong kind, or out of range.
            UnknownNameError: it is not one of the allowed texts.
        """
        listed = isinstance(value, (list, tuple))
        right = self.many not in ("list", "any")
        if listed:
            right = self.many != "no" and (bool(value) or self.many == "any")
        values = list(value) if listed else [value]
        if not (self.optional and value is None) and not (right and all(map(self._fits, values))):
            raise InputError(f"{where}: {self.name} is {value!r}; give {self.wish} ({self.help})")
        for entry in values:
            if self.allowed and entry is not None and entry not in self.allowed:
                raise unknown_name(f"value of {self.name} in {where}:", entry, self.allowed)

    @property
    def wish(self) -> str:
        """What to give, in words."""
        single, several = _WORDS[self.kind]
        if self.kind in ("count", "number"):
            single, several = single + self._range(), several + self._range()
        if self.allowed:
            single, several = f"one of {', '.join(self.allowed)}", f"names from {', '.join(self.allowed)}"
        listed = f"a list of {several}, such as {_EXAMPLES.get(self.kind)}"
        words = {"no": single, "list": listed, "any": f"{listed} or []", "either": f"{single}, or {listed}"}[self.many]
        return f"{words}, or null" if self.optional else words

    def _range(self) -> str:
        if self.most is not None:
            return f" from {self._least():g} to {self.most:,.15g}"
        return f" of at least {self._least():g}" if self._least() > -math.inf else ""

    def _least(self) -> float:
        return self.least if self.least is not None else 0 if self.kind == "count" else -math.inf

    def _fits(self, value: Any) -> bool:
        if self.kind in ("text", "flag", "mapping"):
            return isinstance(value, {"text": str, "flag": bool, "mapping": Mapping}[self.kind])
        number = is_whole(value) if self.kind == "count" else is_number(value)
        if self.kind == "part":
            return number and (0 < value < 1 if isinstance(value, float) else value >= 1)
        most = math.inf if self.most is None else self.most
        return number and math.isfinite(value) and self._least() <= value <= most


@dataclass(frozen=True, eq=False)
class Options(Mapping[str, Json]):
    """The options of a study: a mapping of their names to their defaults that can also check values.

    >>> options = Options((Option("seeds", "count", 3, "how many networks"), Option("data", "text", "digits", "on what")))
    >>> dict(options.changed(seeds=5))
    {'seeds': 5, 'data': 'digits'}
    """

    table: tuple[Option, ...]

    def __getitem__(self, name: str) -> Json:
        for option in self.table:
            if option.name == name:
                return option.default
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (option.name for option in self.table)

    def __len__(self) -> int:
        return len(self.table)

    def changed(self, **defaults: Json) -> Options:
        """Return the same options with other defaults.

        Raises:
            UnknownNameError: there is no such option.
        """
        for name in defaults:
            check_name("option", name, self)
        return Options(tuple(replace(o, default=defaults.get(o.name, o.default)) for o in self.table))

    def check(self, where: str, values: Mapping[str, Json]) -> None:
        """Refuse values that are not allowed.

        Args:
            where: begins the error, such as ``study 'demo'``.
            values: a value for some or all of the options.

        Raises:
            InputError, UnknownNameError: the first that is wrong, by name.
        """
        for option in self.table:
            if option.name in values:
                option.check(where, values[option.name])
