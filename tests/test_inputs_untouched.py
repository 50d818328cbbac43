"""A model that writes into its inputs: the caller's tensors stay as they are, and every run begins with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import secateur as sc
from secateur.measure import latency, macs
from secateur.types import InputError


class Writes(nn.Module):
    """Scales its input in place, with a norm on the way or without."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 16), norm or nn.Identity(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x *= 2
        x.add_(1)
        made: Tensor = self.b(self.norm(self.a(x)).relu())
        return made


@pytest.mark.parametrize("norm", [None, nn.LayerNorm(16), nn.BatchNorm1d(16)], ids=str)
@pytest.mark.parametrize("form", ["module", "graph"])
def test_an_example_is_as_it_was(form: Any, norm: nn.Module | None, tmp_path: Path) -> None:
    model, x = Writes(norm).eval(), torch.randn(4, 6)
    before = x.clone()
    result = sc.prune(model, x, sparsity=0.4, form=form)
    assert isinstance(result.model, GraphModule) == (form == "graph")
    masked = sc.mask(model, result.sites, result.keep)
    str(result.report)
    again = sc.load(result.save(tmp_path / "small"), Writes(norm).eval())
    assert torch.equal(x, before)
    answers = [each(x.clone()) for each in (result.model, masked, again)]
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-5, atol=1e-6)
    assert torch.equal(answers[0], answers[2])


MEASURES: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "latency": latency,
    "macs": macs,
    "blocks": sc.blocks,
    "loss change": lambda model, x: sc.criteria.LossChange((x, torch.zeros(len(x), dtype=torch.long)))(
        model, sc.channels(model, x)
    ),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_so_is_it_after(measure: Callable[[nn.Module, Tensor], Any]) -> None:
    x = torch.randn(4, 6)
    before = x.clone()
    measure(Writes().eval(), x)
    assert torch.equal(x, before)


def test_data_are_as_they_were() -> None:
    x, y = torch.randn(40, 6), torch.randint(0, 3, (40,))
    before = x.clone()
    model = Writes().eval()
    sc.prune(model, x[:4], "loss-change", 0.4, data=(x, y), latency=False)
    sc.evaluate(model, (x, y))
    sc.fit(model, (x, y), epochs=1)
    assert torch.equal(x, before)


class Cache:
    """Keeps what layers computed, as language models do, and a lock, which cannot be copied."""

    def __init__(self, *layers: Tensor) -> None:
        self.layers, self.length, self.lock = list(layers), 0, Lock()

    def update(self, x: Tensor) -> Tensor:
        with self.lock:
            self.layers.append(x)
            self.length += 1
        return x


class Caching(nn.Module):
    """Puts what it computes into an object that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        answers: Tensor = self.b(self.a(x if cache is None else cache.update(x)).relu())
        return answers


@pytest.mark.parametrize("cached", [0, 1])
@pytest.mark.parametrize("as_dict", [False, True])
def test_an_object_among_the_inputs_is_as_it_was(cached: int, as_dict: bool, tmp_path: Path) -> None:
    model, x, cache = Caching().eval(), torch.randn(4, 6), Cache(*[torch.ones(2)] * cached)
    example: Any = {"x": x, "cache": cache} if as_dict else (x, cache)
    sites = sc.channels(model, example)
    keep = sc.select(sc.criteria.Magnitude()(model, sites), 0.4)
    sc.cut(model, sites, keep)
    sc.criteria.SynFlow(example)(model, sites)
    sc.mask(model, sites, keep)(x)
    macs(model, example), latency(model, example), sc.blocks(Writes().eval(), x)
    result = sc.prune(model, example, sparsity=0.4)
    sc.load(result.save(tmp_path / "small"), Caching().eval())
    assert (len(cache.layers), cache.length) == (cached, 0)
    assert (
        len(sites.structure.graph.args[1].layers if not as_dict else sites.structure.graph.kwargs["cache"].layers)
        == cached
    )


class Joined(Cache):
    """Keeps one tensor, which takes the place of the one before."""

    def update(self, x: Tensor) -> Tensor:
        self.layers = [torch.cat([*self.layers, x])]
        if len(self.layers[0]) > 4:
            raise IndexError("full")
        return x


def test_every_run_that_is_timed_begins_with_the_same_object() -> None:
    assert latency(Caching().eval(), (torch.randn(3, 6), Joined(torch.ones(1, 6))), repeats=3, warmup=1).median > 0


class Rigid(Cache):
    """Cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("one only")


def test_what_holds_tensors_and_cannot_be_copied_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"example_inputs\['cache'\], a Rigid, holds tensors and cannot be copied \(Run.*one only"
    ):
        sc.channels(Caching().eval(), {"x": torch.randn(4, 6), "cache": Rigid(torch.ones(2))})


class Branching(Writes):
    """Decides by a value in train mode, as no export can follow."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x).view(len(x), 4, 4).flatten(1)
        if self.training and hidden.sum() > 0:
            hidden = -hidden
        made: Tensor = self.b(hidden.relu())
        return made


def test_a_failed_export_leaves_no_mark_on_a_tensor() -> None:
    x = torch.randn(4, 6)
    result = sc.prune(Branching().eval(), x, sparsity=0.4, latency=False)
    assert "train mode" in result.model.meta["eval_only"]
    assert not vars(x)


class Named(nn.Module):
    """Takes whatever is given by name."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, **kwargs: Tensor) -> Tensor:
        made: Tensor = self.b(self.a(x * kwargs["scale"]).view(-1, 2, 4).flatten(1).relu())
        return made


def test_a_graph_of_what_is_given_by_name_takes_any_batch() -> None:
    model = Named().eval()
    result = sc.prune(model, {"x": torch.randn(2, 6), "scale": torch.ones(2, 6)}, sparsity=0.4, latency=False)
    assert result.model.meta["shapes"][0] == (None, 6)
    x, scale = torch.randn(5, 6), torch.randn(5, 6)
    masked = sc.mask(model, result.sites, result.keep)
    torch.testing.assert_close(result.model(x, scale=scale), masked(x, scale=scale))


class Nested(nn.Module):
    """Takes a pair by the names of its fields, and a list that it adds to."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, pair: Any, more: list[Tensor]) -> Tensor:
        more.append(pair.first)
        made: Tensor = self.b(self.a(pair.first + pair.second + more[0]).relu())
        return made


class Pair(NamedTuple):
    """Two inputs."""

    first: Tensor
    second: Tensor


def test_what_holds_tensors_is_of_its_own_type_and_as_it_was() -> None:
    example = (Pair(torch.randn(2, 6), torch.randn(2, 6)), [torch.randn(2, 6)])
    result = sc.prune(Nested().eval(), example, sparsity=0.4)
    assert result.report.change is not None
    assert len(example[1]) == 1
