"""The shapes inside a cut module are those that the axes foretell; a run on the example shows it, or else a trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.structure import cutting, inner_shapes
from secateur.structure.inner_shapes import ShapeLog
from secateur.structure.reference import Reference
from secateur.types import CutError


class Attention(nn.Module):
    """Splits by attributes, and joins by the shape of what it is given."""

    def __init__(self, by_function: bool) -> None:
        super().__init__()
        self.heads, self.width, self.by_function = 4, 4, by_function
        self.norm, self.qkv, self.out = nn.LayerNorm(6), nn.Linear(6, 48), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        h = x.softmax(-1) if self.by_function else self.norm(x)
        qkv = self.qkv(h).reshape(batch, length, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        h = torch.softmax(q @ k.transpose(-2, -1), -1) @ v
        made: Tensor = x + self.out(h.transpose(1, 2).reshape(batch, length, self.heads * self.width))
        return made


class Embedded(nn.Module):
    def __init__(self, by_function: bool) -> None:
        super().__init__()
        self.first, self.blocks = nn.Linear(5, 6), nn.Sequential(*(Attention(by_function) for _ in range(2)))
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(self.blocks(self.first(x)))
        return made


class Parts(nn.Module):
    """Takes its units apart by a number in its code; where it does nothing with the parts, no answer shows which they were."""

    def __init__(self, part: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.fc, self.out, self.part = nn.Linear(3, 6), nn.Linear(6, 2), part

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(torch.cat(list(self.part(self.fc(x))), 1))
        return made


def keep_of(sites: sc.Sites) -> dict[str, Tensor]:
    return {name: torch.arange(site.size) % 2 == 0 for name, site in sites.items()}


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the cut module is traced with."""
    calls: list[str] = []
    whole = inner_shapes.trace

    def noted(model: nn.Module, *args: Any, **options: Any) -> Any:
        calls.append(type(model).__name__)
        return whole(model, *args, **options)

    monkeypatch.setattr(inner_shapes, "trace", noted)
    return calls


@pytest.mark.parametrize("by_function", [False, True])
def test_sizes_that_follow_take_no_trace(by_function: bool, traced: list[str]) -> None:
    torch.manual_seed(0)
    model, x = Embedded(by_function).eval(), torch.randn(2, 7, 5)
    sites = sc.channels(model, x)
    assert (Reference(model, sites, keep_of(sites)).norms is None) == by_function
    small = cutting.cut_with_plan(model, sites, keep_of(sites), form="module")
    assert small.model.get_submodule("blocks.0").heads == 2
    assert small.verification.double is not None
    assert small.verification.double < 1e-12
    assert not traced


@pytest.mark.parametrize(
    "part",
    [lambda h: (h[:, :2], h[:, 2:]), lambda h: (h.narrow(1, 0, 2), h[:, 2:]), lambda h: (h[:, :-4].tanh(), h[:, -4:])],
    ids=["slices", "narrow", "from behind"],
)
def test_a_number_in_the_code_is_refused_though_no_answer_may_show_it(part: Any) -> None:
    model, x = Parts(part).eval(), torch.randn(2, 3)
    sites = sc.channels(model, x)
    keep = {name: torch.arange(site.size) > 0 for name, site in sites.items()}
    assert sorted(site.size for site in sites.values()) == [2, 4]
    with pytest.raises(CutError, match=r"a size as a literal|differs from the masked one|answers otherwise"):
        sc.cut(model, sites, keep, form="module")


def test_a_number_that_the_cut_leaves_as_it_is_takes_no_trace(traced: list[str]) -> None:
    model, x = Parts(lambda h: (h[:, :2], h[:, 2:])).eval(), torch.randn(2, 3)
    sites = sc.channels(model, x)
    keep = {name: torch.arange(4) > 0 for name, site in sites.items() if site.size == 4}
    assert sc.cut(model, sites, keep, form="module").get_submodule("out").in_features == 5
    assert not traced


class Exported(nn.Module):
    """Repeats its units where it is exported alone, as transformers repeats keys for their queries."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x).sin()
        if torch.compiler.is_exporting():
            h = h.unsqueeze(1).expand(len(h), 2, h.shape[-1]).mean(1)
        made: Tensor = self.out(h)
        return made


def test_what_a_trace_alone_runs_is_nowhere_in_the_module(traced: list[str]) -> None:
    model, x = Exported().eval(), torch.randn(2, 3)
    sites = sc.channels(model, x)
    assert any("expand" in str(node.target) for node in sites.structure.graph.nodes)
    assert sc.cut(model, sites, keep_of(sites), form="module").get_submodule("fc").out_features == 3
    assert not traced


def test_a_log_knows_which_module_ran_what() -> None:
    class Hooked(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = super().forward(x)[:, :1]
            return made

    model = Hooked(nn.Flatten(), nn.ReLU())
    other = nn.Sigmoid()
    model[1].register_forward_hook(lambda _m, _args, out: other(out))
    log = ShapeLog()
    for size in (4, 3):  # of two runs the last
        log.run(model, ((torch.ones(2, 1, size),), {}))
    calls = {path: ops for path, ops in log.calls.items() if ops}
    assert calls == {
        "0": [("view", ((2, 3),))],
        "1": [("relu", ((2, 3),))],
        None: [("sigmoid", ((2, 3),))],
        "": [("slice", ((2, 1),))],
    }
