"""Widths that stand in a model's config: which of its sizes the widths of which sites follow from, found by rebuilding.

A class that is made of one config (`type(model)(config)`, as in transformers) is rebuilt on the meta device with other
sizes. Sizes of the config that shrink together are a `ConfigWidth` where every tensor of the rebuilt model has the shape
that a cut of some sites would give it, and nothing else about the rebuilt model differs but whole numbers.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import gcd, prod
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.checks import is_whole
from secateur.structure.axes import Atom, Axis, Prod, Sum, atoms, product, resolve
from secateur.structure.infer import Structure
from secateur.structure.mend import Edits
from secateur.types import Sites

__all__ = [
    "ConfigWidth",
    "config_edits",
    "config_widths",
    "is_config",
    "is_configured",
    "kept_steps",
    "rebuilt_shapes",
    "whole_numbers",
]

SizeName = tuple[str | int, ...]
"""Where a size stands in a config: names of attributes, of nested configs too, and a place in a list."""

Shapes = dict[str, tuple[int, ...]]

MOST_TOGETHER = 3
"""So many sizes of a config are tried to shrink together."""


@dataclass(frozen=True)
class ConfigWidth:
    """Sizes of a config and the sites whose widths follow from them: all are kept in the same proportion.

    Attributes:
        sizes: the sizes, by where they stand in the config.
        units: how many units each site has.
        steps: of how many equal steps each size and site consists; every cut keeps a whole number of steps.
    """

    sizes: Mapping[SizeName, int]
    units: Mapping[str, int]
    steps: int

    @property
    def name(self) -> str:
        """The sizes, in words.

        >>> ConfigWidth({("intermediate_size",): 8}, {"mlp": 8}, 8).name
        'intermediate_size'
        """
        return " and ".join(".".join(map(str, place)) for place in self.sizes)


def is_configured(model: nn.Module) -> bool:
    """Return whether a model says that its class is made of one config."""
    return hasattr(type(model), "config_class") and is_config(getattr(model, "config", None))


_WIDTHS: WeakKeyDictionary[Structure, tuple[dict[SizeName, int], tuple[ConfigWidth, ...]]] = WeakKeyDictionary()


def config_widths(model: nn.Module, sites: Sites) -> tuple[ConfigWidth, ...]:
    """Return the widths of `sites` that stand in the config of `model`; none where no config rebuilds the model."""
    if not is_configured(model) or not isinstance(sites.structure, Structure):
        return ()
    _, widths = _widths(model, sites.structure)
    return tuple(width for width in widths if all(name in sites for name in width.units))


def _widths(model: nn.Module, structure: Structure) -> tuple[dict[SizeName, int], tuple[ConfigWidth, ...]]:
    """What the config is to say that it left open, and the widths that stand in it."""
    if structure not in _WIDTHS:
        _WIDTHS[structure] = _Search(model, structure).widths()
    return _WIDTHS[structure]


class _Search:
    """The search for the sizes of one model's config."""

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        self.structure = structure
        self.rebuilding = _Rebuilding(model)
        self.names = {atom: name for name, atom in structure.units.items()}
        self.liked = {name: site.unit == "head dimension" for name, site in structure.sites.items()}
        self.stated: dict[SizeName, int] = {}

    def widths(self) -> tuple[dict[SizeName, int], tuple[ConfigWidth, ...]]:
        """Sizes that shrink alone first, then those that have to shrink together."""
        whole = self.rebuilding.built({})
        if whole is None or _shapes(whole) != _shapes(self.rebuilding.model):
            return {}, ()
        self.whole = whole
        candidates = self._candidates()
        self.stated = dict(self._stated(candidates))
        if self.stated:
            rebuilt = self.rebuilding.built(self.stated)
            assert rebuilt is not None
            self.whole = rebuilt
        self.runs_whole = self._runs(self.whole)
        numbers = {**dict(_whole_numbers(self.rebuilding.config)), **self.stated}
        # A size alone may count units in a way of its own, as a ratio of widths does; sizes together stand in the axes.
        together = [place for place, size in numbers.items() if size in candidates]
        widths: list[ConfigWidth] = []
        for count in range(1, MOST_TOGETHER + 1):
            for places in combinations(numbers if count == 1 else together, count):
                width = self._width({place: numbers[place] for place in places}, widths)
                if width is not None:
                    widths.append(width)
        return self.stated, tuple(_settled(widths))

    def _candidates(self) -> set[int]:
        """The sizes of everything that holds units of a site."""
        sizes = {site.size for site in self.structure.sites.values()}
        for value in self.structure.tensors.values():
            for axis in map(resolve, value.axes):
                if any(atom in self.names for atom in atoms(axis)):
                    sizes |= {int(part.size) for part in _parts(axis)}
        return {size for size in sizes if size > 1}

    def _stated(self, candidates: set[int]) -> Iterator[tuple[SizeName, int]]:
        """The sizes that a config leaves to others (None), said outright, so that they shrink by themselves."""
        whole = _shapes(self.whole)
        for place in _open_sizes(self.rebuilding.config):
            other = self.rebuilding.built({place: max(candidates, default=1) + 1})
            if other is None or _shapes(other) == whole:
                continue
            for size in sorted(candidates):
                rebuilt = self.rebuilding.built({place: size})
                if rebuilt is not None and _shapes(rebuilt) == whole and _is_same_but_for_config(self.whole, rebuilt):
                    yield place, size
                    break

    def _width(self, sizes: dict[SizeName, int], smaller: Sequence[ConfigWidth]) -> ConfigWidth | None:
        """The sizes as a width, in steps as fine as can be; None where they are none, or fall apart into others."""
        most = gcd(*sizes.values())
        for steps in (n for n in (most, most // 2, most // 4) if n > 1):
            share = Fraction(steps - 1, steps)
            rebuilt = self.rebuilding.built({**self.stated, **{place: int(n * share) for place, n in sizes.items()}})
            if rebuilt is None or _differences(self.whole, rebuilt) is None:
                continue
            scaled = self._scaled(_shapes(rebuilt), share)
            if not scaled or (len(sizes) > 1 and not all(self._is_seen(n, scaled, share) for n in sizes.values())):
                continue
            if self.runs_whole and not self._runs(rebuilt):
                continue  # its code wants a multiple
            units = {self.names[atom]: atom.size for atom in scaled}
            parts = [w for w in smaller if set(w.sizes) < set(sizes) and set(w.units) <= set(units)]
            return None if parts else ConfigWidth(sizes, units, steps)
        return None

    def _runs(self, rebuilt: nn.Module) -> bool:
        """Whether a rebuilt model takes the example inputs, on the meta device."""
        graph = self.structure.graph
        with torch.device("meta"), torch.no_grad():
            inputs = pytree.tree_map_only(Tensor, lambda x: x.to("meta"), (graph.args, dict(graph.kwargs)))
            try:
                rebuilt.eval()(*inputs[0], **inputs[1])
            except Exception:  # noqa: BLE001  (sizes that do not fit, or a value that meta tensors do not have)
                return False
        return True

    def _is_seen(self, size: int, scaled: Sequence[Atom], share: Fraction) -> bool:
        """Whether some part of an axis has this size and is scaled: another reading of the shapes is no cut of these sites."""
        axes = [axis for value in self.structure.tensors.values() for axis in map(resolve, value.axes)]
        return any(
            _size(part, scaled, share) == size * share for axis in axes for part in _parts(axis) if part.size == size
        )

    def _scaled(self, shapes: Mapping[str, tuple[int, ...]], share: Fraction) -> list[Atom]:
        """The atoms that a cut keeps `share` of to give every tensor its new shape; empty where no cut does."""
        if set(shapes) != set(_shapes(self.whole)):
            return []
        scaled: list[Atom] = []
        axes = [
            (axis, new)
            for name, value in self.structure.tensors.items()
            if name in shapes
            for axis, old, new in zip(map(resolve, value.axes), value.shape, shapes[name], strict=True)
        ]
        # Axes of few atoms first: they leave no choice.
        for axis, new in sorted(axes, key=lambda pair: len(set(atoms(pair[0])))):
            if _size(axis, scaled, share) == new:
                continue
            if new != axis.size * share:
                return []
            options = [atom for atom in dict.fromkeys(atoms(axis)) if atom in self.names and atom not in scaled]
            options.sort(key=lambda atom: self.liked[self.names[atom]])
            more = _more(axis, options, scaled, share)
            if not more:
                return []
            scaled += more
        fits = all(_size(axis, scaled, share) == new for axis, new in axes)
        return scaled if fits and all((atom.size * share).denominator == 1 for atom in scaled) else []


def _more(axis: Axis, options: Sequence[Atom], scaled: Sequence[Atom], share: Fraction) -> Sequence[Atom]:
    """The fewest further atoms that scale the axis."""
    goal = axis.size * share
    for count in range(1, min(len(options), 4) + 1):
        for more in combinations(options, count):
            if _size(axis, [*scaled, *more], share) == goal:
                return more
    return ()


def _size(axis: Axis, scaled: Sequence[Atom], share: Fraction) -> Fraction:
    if isinstance(axis, Atom):
        return axis.size * share if axis in scaled else Fraction(axis.size)
    sizes = [_size(resolve(a), scaled, share) for a in (axis.factors if isinstance(axis, Prod) else axis.parts)]
    return prod(sizes, start=Fraction(1)) if isinstance(axis, Prod) else sum(sizes, start=Fraction(0))


def _parts(axis: Axis) -> Iterator[Axis]:
    """An axis, its parts, and runs of its factors."""
    yield axis
    if isinstance(axis, Prod):
        factors = axis.factors
        yield from (product(*factors[a:b]) for a in range(len(factors)) for b in range(a + 1, len(factors) + 1))
    if isinstance(axis, Sum):
        for inner in axis.parts:
            yield from _parts(resolve(inner))


def _settled(widths: Sequence[ConfigWidth]) -> Iterator[ConfigWidth]:
    """Of widths that change the same size or site, the one of more sizes: query groups, not the queries in each."""
    taken: list[ConfigWidth] = []
    for width in sorted(widths, key=lambda w: -len(w.sizes)):
        if not any(set(width.sizes) & set(t.sizes) or set(width.units) & set(t.units) for t in taken):
            taken.append(width)
    yield from (width for width in widths if width in taken)


def rebuilt_shapes(model: nn.Module) -> Shapes | None:
    """Return the shapes of what a model's class keeps (its state dict) when it is made of the model's config; None where it cannot be."""
    rebuilt = _Rebuilding(model).built({})
    return None if rebuilt is None else {name: tuple(tensor.shape) for name, tensor in rebuilt.state_dict().items()}


class _Rebuilding:
    """A model's class made anew, on the meta device, of its config with other sizes."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.config: Any = model.config

    def built(self, sizes: Mapping[SizeName, int]) -> nn.Module | None:
        """The class with these sizes; None where it refuses them."""
        config = copy.deepcopy(self.config)
        try:
            for place, size in sizes.items():
                set_size(config, place, size)
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return type(self.model)(config)  # type: ignore[no-any-return]
        except Exception:  # noqa: BLE001  (a class may raise anything on sizes that do not fit together)
            return None


def set_size(config: Any, place: SizeName, size: int) -> None:
    """Write a size into a config."""
    *path, last = place
    for name in path if isinstance(last, str) else path[:-1]:
        config = getattr(config, str(name))
    if isinstance(last, str):
        setattr(config, last, size)
        return
    sizes = list(getattr(config, str(path[-1])))
    sizes[last] = size
    setattr(config, str(path[-1]), type(getattr(config, str(path[-1])))(sizes))


def _nested(config: Any) -> Iterator[tuple[str, Any]]:
    yield from ((name, value) for name, value in vars(config).items() if is_config(value))


def _whole_numbers(config: Any, path: SizeName = ()) -> Iterator[tuple[SizeName, int]]:
    for name, value in vars(config).items():
        if is_whole(value) and not name.startswith("_"):
            yield (*path, name), value
        elif isinstance(value, list | tuple):
            yield from (((*path, name, place), size) for place, size in enumerate(value) if is_whole(size))
    for name, inner in _nested(config):
        yield from _whole_numbers(inner, (*path, name))


NO_SIZES = ("_id", "dtype", "_version", "_type", "architectures")
"""How names of config attributes end that are no sizes where they are None."""


def _open_sizes(config: Any, path: SizeName = ()) -> Iterator[SizeName]:
    for name, value in vars(config).items():
        if value is None and not name.startswith("_") and not name.endswith(NO_SIZES):
            yield (*path, name)
    for name, inner in _nested(config):
        yield from _open_sizes(inner, (*path, name))


def _shapes(model: nn.Module) -> Shapes:
    tensors: list[tuple[str, Tensor]] = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def whole_numbers(config: Any) -> dict[str, Any]:
    """Return the whole numbers of a config, of nested ones too, by dotted names; lists whole."""
    numbers = {}
    for name, value in vars(config).items():
        whole_list = isinstance(value, list | tuple) and value and all(map(is_whole, value))
        if (is_whole(value) or whole_list or value is None) and not name.startswith("_"):
            numbers[name] = list(value) if whole_list else value
    for name, inner in _nested(config):
        numbers |= {f"{name}.{key}": value for key, value in whole_numbers(inner).items()}
    return numbers


def _attributes(module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module, and the whole numbers of its config."""
    plain = {}
    for name, value in vars(module).items():
        if name == "config":
            plain |= (
                {f"config.{key}": number for key, number in whole_numbers(value).items()} if is_config(value) else {}
            )
        elif name != "training" and not name.startswith("_") and isinstance(value, int | float | list | tuple):
            plain[name] = value
    return plain


def is_config(value: Any) -> bool:
    """Return whether a value is a config, as transformers has them."""
    return callable(getattr(value, "to_dict", None)) and hasattr(value, "__dict__")


def _differences(whole: nn.Module, rebuilt: nn.Module) -> Edits | None:
    """The sizes that differ between two models of one class, by module; None where something else does, as a temperature.

    A buffer that is not saved is computed when the model is made: one of another shape has other values, too.
    """
    modules = dict(whole.named_modules())
    edits: Edits = {}
    if [path for path, _ in rebuilt.named_modules()] != list(modules):
        return None
    for path, module in rebuilt.named_modules():
        before, after = _attributes(modules[path]), _attributes(module)
        for name in (n for n in after if n in before and after[n] != before[n]):
            new = list(after[name]) if isinstance(after[name], list | tuple) else after[name]
            if not all(map(is_whole, new if isinstance(new, list) else [new])):
                return None
            edits.setdefault(path, {})[name] = new
        computed = [n for n in module._non_persistent_buffers_set if module._buffers[n] is not None]
        if any(module._buffers[n].shape != modules[path]._buffers[n].shape for n in computed):  # type: ignore[union-attr]
            return None
    return edits


def _is_same_but_for_config(whole: nn.Module, rebuilt: nn.Module) -> bool:
    edits = _differences(whole, rebuilt)
    return edits is not None and all(name.startswith("config.") for names in edits.values() for name in names)


def kept_steps(width: ConfigWidth, counts: Mapping[str, int]) -> int | None:
    """Return how many steps of a width are kept where its sites keep so many units; None where they do not agree."""
    shares = {Fraction(counts.get(name, size), size) * width.steps for name, size in width.units.items()}
    steps = shares.pop()
    return int(steps) if not shares and steps.denominator == 1 else None


def config_edits(model: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor]) -> Edits | None:
    """Return the sizes of modules and configs after a cut, as the class sets them when it is made of the new config.

    None where no config says the widths that are left.
    """
    counts = {name: int(gone[atom].sum()) for name, atom in structure.units.items() if atom in gone}
    if not is_configured(model) or not _is_even(structure, counts):
        return None
    stated, widths = _widths(model, structure)
    if set(counts) - {name for width in widths for name in width.units}:
        return None
    sizes = dict(stated)
    for width in widths:
        steps = kept_steps(width, counts)
        if steps is None:
            return None
        sizes |= {place: size * steps // width.steps for place, size in width.sizes.items()}
    rebuilding = _Rebuilding(model)
    whole, rebuilt = rebuilding.built({}), rebuilding.built(sizes)
    if whole is None or rebuilt is None:
        return None
    edits = _differences(whole, rebuilt)
    return None if edits is None else _of_each_config(model, edits)


def _is_even(structure: Structure, counts: Mapping[str, int]) -> bool:
    """Whether sites that differ by the number of their block alone keep as many units: else no search is worth its time."""
    kept: dict[tuple[str, int], set[int]] = {}
    for name, site in structure.sites.items():
        pattern = ".".join("#" if part.isdigit() else part for part in name.split("."))
        kept.setdefault((pattern, site.size), set()).add(counts.get(name, site.size))
    return all(len(widths) == 1 for widths in kept.values())


def _of_each_config(model: nn.Module, edits: Edits) -> Edits:
    """The edits with those of each config object once: modules share it."""
    seen: set[int] = set()
    unique: Edits = {}
    for path, module in model.named_modules():
        config = vars(module).get("config")
        again = id(config) in seen
        seen |= {id(config)} if config is not None else set()
        values = {n: v for n, v in edits.get(path, {}).items() if not (again and n.startswith("config."))}
        if values:
            unique[path] = values
    return unique
