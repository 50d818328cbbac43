"""Training that leaves what was done to the weights: zeros stay zeros, shared values shared, rounded ones on their grids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from secateur.calls import looking
from secateur.edits import Edit, Masked, Quantised, Shared
from secateur.state import own_tensors, restore, tensors
from secateur.train import Callback, HoldZeros
from secateur.transforms.rounding import NameIn, train_rounded
from secateur.transforms.sharing import WIDEST, HoldShared

__all__ = ["train_held"]

MOST_SHARED = (1 << WIDEST) + 1
"""Values of a codebook and zero: what has more of them is not shared any more."""


@looking
def train_held(
    model: nn.Module, edits: Sequence[Edit], train: Callable[[nn.Module, Sequence[Callback]], object]
) -> None:
    """Train a model in place so that what `edits` did to its weights holds afterwards, too.

    Masked weights stay zero, weights that share a value move as one, and rounded ones are trained as they answer when they
    are rounded, and are rounded again. What a later edit undid is not held: a parameter that is not there any more, a
    tensor of more values than a codebook has, or of other channels than its grid.

    Args:
        model: what all the edits made.
        edits: in order.
        train: trains a model with callbacks besides its own.

    >>> from secateur.train import fit
    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[0.0, 0.5]])
    >>> x = torch.ones(8, 2)
    >>> train_held(
    ...     model, [Masked({"weight": torch.tensor([[False, True]])})],
    ...     lambda model, holds: fit(model, (x, x[:, :1]), epochs=1, loss="mse", callbacks=[*holds]),
    ... )
    >>> model.weight[0, 0].item(), model.weight[0, 1].item() != 0.5
    (0.0, True)
    """
    rounding = _rounding(model, edits)
    if rounding is None:
        train(model, _holds(model, edits, lambda name: name))
        return
    holds = edits  # said before the learner is another module
    train_rounded(
        model,
        rounding,
        lambda learner, name_in: train(learner, _holds(model, holds, name_in)),
        feels_inputs=False,
    )
    restore(model, tensors(replace(rounding, inputs={}).apply(model)))


def _rounding(model: nn.Module, edits: Sequence[Edit]) -> Quantised | None:
    """The last rounding, as far as the model has its parameters still."""
    last = next((edit for edit in reversed(edits) if isinstance(edit, Quantised)), None)
    if last is None:
        return None
    named = own_tensors(model)
    names = [name for name, scale in last.scales.items() if name in named and len(scale) in (1, len(named[name]))]
    scales, zeros = ({name: part[name] for name in names} for part in (last.scales, last.zeros))
    return replace(last, scales=scales, zeros=zeros) if names else None


def _holds(model: nn.Module, edits: Sequence[Edit], name_in: NameIn) -> list[Callback]:
    named = own_tensors(model)
    masked = {name for edit in edits if isinstance(edit, Masked) for name in edit.masks if name in named}
    groups = [{name_in(name): index for name, index in group.items()} for group in _shared(named, edits)]
    zeros = HoldZeros({name_in(name): named[name].detach() != 0 for name in sorted(masked)})
    return [*([HoldShared(groups)] if groups else []), *([zeros] if masked else [])]


def _shared(named: dict[str, Tensor], edits: Sequence[Edit]) -> Iterator[dict[str, Tensor]]:
    """For each codebook that holds still, the cluster of every entry of its parameters."""
    last = next((edit for edit in reversed(edits) if isinstance(edit, Shared)), None)
    for place in range(len(last.codebooks)) if last is not None else ():
        assert last is not None
        names = [name for name, number in last.of.items() if number == place and name in named]
        if not names:
            continue
        string = torch.cat([named[name].detach().flatten() for name in names])
        values, index = torch.unique(string, return_inverse=True)
        if len(values) <= MOST_SHARED:
            parts = torch.split(index, [named[name].numel() for name in names])
            yield {name: part.view_as(named[name]) for name, part in zip(names, parts, strict=True)}
