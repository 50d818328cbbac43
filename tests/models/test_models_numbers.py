"""What the networks compute and how they begin: TensorFlow's SAME padding, initialisation, seeds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import models
from secateur.models.layers import deconv_same, pad_same, pad_to, same_padding, stack
from secateur.types import InputError, UnknownNameError


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (28, 3, 2, (0, 1)),
        (14, 3, 2, (0, 1)),
        (7, 3, 2, (1, 1)),
        (28, 5, 1, (2, 2)),
        (24, 3, 2, (0, 1)),
        (5, 2, 1, (0, 1)),
        (4, 1, 2, (0, 0)),
    ],
)
def test_same_padding_is_tensorflows(size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == expected


def test_same_convolution_with_stride_by_hand() -> None:
    # Rows of a ramp 0…3, kernel of ones 3×3, stride 2, zeros only after: windows begin at 0 and 2.
    image = torch.arange(4.0).expand(4, 4)[None, None]
    out = F.conv2d(pad_same(4, 3, 2)(image), torch.ones(1, 1, 3, 3), stride=2)
    # Columns: 0 + 1 + 2 = 3 and 2 + 3 + pad = 5; times three rows, then two.
    assert out[0, 0].tolist() == [[9.0, 15.0], [6.0, 10.0]]


def test_same_deconvolution_is_the_gradient_of_the_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 2, 3, 3, generator=generator)
    image = torch.randn(1, 2, 14, 14, generator=generator, requires_grad=True)
    small = torch.randn(1, 4, 7, 7, generator=generator)
    (expected,) = torch.autograd.grad(F.conv2d(pad_same(14, 3, 2)(image), weight, stride=2), image, small)
    block = stack(deconv_same(4, 2, 3, 2, size=7))
    with torch.no_grad():
        block.deconv.weight.copy_(weight)
        block.deconv.bias.zero_()
        torch.testing.assert_close(block(small), expected)


def test_calli_pools_are_same_pools() -> None:
    model = models.build("calli-cifar", seed=0).eval()
    after_relu = torch.rand(1, 64, 24, 24, generator=torch.Generator().manual_seed(1))
    found = model.pool1(model.pad1(after_relu))
    expected = F.max_pool2d(after_relu, 3, 2, ceil_mode=True)  # windows that stop at the edge
    assert found.shape == (1, 64, 12, 12)
    assert torch.equal(found, expected)


def test_padding_to_32_keeps_the_image_in_the_middle() -> None:
    padded = pad_to(32, 28)(torch.ones(1, 1, 28, 28))
    assert padded.sum() == 28 * 28
    assert padded[0, 0, 2:30, 2:30].sum() == 28 * 28
    assert pad_to(8, 5)(torch.ones(1, 1, 5, 5))[0, 0].sum(0).tolist() == [0, 5, 5, 5, 5, 5, 0, 0]


def test_autoencoder_blocks_have_the_tables_sizes() -> None:
    model = models.build("calli-autoencoder", seed=0)
    sizes, x = [], torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for block in model.children():
        x = block(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(32, 14, 14), (64, 7, 7), (32, 14, 14), (1, 28, 28)]


def weights(model: nn.Module) -> list[Tensor]:
    return [value for name, value in model.named_parameters() if name.endswith("weight") and value.dim() > 1]


def biases(model: nn.Module) -> list[Tensor]:
    return [value for name, value in model.named_parameters() if name.endswith("bias")]


@pytest.mark.parametrize("name", ["calli-sum", "calli-autoencoder", "calli-mnist", "calli-cifar"])
def test_callis_weights_are_truncated_normals(name: str) -> None:
    model = models.build(name, seed=0)
    drawn = torch.cat([weight.flatten() for weight in weights(model)])
    assert drawn.abs().max() <= 0.2
    # A normal of standard deviation 0.1 cut at two of them has 0.0880.
    assert drawn.std().item() == pytest.approx(0.0880, abs=0.003)
    assert all(not bias.any() for bias in biases(model))


def test_keras_networks_begin_glorot_uniform() -> None:
    weight = models.build("fathollahi-5", seed=0).dense_1.weight
    bound = (6 / 2000) ** 0.5
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
    assert not models.build("ann-128", seed=0).hidden.bias.any()


def test_frankles_networks_begin_glorot_normal() -> None:
    weight = models.build("lenet-300-100", seed=0).fc1.weight
    assert weight.std().item() == pytest.approx((2 / (784 + 300)) ** 0.5, rel=0.01)
    assert weight.abs().max() > 3 * weight.std()


def test_torch7_networks_begin_uniform_within_the_root_of_fan_in() -> None:
    layer = models.build("janjic-mlp", seed=0).fc1
    assert 0.99 / 32 < layer.weight.abs().max() <= 1 / 32
    assert 0.99 / 32 < layer.bias.abs().max() <= 1 / 32


def test_vgg_and_resnet_begin_as_torchvisions() -> None:
    vgg = models.build("vgg-16", seed=0, input_size=32, classes=10)
    assert vgg.features[24].weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert vgg.classifier[0].weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not vgg.features[24].bias.any()
    resnet = models.build("resnet-18", seed=0, input_size=32)
    assert resnet.layer4[1].conv1.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("init", "std"),
    [
        ("xavier-normal", (2 / (784 + 300)) ** 0.5),
        ("xavier-uniform", (2 / (784 + 300)) ** 0.5),
        ("kaiming-normal", (2 / 784) ** 0.5),
        ("kaiming-uniform", (2 / 784) ** 0.5),
        ("truncated-normal", 0.0880),
        ("standard-normal", 1.0),
    ],
)
def test_init_replaces_the_networks_own(init: str, std: float) -> None:
    model = models.build("lenet-300-100", seed=0, init=init)
    weight = model.fc1.weight
    assert weight.std().item() == pytest.approx(std, rel=0.01)
    # A uniform one never goes beyond √3 standard deviations.
    assert (weight.abs().max() <= 3**0.5 * std * 1.001) == init.endswith("uniform")
    assert all(not bias.any() for bias in biases(model))


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown initialisation 'xavier'; did you mean"):
        models.build("ann-128", init="xavier")
    with pytest.raises(UnknownNameError, match="unknown initialisation"):
        models.initialise(nn.Linear(1, 1), "zeros")


SMALL: dict[str, dict[str, object]] = {
    name: ({"width": 0.0625, "input_size": 32} if name.startswith(("vgg", "resnet")) else {}) for name in models.names()
}


@pytest.mark.parametrize("name", models.names())
def test_a_seed_gives_the_same_weights_and_leaves_the_global_state(name: str) -> None:
    state = torch.random.get_rng_state()
    first = models.build(name, seed=7, **SMALL[name]).state_dict()  # type: ignore[arg-type]
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    second = models.build(name, seed=7, **SMALL[name]).state_dict()  # type: ignore[arg-type]
    other = models.build(name, seed=8, **SMALL[name]).state_dict()  # type: ignore[arg-type]
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_without_a_seed_the_global_state_decides() -> None:
    torch.manual_seed(5)
    first = models.build("ann-128")
    second = models.build("ann-128")
    torch.manual_seed(5)
    again = models.build("ann-128")
    assert torch.equal(first.hidden.weight, again.hidden.weight)
    assert not torch.equal(first.hidden.weight, second.hidden.weight)


def test_the_state_is_left_alone_when_building_fails() -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(InputError):
        models.build("calli-autoencoder", seed=1, channels=(1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", models.names())
def test_every_network_exports_and_computes_the_same(name: str) -> None:
    model = models.build(name, seed=0, **SMALL[name]).eval()  # type: ignore[arg-type]
    shape = models.input_shape(name, **SMALL[name])
    inputs = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(model, (inputs,), strict=False)
    torch.testing.assert_close(program.module()(inputs), model(inputs))
