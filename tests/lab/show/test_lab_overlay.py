"""Several runs on one page: the same statistics, only like with like."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from secateur.cli import app
from secateur.lab import Picture, Recipe, Record, Store, Table
from secateur.lab.show.overlay import labels, overlay
from secateur.lab.show.style import styles_of_runs
from secateur.types import InputError, UnknownNameError


def run(
    path: Path,
    shift: float,
    *,
    epochs: int = 1,
    dense: bool = False,
    methods: tuple[str, ...] = ("l1", "random"),
    sparsities: tuple[float, ...] = (0.2, 0.5),
) -> Store:
    store = Store(path)
    for seed in range(3):
        train = Recipe("toy", "train", {"seed": seed, "model": "net", "data": "digits", "epochs": epochs})
        store.put(Record(train, {"accuracy": 0.9}))
        for method in methods:
            for sparsity in sparsities:
                parameters = {"seed": seed, "model": "net", "data": "digits", "method": method, "sparsity": sparsity}
                accuracy = 0.9 - sparsity / 2 + shift + 0.01 * seed * sparsity - 0.1 * (method == "random")
                store.put(Record(Recipe("toy", "prune", parameters, (train.id,)), {"accuracy": accuracy}))
                if dense:
                    store.put(Record(Recipe("toy", "dense", parameters, (train.id,)), {"accuracy": 0.8}))
    return store


@pytest.fixture
def pair(tmp_path: Path) -> list[Store]:
    return [run(tmp_path / "a", 0.0), run(tmp_path / "b", -0.05, epochs=2)]


def tables(stores: list[Store], **options: object) -> dict[str, Table]:
    report = overlay(stores, **options)  # type: ignore[arg-type]
    return {block.name: block for block in report.blocks() if isinstance(block, Table)}


def test_means_stand_side_by_side(pair: list[Store]) -> None:
    means = tables(pair)["means"]
    assert [column.title for column in means.columns] == ["method", "removed", "a", "95 %, a", "b", "95 %, b"]
    assert means.rows[0][:3] == ["l1", 0.2, pytest.approx(0.802)]
    assert means.rows[0][4] == pytest.approx(0.752)


def trained(path: Path, class_accuracy: list[float], accuracy: float | None, **metrics: float) -> Store:
    """A run of two sparsities on a network with these accuracies of its classes."""
    store = Store(path)
    train = Recipe("toy", "train", {"seed": 0, "model": "net", "data": "digits"})
    store.put(Record(train, {"accuracy": 0.5, "class_accuracy": class_accuracy}))
    for sparsity in (0.2, 0.5):
        parameters = {"seed": 0, "model": "net", "data": "digits", "method": "l1", "sparsity": sparsity}
        store.put(Record(Recipe("toy", "prune", parameters, (train.id,)), {"accuracy": accuracy, **metrics}))
    return store


def test_a_run_without_accuracies_is_said_to_be_left_out(tmp_path: Path) -> None:
    report = overlay([run(tmp_path / "a", 0.0), trained(tmp_path / "b", [], None)])
    assert report.summary[0] == (
        "WARNING: left out is b: no finished cell there has a method, a sparsity and an accuracy."
    )
    assert report.summary[-1].startswith("Compared are a (12 networks).")
    pair = [run(tmp_path / "c", 0.0), run(tmp_path / "d", 0.0, methods=("l2",))]
    assert (
        "left out is d: no finished cell there fits the conditions and has a method"
        in (overlay(pair, where=["method=l1"]).summary[0])
    )


def test_a_run_of_networks_that_answer_blindly_is_said_to_be_one(tmp_path: Path) -> None:
    blind, sound = trained(tmp_path / "blind", [1.0, 0.0], 0.5), trained(tmp_path / "sound", [0.9, 0.8], 0.8)
    first, *_, last = overlay([sound, blind]).summary
    assert first.startswith("blind: WARNING: 1 of 1 unpruned network has not learnt: its test accuracy is 50.0 %")
    assert (
        last == "Compared are sound (2 networks), blind (2 networks), of one seed: no intervals, and nothing is tested."
    )


def test_what_was_removed_counts_not_what_was_asked_for(tmp_path: Path) -> None:
    nothing = trained(tmp_path / "nothing", [0.9, 0.8], 0.8, units_removed=0.0)
    report = overlay([trained(tmp_path / "half", [0.9, 0.8], 0.8), nothing])
    assert report.summary[0] == (
        "nothing: WARNING: what was removed is not what was asked for: l1: 0 % in place of 20 %, 0 % in place of 50 %. "
        "Tables and figures go by what was removed."
    )
    (means,) = (block for block in report.blocks() if isinstance(block, Table) and block.name == "means")
    assert [row[1] for row in means.rows] == [0.0, 0.2, 0.5]


def test_each_run_is_tested_against_the_first_paired_by_seed(pair: list[Store]) -> None:
    tests = tables(pair)["tests"]
    assert [row[:6] for row in tests.rows] == [
        [method, sparsity, "b", "a", 3, pytest.approx(-0.05)] for method in ("l1", "random") for sparsity in (0.2, 0.5)
    ]
    assert "paired t-test" in str(tests.basis)


def test_what_differs_is_said(pair: list[Store]) -> None:
    assert tables(pair)["differing"].rows == [["train.epochs", "1", "2"]]


def test_unlike_cells_of_one_run_are_not_averaged(tmp_path: Path) -> None:
    means = tables([run(tmp_path / "a", 0.0, dense=True)])["means"]
    names = [row[0] for row in means.rows]
    assert sorted(set(names)) in (
        ["l1", "l1, kind dense", "random", "random, kind dense"],
        ["l1", "l1, kind prune", "random", "random, kind prune"],
    )


def test_one_run_compares_its_methods(tmp_path: Path) -> None:
    tests = tables([run(tmp_path / "a", 0.0)])["tests"]
    assert [row[:3] for row in tests.rows] == [[0.2, "l1", "random"], [0.5, "l1", "random"]]


def test_runs_without_a_method_in_common_compare_their_methods(tmp_path: Path) -> None:
    stores = [run(tmp_path / "a", 0.0, methods=("l1",)), run(tmp_path / "b", 0.0, methods=("l2",))]
    assert [row[1:3] for row in tables(stores)["tests"].rows] == [["l2 · b", "l1 · a"]] * 2


def test_conditions_choose(pair: list[Store]) -> None:
    assert {row[0] for row in tables(pair, where=["method=l1"])["means"].rows} == {"l1"}
    with pytest.raises(UnknownNameError, match="sparsty"):
        overlay(pair, where=["sparsty=0.5"])
    with pytest.raises(InputError, match="runs compare --by"):
        overlay(pair, where=["kind=train"])


def test_curves_of_all_runs_lead(pair: list[Store]) -> None:
    report = overlay(pair)
    assert isinstance(report.leading, Picture)
    (axes,) = report.leading.figure.axes
    assert {line.get_label() for line in axes.lines} == {"l1 · a", "l1 · b", "random · a", "random · b"}
    assert [card.label for card in report.cards] == ["l1 · a", "l1 · b", "random · a"]
    assert all(card.interval for card in report.cards)


def test_cards_are_over_the_sparsities_that_all_runs_have(tmp_path: Path) -> None:
    stores = [run(tmp_path / "a", 0.0, sparsities=(0.2, 0.5, 0.9)), run(tmp_path / "b", 0.05)]
    assert [card.label for card in overlay(stores).cards] == ["l1 · b", "l1 · a", "random · b"]


def test_labels_tell_stores_apart(tmp_path: Path) -> None:
    stores = [Store(tmp_path / one / "demo") for one in ("x", "y")]
    assert labels(stores) == ["x/demo", "y/demo"]
    with pytest.raises(InputError, match="with itself"):
        labels([stores[0], stores[0]])


def test_the_command_writes_the_page(pair: list[Store], tmp_path: Path) -> None:
    words = ["report", *(str(store.path) for store in pair), "--where", "sparsity=0.5", "--out", str(tmp_path / "page")]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    text = (tmp_path / "page" / "report.md").read_text(encoding="utf-8")
    assert "a and b compared" in text
    assert "sparsity=0.5" in text
    refused = CliRunner().invoke(app, [*words, "--seeds", "2"])
    assert refused.exit_code == 1


def test_a_method_has_one_colour_in_all_runs_and_a_run_one_line() -> None:
    look = styles_of_runs(["l2", "random"], ["first", "second"])
    assert look["l2", "first"].colour == look["l2", "second"].colour != look["random", "second"].colour
    assert look["l2", "first"].line == look["random", "first"].line != look["l2", "second"].line
