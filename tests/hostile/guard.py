"""A watch over a reader: what it opens to write, starts, connects to or unpickles, and that it comes to an end."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

RUNS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "subprocess.Popen",
    "pty.spawn",
    "os.fork",
)
REACHES = ("socket.connect", "urllib.Request", "ftplib.connect", "smtplib.connect", "pickle.find_class")
WRITES = (
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
    "shutil.rmtree",
)
FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# torch makes a folder for what it compiles, when it is imported.
ALLOWED = ("/dev/null", "/proc/", f"{tempfile.gettempdir()}/torchinductor")

_watches: list[tuple[Path, list[str]]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watches:
        return
    inside, faults = _watches[-1]
    if event in (*RUNS, *REACHES):
        faults.append(f"{event} {arguments!r:.200}")
    elif event in WRITES or (event == "open" and _writes(arguments)):
        path = arguments[0]
        if isinstance(path, (str, bytes, os.PathLike)):
            place = Path(os.fsdecode(path)).absolute()
            if not place.is_relative_to(inside) and not str(place).startswith(ALLOWED):
                faults.append(f"{event} {place}")


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool((flags or 0) & FLAGS)


sys.addaudithook(_hook)  # it stays for ever, and looks only while something is watched


@contextmanager
def harmless(inside: Path) -> Iterator[None]:
    """Require that nothing is run, fetched or unpickled, and nothing written but below a folder."""
    faults: list[str] = []
    _watches.append((inside.absolute(), faults))
    try:
        yield
    finally:
        _watches.pop()
    assert not faults, faults


class Hangs(BaseException):
    """It did not come to an end; no reader may catch it."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Require an end within so much time of the processor, and ten times that by the clock, as for what waits for a pipe."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Hangs(f"after {seconds} s")

    timers = {signal.SIGALRM: (signal.ITIMER_REAL, 10 * seconds), signal.SIGPROF: (signal.ITIMER_PROF, seconds)}
    before = {name: signal.signal(name, end) for name in timers}
    for timer, limit in timers.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for name, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(name, before[name])
