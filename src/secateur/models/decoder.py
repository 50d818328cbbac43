"""A small language model in plain torch, with what the large ones are made of: for studies, tests and examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.randomness import private_draws

__all__ = ["Decoder", "decoder"]


class _Block(nn.Module):
    """Attention of query heads in groups that share keys and values, then a gated MLP, each added to the stream."""

    def __init__(self, width: int, heads: int, groups: int, neurons: int) -> None:
        super().__init__()
        self.size = width // heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, groups * self.size, bias=False)
        self.v = nn.Linear(width, groups * self.size, bias=False)
        self.gate, self.up = nn.Linear(width, neurons, bias=False), nn.Linear(width, neurons, bias=False)
        self.down = nn.Linear(neurons, width, bias=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return the stream behind the block; `positions` ``(length, width)`` are added to what queries and keys read."""
        y = self.attention_norm(x)
        at = y + positions
        q, k, v = (part.unflatten(-1, (-1, self.size)).transpose(1, 2) for part in (self.q(at), self.k(at), self.v(y)))
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(heads.transpose(1, 2).flatten(2))
        y = self.mlp_norm(x)
        out: Tensor = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return out


class Decoder(nn.Module):
    """A causal language model of blocks with a residual stream; returns logits ``(sequences, length, vocabulary)``.

    Attributes:
        embedding, layers, norm, head: its parts, in their order.
    """

    def __init__(self, blocks: int, width: int, heads: int, groups: int, neurons: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(_Block(width, heads, groups, neurons) for _ in range(blocks))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("positions", torch.randn(64, width), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits for tokens ``(sequences, length)``."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, positions=self.positions[: tokens.shape[1]])  # type: ignore[index]
        logits: Tensor = self.head(self.norm(x))
        return logits


def decoder(
    *,
    blocks: int = 2,
    width: int = 16,
    heads: int = 4,
    groups: int = 2,
    neurons: int = 24,
    vocabulary: int = 11,
    seed: int = 0,
) -> Decoder:
    """Return an untrained `Decoder` for sequences of up to 64 tokens, the same for the same seed.

    >>> decoder(blocks=1)(torch.zeros(1, 5, dtype=torch.long)).shape
    torch.Size([1, 5, 11])
    """
    with private_draws():
        torch.manual_seed(seed)
        return Decoder(blocks, width, heads, groups, neurons, vocabulary).eval()
