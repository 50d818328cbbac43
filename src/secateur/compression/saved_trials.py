"""A model that was good enough, in a folder of its own: written when it is there, read when a compression goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compression.choosing import Chosen
from secateur.files import MALFORMED, from_json, read_text, write_text
from secateur.hints import from_plain
from secateur.result import LayerReport, Log, Method, Replayed, Result
from secateur.saving import load_with_edits, read_record
from secateur.structure.verify import Verification
from secateur.types import ExampleInputs, FileError, Keep, Sites

__all__ = ["load_choice", "load_trial", "save_choice", "save_trial"]


@dataclass(frozen=True, eq=False)
class _Making(Log):
    """What a folder does not hold of a result else: which units are left, and how they were chosen and verified."""

    result: Result

    def to_dict(self) -> dict[str, Any]:
        verification = self.result.verification
        return {
            "units": _units(self.result.keep),
            "method": asdict(self.result.method),
            "verification": None if verification is None else asdict(verification),
            "layers": [asdict(layer) for layer in self.result.layers],
            "frozen": dict(self.result.sites.frozen),
        }


def save_trial(folder: Path, result: Result) -> None:
    """Write a result, whole or not at all."""
    replace(result, history=_Making(result)).save(folder)


def load_trial(folder: Path, original: nn.Module, sites: Sites, inputs: ExampleInputs) -> Result:
    """Return the result that `save_trial` wrote.

    Args:
        folder: where it was written.
        original: the model that it was made of.
        sites: of the original.
        inputs: what it is called with.

    Raises:
        FileError: a file is missing or damaged.
    """
    (small, edits), making = load_with_edits(folder, original), read_record(folder)[1]
    try:
        assert making is not None
        masks = _masks(making["units"], sites)
        verification = _verification(making["verification"])
        layers = tuple(from_plain(LayerReport, layer) for layer in making["layers"])
        method = _method(making["method"])
        sites = Sites(sites.table, {**making["frozen"]}, sites.structure)
    except MALFORMED as error:
        raise FileError(f"{folder} is damaged ({error}); delete the folder of the compression to start over") from error
    return Result(small, original, sites, masks, edits, method, verification, inputs=inputs, layers=layers)


def _method(record: Mapping[str, Any]) -> Method:
    return from_plain(Method, record)


def _verification(record: Mapping[str, Any] | None) -> Verification | Replayed | None:
    if record is None:
        return None
    return from_plain(Verification, record) if "double" in record else from_plain(Replayed, record)


def save_choice(file: Path, choice: Chosen) -> None:
    """Write which units of a model stay, before it is trained: measured again, the choice might be another."""
    write_text(file, json.dumps({"units": _units(choice.keep), "cost": choice.cost}))


def load_choice(file: Path, sites: Sites) -> Chosen:
    """Return what `save_choice` wrote.

    Raises:
        FileError: the file is damaged.
    """
    try:
        record = from_json(read_text(file))
        return Chosen(_masks(record["units"], sites), float(record["cost"]), sites)
    except (OSError, *MALFORMED) as error:
        raise FileError(f"{file} is damaged ({error}); delete it to choose anew") from error


def _units(keep: Keep) -> dict[str, list[int]]:
    return {name: mask.flatten().nonzero().flatten().tolist() for name, mask in keep.items()}


def _masks(units_by_site: Mapping[str, list[int]], sites: Sites) -> dict[str, Tensor]:
    masks = {}
    for name, units in units_by_site.items():
        masks[name] = torch.zeros(sites[name].shape, dtype=torch.bool)
        masks[name].view(-1)[units] = True
    return masks
