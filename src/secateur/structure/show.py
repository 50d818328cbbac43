"""Show what a model is made of: sites as text, as plain data, and as a picture."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from secateur.types import Member, Site, Sites, layer_of

__all__ = ["owned", "to_dict", "to_svg", "to_text"]


def owned(site: Site) -> int:
    """Return how many parameters one unit of the site takes with it (the mean, where units differ).

    >>> from torch import nn, zeros
    >>> from secateur.structure.sites import channels
    >>> owned(channels(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), zeros(1, 4))["0"])
    7
    """
    return sum(_entries(member) for member in site.members) // site.size


def _entries(member: Member) -> int:
    total = 1
    for size in member.shape:
        total *= size
    if member.dim is None or member.index is None:
        return total
    return total // member.shape[member.dim] * member.index.numel()


def to_text(sites: Sites) -> str:
    """Return a table of the sites and a list of what is left whole, with the reasons."""
    lines = [_heading(sites), ""]
    if sites:
        width = max(len("site"), *(len(name) for name in sites))
        lines.append(f"{'site':<{width}}  {'units':>6}  {'unit':<14}  {'parameters/unit':>15}  tied")
        lines += [
            f"{name:<{width}}  {site.size:>6,}  {site.unit:<14}  {owned(site):>15,}  {_tied(site)}"
            for name, site in sites.items()
        ]
    if sites.frozen:
        width = max(len(name) for name in sites.frozen)
        lines += ["", "left whole", *(f"{name:<{width}}  {reason}" for name, reason in sites.frozen.items())]
    return "\n".join(lines)


def _heading(sites: Sites) -> str:
    units = sum(site.size for site in sites.values())
    return f"{_count(len(sites), 'site')} with {_count(units, 'unit')}; {_count(len(sites.frozen), 'layer')} left whole"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _tied(site: Site, most: int = 4) -> str:
    words = [f"{m.parameter}[{m.dim}]" if m.dim is not None else m.parameter for m in site.members]
    rest = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + rest


def to_dict(sites: Sites) -> dict[str, Any]:
    """Return the sites as plain data that JSON can hold."""
    return {
        "sites": [
            {
                "name": name,
                "units": site.size,
                "unit": site.unit,
                "parameters_per_unit": owned(site),
                "members": [{"parameter": m.parameter, "dim": m.dim, "role": m.role} for m in site.members],
            }
            for name, site in sites.items()
        ],
        "frozen": dict(sites.frozen),
    }


PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6f00", "#5b3a9e")
ROW, LANE, TOP = 18, 16, 56


def to_svg(sites: Sites) -> str:
    """Return a picture: one row a layer, one coloured lane a site, a mark where the site touches the layer.

    A full circle produces the units, a ring consumes them, a square scales them; grey names are left whole.
    """
    layers = _layers(sites)
    lanes = _lanes(sites, layers)
    left = 24 + LANE * (1 + max(lanes.values(), default=0))
    width = left + 24 + 8 * max((len(n) for n in layers), default=10) + 320
    height = TOP + ROW * len(layers) + 16
    body = [_text(24, 24, _heading(sites), "bold"), _text(24, 42, "● produces   ○ consumes   ■ scales", "key")]
    body += [_name(sites, name, left, TOP + ROW * at) for name, at in layers.items()]
    for number, (name, site) in enumerate(sites.items()):
        body += _lane(name, site, layers, 24 + LANE * lanes[name], PALETTE[number % len(PALETTE)])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(_heading(sites))}">\n<style>text{{font:12px system-ui,sans-serif;fill:#222}}'
        ".bold{font-weight:600;font-size:14px}.key,.frozen{fill:#777}</style>\n"
        f'<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _layers(sites: Sites) -> dict[str, int]:
    """The layers in the order in which the sites touch them, each with its row."""
    structure = sites.structure
    names: Iterable[str] = structure.tensors if structure is not None else sites
    return {layer: at for at, layer in enumerate(dict.fromkeys(layer_of(n) or n for n in names))}


def _layer_of(member: Member) -> str:
    return member.layer or member.parameter


def _lanes(sites: Sites, layers: dict[str, int]) -> dict[str, int]:
    """A lane for every site, such that sites side by side in one lane do not overlap."""
    ends: list[int] = []
    lanes: dict[str, int] = {}
    for name, site in sites.items():
        rows = [layers[_layer_of(m)] for m in site.members]
        lane = next((i for i, end in enumerate(ends) if end < min(rows)), len(ends))
        ends[lane : lane + 1] = [max(rows)]
        lanes[name] = lane
    return lanes


def _text(x: int, y: int, words: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(words)}</text>'


def _name(sites: Sites, layer: str, x: int, y: int) -> str:
    reason = sites.frozen.get(layer)
    return _text(x, y + 4, f"{layer}  — {reason}" if reason else layer, "frozen" if reason else "")


def _lane(name: str, site: Site, layers: dict[str, int], x: int, colour: str) -> list[str]:
    marks = {(layers[_layer_of(m)], m.role) for m in site.members}
    rows = sorted(row for row, _ in marks)
    title = f"<title>{escape(name)}: {site.size} units ({site.unit})</title>"
    y1, y2 = TOP + ROW * rows[0], TOP + ROW * rows[-1]
    svg_lines = [f'<g stroke="{colour}" stroke-width="2">{title}<line x1="{x}" y1="{y1}" x2="{x}" y2="{y2}"/>']
    for row, role in sorted(marks):
        y = TOP + ROW * row
        if role == "scale":
            svg_lines.append(f'<rect x="{x - 4}" y="{y - 4}" width="8" height="8" fill="{colour}"/>')
        else:
            svg_lines.append(f'<circle cx="{x}" cy="{y}" r="5" fill="{colour if role == "out" else "#fff"}"/>')
    return [*svg_lines, "</g>"]
