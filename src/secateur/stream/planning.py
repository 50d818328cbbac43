"""What a walk would leave of a model, without any weights: sites, parameters, bytes and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.calls import looking
from secateur.checks import check_name, check_whole, within
from secateur.copies import copied
from secateur.measure import macs
from secateur.state import own_tensors
from secateur.stream.blocks import block_container
from secateur.stream.slots import PREFIX
from secateur.stream.steps import CutUnits
from secateur.stream.walking import BlockKind, BlockWalk
from secateur.structure.cutting import draft
from secateur.types import InputError
from secateur.wrappers import check_module

__all__ = ["AMOUNTS", "Amounts", "WalkPlan", "plan", "step_within"]

AMOUNTS: Mapping[str, str] = {"parameters": "parameters", "bytes": "nbytes", "macs": "macs"}
"""What a budget may be of, with the attribute of `Amounts`."""


@dataclass(frozen=True)
class Amounts:
    """How large a model is.

    Attributes:
        parameters: their number, in the whole model.
        nbytes: of them.
        macs: multiply-accumulates of the blocks, for one sequence of the planned length.
    """

    parameters: int
    nbytes: int
    macs: int

    @classmethod
    def of(cls, model: nn.Module, macs: int) -> Amounts:
        """Return the amounts of a model whose multiply-accumulates are known."""
        return cls(sum(p.numel() for p in model.parameters()), sum(p.nbytes for p in model.parameters()), macs)


@dataclass(frozen=True)
class WalkPlan:
    """What a walk would do.

    Attributes:
        sites: the units of every site, by its name in the model.
        kept: of each, how many would stay.
        before, after: how large the model is and would be.
    """

    sites: Mapping[str, int]
    kept: Mapping[str, int]
    before: Amounts
    after: Amounts

    def share(self, amount: str) -> float:
        """Return the share of an amount of `AMOUNTS` that would be left."""
        before, after = (getattr(amounts, AMOUNTS[amount]) for amounts in (self.before, self.after))
        return float(after / before)


@looking
def plan(
    model: nn.Module, step: CutUnits | None = None, *, length: int = 128, container: str | None = None
) -> WalkPlan:
    """Return what a walk would leave of a model, which may be on the meta device.

    One block of each kind is traced on the meta device; what stands in front of the blocks runs, on zeros where it is on meta.

    Args:
        model: a Hugging Face causal model, or one of blocks that takes token ids ``(sequences, length)``.
        step: what is done to each block; without one, a quarter of each MLP goes.
        length: of the sequence for which multiply-accumulates are counted.
        container: the path of the blocks' container.

    >>> from secateur.models.decoder import decoder
    >>> planned = plan(decoder(blocks=2), CutUnits(0.25), length=8)
    >>> planned.kept["layers.1.gate"], planned.before.parameters - planned.after.parameters     # 2 · 6 neurons · 3 · 16
    (18, 576)
    """
    check_module(model, "plan")
    check_whole("plan", length=length)
    return _Planning.of(model, length, container).planned(step or CutUnits())


@looking
def step_within(
    model: nn.Module,
    budget: Mapping[str, float],
    step: CutUnits | None = None,
    *,
    length: int = 128,
    container: str | None = None,
) -> CutUnits:
    """Return a step that removes as little as brings a model within a budget: its fractions, all scaled alike.

    Args:
        model, step, length, container: as for `plan`.
        budget: what the smaller model may have, as fractions of what the model has: of ``parameters`` and ``bytes`` of the
            whole model, of ``macs`` of its blocks; one of them or several.

    Raises:
        InputError: the blocks cannot be made so small by what the step removes.
        UnknownNameError: a budget of something else.

    >>> from secateur.models.decoder import decoder
    >>> model = decoder(blocks=2)
    >>> step = step_within(model, {"parameters": 0.9}, length=8)
    >>> planned = plan(model, step, length=8)
    >>> planned.kept["layers.0.gate"], round(planned.after.parameters / planned.before.parameters, 3)
    (19, 0.888)
    """
    check_module(model, "step_within")
    for name, limit in budget.items():
        check_name("budget of a walk", name, AMOUNTS)
        if not within(limit, "(0, 1]"):
            raise InputError(
                f"step_within: the budget {name}={limit!r} must be a fraction of the model's, above 0 and up to 1"
            )
    step = step or CutUnits()
    if not any(step.fractions.values()):
        raise InputError("step_within: the step removes nothing, however it is scaled; give fractions above 0")
    planning, most = _Planning.of(model, length, container), 1 / max(step.fractions.values())

    def over(scale: float) -> str:
        """What is over its limit; empty where nothing is."""
        planned = planning.planned(step.scaled(scale))
        shares = {name: planned.share(name) for name in budget}
        return next((f"{name}={share:.3g}" for name, share in shares.items() if share > budget[name]), "")

    if least := over(most):
        raise InputError(
            f"step_within: with as few units as can be, {least} of the model is left; give a higher budget, or more kinds of units"
        )
    low, high = 0.0, most
    while high - low > most / planning.steps:
        middle = (low + high) / 2
        low, high = (middle, high) if over(middle) else (low, middle)
    return step.scaled(high)


@dataclass(frozen=True, eq=False)
class _Planning:
    """What is known of a model's blocks before it is decided what goes.

    Attributes:
        model: it.
        kinds: of each block, by its path.
        x: what enters a block, on meta.
    """

    model: nn.Module
    kinds: Mapping[str, BlockKind]
    x: Tensor

    @classmethod
    def of(cls, model: nn.Module, length: int, container: str | None) -> _Planning:
        path = block_container(model, container)
        real = _of_zeros(model, path)
        blocks = {f"{path}.{name}": block for name, block in model.get_submodule(path).named_children()}
        tokens = torch.zeros(1, length, dtype=torch.long)
        walking = BlockWalk.begin(real, path, tokens, None, _shapes(next(iter(blocks.values()))))
        walking.pruned = [x.to("meta") for x in walking.pruned]
        kinds = {}
        for name, block in blocks.items():
            kinds[name] = walking.kind(_shapes(block))
            walking.number += 1
        return cls(model, kinds, walking.pruned[0])

    @property
    def steps(self) -> int:
        """How finely fractions are told apart."""
        return 2 * max(site.size for kind in self.kinds.values() for site in kind.sites.values())

    def planned(self, step: CutUnits) -> WalkPlan:
        """What a step would leave."""
        by_kind = {key: _outcome(kind, step, self.x) for key, kind in {id(k): k for k in self.kinds.values()}.items()}
        outcomes = {name: by_kind[id(kind)] for name, kind in self.kinds.items()}
        sites = {f"{name}.{site}": size for name, outcome in outcomes.items() for site, size in outcome.sites.items()}
        kept = {f"{name}.{site}": size for name, outcome in outcomes.items() for site, size in outcome.kept.items()}
        before = Amounts.of(self.model, sum(outcome.before.macs for outcome in outcomes.values()))
        gone = [
            sum(getattr(o.before, amount) - getattr(o.after, amount) for o in outcomes.values())
            for amount in ("parameters", "nbytes", "macs")
        ]
        after = Amounts(before.parameters - gone[0], before.nbytes - gone[1], before.macs - gone[2])
        return WalkPlan(sites, kept, before, after)


@dataclass(frozen=True)
class _Outcome:
    """What becomes of a block: its sites, and how large it is."""

    sites: Mapping[str, int]
    kept: Mapping[str, int]
    before: Amounts
    after: Amounts


def _outcome(kind: BlockKind, step: CutUnits, x: Tensor) -> _Outcome:
    counts = {name: count for name, count in step.counts(kind.sites).items() if count}
    # Which units go does not matter to sizes.
    keep = {name: torch.arange(kind.sites[name].size) >= count for name, count in counts.items()}
    small = draft(kind.student, kind.sites, keep)
    sites = {name.removeprefix(PREFIX): site.size for name, site in kind.sites.items()}
    kept = {name.removeprefix(PREFIX): sites[name.removeprefix(PREFIX)] - counts.get(name, 0) for name in kind.sites}
    return _Outcome(sites, kept, *(Amounts.of(slot, macs(slot, x)) for slot in (kind.student, small)))


def _of_zeros(model: nn.Module, path: str) -> nn.Module:
    """A copy whose blocks are on meta, and all else is zeros where it was on meta; untouched zeros take no memory."""
    inside = {id(t) for t in own_tensors(model.get_submodule(path)).values()}
    memo: dict[int, Any] = {}
    for tensor in own_tensors(model).values():
        if id(tensor) in inside:
            memo[id(tensor)] = _like(tensor, tensor.detach().to("meta"))
        else:
            memo[id(tensor)] = _like(
                tensor, torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor.detach()
            )
    return copied(model, memo)


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    return nn.Parameter(values, False) if isinstance(tensor, nn.Parameter) else values


def _shapes(block: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().to("meta") for name, tensor in own_tensors(block).items()}
