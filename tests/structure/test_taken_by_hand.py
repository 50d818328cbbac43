"""Which sizes a graph takes, decided from what runs at other sizes would say, without a graph or a run."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import sympy
import torch

from secateur.structure.accepted import Shapes, check_shape, check_value, in_span, span_in_words
from secateur.structure.entries import check_left_out
from secateur.structure.frames import ShapedFrame
from secateur.structure.free_sizes import FreeSizes, _is_bound
from secateur.structure.tried_shapes import _greater, _in_steps, _less, shapes_taken
from secateur.types import InputError

B, T, S = (sympy.Symbol(name, integer=True, positive=True) for name in "BTS")
Agrees = Callable[[int, int], bool | None]
RANGES: dict[Any, tuple[int, int | None]] = {B: (2, None), T: (2, None)}


def free_sizes(ranges: dict[Any, tuple[int, int | None]], *conditions: Any, shapes: Any = ((B, T, 6),)) -> FreeSizes:
    return FreeSizes(shapes, {B: 2, T: 8, S: 12}, ranges, conditions, {}, {})


def taken(free: FreeSizes | None, agrees: Agrees, cheap: bool = True) -> tuple[Shapes, list[tuple[int, int]]]:
    """The shapes that a graph takes for inputs of shape (batch, length, 6), and what was tried."""
    example, tried = torch.zeros(2, 8, 6), list[tuple[int, int]]()

    def at(frame: ShapedFrame) -> bool | None:
        batch, length, *_ = frame.shape(example)
        tried.append((batch, length))
        return agrees(batch, length)

    cases: Any = SimpleNamespace(reference=SimpleNamespace(inputs=((example,), {})), cheap=cheap)
    return shapes_taken(cases, free, at), tried


@pytest.mark.parametrize(
    ("agrees", "shape"),
    [
        (lambda b, t: True, (None, None, 6)),
        (lambda b, t: False, (2, 8, 6)),
        (lambda b, t: None, (2, 8, 6)),  # where the original does not run, nothing is known
        (lambda b, t: t <= 8, (None, (1, 8), 6)),
        (lambda b, t: t >= 8, (None, (8, None), 6)),
        (lambda b, t: t > 1, (None, (2, None), 6)),
        (lambda b, t: b > 1, ((2, None), None, 6)),
        (lambda b, t: b <= 2, ((1, 2), None, 6)),
        (lambda b, t: b == 2, (2, None, 6)),
        (lambda b, t: t == 8, (None, 8, 6)),
        (lambda b, t: t % 2 == 0, (None, 8, 6)),
        (lambda b, t: t % 2 == 0 or None, (None, (2, None), 6)),
        (lambda b, t: b == 2 or t == 8, (None, 8, 6)),  # each alone, not both
    ],
)
def test_sizes_may_be_others_where_all_runs_there_agree(agrees: Agrees, shape: tuple[Any, ...]) -> None:
    assert taken(free_sizes(RANGES), agrees)[0] == (shape,)


def test_bounds_and_conditions_of_the_code_hold_for_what_is_tried() -> None:
    shapes, tried = taken(free_sizes({B: (2, None), T: (3, 20)}, sympy.Eq(T % 4, 0)), lambda b, t: True)
    assert shapes == ((None, (3, 20), 6),)
    assert {t for _, t in tried} <= {4, 8, 12, 16, 20}
    assert {t for _, t in tried} >= {4, 16}
    assert taken(free_sizes({B: (2, None), T: (8, 8)}), lambda b, t: True)[0] == ((None, 8, 6),)
    assert taken(free_sizes({T: (2, None)}), lambda b, t: True)[0] == ((2, None, 6),)


def test_of_a_costly_model_few_sizes_are_tried_and_small_ones_first() -> None:
    shapes, tried = taken(free_sizes(RANGES), lambda b, t: True, cheap=False)
    assert shapes == ((None, None, 6),)
    assert tried[:2] == [(1, 7), (3, 9)]
    assert len(tried) < len(taken(free_sizes(RANGES), lambda b, t: True)[1])


def test_where_nothing_is_free_all_sizes_are_the_examples() -> None:
    for free in (None, free_sizes({})):
        assert taken(free, lambda b, t: True) == (((2, 8, 6),), [])


@pytest.mark.parametrize(
    ("agrees", "last"), [(lambda b, t: True, None), (lambda b, t: t == 8, 16), (lambda b, t: b == 2, None)]
)
def test_sizes_that_follow_from_others_are_free_with_them(agrees: Agrees, last: int | None) -> None:
    free = free_sizes(RANGES, shapes=((B, T, 2 * T),))
    assert taken(free, agrees)[0][0][2] == last


def test_lengths_that_do_not_change_together_may_change_alone() -> None:
    free = free_sizes({T: (2, None), S: (2, None)}, shapes=((2, T, S),))
    example, seen = torch.zeros(2, 8, 12), []

    def at(frame: ShapedFrame) -> bool:
        _, t, s = frame.shape(example)
        seen.append((t, s))
        return s == 12

    cases: Any = SimpleNamespace(reference=SimpleNamespace(inputs=((example,), {})), cheap=True)
    assert shapes_taken(cases, free, at) == ((2, None, 12),)


def test_numbers_to_try_are_less_and_greater_in_steps_of_their_halves() -> None:
    assert _less(8) == [7, 6, 1, 4, 2]
    assert _greater(8) == [9, 10, 16, 16, 25]
    for size in range(1, 200):
        assert all(number < size for number in _less(size) if size > 2 and number != 1)
        assert all(number > size for number in _greater(size))
    steps = [
        (100, 0.75, 72),
        (100, 1.25, 128),
        (64, 0.75, 32),
        (64, 1.25, 96),
        (7, 0.75, 5),
        (7, 1.25, 9),
        (2, 0.75, 1),
    ]
    assert [_in_steps(size, scale) for size, scale, _ in steps] == [number for *_, number in steps]
    assert _in_steps(128, 0.75) == 96  # steps of 32, though halves allow 128


@pytest.mark.parametrize(
    ("condition", "bound"),
    [
        (T < 5, True),
        (T >= 2, True),
        (sympy.Lt(5, T), True),
        (T < B, False),  # which no range says
        (T <= B, False),
        (2 * T < 5, False),
        (T < B + 1, False),
        (sympy.Eq(T, 5), False),
        (sympy.Ne(T, 5), False),
        (sympy.Or(T < 5, B < 5), False),
    ],
)
def test_only_a_letter_against_a_number_is_a_bound(condition: Any, bound: bool) -> None:
    assert _is_bound(condition) is bound


def test_letters_are_allowed_in_their_ranges_where_conditions_are_true() -> None:
    free = free_sizes({B: (2, 5), T: (3, None)}, sympy.Eq(T % 2, 0))
    for b, t, allowed in (
        (2, 4, True),
        (5, 4, True),
        (6, 4, False),
        (1, 4, False),
        (2, 2, False),
        (2, 99, False),
        (2, 98, True),
    ):
        assert free.allow({B: b, T: t}) is allowed
    assert free.allow({B: 1, T: 4}, least=1)
    assert not free.allow({B: 0, T: 4}, least=1)
    assert not free.allow({B: 9, T: 4}, least=9)
    assert free.shapes_at({B: 3, T: 4}) == [(3, 4, 6)]


@pytest.mark.parametrize(
    ("wanted", "sizes", "words"),
    [
        (None, {0, 1, 2, 3, 4, 5, 6}, "any"),
        (3, {3}, "3"),
        ((2, None), {2, 3, 4, 5, 6}, "2 or more"),
        ((0, 2), {0, 1, 2}, "up to 2"),
        ((1, 2), {1, 2}, "up to 2"),
        ((2, 4), {2, 3, 4}, "2 to 4"),
        ((1, None), {1, 2, 3, 4, 5, 6}, "1 or more"),
    ],
)
def test_a_span_holds_the_sizes_that_it_says(wanted: Any, sizes: set[int], words: str) -> None:
    assert {size for size in range(7) if in_span(size, wanted)} == sizes
    assert span_in_words(wanted) == words
    for size in range(7):
        x = torch.zeros(size, 3)
        if size in sizes:
            check_shape(x, (wanted, 3), 1, "x")
        else:
            with pytest.raises(
                InputError, match=rf"input 1 of this graph has shape \({size}, 3\); it takes \({words}, 3\)"
            ):
                check_shape(x, (wanted, 3), 1, "x")


def test_another_number_of_dimensions_is_another_shape() -> None:
    for x in (torch.zeros(3), torch.zeros(3, 3, 3)):
        with pytest.raises(InputError, match="input 0 of this graph"):
            check_shape(x, (None, None), 0, "x")


@pytest.mark.parametrize(
    ("value", "other", "same"),
    [
        (2, 2, True),
        (2, 3, False),
        (1, True, False),
        (2, 2.0, False),
        ("a", "a", True),
        (None, None, True),
        (None, 0, False),
    ],
)
def test_plain_values_are_the_same_in_kind_too(value: Any, other: Any, same: bool) -> None:
    for check in (check_value, check_left_out):
        if same:
            check(value, other, "x")
        else:
            with pytest.raises(InputError, match="this graph was made with"):
                check(value, other, "x")


def test_a_tensor_that_was_left_out_is_refused_unless_it_is_the_very_default() -> None:
    default = torch.ones(2)
    check_left_out(default, default, "mask")
    with pytest.raises(InputError, match="made without mask"):
        check_left_out(torch.ones(2), default, "mask")
