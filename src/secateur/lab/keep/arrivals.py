"""Tensors that a worker has left in the store's folder, so that they need not travel through the driver."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor

from secateur.files import write_bytes
from secateur.lab.keep import paths
from secateur.types import FileError

__all__ = ["Arrival"]


class Arrival(Mapping[str, Tensor]):
    """The tensors of a finished cell in a file: read only where somebody looks at them.

    Args:
        path: a safetensors file.
        checksum: its SHA-256, from whoever wrote it.

    >>> import tempfile
    >>> from safetensors.torch import save
    >>> import torch
    >>> arrival = Arrival.leave(Path(tempfile.mkdtemp()), "a" * 16, save({"w": torch.ones(2)}))
    >>> dict(arrival), len(arrival)
    ({'w': tensor([1., 1.])}, 1)
    """

    def __init__(self, path: Path, checksum: str) -> None:
        self.path, self.checksum = path, checksum

    @classmethod
    def leave(cls, folder: Path, identity: str, data: bytes) -> Arrival:
        """Write the bytes of a safetensors file for the driver of this store's folder.

        Raises:
            FileError: the folder cannot be written.
        """
        path = paths.arrival_file(folder, identity)
        write_bytes(path, data)
        return cls(path, hashlib.sha256(data).hexdigest())

    def move(self, path: Path) -> str:
        """Put the file there, unread; return its checksum, which whoever reads it compares.

        Raises:
            FileError: it is gone, or the disk refuses.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.path.replace(path)
        except OSError as error:
            raise FileError(f"cannot move {self.path} to {path}: {error}; run the study again") from error
        self.path = path
        return self.checksum

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(self.path)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
