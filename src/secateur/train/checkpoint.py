"""Checkpoints of a training: one safetensors file, written whole or not at all, that resumes to the bit.

The file holds every tensor of the model, of the optimiser, of the best weights, and the states of the random
numbers; all else (the optimiser's and schedule's scalars, the history) is JSON in the file's header, with a
hash over both. Nothing is pickled.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from secateur.checks import in_one_line
from secateur.files import MALFORMED, from_json, in_order, read_tensors, sweep, write_bytes
from secateur.labelled import Samples, together
from secateur.randomness import rng_state, set_rng_state
from secateur.state import digest, restore, snapshot, tensors
from secateur.state_dicts import check_state
from secateur.train.callbacks import Callback, Run
from secateur.train.history import EpochRecord
from secateur.train.options import TrainOptions
from secateur.types import CheckpointError, InputError

__all__ = ["WriteCheckpoint", "identify", "resume"]

FORMAT = "secateur-training-1"


def pack(value: Any, found: dict[str, Tensor], name: str) -> Any:
    """Return `value` as JSON has it; its tensors go to `found` and leave their names behind.

    >>> pack({0: (1, None)}, {}, "state")
    {'dict': [[0, {'tuple': [1, None]}]]}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        found[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        kind = "counter" if isinstance(value, Counter) else "dict"
        return {kind: [[pack(k, found, name), pack(v, found, f"{name}.{k}")] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [pack(item, found, f"{name}.{index}") for index, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    raise InputError(
        f"checkpoint: {name} is a {type(value).__name__}, which no checkpoint can hold; "
        "use an optimiser and a schedule whose state is tensors and numbers, or train without a checkpoint"
    )


def unpack(value: Any, found: Mapping[str, Tensor]) -> Any:
    """Return what was packed."""
    if isinstance(value, list):
        return [unpack(item, found) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return found[inner]
    if kind == "tuple":
        return tuple(unpack(item, found) for item in inner)
    items = {unpack(k, found): unpack(v, found) for k, v in inner}
    return Counter(items) if kind == "counter" else items


def identify(
    model: nn.Module, options: TrainOptions, callbacks: tuple[Callback, ...], data: Mapping[str, Samples | None]
) -> dict[str, Any]:
    """Return what a checkpoint must share with the training that resumes from it.

    Data in memory are known by their contents; batches that someone else makes are not looked at.
    """
    # Addresses in a printed module differ from run to run.
    structure = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    wholes = {role: together(source) for role, source in data.items()}
    return {
        "options": options.to_dict(),
        "model": digest([], structure),
        "starting weights": digest(tensors(model).items()),
        "callbacks": sorted(filter(None, (callback.identity() for callback in callbacks))),
        **{role: None if whole is None else digest(whole.named()) for role, whole in wholes.items()},
    }


@dataclass
class WriteCheckpoint(Callback):
    """Writes a checkpoint after an epoch, once `every` seconds have gone since the last or since the start."""

    path: Path
    identity_of_run: Mapping[str, Any]
    every: float = 0.0
    only_tells = True
    _last: float = 0.0

    def on_start(self, run: Run) -> None:
        """Note the time."""
        self._last = monotonic()

    def on_epoch(self, run: Run) -> None:
        """Write the checkpoint where it is due."""
        if monotonic() - self._last >= self.every:
            self._write(run)
            self._last = monotonic()

    def _write(self, run: Run) -> None:
        # Only here is safetensors needed, and importing it is not free.
        from safetensors.torch import save

        packed: dict[str, Tensor] = {}
        record = json.dumps({"identity": self.identity_of_run, "state": pack(_state(run), packed, "state")})
        seal = digest(sorted(packed.items()), record)
        write_bytes(self.path, in_order(save(packed, {"format": FORMAT, "record": record, "seal": seal})))


def _state(run: Run) -> dict[str, Any]:
    return {
        "model": tensors(run.model),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.scheduler.state_dict(),
        "order": run.order.get_state(),
        "random": rng_state(run.device),
        "history": run.history.to_dicts(),
        "step": run.step,
        "average": run.average,
        "best": run.best,
        "masks": run.masks,
        "settled": run.settled,
        "stop": run.stop,
    }


def resume(run: Run, path: Path, identity: Mapping[str, Any]) -> None:
    """Bring the run to where the checkpoint left it; do nothing if there is no such file.

    Raises:
        CheckpointError: the file is not a checkpoint, is damaged, or belongs to another training.
    """
    sweep(path.parent)
    if not path.exists():
        return
    before = snapshot(run.model)
    try:
        record, stored = _read(path)
        _check_identity(path, record["identity"], identity)
        _take(run, path, unpack(record["state"], stored))
    except MALFORMED as error:
        restore(run.model, before)
        raise CheckpointError(
            f"checkpoint {path} is damaged: it says what no training does ({in_one_line(error)}); delete it to start over"
        ) from error


def _take(run: Run, path: Path, state: Mapping[str, Any]) -> None:
    persistent = {name: state["model"].get(name) for name in run.model.state_dict()}
    check_state(run.model, persistent, f"checkpoint {path}")
    restore(run.model, state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.schedule.scheduler.load_state_dict(state["schedule"])
    run.order.set_state(state["order"])
    run.records = [EpochRecord(**epoch) for epoch in state["history"]]
    run.step, run.stop = state["step"], state["stop"]
    # Checkpoints of 0.1 know no average, and those of before masks changed none.
    run.average, run.best, run.masks = (_on(run.device, state.get(name)) for name in ("average", "best", "masks"))
    run.settled = state.get("settled", 0)
    # Last, so that nothing above can draw from it.
    set_rng_state(run.device, state["random"])


def _on(device: torch.device, stored: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
    return None if stored is None else {name: tensor.to(device) for name, tensor in stored.items()}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        header, stored = read_tensors(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}; delete it to start over") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of a training; give another path for the checkpoint")
    if header.get("seal") != digest(sorted(stored.items()), header.get("record", "")):
        raise CheckpointError(
            f"checkpoint {path} is damaged: its contents do not match its hash; delete it to start over"
        )
    record: dict[str, Any] = from_json(header["record"])
    return record, stored


def _check_identity(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    ours = json.loads(json.dumps(ours))
    other = [name for name in ours if theirs.get(name) != ours[name]]
    if "options" in other:
        other.remove("options")
        options, was = ours["options"], theirs.get("options") or {}
        # An option that is new since has its default in what was written before.
        default = {option.name: option.default for option in fields(TrainOptions)}
        changed = [n for n in options if was.get(n, default[n]) != options[n]]
        other += [f"option {n} (was {was.get(n)!r}, now {options[n]!r})" for n in changed]
    if other:
        raise CheckpointError(
            f"checkpoint {path} belongs to another training; these differ: {', '.join(other)}; "
            "give another path for the checkpoint, or delete it to start over"
        )
