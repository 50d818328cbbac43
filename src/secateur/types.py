"""The few value types that every room shares, and the errors.

Words used everywhere: ``sparsity`` is the fraction removed, in [0, 1]; ``density`` is ``1 - sparsity``;
a mask's ``True`` means *keep*; a high score means *keep*; MACs are multiply-accumulates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "OUTPUT",
    "Batches",
    "Criterion",
    "CutError",
    "DataError",
    "ExampleInputs",
    "ExportError",
    "FileError",
    "InputError",
    "Keep",
    "Loss",
    "Member",
    "MissingLibraryError",
    "Role",
    "RoundTo",
    "Scores",
    "SecateurError",
    "Site",
    "Sites",
    "TraceError",
    "UnknownNameError",
    "VerificationError",
    "brief",
    "clear_at",
    "layer_of",
    "unknown_name",
    "with_changes",
]


class SecateurError(Exception):
    """The base of every error that secateur raises on purpose; the message names the thing and the remedy."""


class InputError(SecateurError, ValueError):
    """An argument is out of range, of the wrong shape, empty, or holds values that are not finite."""


class UnknownNameError(SecateurError, LookupError):
    """A name (of a model, data set, criterion, study, site, …) that is not known."""


class DataError(SecateurError):
    """A data set is missing, incomplete, or not what its checksum says."""


class TraceError(SecateurError):
    """The model cannot be traced into a graph."""


class CutError(SecateurError):
    """A cut cannot be made; the model that was passed in is untouched."""


class VerificationError(CutError):
    """The cut model did not compute what the masked one does, so it was not returned."""


class ExportError(SecateurError):
    """The model cannot be written for a runtime, or does not compute there what it computes in torch."""


class MissingLibraryError(SecateurError, ImportError):
    """A library that only this feature needs is not installed; the message names the extra that brings it."""


class FileError(SecateurError):
    """A file is missing, truncated, tampered with, or not one of ours."""


class CheckpointError(FileError):
    """A checkpoint is there that no training can go on from: it is damaged, or belongs to another training."""


def brief(value: object) -> str:
    """Return a value as an error names it: itself where it is short, else its type.

    >>> brief(0.5), brief(list(range(100)))
    ('0.5', '<list>')
    """
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"<{type(value).__name__}>"


def unknown_name(kind: str, name: object, known_names: Iterable[str]) -> UnknownNameError:
    """Return the error for an unknown `name`, with the nearest known one and the whole list.

    >>> print(unknown_name("criterion", "l22", ["l1", "l2"]))
    unknown criterion 'l22'; did you mean 'l2'? Known: l1, l2
    """
    from difflib import get_close_matches

    names = sorted(known_names)
    wrong = name if isinstance(name, str) else brief(name)
    near = get_close_matches(wrong, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return UnknownNameError(f"unknown {kind} {wrong!r}{hint} Known: {', '.join(names) or 'none'}")


Options = TypeVar("Options", bound="DataclassInstance")


def with_changes(options: Options, changes: Mapping[str, Any], kind: str) -> Options:
    """Return a frozen value of options with some of them changed by name.

    Raises:
        UnknownNameError: there is no such option; `kind` says of what.

    >>> print(with_changes(Member("weight", (2,)), {"dim": 1}, "member").dim)
    1
    """
    names = [option.name for option in fields(options)]
    for name in changes:
        if name not in names:
            raise unknown_name(kind, name, names)
    return replace(options, **changes)


def option_words(text: str, metavar: str | None = None) -> dict[str, str | None]:
    """Return the metadata of a field of options: what the command line shows for it.

    >>> option_words("Units that stay.", "COUNT")
    {'help': 'Units that stay.', 'metavar': 'COUNT'}
    """
    return {"help": text, "metavar": metavar}


def changed_options(options: Any) -> str:
    """Return the options of a dataclass that are not as they are without a word, and that a line can hold.

    >>> changed_options(Member("weight", (2,), 1))
    "Member(parameter='weight', shape=(2,), dim=1)"
    """
    changed = [o for o in fields(options) if o.repr and getattr(options, o.name) != o.default]
    return f"{type(options).__name__}({', '.join(f'{o.name}={brief(getattr(options, o.name))}' for o in changed)})"


MOST_NAMED = 4
"""How many names a text lists for one reason."""


def in_groups(reasons: Mapping[str, str]) -> str:
    """Return names with their reasons, by reason.

    >>> in_groups({"a": "ignored, as asked", "fc": "the model's output", "b": "ignored, as asked"})
    "a, b (ignored, as asked); fc (the model's output)"
    """
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(reason, []).append(name)
    return "; ".join(f"{some_of(names)} ({reason})" for reason, names in groups.items())


def some_of(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are.

    >>> some_of(["a", "b", "c", "d", "e"])
    'a, b, c, d and 1 more'
    """
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


Role = Literal["out", "in", "scale"]
"""What a parameter's dimension is to a site: it produces the units, consumes them, or scales and shifts them."""


def layer_of(parameter: str) -> str:
    """Return the path of the module that has a parameter; of a parametrized one, that whose weight is made of it.

    >>> layer_of("fc.weight"), layer_of("fc.parametrizations.weight.original0")
    ('fc', 'fc')
    """
    path = parameter.rpartition(".")[0]
    return f".{path}".partition(".parametrizations")[0].lstrip(".")


@dataclass(frozen=True, eq=False)
class Member:
    """The part that one parameter has in a site.

    Attributes:
        parameter: the parameter's name in the model.
        shape: the parameter's shape.
        dim: the dimension along which the units lie; None when every entry is a unit of its own.
        index: positions along `dim`, one row for each unit, int64 ``(units, positions)``; None with `dim`.
        role: whether this dimension produces the units, consumes them, or scales them.
        unit: the number of the unit that owns the whole parameter; None where units share it.
        masked: whether removed units are zeros here when they are masked; where not, another tensor makes them so, as
            the length of a weight whose direction cannot be zero.
    """

    parameter: str
    shape: tuple[int, ...]
    dim: int | None = None
    index: Tensor | None = None
    role: Role = "out"
    unit: int | None = None
    masked: bool = True

    @property
    def layer(self) -> str:
        """The path of the module that has the parameter."""
        return layer_of(self.parameter)

    def removed(self, keep_mask: Tensor) -> tuple[int | None, Tensor]:
        """Return what of the parameter belongs to units that are not kept: positions along a dimension, or a mask of entries.

        >>> Member("a.bias", (3,), 0, torch.tensor([[0], [1], [2]])).removed(torch.tensor([True, False, True]))
        (0, tensor([1]))
        """
        if not self.masked:
            return None, torch.tensor(False)
        if self.unit is not None:
            return None, ~keep_mask[self.unit]
        if self.dim is None:
            return None, ~keep_mask
        assert self.index is not None
        return self.dim, self.index[~keep_mask.to(self.index.device)].flatten()

    def clear(self, tensor: Tensor, keep_mask: Tensor) -> None:
        """Write zeros (False in a mask) into `tensor`, of the parameter's shape, where units are not kept."""
        clear_at(tensor, *self.removed(keep_mask))


def clear_at(tensor: Tensor, dim: int | None, where: Tensor) -> None:
    """Write zeros into `tensor` at positions along a dimension, or where a mask says."""
    where = where.to(tensor.device)
    if dim is None:
        tensor.masked_fill_(where, 0)
    else:
        tensor.index_fill_(dim, where, 0)


@dataclass(frozen=True, eq=False)
class Site:
    """A set of units that can be removed one by one: the filters of a layer, or the entries of a weight.

    Attributes:
        name: the name a person would use: the producing layer (``conv1``), or the parameter (``fc1.weight``).
        kind: ``"channel"`` for units that can be cut out, ``"block"`` for whole blocks, ``"weight"`` for single entries.
        shape: the shape of this site's scores and masks: ``(units,)``, or the parameter's own shape.
        members: what is tied together: every parameter dimension that shrinks when a unit goes.
        unit: what a unit is, in the field's words: filter, neuron, head, head dimension, embedding, group, …
        multiple: of how many units it keeps a multiple, as an op that runs on them takes no other number.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    members: tuple[Member, ...]
    unit: str = "channel"
    multiple: int = 1

    @property
    def size(self) -> int:
        """How many units the site has."""
        return prod(self.shape)


FOLDING = (
    ". Where a parametrization is in the way, let it make a plain weight first: prune(..., fold=True), or "
    "secateur.structure.folded(model)"
)

OUTPUT = "the model's output"
"""Why a layer stays whole whose units leave the model."""

RETURNING_LESS = (
    ". Where the model returns what layers inside answer, wrap it in a module that returns only what is needed"
)


@dataclass(frozen=True, eq=False, repr=False)
class Sites(Mapping[str, Site]):
    """The sites of a model, by name and in the order of the forward pass.

    Attributes:
        table: the sites.
        frozen: what cannot be pruned, with the reason.
        structure: what `secateur.cut` needs to know about the model; None for unstructured sites.
    """

    table: Mapping[str, Site]
    frozen: Mapping[str, str] = field(default_factory=dict)
    structure: Any = None

    @classmethod
    def of_masks(cls, keep: Keep, kind: str, unit: str) -> Sites:
        """Return sites of the masks' shapes, for what was removed in another way than by `secateur.cut`.

        >>> import torch
        >>> Sites.of_masks({"layers": torch.tensor([True, False])}, "block", "block")["layers"].size
        2
        """
        return cls({name: Site(name, kind, tuple(mask.shape), (), unit) for name, mask in keep.items()})

    def __getitem__(self, name: str) -> Site:
        try:
            return self.table[name]
        except KeyError:
            raise unknown_name("site", name, self.table) from None

    def __contains__(self, name: object) -> bool:
        return name in self.table

    def why_whole(self) -> str:
        """Return what stayed whole, and why, in words.

        >>> Sites({}, {"fc": "the model's output"}).why_whole()
        "fc (the model's output)"
        >>> Sites({}, {"stem": "the model's output", "fc": "the model's output"}).why_whole()
        "stem, fc (the model's output). Where the model returns what layers inside answer, wrap it in a module that returns..."
        """
        reasons = in_groups(self.frozen) or "the model has no layer whose units could go"
        returned = list(self.frozen.values()).count(OUTPUT)
        return reasons + (FOLDING if ".parametrizations." in reasons else "") + (RETURNING_LESS if returned > 1 else "")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {site.size}" for name, site in self.table.items())
        return f"Sites({{{sizes}}}; {len(self.frozen)} layers left whole)"

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def check_any(self, doing: str) -> None:
        """Refuse a model of which nothing can be removed, with the reasons.

        >>> Sites({}, {"fc": "the model's output"}).check_any("budget")
        Traceback (most recent call last):
        ...
        secateur.types.InputError: budget: nothing of this model can be removed (sites.frozen): fc (the model's output)
        """
        if not self.table:
            raise InputError(f"{doing}: nothing of this model can be removed (sites.frozen): {self.why_whole()}")


Scores = Mapping[str, Tensor]
"""One tensor of scores a site, of the site's shape; high means keep."""

Keep = Mapping[str, Tensor]
"""One bool tensor a site, of the site's shape; True means keep."""

Loss = Callable[[Any, Any], Tensor]
"""A loss of (outputs, targets) that returns a scalar, the mean over the batch: tensors, or what a model of several
outputs returns and what the data hold."""

Metric = Callable[[Any, Any], float]
"""How good a model is: of (outputs, targets), all samples together; high = good."""

RoundTo = int | Mapping[str, int]
"""Of how many units every site keeps a multiple: one number, or one by site (1 for those not named)."""

ExampleInputs = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""What a model is called with: a tensor, a tuple of positional inputs, or a mapping of keyword inputs."""

Batches = Iterable[tuple[Tensor, Tensor]]
"""Batches of (inputs, targets) that can be iterated more than once."""


class Criterion(Protocol):
    """What scores: a frozen dataclass that is called with ``(model, sites)`` and changes nothing."""

    def __call__(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return one score tensor a site, of the site's shape; high means keep."""
        ...
