"""The weights of a model in one file."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

from secateur.calls import usual
from secateur.files import check_regular, from_json, read_tensors, write_bytes
from secateur.state import digest
from secateur.state_dicts import fill
from secateur.types import FileError, InputError
from secateur.wrappers import check_module

__all__ = ["load_weights", "save_weights", "unshared"]

FORMAT = "secateur-weights-1"


@usual
def save_weights(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Write the state dict of `model` to one safetensors file, with a checksum; it appears whole or not at all.

    Raises:
        InputError: the state dict holds what is no tensor.
        FileError: the file cannot be written.

    >>> import tempfile
    >>> model = nn.Linear(2, 1)
    >>> save_weights(Path(tempfile.mkdtemp()) / "linear.safetensors", model)
    """
    check_module(model, "save_weights")
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"save_weights: {name!r} in the state dict is a {type(value).__name__}, and a safetensors file holds "
                "tensors only: keep it in a buffer"
            )
    tensors, shared = unshared(state)
    write_bytes(Path(path), dump_tensors(tensors, _header(tensors, json.dumps(shared))))


@usual
def load_weights(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Load a state dict from a safetensors file, or from one that `torch.save` wrote, into `model`.

    The checksum of a file that `save_weights` wrote is verified; files from elsewhere have none. A ``torch.save`` file is
    read as tensors and plain containers, so that no code in it runs. Numbers are never rounded: float16 and bfloat16
    go into a float32 model, float32 into a float64 one, exactly; the other way is refused, as are tensors of another
    kind (bool, integers) and parameters that are not finite.

    Raises:
        FileError: the file is missing or damaged, or does not fit the model, which is then left as it was.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "linear.safetensors"
    >>> trained, other = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> save_weights(path, trained)
    >>> load_weights(path, other)
    >>> torch.equal(other.weight, trained.weight)
    True
    """
    check_module(model, "load_weights")
    source = Path(path)
    try:
        state = _read_safetensors(source) if _is_safetensors(source) else _read_pickle(source)
    except FileNotFoundError:
        raise FileError(f"{source}: not found; give a file of weights") from None
    except OSError as error:
        raise FileError(f"{source}: cannot be read ({error}); give a file of weights") from error
    fill(model, state, source)


def _header(tensors: Mapping[str, Tensor], shared: str) -> dict[str, str]:
    """What stands beside the tensors in the file; the seal covers all of it."""
    seal = digest(sorted(tensors.items()), FORMAT + shared)
    # One entry, as safetensors writes several in any order, and the same weights should make the same file.
    return {FORMAT: json.dumps({"shared": shared, "seal": seal})}


def _is_safetensors(source: Path) -> bool:
    check_regular(source)
    with source.open("rb") as file:
        return source.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _read_safetensors(source: Path) -> dict[str, Tensor]:
    try:
        header, tensors = read_tensors(source)
    except ValueError as error:
        raise FileError(f"{source}: cannot be read as weights: {error}; write it again") from error
    if FORMAT not in header:
        # From elsewhere, or from an older version, which kept shared names without a seal.
        return {name: tensors[other] for name, other in header.items() if other in tensors} | tensors
    shared = _shared(header[FORMAT])
    if shared is None or header != _header(tensors, shared):
        raise FileError(f"{source}: was damaged or changed after it was written (its checksum differs); write it again")
    return tensors | {name: tensors[other] for name, other in from_json(shared).items()}


def _shared(entry: str) -> str | None:
    """The names that are other tensors', as JSON; None where the entry is damaged."""
    try:
        shared = from_json(entry)["shared"]
        return shared if isinstance(shared, str) else None
    except (ValueError, LookupError, TypeError):
        return None


def _read_pickle(source: Path) -> Any:
    try:
        _check_swelling(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(source, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  (torch raises many kinds)
        # Torch's own message tells how to load it all the same, with whatever code stands in it.
        reason = (
            "holds more than tensors and plain containers"
            if _is_refusal(error) and _is_of_torch(source)
            else "is damaged, or of another kind"
        )
        raise FileError(
            f"{source}: cannot be read as weights: it {reason}; where the model is at hand, save its tensors alone, with "
            "secateur.saving.save_weights(FILE, model) or torch.save(model.state_dict(), FILE)"
        ) from None


def _check_swelling(source: Path) -> None:
    """Refuse an archive with compressed parts: torch stores them as they are, and a few kilobytes can swell to terabytes.

    Raises:
        ValueError: it is one.
    """
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("it is compressed")


def _is_of_torch(source: Path) -> bool:
    """Whether a file begins as an archive or a pickle does, which `torch.save` writes."""
    with source.open("rb") as file:
        return file.read(1) in (b"P", b"\x80")


def _is_refusal(error: Exception) -> bool:
    return any(word in str(error) for word in ("Unsupported", "TorchScript"))


def unshared(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors to store, and the names of those that are another one."""
    first: dict[tuple[object, ...], str] = {}
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and key in first:
            shared[name] = first[key]
        else:
            first[key] = name
            tensors[name] = tensor.detach().cpu().clone().contiguous()
    return tensors, shared
