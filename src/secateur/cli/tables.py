"""Tables of cells, on a screen and for machines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["narrow", "print_plain", "print_rows", "print_table", "telling"]


def print_rows(frame: DataFrame, as_json: bool, as_csv: bool) -> None:
    """Print a table as it was asked for: as JSON, as comma-separated values, or for a screen."""
    if as_json or as_csv:
        print_plain(frame, as_json)
    else:
        print_table(frame)


def print_plain(frame: DataFrame, as_json: bool) -> None:
    """Print a table as JSON, or as comma-separated values."""
    from secateur.lab.show.browse import to_json

    if as_json:
        print(f'{{"rows": {to_json(frame)}}}')
    else:
        print(frame.to_csv(index=False), end="")


def print_table(frame: DataFrame) -> None:
    """Print a table for a screen."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, name in enumerate(frame.columns):
        number = frame.dtypes.iloc[place].kind in "iuf"
        table.add_column(str(name), justify="right" if number else "left", no_wrap=name == "id", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    console.print(table, markup=False, highlight=False)


def _cell(value: Any) -> str:
    """A value in a table; what is missing is a dash."""
    from rich.markup import escape

    if value is None or value != value:
        return "–"
    return escape(f"{value:.5g}" if isinstance(value, float) else str(value))


def telling(frame: DataFrame) -> list[str]:
    """Return the columns for a screen: what the cells are, the usual results, and what differs, as far as there is room."""
    from secateur.lab.show.browse import varying

    first = [n for n in ("store", "id", "study", "kind", "seed", "method", "sparsity", "data", "model") if n in frame]
    usual = [n for n in ("accuracy", "loss", "parameters_removed") if n in frame]
    differing = varying(frame)
    identifying = [n for n in first if n in ("id", "kind") or n in differing]
    more = [n for n in differing if n not in {*first, *usual, "created", "wall_seconds", "cpu_seconds"}]
    return [*identifying, *usual, *more[: max(0, 7 - len(identifying) - len(usual))], "wall_seconds", "created"]


def narrow(table: DataFrame) -> DataFrame:
    """Return a table with means and standard deviations in one column each, and how many values are behind them, for a screen."""
    metrics = [str(name) for name in table.columns if f"{name}.std" in table.columns]
    derived = {f"{name}{suffix}" for name in metrics for suffix in (".std", ".low", ".high")}
    narrow = table[[name for name in table.columns if name not in derived]].copy()
    for name in metrics:
        pairs = zip(table[name], table[f"{name}.std"], strict=True)
        narrow[name] = [_mean_and_spread(mean, std) for mean, std in pairs]
        narrow[f"{name}.n"] = table[f"{name}.n"].astype(int)
    return narrow


def _mean_and_spread(mean: float, std: float) -> str:
    if mean != mean:
        return "–"
    return f"{mean:.4g} ± {std:.2g}" if std == std else f"{mean:.4g}"
