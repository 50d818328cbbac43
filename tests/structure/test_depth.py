"""Whole blocks as units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.structure.depth import Skip
from secateur.types import InputError


class Block(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2, bias=False)
        self.act = nn.ReLU()
        self.fc.weight.data = scale * torch.eye(2)

    def forward(self, x: Tensor, factor: float = 1.0) -> Tensor:
        return x + factor * self.act(self.fc(x))


class Deep(nn.Module):
    """Three residual blocks in a list, called with an argument more, and a plain block that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(1.0), Block(3.0), Block(2.0)])
        self.tail = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 1))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, 2.0)
        return self.tail(x)


class Branch(nn.Module):
    """What a parent adds to what it has: zeros where its parameters are."""

    def __init__(self, tupled: bool = False) -> None:
        super().__init__()
        self.fc, self.act, self.tupled = nn.Linear(2, 2), nn.Tanh(), tupled

    def forward(self, x: Tensor, factor: float = 1.0) -> Any:
        h = self.act(self.fc(x)) * factor
        return (h,) if self.tupled else h


class Summed(nn.Module):
    """A loop that adds; normed, scaled and dropped before that, or in place; and blocks that look alike and are not added."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.blocks = nn.ModuleList([Branch(kind == "tuple") for _ in range(3)])
        self.plain = nn.Sequential(Branch(), Branch())
        self.gamma, self.norm, self.drop = nn.Parameter(torch.rand(2)), nn.LayerNorm(2), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        for block in self.blocks:
            if self.kind == "in place":
                x += block(x, 2.0)
            elif self.kind == "scaled":
                x = self.drop(self.gamma * block(self.norm(x))) + x
            elif self.kind == "tuple":
                x = x + block(x)[0]
            elif self.kind == "taken away":
                x = x - block(x)
            elif self.kind == "taken away in place":
                x -= block(x)
            elif self.kind == "product":
                x = x * (1 + block(x))
            elif self.kind == "taken from":
                x = block(x) - x
            elif self.kind == "twice":
                h = block(x)
                x = torch.cat([x + h, h], 1)[:, :2]
            else:
                x = x + block(x)
        answer: Tensor = self.plain(x)
        return answer


X = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])


def test_blocks_are_found_by_trying() -> None:
    sites = sc.blocks(Deep(), X)
    assert {name: (site.size, site.kind) for name, site in sites.items()} == {"blocks": (3, "block")}
    assert sites.frozen == {"tail.0": "is no residual block"}


def test_magnitude_ranks_blocks_by_all_their_weights() -> None:
    model = Deep()
    scores = sc.criteria.Magnitude(p=1)(model, sc.blocks(model, X))
    assert scores["blocks"].tolist() == [2.0, 6.0, 4.0]


def test_a_block_is_skipped_and_the_others_keep_their_names() -> None:
    model = Deep()
    sites = sc.blocks(model, X)
    keep = {"blocks": torch.tensor([True, False, True])}
    small = sc.cut(model, sites, keep)
    masked = sc.mask(model, sites, keep)
    assert isinstance(small.get_submodule("blocks.1"), Skip)
    assert torch.equal(small(X), masked(X))
    assert set(model.state_dict()) - set(small.state_dict()) == {"blocks.1.fc.weight"}
    assert isinstance(model.get_submodule("blocks.1"), Block)


def test_every_block_may_go() -> None:
    model = Deep()
    small = sc.cut(model, sc.blocks(model, X), {"blocks": torch.zeros(3, dtype=torch.bool)})
    assert torch.equal(small(X), model.tail(X))


def test_a_resnet_loses_its_blocks() -> None:
    model = sc.models.build("resnet-18", width=0.125, input_size=32, seed=0)
    images = torch.randn(2, 3, 32, 32)
    sites = sc.blocks(model, images)
    assert {name: site.size for name, site in sites.items()} == {"layer1": 2, "layer2": 1, "layer3": 1, "layer4": 1}
    keep = sc.select(sc.criteria.Magnitude()(model, sites), 0.4, minimum=0)
    small = sc.cut(model, sites, keep)
    assert sc.measure.parameters(small).total < sc.measure.parameters(model).total


def test_transformer_layers_are_blocks() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), nn.Linear(8, 2)).eval()
    sites = sc.blocks(model, torch.randn(2, 5, 8))
    assert sites["0.layers"].size == 3
    small = sc.cut(model, sites, {"0.layers": torch.tensor([True, True, False])})
    assert len(small.state_dict()) < len(model.state_dict())


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="forward pass failed"):
        sc.blocks(Deep(), torch.ones(1, 3))


@pytest.mark.parametrize("kind", ["added", "in place", "taken away", "taken away in place", "scaled", "tuple"])
def test_a_block_that_the_model_adds_leaves_zeros(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Summed(kind)
    sites = sc.blocks(model, X)
    assert {name: site.size for name, site in sites.items()} == {"blocks": 3}
    assert dict(sites.frozen) == {"plain.0": "is no residual block", "plain.1": "is no residual block"}
    keep = {"blocks": torch.tensor([True, False, True])}
    small = sc.cut(model, sites, keep)
    torch.testing.assert_close(small(X), sc.mask(model, sites, keep)(X))
    assert isinstance(small.get_submodule("blocks.1"), Skip)
    result = sc.Result.of(model, sites, keep)
    again = sc.load(result.save(tmp_path / "small"), Summed(kind))
    assert torch.equal(again.eval()(X), result.model.eval()(X))


@pytest.mark.parametrize("kind", ["product", "twice", "taken from"])
def test_a_block_whose_zeros_go_elsewhere_stays(kind: str) -> None:
    assert not sc.blocks(Summed(kind), X)


class Forecaster(nn.Module):
    """One of the blocks of N-BEATS: what it explains of its input, and what it foretells, or the latter alone."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.fc, self.back, self.fore = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(8, 4)
        self.alone = alone

    def forward(self, x: Tensor) -> Any:
        h = self.fc(x).relu()
        return self.fore(h) if self.alone else (self.back(h), self.fore(h))


class Forecasts(nn.Module):
    """Sums that begin with zero, zeros, nothing, or the last value."""

    def __init__(self, start: str, alone: bool = False) -> None:
        super().__init__()
        self.blocks, self.start = nn.ModuleList([Forecaster(alone) for _ in range(3)]), start

    def forward(self, x: Tensor) -> Tensor:
        starts = {"zero": 0, "zeros": torch.zeros(len(x), 4), "nothing": None, "last": x[:, -1:]}
        forecast: Any = starts[self.start]
        for block in self.blocks:
            answers = block(x)
            y = answers if isinstance(answers, Tensor) else answers[1]
            x = x if isinstance(answers, Tensor) else (x - answers[0]).relu()
            forecast = y if forecast is None else forecast + y
        answer: Tensor = forecast
        return answer


@pytest.mark.parametrize("start", ["zero", "zeros", "nothing", "last"])
@pytest.mark.parametrize("alone", [True, False])
def test_blocks_whose_answers_are_summed_are_skipped(start: str, alone: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Forecasts(start, alone), torch.randn(3, 6)
    sites = sc.blocks(model, x)
    assert {name: site.size for name, site in sites.items()} == {"blocks": 3}
    for keep_mask in ([True, False, True], [False, True, True], [True, False, False]):
        keep = {"blocks": torch.tensor(keep_mask)}
        small, masked = sc.cut(model, sites, keep), sc.mask(model, sites, keep)
        for batch in (x, torch.randn(5, 6)):
            torch.testing.assert_close(small(batch), masked(batch))
    result = sc.Result.of(model, sites, keep)
    again = sc.load(result.save(tmp_path / "small"), Forecasts(start, alone))
    assert torch.equal(again.eval()(x), result.model.eval()(x))


def test_a_tuple_of_which_one_part_goes_elsewhere_stays() -> None:
    class Gated(Forecasts):
        def forward(self, x: Tensor) -> Tensor:
            return sum(fore + back.exp()[:, :4] for back, fore in (block(x) for block in self.blocks))  # type: ignore[return-value]

    assert not sc.blocks(Gated("zero"), torch.randn(3, 6))


def test_a_block_that_answers_no_zeros_is_not_taken_for_one() -> None:
    class Cosine(Branch):
        def forward(self, x: Tensor, factor: float = 1.0) -> Tensor:
            return self.fc(x).cos()

    model = Summed("")
    model.blocks[1] = Cosine()
    sites = sc.blocks(model, X)
    assert sites["blocks"].size == 2
    assert sites.frozen["blocks.1"] == "is no residual block"


class Read(Summed):
    """Uses more of its second block than the answer."""

    def forward(self, x: Tensor) -> Tensor:
        answer = super().forward(x)
        block = self.blocks[1]
        if self.kind == "weight" or (self.kind == "weight in training" and self.training):
            answer = answer + block.fc.weight.norm()
        if self.kind == "type":
            answer = answer.to(next(block.parameters()).dtype)
        if self.kind == "layer":
            answer = block.act(answer)
        return answer


@pytest.mark.parametrize("kind", ["weight", "weight in training", "type", "layer"])
def test_a_block_of_which_the_model_uses_more_than_the_answer_stays(kind: str) -> None:
    model = Read(kind)
    sites = sc.blocks(model, X)
    assert sites["blocks"].size == 2
    assert sites.frozen["blocks.1"].startswith("the model uses more of it than its answer (")
    keep = {"blocks": torch.zeros(2, dtype=torch.bool)}
    small, masked = sc.cut(model, sites, keep), sc.mask(model, sites, keep)
    assert torch.equal(small(X), masked(X))
    small.train()(X)


def test_blocks_that_are_not_called_are_named_with_the_reason() -> None:
    class ByLayers(Summed):
        def forward(self, x: Tensor) -> Tensor:
            block = self.blocks[0]
            answer: Tensor = x + block.act(block.fc(x))
            return answer

    sites = sc.blocks(ByLayers(""), X)
    assert not sites
    assert sites.frozen["blocks.0"].startswith("code calls its layers one by one")
    assert sites.frozen["blocks.1"] == "the example inputs never run it"
