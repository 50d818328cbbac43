"""How the lab's figures look: one palette, one style a method, and the way into SVG and PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from secateur.files import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "GRID",
    "INK",
    "MUTED",
    "PALETTE",
    "PAPER",
    "Style",
    "drawing",
    "inline_svg",
    "png",
    "styles",
    "styles_of_runs",
    "svg",
]

INK, MUTED, GRID, PAPER = "#1d2125", "#5b646c", "#dfe3e6", "#ffffff"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito (2008), without the yellow that white swallows and the black that dark pages swallow."""

_MARKERS = "osD^vPX*"
_LINES = ("-", "--", "-.", ":")
_SETTINGS: Mapping[str, Any] = MappingProxyType(
    {
        "font.family": "sans-serif",
        "font.size": 10.0,
        "axes.labelsize": 10.0,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.linewidth": 0.8,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "text.color": INK,
        # A dollar in a method's name is a dollar.
        "text.parse_math": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "legend.fontsize": 9.5,
        "lines.linewidth": 1.8,
        "lines.markersize": 5.0,
        "figure.facecolor": PAPER,
        "axes.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        # Text stays text, to be read aloud and searched; and the same data give the same bytes.
        "svg.fonttype": "none",
        "svg.hashsalt": "secateur",
    }
)


@dataclass(frozen=True)
class Style:
    """How one method is drawn: colour, marker and line together, so that colour alone never tells."""

    colour: str
    marker: str
    line: str


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Return a style for each name, in the order given; pass the result to every figure of a report.

    >>> styles(["weight", "neuron"])["neuron"].colour
    '#d55e00'
    """
    table = {}
    for position, name in enumerate(dict.fromkeys(names)):
        again, place = divmod(position, len(PALETTE))
        table[name] = Style(PALETTE[place], _MARKERS[position % len(_MARKERS)], _LINES[again % len(_LINES)])
    return table


def styles_of_runs(methods: Iterable[str], runs: Iterable[str]) -> dict[tuple[str, str], Style]:
    """Return a style for each method of each run: the method has its colour and marker, the run its line.

    >>> table = styles_of_runs(["l2", "random"], ["a", "b"])
    >>> table["l2", "a"].colour == table["l2", "b"].colour, table["l2", "a"].line == table["l2", "b"].line
    (True, False)
    """
    lines = {run: _LINES[place % len(_LINES)] for place, run in enumerate(dict.fromkeys(runs))}
    return {(m, run): replace(style, line=line) for m, style in styles(methods).items() for run, line in lines.items()}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in the house style; matplotlib's own settings come back afterwards."""
    matplotlib = require("matplotlib", "lab")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def svg(figure: Figure) -> str:
    """Return a figure as SVG; the same figure gives the same text on any day."""
    buffer = io.BytesIO()
    with drawing():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode("utf-8")


def png(figure: Figure, dpi: int = 200) -> bytes:
    """Return a figure as PNG on white."""
    buffer = io.BytesIO()
    with drawing():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def inline_svg(text: str, name: str, alt: str) -> str:
    """Return an SVG to stand inside a page.

    Its ids are made the page's own with `name`, `alt` is what a screen reader says, and the house colours
    become CSS variables (``--plot-0072b2``), so that a dark page can lighten them.
    """
    start = text.index("<svg")
    head, body = text[start:].split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    colours = "|".join((INK, MUTED, GRID, PAPER, *PALETTE))
    body = re.sub(rf"({colours})\b", lambda hit: f"var(--plot-{hit[0][1:]}, {hit[0]})", body)
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} {box[0] if box else ""} role="img" aria-label="{escape(alt)}">{body.strip()}'
