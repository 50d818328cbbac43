"""Which tensors one region hands to others as they are: the same objects, at which nothing in between looks.

Once code between the regions has asked for a value it may go another way on other inputs: what is handed on from there,
and what it still has in its hands, may go elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from secateur.randomness import private_draws
from secateur.state import evaluating, fresh
from secateur.structure.decisions import Values
from secateur.structure.ops import is_view, writes
from secateur.structure.outputs import Holdings
from secateur.structure.trace import Region
from secateur.structure.train_code import in_mode
from secateur.trees import tensors_within, told_shape

__all__ = ["ASIDE", "Borders", "called_with", "find_borders", "function_name", "output_nodes"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

ASIDE = {"dtype", "device", "requires_grad", "is_floating_point", "is_cuda", "is_meta", "grad", "layout"}
"""What may be asked of a tensor whatever its shape is."""
COUNTING = {"dim", "ndim", "ndimension"}
"""What tells how many dimensions there are."""


@dataclass(frozen=True, eq=False)
class Borders:
    """Where regions meet.

    Attributes:
        order: the regions, in the order in which they are first called.
        sources: for an input of a region, the outputs of regions that it is, over all calls.
        read: for each of those outputs, the dimensions whose size something in between asks for.
    """

    order: tuple[Region, ...]
    sources: Mapping[Node, tuple[Node, ...]] = field(default_factory=dict)
    read: Mapping[Node, frozenset[int]] = field(default_factory=dict)


def called_with(inputs: Inputs) -> tuple[Any, ...]:
    """Return what tells one call from another: the shapes of tensors, and what else is given."""
    leaves, spec = pytree.tree_flatten(inputs)
    described = (
        told_shape(x) if isinstance(x, Tensor) else x if isinstance(x, (bool, int, str)) else type(x) for x in leaves
    )
    return (str(spec), *described)


def function_name(func: Any) -> str:
    """Return the name of a torch function, and of an attribute that is asked for."""
    name = getattr(func, "__name__", "")
    return getattr(getattr(func, "__self__", None), "__name__", name) if name == "__get__" else name


def find_borders(model: nn.Module, regions: Sequence[Region], inputs: Inputs, asks_mode: bool) -> Borders:
    """Return where regions meet in a forward pass; nowhere where that cannot run while it is watched.

    An input is one of a border where it is an output of a region in every call, and that output is given to inputs of such
    borders alone: neither returned nor kept, and no function of torch takes it between the regions. Sizes may be asked for.
    Code between the regions has not asked for values by then, and whenever it does it has the tensor in its hands no more.

    Args:
        model: the model; it is left as it is.
        regions: its regions, none of which has code that train mode alone runs.
        inputs: the example.
        asks_mode: whether code between the regions asks for the mode; then it is watched in train mode too, where it runs.
    """
    passing = _Passing({(region.path, called_with(_call(region))): region for region in regions})

    def follow(training: bool) -> None:
        passing.begin(decided=any(isinstance(leaf, (bool, int, float)) for leaf in pytree.tree_leaves(inputs)))
        with evaluating(model), private_draws(), in_mode(model, training), passing.listening(model, regions):
            args, kwargs = fresh(*inputs)
            holdings = Holdings(model, (args, kwargs), buffers=True)
            outputs = model(*args, **kwargs)
            passing.touch(tensors_within(outputs))
            passing.touch([tensor for _, tensor in holdings.stored()])

    try:
        follow(training=False)
    except Exception:  # noqa: BLE001  (code may insist on torch's own shapes; then nothing is known)
        return Borders(tuple(regions))
    if asks_mode:
        with suppress(Exception):  # without targets, say, it does not run
            follow(training=True)
    return passing.borders(regions)


def _call(region: Region) -> Inputs:
    args, kwargs = region.graph.args
    return args, kwargs


class _AskedShape(tuple[int, ...]):
    """The shape of a tensor, which notes the dimensions whose size is asked for."""

    note: Callable[[Sequence[int]], None]

    def __getitem__(self, index: Any) -> Any:
        dims = range(len(self))[index]
        self.note(dims if isinstance(dims, range) else [dims])
        sizes = tuple.__getitem__(self, index)
        return torch.Size(sizes) if isinstance(sizes, tuple) else sizes

    @property
    def whole(self) -> torch.Size:
        """The shape as torch has it."""
        self.note(range(len(self)))
        return torch.Size(tuple.__iter__(self))

    def __iter__(self) -> Iterator[int]:
        return iter(self.whole)

    def __eq__(self, other: object) -> bool:
        return self.whole == (other.whole if isinstance(other, _AskedShape) else other)

    def __hash__(self) -> int:
        return hash(self.whole)

    def __add__(self, other: Any) -> Any:
        return self.whole + tuple(other)

    def __radd__(self, other: Any) -> Any:
        return other + self.whole

    def __contains__(self, size: object) -> bool:
        return size in self.whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


@dataclass(eq=False)
class _Passing(TorchFunctionMode):
    """Follows tensors from region to region through one forward pass."""

    regions: Mapping[tuple[str, tuple[Any, ...]], Region]
    values: Values = field(default_factory=Values)
    decided: bool = False
    touched: set[int] = field(default_factory=set)
    sizes_read: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    given: dict[Node, list[int]] = field(default_factory=dict)
    taken: dict[Node, list[int]] = field(default_factory=dict)
    called: dict[Region, None] = field(default_factory=dict)
    running: list[Region | None] = field(default_factory=list)
    numbers: dict[int, tuple[ReferenceType[Tensor], int]] = field(default_factory=dict)  # by ids, which others get anew
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def begin(self, decided: bool) -> None:
        """Start a forward pass, whose code may branch on what it is given if `decided`."""
        self.decided = decided

    def touch(self, tensors: Sequence[Tensor]) -> None:
        """Note that something else than a region has these in its hands."""
        self.touched |= set(map(self._number, tensors))

    def _number(self, tensor: Tensor) -> int:
        """What is a tensor's own."""
        known, number = self.numbers.get(id(tensor), (None, 0))
        if known is None or known() is not tensor:
            self.count += 1
            number = self.count
            self.numbers[id(tensor)] = ref(tensor), number
        return number

    def _decide(self) -> None:
        """Note that code may go another way from here, and take what is at hand wherever such tensors are taken."""
        self.decided = True
        at_hand = {number for known, number in self.numbers.values() if known() is not None} & self.shapes.keys()
        shapes = {self.shapes[number] for number in at_hand}
        self.touched |= {number for number, shape in self.shapes.items() if shape in shapes}

    @contextmanager
    def listening(self, model: nn.Module, regions: Sequence[Region]) -> Iterator[None]:
        """Know what goes into and out of the regions."""
        handles = []
        for path in dict.fromkeys(region.path for region in regions):
            module = model.get_submodule(path)

            def enter(_module: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
                self._enter(path, (args, kwargs))

            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(
                module.register_forward_hook(lambda _m, a, k, outputs: self._leave((a, k), outputs), with_kwargs=True)
            )
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, path: str, inputs: Inputs) -> None:
        leaves = pytree.tree_leaves(inputs)
        for shape in (leaf for leaf in leaves if isinstance(leaf, _AskedShape)):
            shape.note(range(len(shape)))
        self.running.append(None)  # what is asked of tensors from here on is not asked between regions
        self.running[-1] = region = self.regions.get((path, called_with(inputs)))
        self._follow(self.taken, _input_nodes(region), [leaf for leaf in leaves if isinstance(leaf, Tensor)])
        if region is not None:
            self.called[region] = None

    def _leave(self, inputs: Inputs, outputs: Any) -> None:
        tensors = tensors_within(outputs)
        self._follow(self.given, output_nodes(self.running[-1]), tensors)
        if self.values.is_ragged(tensors_within(inputs)):
            self.values.sized_by_values(tensors)
        self.running.pop()

    def _follow(self, numbers_by_node: dict[Node, list[int]], nodes: Sequence[Node], tensors: Sequence[Tensor]) -> None:
        self.shapes |= {self._number(tensor): told_shape(tensor) for tensor in tensors}
        if self.decided or len(nodes) != len(tensors):
            self.touch(tensors)
        if len(nodes) == len(tensors):
            for node, tensor in zip(nodes, tensors, strict=True):
                numbers_by_node.setdefault(node, []).append(self._number(tensor))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        if self.running or name in ASIDE or name in COUNTING:
            return func(*args, **kwargs)
        is_size = name in {"shape", "size"}
        if not is_size:
            self.touch(tensors_within((args, kwargs)))
            args, kwargs = pytree.tree_map_only(_AskedShape, lambda shape: shape.whole, (args, kwargs))
        result = func(*args, **kwargs)
        if self.values.asked(name, args, kwargs, result):
            self._decide()
        return self._size(args[0], result, *args[1:], **kwargs) if is_size else result

    def _size(self, tensor: Tensor, size: Any, dim: int | None = None) -> Any:
        read = self.sizes_read[self._number(tensor)]
        if dim is not None:
            read.add(dim % tensor.dim())
            return size
        shape = _AskedShape(size)
        shape.note = read.update
        return shape

    def borders(self, regions: Sequence[Region]) -> Borders:
        """Return where only regions have what is handed on."""
        makers: defaultdict[int, list[Node]] = defaultdict(list)
        for node, ids in self.given.items():
            for key in ids:
                makers[key].append(node)
        takers = {key for ids in self.taken.values() for key in ids}
        ends = [*self.given.values(), *self.taken.values()]
        elsewhere = self.touched | {key for ids in ends for key in ids if key not in makers or key not in takers}
        while more := {k for ids in ends if not elsewhere.isdisjoint(ids) for k in ids} - elsewhere:
            elsewhere |= more  # an input that is something else in another call holds fast all that it ever is
        order = (*self.called, *(region for region in regions if region not in self.called))
        inside = {node: ids for node, ids in self.taken.items() if elsewhere.isdisjoint(ids)}
        return Borders(
            order,
            {node: tuple(dict.fromkeys(maker for key in ids for maker in makers[key])) for node, ids in inside.items()},
            {
                node: frozenset().union(*(self.sizes_read[key] for key in ids))
                for node, ids in self.given.items()
                if elsewhere.isdisjoint(ids)
            },
        )


def _input_nodes(region: Region | None) -> list[Node]:
    """The placeholders of the tensors that a region is given; none where it writes into one."""
    nodes = [] if region is None else [n for n in region.graph.inputs if isinstance(n.meta.get("val"), Tensor)]
    written = set() if region is None else {_base(node) for node in region.graph.nodes if writes(node)}
    return [] if written.intersection(nodes) else nodes


def _base(node: Node) -> Any:
    """What an op writes into, before any view was taken of it."""
    target: Any = node.args[0] if node.args else None
    while isinstance(target, Node) and is_view(target) and target.args:
        target = target.args[0]
    return target


def output_nodes(region: Region | None) -> list[Node]:
    """The nodes of the tensors that a region returns; none where it returns what it was given."""
    if region is None:
        return []
    output = next(node for node in reversed(list(region.graph.nodes)) if node.op == "output")
    nodes = [
        n for n in pytree.tree_leaves(output.args[0]) if isinstance(n, Node) and isinstance(n.meta.get("val"), Tensor)
    ]
    return [] if any(node.op == "placeholder" for node in nodes) else nodes
