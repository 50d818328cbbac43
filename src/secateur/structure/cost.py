"""What a cut would leave, counted from the axes alone: parameters, tensors and multiply-accumulates.

A search for a budget asks this a hundred times, and cutting each time would take a hundred times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.fx import Node

from secateur.structure.axes import Atom, Axis, resolve
from secateur.structure.infer import Structure
from secateur.structure.ops import bind
from secateur.structure.rules import Value, op_name
from secateur.structure.rules.contractions import CONVOLUTIONS, TRANSPOSED
from secateur.structure.rules.recurrent import GATES
from secateur.types import Keep

__all__ = ["Cost"]


@dataclass(frozen=True, eq=False)
class Cost:
    """What is left of a model when only so many units of each site are kept.

    It depends on how many units are kept and not on which, as the units of a site are alike.

    >>> import torch
    >>> from secateur.structure.infer import infer
    >>> from secateur.structure.trace import trace
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> cost = Cost(infer(trace(model, torch.zeros(1, 4))))
    >>> cost.macs({}), cost.macs({"0": torch.tensor([True, False, True])})
    (18, 12)
    >>> cost.parameters_removed({"0": torch.tensor([True, False, True])})
    7
    """

    structure: Structure

    def macs(self, keep: Keep) -> int:
        """Return the multiply-accumulates for the example inputs, of the ops that `measure.macs` counts too.

        Cells of recurrent layers in a loop of the model's own may be missed: compare the count of the whole model with
        `measure.macs` first.
        """
        left = _Left(self._counts(keep))
        return sum(_macs(self.structure, node, left) for node in self.structure.values)

    def parameters_removed(self, keep: Keep) -> int:
        """Return how many parameters go; one that stands under several names counts once."""
        state = self.structure.graph.state
        return sum(n for name, n in self._removed(keep).items() if isinstance(state.get(name), nn.Parameter))

    def bytes_removed(self, keep: Keep, saved: Mapping[str, Tensor]) -> int:
        """Return how many bytes of the tensors that are saved (a ``state_dict``) go."""
        return sum(n * saved[name].element_size() for name, n in self._removed(keep).items() if name in saved)

    def _counts(self, keep: Keep) -> dict[Atom, int]:
        return {self.structure.units[name]: int(keep_mask.sum()) for name, keep_mask in keep.items()}

    def _removed(self, keep: Keep) -> dict[str, int]:
        left = _Left(self._counts(keep))
        # A tensor under two names has one value.
        distinct = {id(value): name for name, value in reversed(list(self.structure.tensors.items()))}
        tensors = {name: self.structure.tensors[name] for name in distinct.values()}
        return {name: prod(value.shape) - left.numel(value) for name, value in tensors.items()}


@dataclass(frozen=True)
class _Left:
    """The sizes that axes have when so many units of each atom are kept."""

    counts: Mapping[Atom, int]

    def size(self, axis: Axis) -> int:
        axis = resolve(axis)
        if isinstance(axis, Atom):
            return self.counts.get(axis, axis.size)
        inner = axis.factors if hasattr(axis, "factors") else axis.parts
        return (prod if hasattr(axis, "factors") else sum)(map(self.size, inner))

    def numel(self, value: Value, first: int = 0) -> int:
        return prod(self.size(axis) for axis in value.axes[first:])


def _macs(structure: Structure, node: Node, left: _Left) -> int:
    count = COUNTS.get(op_name(node)) if node.op == "call_function" else None
    output = structure.values[node]
    first = (
        output[0] if isinstance(output, (list, tuple)) and output else output
    )  # a recurrent layer returns its states too
    return count(left, bind(node, structure.values), first) if count and isinstance(first, Value) else 0


def _product(left: _Left, arguments: Mapping[str, Any], output: Value) -> int:
    first = next(
        arguments[name] for name in ("mat1", "batch1", "mat", "input", "self") if isinstance(arguments.get(name), Value)
    )
    return left.numel(output) * left.size(first.axes[-1])


def _convolution(left: _Left, arguments: Mapping[str, Any], output: Value) -> int:
    return left.numel(output) * left.numel(arguments["weight"], 1)


def _transposed(left: _Left, arguments: Mapping[str, Any], output: Value) -> int:
    return left.numel(arguments["input"]) * left.numel(arguments["weight"], 1)


def _either(left: _Left, arguments: Mapping[str, Any], output: Value) -> int:
    return (_transposed if arguments.get("transposed") else _convolution)(left, arguments, output)


def _attention(left: _Left, arguments: Mapping[str, Any], output: Value) -> int:
    query, key, value = (arguments[name] for name in ("query", "key", "value"))
    return left.numel(query) * left.size(key.axes[-2]) + left.numel(output) * left.size(value.axes[-2])


def _einsum(left: _Left, arguments: Mapping[str, Any], output: Value) -> int:
    terms = str(arguments["equation"]).replace(" ", "").partition("->")[0].split(",")
    operands = [v for v in arguments["tensors"] if isinstance(v, Value)]
    if len(operands) != 2 or "..." in "".join(terms):
        return 0
    pairs = zip(terms, operands, strict=True)
    axes = [pair for term, value in pairs for pair in zip(term, value.axes, strict=True)]
    # The longest axis of each letter, as a size of 1 is repeated.
    return prod(left.size(axis) for axis in dict(sorted(axes, key=lambda pair: pair[1].size)).values())


def _recurrent(left: _Left, arguments: Mapping[str, Any], output: Value) -> int:
    """Every matrix of every layer and direction, once for each sample and moment."""
    places = prod(left.size(axis) for axis in arguments["input"].axes[:-1])
    return places * sum(left.numel(matrix) for matrix in arguments["params"] if len(matrix.axes) == 2)


_Count = Callable[[_Left, Mapping[str, Any], Value], int]
PRODUCTS = "linear matmul mm bmm mv dot addmm addmv baddbmm addbmm"
COUNTS: Mapping[str, _Count] = {
    **dict.fromkeys(PRODUCTS.split(), _product),
    **dict.fromkeys(CONVOLUTIONS.split(), _either),
    **dict.fromkeys(TRANSPOSED.split(), _transposed),
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
    **dict.fromkeys(GATES, _recurrent),
}
