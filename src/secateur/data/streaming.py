"""Images that are read as they are needed, so that a data set may be larger than memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Generator, Tensor

from secateur.checks import check_name, check_whole
from secateur.data.split import Split, positions
from secateur.labelled import spans

__all__ = ["AUGMENTATIONS", "Augmentation", "Images", "SampleReader", "Stream"]

Augmentation = Callable[[Tensor, Generator], Tensor]
"""From an image ``(C, H, W)`` in [0, 1] and a generator to the image that is trained on."""
_AHEAD = 2
"""Batches that are read while the model computes."""


class SampleReader(Protocol):
    """Where the samples are."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __call__(self, position: int) -> tuple[Tensor, int]:
        """Read one: an image ``(C, H, W)`` in [0, 1], and its label."""
        ...


def _flip(image: Tensor, generator: Generator) -> Tensor:
    return image.flip(-1) if torch.rand((), generator=generator) < 0.5 else image


def _crop(image: Tensor, generator: Generator) -> Tensor:
    """Shift by up to an eighth of a side, with black where nothing was (four pixels of 32: He et al., 2015, 4.2)."""
    height, width = image.shape[-2:]
    room = (height // 8, width // 8)
    padded = torch.nn.functional.pad(image, (room[1], room[1], room[0], room[0]))
    top, left = (int(torch.randint(2 * side + 1, (), generator=generator)) for side in room)
    return padded[..., top : top + height, left : left + width]


AUGMENTATIONS: dict[str, Augmentation] = {"flip": _flip, "crop": _crop}
"""The augmentations that have a name."""


@dataclass(frozen=True, eq=False)
class Stream:
    """One part of a data set that stays where it is; each pass reads it again.

    It goes wherever data go (`secateur.fit`, criteria, measures, repair), in batches of the size that is asked for there.
    Only the images of about three batches are in memory. A training shuffles it and augments each image by random
    numbers that are the training's own, so that it is the same again with any number of workers, and after a resume.

    Attributes:
        reader: reads one sample.
        index: int64 ``(N,)``: the positions in the reader of the samples that this stream has, in order.
        classes: the name of each class, by label; empty where nobody knows.
        name, split: what it is a part of.
        mean, std: what is subtracted from each channel, and what it is divided by.
        augment: what is done to each image that is trained on, in this order, by name or a function of (image, generator).
        workers: threads that read ahead; 0 reads when a batch is asked for. Decoding images lets threads run side by side.

    >>> class Numbers:
    ...     def __len__(self): return 5
    ...     def __call__(self, position): return torch.full((1, 2, 2), float(position)), position % 2
    >>> stream = Stream(Numbers(), torch.arange(5), ("even", "odd"))
    >>> [labels.tolist() for images, labels in stream.one_pass(2)]
    [[0, 1], [0, 1, 0]]
    >>> stream.subset([4, 3]).head(1)[0, 0, 0]
    tensor([4., 4.])
    """

    reader: SampleReader
    index: Tensor
    classes: tuple[str, ...] = ()
    name: str = ""
    split: str = "train"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    augment: Sequence[str | Augmentation] = ()
    workers: int = 0

    def __post_init__(self) -> None:
        check_whole("stream", 0, workers=self.workers)
        for entry in self.augment:
            if not callable(entry):
                check_name("augmentation", entry, AUGMENTATIONS)

    def __len__(self) -> int:
        return len(self.index)

    def subset(self, indices: Tensor | Sequence[int]) -> Stream:
        """Return the stream of only the samples at `indices` of this one, in that order; as `Split.subset`."""
        places = positions(torch.as_tensor(indices), len(self), self.name)
        return replace(self, index=self.index[places])

    def head(self, count: int) -> Tensor:
        """Return the first `count` images ``(count, C, H, W)``."""
        return torch.stack([self._sample(position, None)[0] for position in self.index[:count].tolist()])

    def read(self) -> Split:
        """Return all of it in memory."""
        images, labels = next(self.one_pass(max(len(self), 1)))
        return Split(images, labels, self.classes, self.name, self.split, self.mean, self.std)

    def one_pass(
        self, size: int, order: Generator | None = None, rows: Callable[[int], slice] = lambda size: slice(None)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of (images, labels); with `order` shuffled and augmented, both decided by the generator.

        Of each batch only the `rows` are read that its size decides; all by default.
        """
        place, seeds = self.index, None
        if order is not None:
            place = place[torch.randperm(len(place), generator=order)]
            seeds = torch.randint(2**62, (len(place),), generator=order) if self.augment else None
        # One batch's numbers at a time: as lists they are larger than as tensors.
        parts = (
            (place[a:b][rows(b - a)].tolist(), None if seeds is None else seeds[a:b][rows(b - a)].tolist())
            for a, b in spans(len(place), size)
        )
        return self._inline(parts) if not self.workers else self._ahead(parts)

    def _inline(self, parts: Iterator[_Part]) -> Iterator[tuple[Tensor, Tensor]]:
        return (_stacked([self._sample(*pair) for pair in _pairs(part)]) for part in parts)

    def _ahead(self, parts: Iterator[_Part]) -> Iterator[tuple[Tensor, Tensor]]:
        pool = ThreadPoolExecutor(self.workers, "secateur-read")
        waiting: deque[list[Future[tuple[Tensor, int]]]] = deque()
        try:
            for part in parts:
                waiting.append([pool.submit(self._sample, *pair) for pair in _pairs(part)])
                if len(waiting) > _AHEAD:
                    yield _stacked([sample.result() for sample in waiting.popleft()])
            while waiting:
                yield _stacked([sample.result() for sample in waiting.popleft()])
        finally:
            pool.shutdown(cancel_futures=True)

    def _sample(self, position: int, seed: int | None) -> tuple[Tensor, int]:
        image, label = self.reader(position)
        if seed is not None:
            generator = Generator().manual_seed(seed)
            for entry in self.augment:
                image = (entry if callable(entry) else AUGMENTATIONS[entry])(image, generator)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (image - mean) / std, label


_Part = tuple[list[int], list[int] | None]
"""The positions of a batch, and the seeds of their augmentations."""


def _pairs(part: _Part) -> Iterator[tuple[int, int | None]]:
    place, seeds = part
    return zip(place, [None] * len(place) if seeds is None else seeds, strict=True)


def _stacked(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    return torch.stack([image for image, _ in samples]), torch.tensor([label for _, label in samples])


Images = Split | Stream
"""Images in memory, or read as they are needed."""
