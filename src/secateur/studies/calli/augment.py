"""The distortions of images that table 2.3 of E. Çallı, 2017, names: crop, flip, brightness, contrast, standardisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

__all__ = ["CROP", "SIDE", "Augmented", "centred", "cifar_form", "standardised"]

SIDE, CROP = 32, 24
BRIGHTNESS = 63 / 255
CONTRAST = (0.2, 1.8)


def cifar_form(images: Tensor) -> Tensor:
    """Return images in [0, 1] as CIFAR-10 has them, ``(N, 3, 32, 32)``: grey in all colours, smaller ones padded with zeros.

    >>> cifar_form(torch.ones(2, 1, 28, 28)).shape
    torch.Size([2, 3, 32, 32])
    """
    before = (SIDE - images.shape[-1]) // 2
    padded = torch.nn.functional.pad(images, [before, SIDE - images.shape[-1] - before] * 2)
    return padded.expand(-1, 3, -1, -1)


def standardised(images: Tensor) -> Tensor:
    """Return each image with mean 0 and deviation 1, as TensorFlow's ``per_image_standardization``: by at least 1 / √n.

    >>> standardised(torch.tensor([[[[0.0, 2.0]]]])).flatten().tolist()
    [-1.0, 1.0]
    """
    mean = images.mean((1, 2, 3), keepdim=True)
    least = images[0].numel() ** -0.5
    return (images - mean) / images.std((1, 2, 3), correction=0, keepdim=True).clamp_min(least)


def centred(images: Tensor) -> Tensor:
    """Return the centre crops, standardised: what the network is rated on."""
    start = (SIDE - CROP) // 2
    return standardised(images[:, :, start : start + CROP, start : start + CROP])


@dataclass(eq=False)
class Augmented:
    """Batches of images that are distorted anew at each pass, in an order of their own.

    Attributes:
        whole: the images in CIFAR-10's form, in [0, 1].
        classes: their labels.
        batch_size: images a step; a last smaller batch is left out.
        seed: of all that is random.
    """

    whole: Tensor
    classes: Tensor
    batch_size: int
    seed: int
    _random: Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = Generator().manual_seed(self.seed)

    def __len__(self) -> int:
        return len(self.whole) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.whole), generator=self._random)
        for index in torch.split(order, self.batch_size)[: len(self)]:
            yield self._distorted(self.whole[index]), self.classes[index]

    def _distorted(self, images: Tensor) -> Tensor:
        crops = torch.stack([self._crop(image) for image in images])
        flip = self._uniform(len(images)) < 0.5
        crops = torch.where(flip, crops.flip(3), crops)
        crops = crops + (2 * self._uniform(len(images)) - 1) * BRIGHTNESS
        # As tf.image.random_contrast: away from each channel's own mean.
        mean = crops.mean((2, 3), keepdim=True)
        factor = CONTRAST[0] + (CONTRAST[1] - CONTRAST[0]) * self._uniform(len(images))
        return standardised((crops - mean) * factor + mean)

    def _crop(self, image: Tensor) -> Tensor:
        top, left = torch.randint(SIDE - CROP + 1, (2,), generator=self._random).tolist()
        return image[:, top : top + CROP, left : left + CROP]

    def _uniform(self, count: int) -> Tensor:
        return torch.rand(count, 1, 1, 1, generator=self._random)
