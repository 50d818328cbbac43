"""Wrong calls of the whole public API, made from its type hints: each argument in turn is of another type than declared."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import nn

import secateur as sc
from secateur.hints import has_type
from secateur.testing.toys import hand_mlp

NAMESPACES = [name for name in sc.__all__ if inspect.ismodule(getattr(sc, name))]

WRONG: dict[str, Any] = {
    "None": None,
    "text": "no such thing",
    "a list of text": ["no such thing"],
    "a number": -7.5,
    "an object": object(),
    "a mapping": {"no such thing": object()},
}
"""Values of which most arguments are none."""

SKIPPED = {"on_step", "progress", "self", "args", "kwargs"}


def stock() -> dict[str, Any]:
    """Right values for arguments, by their names; what a folder is needed for stays out."""
    model, x = hand_mlp(), torch.ones(1, 2)
    sites = sc.channels(model, x)
    keep = {name: torch.ones(site.shape, dtype=torch.bool) for name, site in sites.items()}
    data = (torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))
    scores = {name: torch.arange(site.size).float() for name, site in sites.items()}
    return {
        "model": model,
        "before": model,
        "after": model,
        "teacher": hand_mlp(),
        "original": model,
        "example_inputs": x,
        "sites": sites,
        "keep": keep,
        "scores": scores,
        "data": data,
        "train_data": data,
        "batches": [data],
        "loss": "cross_entropy",
        "criterion": "l2",
        "sparsity": 0.5,
        "inputs": x,
        "train": data,
    }


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every function and class of the public face that is called by users, by its name."""
    for name in sc.__all__:
        value = getattr(sc, name)
        if inspect.isfunction(value):
            yield f"sc.{name}", value
    for space in NAMESPACES:
        for name in getattr(sc, space).__all__:
            value = getattr(getattr(sc, space), name)
            if inspect.isfunction(value) or (dataclasses.is_dataclass(value) and not inspect.isabstract(value)):
                yield f"sc.{space}.{name}", value


def hints_of(called: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(called.__init__ if inspect.isclass(called) else called)  # type: ignore[misc]
    except NameError:
        return {}


def wrong_calls() -> Iterator[tuple[str, Callable[..., Any], str, str]]:
    """Every public name with each of its arguments and a value that its hint refuses: the name, it, both by name."""
    known = stock()
    for name, called in public():
        parameters = inspect.signature(called).parameters
        hints = hints_of(called)
        needed = [
            p.name
            for p in parameters.values()
            if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        for argument in parameters:
            if argument in SKIPPED or argument not in hints or any(n not in known for n in needed if n != argument):
                continue
            for words, value in WRONG.items():
                if not has_type(value, hints[argument]):
                    yield name, called, argument, words


def call(called: Callable[..., Any], argument: str, words: str, known: Mapping[str, Any]) -> Any:
    """Make a wrong call, all else as it should be; a class of options is used as well."""
    parameters = inspect.signature(called).parameters
    needed = {
        p.name: known[p.name]
        for p in parameters.values()
        if p.default is p.empty and p.name != argument and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    return called(**needed, **{argument: WRONG[words]})


def files_below(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in folder.rglob("*")}


def modules_of(known: Mapping[str, Any]) -> dict[str, nn.Module]:
    return {name: value for name, value in known.items() if isinstance(value, nn.Module)}
