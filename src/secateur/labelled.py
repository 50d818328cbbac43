"""Labelled data, in memory (shuffled here) or in batches that someone else makes, and what outputs must be beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from torch import Generator, Tensor

from secateur.calls import check_usable
from secateur.deadline import check_time
from secateur.state import all_finite, ordinary
from secateur.trees import changed, numbers_within
from secateur.types import InputError

__all__ = [
    "Data",
    "Labelled",
    "SampleBatch",
    "Samples",
    "Streamed",
    "are_classes",
    "batches",
    "check_data",
    "check_labels",
    "check_no_nan",
    "check_outputs",
    "check_rows",
    "check_samples",
    "count_batches",
    "logits_of",
    "spans",
    "together",
    "unlabelled",
]


class Labelled(Protocol):
    """Data in memory, such as `secateur.data.Split`: images ``(N, …)`` and labels ``(N,)``."""

    @property
    def images(self) -> Tensor:
        """The inputs."""
        ...

    @property
    def labels(self) -> Tensor:
        """The targets."""
        ...


class Streamed(Protocol):
    """Samples that are read as they are needed, such as `secateur.data.Stream`, in batches of whatever size is asked for."""

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def one_pass(self, size: int, order: Generator | None = None) -> Iterator[Any]:
        """Yield the batches of `spans`, each as `SampleBatch.of` takes it: shuffled, and perhaps augmented, by `order`."""
        ...


TARGETS = "labels"
"""The entry of a mapping that holds the targets, as Hugging Face's collators name it."""


@dataclass(eq=False, slots=True)
class SampleBatch:
    """Samples as a model takes them, with their targets.

    Attributes:
        inputs: a tensor; or several, in a tuple by position or in a mapping by name.
        targets: a tensor; or several, in a tuple or a mapping; None where there are none.
    """

    inputs: Any
    targets: Any = None

    @classmethod
    def of(cls, value: object) -> SampleBatch | None:
        """Return what a data loader yields as a batch; None for what is none.

        These are: a tensor or ``(inputs,)``, without targets; ``(inputs, targets)``, each of one or several tensors;
        ``(x1, x2, …, targets)`` of tensors alone; a mapping of keyword inputs with the targets under ``"labels"``; and
        what has `images` and `labels`.

        >>> x, y = torch.zeros(4, 2), torch.zeros(4)
        >>> [type(SampleBatch.of(value).inputs).__name__ for value in (x, (x, y), (x, x, y), {"ids": x, "labels": y})]
        ['Tensor', 'Tensor', 'tuple', 'dict']
        >>> SampleBatch.of({"ids": x}).targets, SampleBatch.of([x]).targets, SampleBatch.of("text")
        (None, None, None)
        """
        if isinstance(value, SampleBatch):
            return value
        if isinstance(value, Tensor):
            parts: tuple[Any, ...] = (value,)
        elif isinstance(value, Mapping):
            inputs = {str(name): part for name, part in value.items() if name != TARGETS}
            parts = (inputs, value.get(TARGETS))
        elif isinstance(value, tuple | list):
            flat = len(value) > 2 and all(isinstance(part, Tensor) for part in value)
            parts = (tuple(value[:-1]), value[-1]) if flat else tuple(value)
        else:
            parts = (getattr(value, "images", None), getattr(value, "labels", None))
        if len(parts) not in (1, 2) or not _is_tensors(parts[0]):
            return None
        if len(parts) == 2 and parts[1] is not None and not _is_tensors(parts[1]):
            return None
        inputs, *targets = parts
        return cls(_mapped(inputs, ordinary), *(_mapped(part, _as_targets) for part in targets))

    def __len__(self) -> int:
        if isinstance(self.inputs, Tensor) and self.inputs.ndim:
            return len(self.inputs)
        return next((len(tensor) for _, tensor in self.named() if tensor.ndim), 0)

    def named(self) -> list[tuple[str, Tensor]]:
        """Return every tensor with a name: ``x`` of the inputs, ``y`` of the targets, ``x.1`` or ``x.ids`` of several."""
        return [*_named("x", self.inputs), *_named("y", self.targets)]

    def to(self, device: torch.device) -> SampleBatch:
        """Return the batch on a device."""
        return self.changed(lambda tensor: tensor.to(device))

    def without_targets(self) -> SampleBatch:
        """Return the inputs alone."""
        return SampleBatch(self.inputs)

    def rows(self, rows: slice | Tensor) -> SampleBatch:
        """Return some of the samples."""
        return self.changed(lambda tensor: tensor[rows])

    def split(self, size: int) -> list[SampleBatch]:
        """Return the samples in parts of `size`, the last of what is left."""
        return [self.rows(slice(start, start + size)) for start in range(0, len(self), size)]

    def changed(self, change: Callable[[Tensor], Tensor]) -> SampleBatch:
        """Return the samples with each of their tensors changed."""
        return SampleBatch(_mapped(self.inputs, change), _mapped(self.targets, change))

    def run(self, model: Callable[..., Any]) -> Any:
        """Return what the model answers to copies, as it may write into what it is given.

        >>> SampleBatch((torch.ones(2, 1), torch.ones(2, 3))).run(torch.nn.Bilinear(1, 3, 4)).shape
        torch.Size([2, 4])
        """
        inputs = changed(self.inputs, Tensor.clone)
        if isinstance(inputs, Tensor):
            return model(inputs)
        return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def _as_targets(tensor: Tensor) -> Tensor:
    """Return targets as torch's losses take them: class labels of any whole numbers, or of yes and no, as int64.

    >>> _as_targets(torch.tensor([0, 2], dtype=torch.uint8)), _as_targets(torch.tensor([True, False]))
    (tensor([0, 2]), tensor([1, 0]))
    """
    numbers = tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized
    # Many answers a sample, each yes or no, are no labels.
    if numbers or tensor.dtype is torch.int64 or (tensor.dtype is torch.bool and tensor.ndim != 1):
        return ordinary(tensor)
    return ordinary(tensor).long()


Samples = Labelled | Streamed | Tensor | Mapping[str, Any] | tuple[Any, Any] | Iterable[Any] | SampleBatch
"""What `SampleBatch.of` takes, in memory, as a `Split` or a pair (inputs, targets), or in batches that can be iterated again:
samples of one tensor of inputs or several, and of one of targets, several or none."""

Data = Samples
"""`Samples` with targets."""


def _is_tensors(part: object) -> bool:
    """Whether it is a tensor, or a tuple, list or mapping that holds one, and else plain values."""
    if isinstance(part, tuple | list | Mapping):
        values = list(part.values() if isinstance(part, Mapping) else part)
        nested = any(isinstance(value, tuple | list | Mapping) for value in values)
        return not nested and any(isinstance(value, Tensor) for value in values)
    return isinstance(part, Tensor)


def _mapped(part: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same with each tensor changed."""
    if isinstance(part, Tensor):
        return change(part)
    if isinstance(part, Mapping):
        values = {name: _mapped(value, change) for name, value in part.items()}
        if not isinstance(part, dict) or type(part) is dict:
            return values
        same_kind = copy(part)  # one whose entries code reads as attributes, say
        same_kind.update(values)
        return same_kind
    if not isinstance(part, tuple | list):
        return part
    entries = [_mapped(value, change) for value in part]
    return type(part)(*entries) if hasattr(part, "_fields") else type(part)(entries)


def _named(name: str, part: Any) -> list[tuple[str, Tensor]]:
    if isinstance(part, Tensor):
        return [(name, part)]
    if not isinstance(part, Mapping):
        part = dict(enumerate(part or ()))
    return [(f"{name}.{key}", value) for key, value in part.items() if isinstance(value, Tensor)]


def together(data: object) -> SampleBatch | None:
    """Return data that are in memory as one batch; None for batches that someone else makes.

    Of two in a tuple or list one must be a tensor, or the second None; otherwise they are two batches.

    >>> x, y = torch.zeros(4, 2), torch.zeros(4)
    >>> [together(data) is not None for data in ((x, y), ((x, x), y), {"ids": x}, x, [(x, y), (x, y)], [(x, y)])]
    [True, True, True, True, False, False]
    """
    if isinstance(data, tuple | list):
        single = [isinstance(part, Tensor) for part in data]
        if len(data) != 2 or not (any(single) or data[1] is None):
            return None
    return SampleBatch.of(data)


@dataclass(frozen=True, eq=False)
class _Unlabelled:
    """Batches without their targets."""

    data: Samples

    def __iter__(self) -> Iterator[SampleBatch]:
        return (batch.without_targets() for batch in batches(self.data, 1, "data"))

    def __len__(self) -> int:
        return count_batches(self.data, 1)


@dataclass(frozen=True, eq=False)
class _UnlabelledStream:
    """A stream without its targets."""

    data: Streamed

    def one_pass(self, size: int, order: Generator | None = None) -> Iterator[SampleBatch]:
        return (batch.without_targets() for batch in batches(self.data, size, "data", order))

    def __len__(self) -> int:
        return len(self.data)


def _is_streamed(data: object) -> TypeGuard[Streamed]:
    return hasattr(data, "one_pass")


def unlabelled(data: Samples) -> Samples:
    """Return the same samples without their targets.

    >>> [batch.targets for batch in batches(unlabelled((torch.zeros(2, 1), torch.zeros(2))), 2, "data")]
    [None]
    """
    if _is_streamed(data):
        return _UnlabelledStream(data)
    whole = together(data)
    return _Unlabelled(data) if whole is None else whole.without_targets()


def check_samples(data: object, subject: str) -> None:
    """Refuse data that are no samples, are empty, of unequal lengths, not finite, or gone after one pass.

    Batches are looked at one by one as they come (see `batches`).
    """
    batch = together(data)
    if batch is not None:
        _check_batch(batch, subject)
    elif problem := _foreign(data):
        raise InputError(f"{subject}: {problem}")
    elif not hasattr(data, "__iter__") and not _is_streamed(data):
        raise InputError(
            f"{subject}: got a {type(data).__name__}; give a Split, a pair (inputs, targets), or batches of such pairs"
        )
    elif isinstance(data, Iterator):
        raise InputError(f"{subject}: got an iterator, which is empty after one pass; give a list of batches")
    elif isinstance(data, Sized) and len(data) == 0:
        raise InputError(f"{subject}: there are no batches; give at least one")


def check_data(owner: object) -> None:
    """Refuse what `check_samples` does in an object's ``data`` and ``validation``, where it has them."""
    for name in ("data", "validation"):
        data = getattr(owner, name, None)
        if data is not None:
            check_samples(data, f"{type(owner).__name__}: {name}")


def _foreign(data: object) -> str:
    """What data, or a batch, hold in place of tensors, with the remedy; empty where nothing is seen.

    >>> _foreign((torch.zeros(2, 1), ["cat", "dog"]))
    'the targets are text; number the classes, as in torch.tensor([classes.index(label) for label in labels])'
    """
    if isinstance(data, np.ndarray):
        return _in_place_of_tensor("data", data)
    if isinstance(data, Mapping):
        named = [("targets" if name == TARGETS else f"inputs {name!r}", part) for name, part in data.items()]
    elif isinstance(data, tuple | list):
        paired = len(data) == 2 and any(isinstance(part, Tensor | np.ndarray) for part in data)
        named = list(zip(("inputs", "targets") if paired else ["inputs"] * len(data), data, strict=True))
    else:
        named = [("inputs", getattr(data, "images", None)), ("targets", getattr(data, "labels", None))]
    return next((words for name, part in named if (words := _in_place_of_tensor(name, part))), "")


def _in_place_of_tensor(name: str, part: object) -> str:
    if isinstance(part, np.ndarray):
        if part.dtype.kind in "biuf":
            return f"the {name} are a numpy array; make it a tensor, as by torch.from_numpy(array)"
        text = part.dtype.kind in "USO"
    else:
        if not isinstance(part, list | tuple) or not part:
            return ""
        if not all(isinstance(value, str | int | float) for value in part):
            return ""
        text = isinstance(part[0], str)
    if text:
        return (
            f"the {name} are text; number the classes, as in torch.tensor([classes.index(label) for label in labels])"
        )
    return f"the {name} are a {type(part).__name__} of numbers; make it a tensor, as by torch.tensor(values)"


def _check_batch(batch: SampleBatch, subject: str) -> None:
    named = batch.named()
    for name, tensor in named:
        check_usable(tensor, subject, "inputs" if name.startswith("x") else "targets")
    if len({len(tensor) if tensor.ndim else None for _, tensor in named} | {len(batch)}) > 1:
        raise InputError(
            f"{subject}: inputs of shape {_shapes(batch.inputs)} and targets of shape {_shapes(batch.targets)} "
            "do not have one target for each input"
        )
    if len(batch) == 0:
        raise InputError(f"{subject}: there are no samples; give at least one")
    for name, tensor in named:
        if name.startswith("y") and tensor.is_complex():
            raise InputError(f"{subject}: the targets are {tensor.dtype}; give whole numbers for classes, or real ones")
        if not all_finite(tensor):
            which = "inputs" if name.startswith("x") else "targets"
            raise InputError(f"{subject}: the {which} hold NaN or infinite values; drop or repair those samples")


def _shapes(part: Any) -> Any:
    """The shape of a tensor, or of each of several."""
    return _mapped(part, lambda tensor: tuple(tensor.shape))


def spans(count: int, size: int) -> list[tuple[int, int]]:
    """Return the first and last-plus-one position of each batch.

    A last batch of one sample joins the batch before it: batch normalisation cannot train on one sample.

    >>> spans(7, 3), spans(8, 3)
    ([(0, 3), (3, 7)], [(0, 3), (3, 6), (6, 8)])
    """
    starts = list(range(0, count, size))
    if len(starts) > 1 and size > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


def count_batches(data: Samples, size: int) -> int:
    """Return how many batches one pass has."""
    whole = together(data)
    if whole is not None:
        return len(spans(len(whole), size))
    if _is_streamed(data):
        return len(spans(len(data), size))
    return len(data) if isinstance(data, Sized) else sum(1 for _ in batches(data, size, "batches"))


def batches(data: Samples, size: int, subject: str, order: Generator | None = None) -> Iterator[SampleBatch]:
    """Yield the batches of one pass: shuffled by `order` if it is given and the data are in memory or streamed.

    Raises:
        InputError: there is no batch, or one is none, is empty, or holds values that are not finite.
    """
    whole = together(data)
    if whole is None:
        source: Any = data.one_pass(size, order) if _is_streamed(data) else data
        for batch in _checked(source, subject):
            check_time()
            yield batch
        return
    device = whole.named()[0][1].device
    positions = None if order is None else torch.randperm(len(whole), generator=order).to(device)
    for start, stop in spans(len(whole), size):
        check_time()
        yield whole.rows(slice(start, stop) if positions is None else positions[start:stop])


def _checked(source: Iterable[object], subject: str) -> Iterator[SampleBatch]:
    number = 0
    for number, value in enumerate(source, 1):
        batch = SampleBatch.of(value)
        if batch is None:
            if problem := _foreign(value):
                raise InputError(f"{subject}, batch {number}: {problem}")
            raise InputError(f"{subject}: batch {number} is a {type(value).__name__}, not a pair (inputs, targets)")
        _check_batch(batch, f"{subject}, batch {number}")
        yield batch
    if number == 0:
        raise InputError(f"{subject}: there are no batches; give at least one")


def logits_of(outputs: Any) -> Any:
    """Return the logits of what names them, as the outputs of Hugging Face's models do; all else as it is.

    >>> logits_of({"loss": None, "logits": torch.zeros(1)})
    tensor([0.])
    """
    if isinstance(outputs, Tensor):  # asked first, as it is in every step of a training
        return outputs
    return outputs["logits"] if isinstance(outputs, Mapping) and "logits" in outputs else outputs


def are_classes(outputs: Any, targets: Any) -> bool:
    """Return whether the targets are class labels ``(N,)`` for outputs ``(N, classes)``; one column tells no classes.

    >>> [are_classes(torch.zeros(2, columns), torch.tensor([0, 1])) for columns in (1, 2)]
    [False, True]
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return False
    return outputs.ndim == 2 and outputs.shape[1] > 1 and targets.ndim == 1 and not targets.is_floating_point()


def check_outputs(outputs: Any, targets: Tensor, subject: str) -> None:
    """Refuse outputs that are not one tensor with a row for each target, or that hold NaN."""
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"{subject}: the model returned a {type(outputs).__name__}, not one tensor; wrap it in a module that does"
        )
    check_rows(outputs, len(targets), subject)
    if are_classes(outputs, targets):
        check_labels(targets, outputs.shape[1], subject)


def check_rows(outputs: Any, count: int, subject: str) -> None:
    """Refuse one tensor that has not `count` rows, and outputs that hold NaN."""
    if isinstance(outputs, Tensor) and (outputs.ndim == 0 or len(outputs) != count):
        raise InputError(
            f"{subject}: outputs of shape {tuple(outputs.shape)} do not have one row for each of {count} targets"
        )
    check_no_nan(outputs, subject)


def check_no_nan(outputs: Any, subject: str) -> None:
    """Refuse outputs that hold NaN, in containers and objects of any kind."""
    if any(bool(tensor.isnan().any()) for tensor in numbers_within(outputs)):
        raise InputError(f"{subject}: the model's outputs hold NaN; look for NaN in its weights")


def check_labels(labels: Tensor, classes: int, subject: str) -> None:
    """Refuse labels that are not in 0 … classes − 1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"{subject}: label {low if low < 0 else high} is out of range for a model of {classes} outputs; "
            f"labels must be in 0 … {classes - 1}"
        )
