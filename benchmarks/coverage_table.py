"""The coverage benchmark's rows as lines and tables for people."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Any

__all__ = ["line", "table"]

Row = dict[str, Any]
HEAD = ("suite", "tried", "ours", "peer", "both", "only ours", "only peer")


def line(row: Row) -> str:
    """Return one row as a line: what, which tool, passed or why not, and how long it took.

    >>> line({"suite": "zoo", "model": "unet", "side": "ours", "passed": False, "stage": "trace", "error": "no"})
    'ours  FAIL zoo/unet: trace: no'
    """
    what = f"{row['side']}  {'pass' if row['passed'] else 'FAIL'} {row['suite']}/{row['model']}"
    if not row["passed"]:
        return f"{what}: {reason(row)}"
    times = " ".join(f"{k} {row[f'{k}_s']:.1f}s" for k in ("forward", "trace", "cut") if f"{k}_s" in row)
    extra = (" GRAPH" if row.get("form") == "graph" else "") + (" VACUOUS" if row.get("vacuous") else "")
    return f"{what}: {row['removed']:.0%} removed, {row['own_difference']:.0e} apart, {times}{extra}"


def reason(row: Row) -> str:
    """Return why a row did not pass, on one line."""
    kind = row.get("error_type")
    return f"{row.get('stage', 'start')}: {kind + ': ' if kind else ''}{row.get('error', 'unknown')}"


def table(rows: list[Row], markdown: bool = False) -> str:
    """Return how many models passed by suite and by family, the times, and the list of failures."""
    parts = [_counts(rows, "suite", markdown), _shares(rows), _times(rows)]
    parts += [_counts([r for r in rows if r["suite"] == "torchvision"], "family", markdown)]
    parts += [_failures(rows, side, markdown) for side in ("ours", "peer")]
    parts += [_graphs(rows, markdown)]
    return "\n\n".join(part for part in parts if part)


def _counts(rows: list[Row], by: str, markdown: bool) -> str:
    models: dict[str, dict[tuple[str, str], dict[str, bool]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        models[row[by]][row["suite"], row["model"]][row["side"]] = row["passed"]
    if not models:
        return ""
    lines = [_cells((by, *HEAD[1:]), markdown)]
    lines += ["|" + "---|" * len(HEAD)] if markdown else []
    for name, found in models.items():
        ours = {m for m, sides in found.items() if sides.get("ours")}
        peer = {m for m, sides in found.items() if sides.get("peer")}
        ran = any("peer" in sides for sides in found.values())
        shown = (len(peer), len(ours & peer), len(ours - peer), len(peer - ours)) if ran else ("–",) * 4
        lines.append(_cells((name, len(found), len(ours), *shown), markdown))
    return "\n".join(lines)


def _shares(rows: list[Row]) -> str:
    """Which shares of the models were cut and exact, came back as graphs, and came back wrong."""
    said = []
    for side in ("ours", "peer"):
        tried = [r for r in rows if r["side"] == side]
        passed = [r for r in tried if r["passed"]]
        if tried:
            graphs = sum(r.get("form") == "graph" for r in passed)
            counts = {"cut and exact": len(passed), "as graphs": graphs, "wrong": sum(map(_is_wrong, tried))}
            said.append(
                f"{side}: of {len(tried)} " + ", ".join(f"{n} {w} ({n / len(tried):.0%})" for w, n in counts.items())
            )
    return "\n".join(said)


def _is_wrong(row: Row) -> bool:
    """Whether a tool returned a model whose outputs are not the masked model's, or that does not run."""
    broken = row["side"] == "peer" and row.get("stage") == "check" and row.get("error_type") != "Limit"
    return bool(row.get("wrong")) or (broken and not row["passed"])


def _cells(cells: tuple[object, ...], markdown: bool) -> str:
    if markdown:
        return "| " + " | ".join(str(c) for c in cells) + " |"
    return f"{cells[0]!s:<16}" + "".join(f"{c!s:>11}" for c in cells[1:])


def _times(rows: list[Row]) -> str:
    """Median times over one forward pass, of the models that passed."""
    said = []
    for side in ("ours", "peer"):
        good = [r for r in rows if r["side"] == side and r["passed"] and r.get("forward_s")]
        if good:
            trace, cut = (median(r[f"{k}_s"] / r["forward_s"] for r in good) for k in ("trace", "cut"))
            forms = sum(r.get("form") == "graph" for r in good)
            also = f"; {forms} as a graph; {sum(bool(r.get('vacuous')) for r in good)} vacuous"
            said.append(f"{side}: median trace {trace:.1f} ×, cut {cut:.1f} × one forward pass{also}")
    return "\n".join(said)


def _failures(rows: list[Row], side: str, markdown: bool) -> str:
    failed = [r for r in rows if r["side"] == side and not r["passed"]]
    if not failed:
        return ""
    mark = "- " if markdown else "  "
    lines = [f"{mark}{r['suite']}/{r['model']}: {reason(r)[:240]}" for r in failed]
    return "\n".join([f"{'Ours' if side == 'ours' else 'Peer'}, not passed ({len(failed)}):", *lines])


def _graphs(rows: list[Row], markdown: bool) -> str:
    """The models that came back as a graph, with what kept their own class from holding the cut."""
    graphs = [r for r in rows if r.get("form") == "graph"]
    if not graphs:
        return ""
    mark = "- " if markdown else "  "
    lines = [f"{mark}{r['suite']}/{r['model']}: {r.get('why_graph', '')[:240]}" for r in graphs]
    return "\n".join([f"Returned as a graph ({len(graphs)}):", *lines])
