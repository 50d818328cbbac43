"""Whole numbers of 8 bits in every runtime that has them: on real images as right as torch, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from no_room_to_lose import Fragile
from torch import Tensor, nn

import secateur as sc
from secateur.data import load
from secateur.runtimes import RUNTIMES, FileRuntime, Int8
from secateur.types import ExportError, InputError

NAMES = [name for name, kind in RUNTIMES.items() if issubclass(kind, Int8)]

pytestmark = pytest.mark.filterwarnings("ignore")  # of the runtimes' own


@pytest.fixture(params=NAMES)
def kind(request: pytest.FixtureRequest) -> type[Int8]:
    name: str = request.param
    if not sc.runtimes.is_installed(name):
        pytest.skip(f"{name} is not installed: pip install 'secateur[{RUNTIMES[name].extra}]'")  # type: ignore[union-attr]
    chosen = RUNTIMES[name]
    assert issubclass(chosen, Int8)
    return chosen


class Net(nn.Module):
    """Convolutions with norms, a depthwise one, a residual connection, a pool, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.deep = nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.Conv2d(24, 32, 3)
        self.depthwise, self.head = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Linear(32 * 9, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.max_pool2d(torch.relu(self.deep(x + self.depthwise(x))), 2)
        y: Tensor = self.head(x.flatten(1))
        return y


@pytest.fixture(scope="module")
def trained() -> Net:
    torch.manual_seed(0)
    model = Net()
    sc.fit(model, load("digits"), epochs=4)
    return model.eval()


def accuracy(answers: Tensor, labels: Tensor) -> float:
    return float((answers.argmax(1) == labels).double().mean())


def test_real_images_are_answered_as_well(kind: type[Int8], trained: Net, tmp_path: Path) -> None:
    train, test = load("digits"), load("digits", "test").subset(range(200))
    data = train.subset(range(200))
    exact = sc.export(trained, test.images[:1], kind.exact())
    exported = sc.export(trained, test.images[:1], kind(data=data), tmp_path / f"int8{kind.suffix}")
    assert exported.runtime == kind.name
    assert exported.size < 0.7 * exact.size  # of so small a network the graph itself is a good part
    assert (tmp_path / f"int8{kind.suffix}").read_bytes() == exported.content
    answers = torch.cat([exported.run(image[None]) for image in test.images])
    assert accuracy(trained(test.images), test.labels) - accuracy(answers, test.labels) <= 0.0051
    assert 0 < exported.difference < 0.15


def test_weights_alone_by_name(kind: type[Int8]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)).eval(), torch.randn(1, 256)
    exported = sc.export(model, x, kind.name)
    assert exported.size < 0.4 * 4 * sum(p.numel() for p in model.parameters())
    assert float((exported.run(x) - model(x)).norm() / model(x).norm()) < 0.05


def test_it_is_measured_with_its_bytes(kind: type[Int8]) -> None:
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)).eval()
    small, x = nn.Sequential(nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10)).eval(), torch.randn(1, 512)
    (row,) = sc.measure.bench(model, small, x, runtimes=[kind.name], threads=[1], repeats=5).rows
    assert row.problem == ""
    assert row.bytes[0] is not None
    assert row.bytes[1] is not None
    assert row.bytes[0] > 4 * row.bytes[1]
    assert row.memory[0] is not None  # so the file ran in a process without torch's model


def test_a_file_that_answers_otherwise_is_refused(kind: type[Int8], tmp_path: Path) -> None:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    labels = Fragile()(x).argmax(1)
    with pytest.raises(ExportError, match=rf"{kind.name} has an accuracy of .* torch 100\.00 %"):
        sc.export(Fragile(), x[:1], kind(data=(x, labels)), tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_what_there_is_instead_is_named(kind: type[Int8]) -> None:
    with pytest.raises(ExportError, match=rf"nothing to quantise among .*(?i:softmax).* export to '{kind.exact.name}'"):
        sc.export(nn.Softmax(1), torch.randn(1, 3), kind.name)


@pytest.mark.parametrize("name", NAMES)
def test_options_are_checked_by_all(name: str) -> None:
    kind = RUNTIMES[name]
    assert issubclass(kind, FileRuntime)
    for wrong in ({"points": -1}, {"samples": 0}, {"threads": 0}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}="):
            kind(**wrong)
