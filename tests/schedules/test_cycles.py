"""The training cycle: train, count, cut, again until nothing goes, with the optimizer carried along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.criteria import ActivationCount
from secateur.measure import macs, parameters
from secateur.result import Result
from secateur.schedules import Cycles, Schedule, shrinking
from secateur.selection import AtMost, BelowQuantile, Outliers
from secateur.structure import blocks, channels, cut, weights
from secateur.structure.sites import with_zeros
from secateur.testing.schedules import ScheduleConformance
from secateur.train import Distortion, TrainCycle, TrainOptions
from secateur.types import Batches, InputError, Loss, Scores, Sites


class TestCycles(ScheduleConformance):
    trains = True

    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        options = TrainOptions(epochs=1, loss=loss, optimizer="sgd", lr=0.05, momentum=0.9)
        train = TrainCycle(batches, options, distort=Distortion(strength=0.2))
        return Cycles(ActivationCount(batches), train, BelowQuantile(0.3), cycles=3, data=batches, loss=loss)


class TestCyclesWithAdam(ScheduleConformance):
    trains = True

    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        train = TrainCycle(batches, TrainOptions(epochs=1, loss=loss))
        return Cycles(ActivationCount(batches), train, Outliers(1.0), cycles=3, patience=2)


DATA = torch.rand(32, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(32, 1)


def net(*dead: int, units: int = 4) -> nn.Sequential:
    """2-units-1, of which some units never fire on what is not negative."""
    model = nn.Sequential(nn.Linear(2, units), nn.ReLU(), nn.Linear(units, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
        model[0].bias[list(dead)] = -9.0
    return model


class Script:
    """A training of one's own: cycle → what is done to the model."""

    def __init__(self, **acts: Callable[[nn.Sequential], object]) -> None:
        self.acts = acts

    def optimizer(self, model: nn.Module) -> Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)

    def __call__(self, model: Any, optimizer: Optimizer, cycle: int) -> None:
        with torch.no_grad():
            self.acts.get(f"at{cycle}", lambda model: None)(model)


def kill(*units: int) -> Callable[[nn.Sequential], object]:
    return lambda model: model[0].bias.data.index_fill_(0, torch.tensor(units), -9.0)


def run(model: nn.Module, train: Any, **options: Any) -> Result:
    return Cycles(ActivationCount(DATA), train, **options)(model, channels(model, DATA[0][:1]))


def test_what_is_silent_goes_in_each_cycle_until_nothing_is() -> None:
    result = run(net(1), Script(at2=kill(1)))
    assert [step.units for step in result.history.steps] == [(("0", 1),), (("0", 2),), ()]
    assert result.keep["0"].tolist() == [True, False, False, True]
    assert result.history.ending == "cycle 3 removed nothing"


def test_patience_waits_for_chance() -> None:
    train = Script(at3=kill(0))
    assert run(net(), train).history.removed == []
    assert run(net(), train, patience=3).history.removed == [("0", 0)]


def test_the_cap_ends_it() -> None:
    result = run(net(), Script(at1=kill(0), at2=kill(0), at3=kill(0)), cycles=2)
    assert result.model[0].out_features == 2
    assert result.history.ending == "2 cycles were the cap"


def test_a_cycle_that_would_empty_a_layer_gives_the_last_good_model() -> None:
    def raised(model: nn.Sequential) -> None:
        model[2].bias.fill_(7.0)
        kill(0, 1, 2)(model)

    result = run(net(3), Script(at2=raised))
    assert result.history.ending == "cycle 2 would leave '0' with 0 of 3 units; the model is that of the cycle before"
    assert result.model[0].out_features == 3
    assert result.model[2].bias.item() == 0.5
    assert result.keep["0"].tolist() == [True, True, True, False]


def test_a_minimum_is_a_good_model_too() -> None:
    result = run(net(3), Script(at2=kill(0)), minimum=3)
    assert result.history.ending.startswith("after cycle 1 every site is down to 3")


def test_one_unit_that_is_left_is_the_end() -> None:
    result = run(net(0, 1, 3), Script())
    assert result.model[0].out_features == 1
    assert result.history.ending == "after cycle 1 every site is down to 1"


def test_the_optimizer_goes_on_with_the_moments_of_what_is_left() -> None:
    options = TrainOptions(epochs=1, loss="mse", optimizer="sgd", lr=0.01, momentum=0.9, batch_size=32)
    inside, outside = net(1), net(1)
    result = Cycles(ActivationCount(DATA), TrainCycle(DATA, options))(inside, channels(inside, DATA[0][:1]))
    optimizer = torch.optim.SGD(outside.parameters(), lr=0.01, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.mse_loss(outside(DATA[0]), DATA[1]).backward()
        optimizer.step()
    assert len(result.history.steps) == 2
    torch.testing.assert_close(result.model[0].weight, outside[0].weight[[0, 2, 3]])
    torch.testing.assert_close(result.model[2].bias, outside[2].bias)


def test_a_learning_rate_schedule_begins_anew_in_each_cycle() -> None:
    options = TrainOptions(epochs=2, loss="mse", optimizer="sgd", lr=0.1, schedule="step", step_size=1, gamma=0.5)
    rates: list[float] = []
    train = TrainCycle(DATA, options, on_cycle=lambda _c, _m, history: rates.extend(r.lr for r in history))
    run(net(1), train)
    assert rates == [0.1, 0.05, 0.1, 0.05]


@pytest.mark.parametrize("norm", [False, True])
def test_size_never_rises_and_each_cut_is_verified(norm: bool) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(1, 12, 3), *([nn.BatchNorm2d(12)] if norm else []), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(12, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3))
    data = torch.randn(20, 1, 8, 8), torch.randint(3, (20,))
    sizes: list[tuple[int, int]] = []

    def note(_cycle: int, model: nn.Module, _history: object) -> None:
        sizes.append((parameters(model).total, macs(model, data[0][:1])))

    train = TrainCycle(data, TrainOptions(epochs=1), on_cycle=note)
    result = Cycles(ActivationCount(data), train, Outliers(1.0), cycles=4, patience=4)(
        model, channels(model, data[0][:1])
    )
    assert len(sizes) == 4
    assert sizes == sorted(sizes, reverse=True)
    assert [b for _, b in sizes] == sorted((b for _, b in sizes), reverse=True)
    assert sizes[-1][0] < sizes[0][0]
    assert result.verification is not None
    assert result.report.parameters[1] <= sizes[-1][0]


def test_each_cut_gives_what_the_masked_model_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 2)
    differences, verified = [], []

    def compared(model: nn.Module, sites: Sites, keep: Any, **options: Any) -> nn.Module:
        small = cut(model, sites, keep, **options)
        with torch.no_grad():
            differences.append(float((small(x) - with_zeros(model, sites, keep)(x)).abs().max()))
        verified.append(options.get("verify", True))
        return small

    monkeypatch.setattr(shrinking, "cut", compared)
    result = run(net(0, units=6), Script(at2=kill(1), at3=kill(0)))
    assert [len(step.units) for step in result.history.steps] == [1, 1, 1, 0]
    assert len(differences) == 4, "the whole model, and three cuts"
    assert max(differences) < 1e-6
    assert all(verified)


def test_what_cannot_be_cut_is_refused() -> None:
    model = net()
    with pytest.raises(InputError, match="Cycles cuts channels"):
        Cycles(ActivationCount(DATA), Script())(model, weights(model))
    stack = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(InputError):
        Cycles(ActivationCount(DATA), Script())(stack, blocks(stack, DATA[0][:1]))
    with pytest.raises(InputError, match="cycles=0"):
        Cycles(ActivationCount(DATA), Script(), cycles=0)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (AtMost(3), [False, True, True, True, False]),
        (BelowQuantile(0.5), [False, True, True, True, False]),
        (BelowQuantile(0.0), [True, True, True, True, True]),
        (Outliers(1.0), [False, True, True, True, True]),
        (Outliers(2.0), [True, True, True, True, True]),
    ],
)
def test_thresholds(rule: Callable[[Scores], dict[str, Tensor]], kept: list[bool]) -> None:
    # The mean is 6.6 and the standard deviation 4.45: the outliers' limits are 2.15 and −2.3.
    counts = {"a": torch.tensor([0.0, 8.0, 10.0, 12.0, 3.0]), "b": torch.ones(4)}
    masks = rule(counts)
    assert masks["a"].tolist() == kept
    assert masks["b"].all() == (not isinstance(rule, AtMost))


def test_a_first_cycle_that_would_empty_a_layer_gives_the_trained_model() -> None:
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train = TrainCycle(DATA, TrainOptions(epochs=3, loss="mse"))
    result = run(model, train, rule=AtMost(1e9), cycles=3)
    assert result.history.ending == (
        "cycle 1 would leave '0' with 0 of 4 units; the model is as that cycle trained it, uncut"
    )
    assert result.keep["0"].all()
    alone = net()
    train(alone, train.optimizer(alone), 1)
    assert not torch.equal(result.model[0].weight, before["0.weight"])
    torch.testing.assert_close(dict(result.model.state_dict()), dict(alone.state_dict()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("rule", [AtMost(2.0), BelowQuantile(0.5), Outliers(1.0)])
def test_rules_refuse_scores_that_rank_nothing(rule: Any, bad: float) -> None:
    scores = {"b": torch.ones(2), "a": torch.tensor([1.0, bad, 3.0])}
    if isinstance(rule, AtMost) and bad == bad:
        assert rule(scores)["a"].tolist() == [False, bad > 0, True]
        return
    with pytest.raises(InputError, match=r"1 scores of 'a' are NaN"):
        rule(scores)
    with pytest.raises(InputError, match="scores of 'a' are empty"):
        rule({"a": torch.zeros(0)})


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        (None, "None"),
        ({}, "no mask for '0'"),
        ({"0": None}, "None for '0'"),
        ({"0": torch.ones(4)}, r"a mask of float32 and of shape \(4,\) for '0'"),
        ({"0": torch.ones(3, dtype=torch.bool)}, r"a mask of bool and of shape \(3,\) for '0'"),
        (
            {"0": torch.ones(4, dtype=torch.bool), "1": torch.ones(4, dtype=torch.bool)},
            "a mask for '1', which has no scores",
        ),
    ],
)
def test_a_rule_of_ones_own_returns_masks(masks: Any, said: str) -> None:
    with pytest.raises(InputError, match=rf"Cycles: the rule <lambda> returns {said}; .* shape \(4,\)"):
        run(net(), Script(), rule=lambda scores: masks)


def test_what_makes_no_sense_is_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"Cycles: minimum=0 must be a whole number, 1 or more"):
        Cycles(ActivationCount(DATA), Script(), minimum=0)
    for train in (lambda model, optimizer, cycle: None, None):
        with pytest.raises(InputError, match=r"Cycles: train=.* has no optimizer\(model\)"):
            Cycles(ActivationCount(DATA), train)  # type: ignore[arg-type]
