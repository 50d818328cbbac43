"""The weights of a model in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

from secateur.files import write_bytes
from secateur.state import check_module, usual
from secateur.types import FileError

__all__ = ["load_weights", "save_weights", "unshared"]


@usual
def save_weights(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Write the state dict of `model` to one safetensors file; it appears whole or not at all.

    Raises:
        FileError: the file cannot be written.

    >>> import tempfile
    >>> model = nn.Linear(2, 1)
    >>> save_weights(Path(tempfile.mkdtemp()) / "linear.safetensors", model)
    """
    check_module(model, "save_weights")
    tensors, shared = unshared(model.state_dict())
    write_bytes(Path(path), dump_tensors(tensors, metadata=shared or None))


@usual
def load_weights(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Load a state dict from a safetensors file, or from one that `torch.save` wrote, into `model`.

    A ``torch.save`` file is read with ``weights_only=True``: tensors and plain containers, no code.

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
        if source.suffix == ".safetensors":
            with safe_open(source, framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
                state |= {name: state[other] for name, other in (file.metadata() or {}).items() if other in state}
        else:
            state = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileError(f"{source}: not found; give a file of weights") from None
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise FileError(f"{source}: cannot be read as weights ({first}); give a safetensors file") from error
    _fit_state(source, model, state)


def _fit_state(source: Path, model: nn.Module, state: Any) -> None:
    own = model.state_dict()
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise FileError(f"{source}: holds no state dict (names and tensors); save model.state_dict()")
    wrong = [n for n in own if n not in state or state[n].shape != own[n].shape] + [n for n in state if n not in own]
    if wrong:
        raise FileError(
            f"{source}: does not fit this {type(model).__name__} ({len(wrong)} tensors are missing, spare or of another "
            f"shape, the first {wrong[0]!r}); pass the same architecture and options"
        )
    model.load_state_dict(dict(state))


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
