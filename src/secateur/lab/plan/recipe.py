"""What one cell of a study is, and the short hash that names it for ever."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from secateur.files import DEEPEST, write_text
from secateur.lab.plan import toml
from secateur.types import FileError, InputError, brief, unknown_name

__all__ = ["SEEDS", "Json", "Recipe", "canonical"]

Json = Any
"""What JSON can say: None, bool, int, float, str, and lists and mappings of them."""

SEEDS = ("seed", "network")
"""The parameters that, where they hold a whole number, only draw chance anew: ``network`` seeds one from scratch."""

_KEYS = ("study", "kind", "needs", "parameters", "defaults")
_LENGTH = 16
"""Hex digits of an id: 64 bits, so a clash among a million cells has odds of one in thirty million."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """All that decides what a cell computes; equal recipes have equal ids.

    The id is a hash of the options that differ from their defaults, so a study can gain an option (with the
    old behaviour as its default) and keep every result that it has. For the same reason a default must never
    be changed: give the option a new name.

    Attributes:
        study: the study's name.
        kind: what sort of cell it is, such as ``"train"`` or ``"prune"``.
        parameters: the options by name, plain JSON values; None means "not given". A seed is called ``seed``.
        needs: ids of the cells that this one builds upon; they are part of what it computes, so of its id.
        defaults: the values at which an option takes no part in the id.

    Raises:
        InputError: a name is empty, or a value is not plain JSON (a tensor, an object, nan).

    >>> recipe = Recipe("toy", "train", {"seed": 0, "epochs": 10}, defaults={"epochs": 10})
    >>> recipe.id == Recipe("toy", "train", {"seed": 0}).id
    True
    >>> str(recipe)
    'train seed=0 epochs=10'
    """

    study: str
    kind: str
    parameters: Mapping[str, Json] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    defaults: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("study", self.study), ("kind", self.kind)):
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"a recipe's {name} must be a name, got {value!r}")
            _text(name, value)
        # Normal forms, and copies: a caller's later change must not change what the recipe is.
        object.__setattr__(self, "parameters", _normal_mapping(self.parameters))
        object.__setattr__(self, "defaults", _normal_mapping(self.defaults))
        object.__setattr__(self, "needs", _ids(self.needs))

    @property
    def given(self) -> dict[str, Json]:
        """The parameters that are neither None nor at their default."""
        return {
            name: value
            for name, value in self.parameters.items()
            if value is not None and not (name in self.defaults and _same(value, self.defaults[name]))
        }

    @property
    def id(self) -> str:
        """The recipe's name in a store: 16 hex digits of a SHA-256."""
        content = {
            "study": self.study,
            "kind": self.kind,
            "parameters": self.given,
            "needs": list(self.needs),
        }
        return hashlib.sha256(canonical(content).encode("utf-8")).hexdigest()[:_LENGTH]

    @property
    def seed(self) -> int | None:
        """The seed among the parameters, if there is one."""
        seed = self.parameters.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def short(self) -> str:
        """What tells the cell from its neighbours, in as few words as can be.

        >>> Recipe("demo", "prune", {"seed": 2, "method": "neuron", "sparsity": 0.5, "minimum": 1}, needs=("a",)).short
        'prune neuron 50 % (seed 2)'
        >>> Recipe("demo", "train", {"seed": 0, "epochs": 30}).short
        'train (seed 0)'
        """
        words = [self.kind, *([str(self.parameters["method"])] if "method" in self.parameters else [])]
        sparsity = self.parameters.get("sparsity")
        if isinstance(sparsity, (int, float)):
            words.append(f"{100 * sparsity:.4g} %")
        return " ".join([*words, *([f"(seed {self.parameters['seed']})"] if "seed" in self.parameters else [])])

    def to_dict(self) -> dict[str, Json]:
        """Return the recipe as plain JSON values; `Recipe.from_dict` reads it back."""
        return {
            "study": self.study,
            "kind": self.kind,
            "parameters": dict(self.parameters),
            "needs": list(self.needs),
            "defaults": dict(self.defaults),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Json]) -> Recipe:
        """Return the recipe that `to_dict` wrote.

        Raises:
            FileError: the data are not a recipe's.
        """
        try:
            return cls(
                data["study"],
                data["kind"],
                data["parameters"],
                tuple(data["needs"]),
                data.get("defaults", {}),
            )
        except (KeyError, TypeError, AttributeError, InputError) as error:
            raise FileError(f"not a recipe: {error!r}; it was written by something else, or damaged") from error

    @classmethod
    def from_toml(cls, path: str | PathLike[str]) -> Recipe:
        """Return the recipe that a TOML file holds: ``study``, ``kind``, ``needs``, ``[parameters]``, ``[defaults]``.

        Raises:
            FileError: the file cannot be read, or is not TOML.
            UnknownNameError: a key that recipes do not have; the error names its line.
            InputError: ``study`` or ``kind`` is missing, or a value is not a recipe's.
        """
        file = Path(path)
        data, text = toml.read(file)
        for key in data:
            if key not in _KEYS:
                raise unknown_name(f"key of a recipe in {toml.place(file, text, key)}:", key, _KEYS)
        for key in ("study", "kind"):
            if key not in data:
                raise InputError(
                    f'{file}: a recipe needs {key}, such as {key} = "{"mine" if key == "study" else "train"}"'
                )
        try:
            return cls(**data)
        except InputError as error:
            raise InputError(f"{file}: {error}") from error

    def to_toml(self, path: str | PathLike[str]) -> None:
        """Write the recipe to a TOML file, which `Recipe.from_toml` reads back with the same id.

        Raises:
            InputError: a None inside a value, which TOML cannot say.
            FileError: the file cannot be written.

        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "recipe.toml"
        >>> Recipe("toy", "train", {"seed": 0, "layers": [8, 4]}).to_toml(file)
        >>> print(file.read_text(), end="")
        study = "toy"
        kind = "train"
        <BLANKLINE>
        [parameters]
        seed = 0
        layers = [8, 4]
        >>> Recipe.from_toml(file) == Recipe("toy", "train", {"seed": 0, "layers": [8, 4]})
        True
        """
        write_text(Path(path), toml.dumps({key: value for key, value in self.to_dict().items() if value}))

    def __str__(self) -> str:
        options = " ".join(f"{name}={value}" for name, value in self.parameters.items() if value is not None)
        return f"{self.kind} {options}".strip()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


def canonical(value: Json) -> str:
    """Return the one JSON spelling of a value: sorted keys, no spaces, 1.0 written as 1.

    Raises:
        InputError: the value is not plain JSON.

    >>> canonical({"b": (1, 2.0), "a": None})
    '{"a":null,"b":[1,2]}'
    """
    return json.dumps(_normal("value", value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _same(value: Json, default: Json) -> bool:
    # By spelling, since True == 1 in Python and a flag is not a count.
    return canonical(value) == canonical(default)


def _normal_mapping(values: Mapping[str, Json]) -> dict[str, Json]:
    if not isinstance(values, Mapping):
        raise InputError(f"a recipe's parameters must be a mapping of names to values, got {values!r}")
    return {_key(name): _normal(name, value) for name, value in values.items()}


def _ids(needs: Sequence[str]) -> tuple[str, ...]:
    if isinstance(needs, str) or not isinstance(needs, Sequence):
        raise InputError(f"a recipe's needs must be a list of ids, got {needs!r}")
    for need in needs:
        if not isinstance(need, str) or not need:
            raise InputError(f"a recipe's needs must be ids, got {need!r}; give the needed recipe's id")
    return tuple(needs)


def _key(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise InputError(f"a recipe's parameter must be named by a string, got {name!r}")
    return _text("parameter's name", name)


def _normal(name: str, value: Json, depth: int = 0) -> Json:
    if depth > DEEPEST:
        raise InputError(f"the recipe's parameter {brief(name)} is nested more than {DEEPEST} deep; give plain values")
    if isinstance(value, str):
        return _text(name, value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return _number(name, value)
    if isinstance(value, Mapping):
        return {_key(key): _normal(f"{name}.{key}", part, depth + 1) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_normal(name, part, depth + 1) for part in value]
    raise InputError(
        f"the recipe's parameter {name!r} is a {type(value).__name__}, which has no lasting spelling; "
        "give plain JSON values (numbers, strings, lists, mappings)"
    )


def _text(name: str, value: str) -> str:
    """Refuse half a character, as names of files that are not UTF-8 have: no file could hold it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the recipe's {name} is {value!r}, which is no whole text ({error.reason})") from error
    return value


def _number(name: str, value: int | float) -> int | float:
    if isinstance(value, int):
        return value
    if not math.isfinite(value):
        raise InputError(f"the recipe's parameter {name!r} is {value}; give a finite number, or None for 'not given'")
    # 1.0 and 1 are one number, so one spelling; past 2**53 a float no longer names one integer.
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(value)
