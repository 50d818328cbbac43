"""One error for all numbers out of range: it says where, which, and what to give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from secateur.checks import check_name, check_number, check_whole, is_number, is_whole, within
from secateur.types import InputError, UnknownNameError


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1]", (0, 1, 0.5, np.float64(0.5)), (-1e-9, 1.1, float("nan"), True, "0.5", None)),
        ("(0, 1)", (0.5,), (0, 1)),
        ("[1, inf]", (1, float("inf")), (0, float("nan"))),
        ("(-inf, inf)", (-3, 10**30), (float("inf"), -float("inf"), float("nan"))),
    ],
)
def test_what_is_within_an_interval(interval: str, inside: tuple[Any, ...], outside: tuple[Any, ...]) -> None:
    assert all(within(value, interval) for value in inside)
    assert not any(within(value, interval) for value in outside)


def test_a_bool_is_no_number() -> None:
    assert (is_whole(1), is_whole(True), is_whole(1.0), is_number(1), is_number(True)) == (
        True,
        False,
        False,
        True,
        False,
    )


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ("[0, 1)", "must be a number in [0, 1)"),
        ("(0, inf)", "must be a finite number above 0"),
        ("[1, inf]", "must be a number, 1 or more"),
        ("(-inf, inf)", "must be a finite number"),
    ],
)
def test_an_interval_in_words(interval: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        check_number("trial", interval, share=float("nan"))
    assert str(caught.value) == f"trial: share=nan {words}"


def test_an_error_names_the_object_the_range_and_the_meaning() -> None:
    @dataclass
    class Method:
        rounds: object

    with pytest.raises(InputError) as caught:
        check_whole(Method(11), 2, "of training", most=10, or_none=True, rounds=11)
    assert str(caught.value) == "Method: rounds=11 must be a whole number from 2 to 10, or None: of training"
    check_whole("trial", or_none=True, rounds=None)


def test_a_name_that_is_not_known() -> None:
    check_name("order", None, ("given",), or_none=True)
    with pytest.raises(UnknownNameError, match="unknown order 'gievn'; did you mean 'given'"):
        check_name("order", "gievn", ("given", "random"))
    with pytest.raises(UnknownNameError, match="unknown order 'None'"):
        check_name("order", None, ("given", "random"))
