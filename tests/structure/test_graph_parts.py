"""The submodules of a graph: their modes are followed, and what would have no effect is refused; graphs are copied and pickled."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import secateur as sc
from secateur.types import InputError


class Backbone(nn.Module):
    """Layers that read the mode, and one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5)
        self.again = self.drop

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.drop(self.norm(self.conv(x))).flatten(2).mean(2))


class Literal(nn.Module):
    """A size in the code that no attribute holds."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.hidden, self.head = Backbone(), nn.Linear(8, 8), nn.Linear(8, 3, bias=False)
        self.width, self.table, self.more = 8, torch.ones(3), nn.ModuleList([nn.Identity(), nn.Dropout(0.2)])

    def forward(self, x: Tensor, names: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        h = self.hidden(self.more[1](self.backbone(x))).view(-1, 2, 4).flatten(1)
        h = nn.functional.dropout(h, 0.1, self.training)
        return {"scores": self.head(h.relu()) * self.table + (0 if names is None else names["bias"])}


def pruned(model: nn.Module | None = None) -> sc.Result:
    torch.manual_seed(0)
    example = {"x": torch.randn(2, 3, 6, 6), "names": {"bias": torch.randn(2, 3)}}
    result = sc.prune(model or Literal().eval(), example, sparsity=0.3, latency=False)
    assert result.report.form == "graph"
    return result


X, NAMES = torch.randn(9, 3, 6, 6, generator=torch.Generator().manual_seed(1)), {"bias": torch.zeros(9, 3)}


def freeze_by_class(module: Any) -> None:
    module.train()
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm2d, nn.Dropout)):
            part.eval()


MODES: dict[str, Callable[[Any], Any]] = {
    "all in train mode": lambda m: m.train(),
    "all in eval mode": lambda m: m.eval(),
    "a submodule in eval mode": lambda m: m.train().backbone.eval(),
    "a layer in eval mode": lambda m: m.train().backbone.norm.eval(),
    "a layer in train mode": lambda m: m.eval().backbone.norm.train(),
    "a layer by its other name": lambda m: m.train().backbone.again.eval(),
    "a layer by its number": lambda m: m.train().more[1].eval(),
    "the whole alone in train mode": lambda m: (m.eval(), setattr(m, "training", True)),
    "layers by their class": freeze_by_class,
}


@pytest.mark.parametrize("set_modes", MODES.values(), ids=MODES)
def test_modes_of_submodules_are_followed(set_modes: Callable[[Any], Any]) -> None:
    result = pruned()
    masked = sc.mask(result.original, result.sites, result.keep)
    answers = []
    for module in (result.model, masked):
        set_modes(module)
        torch.manual_seed(2)
        drawn = [module(X, NAMES)["scores"] for _ in range(2)]
        answers.append((torch.equal(*drawn), int(module.get_buffer("backbone.norm.num_batches_tracked"))))
    assert answers[0] == answers[1]
    kept = result.keep["backbone.conv"].flatten()
    for name in ("running_mean", "running_var"):
        full = masked.get_buffer(f"backbone.norm.{name}")[kept]
        torch.testing.assert_close(result.model.get_buffer(f"backbone.norm.{name}"), full)


def test_modes_are_those_of_the_model() -> None:
    model = Literal().train()
    model.backbone.norm.eval()
    graph = pruned(model).model
    assert {name: m.training for name, m in graph.named_modules()} == {
        name: m.training for name, m in model.named_modules()
    }


def test_a_graph_has_the_submodules_of_the_model() -> None:
    result = pruned()
    graph: Any = result.model
    assert [name for name, _ in graph.named_modules()] == [name for name, _ in result.original.named_modules()]
    assert graph.backbone.again is graph.backbone.drop
    assert list(graph.state_dict()) == list(result.original.state_dict())
    assert graph.head.bias is None
    assert (graph.backbone.drop.p, graph.backbone.conv.out_channels) == (0.5, len(graph.backbone.conv.weight))
    assert "(norm): GraphPart(BatchNorm2d)" in str(graph.backbone)


WITHOUT_EFFECT: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an attribute of a layer": (lambda m: setattr(m.backbone.drop, "p", 0.0), "p of a graph's Dropout cannot be set"),
    "an attribute": (lambda m: setattr(m, "width", 4), "width of a graph's Literal cannot be set"),
    "a hook": (lambda m: m.backbone.register_forward_hook(print), "a hook on a Backbone of a graph would never run"),
    "a hook before": (lambda m: m.head.register_forward_pre_hook(print), "a hook on a Linear of a graph"),
    "a hook backwards": (lambda m: m.head.register_full_backward_hook(print), "a hook on a Linear of a graph"),
    "another layer": (
        lambda m: setattr(m.backbone, "drop", nn.Identity()),
        "drop of a graph's Backbone cannot be another",
    ),
    "another submodule": (
        lambda m: setattr(m, "head", nn.Linear(8, 5)),
        "head of a graph's Literal cannot be another module",
    ),
    "one more submodule": (lambda m: m.add_module("last", nn.ReLU()), "last of a graph's Literal cannot be another"),
    "one more layer": (lambda m: m.more.append(nn.ReLU()), "of a graph's .* cannot be another module"),
    "a layer between": (lambda m: m.more.insert(0, nn.ReLU()), "of a graph's .* cannot be another module"),
    "a layer less": (lambda m: m.more.__delitem__(0), "of a graph's .* cannot be another module"),
    "no layer": (lambda m: delattr(m.backbone, "drop"), "drop of a graph's Backbone cannot be another"),
    "no submodule": (lambda m: delattr(m, "head"), "head of a graph's Literal cannot be another"),
    "no weight": (lambda m: delattr(m.head, "weight"), "weight of a graph's Linear cannot be taken away"),
    "a computed weight": (
        lambda m: nn.utils.parametrizations.weight_norm(m.head),
        "weight of a graph's Linear cannot be taken away or computed",
    ),
    "a masked weight": (
        lambda m: prune.l1_unstructured(m.head, "weight", 0.5),
        "weight_orig of a graph's Linear would never be read",
    ),
    "one more tensor": (
        lambda m: m.register_buffer("more_numbers", X),
        "more_numbers of a graph's Literal would never",
    ),
    "a part": (lambda m: m.backbone(X), "a Backbone of a graph does not run by itself"),
}


@pytest.mark.parametrize(("change", "words"), WITHOUT_EFFECT.values(), ids=WITHOUT_EFFECT)
def test_what_would_have_no_effect_is_refused(change: Callable[[Any], Any], words: str) -> None:
    graph = pruned().model
    for each in (graph, copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        before = each.eval()(X, NAMES)["scores"]
        with pytest.raises(InputError, match=words):
            change(each)
        assert torch.equal(each(X, NAMES)["scores"], before)


def test_what_has_an_effect_is_not() -> None:
    graph: Any = pruned().model
    graph.head.weight = nn.Parameter(torch.zeros_like(graph.head.weight))
    graph.table = torch.zeros(3)
    graph.mine = 3
    seen: list[Any] = []
    graph.register_forward_hook(lambda *_: seen.append(1))
    assert not graph(X, NAMES)["scores"].any()
    assert seen
    assert graph.to(torch.float64)(X.double(), {"bias": NAMES["bias"].double()})["scores"].dtype is torch.float64


def saved_and_loaded(graph: Any) -> Any:
    file = io.BytesIO()
    torch.save(graph, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda graph: pickle.loads(pickle.dumps(graph)),
    "torch.save": saved_and_loaded,
    "twice": lambda graph: copy.deepcopy(pickle.loads(pickle.dumps(copy.deepcopy(graph)))),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_is_the_same_graph(copied: Callable[[Any], Any]) -> None:
    graph: Any = pruned().model
    graph.train().backbone.norm.eval()
    other = copied(graph)
    assert other.code == graph.code
    assert other.meta == graph.meta
    assert type(other).__name__ == type(graph).__name__ == "CutLiteral"
    assert {name: m.training for name, m in other.named_modules()} == {n: m.training for n, m in graph.named_modules()}
    assert list(other.state_dict()) == list(graph.state_dict())
    assert torch.equal(other.eval()(X, NAMES)["scores"], graph.eval()(X, NAMES)["scores"])
    with pytest.raises(InputError, match="the entries 'bias' in this order"):
        other(X, {})
    assert sc.channels(other, {"x": X, "names": NAMES}).keys() == sc.channels(graph, {"x": X, "names": NAMES}).keys()


def test_a_deep_copy_shares_nothing() -> None:
    graph: Any = pruned().model
    other = copy.deepcopy(graph)
    other.head.weight.data.zero_()
    other.train()
    assert graph.head.weight.any()
    assert not graph.backbone.drop.training


def test_a_graph_is_cut_again() -> None:
    first: Any = pruned().model
    again = sc.prune(first, {"x": X, "names": NAMES}, sparsity=0.3, latency=False)
    graph: Any = again.model
    assert again.report.form == "graph"
    assert len(graph.backbone.conv.weight) < len(first.backbone.conv.weight)
    assert isinstance(graph.backbone.norm, nn.BatchNorm2d)
    with pytest.raises(InputError, match="p of a graph's Dropout cannot be set"):
        graph.backbone.drop.p = 0.1
    assert copy.deepcopy(graph)(X, NAMES)["scores"].shape == (9, 3)
