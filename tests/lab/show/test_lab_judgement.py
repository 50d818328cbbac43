"""What a comparison amounts to, on numbers worked by hand."""

from __future__ import annotations

import pandas
import pytest

from secateur.lab.show.blocks import Basis, Table
from secateur.lab.show.judgement import areas, front, judged, paired, untested

ROWS = [
    {"method": method, "seed": seed, "sparsity": sparsity, "accuracy": base - 0.01 * seed, "size": size}
    for method, pairs in {
        "l2": {0.5: (0.90, 50), 0.9: (0.70, 10)},
        "random": {0.5: (0.80, 50), 0.9: (0.30, 10)},
    }.items()
    for sparsity, (base, size) in pairs.items()
    for seed in range(3)
]


def table(block: object) -> Table:
    assert isinstance(block, Table)
    return block


def test_methods_are_tested_against_their_control_alone() -> None:
    frame = pandas.DataFrame(ROWS)
    frame.loc[0, "accuracy"] += 0.001  # or the differences would have no spread to judge by
    frame.loc[3, "accuracy"] += 0.001
    words, tests = judged(frame, {"random": ["l2"], "weight random": ["weight"]}, Basis("3 seeds"))
    assert (
        words == "l2 is better than random in 2 of 2 comparisons, worse in 0 (p corrected below 0.05; 3 pairs at most)."
    )
    differences = [row[4] for row in table(tests).rows]
    assert differences == pytest.approx([0.1 + 0.001 / 3, 0.4 + 0.001 / 3])
    assert "Holm" in str(table(tests).basis)


def test_without_a_control_nothing_is_concluded() -> None:
    frame = pandas.DataFrame(ROWS)
    own = frame[frame["method"] == "l2"]
    (words,) = judged(own, {"random": ["l2"], "weight random": ["weight"]}, Basis("3 seeds"))
    assert words == "l2: not tested against random, for there is no run of random."
    assert paired(own, "tests", "Accuracies.", baseline="random") == [
        "Accuracies. Not tested: there is no run of random."
    ]


def test_one_seed_is_no_test() -> None:
    frame = pandas.DataFrame(ROWS)
    (words,) = judged(frame[frame["seed"] == 0], {"random": ["l2"]}, Basis("1 seed"))
    assert words == "l2: not tested against random, for that takes two seeds at least."


def test_seeds_that_are_not_shared_are_no_test() -> None:
    frame = pandas.DataFrame(ROWS)
    rows = frame[(frame["method"] == "l2") == (frame["seed"] < 1)]
    assert untested(rows, "random") == "that takes two seeds at least"


def test_comparisons_that_did_not_take_place_are_not_counted() -> None:
    """At 90 % one seed of the control is there, so one comparison of two was a test."""
    frame = pandas.DataFrame(ROWS)
    frame.loc[0, "accuracy"] += 0.001
    rows = frame[(frame["method"] == "l2") | (frame["sparsity"] == 0.5) | (frame["seed"] == 0)]
    words, tests = judged(rows, {"random": ["l2"]}, Basis("3 seeds"))
    assert str(words).startswith("l2 is better than random in 1 of 1 comparisons, worse in 0")
    assert [row[-1] for row in table(tests).rows] == ["better", "not tested"]


def test_pairs_that_all_differ_by_the_same_are_no_test() -> None:
    (words, _) = judged(pandas.DataFrame(ROWS), {"random": ["l2"]}, Basis("3 seeds"))
    assert words == "l2: not tested against random, for no two runs are pairs whose differences vary."


def test_one_number_a_method_is_the_mean_height_of_its_curve() -> None:
    rows = table(areas(pandas.DataFrame(ROWS), Basis("3 seeds"))[0]).rows
    # (0.90 + 0.70) / 2 less the mean of 0, 0.01 and 0.02.
    assert [row[0] for row in rows] == ["l2", "random"]
    assert [row[1] for row in rows] == pytest.approx([0.79, 0.54])


def test_curves_that_are_not_finished_are_left_out() -> None:
    frame = pandas.DataFrame(ROWS)
    rows = table(areas(frame.drop(index=frame.index[-1]), Basis("3 seeds"))[0]).rows
    assert {row[0]: row[3] for row in rows} == {"l2": 3, "random": 2}
    assert areas(frame[frame["sparsity"] == 0.5], Basis("3 seeds")) == []


def test_the_front_has_what_nothing_beats() -> None:
    rows = table(front(pandas.DataFrame(ROWS), "size", "kilobytes", Basis("3 seeds"))[0]).rows
    assert [row[:3] for row in rows] == [["l2", 0.5, 50], ["l2", 0.9, 10]]


def test_networks_at_chance_level_are_on_no_front() -> None:
    rows = [
        {"method": "l2", "sparsity": p, "seed": seed, "accuracy": a, "parameters": n, "class_accuracy": classes}
        for p, a, n, classes in (
            (0.2, 0.9, 100.0, [0.9, 0.9]),
            (0.5, 0.8, 50.0, [0.9, 0.7]),
            (0.9, 0.5, 10.0, [1.0, 0.0]),
        )
        for seed in (0, 1)
    ]
    (table,) = front(pandas.DataFrame(rows), "parameters", "parameters", Basis("2 seeds"))
    assert isinstance(table, Table)
    assert [row[1] for row in table.rows] == [0.2, 0.5]
    assert "1 at chance level is left out" in table.caption
    (words,) = front(pandas.DataFrame(rows[4:]), "parameters", "parameters", Basis("2 seeds"))
    assert words == "No network is better than chance, so there is no Pareto front of accuracy and parameters."
    (plain,) = front(
        pandas.DataFrame(rows).drop(columns="class_accuracy"), "parameters", "parameters", Basis("2 seeds")
    )
    assert len(plain.rows) == 3, "without accuracies of classes nothing is known"
