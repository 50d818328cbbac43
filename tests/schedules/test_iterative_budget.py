"""Pruning in steps to a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.criteria import Magnitude
from secateur.measure import macs, parameters
from secateur.schedules import Iterative, Schedule
from secateur.testing.schedules import ScheduleConformance
from secateur.train import fit
from secateur.types import Batches, InputError, Keep, Loss, Sites, UnknownNameError

X = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))


def train(model: nn.Module, keep: Keep) -> None:
    fit(model, (X, Y), epochs=1, lr=1e-3)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 3),
    )


class TestToABudget(ScheduleConformance):
    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        return Iterative(Magnitude(), steps=3, curve="cubic", data=batches, loss=loss, budget={"macs": 0.5})


class TestToABudgetWithTraining(ScheduleConformance):
    trains = True

    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        def shifted(model: nn.Module, keep: Keep) -> None:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.01)

        return Iterative(
            Magnitude(), steps=2, scope="layer", train=shifted, data=batches, loss=loss, budget={"parameters": 0.6}
        )


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize(("measure", "limit"), [("macs", 0.4), ("macs", 30_000), ("parameters", 0.4), ("bytes", 0.5)])
def test_each_step_is_within_its_part_of_the_budget(measure: str, limit: Any, scope: Any, trained: bool) -> None:
    model, counts = net(), []

    def count(small: nn.Module) -> int:
        sizes = {"macs": macs(small, X[:1]), "parameters": parameters(small).total}
        return sizes.get(measure) or int(sc.Result.of(small, sc.channels(small, X[:1]), {}).report.bytes[1])

    def watch(small: nn.Module, keep: Keep) -> None:
        counts.append(count(small))

    whole = count(model)
    schedule = Iterative(Magnitude(), steps=3, scope=scope, train=watch if trained else None, budget={measure: limit})
    pruned = schedule(model, sc.channels(model, X[:1]))
    last = limit if isinstance(limit, int) else limit * whole
    assert 0.8 * last < count(pruned.model) <= last
    if trained:
        assert counts[-1] == count(pruned.model)
        for step, size in enumerate(counts, 1):
            allowed = whole - (whole - last) * step / 3
            assert 0.8 * allowed < size <= allowed


def test_one_step_is_the_budget_itself() -> None:
    model = net()
    sites = sc.channels(model, X[:1])
    once = Iterative(Magnitude(), budget={"macs": 0.5})(model, sites)
    keep = sc.allocate.budget(model, sites, Magnitude()(model, sites), macs=0.5)
    assert all(torch.equal(once.keep[name].cpu(), kept.cpu()) for name, kept in keep.items())


def test_further_options_go_to_the_budget() -> None:
    model = net()
    pruned = Iterative(Magnitude(), budget={"macs": 0.5, "round_to": 4}, steps=2)(model, sc.channels(model, X[:1]))
    assert all(int(kept.sum()) % 4 == 0 for kept in pruned.keep.values())


@pytest.mark.parametrize("trained", [False, True])
def test_a_time_is_a_part_of_the_unpruned_models_at_each_step(monkeypatch: pytest.MonkeyPatch, trained: bool) -> None:
    """Half of it in two steps: three quarters, then two thirds of that, where the cut took exactly what it was told to."""
    limits: list[float] = []
    runtimes: set[Any] = set()

    def told(model: nn.Module, sites: Sites, scores: Any, **options: Any) -> dict[str, torch.Tensor]:
        limits.append(options.pop("latency"))
        runtimes.add(options.pop("runtime"))
        return sc.allocate.budget(model, sites, scores, **{**options, "parameters": limits[-1]})

    class Timed:
        def __init__(self, models: Any, inputs: Any, runtime: Any) -> None:
            whole, small = (parameters(model).total for model in models.values())
            self.speedups = {"after": type("Speedup", (), {"median": whole / small})}
            runtimes.add(runtime)

    monkeypatch.setattr("secateur.schedules.goals.budget", told)
    monkeypatch.setattr("secateur.schedules.goals.compare_latency", Timed)
    model = net()
    schedule = Iterative(
        Magnitude(),
        budget={"latency": 0.5, "runtime": "onnxruntime"},
        steps=2,
        train=(lambda small, keep: None) if trained else None,
    )
    pruned = schedule(model, sc.channels(model, X[:1]))
    assert limits == pytest.approx([0.75, 2 / 3 if trained else 0.5], rel=0.1)
    assert runtimes == {"onnxruntime"}
    assert 0.4 < parameters(pruned.model).total / parameters(model).total <= 0.5


@pytest.mark.slow
def test_a_time_is_reached() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 4))
    x = torch.randn(64, 512)
    schedule = Iterative(Magnitude(), budget={"latency": 0.5}, steps=2, train=lambda small, keep: None)
    before, after = schedule(model, sc.channels(model, x)).report.macs or (1, 1)
    assert 0.2 < after / before < 0.75


def test_the_trained_result_is_saved_with_its_weights(tmp_path: Path) -> None:
    model = net()
    pruned = Iterative(Magnitude(), budget={"macs": 0.4}, steps=2, train=train)(model, sc.channels(model, X[:1]))
    expected = pruned.model.eval()(X)
    assert not torch.allclose(sc.Result.of(model, pruned.sites, pruned.keep).model.eval()(X), expected)
    again = sc.load(pruned.save(tmp_path / "small"), net())
    assert torch.equal(again.eval()(X), expected)
    assert torch.equal(pruned.apply(net()).eval()(X), expected)
    assert pruned.report.macs is not None
    assert pruned.report.macs[1] <= 0.4 * pruned.report.macs[0]


def test_a_killed_pruning_ends_at_the_same_weights(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    calls: list[int] = []

    def stopping(model: nn.Module, keep: Keep) -> None:
        train(model, keep)
        calls.append(1)
        if len(calls) == 2:
            raise Stop

    def schedule() -> Iterative:
        return Iterative(Magnitude(), budget={"macs": 0.4}, steps=3, train=stopping)

    model = net()
    sites = sc.channels(model, X[:1])
    with pytest.raises(Stop):
        schedule()(model, sites, checkpoint=tmp_path / "run")
    resumed = schedule()(model, sites, checkpoint=tmp_path / "run")
    calls.extend([1, 1])
    whole = schedule()(model, sites)
    assert torch.equal(resumed.model.eval()(X), whole.model.eval()(X))
    assert resumed.history.removed == whole.history.removed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either sparsity= or budget="),
        ({"sparsity": 0.5, "budget": {"macs": 0.5}}, "give either sparsity= or budget="),
        ({"budget": {"macs": 0.5, "bytes": 0.5}}, "must name one of macs, parameters, bytes, latency"),
        ({"budget": 0.5}, "must name one of macs"),
        ({"budget": {"flops": 0.5}}, "must name one of macs"),
    ],
)
def test_goals_that_are_refused(options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Iterative(Magnitude(), **options)


def test_a_budget_that_cannot_be_had_is_refused_before_any_step() -> None:
    model = net()
    sites = sc.channels(model, X[:1])

    def never(small: nn.Module, keep: Keep) -> None:
        raise AssertionError

    with pytest.raises(InputError, match="macs cannot come down to"):
        Iterative(Magnitude(), budget={"macs": 0.001}, steps=4, train=never)(model, sites)
    with pytest.raises(InputError, match=r"macs=1\.5 must be a fraction"):
        Iterative(Magnitude(), budget={"macs": 1.5}, steps=4, train=never)(model, sites)
    with pytest.raises((UnknownNameError, TypeError)):
        Iterative(Magnitude(), budget={"macs": 0.5, "colour": 1}, steps=4, train=never)(model, sites)
