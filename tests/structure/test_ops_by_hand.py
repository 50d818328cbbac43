"""Ops by themselves, on nodes that are made by hand: what they cost, view, compute and tie."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from secateur.structure import channels
from secateur.structure.axes import Atom, fixed, is_fixed
from secateur.structure.cost import COUNTS, _Left
from secateur.structure.ops import by_sample, flattens, is_view, product_of
from secateur.structure.rules import RULES, Call, Value
from secateur.structure.rules.registry import Ties
from secateur.structure.stand_in import _grouped_mm

ATEN = torch.ops.aten


def node_of(op: Callable[..., Any], *args: Any) -> fx.Node:
    """A call of an op on empty tensors of the shapes that are tuples of numbers, noting its output as a traced one."""
    graph = fx.Graph()
    operands = [torch.zeros(a) if isinstance(a, tuple) else a for a in args]
    nodes = [graph.placeholder(f"x{n}") if isinstance(x, Tensor) else x for n, x in enumerate(operands)]
    for node, operand in zip(nodes, operands, strict=True):
        if isinstance(operand, Tensor):
            node.meta["val"] = operand
    call = graph.call_function(op, tuple(nodes))
    call.meta["val"] = op(*operands)
    return call


# ---- what an op costs ----


@pytest.mark.parametrize(
    ("equation", "shapes", "product"),
    [
        ("ij,jk->ik", [(2, 3), (3, 5)], 2 * 3 * 5),
        (" b i j , b j k -> b i k ", [(7, 2, 3), (7, 3, 5)], 7 * 2 * 3 * 5),
        ("ij,ij->", [(2, 3), (2, 3)], 2 * 3),
        ("ij,jk->ik", [(2, 3), (1, 5)], 2 * 3 * 5),
        ("ij->ji", [(2, 3)], 0),
        ("ij,jk,kl->il", [(2, 3), (3, 5), (5, 7)], 0),
        ("...j,jk->...k", [(2, 3), (3, 5)], 0),
    ],
)
def test_a_sum_over_letters_costs_the_product_of_all_their_sizes(
    equation: str, shapes: list[tuple[int, ...]], product: int
) -> None:
    values = [Value(tuple(map(fixed, shape))) for shape in shapes]
    assert COUNTS["einsum"](_Left({}), {"equation": equation, "tensors": values}, values[0]) == product


def test_the_same_product_written_in_two_ways_costs_the_same_whatever_is_left() -> None:
    inner, outer = Atom(3), Atom(5)
    left, right = Value((fixed(2), inner)), Value((inner, outer))
    output = Value((fixed(2), outer))
    for kept in ({}, {inner: 2}, {outer: 1}, {inner: 0}):
        sizes = _Left(kept)
        written = COUNTS["einsum"](sizes, {"equation": "ab,bc->ac", "tensors": [left, right]}, output)
        assert written == COUNTS["mm"](sizes, {"self": left, "mat2": right}, output)
        assert written == 2 * kept.get(inner, 3) * kept.get(outer, 5)


# ---- views ----


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (ATEN.view.default, ((2, 3), [3, 2])),
        (ATEN.transpose.int, ((2, 3), 0, 1)),
        (ATEN.relu_.default, ((2, 3),)),
        (ATEN.dropout.default, ((2, 3), 0.5, False)),
        (ATEN.relu.default, ((2, 3),)),
        (ATEN.clone.default, ((2, 3),)),
        (ATEN.add.Tensor, ((2, 3), (2, 3))),
    ],
    ids=str,
)
def test_a_view_is_what_lies_where_its_operand_does(op: Callable[..., Any], args: tuple[Any, ...]) -> None:
    node = node_of(op, *args)
    source = node.all_input_nodes[0].meta["val"]
    assert is_view(node) == (node.meta["val"].data_ptr() == source.data_ptr())


def test_an_item_of_a_tuple_may_be_a_view_and_what_has_no_schema_is_none() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    assert is_view(graph.call_function(operator.getitem, (x, 0)))
    assert not is_view(graph.call_function(operator.add, (x, x)))


# ---- joining axes ----


@pytest.mark.parametrize(
    ("before", "after", "joins"),
    [
        ((2, 3, 4), (2, 12), True),
        ((2, 3, 4), (24,), True),
        ((2, 3, 4, 5), (2, 3, 20), True),
        ((2, 3, 4), (2, 3, 4), True),
        ((2, 3, 4), (6, 4), False),
        ((2, 3, 4), (2, 4, 3), False),
        ((2, 12), (2, 12, 1), False),
        ((2, 12), (2, 3, 4), False),
        ((4, 3), (2, 6), False),
    ],
)
def test_only_what_joins_the_last_axes_flattens(before: tuple[int, ...], after: tuple[int, ...], joins: bool) -> None:
    assert flattens(node_of(ATEN.view.default, before, list(after))) is joins
    assert flattens(node_of(ATEN.reshape.default, before, list(after))) is joins


def test_an_op_that_changes_no_shape_or_reads_nothing_does_not_flatten() -> None:
    assert not flattens(node_of(ATEN.relu.default, (2, 3)))
    assert not flattens(fx.Graph().call_function(ATEN.view.default, ()))


# ---- repeating by broadcasting ----


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 1, 3)])
@pytest.mark.parametrize("extra", [(), (4,), (1, 4)])
def test_an_expanded_tensor_keeps_its_axes_at_the_right_and_what_is_added_is_new(
    shape: tuple[int, ...], extra: tuple[int, ...]
) -> None:
    axes = tuple(fixed(1) if size == 1 else Atom(size) for size in shape)
    grown = [*extra, *(5 if size == 1 else size for size in shape)]
    node = node_of(ATEN.expand.default, shape, grown)
    value = RULES["expand"](Call(node, {"self": Value(axes)}, Ties()))
    assert isinstance(value, Value)
    assert value.shape == tuple(grown)
    assert value.axes[-1] is axes[-1]
    for axis, size in zip(value.axes[: len(extra)], extra, strict=True):
        assert is_fixed(axis) == (size == 1)
    stays = [axis for axis, size in zip(axes, shape, strict=True) if size > 1]
    assert [axis for axis in value.axes if any(axis is old for old in stays)] == stays
    # Where entries are repeated along an axis, its units are not zero because others are.
    assert value.zero == (5 not in grown and 4 not in extra)


def test_what_is_not_zero_is_not_zero_when_it_is_expanded() -> None:
    node = node_of(ATEN.expand.default, (2, 3), [2, 3])
    value = RULES["expand"](Call(node, {"self": Value((Atom(2), Atom(3)), zero=False)}, Ties()))
    assert isinstance(value, Value)
    assert not value.zero


# ---- products by group ----


@pytest.mark.parametrize("ends", [[2, 5], [0, 3], [1, 1], [0, 0]])
def test_rows_are_multiplied_by_the_matrix_of_their_group_and_those_beyond_are_zero(ends: list[int]) -> None:
    a, b = torch.randn(5, 3), torch.randn(2, 3, 4)
    expected = torch.zeros(5, 4)
    for group, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        expected += ((torch.arange(5) >= start) & (torch.arange(5) < end))[:, None] * (a @ b[group])
    torch.testing.assert_close(_grouped_mm(a, b, torch.tensor(ends)), expected)


def test_other_grouped_products_are_refused() -> None:
    a, b, ends = torch.randn(5, 3), torch.randn(2, 3, 4), torch.tensor([2, 5])
    for arguments in ((a, b, None), (a[None], b, ends), (a, b[0], ends), (a, b, ends, torch.zeros(4))):
        with pytest.raises(NotImplementedError, match="another kind"):
            _grouped_mm(*arguments)


# ---- blocks that are run without gradients ----


class Quiet(nn.Module):
    """A hidden layer that is computed without gradients, of two operands that tie differently."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__()
        self.quiet, self.a, self.b, self.out = quiet, nn.Linear(3, 4), nn.Linear(3, 6), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        with torch.set_grad_enabled(not self.quiet):
            hidden = torch.cat([b.relu(), a.tanh()], 1)
        return self.out(hidden)  # type: ignore[no-any-return]


def test_a_block_that_is_run_as_one_op_ties_as_its_ops_do() -> None:
    plain, quiet = (channels(Quiet(quiet=quiet), torch.zeros(2, 3)) for quiet in (False, True))
    assert [site.size for site in plain.values()] == [4, 6]
    assert str(dict(quiet)) == str(dict(plain))  # all members, with their places
    assert quiet.frozen == plain.frozen


# ---- products ----


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        # convolution, transposed, groups, out first, plain
        (ATEN.linear.default, ((2, 3), (4, 3), (4,)), (False, False, 1, True, True)),
        (ATEN.linear.default, ((2, 3), (4, 3)), (False, False, 1, True, True)),
        (ATEN.mm.default, ((2, 3), (3, 4)), (False, False, 1, False, True)),
        (ATEN.addmm.default, ((4,), (2, 3), (3, 4)), (False, False, 1, False, True)),
        (ATEN.conv1d.default, ((2, 3, 7), (4, 3, 2)), (True, False, 1, True, True)),
        (
            ATEN.conv2d.default,
            ((2, 6, 7, 7), (4, 3, 2, 2), (4,), [1, 1], [0, 0], [1, 1], 2),
            (True, False, 2, True, True),
        ),
        (ATEN.conv_transpose1d.default, ((2, 3, 7), (3, 4, 2)), (True, True, 1, False, False)),
        (
            ATEN.convolution.default,
            ((2, 3, 7), (3, 4, 2), None, [1], [0], [1], True, [0], 1),
            (True, True, 1, False, False),
        ),
        (
            ATEN.convolution.default,
            ((2, 3, 7), (4, 3, 2), None, [1], [0], [1], False, [0], 1),
            (True, False, 1, True, True),
        ),
    ],
)
def test_a_product_is_told_by_its_op(op: Callable[..., Any], args: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    product = product_of(node_of(op, *args))
    assert product is not None
    told = (product.convolution, product.transposed, product.groups, product.out_first, product.plain)
    assert told == expected
    biased = len(args) > 2 and isinstance(args[2], tuple)
    assert (product.bias is not None) == biased
    weight = product.weight.meta["val"]
    inputs = product.source.meta["val"].shape[1 if product.convolution else -1]
    along = 1 if product.out_first else 0
    assert weight.shape[along] * product.groups == inputs


def test_what_multiplies_no_weight_is_no_product() -> None:
    assert product_of(node_of(ATEN.relu.default, (2, 3))) is None
    assert product_of(fx.Graph().placeholder("x")) is None
    graph = fx.Graph()
    a, b, c = (graph.placeholder(name) for name in "abc")
    for scale in ({"alpha": 2}, {"beta": 2}, {"alpha": 0}):
        product = product_of(graph.call_function(ATEN.addmm.default, (a, b, c), scale))
        assert product is not None
        assert not product.plain


@pytest.mark.parametrize(
    ("op", "args", "alone"),
    [
        (ATEN.relu.default, ((2, 3),), True),
        (ATEN.linear.default, ((2, 3), (4, 3)), True),
        (ATEN.mm.default, ((2, 3), (3, 4)), True),
        (ATEN.matmul.default, ((2, 3), (3, 4)), False),
        (ATEN.conv_transpose1d.default, ((2, 3, 7), (3, 4, 2)), False),
        (ATEN.avg_pool2d.default, ((2, 3, 6, 6), [2, 2]), True),
        (ATEN.batch_norm.default, ((2, 3), (3,), (3,), (3,), (3,), False, 0.1, 1e-5, False), True),
        (ATEN.batch_norm.default, ((2, 3), (3,), (3,), (3,), (3,), True, 0.1, 1e-5, False), False),
        (ATEN.softmax.int, ((2, 3), 0), False),
        (ATEN.sum.default, ((2, 3),), False),
    ],
)
def test_ops_that_treat_each_sample_by_itself(op: Callable[..., Any], args: tuple[Any, ...], alone: bool) -> None:
    assert by_sample(node_of(op, *args)) is alone
