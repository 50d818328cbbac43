"""Random networks: small modules put together from a list of whole numbers, for tests by property.

A list of steps ``(op, a, b)`` is a program: each step picks an op that fits the value it is applied to, so every list
is a valid network, and a shorter list is a simpler one (which is what hypothesis shrinks to).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.randomness import private_draws

__all__ = ["NetStep", "RandomNet", "random_keep"]

WIDTHS = (4, 6, 8, 12, 4, 6)
INPUTS = ((3, 4, 4), (6,), (4, 6))
"""A picture ``(C, H, W)``, a vector, and a sequence ``(T, F)``; the batch axis comes before them."""

ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.relu,
    torch.sigmoid,
    F.gelu,
    torch.tanh,
    F.softplus,
    torch.cos,
    F.hardswish,
    lambda x: torch.clamp(x, min=0.5),
    lambda x: x + 1,
    lambda x: x.abs().sqrt(),
)


class NetStep(NamedTuple):
    """One step of a network: which op, and two numbers that it reads its options from."""

    op: int
    a: int = 0
    b: int = 0


Op = Callable[[nn.Module | None, list[Tensor], int, int], Tensor]
Maker = Callable[[Tensor, int, int], nn.Module | None]


class RandomNet(nn.Module):
    """A network made from `steps`; the same steps and seed give the same network.

    Attributes:
        text: what each step became, for people.

    >>> net = RandomNet([NetStep(2), NetStep(3)], kind=0)
    >>> net.text
    ['conv', 'batch_norm', 'activation', 'head']
    >>> net(net.example(batch=2)).shape
    torch.Size([2, 3])
    """

    def __init__(self, steps: Sequence[NetStep], kind: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.kind = kind % len(INPUTS)
        self.layers = nn.ModuleList()
        self.text: list[str] = []
        self.program: list[tuple[Op, int | None, int, int]] = []
        with private_draws(seed), torch.no_grad():
            history = [self.example(2)]
            for step in (NetStep(0 if self.kind == 0 else 1), *steps):  # so that there is something to cut
                self._add(_choose(history, step), history, step)
            self._add(HEAD, history, NetStep(0))
            self._randomise()
        self.double().eval()

    def example(self, batch: int, seed: int = 0) -> Tensor:
        """Return normal inputs, float64."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, *INPUTS[self.kind], generator=generator, dtype=torch.float64)

    def _add(self, rule: Rule, history: list[Tensor], step: NetStep) -> None:
        name, _, make, run = rule
        layer = self._reused(make(history[-1], step.a, step.b), history, step) if make else None
        at: int | None = None
        if layer is not None:
            layer.double()
            positions = [i for i, other in enumerate(self.layers) if other is layer]
            at = positions[0] if positions else len(self.layers)
            if not positions:
                self.layers.append(layer)
        self.text.append(name)
        self.program.append((run, at, step.a, step.b))
        history.append(run(layer, history, step.a, step.b))

    def _reused(self, fresh: nn.Module | None, history: list[Tensor], step: NetStep) -> nn.Module | None:
        """An earlier layer of the same description in one case of four: tied weights."""
        if fresh is None or step.b % 4 != 3:
            return fresh
        return next((old for old in self.layers if repr(old) == repr(fresh)), fresh)

    def _randomise(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(0.5 if name.endswith("weight") else 0.0, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        history = [x]
        for run, at, a, b in self.program:
            history.append(run(None if at is None else self.layers[at], history, a, b))
        return history[-1]


class Rule(NamedTuple):
    """An op: its name, whether it fits the values so far, what it needs built, and what it computes."""

    name: str
    fits: Callable[[list[Tensor], int, int], bool]
    make: Maker | None
    run: Op


def _choose(history: list[Tensor], step: NetStep) -> Rule:
    """The op with the step's number, or the next one that fits; the activation fits always."""
    for shift in range(len(RULES)):
        rule = RULES[(step.op + shift) % len(RULES)]
        if rule.fits(history, step.a, step.b):
            return rule
    raise AssertionError("the activation fits every value")


def _width(a: int) -> int:
    return WIDTHS[a % len(WIDTHS)]


def _call(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    assert layer is not None
    output: Tensor = layer(h[-1])
    return output


def _picture(h: list[Tensor], a: int, b: int) -> bool:
    return h[-1].ndim == 4


def _vector(h: list[Tensor], a: int, b: int) -> bool:
    return h[-1].ndim == 2


def _sequence(h: list[Tensor], a: int, b: int) -> bool:
    return h[-1].ndim == 3


def _last(x: Tensor) -> int:
    """The axis of the channels."""
    return 1 if x.ndim == 4 else x.ndim - 1


def _linear(h: list[Tensor], a: int, b: int) -> bool:
    return h[-1].ndim < 4


def _always(h: list[Tensor], a: int, b: int) -> bool:
    return True


def _even(h: list[Tensor], a: int, b: int) -> bool:
    return h[-1].shape[_last(h[-1])] % 2 == 0 and h[-1].shape[_last(h[-1])] > 2


def _other(h: list[Tensor], b: int, same_width: bool) -> Tensor | None:
    """An earlier value of the same shape, or of the same but for the channels."""
    x = h[-1]
    dim = _last(x)
    free = () if same_width else (dim,)
    matching = [
        y for y in h[:-1] if y.ndim == x.ndim and all(d in free or y.shape[d] == s for d, s in enumerate(x.shape))
    ]
    return matching[b % len(matching)] if matching else None


def _has_equal(h: list[Tensor], a: int, b: int) -> bool:
    return _other(h, b, True) is not None


def _has_alike(h: list[Tensor], a: int, b: int) -> bool:
    other = _other(h, b, False)
    return other is not None and h[-1].shape[_last(h[-1])] + other.shape[_last(other)] <= 40


def _join(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    other = _other(h, b, True)
    assert other is not None
    return (h[-1] + other, h[-1] * torch.sigmoid(other), h[-1] - other, torch.maximum(h[-1], other))[a % 4]


def _cat(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    other = _other(h, b, False)
    assert other is not None
    return torch.cat([h[-1], other] if a % 2 else [other, h[-1]], _last(other))


def _halves(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    x, y = h[-1].chunk(2, _last(h[-1]))
    return (x * torch.sigmoid(y), x + y, torch.cat([y, torch.relu(x)], _last(x)), y, F.glu(h[-1], _last(x)))[a % 5]


def _slice(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    x = h[-1]
    dim = _last(x)
    width = x.shape[dim]
    if b % 3 == 0:  # an end that follows the width
        return x.narrow(dim, 1, width - 1)
    if b % 3 == 1:
        return torch.split(x, [2, width - 2], dim)[a % 2]
    return torch.cat([x.narrow(dim, 0, 2), torch.tanh(x.narrow(dim, 2, width - 2))], dim)


def _reduce_channels(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    x = h[-1]
    dim = _last(x)
    statistics = (
        x.mean(dim, keepdim=True),
        x.sum(dim, keepdim=True),
        x.amax(dim, keepdim=True),
        torch.softmax(x, dim),
        x / (x.norm(dim=dim, keepdim=True) + 1),
        F.normalize(x, dim=dim),
        x.cumsum(dim),
        x.flip(dim),
    )
    return x + statistics[a % len(statistics)]


def _unflat(x: Tensor, dim: int, sizes: tuple[int, ...]) -> Tensor:
    unflattened: Tensor = torch.unflatten(x, dim, sizes)
    return unflattened


def _shuffle(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    x = h[-1]
    dim = _last(x)
    groups = 2 if b % 2 else x.shape[dim] // 2
    y = _unflat(x, dim, (groups, -1)) if a % 2 else _unflat(x, dim, (-1, x.shape[dim] // groups))
    return y.transpose(dim, dim + 1).flatten(dim, dim + 1)


def _gate(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    assert layer is not None
    pooled = h[-1].mean((2, 3), keepdim=True)
    gated: Tensor = h[-1] * torch.sigmoid(layer(pooled))
    return gated


def _to_vector(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    x = h[-1]
    if x.ndim == 4:
        return (x.flatten(1), x.mean((2, 3)), x.view(x.shape[0], -1), x.amax((2, 3)))[a % 4]
    return (x.flatten(1), x.mean(1), x.transpose(1, 2).reshape(x.shape[0], -1), x[:, 0])[a % 4]


def _to_sequence(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    x = h[-1]
    if x.ndim == 2:
        return _unflat(x, 1, (2, -1)) if a % 2 else _unflat(x, 1, (-1, 2))
    return x.flatten(2).transpose(1, 2) if a % 2 else x.flatten(2)


def _products(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    """Products of two activations: attention, a Gram matrix over the channels, one over the sequence."""
    x = h[-1]
    q, k, v = (x, torch.tanh(x), torch.relu(x))
    return (
        torch.softmax(q @ k.transpose(1, 2), -1) @ v,
        q.transpose(1, 2) @ k,
        torch.einsum("nqc,nkc->nqk", q, k),
        F.scaled_dot_product_attention(q, k, v),
        torch.einsum("ntc,ntd->ncd", q, v),
    )[a % 5]


def _heads(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    """Attention with heads over the result of a fused projection."""
    assert isinstance(layer, nn.Linear)
    heads = 1 + b % 2
    qkv = _unflat(layer(h[-1]), -1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    q, k, v = qkv[0], qkv[1], qkv[2]
    attended = F.scaled_dot_product_attention(q, k, v, scale=0.5 if a % 2 else None)
    return attended.transpose(1, 2).flatten(2)


def _tied_transpose(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    """Encode and decode with one weight."""
    assert isinstance(layer, nn.Linear)
    return F.linear(torch.relu(layer(h[-1])), layer.weight.t())


def _standardised(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    """A layer whose weight is worked out from its parameter."""
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    weight: Tensor = layer.weight  # get_parameter refuses the stand-ins of a trace
    dims = tuple(range(1, weight.ndim))
    weight = weight - weight.mean(dims, keepdim=True) if a % 2 else weight / (1 + weight.square().sum(dims, True))
    return F.conv2d(h[-1], weight, padding=1) if h[-1].ndim == 4 else F.linear(h[-1], weight)


def _recurrent(layer: nn.Module | None, h: list[Tensor], a: int, b: int) -> Tensor:
    assert layer is not None
    output: Tensor = layer(h[-1])[0]
    return output


def _make_grouped(x: Tensor, a: int, b: int) -> nn.Module:
    groups = x.shape[1] if b % 2 else 2
    return nn.Conv2d(x.shape[1], groups * (1 + a % 3), 3, padding=1, groups=groups, bias=a % 2 == 0)


def _make_norm(x: Tensor, a: int, b: int) -> nn.Module:
    width = x.shape[_last(x)]
    if x.ndim == 4:
        return (nn.GroupNorm(2, width), nn.GroupNorm(width, width), nn.InstanceNorm2d(width, affine=True))[a % 3]
    return (nn.LayerNorm(width), nn.RMSNorm(width), nn.LayerNorm(width, elementwise_affine=False))[a % 3]


def _make_standardised(x: Tensor, a: int, b: int) -> nn.Module:
    width = x.shape[_last(x)]
    return nn.Conv2d(width, _width(b), 3, padding=1) if x.ndim == 4 else nn.Linear(width, _width(b))


RULES: tuple[Rule, ...] = (
    Rule("conv", _picture, lambda x, a, b: nn.Conv2d(x.shape[1], _width(a), 3, padding=1, bias=b % 2 == 0), _call),
    Rule("linear", _linear, lambda x, a, b: nn.Linear(x.shape[-1], _width(a), bias=b % 2 == 0), _call),
    Rule("batch_norm", _picture, lambda x, a, b: nn.BatchNorm2d(x.shape[1], affine=a % 4 != 3), _call),
    Rule("activation", _always, None, lambda m, h, a, b: ACTIVATIONS[a % len(ACTIVATIONS)](h[-1])),
    Rule("grouped", lambda h, a, b: _picture(h, a, b) and _even(h, a, b), _make_grouped, _call),
    Rule("join", _has_equal, None, _join),
    Rule("cat", _has_alike, None, _cat),
    Rule("halves", _even, None, _halves),
    Rule("slice", lambda h, a, b: h[-1].shape[_last(h[-1])] > 3, None, _slice),
    Rule("pool", lambda h, a, b: _picture(h, a, b) and h[-1].shape[-1] > 1, lambda x, a, b: nn.MaxPool2d(2), _call),
    Rule("gate", _picture, lambda x, a, b: nn.Conv2d(x.shape[1], x.shape[1], 1), _gate),
    Rule("norm", lambda h, a, b: _linear(h, a, b) or (_even(h, a, b) and h[-1].shape[-1] > 1), _make_norm, _call),
    Rule("channels", _always, None, _reduce_channels),
    Rule("shuffle", _even, None, _shuffle),
    Rule("to_vector", lambda h, a, b: not _vector(h, a, b), None, _to_vector),
    Rule("to_sequence", lambda h, a, b: _picture(h, a, b) or (_vector(h, a, b) and _even(h, a, b)), None, _to_sequence),
    Rule("products", _sequence, None, _products),
    Rule("heads", _sequence, lambda x, a, b: nn.Linear(x.shape[-1], 12), _heads),
    Rule("tied_transpose", _linear, lambda x, a, b: nn.Linear(x.shape[-1], _width(a)), _tied_transpose),
    Rule("standardised", _always, _make_standardised, _standardised),
    Rule("transposed", _picture, lambda x, a, b: nn.ConvTranspose2d(x.shape[1], _width(a), 3, padding=1), _call),
    Rule("prelu", _picture, lambda x, a, b: nn.PReLU(x.shape[1] if a % 2 else 1), _call),
    Rule("gru", _sequence, lambda x, a, b: nn.GRU(x.shape[-1], _width(a), batch_first=True), _recurrent),
    Rule("pad", lambda h, a, b: _linear(h, a, b), None, lambda m, h, a, b: F.pad(h[-1], (a % 3, b % 2))),
    Rule("pixels", lambda h, a, b: _picture(h, a, b) and h[-1].shape[1] % 4 == 0 and h[-1].shape[2] < 8, None,
         lambda m, h, a, b: F.pixel_shuffle(h[-1], 2)),
    Rule("batch_norm", _vector, lambda x, a, b: nn.BatchNorm1d(x.shape[1]), _call),
)  # fmt: skip

HEAD = Rule(
    "head",
    _always,
    lambda x, a, b: nn.Linear(x.shape[1 if x.ndim == 4 else -1], 3),
    lambda m, h, a, b: _call(m, [h[-1].mean((2, 3)) if h[-1].ndim == 4 else h[-1]], a, b),
)


def random_keep(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Return random masks that keep at least one unit of each site; about one site in four stays whole."""
    generator = torch.Generator().manual_seed(seed)
    keep: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        density = float(torch.rand((), generator=generator)) + 0.25
        keep_mask = torch.rand(shape, generator=generator) < density
        keep_mask[int(torch.randint(shape[0], (), generator=generator))] = True
        keep[name] = keep_mask
    return keep


def random_net(seed: int) -> RandomNet:
    """Return a random net of three to seven steps; the same seed gives the same net.

    >>> random_net(1).text == random_net(1).text
    True
    """
    chance = random.Random(seed)
    steps = [
        NetStep(chance.randrange(len(RULES)), chance.randrange(12), chance.randrange(12))
        for _ in range(chance.randint(3, 7))
    ]
    return RandomNet(steps, kind=seed, seed=seed)
