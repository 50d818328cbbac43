"""The check on weights and inputs that a cut has not seen: what it draws, and that it sees what an example hides."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from oracle import unseen
from oracle.unseen import InputDraw, draw_inputs
from secateur.structure import channels, cut
from secateur.types import InputError


class Attention(nn.Module):
    """One head; how sharply it attends is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.fc = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 2)
        self.size = 6
        for layer in (self.q, self.k):
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        scores = (self.q(x) @ self.k(x).mT / self.size**0.5).softmax(-1)
        y: Tensor = self.fc(scores @ self.v(x))
        return y


KEEP = {"v": torch.tensor([True, False, True, True, False, True])}


def given() -> tuple[nn.Module, nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    model, inputs = Attention(), (0.1 * torch.randn(2, 5, 8),)
    return model, cut(model, channels(model, inputs), KEEP), inputs


def differences(model: nn.Module, small: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, float]:
    """The greatest difference with the cut model's own and with drawn weights."""
    worst: dict[str, float] = {}
    for comparison in unseen.compare(model, small, channels(model, inputs), KEEP, inputs):
        assert comparison.difference is not None
        worst[comparison.weights] = max(worst.get(comparison.weights, 0.0), comparison.difference)
    return worst


def test_a_right_cut_agrees() -> None:
    assert max(differences(*given()).values()) < 1e-13


def test_another_temperature_is_seen_with_drawn_weights() -> None:
    model, small, inputs = given()
    small.size = 4
    x = inputs[0]
    assert float((small(x) - given()[1](x)).abs().max().detach()) < 1e-5  # which an example does not show
    assert differences(model, small, inputs)["drawn"] > 1e-4


def test_rows_that_are_not_the_kept_ones_are_seen() -> None:
    model, small, inputs = given()
    wrong = copy.deepcopy(small)
    wrong.v.weight.data = model.v.weight.data[:4].clone()
    found = differences(model, wrong, inputs)
    assert found["its own"] > 1e-3
    assert found["drawn"] < 1e-13  # drawn weights are put where they belong, and tell nothing of this


def test_a_tensor_of_another_shape_is_an_error() -> None:
    model, small, inputs = given()
    with pytest.raises(ValueError, match=r"v.weight has shape \(4, 8\); its sites foretell \(6, 8\)"):
        unseen.redraw(copy.deepcopy(model), small, channels(model, inputs), {})


def test_tied_tensors_are_drawn_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
            self.out.weight = self.table.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.out(self.table(x))
            return y

    model, inputs = Tied(), (torch.arange(8)[None],)
    sites = channels(model, inputs)
    keep = {next(iter(sites)): KEEP["v"]}
    small = cut(model, sites, keep)
    found = unseen.compare(model, small, sites, keep, inputs, vocabulary=9)
    assert max(c.difference for c in found if c.difference is not None) < 1e-13
    assert [c.inputs.batch for c in found] == [None, 3, 1, 5] * 2


def test_what_the_original_does_not_take_is_left_out_of_a_draw() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    inputs = (torch.randn(2, 3, 4),)
    sites = channels(model, inputs)
    keep = {"1": torch.tensor([True, False, True, True, True])}
    found = unseen.compare(model, cut(model, sites, keep), sites, keep, inputs)
    assert {c.inputs.stretch[1] for c in found} == {()}


def test_a_model_that_takes_nothing_is_an_error() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            if self.a.weight.dtype is torch.float64:
                raise TypeError("no doubles")
            y: Tensor = self.b(self.a(x))
            return y

    model, inputs = Single(), (torch.randn(2, 3),)
    sites = channels(model, inputs)
    with pytest.raises(RuntimeError, match="runs on no inputs drawn in float64: no doubles"):
        unseen.compare(model, copy.deepcopy(model), sites, {}, inputs)


def test_errors_of_a_cut_model_are_told_apart() -> None:
    class Refusing(nn.Module):
        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

        def forward(self, x: Tensor) -> Tensor:
            raise self.error

    model, inputs = nn.Linear(3, 2), (torch.randn(2, 3),)
    for error in (InputError("shape"), RuntimeError("shape")):
        found = unseen.compare(model, Refusing(error), channels(model, inputs), {}, inputs)
        assert {(c.difference, c.refused) for c in found} == {(None, isinstance(error, InputError))}


def test_single_precision_is_done_in_double() -> None:
    x = torch.full((3,), 1 / 3, dtype=torch.float64)
    with unseen.InDouble():
        assert torch.equal(x.to(torch.float32) * 3, x * 3)
        assert x.float().dtype is torch.float64
        assert torch.zeros(2, dtype=torch.float32).dtype is torch.float64
        assert x.softmax(-1, dtype=torch.float32).dtype is torch.float64
        assert (torch.ones(3) + x).dtype is torch.float64


def test_draws() -> None:
    example = {
        "ids": torch.tensor([[3, 5, 7]] * 2),
        "mask": torch.ones(2, 3, dtype=torch.long),
        "x": torch.randn(2, 4, 6),
    }
    drawn = draw_inputs(example, InputDraw(batch=4, stretch=(True, (-1,)), scale=10.0, padded=True, vocabulary=50))
    assert {name: tuple(x.shape) for name, x in drawn.items()} == {"ids": (4, 8), "mask": (4, 8), "x": (4, 4, 12)}
    assert drawn["x"].dtype is torch.float64
    assert 5 < float(drawn["x"].std()) < 20
    assert 7 < int(drawn["ids"].max()) < 50
    assert drawn["mask"].tolist() == [[1] * 6 + [0] * 2, [1] * 8] * 2
    same = draw_inputs(example, InputDraw(batch=3, same_words=True))
    assert torch.equal(same["ids"], torch.tensor([[3, 5, 7]] * 3))
    again = draw_inputs(example, InputDraw(batch=3, same_words=True))
    assert torch.equal(same["x"], again["x"])


@pytest.mark.parametrize("repeat", [lambda x: x.repeat(1, 3, 1, 1), lambda x: x.expand(-1, 3, -1, -1)])
def test_one_channel_repeated_to_three_is_cut_behind_the_repetition(repeat: Callable[[Tensor], Tensor]) -> None:
    """The number of channels that a picture is repeated to stands in the code: it stays, and the model a module."""

    class Gray(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.last = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(self.second(self.first(repeat(x)).relu()).relu().mean((2, 3)))
            return y

    result = sc.prune(Gray().eval(), torch.randn(2, 1, 12, 12), sparsity=0.5, latency=False)
    assert type(result.model) is Gray
    assert (result.model.first.in_channels, result.model.first.out_channels) == (3, 4)
