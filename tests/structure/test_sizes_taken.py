"""A graph takes the sizes at which the original runs the same ops, answers as it does there, and refuses the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import secateur as sc
from secateur.structure.accepted import Shapes
from secateur.types import InputError


def crop_from_17_on(h: Tensor, n: int) -> Tensor:
    return h[:, -16:] if n > 16 else h


def pad_to_fours(h: Tensor, n: int) -> Tensor:
    h = F.pad(h, (0, 0, 0, -n % 4))
    return h.view(len(h), -1, 4, h.shape[-1]).flip(2).flatten(1, 2)


def pick_the_middle(h: Tensor, n: int) -> Tensor:
    middle = h[:, n // 2 : n // 2 + 1]
    return h + middle if n % 2 == 0 else h - middle


def double_large_batches(h: Tensor, _n: int) -> Tensor:
    return h * 2 if len(h) > 4 else h


def treat_one_sample_apart(h: Tensor, _n: int) -> Tensor:
    return h.flip(2) if len(h) == 1 else h


def resize_to_half(h: Tensor, n: int) -> Tensor:
    return F.interpolate(h.transpose(1, 2), size=max(8, n // 2)).transpose(1, 2)


def times_the_length(h: Tensor, n: int) -> Tensor:
    return h * min(n, 16)


def times_the_bits(h: Tensor, n: int) -> Tensor:
    return h * n.bit_length()


def branch_far_away(h: Tensor, n: int) -> Tensor:
    return h.flip(1) if n > 1000 else h


def same_as_the_batch(h: Tensor, n: int) -> Tensor:
    return h + h.transpose(0, 1) if n == len(h) else h


def turn_what_is_shorter_than_the_batch(h: Tensor, n: int) -> Tensor:
    return h.flip(1) if n < len(h) else h


def by_positions(h: Tensor, n: int) -> Tensor:
    return h * torch.arange(n)[:, None] / n


class Literal(nn.Module):
    """No module of this class can have other sizes: two and eight stand in the code."""

    def __init__(self, between: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.between = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3), between

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.a(x) + 0.5).relu().view(len(x), -1, 2, 8).flatten(2)
        made: Tensor = self.c(self.between(h, x.shape[1]))
        return made


ANY: Shapes = ((None, None, 6),)
CASES: dict[Callable[[Tensor, int], Tensor], Shapes] = {
    crop_from_17_on: ((None, (1, 16), 6),),
    pad_to_fours: ANY,
    pick_the_middle: ((None, (2, None), 6),),
    double_large_batches: (((1, 4), None, 6),),
    treat_one_sample_apart: (((2, None), None, 6),),
    resize_to_half: ANY,
    times_the_length: ANY,
    times_the_bits: ((None, 8, 6),),
    branch_far_away: ((None, (1, 1000), 6),),
    same_as_the_batch: ANY,
    turn_what_is_shorter_than_the_batch: ((None, (2, None), 6),),
    by_positions: ANY,
}
SHAPES = [
    (2, 8),
    (1, 8),
    (5, 8),
    (4, 1),
    (2, 4),
    (3, 7),
    (4, 4),
    (3, 9),
    (2, 12),
    (2, 16),
    (2, 17),
    (3, 32),
    (9, 2),
    (1, 1100),
]


def cut_graph(between: Callable[[Tensor, int], Tensor], samples: int = 2) -> tuple[sc.Result, nn.Module]:
    torch.manual_seed(0)
    result = sc.prune(Literal(between).eval(), torch.randn(samples, 8, 6), sparsity=0.4, latency=False)
    assert isinstance(result.model, GraphModule)
    return result, sc.mask(result.original, result.sites, result.keep)


@pytest.mark.parametrize("between", CASES, ids=lambda between: between.__name__)
def test_it_answers_as_the_masked_model_or_refuses(between: Callable[[Tensor, int], Tensor]) -> None:
    result, masked = cut_graph(between)
    assert result.report.shapes == CASES[between]
    refused = 0
    for batch, length in SHAPES:
        x = torch.randn(batch, length, 6)
        try:
            answers = result.model(x)
        except InputError:
            refused += 1
        else:
            torch.testing.assert_close(answers, masked(x), rtol=1e-4, atol=1e-5)
    assert refused < len(SHAPES) - 2, "the graph takes hardly anything"
    assert (refused == 0) == (CASES[between] == ANY and not result.report.conditions)


def test_conditions_are_said_and_checked() -> None:
    result, _ = cut_graph(pick_the_middle)
    even = "(inputs[0].shape[1] % 2) == 0"
    assert result.report.conditions == (even,)
    assert f"inputs of shape (any, 2 or more, 6) with {even}" in str(result.report)
    with pytest.raises(InputError, match=r"this graph takes inputs of which \(inputs\[0\].shape\[1\] % 2\) == 0 alone"):
        result.model(torch.randn(2, 9, 6))


def test_one_sample_is_an_example_of_any_batch() -> None:
    assert cut_graph(pad_to_fours, samples=1)[0].report.shapes == ANY


@pytest.mark.parametrize(
    "between", [crop_from_17_on, pick_the_middle, pad_to_fours, times_the_bits], ids=lambda b: b.__name__
)
def test_a_loaded_graph_takes_the_same(between: Callable[[Tensor, int], Tensor], tmp_path: Path) -> None:
    result, _ = cut_graph(between)
    again: Any = sc.load(result.save(tmp_path / "small"), Literal(between))
    assert again.meta["shapes"] == result.report.shapes
    assert again.meta["conditions"] == result.report.conditions
    for batch, length in SHAPES:
        x = torch.randn(batch, length, 6)
        try:
            expected = result.model(x)
        except InputError:
            with pytest.raises(InputError):
                again(x)
        else:
            assert torch.equal(again(x), expected)


class Windows(nn.Module):
    """Pads pictures to windows of four by four, and crops them again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        h = F.pad(self.a(x), (0, -width % 4, 0, -height % 4))
        b, c, padded_height, padded_width = h.shape
        means = h.reshape(b, c, padded_height // 4, 4, padded_width // 4, 4).mean((3, 5), keepdim=True)
        h = h + means.expand(-1, -1, -1, 4, -1, 4).reshape(h.shape)
        made: Tensor = self.c(self.b(h).view(b, 2, 8, padded_height, padded_width).flatten(1, 2).relu())
        return made[:, :, :height, :width]


def test_height_and_width_may_be_others() -> None:
    torch.manual_seed(0)
    result = sc.prune(Windows().eval(), torch.randn(1, 3, 8, 8), sparsity=0.4, latency=False)
    masked = sc.mask(result.original, result.sites, result.keep)
    assert result.report.shapes == ((None, 3, None, None),)
    for shape in [(2, 3, 12, 12), (1, 3, 9, 8), (2, 3, 10, 11), (3, 3, 1, 6)]:
        x = torch.randn(shape)
        torch.testing.assert_close(result.model(x), masked(x), rtol=1e-4, atol=1e-5)


class TwoLengths(nn.Module):
    """A source and a target whose lengths are free, and a mask of the source, whose length is not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        keys, queries = ((f(x).view(len(x), -1, 2, 8)).flatten(2) for f, x in ((self.a, source), (self.b, target)))
        weights = (queries @ keys.transpose(1, 2) / 4).masked_fill(~mask[:, None], -9.0).softmax(-1)
        made: Tensor = self.c(weights @ keys)
        return made


def test_lengths_that_must_be_one_are_checked() -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(2, 5, 6), torch.randn(2, 7, 6), torch.rand(2, 5) > 0.3)
    result = sc.prune(TwoLengths().eval(), inputs, sparsity=0.4, latency=False, form="graph")
    masked = sc.mask(result.original, result.sites, result.keep)
    assert result.report.shapes == ((None, None, 6), (None, None, 6), (None, None))
    others = (torch.randn(3, 9, 6), torch.randn(3, 4, 6), torch.ones(3, 9, dtype=torch.bool))
    torch.testing.assert_close(result.model(*others), masked(*others), rtol=1e-4, atol=1e-5)
    for wrong in [(others[0], others[1][:2], others[2]), (others[0], others[1], others[2][:, :1])]:
        with pytest.raises(InputError, match="this graph takes inputs of which inputs"):
            result.model(*wrong)


class PaddedWindows(nn.Module):
    """Pads a height to whole windows before each layer: what the sizes are grows with every one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if n == 0 else 4, 4, 3, stride=2, padding=1) for n in range(4))
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.pad(x, (0, -x.shape[3] % 7, 0, -x.shape[2] % 7))
            x = layer(x).relu()
        answer: Tensor = self.fc(x.mean((2, 3)))
        return answer


def test_of_sizes_that_grow_without_end_the_batch_alone_is_free() -> None:
    torch.manual_seed(0)
    model, x = PaddedWindows().eval(), torch.randn(2, 3, 32, 32)
    sites = sc.channels(model, x)
    keep = sc.select(sc.criteria.Magnitude()(model, sites), 0.5, scope="layer", sites=sites)
    graph = sc.cut(model, sites, keep, form="graph")
    assert graph.meta["shapes"] == ((None, 3, 32, 32),)
    more = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(graph(more), sc.mask(model, sites, keep)(more))


class Joined(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y.mean(1, keepdim=True)


class Sent(nn.Module):
    """The size of what goes from one part to another is given to what a third one made, as in some transformers of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.caption = nn.Linear(8, 24), nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 24))
        self.second, self.joined, self.last = nn.Linear(24, 64), Joined(), nn.Linear(64, 4)
        self.first = nn.Linear(24, 64)

    def forward(self, x: Tensor, caption: Tensor) -> Tensor:
        h = self.embed(x)
        c = self.caption(caption)
        c = c.view(len(c), -1, h.shape[-1])
        answer: Tensor = self.last(self.joined(self.first(h), self.second(c)))
        return answer


class Returned(nn.Module):
    """The size of what it computes is given to what it returns, of the same shape."""

    def __init__(self, exported: bool) -> None:
        super().__init__()
        self.exported = exported
        self.first, self.mid, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1), nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.mid(F.softmax(self.first(x), -1) if self.exported else self.first(x).relu())
        n, channels, height, width = h.shape
        return self.last(h.flatten(2)).reshape(n, channels, height, width)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Sent(), (torch.randn(2, 5, 8), torch.randn(2, 7, 6))),
        (Returned(True), (torch.randn(2, 3, 6, 6),)),
    ],
    ids=["sent", "returned"],
)
def test_a_size_that_is_read_of_what_goes_on_makes_no_graph(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    torch.manual_seed(0)
    sites = sc.channels(model, inputs)
    assert sites
    keep = {name: torch.arange(site.size) % (number + 2) != 1 for number, (name, site) in enumerate(sites.items())}
    small, masked = sc.cut(model, sites, keep), sc.mask(model, sites, keep)
    assert type(small) is type(model)
    torch.testing.assert_close(small(*inputs), masked(*inputs))


def test_a_network_that_was_recorded_is_written_as_a_graph() -> None:
    model, x = Returned(False), torch.randn(2, 3, 6, 6)
    sites = sc.channels(model, x)
    keep = {name: torch.arange(site.size) % 3 != 1 for name, site in sites.items()}
    small, masked = sc.cut(model, sites, keep), sc.mask(model, sites, keep)
    assert isinstance(small, GraphModule)
    torch.testing.assert_close(small(x), masked(x))
