"""A module that is cut is as if it had been made with the smaller sizes: all attributes, whatever module it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.criteria import Magnitude
from secateur.structure import channels, cut, mask
from secateur.structure.mend import differs

Make = Callable[[int], nn.Module]
VECTOR, MAPS, STEPS = torch.randn(2, 3), torch.randn(2, 3, 6, 6), torch.randn(2, 5, 3)
BETWEEN: dict[str, tuple[Tensor, Make]] = {
    # what stands between a layer of n units and one that reads them
    "batch norm": (MAPS, nn.BatchNorm2d),
    "batch norm without numbers": (MAPS, lambda n: nn.BatchNorm2d(n, affine=False)),
    "batch norm of the batch": (MAPS, lambda n: nn.BatchNorm2d(n, affine=False, track_running_stats=False)),
    "instance norm": (MAPS, lambda n: nn.InstanceNorm2d(n, affine=True)),
    "instance norm without numbers": (MAPS, nn.InstanceNorm2d),
    "layer norm": (VECTOR, nn.LayerNorm),
    "layer norm without numbers": (VECTOR, lambda n: nn.LayerNorm(n, elementwise_affine=False)),
    "rms norm": (VECTOR, nn.RMSNorm),
    "rms norm without numbers": (VECTOR, lambda n: nn.RMSNorm(n, elementwise_affine=False)),
    "slopes": (MAPS, nn.PReLU),
    "each map by itself": (MAPS, lambda n: nn.Conv2d(n, n, 3, groups=n)),
    "each map turned": (MAPS, lambda n: nn.ConvTranspose2d(n, n, 3, groups=n)),
    "groups": (MAPS, lambda n: nn.GroupNorm(n, n)),
}


def small_and_made(made: Callable[[int], nn.Module], inputs: Tensor) -> tuple[nn.Module, nn.Module]:
    """A model of 8 units without 3 of them, and the model that is made with 5."""
    torch.manual_seed(0)
    model = made(8).eval()
    sites = channels(model, inputs)
    (name,) = (name for name, site in sites.items() if site.size == 8)
    keep = {name: torch.tensor([True, False, True, True, False, True, False, True])}
    return cut(model, sites, keep, form="module"), made(5).eval()


def attributes(model: nn.Module) -> dict[str, object]:
    return {
        f"{path}.{name}": list(value) if isinstance(value, tuple | list) else value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float | str | tuple | list) and not name.startswith("_")
    }


def check_made(small: nn.Module, made: nn.Module) -> None:
    assert str(small) == str(made)
    assert {n: t.shape for n, t in small.state_dict().items()} == {n: t.shape for n, t in made.state_dict().items()}
    assert attributes(small) == attributes(made)


@pytest.mark.parametrize("between", BETWEEN)
def test_what_stands_between_two_layers_shrinks(between: str) -> None:
    inputs, make = BETWEEN[between]
    layer: Callable[..., nn.Module] = nn.Linear if inputs is VECTOR else lambda n, m: nn.Conv2d(n, m, 1)
    check_made(*small_and_made(lambda n: nn.Sequential(layer(3, n), make(n), nn.Tanh(), layer(n, 2)), inputs))


LAYERS: dict[str, tuple[Tensor, Make]] = {
    "linear": (VECTOR, lambda n: nn.Sequential(nn.Linear(3, n), nn.ReLU(), nn.Linear(n, 2, bias=False))),
    "conv1d": (STEPS.mT, lambda n: nn.Sequential(nn.Conv1d(3, n, 2), nn.ReLU(), nn.Conv1d(n, 4, 2, padding=1))),
    "turned": (
        MAPS,
        lambda n: nn.Sequential(nn.ConvTranspose2d(3, n, 2), nn.ReLU(), nn.ConvTranspose2d(n, 4, 2, stride=2)),
    ),
    "flattened": (MAPS, lambda n: nn.Sequential(nn.Conv2d(3, n, 5), nn.Flatten(), nn.Linear(4 * n, 2))),
    "conv3d": (
        torch.randn(2, 3, 4, 4, 4),
        lambda n: nn.Sequential(nn.Conv3d(3, n, 3), nn.ReLU(), nn.Conv3d(n, 4, 2)),
    ),
    "flattened behind a norm": (
        MAPS,
        lambda n: nn.Sequential(nn.Conv2d(3, n, 5), nn.BatchNorm2d(n), nn.Flatten(), nn.Linear(4 * n, 2)),
    ),
    "norm of rows": (VECTOR, lambda n: nn.Sequential(nn.Linear(3, n), nn.BatchNorm1d(n), nn.ReLU(), nn.Linear(n, 2))),
    "norm of steps": (STEPS.mT, lambda n: nn.Sequential(nn.Conv1d(3, n, 2), nn.GroupNorm(n, n), nn.Conv1d(n, 4, 2))),
    "each map between": (
        MAPS,
        lambda n: nn.Sequential(nn.Conv2d(3, n, 1), nn.Conv2d(n, n, 3, groups=n, bias=False), nn.Conv2d(n, 2, 1)),
    ),
    "table": (torch.tensor([[1, 2], [0, 3]]), lambda n: nn.Sequential(nn.Embedding(4, n), nn.Linear(n, 2))),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_shrinks_and_so_does_what_reads_it(kind: str) -> None:
    inputs, make = LAYERS[kind]
    check_made(*small_and_made(make, inputs))


class Loop(nn.Module):
    """A recurrent layer and what reads its last step."""

    def __init__(self, kind: type[nn.RNNBase], units: int) -> None:
        super().__init__()
        self.loop, self.out = kind(3, units, batch_first=True), nn.Linear(units, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.loop(x)[0][:, -1])  # type: ignore[no-any-return]


class TwoWays(nn.Module):
    """A layer of two inputs, of which one is a layer's."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.first, self.both = nn.Linear(3, units), nn.Bilinear(units, 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(self.first(x).relu(), x)  # type: ignore[no-any-return]


class Cells(nn.Module):
    """A cell that runs over steps by hand."""

    def __init__(self, kind: type[nn.RNNCellBase], units: int) -> None:
        super().__init__()
        self.cell, self.out, self.units = kind(3, units), nn.Linear(units, 2), units  # type: ignore[call-arg]

    def forward(self, x: Tensor) -> Tensor:
        state: Tensor | None = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.out(state)  # type: ignore[no-any-return]


def test_a_layer_of_two_inputs_shrinks() -> None:
    check_made(*small_and_made(TwoWays, VECTOR))


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.RNNCell])
def test_a_cell_shrinks(kind: type[nn.RNNCellBase]) -> None:
    small, made = small_and_made(lambda n: Cells(kind, n), STEPS)
    assert str(small.cell) == str(made.cell)  # what the model itself notes of its units is read by nothing
    assert {n: t.shape for n, t in small.state_dict().items()} == {n: t.shape for n, t in made.state_dict().items()}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_shrinks(kind: type[nn.RNNBase]) -> None:
    check_made(*small_and_made(lambda n: Loop(kind, n), STEPS))


class Attends(nn.Module):
    """Attention of so many heads of two between two layers."""

    def __init__(self, heads: int, **options: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 2)
        self.attention = nn.MultiheadAttention(16, 8, batch_first=True, **options)
        if heads < 8:
            self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(self.attention(h, h, h, need_weights=False)[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("options", [{}, {"bias": False}])
def test_attention_without_heads_remembers_its_sizes(options: dict[str, Any]) -> None:
    model = Attends(8, **options).eval()
    sites = channels(model, STEPS)
    (name,) = (name for name, site in sites.items() if site.unit == "head")
    keep = {name: torch.arange(8) < 5}
    small: Any = cut(model, sites, keep)
    attention = small.attention
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (5, 2, 16)
    assert (attention.kdim, attention.vdim) == (16, 16)
    assert attention.in_proj_weight.shape == (30, 16)
    assert attention.out_proj.in_features == 10
    torch.testing.assert_close(small(STEPS), mask(model, sites, keep)(STEPS))
    (width,) = (
        name for name, site in sites.items() if site.size == 16 and any("first" in m.parameter for m in site.members)
    )
    small = cut(model, sites, {width: torch.arange(16) < 12})
    attention = small.attention
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (8, 2, 12)
    assert (attention.kdim, attention.vdim) == (12, 12)
    assert attention.in_proj_weight.shape == (48, 12)


def test_sizes_are_the_same_whatever_holds_them() -> None:
    assert not differs((3, 4), [3, 4])
    assert not differs(torch.Size([3]), [3])
    assert not differs(3, 3)
    assert differs((3,), [4])
    assert differs((3,), 3)
    assert differs(None, 3)


def test_the_units_that_stay_answer_as_before() -> None:
    """The least unit by magnitude goes, and the rest of the model is what it was."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    sites = channels(model, VECTOR)
    scores = Magnitude()(model, sites)["0"]
    small = cut(model, sites, {"0": scores > scores.min()})
    assert small[0].out_features == 3  # type: ignore[index]
    hidden = model[:2](VECTOR)[:, scores > scores.min()]
    torch.testing.assert_close(small[:2](VECTOR), hidden)  # type: ignore[index]
