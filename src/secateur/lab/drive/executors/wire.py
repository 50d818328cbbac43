"""How the end of a cell travels from a worker to the driver: JSON and safetensors, two messages of bytes.

Large tensors go by way of the store's folder, where the worker sees it: the driver then moves a file, and never has
them in its memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from secateur.checks import in_one_line
from secateur.lab.drive.executors.base import Done, Failed
from secateur.lab.keep import paths
from secateur.lab.keep.arrivals import Arrival
from secateur.lab.keep.share import Share
from secateur.lab.plan.study import Outcome
from secateur.types import FileError, SecateurError

__all__ = ["pack", "unpack"]


BY_PATH = 65_536
"""Tensors of fewer bytes are sent: a file of their own costs more."""


def pack(event: Done | Failed, folder: Path | None = None, share: Share | None = None) -> tuple[bytes, bytes]:
    """Return the event as two messages; tensors that the format refuses make it a `Failed`.

    Large tensors are left in `folder`, the store's, where there is one, else in the `share`.

    >>> unpack(*pack(Failed("0123456789abcdef", "1", "ValueError: bad"))).error
    'ValueError: bad'
    """
    if isinstance(event, Failed):
        return json.dumps({"failed": asdict(event)}).encode(), b""
    try:
        tensors = _tensors(event.outcome)
    except Exception as error:  # noqa: BLE001  (each kind of tensor fails in its own way)
        return pack(Failed(event.id, event.worker, f"the artefact cannot be kept: {in_one_line(error)}"))
    head = {
        "id": event.id,
        "worker": event.worker,
        "metrics": dict(event.outcome.metrics),
        "history": [dict(row) for row in event.outcome.history],
        "wall_seconds": event.wall_seconds,
        "cpu_seconds": event.cpu_seconds,
        "environment": dict(event.environment),
        "artefact": event.outcome.artefact is not None,
    }
    if folder is not None and len(tensors) >= BY_PATH:
        # Where the folder cannot be written the driver says so, which ends the run and not this cell alone.
        with suppress(FileError):
            arrival = Arrival.leave(folder, event.id, tensors)
            head |= {"artefact": arrival.checksum}
            tensors = b""
    elif share is not None and len(tensors) >= BY_PATH:
        try:
            head |= {"artefact": share.put(event.id, tensors), "share": share.address}
        except SecateurError as error:
            return pack(Failed(event.id, event.worker, in_one_line(error)))
        tensors = b""
    return json.dumps({"done": head}).encode(), tensors


def unpack(head: bytes, tensors: bytes, folder: Path | None = None) -> Done | Failed:
    """Return the event that `pack` was given, with the driver's own name of the `folder`."""
    message = json.loads(head)
    if "failed" in message:
        return Failed(**message["failed"])
    rest = message["done"]
    if (address := rest.pop("share", None)) is not None:
        assert folder is not None, "only a driver that named a share gets tensors there"
        _bring(Share(address), folder, rest["id"])
    artefact, metrics, history = rest.pop("artefact"), rest.pop("metrics"), rest.pop("history")
    return Done(outcome=Outcome(metrics, history, _received(artefact, rest["id"], tensors, folder)), **rest)


def _bring(share: Share, folder: Path, identity: str) -> None:
    share.fetch(identity, paths.arrival_file(folder, identity))
    share.drop(identity)


def _received(artefact: bool | str, identity: str, tensors: bytes, folder: Path | None) -> Mapping[str, Tensor] | None:
    from safetensors.torch import load

    if isinstance(artefact, str):
        assert folder is not None, "only a driver that gave its folder gets tensors there"
        return Arrival(paths.arrival_file(folder, identity), artefact)
    return load(tensors) if artefact else None


def _tensors(outcome: Outcome) -> bytes:
    from safetensors.torch import save

    # Each its own dense memory: the format refuses tensors that share theirs, as tied weights do.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in (outcome.artefact or {}).items()}
    return save(plain)
