"""How well a language model foretells text: its perplexity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from math import exp, inf, isnan
from typing import Any

import torch
from torch import Tensor, nn

from secateur.calls import running
from secateur.checks import check_whole, in_one_line
from secateur.deadline import check_time
from secateur.labelled import logits_of
from secateur.losses import IGNORED, next_token_cross_entropy
from secateur.state import device_of, evaluating
from secateur.types import InputError, SecateurError
from secateur.wrappers import check_module

__all__ = ["check_tokens", "perplexity", "run_on_tokens", "taking", "targets_of"]

ANTICIPATED, ANTICIPATED_IN_HALF = 1e-3, 3e-2
"""From which change of the answers on, by the greatest, a model is said to look at later tokens; and in half precision."""

Tokens = Tensor | Sequence[Tensor]
"""Token ids: sequences of one length, ``(sequences, length)``, or of different ones, each ``(length,)``."""


def check_tokens(tokens: Tokens, mask: Tensor | None, doing: str) -> tuple[Tensor, Tensor | None]:
    """Return sequences of tokens in one tensor ``(sequences, length)``, and the mask of those that count; None for all.

    Sequences of different lengths are filled up with token 0 at their ends, where the mask is False. What a mask leaves out
    goes to the ends as well, whichever side it was on: a causal model then sees no more of it than of what comes later.

    Raises:
        InputError: with the remedy.

    >>> check_tokens([torch.tensor([5, 6, 7]), torch.tensor([8, 9])], None, "perplexity")
    (tensor([[5, 6, 7],
            [8, 9, 0]]), tensor([[ True,  True,  True],
            [ True,  True, False]]))
    >>> check_tokens(torch.tensor([[0, 6, 7], [8, 9, 5]]), torch.tensor([[False, True, True], [True] * 3]), "perplexity")
    (tensor([[6, 7, 0],
            [8, 9, 5]]), tensor([[ True,  True, False],
            [ True,  True,  True]]))
    """
    if not isinstance(tokens, Tensor):
        parts = list(tokens)
        if mask is not None or not parts or any(not isinstance(p, Tensor) or p.ndim != 1 for p in parts):
            raise InputError(
                f"{doing}: several sequences of tokens are tensors (length,), at least one, without a mask"
            )
        lengths = torch.tensor([len(part) for part in parts])
        tokens = nn.utils.rnn.pad_sequence(parts, batch_first=True)
        mask = torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)
        mask = None if bool(mask.all()) else mask
    tokens = tokens.unsqueeze(0) if tokens.ndim == 1 else tokens
    if tokens.ndim != 2 or not _is_whole(tokens) or tokens.numel() == 0 or tokens.shape[1] < 2:
        raise InputError(
            f"{doing}: tokens are {tokens.dtype} of shape {tuple(tokens.shape)}; give whole numbers of shape "
            "(sequences, length), two or more a sequence"
        )
    tokens = tokens if tokens.dtype in (torch.int32, torch.int64) else tokens.long()  # embeddings take no others
    return (tokens, None) if mask is None else _at_the_front(tokens, mask, doing)


def _is_whole(tokens: Tensor) -> bool:
    return not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)


def _at_the_front(tokens: Tensor, mask: Tensor, doing: str) -> tuple[Tensor, Tensor]:
    """The tokens that count at the beginnings of their sequences, what fills these up behind them."""
    if mask.shape != tokens.shape:
        raise InputError(f"{doing}: the mask is {tuple(mask.shape)}, and the tokens are {tuple(tokens.shape)}")
    there = mask.to(tokens.device).bool()
    if not bool(there.any()):
        raise InputError(
            f"{doing}: the mask is False everywhere, so no token counts; it is True where there is a token"
        )
    order = (~there).int().argsort(dim=1, stable=True)
    return tokens.gather(1, order), there.gather(1, order)


def targets_of(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Return what a causal model is to foretell: the tokens, and `IGNORED` where the mask is False.

    >>> targets_of(torch.tensor([[5, 6]]), torch.tensor([[True, False]]))
    tensor([[   5, -100]])
    """
    return tokens.long() if mask is None else tokens.long().masked_fill(~mask.to(tokens.device), IGNORED)


def run_on_tokens(model: nn.Module, tokens: Tensor, mask: Tensor | None) -> Any:
    """Return what a model answers on sequences of tokens, with an attention mask where one is given and it takes one.

    What Hugging Face's models keep between calls is not asked for.

    Raises:
        InputError: the model does not take the tokens.
    """
    taken = signature(model.forward).parameters
    extra: dict[str, Any] = {}
    if mask is not None and "attention_mask" in taken:
        extra["attention_mask"] = mask.long()
    if "use_cache" in taken:
        extra["use_cache"] = False
    with taking(tokens):
        return model(tokens, **extra)


@contextmanager
def taking(tokens: Tensor) -> Iterator[None]:
    """Say of what a model raises that it does not take the tokens, and which it may be that does.

    >>> with taking(torch.tensor([[3, 12]])):
    ...     nn.Embedding(10, 2)(torch.tensor([[3, 12]]))
    Traceback (most recent call last):
    secateur.types.InputError: the model does not take tokens (1, 2) with ids from 3 to 12: IndexError: index out of range in \
self; give a causal language model ids below the size of its vocabulary, by its own tokenizer, in sequences no longer than it \
has positions
    """
    try:
        yield
    except (SecateurError, torch.OutOfMemoryError):
        raise
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        ids = "" if tokens.is_meta else f" with ids from {int(tokens.min())} to {int(tokens.max())}"
        raise InputError(
            f"the model does not take tokens {tuple(tokens.shape)}{ids}: {in_one_line(error)}; give a causal language model ids "
            "below the size of its vocabulary, by its own tokenizer, in sequences no longer than it has positions"
        ) from error


@running
def perplexity(model: nn.Module, tokens: Tokens, mask: Tensor | None = None, *, batch_size: int = 1) -> float:
    """Return a causal language model's perplexity: e to the mean cross-entropy of each token, given those before it.

    The mean is over all tokens that count but the first of each sequence. What fills a sequence up, on either side, is moved
    behind its text, where a causal model that takes no mask does not see it.

    Args:
        model: a Hugging Face model, or a module that returns logits ``(sequences, length, vocabulary)``; it is left as it is.
        tokens: ids ``(sequences, length)``, or a list of sequences ``(length,)``.
        mask: True where a token counts, of the tokens' shape.
        batch_size: sequences a pass.

    Raises:
        InputError: tokens or mask do not fit, the model returns no logits for each position, they are NaN, or those of a token
            depend on later ones, as in a model that fills gaps.

    >>> class Uniform(nn.Module):
    ...     def forward(self, tokens):
    ...         return torch.zeros(*tokens.shape, 50)
    >>> round(perplexity(Uniform(), torch.arange(12).view(2, 6)), 3)
    50.0
    """
    check_module(model, "perplexity", compiled=True)
    check_whole("perplexity", batch_size=batch_size)
    tokens, mask = check_tokens(tokens, mask, "perplexity")
    device, total, count = device_of(model), 0.0, 0
    with evaluating(model), torch.no_grad():
        for start in range(0, len(tokens), batch_size):
            check_time()
            part = tokens[start : start + batch_size].to(device)
            counts = None if mask is None else mask[start : start + batch_size].to(device)
            targets = targets_of(part, counts)
            logits = logits_of(run_on_tokens(model, part, counts))
            _check_logits(logits, part)
            if start == 0:
                _check_causal(model, part, counts, logits)
            total += float(next_token_cross_entropy(logits.float(), targets, "sum"))
            count += int((targets[:, 1:] != IGNORED).sum())
    if count == 0:
        raise InputError("perplexity: no token counts; the mask is False everywhere but at first tokens")
    mean = total / count
    if isnan(mean):
        raise InputError(
            "perplexity: the model answers NaN; load a good checkpoint, or compute in another type, as by .float()"
        )
    return exp(mean) if mean < 700 else inf


def _check_causal(model: nn.Module, tokens: Tensor, counts: Tensor | None, logits: Tensor) -> None:
    """Refuse a model whose answers to a beginning change with what follows: it has seen what it is to foretell."""
    first, counts = tokens[:1], None if counts is None else counts[:1]
    half = (first.shape[1] if counts is None else int(counts.sum())) // 2
    if half == 0:
        return
    start = first[:, :1]
    other = first.clone()
    other[:, half:] = torch.where(other[:, half:] == start, (start - 1).abs(), start)
    again = logits_of(run_on_tokens(model, other, counts))[:, :half].float()
    before = logits[:1, :half].float()
    limit = ANTICIPATED_IN_HALF if logits.dtype.itemsize < 4 else ANTICIPATED
    if bool((again - before).abs().max() > limit * before.abs().max()):
        raise InputError(
            f"perplexity: {type(model).__name__} is no causal language model, as its answers at a token change with the tokens "
            "behind it, so that it sees what it is to foretell; give one that is, such as of AutoModelForCausalLM"
        )


def _check_logits(logits: Any, tokens: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != tokens.shape:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"perplexity: on tokens {tuple(tokens.shape)} the model returned {shape}; give a causal language model, whose "
            "logits are (sequences, length, vocabulary)"
        )
