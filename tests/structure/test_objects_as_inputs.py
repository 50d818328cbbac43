"""A forward pass that takes an object of one's own, which holds the tensors."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.types import InputError


@dataclass
class Batch:
    pixels: Tensor
    mask: Tensor | None = None
    name: str = "a"
    more: dict[str, list[Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frozen:
    pixels: Tensor
    scale: int = 2


class Plain:
    def __init__(self, pixels: Tensor) -> None:
        self.pixels, self.config = pixels, object()


class Holding:
    """It holds itself, and no tensor can be told from the next."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels, self.itself = pixels, self


class Model(nn.Module):
    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.norm = nn.LayerNorm(8) if normed else nn.Identity()

    def forward(self, batch: Any) -> Any:
        h = self.first(batch.pixels).relu()
        if getattr(batch, "mask", None) is not None:
            h = h * batch.mask
        return self.last(self.norm(h + self.second(h).relu()))


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(
    "batch",
    [Batch(X), Batch(X, torch.ones(3, 1), more={"other": [X.clone()]}), Frozen(X), Plain(X), SimpleNamespace(pixels=X)],
    ids=lambda b: type(b).__name__,
)
def test_a_model_that_takes_an_object_is_cut(batch: Any, by_name: bool, normed: bool) -> None:
    torch.manual_seed(0)
    model = Model(normed)
    inputs = {"batch": batch} if by_name else (batch,)
    sites = sc.channels(model, inputs)
    assert {name: site.size for name, site in sites.items()} == {"first": 8}
    keep = {"first": torch.arange(8) % 3 != 1}
    small = sc.cut(model, sites, keep)
    torch.testing.assert_close(small(batch), sc.mask(model, sites, keep)(batch))
    assert batch.pixels is X


class Twins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, left: Tensor, right: Tensor) -> Any:
        return self.last(self.norm(self.first(left).relu())) - 2 * self.last(self.norm(self.first(right)))


@pytest.mark.parametrize("form", ["module", "graph"])
def test_one_tensor_that_is_given_twice_is_two_inputs(form: Any) -> None:
    torch.manual_seed(0)
    model = Twins()
    sites = sc.channels(model, (X, X))
    keep = {"first": torch.arange(8) % 3 != 1}
    small, masked = sc.cut(model, sites, keep, form=form), sc.mask(model, sites, keep)
    torch.testing.assert_close(small(X, X + 1), masked(X, X + 1))


def test_an_object_that_holds_itself_is_refused() -> None:
    with pytest.raises(InputError, match="hold no tensor"):
        sc.channels(Model(False), (Holding(X),))


@dataclass
class Scaled:
    pixels: Tensor
    more: list[Tensor]
    scale: int = 2
    tags: list[str] = field(default_factory=list)


class Literal(nn.Module):
    """A size in the code that no attribute holds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, batch: Any) -> Any:
        return self.last(self.a(batch.pixels).view(-1, 2, 4).flatten(1).relu()) * getattr(batch, "scale", 1)


@pytest.mark.parametrize(
    "batch", [Batch(X), Frozen(X), Plain(X), Scaled(X, [X.clone()])], ids=lambda b: type(b).__name__
)
def test_a_graph_takes_objects(batch: Any) -> None:
    torch.manual_seed(0)
    result = sc.prune(Literal().eval(), (batch,), sparsity=0.4, latency=False)
    assert result.report.form == "graph"
    masked = sc.mask(result.original, result.sites, result.keep)
    for graph in (result.model, deepcopy(result.model), pickle.loads(pickle.dumps(result.model))):
        for pixels in (X, torch.randn(5, 4)):
            other = deepcopy(batch)
            object.__setattr__(other, "pixels", pixels)
            torch.testing.assert_close(graph(other), masked(other))


REFUSED: dict[str, tuple[Any, str]] = {
    "another value": (Scaled(X, [X], scale=3), "made with 2 as batch.scale, and takes no 3"),
    "another list": (Scaled(X, [X], tags=["b"]), r"made with \[\] as batch.tags, and takes no \['b'\]"),
    "more tensors": (Scaled(X, [X, X]), "batch.more with 1 entries, and was given 2"),
    "no tensors": (Scaled(X, []), "takes batch as it was in the example"),
    "another object": (Batch(X), "batch of this graph is a Scaled of 2 entries, and cannot be a Batch"),
}


@pytest.mark.parametrize(("batch", "words"), REFUSED.values(), ids=REFUSED)
def test_a_graph_refuses_objects_with_other_fields(batch: Any, words: str) -> None:
    torch.manual_seed(0)
    graph = sc.prune(Literal().eval(), (Scaled(X, [X.clone()]),), sparsity=0.4, latency=False).model
    with pytest.raises(InputError, match=words):
        graph(batch)
