"""What a model's config must say for its class to make such a model as a cut has left: found by rebuilding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from operator import attrgetter
from typing import Any

from torch import nn

from secateur.checks import is_whole
from secateur.state import own_tensors
from secateur.structure.rebuilding import (
    Changes,
    Rebuilding,
    SizeName,
    configs_within,
    is_config,
    set_in_config,
    sizes_of,
)

__all__ = ["fitting_depth", "fitting_sizes", "set_config"]

Shapes = Mapping[str, tuple[int, ...]]
Distance = Callable[[nn.Module], int]


def fitting_sizes(model: nn.Module, shapes: Shapes) -> Changes:
    """Return what changes in a model's config so that its class makes a model with tensors of these shapes.

    Sizes are tried one after the other on the meta device, each scaled as some dimension was, and stay where more tensors
    have their shapes then. Nothing changes where the model has no config, its class is not made of one, or no sizes fit,
    as when blocks have lost unequally.

    >>> class Config:
    ...     def __init__(self):
    ...         self.width, self.hidden = 2, 8
    >>> class Model(nn.Module):
    ...     def __init__(self, config):
    ...         super().__init__()
    ...         self.config, self.up = config, nn.Linear(config.width, config.hidden)
    >>> fitting_sizes(Model(Config()), {"up.weight": (6, 2), "up.bias": (6,)})
    {('hidden',): 6}
    """
    config = getattr(model, "config", None)
    if config is None:
        return {}
    own = own_tensors(model)
    pairs = ((new, old) for n, s in shapes.items() if n in own for new, old in zip(s, own[n].shape, strict=True))
    ratios = sorted({Fraction(new, old) for new, old in pairs if new != old})

    def apart(rebuilt: nn.Module) -> int:
        remade = own_tensors(rebuilt)
        return sum(name not in remade or tuple(remade[name].shape) != shape for name, shape in shapes.items())

    return _fitting(model, apart, _scaled_sizes(config, ratios), dict(_head_sizes(config)))


def fitting_depth(model: nn.Module, small: nn.Module, container: str, before: int, stay: Sequence[int]) -> Changes:
    """Return what changes in a model's config so that its class makes the model that is left of it without some blocks.

    A number that is the depth becomes the new one, lists with a place a block lose the places of those that went, numbers
    that count the first blocks count those of them that stay, and lists of blocks' numbers are numbered anew: each only
    where the class then makes more of what is in `small`: its tensors, and its blocks' plain attributes.

    Args:
        model: with all of its blocks; its config is that of `small`, too.
        small: without those that went, numbered anew.
        container: the path of the blocks' container.
        before: how many blocks there were.
        stay: the numbers of those that stay.
    """
    config = getattr(model, "config", None)
    if config is None:
        return {}
    shapes, plain = _shapes(small), _plain(small.get_submodule(container))

    def apart(rebuilt: nn.Module) -> int:
        return len(shapes.items() ^ _shapes(rebuilt).items()) + len(plain ^ _plain(rebuilt.get_submodule(container)))

    return _fitting(model, apart, _depths(config, before, stay), {})


def set_config(model: nn.Module, changes: Changes) -> dict[str, Any]:
    """Write changes into a model's config; return what stands there now, by dotted names, lists whole."""
    written = {}
    for place, value in changes.items():
        set_in_config(model.config, place, value)
        names = [str(name) for name in place if not is_whole(name)]
        written[".".join(["config", *names])] = attrgetter(".".join(names))(model.config)
    return written


def _fitting(model: nn.Module, apart: Distance, candidates: Iterable[Changes], fixed: Changes) -> Changes:
    """Take each of the changes that brings what the class makes nearer; nothing where it does not get there."""
    rebuilding, changes = Rebuilding(model), dict(fixed)

    def distance(tried: Changes) -> int | None:
        rebuilt = rebuilding.built(tried)
        return None if rebuilt is None else apart(rebuilt)

    missing = distance(changes)
    for candidate in candidates:
        if missing == 0:
            break
        if candidate.keys() & changes.keys():
            continue
        rest = distance({**changes, **candidate})
        if rest is not None and (missing is None or rest < missing):
            changes, missing = {**changes, **candidate}, rest
    return changes if missing == 0 and changes != fixed else {}


def _head_sizes(config: Any) -> Iterator[tuple[SizeName, int]]:
    """The size of a head, where a config that does not say it would work it out of the number of heads."""
    for path, inner in configs_within(config):
        heads = getattr(inner, "num_attention_heads", 0)
        if "head_dim" in vars(inner) and is_whole(heads) and heads:
            yield (*path, "head_dim"), inner.head_dim or inner.hidden_size // heads


def _scaled_sizes(config: Any, ratios: Sequence[Fraction]) -> Iterator[Changes]:
    for place, value in sorted(sizes_of(config), key=lambda item: str(item[0])):
        if value > 1:
            yield from ({place: int(value * ratio)} for ratio in ratios if (value * ratio).denominator == 1)


def _depths(config: Any, before: int, stay: Sequence[int]) -> Iterator[Changes]:
    """Changes for fewer blocks: the depth with its lists first, then each by itself, then what counts blocks."""
    numbers = [place for place, value in sizes_of(config) if value == before and isinstance(place[-1], str)]
    lists = {place: [value[n] for n in stay] for place, value in _lists(config) if len(value) == before}
    words = {place: value for place, value in lists.items() if all(isinstance(part, str) for part in value)}
    for number in numbers:
        # Lists of words first: a config may refuse to be written where they are as many as the blocks were.
        yield from ({number: len(stay), **some} for some in (words, {}, lists))
    yield from ({place: value} for place, value in lists.items())
    for place, value in sizes_of(config):
        if isinstance(place[-1], str) and 0 < value < before:
            yield {place: sum(n < value for n in stay)}
    for place, entries in _lists(config):
        if entries and all(is_whole(n) and 0 <= n < before for n in entries):
            yield {place: [stay.index(n) for n in entries if n in stay]}


def _lists(config: Any) -> Iterator[tuple[SizeName, list[Any]]]:
    for path, inner in configs_within(config):
        yield from (((*path, name), value) for name, value in vars(inner).items() if isinstance(value, list))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _plain(model: nn.Module) -> set[str]:
    """The plain attributes of all modules; their configs are what is looked for."""
    return {
        f"{path} {name} {value!r}"
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float | str)
        and name != "training"
        and not name.startswith("_")
        and not is_config(value)
    }
