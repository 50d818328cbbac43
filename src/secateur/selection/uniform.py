"""Equal widths: masks whose counts a model's config can say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from secateur.selection.choose import select
from secateur.selection.nested import multiple_of
from secateur.structure.configs import ConfigWidth
from secateur.types import Keep, RoundTo, Scores

__all__ = ["uniform"]


def uniform(keep: Keep, scores: Scores, widths: Sequence[ConfigWidth], round_to: RoundTo = 1) -> dict[str, Tensor]:
    """Return masks that keep the same share of all sites whose widths follow from one size of a config.

    The share is the mean of what `keep` keeps of them, rounded to the nearest step that the config can say and at which
    every site keeps a multiple of `round_to`; each site keeps its best units. Masks of other sites stay as they are.

    >>> import torch
    >>> scores = {"a": torch.arange(4.0), "b": torch.arange(4.0)}
    >>> keep = {"a": torch.arange(4) > 2, "b": torch.arange(4) > 0}
    >>> width = ConfigWidth({("intermediate_size",): 4}, {"a": 4, "b": 4}, 4)
    >>> {name: mask.int().tolist() for name, mask in uniform(keep, scores, [width]).items()}
    {'a': [0, 0, 1, 1], 'b': [0, 0, 1, 1]}
    """
    masks = dict(keep)
    for width in widths:
        shares = [float(keep[name].double().mean()) for name in width.units]
        steps = _nearest(width, sum(shares) / len(shares) * width.steps, round_to)
        for name, size in width.units.items():
            sparsity = {name: 1 - steps / width.steps}
            least = size * steps // width.steps
            masks[name] = select({name: scores[name]}, sparsity, scope="layer", minimum=least)[name]
    return masks


def _nearest(width: ConfigWidth, wanted: float, round_to: RoundTo) -> int:
    """The step nearest to the wanted one, of those with multiples of units; the finer ones where no other is."""

    def is_rounded(steps: int) -> bool:
        counts: Mapping[str, int] = {name: size * steps // width.steps for name, size in width.units.items()}
        return all(count % multiple_of(round_to, name) == 0 for name, count in counts.items())

    allowed = [steps for steps in range(1, width.steps + 1) if steps == width.steps or is_rounded(steps)]
    return min(allowed, key=lambda steps: abs(steps - wanted))
