"""`nn.MultiheadAttention` with a width of its own, so that heads and the embedding can be cut independently."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["RectangularAttention", "free_attention"]


class RectangularAttention(nn.MultiheadAttention):
    """Multi-head attention whose heads need not add up to the embedding width.

    `nn.MultiheadAttention` requires ``embed_dim = num_heads · head_dim`` in its code. A cut breaks that rule, so the
    cut module becomes this class; its parameters keep their names, and what it computes is the same (Vaswani et al.,
    2017). Attributes that count: `num_heads`, and `scale`, the factor on the products of queries and keys.
    """

    scale: float

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attended values and, if asked, the attention weights; shapes as in `nn.MultiheadAttention`."""
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._project(query, key, value)
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        weights = torch.softmax(q @ k.transpose(-2, -1) * self.scale + (0 if mask is None else mask), dim=-1)
        dropped = functional.dropout(weights, self.dropout, self.training)
        out = self.out_proj((dropped @ v).transpose(1, 2).flatten(2))
        returned_weights = (weights.mean(1) if average_attn_weights else weights) if need_weights else None
        if not batched:
            return out.squeeze(0), None if returned_weights is None else returned_weights.squeeze(0)
        return (out if self.batch_first else out.transpose(0, 1)), returned_weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        packed: Tensor | None = self.in_proj_weight
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight) if packed is None else packed.chunk(3)
        sizes = [w.shape[0] for w in weights]
        biases = (None, None, None) if self.in_proj_bias is None else torch.split(self.in_proj_bias, sizes)
        projected = [functional.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
        if self.bias_k is not None and self.bias_v is not None:
            projected[1] = torch.cat([projected[1], self.bias_k.expand(projected[1].shape[0], -1, -1)], dim=1)
            projected[2] = torch.cat([projected[2], self.bias_v.expand(projected[2].shape[0], -1, -1)], dim=1)
        if self.add_zero_attn:
            projected[1:] = [functional.pad(x, (0, 0, 0, 1)) for x in projected[1:]]
        q, k, v = (x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2) for x in projected)
        return q, k, v

    def _mask(self, q: Tensor, k: Tensor, padding: Tensor | None, attn_mask: Tensor | None) -> Tensor | None:
        """The sum of both masks as an additive one, padded for the keys that were appended."""
        total: Tensor | None = None
        if attn_mask is not None:
            total = _additive(attn_mask, q)
            if total.dim() == 3:  # (batch · heads, queries, keys)
                total = total.view(q.shape[0], -1, *total.shape[1:])
        if padding is not None:
            keys = _additive(padding, q)
            keys = keys[:, None, None, :] if keys.dim() == 2 else keys
            total = keys if total is None else total + keys
        if total is not None and total.shape[-1] < k.shape[-2]:
            total = functional.pad(total, (0, k.shape[-2] - total.shape[-1]))
        return total


def free_attention(module: nn.MultiheadAttention) -> None:
    """Turn a `nn.MultiheadAttention` into a `RectangularAttention`, in place; what it computes stays the same."""
    if not isinstance(module, RectangularAttention):
        scale = float(module.head_dim) ** -0.5
        module.__class__ = RectangularAttention
        module.scale = scale
        # nn.TransformerEncoderLayer must not hand the weights to its fused kernel, which keeps the old rule.
        module._qkv_same_embed_dim = False


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, float("-inf"))
