"""How the end of a cell travels from a worker to the driver: JSON and safetensors, two messages of bytes."""

from __future__ import annotations

import json
from dataclasses import asdict

from secateur.checks import in_one_line
from secateur.lab.drive.executors.base import Done, Failed
from secateur.lab.plan.study import Outcome

__all__ = ["pack", "unpack"]


def pack(event: Done | Failed) -> tuple[bytes, bytes]:
    """Return the event as two messages; tensors that the format refuses make it a `Failed`.

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
    return json.dumps({"done": head}).encode(), tensors


def unpack(head: bytes, tensors: bytes) -> Done | Failed:
    """Return the event that `pack` was given."""
    from safetensors.torch import load

    message = json.loads(head)
    if "failed" in message:
        return Failed(**message["failed"])
    rest = message["done"]
    artefact, metrics, history = rest.pop("artefact"), rest.pop("metrics"), rest.pop("history")
    return Done(outcome=Outcome(metrics, history, load(tensors) if artefact else None), **rest)


def _tensors(outcome: Outcome) -> bytes:
    from safetensors.torch import save

    # Each its own dense memory: the format refuses tensors that share theirs, as tied weights do.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in (outcome.artefact or {}).items()}
    return save(plain)
