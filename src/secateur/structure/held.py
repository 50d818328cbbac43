"""Whole numbers that a module holds by name: as attributes, in its config or other settings, and in its mappings; set there.

A layer that rearranges by a pattern, such as that of einops, has the lengths of its axes in a mapping.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from operator import attrgetter
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from secateur.structure.attention import free_attention
from secateur.structure.graph_parts import INTERNAL, GraphPart

__all__ = ["held", "hold", "is_settings", "mapped_numbers", "set_attributes"]


def mapped_numbers(module: nn.Module) -> dict[str, int]:
    """Return the whole numbers in the mappings of a module, by dotted names.

    >>> layer = nn.Identity()
    >>> layer.lengths = {"heads": 4, "kind": "row"}
    >>> mapped_numbers(layer)
    {'lengths.heads': 4}
    """
    mappings = {n: value for n, value in vars(module).items() if type(value) is dict and n not in INTERNAL}
    return {
        f"{name}.{key}": number
        for name, mapping in mappings.items()
        for key, number in mapping.items()
        if type(key) is str and type(number) is int
    }


PLAIN = {type(None), bool, int, float, str, tuple, list, dict, set, OrderedDict}
"""What most attributes are."""


def is_settings(value: Any) -> bool:
    """Return whether a value is an object that whole numbers are read from by name, such as a config.

    >>> from types import SimpleNamespace
    >>> is_settings(SimpleNamespace(heads=4)), is_settings(nn.Identity()), is_settings({"heads": 4})
    (True, False, False)
    """
    if type(value) in PLAIN or isinstance(value, (nn.Module, Tensor, ModuleType)) or callable(value):
        return False
    return any(type(number) is int for number in getattr(value, "__dict__", {}).values())


def held(module: nn.Module, name: str) -> Any:
    """Return what a module holds under a dotted name."""
    holder, last = _holder(module, name)
    return holder[last] if isinstance(holder, dict) else getattr(holder, last)


def hold(module: nn.Module, name: str, value: Any) -> None:
    """Let a module hold a value under a dotted name; a list takes the type (tuple, list) of what is there.

    >>> layer = nn.Identity()
    >>> layer.lengths, layer.pairs = {"heads": 4}, (("heads", 4),)
    >>> hold(layer, "lengths.heads", 3)
    >>> layer.pairs
    (('heads', 3),)
    """
    holder, last = _holder(module, name)
    if not isinstance(holder, dict):
        new = type(getattr(holder, last))(value) if isinstance(value, list) else value
        if isinstance(holder, GraphPart):
            vars(holder)[last] = new  # for reading alone, as nothing can be set that is to have an effect
        else:
            setattr(holder, last, new)
        return
    pairs = tuple(holder.items())
    holder[last] = value
    for attribute in [n for n, same in vars(module).items() if same == pairs]:  # the mapping once more, in another form
        setattr(module, attribute, tuple(holder.items()))


def set_attributes(model: nn.Module, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Set the attributes of `model`, by module and name (`hold`).

    What is set in settings that several modules share is set for all of them at the first of these, and elsewhere for that
    module alone, which has its own copy from then on.
    """
    dotted = any("." in name for values in attributes.values() for name in values)
    first = _first_holders(model) if dotted else {}
    for path, values in attributes.items():
        module = model.get_submodule(path)
        for name in dict.fromkeys(name.partition(".")[0] for name in values if "." in name):
            if is_settings(settings := getattr(module, name)) and first[id(settings)] is not module:
                setattr(module, name, deepcopy(settings))
    for path, values in attributes.items():
        module = model.get_submodule(path)
        if isinstance(module, nn.MultiheadAttention):
            free_attention(module)
        for name, value in values.items():
            hold(module, name, value)


def _first_holders(model: nn.Module) -> dict[int, nn.Module]:
    """For the id of every object that a module holds as settings, the first module that does."""
    first: dict[int, nn.Module] = {}
    for module in model.modules():
        for value in vars(module).values():
            if is_settings(value):
                first.setdefault(id(value), module)
    return first


def _holder(module: nn.Module, name: str) -> tuple[Any, str]:
    """What holds the last part of a dotted name: the module, a config, or a mapping."""
    inner, _, last = name.rpartition(".")
    return (attrgetter(inner)(module) if inner else module), last
