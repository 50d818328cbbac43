"""One's own comparison, described in a TOML file."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path

from secateur import data
from secateur.lab.plan import toml
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Study
from secateur.studies.comparison.declare import comparison
from secateur.studies.comparison.grid import check_methods, check_shown
from secateur.studies.comparison.options import OPTIONS, check_used
from secateur.studies.kit import networks
from secateur.types import InputError, SecateurError, unknown_name

__all__ = ["from_toml"]

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_WORDS = ("name", "title", "summary")


def from_toml(path: str | Path, reserved: Container[str] = ()) -> Study:
    """Return the comparison that a TOML file describes: data sets × networks × seeds × methods × sparsities.

    The keys are ``name`` (of the study and its store), ``title``, ``summary``, and the options of a comparison,
    each checked by itself; of small data sets a tenth is held out where ``validation`` is not said. The methods are those of ``methods``, and each of ``criteria`` with each ``unit``, ``scope`` and
    ``schedule``, and each ``solver``; where there are criteria or solvers, ``methods`` are none by default. ``data`` and ``model`` may be lists; the report then has a part for each pair.

    Args:
        path: the file.
        reserved: names that the study may not have.

    Raises:
        FileError: the file cannot be read, or is not TOML; the error says at which line.
        UnknownNameError: an unknown key, data set, network or method, with the line and the nearest known one.
        InputError: a value is of the wrong kind or out of range, or there is no name.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "mine.toml"
    >>> _ = file.write_text('name = "mine"\\ndata = "digits"\\nmodel = ["lenet-300-100", "ann-128"]\\nseeds = 2')
    >>> len(from_toml(file).plan({"methods": ["neuron"], "sparsities": [0.5]}))
    8
    """
    file = Path(path)
    values, text = toml.read(file)
    for key, value in values.items():
        _check_key(toml.place(file, text, key), key, value)
    if "name" not in values:
        raise InputError(f'{file}: give the study a name, such as name = "mine"')
    if values["name"] in reserved:
        where = toml.place(file, text, "name")
        raise InputError(f"{where}: name is {values['name']!r}, which is a study of secateur; give another")
    options = {key: value for key, value in values.items() if key not in _WORDS}
    if {"criteria", "solver"} & set(options):
        options = {"methods": [], **options}
    try:
        defaults = OPTIONS.changed(**{**_for_small_sets(values), **options})
        OPTIONS.check(f"study {values['name']!r}", defaults)
        networks.check(defaults)
        check_methods(values["name"], defaults)
        check_used(values["name"], defaults, options)
        check_shown(values["name"], defaults)
    except SecateurError as error:
        raise type(error)(f"{file}: {error}") from error
    title = values.get("title", f"A comparison of prunings: {values['name']}")
    summary = values.get("summary", "Weights removed and neurons cut; costs and gains measured.")
    return replace(comparison(values["name"], title, summary, options=defaults, best=None), file=file)


def _for_small_sets(values: Mapping[str, Json]) -> dict[str, Json]:
    """A tenth to hold out where the usual number of images is more than half of a data set."""
    names = values.get("data", OPTIONS["data"])
    enough: int = 2 * OPTIONS["validation"]
    sets = [names] if isinstance(names, str) else names
    return {"validation": 0.1} if any(data.train_count(name, enough) < enough for name in sets) else {}


def _check_key(where: str, key: str, value: Json) -> None:
    if key in _WORDS:
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{where}: {key} is {value!r}; give a text")
        if key == "name" and not _NAME.fullmatch(value):
            raise InputError(
                f"{where}: name is {value!r}; give small letters, digits, '-' and '_', as it names a folder"
            )
        return
    option = next((o for o in OPTIONS.table if o.name == key), None)
    if option is None:
        raise unknown_name(f"key in {where}:", key, [*_WORDS, *OPTIONS])
    option.check(where, value)
