"""Budgets: within one unit, the counting against real cuts, and the search for a time with made-up and real times."""

from __future__ import annotations

import json
from pathlib import Path
from time import process_time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.allocate import Sensitivity, SensitivityRow, budget
from secateur.allocate.latency import _fraction, _Search
from secateur.allocate.steps import Steps
from secateur.cli import main
from secateur.criteria import Magnitude, Random
from secateur.measure import compare_latency, file_bytes, macs, parameters
from secateur.pruning import prune
from secateur.selection import select
from secateur.structure import Structure, blocks, channels, cut, weights
from secateur.structure.cost import Cost
from secateur.testing.toys import TOYS, hand_mlp, same_state, snapshot
from secateur.types import InputError, Keep, UnknownNameError
from zoo import ZOO, build

X = torch.tensor([[1.0, 2.0]])


def sized(what: str, model: nn.Module, x: Any) -> int:
    return {"macs": lambda: macs(model, x), "parameters": lambda: parameters(model).total}.get(
        what, lambda: file_bytes(model)
    )()


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", ZOO)
def test_what_is_counted_is_what_a_cut_leaves(name: str) -> None:
    model, x = build(name)
    sites = channels(model, x)
    if not sites:
        return
    assert isinstance(sites.structure, Structure)
    cost = Cost(sites.structure)
    assert cost.macs({}) == macs(model, x)
    keep = select(Random(seed=0)(model, sites), 0.3)
    small = cut(model, sites, keep)
    assert parameters(model).total - cost.parameters_removed(keep) == parameters(small).total
    assert cost.macs(keep) == macs(small, x) or name == "mixture_of_experts"
    saved = file_bytes(model) - cost.bytes_removed(keep, model.state_dict())
    assert 0 <= saved - file_bytes(small) < 300  # the header is shorter, by as many digits as the sizes lost


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("what", ["macs", "parameters", "bytes"])
@pytest.mark.parametrize("name", ["cnn", "residual", "grouped", "attention"])
def test_a_budget_is_met_within_one_unit(name: str, what: str, scope: Any) -> None:
    toy = TOYS[name]
    model, x = toy.build(), toy.inputs()
    before = snapshot(model)
    sites = channels(model, x)
    scores = Magnitude()(model, sites)
    goal = int(0.6 * sized(what, model, x))
    wanted: Any = {what: 0.6}
    keep = budget(model, sites, scores, scope=scope, **wanted)
    found = sized(what, cut(model, sites, keep), x)
    assert found <= goal
    total, removed = sum(s.size for s in sites.values()), sum(int((~k).sum()) for k in keep.values())
    # With one step less it is over the budget.
    for less in range(removed - 1, 0, -1):
        other = select(scores, less / total, scope=scope)
        if sum(int((~k).sum()) for k in other.values()) < removed:
            # Two files of one content may differ by a few bytes of header.
            assert sized(what, cut(model, sites, other), x) > goal - 200 * (what == "bytes")
            break
    assert same_state(before, snapshot(model))


def test_by_hand() -> None:
    """A 2-3-2 MLP: 4 multiply-accumulates a unit, 5 parameters, and two of the last bias."""
    model = hand_mlp()
    sites = channels(model, X)
    scores = Magnitude(p=1)(model, sites)
    assert budget(model, sites, scores, macs=8)["0"].tolist() == [True, False, True]
    assert budget(model, sites, scores, macs=7)["0"].tolist() == [False, False, True]
    assert budget(model, sites, scores, parameters=12)["0"].tolist() == [True, False, True]
    assert budget(model, sites, scores, macs=1.0)["0"].tolist() == [True, True, True]


def test_recurrent_layers_have_budgets_too() -> None:
    model, x = build("lstm")
    sites = channels(model, x)
    keep = budget(model, sites, Magnitude()(model, sites), macs=0.5)
    assert 0.3 * macs(model, x) < macs(cut(model, sites, keep), x) <= 0.5 * macs(model, x)


def test_a_multiple_of_units() -> None:
    toy = TOYS["residual"]
    model, x = toy.build(), toy.inputs()
    sites = channels(model, x)
    keep = budget(model, sites, Magnitude()(model, sites), macs=0.7, round_to=2)
    assert all(int(k.sum()) % 2 == 0 for k in keep.values())
    assert macs(cut(model, sites, keep), x) <= 0.7 * macs(model, x)


class TwoBranches(nn.Module):
    """Two branches of equal cost; the scan below says that the second one bears its loss better."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 8)
        self.out = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(torch.relu(torch.cat([self.a(x), self.b(x)], 1)))
        return made


def test_the_scan_beats_uniform() -> None:
    model, x = TwoBranches(), torch.randn(1, 4)
    sites = channels(model, x)
    losses = {"a": [1.0, 4.0, 9.0], "b": [0.1, 0.2, 0.3]}
    rows = [
        SensitivityRow(site, (i + 1) / 4, 2 * (i + 1), 8, {"loss": loss})
        for site, of in losses.items()
        for i, loss in enumerate(of)
    ]
    scan = Sensitivity({"loss": 0.0}, tuple(rows))
    scores = Magnitude()(model, sites)
    keep = budget(model, sites, scores, macs=0.5, sensitivity=scan)
    # 16 of 96 units' worth go: six of b for 0.3 and two of a for 1.0; uniform would lose 4.0 + 0.2.
    assert {name: int((~k).sum()) for name, k in keep.items()} == {"a": 2, "b": 6}
    assert macs(cut(model, sites, keep), x) == macs(model, x) // 2
    with pytest.raises(UnknownNameError, match="site of the sensitivity scan 'a'"):
        budget(model, sites, scores, macs=0.5, sensitivity=Sensitivity({"loss": 0.0}, tuple(rows[3:])))


def test_blocks_have_budgets_too() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = x + self.inner(x)
            return made

    model = nn.Sequential(*(Block() for _ in range(4)))
    sites = blocks(model, torch.randn(1, 4))
    keep = budget(model, sites, Magnitude()(model, sites), parameters=0.5, minimum=0)
    assert parameters(cut(model, sites, keep)).total == 40


def search(times: list[float], goal: float) -> tuple[int, int]:
    """The step found and how often was measured, with times as given."""
    calls = []

    def ratio(keep: Keep) -> float:
        calls.append(int(keep["a"]))
        return times[calls[-1]]

    steps = Steps(len(times) - 1, lambda step: {"a": torch.tensor(step)})
    return _Search(steps, goal, ratio).run(), len(calls)


def test_a_time_is_found_in_few_measurements() -> None:
    step, measured = search([1 - i / 1000 for i in range(900)], 0.5)
    assert abs(1 - step / 1000 - 0.5) <= 0.025
    assert measured <= 6
    assert search([1.0, 0.5], 1.0) == (0, 0)


def test_a_time_on_a_staircase_with_slow_odd_steps() -> None:
    times = [1 - (i // 40) / 10 + 0.2 * (i % 8 != 0) for i in range(360)]
    step, _ = search([min(t, 1.0) for t in times], 0.5)
    assert times[step] == pytest.approx(0.5, rel=0.05)


def test_times_that_cannot_be_reached() -> None:
    with pytest.raises(InputError, match=r"cannot come down to 0\.3 of the unpruned model's; .* it is 0\.6 of it"):
        search([1.0, 0.8, 0.6], 0.3)


def test_where_no_cut_comes_near_the_next_faster_one_is_taken() -> None:
    assert search([1.0, 0.6, 0.3], 0.5)[0] == 2
    assert search([1.0, 0.52, 0.3], 0.5)[0] == 1  # within 5 %


def test_steps_that_keep_as_many_units_are_measured_once() -> None:
    measured: list[int] = []

    def ratio(keep: Keep) -> float:
        measured.append(int(keep["a"].sum()))
        return measured[-1] / 64

    def at(step: int) -> dict[str, Tensor]:
        return {"a": torch.arange(64) < 16 * round((64 - step) / 16)}

    assert int(at(_Search(Steps(63, at), 0.4, ratio).run())["a"].sum()) == 16
    assert all(measured.count(width) == 1 for width in measured if width != 16)
    assert measured.count(16) == 1


def test_times_in_words() -> None:
    assert _fraction("5 ms", lambda: 0.01) == 0.5
    assert _fraction("0.002s", lambda: 0.008) == 0.25
    with pytest.raises(InputError, match="the unpruned model takes 10 ms, less than the 20 ms asked for"):
        _fraction("20 ms", lambda: 0.01)
    for wrong in ("fast", "0 ms", "1.2.3 ms", 2, 1.5, True, 0.0):
        with pytest.raises(InputError, match="must be a fraction of the unpruned model's"):
            _fraction(wrong, lambda: 0.01)


@pytest.mark.slow
def test_half_the_time_on_this_machine() -> None:
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    x = torch.randn(64, 256)
    sites = channels(model, x)
    keep = budget(model, sites, Magnitude()(model, sites), latency=0.5)
    found = compare_latency({"before": model, "after": cut(model, sites, keep)}, x, repeats=150)
    assert 1 / found.speedups["after"].median == pytest.approx(0.5, rel=0.1)  # a busy machine has its own 5 %


def test_bad_input() -> None:
    model = hand_mlp()
    sites = channels(model, X)
    scores = Magnitude()(model, sites)
    call: Any = budget
    for wrong in ({}, {"macs": 0.5, "parameters": 0.5}):
        with pytest.raises(InputError, match="give one of macs, parameters, bytes, latency"):
            call(model, sites, scores, **wrong)
    for value in (0, 0.0, 1.5, -1, True, "half", float("nan")):
        with pytest.raises(InputError, match="must be a fraction of the unpruned model's"):
            call(model, sites, scores, macs=value)
    with pytest.raises(InputError, match=r"macs cannot come down to 3; .* 4 of 12 are left \(33\.33%\)"):
        call(model, sites, scores, macs=3)
    with pytest.raises(InputError, match="zeros make a model no smaller"):
        call(model, weights(model), Magnitude()(model, weights(model)), macs=0.5)
    with pytest.raises(UnknownNameError, match="unknown scope of a budget 'row'"):
        call(model, sites, scores, macs=0.5, scope="row")


def test_the_command_takes_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["secateur", "prune", "lenet-300-100", "--set", "input_size=8", "--out", str(tmp_path / "small"), "--json"]
    for limit, code in (("macs=0.5", 0), ("macs", 1)):
        monkeypatch.setattr("sys.argv", [*words, "--budget", limit])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        printed, problem = capsys.readouterr()
        if code:
            assert "--budget 'macs': write KEY=VALUE, such as macs=0.5" in problem
        else:
            report = json.loads(printed)
            assert report["rule"] == {"budget": {"macs": 0.5}}
            assert 0.49 * 50200 < report["macs"][1] <= 0.5 * 50200


def test_prune_takes_a_budget() -> None:
    result = prune(hand_mlp(), X, "l1", budget={"macs": 8}, latency=False)
    assert result.keep["0"].tolist() == [True, False, True]
    assert result.report.sparsity is None
    assert result.report.to_dict()["rule"] == {"budget": {"macs": 8}}
    call: Any = prune
    with pytest.raises(InputError, match="a budget says how much goes, and so does sparsity"):
        call(hand_mlp(), X, sparsity=0.5, budget={"macs": 0.5})
    with pytest.raises(UnknownNameError, match="unknown budget 'mac'; did you mean 'macs'"):
        call(hand_mlp(), X, budget={"mac": 0.5})
    with pytest.raises(InputError, match=r"budget is 0\.5; give what may be used of what"):
        call(hand_mlp(), X, budget=0.5)


@pytest.mark.slow
def test_a_time_for_a_recurrent_layer_is_found_in_little_more_than_the_prune() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.LSTM(40, 128, 2, batch_first=True), nn.Linear(128, 10)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.out(self.cell(x)[0][:, -1])
            return y

    model, x = Recurrent().eval(), torch.randn(4, 50, 40)

    def seconds(**options: Any) -> float:
        started = process_time()
        prune(model, x, latency=False, **options)
        return process_time() - started

    seconds(sparsity=0.3)
    assert seconds(budget={"latency": 0.6}) < 2 * seconds(sparsity=0.3)  # 1.2 to 1.5 of it
    assert seconds(budget={"macs": 0.6}) < 2 * seconds(sparsity=0.3)
