"""Outputs of single rows of a linear layer, kept from candidate to candidate: a child shares most rows with a parent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["RowBank"]

WORTH = 2**20  # weights of a layer above which looking a row up costs less than computing it
CHUNK = 512  # rows computed at a time, near the processor


class RowBank:
    """What the rows of a layer make of all samples, for the masks met last.

    A row with the same mask makes the same numbers, whichever candidate it is in. Rows are known by a hash of 64 bits
    of their number and mask; those that were not used for longest make room.

    Attributes:
        rows: ``(places, samples)``, what is kept.
        candidates: how many candidates may be asked for at a time.
    """

    def __init__(self, inputs: Tensor, outputs: int, places: int) -> None:
        self.inputs, self.outputs = inputs.mT.contiguous(), outputs
        # Written once, so that the first candidates do not wait for the memory.
        self.rows = inputs.new_zeros(places, len(inputs)).zero_()
        self._taken = inputs.new_zeros(outputs, len(inputs))
        self.candidates = max(1, places // (2 * outputs))
        self._keys = np.zeros(places, dtype=np.uint64)
        self._used = np.full(places, -1, dtype=np.int64)
        self._turn = 0
        words = -(-inputs.shape[1] // 64)
        generator = np.random.default_rng(0)
        self._factors = generator.integers(1, 2**63, size=(outputs, words), dtype=np.uint64) * np.uint64(2) + np.uint64(
            1
        )
        self._starts = generator.integers(1, 2**63, size=outputs, dtype=np.uint64)

    @staticmethod
    def of(weight: Tensor, sources: Sequence[Tensor], memory: int) -> RowBank | None:
        """Return a bank within so many bytes; None where it would not be worth it, or too small."""
        samples = sum(map(len, sources))
        places = memory // (samples * sources[0].element_size())
        if weight.ndim != 2 or weight.numel() < WORTH or places < 2 * len(weight):
            return None
        return RowBank(torch.cat(list(sources)), len(weight), min(places, 256 * len(weight)))

    def places(
        self, masks: NDArray[np.bool_], weight: Tensor, finish: Callable[[Tensor, Tensor], Tensor]
    ) -> list[Tensor]:
        """Return for each candidate the places of its rows, computing those that are not kept.

        Args:
            masks: ``(candidates, outputs, inputs)``.
            weight: ``(outputs, inputs)``.
            finish: from what rows make of the samples, ``(rows, samples)``, and their numbers to what is kept.
        """
        keys, first, again = np.unique(self._hash(masks), return_index=True, return_inverse=True)
        self._turn += 1
        place = self._look_up(keys)
        self._used[place[place >= 0]] = self._turn
        new = np.flatnonzero(place < 0)
        new = new[np.argsort(first[new])]  # in the order in which masks and weights lie
        free = np.argpartition(self._used, len(new) - 1)[: len(new)] if len(new) else new
        self._compute(masks.reshape(-1, masks.shape[-1]), weight, first[new], free, finish)
        self._keys[free], self._used[free], place[new] = keys[new], self._turn, free
        places = torch.from_numpy(place[again.reshape(-1)]).to(self.rows.device)
        return list(places.reshape(len(masks), self.outputs))

    def take(self, places: Tensor) -> Tensor:
        """Return what the rows at these places make, ``(outputs, samples)``, until the next call."""
        return torch.index_select(self.rows, 0, places, out=self._taken)

    def _hash(self, masks: NDArray[np.bool_]) -> NDArray[np.uint64]:
        packed = np.packbits(masks, axis=-1)
        spare = 8 * self._factors.shape[1] - packed.shape[-1]
        words = np.ascontiguousarray(np.pad(packed, ((0, 0), (0, 0), (0, spare)))).view(np.uint64)
        mixed = (words ^ (words >> np.uint64(29))) * self._factors
        mixed = (mixed ^ (mixed >> np.uint64(32))).sum(-1, dtype=np.uint64) * self._starts + self._starts
        hashes: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
        return hashes

    def _look_up(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        order = np.argsort(self._keys, kind="stable")
        at = np.minimum(np.searchsorted(self._keys, keys, sorter=order), len(order) - 1)
        place = order[at]
        same = (self._keys[place] == keys) & (self._used[place] >= 0)
        return np.where(same, place, -1)

    def _compute(
        self,
        masks: NDArray[np.bool_],
        weight: Tensor,
        row_numbers: NDArray[np.int64],
        free: NDArray[np.int64],
        finish: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        for start in range(0, len(row_numbers), CHUNK):
            part = row_numbers[start : start + CHUNK]
            numbers = torch.from_numpy(part % self.outputs).to(weight.device)
            masked = weight[numbers].mul_(torch.from_numpy(masks[part]).to(weight.device))
            place = torch.from_numpy(free[start : start + CHUNK]).to(weight.device)
            self.rows[place] = finish(masked @ self.inputs, numbers)
