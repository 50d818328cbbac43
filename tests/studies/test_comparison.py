"""The studies: what they compute, under which names for ever, and what their reports say."""

from __future__ import annotations

import csv
from math import isclose
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur import data
from secateur.lab import Report, Results, RunSummary, Store, Table, build_report, run_study, write_report
from secateur.lab.plan.study import Cell
from secateur.studies import STUDIES, by_name
from secateur.studies.comparison.cells import cells
from secateur.studies.comparison.options import METHODS
from secateur.types import DataError, UnknownNameError

SPARSITIES = [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99]
TINY = {
    "seeds": 2,
    "epochs": 8,
    "sparsities": [0.2, 0.5, 0.8],
    "methods": ["weight", "neuron", "neuron per layer", "neuron random"],
}


def ids(found: list[Cell]) -> list[str]:
    return [cell.id for cell in found]


def test_a_toml_file_takes_a_loss(tmp_path: Path) -> None:
    """Networks are trained and rated by it, and only another than the default makes other cells."""
    file = tmp_path / "mine.toml"
    text = 'name = "mine"\ndata = "digits"\nmodel = "ann-128"\nseeds = 1\nepochs = 1\nvalidation = 300\n'
    text += 'sparsities = [0.5]\nmethods = ["neuron"]\n'
    stores = {}
    for loss in ("", "cross_entropy", "mse", "torch.nn:MSELoss"):
        file.write_text(text + (f'loss = "{loss}"\n' if loss else ""), encoding="utf-8")
        stores[loss] = ids(by_name(str(file)).plan())
    assert stores[""] == stores["cross_entropy"]
    assert len({tuple(plan) for plan in stores.values()}) == 3
    file.write_text(text + 'loss = "mse"\n', encoding="utf-8")
    study, store = by_name(str(file)), Store(tmp_path / "runs")
    assert not run_study(study, store, {}, progress=False, executor="serial").failed
    losses = [store.get(cell.id).metrics["loss"] for cell in study.plan()]
    assert all(loss < 0.5 for loss in losses), "squared differences from one-hot vectors"
    file.write_text(text + 'loss = "msee"\n', encoding="utf-8")
    with pytest.raises(UnknownNameError, match="did you mean 'mse'"):
        by_name(str(file)).plan()


# Their names and grids


def test_studies_are_found_by_name() -> None:
    assert {"demo", "fathollahi"} <= set(STUDIES)
    assert all(STUDIES[name] is by_name(name) for name in STUDIES)
    with pytest.raises(UnknownNameError, match="did you mean 'fathollahi'"):
        by_name("fatollahi")


def test_the_source_is_cited_whole() -> None:
    source = by_name("fathollahi").source
    assert source is not None
    title = "Comparing performance of two pruning on Fashion-MNIST data set"
    assert str(source) == f"M. Fathollahi, 2022, {title}"


def test_the_grid_of_fathollahi_is_that_of_the_text() -> None:
    """A five-layer network, 10 epochs, batch 128, a tenth for validation; 5 to 99 % without a minimum in a layer."""
    plan = by_name("fathollahi").plan({"seeds": 1, "dense": []})
    train, *pruned = plan
    assert train.recipe.parameters == {
        "seed": 0,
        "data": "fashion-mnist",
        "model": "fathollahi-5",
        "model_options": {},
        "epochs": 10,
        "batch_size": 128,
        "validation": 6000,
    }
    assert len(pruned) == len(METHODS) * len(SPARSITIES)
    for method in METHODS:
        found = [c.recipe.parameters for c in pruned if c.recipe.parameters["method"] == method]
        assert [p["sparsity"] for p in found] == SPARSITIES
        assert {p["minimum"] for p in found} == {0}
    assert all(cell.needs == (train.id,) for cell in pruned)


def test_fathollahi_has_three_seeds_and_more_can_be_added() -> None:
    study = by_name("fathollahi")
    three, five = ids(study.plan()), ids(study.plan({"seeds": 5}))
    grid = 3 * (1 + 6 * 12)
    assert len(three) == grid + 3 * 2, "and a network from scratch for each that magnitude cut at 50 %"
    assert five[:grid] == three[:grid]
    assert set(three) < set(five), "more seeds keep every result"
    assert set(ids(study.plan({"sparsities": [0.5]}))) < set(three)


def test_where_the_data_are_is_no_part_of_a_recipe() -> None:
    study = by_name("fathollahi")
    assert ids(study.plan({"data_dir": "/somewhere"})) == ids(study.plan())


PINNED = {
    "fathollahi": {
        0: "d3429e69555344c9",
        1: "02d099e0356589a4",
        7: "ab6867b660cf85c5",
        73: "167c96241fffb933",
        218: "d21209b0eb7a4aec",
        219: "bfd00829b1d2a9b4",
    },
    "demo": {0: "edffb004b24e5c94", 1: "6fac83e5c0168cb1", 26: "5b60da04d433de0c"},
}


@pytest.mark.parametrize("name", PINNED)
def test_recipes_keep_their_ids(name: str) -> None:
    """A changed id loses every result that people have: give a new option a default instead."""
    plan = ids(by_name(name).plan())
    assert {at: plan[at] for at in PINNED[name]} == PINNED[name]


def test_no_two_studies_share_a_cell() -> None:
    assert not set(ids(by_name("demo").plan())) & set(ids(by_name("fathollahi").plan()))


# The demo on a tiny grid, computed once


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSummary, Store]:
    store = Store(tmp_path_factory.mktemp("runs") / "demo")
    return run_study(by_name("demo"), store, TINY, progress=False), store


@pytest.fixture(scope="module")
def results(demo: tuple[RunSummary, Store]) -> Results:
    return by_name("demo").results(demo[1], TINY)


@pytest.fixture(scope="module")
def report(results: Results) -> Report:
    return by_name("demo").pages(results)


def rows(results: Results, **wanted: Any) -> list[dict[str, Any]]:
    found = [dict(row) for _, row in results.frame.iterrows()]
    return [row for row in found if all(row.get(key) == value for key, value in wanted.items())]


def test_every_cell_is_done(demo: tuple[RunSummary, Store]) -> None:
    summary, store = demo
    assert summary.exit_code == 0, store.failures()
    assert len(summary.done) == 2 * (1 + 4 * 3 + 2), "two methods have a network from scratch"


def test_the_networks_learn(results: Results) -> None:
    for row in rows(results, kind="train"):
        assert row["accuracy"] > 0.8
        assert row["parameters"] == 50_610
        assert row["macs"] == 50_200
        assert len(row["class_accuracy"]) == 10


def test_weight_pruning_removes_exactly_what_was_asked(results: Results) -> None:
    entries = 64 * 300 + 300 * 100  # the output layer is left whole
    for row in rows(results, method="weight"):
        assert row["parameters"] == 50_610
        assert row["units_removed"] == round(row["sparsity"] * entries) / entries
        assert row["nonzero"] <= 50_610 - round(row["sparsity"] * entries)
        assert row["cut_parameters"] != row["cut_parameters"], "single weights are not cut"


def test_neurons_are_really_cut(results: Results) -> None:
    found = [row for method in TINY["methods"][1:] for row in rows(results, kind="prune", method=method)]  # type: ignore[index]
    assert len(found) == 2 * 3 * 3
    for row in found:
        first, second = row["kept"]["fc1"], row["kept"]["fc2"]
        assert first + second == 400 - round(row["sparsity"] * 400)
        assert row["cut_parameters"] == 64 * first + first + first * second + second + second * 10 + 10
        assert row["cut_macs"] == 64 * first + first * second + second * 10
        assert row["cut_parameters"] < row["parameters"] == 50_610
        assert row["cut_bytes"] < row["bytes"]
        assert row["nonzero"] <= row["cut_parameters"], "what was cut is zero in the masked network"
        assert row["cut_difference"] <= 1e-5
        assert isclose(row["parameters_removed"], 1 - row["cut_parameters"] / 50_610)


def test_pruning_in_each_layer_takes_the_same_part_of_each(results: Results) -> None:
    for row in rows(results, kind="prune", method="neuron per layer", sparsity=0.5):
        assert row["kept"] == {"fc1": 150, "fc2": 50}


def test_what_is_known_of_pruning_is_seen(results: Results) -> None:
    """Without retraining weights are removed more cheaply than neurons, and removing more costs more."""
    for seed in (0, 1):
        base = rows(results, kind="train", seed=seed)[0]["accuracy"]
        at = {
            (m, s): rows(results, kind="prune", method=m, seed=seed, sparsity=s)[0]["accuracy"]
            for m in ("weight", "neuron per layer", "neuron random")
            for s in (0.2, 0.5, 0.8)
        }
        assert at["weight", 0.2] > base - 0.03
        assert at["weight", 0.8] > at["neuron per layer", 0.8]
        assert at["weight", 0.5] > at["neuron random", 0.8]
        assert at["neuron random", 0.2] > at["neuron random", 0.8]


def test_a_second_run_computes_nothing(demo: tuple[RunSummary, Store]) -> None:
    again = run_study(by_name("demo"), demo[1], TINY, progress=False)
    assert (len(again.done), len(again.found)) == (0, 30)


def test_the_same_recipe_gives_the_same_numbers(demo: tuple[RunSummary, Store], tmp_path: Path) -> None:
    few = {**TINY, "seeds": 1, "sparsities": [0.5], "methods": ["neuron random"]}
    store = Store(tmp_path / "again")
    run_study(by_name("demo"), store, few, progress=False)
    for cell in by_name("demo").plan(few):
        ours, theirs = store.get(cell.id).metrics, demo[1].get(cell.id).metrics
        timed = ("ms_", "speedup_")
        assert {k: v for k, v in ours.items() if not k.startswith(timed)} == {
            k: v for k, v in theirs.items() if not k.startswith(timed)
        }


# Its report


def overview(report: Report) -> list[dict[str, Any]]:
    table = next(b for b in report.blocks() if isinstance(b, Table) and b.name == "overview")
    return [dict(zip([c.title for c in table.columns], row, strict=True)) for row in table.rows]


def test_the_overview_compares_unpruned_weight_pruned_and_cut(report: Report, results: Results) -> None:
    found = {row["network"]: row for row in overview(report)}
    assert {"unpruned", "weight pruned 50 %", "neuron cut 50 %", "neuron per layer cut 80 %"} <= set(found)
    assert found["unpruned"]["parameters"] == found["weight pruned 50 %"]["parameters"] == 50_610
    assert found["neuron per layer cut 50 %"]["parameters"] == 17_810
    two = [row["accuracy"] for row in rows(results, method="weight", sparsity=0.5)]
    assert isclose(found["weight pruned 50 %"]["accuracy"], sum(two) / 2)


def test_the_report_is_written_with_all_its_files(demo: tuple[RunSummary, Store], report: Report) -> None:
    page = write_report(by_name("demo"), demo[1], TINY)
    html = page.read_text(encoding="utf-8")
    assert "://" not in html.replace("http://www.w3.org", ""), "the page fetches nothing"
    for block in report.blocks():
        if isinstance(block, Table):
            with (page.parent / "tables" / f"{block.name}.csv").open(encoding="utf-8", newline="") as file:
                assert len(list(csv.reader(file))) == 1 + len(block.rows)
        elif not isinstance(block, str):
            for suffix in ("svg", "png"):
                assert (page.parent / "figures" / f"{block.name}.{suffix}").stat().st_size > 1000
    assert "Nothing has been computed" not in (page.parent / "report.md").read_text(encoding="utf-8")


def test_an_unfinished_study_shows_what_there_is(tmp_path: Path) -> None:
    study, store = by_name("demo"), Store(tmp_path / "demo")
    few = {**TINY, "seeds": 1, "epochs": 1, "sparsities": [0.5], "methods": ["weight"]}
    assert study.pages(study.results(store, few)).summary == ["Nothing has been computed yet."]
    train = study.plan(few)[0]
    only = type(study)(**{**vars(study), "cells": lambda _: [train]})
    run_study(only, store, few, progress=False)
    page = study.pages(study.results(store, few))
    assert [s.title for s in page.sections] == ["Training", "How it was done"]


def test_a_layer_that_loses_every_neuron_is_not_cut(tmp_path: Path) -> None:
    """As in the text, with minimum 0: the network answers the same for every image, and there is nothing to cut."""
    study, store = by_name("demo"), Store(tmp_path / "demo")
    few = {"seeds": 1, "epochs": 1, "sparsities": [1.0], "methods": ["neuron"], "minimum": 0}
    run_study(study, store, few, progress=False)
    row = rows(study.results(store, few), kind="prune")[0]
    assert row["kept"] == {"fc1": 0, "fc2": 0}
    assert "cut_parameters" not in row or row["cut_parameters"] != row["cut_parameters"]
    assert row["accuracy"] <= 0.13, "one class of ten"


def test_cells_are_made_for_every_seed_method_and_sparsity() -> None:
    settled = {**by_name("demo").settle(), "seeds": 2, "methods": ["weight"], "sparsities": [0.1, 0.9]}
    assert [str(c.recipe.kind) for c in cells("demo", settled)] == ["train", "prune", "prune"] * 2


def test_dense_cells_come_last_and_only_where_magnitude_cuts() -> None:
    chosen = {"seeds": 2, "sparsities": [0.2, 0.5], "dense": [0.5, 0.9]}
    plan = cells("demo", {**by_name("demo").settle(), **chosen})
    dense = [cell for cell in plan if cell.recipe.kind == "dense"]
    assert plan[-4:] == dense
    found = [(c.recipe.parameters["method"], c.recipe.parameters["sparsity"], c.recipe.seed) for c in dense]
    assert found == [(m, 0.5, seed) for seed in (0, 1) for m in ("neuron", "neuron per layer")]
    # Its needs are the large network and the cut one.
    by_id = {cell.id: cell.recipe for cell in plan}
    assert [[by_id[need].kind for need in cell.needs] for cell in dense] == [["train", "prune"]] * 4


def test_a_dense_network_has_the_shape_of_the_cut_one(results: Results) -> None:
    for row in rows(results, kind="dense"):
        (cut,) = rows(results, kind="prune", method=row["method"], sparsity=row["sparsity"], seed=row["seed"])
        assert (row["parameters"], row["macs"]) == (cut["cut_parameters"], cut["cut_macs"])
        assert row["accuracy"] > 0.5, "it has learnt, with no weight of the large network"
        weights = results.store.artefact(row["id"])["fc1.weight"]
        (large,) = rows(results, kind="train", seed=row["seed"])
        assert weights.shape == (cut["kept"]["fc1"], 64)
        assert not torch.equal(weights, results.store.artefact(large["id"])["fc1.weight"][: len(weights)])


def test_a_shape_without_units_cannot_be_trained(tmp_path: Path) -> None:
    study, store = by_name("demo"), Store(tmp_path / "demo")
    few = {"seeds": 1, "epochs": 1, "sparsities": [1.0], "methods": ["neuron"], "minimum": 0, "dense": [1.0]}
    assert run_study(study, store, few, progress=False).exit_code == 0
    (row,) = rows(study.results(store, few), kind="dense")
    assert row["dense_error"] == "no unit is left of fc1, fc2, so there is no network of this shape"
    page = study.pages(study.results(store, few))
    assert not any(isinstance(b, Table) and b.name == "from-scratch" for b in page.blocks())


def test_the_report_sets_the_cut_networks_beside_small_ones(report: Report, results: Results) -> None:
    table = next(b for b in report.blocks() if isinstance(b, Table) and b.name == "from-scratch")
    shown = {row[0]: dict(zip([c.title for c in table.columns], row, strict=True)) for row in table.rows}
    assert set(shown) == {"neuron", "neuron per layer"}
    two = [row["accuracy"] for row in rows(results, kind="dense", method="neuron")]
    assert isclose(shown["neuron"]["small, from scratch"], sum(two) / 2)
    gap = shown["neuron"]["small, from scratch"] - shown["neuron"]["cut, not retrained"]
    assert isclose(shown["neuron"]["scratch − cut"], 100 * gap)


# On the data of the text


@pytest.mark.slow
def test_fathollahi_on_its_own_data(tmp_path: Path) -> None:
    """Two epochs instead of ten: weights can be halved at no cost, and neurons cannot."""
    try:
        data.load("fashion-mnist", "test", download=False, limit=1)
    except DataError:
        pytest.skip("Fashion-MNIST is not on this machine")
    study, store = by_name("fathollahi"), Store(tmp_path / "fathollahi")
    few = {"seeds": 1, "epochs": 2, "sparsities": [0.2, 0.5, 0.9], "methods": ["weight", "neuron"]}
    summary = run_study(study, store, few, progress=False)
    assert summary.exit_code == 0, store.failures()
    found = study.results(store, few)
    base = rows(found, kind="train")[0]
    at = {(row["method"], row["sparsity"]): row for row in rows(found, kind="prune")}
    assert base["parameters"] == 784 * 1000 + 1000 * 1000 + 1000 * 500 + 500 * 200 + 200 * 10
    assert base["accuracy"] > 0.82
    assert abs(at["weight", 0.5]["accuracy"] - base["accuracy"]) <= 0.01
    assert at["neuron", 0.5]["accuracy"] < at["weight", 0.5]["accuracy"]
    assert at["neuron", 0.5]["cut_difference"] <= 1e-5
    assert at["neuron", 0.9]["accuracy"] < 0.5
    page = write_report(study, store, few)
    assert "0.8851" in page.read_text(encoding="utf-8"), "the published baseline stands beside ours"


def test_published_figures_stand_beside_their_own_data_alone(tmp_path: Path) -> None:
    options: dict[str, Any] = {"seeds": 1, "epochs": 1, "sparsities": [0.5], "methods": ["weight"], "dense": []}
    options |= {"data": "digits", "model": "lenet-300-100", "validation": 300}
    store = Store(tmp_path)
    run_study(by_name("fathollahi"), store, options, progress=False, executor="serial")
    report = build_report(by_name("fathollahi"), store, options)
    assert report.subject == "lenet-300-100 on digits"
    assert not [column for b in report.blocks() if isinstance(b, Table) for column in b.columns if column.published]
    assert not any("published" in str(block) for block in report.sections[-1].blocks)
