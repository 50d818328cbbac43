"""Where a pruning was: one safetensors file, its steps as JSON in the header, written whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.checks import in_one_line
from secateur.files import MALFORMED, from_json, in_order, read_tensors, sweep, write_bytes
from secateur.losses import loss_function
from secateur.schedules.contents import contents
from secateur.state import digest, tensors
from secateur.types import FileError, Sites

__all__ = ["Checkpoint", "identify"]

FORMAT = "secateur-pruning-1"
SAME = 1e-5
"""The greatest relative difference between two measurements of one loss."""


def identify(schedule: Any, model: nn.Module, sites: Sites) -> dict[str, Any]:
    """Return what a checkpoint must share with the pruning that goes on from it.

    The schedule's own data are known by the loss on them; those that its criterion, training or rule holds by `contents`.
    """
    digests = {
        field.name: contents(_option(schedule, field.name)) for field in fields(schedule) if field.name != "data"
    }
    options = {field.name: _told(_option(schedule, field.name)) for field in fields(schedule) if field.repr}
    return {
        "schedule": type(schedule).__name__,
        "options": options,
        "model": digest(tensors(model).items()),
        "sites": {name: list(site.shape) for name, site in sites.items()},
        **{f"the data of {name}": part for name, part in digests.items() if part},
    }


def _option(schedule: Any, name: str) -> Any:
    value = getattr(schedule, name)
    return loss_function(value) if name == "loss" else value  # a name and its function are the same


def _told(value: Any) -> Any:
    """A plain value that stands for an option."""
    if isinstance(value, Mapping) and all(isinstance(x, Tensor) for x in value.values()):
        return digest(sorted(value.items()))
    if isinstance(value, Callable) and not is_dataclass(value):  # type: ignore[arg-type]
        return getattr(value, "__qualname__", type(value).__name__)
    # Addresses of functions differ from run to run.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


@dataclass(frozen=True)
class Checkpoint:
    """The file of a pruning.

    Attributes:
        path: where it is.
        identity: of the pruning.
    """

    path: Path
    identity: Mapping[str, Any]

    def write(self, state: Mapping[str, Any], state_tensors: Mapping[str, Tensor]) -> None:
        """Write where the pruning is."""
        # Only here is safetensors needed, and importing it is not free.
        from safetensors.torch import save

        # A safetensors file without a tensor is none.
        tensors = {
            "": torch.zeros(1),
            **{name: x.detach().cpu().clone().contiguous() for name, x in state_tensors.items()},
        }
        record = json.dumps({"identity": self.identity, "state": state}, default=asdict)
        seal = digest(sorted(tensors.items()), record)
        write_bytes(self.path, in_order(save(tensors, {"format": FORMAT, "record": record, "seal": seal})))

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return what was written; None if there is no such file.

        Raises:
            FileError: it is no checkpoint of a pruning, is damaged, or belongs to another one.
        """
        if self.path.is_dir():
            raise FileError(f"checkpoint {self.path} is a folder; give the path of a file in it")
        sweep(self.path.parent)
        if not self.path.exists():
            return None
        header, tensors = self._open()
        if header.get("format") != FORMAT:
            raise FileError(f"{self.path} is not a checkpoint of a pruning; give another path for the checkpoint")
        if header.get("seal") != digest(sorted(tensors.items()), header.get("record", "")):
            raise FileError(f"checkpoint {self.path} is damaged: it does not match its hash; delete it to start over")
        ours = json.loads(json.dumps(self.identity))
        try:
            record = from_json(header["record"])
            theirs = record["identity"]
            other = [name for name in dict.fromkeys([*ours, *theirs]) if theirs.get(name) != ours.get(name)]
            state, _ = dict(record["state"]), tensors.pop("")
        except MALFORMED as error:
            raise self.damaged(error) from error
        if other:
            raise self._of_another(", ".join(other))
        return state, tensors

    def damaged(self, error: Exception) -> FileError:
        """Return the error for a file whose hash is right, and which no pruning wrote."""
        return FileError(
            f"checkpoint {self.path} is damaged: it says what no pruning does ({in_one_line(error)}); delete it to start over"
        )

    def check_data(self, was: float, now: float) -> None:
        """Refuse data on which a model has another loss than when the checkpoint was written."""
        if not (abs(was - now) <= SAME * max(abs(was), abs(now)) or (was != was and now != now)):
            raise self._of_another(f"the data (a loss on them was {was:.6g}, and is {now:.6g})")

    def _of_another(self, what: str) -> FileError:
        return FileError(
            f"checkpoint {self.path} belongs to another pruning; these differ: {what}; "
            "give another path for the checkpoint, or delete it to start over"
        )

    def _open(self) -> tuple[dict[str, str], dict[str, Tensor]]:
        try:
            return read_tensors(self.path)
        except (OSError, ValueError) as error:
            raise FileError(f"checkpoint {self.path} cannot be read: {error}; delete it to start over") from error
