"""Samples as criteria take them: checked when the criterion is made, and moved to the model as it reads them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from secateur.checks import check_whole
from secateur.labelled import SampleBatch, Samples, batches, check_samples

__all__ = ["check_batches", "moved"]


def check_batches(doing: str, data: Samples, batch_size: int) -> None:
    """Refuse data that cannot be read again and again, and a batch without samples."""
    check_samples(data, doing)
    check_whole(doing, batch_size=batch_size)


def moved(data: Samples, batch_size: int, doing: str, device: torch.device) -> Iterator[SampleBatch]:
    """Yield the batches, moved to `device`.

    >>> x, y = torch.zeros(3, 2), torch.tensor([0, 1, 0])
    >>> [len(batch) for batch in moved((x, y), 2, "count", torch.device("cpu"))]    # one alone joins the others
    [3]
    """
    for batch in batches(data, batch_size, doing):
        yield batch.to(device)
