"""The small convolutional networks of the texts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from secateur.models.initialisation import initialise
from secateur.models.layers import deconv_same, pad_same, pad_to, scaled, stack
from secateur.types import InputError

__all__ = [
    "calli_autoencoder",
    "calli_cifar",
    "calli_mnist",
    "cnn_4",
    "conv_2",
    "conv_4",
    "conv_6",
    "janjic_cnn",
]


def _pairs(in_channels: int, channels: Sequence[int]) -> dict[str, nn.Module]:
    """Return 3×3 convolutions with ReLU, and a max pool of 2 after every second one."""
    layers: dict[str, nn.Module] = {}
    for position, n_out in enumerate(channels, 1):
        layers[f"conv{position}"] = nn.Conv2d(in_channels, n_out, 3, padding=1)
        layers[f"relu{position}"] = nn.ReLU()
        if position % 2 == 0:
            layers[f"pool{position // 2}"] = nn.MaxPool2d(2)
        in_channels = n_out
    return layers


def _left(model: str, input_size: int, pools: int) -> int:
    """Return the pixels of a side that are left after `pools` max pools of 2."""
    if input_size < 2**pools:
        raise InputError(f"{model}: input_size is {input_size}, too small for {pools} pools; give at least {2**pools}")
    return int(input_size // 2**pools)


def _conv(
    channels: Sequence[int], classes: int, in_channels: int, input_size: int, width: float, dropout: float
) -> nn.Module:
    widths = [scaled(number, width) for number in channels]
    side = _left(f"conv-{len(widths)}", input_size, len(widths) // 2)
    hidden = scaled(256, width)
    layers = _pairs(in_channels, widths)
    layers["flatten"] = nn.Flatten()
    for position, (n_in, n_out) in enumerate(((widths[-1] * side**2, hidden), (hidden, hidden)), 1):
        layers[f"fc{position}"] = nn.Linear(n_in, n_out)
        layers[f"relu{len(widths) + position}"] = nn.ReLU()
        if dropout:
            layers[f"dropout{position}"] = nn.Dropout(dropout)
    layers["fc3"] = nn.Linear(hidden, classes)
    return initialise(stack(layers), "xavier-normal")


def conv_2(
    *,
    classes: int = 10,
    in_channels: int = 3,
    input_size: int = 32,
    width: float = 1.0,
    dropout: float = 0.0,
) -> nn.Module:
    """Conv-2: 64, 64, pool, then 256-256-10 (Frankle and Carbin, 2019; the kind that wijnja takes).

    3×3 convolutions with padding 1 and ReLU. Layers ``conv1`` …, ``fc1`` … ``fc3``; 4,301,642 parameters on
    CIFAR-10. Begun as the paper does: Glorot normal. `width` multiplies every hidden layer.

    >>> conv_2(width=0.25).fc1
    Linear(in_features=4096, out_features=64, bias=True)
    """
    return _conv((64, 64), classes, in_channels, input_size, width, dropout)


def conv_4(
    *,
    classes: int = 10,
    in_channels: int = 3,
    input_size: int = 32,
    width: float = 1.0,
    dropout: float = 0.0,
) -> nn.Module:
    """Conv-4: 64, 64, pool, 128, 128, pool, then 256-256-10 (Frankle and Carbin, 2019).

    2,425,930 parameters on CIFAR-10; otherwise as `conv_2`.

    >>> conv_4(width=0.25).conv3
    Conv2d(16, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """
    return _conv((64, 64, 128, 128), classes, in_channels, input_size, width, dropout)


def conv_6(
    *,
    classes: int = 10,
    in_channels: int = 3,
    input_size: int = 32,
    width: float = 1.0,
    dropout: float = 0.0,
) -> nn.Module:
    """Conv-6: 64, 64, pool, 128, 128, pool, 256, 256, pool, then 256-256-10 (Frankle and Carbin, 2019).

    2,262,602 parameters on CIFAR-10; otherwise as `conv_2`.

    >>> conv_6(width=0.25).conv5
    Conv2d(32, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """
    return _conv((64, 64, 128, 128, 256, 256), classes, in_channels, input_size, width, dropout)


def cnn_4(
    *,
    classes: int = 10,
    in_channels: int = 1,
    input_size: int = 28,
    width: float = 1.0,
    dropout: float = 0.0,
) -> nn.Module:
    """Four convolutions and a dense layer (charpentier, L. Charpentier, 2020, chapters 3 and 5).

    The text gives no sizes; our reading is 3×3 filters, 32, 32, pool, 64, 64, pool, and the dense layer as
    the output. Layers ``conv1`` … ``conv4`` and ``output``; 96,362 parameters on 28×28 grey images; begun as
    Keras begins them: Glorot uniform, biases zero.

    >>> cnn_4().output
    Linear(in_features=3136, out_features=10, bias=True)
    """
    channels = [scaled(number, width) for number in (32, 32, 64, 64)]
    layers = _pairs(in_channels, channels)
    layers["flatten"] = nn.Flatten()
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    layers["output"] = nn.Linear(channels[-1] * _left("cnn-4", input_size, 2) ** 2, classes)
    return initialise(stack(layers), "xavier-uniform")


def calli_autoencoder(
    *, in_channels: int = 1, input_size: int = 28, channels: Sequence[int] = (32, 64, 32)
) -> nn.Module:
    """The auto-encoder for MNIST with 32, 64, 32 channels (calli, E. Çallı, 2017, section 2.1.2, table 2.1).

    Two encoders (3×3 convolution, stride 2, SAME) and two decoders (3×3 transposed convolution, stride 2,
    SAME), each with a bias, batch normalisation and ReLU: 28 → 14 → 7 → 14 → 28 pixels; images in [0, 1] go
    in and come out. Blocks ``encoder1``, ``encoder2``, ``decoder1``, ``decoder2``; 37,827 parameters. The
    text states no initialisation here; its classifiers' is taken: a normal of standard deviation 0.1,
    truncated at 0.2.

    >>> calli_autoencoder().encoder2.conv
    Conv2d(32, 64, kernel_size=(3, 3), stride=(2, 2))
    """
    if len(channels) != 3:
        raise InputError(f"calli-autoencoder: channels is {tuple(channels)}; give three numbers")
    if input_size % 4:
        raise InputError(f"calli-autoencoder: input_size is {input_size}; give a multiple of 4")
    first, second, third = channels
    half, quarter = input_size // 2, input_size // 4
    model = stack(
        {
            "encoder1": _encoder(in_channels, first, input_size),
            "encoder2": _encoder(first, second, half),
            "decoder1": _decoder(second, third, quarter),
            "decoder2": _decoder(third, in_channels, half),
        }
    )
    return initialise(model, "truncated-normal")


def _encoder(n_in: int, n_out: int, size: int) -> nn.Sequential:
    layers = {"pad": pad_same(size, 3, 2), "conv": nn.Conv2d(n_in, n_out, 3, 2)}
    return stack({**layers, "bn": nn.BatchNorm2d(n_out), "relu": nn.ReLU()})


def _decoder(n_in: int, n_out: int, size: int) -> nn.Sequential:
    return stack({**deconv_same(n_in, n_out, 3, 2, size), "bn": nn.BatchNorm2d(n_out), "relu": nn.ReLU()})


def calli_mnist(
    *,
    classes: int = 10,
    in_channels: int = 1,
    input_size: int = 28,
    batch_norm: bool = False,
    bias: bool = True,
    one_dimensional: bool = False,
) -> nn.Module:
    """Three convolutions and a dense layer for MNIST (calli, E. Çallı, 2017, section 2.1.3, table 2.2).

    5×5 with 32 filters, pool 2, 5×5 with 64, pool 2 (SAME), 7×7 with 128 (VALID, so it sees all that is
    left), then the dense layer. Layers ``conv1``, ``conv2``, ``conv3``, ``fc``; 454,922 parameters. Begun as
    the text says: a normal of standard deviation 0.1, truncated at 0.2. What its notes ask for: `batch_norm`
    puts batch normalisation after the convolutions and no biases into them, `bias` False leaves out all biases,
    and `one_dimensional` (section 2.3.1, a heading alone) makes each convolution a column and then a row.

    >>> calli_mnist().conv3
    Conv2d(64, 128, kernel_size=(7, 7), stride=(1, 1))
    >>> calli_mnist(one_dimensional=True).conv1
    Sequential(
      (column): Conv2d(1, 32, kernel_size=(5, 1), stride=(1, 1), padding=(2, 0))
      (row): Conv2d(32, 32, kernel_size=(1, 5), stride=(1, 1), padding=(0, 2))
    )
    """
    kernel, biased = _left("calli-mnist", input_size, 2), bias and not batch_norm
    convolution = _column_and_row if one_dimensional else _square
    layers: dict[str, nn.Module] = {}
    widths = ((in_channels, 32, 5, 2), (32, 64, 5, 2), (64, 128, kernel, 0))
    for position, (n_in, n_out, size, padding) in enumerate(widths, 1):
        layers[f"conv{position}"] = convolution(n_in, n_out, size, padding, biased)
        if batch_norm:
            layers[f"bn{position}"] = nn.BatchNorm2d(n_out)
        layers[f"relu{position}"] = nn.ReLU()
        if position < 3:
            layers[f"pool{position}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(128, classes, bias=bias)
    return initialise(stack(layers), "truncated-normal")


def _square(n_in: int, n_out: int, size: int, padding: int, bias: bool) -> nn.Module:
    return nn.Conv2d(n_in, n_out, size, padding=padding, bias=bias)


def _column_and_row(n_in: int, n_out: int, size: int, padding: int, bias: bool) -> nn.Module:
    column = nn.Conv2d(n_in, n_out, (size, 1), padding=(padding, 0), bias=bias)
    return stack({"column": column, "row": nn.Conv2d(n_out, n_out, (1, size), padding=(0, padding), bias=bias)})


def calli_cifar(*, classes: int = 10, in_channels: int = 3, input_size: int = 24) -> nn.Module:
    """Two convolutions and three dense layers for CIFAR-10 (calli, E. Çallı, 2017, section 2.1.4, table 2.3).

    Reads the 24×24 crops that the text's distortions leave. 5×5 convolutions with 64 filters, SAME; pools of
    3 with stride 2, SAME; dense layers of 384 and 192; a bias and batch normalisation before each ReLU.
    Layers ``conv1``, ``conv2``, ``fc1``, ``fc2``, ``fc3``; 1,069,706 parameters. Begun as the text says: a
    normal of standard deviation 0.1, truncated at 0.2.

    >>> calli_cifar().fc1
    Linear(in_features=2304, out_features=384, bias=True)
    """
    layers: dict[str, nn.Module] = {}
    n_in, size = in_channels, input_size
    for position in (1, 2):
        layers[f"conv{position}"] = nn.Conv2d(n_in, 64, 5, padding=2)
        layers[f"bn{position}"] = nn.BatchNorm2d(64)
        layers[f"relu{position}"] = nn.ReLU()
        # Nothing is negative after ReLU, so zeros never win in the pool.
        layers[f"pad{position}"] = pad_same(size, 3, 2)
        layers[f"pool{position}"] = nn.MaxPool2d(3, 2)
        n_in, size = 64, -(-size // 2)
    layers["flatten"] = nn.Flatten()
    for position, (n_from, n_to) in enumerate(((64 * size**2, 384), (384, 192)), 1):
        layers[f"fc{position}"] = nn.Linear(n_from, n_to)
        layers[f"bn{position + 2}"] = nn.BatchNorm1d(n_to)
        layers[f"relu{position + 2}"] = nn.ReLU()
    layers["fc3"] = nn.Linear(192, classes)
    return initialise(stack(layers), "truncated-normal")


def janjic_cnn(
    *, classes: int = 10, in_channels: int = 1, input_size: int = 28, width: float = 1.0, hidden: int = 200
) -> nn.Module:
    """5×5 convolutions of 32 and 64 filters, then 576-200-10, tanh (janjic, S. Janjić, 2018, section 5.1.2).

    Reads 32×32 pixels; smaller images are padded with zeros on all sides. 32 → 28 → pool 3 (padding 1) 10 →
    6 → pool 2 → 3 pixels, as in torch7's digits demo. Layers ``conv1``, ``conv2``, ``fc1``, ``fc2``; 169,506
    parameters. Begun as PyTorch begins layers, which is how torch7 did: uniform within 1 / √(fan in).

    >>> janjic_cnn().fc1
    Linear(in_features=576, out_features=200, bias=True)
    """
    first, second = scaled(32, width), scaled(64, width)
    return stack(
        {
            "pad": pad_to(32, input_size),
            "conv1": nn.Conv2d(in_channels, first, 5),
            "tanh1": nn.Tanh(),
            "pool1": nn.MaxPool2d(3, 3, padding=1),
            "conv2": nn.Conv2d(first, second, 5),
            "tanh2": nn.Tanh(),
            "pool2": nn.MaxPool2d(2),
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(second * 3**2, hidden),
            "tanh3": nn.Tanh(),
            "fc2": nn.Linear(hidden, classes),
        }
    )
