"""The report's section on why schemes differ: where the weights go, how far they move, what the gradient has to work on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Column, Picture, Section, Table
from secateur.lab.show.style import styles
from secateur.lab.show.words import named
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["why"]


def why(part: Part, tickets: DataFrame) -> list[Section]:
    """Return the section."""
    return [Section("Why", [_movement(part, tickets), _densities(part, tickets), *_pictures(part, tickets)])]


def _movement(part: Part, tickets: DataFrame) -> Table:
    levels = sorted(set(tickets["sparsity"]))
    rows = tickets[tickets["sparsity"].isin(levels[:: max(1, len(levels) // 6)])]
    columns = [
        Mean("moved", Column("moved", format=".2f")),
        Mean("flipped", Column("signs changed", format=".1%")),
        Mean("gradient", Column("gradient at the start", format=".3g")),
        Mean("std_start", Column("spread at the start", format=".4f")),
        Mean("std_end", Column("at the end", format=".4f")),
        Mean("kurtosis_start", Column("kurtosis at the start", format=".2f")),
        Mean("kurtosis_end", Column("at the end ", format=".2f")),
    ]
    caption = (
        "The weights that are left: how far they move in training beside their length at the start, the share that changes "
        "its sign, the norm of the loss's gradient before training, and the weights' standard deviation and excess kurtosis "
        "(0 for a normal distribution, below it for a uniform one or where small weights are gone)."
    )
    groups = {"scheme": Column("scheme"), "sparsity": Column("removed", format=".1%")}
    return grouped(rows, "why", caption, groups, columns, part.basis(rows, "training images"))


def _by_layer(tickets: DataFrame) -> DataFrame:
    """One row a layer of each network: what is left of it."""
    rows = tickets[["scheme", "seed", "layer_densities"]]
    rows = rows.assign(layer=[list(range(1, len(left) + 1)) for left in rows["layer_densities"]])
    frame: DataFrame = rows.explode(["layer", "layer_densities"]).rename(columns={"layer_densities": "left"})
    return frame.astype({"left": float})


def _densities(part: Part, tickets: DataFrame) -> Table:
    rows = _by_layer(tickets[tickets["sparsity"] == tickets["sparsity"].max()])
    columns = [Mean("left", Column("left", format=".2%"), "95 %", share=True)]
    caption = "What is left of each layer at the highest sparsity; with a share a layer the schemes cannot differ in it, with one for all they can."
    return grouped(
        rows, "layers", caption, {"scheme": Column("scheme"), "layer": Column("layer")}, columns, part.basis(tickets)
    )


def _pictures(part: Part, tickets: DataFrame) -> list[Block]:
    blocks: list[Block] = []
    look = styles(tickets["scheme"])
    numbered = tickets.sort_values("round")
    for value, label, caption, share in (
        (
            "moved",
            "Distance moved, beside the start",
            "How far the weights that are left move in a round's training.",
            False,
        ),
        (
            "flipped",
            "Signs changed",
            "The share of the weights that are left that change their sign in a round's training.",
            True,
        ),
        (
            "gradient",
            "Norm of the gradient",
            "The norm of the loss's gradient at the start of a round, over the weights that are left.",
            False,
        ),
    ):
        drawing = figures.path(
            numbered, step="round", value=value, by="scheme", label=("Round", label), look=look, share=share
        )
        last = numbered[numbered["round"] == numbered["round"].max()].groupby("scheme")[value].mean()
        alt = f"{label} in the last round: {named(last)}."
        data = numbered[["scheme", "seed", "round", value]]
        blocks.append(Picture(value, drawing, f"{caption} Mean and range.", alt, part.basis(tickets), data))
    return blocks
