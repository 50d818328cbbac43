"""Experts that go by what they add where tokens are routed to them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.models.decoder import decoder
from secateur.stream import drop_experts, expert_scores
from secateur.types import InputError


class Router(nn.Module):
    def __init__(self, width: int, experts: int, top: int) -> None:
        super().__init__()
        self.top, self.experts = top, experts
        self.weight, self.bias = nn.Parameter(torch.randn(experts, width)), nn.Parameter(torch.randn(experts) / 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        best = F.linear(x, self.weight, self.bias).topk(self.top, dim=-1)
        return best.values.softmax(-1), best.indices


class Experts(nn.Module):
    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.count = experts
        self.up, self.down = nn.Parameter(torch.randn(experts, 4, width)), nn.Parameter(torch.randn(experts, width, 4))

    def forward(self, x: Tensor, weights: Tensor, index: Tensor) -> Tensor:
        hidden = torch.einsum("tw,tkhw->tkh", x, self.up[index]).relu()
        return torch.einsum("tkh,tkwh,tk->tw", hidden, self.down[index], weights)


class Mixture(nn.Module):
    """Tokens through a router to two of six experts, then to logits."""

    def __init__(self, width: int = 8, experts: int = 6, top: int = 2) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, width), nn.Linear(width, 11)
        self.router, self.experts = Router(width, experts, top), Experts(width, experts)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens).flatten(0, 1)
        weights, index = self.router(x)
        out: Tensor = self.head(x + self.experts(x, weights, index)).view(*tokens.shape, 11)
        return out


def mixture() -> Mixture:
    torch.manual_seed(0)
    return Mixture().eval()


IDS = torch.randint(11, (3, 10), generator=torch.Generator().manual_seed(1))


def test_scores_are_the_mean_of_weight_times_norm_over_the_tokens_that_count() -> None:
    model, counts = mixture(), torch.ones_like(IDS, dtype=torch.bool)
    counts[2, 4:] = False
    score = expert_scores(model, IDS, counts)["experts"]
    expected = torch.zeros(6)
    with torch.no_grad():
        x = model.embedding(IDS)[counts]
        weights, index = model.router(x)
        for expert in range(6):
            gains = [
                float(weights[t, k] * (model.experts.down[expert] @ (model.experts.up[expert] @ x[t]).relu()).norm())
                for t, k in (index == expert).nonzero().tolist()
            ]
            expected[expert] = sum(gains) / max(len(gains), 1)
    assert torch.allclose(score, expected, atol=1e-5)


def test_tokens_go_to_the_best_of_the_experts_that_are_left() -> None:
    """The smaller model is the whole one whose router's bias rules the two least experts out."""
    model = mixture()
    small = drop_experts(model, IDS, 2)
    least = small.history.scores["experts"].argsort()[:2]
    assert (~small.keep["experts"]).nonzero().flatten().tolist() == sorted(least.tolist())
    ruled_out = mixture()
    ruled_out.router.bias.data[least] = -1e9
    with torch.no_grad():
        assert torch.allclose(small.model(IDS), ruled_out(IDS), atol=1e-5)
    assert (small.model.experts.count, small.model.router.experts, small.model.router.top) == (4, 4, 2)
    assert small.model.experts.up.shape == (4, 4, 8)
    assert model.experts.up.shape == (6, 4, 8)
    again = small.apply(mixture())
    with torch.no_grad():
        assert torch.equal(again(IDS), small.model(IDS))


def test_as_many_stay_as_each_token_is_routed_to() -> None:
    assert drop_experts(mixture(), IDS, 4).model.experts.count == 2
    with pytest.raises(InputError, match="routed to 2; give at most 4"):
        drop_experts(mixture(), IDS, 5)
    with pytest.raises(InputError, match="calls no module with the numbers of experts"):
        drop_experts(decoder(), IDS, 1)
