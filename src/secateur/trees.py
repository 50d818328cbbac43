"""Values that hold tensors, whatever holds them: a tuple, a mapping, a dataclass, an object of one's own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from math import prod
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.types import InputError

__all__ = [
    "CLOSED",
    "Packing",
    "Rest",
    "TreeDef",
    "attributes",
    "changed",
    "copied_with",
    "joined",
    "leaves_within",
    "look_into",
    "numbers_within",
    "plain_values",
    "side_by_side",
    "tensors_within",
    "told_shape",
    "walk",
]

T = TypeVar("T")

CONTAINERS = (list, tuple, set, frozenset, deque)
CLOSED = (
    *(type(None), int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Generator),
    *(nn.Module, ModuleType, FunctionType, BuiltinFunctionType, MethodType),
)
DEPTH = 12


def tensors_within(value: Any) -> list[Tensor]:
    """Return the tensors in `value`, in order: in containers, and in the fields of objects.

    Modules, classes and functions are not looked into.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Features:
    ...     hidden: torch.Tensor
    >>> tensors_within((torch.ones(2), {"more": [Features(torch.zeros(1))]}))
    [tensor([1., 1.]), tensor([0.])]
    """
    return leaves_within(value, Tensor)


def leaves_within(value: Any, kind: type[T]) -> list[T]:
    """Return what of this type is in `value`, as `tensors_within` does."""
    return list(walk(value, set(), kind))


def told_shape(x: Tensor) -> tuple[int, ...]:
    """Return the shape of a tensor; of a nested one, which has none, the number of its dimensions.

    >>> told_shape(torch.zeros(2, 3))
    (2, 3)
    """
    return (-x.dim(),) if x.is_nested else tuple(x.shape)


def numbers_within(value: Any) -> list[Tensor]:
    """Return the tensors of real numbers in `value` that have samples, each once.

    >>> x = torch.zeros(2, 1)
    >>> len(numbers_within({"logits": x, "again": x, "seen": torch.zeros(2, dtype=torch.bool), "scale": torch.ones(())}))
    1
    """
    once = {id(tensor): tensor for tensor in tensors_within(value)}
    return [tensor for tensor in once.values() if tensor.is_floating_point() and tensor.ndim]


def side_by_side(value: Any) -> Tensor:
    """Return the numbers within `value` as one tensor: each sample's flattened, one tensor beside another.

    >>> side_by_side({"box": torch.zeros(2, 4), "maps": (torch.zeros(2, 3, 5),)}).shape
    torch.Size([2, 19])
    """
    return torch.cat([tensor.unsqueeze(-1).flatten(1) for tensor in numbers_within(value)], dim=1)


def walk(value: Any, visited_ids: set[int], kind: type[T], depth: int = DEPTH) -> Iterator[T]:
    """Yield what of this type is in `value`, and note the containers and objects that were looked into."""
    if isinstance(value, kind):
        yield value
    elif depth and not isinstance(value, CLOSED) and id(value) not in visited_ids:
        visited_ids.add(id(value))
        for part in _parts(value):
            yield from walk(part, visited_ids, kind, depth - 1)


def _parts(value: Any) -> Iterator[Any]:
    """What a container or an object holds."""
    if isinstance(value, Mapping):
        yield from list(value.values())
    elif isinstance(value, CONTAINERS):
        yield from list(value)
    yield from list(getattr(value, "__dict__", {}).values())
    for kind in type(value).__mro__:
        for name in _slots(kind):
            if hasattr(value, name):
                yield getattr(value, name)


def _slots(kind: type) -> Iterator[str]:
    slots = vars(kind).get("__slots__", ())
    for name in [slots] if isinstance(slots, str) else slots:
        private = name.startswith("__") and not name.endswith("__")
        yield f"_{kind.__name__.lstrip('_')}{name}" if private else name


def look_into(value: Any) -> None:
    """Let torch's trees look into the objects within `value` that hold tensors, such as a dataclass: their types become nodes.

    A type that torch's trees know stays as it is, and so does one that holds itself. What a node holds beside tensors goes
    with its form.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Batch:
    ...     pixels: torch.Tensor
    ...     name: str = "one"
    >>> look_into((batch := Batch(torch.ones(2)),))
    >>> pytree.tree_map(lambda tensor: tensor + 1, batch)
    Batch(pixels=tensor([2., 2.]), name='one')
    """
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, (Tensor, *CLOSED)) or not tensors_within(leaf):
            continue
        if not isinstance(leaf, (Mapping, *CONTAINERS)) and not _returns_to_itself(leaf, ()):
            pytree.register_pytree_node(
                type(leaf),
                _taken_apart,
                partial(_put_together, type(leaf)),
                serialized_type_name=f"{type(leaf).__module__}.{type(leaf).__qualname__}",
                flatten_with_keys_fn=_with_keys,
            )
            look_into(value)
            return


def _returns_to_itself(value: Any, above: tuple[int, ...]) -> bool:
    """Whether what a value holds leads back to it."""
    if isinstance(value, (Tensor, *CLOSED)):
        return False
    if id(value) in above or len(above) > DEPTH:
        return True
    return any(_returns_to_itself(part, (*above, id(value))) for part in _parts(value))


class Rest(dict[str, Any]):
    """What an object holds beside tensors, by attribute; two are alike that have it in the same attributes."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rest) and self.keys() == other.keys()

    __hash__ = None


def attributes(value: Any) -> dict[str, Any]:
    """Return what an object holds, by name, in slots too.

    >>> from fractions import Fraction
    >>> attributes(Fraction(1, 2))
    {'_numerator': 1, '_denominator': 2}
    """
    slots = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
    return {**{name: getattr(value, name) for name in slots}, **getattr(value, "__dict__", {})}


def _taken_apart(value: Any) -> tuple[list[Any], tuple[tuple[str, ...], Rest]]:
    by_name = attributes(value)
    names = tuple(name for name, held in by_name.items() if tensors_within(held))
    rest = Rest({name: held for name, held in by_name.items() if name not in names})
    return [by_name[name] for name in names], (names, rest)


def _with_keys(value: Any) -> tuple[list[tuple[Any, Any]], tuple[tuple[str, ...], Rest]]:
    held, context = _taken_apart(value)
    return [(pytree.GetAttrKey(name), inner) for name, inner in zip(context[0], held, strict=True)], context


def _put_together(kind: Any, held: Any, context: tuple[tuple[str, ...], Rest]) -> Any:
    names, rest = context
    try:
        made: Any = object.__new__(kind)
    except TypeError:  # a class of Python's own makes its own
        made = kind.__new__(kind)
    for name, inner in [*rest.items(), *zip(names, held, strict=True)]:
        object.__setattr__(made, name, inner)  # whether or not it is frozen
    return made


def plain_values(value: Any, visited: dict[int, Any]) -> Any:
    """Return what can be compared of a value: its plain values, nested as they are there; a tensor is as none.

    >>> plain_values({"rows": [1, 2.5], "hidden": torch.ones(2)}, {})
    {'rows': {'0': '1', '1': '2.5'}, 'hidden': None}
    """
    if isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
        return repr(value)  # a NaN is none but by its words
    if isinstance(value, (Tensor, *CLOSED)):
        return None
    if id(value) in visited:
        return visited[id(value)]
    visited[id(value)] = None  # where it holds itself
    parts: Any = attributes(value)
    if isinstance(value, Mapping):
        parts = dict(value)
    if isinstance(value, CONTAINERS):
        parts = dict(enumerate(value))
    visited[id(value)] = parts and {str(key): plain_values(part, visited) for key, part in parts.items()}
    return visited[id(value)]


def changed(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return a copy of `value` in which each tensor is another.

    >>> changed({"box": (torch.zeros(2, 4), None)}, lambda tensor: tuple(tensor.shape))
    {'box': ((2, 4), None)}
    """
    if isinstance(value, Tensor):
        return change(value)
    once = {id(tensor): tensor for tensor in tensors_within(value)}
    return copied_with(value, {key: change(tensor) for key, tensor in once.items()})


def copied_with(value: Any, by_id: Mapping[int, Any]) -> Any:
    """Return a copy of `value` with other things in the place of some, by their ids.

    Parts that cannot be copied, as a lock or an open file, stay the same where they hold no tensor.

    Raises:
        Exception: what copying raised on a part that holds tensors.

    >>> from threading import Lock
    >>> value = {"guard": Lock(), "seen": []}
    >>> copied = copied_with(value, {})
    >>> copied["guard"] is value["guard"], copied["seen"] is value["seen"]
    (True, False)
    """
    # A copy goes by ids, and takes what the memo has for a thing, whatever holds it.
    try:
        return deepcopy(value, dict(by_id))
    except Exception:
        shared = {id(part): part for part in _uncopyable(value, by_id, set())}
        if any(tensors_within(part) for part in shared.values()):
            raise
        return deepcopy(value, {**by_id, **shared})


def _uncopyable(value: Any, by_id: Mapping[int, Any], visited_ids: set[int]) -> Iterator[Any]:
    """The innermost parts that cannot be copied."""
    if id(value) in visited_ids or id(value) in by_id:
        return
    visited_ids.add(id(value))
    try:
        deepcopy(value, dict(by_id))
    except Exception:  # noqa: BLE001  (copying runs the code of any class)
        inner = [part for each in _parts(value) for part in _uncopyable(each, by_id, visited_ids)]
        yield from inner or [value]


def joined(parts: Sequence[Any]) -> Any:
    """Return values of one form as one whose tensors are theirs after each other; a scalar is that of the first.

    >>> joined([(torch.zeros(2, 1), None), (torch.ones(1, 1), None)])
    (tensor([[0.],
            [0.],
            [1.]]), None)
    """
    by_id = {}
    for same in zip(*map(tensors_within, parts), strict=True):
        by_id[id(same[0])] = torch.cat(same) if same[0].ndim else same[0]
    return copied_with(parts[0], by_id)


class _Place:
    """Stands where a tensor was."""


@dataclass(frozen=True, eq=False)
class TreeDef:
    """What holds the tensors of a value.

    Attributes:
        template: the value without its tensors.
        places: what stands for each of them there, in the order of `tensors_within`.
    """

    template: Any
    places: tuple[Any, ...]

    @classmethod
    def of(cls, value: Any, kind: type[Any] = Tensor) -> Self:
        """Return the form of a value, or of one that has others of a type in the places of tensors."""
        leaves = leaves_within(value, kind)
        by_id = {id(leaf): _Place() for leaf in leaves}
        return cls(copied_with(value, by_id), tuple(by_id[id(leaf)] for leaf in leaves))

    def filled(self, tensors: Sequence[Any]) -> Any:
        """Return a value of this form that holds these in the places of its tensors.

        >>> TreeDef.of({"a": torch.zeros(1), "b": [torch.zeros(2), None]}).filled([3, 4])
        {'a': 3, 'b': [4, None]}
        """
        return copied_with(self.template, {id(place): new for place, new in zip(self.places, tensors, strict=True)})


@dataclass(frozen=True, eq=False)
class Packing:
    """How several outputs lie in one tensor: each sample's numbers in a row, one tensor's beside another's.

    Whole numbers are there too, as a loss may read them. What has no samples, as a learned scale, stays outside.

    Attributes:
        tree: what holds the tensors.
        numbers: which tensor is in each place of the tree: one that is there twice lies in the tensor once.
        shapes: of one sample of each tensor, None for one that has no samples.
        dtypes: of the tensors.
        fixed: those that have no samples, None for the others.
    """

    tree: TreeDef
    numbers: tuple[int, ...]
    shapes: tuple[tuple[int, ...] | None, ...]
    dtypes: tuple[torch.dtype, ...]
    fixed: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, outputs: Any, count: int) -> Self:
        """Return the layout of what a model returned for a batch of `count` samples.

        Raises:
            InputError: no tensor has a row for each sample, or one that depends on the weights has none.
        """
        places = tensors_within(outputs)
        once = {id(tensor): tensor for tensor in places}
        tensors, order = list(once.values()), {key: number for number, key in enumerate(once)}
        by_sample = [bool(tensor.ndim) and len(tensor) == count and not tensor.is_complex() for tensor in tensors]
        numbers = any(t.is_floating_point() for t, listed in zip(tensors, by_sample, strict=True) if listed)
        unlisted = [t for t, listed in zip(tensors, by_sample, strict=True) if t.requires_grad and not listed]
        if not numbers or unlisted:
            which = f"a tensor of shape {tuple(unlisted[0].shape)} that has no" if unlisted else "no tensor that has a"
            raise InputError(
                f"the model returns a {type(outputs).__name__} with {which} row of real numbers for each of {count} "
                "samples; wrap the model in a module that returns such tensors alone"
            )
        return cls(
            TreeDef.of(outputs),
            tuple(order[id(tensor)] for tensor in places),
            tuple(tuple(t.shape[1:]) if listed else None for t, listed in zip(tensors, by_sample, strict=True)),
            tuple(tensor.dtype for tensor in tensors),
            tuple(None if listed else t.detach() for t, listed in zip(tensors, by_sample, strict=True)),
        )

    def pack(self, outputs: Any) -> Tensor:
        """Return outputs as one tensor ``(samples, numbers)``.

        >>> Packing.of(both := {"box": torch.zeros(2, 4), "maps": (torch.zeros(2, 3, 5),)}, 2).pack(both).shape
        torch.Size([2, 19])
        """
        return self.pack_tensors(tensors_within(outputs))

    def pack_tensors(self, places: Sequence[Tensor]) -> Tensor:
        """Return the tensors in the places of outputs as one."""
        by_number = dict(zip(self.numbers, places, strict=True))
        tensors = [by_number[number] for number in range(len(self.shapes))]
        listed = [
            t.unsqueeze(-1).flatten(1) for t, shape in zip(tensors, self.shapes, strict=True) if shape is not None
        ]
        dtype = next(tensor.dtype for tensor in listed if tensor.is_floating_point())
        return torch.cat([t if t.is_floating_point() else t.to(dtype) for t in listed], dim=1)

    def unpack(self, packed: Tensor) -> Any:
        """Return the outputs that were packed, or others of as many numbers, for any number of samples."""
        sizes = [prod(shape) for shape in self.shapes if shape is not None]
        parts = iter(packed.split(sizes, dim=1))  # type: ignore[no-untyped-call]
        tensors = [
            fixed if shape is None else next(parts).reshape(-1, *shape).to(dtype)
            for shape, dtype, fixed in zip(self.shapes, self.dtypes, self.fixed, strict=True)
        ]
        return self.tree.filled([tensors[number] for number in self.numbers])
