"""The axis algebra, on axes small enough to check by hand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.structure.axes import (
    Atom,
    Prod,
    Sum,
    atoms,
    factor,
    fixed,
    is_fixed,
    keep_vector,
    positions,
    product,
    resolve,
    split,
    total,
    unify,
)


def keep(*bits: int) -> torch.Tensor:
    return torch.tensor(bits, dtype=torch.bool)


def ints(mask: torch.Tensor) -> list[int]:
    return mask.int().tolist()


def test_an_atom_becomes_the_product_that_it_meets() -> None:
    width, heads, dim = Atom(6), Atom(2), Atom(3)
    unify(width, product(heads, dim))
    assert isinstance(resolve(width), Prod)
    assert ints(keep_vector(width, {heads: keep(1, 0)})) == [1, 1, 1, 0, 0, 0]
    assert ints(keep_vector(width, {dim: keep(1, 0, 1)})) == [1, 0, 1, 1, 0, 1]
    assert ints(keep_vector(width, {heads: keep(0, 1), dim: keep(0, 1, 1)})) == [0, 0, 0, 0, 1, 1]


def test_sums_are_cut_at_the_boundaries_of_both() -> None:
    a, b, c = Atom(2), Atom(3), Atom(4)
    unify(total(a, b), total(Atom(1), c))
    # (2+3) against (1+4): pieces 1, 1, 3
    assert [p.size for p in resolve(total(a, b)).parts] == [1, 1, 3]
    assert [x.size for x in atoms(c)] == [1, 3]
    assert list(atoms(c)) == list(atoms(total(a, b)))[1:]


def test_a_sum_meets_a_product_factor_by_factor() -> None:
    x, y, group, width = Atom(4), Atom(6), Atom(5), Atom(2)
    unify(total(x, y), product(group, width))
    assert [a.size for a in atoms(group)] == [2, 3]  # 4 = 2×2 and 6 = 3×2
    assert list(atoms(x))[1] is resolve(width)
    assert list(atoms(y))[1] is resolve(width)


def test_products_refine_each_other() -> None:
    a, b = product(Atom(4), Atom(6)), product(Atom(8), Atom(3))
    unify(a, b)
    assert [x.size for x in atoms(a)] == [4, 2, 3]
    assert list(atoms(a)) == list(atoms(b))


def test_what_does_not_fit_is_frozen_with_the_reason() -> None:
    a, b = product(Atom(2), Atom(3)), product(Atom(3), Atom(2))
    unify(a, b, lambda: "view in conv1")
    assert is_fixed(a)
    assert is_fixed(b)
    assert {x.frozen for x in atoms(a)} == {"view in conv1"}


def test_frozen_spreads_to_what_it_is_unified_with() -> None:
    a, b = Atom(4), Atom(4)
    unify(a, fixed(4, "the model's output"))
    unify(b, a)
    assert next(iter(atoms(b))).frozen == "the model's output"
    heads = product(Atom(2), Atom(2))
    unify(a, heads)
    assert is_fixed(heads)


def test_factor_and_split_of_a_frozen_atom_leave_it_whole() -> None:
    pixels = fixed(12, "pixels")
    assert factor(pixels, 4) is not None
    assert split(pixels, 5) is not None
    assert resolve(pixels) is pixels


def test_rows_of_a_concatenation_are_alike() -> None:
    a, b, c, d = Atom(1), Atom(2), Atom(1), Atom(2)
    halves = factor(total(a, b, c, d), 3)
    assert halves is not None
    assert halves[0].size == 2
    assert is_fixed(halves[0])
    assert resolve(a) is resolve(c)
    assert resolve(b) is resolve(d)


def test_positions_of_a_unit_in_a_flattened_axis() -> None:
    channels = Atom(2)
    flat = total(fixed(1), product(channels, fixed(3)), Atom(2))
    found = positions(flat, channels)
    assert found is not None
    assert found.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert positions(flat, Atom(2)) is None


def test_an_atom_that_stands_twice_owns_rows_and_columns() -> None:
    side = Atom(2)
    found = positions(product(side, side), side)
    assert found is not None
    assert [sorted(set(places)) for places in found.tolist()] == [[0, 1, 2], [1, 2, 3]]


# A random axis is a nested list of sizes: a leaf is an atom, a tuple is a product or a sum.
trees = st.recursive(
    st.integers(1, 4),
    lambda inner: st.tuples(st.sampled_from("ps"), st.lists(inner, min_size=2, max_size=3)),
    max_leaves=5,
)


def build(tree: object) -> Atom | Prod | Sum:
    if isinstance(tree, int):
        return Atom(tree)
    assert isinstance(tree, tuple)
    axes = [build(t) for t in tree[1]]
    return product(*axes) if tree[0] == "p" else total(*axes)


@given(trees, st.data())
def test_an_atom_takes_every_shape_and_keeps_agree(tree: object, data: st.DataObject) -> None:
    axis = build(tree)
    atom = Atom(axis.size)
    unify(atom, axis)
    chosen = {
        a: torch.tensor(data.draw(st.lists(st.booleans(), min_size=a.size, max_size=a.size)), dtype=torch.bool)
        for a in set(atoms(axis))
    }
    assert torch.equal(keep_vector(atom, chosen), keep_vector(axis, chosen))
    assert keep_vector(axis, chosen).shape == (axis.size,)


@given(trees, trees)
def test_unified_axes_are_equal_or_frozen(left: object, right: object) -> None:
    a, b = build(left), build(right)
    if a.size != b.size:
        return
    unify(a, b)
    if is_fixed(a) and is_fixed(b):
        return
    for atom in set(atoms(a)) | set(atoms(b)):
        if atom.frozen:
            continue
        some = {atom: torch.arange(atom.size) % 2 == 0}
        assert torch.equal(keep_vector(a, some), keep_vector(b, some))


@given(trees)
def test_positions_agree_with_keep_vectors(tree: object) -> None:
    axis = build(tree)
    for atom in atoms(axis):
        where = positions(axis, atom)
        assert where is not None
        gone = torch.ones(atom.size, dtype=torch.bool)
        gone[0] = False
        expected = torch.ones(axis.size, dtype=torch.bool)
        expected[where[0]] = False
        assert torch.equal(keep_vector(axis, {atom: gone}), expected)
