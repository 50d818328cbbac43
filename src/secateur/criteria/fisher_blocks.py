"""The empirical Fisher matrix of single weights, in blocks (Singh and Alistarh, 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from secateur.checks import check_number, check_whole
from secateur.criteria.parameter_gradients import Objective, own
from secateur.criteria.weight_rows import parameters_of
from secateur.types import InputError, Keep, Sites

__all__ = ["check_blocks", "check_weights", "fisher_blocks", "repaired", "saliencies"]

TOGETHER = 32  # samples whose gradients are multiplied at once
LEAST = 1e-12


def check_blocks(doing: str, block: int, damping: float) -> None:
    """Refuse a block without weights, and a damping that is not above 0."""
    check_whole(doing, 1, "weights of a block", block=block)
    check_number(doing, "(0, inf)", "without it the matrix could not be inverted", damping=damping)


def check_weights(doing: str, sites: Sites) -> None:
    """Refuse sites that are not of single weights."""
    other = next((name for name, site in sites.items() if site.kind != "weight"), None)
    if other is not None:
        raise InputError(
            f"{doing} compares single weights, and {other!r} has {sites[other].kind}s; take the sites of weights(model)"
        )


def fisher_blocks(objective: Objective, block: int, damping: float) -> dict[str, Tensor]:
    """Return the blocks of the empirical Fisher matrix along each flattened weight, damped.

    F = 1/N Σₙ ∇Lₙ ∇Lₙᵀ + λ I, over the samples' own losses (Singh and Alistarh, 2020).

    Args:
        objective: the loss; its sites are those of single weights.
        block: how many weights a block has, at most; the last is filled up with zeros.
        damping: what is added to the diagonal, as a share of its mean over the weight.

    Returns:
        One tensor a site, float64, ``(blocks, size, size)``.

    Raises:
        InputError: unfit batches, or sites that are not of single weights.
    """
    sites = objective.sites
    check_weights(objective.doing, sites)
    sizes = {name: min(block, site.size) for name, site in sites.items()}
    totals = {name: torch.zeros((), dtype=torch.float64) for name in sites}
    blocks_by_site: dict[str, list[Tensor]] = {name: [] for name in sites}
    count = 0
    for sample_gradients in objective.by_sample(own):
        for slopes, _ in sample_gradients:
            for name in sites:
                blocks_by_site[name].append(in_blocks(slopes[name].double(), sizes[name]))
        count += 1
        if count % TOGETHER == 0:
            _pool(totals, blocks_by_site)
    _pool(totals, blocks_by_site)
    return {name: _damped(total / count, damping) for name, total in totals.items()}


def _pool(totals: dict[str, Tensor], blocks_by_site: dict[str, list[Tensor]]) -> None:
    """Add the outer products of the gradients, Σₙ gₙ gₙᵀ in each block, and let them go."""
    for name, rows in blocks_by_site.items():
        if rows:
            stacked = torch.stack(rows, dim=1)
            totals[name] = totals[name] + stacked.mT @ stacked
            rows.clear()


def _damped(fisher: Tensor, damping: float) -> Tensor:
    # λ is a share of the diagonal's mean, as gradients have no scale of their own.
    diagonal = fisher.diagonal(dim1=1, dim2=2)
    diagonal += max(damping * float(diagonal.mean()), LEAST)
    return fisher


def in_blocks(values: Tensor, size: int) -> Tensor:
    """Return a flattened tensor as rows of `size`, the last filled up with zeros."""
    flat = values.flatten()
    return pad(flat, (0, -len(flat) % size)).reshape(-1, size)


def _out_of_blocks(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    return rows.flatten()[: torch.Size(shape).numel()].reshape(shape)


def saliencies(
    model: nn.Module, sites: Sites, fisher: Mapping[str, Tensor], keep: Keep | None = None
) -> dict[str, Tensor]:
    """Return wᵢ² / (2 [F⁻¹]ᵢᵢ) for each weight of the sites; −1 for those that `keep` removed before, which cannot help.

    It is the least of ½ δᵀ F δ over all changes δ of the weights with δᵢ = −wᵢ (Hassibi and Stork, 1993), and F⁻¹ that of
    the weights that are there still.
    """
    parameters = parameters_of(model, sites)
    saliency_by_site = {}
    for name, site in sites.items():
        weight, inner = parameters[name].detach(), fisher[name]
        stays = in_blocks(torch.ones_like(weight) if keep is None else keep[name].to(weight), inner.shape[-1]).double()
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(_within(inner, stays))).diagonal(dim1=1, dim2=2)
        costs = in_blocks(weight.double().square(), inner.shape[-1]) / (2 * inverse)
        saliency_by_site[name] = _out_of_blocks(torch.where(stays > 0, costs, -1.0), site.shape).float()
    return saliency_by_site


def _within(fisher: Tensor, stays: Tensor) -> Tensor:
    """The blocks among the weights that stay, with the identity for the others."""
    return fisher * stays.unsqueeze(1) * stays.unsqueeze(2) + torch.diag_embed(1 - stays)


def repaired(weight: Tensor, fisher: Tensor, keep: Tensor) -> Tensor:
    """Return the weight with zeros where `keep` is False, the others moved to make up for it as well as they can.

    With Q what is removed and K what stays, in each block: w_K + F_KK⁻¹ F_KQ w_Q, where ½ δᵀ F δ is least with
    δ_Q = −w_Q (Hassibi and Stork, 1993, for many weights at once: Kurtic et al., 2022).

    >>> fisher = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]], dtype=torch.float64)
    >>> repaired(torch.tensor([[3.0, 4.0]]), fisher, torch.tensor([[False, True]]))   # 4 + ½ · 1 · 3
    tensor([[0.0000, 5.5000]])
    """
    size = fisher.shape[-1]
    stays = in_blocks(keep.double(), size)
    rows = in_blocks(weight.detach().double(), size)
    removed = rows * (1 - stays)
    moved = torch.linalg.solve(_within(fisher, stays), stays * (fisher @ removed.unsqueeze(2)).squeeze(2))
    return _out_of_blocks(stays * (rows + moved), tuple(weight.shape)).to(weight.dtype)
