"""The arguments of a graph and their entries: as many, in lists, dicts and objects, as the example has, and no others."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.trees import Rest, plain_values
from secateur.types import InputError, brief

__all__ = ["PLAIN", "check_left_out", "leaves_like"]

PLAIN = (bool, int, float, str)

REMEDY = "cut the model again with an example that has what you need"


def leaves_like(args: Sequence[Any], kwargs: Mapping[str, Any], form: Any, names: Sequence[str]) -> list[Any]:
    """Return the leaves of inputs that are nested as the example was, in the order of its own.

    Args:
        args, kwargs: the inputs.
        form: how the example's are nested: torch's spec of ``(args, kwargs)``.
        names: of the example's arguments.

    Raises:
        InputError: one has entries more or fewer, or is something else.

    >>> form = pytree.tree_structure((([1, {"a": 2, "b": 3}],), {}))
    >>> leaves_like([[5, {"a": 6, "b": 7}]], {}, form, ["x"])
    [5, 6, 7]
    >>> leaves_like([[5, {"b": 7, "a": 6, "c": 8}]], {}, form, ["x"])
    Traceback (most recent call last):
    secateur.types.InputError: this graph takes x[1] with the entries 'a', 'b' in this order, and was given 'b', 'a', 'c'...
    """
    by_position, by_name = form.children()
    if len(args) != by_position.num_children:
        raise InputError(
            f"this graph takes {by_position.num_children} inputs by position, and was given {len(args)}: {REMEDY}"
        )
    forms = [*by_position.children(), *by_name.children()]
    values = [*args, *(kwargs[name] for name in by_name.context)]
    return [leaf for each in zip(values, forms, names, strict=True) for leaf in _leaves(*each)]


def _leaves(value: Any, form: Any, name: str) -> Iterator[Any]:
    if form.is_leaf():
        yield value
        return
    if form.type in (list, tuple):
        parts = _of_sequence(value, form, name)
    elif form.type in (dict, OrderedDict, defaultdict):
        parts = _of_mapping(value, form, name)
    else:
        parts = _of_object(value, form, name)
    for (entry, part), inner in zip(parts, form.children(), strict=True):
        yield from _leaves(part, inner, entry)


def _of_sequence(value: Any, form: Any, name: str) -> list[tuple[str, Any]]:
    if not isinstance(value, (list, tuple)):
        raise InputError(_another(value, form, name))
    if len(value) != form.num_children:
        raise InputError(
            f"this graph takes {name} with {form.num_children} entries, and was given {len(value)}: {REMEDY}"
        )
    return [(f"{name}[{number}]", part) for number, part in enumerate(value)]


def _of_mapping(value: Any, form: Any, name: str) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise InputError(_another(value, form, name))
    keys = form.context[1] if form.type is defaultdict else form.context
    if list(value) != keys:  # code may go through them in their order
        listed, given = (", ".join(map(repr, several)) for several in (keys, value))
        raise InputError(
            f"this graph takes {name} with the entries {listed} in this order, and was given {given or 'none'}: {REMEDY}"
        )
    return [(f"{name}[{key!r}]", value[key]) for key in keys]


def _of_object(value: Any, form: Any, name: str) -> list[tuple[str, Any]]:
    """The parts of an object that is registered with torch."""
    if pytree._get_node_type(value) is not form.type:
        raise InputError(_another(value, form, name))
    parts, context = pytree.SUPPORTED_NODES[form.type].flatten_fn(value)
    if len(parts) != form.num_children or context != form.context:
        raise InputError(f"this graph takes {name} as it was in the example, with other fields or entries: {REMEDY}")
    if not _is_of_fields(context):
        return [(f"{name}.{number}", part) for number, part in enumerate(parts)]
    fields, rest = context
    for field, held in form.context[1].items():
        if plain_values(rest[field], {}) != plain_values(held, {}):
            raise InputError(
                f"this graph was made with {brief(held)} as {name}.{field}, and takes no {brief(rest[field])}: {REMEDY}"
            )
    return [(f"{name}.{field}", part) for field, part in zip(fields, parts, strict=True)]


def _is_of_fields(context: Any) -> bool:
    """Whether it is what `look_into` notes of an object."""
    return isinstance(context, tuple) and len(context) == 2 and isinstance(context[1], Rest)


def _another(value: Any, form: Any, name: str) -> str:
    given = "was left out" if value is None or value is ... else f"cannot be a {type(value).__name__}"
    return f"{name} of this graph is a {form.type.__name__} of {form.num_children} entries, and {given}: {REMEDY}"


def check_left_out(value: object, default: object, name: str) -> None:
    """Refuse what the example left out, unless it is what the model takes then.

    >>> check_left_out(None, None, "mask")
    >>> import torch
    >>> check_left_out(torch.ones(2), None, "mask")
    Traceback (most recent call last):
    secateur.types.InputError: this graph was made without mask: leave it out, or cut the model again with an example that has it
    """
    if value is not default and (isinstance(value, Tensor) or type(value) is not type(default) or value != default):
        raise InputError(
            f"this graph was made without {name}: leave it out, or cut the model again with an example that has it"
        )
