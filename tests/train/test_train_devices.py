"""One training in two processes: the steps are those of one process on the same batches, to rounding."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from secateur.data import Stream
from secateur.labelled import spans
from secateur.rate.tally import Tally
from secateur.train import Callback, Run, fit
from secateur.train.devices import Ranks
from secateur.types import InputError, MissingLibraryError

# What the launcher warns of (the number of threads, say) is its own affair.
pytestmark = pytest.mark.filterwarnings("default")
two = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("lightning_fabric"),
    reason="needs Lightning Fabric: pip install 'secateur[devices]'",
)


class Net(nn.Module):
    """A network with a parameter that no forward pass reaches, and, if asked, dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(144, 3))
        self.unused = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.body(images)
        return answer


class Numbered:
    """Images that are read one by one."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, position: int) -> tuple[Tensor, int]:
        return self.images[position], int(self.labels[position])


class FailInEpoch(Callback):
    """Raises at the beginning of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_begin(self, run: Run) -> None:
        if len(run.records) == self.epoch - 1:
            raise InputError("stopped here")


def net(dropout: float = 0.0) -> Net:
    torch.manual_seed(0)
    return Net(dropout)


def images(count: int) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(0)
    labels = torch.randint(3, (count,), generator=generator)
    return torch.randn(count, 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1), labels


def stream(count: int) -> Stream:
    return Stream(Numbered(*images(count)), torch.arange(count), augment=("flip",), workers=1)


@two
@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_two_processes_take_the_steps_of_one(kind: str) -> None:
    # The last batch has three samples, too few to share; two batches make a step.
    data: Any = images(67) if kind == "memory" else stream(67)
    options: dict[str, Any] = {"epochs": 3, "batch_size": 16, "accumulate": 2, "lr": 0.01, "schedule": "cosine"}
    single, shared = net(), net()
    alone = fit(single, data, images(20), ema=0.5, **options)
    together = fit(shared, data, images(20), ema=0.5, devices=2, **options)
    for name, tensor in single.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    for record, expected in zip(together, alone, strict=True):
        assert record.train_loss == pytest.approx(expected.train_loss, rel=1e-5)
        assert record.train_accuracy == expected.train_accuracy, "every sample is counted once"
        assert record.validation_loss == pytest.approx(expected.validation_loss, rel=1e-4)
        assert record.lr == expected.lr
    assert not torch.equal(net().body[0].weight, shared.body[0].weight)


@two
def test_a_training_that_failed_leaves_the_model_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    def train(model: Net, checkpoint: Path | None, *callbacks: Callback) -> None:
        fit(model, images(64), epochs=3, batch_size=32, devices=2, checkpoint=checkpoint, callbacks=callbacks)

    file, undisturbed, resumed = tmp_path / "file", net(0.5), net(0.5)
    with pytest.raises(InputError, match="stopped here"):
        train(resumed, file, FailInEpoch(3))
    assert all(torch.equal(a, b) for a, b in zip(net(0.5).parameters(), resumed.parameters(), strict=True))
    assert file.exists()
    train(undisturbed, None)
    train(resumed, file)
    assert all(torch.equal(a, b) for a, b in zip(undisturbed.parameters(), resumed.parameters(), strict=True))


@two
def test_what_cannot_be_sent_is_said() -> None:
    with pytest.raises(InputError, match=r"cannot be sent: .*; define it in a module"):
        fit(net(), images(8), epochs=1, devices=2, loss=lambda outputs, targets: outputs.mean())


@two
def test_what_goes_wrong_in_a_process_is_raised_as_in_one() -> None:
    model = net()
    with pytest.raises(InputError, match=r"the loss became .* at step"):
        fit(model, images(32), epochs=9, batch_size=8, optimizer="sgd", lr=1e30, devices=2)
    assert torch.equal(model.body[0].weight, net().body[0].weight)


@two
def test_a_study_trains_on_two(tmp_path: Path) -> None:
    from secateur.lab import Store, run_study
    from secateur.studies import by_name

    options = {"seeds": 1, "epochs": 1, "methods": ["neuron"], "sparsities": [0.5], "devices": 2}
    store = Store(tmp_path / "store")
    summary = run_study(by_name("demo"), store, options, executor="serial", progress=False)
    assert not summary.failed, summary.failed
    record = next(record for record in store.records() if record.recipe.kind == "train")
    assert record.recipe.parameters["fit"]["devices"] == 2
    assert record.metrics["accuracy"] > 0.3


# Without any process


def test_the_portions_of_all_processes_are_the_batch() -> None:
    data, size = images(23), 8
    whole = list(Ranks().portions(data, size, Generator().manual_seed(1)))
    parts = [list(Ranks(rank, 3).portions(data, size, Generator().manual_seed(1))) for rank in range(3)]
    streamed = [list(Ranks(rank, 3).portions(stream(23), size, Generator().manual_seed(1))) for rank in range(3)]
    assert [portion.whole for portion in whole] == [stop - start for start, stop in spans(23, size)]
    for batch, *portions in zip(whole, *parts, strict=True):
        assert torch.equal(batch.batch.targets, torch.cat([portion.batch.targets for portion in portions]))
        # The mean over the processes of (weight ÷ samples) · mean loss is the batch's mean loss.
        losses = sum(portion.weight * portion.batch.inputs.mean() for portion in portions) / 3
        torch.testing.assert_close(losses / batch.whole, batch.batch.inputs.mean())
    for rank in range(3):
        assert [portion.weight for portion in streamed[rank]] == [portion.weight for portion in parts[rank]]


def test_a_small_batch_is_everyones_and_counted_once() -> None:
    portions = [next(Ranks(rank, 3).portions(images(5), 8, Generator())) for rank in range(3)]
    assert [len(portion.batch) for portion in portions] == [5, 5, 5]
    assert [portion.counted for portion in portions] == [True, False, False]
    assert Ranks().summed(Tally(5, 2.0)).loss == 0.4


def test_dropout_is_of_the_step_and_the_process_alone() -> None:
    def drawn(rank: int, step: int) -> Tensor:
        with Ranks(rank, 2).chance(torch.device("cpu"), 7, step):
            return torch.rand(3)

    before = torch.get_rng_state()
    assert torch.equal(drawn(0, 1), drawn(0, 1))
    assert not torch.equal(drawn(0, 1), drawn(1, 1))
    assert not torch.equal(drawn(0, 1), drawn(0, 2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("devices", "words"), [(0, "devices=0"), (1.5, "devices=1.5"), (True, "devices=True")])
def test_numbers_of_devices_are_checked(devices: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit(net(), images(8), epochs=1, devices=devices)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(MissingLibraryError, match=r"secateur\[devices\]"):
        fit(net(), images(8), epochs=1, devices=2)
