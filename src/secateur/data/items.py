"""Data sets of items that are mappings with an image and a label, as Hugging Face's `datasets` has them; nothing is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from secateur.data.folder import prepared, read_image
from secateur.files import require
from secateur.types import DataError

__all__ = ["Items", "ItemsReader", "class_names"]


class Items(Protocol):
    """Anything with a length whose items are mappings, such as a `datasets.Dataset`."""

    def __len__(self) -> int:
        """How many items there are."""
        ...

    def __getitem__(self, position: int, /) -> Mapping[str, Any]:
        """Return one."""
        ...


@dataclass(frozen=True, eq=False)
class ItemsReader:
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
    features = getattr(items, "features", None)
    feature = features.get(label) if isinstance(features, Mapping) else None
    return tuple(getattr(feature, "names", None) or ())
