"""Rules by themselves: every op runs without a unit as its rule says, on small tensors, for every unit that may go.

All sizes of an op's operands differ unless they must be equal, so that a size names an axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from secateur.structure.axes import Atom, Axis, atoms, fixed, is_fixed, keep_vector, product, resolve, total, unify
from secateur.structure.cost import COUNTS, _Left
from secateur.structure.flow import Read
from secateur.structure.literals import new_sizes, size_changes
from secateur.structure.nodes import with_arguments
from secateur.structure.ops import bind
from secateur.structure.rules import RULES, Call, Value, op_name
from secateur.structure.rules.registry import Ties

pytestmark = [  # torch 2.15 says so of what is tried here all the same
    pytest.mark.filterwarnings("ignore:The use of `x.T` on tensors of dimension other than 2"),
    pytest.mark.filterwarnings("ignore:A window was not provided"),
]
ATEN = torch.ops.aten


def x(*shape: int) -> Tensor:
    """Numbers that are neither zero nor alike."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64) + 0.1


TRUE_HERE = torch.tensor([[True], [False]])


Zero = Callable[[int, int], bool]
ZEROS: dict[str, Zero] = {
    "all": lambda number, count: True,
    "none": lambda number, count: False,
    "the first": lambda number, count: number == 0,
    "the last": lambda number, count: number == count - 1,
}
"""Which of an op's operands are zero where their units go."""


def tensors_in(arguments: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(arguments) if isinstance(x, Tensor)]


class Ruled:
    """An op that its rule was applied to, every axis of its operands a free one of its own.

    Attributes:
        operands: the tensors with their values.
        outputs: what the rule says.
        free: what may be cut; without the number of groups, which stands in the op's arguments.
        statistics: what of it the op takes statistics over.
    """

    def __init__(self, name: str, zero: Zero = ZEROS["all"]) -> None:
        self.op, self.arguments, _ = (CASES | MOVING)[name]
        graph, values = fx.Graph(), dict[fx.Node, Any]()
        self.operands: list[tuple[Tensor, Value]] = []
        count = len(tensors_in(self.arguments))

        def holder(argument: Any) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            node = graph.placeholder(f"x{len(self.operands)}")
            axes = tuple(map(Atom if argument.is_floating_point() else fixed, argument.shape))
            sources = tuple((node.name, dim) for dim in range(argument.ndim))
            node.meta["val"], values[node] = argument, Value(axes, zero(len(self.operands), count), sources)
            self.operands.append((argument, values[node]))
            return node

        args, options = pytree.tree_map(holder, self.arguments)
        node = graph.call_function(self.op, args, options)
        node.meta["val"] = self.op(*self.arguments[0], **self.arguments[1])
        self.node, self.values, self.ties = node, values, Ties()
        outcome = RULES[op_name(node)](Call(node, bind(node, values), self.ties))
        values[node] = outcome
        self.outputs = outcome if isinstance(outcome, list) else [outcome]
        grouped = atoms_of(self.ties.groups.values())
        self.free = {
            atom
            for _, value in self.operands
            for atom in atoms_of(value.axes) - grouped
            if not atom.frozen and atom.size > 1
        }
        self.statistics = self.free & atoms_of(axis for axes in self.ties.statistics.values() for axis in axes)

    def run(self, change: Callable[[Tensor, Value], Tensor]) -> list[Tensor]:
        """What the op gives when its operands are changed."""
        changed = {id(tensor): change(tensor, value) for tensor, value in self.operands}
        args, options = pytree.tree_map(lambda a: changed[id(a)] if isinstance(a, Tensor) else a, self.arguments)
        names = [argument.name for argument in self.op._schema.arguments]
        if "normalized_shape" in names:
            at = names.index("normalized_shape")
            args = (*args[:at], args[0].shape[-len(args[at]) :], *args[at + 1 :])
        outputs = self.op(*args, **options)
        return list(outputs) if isinstance(outputs, tuple | list) else [outputs]

    def masked(self, keep: dict[Atom, Tensor]) -> list[Tensor]:
        """What it gives when operands are zero, or anything, where their units go."""

        return self.run(lambda tensor, value: masked_by(tensor, value, keep))


def masked_by(tensor: Tensor, value: Value, keep: dict[Atom, Tensor]) -> Tensor:
    """An operand that is zero, or anything, where its units go."""
    for dim, axis in enumerate(value.axes if tensor.is_floating_point() else ()):
        stays = keep_vector(axis, keep).view(-1, *[1] * (tensor.ndim - dim - 1))
        tensor = torch.where(stays, tensor, 0 if value.zero else tensor + 3)
    return tensor


def without(atom: Atom) -> dict[Atom, Tensor]:
    """Its second unit goes."""
    return {atom: torch.arange(atom.size) != 1}


def cut(tensor: Tensor, value: Value, keep: dict[Atom, Tensor]) -> Tensor:
    """The rows that stay."""
    for dim, axis in enumerate(value.axes):
        tensor = tensor.index_select(dim, keep_vector(axis, keep).nonzero().flatten())
    return tensor


def atoms_of(axes: Iterable[Axis]) -> set[Atom]:
    return {atom for axis in axes for atom in atoms(axis)}


Case = tuple[Callable[..., Any], tuple[tuple[Any, ...], dict[str, Any]], list[int]]


def recurrent(
    gates: int, *, states: int, layers: int = 1, ways: int = 1, biases: bool = True, projected: int = 0
) -> tuple[Any, ...]:
    """The arguments of a recurrent layer of 3 inputs and 5 hidden units, on 2 steps of 7 samples."""
    outer = projected or 5
    parameters: list[Tensor] = []
    for layer in range(layers):
        for _ in range(ways):
            parameters += [x(5 * gates, ways * outer if layer else 3), x(5 * gates, outer)]
            parameters += [x(5 * gates), x(5 * gates)] if biases else []
            parameters += [x(outer, 5)] if projected else []
    begin = [x(layers * ways, 7, size) for size in (outer, 5)[:states]]
    hx = begin if states == 2 else begin[0]
    return x(2, 7, 3), hx, parameters, biases, layers, 0.0, False, ways == 2, False


OPS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[int]]] = {
    # op, arguments, options, and the sizes of what may be cut where operands are zero without their units
    "linear": (ATEN.linear.default, (x(2, 3), x(5, 3), x(5)), {}, [2, 3, 5]),
    "linear without a bias": (ATEN.linear.default, (x(2, 3), x(5, 3)), {}, [2, 3, 5]),
    "linear of three dimensions": (ATEN.linear.default, (x(2, 7, 3), x(5, 3), x(5)), {}, [2, 3, 5, 7]),
    "linear of a vector": (ATEN.linear.default, (x(2, 3), x(3)), {}, [2, 3]),
    "mm": (ATEN.mm.default, (x(2, 3), x(3, 5)), {}, [2, 3, 5]),
    "bmm": (ATEN.bmm.default, (x(7, 2, 3), x(7, 3, 5)), {}, [2, 3, 5, 7]),
    "mv": (ATEN.mv.default, (x(2, 3), x(3)), {}, [2, 3]),
    "dot": (ATEN.dot.default, (x(3), x(3)), {}, [3]),
    "matmul of a vector": (ATEN.matmul.default, (x(3), x(7, 3, 5)), {}, [3, 5, 7]),
    "matmul that broadcasts": (ATEN.matmul.default, (x(7, 2, 3), x(3, 5)), {}, [2, 3, 5, 7]),
    "matmul of one and many": (ATEN.matmul.default, (x(1, 2, 3), x(7, 3, 5)), {}, [2, 3, 5, 7]),
    "addmm": (ATEN.addmm.default, (x(5), x(2, 3), x(3, 5)), {}, [2, 3, 5]),
    "baddbmm": (ATEN.baddbmm.default, (x(7, 2, 5), x(7, 2, 3), x(7, 3, 5)), {}, [2, 3, 5, 7]),
    "conv1d": (ATEN.conv1d.default, (x(2, 3, 11), x(5, 3, 4), x(5)), {}, [2, 3, 5]),
    "conv2d": (ATEN.conv2d.default, (x(2, 3, 7, 6), x(5, 3, 4, 4)), {}, [2, 3, 5]),
    "conv1d of one sample": (ATEN.conv1d.default, (x(3, 11), x(5, 3, 4), x(5)), {}, [3, 5]),
    "transposed": (ATEN.conv_transpose1d.default, (x(2, 3, 11), x(3, 5, 4), x(5)), {}, [2, 3, 5]),
    "distances": (ATEN.cdist.default, (x(7, 2, 3), x(7, 5, 3)), {}, [2, 3, 5, 7]),
    "distances that broadcast": (ATEN.cdist.default, (x(7, 2, 3), x(5, 3), 1.0), {}, [2, 3, 5, 7]),
    "pairwise distance": (ATEN.pairwise_distance.default, (x(2, 3), x(2, 3)), {}, [2, 3]),
    "einsum": (ATEN.einsum.default, ("ij,jk->ik", [x(2, 3), x(3, 5)]), {}, [2, 3, 5]),
    "einsum without an arrow": (ATEN.einsum.default, ("kj,ji", [x(2, 3), x(3, 5)]), {}, [2, 3, 5]),
    "einsum with dots": (ATEN.einsum.default, ("...ij,...jk->...ik", [x(7, 2, 3), x(3, 5)]), {}, [2, 3, 5, 7]),
    "einsum of an outer product": (ATEN.einsum.default, ("i,j->ij", [x(2), x(3)]), {}, [2, 3]),
    "bilinear": (ATEN.bilinear.default, (x(2, 3), x(2, 7), x(5, 3, 7), x(5)), {}, [2, 3, 5, 7]),
    "attention": (
        ATEN.scaled_dot_product_attention.default,
        (x(2, 7, 4, 3), x(2, 7, 6, 3), x(2, 7, 6, 5)),
        {"scale": 0.5},
        [2, 3, 5, 7],
    ),
    "attention of a scale by size": (
        ATEN.scaled_dot_product_attention.default,
        (x(2, 7, 4, 3), x(2, 7, 6, 3), x(2, 7, 6, 5)),
        {},
        [2, 5, 7],
    ),
    "add": (ATEN.add.Tensor, (x(2, 3), x(2, 3)), {}, [2, 3]),
    "add that broadcasts": (ATEN.add.Tensor, (x(2, 3), x(3)), {}, [2, 3]),
    "mul": (ATEN.mul.Tensor, (x(2, 3), x(3)), {}, [2, 3]),
    "mul by a column": (ATEN.mul.Tensor, (x(2, 3), x(2, 1)), {}, [2, 3]),
    "div": (ATEN.div.Tensor, (x(2, 3), 2.0), {}, [2, 3]),
    "relu": (ATEN.relu.default, (x(2, 3),), {}, [2, 3]),
    "sigmoid": (ATEN.sigmoid.default, (x(2, 3),), {}, [2, 3]),
    "clamp around zero": (ATEN.clamp.default, (x(2, 3), -1.0, 0.5), {}, [2, 3]),
    "clamp from zero": (ATEN.clamp.default, (x(2, 3), 0), {}, [2, 3]),
    "clamp up to zero": (ATEN.clamp.default, (x(2, 3), None, 0), {}, [2, 3]),
    "clamp above zero": (ATEN.clamp.default, (x(2, 3), 0.5, 2.0), {}, [2, 3]),
    "clamp below zero": (ATEN.clamp.default, (x(2, 3), None, -0.5), {}, [2, 3]),
    "hardtanh above zero": (ATEN.hardtanh.default, (x(2, 3), 0.5, 1.0), {}, [2, 3]),
    "threshold": (ATEN.threshold.default, (x(2, 3), 0.5, 1.0), {}, [2, 3]),
    "sum": (ATEN.sum.dim_IntList, (x(2, 3, 5), [1]), {}, [2, 3, 5]),
    "sum of all": (ATEN.sum.default, (x(2, 3),), {}, [2, 3]),
    "sum that keeps": (ATEN.sum.dim_IntList, (x(2, 3, 5), [-1], True), {}, [2, 3, 5]),
    "mean": (ATEN.mean.dim, (x(2, 3, 5), [1]), {}, [2, 3, 5]),
    "amax": (ATEN.amax.default, (x(2, 3, 5), [1]), {}, [2, 3, 5]),
    "max": (ATEN.max.dim, (x(2, 3), 1), {}, [2, 3]),
    "max of two": (ATEN.max.other, (x(2, 3), x(2, 3)), {}, [2, 3]),
    "logsumexp": (ATEN.logsumexp.default, (x(2, 3), [1]), {}, [2, 3]),
    "cumsum": (ATEN.cumsum.default, (x(2, 3), 1), {}, [2]),
    "topk": (ATEN.topk.default, (x(2, 5), 3), {}, [2]),
    "argmax": (ATEN.argmax.default, (x(2, 3), 0), {}, [3]),
    "sort": (ATEN.sort.default, (x(2, 3),), {}, [2]),
    "softmax": (ATEN.softmax.int, (x(2, 3), -1), {}, [2, 3]),
    "layer norm": (ATEN.layer_norm.default, (x(2, 3), [3], x(3), x(3)), {}, [2, 3]),
    "layer norm of two axes": (ATEN.layer_norm.default, (x(2, 3, 5), [3, 5], x(3, 5)), {}, [2, 3, 5]),
    "layer norm without numbers": (ATEN.layer_norm.default, (x(2, 3), [3]), {}, [2, 3]),
    "rms norm": (ATEN.rms_norm.default, (x(2, 3), [3], x(3)), {}, [2, 3]),
    "batch norm": (
        ATEN.batch_norm.default,
        (x(2, 3, 5), x(3), x(3), x(3), x(3).abs() + 1, False, 0.1, 1e-5, False),
        {},
        [2, 3, 5],
    ),
    "batch norm of the batch": (
        ATEN.batch_norm.default,
        (x(2, 3, 5), x(3), x(3), None, None, True, 0.1, 1e-5, False),
        {},
        [2, 3, 5],
    ),
    "instance norm": (
        ATEN.instance_norm.default,
        (x(2, 3, 5), x(3), x(3), None, None, True, 0.1, 1e-5, False),
        {},
        [2, 3, 5],
    ),
    "permute": (ATEN.permute.default, (x(2, 3, 5), [2, 0, 1]), {}, [2, 3, 5]),
    "transpose": (ATEN.transpose.int, (x(2, 3, 5), -1, 0), {}, [2, 3, 5]),
    "t": (ATEN.t.default, (x(2, 3),), {}, [2, 3]),
    "mT": (ATEN.mT.default, (x(2, 3, 5),), {}, [2, 3, 5]),
    "numpy_T": (ATEN.numpy_T.default, (x(2, 3, 5),), {}, [2, 3, 5]),
    "movedim": (ATEN.movedim.intlist, (x(2, 3, 5, 7), [0, 1], [2, -1]), {}, [2, 3, 5, 7]),
    "moveaxis": (ATEN.moveaxis.int, (x(2, 3, 5), 2, 0), {}, [2, 3, 5]),
    "unsqueeze": (ATEN.unsqueeze.default, (x(2, 3), 1), {}, [2, 3]),
    "squeeze": (ATEN.squeeze.dim, (x(2, 1, 3), 1), {}, [2, 3]),
    "stack": (ATEN.stack.default, ([x(2, 3), x(2, 3)], 1), {}, [2, 3]),
    "cat": (ATEN.cat.default, ([x(2, 3), x(2, 5)], 1), {}, [2, 3, 5]),
    "cat of rows": (ATEN.cat.default, ([x(2, 3), x(5, 3)],), {}, [2, 3, 5]),
    "flatten": (ATEN.flatten.using_ints, (x(2, 3, 5), 1), {}, [2, 3, 5]),
    "pad beside": (ATEN.constant_pad_nd.default, (x(2, 3, 5), [1, 2]), {}, [2, 3, 5]),
    "embedding": (ATEN.embedding.default, (x(7, 3), torch.tensor([1, 4])), {}, [3]),
    "pooling": (ATEN.avg_pool1d.default, (x(2, 3, 6), [2]), {}, [2, 3]),
    "pooling of maxima": (ATEN.max_pool2d.default, (x(2, 3, 6, 6), [2, 2]), {}, [2, 3]),
    "upsampling": (ATEN.upsample_nearest1d.default, (x(2, 3, 6), [12]), {}, [2, 3]),
    "sub": (ATEN.sub.Tensor, (x(2, 3), x(2, 3)), {}, [2, 3]),
    "add of a number": (ATEN.add.Scalar, (x(2, 3), 2.0), {}, [2, 3]),
    "add of nothing": (ATEN.add.Scalar, (x(2, 3), 0), {}, [2, 3]),
    "maximum": (ATEN.maximum.default, (x(2, 3), x(2, 3)), {}, [2, 3]),
    "comparison": (ATEN.le.Tensor, (x(2, 3), x(2, 3)), {}, [2, 3]),
    "power": (ATEN.pow.Tensor_Scalar, (x(2, 3), 2), {}, [2, 3]),
    "power of nothing": (ATEN.pow.Tensor_Scalar, (x(2, 3), 0), {}, [2, 3]),
    "addcmul": (ATEN.addcmul.default, (x(2, 3), x(2, 3), x(2, 3)), {}, [2, 3]),
    "lerp": (ATEN.lerp.Scalar, (x(2, 3), x(2, 3), 0.3), {}, [2, 3]),
    "where": (ATEN.where.self, (TRUE_HERE, x(2, 3), x(2, 3)), {}, [3]),
    "where of one row": (ATEN.where.self, (TRUE_HERE, x(2, 3), x(3)), {}, [3]),
    "filled with a number": (ATEN.masked_fill.Scalar, (x(2, 3), TRUE_HERE, 2.0), {}, [3]),
    "filled with zeros": (ATEN.masked_fill.Scalar, (x(2, 3), TRUE_HERE, 0.0), {}, [3]),
    "cos": (ATEN.cos.default, (x(2, 3),), {}, [2, 3]),
    "exp": (ATEN.exp.default, (x(2, 3),), {}, [2, 3]),
    "gelu": (ATEN.gelu.default, (x(2, 3),), {}, [2, 3]),
    "silu": (ATEN.silu.default, (x(2, 3),), {}, [2, 3]),
    "softplus": (ATEN.softplus.default, (x(2, 3),), {}, [2, 3]),
    "prelu": (ATEN.prelu.default, (x(2, 3, 5), x(3)), {}, [2, 3, 5]),
    "prelu of one slope": (ATEN.prelu.default, (x(2, 3), x(1)), {}, [2, 3]),
    "glu": (ATEN.glu.default, (x(2, 6), 1), {}, [2, 3]),
    "zeros like": (ATEN.zeros_like.default, (x(2, 3),), {}, [2, 3]),
    "ones like": (ATEN.ones_like.default, (x(2, 3),), {}, [2, 3]),
    "var": (ATEN.var.dim, (x(2, 3, 5), [1]), {}, [2, 3, 5]),
    "var and mean": (ATEN.var_mean.dim, (x(2, 3, 5), [1]), {}, [2, 3, 5]),
    "smallest by its size": (ATEN.linalg_vector_norm.default, (x(2, 3, 5), -1, [-1]), {}, [2, 3, 5]),
    "norm": (ATEN.linalg_vector_norm.default, (x(2, 3, 5), 2, [-1]), {}, [2, 3, 5]),
    "mean of all": (ATEN.mean.default, (x(2, 3),), {}, [2, 3]),
    "amin that keeps": (ATEN.amin.default, (x(2, 3, 5).exp(), [0, 2], True), {}, [2, 3, 5]),
    "min of all": (ATEN.min.default, (x(2, 3).exp(),), {}, [2, 3]),
    "prod": (ATEN.prod.dim_int, (x(2, 3, 5), 1), {}, [2, 5]),
    "pooling of maxima with places": (ATEN.max_pool2d_with_indices.default, (x(2, 3, 6, 6), [2, 2]), {}, [2, 3]),
    "adaptive pooling": (ATEN.adaptive_avg_pool2d.default, (x(2, 3, 6, 6), [1, 1]), {}, [2, 3]),
    "pooling of one sample": (ATEN.avg_pool2d.default, (x(3, 6, 6), [2, 2]), {}, [3]),
    "fourier": (ATEN.fft_fft.default, (x(2, 3),), {}, [2]),
    "fourier along": (ATEN.fft_fft.default, (x(2, 3), None, 0), {}, [3]),
    "fourier of planes": (ATEN.fft_fft2.default, (x(2, 3, 5),), {}, [2]),
    "fourier of other planes": (ATEN.fft_fft2.default, (x(2, 3, 5), None, [0, 2]), {}, [3]),
    "fourier of some": (ATEN.fft_fftn.default, (x(2, 3, 5), None, [0]), {}, [3, 5]),
    "shifted": (ATEN.fft_fftshift.default, (x(2, 3, 5), [1]), {}, [2, 5]),
    "grid": (ATEN.grid_sampler.default, (x(2, 3, 6, 6), x(2, 4, 4, 2), 0, 0, False), {}, [2, 3]),
    "flip": (ATEN.flip.default, (x(2, 3, 5), [1]), {}, [2, 5]),
    "roll": (ATEN.roll.default, (x(2, 3, 5), [1], [-1]), {}, [2, 3]),
    "roll of all": (ATEN.roll.default, (x(2, 3), [1]), {}, []),
    "tril": (ATEN.tril.default, (x(2, 3, 3),), {}, [2]),
    "reflected": (ATEN.reflection_pad1d.default, (x(2, 3, 5), [1, 1]), {}, [2, 3]),
    "replicated": (ATEN.replication_pad2d.default, (x(2, 3, 5, 5), [1, 1, 1, 1]), {}, [2, 3]),
    "pad of a number": (ATEN.constant_pad_nd.default, (x(2, 3), [1, 0], 4.0), {}, [2, 3]),
    "pad of two": (ATEN.constant_pad_nd.default, (x(2, 3, 5), [0, 0, 2, 1]), {}, [2, 3, 5]),
    "pixel shuffle": (ATEN.pixel_shuffle.default, (x(2, 12, 5, 5), 2), {}, [2, 3]),
    "pixel unshuffle": (ATEN.pixel_unshuffle.default, (x(2, 3, 4, 4), 2), {}, [2, 3]),
    "channel shuffle": (ATEN.channel_shuffle.default, (x(2, 15, 4, 4), 3), {}, [2, 4, 4, 5]),
    "im2col": (ATEN.im2col.default, (x(2, 3, 5, 5), [2, 2], [1, 1], [0, 0], [1, 1]), {}, [2, 3]),
    "repeat interleave": (ATEN.repeat_interleave.self_int, (x(2, 3), 4, 1), {}, [2, 3]),
    "repeat": (ATEN.repeat.default, (x(2, 3), [1, 4]), {}, [2, 3]),
    "squeeze of all": (ATEN.squeeze.default, (x(1, 3, 1, 5),), {}, [3, 5]),
    "chosen rows": (ATEN.index_select.default, (x(2, 3), 1, torch.tensor([0, 2])), {}, [2]),
    "indices": (ATEN.index.Tensor, (x(2, 3, 5), [None, torch.tensor([0, 2])]), {}, [2, 5]),
    "pairs of indices": (
        ATEN.index.Tensor,
        (x(2, 3, 5), [torch.tensor([0, 1]), None, torch.tensor([4, 2])]),
        {},
        [3],
    ),
    "gather": (ATEN.gather.default, (x(2, 3), 1, torch.zeros(2, 3, dtype=torch.long)), {}, []),
    "gather of rows": (ATEN.gather.default, (x(2, 3), 0, torch.zeros(4, 3, dtype=torch.long)), {}, []),
    "gather of columns": (ATEN.gather.default, (x(2, 3), -1, torch.zeros(2, 5, dtype=torch.long)), {}, []),
    "taken along": (ATEN.take_along_dim.default, (x(2, 3), torch.zeros(2, 1, dtype=torch.long), 0), {}, [3]),
    "buckets": (ATEN.bucketize.Tensor, (x(2, 3), x(5).sort().values), {}, [2, 3]),
    "buckets by row": (ATEN.searchsorted.Tensor, (x(2, 5).sort().values, x(2, 3)), {}, [2]),
    "spectrum": (ATEN.stft.default, (x(3, 11), 4), {"return_complex": True}, [3]),
    "index add": (ATEN.index_add.default, (x(2, 3), 0, torch.tensor([1, 0, 1]), x(3, 3)), {}, [3]),
    "unbind": (ATEN.unbind.int, (x(2, 3), 0), {}, [3]),
    "select": (ATEN.select.int, (x(2, 3), 0, 1), {}, [3]),
    "grouped conv": (ATEN.conv1d.default, (x(5, 6, 11), x(21, 2, 4), x(21), [1], [0], [1], 3), {}, [2, 5, 7]),
    "grouped transposed": (
        ATEN.conv_transpose1d.default,
        (x(5, 6, 11), x(6, 7, 4), x(21), [1], [0], [0], 3),
        {},
        [2, 5, 7],
    ),
    "depthwise conv": (ATEN.conv1d.default, (x(5, 3, 11), x(3, 1, 4), x(3), [1], [0], [1], 3), {}, [5]),
    "group norm": (ATEN.group_norm.default, (x(5, 6, 7), 3, x(6), x(6)), {}, [2, 5, 7]),
    "lstm": (ATEN.lstm.input, recurrent(4, states=2), {}, [3, 5]),
    "lstm of two layers and ways": (ATEN.lstm.input, recurrent(4, states=2, layers=2, ways=2), {}, [3, 5]),
    "projected lstm": (ATEN.lstm.input, recurrent(4, states=2, projected=2), {}, [2, 3, 5]),
    "gru": (ATEN.gru.input, recurrent(3, states=1), {}, [3, 5]),
    "rnn without biases": (ATEN.rnn_tanh.input, recurrent(1, states=1, biases=False), {}, [3, 5]),
    "lstm cell": (ATEN.lstm_cell.default, (x(2, 3), [x(2, 5), x(2, 5)], x(20, 3), x(20, 5), x(20), x(20)), {}, [3, 5]),
    "max of two that broadcasts": (ATEN.max.other, (x(2, 3), x(3)), {}, [2, 3]),
    "max of two that broadcasts along rows": (ATEN.max.other, (x(2, 1), x(2, 3)), {}, [2, 3]),
    "maximum that broadcasts": (ATEN.maximum.default, (x(2, 3), x(3)), {}, [2, 3]),
    "copied": (ATEN.copy.default, (x(2, 3), x(2, 3)), {}, [2, 3]),
    "copied from a row": (ATEN.copy.default, (x(2, 3), x(3)), {}, [2, 3]),
    "filled": (ATEN.fill.Scalar, (x(2, 3), 2.0), {}, [2, 3]),
    "filled with nothing": (ATEN.fill.Scalar, (x(2, 3), 0), {}, [2, 3]),
    "made zero": (ATEN.zero.default, (x(2, 3),), {}, [2, 3]),
    "col2im": (ATEN.col2im.default, (x(2, 12, 9), [4, 4], [2, 2], [1, 1], [0, 0], [1, 1]), {}, [2, 3]),
    "of pairs": (ATEN.view_as_complex.default, (x(3, 5, 2),), {}, [3, 5]),
    "einsum of three": (ATEN.einsum.default, ("ij,jk,kl->il", [x(2, 3), x(3, 5), x(5, 7)]), {}, [2, 3, 5, 7]),
    "einsum with a one": (ATEN.einsum.default, ("ij,ij->ij", [x(2, 3), x(1, 3)]), {}, [2, 3]),
    "einsum with a one first": (ATEN.einsum.default, ("ij,ij->i", [x(1, 3), x(2, 3)]), {}, [2, 3]),
    "einsum of a sum": (ATEN.einsum.default, ("ij->j", [x(2, 3)]), {}, [2, 3]),
    "embedding bag": (
        ATEN.embedding_bag.default,
        (x(7, 3), torch.tensor([1, 4, 2, 2]), torch.tensor([0, 2])),
        {},
        [3],
    ),
    "attention of shared keys": (
        ATEN.scaled_dot_product_attention.default,
        (x(2, 7, 4, 3), x(2, 1, 6, 3), x(2, 1, 6, 5)),
        {"scale": 0.5},
        [2, 3, 5, 7],
    ),
    "attention with a mask": (
        ATEN.scaled_dot_product_attention.default,
        (x(2, 7, 4, 3), x(2, 7, 6, 3), x(2, 7, 6, 5), x(2, 7, 4, 6)),
        {"scale": 0.5},
        [2, 3, 5, 7],
    ),
    "attention of grouped queries": (
        ATEN.scaled_dot_product_attention.default,
        (x(2, 14, 4, 3), x(2, 7, 6, 3), x(2, 7, 6, 5)),
        {"scale": 0.5, "enable_gqa": True},
        [2, 2, 3, 5, 7],
    ),
    "scattered": (
        ATEN.scatter.src,
        (x(2, 3), 1, torch.tensor([[0, 2], [1, 0]]), x(2, 2)),
        {},
        [],
    ),
    "scattered number": (ATEN.scatter.value, (x(2, 3), 1, torch.tensor([[0, 2], [1, 0]]), 1.0), {}, []),
    "index copy": (ATEN.index_copy.default, (x(2, 3), 0, torch.tensor([1, 0]), x(2, 3)), {}, [3]),
    "index fill": (ATEN.index_fill.int_Scalar, (x(2, 3), 0, torch.tensor([1]), 2.0), {}, [3]),
    "index fill with nothing": (ATEN.index_fill.int_Scalar, (x(2, 3), -1, torch.tensor([1]), 0.0), {}, [2]),
    "put": (ATEN.index_put.default, (x(2, 3, 5), [torch.tensor([1, 0])], x(2, 3, 5)), {}, [3, 5]),
    "put a row": (ATEN.index_put.default, (x(2, 3, 5), [torch.tensor([1])], x(5)), {}, [3, 5]),
    "put along the middle": (
        ATEN.index_put.default,
        (x(2, 3, 5), [None, torch.tensor([1, 2])], x(2, 2, 5)),
        {},
        [2, 5],
    ),
    "masked indices": (ATEN.index.Tensor, (x(2, 3, 5), [torch.ones(2, 3, dtype=torch.bool)]), {}, [5]),
    "indices of two dimensions": (ATEN.index.Tensor, (x(2, 3, 5), [torch.tensor([[0, 1], [1, 0]])]), {}, [3, 5]),
    "masked scatter": (
        ATEN.masked_scatter.default,
        (x(2, 3), torch.tensor([[True], [False]]), x(1, 3)),
        {},
        [3],
    ),
    "batch norm without a shift": (
        ATEN.batch_norm.default,
        (x(2, 3, 5), x(3), None, x(3), x(3).abs() + 1, False, 0.1, 1e-5, False),
        {},
        [2, 3, 5],
    ),
    "batch norm of the batch without a shift": (
        ATEN.batch_norm.default,
        (x(2, 3, 5), x(3), None, None, None, True, 0.1, 1e-5, False),
        {},
        [2, 3, 5],
    ),
    "batch norm of the batch without numbers": (
        ATEN.batch_norm.default,
        (x(2, 3, 5), None, None, None, None, True, 0.1, 1e-5, False),
        {},
        [2, 3, 5],
    ),
    "batch norm without numbers": (
        ATEN.batch_norm.default,
        (x(2, 3), None, None, x(3), x(3).abs() + 1, False, 0.1, 1e-5, False),
        {},
        [2, 3],
    ),
    "instance norm without numbers": (
        ATEN.instance_norm.default,
        (x(2, 3, 5), None, None, None, None, True, 0.1, 1e-5, False),
        {},
        [2, 3, 5],
    ),
    "batch norm with statistics": (
        ATEN.native_batch_norm.default,
        (x(2, 3, 5), x(3), x(3), None, None, True, 0.1, 1e-5),
        {},
        [2, 3, 5],
    ),
    "layer norm with statistics": (ATEN.native_layer_norm.default, (x(2, 3), [3], x(3), x(3), 1e-5), {}, [2, 3]),
    "layer norm without a shift": (ATEN.layer_norm.default, (x(2, 3), [3], x(3)), {}, [2, 3]),
    "rms norm without numbers": (ATEN.rms_norm.default, (x(2, 3), [3]), {}, [2, 3]),
    "group norm without numbers": (ATEN.group_norm.default, (x(5, 6, 7), 3), {}, [2, 5, 7]),
    "group norm of unequal groups": (ATEN.group_norm.default, (x(5, 6, 7), 2, x(6), None), {}, [3, 5, 7]),
    "std and mean": (ATEN.std_mean.dim, (x(2, 3, 5), [1, 2]), {}, [2, 3, 5]),
    "median": (ATEN.median.dim, (x(2, 3), 1), {}, [2, 3]),
    "any": (ATEN.any.dim, (x(2, 3), 1), {}, [2, 3]),
    "any of all": (ATEN.any.default, (x(2, 3),), {}, [2, 3]),
    "cumprod": (ATEN.cumprod.default, (x(2, 3), 0), {}, [3]),
    "kth value": (ATEN.kthvalue.default, (x(2, 3), 2, 1), {}, [2]),
    "linear upsampling": (ATEN.upsample_bilinear2d.default, (x(2, 3, 4, 4), [7, 7], False), {}, [2, 3]),
    "adaptive maxima": (ATEN.adaptive_max_pool2d.default, (x(2, 3, 6, 6), [2, 2]), {}, [2, 3]),
    "fourier of real numbers": (ATEN.fft_rfft.default, (x(2, 5), None, 1), {}, [2]),
    "fourier of all": (ATEN.fft_fftn.default, (x(2, 3),), {}, []),
    "fourier of the last two": (ATEN.fft_fftn.default, (x(2, 3, 5), [3, 5]), {}, [2]),
    "diagonal": (ATEN.diagonal.default, (x(2, 3, 3),), {}, []),
    "clamp from a number": (ATEN.clamp_min.default, (x(2, 3), 0.5), {}, [2, 3]),
    "clamp up to a number": (ATEN.clamp_max.default, (x(2, 3), 0.5), {}, [2, 3]),
    "reverse subtraction": (ATEN.rsub.Scalar, (x(2, 3), 1.0), {}, [2, 3]),
    "number over": (ATEN.reciprocal.default, (x(2, 3),), {}, [2, 3]),
    "root": (ATEN.sqrt.default, (x(2, 3).abs(),), {}, [2, 3]),
    "remainder": (ATEN.remainder.Scalar, (x(2, 3), 0.7), {}, [2, 3]),
    "remainder of a number": (ATEN.remainder.Scalar_Tensor, (0.7, x(2, 3)), {}, [2, 3]),
    "mul of one row": (ATEN.mul.Tensor, (x(3), x(2, 3)), {}, [2, 3]),
    "dropout with its mask": (ATEN.native_dropout.default, (x(2, 3), 0.0, False), {}, [2, 3]),
    "glu of rows": (ATEN.glu.default, (x(6, 5), 0), {}, [3, 5]),
    "unbind of columns": (ATEN.unbind.int, (x(2, 3), -1), {}, [2]),
    "repeat of rows": (ATEN.repeat.default, (x(2, 3), [4, 1]), {}, [2, 3]),
    "repeat of a new axis": (ATEN.repeat.default, (x(2, 3), [4, 1, 2]), {}, [2, 3]),
    "repeat as it was": (ATEN.repeat.default, (x(2, 3), [1, 1]), {}, [2, 3]),
    "swapped": (ATEN.swapaxes.default, (x(2, 3, 5), 0, -1), {}, [2, 3, 5]),
    "norm of all": (ATEN.linalg_vector_norm.default, (x(2, 3),), {}, [2, 3]),
    "gru cell": (ATEN.gru_cell.default, (x(2, 3), x(2, 5), x(15, 3), x(15, 5)), {}, [3, 5]),
}
MOVES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[int]]] = {
    # ops that put entries in other places, with sizes among their arguments: so that they cannot be run on fewer units
    "strided": (ATEN.as_strided.default, (x(2, 3, 5), [2, 5, 3], [15, 1, 5]), {}, [2, 3, 5]),
    "strided over a part": (ATEN.as_strided.default, (x(2, 3, 5), [2, 2, 5], [15, 5, 1]), {}, [2, 5]),
    "strided from a place": (ATEN.as_strided.default, (x(2, 3, 5), [2, 2], [15, 1], 1), {}, [2]),
    "strided across rows": (ATEN.as_strided.default, (x(2, 3, 5), [2, 3], [3, 1]), {}, []),
    "windows": (ATEN.unfold.default, (x(2, 3, 7), 2, 4, 1), {}, [2, 3]),
    "windows along units": (ATEN.unfold.default, (x(2, 3, 7), 1, 2, 1), {}, [2, 7]),
    "split": (ATEN.split.Tensor, (x(2, 6), 3, 1), {}, [2, 3]),
    "split of sizes": (ATEN.split_with_sizes.default, (x(2, 8), [3, 5], 1), {}, [2, 3, 5]),
    "split with a rest": (ATEN.split.Tensor, (x(2, 8), 3, 1), {}, [2, 2, 3]),
    "chunks": (ATEN.chunk.default, (x(2, 6), 3, -1), {}, [2, 2]),
    "split of rows": (ATEN.split.Tensor, (x(6, 5), 3), {}, [3, 5]),
    "slice": (ATEN.slice.Tensor, (x(2, 8), 1, 3, 5), {}, [2, 2, 3, 3]),
    "slice from the end": (ATEN.slice.Tensor, (x(2, 8), 1, -3), {}, [2, 3, 5]),
    "slice of all": (ATEN.slice.Tensor, (x(2, 8), 1, 0, 99), {}, [2, 8]),
    "slice of rows": (ATEN.slice.Tensor, (x(7, 5), 0, 0, 3), {}, [3, 4, 5]),
    "slice with a step": (ATEN.slice.Tensor, (x(2, 15), 1, 0, 99, 3), {}, [2, 5]),
    "slice with a step from a place": (ATEN.slice.Tensor, (x(2, 15), 1, 2, 99, 3), {}, [2, 5]),
    "slice with a step that does not fit": (ATEN.slice.Tensor, (x(2, 16), 1, 0, 99, 3), {}, [2]),
    "slice with a step of a part": (ATEN.slice.Tensor, (x(2, 15), 1, 3, 99, 3), {}, [2]),
    "narrow": (ATEN.narrow.default, (x(2, 8), 1, 2, 5), {}, [2, 2, 5]),
    "view": (ATEN.view.default, (x(6, 5), [2, 3, 5]), {}, [2, 3, 5]),
    "view of halves": (ATEN.view.default, (x(6, 5), [3, 10]), {}, [2, 3, 5]),
    "view that does not divide": (ATEN.view.default, (x(4, 6), [3, 8]), {}, []),
    "unflatten": (ATEN.unflatten.int, (x(2, 15), 1, [3, 5]), {}, [2, 3, 5]),
    "reshape with ones": (ATEN.reshape.default, (x(2, 1, 3), [1, 2, 3, 1]), {}, [2, 3]),
    "expanded": (ATEN.expand.default, (x(2, 1, 3), [7, 2, 5, 3]), {}, [2, 3]),
}
CASES: dict[str, Case] = {name: (op, (args, options), free) for name, (op, args, options, free) in OPS.items()}
MOVING: dict[str, Case] = {name: (op, (args, options), free) for name, (op, args, options, free) in MOVES.items()}
WEAKER = {
    *("layer norm without numbers", "instance norm without numbers", "group norm without numbers"),
    *("group norm of unequal groups", "batch norm with statistics", "layer norm with statistics"),
    *(
        "argmax",
        "sort",
        "topk",
        "kth value",
        "median",
        "max",
        "buckets by row",
        "where of one row",
        "dropout with its mask",
    ),
}
"""Where a rule says less than it could."""


@pytest.mark.parametrize("name", CASES | MOVING)
def test_no_more_is_frozen_than_an_op_asks_for(name: str) -> None:
    assert sorted(atom.size for atom in Ruled(name).free) == (CASES | MOVING)[name][2]


@pytest.mark.parametrize("zero", ZEROS)
@pytest.mark.parametrize("name", CASES)
def test_an_op_without_a_unit_gives_what_the_masked_one_does_unless_it_takes_statistics(name: str, zero: str) -> None:
    op = Ruled(name, ZEROS[zero])
    for atom in op.free - op.statistics:
        keep = without(atom)
        small = op.run(lambda tensor, value, keep=keep: cut(tensor, value, keep))  # type: ignore[misc]
        for masked, after, value in zip(op.masked(keep), small, op.outputs, strict=False):
            torch.testing.assert_close(cut(masked, value, keep), after, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("zero", ZEROS)
@pytest.mark.parametrize("name", CASES)
def test_what_is_said_to_be_zero_is_and_where_operands_are_what_is_not_is_not(name: str, zero: str) -> None:
    op = Ruled(name, ZEROS[zero])
    for number, value in enumerate(op.outputs):
        left = []
        for atom in op.free - op.statistics:  # statistics of the masked model are those of what stays
            keep = without(atom)
            masked = op.masked(keep)[number]
            gone = torch.zeros_like(masked, dtype=torch.bool)
            for dim, axis in enumerate(value.axes):
                gone |= ~keep_vector(axis, keep).view(-1, *[1] * (gone.ndim - dim - 1))
            left.append(bool(masked[gone].any()))
        if value.zero:
            assert not any(left)
        elif zero == "all" and not all(map(is_fixed, value.axes)):
            assert any(left) or name in WEAKER


@pytest.mark.parametrize("name", CASES)
def test_a_dimension_that_reaches_the_output_makes_units_and_one_that_does_not_reads_them(name: str) -> None:
    op = Ruled(name)
    loops = "lstm" in name or "gru" in name or "rnn" in name  # which read their own units
    returned = atoms_of(axis for value in op.outputs for axis in value.axes)
    axes = {source: axis for _, value in op.operands for source, axis in zip(value.source, value.axes, strict=True)}
    for source, roles in op.ties.roles.items():
        of = atoms_of([axes[source]]) & op.free
        if of and not of & op.statistics:
            reaches = source[1] == 0 if loops else of <= returned
            assert roles == {"out" if reaches else "in"}


@pytest.mark.parametrize("name", MOVING)
def test_entries_of_a_unit_are_where_the_op_puts_them(name: str) -> None:
    op = Ruled(name)
    for atom in op.free:
        keep = without(atom)

        def entries(tensor: Tensor, value: Value, keep: dict[Atom, Tensor] = keep) -> Tensor:
            """Whether each entry is of a unit that stays."""
            stays = torch.ones_like(tensor)
            for dim, axis in enumerate(value.axes):
                stays *= keep_vector(axis, keep).view(-1, *[1] * (tensor.ndim - dim - 1))
            return stays

        for moved, value in zip(op.run(entries), op.outputs, strict=True):
            assert torch.equal(moved, entries(moved, value))


SIZED = {
    **{name: case for name, case in MOVING.items() if "strided" not in name},
    **{name: CASES[name] for name in ("grouped conv", "grouped transposed", "depthwise conv", "channel shuffle")},
    **{name: CASES[name] for name in ("group norm", "layer norm", "layer norm of two axes", "rms norm", "repeat")},
    **{name: CASES[name] for name in ("repeat interleave", "linear", "relu", "permute")},
}


@pytest.mark.parametrize("name", SIZED)
def test_an_op_with_its_new_sizes_gives_what_stays(name: str) -> None:
    op = Ruled(name)
    structure: Any = SimpleNamespace(values=op.values, ties=op.ties)
    groups = {atom for atom in atoms_of(op.ties.groups.values()) if not atom.frozen and atom.size > 2}
    whole = op.run(lambda tensor, value: tensor)
    returned = atoms_of(axis for value in op.outputs for axis in value.axes)
    for atom in ((op.free - op.statistics) | groups) & returned:  # what is summed over is zero in a masked model alone
        keep = without(atom)
        sizes = new_sizes(structure, op.node, keep)
        old = bind(op.node, {})
        changed = {(b, a) for size, new in sizes.items() for b, a in zip(*map(listed, (old[size], new)), strict=False)}
        if all(len(listed(old[size])) == len(listed(new)) for size, new in sizes.items()):
            assert size_changes(structure, op.node, keep) == {(b, a) for b, a in changed if b != a}
        kept = {node: cut(node.meta["val"], op.values[node], keep) for node in op.node.all_input_nodes}
        args, options = with_arguments(op.node, op.node.args, op.node.kwargs, sizes)
        args, options = fx.map_arg((args, options), kept.__getitem__)
        target = (
            ATEN.split_with_sizes.default
            if name in ("split", "split with a rest", "chunks", "split of rows")
            else op.op
        )
        if target is not op.op and not isinstance(args[1], list):
            target = op.op
        outputs = target(*args, **options)
        for small, full, value in zip(*map(listed, (outputs, whole)), op.outputs, strict=True):
            torch.testing.assert_close(small, cut(full, value, keep), rtol=1e-9, atol=1e-9)


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


ENOUGH: list[tuple[str, tuple[bool, ...]]] = [
    ("addcmul", (True, True, False)),
    ("lerp", (True, True)),
    ("mul", (True, False)),
    ("mul of one row", (False, True)),
    ("linear", (False, True, True)),
    ("linear without a bias", (False, True)),
    ("einsum", (True, True)),
    ("addmm", (True, True, True)),
    ("div", (True,)),
    ("power", (True,)),
    ("conv1d", (False, True, True)),
    ("batch norm", (False, True, True, False, False)),
    ("layer norm of two axes", (True, True)),
    ("where of one row", (False, True, True)),
    ("index add", (True, False, True)),
    ("copied", (False, True)),
    ("glu", (True,)),
]


@pytest.mark.parametrize(("name", "zeros"), ENOUGH)
def test_some_operands_are_enough_for_zeros(name: str, zeros: tuple[bool, ...]) -> None:
    """Axes that no unit is of are fixed, so that broadcasting takes nothing away."""
    op, graph = CASES[name][0], fx.Graph()
    count, values = len(tensors_in(CASES[name][1])), dict[fx.Node, Any]()

    def holder(argument: Any) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        node = graph.placeholder(f"x{len(values)}")
        node.meta["val"] = argument
        # Units lie along the axis of size 3 alone.
        axes = tuple(Atom(n) if n == 3 else fixed(n) for n in argument.shape)
        values[node] = Value(axes, zeros[len(values)])
        return node

    args, options = pytree.tree_map(holder, CASES[name][1])
    node = graph.call_function(op, args, options)
    node.meta["val"] = op(*CASES[name][1][0], **CASES[name][1][1])
    outcome = RULES[op_name(node)](Call(node, bind(node, values), Ties()))
    assert count == len(zeros)
    assert isinstance(outcome, Value)
    assert outcome.zero


# ---- what is written down beside the axes ----


@pytest.mark.parametrize("name", [name for name in CASES if "any" not in name])  # of which zeros are no part
def test_what_is_called_a_statistic_is_another_number_without_some_of_its_entries(name: str) -> None:
    op = Ruled(name)
    for atom in op.statistics:
        keep = without(atom)
        apart = False
        for shift in (0.0, 9.0, -9.0):  # an extreme may be above zero or below

            def shifted(tensor: Tensor, shift: float = shift) -> Tensor:
                return tensor + shift if tensor.is_floating_point() else tensor

            small = op.run(lambda tensor, value, keep=keep: cut(shifted(tensor), value, keep))  # type: ignore[misc]
            masked = op.run(lambda tensor, value, keep=keep: masked_by(shifted(tensor), value, keep))  # type: ignore[misc]
            pairs = zip([cut(m, v, keep) for m, v in zip(masked, op.outputs, strict=False)], small, strict=False)
            apart |= not all(torch.allclose(a, b, equal_nan=True) for a, b in pairs)
        assert apart


KEEPING = (
    *("permute", "transpose", "t", "mT", "numpy_T", "movedim", "moveaxis", "unsqueeze", "squeeze", "squeeze of all"),
    *("unbind", "unbind of columns", "select", "swapped", "view", "view of halves", "reshape with ones", "flatten"),
    *("relu", "mul", "mul by a column", "mul of one row", "add", "add that broadcasts", "unflatten"),
)
"""Ops after which a dimension may still be a parameter's."""


@pytest.mark.parametrize("name", KEEPING)
def test_a_parameters_dimension_is_known_again_after_an_op(name: str) -> None:
    op = Ruled(name)
    dims = {
        id(resolve(axis)): source
        for _, value in reversed(op.operands)
        for axis, source in zip(value.axes, value.source, strict=True)
        if axis.size > 1
    }
    for value in op.outputs:
        assert len(value.source) == len(value.axes)
        for axis, source in zip(value.axes, value.source, strict=True):
            expected = dims.get(id(resolve(axis))) if axis.size > 1 else None
            assert (source is None) == (expected is None)
            if source is not None and expected is not None:
                tied = {
                    n
                    for _, v in op.operands
                    for a, n in zip(v.axes, v.source, strict=True)
                    if resolve(a) is resolve(axis)
                }
                assert source in tied


UNITS: dict[str, dict[int, str]] = {
    "linear": {5: "neuron"},
    "conv2d": {5: "filter"},
    "transposed": {5: "filter"},
    "embedding": {3: "embedding"},
    "embedding bag": {3: "embedding"},
    "attention": {2: "head", 7: "head", 3: "head dimension", 5: "head dimension"},
    "grouped conv": {7: "filter"},
    "batch norm": {},
    "relu": {},
    "sum": {},
}
"""What the units of free axes are called first, by size."""


@pytest.mark.parametrize("name", UNITS)
def test_units_are_called_what_the_op_makes_of_them(name: str) -> None:
    op = Ruled(name)
    words: dict[int, str] = {}
    for axis, word in op.ties.units:
        for atom in atoms_of([axis]) & op.free:
            words.setdefault(atom.size, word)
    assert words == UNITS[name]


def activations(op: Callable[..., Any], *shapes: tuple[int, ...]) -> Ties:
    """What a rule says of an op on activations, whose axes are free and no parameter's."""
    graph, values, nodes = fx.Graph(), dict[fx.Node, Any](), list[fx.Node]()
    for number, shape in enumerate(shapes):
        node = graph.placeholder(f"x{number}")
        node.meta["val"], values[node] = x(*shape), Value(tuple(map(Atom, shape)))
        nodes.append(node)
    node = graph.call_function(op, tuple(nodes))
    node.meta["val"] = op(*(n.meta["val"] for n in nodes))
    ties = Ties()
    RULES[op_name(node)](Call(node, bind(node, values), ties))
    return ties


def words_of(ties: Ties) -> dict[int, str]:
    return {atom.size: word for axis, word in ties.units for atom in atoms(axis)}


def test_activations_that_are_multiplied_are_attention_written_out() -> None:
    heads, dimension = "head", "head dimension"
    ties = activations(ATEN.matmul.default, (2, 7, 4, 3), (2, 7, 3, 5))
    assert words_of(ties) == {2: heads, 7: heads, 3: dimension}
    ties = activations(ATEN.bmm.default, (7, 4, 3), (7, 3, 5))
    assert words_of(ties) == {7: heads, 3: dimension}


def test_a_sum_over_the_last_axis_of_a_product_is_a_dot_product() -> None:
    for op, dims, is_dot in (("mul", [-1], True), ("mul", [2], True), ("mul", [1], False), ("add", [-1], False)):
        graph = fx.Graph()
        a, b = (graph.placeholder(name) for name in "ab")
        hidden = [graph.call_function(ATEN.relu.default, (node,)) for node in (a, b)]
        product = graph.call_function(getattr(ATEN, op).Tensor, tuple(hidden))
        total = graph.call_function(ATEN.sum.dim_IntList, (product, dims))
        for node in (a, b, *hidden, product):
            node.meta["val"] = x(2, 3, 5)
        total.meta["val"] = x(2, 3, 5).sum(dims)
        ties = Ties()
        RULES["sum"](Call(total, {"self": Value(tuple(map(Atom, (2, 3, 5)))), "dim": dims}, ties))
        assert words_of(ties) == ({5: "head dimension"} if is_dot else {})
    # A weight that is multiplied is no activation.
    graph = fx.Graph()
    a, weight = (graph.placeholder(name) for name in "aw")
    product = graph.call_function(ATEN.mul.Tensor, (graph.call_function(ATEN.relu.default, (a,)), weight))
    total = graph.call_function(ATEN.sum.dim_IntList, (product, [-1]))
    total.meta["val"] = x(2, 3)
    ties = Ties()
    RULES["sum"](Call(total, {"self": Value(tuple(map(Atom, (2, 3, 5)))), "dim": [-1]}, ties))
    assert words_of(ties) == {}


def test_rows_that_are_routed_to_groups_tie_the_sizes_of_their_matrices() -> None:
    graph = fx.Graph()
    rows, weight, ends = (graph.placeholder(name) for name in ("rows", "weight", "ends"))
    node = graph.call_function(ATEN._grouped_mm.default, (rows, weight, ends))
    node.meta["val"] = torch.zeros(4, 5, dtype=torch.bfloat16)
    axes = {name: Atom(size) for name, size in (("n", 4), ("k", 3), ("g", 2), ("m", 5), ("inner", 3))}
    ties = Ties()
    arguments = {
        "self": Value((axes["n"], axes["k"]), False),
        "mat2": Value((axes["g"], axes["inner"], axes["m"]), True, (("w", 0), ("w", 1), ("w", 2))),
    }
    value = RULES["_grouped_mm"](Call(node, arguments, ties))
    assert isinstance(value, Value)
    assert value.axes == (axes["n"], axes["m"])
    assert value.zero
    assert resolve(axes["k"]) is resolve(axes["inner"])
    assert {name: bool(axis.frozen) for name, axis in axes.items()} == {
        **dict.fromkeys(("n", "g"), True),
        **dict.fromkeys(("k", "m", "inner"), False),
    }
    assert ties.roles == {("w", 1): {"in"}, ("w", 2): {"out"}}
    assert [(resolve(axis), size) for axis, size in ties.aligned] == [(resolve(axes["k"]), 8), (axes["m"], 8)]
    for wrong in (
        {"self": Value((axes["n"],))},
        {"bias": Value((axes["m"],))},
        {"mat2": Value((axes["g"], axes["m"]))},
    ):
        other = RULES["_grouped_mm"](Call(node, {**arguments, **wrong}, Ties()))
        assert isinstance(other, Value)
        assert all(map(is_fixed, other.axes))


def test_a_mask_is_the_same_along_rows_where_it_is_repeated_along_them() -> None:
    masks: dict[str, Callable[[fx.Graph, fx.Node], fx.Node]] = {
        "expanded": lambda g, m: g.call_function(ATEN.expand.default, (m, [2, 3])),
        "expanded and copied": lambda g, m: g.call_function(
            ATEN.clone.default, (g.call_function(ATEN.expand.default, (m, [2, 3])),)
        ),
        "of its own": lambda g, m: g.call_function(ATEN.logical_not.default, (m,)),
    }
    for kind, make in masks.items():
        for narrow in ((2, 1), (2, 3), (3,)):
            graph = fx.Graph()
            target, mask, source = (graph.placeholder(name) for name in ("x", "mask", "source"))
            mask.meta["val"] = torch.ones(narrow, dtype=torch.bool)
            wide = make(graph, mask)
            for node in (wide, *wide.all_input_nodes):
                if node is not mask:
                    node.meta["val"] = torch.ones(2, 3, dtype=torch.bool)
            node = graph.call_function(ATEN.masked_scatter.default, (target, wide, source))
            node.meta["val"] = x(2, 3)
            units, written = Atom(3), Atom(3)
            values = {
                "self": Value((fixed(2), units)),
                "mask": Value((fixed(2), Atom(3)), False),
                "source": Value((fixed(2), written)),
            }
            RULES["masked_scatter"](Call(node, values, Ties()))
            if kind != "of its own" and narrow == (2, 1):
                assert resolve(units) is resolve(written)
                assert not is_fixed(units)
            else:
                assert is_fixed(units)
                assert is_fixed(written)


# ---- what is left costs ----

COUNTED = [name for name in CASES if CASES[name][0]._schema.name.removeprefix("aten::") in COUNTS]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COUNTED)
def test_an_op_costs_as_much_as_torch_counts_and_without_a_unit_what_the_smaller_one_does(name: str) -> None:
    op = Ruled(name)
    count = COUNTS[op_name(op.node)]
    arguments = bind(op.node, op.values)
    whole = count(_Left({}), arguments, op.outputs[0])
    if not any(word in name for word in ("einsum", "lstm", "gru", "rnn")) and name not in (
        "mv",
        "dot",
        "linear of a vector",
    ):
        with FlopCounterMode(display=False) as counter:
            op.run(lambda tensor, value: tensor)
        assert whole == counter.get_total_flops() // 2
    elif isinstance(arguments.get("params"), list):  # 2 steps of 7 samples through every matrix
        assert whole == 2 * 7 * sum(m.numel() for m in op.arguments[0][2] if m.ndim == 2)
    for atom in op.free:
        kept = {atom: atom.size - 1}

        def smaller(value: Any, kept: dict[Atom, int] = kept) -> Any:
            """The same with fixed sizes."""
            if isinstance(value, list | tuple):
                return [smaller(part) for part in value]
            return Value(tuple(fixed(_Left(kept).size(a)) for a in value.axes)) if isinstance(value, Value) else value

        small = {key: smaller(value) for key, value in arguments.items()}
        left = count(_Left(kept), arguments, op.outputs[0])
        assert left == count(_Left({}), small, smaller(op.outputs[0]))
        assert left <= whole


def test_axes_are_told_by_their_sizes_and_what_they_are_made_of() -> None:
    a, b, c = Atom(2), Atom(3), Atom(4, "held")
    assert [repr(axis) for axis in (a, c, product(a, b), total(a, b), product(total(a, b), c))] == [
        *("2", "4!", "(2×3)", "(2+3)", "((2+3)×4!)")
    ]
    whole = Atom(6)
    unify(whole, product(a, b))
    assert repr(whole) == "(2×3)"


# ---- gates where units are read ----


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 5, 6), (6, 5), (3, 6, 5, 4)])
def test_gates_are_spread_to_where_their_units_lie(shape: tuple[int, ...]) -> None:
    dim = shape.index(6)
    index = torch.tensor([[4, 0], [1, 5]])  # two units of two places; the others are of none
    source = fx.Graph().placeholder("x")
    source.meta["val"] = values = x(*shape)
    read = Read("site", source, source, dim, index)
    for gates in (torch.tensor([0.0, 2.0]), torch.tensor([[0.0, 2.0]] * shape[0])):
        if gates.ndim == 2 and dim == 0:
            continue
        factors = read.spread(gates.double())
        expected = torch.ones(6, dtype=torch.float64)
        expected[[4, 0]], expected[[1, 5]] = 0.0, 2.0
        along = [1] * values.ndim
        along[dim] = 6
        assert torch.equal(values * factors, values * expected.view(along))
        assert factors.ndim == values.ndim
    per_sample = torch.stack([torch.full((2,), float(n)) for n in range(shape[0])]).double()
    if dim > 0:
        scaled = values * read.spread(per_sample)
        for n in range(shape[0]):
            touched = torch.zeros(6, dtype=torch.bool)
            touched[index.flatten()] = True
            sample, before = scaled[n].movedim(dim - 1, 0), values[n].movedim(dim - 1, 0)
            assert torch.equal(sample[touched], n * before[touched])
            assert torch.equal(sample[~touched], before[~touched])
    rows = read.rows(values)
    for unit, places in enumerate(index.tolist()):
        picked = values.index_select(dim, torch.tensor(places))
        samples = 1 if dim == 0 else shape[0]
        assert rows.shape == (2, samples, picked.numel() // samples)
        for n in range(samples):
            part = picked if dim == 0 else picked[n]
            assert torch.equal(rows[unit, n].sort().values, part.flatten().sort().values)
