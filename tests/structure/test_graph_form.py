"""The graph form of a cut model: any batch size, the same keys, saved and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.fx import GraphModule

import secateur as sc
import zoo

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
