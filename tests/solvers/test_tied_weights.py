"""Weights that layers share: solvers and repairs keep them one tensor and are right, or refuse them in plain words."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from oracle import masked
from secateur.criteria import Magnitude
from secateur.repair import repair
from secateur.result import Result
from secateur.selection import select
from secateur.solvers import Solver, SparseGPT, ThiNet, WoodFisher
from secateur.structure import channels, cut, mask, weights
from secateur.types import InputError, Keep, Sites


class Tied(nn.Module):
    """An embedding whose table the last layer multiplies by."""

    pair = ("emb", "head")

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.fc1, self.fc2 = nn.Embedding(11, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc2(torch.relu(self.fc1(self.emb(x)))))[:, 0]


class InTurn(nn.Module):
    """Two layers with one weight, one after the other."""

    pair = ("first", "second")

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.head = (nn.Linear(*s) for s in ((5, 8), (8, 8), (8, 8), (8, 3)))
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(torch.relu(self.stem(x)))))))


class SideBySide(nn.Module):
    """Two layers with one weight, on two branches."""

    pair = ("first", "second")

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.head = (nn.Linear(*s) for s in ((5, 8), (8, 6), (8, 6), (6, 3)))
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.first(x)) + torch.tanh(self.second(2 * x)))


class Convolutions(nn.Module):
    """Two convolutions with one weight."""

    pair = ("first", "second")

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))
        self.second.weight, self.head = self.first.weight, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(torch.relu(self.stem(x))))))
        return self.head(x.mean((2, 3)))


CASES: dict[str, tuple[type[nn.Module], Callable[[], Tensor]]] = {
    "an embedding and its head": (Tied, lambda: torch.randint(0, 11, (64, 3))),
    "one after the other": (InTurn, lambda: torch.randn(64, 5)),
    "side by side": (SideBySide, lambda: torch.randn(64, 5)),
    "convolutions": (Convolutions, lambda: torch.randn(32, 3, 6, 6)),
}
Case = tuple[nn.Module, Tensor, Tensor]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    make, inputs = CASES[request.param]
    model, x = make().eval(), inputs()
    with torch.no_grad():
        return model, x, model(x)


def is_tied(model: nn.Module) -> bool:
    first, second = (model.get_submodule(name).weight for name in model.pair)
    return first is second


def error(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model(x) - y).square().mean())


def quarter(model: nn.Module, sites: Sites) -> Keep:
    return select(Magnitude()(model, sites), 0.25, scope="layer")


def test_thinet_cuts_and_refits(case: Case) -> None:
    model, x, y = case
    sites = channels(model, x[:2])
    result = ThiNet((x, y.argmax(1)))(model, sites, 0.25)
    assert is_tied(result.model)
    plain = Result.of(model, sites, result.keep)
    assert error(result.model, x, y) < error(plain.model, x, y)


@pytest.mark.parametrize("how", ["least-squares", "bias"])
def test_repair(case: Case, how: str) -> None:
    model, x, y = case
    sites = channels(model, x[:2])
    keep = quarter(model, sites)
    repaired = repair(model, sites, keep, (x, y.argmax(1)), how)
    small = Result.of(model, sites, keep, repaired=repaired).model
    assert is_tied(repaired)
    assert is_tied(small)
    expected = masked.run(masked.zeroed(repaired, sites, keep), (x,))
    assert masked.relative_difference(expected, masked.run(small, (x,))) < 1e-5
    assert error(small, x, y) < error(cut(model, sites, keep), x, y)


@pytest.mark.parametrize("solver", [SparseGPT, WoodFisher])
def test_single_weights(case: Case, solver: type[Solver]) -> None:
    model, x, y = case
    table = ["emb.weight"] if isinstance(model, Tied) and solver is SparseGPT else []
    sites = weights(model, ignore=table)
    result = solver((x, y.argmax(1)))(model, sites, 0.5)
    assert is_tied(result.model)
    shared = model.pair[0] + ".weight"
    expected = set() if table else {shared}
    assert {n for n in sites if n == shared} == expected
    for name, keep in result.keep.items():
        assert bool((result.model.get_parameter(name)[~keep] == 0).all())


def test_sparse_gpt_refuses_a_table_that_an_embedding_looks_up() -> None:
    model, x = Tied().eval(), torch.randint(0, 11, (8, 3))
    with pytest.raises(InputError, match=r"'emb.weight' is more than the weight of a layer: aten.embedding in emb"):
        SparseGPT((x, torch.zeros(8)))(model, weights(model), 0.5)


def test_thinet_leaves_a_weight_alone_that_another_op_reads() -> None:
    class Decayed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self[1].weight.square().sum()

    model = Decayed(nn.Linear(4, 6), nn.Linear(6, 3)).eval()
    solution = ThiNet((torch.randn(20, 4), torch.zeros(20))).solve(model, channels(model, torch.randn(2, 4)), 0.5)
    assert torch.equal(solution.tensors["1.weight"], model[1].weight * solution.keep["0"])


def test_thinet_does_not_look_at_sites_that_stay_whole() -> None:
    """The units of the embedding are read by nothing that could be refitted."""
    model = nn.Sequential(nn.Embedding(11, 8), nn.LayerNorm(8), nn.Flatten(), nn.Linear(24, 6), nn.Linear(6, 2)).eval()
    x = torch.randint(0, 11, (20, 3))
    sites = channels(model, x[:2])
    result = ThiNet((x, torch.zeros(20)))(model, sites, {"3": 0.5})
    assert {name: int(keep.sum()) for name, keep in result.keep.items()} == {"0": 8, "3": 3}


@pytest.mark.parametrize(
    "road", [cut, mask, lambda m, s, k: Result.of(m, s, k), lambda m, s, k: Result.masked(m, s, k)]
)
@pytest.mark.parametrize("name", CASES)
def test_sites_of_tied_weights_fit_no_model_whose_weights_are_not(
    name: str, road: Callable[[nn.Module, Sites, Keep], object]
) -> None:
    """Only the first name of a shared tensor stands in a site: its twin would keep what was removed."""
    make, inputs = CASES[name]
    tied, x = make().eval(), inputs()
    first, second = (tied.get_submodule(name) for name in tied.pair)
    untied = copy.deepcopy(tied)
    untied.get_submodule(tied.pair[1]).weight = nn.Parameter(first.weight.detach().clone())
    assert second.weight is first.weight
    for mine, other in ((tied, untied), (untied, tied)):
        sites = channels(mine, x[:2])
        with pytest.raises(InputError, match=r"weight' are one tensor (there|here) and not (here|there)"):
            road(other, sites, quarter(mine, sites))
