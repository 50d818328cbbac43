"""What belongs to a unit: the one place where a tied group becomes rows of numbers, one row a unit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from secateur.structure.sites import check_same_model
from secateur.types import Role, Site, Sites

__all__ = ["parameters_of", "unit_rows"]


def parameters_of(model: nn.Module, sites: Sites) -> dict[str, nn.Parameter]:
    """Return the model's parameters by every name, after checking that the sites were found in this model."""
    check_same_model(model, sites)
    return dict(model.named_parameters(remove_duplicate=False))


def unit_rows(tensors: Mapping[str, Tensor], site: Site, role: Role = "out") -> list[Tensor]:
    """Return, for each weight with `role` in the site, its entries by unit: ``(units, entries)``.

    Biases and the scales of norms (one dimension) are left out where the site has weights of more dimensions.
    A site that nothing has this role in gives the rows of all its members.
    """
    chosen = [m for m in site.members if m.role == role] or list(site.members)
    chosen = [m for m in chosen if tensors[m.parameter].ndim > 1] or chosen
    rows = []
    for member in chosen:
        assert member.dim is not None
        assert member.index is not None
        tensor = tensors[member.parameter].detach()
        index = member.index.to(tensor.device)
        picked = tensor.movedim(member.dim, 0)[index]
        rows.append(picked.reshape(index.shape[0], -1))
    return rows
