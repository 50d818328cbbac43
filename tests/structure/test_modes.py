"""A graph in train mode computes what the model does in it, or refuses in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import secateur as sc
from secateur.types import InputError


class Literal(nn.Module):
    """Layers that read the mode, and a size in the code that no attribute holds."""

    def __init__(self, flips: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5)
        self.hidden, self.head, self.flips = nn.Linear(8, 8), nn.Linear(8, 3), flips

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x)).flatten(2).mean(2)
        h = self.hidden(h).view(-1, 2, 4).flatten(1)
        if self.flips and self.training:
            h = h.flip(1)
        made: Tensor = self.head(F.dropout(self.drop(h).relu(), 0.1, self.training))
        return made


def pruned(model: nn.Module) -> sc.Result:
    result = sc.prune(model, torch.randn(2, 3, 6, 6), sparsity=0.3, latency=False, form="graph")
    assert isinstance(result.model, GraphModule)
    return result


def test_norms_take_the_statistics_of_the_batch_and_keep_them() -> None:
    torch.manual_seed(0)
    result = pruned(Literal().train())
    masked = sc.mask(result.original, result.sites, result.keep)
    assert result.model.training
    for module in (result.model, masked):
        module.train()
        with torch.no_grad():
            module(torch.randn(9, 3, 6, 6, generator=torch.Generator().manual_seed(1)))
    kept = result.keep["conv"].flatten()
    norm: Any = masked.norm
    torch.testing.assert_close(result.model.get_buffer("norm.running_mean"), norm.running_mean[kept])
    torch.testing.assert_close(result.model.get_buffer("norm.running_var"), norm.running_var[kept])
    assert int(result.model.get_buffer("norm.num_batches_tracked")) == 1
    x = torch.randn(5, 3, 6, 6)
    torch.testing.assert_close(result.model.eval()(x), masked.eval()(x))


def test_units_are_dropped_in_train_mode_alone() -> None:
    graph, x = pruned(Literal().eval()).model, torch.randn(5, 3, 6, 6)
    assert not graph.training
    assert torch.equal(graph(x), graph(x))
    graph.train()
    assert not torch.equal(graph(x), graph(x))


def test_a_branch_on_the_mode_is_refused_in_words() -> None:
    result = pruned(Literal(flips=True).train())
    assert "the graph is for inference: train mode runs aten.flip" in str(result.report)
    assert not result.model.training
    x = torch.randn(2, 3, 6, 6)
    result.model(x)
    with pytest.raises(
        InputError, match=r"in eval mode alone: train mode runs aten.flip .* Call .eval\(\) on it first"
    ):
        result.model.train()(x)


@pytest.mark.parametrize("flips", [False, True])
def test_a_loaded_graph_does_the_same(flips: bool, tmp_path: Path) -> None:
    result = pruned(Literal(flips).train())
    again = sc.load(result.save(tmp_path / "small"), Literal(flips))
    x = torch.randn(4, 3, 6, 6)
    for graph in (result.model, again):
        graph.train()
        torch.manual_seed(3)
        if flips:
            with pytest.raises(InputError, match="in eval mode alone"):
                graph(x)
        else:
            graph(x)
    assert torch.equal(again.get_buffer("norm.running_mean"), result.model.get_buffer("norm.running_mean"))
    assert torch.equal(again.eval()(x), result.model.eval()(x))


def test_a_graph_can_be_trained() -> None:
    graph = pruned(Literal().train()).model
    optimizer = torch.optim.SGD(graph.parameters(), 0.1)
    x, y = torch.randn(16, 3, 6, 6), torch.randint(0, 3, (16,))
    before = float(F.cross_entropy(graph.eval()(x), y).detach())
    graph.train()
    for _ in range(60):
        loss = F.cross_entropy(graph(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(F.cross_entropy(graph.eval()(x), y).detach()) < 0.9 * before
