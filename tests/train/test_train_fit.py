"""The training loop: numbers that can be checked by hand, determinism, and what it refuses."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.labelled import spans
from secateur.train import Callback, History, Run, TrainOptions, fit
from secateur.types import InputError


@dataclass(frozen=True, eq=False)
class Split:
    """A stand-in for the data room's."""

    images: Tensor
    labels: Tensor

    def __iter__(self) -> Any:
        yield self.images
        yield self.labels

    def __len__(self) -> int:
        return len(self.labels)


def blobs(count: int, seed: int = 0) -> Split:
    """Two classes of points on a plane, around (−1, −1) and (1, 1)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    return Split(torch.randn(count, 2, generator=generator) * 0.5 + (2.0 * labels - 1)[:, None], labels)


def net(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def line(weight: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(weight)
    return model


def test_two_steps_of_gradient_descent_by_hand() -> None:
    # loss = w²; w ← w − 0.1 · 2w: 1 → 0.8 → 0.64
    model = line(1.0)
    history = fit(model, (torch.ones(1, 1), torch.zeros(1, 1)), epochs=2, optimizer="sgd", lr=0.1, loss="mse")
    assert model.weight.item() == pytest.approx(0.64)
    assert [record.train_loss for record in history] == pytest.approx([1.0, 0.64])
    assert [record.train_accuracy for record in history] == [None, None]
    assert [record.epoch for record in history] == [1, 2]


def test_momentum_and_weight_decay_by_hand() -> None:
    # gradient 2w + 0.5w: step 1: v = 2.5, w = 0.75; step 2: v = 0.5·2.5 + 1.875 = 3.125, w = 0.4375
    model = line(1.0)
    options = TrainOptions(epochs=2, optimizer="sgd", lr=0.1, momentum=0.5, weight_decay=0.5, loss="mse")
    fit(model, (torch.ones(1, 1), torch.zeros(1, 1)), options=options)
    assert model.weight.item() == pytest.approx(0.4375)


def test_clipping_by_hand() -> None:
    # The gradient is 20; clipped to 1 it moves w by 0.1.
    model = line(10.0)
    data = (torch.ones(1, 1), torch.zeros(1, 1))
    fit(model, data, epochs=1, optimizer="sgd", lr=0.1, loss="mse", clip_norm=1.0)
    assert model.weight.item() == pytest.approx(9.9, abs=1e-5)


def test_the_loop_equals_the_plain_one() -> None:
    data, model, plain = blobs(50), net(), net()
    fit(model, data, epochs=3, batch_size=16, optimizer="sgd", lr=0.1, seed=5)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    order = torch.Generator().manual_seed(5)
    for _ in range(3):
        shuffled = torch.randperm(50, generator=order)
        for batch in (shuffled[:16], shuffled[16:32], shuffled[32:48], shuffled[48:]):
            optimizer.zero_grad()
            F.cross_entropy(plain(data.images[batch]), data.labels[batch]).backward()
            optimizer.step()
    assert same(model, plain)


def test_learns_and_reports_validation() -> None:
    model = net()
    history = fit(model, blobs(200), blobs(100, seed=1), epochs=5, lr=0.02)
    assert len(history) == 5
    last = history[-1]
    assert last.validation_accuracy is not None
    assert last.validation_accuracy > 0.95
    assert last.train_loss < history[0].train_loss
    assert last.seconds > 0
    assert history.to_dicts()[0]["epoch"] == 1


def test_the_best_epoch_is_restored() -> None:
    # Gradient ascent in effect: the validation targets are what training moves away from.
    train, validation = (torch.ones(2, 1), torch.ones(2, 1)), (torch.ones(2, 1), torch.zeros(2, 1))
    options = TrainOptions(epochs=3, optimizer="sgd", lr=0.25, loss="mse")
    model, last = line(0.0), line(0.0)
    history = fit(model, train, validation, options)
    fit(last, train, validation, options, restore_best=False)
    # w: 0 → 0.5 → 0.75 → 0.875
    assert history.best_epoch == 1
    assert model.weight.item() == 0.5
    assert last.weight.item() == 0.875


def test_stops_when_the_validation_loss_no_longer_falls() -> None:
    train, validation = (torch.ones(2, 1), torch.ones(2, 1)), (torch.ones(2, 1), torch.zeros(2, 1))
    history = fit(line(0.0), train, validation, epochs=9, optimizer="sgd", lr=0.25, loss="mse", patience=2)
    assert (len(history), history.best_epoch) == (3, 1)


def test_same_seed_same_numbers_and_the_global_state_is_left_alone() -> None:
    models, histories = [net(dropout=0.5) for _ in range(3)], []
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.manual_seed(len(histories))  # what the caller draws must not matter
        before = torch.get_rng_state()
        histories.append(fit(model, blobs(60), blobs(20), epochs=2, batch_size=16, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
    assert histories[0] == histories[1] != histories[2]
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_batches_train_like_the_same_data_in_memory_unshuffled() -> None:
    data = blobs(32)
    batches = [(data.images[i : i + 8], data.labels[i : i + 8]) for i in range(0, 32, 8)]
    model, plain = net(), net()
    fit(model, batches, epochs=2, optimizer="sgd", lr=0.1, schedule="onecycle")
    assert not same(model, plain)
    one, other = net(), net()
    fit(one, batches, batches, epochs=1)
    fit(other, batches, data, epochs=1)
    assert same(one, other)


def test_a_last_batch_of_one_joins_the_one_before() -> None:
    assert spans(9, 4) == [(0, 4), (4, 9)]
    assert spans(3, 1) == [(0, 1), (1, 2), (2, 3)]
    assert spans(1, 4) == [(0, 1)]
    fit(net(), blobs(17), epochs=1, batch_size=16)  # batch normalisation would refuse the 17th sample alone


def test_modes_and_gradients_afterwards() -> None:
    model = net()
    model.train()
    model[1].eval()
    fit(model, blobs(8), epochs=1)
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_whole_model_is_in_training_mode_while_it_trains_and_not_while_it_is_rated() -> None:
    model = net(dropout=0.5)
    model.eval()
    fit(model, blobs(8), blobs(8), epochs=2, batch_size=4, restore_best=False)
    # Batch normalisation counts the batches it trained on: two in each epoch, none in validation.
    assert model[1].num_batches_tracked == 4
    assert not model[3].training


def test_frozen_parameters_stay() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    fit(model, blobs(20), epochs=1)
    assert torch.equal(model[0].weight, before)
    model.requires_grad_(False)
    with pytest.raises(InputError, match="no parameter that requires a gradient"):
        fit(model, blobs(20), epochs=1)


def test_no_epochs_change_nothing() -> None:
    model, plain = net(), net()
    assert fit(model, blobs(20), epochs=0) == History()
    assert same(model, plain)


def test_callbacks_are_called_in_order_and_can_stop() -> None:
    class Watch(Callback):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def on_start(self, run: Run) -> None:
            self.seen.append("start")

        def on_gradients(self, run: Run) -> None:
            assert next(run.model.parameters()).grad is not None
            self.seen.append("gradients")

        def on_step(self, run: Run) -> None:
            self.seen.append(f"step {run.step}")

        def on_epoch(self, run: Run) -> None:
            self.seen.append(f"epoch {run.history[-1].epoch}")
            run.stop = True

        def on_end(self, run: Run) -> None:
            self.seen.append("end")

    watch = Watch()
    history = fit(net(), blobs(8), epochs=5, batch_size=4, callbacks=[watch])
    assert len(history) == 1
    assert watch.seen == ["start", "gradients", "step 1", "gradients", "step 2", "epoch 1", "end"]


def test_a_callback_can_stop_after_a_step() -> None:
    class Late(Callback):
        def on_step(self, run: Run) -> None:
            self.steps, run.stop = run.step, run.step == 3

    late = Late()
    history = fit(net(), blobs(8), epochs=5, batch_size=4, callbacks=[late])  # two steps an epoch
    assert (len(history), late.steps) == (2, 3)


def test_progress_is_shown_on_the_standard_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    fit(net(), blobs(8), blobs(8), epochs=2, progress=True)
    shown = capsys.readouterr()
    assert "epoch 2/2  loss" in shown.err
    assert shown.out == ""


# What is refused, and that the model is then as it was.


def with_nan() -> Split:
    data = blobs(8)
    data.images[3, 0] = float("nan")
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Split(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)), "training data: there are no samples"),
        (Split(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64)), "one target for each input"),
        (with_nan(), "training data: the inputs hold NaN"),
        (
            Split(torch.zeros(3, 2), torch.tensor([0, 1, 2])),
            "label 2 is out of range for a model of 2 outputs",
        ),
        (Split(torch.zeros(3, 2), torch.tensor([0, 1, -1])), "label -1 is out of range"),
        (Split(torch.zeros(3, 5), torch.tensor([0, 1, 1])), r"does not take inputs of shape \(2, 5\)"),
        (
            Split(torch.zeros(3, 2), torch.zeros(3)),
            r"the loss is cross-entropy, and targets are floats of shape \(2,\): pass loss=.mse.",
        ),
        ([], "training data: there are no batches"),
        (iter([(torch.zeros(3, 2), torch.zeros(3))]), "empty after one pass"),
        (["text"], "batch 1 is a str, not a pair"),
        ([torch.zeros(3, 2)], "training data: there are no targets for the loss"),
        ([(torch.zeros(0, 2), torch.zeros(0))], "training data, batch 1: there are no samples"),
        (torch.zeros(3, 2), "training data: there are no targets for the loss"),
        (None, "got a NoneType; give a Split"),
        (
            [(torch.zeros(3, 2), torch.tensor([0, 1, 1])), (torch.zeros(3, 2), torch.tensor([0, 1, 7]))],
            "label 7 is out of range",
        ),
    ],
)
def test_bad_data(data: Any, message: str) -> None:
    model, plain = net(), net()
    with pytest.raises(InputError, match=message):
        fit(model, data, epochs=1)
    assert same(model, plain)


def test_bad_validation_data_are_named() -> None:
    with pytest.raises(InputError, match="validation data: the inputs hold NaN"):
        fit(net(), blobs(8), with_nan(), epochs=1)
    for option in ({"patience": 2}, {"restore_best": True}):
        with pytest.raises(InputError, match="needs validation data"):
            fit(net(), blobs(8), epochs=1, **option)


def test_weights_that_are_not_finite() -> None:
    model = net()
    with torch.no_grad():
        model[4].weight[0, 0] = float("inf")
    with pytest.raises(InputError, match=r"4\.weight of the model holds 1 NaN or infinite values"):
        fit(model, blobs(8), epochs=1)


def test_a_model_that_has_no_shape_yet() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says, once, that lazy modules are new
        model = nn.LazyLinear(2)
    with pytest.raises(InputError, match="parameter weight has no shape yet"):
        fit(model, blobs(8), epochs=1)


def test_outputs_that_are_not_one_tensor() -> None:
    class Two(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    with pytest.raises(InputError, match="returned a tuple, not one tensor"):
        fit(Two(2, 2), blobs(8), epochs=1)


def test_a_loss_that_is_no_scalar() -> None:
    with pytest.raises(InputError, match="the loss must return a scalar tensor"):
        fit(net(), blobs(8), epochs=1, loss=lambda outputs, targets: outputs)


def test_a_loss_that_diverges_is_named_and_the_model_is_as_before() -> None:
    model, plain = line(1.0), line(1.0)
    data = (torch.ones(2, 1), torch.zeros(2, 1))
    # w ← w · (1 − 2 · 1e10): the loss overflows at the third step.
    with pytest.raises(InputError, match=r"loss became inf in epoch 3, at step 3 .*lower lr"):
        fit(model, data, epochs=9, optimizer="sgd", lr=1e10, loss="mse")
    assert same(model, plain)


def test_weights_that_overflow_in_the_last_step_are_named() -> None:
    model, plain = line(1.0), line(1.0)
    with pytest.raises(InputError, match="after epoch 1: weight of the model holds 1 NaN or infinite"):
        fit(model, (torch.ones(2, 1), torch.zeros(2, 1)), epochs=1, optimizer="sgd", lr=3e38, loss="mse")
    assert same(model, plain)


def test_a_validation_loss_that_overflows_is_named() -> None:
    validation = (torch.full((2, 1), 1e30), torch.zeros(2, 1))
    with pytest.raises(InputError, match="validation loss became inf after epoch 1"):
        fit(line(1.0), (torch.ones(2, 1), torch.zeros(2, 1)), validation, epochs=1, loss="mse")


def test_an_interruption_leaves_the_model_as_before_and_ends_the_callbacks() -> None:
    class Interrupt(Callback):
        ended = False

        def on_step(self, run: Run) -> None:
            raise KeyboardInterrupt

        def on_end(self, run: Run) -> None:
            self.ended = True

    model, plain, interrupt = net(), net(), Interrupt()
    model.eval()
    with pytest.raises(KeyboardInterrupt):
        fit(model, blobs(8), epochs=1, callbacks=[interrupt])
    assert same(model, plain)
    assert interrupt.ended
    assert not any(module.training for module in model.modules())
