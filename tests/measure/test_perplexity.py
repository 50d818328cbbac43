"""Perplexity: by the formula, with masks, of plain modules and of what names its logits."""

from __future__ import annotations

from math import exp, inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.losses import loss_function
from secateur.measure import perplexity
from secateur.models.decoder import decoder
from secateur.types import InputError

TOKENS = torch.arange(24).view(3, 8) % 11


def by_hand(model: nn.Module, rows: list[Tensor]) -> float:
    logs = []
    for row in rows:
        probabilities = model(row.unsqueeze(0))[0].softmax(-1)
        logs += [-float(probabilities[place - 1, row[place]].log().detach()) for place in range(1, len(row))]
    return exp(sum(logs) / len(logs))


def test_it_is_e_to_the_mean_over_all_tokens_whatever_the_batches() -> None:
    model = decoder()
    expected = by_hand(model, list(TOKENS))
    assert perplexity(model, TOKENS) == pytest.approx(expected, rel=1e-5)
    assert perplexity(model, TOKENS, batch_size=2) == pytest.approx(expected, rel=1e-5)


def test_what_is_masked_does_not_count() -> None:
    model, rows = decoder(), [TOKENS[0], TOKENS[1, :3], TOKENS[2, :6]]
    mask = torch.arange(8) < torch.tensor([[8], [3], [6]])
    assert perplexity(model, rows, batch_size=3) == pytest.approx(by_hand(model, rows), rel=1e-5)
    assert perplexity(model, TOKENS, mask) == pytest.approx(by_hand(model, rows), rel=1e-5)


CALLS: list[tuple[Tensor | None, bool]] = []


class Named(nn.Module):
    """Takes an attention mask and names its logits, as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = decoder()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = True
    ) -> dict[str, Any]:
        CALLS.append((attention_mask, use_cache))
        return {"logits": self.inner(input_ids)}


def test_a_model_that_names_its_logits_is_given_the_mask_and_keeps_nothing() -> None:
    model, mask = Named(), torch.ones(3, 8, dtype=torch.bool)
    assert perplexity(model, TOKENS, mask, batch_size=3) == pytest.approx(perplexity(decoder(), TOKENS), rel=1e-6)
    (given, use_cache), *_ = CALLS
    assert given is not None
    assert torch.equal(given, mask.long())
    assert use_cache is False


def test_what_gives_no_perplexity_is_refused() -> None:
    with pytest.raises(InputError, match="whole numbers of shape"):
        perplexity(decoder(), torch.zeros(2, 3))
    with pytest.raises(InputError, match="give a causal language model"):
        perplexity(nn.Flatten(), TOKENS)
    with pytest.raises(InputError, match="the mask is"):
        perplexity(decoder(), TOKENS, torch.ones(3, 7))
    with pytest.raises(InputError, match="no token counts"):
        perplexity(decoder(), TOKENS, torch.zeros(3, 8))


def test_a_model_that_is_sure_of_the_wrong_token_has_no_finite_perplexity() -> None:
    model = decoder()
    model.head.weight.data.mul_(1e6)
    assert perplexity(model, TOKENS) == inf


def test_the_loss_has_a_name() -> None:
    model = decoder()
    loss = loss_function("next-token-cross-entropy")(model(TOKENS), TOKENS)
    assert exp(float(loss.detach())) == pytest.approx(perplexity(model, TOKENS), rel=1e-5)
