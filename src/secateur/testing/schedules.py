"""What every schedule must do, as tests that a new one inherits (needs pytest).

    from secateur.testing.schedules import ScheduleConformance

    class TestMySchedule(ScheduleConformance):
        def make(self, model, sites, batches, loss):
            return Mine(batches, loss)

Inherited so, every test below runs on every toy model.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.result import Result
from secateur.schedules import Schedule, Step
from secateur.structure import channels, weights
from secateur.structure.sites import with_zeros
from secateur.testing.conformance import Unit
from secateur.testing.toys import TOYS, same_state, snapshot
from secateur.types import Batches, FileError, InputError, Keep, Loss, Sites

__all__ = ["ScheduleConformance", "same_pruning", "same_steps"]


class Killed(BaseException):
    """Stands for the end of the process."""


class ScheduleConformance:
    """The contract of a schedule; inherit it, and write `make`.

    Attributes:
        lowers: whether it promises that the loss ends no higher than it began.
        trains: whether it trains, so that the log cannot be worked out from the masks.
        unit: what it is tried on: channels, or single weights.
    """

    lowers = False
    trains = False
    unit: Unit = "channels"

    def __init_subclass__(cls) -> None:
        """Leave out what it does not promise."""
        super().__init_subclass__()
        if cls.trains:
            cls.test_the_log_is_what_the_masked_models_do = None  # type: ignore[assignment,method-assign]
        if not cls.lowers:
            cls.test_the_loss_ends_no_higher = None  # type: ignore[assignment,method-assign]

    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        """Return the schedule under test, with its ``minimum`` at 1; one that needs no data leaves them alone."""
        raise NotImplementedError("write make(self, model, sites, batches, loss): return the schedule under test")

    def _made(self, name: str) -> tuple[Schedule, nn.Module, Sites]:
        toy = TOYS[name]
        model = toy.build()
        sites = channels(model, toy.inputs()) if self.unit == "channels" else weights(model)
        return self.make(model, sites, toy.batches(), cross_entropy), model, sites

    @pytest.mark.parametrize("name", list(TOYS))
    def test_the_model_stays_as_it_is(self, name: str) -> None:
        schedule, model, sites = self._made(name)
        model.train()
        before = snapshot(model)
        schedule(model, sites)
        assert same_state(before, snapshot(model))

    @pytest.mark.parametrize("name", list(TOYS))
    def test_the_same_comes_again(self, name: str) -> None:
        schedule, model, sites = self._made(name)
        first = schedule(model, sites)
        torch.rand(3)  # the global random state must not matter
        assert same_pruning(first, schedule(model, sites))

    @pytest.mark.parametrize("name", list(TOYS))
    def test_each_unit_goes_once_and_the_masks_are_those_of_the_log(self, name: str) -> None:
        schedule, model, sites = self._made(name)
        pruned = schedule(model, sites)
        assert len(set(pruned.history.removed)) == len(pruned.history.removed)
        assert list(pruned.keep) == list(sites)
        for site, keep_mask in pruned.keep.items():
            assert keep_mask.dtype == torch.bool
            assert (
                sorted(unit for where, unit in pruned.history.removed if where == site)
                == (~keep_mask).flatten().nonzero().flatten().tolist()
            )
            assert int(keep_mask.sum()) >= 1

    @pytest.mark.parametrize("name", list(TOYS))
    def test_the_log_is_what_the_masked_models_do(self, name: str) -> None:
        schedule, model, sites = self._made(name)
        pruned, batches = schedule(model, sites), TOYS[name].batches()
        keep = {site: torch.ones(s.shape, dtype=torch.bool) for site, s in sites.items()}
        loss, accuracy = _rate(model, batches)
        assert _agree(pruned.history.loss_before, loss)
        assert _agree(pruned.history.accuracy_before, accuracy)
        for step in pruned.history.steps:
            assert _agree(step.loss_before, loss)
            for site, unit in step.units:
                keep[site].view(-1)[unit] = False
            loss, accuracy = _rate(with_zeros(model, sites, keep), batches)
            assert _agree(step.loss, loss)
            assert _agree(step.accuracy, accuracy)
            assert step.labels == () or len(step.labels) == len(step.units)

    @pytest.mark.parametrize("name", list(TOYS))
    def test_what_comes_out_is_cut_for_real(self, name: str) -> None:
        schedule, model, sites = self._made(name)
        pruned = schedule(model, sites)
        if self.unit == "weights":
            weights_left = {n: pruned.model.get_parameter(n)[~keep_mask] for n, keep_mask in pruned.keep.items()}
            assert not any(bool(left.any()) for left in weights_left.values())
            return
        assert pruned.verification is not None
        assert pruned.verification.example <= 1e-4
        if pruned.history.removed:
            assert _count(pruned.model) < _count(model)
        if not self.trains and name != "attention":  # a norm sees fewer channels after a cut
            x = TOYS[name].inputs(seed=9)
            expected = with_zeros(model, sites, pruned.keep).eval()(x)
            torch.testing.assert_close(pruned.model.eval()(x), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("name", list(TOYS))
    def test_the_loss_ends_no_higher(self, name: str) -> None:
        schedule, model, sites = self._made(name)
        pruned = schedule(model, sites)
        assert pruned.history.loss <= pruned.history.loss_before + 1e-6

    @pytest.mark.parametrize("name", ["mlp", "cnn", "residual"])
    def test_it_goes_on_where_it_was_killed(self, name: str, tmp_path: Path) -> None:
        schedule, model, sites = self._made(name)
        whole, steps_seen = schedule(model, sites), list[Step]()
        for number in sorted({0, len(whole.history.steps) // 2, len(whole.history.steps) - 1} - {-1}):
            path = tmp_path / f"{number}.safetensors"

            def kill(step: Step, number: int = number) -> None:
                steps_seen.append(step)
                if len(steps_seen) == number + 1:
                    raise Killed

            steps_seen.clear()
            with pytest.raises(Killed):
                schedule(model, sites, on_step=kill, checkpoint=path)
            assert same_pruning(whole, schedule(model, sites, on_step=steps_seen.append, checkpoint=path))
            assert same_steps(steps_seen, whole.history.steps)
        assert [p.name for p in tmp_path.iterdir() if p.suffix != ".safetensors"] == []

    def test_a_checkpoint_of_another_model_is_refused(self, tmp_path: Path) -> None:
        schedule, model, sites = self._made("cnn")
        path = tmp_path / "a.safetensors"
        if not schedule(model, sites, checkpoint=path).history.steps:
            pytest.skip("removes nothing here")
        with torch.no_grad():
            next(model.parameters()).mul_(2)
        with pytest.raises(FileError, match=r"another pruning; these differ: .*model"):
            schedule(model, sites, checkpoint=path)

    def test_sites_of_another_model_are_refused(self) -> None:
        schedule, _, sites = self._made("cnn")
        with pytest.raises(InputError, match="another model"):
            schedule(TOYS["mlp"].build(), sites)
        with pytest.raises(InputError, match="nothing of this model can be removed"):
            schedule(TOYS["mlp"].build(), Sites({}))

    def test_it_is_a_frozen_value(self) -> None:
        schedule, _, _ = self._made("mlp")
        kind: Any = type(schedule)
        assert kind.__dataclass_params__.frozen
        assert repr(schedule).startswith(kind.__name__)
        with pytest.raises(dataclasses.FrozenInstanceError):
            schedule.minimum = 2

    def test_a_minimum_of_none_or_less_is_refused(self) -> None:
        schedule, model, sites = self._made("mlp")
        # A weight that is all zeros lets something pass, as no emptied layer does.
        for minimum in (-1, 0) if self.unit == "channels" else (-1,):
            changed: Any = copy.copy(schedule)
            object.__setattr__(changed, "minimum", minimum)
            with pytest.raises(InputError, match=f"minimum={minimum}"):
                changed(model, sites)


def same_pruning(a: Result, b: Result) -> bool:
    """Whether two prunings have the same steps, masks and weights, to the bit."""
    assert same_steps(a.history.steps, b.history.steps)
    assert _same(a.keep, b.keep)
    assert a.history.evaluations == b.history.evaluations
    return _same(a.model.state_dict(), b.model.state_dict())


def same_steps(a: Sequence[Step], b: Sequence[Step]) -> bool:
    """Whether two logs are the same but for the seconds; where nothing was measured both have nan."""
    return [_figures(step) for step in a] == [_figures(step) for step in b]


def _figures(step: Step) -> list[Any]:
    figures = dataclasses.asdict(step) | {"seconds": None}
    return [None if value != value else value for value in figures.values()]


def _same(a: Keep, b: Keep) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def _rate(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        outputs = model.eval()(inputs)
    return float(cross_entropy(outputs, targets)), float((outputs.argmax(1) == targets).double().mean())


def _agree(logged: float, expected: float) -> bool:
    return logged != logged or logged == pytest.approx(expected, rel=1e-4, abs=1e-5)


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
