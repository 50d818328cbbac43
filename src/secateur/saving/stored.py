"""The tensors of a state dict as a folder holds them: as they are, or encoded, as the edits say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

from secateur.calls import usual
from secateur.coding import as_integers, decode_tensor
from secateur.edits import Edit
from secateur.saving.records import joined, parted
from secateur.saving.weights import unshared
from secateur.types import FileError

__all__ = ["StateOnDisk", "encoded", "stored_bytes"]


def encoded(state: Mapping[str, Tensor], edits: Sequence[Edit]) -> dict[str, dict[str, Any]]:
    """Return what the codecs of the edits make of the tensors that they can store, by name.

    Where several edits name a tensor, the last one whose codec can store it does. Left out is what would take more bytes,
    or would not come back to the bit.
    """
    records: dict[str, dict[str, Any]] = {}
    for edit in edits:
        for name, codec in edit.codecs().items():
            record = codec.encode(state[name]) if name in state else None
            if record is not None and _is_worth(record, state[name]):
                records[name] = record
    return records


def _is_worth(record: Mapping[str, Any], tensor: Tensor) -> bool:
    size = sum(part.numel() * part.element_size() for part in record.values() if isinstance(part, Tensor))
    is_same = torch.equal(as_integers(decode_tensor(record)), as_integers(tensor))
    return is_same and size < tensor.numel() * tensor.element_size()


@usual
def stored_bytes(model: nn.Module, edits: Sequence[Edit]) -> int:
    """Return the bytes that the model's tensors take in a folder, encoded as the edits say.

    >>> from secateur.edits import Shared
    >>> model = nn.Linear(64, 64, bias=False)
    >>> edit = Shared((torch.tensor([-0.1, 0.1]),), {"weight": 0}, coder="packed")
    >>> stored_bytes(model, []), stored_bytes(edit.apply(model), [edit])
    (16464, 640)
    """
    tensors, _ = unshared(model.state_dict())
    records, numbered = encoded(tensors, edits), dict[str, Tensor]()
    parted(records, numbered)
    plain = {name: tensor for name, tensor in tensors.items() if name not in records}
    return sum(len(dump_tensors(part)) for part in (plain, numbered) if part)


@dataclass(frozen=True, eq=False)
class StateOnDisk:
    """A state dict of which some tensors are encoded; those are decoded when they are asked for.

    Attributes:
        plain: the tensors that are as they are.
        records: the others, as `parted` left what their codecs made.
        numbered: the tensors of those.
        shared: the names of tensors that are another one, with that one's name.
    """

    plain: Mapping[str, Tensor]
    records: Mapping[str, Any]
    numbered: Mapping[str, Tensor]
    shared: Mapping[str, str]
    _decoded: dict[str, Tensor] = field(default_factory=dict)

    def tensor(self, name: str, model: nn.Module) -> Tensor:
        """Return a tensor for a model, whose shape an encoded one must have before it is decoded.

        Raises:
            FileError: it has another shape, or is damaged.
        """
        if name in self.plain:
            return self.plain[name]
        if name not in self._decoded:
            self._decoded[name] = self._decode(name, model.state_dict()[name])
        return self._decoded[name]

    def _decode(self, name: str, like: Tensor) -> Tensor:
        record = joined(self.records[name], self.numbered)
        if record["shape"] != list(like.shape):
            raise FileError(f"{name!r} is stored with the shape {record['shape']}; the model's is {tuple(like.shape)}")
        try:
            return decode_tensor(record)
        except FileError as error:
            raise FileError(f"{name!r}: {error}") from error

    def whole(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the state dict for a model."""
        state = {**self.plain, **{name: self.tensor(name, model) for name in self.records}}
        return {**state, **{name: state[other] for name, other in self.shared.items()}}
