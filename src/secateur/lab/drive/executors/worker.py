"""What a worker process does: compute the cells that its driver sends, and end when the driver is gone."""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from threading import Thread

from secateur.checks import in_one_line
from secateur.lab.drive.executors.base import Done, Failed, Setting, compute
from secateur.lab.drive.executors.wire import pack
from secateur.lab.keep.environment import environment
from secateur.lab.plan.recipe import Json

__all__ = ["READY", "work"]

READY = b"ready"


def work(messages: Connection, output: Connection, name: str, setting: Setting) -> None:
    """Answer each cell with the two messages of `pack`, until the driver closes the connection.

    What the process prints goes to `output`, so that the last words of a killed worker are not lost.
    """
    import torch

    _end_with_the_driver()
    # Ctrl-C reaches the whole process group; the driver alone decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    faulthandler.enable()
    torch.set_num_threads(setting.threads)
    facts: dict[str, Json] = dict(environment(executor="processes", worker=name))
    messages.send_bytes(READY)
    while True:
        try:
            identity, cell = messages.recv_bytes(), messages.recv_bytes()
        except (EOFError, OSError):
            return
        event = _answer(identity.decode(), cell, name, setting, facts)
        sys.stdout.flush()
        sys.stderr.flush()
        for part in pack(event, setting.store.path):
            messages.send_bytes(part)


def _answer(identity: str, pickled: bytes, name: str, setting: Setting, known: dict[str, Json]) -> Done | Failed:
    try:
        cell = pickle.loads(pickled)
    except Exception as error:  # noqa: BLE001  (a module that cannot be imported fails in its own way)
        remedy = "define it in a module that a new process can import, or use the serial executor (--jobs 1)"
        return Failed(
            identity, name, f"the cell's function cannot be loaded in a worker: {in_one_line(error)}; {remedy}"
        )
    return compute(cell, setting.store, setting.options, name, known, setting.store.path)


def _end_with_the_driver() -> None:
    """Watch the driver from a thread; without it there is no one to give a result to."""
    parent = parent_process()
    if parent is not None:
        Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
