"""The criteria that look at weights alone, against numbers worked by hand."""

from __future__ import annotations

from math import inf

import pytest
import torch
from torch import Tensor, nn

from secateur.criteria import Correlation, GeometricMedian, Lamp, Magnitude, NormScale
from secateur.selection import select
from secateur.structure import channels, weights
from secateur.testing.conformance import CriterionConformance
from secateur.testing.toys import hand_mlp
from secateur.types import Batches, Criterion, InputError, Loss, UnknownNameError


class TestLamp(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return Lamp()


class TestGeometricMedian(CriterionConformance):
    units = ("channels",)

    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return GeometricMedian()


class TestCorrelation(CriterionConformance):
    units = ("channels",)

    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return Correlation()


class TestNormScale(CriterionConformance):
    units = ("channels",)

    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return NormScale()

    def test_weights_that_are_nan_are_refused_by_name(self) -> None:  # type: ignore[override]
        model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
        sites = channels(model, torch.zeros(1, 1, 1, 1))
        with torch.no_grad():
            model[1].weight[0] = float("nan")
        with pytest.raises(InputError, match="'0' are NaN"):
            select(NormScale()(model, sites), 0.5)


class TestOutgoing(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return Magnitude(side="outgoing")

    def test_weights_that_are_nan_are_refused_by_name(self) -> None:  # type: ignore[override]
        model = hand_mlp()
        sites = channels(model, torch.zeros(1, 2))
        with torch.no_grad():
            model[2].weight[0, 0] = float("nan")
        with pytest.raises(InputError, match="'0' are NaN"):
            select(Magnitude(side="outgoing")(model, sites), 0.5)


class TestGroupMean(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return Magnitude(p=1, side="all", reduce="mean")


def _score(criterion: Criterion) -> list[float]:
    model = hand_mlp()
    return criterion(model, channels(model, torch.zeros(1, 2)))["0"].tolist()


def test_sides_of_a_channel() -> None:
    # Incoming (1, 2), (−1, 1), (3, −1) with biases 0, 1, 0; outgoing (1, 2), (−1, 0), (0, 4).
    assert _score(Magnitude(p=1)) == [3.0, 2.0, 4.0]
    assert _score(Magnitude(p=1, side="outgoing")) == [3.0, 1.0, 4.0]
    assert _score(Magnitude(p=1, side="all")) == [6.0, 4.0, 8.0]
    assert _score(Magnitude(p=inf, side="outgoing")) == [2.0, 1.0, 4.0]


def _twins() -> tuple[nn.Module, Tensor]:
    """Two layers that produce the same two channels, with weights 3, −1 and 4, 1."""

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
            self.out = nn.Linear(2, 1)
            self.a.weight.data = torch.tensor([[3.0], [-1.0]])
            self.b.weight.data = torch.tensor([[4.0], [1.0]])

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.out(self.a(x) + self.b(x))
            return y

    return Twins(), torch.randn(2, 1)


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("joint", [5.0, 2**0.5]),
        ("mean", [3.5, 1.0]),
        ("sum", [7.0, 2.0]),
        ("max", [4.0, 1.0]),
        ("first", [3.0, 1.0]),
    ],
)
def test_a_tied_group_becomes_one_score(reduce: str, expected: list[float]) -> None:
    model, x = _twins()
    scores = Magnitude(reduce=reduce)(model, channels(model, x))["a"]  # type: ignore[arg-type]
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_unknown_ways_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"tied group for Magnitude 'men'; did you mean 'mean'"):
        Magnitude(reduce="men")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="side of a channel"):
        Magnitude(side="inside")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="GeometricMedian"):
        GeometricMedian(reduce="x")  # type: ignore[arg-type]


def test_lamp_keeps_the_order_within_a_layer_and_compares_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        model[2].weight *= 100  # magnitude would empty the first layer alone
    sites = weights(model)
    lamp, magnitude = Lamp()(model, sites), Magnitude()(model, sites)
    for name in sites:
        assert torch.equal(lamp[name].flatten().argsort(), magnitude[name].flatten().argsort())
        assert float(lamp[name].max()) == 1.0
    removed = {name: int((~kept).sum()) for name, kept in select(lamp, 0.5).items()}
    assert min(removed.values()) > 0


def test_lamp_of_channels_by_hand() -> None:
    # Squares 5, 2, 10: 5 / 15, 2 / 17, 10 / 10.
    torch.testing.assert_close(torch.tensor(_score(Lamp())), torch.tensor([5 / 15, 2 / 17, 1.0]))


def test_two_filters_that_are_the_same_are_as_near_as_can_be() -> None:
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    model[0].weight.data = torch.tensor([[2.0], [2.0], [9.0]])
    assert GeometricMedian()(model, channels(model, torch.zeros(1, 1)))["0"].tolist() == [7.0, 7.0, 14.0]


def test_whole_channels_are_asked_for() -> None:
    model = hand_mlp()
    for criterion in (GeometricMedian(), Correlation(), NormScale()):
        with pytest.raises(InputError, match=rf"{type(criterion).__name__} compares whole channels.*0\.weight"):
            criterion(model, weights(model))


def test_a_channel_without_a_norm_has_scale_one() -> None:
    assert _score(NormScale()) == [1.0, 1.0, 1.0]


def test_several_norms_over_one_channel() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.a, self.b = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2)
            self.out = nn.Conv2d(2, 1, 1)
            self.a.weight.data, self.b.weight.data = torch.tensor([1.0, -3.0]), torch.tensor([2.0, 1.0])

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            z: Tensor = self.out(self.a(y) + self.b(y))
            return z

    model = Two()
    sites = channels(model, torch.randn(1, 1, 3, 3))
    assert NormScale()(model, sites)["conv"].tolist() == [1.5, 2.0]
    assert NormScale(reduce="max")(model, sites)["conv"].tolist() == [2.0, 3.0]
