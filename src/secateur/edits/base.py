"""What an edit is: one thing that was done to a model, written down so that it can be done again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import nn

from secateur.coding import Codec
from secateur.hints import Checked

__all__ = ["Edit"]


class Edit(Checked, ABC):
    """One thing that was done to a model: plain data, which does it again to any model of that architecture.

    A new way to make a model smaller is a subclass in a file of its own, with its `kind` in `EDITS`.

    Attributes:
        kind: its name in a saved folder.
    """

    kind: ClassVar[str]

    @abstractmethod
    def apply(self, model: nn.Module) -> nn.Module:
        """Return a copy of `model` with the edit done; what its parameters hold does not matter, and may be anything.

        Raises:
            FileError: the edit does not fit this model.
        """

    def codecs(self) -> Mapping[str, Codec]:
        """Return how tensors of the smaller model are stored, by their names; those that are not named are as they are.

        A codec is without loss: it stores what a tensor holds when it is saved, or leaves it as it is where it cannot,
        as after a training that none of its values outlived.
        """
        return {}

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the edit as mappings, lists, plain values and tensors."""

    @classmethod
    @abstractmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the edit that `to_dict` described.

        Raises:
            FileError, LookupError, TypeError, ValueError: `record` is no such description.
        """
