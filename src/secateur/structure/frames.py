"""Inputs to verify on: drawn anew at several scales, at the example's shapes and at another batch and length or size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil, floor, log2
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from secateur.structure.rules import op_name
from secateur.structure.trace import Graph

__all__ = ["EXAMPLE", "Frame", "Inputs", "ShapedFrame", "as_typed", "drawn_inputs", "other_frames", "table_rows"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

# A draw whose outputs saturate proves little, so each sample has a scale of its own.
SCALES = (1.0, 0.1, 3.0)


@dataclass(frozen=True, eq=False)
class Frame:
    """The shapes of the inputs: those of the example, but for the batch and for some sizes.

    Attributes:
        batch: the example's batch size and the new one; None for the example's own.
        sizes: lengths, heights and widths that change, old to new.
        dim: the dimension of inputs ``(batch, ?, ?)`` that has the length.
    """

    batch: tuple[int, int] | None = None
    sizes: Mapping[int, int] = field(default_factory=dict)
    dim: int = 1

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape that an input has here."""
        shape = [
            self.sizes.get(size, size) if dim in _lengths(x, self.dim) else size for dim, size in enumerate(x.shape)
        ]
        if self.batch is not None and shape and x.shape[0] == self.batch[0]:
            shape[0] = self.batch[1]
        return tuple(shape)

    def __str__(self) -> str:
        parts = [f"batch {self.batch[1]}"] if self.batch else []
        parts += [f"{old} → {new}" for old, new in self.sizes.items()]
        return ", ".join(parts) or "the example's shapes"


@dataclass(frozen=True, eq=False)
class ShapedFrame(Frame):
    """The shapes of the inputs, each given.

    Attributes:
        shapes: the shape of each of the example's tensors, by its id.
    """

    shapes: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape that an input has here."""
        return self.shapes[id(x)]

    def __str__(self) -> str:
        return f"inputs of shape {' and '.join(map(str, self.shapes.values()))}"


EXAMPLE = Frame()


def _lengths(x: Tensor, dim: int) -> tuple[int, ...]:
    """The dimensions of an input that may be a length, a height or a width."""
    if not x.is_floating_point() or x.dim() == 2:
        return tuple(range(1, x.dim()))
    return (dim,) if x.dim() == 3 else tuple(range(2, x.dim()))


def other_frames(inputs: Inputs) -> Iterator[Frame]:
    """Yield other shapes to try: another batch with another length or size, then the batch alone.

    Large pictures become small first, as they cost the most; else longer inputs come before shorter ones, on which code that
    crops to a length does nothing.
    """
    size = _batch_size(inputs)
    if size is None:
        return
    batch = (size, 2 if size in (1, 3) else 3)
    for of, dim in RESIZED:
        small = _other_sizes(inputs, of, dim, 1 / LARGE)
        scales = (SHORTER, LONGER) if small else (LONGER, SHORTER)
        for sizes in filter(None, (small, *(_other_sizes(inputs, of, dim, scale) for scale in scales))):
            yield Frame(batch, sizes, dim)
    yield Frame(batch)


RESIZED = (("all", 1), ("all", 2), ("signals", 1), ("signals", 2), ("tokens", 1), ("vectors", 1))
"""Which inputs change their length or size, and the dimension that has it in inputs ``(batch, ?, ?)``."""
SHORTER, LONGER, LARGE = 0.75, 1.25, 6
PICTURE = 64
"""From here on a height or width is made at least `LARGE` times smaller first, as large pictures cost the most."""


def _batch_size(inputs: Inputs) -> int | None:
    tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor) and x.dim()]
    return len(tensors[0]) if tensors else None


def _other_sizes(inputs: Inputs, of: str, dim: int, scale: float) -> dict[int, int]:
    """The lengths, heights and widths of some of the inputs, old to new; empty where there is nothing new to try."""
    tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
    kinds = {
        "tokens": [x for x in tensors if x.dim() >= 2 and not x.is_floating_point()],
        "signals": [x for x in tensors if x.dim() > 2 and x.is_floating_point()],
        "vectors": [x for x in tensors if x.dim() == 2 and x.is_floating_point()],
    }
    resized = [*kinds["tokens"], *kinds["signals"]] if of == "all" else kinds[of]
    large = any(x.dim() > 3 and max(x.shape[2:]) > PICTURE for x in kinds["signals"])
    if (scale == 1 / LARGE and not large) or (dim == 2 and not any(x.dim() == 3 for x in kinds["signals"])):
        return {}
    if of in ("tokens", "signals") and not (kinds["tokens"] and kinds["signals"]):
        return {}  # all of them were tried
    if of == "vectors" and (kinds["tokens"] or kinds["signals"]):
        return {}
    olds = [x.shape[d] for x in resized for d in _lengths(x, dim) if x.shape[d] > 1]
    return {old: new for old in olds if (new := _scaled(old, scale)) != old}


def _scaled(old: int, scale: float) -> int:
    """About `scale` of a size, divisible by what patches and strides may want of it where there is enough left."""
    if scale == 1 / LARGE:
        return 1 << floor(log2(max(1, old * scale)))
    step = min(old & -old, 4)
    return max(1, floor(old * scale / step) * step) if scale < 1 else ceil(old * scale / step) * step


def table_rows(graph: Graph) -> dict[int, int]:
    """Return how many rows the tables have that inputs are looked up in, by the input's number among all tensors."""
    rows: dict[int, int] = {}
    leaves = pytree.tree_leaves((graph.args, dict(graph.kwargs)))
    numbered = leaves if graph.program is not None else [x for x in leaves if isinstance(x, Tensor)]
    tensors = [node for node, leaf in zip(graph.inputs, numbered, strict=False) if isinstance(leaf, Tensor)]
    for node in graph.nodes:
        if node.op == "call_function" and op_name(node) == "embedding":
            table, source = node.args[:2]
            while isinstance(source, Node) and source not in graph.inputs and len(source.all_input_nodes) == 1:
                source = source.all_input_nodes[0]
            if isinstance(source, Node) and source in tensors and isinstance(table, Node):
                number = tensors.index(source)
                size = int(table.meta["val"].shape[0])
                rows[number] = min(size, rows.get(number, size))
    return rows


def drawn_inputs(inputs: Inputs, frame: Frame, rows: Mapping[int, int], seed: int, *, redrawn: bool = True) -> Inputs:
    """Return inputs of the shapes of `frame`, floating ones in float64.

    Numbers are normal, each sample with a scale of its own, and non-negative where the example is. Tokens come from
    the range that the example uses, or from the whole table where it uses one alone. What is no number and no token
    (masks, positions) is the example's, cropped or repeated.

    Args:
        inputs: the example.
        frame: the shapes.
        rows: for each input that holds tokens, by number among the tensors, how many there are.
        seed: another seed, other inputs.
        redrawn: False crops or repeats everything.
    """
    generator = torch.Generator().manual_seed(seed)
    leaves, spec = pytree.tree_flatten(inputs)
    numbers = {id(x): number for number, x in enumerate(x for x in leaves if isinstance(x, Tensor))}

    def new(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        shape = frame.shape(x)
        if redrawn and x.is_floating_point() and not _is_mask(x):
            return _numbers(x, shape, seed, generator)
        if redrawn and numbers[id(x)] in rows and not x.is_floating_point():
            return _tokens(x, shape, rows[numbers[id(x)]], generator)
        fitted = _fitted(x, shape)
        return fitted.double() if x.is_floating_point() else fitted

    args, kwargs = pytree.tree_unflatten([new(x) for x in leaves], spec)
    return args, kwargs


def as_typed(inputs: Inputs, example: Inputs) -> Inputs:
    """Return `inputs` with the types that the example has."""
    leaves, spec = pytree.tree_flatten(inputs)
    models = pytree.tree_leaves(example)
    typed = [x.to(old.dtype) if isinstance(x, Tensor) else x for x, old in zip(leaves, models, strict=True)]
    args, kwargs = pytree.tree_unflatten(typed, spec)
    return args, kwargs


def _is_mask(x: Tensor) -> bool:
    """Whether an input holds infinities, or zeros and one other number: such are not drawn anew."""
    marked = x[x != 0]
    two_valued = 0 < marked.numel() < x.numel() and bool((marked == marked[0]).all())
    return two_valued or not bool(torch.isfinite(x).all())


def _numbers(x: Tensor, shape: tuple[int, ...], seed: int, generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    if shape:
        scales = [SCALES[(seed + number) % len(SCALES)] for number in range(shape[0])]
        values *= torch.tensor(scales, dtype=torch.float64).view(-1, *([1] * (len(shape) - 1)))
    constant = bool((x == x.flatten()[0]).all())
    return (values if constant or bool((x < 0).any()) else values.abs()).to(x.device)


def _tokens(x: Tensor, shape: tuple[int, ...], rows: int, generator: torch.Generator) -> Tensor:
    least, most = int(x.min()), int(x.max())
    if least == most:
        least, most = 0, rows - 1
    return torch.randint(least, most + 1, shape, generator=generator, dtype=x.dtype).to(x.device)


def _fitted(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    for dim, size in enumerate(shape):
        if size != x.shape[dim]:
            x = x.index_select(dim, torch.arange(size, device=x.device) % x.shape[dim])
    return x
