"""Tokens a second of language models: what is timed, and that it is the model's own work."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from clocks import Clock
from torch import Tensor, nn

from secateur.measure import speed, tokens_per_second
from secateur.measure.generation import _Decode, _kept
from secateur.models.decoder import decoder
from secateur.stream import CutUnits, walk
from secateur.types import InputError

needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


class TakesByToken(nn.Module):
    """A language model without a cache that takes so many seconds a token of a sequence."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, tokens: Tensor) -> Tensor:
        self.clock.now += self.seconds * tokens.shape[1]
        return torch.zeros(*tokens.shape, 5)


def test_reading_is_a_pass_over_the_tokens_and_writing_one_over_one_more(clock: Clock) -> None:
    models = {"slow": TakesByToken(clock, 0.5), "fast": TakesByToken(clock, 0.125)}
    result = tokens_per_second(models, torch.zeros(2, 7, dtype=torch.long))
    # 2 × 7 tokens in 7 × 0.5 s; without a cache each of 2 tokens is a pass over 8, in 8 × 0.5 s.
    assert (result.rates["slow"].prefill, result.rates["slow"].decode) == (4, 0.5)
    assert (result.rates["fast"].prefill, result.rates["fast"].decode) == (16, 2)
    assert result.prefill_speedups["fast"] == result.decode_speedups["fast"] == speed.Spread(4, 4, 4)
    assert not result.rates["slow"].cached
    assert (result.context, result.batch_size, result.repeats) == (7, 2, 5)


def test_models_are_left_as_they_are() -> None:
    model = decoder().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = walk(model, torch.arange(20).view(2, 10) % 11, CutUnits(0.5)).model
    rates = tokens_per_second({"whole": model, "small": small}, torch.arange(12) % 11, repeats=1).rates
    assert list(rates) == ["whole", "small"]
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("models", "tokens", "words"),
    [
        ({}, torch.zeros(1, 4, dtype=torch.long), "there are no models"),
        (decoder(), [torch.zeros(3, dtype=torch.long), torch.zeros(4, dtype=torch.long)], "give one length"),
        (decoder(), torch.zeros(1, 4), "whole numbers"),
    ],
)
def test_wrong_calls_are_refused(models: Any, tokens: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tokens_per_second(models, tokens, repeats=1)


@needs_transformers
@pytest.mark.filterwarnings("ignore")
def test_what_is_timed_behind_a_cache_is_the_next_token() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=50)).eval()
    ids = torch.randint(0, 50, (2, 9))
    step = _Decode(model, _kept(model, ids[:, :-1]), ids[:, :-1])
    with torch.no_grad():
        written, again, whole = step(ids[:, -1:]), step(ids[:, -1:]), model(ids).logits[:, -1:]
    assert step.layers == 2
    assert torch.allclose(written, whole, atol=1e-5)
    assert torch.equal(written, again), "what is kept of the context must not grow"
    assert tokens_per_second(model, ids, repeats=1).rates["model"].cached
