"""The units that the last linear layer reads: each one's loss change is a closed form on the logits.

Without unit u the logits of a sample are ``z − h_u w_u``. With the samples sorted by class t, and
``d_cu = w_cu − w_tu``, its cross-entropy changes by ``log Σ_c p_c exp(−h_u d_cu)``, where the target's own term is
``p_t``: no forward pass, and one exponential for each sample, unit and other class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.types import InputError

__all__ = ["LastChanges", "LastLayer"]

CACHED = 1 << 19  # floats of work space that stay in the cache
STEEP = 30.0  # exponents up to this size lose nothing in float32


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
        self.units = torch.arange(h.shape[1], device=h.device)  # those that are left
        self._size = h.shape[1]
        self._h, self._weight = h.float()[order], weight.float()
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
            self._delta, self._right = torch.empty_like(self._h), torch.empty_like(self._h, dtype=torch.bool)
            self._update(None)
        count = len(self._h)
        loss = self._h.new_full((self._size,), torch.inf, dtype=torch.float64)
        square = torch.zeros_like(loss)
        right = torch.zeros(len(self._weight), self._size, dtype=torch.int64, device=loss.device)
        total, squares, hits = _sums(self._delta, self._right, self.counts)
        loss[self.units], square[self.units] = total / count, squares / count
        right[:, self.units] = hits
        return LastChanges(loss, square, right)

    def remove(self, unit: int) -> None:
        """Remove a unit: the loss and the changes of the others are those without it from now on.

        Raises:
            InputError: there is no such unit, or it is gone already.
        """
        at = (self.units == unit).nonzero()
        if not len(at):
            raise InputError(f"remove: unit {unit} is not among the {len(self.units)} that are left")
        place = int(at[0, 0])
        column = self._h[:, place]
        touched = column.nonzero()[:, 0]
        self._logits[touched] -= column[touched, None] * self._weight[:, place]
        left = torch.arange(len(self.units), device=at.device) != place
        self.units = self.units[left]
        self._h, self._weight = self._h[:, left], self._weight[:, left]
        if self._delta is not None:
            self._delta, self._right = self._delta[:, left], self._right[:, left]
            self._update(touched)

    def _update(self, rows: Tensor | None) -> None:
        """Compute the changes of these samples anew; None stands for all."""
        assert self._delta is not None
        some = slice(None) if rows is None else rows
        counts = self.counts if rows is None else torch.bincount(self._targets[rows], minlength=len(self._weight))
        delta, right = sample_changes(self._h[some], self._logits[some], self._weight, counts)
        self._delta[some], self._right[some] = delta, right


def sample_changes(h: Tensor, logits: Tensor, weight: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the change of each sample's loss without each unit, and whether it is then right, ``(samples, units)``.

    The samples are sorted by class; `counts` says how many each class has.
    """
    delta, right = torch.empty_like(h), torch.empty_like(h, dtype=torch.bool)
    size = max(1, CACHED // max(1, weight.numel()))
    log_p = logits.log_softmax(1)
    start = 0
    for target, count in enumerate(counts.tolist()):
        away = weight[target] - weight  # −d, so that exponents are h · away
        for at in range(start, start + count, size):
            some = slice(at, min(at + size, start + count))
            _changes_of_class(h[some], log_p[some], away, target, delta[some], right[some])
        start += count
    return delta, right


def _changes_of_class(h: Tensor, log_p: Tensor, away: Tensor, target: int, delta: Tensor, right: Tensor) -> None:
    """Fill in the changes of samples of one class."""
    own = log_p[:, target, None]
    if len(away) == 1:
        delta.zero_()
        right.fill_(True)
        return
    others = [c for c in range(len(away)) if c != target]
    terms = h * away[others, None]
    if float(h.abs().max() * away.abs().max()) < STEEP:
        p = log_p.exp()
        terms.exp_().mul_(p.T[others, :, None])
        _beaten(terms, p[:, target, None], target, right)
        torch.sum(terms, 0, out=delta).add_(p[:, target, None]).log_()
        return
    terms += log_p.T[others, :, None]
    _beaten(terms, own, target, right)
    torch.logsumexp(torch.cat([terms, own.expand(1, *h.shape)]), 0, out=delta)


def _beaten(others: Tensor, own: Tensor, target: int, right: Tensor) -> None:
    """Say where the target is predicted; of equal logits the first class is."""
    torch.gt(own, others[:target].amax(0), out=right) if target else right.fill_(True)
    if target < len(others):
        right &= own >= others[target:].amax(0)


def _sums(delta: Tensor, right: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the samples: of the changes, of their squares, and of what is right in each class."""
    total = delta.new_zeros(delta.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for part in delta.split(256):  # short sums lose nothing in float32, and are several times faster
        total += part.sum(0)
        squares += part.square().sum(0)
    return total, squares, torch.stack([part.sum(0) for part in right.split(counts.tolist())])


def _check(h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> None:
    shapes = f"h {tuple(h.shape)}, weight {tuple(weight.shape)}, targets {tuple(targets.shape)}"
    fits = h.ndim == weight.ndim == 2 and targets.ndim == 1 and h.shape[1] == weight.shape[1]
    if not fits or len(h) != len(targets) or (bias is not None and bias.shape != weight.shape[:1]):
        raise InputError(f"LastLayer: {shapes} do not fit; give (samples, units), (classes, units) and (samples,)")
    if not len(h):
        raise InputError("LastLayer: there are no samples; give at least one")
    if targets.dtype != torch.int64 or int(targets.min()) < 0 or int(targets.max()) >= len(weight):
        raise InputError(f"LastLayer: targets must be int64 from 0 to {len(weight) - 1}")
