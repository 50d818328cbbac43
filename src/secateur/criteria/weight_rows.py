"""What belongs to a unit: the one place where a tied group becomes rows of numbers, and those one score a unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from secateur.checks import check_name
from secateur.structure.derived import effective_weights
from secateur.structure.infer import Structure
from secateur.structure.sites import check_same_model
from secateur.types import InputError, Member, Role, Site, Sites

__all__ = [
    "Reduce",
    "Side",
    "channel_scores",
    "check_channels",
    "check_reduce",
    "check_side",
    "parameters_of",
    "reduced",
    "side_members",
    "side_rows",
    "unit_rows",
    "unit_sums",
    "weights_of",
]

Reduce = Literal["joint", "mean", "sum", "max", "first"]
"""How the weights of a tied group become one score: all together, or each scored by itself and then reduced."""

Side = Literal["incoming", "outgoing", "all"]
"""Which weights of a channel are looked at: those that produce it, those that read it, or every parameter."""


def parameters_of(model: nn.Module, sites: Sites) -> dict[str, nn.Parameter]:
    """Return the model's parameters by every name, after checking that the sites were found in this model."""
    check_same_model(model, sites)
    return dict(model.named_parameters(remove_duplicate=False))


def weights_of(model: nn.Module, sites: Sites) -> dict[str, Tensor]:
    """Return the parameters by every name, as the layers compute with them: masked, normalised, parametrized.

    A unit that a mask of `torch.nn.utils.prune` has emptied is worth nothing, whatever stands behind the mask.
    """
    parameters = parameters_of(model, sites)
    if not isinstance(sites.structure, Structure):
        return {**parameters}
    graph = sites.structure.graph
    return {**parameters, **effective_weights(model, graph.derived, graph.tensors)}


def check_channels(criterion: object, sites: Sites) -> None:
    """Refuse the sites of single weights, which a criterion that compares whole channels cannot score."""
    single = next((name for name, site in sites.items() if site.kind == "weight"), None)
    if single is not None:
        raise InputError(
            f"{type(criterion).__name__} compares whole channels, and {single!r} has single weights; "
            "find the sites with channels(model, example_inputs)"
        )


def check_reduce(criterion: object, reduce: str) -> None:
    """Refuse an unknown way of reducing."""
    check_name(f"way of reducing a tied group for {type(criterion).__name__}", reduce, get_args(Reduce))


def reduced(rows: list[Tensor], score: Callable[[Tensor], Tensor], reduce: Reduce) -> Tensor:
    """Return one score a unit from the rows of each weight in a tied group.

    Args:
        rows: one tensor a weight, ``(units, entries)``.
        score: from rows to one number a unit.
        reduce: ``"joint"`` scores all entries together; the others score each weight and reduce the scores.

    >>> rows = [torch.tensor([[3.0], [1.0]]), torch.tensor([[4.0], [1.0]])]
    >>> reduced(rows, lambda r: r.square().sum(1).sqrt(), "joint")[0].item()
    5.0
    >>> [reduced(rows, lambda r: r.sum(1), way)[0].item() for way in ("mean", "sum", "max", "first")]
    [3.5, 7.0, 4.0, 3.0]
    """
    if reduce == "joint":
        return score(torch.cat(rows, dim=1))
    scores = torch.stack([score(member_rows) for member_rows in rows])
    ways: dict[str, Callable[[], Tensor]] = {
        "mean": lambda: scores.mean(0),
        "sum": lambda: scores.sum(0),
        "max": lambda: scores.amax(0),
        "first": lambda: scores[0],
    }
    return ways[reduce]()


def unit_sums(
    values: Mapping[str, Tensor], sites: Sites, side: Side = "incoming", reduce: Reduce = "joint"
) -> dict[str, Tensor]:
    """Return one score a unit from one number a weight: for a channel their sum over its weights on one side.

    Args:
        values: a tensor for each parameter of the sites, of its shape.
        sites: the sites.
        side: the weights of a channel to add up.
        reduce: how the weights of a tied group become one score; ``"joint"`` adds all up.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> sites = channels(model, torch.zeros(1, 2))
    >>> unit_sums({"0.weight": torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "1.weight": torch.ones(1, 2)}, sites)
    {'0': tensor([3., 1.])}
    """
    return {
        name: values[name].float()
        if site.kind == "weight"
        else reduced(side_rows(values, site, side), lambda rows: rows.sum(1), reduce).float()
        for name, site in sites.items()
    }


def check_side(criterion: object, side: str) -> None:
    """Refuse an unknown side of a channel."""
    check_name(f"side of a channel for {type(criterion).__name__}", side, get_args(Side))


def channel_scores(
    criterion: object, model: nn.Module, sites: Sites, score: Callable[[Tensor], Tensor], reduce: Reduce
) -> dict[str, Tensor]:
    """Return the scores of whole channels by their incoming weights; see `reduced`."""
    check_channels(criterion, sites)
    tensors = weights_of(model, sites)
    with torch.no_grad():
        return {name: reduced(side_rows(tensors, site), score, reduce) for name, site in sites.items()}


def side_rows(tensors: Mapping[str, Tensor], site: Site, side: Side = "incoming") -> list[Tensor]:
    """Return the rows of a site's weights on one side, or of all its parameters."""
    if site.kind == "block":
        return [_block_rows(tensors, site)]
    return _rows(tensors, side_members(tensors, site, side))


def side_members(tensors: Mapping[str, Tensor], site: Site, side: Side = "incoming") -> list[Member]:
    """Return those members of a site that count on a side; all of a block's, and of single weights."""
    if site.kind != "channel" or side == "all":
        return list(site.members)
    return _of_role(tensors, site, "in" if side == "outgoing" else "out")


def unit_rows(tensors: Mapping[str, Tensor], site: Site, role: Role = "out") -> list[Tensor]:
    """Return, for each weight with `role` in the site, its entries by unit: ``(units, entries)``.

    Biases and the scales of norms (one dimension) are left out where the site has weights of more dimensions.
    A site that nothing has this role in gives the rows of all its members.
    """
    if site.kind == "block":
        return [_block_rows(tensors, site)]
    return _rows(tensors, _of_role(tensors, site, role))


def _of_role(tensors: Mapping[str, Tensor], site: Site, role: Role) -> list[Member]:
    members = [m for m in site.members if m.role == role] or list(site.members)
    return [m for m in members if tensors[m.parameter].ndim > 1] or members


def _rows(tensors: Mapping[str, Tensor], members: list[Member]) -> list[Tensor]:
    rows = []
    for member in members:
        assert member.dim is not None
        assert member.index is not None
        tensor = tensors[member.parameter].detach()
        index = member.index.to(tensor.device)
        unit_slices = tensor.movedim(member.dim, 0)[index]
        rows.append(unit_slices.reshape(index.shape[0], -1))
    return rows


def _block_rows(tensors: Mapping[str, Tensor], site: Site) -> Tensor:
    """All entries of each block as a row, shorter ones filled with zeros."""
    rows = [
        torch.cat([tensors[m.parameter].detach().flatten() for m in site.members if m.unit == number])
        for number in range(site.size)
    ]
    return pad_sequence(rows, batch_first=True)
