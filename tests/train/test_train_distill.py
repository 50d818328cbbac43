"""Distillation and rewound learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateur.pruning import prune
from secateur.testing.toys import same_state, snapshot
from secateur.train import Callback, Distillation, RewindRate, distill, fit
from secateur.train.matching import soft_cross_entropy
from secateur.types import FileError, InputError, UnknownNameError

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (32,), generator=torch.Generator().manual_seed(1))


def net(seed: int = 0, width: int = 6) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


def test_the_soft_loss_by_hand() -> None:
    """At T = 2 the logits (0, 2 ln 3) are (1/4, 3/4), and zeros are (1/2, 1/2); T² = 4 times the sum of p ln(p / q)."""
    teacher, student = torch.tensor([[0.0, 2 * torch.log(torch.tensor(3.0))]]), torch.zeros(1, 2)
    expected = 4 * (0.25 * torch.log(torch.tensor(0.25 / 0.5)) + 0.75 * torch.log(torch.tensor(0.75 / 0.5)))
    assert soft_cross_entropy(student, teacher, 2.0).item() == pytest.approx(expected.item())


def test_one_step_is_that_of_the_loss_written_out() -> None:
    teacher, student, other = net(1), net(2), net(2)
    before = snapshot(teacher)
    options: dict[str, Any] = {"epochs": 1, "batch_size": 32, "optimizer": "sgd", "lr": 0.1}
    distill(student, teacher, (X, Y), temperature=3.0, weight=0.7, hints={"0": None}, hint_weight=0.5, **options)
    outputs = other(X)
    soft = (F.softmax(teacher(X) / 3, 1) * (F.log_softmax(teacher(X) / 3, 1) - F.log_softmax(outputs / 3, 1))).sum(1)
    hint = (other[0](X) - teacher[0](X)).square().mean()
    (0.3 * F.cross_entropy(outputs, Y) + 0.7 * 9 * soft.mean() + 0.5 * hint).backward()
    for mine, theirs in zip(student.parameters(), other.parameters(), strict=True):
        assert theirs.grad is not None
        assert torch.allclose(mine, theirs - 0.1 * theirs.grad, atol=1e-6)
    teacher.zero_grad(set_to_none=True)
    assert same_state({**before, "random state": None}, {**snapshot(teacher), "random state": None})
    assert not student._forward_pre_hooks
    assert not student[0]._forward_hooks


def test_weight_zero_is_ordinary_training() -> None:
    a, b = net(2), net(2)
    first = distill(a, net(1), (X, Y), (X, Y), weight=0.0, epochs=3)
    assert first == fit(b, (X, Y), (X, Y), epochs=3)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_validation_is_of_the_true_targets() -> None:
    student = net(2)
    history = distill(student, net(1), (X, Y), (X, Y), weight=1.0, epochs=2, restore_best=False)
    assert history[-1].validation_loss == pytest.approx(F.cross_entropy(student(X), Y).item())
    assert history[-1].validation_accuracy is not None


def test_a_pruned_model_learns_from_the_whole_one() -> None:
    teacher = net(1, 8)
    result = prune(teacher, X[:1], "l2", 0.5, latency=False)
    left = result.edits[0].plan.rows["0.weight"][0]
    before = soft_cross_entropy(result.model(X), teacher(X), 1.0).item()
    distill(result.model, teacher, (X, Y), weight=1.0, hints={"0": left}, epochs=30, lr=0.01)
    assert soft_cross_entropy(result.model(X), teacher(X), 1.0).item() < 0.5 * before


def test_a_checkpoint_of_another_teacher_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    distill(net(2), net(1), (X, Y), epochs=1, checkpoint=path)
    with pytest.raises(FileError):
        distill(net(2), net(3), (X, Y), epochs=1, checkpoint=path)


def test_bad_distillations() -> None:
    call: Any = Distillation
    for name, value in (("temperature", 0), ("weight", 1.5), ("hint_weight", -1), ("temperature", float("inf"))):
        with pytest.raises(InputError, match=f"distillation: {name}="):
            call(net(), **{name: value})
    with pytest.raises(UnknownNameError, match="unknown module of the teacher to take a hint from '9'"):
        call(net(), hints={"9": None})
    with pytest.raises(InputError, match=r"the shape \(32, 5\) in the model and \(32, 6\) in the teacher"):
        distill(net(2, 5), net(1), (X, Y), hints={"0": None}, epochs=1)
    with pytest.raises(InputError, match=r"the teacher answers in the shape \(32, 6\)"):
        distill(net(2), net(1)[:2], (X, Y), epochs=1)
    model = net()
    with pytest.raises(InputError, match="its own teacher"):
        distill(model, model, (X, Y), epochs=1)
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "multistep", "exponential", "onecycle"])
def test_rewound_rates_are_those_of_the_original(schedule: str) -> None:
    options: dict[str, Any] = {"epochs": 6, "batch_size": 8, "schedule": schedule, "lr": 0.01}
    original = fit(net(), (X, Y), **options)
    again = fit(net(), (X, Y), callbacks=[RewindRate(2)], **options)
    assert [r.lr for r in again] == [r.lr for r in original][2:]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_a_rate_is_rewound_into_the_middle_of_an_epoch(schedule: str) -> None:
    options: dict[str, Any] = {"epochs": 6, "batch_size": 8, "schedule": schedule, "lr": 0.01}
    rates: list[list[float]] = [[], []]

    class Note(Callback):
        def __init__(self, seen: list[float]) -> None:
            self.seen = seen

        def on_gradients(self, run: Any) -> None:
            self.seen.append(run.lr)

    fit(net(), (X, Y), callbacks=[Note(rates[0])], **options)
    fit(net(), (X, Y), callbacks=[RewindRate(2, 1), Note(rates[1])], **options)
    steps = len(rates[0]) // 6
    assert len(rates[1]) == len(rates[0]) - 2 * steps - 1
    # A rate of whole epochs begins with that of the epoch; one of every step with that of the step.
    first = 2 * steps + (1 if schedule == "onecycle" else 0)
    assert rates[1] == rates[0][first : first + len(rates[1])]


def test_the_weights_are_kept() -> None:
    model = net()
    fit(model, (X, Y), epochs=5)
    start = fit(net(), (X, Y), epochs=5)[0].train_loss
    assert fit(model, (X, Y), epochs=5, callbacks=[RewindRate(4)])[0].train_loss < start


def test_a_rewound_training_is_resumed(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 6, "schedule": "cosine", "batch_size": 8}

    class Break(Exception):
        pass

    class Interrupt(RewindRate):
        def on_epoch(self, run: Any) -> None:
            super().on_epoch(run)
            if len(run.records) == 2 and not (tmp_path / "broken").exists():
                (tmp_path / "broken").touch()
                raise Break

    path = tmp_path / "run"
    model = net()
    with pytest.raises(Break):
        fit(model, (X, Y), callbacks=[Interrupt(2)], checkpoint=path, **options)
    history = fit(model, (X, Y), callbacks=[Interrupt(2)], checkpoint=path, **options)
    assert history == fit(net(), (X, Y), callbacks=[RewindRate(2)], **options)


def test_bad_rewinds() -> None:
    for wrong in (-1, True, 1.5):
        with pytest.raises(InputError, match="must be a whole number, 0 or more"):
            RewindRate(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="epoch 3 is not before the end of a training of 3 epochs"):
        fit(net(), (X, Y), epochs=3, callbacks=[RewindRate(3)])
    plateau: Any = torch.optim.lr_scheduler.ReduceLROnPlateau
    with pytest.raises(InputError, match="follows the loss"):
        fit(net(), (X, Y), epochs=3, schedule=plateau, callbacks=[RewindRate(1)])
