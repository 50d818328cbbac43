"""Attention whose heads are free answers as torch's own does, however it is made and called."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.structure.attention import RectangularAttention, free_attention

MADE: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no biases": {"bias": False},
    "appended biases": {"add_bias_kv": True, "batch_first": True},
    "appended zeros": {"add_zero_attn": True},
    "all appended": {"add_zero_attn": True, "add_bias_kv": True},
    "other keys and values": {"kdim": 5, "vdim": 7, "batch_first": True},
}
QUERIES, KEYS, SAMPLES, HEADS, WIDTH = 4, 3, 2, 2, 6
HIDDEN = torch.tensor([[False, True, False], [False, False, True]])
TRIANGLE = torch.ones(QUERIES, KEYS).triu(1).bool()
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no weights": {"need_weights": False},
    "weights of every head": {"average_attn_weights": False},
    "hidden keys": {"key_padding_mask": HIDDEN},
    "hidden keys, as numbers": {"key_padding_mask": HIDDEN * -2.0},
    "a mask": {"attn_mask": TRIANGLE},
    "a mask of numbers": {"attn_mask": torch.arange(12.0).view(QUERIES, KEYS)},
    "a mask a head": {"attn_mask": torch.arange(48.0).view(SAMPLES * HEADS, QUERIES, KEYS).sin()},
    "both": {"attn_mask": TRIANGLE * -3.0, "key_padding_mask": HIDDEN * -1.0},
}


def attention(made: str) -> tuple[nn.MultiheadAttention, nn.MultiheadAttention, tuple[Tensor, ...]]:
    """Torch's, the free one, and what they are called with."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(WIDTH, HEADS, **MADE[made]).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    mine = deepcopy(theirs)
    free_attention(mine)
    inputs = [
        torch.randn(SAMPLES, size, width) for size, width in ((QUERIES, WIDTH), (KEYS, mine.kdim), (KEYS, mine.vdim))
    ]
    return theirs, mine, tuple(x if theirs.batch_first else x.transpose(0, 1) for x in inputs)


def check_same(mine: nn.Module, theirs: nn.Module, *args: Tensor, **options: Any) -> None:
    answers, weights = mine(*args, **options)
    expected, expected_weights = theirs(*args, **options)
    torch.testing.assert_close(answers, expected)
    assert (weights is None) == (expected_weights is None)
    if weights is not None:
        torch.testing.assert_close(weights, expected_weights)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("made", MADE)
def test_free_heads_answer_as_torchs(made: str, call: str) -> None:
    theirs, mine, inputs = attention(made)
    assert isinstance(mine, RectangularAttention)
    check_same(mine, theirs, *inputs, **CALLS[call])


@pytest.mark.parametrize("made", MADE)
def test_one_sample_alone_is_a_batch_of_it(made: str) -> None:
    theirs, mine, inputs = attention(made)
    single = tuple(x[0] if theirs.batch_first else x[:, 0] for x in inputs)
    for options in ({}, {"average_attn_weights": False}, {"need_weights": False}, {"attn_mask": TRIANGLE}):
        check_same(mine, theirs, *single, **options)


def test_weights_are_dropped_in_training_alone_and_a_free_one_is_not_freed_again() -> None:
    _, mine, inputs = attention("plain")
    mine.dropout = 1.0
    torch.testing.assert_close(mine(*inputs)[0], mine(*inputs)[0])
    mine.train()
    # Nothing but the bias is left where all is dropped.
    torch.testing.assert_close(mine(*inputs)[0], mine.out_proj.bias.expand(QUERIES, SAMPLES, WIDTH))
    mine.scale = 5.0  # type: ignore[assignment]
    free_attention(mine)
    assert mine.scale == 5.0
