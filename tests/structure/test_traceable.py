"""Functions of torch that look at values, or compute by what the exporter does not take, and say no more than sizes do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.structure.trace import trace
from secateur.structure.traceable import WRITTEN

TABLES = {
    "rows": torch.randn(4, 7, generator=torch.Generator().manual_seed(0)),
    "one row": torch.randn(1, 5, generator=torch.Generator().manual_seed(1)),
    "a vector": torch.randn(7, generator=torch.Generator().manual_seed(2)),
    "complex": torch.randn(3, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(3)),
    "constant": torch.ones(2, 4),
}


@pytest.mark.parametrize("x", TABLES.values(), ids=TABLES)
def test_what_is_written_in_their_place_gives_the_same(x: Tensor) -> None:
    for function in (torch.cov, torch.corrcoef):
        torch.testing.assert_close(WRITTEN[function](x), function(x), equal_nan=True)
    torch.testing.assert_close(WRITTEN[torch.cov](x, correction=0), torch.cov(x, correction=0))
    weights = torch.arange(x.shape[-1])
    torch.testing.assert_close(WRITTEN[torch.cov](x, fweights=weights), torch.cov(x, fweights=weights))
    for r in (1, 2, 3):
        for again in (True, False):
            expected = torch.combinations(x.flatten()[:4], r, again)
            torch.testing.assert_close(WRITTEN[torch.combinations](x.flatten()[:4], r, again), expected)


class Between(nn.Module):
    def __init__(self, between: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 3)
        self.between = between

    def forward(self, x: Tensor) -> Any:
        h = self.first(x).relu()
        beside = self.between(h)
        answer = self.last(self.second(h).relu())
        return answer if beside is None else (answer, beside)


def require(holds: Any) -> None:
    if not holds:
        raise ValueError


X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Any], set[str]]] = {
    "cov": (lambda h: h.T.cov().sum(), {"first", "second"}),
    "corrcoef": (lambda h: torch.corrcoef(h.T), {"second"}),
    "combinations": (lambda h: torch.combinations(h[0]), {"second"}),
    "addbmm": (lambda h: torch.addbmm(torch.zeros(5, 5), h[None], h.T[None]), {"first", "second"}),
    "other type": (lambda h: h.view(torch.int32), {"second"}),
    "nan": (lambda h: require(not torch.isnan(h).any()), {"first", "second"}),
    "nan by itself": (lambda h: require(not (h != h).any()), {"first", "second"}),
    "nan in a sum": (lambda h: require(not torch.isnan(h.sum())), {"first", "second"}),
    "finite": (lambda h: require(torch.isfinite(h).all()), {"first", "second"}),
    "infinite": (lambda h: require(not torch.isinf(h).any()), {"first", "second"}),
    "greatest": (lambda h: require(h.max() != float("inf")), {"first", "second"}),
}


@pytest.mark.parametrize(("between", "free"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_model_that_calls_them_is_cut(between: Callable[[Tensor], Any], free: set[str]) -> None:
    torch.manual_seed(0)
    model = Between(between).eval()
    assert not trace(model, X).regions
    sites = sc.channels(model, X)
    assert {name.partition(".")[0] for name in sites} == free
    keep = {name: torch.arange(site.size) % 3 != 1 for name, site in sites.items()}
    small, masked = sc.cut(model, sites, keep), sc.mask(model, sites, keep)
    assert type(small) is Between
    torch.testing.assert_close(small(X), masked(X))


def test_other_values_that_decide_are_not_taken_for_finite() -> None:
    with pytest.raises(sc.TraceError):
        trace(Between(lambda h: require(not (h < 0).any())), X)
