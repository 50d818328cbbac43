"""How a step is taken: frozen norms, accumulated batches, bfloat16, and the running average of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.measure import evaluate
from secateur.state import snapshot, tensors
from secateur.train import Callback, HoldZeros, Run, TrainOptions, distill, fit
from secateur.types import InputError

X = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
Y = torch.randint(3, (48,), generator=torch.Generator().manual_seed(1))


def net(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(216, 3)
    )


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(first).values(), tensors(second).values(), strict=True))


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def test_frozen_statistics_stay_and_scales_are_trained() -> None:
    model = net()
    before = snapshot(model)
    fit(model, (X, Y), epochs=2, freeze_norms=True)
    assert all(torch.equal(getattr(model[1], name), before[f"1.{name}"]) for name in STATISTICS)
    assert not torch.equal(model[1].weight, before["1.weight"])
    assert model.training
    assert model[1].training
    fit(model, (X, Y), epochs=1)
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])


def test_a_step_with_frozen_norms_is_that_of_the_norm_in_evaluation() -> None:
    model, plain = net(), net()
    for norm in (model[1], plain[1]):
        norm.running_mean.fill_(0.5)
        norm.running_var.fill_(2.0)
    fit(model, (X, Y), epochs=1, batch_size=48, optimizer="sgd", lr=0.1, freeze_norms=True)
    plain[1].eval()
    F.cross_entropy(plain(X), Y).backward()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_only_norms_with_statistics_leave_training_mode() -> None:
    class Watching(Callback):
        def on_step(self, run: Run) -> None:
            self.training = [name for name, module in run.model.named_modules() if module.training]

    model = nn.Sequential(
        nn.Conv1d(1, 2, 1),
        nn.BatchNorm1d(2, track_running_stats=False),
        nn.InstanceNorm1d(2, track_running_stats=True),
        nn.GroupNorm(1, 2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    watching = Watching()
    fit(model, (torch.randn(8, 1, 8), Y[:8]), epochs=1, freeze_norms=True, callbacks=[watching])
    assert watching.training == ["", "0", "1", "3", "4", "5", "6"]


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_accumulated_batches_are_one_large_one(clip_norm: float | None) -> None:
    """48 samples in batches of 10, the last of 8: three of them are a step of 30, two one of 18."""
    model, plain = net().double(), net().double()
    data = X.double(), Y
    options: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "freeze_norms": True, "clip_norm": clip_norm}
    pieces = [(data[0][i : i + 10], Y[i : i + 10]) for i in range(0, 48, 10)]
    first = fit(model, pieces, epochs=2, accumulate=3, **options)
    second = fit(plain, [(data[0][:30], Y[:30]), (data[0][30:], Y[30:])], epochs=2, **options)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    # The loss is that of all samples before each step.
    assert first[0].train_loss == pytest.approx(second[0].train_loss)


def test_accumulated_steps_are_counted_once() -> None:
    class Counting(Callback):
        gradients = steps = 0

        def on_gradients(self, run: Run) -> None:
            self.gradients += 1

        def on_step(self, run: Run) -> None:
            self.steps += 1

    counting = Counting()
    history = fit(
        net(), (X, Y), epochs=2, batch_size=10, accumulate=2, schedule="onecycle", lr=0.1, callbacks=[counting]
    )
    assert (counting.gradients, counting.steps) == (6, 6)  # 5 batches an epoch
    assert history[-1].lr < 1e-3  # the schedule came to its end


def test_bfloat16_is_near_and_leaves_everything_in_float32() -> None:
    seen: list[torch.dtype] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(outputs.dtype)
        return F.cross_entropy(outputs, targets)

    types: set[torch.dtype] = set()
    model, plain = net(), net()
    handle = model[0].register_forward_hook(lambda module, args, output: types.add(output.dtype))
    history = fit(model, (X, Y), (X, Y), epochs=20, amp=True, loss=loss)
    handle.remove()
    expected = fit(plain, (X, Y), (X, Y), epochs=20)
    assert types == {torch.bfloat16, torch.float32}  # trained in the one, validated in the other
    assert set(seen) == {torch.float32}
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert not same(model, plain)
    assert history[-1].train_loss == pytest.approx(expected[-1].train_loss, rel=0.1)
    assert history[-1].validation_loss == pytest.approx(evaluate(model, (X, Y)).loss, rel=1e-6)


def test_the_teacher_answers_in_bfloat16_too() -> None:
    types: set[torch.dtype] = set()
    teacher = net(1)
    teacher[0].register_forward_hook(lambda module, args, output: types.add(output.dtype))
    distill(net(), teacher, (X, Y), epochs=1, amp=True, hints={"0": None})
    assert torch.bfloat16 in types


def test_the_average_by_hand() -> None:
    """w steps from 1 by −0.1 · 2(w − 3); d is 2/11, then 3/12."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    data = torch.ones(2, 1), torch.full((2, 1), 3.0)
    fit(model, data, epochs=2, loss="mse", optimizer="sgd", lr=0.1, ema=0.9)
    first, second = 1.4, 1.72
    average = 2 / 11 * 1.0 + 9 / 11 * first
    assert model.weight.item() == pytest.approx(3 / 12 * average + 9 / 12 * second)


def test_the_decay_is_what_was_asked_for_in_the_end() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    data = torch.ones(2, 1), torch.full((2, 1), 3.0)
    averages: list[float] = []

    class Look(Callback):
        def on_epoch(self, run: Run) -> None:
            assert run.average is not None
            averages.append(run.average["weight"].item())
            averages.append(run.model.get_parameter("weight").item())

    fit(model, data, epochs=3, loss="mse", optimizer="sgd", lr=0.1, ema=0.1, callbacks=[Look()])
    old, _, _, trained, new, last = averages[0], averages[1], averages[1], averages[3], averages[2], averages[5]
    assert new == pytest.approx(0.1 * old + 0.9 * trained)
    assert averages[4] == pytest.approx(0.1 * new + 0.9 * last)


def test_the_average_is_validated_and_kept_as_the_best() -> None:
    model = net()
    history = fit(model, (X, Y), (X, Y), epochs=6, lr=0.05, ema=0.9)
    best = history.best_epoch
    assert best is not None
    assert evaluate(model, (X, Y)).loss == pytest.approx(history[best - 1].validation_loss, rel=1e-5)


def test_the_average_takes_the_statistics_and_leaves_other_buffers() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.out = nn.BatchNorm1d(2), nn.Linear(2, 2)
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.norm(x)) + self.mask.exp()

    model = Masked()
    fit(model, (torch.randn(16, 2) + 5, torch.randn(16, 2)), epochs=3, batch_size=4, loss="mse", ema=0.5)
    assert torch.equal(model.mask, torch.tensor([0.0, -torch.inf]))
    assert 0 < float(model.norm.running_mean.mean()) < 4
    assert int(model.norm.num_batches_tracked) == 12


def test_removed_weights_stay_zero_in_the_average() -> None:
    model = nn.Linear(2, 3)
    keep = {"weight": torch.tensor([[True, False]] * 3)}
    fit(model, (torch.randn(16, 2), Y[:16]), epochs=3, ema=0.9, callbacks=[HoldZeros(keep)])
    assert bool((model.weight[:, 1] == 0).all())
    assert bool((model.weight[:, 0] != 0).all())


@pytest.mark.parametrize(
    "options",
    [
        {"ema": 0.9},
        {"ema": 0.9, "restore_best": False},
        {"amp": True},
        {"accumulate": 2},
        {"freeze_norms": True},
        {"ema": 0.9, "amp": True, "accumulate": 2, "freeze_norms": True, "schedule": "onecycle"},
    ],
)
@pytest.mark.parametrize("taught", [False, True])
def test_everything_resumes_to_the_bit(tmp_path: Path, options: dict[str, Any], taught: bool) -> None:
    class Stop(Exception):
        pass

    class Crash(Callback):
        def on_epoch(self, run: Run) -> None:
            if len(run.records) == 3:
                raise Stop

    def run(model: nn.Module, *callbacks: Callback, path: Path | None = None) -> Any:
        more: dict[str, Any] = {
            "epochs": 5, "batch_size": 10, "callbacks": callbacks, "checkpoint": path, "lr": 0.01, **options
        }  # fmt: skip
        if taught:
            return distill(model, net(1), X, X, match="auto", **more)
        return fit(model, (X, Y), (X, Y), **more)

    plain, model = net(dropout=0.3), net(dropout=0.3)
    expected = run(plain)
    with pytest.raises(Stop):
        run(model, Crash(), path=tmp_path / "run")
    assert same(model, net())
    assert run(model, path=tmp_path / "run") == expected
    assert same(model, plain)


def test_a_checkpoint_of_the_version_before_is_taken_up(tmp_path: Path) -> None:
    """One that knows neither the new options nor the average."""
    from secateur.train import checkpoint

    class Stop(Exception):
        pass

    class Crash(Callback):
        def on_epoch(self, run: Run) -> None:
            if len(run.records) == 1:
                raise Stop

    def old_state(run: Run) -> dict[str, Any]:
        return {name: value for name, value in state(run).items() if name != "average"}

    def old_identity(*args: Any) -> dict[str, Any]:
        found = identify(*args)
        new = ("accumulate", "amp", "ema", "freeze_norms")
        return {**found, "options": {name: value for name, value in found["options"].items() if name not in new}}

    state, identify = checkpoint._state, checkpoint.identify
    path, model, plain = tmp_path / "run", net(), net()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_state", old_state)
        patch.setattr("secateur.train.loop.identify", old_identity)
        # A callback that comes before the checkpoint would stop before it is written.
        patch.setattr("secateur.train.loop.WriteCheckpoint", _then(checkpoint.WriteCheckpoint, Crash()))
        with pytest.raises(Stop):
            fit(model, (X, Y), epochs=3, checkpoint=path)
    assert fit(model, (X, Y), epochs=3, checkpoint=path) == fit(plain, (X, Y), epochs=3)
    assert same(model, plain)


def _then(write: Any, after: Callback) -> Any:
    class Both(write):  # type: ignore[misc]
        def on_epoch(self, run: Run) -> None:
            super().on_epoch(run)
            after.on_epoch(run)

    return Both


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate=0 must be a whole number, 1 or more"),
        ({"ema": 1.0}, r"ema=1.0 must be a number in \(0, 1\)"),
        ({"ema": True}, "ema=True must be"),
        ({"amp": "float16"}, "amp='float16' must be True or False"),
        ({"freeze_norms": 1}, "freeze_norms=1 must be True or False"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainOptions(**options)
