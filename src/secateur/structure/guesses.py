"""Propose which attributes of a model's own modules hold sizes that change, where no layer of torch's says it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial, reduce
from itertools import islice, product
from typing import Any

from torch import Tensor, nn

from secateur.checks import is_whole
from secateur.structure.axes import Atom, keep_vector
from secateur.structure.both_modes import watched
from secateur.structure.carriers import Attribute, Dimension, Uses, both_uses
from secateur.structure.held import held, is_settings, mapped_numbers
from secateur.structure.infer import Structure
from secateur.structure.literals import size_changes
from secateur.structure.mend import Edits, differs
from secateur.structure.nodes import module_paths
from secateur.structure.sized_axes import SizedAxes

__all__ = ["proposals"]


@dataclass(frozen=True)
class Guess:
    """An attribute that holds a size which changes where its module's forward uses it; `seen` to set that very size.

    What torch's own layers and mappings hold is `unwatched`: nothing was seen of its use.
    """

    path: str
    attribute: str
    value: int | list[int]
    kind: str
    unwatched: bool = False
    seen: bool = False


# Names of attributes that hold sizes of other things than channels: tried last.
UNLIKELY = re.compile(
    r"window|kernel|stride|padding|dilation|depth|patch|img|image|size|grid|resolution|length|num_classes|num_layers"
    r"|shift|seq|max_|pool|_h$|_w$|rank|bits"
)


def proposals(
    model: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor], certain_edits: Edits
) -> Iterator[Edits]:
    """Yield sets of attribute edits to try, the likeliest first; `certain_edits` are in every set.

    An attribute is proposed when it equals a size that changes in its module's own part of the graph, or in a part
    that it calls, and the forward pass was seen to read it for no arithmetic. Which of them are meant is decided by
    trying: a wrong set fails to run or to verify. Late come those of whose use something was lost from sight, and last those
    that enter arithmetic, as a temperature stays what it was where width and heads shrink alike.
    """
    guesses = _guesses(model, structure, gone, lambda module, path, name: True)
    tried: list[Edits] = []
    if structure.graph.uses is None or not guesses:
        # A plain network mostly needs no edits, and to watch what it reads takes another forward pass.
        tried.append(certain_edits)
        yield certain_edits
    uses = _uses(model, structure)
    for arithmetic in (False, True) if guesses else (False,):
        if guesses:
            guesses = _guesses(model, structure, gone, partial(_may_change, uses, arithmetic))
        sized = list(_sized(model, structure, gone, uses, guesses, arithmetic))
        for some, choices in _rounds(sized, guesses, arithmetic):
            others = [g for g in some if g.attribute not in certain_edits.get(g.path, {})]
            for choice in _choices(uses, others)[:choices]:
                attempt = _merged(certain_edits, [g for g in others if (g.kind, g.attribute) in choice])
                if attempt not in tried:
                    tried.append(attempt)
                    yield attempt


def _rounds(sized: list[list[Guess]], guesses: list[Guess], arithmetic: bool) -> list[tuple[list[Guess], int | None]]:
    """What is known of the attributes, and how many choices of them are tried; None for all.

    The likeliest choice with every list of sizes comes before other choices with one of them.
    """
    if arithmetic:
        return [(known, FEW_CHOICES) for known in (*sized[:MOST_SIZES], guesses)]
    return [
        *((known, 1) for known in (*sized, guesses)),
        *((known, None) for known in (*sized[:MOST_SIZES], guesses)),
    ]


def _choices(uses: Uses, guesses: list[Guess]) -> list[set[tuple[str, str]]]:
    """Which kinds of attributes to change, the likeliest first."""
    kinds = list(dict.fromkeys((g.kind, g.attribute) for g in guesses))
    lost = {
        (g.kind, g.attribute)
        for g in guesses
        if not g.unwatched and not uses.only_sizes(_watched(uses, g.path, g.attribute))
    }
    unlikely = {k for k in kinds if UNLIKELY.search(k[1])} - lost - {(g.kind, g.attribute) for g in guesses if g.seen}
    likely = set(kinds) - unlikely - lost
    choices = [likely, likely | unlikely, likely | lost, set(kinds), set()]
    choices += [likely - {k} for k in kinds if k in likely]
    choices += [likely | {k} for k in kinds if k not in likely]
    return choices[:24]


def _sized(
    model: nn.Module,
    structure: Structure,
    gone: Mapping[Atom, Tensor],
    uses: Uses,
    guesses: list[Guess],
    arithmetic: bool,
) -> Iterator[list[Guess]]:
    """The guesses, and in their place what is known where an attribute was seen to set dimensions that the graph has.

    Two attributes of one value, such as as many heads as each has dimensions, are told apart so. Where tensors of one
    shape have other sizes after the cut, there is a list for each of them, and for what attributes may be together.
    """
    seen = _seen_sizes(model, structure, gone, uses, arithmetic)
    guessed = {(g.path, g.attribute) for g in guesses}
    open_sizes = {key: sizes for key, sizes in seen.items() if len(sizes) > 1 and key not in guessed}
    kinds = {key: (_kind(model, key[0]), key[1]) for key in open_sizes}
    for numbers in _numberings(
        {kind: max(len(open_sizes[k]) for k in kinds if kinds[k] == kind) for kind in kinds.values()}
    ):
        sizes_by_key = {key: sizes[0] for key, sizes in seen.items() if len(sizes) == 1}
        sizes_by_key |= {key: sizes[numbers[kinds[key]] % len(sizes)] for key, sizes in open_sizes.items()}
        known = {
            (path, name): Guess(path, name, size, _kind(model, path), seen=True)
            for (path, name), size in sizes_by_key.items()
        }
        others = [known.pop((g.path, g.attribute), g) for g in guesses]
        yield others + [g for g in known.values() if differs(held(model.get_submodule(g.path), g.attribute), g.value)]


def _numberings(counts: Mapping[tuple[str, str], int]) -> Iterator[dict[tuple[str, str], int]]:
    """Which of their sizes kinds of attributes have: all the first, all the second and so on, then any."""
    alike = [(number,) * len(counts) for number in range(min(MOST_SIZES, max(counts.values(), default=1)))]
    mixed = islice(product(*map(range, counts.values())), MOST_MIXED)
    for numbers in dict.fromkeys((*alike, *mixed)):
        yield dict(zip(counts, numbers, strict=True))


def _seen_sizes(
    model: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor], uses: Uses, arithmetic: bool
) -> dict[tuple[str, str], list[Any]]:
    """What each attribute may become, by the dimensions that it was seen to set; of a row of numbers each by its own."""
    places = SizedAxes(uses, structure.values)
    paths = {uses.first_names.get(path, path): path for path, _ in model.named_modules()}
    seen: dict[tuple[str, str], list[Any]] = {}
    for attribute, dimensions in uses.sizes.items():
        path = paths.get(attribute.path, attribute.path)
        old: Any = _held(model.get_submodule(path), attribute.name)
        numbers: list[Any] = list(old) if isinstance(old, (list, tuple)) else [old]
        if not (arithmetic or uses.may_change(attribute)) or any(type(number) is not int for number in numbers):
            continue
        sizes_by_number = {number: _sizes_after(places, dimensions, number, gone) for number in numbers}
        if type(old) is int:
            seen[path, attribute.name] = sizes_by_number[old]
        elif all(len(sizes) <= 1 for sizes in sizes_by_number.values()):
            seen[path, attribute.name] = [[(sizes_by_number[number] or [number])[0] for number in numbers]]
    return seen


def _held(module: nn.Module, name: str) -> Any:
    """What a module itself, or its settings, hold under a name; None where they compute it."""
    outer, _, last = name.rpartition(".")
    return vars(held(module, outer) if outer else module).get(last)


def _sizes_after(
    places: SizedAxes, dimensions: Iterable[Dimension], number: int, gone: Mapping[Atom, Tensor]
) -> list[int]:
    """The sizes that those of the dimensions have after the cut that had this one; else the same share of a multiple or a fraction.

    Where there are reshaped tensors among them, they are of those: what is as large beside them, such as a stream, was not set.
    """
    ordered = sorted(dimensions, key=str)
    exact = [d for d in ordered if d.shape[d.dim] == number]
    multiples = [d for d in ordered if number > 1 and d.shape[d.dim] % number == 0]
    fractions = [d for d in ordered if d.shape[d.dim] > 1 and number % d.shape[d.dim] == 0]
    reshaped, every = (list(places.axes(exact or multiples or fractions, reshaped)) for reshaped in (True, False))
    left = {axis: int(keep_vector(axis, gone).sum()) for axis in reshaped or every}
    return list(
        dict.fromkeys(number * size // axis.size for axis, size in left.items() if number * size % axis.size == 0)
    )


MOST_SIZES = 3
"""How many sizes are tried in the place of one number, where several tensors had it."""
FEW_CHOICES = 4
"""How many choices are tried of attributes that enter arithmetic, too: where they change what is computed, it does not verify."""
MOST_MIXED = 16
"""How many ways are tried to give several attributes one of their sizes each."""


def _kind(model: nn.Module, path: str) -> str:
    return type(model.get_submodule(path)).__qualname__


def _may_change(uses: Uses, arithmetic: bool, module: nn.Module, path: str, name: str) -> bool:
    """Torch's own layers are not watched; those without parameters, such as a plain layer norm, hold sizes as well."""
    attribute = _watched(uses, path, name)
    return _is_of_torch(module) or uses.may_change(attribute) or (arithmetic and attribute in uses.sizes)


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.")


def _uses(model: nn.Module, structure: Structure) -> Uses:
    """What the model reads its attributes for; a recorded graph was not watched yet."""
    traced = [t for t in (structure.graph, structure.graph.trained) if t is not None]
    return reduce(both_uses, (t.uses or watched(model, t) for t in traced))


def _watched(uses: Uses, path: str, name: str) -> Attribute:
    return Attribute(uses.first_names.get(path, path), name)


def _merged(certain_edits: Edits, guesses: list[Guess]) -> Edits:
    merged = {path: dict(attributes) for path, attributes in certain_edits.items()}
    for guess in guesses:
        merged.setdefault(guess.path, {})[guess.attribute] = guess.value
    return merged


def _guesses(
    model: nn.Module,
    structure: Structure,
    gone: Mapping[Atom, Tensor],
    may_change: Callable[[nn.Module, str, str], bool],
) -> list[Guess]:
    modules = dict(model.named_modules(remove_duplicate=False))

    @cache
    def attributes(path: str) -> dict[str, Any]:
        if (module := modules.get(path)) is None:
            return {}
        return {n: v for n, v in _numbers(module).items() if may_change(module, path, n)} | mapped_numbers(module)

    new_sizes_by_path: dict[str, dict[int, set[int]]] = {}
    for node in structure.values:
        pairs = size_changes(structure, node, gone)
        stack = module_paths(node) if pairs else []
        for old, new in pairs:
            for path in reversed(stack):
                new_sizes_by_path.setdefault(path, {}).setdefault(old, set()).add(new)
                if any(_holds(value, old) for value in attributes(path).values()):
                    break
    guesses: list[Guess] = []
    for path, sizes in new_sizes_by_path.items():
        # A size that would have to become two different ones is no single attribute.
        settled = {old: next(iter(new)) for old, new in sizes.items() if len(new) == 1}
        # The sizes of attention are worked out (`_attention`), and its code would not stumble over wrong ones.
        if path in modules and not isinstance(modules[path], nn.MultiheadAttention):
            guesses += _module_guesses(path, modules[path], attributes(path), settled)
    return guesses


def _numbers(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module, and by dotted names those of its settings."""
    settings = {name: value for name, value in vars(module).items() if is_settings(value)}
    return vars(module) | {f"{name}.{inner}": v for name, value in settings.items() for inner, v in vars(value).items()}


def _holds(value: object, size: int) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_holds(v, size) for v in value)
    return is_whole(value) and value == size


def _settled(value: Any, settled: Mapping[int, int]) -> Any:
    """A value with other sizes in the place of those that it holds, however deep."""
    if isinstance(value, (list, tuple)):
        sizes = [_settled(inner, settled) for inner in value]
        return tuple(sizes) if isinstance(value, tuple) else sizes
    return settled.get(value, value) if is_whole(value) else value


def _module_guesses(
    path: str, module: nn.Module, attributes: Mapping[str, Any], settled: Mapping[int, int]
) -> list[Guess]:
    guesses = []
    for name, value in attributes.items():
        if not any(_holds(value, old) for old in settled):
            continue
        new = _settled(list(value) if isinstance(value, tuple) else value, settled)
        unwatched = _is_of_torch(module) or name in mapped_numbers(module)
        guesses.append(Guess(path, name, new, type(module).__qualname__, unwatched))
    return guesses
