"""Weights set to zero, shapes as they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from secateur.copies import copied
from secateur.edits.base import Edit
from secateur.state import own_tensors
from secateur.structure.sites import check_keep, density_words
from secateur.types import FileError, Keep, Sites

__all__ = ["Masked"]


@dataclass(frozen=True, eq=False)
class Masked(Edit):
    """The masks of parameters that have zeros, of their shapes, True = keep.

    Attributes:
        masks: by the parameter's name.
    """

    kind: ClassVar[str] = "masked"
    masks: Mapping[str, Tensor]

    def __repr__(self) -> str:
        return f"<Masked: {density_words(self.masks)}>"

    @classmethod
    def of(cls, sites: Sites, keep: Keep) -> Self:
        """Return the masks of every parameter that `keep` puts zeros into.

        >>> from secateur.structure import channels
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> sites = channels(model, torch.ones(1, 2))
        >>> {n: m.int().tolist() for n, m in Masked.of(sites, {"0": torch.tensor([True, False])}).masks.items()}
        {'0.weight': [[1, 1], [0, 0]], '0.bias': [1, 0], '1.weight': [[1, 0]]}
        """
        masks: dict[str, Tensor] = {}
        for name, keep_mask in check_keep(sites, keep).items():
            if bool(keep_mask.all()):
                continue
            for member in sites[name].members:
                stays = masks.setdefault(member.parameter, torch.ones(member.shape, dtype=torch.bool))
                member.clear(stays, keep_mask)
        return cls(masks)

    def after(self, earlier: Masked) -> Self:
        """Return both at once: zeros where either has them.

        >>> first, second = Masked({"weight": torch.tensor([True, False])}), Masked({"weight": torch.tensor([False, True])})
        >>> second.after(first).masks["weight"].tolist()
        [False, False]
        """
        both = {name: stays & self.masks[name] for name, stays in earlier.masks.items() if name in self.masks}
        return replace(self, masks={**earlier.masks, **self.masks, **both})

    def apply(self, model: nn.Module) -> nn.Module:
        """Return a copy of `model` with zeros where the masks are False."""
        result = copied(model)
        tensors = own_tensors(result)
        for name, stays in self.masks.items():
            if name not in tensors or not isinstance(stays, Tensor) or tensors[name].shape != stays.shape:
                raise FileError(f"the mask of {name!r} fits no parameter of it")
            with torch.no_grad():
                tensors[name].masked_fill_(~stays.to(tensors[name].device, torch.bool), 0)
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the masks by parameter."""
        return {"masks": dict(self.masks)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the masks that `to_dict` described."""
        return cls(dict(record["masks"]))
