"""No study concludes anything from what was not tested, not computed, or has nothing beside it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas
import pytest

from secateur.lab.show.blocks import Basis
from secateur.studies.charpentier import random as charpentier_random
from secateur.studies.charpentier.factors_pages import Factor, words
from secateur.studies.janjic import energy_pages as filter_energy_pages
from secateur.studies.janjic import evolution_pages
from secateur.studies.janjic import iterative_pages as janjic_iterative_pages


def part(**frames: Any) -> Any:
    return SimpleNamespace(basis=lambda *_: Basis("rows"), model="ann-128", data="fashion-mnist", **frames)


def test_one_value_of_a_factor_is_neither_the_greatest_nor_the_least() -> None:
    rows = pandas.DataFrame({"batch_size": [32], "important": [0.5], "worse": [0.1], "accuracy": [0.9]})
    said = words(part(measured=rows), Factor("batch_size", "batch size", 32, [32]))
    assert said == (
        "Where batch size is 32, 50.0\N{NO-BREAK SPACE}% of the units are important and 10.0\N{NO-BREAK SPACE}% worse; there is no other value to compare it "
        "with."
    )


def test_the_spread_of_one_number_of_nodes_does_not_grow() -> None:
    cells = pandas.DataFrame({"n": [8], "seed": [0], "accuracy": [0.8], "accuracy_std": [0.005]})
    trained = pandas.DataFrame({"seed": [0], "accuracy": [0.87]})
    draws = pandas.DataFrame({"n": [8, 8], "seed": [0, 0], "accuracy": [0.79, 0.81]})
    table = charpentier_random._bands(part(trained=trained), cells, draws)
    assert "grow" not in table.caption


def test_a_control_that_is_not_there_yet_is_not_beaten() -> None:
    runs = pandas.DataFrame(
        [
            {"threshold": 0.1, "method": "energy", "points": -1.0},
            {"threshold": 0.1, "method": "random", "points": -2.0},
            {"threshold": 0.5, "method": "energy", "points": -9.0},
            {"threshold": 0.5, "method": "l2", "points": None},
        ]
    )
    said = filter_energy_pages._cheaper(runs)
    assert said.endswith("by random at 1 of 1 thresholds (+1.00 points on average).")
    assert filter_energy_pages._cheaper(runs[2:]).endswith("no threshold in common yet.")


def test_searches_without_a_pair_have_no_verdict() -> None:
    nothing = pandas.Series([], dtype=float)
    assert "not compared" in evolution_pages._more("learned mask", nothing, nothing)


def test_no_bands_are_counted_where_none_is_known() -> None:
    rows = pandas.DataFrame({"damage": [0.7], "searched_fitness": [1.0]})
    bands = {"fitness": [1.0, 2.0], "compression": [0.1, 0.2], "positive": [0, 10]}
    (said,) = evolution_pages._bands(part(), rows, bands)
    assert isinstance(said, str)


@pytest.mark.parametrize("method", ["energy", "random"])
def test_one_thing_that_follows_a_layer_is_neither_best_nor_worst(method: str) -> None:
    runs = pandas.DataFrame({"method": [method], "mode": ["none"], "seed": 0, "threshold": 0.1, "change": [-3.0]})
    runs = runs.assign(after=janjic_iterative_pages._named(runs), accuracy=0.5)
    said, _, tests = janjic_iterative_pages._compared(runs, Basis("1 seed"))
    assert "there is nothing beside it" in str(said)
    assert "Not tested: there is" in str(tests)
