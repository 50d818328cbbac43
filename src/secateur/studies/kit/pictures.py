"""Figures that several studies draw alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from secateur.files import require
from secateur.lab.show import figures
from secateur.lab.show.blocks import Basis, Picture
from secateur.lab.show.sections import several
from secateur.lab.show.style import styles
from secateur.lab.show.words import formatted, percent, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["change_heatmap", "change_picture", "greatest_loss", "kept_picture", "over_layers"]

_LABELS = {"accuracy": "Test accuracy", "loss": "Test loss", "compression": "Filters removed"}


def kept_picture(rows: DataFrame, sizes: Mapping[str, int], unit: str, basis: Basis) -> Picture | None:
    """Return the picture of the part of its units that each layer kept, one row a method; None where it is not known.

    Args:
        rows: one row a network, with ``method``, ``sparsity`` and ``kept``, a count for each site.
        sizes: how many units each site had.
        unit: what was removed, in words, where there are several kinds.
        basis: the picture's.
    """
    middle = _middle(rows["sparsity"])
    networks = rows[(rows["sparsity"] == middle) & rows["kept"].map(lambda counts: isinstance(counts, dict))]
    records = [
        {"method": method, "layer": site.removesuffix(".weight"), "kept": count / sizes[site]}
        for method, counts in zip(networks["method"], networks["kept"], strict=True)
        for site, count in counts.items()
        if sizes.get(site)
    ]
    if not records:
        return None
    frame = require("pandas", "lab").DataFrame(records)
    table = 100 * frame.pivot_table(index="method", columns="layer", values="kept", sort=False)
    least = table.stack().idxmin()
    drawing = figures.heatmap(
        table, label="Kept (%)", axes_labels=("Layer", ""), show=lambda part: f"{formatted(part, '.0f')}"
    )
    noun = unit or "units"
    over = "; means over the networks" if several(rows) else ""
    caption = f"What each layer kept of its {noun}, with {percent(middle)} removed in all{over}."
    alt = f"Heat map of methods and layers; least is left of {least[1]} by {least[0]}, {formatted(table.loc[least], '.0f')} %."
    name = f"kept-{unit}" if unit else "kept"
    return Picture(name, drawing, caption, alt, basis, table.reset_index())


def _middle(values: Iterable[float]) -> float:
    """A half, where it is among the values; else the one in their middle."""
    different = sorted(set(values))
    return 0.5 if 0.5 in different else different[len(different) // 2]


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
