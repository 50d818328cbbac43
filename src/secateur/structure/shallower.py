"""A model without some of its repeated blocks: the others are numbered anew, and its config says the new depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from secateur.copies import copied
from secateur.structure.fitting import fitting_depth, set_config

__all__ = ["COUNTERS", "without_blocks"]

COUNTERS = {"layer_idx", "layer_id", "layer_number", "idx", "index"}
"""Attributes in which blocks that compute alike may differ: where they stand."""


def without_blocks(model: nn.Module, container: str, removed: Sequence[str]) -> nn.Module:
    """Return a copy of a model without some of the blocks of a container, the others numbered anew.

    Args:
        model: it is left as it is.
        container: the path of the `nn.ModuleList` or `nn.Sequential`.
        removed: names of blocks within it.

    >>> small = without_blocks(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Tanh()), "", ["1"])
    >>> [name for name, _ in small.named_children()], small[1]
    (['0', '1'], Tanh())
    """
    names = [name for name, _ in model.get_submodule(container).named_children()]
    stay = [place for place, name in enumerate(names) if name not in removed]
    holder = model.get_submodule(container)
    memo: dict[int, Any] = {id(holder._modules[name]): nn.Identity() for name in removed}
    small = copied(model, memo)
    small_holder = small.get_submodule(container)
    blocks = [small_holder._modules[names[place]] for place in stay]
    small_holder._modules.clear()
    for number, block in enumerate(blocks):
        small_holder.add_module(str(number), block)
        assert block is not None
        for module in block.modules():
            for attribute in COUNTERS & vars(module).keys():
                if vars(module)[attribute] == stay[number]:
                    setattr(module, attribute, number)
    set_config(small, fitting_depth(model, small, container, len(names), stay))
    return small
