"""The zoo's models that decide by the values of tensors: none can be traced whole, and each can be cut in regions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts import ZooToy, conv_bn, image, sequence, tokens, toy

__all__ = ["TOYS"]

TOYS: dict[str, ZooToy] = {}


def mlp(into: int, hidden: int, out: int) -> nn.Sequential:
    """Return two linear layers with a ReLU between them."""
    return nn.Sequential(nn.Linear(into, hidden), nn.ReLU(), nn.Linear(hidden, out))


@toy(TOYS, "early_exit", sequence())
class EarlyExit(nn.Module):
    """Blocks until one is sure of its answer: what passes from block to block may leave at any of them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(mlp(8, 12, 8) for _ in range(3))
        self.exits = nn.ModuleList(mlp(8, 10, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for block, leave in zip(self.blocks, self.exits, strict=True):
            x = x + block(x)
            y = leave(x).softmax(-1)
            if float(y.detach().amin()) > 0.2:
                break
        return y


@toy(TOYS, "two_ways", image())
class TwoWays(nn.Module):
    """One of two heads, by the sum of the features; the example runs one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8), conv_bn(8, 6))
        self.above, self.below = mlp(6, 16, 3), mlp(6, 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(x).mean((2, 3))
        y: Tensor = self.above(features) if features.sum() > 0 else self.below(features)
        return y


@toy(TOYS, "boolean_indexing", sequence())
class BooleanIndexing(nn.Module):
    """Only the steps that a gate lets pass go through the network."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.body = mlp(8, 6, 1), mlp(8, 14, 8)

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.gate(x).squeeze(-1) > 0
        y = x.clone()
        if chosen.any():
            y[chosen] = self.body(x[chosen])
        return y


@toy(TOYS, "until_convergence", sequence())
class UntilConvergence(nn.Module):
    """A step that is repeated until nothing changes."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.head = mlp(8, 12, 8), mlp(8, 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x)
        for _ in range(20):
            last, state = state, (0.2 * self.step(state) + x).tanh()
            if torch.dist(last, state) < 1e-3:
                break
        y: Tensor = self.head(state)
        return y


@toy(TOYS, "nonzero", image())
class Peaks(nn.Module):
    """A head on the places of a map that stand out, however many they are."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv_bn(3, 8), nn.Conv2d(8, 6, 3, padding=1))
        self.head = mlp(6, 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.backbone(x)
        sample, row, column = (maps.mean(1) > 0).nonzero(as_tuple=True)
        if not len(sample):
            return torch.zeros(0, 3)
        y: Tensor = self.head(maps[sample, :, row, column])
        return y


@toy(TOYS, "pyramid", image())
class Pyramid(nn.Module):
    """One head with group norms on maps of three sizes, and of its answers those above a threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv_bn(3, 8), nn.Conv2d(8, 6, 1))
        tower = [nn.Conv2d(6, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.ReLU()]
        self.head = nn.Sequential(*tower, nn.Conv2d(12, 2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.backbone(x)
        levels = [self.head(F.avg_pool2d(maps, size)).flatten() for size in (1, 2, 4)]
        answers: Tensor = torch.cat(levels)
        return answers[answers > 0] if float(answers.max()) > 0 else answers


@toy(TOYS, "used_outside", tokens())
class UsedOutside(nn.Module):
    """What cannot be traced multiplies by the table that a region looks up in, and asks one of its layers by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Embedding(11, 8), mlp(8, 12, 10), mlp(10, 14, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        if h.abs().max() > 1e-3:
            h = h + self.body[2](self.body[1](self.body[0](x)))
        y: Tensor = h @ self.body[0].weight.T
        return y


class Encoder(nn.Module):
    """A recurrent layer whose states are read by a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(8, 10, batch_first=True), nn.Linear(10, 8)

    def forward(self, x: Tensor, *, scale: float) -> Tensor:
        y: Tensor = self.out(self.lstm(x)[0]) * scale
        return y


@toy(TOYS, "recurrent_until_stopped", sequence())
class RecurrentUntilStopped(nn.Module):
    """A recurrent layer asked again, on what it answered and with an argument by name, until its answers are small."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"encoder": Encoder()})
        self.head = mlp(8, 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.parts["encoder"](x, scale=0.5)
            if x.norm() < 1:
                break
        y: Tensor = self.head(x)
        return y
