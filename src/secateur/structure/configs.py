"""Widths that stand in a model's config: which of its sizes the widths of which sites follow from, found by rebuilding.

A class that is made of one config (`type(model)(config)`, as in transformers) is rebuilt on the meta device with other
sizes. Sizes of the config that shrink together are a `ConfigWidth` where every tensor of the rebuilt model has the shape
that a cut of some sites would give it, and nothing else about the rebuilt model differs but whole numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import gcd, prod
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from secateur.structure.axes import Atom, Axis, Prod, Sum, atoms, product, resolve
from secateur.structure.infer import Structure
from secateur.structure.mend import Edits
from secateur.structure.rebuilding import (
    Changes,
    Rebuilding,
    SizeName,
    changed_modules,
    differences,
    is_configured,
    open_sizes,
    shapes_of,
    sizes_of,
)
from secateur.trees import changed
from secateur.types import Sites

__all__ = ["ConfigWidth", "config_edits", "config_widths", "edits_of", "kept_steps"]

MOST_TOGETHER = 3
"""So many sizes of a config are tried to shrink together."""
MOST_BUILT = 500
"""After so many models that were made of other sizes no more are tried: each takes milliseconds, and triples are many."""


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
        _WIDTHS[structure] = _WidthSearch(model, structure).widths()
    return _WIDTHS[structure]


class _WidthSearch:
    """The search for the sizes of one model's config."""

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        self.structure = structure
        self.rebuilding = Rebuilding(model)
        self.names = {atom: name for name, atom in structure.units.items()}
        self.liked = {name: site.unit == "head dimension" for name, site in structure.sites.items()}
        self.stated: dict[SizeName, int] = {}

    def widths(self) -> tuple[dict[SizeName, int], tuple[ConfigWidth, ...]]:
        """Sizes that shrink alone first, then those that have to shrink together."""
        whole = self.rebuilding.built({})
        if whole is None or shapes_of(whole) != shapes_of(self.rebuilding.model):
            return {}, ()
        self.whole = whole
        candidates = self._candidates()
        self.stated = dict(self._stated(candidates))
        if self.stated:
            rebuilt = self.rebuilding.built(self.stated)
            assert rebuilt is not None
            self.whole = rebuilt
        self.runs_whole = self._runs(self.whole)
        numbers = {**dict(sizes_of(self.rebuilding.config)), **self.stated}
        # A size alone may count units in a way of its own, as a ratio of widths does; sizes together stand in the axes.
        reached = {place: self._reached(place, size) for place, size in numbers.items() if size in candidates}
        together = [place for place, atoms_of_place in reached.items() if atoms_of_place != set()]
        widths: list[ConfigWidth] = []
        for count in range(1, MOST_TOGETHER + 1):
            for places in combinations(numbers if count == 1 else together, count):
                if count > 1 and not _are_connected([reached[place] for place in places]):
                    continue
                if count > 1 and self.rebuilding.count >= MOST_BUILT:
                    break
                width = self._width({place: numbers[place] for place in places}, widths)
                if width is not None:
                    widths.append(width)
        return self.stated, tuple(_settled(widths))

    def _reached(self, place: SizeName, size: int) -> set[Atom] | None:
        """The units of what is another when this size alone is; None where the class refuses it, or nobody can tell."""
        rebuilt = self.rebuilding.built({**self.stated, place: size // 2})
        if rebuilt is None:
            return None
        before, after = shapes_of(self.whole), shapes_of(rebuilt)
        if set(before) != set(after):
            return None
        axes = [
            axis
            for name, value in self.structure.tensors.items()
            if name in after
            for axis, old, new in zip(value.axes, before[name], after[name], strict=True)
            if old != new
        ]
        shrunk = {name.rpartition(".")[0] for name in after if after[name] != before[name]}
        for path in changed_modules(self.whole, rebuilt) - shrunk:
            axes += self._axes_within(path)
        return {atom for axis in axes for atom in atoms(axis) if atom in self.names}

    def _axes_within(self, path: str) -> list[Axis]:
        """The axes of the tensors within a module, or around it where it has none."""
        values = [v for name, v in self.structure.tensors.items() if not path or name.startswith(f"{path}.")]
        axes = [axis for value in values for axis in value.axes]
        return axes if axes or not path else self._axes_within(path.rpartition(".")[0])

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
        whole = shapes_of(self.whole)
        for place in open_sizes(self.rebuilding.config):
            other = self.rebuilding.built({place: max(candidates, default=1) + 1})
            if other is None or shapes_of(other) == whole:
                continue
            for size in sorted(candidates):
                rebuilt = self.rebuilding.built({place: size})
                if rebuilt is not None and shapes_of(rebuilt) == whole and _is_same_but_for_config(self.whole, rebuilt):
                    yield place, size
                    break

    def _width(self, sizes: dict[SizeName, int], smaller: Sequence[ConfigWidth]) -> ConfigWidth | None:
        """The sizes as a width, in steps as fine as can be; None where they are none, or fall apart into others."""
        most = gcd(*sizes.values())
        for steps in (n for n in (most, most // 2, most // 4) if n > 1):
            share = Fraction(steps - 1, steps)
            rebuilt = self.rebuilding.built({**self.stated, **{place: int(n * share) for place, n in sizes.items()}})
            if rebuilt is None or differences(self.whole, rebuilt) is None:
                continue
            scaled = self._scaled(shapes_of(rebuilt), share)
            if not scaled or (len(sizes) > 1 and not all(self._is_seen(n, scaled, share) for n in sizes.values())):
                continue
            units = {self.names[atom]: atom.size for atom in scaled}
            if any(set(w.sizes) < set(sizes) and set(w.units) <= set(units) for w in smaller):
                return None
            if not self.runs_whole or self._runs(rebuilt):
                return ConfigWidth(sizes, units, steps)  # else its code wants a multiple
        return None

    def _runs(self, rebuilt: nn.Module) -> bool:
        """Whether a rebuilt model takes the example inputs, on the meta device."""
        graph = self.structure.graph
        with torch.device("meta"), torch.no_grad():
            inputs = changed((graph.args, dict(graph.kwargs)), lambda x: x.to("meta"))
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
        if set(shapes) != set(shapes_of(self.whole)):
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


def _are_connected(reached: Sequence[set[Atom] | None]) -> bool:
    """Whether sizes that reach these units hang together by them: None may reach any."""
    connected, apart = reached[0], list(reached[1:])
    while connected is not None and apart:
        near = [units for units in apart if units is None or units & connected]
        if not near:
            return False
        apart = [units for units in apart if not any(units is other for other in near)]
        connected = None if None in near else connected.union(*near)  # type: ignore[arg-type]
    return True


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


def _is_same_but_for_config(whole: nn.Module, rebuilt: nn.Module) -> bool:
    edits = differences(whole, rebuilt)
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
    return edits_of(model, sizes)


def edits_of(model: nn.Module, sizes: Changes) -> Edits | None:
    """Return the sizes of modules and configs as a model's class sets them when its config says `sizes`; None where it cannot be."""
    rebuilding = Rebuilding(model)
    whole, rebuilt = rebuilding.built({}), rebuilding.built(sizes)
    if whole is None or rebuilt is None:
        return None
    edits = differences(whole, rebuilt)
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
