"""Figures that several studies draw alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.lab.show import figures
from secateur.lab.show.blocks import Basis, Picture
from secateur.lab.show.style import styles
from secateur.lab.show.words import points

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["change_heatmap", "change_picture", "greatest_loss", "over_layers"]

_LABELS = {"accuracy": "Test accuracy", "loss": "Test loss", "compression": "Filters removed"}


def over_layers(
    rows: DataFrame, value: str, name: str, words: tuple[str, str], basis: Basis, *, by: str, steps: str = "Convolution"
) -> Picture:
    """Return the picture of a value over layers or steps, one line for each name in `by`, losses on a logarithmic axis.

    Args:
        rows: one row for each ``step``, ``layer`` and ``seed``.
        value: ``accuracy``, ``loss`` or ``compression``.
        name, basis: the picture's.
        words: its caption, with ``{label}`` for what is drawn, and what it shows.
        by: the column that tells the lines apart.
        steps: the horizontal axis.
    """
    label = _LABELS[value]
    drawing = figures.path(
        rows,
        step="step",
        value=value,
        by=by,
        label=(steps, label),
        look=styles(rows[by]),
        share=value != "loss",
        logarithmic=value == "loss",
    )
    caption, alt = (text.format(label=label) for text in words)
    return Picture(name, drawing, caption, alt, basis, rows[[by, "step", "layer", "seed", value]])


def change_heatmap(table: DataFrame, axes: tuple[str, str]) -> Figure:
    """Return the heat map of changes in percentage points; `axes` are the labels across and down."""
    return figures.heatmap(
        table,
        label="Change (points)",
        axes_labels=axes,
        diverging=True,
        show=lambda value: points(value, 1),
    )


def greatest_loss(table: DataFrame) -> tuple[object, object, str]:
    """Return the row and the column of the lowest value of a table, and that value in words."""
    row, column = table.stack().idxmin()
    return row, column, points(float(table.min().min()), 1)


def change_picture(name: str, table: DataFrame, caption: str, alt: str, basis: Basis, rows: str = "") -> Picture:
    """Return the picture of changes by class, one class a column.

    Args:
        name, caption, basis: the picture's.
        table: changes in percentage points.
        alt: what it shows in words, with ``{row}``, ``{column}`` and ``{loss}`` of the greatest loss.
        rows: what the rows are.
    """
    row, column, loss = greatest_loss(table)
    drawing = change_heatmap(table, ("", rows))
    return Picture(name, drawing, caption, alt.format(row=row, column=column, loss=loss), basis, table.reset_index())
