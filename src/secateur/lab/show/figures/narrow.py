"""A figure in the form that a narrow page shows: panels below each other, letters as large as on a wide one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from secateur.files import require
from secateur.lab.show import marks
from secateur.lab.show.style import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

__all__ = ["narrowed"]

_LETTERS = 20
"""A name of more letters is broken."""
_WIDTH = 3.7  # inches; at 335 pixels a page shows 10 points as 12.6 pixels


@contextmanager
def narrowed(figure: Figure) -> Iterator[None]:
    """Give a figure the form of a narrow page as long as this is open; afterwards it is as it was.

    >>> from secateur.lab.show.figures.base import canvas
    >>> figure, _ = canvas(3.0, 2)
    >>> with narrowed(figure):
    ...     print(figure.get_size_inches().tolist())
    [3.7, 6.0]
    >>> figure.get_size_inches().tolist()
    [7.2, 3.0]
    """
    with drawing(), ExitStack() as stack:
        width, height = figure.get_size_inches()
        stack.callback(figure.set_size_inches, width, height)
        places = [(axes, place) for axes in figure.axes if (place := axes.get_subplotspec()) is not None]
        panels = [axes for axes, _ in places]
        columns = max([place.get_gridspec().ncols for _, place in places], default=1)
        # A little lower, as it is so much narrower; but names in several lines take room.
        figure.set_size_inches(_WIDTH, columns * (0.9 * height + 0.3))
        if columns > 1:
            _restack(figure, places, stack)
        for axes in panels:
            _wrap_rows(axes, stack)
        for legend in list(figure.legends):
            _relegend(figure, legend, stack)
        figure.draw_without_rendering()
        for axes in panels:
            _fit_letters(axes, stack)
        yield


def _restack(figure: Figure, panels: Sequence[tuple[Axes, SubplotSpec]], stack: ExitStack) -> None:
    """Put panels that stand side by side below each other, each with the labels of its own axis."""
    grid = require("matplotlib.gridspec", "lab").GridSpec(len(panels), 1, figure=figure)
    for row, (axes, place) in enumerate(panels):
        stack.callback(axes.set_subplotspec, place)
        stack.callback(axes.tick_params, axis="y", labelleft=axes.yaxis.get_tick_params().get("labelleft", True))
        axes.set_subplotspec(grid[row, 0])
        axes.tick_params(axis="y", labelleft=True)


def _relegend(figure: Figure, wide: Any, stack: ExitStack) -> None:
    """Draw a legend again in as many columns as there is room for."""
    names = [text.get_text() for text in wide.get_texts()]
    entries = marks.entries(figure)
    stack.callback(marks.restore, figure, list(entries))
    entries.clear()
    wide.set(visible=False, in_layout=False)
    stack.callback(wide.set, visible=True, in_layout=True)
    for columns in (3, 2, 1):
        box = figure.legend(
            wide.legend_handles,
            list(map(_wrapped, names)),
            loc="outside upper left",
            ncols=columns,
            handlelength=1.8,
            columnspacing=1.0,
        )
        if columns == 1 or box.get_window_extent().width <= 0.95 * figure.bbox.width:
            break
        box.remove()
    stack.callback(box.remove)
    marks.legend(box, names)
    # What the taller legend takes, the axes keep.
    room = (box.get_window_extent().height - wide.get_window_extent().height) / figure.dpi
    figure.set_figheight(figure.get_figheight() + max(0.0, room))


def _wrap_rows(axes: Axes, stack: ExitStack) -> None:
    """Break the names of rows that would leave no room for what they name."""
    if type(axes.yaxis.get_major_locator()).__name__ != "FixedLocator":
        return
    places, names = list(axes.get_yticks()), [name.get_text() for name in axes.get_yticklabels()]
    if any(len(name) > _LETTERS for name in names):
        stack.callback(axes.set_yticks, places, names)
        axes.set_yticks(places, [_wrapped(name, _LETTERS) for name in names])


def _wrapped(name: str, letters: int = 2 * _LETTERS) -> str:
    """A name in lines of so many letters, three at most."""
    lines = wrap(name, letters) or [name]
    return "\n".join([*lines[:2], lines[2] + (" …" if len(lines) > 3 else "")] if len(lines) > 2 else lines)


def _is_map(axes: Axes) -> bool:
    return any(type(artist).__name__ == "QuadMesh" for artist in axes.collections)


def _fit_letters(axes: Axes, stack: ExitStack) -> None:
    """Hide numbers that are wider than their cell or lie on each other, and turn names that would."""
    visible = [text for text in axes.texts if text.get_visible()]
    boxes = [text.get_window_extent() for text in visible]
    if _is_map(axes):
        cell = axes.bbox.width / (axes.get_xlim()[1] - axes.get_xlim()[0])
        crowded = visible if any(box.width > cell for box in boxes) else []
    else:
        crowded = [text for place, text in enumerate(visible) if _overlaps(boxes[place], boxes[:place])]
    for text in crowded:
        text.set_visible(False)
        stack.callback(text.set_visible, True)
    names = axes.get_xticklabels()
    if _is_map(axes) and sum(name.get_window_extent().width for name in names) > 0.9 * axes.bbox.width:
        for name in names:
            stack.callback(
                name.set,
                rotation=name.get_rotation(),
                ha=name.get_horizontalalignment(),
                rotation_mode=name.get_rotation_mode(),
            )
            name.set(rotation=60, ha="right", rotation_mode="anchor")


def _overlaps(box: Any, others: list[Any]) -> bool:
    return any(box.overlaps(other) for other in others)
