"""The fully connected networks of the texts; each takes images ``(N, C, H, W)`` and flattens them itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from secateur.models.initialisation import initialise
from secateur.models.layers import pad_to, stack

__all__ = ["ann_128", "calli_sum", "fathollahi_5", "janjic_mlp", "lenet_300_100", "mlp_3"]


def _mlp(sizes: Sequence[int], names: Sequence[str], *, bias: bool = True, dropout: float = 0.0) -> nn.Sequential:
    """Return linear layers of these sizes with a ReLU, and perhaps dropout, after all but the last."""
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    for position, ((n_in, n_out), name) in enumerate(zip(pairwise(sizes), names, strict=True), 1):
        layers[name] = nn.Linear(n_in, n_out, bias=bias)
        if position < len(names):
            layers[f"relu{position}"] = nn.ReLU()
            if dropout:
                layers[f"dropout{position}"] = nn.Dropout(dropout)
    return stack(layers)


def ann_128(
    *, classes: int = 10, in_channels: int = 1, input_size: int = 28, hidden: int = 128, dropout: float = 0.0
) -> nn.Module:
    """One hidden layer: 784-128-10 with ReLU (charpentier, L. Charpentier, 2020, section 3.1).

    Layers ``hidden`` and ``output``; 101,770 parameters. The text works in TensorFlow and names no
    initialisation, so weights begin as Keras begins them: Glorot uniform, biases zero.

    >>> ann_128().hidden
    Linear(in_features=784, out_features=128, bias=True)
    """
    sizes = (in_channels * input_size**2, hidden, classes)
    return initialise(_mlp(sizes, ("hidden", "output"), dropout=dropout), "xavier-uniform")


def mlp_3(
    *,
    classes: int = 10,
    in_channels: int = 1,
    input_size: int = 28,
    hidden: Sequence[int] = (128, 128, 128),
    dropout: float = 0.0,
) -> nn.Module:
    """Three hidden layers: 784-128-128-128-10, ReLU (charpentier, L. Charpentier, 2020, chapters 3 and 4).

    The text says three hidden layers and no sizes; 128 each is our reading, after its network of one hidden
    layer. Layers ``hidden1`` … ``hidden3`` and ``output``; 134,794 parameters; begun as `ann_128` is.

    >>> mlp_3(hidden=(32, 16, 8)).hidden3
    Linear(in_features=16, out_features=8, bias=True)
    """
    sizes = (in_channels * input_size**2, *hidden, classes)
    names = (*(f"hidden{position}" for position in range(1, len(hidden) + 1)), "output")
    return initialise(_mlp(sizes, names, dropout=dropout), "xavier-uniform")


def fathollahi_5(
    *,
    classes: int = 10,
    in_channels: int = 1,
    input_size: int = 28,
    hidden: Sequence[int] = (1000, 1000, 500, 200),
    dropout: float = 0.0,
) -> nn.Module:
    """Five dense layers: 784-1000-1000-500-200-10, no biases, ReLU (fathollahi, M. Fathollahi, 2022, fig. 3).

    Layers ``dense``, ``dense_1`` … ``dense_4``, as Keras names them. 2,386,000 weights, as the text's figure
    3 says (784,000 + 1,000,000 + 500,000 + 100,000 + 2,000); the 2,384,000 of its section 3.2.1 are those
    without the output layer's 2,000, and its 2,700 neurons are the hidden ones: the output layer is not
    pruned. Begun as Keras begins dense layers: Glorot uniform. The softmax of the text is in the loss.

    >>> sum(weight.numel() for weight in fathollahi_5().parameters())
    2386000
    """
    sizes = (in_channels * input_size**2, *hidden, classes)
    names = ("dense", *(f"dense_{position}" for position in range(1, len(hidden) + 1)))
    return initialise(_mlp(sizes, names, bias=False, dropout=dropout), "xavier-uniform")


def lenet_300_100(*, classes: int = 10, in_channels: int = 1, input_size: int = 28, dropout: float = 0.0) -> nn.Module:
    """LeNet-300-100: 784-300-100-10 with ReLU (LeCun et al., 1998; Frankle and Carbin, 2019, used by wijnja).

    Layers ``fc1``, ``fc2``, ``fc3``; 266,610 parameters. Begun as Frankle and Carbin do: Glorot normal.

    >>> lenet_300_100().fc2
    Linear(in_features=300, out_features=100, bias=True)
    """
    sizes = (in_channels * input_size**2, 300, 100, classes)
    return initialise(_mlp(sizes, ("fc1", "fc2", "fc3"), dropout=dropout), "xavier-normal")


def calli_sum(*, inputs: int = 2, hidden: int = 1000, bias: bool = True) -> nn.Module:
    """The sum of two numbers: 2-1000-1 with ReLU (calli, E. Çallı, 2017, section 2.1.1).

    Takes ``(N, 2)`` and gives ``(N, 1)``. Layers ``hidden`` and ``output``; 4,001 parameters. The text
    states no initialisation here; its other networks' is taken: a normal of standard deviation 0.1,
    truncated at 0.2. `bias` False leaves the biases out.

    >>> calli_sum().output
    Linear(in_features=1000, out_features=1, bias=True)
    """
    return initialise(_mlp((inputs, hidden, 1), ("hidden", "output"), bias=bias), "truncated-normal")


def janjic_mlp(*, classes: int = 10, in_channels: int = 1, input_size: int = 28, hidden: int = 2048) -> nn.Module:
    """1024-2048-10 with tanh (janjic, S. Janjić, 2018, section 5.1.1).

    Reads 32×32 pixels; smaller images are padded with zeros on all sides. Layers ``fc1`` and ``fc2``;
    2,119,690 parameters. Begun as PyTorch begins linear layers, which is how torch7 did: uniform within 1 /
    √(fan in).

    >>> janjic_mlp().fc1
    Linear(in_features=1024, out_features=2048, bias=True)
    """
    return stack(
        {
            "pad": pad_to(32, input_size),
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(in_channels * 32**2, hidden),
            "tanh": nn.Tanh(),
            "fc2": nn.Linear(hidden, classes),
        }
    )
