"""Patterns of single weights that hardware knows how to skip: N of every M, and whole blocks."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import pad

from secateur.checks import is_whole
from secateur.types import InputError, Scores

__all__ = ["Block", "by_block", "n_of_m", "parse_pattern"]

Block = tuple[int, int]
"""Rows and columns of a block, of the weight as a matrix: one row an output, all else along the columns."""


def parse_pattern(pattern: str) -> tuple[int, int]:
    """Return N and M of an ``"N:M"`` pattern.

    >>> parse_pattern("2:4")
    (2, 4)
    """
    match = re.fullmatch(r"(\d+):(\d+)", pattern) if isinstance(pattern, str) else None
    if match is None or not 0 < int(match[1]) <= int(match[2]):
        raise InputError(f"select: pattern is {pattern!r}; give how many of how many to keep, such as '2:4'")
    return int(match[1]), int(match[2])


def n_of_m(scores: Scores, pattern: str) -> dict[str, Tensor]:
    """Keep the N best of every M weights that follow each other along the inputs (dimension 1).

    Of a last group that is shorter the same share is kept, rounded up. Of equal scores the earlier go first.

    >>> n_of_m({"fc.weight": torch.tensor([[4.0, 1.0, 3.0, 2.0, 9.0]])}, "2:4")["fc.weight"].tolist()
    [[True, False, True, False, True]]
    """
    n, m = parse_pattern(pattern)
    return {name: _n_of_m(_weight(score, name, "pattern"), n, m) for name, score in scores.items()}


def _n_of_m(score: Tensor, n: int, m: int) -> Tensor:
    along = score.movedim(1, -1)
    size = along.shape[-1]
    # What fills up the last group is the worst of it, and takes no place of the others.
    wide = pad(along.double(), (0, -size % m), value=-torch.inf)
    groups = wide.reshape(*wide.shape[:-1], -1, m)
    places = torch.argsort(torch.argsort(groups, dim=-1, stable=True), dim=-1)
    keep_counts = torch.full((groups.shape[-2], 1), n, device=score.device)
    if size % m:
        keep_counts[-1] = ceil(size % m * n / m)
    return (places >= m - keep_counts).flatten(-2)[..., :size].movedim(-1, 1)


def by_block(scores: Scores, block: Block, choose: Callable[[Scores], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Let `choose` keep or remove blocks of weights as wholes, by the mean score of each.

    >>> scores = {"fc.weight": torch.tensor([[1.0, 2.0, 5.0, 1.0], [0.0, 1.0, 4.0, 0.0]])}
    >>> by_block(scores, (2, 2), lambda s: {n: v > 1.5 for n, v in s.items()})["fc.weight"].int().tolist()
    [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    sizes = block if isinstance(block, tuple) else ()
    if len(sizes) != 2 or not all(is_whole(size, 1) for size in sizes):
        raise InputError(f"select: block is {block!r}; give rows and columns, such as (4, 4) or (1, 16)")
    means = {name: _means(_weight(score, name, "block").flatten(1).double(), block) for name, score in scores.items()}
    block_masks = choose(means)
    return {name: _spread(block_masks[name], block, score.shape) for name, score in scores.items()}


def _means(matrix: Tensor, block: Block) -> Tensor:
    """The mean score of every block; those at the edges may be smaller."""
    total, count = (_sums(x, block) for x in (matrix, torch.ones_like(matrix)))
    return total / count


def _sums(matrix: Tensor, block: Block) -> Tensor:
    rows, columns = (-size % part for size, part in zip(matrix.shape, block, strict=True))
    whole = pad(matrix, (0, columns, 0, rows))
    down, across = whole.shape[0] // block[0], whole.shape[1] // block[1]
    return whole.reshape(down, block[0], across, block[1]).sum((1, 3))


def _spread(block_mask: Tensor, block: Block, shape: torch.Size) -> Tensor:
    wide = block_mask.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return wide[: shape[0], : shape[1:].numel()].reshape(shape)


def _weight(score: Tensor, name: str, option: str) -> Tensor:
    if score.ndim < 2:
        raise InputError(
            f"select: a {option} is one of single weights, and {name!r} has channels to choose from; use weights(model)"
        )
    return score
