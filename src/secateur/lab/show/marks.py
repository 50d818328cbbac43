"""What a page can tell about a figure: which drawn things belong to which series, and the values at its points.

A figure maker ties what it draws to a series by name, and notes points with their values. A report's page then
shows the values at the pointer, and hides a series when its legend entry is clicked. Names travel as JSON only;
in the drawing itself stand plain numbers (``mark-0``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

__all__ = ["entries", "layout", "legend", "note", "restore", "tie"]


@dataclass(frozen=True, eq=False)
class _Point:
    axes: Axes
    series: tuple[str, ...]
    corners: tuple[tuple[float, float], ...]
    rows: tuple[tuple[str, str], ...]


@dataclass(eq=False)
class _Marks:
    artists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    legend: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    points: list[_Point] = field(default_factory=list)
    named: int = 0


def tie(series: str | Iterable[str], *artists: Artist) -> None:
    """Say that `artists` belong to a series, or to several: hidden when one of them is."""
    names = (series,) if isinstance(series, str) else tuple(series)
    for artist in artists:
        _of(artist.get_figure(root=True)).artists[_name(artist)] = names


def note(
    axes: Axes,
    series: str | Iterable[str],
    at: tuple[float, float],
    values: Mapping[str, str],
    *,
    to: tuple[float, float] | None = None,
) -> None:
    """Note the values of a point of `axes`, or of a box from `at` to `to`, in data coordinates.

    Points that are not finite, or lie outside the axes, are left out of the page.
    """
    names = (series,) if isinstance(series, str) else tuple(series)
    corners = (at,) if to is None else (at, to)
    _of(axes.get_figure(root=True)).points.append(_Point(axes, names, corners, tuple(values.items())))


def legend(drawn: Legend, names: Iterable[str] | None = None) -> None:
    """Let each entry of a figure's legend switch the series that it names, or that `names` says where it is written shorter."""
    marks = _of(drawn.get_figure(root=True))
    series = names if names is not None else [text.get_text() for text in drawn.get_texts()]
    for name, handle, text in zip(series, drawn.legend_handles, drawn.get_texts(), strict=True):
        artists = [text] if handle is None else [text, handle]
        marks.legend.append((name, tuple(_name(artist) for artist in artists)))


def entries(figure: Figure) -> list[tuple[str, tuple[str, ...]]]:
    """Return the entries of a figure's legends that can be switched, a list that may be changed."""
    return _of(figure).legend


def restore(figure: Figure, legend_entries: list[tuple[str, tuple[str, ...]]]) -> None:
    """Put back entries that `entries` gave."""
    _of(figure).legend[:] = legend_entries


def layout(figure: Figure) -> dict[str, Any]:
    """Return what the page's script needs, as plain JSON, after the figure has been drawn as SVG.

    Returns:
        ``artists``: id in the drawing → its series; ``legend``: ``[series, ids]`` of each entry; ``points``:
        ``s`` series, ``x``, ``y`` and, for a box, ``w``, ``h`` in units of the drawing, and ``rows`` of words.
        Without marks, all are empty.

    >>> from matplotlib.figure import Figure
    >>> layout(Figure())
    {'artists': {}, 'legend': [], 'points': []}
    """
    marks = _of(figure)
    placed = [_placed(figure, point) for point in marks.points]
    return {
        "artists": {name: list(series) for name, series in marks.artists.items()},
        "legend": [[name, list(ids)] for name, ids in marks.legend],
        "points": [point for point in placed if point is not None],
    }


def _of(figure: Any) -> _Marks:
    # With the figure, so that marks live as long as it does, and are copied with it.
    marks: _Marks = vars(figure).setdefault("secateur_marks", _Marks())
    return marks


def _name(artist: Artist) -> str:
    gid = artist.get_gid()
    if gid is None:
        marks = _of(artist.get_figure(root=True))
        gid = f"mark-{marks.named}"
        marks.named += 1
        artist.set_gid(gid)
    return gid


def _placed(figure: Figure, point: _Point) -> dict[str, Any] | None:
    """The point in the drawing's units: 72 an inch, from the top left."""
    width, height = 72 * figure.get_size_inches()
    shares = [figure.transFigure.inverted().transform(point.axes.transData.transform(at)) for at in point.corners]
    if not all(math.isfinite(share) for pair in shares for share in pair):
        return None
    box = point.axes.get_position()
    if len(shares) == 1 and not (
        box.x0 - 0.01 <= shares[0][0] <= box.x1 + 0.01 and box.y0 - 0.01 <= shares[0][1] <= box.y1 + 0.01
    ):
        return None
    xs, ys = [float(width * x) for x, _ in shares], [float(height * (1 - y)) for _, y in shares]
    placed: dict[str, Any] = {"s": list(point.series), "x": round(min(xs), 1), "y": round(min(ys), 1)}
    if len(shares) == 2:
        placed |= {"w": round(max(xs) - min(xs), 1), "h": round(max(ys) - min(ys), 1)}
    return placed | {"rows": [list(row) for row in point.rows]}
