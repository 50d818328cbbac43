"""How many units a site keeps a multiple of: what the runtime and the processor like, learnt by measuring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import gcd, lcm, prod
from typing import Any, Literal

import torch
from torch import Tensor

from secateur.calls import usual
from secateur.checks import check_name, check_whole
from secateur.hints import Checked
from secateur.runtimes import Runtime, name_of
from secateur.runtimes.probes import Kind, installed, liked_multiple
from secateur.selection import Scope, select
from secateur.selection.nested import multiple_of
from secateur.structure import Structure
from secateur.structure.cost import Cost
from secateur.structure.nesting import nested
from secateur.types import Keep, Member, RoundTo, Scores, Site, Sites

__all__ = ["Rounding", "filled", "rounding", "select_near", "select_rounded"]

SMALL = 1_000_000
"""Layers of fewer multiply-accumulates on the example are over before their widths matter."""


@dataclass(frozen=True)
class Rounding(Checked):
    """Of how many units each site keeps a multiple.

    Attributes:
        multiples: by site; those that are not named keep any number. Learnt ones are half of a site's units at most, so that
            each site can lose some.
        runtimes: where they were learnt; empty where they were given.
        coarse: learnt multiples that may be all of a site's units, which then stays whole.
        left_whole: the share of the multiply-accumulates that stays when only sites go that can lose a coarse multiple.
    """

    multiples: Mapping[str, int]
    runtimes: tuple[str, ...] = ()
    coarse: Mapping[str, int] = field(default_factory=dict)
    left_whole: float = 0.0

    def ladder(self, share: float) -> Iterator[Rounding]:
        """Yield what to try in turn, as a goal may be out of reach of coarse multiples; what is given is not changed.

        Args:
            share: what is to be left of the model; sites stay whole only where all others keep half of that share.

        >>> learnt = Rounding({"a": 4, "b": 8}, ("eager",), {"a": 8, "b": 8})
        >>> [dict(rung.multiples) for rung in learnt.ladder(0.5)]
        [{'a': 8, 'b': 8}, {'a': 4, 'b': 8}, {'a': 2, 'b': 4}, {'b': 2}, {}]
        """
        # (share − left whole) of the work is what the others keep, of (1 − left whole).
        if (
            self.coarse
            and self.coarse != self.multiples
            and share - self.left_whole >= share / 2 * (1 - self.left_whole)
        ):
            yield replace(self, multiples=self.coarse)
        yield self
        multiples = self.multiples if self.runtimes else {}
        while multiples:
            multiples = {name: multiple // 2 for name, multiple in multiples.items() if multiple > 2}
            yield replace(self, multiples=multiples)

    @property
    def to_fill_up(self) -> list[Mapping[str, int]]:
        """The multiples by which sites are given back what a budget still bears: the same, then halves of learnt ones."""
        halves = {name: max(multiple // 2, 1) for name, multiple in self.multiples.items()}
        return [self.multiples, halves] if self.runtimes else [self.multiples]

    def seen_in(self, keep: Keep) -> Rounding:
        """Return the multiples that masks really hold to, of those that were aimed at.

        >>> str(Rounding({"a": 8}).seen_in({"a": torch.arange(16) < 12}))
        'to multiples of 4 (1 site)'
        """
        multiples = {}
        for name, aimed in {**self.multiples, **self.coarse}.items():
            if name in keep:
                multiples[name] = aimed if bool(keep[name].all()) else gcd(int(keep[name].sum()), aimed)
        return replace(self, multiples=multiples)

    def __str__(self) -> str:
        counts = Counter(multiple for multiple in self.multiples.values() if multiple > 1)
        if not counts:
            return ""
        words = ", ".join(f"{multiple} ({_sites(count)})" for multiple, count in sorted(counts.items()))
        return f"to multiples of {words}" + (f", learnt in {' and '.join(self.runtimes)}" if self.runtimes else "")


def _sites(count: int) -> str:
    return f"{count} site{'s' if count > 1 else ''}"


@usual
def rounding(
    sites: Sites, round_to: RoundTo | Rounding | Literal["auto"] = "auto", runtime: Runtime | None = None
) -> Rounding:
    """Return the multiples that sites are to be rounded to.

    With ``"auto"`` small layers of the model's kinds (linear, convolutions by kernel) and widths are timed, once a process
    and for a second or so: a site gets the smallest multiple by which a layer can be made narrower so that it is felt.
    Not rounded are single weights, sites whose layers have less than a
    million multiply-accumulates on the example, sites of which each unit is many channels already, and those that make up one
    axis together, as heads and their dimensions do.

    Sites whose units an op takes at multiples alone (`Site.multiple`), as products of grouped experts do, keep to those.

    Args:
        sites: from `channels`.
        round_to: ``"auto"``; or a number, one by site, or a rounding that was learnt before, which are taken as they are.
        runtime: where the model is to run; None takes what is good in every runtime that is installed.

    Raises:
        InputError: `round_to` is none of these.
        MissingLibraryError: the runtime is not installed.

    >>> from torch import nn
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> sites = channels(model, torch.zeros(1, 8))
    >>> rounding(sites).multiples, str(rounding(sites, 4))         # far too small for its widths to matter
    ({}, 'to multiples of 4 (1 site)')
    """
    if isinstance(round_to, Rounding):
        return round_to
    needed = {name: site.multiple for name, site in sites.items() if site.multiple > 1}
    if isinstance(round_to, Mapping):
        for name, multiple in round_to.items():
            check_name("site to round", name, sites)
            check_whole(f"rounding of {name!r}", 1, "or no entry", round_to=multiple)
        return Rounding({**round_to, **{n: lcm(multiple_of(round_to, n), m) for n, m in needed.items()}})
    if round_to != "auto":
        check_whole("rounding", 1, 'or "auto", or one by site', round_to=round_to)
        return Rounding({name: lcm(round_to, site.multiple) for name, site in sites.items()})
    if not isinstance(sites.structure, Structure):
        return Rounding({})
    device = str(next((tensor.device for tensor in sites.structure.graph.state.values()), "cpu"))
    runtimes: list[Any] = installed(device) if runtime is None else [runtime]
    coarse = {}
    for name, kind in _kinds(sites, sites.structure, device).items():
        multiple = _in_units(max(liked_multiple(r, kind) for r in runtimes), sites[name])
        if multiple > 1:
            coarse[name] = min(multiple, sites[name].size)
    if not coarse:
        return Rounding(needed, () if needed else tuple(map(name_of, runtimes)))
    stuck = {name for name, multiple in coarse.items() if multiple == sites[name].size}
    left = _left_whole(sites, sites.structure, stuck)
    capped = {name: _capped(multiple, sites[name].size) for name, multiple in coarse.items()}
    return Rounding(
        {**needed, **{n: lcm(m, sites[n].multiple) for n, m in capped.items()}},
        tuple(map(name_of, runtimes)),
        coarse,
        left,
    )


def _left_whole(sites: Sites, structure: Structure, stuck: set[str]) -> float:
    cost = Cost(structure)
    least = {name: torch.arange(site.size) < 1 for name, site in sites.items() if name not in stuck}
    return cost.macs(least) / max(cost.macs({}), 1) if stuck else 0.0


def _kinds(sites: Sites, structure: Structure, device: str) -> dict[str, Kind]:
    """The kind of the layer that makes a site's units, where its work is worth a thought."""
    cost = Cost(structure)
    whole = cost.macs({})
    kinds = {}
    multiplied = {name for term in nested(sites) for name in term}
    for name, site in sites.items():
        maker = None if name in multiplied else _maker(site)
        work = whole - cost.macs({name: torch.arange(site.size) < 1})
        if maker is not None and work >= SMALL:
            weights = sum(prod(member.shape) for member in site.members if len(member.shape) > 1)
            kinds[name] = Kind.of(tuple(maker.shape[2:]), site.size * _channels_a_unit(maker), work // weights, device)
    return kinds


def _maker(site: Site) -> Member | None:
    """The largest weight that produces the units."""
    makers = [member for member in site.members if member.role == "out" and len(member.shape) > 1]
    return max(makers, key=lambda member: prod(member.shape), default=None)


def _channels_a_unit(maker: Member) -> int:
    return 1 if maker.index is None else maker.index.shape[1]


def _in_units(multiple: int, site: Site) -> int:
    """A multiple of channels in units, each of which may be several."""
    maker = _maker(site)
    return multiple // gcd(multiple, 1 if maker is None else _channels_a_unit(maker))


def _capped(multiple: int, size: int) -> int:
    """A power of two up to the multiple, and up to half of the units, so that a site can lose some."""
    units = 1
    while 2 * units <= min(multiple, max(size // 2, 1)):
        units *= 2
    return units


def select_near(
    scores: Scores,
    sparsity: float,
    round_to: RoundTo,
    *,
    scope: Scope = "global",
    minimum: int = 1,
    sites: Sites | None = None,
) -> dict[str, Tensor]:
    """Return masks rounded to multiples that remove as near to a fraction of all units as there is, but not none.

    >>> scores = {"a": torch.arange(8.0), "b": torch.arange(8.0) + 3}
    >>> {name: int(kept.sum()) for name, kept in select_near(scores, 0.25, 4).items()}
    {'a': 4, 'b': 8}
    """
    total = sum(score.numel() for score in scores.values())
    most = sum(max(score.numel() - minimum, 0) for score in scores.values()) if scope == "global" else total
    # It refuses what cannot be; of sites that make up one axis it takes less than the fraction.
    exact = select(scores, sparsity, scope=scope, minimum=minimum, sites=sites)
    goal = _removed(exact)

    def at(step: int) -> dict[str, Tensor]:
        return select(scores, step / total, scope=scope, minimum=minimum, round_to=round_to, sites=sites)

    if not goal:
        return exact
    below, above = 0, most
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if _removed(at(middle)) < goal else (below, middle)
    fewer, more = at(below), at(above)
    nearer = goal - _removed(fewer) <= _removed(more) - goal
    return fewer if nearer and _removed(fewer) else more


NEAR = 0.05
"""How far the fraction removed may be from the one asked for, before finer multiples are tried."""


def select_rounded(
    scores: Scores,
    sparsity: float | Mapping[str, float],
    rounds: Rounding,
    *,
    scope: Scope = "global",
    minimum: int = 1,
    sites: Sites | None = None,
) -> dict[str, Tensor]:
    """Return masks that remove a fraction of all units, or of each site, by the coarsest multiples that can.

    Multiples that were learnt give way to finer ones until what goes is within 5 % of all units of what was asked for.
    """
    ways: dict[str, Any] = {"scope": scope, "minimum": minimum, "sites": sites}
    total = sum(score.numel() for score in scores.values())
    if not rounds.multiples:
        return select(scores, sparsity, **ways)
    goal = _removed(select(scores, sparsity, **ways))
    # Fractions of one's own are not for leaving sites whole.
    ladder = replace(rounds, coarse={}).ladder(0.0) if isinstance(sparsity, Mapping) else rounds.ladder(1 - sparsity)
    keep = {}
    for rung in ladder:
        if isinstance(sparsity, Mapping) or not rounds.runtimes:
            keep = select(scores, sparsity, round_to=rung.multiples, **ways)
        else:
            keep = select_near(scores, sparsity, rung.multiples, **ways)
        if abs(_removed(keep) - goal) <= NEAR * total:
            break
    return keep


def filled(
    keep: Keep, scores: Scores, round_to: RoundTo, scope: str, fits: Callable[[Keep], bool]
) -> dict[str, Tensor]:
    """Return masks that give sites back a multiple at a time while that fits: rounded masks fall in large steps.

    The site comes first that regains the highest mean score, or, unless the scope is global, the one that keeps the
    smallest share.

    >>> scores = {"a": torch.arange(8.0), "b": torch.arange(8.0) + 3}
    >>> half = {name: score >= score.median() + 1 for name, score in scores.items()}
    >>> more = filled(half, scores, 2, "global", lambda keep: sum(int(kept.sum()) for kept in keep.values()) <= 11)
    >>> {name: int(kept.sum()) for name, kept in more.items()}
    {'a': 4, 'b': 6}
    """
    masks = dict(keep)
    sites = {name for name, mask in masks.items() if multiple_of(round_to, name) > 1 and not bool(mask.all())}
    grown = {name: _grown(masks[name], scores[name], multiple_of(round_to, name)) for name in sites}

    def gain(name: str) -> float:
        if scope != "global":
            return -float(masks[name].double().mean())
        return float(scores[name][grown[name] & ~masks[name]].double().mean())

    while sites:
        name = max(sorted(sites), key=gain)
        if fits({**masks, name: grown[name]}):
            masks[name] = grown[name]
            grown[name] = _grown(masks[name], scores[name], multiple_of(round_to, name))
        else:
            sites.discard(name)
        if bool(masks[name].all()):
            sites.discard(name)
    return masks


def _grown(mask: Tensor, score: Tensor, multiple: int) -> Tensor:
    """The mask with the best of the units that it lacks, up to the next multiple."""
    more = multiple - int(mask.sum()) % multiple
    lacking = score.double().masked_fill(mask, -torch.inf).flatten().argsort(descending=True, stable=True)
    wider = mask.clone()
    wider.view(-1)[lacking[: min(more, int((~mask).sum()))]] = True
    return wider


def _removed(keep: Keep) -> int:
    return sum(int((~mask).sum()) for mask in keep.values())
