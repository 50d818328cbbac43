"""The studies of what units are worth, after Charpentier's chapters 4 to 6, on grids of a second or two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.lab import Report, Results, Store, Table, build_report, run_study
from secateur.lab.plan.study import Context
from secateur.measure import evaluate, parameters
from secateur.structure import channels, cut
from secateur.studies import by_name
from secateur.studies.charpentier import vgg as charpentier_vgg
from secateur.studies.charpentier.measured import LABELS
from secateur.studies.kit import networks
from secateur.studies.kit.controls import METHODS, as_many, by_method
from secateur.studies.kit.networks import first
from secateur.types import InputError, UnknownNameError

SMALL = {"data": "digits", "validation": 300, "epochs": 2, "measured": 300}
TINY: dict[str, dict[str, Any]] = {
    "charpentier-batch-size": {**SMALL, "model": "ann-128", "seeds": 2, "batch_sizes": [32, 128]},
    "charpentier-dropout": {**SMALL, "model": "mlp-3", "seeds": 1, "dropouts": [0.0, 0.5]},
    "charpentier-reinit": {**SMALL, "model": "ann-128", "seeds": 2, "every": 1},
    "charpentier-classes": {**SMALL, "seeds": 2, "sparsities": [0.25], "classes": [3], "measured": 200},
    "charpentier-vgg": {
        **SMALL,
        "seeds": 1,
        "epochs": 1,
        "width": 0.03125,
        "measured": 20,
        "sparsities": [0.3],
        "steps": 2,
        "tune_images": 64,
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Results, Report]]:
    """Runs a study on its tiny grid, once."""
    kept: dict[str, tuple[Results, Report]] = {}

    def make(name: str) -> tuple[Results, Report]:
        if name not in kept:
            study, store = by_name(name), Store(tmp_path_factory.mktemp("runs") / name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(charpentier_vgg, "BATCHES", (1,))
                summary = run_study(study, store, TINY[name], progress=False)
            assert summary.exit_code == 0, store.failures()
            kept[name] = study.results(store, TINY[name]), build_report(study, store, TINY[name])
        return kept[name]

    return make


def table(report: Report, name: str) -> Table:
    (found,) = (block for block in report.blocks() if not isinstance(block, str) and block.name == name)
    assert isinstance(found, Table)
    return found


def names(report: Report) -> set[str]:
    return {block.name for block in report.blocks() if not isinstance(block, str)}


# Names for ever

PINNED: dict[str, dict[int, str]] = {
    "charpentier-batch-size": {
        0: "199b6c09e735765b",
        1: "7ad9d068b7c4dce8",
        2: "ca3b14cf47d53129",
        209: "60016da54e7012d4",
    },
    "charpentier-dropout": {
        0: "8a52c5e434d70891",
        1: "5d3f8b61a184d72a",
        2: "7bff0706f67cb582",
        209: "74275b72cc16d5f4",
    },
    "charpentier-reinit": {0: "88bf677a2ec03fec", 1: "bee9f59f12bbff9c", 2: "3f5a9ebe52da99af", 89: "6b8f5c9fcf49a1d1"},
    "charpentier-classes": {
        0: "8f0db34bbe99378b",
        1: "39bd83c515a759e8",
        2: "1201ae23ba9acb50",
        92: "ce97456e23be858b",
    },
    "charpentier-vgg": {0: "829d19847e927b90", 1: "4493dc39eb91c4d1", 2: "bf9666b46b9bbb21", 77: "068cf2e6072c0fbb"},
}


@pytest.mark.parametrize("name", TINY)
def test_recipes_keep_their_ids(name: str) -> None:
    """A changed id loses every result that people have: give a new option a default instead."""
    plan = [cell.id for cell in by_name(name).plan()]
    assert {at: plan[at] for at in PINNED[name]} == PINNED[name]


@pytest.mark.parametrize("name", TINY)
def test_a_report_of_nothing_says_so(name: str, tmp_path: Path) -> None:
    study = by_name(name)
    report = study.pages(study.results(Store(tmp_path), TINY[name]))
    assert "yet" in report.summary[0]


# What all of them share


def test_controls_remove_as_many_units_of_each_layer() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    sites = channels(model, torch.zeros(1, 3))
    changes = {"0": torch.tensor([0.1, -0.2, 0.3, 0.0]), "2": torch.tensor([0.5, 0.4, 0.6])}
    found = {method: by_method(method, model, sites, changes, 3 / 7, 0) for method in METHODS}
    assert {n: k.tolist() for n, k in found["loss change"].items()} == {
        "0": [False, False, True, False],
        "2": [True, True, True],
    }
    for keep in found.values():
        assert {name: int(kept.sum()) for name, kept in keep.items()} == {"0": 1, "2": 3}
    # The control keeps the neuron of the greatest incoming weights.
    best = torch.cat([model[0].weight, model[0].bias[:, None]], 1).norm(dim=1).argmax()
    assert int(found["magnitude"]["0"].nonzero()) in (int(best), int(model[0].weight.norm(dim=1).argmax()))
    with pytest.raises(InputError):
        as_many({"fc": torch.tensor([1.0, float("nan")])}, {"fc": torch.tensor([True, False])})


def test_the_labels_of_a_network_add_up_and_are_those_of_its_changes(made: Any) -> None:
    results, report = made("charpentier-batch-size")
    rows = results.frame[results.frame["kind"] == "measure"]
    assert len(rows) == 4
    for row in rows.to_dict("records"):
        assert sum(row[label] for label in LABELS) == pytest.approx(1)
        assert row["by_site"]["hidden"]["zero"] == round(128 * row["zero"])
        change = results.store.artefact(row["id"])["change.hidden"]
        assert row["change_50"] == pytest.approx(float(change.double().quantile(0.5)))
        assert row["units"] == len(change) == 128
    shown = table(report, "labels")
    assert [line[0] for line in shown.rows] == ["32", "128"]
    small = rows[rows["batch_size"] == 32]
    assert shown.rows[0][2] == pytest.approx(small["accuracy"].mean())
    assert "32" in report.summary[0]
    assert {"shares", "changes", "cuts", "classes-by-factor", "classes"} <= names(report)


def test_half_of_the_units_are_really_gone(made: Any) -> None:
    results, _ = made("charpentier-batch-size")
    rows = results.frame[results.frame["kind"] == "prune"]
    assert len(rows) == 2 * 2 * 3
    assert set(rows["units_removed"]) == {0.5}
    assert set(rows["parameters"]) == {64 * 64 + 64 + 64 * 10 + 10}
    for _, group in rows.groupby(["seed", "batch_size"]):
        assert group["accuracy"].nunique() > 1, "the methods choose different units"


def test_dropout_is_a_knob_of_the_training_alone(made: Any) -> None:
    study = by_name("charpentier-dropout")
    rates = [cell.recipe.parameters["model_options"]["dropout"] for cell in study.plan() if cell.recipe.kind == "train"]
    assert sorted(set(rates)) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    results, report = made("charpentier-dropout")
    measured = results.frame[results.frame["kind"] == "measure"].set_index("dropout")
    assert measured["train_accuracy"][0.0] != measured["train_accuracy"][0.5]
    assert any("two seeds at least" in block for block in report.blocks() if isinstance(block, str))
    with pytest.raises(InputError, match="dropouts"):
        study.plan({"dropouts": [1.0]})


# New beginnings


def test_new_beginnings_stand_beside_plain_training_and_a_random_control(made: Any) -> None:
    results, report = made("charpentier-reinit")
    rows = results.frame[results.frame["kind"] == "reinitialise"]
    arms = ["zero and worse units, kaiming-uniform", "random units, kaiming-uniform"]
    assert list(dict.fromkeys(rows["arm"])) == arms
    for _, pair in rows.groupby("seed"):
        first_cycle = [counts["2"] for counts in pair["begun_anew"]]
        assert first_cycle[0] == first_cycle[1] > 0, "the first measurement is of the same network"
        assert pair["accuracy"].nunique() == 2 or pair["loss"].nunique() == 2
    for seed, pair in rows.groupby("seed"):
        plain = results.frame[(results.frame["kind"] == "train") & (results.frame["seed"] == seed)]
        epochs = results.store.histories([*plain["id"], *pair["id"]])
        first = epochs[epochs["epoch"] == 1]["train_loss"]
        assert len(first) == 3
        assert first.nunique() == 1, "until the first new beginning all train alike, on all training images"
    shown = table(report, "trainings")
    assert [line[0] for line in shown.rows] == ["plain", *arms]
    assert shown.rows[0][2] == 0
    assert shown.rows[1][2] == pytest.approx(sum(c["2"] for c in rows["begun_anew"][rows["arm"] == arms[0]]) / 2)
    assert "compare-accuracy" in names(report)


def test_schemes_make_arms_and_unknown_ones_are_refused() -> None:
    study = by_name("charpentier-reinit")
    plan = study.plan({"seeds": 1, "model": "ann-128", "schemes": ["kaiming-uniform", "xavier-normal"]})
    assert len([cell for cell in plan if cell.recipe.kind == "reinitialise"]) == 4
    with pytest.raises(UnknownNameError, match="did you mean 'xavier-normal'"):
        study.plan({"schemes": ["xavier-norm"]})


# Classes


def test_a_class_is_kept_or_forgotten(made: Any) -> None:
    results, report = made("charpentier-classes")
    rows = results.frame[results.frame["kind"] == "class"]
    assert len(rows) == 2 * 2
    own = {way: [values[3] for values in group["class_accuracy"]] for way, group in rows.groupby("way")}
    assert sum(own["keep"]) > sum(own["forget"])
    for way in ("keep", "forget"):
        shown = table(report, way)
        assert [line[0] for line in shown.rows] == ["3"]
        full = results.frame[results.frame["kind"] == "measure"]["class_accuracy"]
        before = sum(values[3] for values in full) / 2
        assert shown.rows[0][1] == pytest.approx(before)
        assert shown.rows[0][2] == pytest.approx(100 * (sum(own[way]) / 2 - before))
    with pytest.raises(InputError, match="classes holds 10, but digits has the classes 0 to 9"):
        by_name("charpentier-classes").plan({**TINY["charpentier-classes"], "classes": [10]})


# VGG-16


def test_all_networks_of_one_way_and_sparsity_have_one_shape(made: Any) -> None:
    results, report = made("charpentier-vgg")
    rows = results.frame[(results.frame["kind"] == "prune") & (results.frame["step"] == results.frame["steps"])]
    rows = rows[rows["method"] != "unpruned"]
    assert len(rows) == 6
    for _, group in rows.groupby("way"):
        assert group["kept"].map(str).nunique() == 1
        assert group["macs"].nunique() == group["parameters"].nunique() == 1
    total = sum(next(iter(rows["kept"])).values()) / (1 - rows["units_removed"].iloc[0])
    assert rows["units_removed"].tolist() == pytest.approx([round(0.3 * total) / total] * 6)
    assert {"gains", "costs", "layers", "classes"} <= names(report)
    assert table(report, "gains").rows[1][3] == rows["macs"].iloc[0]


def test_a_step_goes_on_from_the_network_of_the_step_before(made: Any) -> None:
    results, _ = made("charpentier-vgg")
    store = results.store
    last = results.frame[(results.frame["way"] == "in steps") & (results.frame["step"] == 2)].iloc[0]
    context = Context(store.get(last["id"]).recipe, store, results.options)
    whole, recipe = networks.network(context)
    sites = channels(whole, networks.example(context, recipe))
    model, held = charpentier_vgg._so_far(context, whole, sites)
    before = store.get(context.recipe.needs[-1])
    assert {name: int(kept.sum()) for name, kept in held.items()} == before.metrics["kept"]
    assert evaluate(model, networks.split(context, recipe, "test")).accuracy == before.metrics["accuracy"]
    kept = store.artefact(last["id"])
    small = cut(whole, sites, {name: kept[f"keep.{name}"] for name in sites})
    assert parameters(small).total == last["parameters"]
    assert all(bool((held[name] | ~kept[f"keep.{name}"]).all()) for name in sites), "what is gone stays gone"


def test_every_way_trains_as_long() -> None:
    plan = by_name("charpentier-vgg").plan({"seeds": 1, "sparsities": [0.5]})
    chosen = [cell.recipe.parameters for cell in plan if cell.recipe.kind == "prune"]
    epochs: dict[tuple[str, str], int] = {}
    for one in chosen:
        key = one["method"], one["way"]
        epochs[key] = epochs.get(key, 0) + one["tune_epochs"]
    assert set(epochs.values()) == {3}
    assert len(epochs) == 1 + 2 * 3


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"device is 'abacus'.*give cpu"):
        by_name("charpentier-vgg").plan({"device": "abacus"})


def test_no_more_images_are_taken_than_there_are() -> None:
    images = networks._load("digits", "test", None, 300, None, None)
    assert len(first(images, 7)) == 7
    assert len(first(images, 10**6)) == len(images)
