"""What the reports of the studies of filters share: the unpruned networks, the classes, and numbers in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur import data
from secateur.lab.basis import Origins
from secateur.lab.blocks import Basis, Block, Column, Section, Table
from secateur.lab.classes import class_damage
from secateur.lab.sections import pick, training
from secateur.lab.study import Results

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["class_section", "networks_section", "percent", "points"]


def points(change: float) -> str:
    """Return a change in percentage points with its sign.

    >>> points(-3.234)
    '−3.23'
    """
    return f"{change:+.2f}".replace("-", "−")


def percent(fraction: float) -> str:
    """Return a fraction as per cent, with one decimal.

    >>> percent(0.0983)
    '9.8 %'
    """
    return f"{100 * fraction:.1f} %"


def networks_section(results: Results, origins: Origins, split: str) -> Section:
    """Return the section on the unpruned networks: how they were trained, or where they come from."""
    trained = pick(results.frame, kind="train")
    if len(trained):
        return training(trained, results.store.histories(trained["id"]), origins.of(trained, split))
    loaded = pick(results.frame, kind="load")
    columns = [
        Column("weights"),
        Column("accuracy", format=".4f"),
        Column("loss", format=".4f"),
        Column("parameters", format=",.0f"),
        Column("MACs", format=",.0f", key="macs"),
    ]
    caption = "The unpruned network, with the weights of a file, known by the first digits of its SHA-256."
    blocks: list[Block] = (
        [Table.of(loaded, "baselines", caption, columns, origins.of(loaded, split))] if len(loaded) else []
    )
    return Section("The network", blocks or ["Nothing has been computed yet."])


def class_section(results: Results, runs: DataFrame, basis: Basis, removed: str) -> list[Block]:
    """Return what pruning costs each class, with the threshold as the part removed.

    Args:
        results: for the names of the classes.
        runs: rows with ``base_class_accuracy`` and ``class_accuracy``, ``method``, ``threshold`` and ``seed``.
        basis: what the numbers were computed from.
        removed: what the threshold is a part of, such as ``"of a layer's energy removed"``.
    """
    count = len(runs["class_accuracy"].iloc[0])
    names = data.info(results.options["data"]).classes
    names = names if len(names) == count else tuple(f"class {number}" for number in range(count))
    whole = runs.drop_duplicates("seed")[["seed", "base_class_accuracy"]]
    before = whole.rename(columns={"base_class_accuracy": "class_accuracy"})
    after = runs[["method", "seed", "class_accuracy"]].assign(sparsity=runs["threshold"])
    return class_damage(before, after, names, basis=basis, removed=removed)
