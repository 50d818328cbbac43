"""What is searched: the units of some sites as one flat row of genes, and perhaps some biases beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.calls import looking
from secateur.checks import check_name
from secateur.copies import copied
from secateur.criteria.magnitude import Magnitude
from secateur.hints import Checked
from secateur.rate.candidates import Genes, Offsets
from secateur.state import check_finite
from secateur.structure.sites import REPAIR, check_keep, check_same_model, masked_tensors
from secateur.types import InputError, Keep, Sites, unknown_name

__all__ = ["Genes", "Offsets", "Space", "only"]


@looking
def only(sites: Sites, names: str | Iterable[str]) -> Sites:
    """Return the sites of these names alone, such as the one layer that a search is to prune.

    Raises:
        UnknownNameError: there is no such site.

    >>> from secateur.structure import weights
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> list(only(weights(model), "2.weight"))
    ['2.weight']
    """
    site_names = [names] if isinstance(names, str) else list(names)
    return replace(sites, table={name: sites[name] for name in site_names})


@dataclass(frozen=True, eq=False)
class Space(Checked):
    """The units of some sites as one flat row of genes: what a search chooses from.

    The genes follow the order of the sites, row-major within a site. The model is copied where it must change and is
    otherwise only read; it must not be trained while a space of it is searched.

    Args:
        model: the model; it is left as it is.
        sites: from `weights` or `channels` on this model, those that are not searched left out with ``ignore``.
        biases: names of parameters that are searched too: what is found is added to them. None by default.

    Raises:
        InputError: there are no sites, or they belong to another model.
        UnknownNameError: the model has no such parameter.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(3, 2)
    >>> space = Space(model, weights(model), biases=["bias"])
    >>> space.size, space.bias_size
    (6, 2)
    >>> space.keep(np.array([True, False, True, True, True, True]))["weight"].int().tolist()
    [[1, 0, 1], [1, 1, 1]]
    """

    model: nn.Module
    sites: Sites
    biases: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_same_model(self.model, self.sites)
        check_finite(self.model, "search", REPAIR)
        self.sites.check_any("search")
        named = dict(self.model.named_parameters())
        bias_names = [self.biases] if isinstance(self.biases, str) else list(self.biases)
        for name in bias_names:
            check_name("bias to search", name, named)
            if any(m.parameter == name for site in self.sites.values() for m in site.members):
                raise InputError(
                    f"search: {name!r} belongs to a searched site; search its units or its values, not both"
                )
        object.__setattr__(self, "biases", tuple(bias_names))

    @property
    def size(self) -> int:
        """How many genes there are."""
        return sum(site.size for site in self.sites.values())

    @cached_property
    def bias_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the searched biases."""
        return {name: tuple(self.model.get_parameter(name).shape) for name in self.biases}

    @property
    def bias_size(self) -> int:
        """How many numbers are searched beside the genes."""
        return sum(self.model.get_parameter(name).numel() for name in self.biases)

    @cached_property
    def magnitude(self) -> NDArray[np.float32]:
        """The magnitude of every unit, ``(units,)``: the absolute weight, or the norm of a channel's incoming weights."""
        return self.flat(Magnitude()(self.model, self.sites))

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The genes from the lowest magnitude to the highest, ``(units,)``."""
        return np.argsort(self.magnitude, kind="stable")

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The number of the row that each gene belongs to: the output that a weight leads to, the site of a channel."""
        parts, first = [], 0
        for site in self.sites.values():
            count = site.shape[0] if site.kind == "weight" else 1
            parts.append(np.repeat(np.arange(first, first + count), site.size // count))
            first += count
        return np.concatenate(parts)

    def flat(self, values: Mapping[str, Tensor]) -> NDArray[np.float32]:
        """Return one number a gene from one tensor a site."""
        missing = next((name for name in self.sites if name not in values), None)
        if missing is not None:
            raise unknown_name("scores of site", missing, values)
        parts = []
        for name, site in self.sites.items():
            if values[name].numel() != site.size:
                raise InputError(
                    f"search: the scores of {name!r} have {values[name].numel()} entries for {site.size} units"
                )
            parts.append(values[name].detach().flatten().cpu().float().numpy())
        gene_values = np.concatenate(parts)
        if np.isnan(gene_values).any():
            raise InputError("search: the scores hold NaN; repair the criterion or its data")
        return gene_values

    def keep(self, genes: Genes) -> dict[str, Tensor]:
        """Return the keep masks of one chromosome ``(units,)``."""
        parts = torch.from_numpy(np.ascontiguousarray(genes)).split_with_sizes(
            [site.size for site in self.sites.values()]
        )
        return {
            name: part.reshape(site.shape).clone() for (name, site), part in zip(self.sites.items(), parts, strict=True)
        }

    def genes(self, keep: Keep) -> Genes:
        """Return the chromosome of keep masks; sites without one stay whole."""
        checked = check_keep(self.sites, keep)
        parts = [checked.get(name, torch.ones(site.shape, dtype=torch.bool)) for name, site in self.sites.items()]
        return np.concatenate([part.flatten().numpy() for part in parts])

    def offset(self, offsets: Offsets | None) -> dict[str, Tensor]:
        """Return what one candidate adds to each searched bias; nothing where no biases are searched."""
        if offsets is None or not self.biases:
            return {}
        parts = torch.from_numpy(offsets).split_with_sizes([int(np.prod(shape)) for shape in self.bias_shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(self.bias_shapes.items(), parts, strict=True)}

    def tensors(self, genes: Genes, offsets: Offsets | None = None) -> dict[str, Tensor]:
        """Return the parameters that one candidate changes, as they are in the masked model."""
        changed = masked_tensors(self.model, self.sites, self.keep(genes))
        for name, offset in self.offset(offsets).items():
            bias = self.model.get_parameter(name).detach()
            changed[name] = bias + offset.to(bias)
        return changed

    def shifted(self, offsets: Offsets | None) -> nn.Module:
        """Return a copy of the whole model with its searched biases shifted as a candidate says."""
        result = copied(self.model)
        with torch.no_grad():
            for name, offset in self.offset(offsets).items():
                bias = result.get_parameter(name)
                bias.add_(offset.to(bias))
        return result
