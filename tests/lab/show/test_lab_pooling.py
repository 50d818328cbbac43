"""`runs compare --by` averages like with like alone, and says what it kept apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secateur.cli.tables import narrow
from secateur.lab import Recipe, Record, Store
from secateur.lab.show import browse
from secateur.lab.show.pooling import deciding, with_needed

SEEDS = (0, 1, 2)


def train(seed: int, epochs: int) -> Recipe:
    return Recipe("toy", "train", {"seed": seed, "epochs": epochs})


def filled(folder: Path, epochs: int, base: float) -> Store:
    """A store of networks trained for so many epochs, each cut, and one as small from scratch beside."""
    store = Store(folder / f"toy-{epochs}")
    for seed in SEEDS:
        trained = train(seed, epochs)
        chosen = {"seed": seed, "method": "neuron", "sparsity": 0.5}
        cut = Recipe("toy", "prune", {**chosen, "minimum": 0}, (trained.id,))
        dense = Recipe("toy", "dense", {**chosen, "network": 1000 + seed}, (trained.id, cut.id))
        store.put(Record(trained, {"accuracy": 0.9}))
        store.put(Record(cut, {"accuracy": base + seed / 100, "loss": 1.0, "parameters_removed": 0.5}))
        store.put(Record(dense, {"accuracy": base + 0.04 + seed / 100, "loss": 0.5}))
    return store


def shown(groups: browse.Groups, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in groups.table[list(columns)].itertuples(index=False)]


def test_cut_networks_are_not_averaged_with_networks_from_scratch(tmp_path: Path) -> None:
    found = browse.groups([filled(tmp_path, 30, 0.86)], ["method", "sparsity"])
    assert found.apart == ["kind"]
    assert found.over == {"seed": 3, "network": 3}
    assert shown(found, "kind", "accuracy", "accuracy.n") == [
        ("dense", pytest.approx(0.91), 3),
        ("prune", pytest.approx(0.87), 3),
    ]


def test_networks_trained_for_other_epochs_are_kept_apart_though_no_parameter_of_their_own_differs(
    tmp_path: Path,
) -> None:
    stores = [filled(tmp_path, epochs, base) for epochs, base in ((30, 0.86), (3, 0.5), (20, 0.8))]
    found = browse.groups(stores, ["method"], kind="prune")
    assert found.apart == ["train.epochs"]
    assert shown(found, "train.epochs", "accuracy", "accuracy.n") == [
        *((3, pytest.approx(0.51), 3), (20, pytest.approx(0.81), 3), (30, pytest.approx(0.87), 3)),
    ]


def test_each_metric_has_its_own_count(tmp_path: Path) -> None:
    found = browse.groups([filled(tmp_path, 30, 0.86)], ["kind"])
    counts = {row[0]: row[1:] for row in shown(found, "kind", "accuracy.n", "loss.n", "parameters_removed.n")}
    assert counts == {"dense": (3, 3, 0), "prune": (3, 3, 3), "train": (3, 0, 0)}
    table = narrow(found.table)
    assert [name for name in table.columns if name.endswith(".n")] == ["accuracy.n", "loss.n", "parameters_removed.n"]
    assert table.loc[table["kind"] == "dense", "parameters_removed"].tolist() == ["–"]


def test_one_cell_in_two_stores_counts_once(tmp_path: Path) -> None:
    one, other = filled(tmp_path / "a", 30, 0.86), filled(tmp_path / "b", 30, 0.86)
    found = browse.groups([one, other], ["method"], kind="prune")
    assert shown(found, "accuracy.n") == [(3,)]


def test_cells_of_networks_that_are_in_no_store_are_kept_apart(tmp_path: Path) -> None:
    """Of a network that was removed nothing is known but its id, so nothing says that the seed alone differs."""
    store = filled(tmp_path, 30, 0.86)
    store.delete(*(train(seed, 30).id for seed in SEEDS))
    found = browse.groups([store], ["method"], kind="prune")
    assert found.apart == ["needs"]
    assert found.over == {}
    assert shown(found, "accuracy.n") == [(1,)] * 3


def test_an_option_at_its_default_is_no_difference(tmp_path: Path) -> None:
    """A study that gained an option keeps its results, so they are averaged with the new ones."""
    store = Store(tmp_path)
    store.put(Record(Recipe("toy", "prune", {"seed": 0, "method": "l1"}), {"accuracy": 0.5}))
    newer = Recipe("toy", "prune", {"seed": 1, "method": "l1", "scope": "all"}, defaults={"scope": "all"})
    store.put(Record(newer, {"accuracy": 0.7}))
    found = browse.groups([store], ["method"])
    assert (found.apart, shown(found, "accuracy", "accuracy.n")) == ([], [(pytest.approx(0.6), 2)])


def test_a_parameter_that_shares_its_name_with_a_metric_hides_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in SEEDS:
        for rate in (0.1, 0.9):
            recipe = Recipe("toy", "prune", {"seed": seed, "method": "l1", "rate": rate})
            store.put(Record(recipe, {"rate": 10 * rate + seed}))
    found = browse.groups([store], ["method"], ["rate"])
    assert found.apart == ["parameter.rate"]
    assert shown(found, "parameter.rate", "rate", "rate.n") == [(0.1, 2.0, 3), (0.9, 10.0, 3)]


def test_several_needed_cells_of_one_kind_are_named_together(tmp_path: Path) -> None:
    first, second = (Recipe("toy", "prune", {"seed": 0, "step": step}) for step in (1, 2))
    last = Recipe("toy", "report", {"seed": 0}, (first.id, second.id))
    store = Store(tmp_path)
    for recipe in (first, second, last):
        store.put(Record(recipe, {}))
    facts = deciding(with_needed([store], [last.id]), [last.id])
    assert facts.to_dict("records") == [{"study": "toy", "kind": "report", "prune.step": "1, 2"}]
