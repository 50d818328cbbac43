"""What a record has to show: names, numbers, words, curves, weights. The same for every tracker."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from secateur.checks import is_number
from secateur.lab.keep.records import Record
from secateur.lab.plan.recipe import Json, Recipe, canonical
from secateur.types import InputError

__all__ = ["curves", "flat", "hyperparameters", "run_name", "started", "weights"]

_LONGEST = 80
_STEPS = ("epoch", "step")


def run_name(recipe: Recipe) -> str:
    """Return a name that a person can read and a file can have; the id's start keeps it the cell's own.

    >>> run_name(Recipe("demo", "prune", {"seed": 2, "method": "neuron per layer", "sparsity": 0.5}))
    'prune_seed=2_method=neuron-per-layer_sparsity=0.5_4b6bbaa5'
    """
    plain = {name: value for name, value in recipe.given.items() if isinstance(value, (bool, int, float, str))}
    words = [recipe.kind, *(f"{name}={value}" for name, value in plain.items())]
    name = "_".join(re.sub(r"[^\w.=+-]+", "-", word).strip("-") for word in words)
    return f"{name[:_LONGEST].rstrip('-_=.')}_{recipe.id[:8]}"


def flat(values: Mapping[str, Json]) -> tuple[dict[str, float], dict[str, str]]:
    """Return the numbers and the words among metrics, lists and mappings taken apart; None is left out.

    >>> flat({"accuracy": 0.5, "class_accuracy": [0.25, 0.75], "kept": {"fc1": 3}, "note": "cut", "best": None})
    ({'accuracy': 0.5, 'class_accuracy/0': 0.25, 'class_accuracy/1': 0.75, 'kept/fc1': 3.0}, {'note': 'cut'})
    """
    numbers: dict[str, float] = {}
    words: dict[str, str] = {}
    for name, value in _leaves(values):
        if isinstance(value, (bool, int, float)):
            numbers[name] = float(value)
        elif value is not None:
            words[name] = str(value)
    return numbers, words


def _leaves(values: Mapping[str, Json], above: str = "") -> Iterator[tuple[str, Json]]:
    for key, value in values.items():
        name = above + str(key).replace("/", "_")
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}/")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield from _leaves({str(place): part for place, part in enumerate(value)}, f"{name}/")
        else:
            yield name, value


def hyperparameters(recipe: Recipe) -> dict[str, float | str]:
    """Return a recipe's parameters as numbers and words, those that were not given left out.

    >>> hyperparameters(Recipe("toy", "train", {"seed": 0, "cut": True, "sizes": [3, 4], "note": None}))
    {'kind': 'train', 'seed': 0, 'cut': 'true', 'sizes': '[3,4]'}
    """
    values: dict[str, float | str] = {"kind": recipe.kind}
    for name, value in recipe.parameters.items():
        if isinstance(value, str) or is_number(value):
            values[name] = value
        elif value is not None:
            values[name] = canonical(value)
    return values


def curves(record: Record) -> Iterator[tuple[int, dict[str, float]]]:
    """Give the numbers of each epoch (or step) of a history, with its number."""
    for place, row in enumerate(record.history, 1):
        step = next((row[name] for name in _STEPS if isinstance(row.get(name), int)), place)
        yield int(step), flat({name: value for name, value in row.items() if name not in _STEPS})[0]


def weights(tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the finite values of each floating-point tensor, flat and of 32 bits; empty ones are left out."""
    flat = {}
    for name, tensor in (tensors or {}).items():
        if tensor.is_floating_point():
            values = tensor.detach().to("cpu", torch.float32).flatten()
            flat[name] = values[torch.isfinite(values)]
    return {name: values for name, values in flat.items() if values.numel()}


def started(study: str | None, doing: str) -> str:
    """Return the study, or refuse to do something before it is known."""
    if study is None:
        raise InputError(f"{doing}: the tracker knows no study yet; call start(study, options) first")
    return study
