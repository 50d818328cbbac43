"""Options: what is allowed, what is refused, and with which words."""

from __future__ import annotations

import math
from typing import Any

import pytest

from secateur.lab import Study
from secateur.lab.plan.options import Kind, Option, Options
from secateur.lab.show.report import Report
from secateur.types import InputError, UnknownNameError

GOOD: dict[Kind, list[Any]] = {
    "count": [0, 7],
    "number": [-1.5, 0, 3],
    "part": [1, 600, 0.1],
    "text": ["", "a"],
    "flag": [True, False],
    "mapping": [{}, {"a": 1}],
}
BAD: dict[Kind, list[Any]] = {
    "count": [-1, 1.0, True, "1", None, [1]],
    "number": [math.nan, math.inf, True, "1", None],
    "part": [0, 0.0, 1.0, -1, True, "x"],
    "text": [1, None, ["a"]],
    "flag": [0, 1, "true", None],
    "mapping": [[], "a", None],
}


@pytest.mark.parametrize(("kind", "value"), [(k, v) for k, values in GOOD.items() for v in values])
def test_good_values(kind: Kind, value: Any) -> None:
    Option("x", kind, None, "what").check("here", value)
    if kind != "mapping":
        Option("x", kind, None, "what", many="list").check("here", [value, value])
        Option("x", kind, None, "what", many="either").check("here", value)
    Option("x", kind, None, "what", optional=True).check("here", None)


@pytest.mark.parametrize(("kind", "value"), [(k, v) for k, values in BAD.items() for v in values])
def test_bad_values_are_named(kind: Kind, value: Any) -> None:
    with pytest.raises(InputError, match=r"^here: x is .*; give .* \(what\)$"):
        Option("x", kind, None, "what").check("here", value)
    with pytest.raises(InputError, match="here: x is "):
        Option("x", kind, None, "what", many="list").check("here", [value])


@pytest.mark.parametrize(
    ("option", "wish"),
    [
        (Option("x", "count", 1, "", least=1), "a whole number of at least 1"),
        (Option("x", "number", 1, ""), "a number"),
        (
            Option("x", "number", 1, "", 0, 1, many="list"),
            "a list of numbers from 0 to 1, such as [0.2,0.5]",
        ),
        (Option("x", "text", "a", "", allowed=("a", "b")), "one of a, b"),
        (Option("x", "text", None, "", optional=True), "a text, or null"),
        (Option("x", "text", "a", "", many="either"), 'a text, or a list of texts, such as ["a","b"]'),
    ],
)
def test_the_wish_is_in_words(option: Option, wish: str) -> None:
    assert option.wish == wish


def test_bounds_and_lists() -> None:
    fraction = Option("x", "number", 0, "what", 0, 1, many="list")
    fraction.check("here", [0, 0.5, 1])
    for value in ([1.5], [-0.1], [], 0.5, "0.5", {"a": 1}):
        with pytest.raises(InputError, match="here: x is"):
            fraction.check("here", value)


def test_unknown_texts_are_named_with_the_nearest() -> None:
    option = Option("x", "text", "weight", "what", allowed=("weight", "neuron"), many="either")
    with pytest.raises(UnknownNameError, match="unknown value of x in here: 'neurn'; did you mean 'neuron'"):
        option.check("here", ["weight", "neurn"])


def test_a_study_checks_its_options() -> None:
    options = Options((Option("count", "count", 3, "how many", least=1), Option("fast", "flag", False, "hurry")))
    study = Study("toy", "Toy", None, "", lambda settled: [], lambda results: Report("Toy"), options)
    assert study.settle({"count": 5}) == {"count": 5, "fast": False}
    assert dict(options.changed(count=9)) == {"count": 9, "fast": False}
    with pytest.raises(InputError, match="study 'toy': count is 0; give a whole number of at least 1"):
        study.settle({"count": 0})
    with pytest.raises(UnknownNameError, match="unknown option of study 'toy' 'cuont'; did you mean 'count'"):
        study.settle({"cuont": 0})
    with pytest.raises(UnknownNameError, match="unknown option 'cuont'"):
        options.changed(cuont=1)
