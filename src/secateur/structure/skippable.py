"""Which blocks a model can do without: it may read inside of one, or call its layers one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from secateur.copies import copied
from secateur.randomness import private_draws
from secateur.state import evaluating, fresh, own_tensors
from secateur.structure.trace import first_line
from secateur.structure.train_code import in_mode

__all__ = ["needed_blocks", "skipping"]

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]


def skipping(model: nn.Module, blocks: Mapping[str, nn.Module], shared: Iterable[object] = ()) -> nn.Module:
    """Return a copy of `model` with other modules in the place of blocks; what is `shared` is not copied.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> skipping(model, {"0": nn.Identity()})
    Sequential(
      (0): Identity()
      (1): ReLU()
    )
    """
    # Put into the memo, so that the copy never copies what it leaves out.
    memo: dict[int, Any] = {id(thing): thing for thing in shared}
    return copied(model, memo | {id(model.get_submodule(path)): skip for path, skip in blocks.items()})


def needed_blocks(model: nn.Module, skips: Mapping[str, nn.Module], inputs: Inputs, asks_mode: bool) -> dict[str, str]:
    """Return the blocks in whose place none of these can stand, as the model fails then, with the reason.

    Args:
        model: it is left as it is.
        skips: what would stand in the place of a block, by its path.
        inputs: what the model is called with; it runs on them.
        asks_mode: whether its code asks for the mode; then it is tried in train mode too, if it runs there at all.

    >>> import torch
    >>> class Penalty(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    ...     def forward(self, x):
    ...         return self.blocks[1](self.blocks[0](x)), self.blocks[1].weight.norm()
    >>> skips = {"blocks.0": nn.Identity(), "blocks.1": nn.Identity()}
    >>> needed_blocks(Penalty(), skips, ((torch.ones(1, 2),), {}), asks_mode=False)
    {'blocks.1': "the model uses more of it than its answer ('Identity' object has no attribute 'weight')"}
    """
    needed: dict[str, str] = {}
    for training in (False, True)[: 1 + asks_mode]:
        candidates = {path: skip for path, skip in skips.items() if path not in needed}
        if not _failure(model, candidates, inputs, training) or (training and _failure(model, {}, inputs, training)):
            continue
        for path, skip in candidates.items():
            if why := _failure(model, {path: skip}, inputs, training):
                needed[path] = f"the model uses more of it than its answer ({why})"
    return needed


def _failure(model: nn.Module, skips: Mapping[str, nn.Module], inputs: Inputs, training: bool) -> str:
    """What a model says as it fails with these; empty where it runs."""
    small = skipping(model, skips, own_tensors(model).values())
    try:
        with evaluating(small), private_draws(), in_mode(small, training):
            args, kwargs = fresh(*inputs)
            small(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  (the model's own code)
        return first_line(error)
    return ""
