"""A study while it runs: what its store holds so far, on a terminal or on a page of this machine alone. It only reads."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from secateur.files import require
from secateur.lab.keep import paths
from secateur.lab.keep.store import Store
from secateur.lab.show import figures
from secateur.lab.show.shares import as_removed
from secateur.lab.show.style import inline_svg, svg
from secateur.types import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "FailedCell",
    "LastRun",
    "Progress",
    "RunningCell",
    "curves",
    "last_run",
    "page",
    "progress",
    "server",
    "studies_of",
]

_LOG = 20_000
"""So many letters of a failed cell's log are shown, the last ones."""
_EVERY = 5.0
"""Seconds between two drawings of the curves."""


@dataclass(frozen=True)
class RunningCell:
    """A cell that some run is computing, and for how many seconds."""

    id: str
    words: str
    seconds: float


@dataclass(frozen=True)
class FailedCell:
    """A cell that failed: its error in one line, and its log with the traceback and what it printed."""

    id: str
    words: str
    error: str
    log: str


@dataclass(frozen=True)
class Progress:
    """How far the studies in a store are.

    Attributes:
        store: its path.
        studies: the names of the studies that were run there.
        total: how many cells they have; None where no run has said so.
        done: how many are finished.
        running: what is being computed.
        failed: what failed and has not succeeded since.
        latest: when the last cell was finished, as ISO 8601; empty before the first.
    """

    store: str
    studies: tuple[str, ...]
    total: int | None
    done: int
    running: tuple[RunningCell, ...] = ()
    failed: tuple[FailedCell, ...] = ()
    latest: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be computed, or can be, and nothing runs."""
        return not self.running and self.total is not None and self.done + len(self.failed) >= self.total

    @property
    def left(self) -> int:
        """How many cells are neither finished, failed nor running; 0 where it is not known how many there are."""
        return max(0, (self.total or 0) - self.done - len(self.failed) - len(self.running))

    @property
    def is_idle(self) -> bool:
        """Whether cells are left and nobody computes them: between two cells, or since the run was stopped."""
        return self.left > 0 and not self.running

    def __str__(self) -> str:
        of = "" if self.total is None else f" of {self.total}"
        cells = f"{self.done}{of} cell{'s' if (self.total or self.done) != 1 else ''} done"
        idle = f"; nothing computes the {self.left} left" if self.is_idle else ""
        return f"{cells}, {len(self.running)} running, {len(self.failed)} failed{idle}"


def progress(store: Store) -> Progress:
    """Return how far the studies in a store are, from its database, its locks and what runs said they would compute.

    >>> import tempfile
    >>> from secateur.lab.keep.records import Record
    >>> from secateur.lab.plan.recipe import Recipe
    >>> store = Store(Path(tempfile.mkdtemp()))
    >>> _ = store.put(Record(Recipe("toy", "train", {"seed": 0}), {"accuracy": 0.5}))
    >>> print(progress(store))
    1 cell done, 0 running, 0 failed
    """
    planned = _planned(store.path)
    cells = {identity: words for plan in planned.values() for identity, words in plan.items()}
    finished = store.ids()
    failures = [failure for failure in store.failures() if not cells or failure.recipe.id in cells]
    failed = tuple(
        FailedCell(
            failure.recipe.id,
            failure.recipe.short,
            failure.error,
            _log(store.path, failure.recipe.id, failure.traceback),
        )
        for failure in failures
    )
    settled = finished | {cell.id for cell in failed}
    running = tuple(
        RunningCell(identity, cells.get(identity, identity), seconds)
        for identity, seconds in _locked(store.path)
        if identity not in settled
    )
    last = store.query(columns=["created", "study"], sort="-created", limit=1)
    return Progress(
        str(store.path),
        tuple(planned) or tuple(last["study"]),
        len(cells) if planned else None,
        len(finished & set(cells)) if planned else len(finished),
        running,
        failed,
        str(last["created"].iloc[0]) if len(last) else "",
    )


@dataclass(frozen=True)
class LastRun:
    """What was run in a store: the study's name, its options, and the file that describes it, if one does."""

    study: str
    options: Mapping[str, Any]
    file: Path | None = None


def last_run(store: Path) -> LastRun | None:
    """Return what was run in a store; None where it holds several studies, or none says so."""
    plans = _plans(store)
    if len(plans) != 1:
        return None
    ((study, plan),) = plans.items()
    if "options" not in plan:
        return None
    return LastRun(study, dict(plan["options"]), Path(plan["file"]) if "file" in plan else None)


def studies_of(store: Store) -> set[str]:
    """Return the names of the studies of which a store holds something: a cell, a failure, or what a run was to compute."""
    finished = set(store.query(columns=["study"])["study"]) if store.ids() else set()
    return finished | {failure.recipe.study for failure in store.failures()} | set(_plans(store.path))


def _planned(store: Path) -> dict[str, Mapping[str, str]]:
    """What each study's last run in the store was to compute: by the study, the words of each cell by its id."""
    return {study: plan["cells"] for study, plan in _plans(store).items()}


def _plans(store: Path) -> dict[str, Mapping[str, Any]]:
    """What the last run of each study in the store wrote down, by the study."""
    plans: dict[str, Mapping[str, Any]] = {}
    for file in sorted(paths.plan_file(store, "*").parent.glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):  # replaced this moment, or not ours
            plan = dict(json.loads(file.read_text(encoding="utf-8")))
            plans[file.stem] = {**plan, "cells": dict(plan["cells"])}
    return plans


def _locked(store: Path) -> Iterator[tuple[str, float]]:
    """The cells that a process has locked, and for how many seconds."""
    locked_inodes = _held_inodes()
    for file in sorted(paths.lock_file(store, "*").parent.glob("*.lock")):
        with suppress(OSError):  # given back this moment
            facts = file.stat()
            if locked_inodes is None or facts.st_ino in locked_inodes:
                yield file.stem, max(0.0, time.time() - facts.st_mtime)


def _held_inodes() -> set[int] | None:
    """The inodes of all files that are locked on this machine; None where the system does not say.

    A killed run leaves its lock files; looking does not take a lock, as trying one would.
    """
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return {int(line.split()[-3].split(":")[-1]) for line in lines}


def _log(store: Path, identity: str, traceback: str) -> str:
    try:
        text = paths.log_file(store, identity).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = traceback
    return text[-_LOG:]


def curves(store: Store) -> dict[str, str]:
    """Return the curves that there are so far as SVG, by their title: accuracy by sparsity, and learning curves."""
    frame = store.frame()
    by_title = {}
    if len(rows := _swept(frame)):
        by_network = {str(network): group for network, group in rows.groupby("network", sort=False)}
        by_title["Accuracy by the part removed"] = figures.accuracy_panels(dict(list(by_network.items())[:2]), {})
    histories = store.histories(frame.loc[frame["kind"] == "train", "id"]) if len(frame) else frame
    if {"epoch", "train_loss", "validation_loss", "train_accuracy", "validation_accuracy"} <= set(histories):
        by_title["Training"] = figures.learning_curves(histories)
    return {
        title: inline_svg(svg(figure), f"live{place}", title) for place, (title, figure) in enumerate(by_title.items())
    }


def _swept(frame: DataFrame) -> DataFrame:
    """The rows that a curve of accuracy over sparsity can be drawn of, with the network that they are of."""
    if not {"method", "sparsity", "accuracy"} <= set(frame):
        return frame[:0]
    rows = frame.dropna(subset=["method", "sparsity", "accuracy"])
    rows = rows[rows["kind"] == rows["kind"].mode().iloc[0]] if len(rows) else rows
    names = [name for name in ("model", "data") if name in rows]
    rows = rows.assign(network=rows[names].astype(str).agg(" on ".join, axis=1) if names else "network")
    return as_removed(rows, ("network", "method"))


class _Watched:
    """A store that a page looks at, with the curves of the last few seconds."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, Lock()
        self._drawn: tuple[int, float, dict[str, str]] = (-1, 0.0, {})

    def state(self) -> dict[str, Any]:
        with self._lock:
            now = progress(self._store)
            return {**asdict(now), "words": str(now), "over": now.is_over, "curves": self._curves(now.done)}

    def _curves(self, done: int) -> dict[str, str]:
        count, at, pictures = self._drawn
        if done != count and time.monotonic() - at > _EVERY:
            with suppress(InputError):  # a table too empty to draw
                pictures = curves(self._store)
            self._drawn = (done, time.monotonic(), pictures)
        return pictures


def page() -> str:
    """Return the page that asks for a store's state every other second and shows it.

    >>> "<title>" in page()
    True
    """
    template = files("secateur.lab.show").joinpath("templates", "watch.html.j2").read_text(encoding="utf-8")
    style = files("secateur.lab.show").joinpath("templates", "report.css").read_text(encoding="utf-8")
    markup = require("markupsafe", "lab").Markup
    text: str = require("jinja2", "lab").Template(template, autoescape=True).render(style=markup(style))
    return text


def server(store: Store, port: int = 0) -> ThreadingHTTPServer:
    """Return a server on the loopback interface, not yet serving: the page at ``/``, the state at ``/state.json``.

    Args:
        store: what to show.
        port: 0 for one that is free; then `server_port` says which.

    Raises:
        InputError: the port is taken, or not this user's to take.
    """
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, _Watched(store)))
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot serve on port {port}: {error}; give another, or none for a free one") from error


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, watched: _Watched, *rest: Any) -> None:
        self._watched = watched
        super().__init__(*rest)

    def do_GET(self) -> None:
        # A page elsewhere may have its name lead here: such a request names another host.
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in ("127.0.0.1", "localhost"):
            self._answer(403, "text/plain", "this is for this machine alone")
        elif self.path == "/":
            self._answer(200, "text/html", page())
        elif self.path == "/state.json":
            self._answer(200, "application/json", json.dumps(self._watched.state()))
        else:
            self._answer(404, "text/plain", "there is nothing here")

    def _answer(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Sequence[Any]) -> None:
        """Say nothing of each request."""
