"""Strips of images, such as what goes into a network and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.files import require
from secateur.lab.show.style import drawing
from secateur.types import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["images"]


def images(strips: Mapping[str, Any]) -> Figure:
    """Draw one row of grey images for each name, black at the row's 0 and white at 1.

    Args:
        strips: name → images, ``(count, height, width)``; as many of each.

    Raises:
        InputError: there are none, or the counts differ.

    >>> figure = images({"in": np.zeros((3, 4, 4)), "out": np.ones((3, 4, 4))})
    >>> len(figure.axes), figure.axes[0].get_title("left")
    (2, 'in')
    """
    counts = {name: len(strip) for name, strip in strips.items()}
    if len(set(counts.values())) != 1:
        raise InputError(f"images: as many of each are drawn beside each other; got {counts or 'none'}")
    with drawing():
        figure: Figure = require("matplotlib.figure", "lab").Figure(
            figsize=(7.2, 1.05 * len(strips)), layout="constrained"
        )
        panels = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
        for axes, (name, strip) in zip(panels, strips.items(), strict=True):
            axes.imshow(np.concatenate(list(np.asarray(strip)), axis=1), cmap="gray", vmin=0, vmax=1)
            axes.set_title(name, loc="left", fontsize=9)
            axes.set_axis_off()
    return figure
