"""A model that writes into its inputs: the caller's tensors stay as they are, and every run begins with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import secateur as sc
from secateur.measure import latency, macs


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
