"""What is done with a model leaves it as it is: aliases, what forward moves, what cannot be copied, what is no model.

The watch over the suite (untouched_guard.py) compares the model around every public call below.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.copies import copied
from secateur.repair import REPAIRS
from secateur.state import evaluating
from secateur.structure import channels, cut, mask, weights
from secateur.testing import TOYS
from secateur.types import InputError
from secateur.untouched import replaced, run_with, untouched, writes_refused


class Chain(nn.Module):
    def __init__(self, layer: nn.Module, rest: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.rest = layer, rest

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x if self.rest is None else self.rest(x)


class Aliased(nn.Module):
    """Submodules under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.tree, self.head = Chain(self.a, Chain(self.b)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tree(x))


class Shared(nn.Module):
    """A parameter and a buffer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)
        self.b.weight = self.a.weight
        self.a.register_buffer("scale", torch.full((8,), 0.5))
        self.b.register_buffer("scale", self.a.scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a.scale * self.a(x).relu() + self.b.scale * self.b(x).tanh())


class Cache:
    def __init__(self) -> None:
        self.hits, self.rows = 0, []


class Moving(nn.Module):
    """Moves all kinds of state whenever it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))
        self.calls, self.history, self.seen, self.kinds = 0, [], {}, set()
        self.beside, self.cache = torch.zeros(2), Cache()

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        self.steps += 1
        self.mean = self.mean + 1
        self.calls += 1
        self.history.append(self.calls)
        self.seen[self.calls] = len(self.seen)
        self.kinds.add(self.calls)
        self.beside.add_(1)
        self.cache.hits += 1
        self.cache.rows.append(self.calls)
        self.last = self.calls
        self.c.weight = nn.Parameter(self.c.weight.detach().clone())
        self.a.training = True
        return self.c(h)


class Statistics(nn.Module):
    """Counts its runs, and keeps statistics of its inputs, in buffers alone, as what is traced can."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.c(self.a(x).relu())


class Written(Statistics):
    """Writes what it computes into a buffer, which then hangs on the graph of derivatives."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        self.mean.add_(h.mean())
        return self.c(h)


MODELS: dict[str, Callable[[], nn.Module]] = {"aliased": Aliased, "shared": Shared, "moving buffers": Statistics}
X, Y = torch.randn(12, 4), torch.arange(12) % 2
DATA = (X, Y)


def _keep(sites: sc.Sites) -> sc.Keep:
    return sc.select(_scores(sites), 0.5, scope="layer", sites=sites)


def _scores(sites: sc.Sites) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(site.shape, generator=generator) for name, site in sites.items()}


def _transformed(transform: sc.transforms.Transform, model: nn.Module) -> None:
    try:
        transform(model, X)
    except InputError as error:  # where all layers share their weights, none is changed
        if "no layer was changed" not in str(error):
            raise


CALLS: dict[str, Callable[[nn.Module], object]] = {
    "prune": lambda m: sc.prune(m, X, "l2", scope="layer"),
    "prune weights": lambda m: sc.prune(m, X, unit="weights"),
    "budget": lambda m: sc.prune(m, X, budget={"macs": 0.7}, latency=False),
    "repair": lambda m: sc.repair.repair(m, s := channels(m, X), _keep(s), DATA, [r for r in REPAIRS if r != "norms"]),
    "sensitivity": lambda m: sc.allocate.sensitivity(
        m, channels(m, X), sc.criteria.Magnitude(), [0.5], lambda net: net(X).sum().item()
    ),
    "rate": lambda m: sc.measure.rate(m, s := channels(m, X), [{}, _keep(s)], DATA),
    "rate of weights": lambda m: sc.measure.rate(m, s := weights(m), [{}, _keep(s)], DATA),
    "Exhaustive": lambda m: sc.schedules.Exhaustive(DATA, until=0.2)(m, channels(m, X)),
    "Iterative": lambda m: sc.schedules.Iterative(sc.criteria.Magnitude(), 0.5, steps=2, scope="layer")(
        m, channels(m, X)
    ),
    "ThiNet": lambda m: sc.solvers.ThiNet(DATA)(m, channels(m, X), 0.5),
    "StructuredOBS": lambda m: sc.solvers.StructuredOBS(DATA)(m, channels(m, X), 0.5),
    "SparseGPT": lambda m: sc.solvers.SparseGPT(DATA)(m, weights(m), 0.5),
    "WoodFisher": lambda m: sc.solvers.WoodFisher(DATA)(m, weights(m), 0.5),
    "LowRank": lambda m: _transformed(sc.transforms.LowRank(rank=1), m),
    "LowRank, refitted": lambda m: _transformed(sc.transforms.LowRank(rank=1, data=DATA, refit=True), m),
    "evaluate": lambda m: sc.evaluate(m, DATA),
    "predict": lambda m: sc.measure.predict(m, X),
    "latency": lambda m: sc.measure.latency(m, X, repeats=2, warmup=0),
    "macs": lambda m: sc.measure.macs(m, X),
    "peak_memory": lambda m: sc.measure.peak_memory(m, X),
    "blocks": lambda m: sc.blocks(m, X),
}


@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("call", list(CALLS))
def test_public_calls_leave_aliases_and_moving_state_alone(call: str, model: str) -> None:
    CALLS[call](MODELS[model]())


@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("kind", [channels, weights])
@pytest.mark.parametrize("name", sc.criteria.names())
def test_criteria_leave_aliases_and_moving_state_alone(name: str, kind: Callable[..., sc.Sites], model: str) -> None:
    made = MODELS[model]()
    sites = channels(made, X) if kind is channels else weights(made)
    try:
        scores = sc.criteria.by_name(name, DATA)(made, sites)
    except InputError:  # a criterion of the other kind of sites, or one that does not take this model
        return
    assert list(scores) == list(sites)


@pytest.mark.parametrize("name", ["snip", "grasp", "taylor", "obd", "obs", "hessian-trace"])
def test_a_buffer_that_hangs_on_the_derivatives_comes_back_without_them(name: str) -> None:
    made = Written()
    batches = [DATA, DATA]  # the second pass must not go on from the graph of the first
    sc.criteria.by_name(name, batches)(made, weights(made))
    assert made.mean.is_leaf
    assert not made.mean.requires_grad


@pytest.mark.parametrize("call", ["evaluate", "predict", "latency", "macs", "peak_memory"])
def test_all_that_a_forward_pass_moves_is_put_back(call: str) -> None:
    model = Moving()
    CALLS[call](model)
    assert (model.calls, model.history, model.seen, model.kinds) == (0, [], {}, set())
    assert (model.cache.hits, model.cache.rows, hasattr(model, "last")) == (0, [], False)


def test_the_masked_model_of_an_alias_is_cut() -> None:
    model = Aliased()
    sites = channels(model, X)
    keep = _keep(sites)
    small, masked = cut(model, sites, keep), mask(model, sites, keep)
    torch.testing.assert_close(small(X), masked(X))
    assert small.tree.layer is small.a


def test_a_tensor_under_two_names_is_replaced_under_both() -> None:
    model = Shared()
    weight = model.a.weight
    for name in ("a.weight", "b.weight"):
        with replaced(model, {name: torch.zeros(8, 4)}):
            assert not model.a.weight.any()
            assert model.b.weight is model.a.weight
        assert model.a.weight is weight
    with pytest.raises(InputError, match=r"no parameter or buffer 'a\.wait'"):
        run_with(model, {"a.wait": torch.zeros(1)}, (X,))


def test_the_random_state_is_put_back() -> None:
    class Draws(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + random.random() + torch.rand(1)

    model = Draws()
    random.seed(3)
    torch.manual_seed(3)
    expected = random.random(), torch.rand(1)
    random.seed(3)
    torch.manual_seed(3)
    with evaluating(model):
        model(X)
    assert random.random() == expected[0]
    assert torch.equal(torch.rand(1), expected[1])


def test_modes_grads_and_memory_are_put_back_even_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model[1].eval()
    pointer = model[0].weight.data_ptr()

    def fails() -> None:
        with untouched(model):
            model.train()
            model[0].weight.requires_grad_(False).grad = torch.ones(2, 2)
            model[0].weight.data = torch.zeros(2, 2)
            raise KeyError("halfway")

    with pytest.raises(KeyError):
        fails()
    assert [m.training for m in model] == [True, False]
    assert (model[0].weight.requires_grad, model[0].weight.grad) == (True, None)
    assert model[0].weight.data_ptr() == pointer


class Merging(nn.Module):
    """An adapter that is merged into the weight for evaluation, as loralib does."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.extra, self.merged = nn.Linear(4, 4), nn.Parameter(torch.randn(4, 4)), False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            self.base.weight.data += -self.extra if mode else self.extra
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) if self.merged else self.base(x) + x @ self.extra.T


@pytest.mark.parametrize("mode", [True, False])
def test_what_a_change_of_mode_writes_into_weights_is_put_back(mode: bool) -> None:
    model = Merging().train(mode)
    answers = model(X)
    with evaluating(model):
        assert model.merged
        torch.testing.assert_close(model(X), answers.detach())
    assert model.merged is not mode
    assert torch.equal(model(X), answers)


class Clamping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.a.weight.data.clamp_(-0.1, 0.1)
        return self.c(self.a(x).relu())


def test_a_forward_pass_that_writes_into_parameters_is_refused() -> None:
    with pytest.raises(InputError, match=r"writes into its parameter 'a\.weight'"):
        sc.prune(Clamping(), X)
    model = Clamping()
    before = model.a.weight.detach().clone()
    with pytest.raises(InputError), writes_refused(model), torch.no_grad():
        model(X)
    assert torch.equal(model.a.weight, before)


def test_a_model_that_holds_a_tensor_with_a_graph_is_copied() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model.loss, model.kept = model(X).mean(), {"deep": [model(X)]}
    other = copied(model)
    assert other.loss.is_leaf
    assert torch.equal(other.loss, model.loss)
    assert other.kept["deep"][0].is_leaf
    for call in ("prune", "prune weights", "ThiNet", "SparseGPT", "sensitivity", "repair", "Iterative"):
        CALLS[call](model)


@pytest.mark.parametrize(
    "held", [threading.Lock(), (n for n in range(3)), sys.stdout], ids=["lock", "generator", "file"]
)
def test_what_cannot_be_copied_is_named(held: object) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model[1].guard = held
    for call in ("prune", "prune weights", "ThiNet", "SparseGPT", "sensitivity", "repair", "Iterative"):
        with pytest.raises(InputError, match=r"its attribute '1\.guard' \(a \w+\) cannot"):
            CALLS[call](model)


@pytest.mark.parametrize("toy", list(TOYS))
def test_running_with_the_masked_tensors_is_running_the_masked_model(toy: str) -> None:
    model, inputs = TOYS[toy].build(), TOYS[toy].inputs()
    sites = channels(model, inputs)
    masked = mask(model, sites, _keep(sites), statistics="all")
    with evaluating(model), evaluating(masked):
        made = run_with(model, dict(masked.named_parameters(remove_duplicate=False)), (inputs,))
        torch.testing.assert_close(made, masked(inputs))
