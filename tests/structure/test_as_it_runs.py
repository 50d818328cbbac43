"""Code that asks whether it is exported, and goes another way then: what is cut is what runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import secateur as sc
from secateur.structure.trace import trace

OVER_UNITS: dict[str, Callable[[Tensor], Tensor]] = {
    "layer norm": lambda h: functional.layer_norm(h, h.shape[-1:]),
    "softmax": lambda h: h.softmax(-1),
    "mean": lambda h: h - h.mean(-1, keepdim=True),
    "nothing": lambda h: h,
}


class Asking(nn.Module):
    """It answers with a sigmoid, unless it is exported or compiled."""

    def __init__(self, over_units: str, question: str, width: int = 16) -> None:
        super().__init__()
        self.over_units, self.question = over_units, question
        self.first, self.last = nn.Linear(6, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(OVER_UNITS[self.over_units](self.first(x)).relu())
        return y if getattr(torch.compiler, self.question)() else y.sigmoid()


def by_hand(model: Asking, kept: Tensor) -> Asking:
    small = Asking(model.over_units, model.question, int(kept.sum())).eval()
    state = model.state_dict()
    rows = {"first.weight": state["first.weight"][kept], "first.bias": state["first.bias"][kept]}
    small.load_state_dict({**state, **rows, "last.weight": state["last.weight"][:, kept]})
    return small


@pytest.mark.parametrize("question", ["is_exporting", "is_compiling"])
@pytest.mark.parametrize("over_units", OVER_UNITS)
def test_what_is_cut_is_what_runs(over_units: str, question: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Asking(over_units, question).eval(), torch.randn(8, 6)
    sites = sc.channels(model, x)
    keep = {"first": torch.arange(16) % 4 != 0}
    expected = by_hand(model, keep["first"])
    new = torch.randn(5, 6)
    with torch.no_grad():
        assert torch.allclose(sc.cut(model, sites, keep)(new), expected(new), atol=1e-6)
        assert torch.allclose(sc.mask(model, sites, keep)(x), expected(x), atol=1e-6)
        result = sc.Result.of(model, sites, keep)
        result.save(tmp_path / "small")
        assert torch.equal(sc.load(tmp_path / "small", Asking(over_units, question))(new), result.model.eval()(new))
    assert trace(model, x, quick=False).as_it_runs


def test_other_plain_values_than_a_graph_was_made_with_are_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor, k: float, how: str = "relu") -> Tensor:
            h: Tensor = getattr(self.first(x) * k, how)()
            y: Tensor = self.last(h.view(*x.shape[:-1], 2, 8).flatten(-2))
            return y

    x = torch.randn(4, 6)
    model = Scaled().eval()
    keep = {"first": torch.tensor([True, False])}  # one of two rows of eight
    small = sc.cut(model, sc.channels(model, (x, 0.5, "relu")), keep, form="graph")
    with torch.no_grad():
        assert small(x, 0.5, "relu").shape == (4, 3)
        for wrong in ((x, 9.0, "relu"), (x, 0.5, "tanh"), (x, "nonsense", "relu")):
            with pytest.raises(sc.InputError, match=r"this graph was made with .*cut the model again"):
                small(*wrong)
