"""Which tensors one region hands to others as they are: the same objects, at which nothing in between looks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from secateur.randomness import private_draws
from secateur.state import evaluating, fresh
from secateur.structure.ops import is_view, writes
from secateur.structure.outputs import Holdings
from secateur.structure.trace import Region
from secateur.structure.train_code import in_mode
from secateur.trees import tensors_within

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
        tuple(x.shape) if isinstance(x, Tensor) else x if isinstance(x, (bool, int, str)) else type(x) for x in leaves
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

    Args:
        model: the model; it is left as it is.
        regions: its regions, none of which has code that train mode alone runs.
        inputs: the example.
        asks_mode: whether code between the regions asks for the mode; then it is watched in train mode too, where it runs.
    """
    passing = _Passing({(region.path, called_with(_call(region))): region for region in regions})

    def follow(training: bool) -> None:
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
    touched: set[int] = field(default_factory=set)
    sizes_read: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    given: dict[Node, list[int]] = field(default_factory=dict)
    taken: dict[Node, list[int]] = field(default_factory=dict)
    called: dict[Region, None] = field(default_factory=dict)
    running: list[Region | None] = field(default_factory=list)
    alive: list[Tensor] = field(default_factory=list)  # an id is a tensor's own only while it lives

    def __post_init__(self) -> None:
        super().__init__()

    def touch(self, tensors: Sequence[Tensor]) -> None:
        """Note that something else than a region has these in its hands."""
        self.alive += tensors
        self.touched |= set(map(id, tensors))

    @contextmanager
    def listening(self, model: nn.Module, regions: Sequence[Region]) -> Iterator[None]:
        """Know what goes into and out of the regions."""
        handles = []
        for path in dict.fromkeys(region.path for region in regions):
            module = model.get_submodule(path)

            def enter(_module: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
                self._enter(path, (args, kwargs))

            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(lambda _m, _a, outputs: self._leave(outputs)))
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

    def _leave(self, outputs: Any) -> None:
        self._follow(self.given, output_nodes(self.running[-1]), tensors_within(outputs))
        self.running.pop()

    def _follow(self, ids_by_node: dict[Node, list[int]], nodes: Sequence[Node], tensors: Sequence[Tensor]) -> None:
        self.alive += tensors
        if len(nodes) != len(tensors):
            self.touch(tensors)
            return
        for node, tensor in zip(nodes, tensors, strict=True):
            ids_by_node.setdefault(node, []).append(id(tensor))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        if self.running or name in ASIDE or name in COUNTING:
            return func(*args, **kwargs)
        if name in {"shape", "size"}:
            return self._size(args[0], func(*args, **kwargs), *args[1:], **kwargs)
        self.touch(tensors_within((args, kwargs)))
        bare_args, bare_kwargs = pytree.tree_map_only(_AskedShape, lambda shape: shape.whole, (args, kwargs))
        return func(*bare_args, **bare_kwargs)

    def _size(self, tensor: Tensor, size: Any, dim: int | None = None) -> Any:
        read = self.sizes_read[id(tensor)]
        self.alive.append(tensor)
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
