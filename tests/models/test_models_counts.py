"""Every network: its parameters against sums worked by hand, its shapes, its layers' names."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from secateur import models

# Weights + biases, layer by layer; a batch normalisation has two numbers a channel.
ANN = (784 * 128 + 128) + (128 * 10 + 10)
CONV_2 = (3 * 64 * 9 + 64) + (64 * 64 * 9 + 64)
CONV_4 = CONV_2 + (64 * 128 * 9 + 128) + (128 * 128 * 9 + 128)
CONV_6 = CONV_4 + (128 * 256 * 9 + 256) + (256 * 256 * 9 + 256)
FC = (256 * 256 + 256) + (256 * 10 + 10)
HAND = {
    "ann-128": ANN,
    "mlp-3": ANN + 2 * (128 * 128 + 128),
    "cnn-4": (9 * 32 + 32) + (32 * 32 * 9 + 32) + (32 * 64 * 9 + 64) + (64 * 64 * 9 + 64) + (64 * 49 * 10 + 10),
    "fathollahi-5": 784_000 + 1_000_000 + 500_000 + 100_000 + 2_000,
    "lenet-300-100": (784 * 300 + 300) + (300 * 100 + 100) + (100 * 10 + 10),
    "conv-2": CONV_2 + (64 * 16 * 16 * 256 + 256) + FC,
    "conv-4": CONV_4 + (128 * 8 * 8 * 256 + 256) + FC,
    "conv-6": CONV_6 + (256 * 4 * 4 * 256 + 256) + FC,
    "calli-sum": (2 * 1000 + 1000) + (1000 + 1),
    "calli-autoencoder": (9 * 32 + 32)
    + (32 * 64 * 9 + 64)
    + (64 * 32 * 9 + 32)
    + (32 * 9 + 1)
    + 2 * (32 + 64 + 32 + 1),
    "calli-mnist": (25 * 32 + 32) + (32 * 64 * 25 + 64) + (64 * 128 * 49 + 128) + (128 * 10 + 10),
    "calli-cifar": (3 * 64 * 25 + 64)
    + (64 * 64 * 25 + 64)
    + (6 * 6 * 64 * 384 + 384)
    + (384 * 192 + 192)
    + (192 * 10 + 10)
    + 2 * (64 + 64 + 384 + 192),
    "janjic-mlp": (1024 * 2048 + 2048) + (2048 * 10 + 10),
    "janjic-cnn": (25 * 32 + 32) + (32 * 64 * 25 + 64) + (576 * 200 + 200) + (200 * 10 + 10),
    # Published, and what torchvision states for its own.
    "vgg-16": 138_357_544,
    "resnet-18": 11_689_512,
    "resnet-34": 21_797_672,
    "resnet-50": 25_557_032,
    "resnet-101": 44_549_160,
    "resnet-152": 60_192_808,
    "inception": 6_998_552,
}


# GoogLeNet's blocks: 1×1; 1×1, 3×3; 1×1, 5×5; 1×1 after the pool.
INCEPTION = [
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
]
INCEPTION_CHANNELS = (192, 256, 480, 512, 512, 512, 528, 832, 832, 1024)


def meta(name: str, **options: object) -> nn.Module:
    """The network with shapes and no memory, so that the largest ones cost nothing."""
    with torch.device("meta"):
        return models.build(name, **options)  # type: ignore[arg-type]


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", models.names())
def test_parameters_are_as_worked_by_hand(name: str) -> None:
    assert count(meta(name)) == HAND[name]


@pytest.mark.parametrize("name", models.names())
def test_outputs_have_the_stated_shape(name: str) -> None:
    expected: tuple[int, ...] = (1000,) if name.startswith(("vgg", "resnet", "inception")) else (10,)
    expected = {"calli-sum": (1,), "calli-autoencoder": (1, 28, 28)}.get(name, expected)
    inputs = torch.empty(3, *models.input_shape(name), device="meta")
    assert meta(name)(inputs).shape == (3, *expected)


LAYERS = {
    "ann-128": "hidden output",
    "mlp-3": "hidden1 hidden2 hidden3 output",
    "cnn-4": "conv1 conv2 conv3 conv4 output",
    "fathollahi-5": "dense dense_1 dense_2 dense_3 dense_4",
    "lenet-300-100": "fc1 fc2 fc3",
    "conv-2": "conv1 conv2 fc1 fc2 fc3",
    "conv-6": "conv1 conv2 conv3 conv4 conv5 conv6 fc1 fc2 fc3",
    "calli-sum": "hidden output",
    "calli-autoencoder": "encoder1.conv encoder2.conv decoder1.deconv decoder2.deconv",
    "calli-mnist": "conv1 conv2 conv3 fc",
    "calli-cifar": "conv1 conv2 fc1 fc2 fc3",
    "janjic-mlp": "fc1 fc2",
    "janjic-cnn": "conv1 conv2 fc1 fc2",
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_the_texts_names(name: str) -> None:
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    found = [path for path, layer in meta(name).named_modules() if isinstance(layer, kinds)]
    assert found == LAYERS[name].split()


def test_fathollahi_has_no_biases_and_2384000_weights_that_may_be_pruned() -> None:
    model = meta("fathollahi-5")
    assert [name for name, _ in model.named_parameters() if "bias" in name] == []
    hidden = [weight for name, weight in model.named_parameters() if name != "dense_4.weight"]
    assert sum(weight.numel() for weight in hidden) == 2_384_000
    assert sum(len(weight) for weight in hidden) == 2_700


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("ann-128", {"input_size": 8, "classes": 3, "hidden": 5}, 64 * 5 + 5 + 5 * 3 + 3),
        ("mlp-3", {"input_size": 8, "hidden": (4, 3)}, 64 * 4 + 4 + 4 * 3 + 3 + 3 * 10 + 10),
        (
            "cnn-4",
            {"input_size": 8, "width": 0.125},
            (36 + 4) + (144 + 4) + (288 + 8) + (576 + 8) + (8 * 4 * 10 + 10),
        ),
        (
            "conv-2",
            {"in_channels": 1, "input_size": 4, "width": 1 / 64},
            (9 + 1) + (9 + 1) + (4 * 4 + 4) + 20 + 50,
        ),
        ("calli-mnist", {"batch_norm": True}, HAND["calli-mnist"] + 32 + 64 + 128),
        ("calli-mnist", {"bias": False}, HAND["calli-mnist"] - 32 - 64 - 128 - 10),
        (
            "calli-mnist",
            {"one_dimensional": True},
            *[5 * 32 + 5 * 32 * 32 + 64 + 5 * 32 * 64 + 5 * 64 * 64 + 128 + 7 * 64 * 128 + 7 * 128 * 128 + 256 + 1290],
        ),
        ("calli-sum", {"bias": False}, 3000),
        ("vgg-16", {"batch_norm": True}, 138_365_992),
        # 14,714,688 in the convolutions, then 512-512-512-10.
        ("vgg-16", {"input_size": 32, "classes": 10}, 14_714_688 + 2 * (512 * 512 + 512) + 5_130),
        ("resnet-18", {"input_size": 32, "classes": 10}, 11_173_962),
        # A bias for the two numbers of each norm: 64 + 3 · 2 · 64 + 4 · 2 · 128 + 6 · 2 · 256 + 3 · 2 · 512, shortcuts 896.
        ("resnet-34", {"batch_norm": False}, 21_797_672 - (64 + 384 + 1024 + 3072 + 3072 + 896)),
        # Without the 1×1 shortcuts, each with a norm.
        (
            "resnet-34",
            {"residual": False},
            21_797_672 - (64 * 128 + 128 * 256 + 256 * 512 + 2 * (128 + 256 + 512)),
        ),
        (
            "resnet-50",
            {"residual": False},
            25_557_032 - (64 * 256 + 256 * 512 + 512 * 1024 + 1024 * 2048 + 2 * (256 + 512 + 1024 + 2048)),
        ),
        # A norm's two numbers for each bias: 64 + 64 + 192, and six convolutions a block.
        ("inception", {"batch_norm": True}, 6_998_552 + 64 + 64 + 192 + sum(map(sum, INCEPTION))),
        # 25 m n and a bias become 9 m n + 9 n² and two.
        (
            "inception",
            {"factorised": True},
            6_998_552 + sum(9 * n * n - 16 * m * n + n for _, _, _, m, n, _ in INCEPTION),
        ),
        (
            "inception",
            {"residual": True},
            6_998_552 + sum(n_in * n_out + n_out for n_in, n_out in pairwise(INCEPTION_CHANNELS)),
        ),
    ],
)
def test_options_change_what_they_say(name: str, options: dict[str, object], parameters: int) -> None:
    model = meta(name, **options)
    assert count(model) == parameters
    usual = 1000 if name.startswith(("vgg", "resnet", "inception")) else 1 if name == "calli-sum" else 10
    shape = models.input_shape(name, **options)
    assert model(torch.empty(2, *shape, device="meta")).shape == (
        2,
        options.get("classes", usual),
    )


@pytest.mark.parametrize("name", ["ann-128", "mlp-3", "cnn-4", "lenet-300-100", "conv-2", "conv-4", "conv-6"])
@pytest.mark.parametrize("size", [8, 28, 32])
def test_small_networks_take_every_data_set(name: str, size: int) -> None:
    assert meta(name, in_channels=1, input_size=size)(torch.empty(2, 1, size, size, device="meta")).shape == (
        2,
        10,
    )


@pytest.mark.parametrize("name", ["janjic-mlp", "janjic-cnn"])
@pytest.mark.parametrize("size", [8, 27, 28, 32])
def test_janjics_networks_pad_to_32(name: str, size: int) -> None:
    assert meta(name, input_size=size)(torch.empty(2, 1, size, size, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("size", [32, 64, 96, 224, 256])
def test_large_networks_take_every_size(size: int) -> None:
    for name in ("vgg-16", "resnet-18", "resnet-50", "inception"):
        options: dict[str, object] = {"input_size": size, "width": 0.125, "classes": 7}
        assert meta(name, **options)(torch.empty(2, 3, size, size, device="meta")).shape == (2, 7)


def test_dropout_is_there_when_asked() -> None:
    for name in ("ann-128", "mlp-3", "lenet-300-100", "fathollahi-5", "cnn-4", "conv-2", "vgg-16"):
        model = meta(name, dropout=0.25)
        rates = [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)]
        assert rates
        assert set(rates) == {0.25}
    assert not [layer for layer in meta("ann-128").modules() if isinstance(layer, nn.Dropout)]
