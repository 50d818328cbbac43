"""How many units each site keeps, where several sites lie in one axis of a tensor and what they keep multiplies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm, prod

from secateur.structure.nesting import nested
from secateur.types import RoundTo, Site, Sites

__all__ = ["aligned", "layer_fractions", "multiple_of", "nearest_multiple", "nested_counts"]

Product = tuple[str, ...]


def layer_fractions(
    sites: Sites, sparsity: float, *, minimum: int = 1, left: Mapping[str, int] | None = None
) -> dict[str, float]:
    """Return the fraction to remove of each site so that every tensor loses `sparsity` of its channels.

    That is `sparsity` itself, but less for sites that lie in one axis with others.

    Args:
        sites: from `channels`, or others.
        sparsity: the fraction of each tensor's channels to remove, in [0, 1].
        minimum: how many units every site keeps at least.
        left: how many units of a site are there still, where some are gone already.

    >>> import torch
    >>> from torch import nn
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.GroupNorm(4, 16), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 2, 1))
    >>> layer_fractions(channels(model, torch.zeros(1, 3, 2, 2)), 0.4)      # 3 groups of 3 stay
    {'0': 0.25, '0:2': 0.25, '2': 0.4}
    """
    sizes = {name: site.size for name, site in sites.items()}
    counts = nested_counts(sizes, nested(sites), sparsity, minimum=minimum, left=left)
    return {name: 1 - counts[name] / size if name in counts else sparsity for name, size in sizes.items()}


def nested_counts(
    sizes: Mapping[str, int],
    products: Sequence[Product],
    sparsity: float,
    *,
    minimum: int = 1,
    round_to: RoundTo = 1,
    left: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return how many units every site of `products` keeps, so that each product keeps 1 − `sparsity` of its size.

    Of k sites in a product each keeps the share (1 − s)^(1/k). The smallest site is rounded first, to the nearest count (by
    ratio) that leaves the others enough, and those make up for its rounding; so the last one, the finest, brings the product
    to within half of what one of its units is worth.

    Args:
        sizes: the units of each site.
        products: the sites that lie in one axis together, from `nested`.
        sparsity: the fraction of each product to remove, in [0, 1].
        minimum, round_to: as for `select`.
        left: the most units that a site can keep.

    >>> nested_counts({"heads": 2, "width": 64}, [("heads", "width")], 0.3)     # both heads: 2 · 45 of 128
    {'heads': 2, 'width': 45}
    >>> nested_counts({"groups": 8, "inside": 8}, [("groups", "inside")], 0.3)
    {'groups': 7, 'inside': 6}
    """
    counts: dict[str, int] = {}
    sized_products = [term for term in products if all(name in sizes for name in term)]
    for name in sorted({name for term in sized_products for name in term}, key=lambda n: (sizes[n], n)):
        multiple = multiple_of(round_to, name)
        mine = [term for term in sized_products if name in term]
        later = [term for term in mine if any(n not in counts and n != name for n in term)]
        shares = [_needed(term, counts, sizes, 1 - sparsity) for term in later or mine]
        if later:
            count = nearest_multiple(_rounded(max(shares), sizes[name]), sizes[name], multiple)
            while count < sizes[name] and not all(
                _enough(t, {**counts, name: count}, sizes, 1 - sparsity) for t in later
            ):
                count = min(count + multiple, sizes[name])
        else:
            even = prod(shares) ** (1 / len(shares))
            count = nearest_multiple(sizes[name] - round((1 - even) * sizes[name]), sizes[name], multiple)
        counts[name] = min(max(count, minimum), (left or sizes)[name])
    return counts


def _rounded(share: float, size: int) -> int:
    """The count nearest to a share as a ratio; of two that are as near, the larger, so that few units stay whole."""
    low = int(share * size)
    return low if (share * size) ** 2 < low * (low + 1) * (1 - 1e-9) else min(low + 1, size)


def _needed(term: Product, counts: Mapping[str, int], sizes: Mapping[str, int], density: float) -> float:
    """The share that each site of a product must keep, of those that are still to be rounded."""
    done = _share(term, counts, sizes)
    rest = density / done if done else density
    return float(min(rest, 1.0) ** (1 / sum(n not in counts for n in term)))


def _enough(term: Product, counts: Mapping[str, int], sizes: Mapping[str, int], density: float) -> bool:
    """Whether a product can still keep what it should, all others whole."""
    return _share(term, counts, sizes) >= density


def _share(term: Product, counts: Mapping[str, int], sizes: Mapping[str, int]) -> float:
    return prod(counts[n] / sizes[n] for n in term if n in counts)


def nearest_multiple(count: int, size: int, multiple: int) -> int:
    """Return the multiple nearest to a count (halves up), one at least, but no more than `size`.

    >>> nearest_multiple(12, 64, 8), nearest_multiple(1, 64, 8), nearest_multiple(5, 6, 8)
    (16, 8, 6)
    """
    return count if multiple == 1 else min(max((count + multiple // 2) // multiple * multiple, multiple), size)


def aligned(round_to: RoundTo, sites: Mapping[str, Site] | None) -> RoundTo:
    """Return the multiples with which ops that take no other number of a site's units can run as well.

    >>> from secateur.types import Site
    >>> aligned(6, {"a": Site("a", "channel", (16,), (), multiple=4), "b": Site("b", "channel", (16,), ())})
    {'a': 12, 'b': 6}
    """
    if sites is None or all(site.multiple == 1 for site in sites.values()):
        return round_to
    return {name: lcm(multiple_of(round_to, name), site.multiple) for name, site in sites.items()}


def multiple_of(round_to: RoundTo, name: str) -> int:
    """Return the multiple of a site.

    >>> multiple_of(8, "a"), multiple_of({"a": 4}, "a"), multiple_of({"a": 4}, "b")
    (8, 4, 1)
    """
    return round_to.get(name, 1) if isinstance(round_to, Mapping) else round_to
