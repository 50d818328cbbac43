"""Which scores are kept.

The tie rule: of equal scores the one at the earlier position is removed first, positions counted in the order of the
sites and then row-major within a site. So the same scores always give the same masks, and the exact number asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from secateur.calls import usual
from secateur.checks import check_fraction, check_name, check_number, check_whole
from secateur.selection.nested import aligned, multiple_of, nearest_multiple, nested_counts
from secateur.selection.patterns import Block, by_block, n_of_m
from secateur.structure.nesting import nested
from secateur.types import InputError, RoundTo, Scores, Sites

__all__ = ["SCOPES", "Scope", "check_scores", "removed_fraction", "select"]

Scope = Literal["global", "layer", "row"]
"""What competes: all units, those of one site, or the weights that lead to one output."""

SCOPES = ("global", "layer", "row")


@usual
def select(
    scores: Scores,
    sparsity: float | Mapping[str, float] | None = None,
    *,
    scope: Scope = "global",
    threshold: float | None = None,
    cumulative: float | None = None,
    pattern: str | None = None,
    block: Block | None = None,
    minimum: int = 1,
    round_to: RoundTo = 1,
    sites: Sites | None = None,
) -> dict[str, Tensor]:
    """Return one keep mask a site, True = keep, that removes the lowest scores.

    Args:
        scores: one tensor a site; high means keep. Scores of one's own may all be equal, where the tie rule decides, and
            infinite, to keep or remove what they stand for. (Those that a criterion gives to `prune`, a schedule,
            `budget` or `sensitivity` may not, as they tell nothing.)
        sparsity: the fraction of units to remove, in [0, 1]: of all units pooled (`scope` "global") or of each site
            ("layer"); with "layer" also a mapping of site name to fraction, sites not named staying whole. The number
            removed is the fraction times the number of units, rounded to the nearest (halves to even). Where several
            sites lie in one axis of a tensor (`sites` tells), it is the fraction of that tensor's channels.
        scope: pool the scores of all sites, take each site by itself, or, for single weights, each row of a weight by
            itself (``"row"``: the weights that lead to one output, as Sun et al., 2024, compare them).
        threshold: instead of `sparsity`, remove every unit whose score is below this value.
        cumulative: instead of `sparsity`, remove in each site the lowest scores that together come to this share of
            the site's total, in [0, 1]; the scores must not be negative (Janjić, 2018, prunes filters by their share
            of energy so).
        pattern: instead of `sparsity`, keep N of every M single weights that follow each other along the inputs, such
            as ``"2:4"``.
        block: keep or remove single weights by blocks of so many rows and columns, each as a whole and by its mean
            score; the weight is seen as a matrix with one row an output. The fractions are then those of blocks.
        minimum: how many units every site keeps at least, its best; so no layer is emptied. With "global" the next
            lowest scores of other sites go instead, so that the number removed stays exact. 0 allows empty sites.
        round_to: keep a multiple of this many units in every site, the nearest one (halves up), at least one multiple
            where the site has so many; a number, or one by site. Hardware likes multiples of 8 or 16;
            `secateur.allocate.rounding` finds out. The number removed is then near, not exact.
        sites: what the scores are of. With "layer" and one fraction for all, sites that make up one axis together, as
            groups and the channels inside each, share the removal: of k such sites each keeps (1 − s)^(1/k), rounded so
            that their product comes nearest to 1 − s. Without it each site loses the whole fraction. Sites whose units
            an op takes at multiples alone (`Site.multiple`) keep such a multiple.

    Raises:
        InputError: a fraction outside [0, 1], none or several of `sparsity`, `threshold`, `cumulative` and `pattern`,
            scores that are empty, NaN or all infinite, or more to remove than `minimum` allows.

    >>> scores = {"conv1": torch.tensor([1.0, 4.0, 2.0]), "fc": torch.tensor([3.0, 0.5, 5.0])}
    >>> {k: v.tolist() for k, v in select(scores, 0.5).items()}
    {'conv1': [False, True, False], 'fc': [True, False, True]}
    >>> {k: v.tolist() for k, v in select(scores, {"fc": 1 / 3}, scope="layer").items()}
    {'conv1': [True, True, True], 'fc': [True, False, True]}
    >>> {k: v.tolist() for k, v in select(scores, threshold=2.5).items()}
    {'conv1': [False, True, False], 'fc': [True, False, True]}
    >>> {k: v.tolist() for k, v in select(scores, cumulative=0.2).items()}
    {'conv1': [False, True, True], 'fc': [True, False, True]}
    """
    check_scores(scores, "select")
    ways = {"sparsity": sparsity, "threshold": threshold, "cumulative": cumulative, "pattern": pattern}
    ways_named = [name for name, value in ways.items() if value is not None]
    if len(ways_named) != 1:
        raise InputError(
            f"select: give one of sparsity (a fraction), threshold (a score), cumulative (a share of the scores) or "
            f"pattern (N:M); got {' and '.join(ways_named) or 'none'}"
        )
    check_whole("select", 0, minimum=minimum)
    check_name("scope", scope, SCOPES)
    for multiple in round_to.values() if isinstance(round_to, Mapping) else [round_to]:
        check_whole("select", 1, "or one by site", round_to=multiple)
    if pattern is not None:
        return n_of_m(scores, pattern)
    _check_sites(scores, sites)
    round_to = aligned(round_to, sites)

    def choose(scores: Scores) -> dict[str, Tensor]:
        if threshold is not None:
            return _above(scores, threshold, minimum)
        if cumulative is not None:
            return _by_share(scores, _fraction(cumulative, "cumulative"), minimum)
        assert sparsity is not None
        if scope == "layer" and sites is not None and not isinstance(sparsity, Mapping):
            return _select_by_layer(scores, sparsity, minimum, _nested(scores, sparsity, minimum, round_to, sites))
        return _fewest(scores, sparsity, scope, minimum)

    keep = choose(scores) if block is None else by_block(scores, block, choose)
    return {name: _rounded(mask, scores[name], multiple_of(round_to, name), minimum) for name, mask in keep.items()}


def _fewest(scores: Scores, sparsity: float | Mapping[str, float], scope: Scope, minimum: int) -> dict[str, Tensor]:
    if scope == "layer":
        return _select_by_layer(scores, sparsity, minimum)
    if isinstance(sparsity, Mapping):
        raise InputError('select: a fraction for each site goes with scope="layer"')
    if scope == "global":
        return _select_global(scores, _fraction(sparsity, "sparsity"), minimum)
    return {name: _by_row(score, _fraction(sparsity, "sparsity"), minimum, name) for name, score in scores.items()}


def _nested(scores: Scores, sparsity: float, minimum: int, round_to: RoundTo, sites: Sites) -> dict[str, int]:
    """How many units stay of the sites that lie in one axis with others."""
    sizes = {name: score.numel() for name, score in scores.items()}
    fraction = _fraction(sparsity, "sparsity")
    return nested_counts(sizes, nested(sites), fraction, minimum=minimum, round_to=round_to)


def _by_row(score: Tensor, sparsity: float, minimum: int, name: str) -> Tensor:
    if score.ndim < 2:
        raise InputError(
            f'select: scope="row" is for single weights, and {name!r} has channels to choose from; use weights(model)'
        )
    rows = score.flatten(1)
    count = min(round(sparsity * rows.shape[1]), max(rows.shape[1] - minimum, 0))
    places = torch.argsort(torch.argsort(rows, dim=1, stable=True), dim=1)
    return (places >= count).reshape(score.shape)


def _above(scores: Scores, threshold: float, minimum: int) -> dict[str, Tensor]:
    check_number("select", "[-inf, inf]", threshold=threshold)
    return {name: _with_best(score >= threshold, score, minimum) for name, score in scores.items()}


def _by_share(scores: Scores, share: float, minimum: int) -> dict[str, Tensor]:
    keep = {}
    for name, score in scores.items():
        if bool((score < 0).any()):
            raise InputError(f"select: cumulative needs scores of 0 or more; {name!r} has {float(score.min()):.3g}")
        order = torch.argsort(score.flatten(), stable=True)
        cumulative_sum = score.flatten()[order].double().cumsum(0)
        mask = torch.zeros_like(order, dtype=torch.bool)
        mask[order] = cumulative_sum > share * cumulative_sum[-1]
        keep[name] = _with_best(mask.reshape(score.shape), score, minimum)
    return keep


def removed_fraction(keep: Mapping[str, Tensor]) -> float:
    """Return the fraction of all units that the masks remove.

    >>> removed_fraction({"a": torch.tensor([True, False]), "b": torch.tensor([True, True])})
    0.25
    """
    total = sum(k.numel() for k in keep.values())
    return sum(int((~k).sum()) for k in keep.values()) / total if total else 0.0


def check_scores(scores: Scores, doing: str, *, finite: bool = False) -> None:
    """Refuse scores that rank nothing: empty, NaN, or infinite: all of them, or with `finite` a single one.

    >>> check_scores({"fc": torch.tensor([1.0, torch.nan])}, "select")
    Traceback (most recent call last):
    secateur.types.InputError: select: 1 scores of 'fc' are NaN; repair the criterion or its data
    """
    if not scores:
        raise InputError(f"{doing}: there are no sites to choose from; see sites.frozen for why nothing can be pruned")
    for name, score in scores.items():
        if not isinstance(score, Tensor):
            raise InputError(f"{doing}: the scores of {name!r} are a {type(score).__name__}; give a tensor")
        if score.numel() == 0:
            raise InputError(f"{doing}: the scores of {name!r} are empty")
        if score.is_complex():
            raise InputError(f"{doing}: the scores of {name!r} are {score.dtype}, which rank nothing; give real ones")
        wrong = ~torch.isfinite(score) if finite else torch.isnan(score)
        if bool(wrong.any()):
            kind = "NaN or infinite" if finite else "NaN"
            raise InputError(
                f"{doing}: {int(wrong.sum())} scores of {name!r} are {kind}; repair the criterion or its data"
            )
    if all(bool(torch.isinf(score).all()) for score in scores.values()):
        raise InputError(f"{doing}: all scores are infinite, which ranks nothing; repair the criterion or its data")


def _check_sites(scores: Scores, sites: Sites | None) -> None:
    """Refuse scores that are not one for each unit of their site; those of sites that are not there are another's to choose."""
    for name, score in scores.items():
        site = None if sites is None else sites.get(name)
        if site is not None and tuple(score.shape) != site.shape:
            raise InputError(
                f"select: the scores of {name!r} have shape {tuple(score.shape)}, and the site {site.shape}; give one score a unit"
            )


def _fraction(value: float, name: str) -> float:
    check_fraction("select", **{name: value})
    return float(value)


def _select_by_layer(
    scores: Scores, sparsity: float | Mapping[str, float], minimum: int, counts: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """Remove a fraction of each site, or all but so many units as `counts` says."""
    if isinstance(sparsity, Mapping):
        for name in sparsity:
            check_name("site", name, scores)
        fractions = {name: _fraction(sparsity.get(name, 0.0), f"sparsity[{name!r}]") for name in scores}
    else:
        fractions = dict.fromkeys(scores, _fraction(sparsity, "sparsity"))
    keep = {}
    for name, score in scores.items():
        count = min(round(fractions[name] * score.numel()), max(score.numel() - minimum, 0))
        if counts is not None and name in counts:
            count = score.numel() - counts[name]
        keep[name] = ~_lowest(score.flatten(), count).reshape(score.shape)
    return keep


def _select_global(scores: Scores, sparsity: float, minimum: int) -> dict[str, Tensor]:
    flat = torch.cat([s.detach().flatten().double().cpu() for s in scores.values()])
    protected = torch.cat([_best(s, minimum).flatten().cpu() for s in scores.values()])
    count = round(sparsity * flat.numel())
    if count > int((~protected).sum()):
        raise InputError(
            f"select: sparsity {sparsity} would remove {count} of {flat.numel()} units, but every one of the "
            f"{len(scores)} sites keeps at least {minimum}; ask for {int((~protected).sum()) / flat.numel():.4f} or less, "
            "or set minimum=0"
        )
    removable = (~protected).nonzero().flatten()
    removed = torch.zeros_like(protected)
    removed[removable[_lowest(flat[removable], count)]] = True
    parts = torch.split(~removed, [s.numel() for s in scores.values()])
    return {
        name: part.reshape(score.shape).to(score.device)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def _rounded(keep: Tensor, score: Tensor, multiple: int, minimum: int) -> Tensor:
    """The best units of a site, as many as the multiple nearest to those kept, but not fewer than the minimum."""
    count = int(keep.sum())
    if multiple == 1 or not count:
        return keep
    rounded = nearest_multiple(count, score.numel(), multiple)
    return _best(score, rounded if rounded >= minimum else min(rounded + multiple, score.numel()))


def _lowest(flat: Tensor, count: int) -> Tensor:
    """True at the `count` lowest entries; of equals the earlier ones."""
    is_lowest = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
    is_lowest[torch.argsort(flat, stable=True)[:count]] = True
    return is_lowest


def _best(score: Tensor, count: int) -> Tensor:
    """True at the `count` highest entries; of equals the later ones, as the earlier ones are removed first."""
    return _lowest_but(score.flatten(), count).reshape(score.shape)


def _lowest_but(flat: Tensor, count: int) -> Tensor:
    return ~_lowest(flat, max(flat.numel() - count, 0))


def _with_best(keep: Tensor, score: Tensor, minimum: int) -> Tensor:
    return keep if int(keep.sum()) >= minimum else keep | _best(score, minimum)
