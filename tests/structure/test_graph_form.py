"""The graph form of a cut model: any batch size, the same keys, saved and loaded."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import secateur as sc
import zoo
from secateur.types import VerificationError

NAMES = ("fused_qkv", "grouped_query", "relative_position", "rotary", "linear_view_deconv")


def cut_graph(name: str, samples: int) -> tuple[torch.nn.Module, torch.Tensor, sc.Sites, dict[str, torch.Tensor]]:
    model, inputs = zoo.build(name)
    batch = torch.cat([inputs[0]] * 3)[:samples]
    sites = sc.channels(model, batch)
    return model, batch, sites, sc.select(sc.criteria.Magnitude()(model, sites), 0.3, scope="layer")


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_a_graph_takes_any_batch_size(name: str, samples: int) -> None:
    model, batch, sites, keep = cut_graph(name, samples)
    graph = sc.cut(model, sites, keep, form="graph")
    assert isinstance(graph, GraphModule)
    more = torch.randn(5, *batch.shape[1:], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together, apart = graph(more), torch.cat([graph(one) for one in more.split(1)])
    torch.testing.assert_close(together, apart)


def test_a_graph_has_the_keys_of_the_module() -> None:
    model, _, sites, keep = cut_graph("fused_qkv", 2)
    graph = sc.cut(model, sites, keep, form="graph")
    assert list(graph.state_dict()) == list(model.state_dict())


def test_a_plain_model_can_be_had_as_a_graph_and_saved(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    result = sc.prune(model, torch.ones(1, 3), sparsity=0.5, form="graph", latency=False)
    assert isinstance(result.model, GraphModule)
    again = sc.load(result.save(tmp_path / "small"), model)
    x = torch.randn(4, 3)
    assert torch.equal(again(x), result.model(x))


class ListedTwice(nn.Module):
    """Returns the list of its features under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> dict[str, object]:
        hidden = self.stem(x).relu()
        features = [self.fc(hidden.view(-1, 2, 4).flatten(1)), x]
        return {"first": {"features": features}, "second": {"features": features}}


def test_a_list_that_is_returned_twice_is_two_in_a_graph() -> None:
    torch.manual_seed(0)
    model, x = ListedTwice().eval(), torch.randn(2, 3)
    sites = sc.channels(model, x)
    keep = sc.select(sc.criteria.Magnitude()(model, sites), 0.5, scope="layer", sites=sites)
    graph = sc.cut(model, sites, keep, form="graph")
    answers, expected = graph(x), sc.mask(model, sites, keep)(x)
    assert graph.get_parameter("fc.weight").shape == (2, 4)
    for name in ("first", "second"):
        torch.testing.assert_close(answers[name]["features"], expected[name]["features"])


class Codes(nn.Module):
    """The channels of each pixel in a row, as a quantiser of vectors takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 8, 1), nn.Linear(8, 8)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.stem(x).permute(0, 2, 3, 1).contiguous()
        answers: Tensor = self.fc(self.mix(rows.view(-1, 2, 4).flatten(1)).relu())
        return answers


def test_a_graph_views_tensors_that_are_laid_out_otherwise_than_on_the_example() -> None:
    torch.manual_seed(0)
    model, x = Codes().eval(), torch.randn(2, 3, 4, 4)
    sites = sc.channels(model, x.to(memory_format=torch.channels_last))
    keep = sc.select(sc.criteria.Magnitude()(model, sites), 0.5, scope="layer", sites=sites)
    graph = sc.cut(model, sites, keep, form="graph")
    torch.testing.assert_close(graph(x), sc.mask(model, sites, keep)(x))


class PaddedShortcut(nn.Module):
    """A shortcut whose channels are those of the block's input and zeros, taken as data."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.fc, self.more = nn.Linear(8, 2), 4

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        zeros = torch.zeros(x.size(0), self.more, *x.shape[2:])
        x = (self.block(x) + torch.cat([x.data, zeros], dim=1)).relu()
        answers: Tensor = self.fc(x.mean((2, 3)))
        return answers


def test_data_of_a_tensor_is_traced() -> None:
    torch.manual_seed(0)
    model, x = PaddedShortcut().eval(), torch.randn(2, 3, 4, 4)
    sites = sc.channels(model, x)
    keep = {"stem": torch.tensor([True, False, True, True])}
    small = sc.cut(model, sites, keep)
    torch.testing.assert_close(small(x), sc.mask(model, sites, keep)(x))
    assert small.get_parameter("block.weight").shape == (7, 3, 3, 3)


class Storing(torch.nn.Module):
    """Keeps a number of its own, and a parameter that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out, self.spare = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2), torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x.cosh().sum()
        out: torch.Tensor = self.out(self.a(x).relu())
        return out


def test_what_does_not_come_out_is_no_part_of_a_graph_but_all_tensors_are() -> None:
    model = Storing()
    sites = sc.channels(model, torch.ones(2, 3))
    graph = sc.cut(model, sites, {"a": torch.tensor([True, False, True, True])}, form="graph")
    assert isinstance(graph, GraphModule)
    assert not [node for node in graph.graph.nodes if "cosh" in node.name]
    assert graph.state_dict().keys() == model.state_dict().keys()


class Chunks(torch.nn.Module):
    """Chunks of a layer's outputs, with a layer for each."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.number, self.a = len(sizes), torch.nn.Linear(3, 8)
        self.outs = torch.nn.ModuleList(torch.nn.Linear(size, 2) for size in sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = sum(f(part) for f, part in zip(self.outs, self.a(x).chunk(self.number, -1), strict=True))
        return out


@pytest.mark.parametrize(
    ("sizes", "call"),
    [
        ((4, 4), {"aten.chunk.default": (2, -1)}),  # tied, as every unit has its place in both
        ((3, 3, 2), {"aten.split_with_sizes.default": ([3, 3, 1], -1)}),
    ],
)
def test_chunks_of_other_sizes_become_parts_of_these_sizes(sizes: tuple[int, ...], call: dict[str, object]) -> None:
    model, x = Chunks(sizes), torch.ones(2, 3)
    sites = sc.channels(model, x)
    keep = {name: torch.arange(site.size) > at - (len(sites) > 1) for at, (name, site) in enumerate(sites.items())}
    graph = sc.cut(model, sites, keep, form="graph")
    assert isinstance(graph, GraphModule)
    names = {"aten.chunk.default", "aten.split.Tensor", "aten.split_with_sizes.default"}
    assert {str(node.target): node.args[1:] for node in graph.graph.nodes if str(node.target) in names} == call


class DoubleWhereWide(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        if h.shape[1] == 8:
            h = h * 2
        return h


class ScaleByTheWidth(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h / h.shape[1]


class TakeHalves(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([h[:, :4], h[:, 4:].flip(1)], 1)


class OfItsWidth(torch.nn.Module):
    """Answers otherwise at another width."""

    def __init__(self, change: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.change = torch.nn.Linear(3, 8), torch.nn.Linear(8, 2), change

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.b(self.change(self.a(x)).relu())
        return answers


@pytest.mark.parametrize("change", [DoubleWhereWide, ScaleByTheWidth, TakeHalves])
def test_a_module_that_answers_otherwise_is_refused_by_the_line_that_stands_in_the_way(change: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = OfItsWidth(change()).eval()
    sites = sc.channels(model, torch.randn(2, 3))
    keep = {"a": torch.arange(sites["a"].size) < 3}
    assert isinstance(sc.cut(model, sites, keep), GraphModule)
    with pytest.raises(VerificationError, match=r'answers otherwise .* from aten.* Allow form="graph"') as refused:
        sc.cut(model, sites, keep, form="module")
    first = inspect.getsourcelines(change)[1]
    line = re.search(r"test_graph_form.py:(\d+)", str(refused.value))
    assert line is not None
    assert first < int(line[1]) <= first + 3


def test_a_graph_runs_under_vmap() -> None:
    model, batch, sites, keep = cut_graph("linear_view_deconv", 2)
    graph = sc.cut(model, sites, keep, form="graph")
    several = torch.stack([batch, batch + 1, 2 * batch])
    expected = torch.stack([graph(each) for each in several])
    torch.testing.assert_close(torch.vmap(graph)(several), expected)
