"""Data sets of items that are mappings with an image and a label, as Hugging Face's `datasets` has them.

Its library is imported only for what it wrote to disk (`saved`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from secateur.checks import in_one_line
from secateur.data.folder import prepared, read_image
from secateur.files import MALFORMED, require
from secateur.hints import Checked
from secateur.types import DataError

__all__ = ["Items", "ItemsReader", "class_names", "column", "saved"]

_SPLITS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "validation", "valid", "val"),
}
"""What a split is called among those that were written together, the first that is there."""


class Items(Protocol):
    """Anything with a length whose items are mappings, such as a `datasets.Dataset`."""

    def __len__(self) -> int:
        """How many items there are."""
        ...

    def __getitem__(self, position: int, /) -> Mapping[str, Any]:
        """Return one."""
        ...


@dataclass(frozen=True, eq=False)
class ItemsReader(Checked):
    """Reads items one by one: images of Pillow's, arrays, tensors or paths, and whole numbers as labels."""

    items: Items
    size: int
    image: str
    label: str

    def __len__(self) -> int:
        return len(self.items)

    def __call__(self, position: int) -> tuple[Tensor, int]:
        """Read one.

        Raises:
            DataError: it has no such image or label.
        """
        item = self.items[position]
        for name in (self.image, self.label):
            if not isinstance(item, Mapping) or name not in item:
                keys = ", ".join(map(str, item)) if isinstance(item, Mapping) else f"a {type(item).__name__}"
                raise DataError(
                    f"stream: item {position} has no {name!r} but {keys}; pass image= and label= their names"
                )
        return _pixels(item[self.image], self.size, position), int(item[self.label])


def _pixels(image: Any, size: int, position: int) -> Tensor:
    if isinstance(image, str):
        return read_image(image, size)
    if hasattr(image, "convert"):
        return prepared(image, size)
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise DataError(
            f"stream: the image of item {position} is a {type(image).__name__} of shape {array.shape} and {array.dtype}; "
            "give Pillow's images, paths, or uint8 arrays of (height, width) or (height, width, 3)"
        )
    return prepared(require("PIL.Image", "data").fromarray(array), size)


def class_names(items: Items, label: str) -> tuple[str, ...]:
    """Return the classes' names where the data set says them, as ``features[label].names``.

    >>> class_names([{"label": 0}], "label")
    ()
    """
    return tuple(getattr(_features(items).get(label), "names", None) or ())


def column(items: Items, name: str | None, kind: str) -> str:
    """Return what items call their image (of the kind ``"Image"``) or label (``"ClassLabel"``), where no name is given.

    The only feature of that kind of which the data set says so, else ``"image"`` or ``"label"``.

    >>> column([{"image": None, "label": 0}], None, "ClassLabel"), column([], "digit", "ClassLabel")
    ('label', 'digit')
    """
    of_kind = [key for key, feature in _features(items).items() if type(feature).__name__ == kind]
    usual = {"Image": "image", "ClassLabel": "label"}[kind]
    return name or (of_kind[0] if len(of_kind) == 1 else usual)


def _features(items: Items) -> Mapping[str, Any]:
    features = getattr(items, "features", None)
    return features if isinstance(features, Mapping) else {}


def saved(root: str | Path, split: str) -> Items:
    """Return a split of what Hugging Face's `datasets` wrote by ``save_to_disk``; it stays on disk and is mapped, not read.

    What holds no splits is all train.

    Raises:
        DataError: nothing of the kind is there, or no such split.
        MissingLibraryError: `datasets` is not installed.
    """
    library = require("datasets", "datasets")
    try:
        content = library.load_from_disk(str(Path(root).expanduser()))
    except (OSError, ValueError, *MALFORMED) as error:
        raise DataError(
            f"stream: {root} is not what datasets' save_to_disk writes: {in_one_line(error)}; give the folder that it was given"
        ) from error
    splits: Mapping[str, Items] = content if isinstance(content, Mapping) else {"train": content}
    for name in _SPLITS[split]:
        if name in splits:
            return splits[name]
    remedy = "pass validation= a fraction of train" if split == "validation" else "save it beside the others"
    raise DataError(f"stream: {root} holds no {split} split but {', '.join(splits)}; {remedy}")
