"""A folder of images, one sub-folder a class, as ImageNet is laid out."""

from __future__ import annotations

import os
import struct
import zlib
from array import array
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.data.source import Source, in_turn
from secateur.files import MALFORMED, check_regular, require
from secateur.types import DataError, InputError

__all__ = [
    "SUFFIXES",
    "FolderReader",
    "Tree",
    "classes_below",
    "count_below",
    "folder",
    "images_below",
    "prepared",
    "read_image",
]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

MOST_PIXELS = 2**27
"""Of an image whose short side has been resized: twice what a camera takes."""

_FOLDERS = {"train": ("train",), "validation": ("val", "validation"), "test": ("test", "val", "validation")}


def folder(root: str | Path, split: str, size: int) -> Source:
    """Return the images below `root`, where each class is a folder, as a source.

    When ``root/train`` holds class folders, the splits are the folders ``train``, ``val`` (or ``validation``)
    and ``test`` (``val`` where there is no ``test``). Otherwise all of `root` is train. Classes are the
    folders' names, sorted, always those of train; within a class the files are sorted; then the classes take
    turns, so
    that the first n images hold every class. Hidden files, and files whose suffix is not an image's, are
    passed over.

    Raises:
        DataError: there is no such folder or split, or a class has no images or is not one of train's.
    """
    tree = images_below(root, split)
    order = in_turn(tree.labels)
    return Source(tree.labels[order], tree.classes, partial(_read_all, tree, order, size))


def classes_below(root: str | Path) -> tuple[str, ...]:
    """Return the names of the classes below `root`; as `folder`."""
    return _home(root)[2]


def count_below(root: str | Path, most: int) -> int:
    """Return how many training images there are below `root`, counted no further than `most`; as `folder`."""
    home = _home(root)[1]
    images = (file for place in _folders(home) for file in place.rglob("*") if _is_image(file))
    return sum(1 for _ in islice(images, most))


def _home(root: str | Path) -> tuple[Path, Path, tuple[str, ...]]:
    """The folder, that of its training images, and its classes."""
    base = Path(root).expanduser()
    if not base.is_dir():
        raise DataError(f"load('folder'): there is no folder {base}; pass root= the folder that holds the classes")
    home = base / "train" if _holds_folders(base / "train") else base
    classes = tuple(path.name for path in _folders(home))
    if not classes:
        raise DataError(f"load('folder'): {home} has no sub-folders; put the images of each class into one")
    return base, home, classes


@dataclass(frozen=True, eq=False)
class Tree:
    """The images below a folder, by class: their paths in one piece of memory, some tens of bytes each.

    Attributes:
        home: the folder.
        names: the paths below it, one after the other.
        ends: int64 ``(N,)``: where each of them ends.
        labels: int64 ``(N,)``.
        classes: the name of each class, by label.
    """

    home: Path
    names: bytes = field(repr=False)
    ends: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def path(self, position: int) -> str:
        """Return the path of an image."""
        start = int(self.ends[position - 1]) if position else 0
        return os.path.join(self.home, os.fsdecode(self.names[start : int(self.ends[position])]))


def images_below(root: str | Path, split: str) -> Tree:
    """Return the images of a split, of which nothing is read yet; as `folder`."""
    base, home, classes = _home(root)
    return _listing(_split_folder(base, home, split), classes)


@dataclass(frozen=True, eq=False)
class FolderReader:
    """Reads the images of a tree one by one, prepared as `read_image` does."""

    tree: Tree
    size: int

    def __len__(self) -> int:
        return len(self.tree.labels)

    def __call__(self, position: int) -> tuple[Tensor, int]:
        """Read one."""
        return read_image(self.tree.path(position), self.size), int(self.tree.labels[position])


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _holds_folders(path: Path) -> bool:
    return path.is_dir() and bool(_folders(path))


def _split_folder(base: Path, home: Path, split: str) -> Path:
    if split == "train":
        return home
    for name in _FOLDERS[split] if home != base else ():
        if _holds_folders(base / name):
            return base / name
    remedy = "pass validation= a fraction of train" if split == "validation" else "add it beside train/"
    raise DataError(f"load('folder', {split!r}): {base} has no folder {_FOLDERS[split][0]}/ with classes; {remedy}")


def _listing(home: Path, classes: tuple[str, ...]) -> Tree:
    names, ends, labels = bytearray(), array("q"), array("q")
    for place in _folders(home):
        if place.name not in classes:
            raise DataError(f"load('folder'): {place} is not a class of train ({', '.join(classes[:5])}, …)")
        images = sorted(str(file.relative_to(home)) for file in place.rglob("*") if _is_image(file))
        if not images:
            raise DataError(f"load('folder'): {place} holds no images ({', '.join(sorted(SUFFIXES))})")
        for image in images:
            names += os.fsencode(image)
            ends.append(len(names))
        labels.extend([classes.index(place.name)] * len(images))
    stops, numbers = (torch.frombuffer(part, dtype=torch.int64) for part in (ends, labels))
    return Tree(home, bytes(names), stops, numbers, classes)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def _read_all(tree: Tree, order: Tensor, size: int, index: Tensor) -> Tensor:
    images = _room(len(index), size)
    for row, position in enumerate(order[index].tolist()):
        images[row] = read_image(tree.path(position), size)
    return images


def _room(count: int, size: int) -> Tensor:
    needed = count * 3 * size * size * 4
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # Asked first: Linux grants more than it has, and ends the process when it is used.
    if needed > memory:
        raise InputError(
            f"load('folder'): {count} images of {size}×{size} need {needed / 1e9:.1f} GB, and this machine "
            f"has {memory / 1e9:.1f}; pass limit= how many to load, or a smaller size="
        )
    return torch.empty(count, 3, size, size)


def read_image(path: str | Path, size: int) -> Tensor:
    """Return one image as float32 ``(3, size, size)`` in [0, 1], prepared as is usual for ImageNet.

    RGB; the short side is resized to ``round(size · 256 / 224)`` with bilinear, antialiased interpolation;
    the centre ``size`` × ``size`` is kept.

    Raises:
        DataError: the file is not an image, or is broken or truncated.
    """
    pillow = require("PIL.Image", "data")
    try:
        check_regular(path)
        with pillow.open(path) as opened:
            return prepared(opened, size)
    # Pillow's decoders raise all of these for broken files.
    except (
        OSError,
        SyntaxError,
        EOFError,
        struct.error,
        zlib.error,
        pillow.DecompressionBombError,
        *MALFORMED,
    ) as error:
        raise DataError(f"load('folder'): cannot read {path}: {error}; mend or remove the file") from error


def prepared(image: Any, size: int) -> Tensor:
    """Return an image of Pillow's as `read_image` does.

    Raises:
        ValueError: it is so drawn out that only a line would be kept of it.
    """
    _check_shape(image.size, size)
    cropped = _cropped(image.convert("RGB"), size, require("PIL.Image", "data"))
    pixels = torch.frombuffer(bytearray(cropped.tobytes()), dtype=torch.uint8)
    return pixels.view(size, size, 3).permute(2, 0, 1).float().div_(255)


def _check_shape(image_size: tuple[int, int], size: int) -> None:
    """Refuse an image of which a strip, resized to its short side, would fill the memory.

    Raises:
        ValueError: it is one.
    """
    width, height = image_size
    short_side = round(size * 256 / 224)
    if short_side**2 * max(width, height) > MOST_PIXELS * min(width, height):
        raise ValueError(f"it has {width} × {height} pixels, and only a line would be kept of it")


def _cropped(image: Any, size: int, pillow: Any) -> Any:
    width, height = image.size
    short = round(size * 256 / 224)
    scale = short / min(width, height)
    new = (max(short, round(width * scale)), max(short, round(height * scale)))
    left, top = (new[0] - size) // 2, (new[1] - size) // 2
    resized = image.resize(new, pillow.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))
