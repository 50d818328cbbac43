"""The sizes among the arguments of a graph's ops (of a view, a split, a slice, …), and what a cut makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.fx import Node

from secateur.structure.axes import Atom, Axis, keep_vector
from secateur.structure.infer import Structure
from secateur.structure.ops import bind
from secateur.structure.rules import Value, op_name

__all__ = ["new_sizes", "size_changes"]


class _Sizes:
    """One node's arguments and axes, and how many of each are kept."""

    def __init__(self, structure: Structure, node: Node, gone: Mapping[Atom, Tensor]) -> None:
        self.structure, self.node, self.gone = structure, node, gone
        self.arguments = bind(node, structure.values)
        output = structure.values.get(node)
        self.outputs: list[Value] = [
            v for v in (output if isinstance(output, list) else [output]) if isinstance(v, Value)
        ]

    def count(self, axis: Axis) -> int:
        return int(keep_vector(axis, self.gone).sum())

    def list_of(self, name: str, axes: Sequence[Axis]) -> dict[str, Any]:
        """A list of sizes that lines up with `axes`; −1 stays −1."""
        if name not in self.arguments:  # a view as another type takes none
            return {}
        old = self.arguments[name]
        return {
            name: [s if not isinstance(s, int) or s == -1 else self.count(a) for s, a in zip(old, axes, strict=True)]
        }


def _shape(name: str) -> Callable[[_Sizes], dict[str, Any]]:
    return lambda s: s.list_of(name, s.outputs[0].axes)


def _unflatten(s: _Sizes) -> dict[str, Any]:
    dim = s.arguments["dim"] % len(s.arguments["self"].axes)
    return s.list_of("sizes", s.outputs[0].axes[dim : dim + len(s.arguments["sizes"])])


def _split(s: _Sizes) -> dict[str, Any]:
    dim = (s.arguments["dim"] or 0) % len(s.arguments["self"].axes)
    sizes = [s.count(v.axes[dim]) for v in s.outputs]
    for name in ("split_size", "split_sizes", "chunks"):
        if name in s.arguments:
            old = s.arguments[name]
            even = len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]
            if name == "chunks":
                return {name: old if len(set(sizes)) == 1 else sizes}
            return {name: sizes[0] if isinstance(old, int) and even else sizes}
    return {}


def _slice(s: _Sizes) -> dict[str, Any]:
    dim = (s.arguments["dim"] or 0) % len(s.arguments["self"].axes)
    axis = s.arguments["self"].axes[dim]
    keep_mask = keep_vector(axis, s.gone)
    step = s.arguments.get("step") or 1
    if step > 1:
        return {}
    return {
        name: _moved(s.arguments[name], keep_mask)
        for name in ("start", "end")
        if isinstance(s.arguments.get(name), int)
    }


def _moved(index: int, keep_mask: Tensor) -> int:
    """Where a boundary lies after the cut."""
    size = keep_mask.numel()
    if index >= size or index <= -size:
        return index
    if index < 0:
        return -int(keep_mask[size + index :].sum())
    return int(keep_mask[:index].sum())


def _narrow(s: _Sizes) -> dict[str, Any]:
    dim = s.arguments["dim"] % len(s.arguments["self"].axes)
    keep_mask = keep_vector(s.arguments["self"].axes[dim], s.gone)
    start = s.arguments["start"]
    length = {"length": s.count(s.outputs[0].axes[dim])}
    return {"start": _moved(start, keep_mask), **length} if isinstance(start, int) else length


def _repeated(s: _Sizes) -> dict[str, Any]:
    dim, old = s.arguments["dim"], s.arguments.get("output_size")
    return {"output_size": s.count(s.outputs[0].axes[dim])} if isinstance(dim, int) and isinstance(old, int) else {}


def _groups(name: str) -> Callable[[_Sizes], dict[str, Any]]:
    def sizes(s: _Sizes) -> dict[str, Any]:
        axis = s.structure.ties.groups.get(s.node)
        return {} if axis is None else {name: s.count(axis)}

    return sizes


def _square(s: _Sizes) -> dict[str, Any]:
    return {name: s.count(s.outputs[0].axes[0]) for name in ("n", "m") if name in s.arguments}


def _normalized(s: _Sizes) -> dict[str, Any]:
    old = s.arguments["normalized_shape"]
    return s.list_of("normalized_shape", s.arguments["input"].axes[-len(old) :])


SIZES: dict[str, Callable[[_Sizes], dict[str, Any]]] = {
    "view": _shape("size"),
    "reshape": _shape("shape"),
    "_unsafe_view": _shape("size"),
    "expand": _shape("size"),
    "broadcast_to": _shape("size"),
    "zeros": _shape("size"),
    "ones": _shape("size"),
    "full": _shape("size"),
    "empty": _shape("size"),
    "eye": _square,
    "new_zeros": _shape("size"),
    "new_ones": _shape("size"),
    "new_full": _shape("size"),
    "rand": _shape("size"),
    "randn": _shape("size"),
    "unflatten": _unflatten,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _split,
    "slice": _slice,
    "narrow": _narrow,
    "repeat_interleave": _repeated,
    "group_norm": _groups("num_groups"),
    "channel_shuffle": _groups("groups"),
    "native_channel_shuffle": _groups("groups"),
    "layer_norm": _normalized,
    "rms_norm": _normalized,
    "convolution": _groups("groups"),
    **{f"conv{t}{k}d": _groups("groups") for t in ("", "_transpose") for k in (1, 2, 3)},
}
"""For each op with sizes among its arguments, how to work out the new ones."""


def new_sizes(structure: Structure, node: Node, gone: Mapping[Atom, Tensor]) -> dict[str, Any]:
    """Return the arguments of `node` that are sizes and change, with their new values."""
    maker = SIZES.get(op_name(node)) if node.op == "call_function" and node in structure.values else None
    if maker is None:
        return {}
    sizes = _Sizes(structure, node, gone)
    if not sizes.outputs:
        return {}
    return {name: new for name, new in maker(sizes).items() if new != _plain(sizes.arguments[name])}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def size_changes(structure: Structure, node: Node, gone: Mapping[Atom, Tensor]) -> set[tuple[int, int]]:
    """Return the sizes that change at `node`, as pairs of old and new."""
    old = bind(node, structure.values)
    pairs: set[tuple[int, int]] = set()
    for name, new in new_sizes(structure, node, gone).items():
        before, after = _as_list(old[name]), _as_list(new)
        if len(before) == len(after):
            pairs |= {(b, a) for b, a in zip(before, after, strict=True) if isinstance(b, int) and b != a}
    return pairs


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
