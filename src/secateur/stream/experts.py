"""Experts taken out of a mixture: those that add least to the stream where tokens are routed to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.calls import usual
from secateur.checks import check_whole
from secateur.copies import copied
from secateur.deadline import check_time
from secateur.edits import Cut
from secateur.labelled import logits_of
from secateur.measure.language import Tokens, check_tokens, run_on_tokens
from secateur.result import Method, Result
from secateur.state import device_of, evaluating
from secateur.stream.history import ExpertHistory
from secateur.stream.routing import Routing, find_routings, routed_pass, routing_only
from secateur.structure.configs import edits_of
from secateur.structure.fitting import fitting_sizes
from secateur.structure.mend import Edits
from secateur.structure.plan import Plan, apply_plan
from secateur.types import InputError, Keep, Sites, VerificationError
from secateur.wrappers import check_module

__all__ = ["drop_experts", "expert_scores"]

ALIKE = 1e-3
"""How far the smaller model's logits may be from those of the model that routes to the kept experts alone, relative to the greatest."""


@usual
def expert_scores(model: nn.Module, tokens: Tokens, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Return what each expert adds where it is chosen: the mean of its weight times the norm of what it gives.

    The mean is over the tokens that are routed to it (REAP: Lasby et al., 2025); an expert that none is routed to has 0.
    One forward pass, in which each expert computes twice.

    Args:
        model: a causal model whose experts lie in parameters with the expert as first dimension, as those of transformers 5.
        tokens, mask: text, ids ``(sequences, length)``, and where there are tokens.

    Returns:
        By layer of experts, ``(experts,)``.

    Raises:
        InputError: the model has no such layers.
    """
    check_module(model, "expert_scores")
    ids, counts = check_tokens(tokens, mask, "expert_scores")
    return _scores(model, _routings(model, ids), ids, counts)


def _routings(model: nn.Module, ids: Tensor) -> list[Routing]:
    routings = find_routings(model, ids[:1, :8])
    if not routings:
        raise InputError(
            f"experts: {type(model).__name__} calls no module with the numbers of experts that a router chose; experts are "
            "looked for in parameters with the expert as first dimension"
        )
    return routings


def _scores(model: nn.Module, routings: Sequence[Routing], ids: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    sums = {routing.experts: torch.zeros(2, routing.size, dtype=torch.float64) for routing in routings}
    for number, row in enumerate(ids.to(device_of(model))):
        check_time()
        counts = None if mask is None else mask[number : number + 1].to(row.device)
        for routing, index, weights, norms in routed_pass(model, routings, row.unsqueeze(0), counts):
            where = index.flatten().cpu()
            sums[routing.experts][0].index_add_(0, where, (weights * norms).flatten().double().cpu())
            sums[routing.experts][1].index_add_(0, where, torch.ones(len(where), dtype=torch.float64))
    return {name: (total / count.clamp_min(1)).float() for name, (total, count) in sums.items()}


@usual
def drop_experts(model: nn.Module, tokens: Tokens, count: int, *, mask: Tensor | None = None) -> Result:
    """Return a model without the least experts of each layer, with the router's rows and the config's number to match.

    Every layer loses as many, so that a config can say it. Tokens go to as many of the experts that are left as before.
    Where a router chooses among groups of experts first, each group loses as many. The smaller model is compared with the
    uncut one whose routers may not choose what is gone.

    Args:
        model, tokens, mask: as for `expert_scores`; the model is left as it is.
        count: how many experts of each layer go.

    Returns:
        The smaller model, with an `ExpertHistory`: what every expert was worth.

    Raises:
        InputError: the model has no experts, or fewer would be left than each token is routed to.
        VerificationError: the smaller model computes something else.
    """
    check_module(model, "drop_experts")
    check_whole("drop_experts", count=count)
    ids, counts = check_tokens(tokens, mask, "drop_experts")
    routings = _routings(model, ids)
    for routing in routings:
        if routing.size - count < routing.top:
            raise InputError(
                f"drop_experts: {count} of the {routing.size} experts of {routing.experts!r} cannot go, as each token is "
                f"routed to {routing.top}; give at most {routing.size - routing.top}"
            )
    scores = _scores(model, routings, ids, counts)
    apart = float("inf")
    for groups in _groupings(routings, count):
        keep = {routing.experts: _kept(scores[routing.experts], count, groups) for routing in routings}
        plan = _plan(model, routings, keep)
        small = apply_plan(model, plan)
        apart = _difference(model, small, routings, keep, ids[:4])
        if apart <= ALIKE:
            sites = Sites.of_masks(keep, "channel", "expert")
            method, history = Method("router-weighted"), ExpertHistory(scores)
            return Result(small, model, sites, keep, (Cut(plan),), method, history=history, inputs=ids[:1])
    raise VerificationError(
        f"drop_experts: the smaller model is {apart:.2g} away from the one that routes to the kept experts alone, relative to "
        "its greatest logit; its router does more than to choose the best"
    )


def _groupings(routings: Sequence[Routing], count: int) -> list[int]:
    """Into how many groups experts may fall that each lose as many: one first."""
    sizes = {routing.size for routing in routings}
    return [groups for groups in range(1, count + 1) if count % groups == 0 and all(n % groups == 0 for n in sizes)]


def _kept(scores: Tensor, count: int, groups: int) -> Tensor:
    """True for the experts that stay: all but the least of each group."""
    rows = scores.view(groups, -1)
    keep = torch.ones_like(rows, dtype=torch.bool)
    keep.scatter_(1, rows.argsort(dim=1, stable=True)[:, : count // groups], False)
    return keep.flatten()


def _plan(model: nn.Module, routings: Sequence[Routing], keep: Keep) -> Plan:
    rows: dict[str, dict[int, Tensor]] = {}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    for routing in routings:
        index = keep[routing.experts].nonzero().flatten()
        for path in (routing.experts, routing.router):
            module = model.get_submodule(path)
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                if tensor.ndim and tensor.shape[0] == routing.size:
                    rows[f"{path}.{name}"] = {0: index}
                    shapes[f"{path}.{name}"] = (len(index), *tensor.shape[1:])
    changes = fitting_sizes(model, shapes)
    attributes = edits_of(model, changes) if changes else None
    return Plan(rows, _counts(model, routings, keep) if attributes is None else attributes)


def _counts(model: nn.Module, routings: Sequence[Routing], keep: Keep) -> Edits:
    """The attributes that count experts, in the modules whose parameters shrink: for a model without a config."""
    return {
        path: {
            name: int(keep[r.experts].sum())
            for name, value in vars(model.get_submodule(path)).items()
            if value == r.size and type(value) is int
        }
        for r in routings
        for path in (r.experts, r.router)
    }


def _difference(model: nn.Module, small: nn.Module, routings: Sequence[Routing], keep: Keep, ids: Tensor) -> float:
    """How far the logits of the smaller model are from those of the uncut one that may not choose what is gone."""
    reference = copied(model)
    ids = ids.to(device_of(model))
    by_router = {routing.router: keep[routing.experts] for routing in routings}
    with torch.no_grad(), evaluating(reference), evaluating(small):
        with routing_only(reference, by_router):
            expected = logits_of(run_on_tokens(reference, ids, None))
        try:
            outputs = logits_of(run_on_tokens(small, ids, None))
        except InputError:  # groups that do not come out even
            return float("inf")
    return float((outputs - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)
