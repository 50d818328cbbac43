"""The last linear layer: many masks of what it reads as one product, and its units' loss changes in closed form.

Without unit u the logits of a sample are ``z − h_u w_u``. With the samples sorted by class t, and
``d_cu = w_cu − w_tu``, its cross-entropy changes by ``log(1 + Σ_c p_c (exp(−h_u d_cu) − 1))``, where the target's own
term is zero: no forward pass, and one exponential for each sample, unit and other class. (From the definition of the
cross-entropy, log Σ_c exp z_c − z_t, with p = softmax(z); nothing is approximated.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import e, log2

import torch
from torch import Tensor

from secateur.rate.memory import WIDE
from secateur.rate.suffix import Shut, Suffix, Values, opened
from secateur.structure.ops import product_of
from secateur.types import InputError, Keep

__all__ = ["LastChanges", "LastLayer", "LastRead", "wide_product"]

CACHED = 1 << 19  # floats of work space that stay in the cache
EQUAL = 2e-6  # logits that differ by less are equal but for rounding
SPARE = 8  # columns are dropped when one in so many is of a unit that is gone
STEEP = 80.0  # powers of e up to this one are far from where float32 ends
LOG2_E = log2(e)


def wide_product(weights: Tensor, x: Tensor) -> Tensor:
    """Return what several weights ``(…, inputs)`` make of the same inputs ``(samples, inputs)``: ``(…, samples)``.

    One matrix product; samples innermost, so that all that follows goes through the classes of many samples at a time.
    """
    return (weights.flatten(0, -2) @ x.t()).view(*weights.shape[:-1], len(x))


@dataclass(frozen=True, eq=False)
class LastRead:
    """What a linear layer that gives the model's outputs reads of a batch, where it takes up all masked units.

    Attributes:
        x: its inputs, ``(samples, inputs)``.
        weight, bias: ``(classes, inputs)``, and ``(classes,)`` or None.
        columns: for each site, which of the inputs are each unit's, int64 ``(units, positions)``.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    columns: Mapping[str, Tensor]

    @classmethod
    def of(cls, suffix: Suffix, shut: Mapping[str, Shut], values: Values) -> LastRead | None:
        """Return the layer, if that is all that follows where each site's units are shut."""
        product = product_of(suffix.line.steps[0].node) if len(suffix.line.steps) == 1 else None
        if product is None or product.convolution or not product.plain or product.kind == "matmul":
            return None
        operands = suffix.line.steps[0].current
        source = operands.get(product.source)
        if source is None or values[source].ndim != 2 or any(s.source is not source or s.dim != 1 for s in suffix.shut):
            return None
        weight = values[operands[product.weight]]
        bias = None if product.bias is None else values[operands[product.bias]]
        columns = {name: operand.index for name, operand in shut.items()}
        return cls(values[source], weight if product.out_first else weight.t(), bias, columns)

    @property
    def single(self) -> bool:
        """Whether each unit is one input."""
        return all(index.shape[1] == 1 for index in self.columns.values())

    def outputs(self, masks: Sequence[Keep]) -> Iterator[tuple[int, Tensor]]:
        """Yield the outputs under masks, ``(masks, samples, classes)`` block by block, with the number of the first."""
        step = max(1, WIDE // (len(self.x) * len(self.weight) * self.x.element_size()))
        for first in range(0, len(masks), step):
            # The masks are put on the weights, which are fewer than the activations.
            weights_KOI = self.weight * self._gates(masks[first : first + step]).unsqueeze(1)
            outputs_KOB = wide_product(weights_KOI, self.x)
            if self.bias is not None:
                outputs_KOB += self.bias.unsqueeze(1)
            yield first, outputs_KOB.transpose(1, 2)

    def _gates(self, masks: Sequence[Keep]) -> Tensor:
        """1 where an input is kept, 0 where it is removed: ``(masks, inputs)``."""
        gates = self.x.new_ones(len(masks), self.x.shape[1])
        for name, index in self.columns.items():
            whole = torch.ones(len(index), dtype=torch.bool)
            keeps = torch.stack([keep.get(name, whole) for keep in masks])
            gates *= opened(index, keeps, self.x.shape[1]).to(gates)
        return gates


@dataclass(frozen=True, eq=False)
class LastChanges:
    """What the removal of each unit alone changes.

    Attributes:
        loss: change of the mean loss, float64 ``(units,)``; infinite for units that are gone already.
        square: mean of the squared changes of the samples' losses, float64 ``(units,)``.
        right: how many samples of each class are classified rightly without the unit, int64 ``(classes, units)``.
    """

    loss: Tensor
    square: Tensor
    right: Tensor


class LastLayer:
    """The exact loss changes of the units that the last linear layer reads, kept up to date as units are removed.

    A removal changes only the samples on which the unit was on, so only those are computed again.
    Memory: 2.25 times that of `h`.

    Args:
        h: what the last layer reads, ``(samples, units)``.
        weight: its weight, ``(classes, units)``.
        bias: its bias, ``(classes,)``, or None.
        targets: the samples' classes, int64 ``(samples,)``.

    Raises:
        InputError: the shapes do not fit, there are no samples, or a target is no class.

    >>> h, weight = torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> layer = LastLayer(h, weight, None, torch.tensor([0, 0]))
    >>> layer.loss  # the mean of log(1 + e⁻¹), twice
    0.3132616...
    >>> layer.changes().loss  # without unit 0: log 2 and log(1 + e)
    tensor([ 0.6899, -0.0932], dtype=torch.float64)
    >>> layer.remove(1)
    >>> round(layer.loss, 4), layer.changes().loss
    (0.2201, tensor([0.4731,    inf], dtype=torch.float64))
    """

    def __init__(self, h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> None:
        _check(h, weight, bias, targets)
        order = targets.argsort(stable=True)
        self.counts = torch.bincount(targets, minlength=len(weight))
        self._size = h.shape[1]
        self._columns = torch.arange(h.shape[1], device=h.device)
        self._gone = torch.zeros_like(self._columns, dtype=torch.bool)
        self._h, self._weight = h.float().index_select(0, order), weight.float()
        self._targets = targets[order]
        self._logits = self._h @ self._weight.T
        if bias is not None:
            self._logits += bias.float()
        self._delta: Tensor | None = None
        self._right = torch.empty(0)

    @property
    def loss(self) -> float:
        """The mean loss with the units that are left."""
        return float(torch.nn.functional.cross_entropy(self._logits.double(), self._targets))

    @property
    def right(self) -> Tensor:
        """How many samples of each class are classified rightly now, int64 ``(classes,)``."""
        hits = self._logits.argmax(1) == self._targets
        return torch.bincount(self._targets[hits], minlength=len(self._weight))

    def changes(self) -> LastChanges:
        """Return what the removal of each unit that is left would change."""
        if self._delta is None:
            self._delta = self._h  # replaced by all changes at once
            self._total, self._squares = torch.zeros(2, self._h.shape[1], dtype=torch.float64, device=self._h.device)
            self._hits = torch.zeros(len(self._weight), self._h.shape[1], dtype=torch.int64, device=self._h.device)
            self._update(None)
        count, left = len(self._h), ~self._gone
        loss = self._h.new_full((self._size,), torch.inf, dtype=torch.float64)
        square = torch.zeros_like(loss)
        right = torch.zeros(len(self._weight), self._size, dtype=torch.int64, device=loss.device)
        loss[self.units], square[self.units] = self._total[left] / count, self._squares[left] / count
        right[:, self.units] = self._hits[:, left]
        return LastChanges(loss, square, right)

    def remove(self, unit: int) -> None:
        """Remove a unit: the loss and the changes of the others are those without it from now on.

        Raises:
            InputError: there is no such unit, or it is gone already.
        """
        at = (self._columns == unit).nonzero()
        if not len(at) or bool(self._gone[at[0, 0]]):
            raise InputError(f"remove: unit {unit} is not among the {len(self.units)} that are left")
        place = int(at[0, 0])
        column = self._h[:, place].clone()
        touched = column.nonzero()[:, 0]
        # z ← z − h_u w_u, where h_u is not zero.
        self._logits[touched] -= column[touched, None] * self._weight[:, place]
        self._h[:, place] = 0
        self._gone[place] = True
        if int(self._gone.sum()) * SPARE > len(self._gone):
            self._drop()
        if self._delta is not None:
            self._update(touched)

    def _drop(self) -> None:
        """Leave out the columns of units that are gone; not at each removal, as all is copied."""
        left = (~self._gone).nonzero()[:, 0]
        self._h, self._weight = self._h.index_select(1, left), self._weight.index_select(1, left)
        self._columns, self._gone = self._columns[left], self._gone[left]
        if self._delta is not None:
            self._delta, self._right = self._delta.index_select(1, left), self._right.index_select(1, left)
            self._total, self._squares, self._hits = self._total[left], self._squares[left], self._hits[:, left]

    @property
    def units(self) -> Tensor:
        """The units that are left, int64."""
        return self._columns[~self._gone]

    def _update(self, rows: Tensor | None) -> None:
        """Compute the changes of these samples anew, and what their sums are; None stands for all."""
        assert self._delta is not None
        if rows is None:
            counts, h, logits = self.counts, self._h, self._logits
        else:
            counts = torch.bincount(self._targets[rows], minlength=len(self._weight))
            h, logits = self._h[rows], self._logits[rows]
            self._sum(self._delta[rows], self._right[rows], counts, -1)
        delta, right = sample_changes(h, logits.log_softmax(1), self._weight, counts)
        self._sum(delta, right, counts, 1)
        if rows is None:
            self._delta, self._right = delta, right
        else:
            self._delta[rows], self._right[rows] = delta, right

    def _sum(self, delta: Tensor, right: Tensor, counts: Tensor, sign: int) -> None:
        total, squares, hits = column_sums(delta, right, counts)
        self._total += sign * total
        self._squares += sign * squares
        self._hits += sign * hits


def sample_changes(h: Tensor, log_p: Tensor, weight: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the change of each sample's loss without each unit, and whether it is then right, ``(samples, units)``.

    The samples are sorted by class; `counts` says how many each class has; `log_p` are their log-probabilities.
    """
    delta, right = torch.empty_like(h), torch.empty_like(h, dtype=torch.bool)
    if not len(h):
        return delta, right
    size, most = max(1, CACHED // max(1, weight.numel())), h.abs().max()
    work = h.new_empty(len(weight) - 1, size, h.shape[1])  # once: fresh memory costs as much as the powers
    start = 0
    for target, count in enumerate(counts.tolist()):
        away = weight[target] - weight  # −d, so that exponents are h · away
        reach = float(most * away.abs().max())
        for at in range(start, start + count, size):
            some = slice(at, min(at + size, start + count))
            _changes_of_class(h[some], log_p[some], away, target, reach, work, delta[some], right[some])
        start += count
    return delta, right


def _changes_of_class(
    h: Tensor, log_p: Tensor, away: Tensor, target: int, reach: float, work: Tensor, delta: Tensor, right: Tensor
) -> None:
    """Fill in the changes of samples of one class; exponents of e are no greater than `reach`.

    Without unit u a logit is z_c − h_u w_cu, so the loss changes by log Σ_c p_c exp(−h_u w_cu) + h_u w_tu, and with the
    target t taken out of the sum by Δ = log(p_t + Σ_{c≠t} p_c exp(h_u (w_tu − w_cu))), where Σ_c p_c = 1.
    """
    others = [c for c in range(len(away)) if c != target]
    # To the base of 2: torch has a kernel for that which takes a quarter of the time of the natural one.
    bits = LOG2_E * log_p.T
    terms, target_bits = work[:, : len(h)], bits[target, :, None]
    # log₂ of each term of the sum: log₂ p_c + h (w_t − w_c) log₂ e
    torch.addcmul(bits[others, :, None], h, LOG2_E * away[others, None], out=terms)
    if reach < STEEP:
        p, slack = log_p.exp().T, EQUAL * max(1.0, reach / 16)
        torch.sum(terms.exp2_(), 0, out=delta)
        _beaten(terms, p[target, :, None] * (1 - slack), p[target, :, None] * (1 + slack), target, right)
        # Δ = log(p_t + Σ) − log Σ_c p_c: the rounding of the whole model's probabilities is in both.
        delta.add_(p[target, :, None]).log2_().sub_(p.sum(0)[:, None].log2_()).div_(LOG2_E)
    else:
        slack = EQUAL * (1 + float(terms.abs().amax()))
        _beaten(terms, target_bits - slack, target_bits + slack, target, right)
        # Steep terms would leave float32's range: the same sum of exponentials, less its greatest.
        torch.logsumexp(torch.cat([terms, target_bits.expand(1, *h.shape)]) / LOG2_E, 0, out=delta)
    # What does nothing changes nothing, to the last bit.
    delta *= (h * away.abs().amax(0)).ne_(0)


def _beaten(others: Tensor, less: Tensor, more: Tensor, target: int, right: Tensor) -> None:
    """Say where the target is predicted: of equal logits the first class is. `less` and `more` are about the target's."""
    torch.gt(less, others[:target].amax(0), out=right) if target else right.fill_(True)
    if target < len(others):
        right &= more >= others[target:].amax(0)


def column_sums(delta: Tensor, right: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the samples: of the changes, of their squares, and of what is right in each class."""
    total = delta.new_zeros(delta.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for part in torch.split(delta, 256):  # short sums lose nothing in float32, and are several times faster
        total += part.sum(0)
        squares += part.square().sum(0)
    # Counts up to 16,777,216 are exact in float32.
    return (
        total,
        squares,
        torch.stack([p.sum(0, dtype=torch.float32) for p in torch.split(right, counts.tolist())]).long(),
    )


def _check(h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> None:
    shapes = f"h {tuple(h.shape)}, weight {tuple(weight.shape)}, targets {tuple(targets.shape)}"
    fits = h.ndim == weight.ndim == 2 and targets.ndim == 1 and h.shape[1] == weight.shape[1]
    if not fits or len(h) != len(targets) or (bias is not None and bias.shape != weight.shape[:1]):
        raise InputError(f"LastLayer: {shapes} do not fit; give (samples, units), (classes, units) and (samples,)")
    if len(weight) < 2:
        raise InputError("LastLayer: there is one class only, and nothing to tell apart; give two or more")
    if not len(h):
        raise InputError("LastLayer: there are no samples; give at least one")
    if targets.dtype != torch.int64 or int(targets.min()) < 0 or int(targets.max()) >= len(weight):
        raise InputError(f"LastLayer: targets must be int64 from 0 to {len(weight) - 1}")
