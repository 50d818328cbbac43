"""Toy models: small enough to work out by hand, and together of every kind of tie that a method must respect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.randomness import private_draws
from secateur.types import InputError

__all__ = ["TOYS", "Attention", "Grouped", "Residual", "Toy", "hand_mlp", "same_state", "snapshot"]


def hand_mlp() -> nn.Sequential:
    """Return a 2-3-2 MLP with whole-number weights.

    With x = (1, 2) the hidden units are relu(1·1 + 2·2) = 5, relu(−1·1 + 1·2 + 1) = 2 and relu(3·1 − 1·2) = 1; the
    outputs are 5 − 2 + 0 = 3 and 2·5 + 0 + 4·1 − 1 = 13.

    >>> hand_mlp()(torch.tensor([[1.0, 2.0]])).tolist()
    [[3.0, 13.0]]
    """
    with private_draws():
        model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    values = {
        "0.weight": [[1.0, 2.0], [-1.0, 1.0], [3.0, -1.0]],
        "0.bias": [0.0, 1.0, 0.0],
        "2.weight": [[1.0, -1.0, 0.0], [2.0, 0.0, 4.0]],
        "2.bias": [0.0, -1.0],
    }
    model.load_state_dict({name: torch.tensor(rows) for name, rows in values.items()})
    return model


class Residual(nn.Module):
    """A stem, and a block of two convolutions around which the stem's four channels pass: stem and conv2 are tied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(4, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(x + self.conv2(torch.relu(self.conv1(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Grouped(nn.Module):
    """A convolution in two groups and a depthwise one, with a concatenation of both before the output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 1)
        self.grouped = nn.Conv2d(8, 6, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.stem(x))))
        x = torch.cat([x, torch.relu(self.depthwise(x))], 1)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Attention(nn.Module):
    """One head of attention over a sequence, with a layer norm and a gated feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 6)
        self.norm = nn.LayerNorm(6)
        self.qk = nn.Linear(6, 8)
        self.v = nn.Linear(6, 6)
        self.gate = nn.Linear(6, 10)
        self.down = nn.Linear(5, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        q, k = self.qk(y).chunk(2, -1)
        x = x + torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ self.v(y)
        a, b = self.gate(x).chunk(2, -1)
        x = x + self.down(torch.sigmoid(a) * b)
        logits: Tensor = self.head(x.mean(1))
        return logits


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 3),
    )


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with private_draws(0):
        return build()


@dataclass(frozen=True)
class Toy:
    """A toy model: how to build it, and what it takes.

    Attributes:
        make: builds the module; `build` wraps it with a fixed seed and statistics that are not the default ones.
        shape: the shape of one input, without the batch axis.
        classes: how many outputs the model has.
        tied: whether several layers produce the units of one site.

    >>> toy = TOYS["mlp"]
    >>> toy.build()(toy.inputs()).shape
    torch.Size([6, 2])
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int = 3
    tied: bool = False

    def build(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Return a new model, always with the same numbers, in eval mode; the global random state is not used."""
        model = _seeded(self.make).to(dtype)
        generator = torch.Generator().manual_seed(1)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                size = module.num_features
                values = torch.rand(4, size, generator=generator).to(dtype) + 0.5
                _fill(module, values)
        return model.eval()

    def inputs(self, batch: int = 6, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a batch of normal inputs, ``(batch, *shape)``."""
        return torch.randn(batch, *self.shape, generator=torch.Generator().manual_seed(seed)).to(dtype)

    def batches(self, count: int = 2, batch: int = 6) -> list[tuple[Tensor, Tensor]]:
        """Return `count` batches of inputs and labels in ``0 … classes − 1``."""
        generator = torch.Generator().manual_seed(2)
        labels = [torch.randint(self.classes, (batch,), generator=generator) for _ in range(count)]
        return [(self.inputs(batch, seed), y) for seed, y in enumerate(labels)]


def _fill(norm: nn.BatchNorm2d, values: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        for tensor, row in zip((norm.weight, norm.bias, norm.running_mean, norm.running_var), values, strict=True):
            tensor.copy_(row)


TOYS: Mapping[str, Toy] = {
    "mlp": Toy(hand_mlp, (2,), classes=2),
    "cnn": Toy(_cnn, (1, 8, 8)),
    "residual": Toy(Residual, (1, 6, 6), tied=True),
    "grouped": Toy(Grouped, (2, 5, 5)),
    "attention": Toy(Attention, (4, 3), tied=True),
}
"""The toy models by name."""

Snapshot = Mapping[str, object]


def snapshot(model: nn.Module) -> Snapshot:
    """Return all that a method must leave as it is: tensors, identities, modes, gradients, hooks, random state.

    >>> model = hand_mlp()
    >>> before = snapshot(model)
    >>> same_state(before, snapshot(model))
    True
    >>> _ = model.train(False)
    >>> same_state(before, snapshot(model))
    Traceback (most recent call last):
    secateur.types.InputError: the modes of the model changed
    """
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    return {
        "values": {name: t.detach().clone() for name, t in tensors.items()},
        "identities": {name: (id(t), t.data_ptr(), t._version) for name, t in tensors.items()},
        "gradients": {name: None if t.grad is None else t.grad.clone() for name, t in tensors.items()},
        "requires_grad": {name: t.requires_grad for name, t in tensors.items()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {name: _hooks(module) for name, module in model.named_modules()},
        "attributes": {name: _plain_attributes(module) for name, module in model.named_modules()},
        "random state": torch.get_rng_state(),
        "gradient mode": torch.is_grad_enabled(),
    }


def _hooks(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(value) for name, value in vars(module).items() if name.endswith("_hooks") and value}


def _plain_attributes(module: nn.Module) -> dict[str, object]:
    return {name: value for name, value in vars(module).items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(v) for v in value)
    return isinstance(value, (int, float, str))


def same_state(before: Snapshot, after: Snapshot) -> bool:
    """Return True when two snapshots are the same to the bit; raise `InputError` naming the first difference."""
    for part, old in before.items():
        if not _same(old, after[part]):
            raise InputError(f"the {part} of the model changed")
    return True


def _same(a: object, b: object) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        # Bytes, not numbers: NaN equals NaN here, and −0 differs from 0.
        return (a.dtype, a.shape) == (b.dtype, b.shape) and _bytes(a) == _bytes(b)
    return type(a) is type(b) and a == b


def _bytes(tensor: Tensor) -> list[int]:
    byte_values: list[int] = tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()
    return byte_values
