"""A network of which nothing is left in 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Fragile(nn.Module):
    """Answers by the small part in which large weights differ: nothing of it is left in 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)
        self.layer.weight.data = 300 * torch.ones(4, 4) + torch.eye(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y - y.mean(1, keepdim=True)
