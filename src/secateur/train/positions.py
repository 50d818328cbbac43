"""Which positions of sequences count, where some are filled up or have no target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.labelled import logits_of
from secateur.losses import IGNORED, loss_function, next_token_cross_entropy, sequence_cross_entropy
from secateur.types import Loss

__all__ = ["at_positions", "counted_positions"]


def counted_positions(targets: Any, loss: str | Loss, mask: Any) -> Tensor | None:
    """Return where the outputs of sequences count, ``(N, T)``; None where they all do, or targets say nothing of it.

    Args:
        targets: of the sequences; classes ``(N, T)``, where −100 does not count.
        loss: of the targets; for next tokens a position counts where the target one later does.
        mask: the attention mask among the inputs, True or 1 where there is a token; None where there is none.

    >>> counted_positions(torch.tensor([[5, 6, -100]]), "next_token_cross_entropy", None)
    tensor([[ True, False, False]])
    >>> counted_positions(None, "cross_entropy", torch.tensor([[1, 1, 0]]))
    tensor([[ True,  True, False]])
    """
    counts = mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None
    function = loss_function(loss)
    if isinstance(targets, Tensor) and function in (sequence_cross_entropy, next_token_cross_entropy):
        has_target = targets != IGNORED
        if function is next_token_cross_entropy:
            has_target = torch.cat([has_target[:, 1:], torch.zeros_like(has_target[:, :1])], 1)
        counts = has_target if counts is None else counts & has_target
    return None if counts is None or bool(counts.all()) else counts


def at_positions(outputs: Any, counts: Tensor | None) -> Any:
    """Return the logits at those positions, ``(M, C)``; outputs as they are where these are no sequences of that shape.

    >>> at_positions(torch.zeros(2, 3, 5), torch.tensor([[True, True, False], [True, False, False]])).shape
    torch.Size([3, 5])
    """
    logits = logits_of(outputs)
    fits = counts is not None and isinstance(logits, Tensor) and logits.ndim == 3 and logits.shape[:2] == counts.shape
    return logits[counts] if fits else outputs
