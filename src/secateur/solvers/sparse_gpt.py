"""SparseGPT: layer by layer, the outputs of each kept as they are (Frantar and Alistarh, 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from secateur.calls import usual
from secateur.copies import copied
from secateur.criteria.batches import check_batches
from secateur.criteria.fisher_blocks import check_blocks, check_weights
from secateur.criteria.layer_inputs import Inputs, LayerInputs
from secateur.criteria.weight_rows import parameters_of
from secateur.labelled import Data
from secateur.selection import select
from secateur.selection.patterns import n_of_m, parse_pattern
from secateur.solvers.layer_problems import damped, merged
from secateur.solvers.solution import Fractions, Solution, Solver, fractions_of
from secateur.structure.layers import Layer
from secateur.types import InputError, Sites

__all__ = ["SparseGPT"]

Choose = Callable[[Tensor], Tensor]
"""From the scores of a block of columns to what stays of it."""


@dataclass(frozen=True)
class SparseGPT(Solver):
    """Removes single weights of each layer so that its outputs on data change least (Frantar and Alistarh, 2023).

    Each weight is a matrix that multiplies inputs x. Column by column the weights of least w² / [H⁻¹]ⱼⱼ go, H = x xᵀ of
    the columns from j on, and the columns that follow take over what they can. Layers are solved in their order, each on
    the inputs that the layers solved before give it. Every layer loses the same fraction, or its own. One forward pass a
    layer; the matrix H of one layer is held at a time. No labels are needed.

    Attributes:
        data: labelled samples; the targets are not used.
        block: how many columns are chosen from at once, for a fraction. For N of M it is always M (section 3.3): each
            group is chosen on weights that have taken over what the groups before it lost.
        damping: added to the diagonal of H, as a share of its mean.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: unfit data, sites of channels, an option out of range, or a weight that no linear layer or
            convolution multiplies by, or that is used in another way as well, as a table of an embedding.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, 2.0]])
    >>> data = (torch.tensor([[1.0, 1.0], [2.0, 2.0]]), torch.zeros(2))     # both inputs are always the same
    >>> SparseGPT(data, damping=1e-9).solve(model, weights(model), 0.5).tensors
    {'weight': tensor([[0., 3.]])}
    """

    data: Data = field(repr=False)
    block: int = 128
    damping: float = 0.01
    batch_size: int = 500

    def __post_init__(self) -> None:
        check_batches("SparseGPT", self.data, self.batch_size)
        check_blocks("SparseGPT", self.block, self.damping)

    @usual
    def solve(
        self, model: nn.Module, sites: Sites, sparsity: Fractions | None = None, *, pattern: str | None = None
    ) -> Solution:
        """Return masks and weights for a sparsity, or for N of every M inputs (``pattern="2:4"``)."""
        check_weights("SparseGPT", sites)
        if (sparsity is None) == (pattern is None):
            raise InputError("SparseGPT: give either sparsity (a fraction, or one by site) or pattern (N:M)")
        fractions = fractions_of(sparsity if sparsity is not None else 0.0, sites, "SparseGPT")
        work = copied(model)
        parameters = parameters_of(work, sites)
        inputs = LayerInputs(work, self.data, self.batch_size, "SparseGPT")
        order = inputs.order()
        _check_multiplied(sites, order, inputs.other_uses())
        keep = {}
        for name in sorted(sites, key=order.index):
            problems = merged(inputs.second_moments([name]).get(name, []), "SparseGPT")
            keep[name] = self._solve(parameters[name], problems, fractions[name], pattern)
        return Solution({n: keep[n] for n in sites}, {n: parameters[n].detach().clone() for n in sites})

    def _solve(self, weight: Tensor, problems: list[Inputs], fraction: float, pattern: str | None) -> Tensor:
        """Change a weight in place, and return its mask."""
        keep = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
        flat, choose = weight.detach().flatten(), _chooser(fraction, pattern)
        for inputs in problems:
            for rows, moments in zip(inputs.layer.entries.to(weight.device), inputs.total, strict=True):
                order, spans = self._plan(inputs.layer, rows.shape[1], pattern)
                entries, inner = rows[:, order], damped(moments[order][:, order], self.damping)
                solved, mask = solve(flat[entries].double(), inner, spans, choose)
                flat[entries] = solved.to(flat)
                keep[entries] = mask
        with torch.no_grad():
            weight.copy_(flat.reshape(weight.shape))
        return keep.reshape(weight.shape)

    def _plan(self, layer: Layer, columns: int, pattern: str | None) -> tuple[Tensor, list[tuple[int, int]]]:
        """The order of a matrix's columns, and the spans of them that are chosen from at once."""
        if pattern is None:
            return torch.arange(columns), _spans(columns, columns, self.block)
        # Columns are input by input, each with its places in the kernel; neighbours along the inputs are wanted.
        order = torch.arange(columns).reshape(-1, layer.places).T.flatten()
        _, m = parse_pattern(pattern)
        return order, _spans(columns, columns // layer.places, m)


def _check_multiplied(sites: Sites, order: list[str], other_uses: Mapping[str, str]) -> None:
    for name in sites:
        if name not in order:
            raise InputError(
                f"SparseGPT: no linear layer or convolution multiplies by {name!r} itself, so there are no inputs to "
                f"solve with; leave it out: weights(model, ignore=[{name!r}])"
            )
        if name in other_uses:
            raise InputError(
                f"SparseGPT: {name!r} is more than the weight of a layer: {other_uses[name]} reads it, too, and the inputs "
                f"of the layer do not tell what new values do there; leave it out: weights(model, ignore=[{name!r}])"
            )


def _spans(columns: int, run: int, step: int) -> list[tuple[int, int]]:
    """The blocks of columns, none across the end of a run."""
    return [
        (start, min(start + step, begin + run))
        for begin in range(0, columns, run)
        for start in range(begin, begin + run, step)
    ]


def _chooser(fraction: float, pattern: str | None) -> Choose:
    """Choose so many of each block that the fraction of all blocks so far is right."""
    scored = removed = 0

    def choose(scores: Tensor) -> Tensor:
        nonlocal scored, removed
        if pattern is not None:
            return n_of_m({"weight": scores}, pattern)["weight"]
        scored += scores.numel()
        count = min(max(round(fraction * scored) - removed, 0), scores.numel())
        removed += count
        return select({"weight": scores}, count / scores.numel(), scope="layer", minimum=0)["weight"]

    return choose


def solve(weight: Tensor, moments: Tensor, spans: list[tuple[int, int]], choose: Choose) -> tuple[Tensor, Tensor]:
    """Return a weight with columns pruned one after the other, the later ones making up for it, and its mask.

    Args:
        weight: ``(out, in)``, float64.
        moments: x xᵀ, damped, ``(in, in)``, float64.
        spans: the blocks of columns, in order.
        choose: what stays of each block.
    """
    weight = weight.clone()
    mask = torch.ones_like(weight, dtype=torch.bool)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moments)), upper=True)
    for start, stop in spans:
        scores = weight[:, start:stop].square() / inverse.diagonal()[start:stop].square()
        mask[:, start:stop] = choose(scores)
        for column in range(start, stop):
            lost = torch.where(mask[:, column], 0.0, weight[:, column]) / inverse[column, column]
            weight[:, column:] -= torch.outer(lost, inverse[column, column:])
    return weight.masked_fill(~mask, 0.0), mask
