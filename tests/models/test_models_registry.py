"""Building by name and by import path, torchvision's names, and bad input."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur import models
from secateur.types import InputError, UnknownNameError


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of someone else's, with factories good and bad."""
    (tmp_path / "someones_zoo.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "NUMBER = 3\n"
        "def make(width, bias=True):\n"
        "    return nn.Linear(width, width, bias=bias)\n"
        "def forgets():\n"
        "    nn.Linear(1, 1)\n"
        "class Nested:\n"
        "    Net = nn.ReLU\n"
    )
    (tmp_path / "broken_zoo.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "someones_zoo", raising=False)
    return "someones_zoo"


def test_import_path_builds_with_options_and_seed(zoo: str) -> None:
    first = models.build(f"{zoo}:make", seed=0, width=4, bias=False)
    second = models.build(f"{zoo}:make", seed=0, width=4, bias=False)
    assert isinstance(first, nn.Linear)
    assert first.bias is None
    assert torch.equal(first.weight, second.weight)
    assert isinstance(models.build(f"{zoo}:Nested.Net"), nn.ReLU)
    assert models.build(f"{zoo}:make", width=40, init="truncated-normal").weight.abs().max() <= 0.2


@pytest.mark.parametrize(
    ("path", "options", "error", "message"),
    [
        (
            "nowhere.at_all:make",
            {},
            UnknownNameError,
            "cannot import 'nowhere.at_all'.*package.module:factory",
        ),
        ("broken_zoo:make", {}, UnknownNameError, "a_library_that_is_not_there"),
        (":make", {}, UnknownNameError, "cannot import ''"),
        (
            "someones_zoo:maker",
            {},
            UnknownNameError,
            "unknown attribute of someones_zoo 'maker'; did you mean 'make'",
        ),
        ("someones_zoo:", {}, UnknownNameError, "unknown attribute of someones_zoo ''"),
        ("someones_zoo:NUMBER", {}, InputError, "is a int; name a function or class to call"),
        ("someones_zoo:forgets", {}, InputError, "gave a NoneType; it must return a torch.nn.Module"),
        ("someones_zoo:make", {}, InputError, "missing a required argument: 'width'"),
        ("someones_zoo:make", {"widht": 2}, UnknownNameError, "unknown option of someones_zoo:make 'widht'"),
    ],
)
def test_wrong_import_paths_get_one_clear_error(
    zoo: str, path: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        models.build(path, **options)


def test_unknown_names_and_options_say_what_is_known() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown model 'lenet-300'; did you mean 'lenet-300-100'\? Known: ann-128"
    ):
        models.build("lenet-300")
    with pytest.raises(UnknownNameError, match="unknown model"):
        models.input_shape("vgg")
    with pytest.raises(UnknownNameError, match="unknown option of ann-128 'widht'"):
        models.build("ann-128", widht=2)
    with pytest.raises(UnknownNameError, match="unknown option of lenet-300-100 'width'"):
        models.input_shape("lenet-300-100", width=2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ann-128", {"classes": 0}, "classes is 0; give a whole number of at least 1"),
        ("ann-128", {"hidden": 2.5}, "hidden is 2.5"),
        ("ann-128", {"dropout": 1.0}, "dropout is 1.0; give a probability"),
        ("ann-128", {"dropout": -0.1}, "dropout is -0.1"),
        ("mlp-3", {"hidden": 64}, "hidden is 64; give a tuple"),
        ("mlp-3", {"hidden": ()}, r"hidden is \(\); give a tuple"),
        ("mlp-3", {"hidden": (3, 0)}, "give a tuple of whole numbers"),
        ("conv-2", {"width": 0}, "width is 0; give a number above 0"),
        ("conv-2", {"width": float("nan")}, "width is nan"),
        ("conv-2", {"in_channels": True}, "in_channels is True"),
        ("conv-6", {"input_size": 7}, "input_size is 7, too small for 3 pools; give at least 8"),
        ("vgg-16", {"input_size": 31}, "input_size is 31; its five pools need at least 32"),
        ("vgg-16", {"batch_norm": 1}, "batch_norm is 1; give True or False"),
        ("janjic-cnn", {"input_size": 33}, "input_size is 33, but this network reads 32×32"),
        ("calli-autoencoder", {"input_size": 30}, "give a multiple of 4"),
        ("calli-autoencoder", {"channels": (1, 2)}, "give three numbers"),
        ("ann-128", {"seed": -1}, "seed=-1 must be"),
        ("ann-128", {"seed": 1.5}, "seed=1.5 must be"),
    ],
)
def test_options_out_of_range_get_one_clear_error(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        models.build(name, **options)


def test_input_shapes() -> None:
    assert models.input_shape("calli-cifar") == (3, 24, 24)
    assert models.input_shape("vgg-16", input_size=32, classes=10, width=0.5, seed=3) == (3, 32, 32)
    assert models.input_shape("calli-sum") == (2,)
    with pytest.raises(InputError, match="pass example inputs"):
        models.input_shape("torch.nn:Linear")


@pytest.mark.parametrize("name", models.names())
def test_every_network_names_its_source(name: str) -> None:
    line = models.describe(name)
    assert line.endswith(".")
    assert any(year in line for year in ("2014", "2015", "2017", "2018", "2019", "2020", "2022"))


_LIBRARY: list[torch.library.Library] = []


def torchvision_models() -> Any:
    """torchvision's models; where its compiled part does not load, its two operators are declared instead."""
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARY.append(library)  # the declarations live as long as the object does
    return import_module("torchvision.models")


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("vgg-16", {}, "vgg16"),
        ("vgg-16", {"batch_norm": True}, "vgg16_bn"),
        ("resnet-18", {}, "resnet18"),
        ("resnet-34", {}, "resnet34"),
        ("resnet-50", {}, "resnet50"),
        ("resnet-101", {}, "resnet101"),
        ("resnet-152", {}, "resnet152"),
    ],
)
def test_torchvisions_state_dicts_fit(name: str, options: dict[str, Any], theirs: str) -> None:
    library = torchvision_models()
    with torch.device("meta"):
        ours, known = models.build(name, **options), getattr(library, theirs)()
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in known.state_dict().items()
    }


@pytest.mark.parametrize(("name", "theirs"), [("resnet-18", "resnet18"), ("resnet-50", "resnet50")])
def test_with_torchvisions_weights_the_outputs_are_torchvisions(name: str, theirs: str) -> None:
    known = getattr(torchvision_models(), theirs)(num_classes=5).eval()
    ours = models.build(name, classes=5).eval()
    ours.load_state_dict(known.state_dict())
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), known(images))
