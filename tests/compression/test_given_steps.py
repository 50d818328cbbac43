"""Given steps: their order, what each comes to, what is held while they are trained, and what is taken back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur import deadline
from secateur.cli.steps import step_of
from secateur.compression import Combination
from secateur.compression.given_steps import GivenSteps
from secateur.pruning import Prune
from secateur.train import TrainOptions
from secateur.transforms import LowRank, Quantize, Replace, Share
from secateur.types import InputError, UnknownNameError

QUICK: dict[str, Any] = {
    "runtime": "eager",
    "max_drop": 1.0,
    "train": TrainOptions(epochs=1, batch_size=32),
    "finish": None,
    "samples": 100,
}


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    model = sc.models.build("mlp-3", input_size=8, seed=0)
    sc.fit(model, sc.data.load("digits"), epochs=3, batch_size=32, seed=0)
    return model


def compressed(model: nn.Module, steps: list[Any], **options: Any) -> sc.Result:
    train, held_out = (sc.data.load("digits", name, validation=0.2, limit=400) for name in ("train", "validation"))
    goal, folder = options.pop("goal", None), options.pop("folder", None)
    return sc.compress(
        model, train.images[:4], goal, train, held_out, folder=folder, **{**QUICK, "steps": steps, **options}
    )


def all_four() -> list[Any]:
    return [Prune(sparsity=0.5), LowRank(macs=0.6), Share(bits=4), Quantize(8, per="tensor")]


def test_all_edits_are_one_result_that_a_new_process_loads(trained: nn.Module, tmp_path: Path) -> None:
    result = compressed(trained, all_four(), folder=tmp_path / "small")
    assert [edit.kind for edit in result.edits] == ["cut", "low-rank", "shared", "quantised"]
    assert result.original is trained
    history = result.history
    assert isinstance(history, Combination)
    assert [step.accepted for step in history.steps] == [True] * 4
    assert history.reached
    x = sc.data.load("digits", "test").images[:64]
    assert torch.equal(result.apply(trained)(x), result.model(x))
    torch.save((x, result.model(x)), tmp_path / "answers.pt")
    code = (
        "import sys, torch, secateur as sc; x, y = torch.load(sys.argv[2])\n"
        "model = sc.load(sys.argv[1], sc.models.build('mlp-3', input_size=8, seed=9))\n"
        "assert torch.equal(model(x), y)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "small" / "model"), str(tmp_path / "answers.pt")]
    subprocess.run(command, check=True)
    record = json.loads((tmp_path / "small" / "report.json").read_text())["compression"]
    assert [step["step"].split("(")[0] for step in record["steps"]] == ["Prune", "LowRank", "Share", "Quantize"]
    assert "all together" in (tmp_path / "small" / "report.txt").read_text()


def test_each_step_is_measured(trained: nn.Module) -> None:
    result = compressed(trained, all_four())
    prune, low_rank, share, quantize = result.history.steps
    whole = result.history.baseline
    assert whole["macs"] > prune.macs > low_rank.macs == share.macs == quantize.macs == result.report.macs[1]
    assert low_rank.bytes > 2 * share.bytes
    assert quantize.bytes == result.report.bytes[1]
    assert all(len(step.latency) == 2 and 0 <= step.metric <= 1 for step in result.history.steps)
    assert "step 3, Share(bits=4): bytes" in str(result.history)
    assert result.report.criterion.endswith(", then LowRank(macs=0.6), then Share(bits=4), then Quantize(per='tensor')")


def test_order_is_kept(trained: nn.Module) -> None:
    result = compressed(trained, [LowRank(macs=0.6), Prune(sparsity=0.25)])
    assert [edit.kind for edit in result.edits] == ["low-rank", "cut"]


def test_zeros_shared_values_and_grids_outlive_the_trainings_after_them(trained: nn.Module) -> None:
    options = {"train": TrainOptions(epochs=2, batch_size=32, lr=0.01), "max_drop": 1.0}
    result = compressed(trained, [Prune(sparsity=0.7, unit="weights"), Share(bits=3)], **options)
    weight = result.model.hidden2.weight
    zeros = [parameter == 0 for parameter in result.model.parameters() if parameter.ndim > 1]
    assert sum(int(z.sum()) for z in zeros) / sum(z.numel() for z in zeros) == pytest.approx(0.7, abs=0.01)
    assert weight.unique().numel() <= 8
    rounded = compressed(trained, [Prune(sparsity=0.7, unit="weights"), Share(bits=3), Quantize(4)], **options)
    zeros = [parameter == 0 for parameter in rounded.model.parameters() if parameter.ndim > 1]
    assert sum(int(z.sum()) for z in zeros) / sum(z.numel() for z in zeros) >= 0.69
    edit = rounded.edits[-1]
    again = edit.apply(rounded.model)
    for name, parameter in rounded.model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), f"{name} lies on its grid"
    trained_on = result.history.steps[1]
    assert trained_on.metric >= trained_on.untrained


def test_the_training_moves_shared_values(trained: nn.Module) -> None:
    plain = Share(bits=3)(trained, torch.zeros(1, 64).view(1, 1, 8, 8))
    result = compressed(trained, [Share(bits=3)], train=TrainOptions(epochs=3, batch_size=32, lr=3e-3))
    assert result.history.steps[0].metric > result.history.steps[0].untrained
    assert not torch.equal(plain.model.hidden1.weight.unique(), result.model.hidden1.weight.unique())
    assert result.model.hidden1.weight.unique().numel() == 8


def test_a_step_that_costs_too_much_is_taken_back(trained: nn.Module) -> None:
    nothing = TrainOptions(epochs=0)
    steps = [Share(bits=5), LowRank(rank=1), Quantize(8)]
    result = compressed(trained, steps, max_drop=0.05, train=nothing)
    assert [step.accepted for step in result.history.steps] == [True, False, True]
    assert [edit.kind for edit in result.edits] == ["shared", "quantised"]
    assert not result.history.reached
    assert "taken back: accuracy fell below" in str(result.history)
    assert "2 of 3 steps kept" in str(result.history)


def test_a_step_that_cannot_be_done_is_left_out_with_the_reason(trained: nn.Module) -> None:
    result = compressed(trained, [Replace("separable"), Share(bits=6)])
    first, second = result.history.steps
    assert first.macs is None
    assert "no layer was changed" in first.why
    assert second.accepted
    assert "left out" in str(result.history)


def test_where_nothing_is_good_enough_the_original_comes_back(trained: nn.Module) -> None:
    result = compressed(trained, [LowRank(rank=1)], max_drop=0.0, train=TrainOptions(epochs=0))
    assert result.edits == ()
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(result.model(x), trained(x))
    assert result.history.best is None


def test_a_goal_judges_the_steps(trained: nn.Module) -> None:
    met = compressed(trained, [Share(bits=4)], goal={"bytes": 0.5})
    missed = compressed(trained, [Share(bits=4)], goal={"macs": 0.5})
    assert (met.history.reached, missed.history.reached) == (True, False)
    assert "bytes 0.5 is reached" in str(met.history)
    assert "macs 0.5 is not reached" in str(missed.history)


def test_a_killed_compression_goes_on(trained: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compressed(trained, all_four(), folder=tmp_path / "whole")
    real = GivenSteps._try

    def dying(self: GivenSteps, best: sc.Result, step: Any, number: int) -> Any:
        if number == 3:
            raise KeyboardInterrupt
        return real(self, best, step, number)

    monkeypatch.setattr(GivenSteps, "_try", dying)
    with pytest.raises(KeyboardInterrupt):
        compressed(trained, all_four(), folder=tmp_path / "killed")
    monkeypatch.setattr(GivenSteps, "_try", real)
    result = compressed(trained, all_four(), folder=tmp_path / "killed")
    assert [edit.kind for edit in result.edits] == ["cut", "low-rank", "shared", "quantised"]
    for ours, theirs in zip(result.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert (result.report.units, result.report.units_removed) == (whole.report.units, whole.report.units_removed)
    assert result.report.layers == whole.report.layers
    assert result.report.frozen == whole.report.frozen
    monkeypatch.setattr(GivenSteps, "_try", dying)
    again = compressed(trained, all_four(), folder=tmp_path / "killed")
    assert str(again.history) == str(result.history)


def test_what_was_timed_is_not_timed_again_when_the_time_is_over(
    trained: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, timings, real = [0.0], [], sc.Result.timed

    def slow(self: sc.Result, *args: Any, **options: Any) -> sc.Result:
        now[0] = 1e9
        timings.append(self)
        return real(self, *args, **options)

    monkeypatch.setattr(deadline, "monotonic", lambda: now[0])
    monkeypatch.setattr(sc.Result, "timed", slow)
    result = compressed(trained, all_four(), runtime=None, time_limit=60.0)
    assert isinstance(result.history, Combination)
    assert "time limit of 60 s" in result.history.why
    (step,) = result.history.steps
    assert len(timings) == 1
    assert result.report.latency == tuple(step.latency)


def test_the_original_is_left_as_it_is(trained: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    compressed(trained, all_four())
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())


@pytest.mark.parametrize(
    ("steps", "changes", "words"),
    [
        ([], {}, "steps is empty"),
        (["low-rank"], {}, "is no step"),
        (0, {}, "steps=0 must be a whole number, 1 or more"),
        ([Share()], {"criterion": "l2"}, "criterion does nothing where the steps are given"),
        ([Share()], {"ignore": ["fc"]}, "ignore does nothing"),
        (1, {"seed": "a"}, "seed='a' must be a whole number"),
        (1, {"seed": 2**70}, "seed=.* must be a whole number"),
        (1, {"uniform": "x"}, "uniform='x' must be True, False, or None"),
    ],
)
def test_mistakes_are_refused(trained: nn.Module, steps: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        compressed(trained, steps, **changes)


def test_a_goal_is_needed_without_steps(trained: nn.Module) -> None:
    with pytest.raises(InputError, match="the goal is None"):
        compressed(trained, 2)  # type: ignore[arg-type]


def test_steps_as_text() -> None:
    prune = step_of("prune:sparsity=0.5,unit=weights,block=[2,1]")
    assert isinstance(prune, Prune)
    assert (prune.sparsity, prune.unit, prune.block) == (0.5, "weights", (2, 1))
    assert step_of("share") == Share()
    assert step_of("quantize:bits=4,per=tensor") == Quantize(4, per="tensor")
    assert step_of('low_rank:rank={"a": 3, "b": 4},ignore=["c","d"]') == LowRank(
        rank={"a": 3, "b": 4}, ignore=("c", "d")
    )
    with pytest.raises(UnknownNameError, match="unknown step 'shar'; did you mean 'share'"):
        step_of("shar:bits=3")
    with pytest.raises(UnknownNameError, match="unknown option of the step share 'bit'; did you mean 'bits'"):
        step_of("share:bit=3")
    with pytest.raises(InputError, match="write KEY=VALUE"):
        step_of("share:3")
    with pytest.raises(InputError, match="it needs structure"):
        step_of("structure")
    assert step_of("structure:structure=separable") == Replace("separable")
    with pytest.raises(InputError, match="bits"):
        step_of("share:bits=33")
