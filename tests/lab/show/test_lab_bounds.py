"""Intervals of accuracies end where accuracies do."""

from __future__ import annotations

import pandas
import pytest

from secateur.lab.show.blocks import Column
from secateur.lab.show.figures import accuracy_by_sparsity
from secateur.lab.show.sections import interval
from secateur.lab.show.stats import bootstrap, compare, describe, summarise
from secateur.studies.kit.grouped import Mean

HIGH = [0.93, 0.97, 0.99]


def test_bounds_by_hand() -> None:
    # mean .9633, half width 4.3027 * .030551 / sqrt(3) = .0759
    assert summarise(HIGH).high == pytest.approx(1.0392, abs=1e-4)
    bounded = summarise(HIGH, within=(0, 1))
    assert (bounded.low, bounded.high) == (pytest.approx(0.8874, abs=1e-4), 1)
    assert summarise([1 - x for x in HIGH], within=(0, 1)).low == 0
    assert bootstrap([0.9, *HIGH, 1.0], within=(0, 0.95)).high <= 0.95


def test_tables_of_accuracies_and_no_others() -> None:
    frame = pandas.DataFrame({"p": 1, "accuracy": HIGH, "test_accuracy": HIGH, "loss": HIGH})
    row = describe(frame, ["p"], ["accuracy", "test_accuracy", "loss"]).iloc[0]
    assert row["accuracy.high"] == row["test_accuracy.high"] == 1 < row["loss.high"]
    changes = pandas.DataFrame({"p": 1, "accuracy": [-0.1, 0.2, 0.9]})
    assert describe(changes, ["p"], ["accuracy"])["accuracy.low"].item() < 0


def test_words() -> None:
    frame = pandas.DataFrame({"accuracy": HIGH, "loss": HIGH})
    assert interval(HIGH, within=(0, 1)) == "0.8874 to 1.0000"
    assert Mean("accuracy", Column("a", format=".4f"), "95 %").of(frame)[1] == "0.8874 to 1.0000"
    assert Mean("loss", Column("a", format=".4f"), "95 %").of(frame)[1] == "± 0.0759"
    assert (
        Mean(lambda rows: rows["loss"], Column("a", format=".4f"), "95 %", share=True).of(frame)[1]
        == "0.8874 to 1.0000"
    )


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        (Column("a", format=".1%"), "88.7\N{NO-BREAK SPACE}% to 100.0\N{NO-BREAK SPACE}%"),
        (Column("a", format=".2f"), "0.89 to 1.00"),
        (Column("a", format=".5f"), "0.88744 to 1.00000"),
    ],
)
def test_an_interval_has_the_digits_of_its_mean(column: Column, shown: str) -> None:
    assert Mean("accuracy", column, "95 %").of(pandas.DataFrame({"accuracy": HIGH}))[1] == shown


def test_amounts_and_changes_end_where_they_do() -> None:
    frame = pandas.DataFrame({"speedup": [0.1, 4.0], "gap": [-90.0, 20.0]})
    assert Mean("speedup", Column("s", format=".1f"), "95 %").of(frame)[1].startswith("0.0 to ")
    assert Mean("gap", Column("g", "points", format="+.0f"), "95 %").of(frame)[1] == "−100 to +100"
    runs = pandas.DataFrame({"method": list("aabb"), "seed": [0, 1] * 2, "accuracy": [0.9, 0.1, 0.2, 0.8]})
    tests = compare(runs, value="accuracy", within=())
    assert (tests["low"].item(), tests["high"].item()) == (-1, 1)
    losses = compare(runs.rename(columns={"accuracy": "loss"}), value="loss", within=())
    assert losses["high"].item() > 1, "differences of losses have no such end"


def test_the_band_of_a_figure_stays_inside() -> None:
    frame = pandas.DataFrame(
        [
            {"method": "l2", "sparsity": p, "seed": seed, "accuracy": a}
            for p in (0.1, 0.2)
            for seed, a in enumerate(HIGH)
        ]
    )
    (axes,) = accuracy_by_sparsity(frame).axes
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == 1
