"""The studies after L. Charpentier, 2020: their grids, what their cells compute, and what their reports say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from torch import nn

from secateur import data, models
from secateur.criteria import LossChange, Magnitude
from secateur.lab import Report, Results, Store, Table, run_study, write_report
from secateur.lab.show.blocks import Basis
from secateur.measure import evaluate
from secateur.structure import channels, mask
from secateur.studies import by_name
from secateur.studies.charpentier.by_loss import without
from secateur.studies.charpentier.common import bases, printed
from secateur.studies.charpentier.precomputed import stop
from secateur.studies.charpentier.random import _differences
from secateur.studies.kit.controls import by_magnitude, drawn, drawn_like
from secateur.studies.kit.distributions import STATISTICS, describe_table
from secateur.studies.kit.networks import taken_options
from secateur.studies.kit.parts import Part, parts
from secateur.types import InputError, UnknownNameError

NAMES = ("random", "shrink", "importance", "precomputed", "exhaustive-greedy")

SMALL: dict[str, Any] = {"data": "digits", "seeds": 2, "epochs": 2, "validation": 300, "model_options": {"hidden": 12}}

BOTH: dict[str, Any] = {
    **SMALL,
    "model": ["ann-128", "cnn-4"],
    "model_options": {"hidden": 12, "width": 0.1},
    "images": 200,
}

TINY: dict[str, dict[str, Any]] = {
    "random": {**SMALL, "removed": [1, 6], "draws": 5},
    "shrink": {**SMALL, "n": [1, 2], "runs": 3, "images": 300},
    "importance": BOTH,
    "precomputed": {**BOTH, "draws": 3},
    "exhaustive-greedy": {**BOTH, "draws": 3},
}


@dataclass(frozen=True)
class Ran:
    """A study that was run on a tiny grid."""

    results: Results
    report: Report

    def rows(self, **wanted: Any) -> list[dict[str, Any]]:
        found = self.results.frame.to_dict("records")
        return [row for row in found if all(row.get(key) == value for key, value in wanted.items())]

    def table(self, name: str) -> list[dict[str, Any]]:
        table = next(b for b in self.report.blocks() if isinstance(b, Table) and b.name == name)
        return [dict(zip([c.heading for c in table.columns], row, strict=True)) for row in table.rows]


@pytest.fixture(scope="module", params=NAMES)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return tiny(request.param, tmp_path_factory)


RUNS: dict[str, Ran] = {}


def tiny(name: str, factory: pytest.TempPathFactory) -> Ran:
    """The study `name` on its tiny grid, computed once."""
    if name not in RUNS:
        study, store = by_name(f"charpentier-{name}"), Store(factory.mktemp("runs") / name)
        summary = run_study(study, store, TINY[name], progress=False)
        assert summary.exit_code == 0, store.failures()
        results = study.results(store, TINY[name])
        RUNS[name] = Ran(results, study.pages(results))
    return RUNS[name]


def network(ran: Ran, row: dict[str, Any]) -> nn.Module:
    """The trained network that a cell began with."""
    (base,) = ran.rows(kind="train", seed=row["seed"], model=row["model"])
    recipe = ran.results.store.get(base["id"]).recipe.parameters
    model = models.build(recipe["model"], **recipe["model_options"])
    model.load_state_dict(ran.results.store.artefact(base["id"]))
    return model


def digits(which: str, count: int | None = None) -> data.Split:
    held = 0 if which == "test" else 300
    return data.load("digits", which, validation=held, seed=None, limit=count)


# Names, grids and published tables


PINNED = {
    "random": {0: "a6853fdec786e793", 1: "0baa5e59b9fb06cc", 63: "7097305714030cf6"},
    "shrink": {0: "770f697a2622f065", 1: "971bd91bca7ba767", 17: "bedae5a9245c6d2f"},
    "importance": {0: "94768a284777ffbc", 1: "9fa4ceb23a3406d8", 17: "391865697e000f98"},
    "precomputed": {
        0: "1558f4842acb487c",
        1: "7825c6621b997698",
        2: "360ef1b41a0a1faf",
        3: "b0d949bb1d5615b3",
        98: "11107d2cc62ddd9d",
    },
    "exhaustive-greedy": {
        0: "45258f57efc8d5ff",
        1: "159c9180770962f2",
        2: "9feb97f11e415a40",
        4: "fa1c9063b2a19ebf",
        62: "c208239d7888e0fd",
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_recipes_keep_their_ids(name: str) -> None:
    """A changed id loses every result that people have: give a new option a default instead."""
    plan = [cell.id for cell in by_name(f"charpentier-{name}").plan()]
    assert {at: plan[at] for at in PINNED[name]} == PINNED[name]
    assert len(plan) == max(PINNED[name]) + 1


def test_networks_are_trained_as_in_the_text() -> None:
    plan = by_name("charpentier-random").plan()
    networks = [cell.recipe.parameters for cell in plan if cell.recipe.kind == "train"]
    assert len(networks) == 8
    assert {(p["model"], p["epochs"], p["batch_size"]) for p in networks} == {("ann-128", 5, 32)}
    removed = [c.recipe.parameters for c in plan if c.recipe.kind == "remove" and c.recipe.seed == 0]
    assert [(p["n"], p["draws"]) for p in removed] == [(n, 300) for n in (1, 2, 4, 8, 16, 32, 64)]
    shrunk = [c.recipe.parameters for c in by_name("charpentier-shrink").plan() if c.recipe.kind == "shrink"]
    assert [(p["n"], p["runs"]) for p in shrunk[:5]] == [(n, 20) for n in (1, 2, 3, 4, 8)]


@pytest.mark.parametrize("name", ["importance", "precomputed", "exhaustive-greedy"])
def test_all_three_architectures_take_part(name: str) -> None:
    plan = by_name(f"charpentier-{name}").plan({"seeds": 1})
    trained = {c.recipe.parameters["model"]: c.recipe.parameters for c in plan if c.recipe.kind == "train"}
    assert {model: p["model_options"] for model, p in trained.items()} == {
        "ann-128": {},
        "mlp-3": {},
        "cnn-4": {"width": 0.5},
    }


def test_more_networks_keep_every_result() -> None:
    for name in NAMES:
        study = by_name(f"charpentier-{name}")
        few, more = ({c.id for c in study.plan({"seeds": n})} for n in (1, 2))
        assert few < more


def test_published_tables_are_those_of_the_text() -> None:
    """Spot checks, and what every table must fulfil."""
    random = printed("random", "fashion-mnist")["accuracy"], printed("random", "mnist")["loss"]
    assert random[0][64] == [0.7394, 0.0443, 0.5493, 0.7171, 0.7437, 0.7698, 0.8307]
    assert random[1][1] == [0.0895, 0.0026, 0.0848, 0.0877, 0.0890, 0.0908, 0.0997]
    shrink = printed("shrink", "fashion-mnist"), printed("shrink", "mnist-5k")
    assert shrink[0][3] == [10.65, 3.1502, 3.0, 9.0, 12.0, 12.0, 18.0]
    assert shrink[1][8] == [2.4, 3.7613, 0.0, 0.0, 0.0, 8.0, 8.0]
    tables = [printed("random", name)[value] for name in ("mnist", "fashion-mnist") for value in ("accuracy", "loss")]
    for table in [*tables, *shrink]:
        for mean, _, *five in table.values():
            assert five == sorted(five)
            assert five[0] <= mean <= five[-1]
    for table in shrink:
        assert all(value % n == 0 for n, (_, _, least, *_, most) in table.items() for value in (least, most))
    assert printed("bands", "fashion-mnist")[64] == [9.5, 2.5]
    assert printed("random", "fashion-mnist", "mlp-3") == printed("random", "digits") == {}


# What is refused, and which options reach which network


def test_each_network_takes_the_options_that_it_knows() -> None:
    settled = {**by_name("charpentier-importance").settle(), **BOTH}
    made = {base.lookup["model"]: base.recipe.parameters["model_options"] for base in bases("x", settled)}
    assert made["ann-128"] == {"input_size": 8, "hidden": 12}
    assert made["cnn-4"] == {"input_size": 8, "width": 0.1}
    assert taken_options({"model": "a.b:c", "model_options": {"q": 1}}) == {"q": 1}


@pytest.mark.parametrize(
    ("name", "wrong", "error", "words"),
    [
        ("random", {"model_options": {"hiden": 3}}, UnknownNameError, "did you mean 'hidden'"),
        ("random", {"model": "ann-129"}, UnknownNameError, "did you mean 'ann-128'"),
        ("random", {"removed": [0]}, InputError, "removed is .0.; give"),
        ("random", {"draws": 1}, InputError, "draws is 1"),
        ("shrink", {"runs": 0}, InputError, "runs is 0"),
        ("importance", {"alpha": 2}, InputError, "alpha is 2"),
        ("precomputed", {"schedules": ["wors"]}, UnknownNameError, "did you mean 'worse'"),
        ("exhaustive-greedy", {"tolerance": -1}, InputError, "tolerance is -1"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(
    name: str, wrong: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        by_name(f"charpentier-{name}").plan(wrong)


# Masks drawn at random, and their controls


def toy() -> tuple[nn.Module, Any]:
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    return model, channels(model, torch.zeros(1, 3))


def test_masks_remove_as_many_as_asked() -> None:
    model, sites = toy()
    keeps = drawn(model, sites, 3, 20, (0, 3))
    assert [sum(int((~k).sum()) for k in keep.values()) for keep in keeps] == [3] * 20
    assert len({tuple(torch.cat([*keep.values()]).tolist()) for keep in keeps}) > 10
    for one, other in zip(keeps, drawn(model, sites, 3, 20, (0, 3)), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(InputError, match="11 units are to be removed at random, but the network has only 10"):
        drawn(model, sites, 11, 1, (0,))


def test_controls_remove_as_many_of_each_site() -> None:
    model, sites = toy()
    keep = without(sites, [("0", 1), ("0", 4), ("2", 0)])
    assert keep["0"].tolist() == [True, False, True, True, False, True]
    for control in (*drawn_like(keep, model, sites, 5, (1,)), by_magnitude(keep, model, sites)):
        assert {name: int((~k).sum()) for name, k in control.items()} == {"0": 2, "2": 1}
    scores = Magnitude(p=2)(model, sites)["0"]
    assert set((~by_magnitude(keep, model, sites)["0"]).nonzero().flatten().tolist()) == set(
        scores.argsort()[:2].tolist()
    )


# Tables


def test_statistics_stand_beside_the_published_ones() -> None:
    rows = pandas.DataFrame({"n": [1] * 4 + [2] * 2, "seed": [0, 0, 1, 1, 0, 1], "loss": [1.0, 3, 2, 6, 5, 7]})
    table = describe_table(rows, "n", "loss", "t", "T.", Basis("toy"), theirs={1: tuple(range(7))}, digits=1)
    assert [c.heading for c in table.columns] == ["statistic", "n = 1", "n = 1, published", "n = 2"]
    assert [row[0] for row in table.rows] == list(STATISTICS)
    assert table.rows[0][1:] == [3.0, 0, 6.0], "the mean of the networks' means: (2 + 4) / 2 and (5 + 7) / 2"
    assert [row[1] for row in table.rows[2:]] == [1.5, 2.25, 3.0, 3.75, 4.5]


def differences(accuracies: list[float]) -> str:
    cells = pandas.DataFrame({"n": 64, "accuracy": accuracies})
    part = Part("fashion-mnist", "ann-128", *[pandas.DataFrame()] * 3, None, None)  # type: ignore[arg-type]
    return " ".join(_differences(part, cells))


def test_what_no_network_reproduces_is_said() -> None:
    """The published mean at n = 64 is 0.7394."""
    assert differences([0.76, 0.78]).startswith("No network of ours reproduces the published mean accuracy at n = 64")
    assert "0.7394 published, ours 0.7600 to 0.7800" in differences([0.76, 0.78])
    assert differences([0.72, 0.78]).startswith("The published mean lies among our networks' means at n = 64")


# Each study, tiny


def test_every_study_makes_its_report(ran: Ran, tmp_path: Path) -> None:
    assert ran.report.summary
    assert "Nothing has been computed yet." not in ran.report.summary
    titles = [section.title for section in ran.report.sections]
    assert any(title.endswith("Classes") for title in titles)
    assert titles[-1] == "How it was done"
    assert any(title.endswith("Training") for title in titles)


def test_a_report_is_written(tmp_path_factory: pytest.TempPathFactory) -> None:
    one = tiny("random", tmp_path_factory)
    page = write_report(by_name("charpentier-random"), one.results.store, TINY["random"])
    assert "://" not in page.read_text(encoding="utf-8").replace("http://www.w3.org", ""), "the page fetches nothing"
    assert (page.parent / "tables" / "describe-accuracy.csv").exists()


def test_a_report_of_two_networks_has_a_part_for_each(tmp_path_factory: pytest.TempPathFactory) -> None:
    one = tiny("precomputed", tmp_path_factory)
    titles = [section.title for section in one.report.sections]
    assert [t for t in titles if t.endswith("What was cut")] == [
        "ann-128 on digits: What was cut",
        "cnn-4 on digits: What was cut",
    ]
    shown = [(row["schedule"], row["method"]) for row in one.table("cnn-4-digits-controls")]
    assert shown[:3] == [("worse", "by loss"), ("worse", "random"), ("worse", "magnitude")]
    assert len(shown) == 9


@pytest.mark.parametrize("name", NAMES)
def test_an_unfinished_study_shows_what_there_is(name: str, tmp_path: Path) -> None:
    study, store = by_name(f"charpentier-{name}"), Store(tmp_path / name)
    few = {**(TINY[name] if name == "random" else SMALL), "seeds": 1, "epochs": 1, "model": "ann-128"}
    assert study.pages(study.results(store, few)).summary == ["Nothing has been computed yet."]
    only = type(study)(**{**vars(study), "cells": lambda _: study.plan(few)[:1]})
    run_study(only, store, few, progress=False)
    assert [s.title for s in study.pages(study.results(store, few)).sections] == ["Training", "How it was done"]


def test_random_removal_is_that_of_the_masked_network(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Against the plain loop: one masked network after the other."""
    one = tiny("random", tmp_path_factory)
    (row,) = one.rows(kind="remove", seed=1, n=6)
    model, test = network(one, row), digits("test")
    sites = channels(model, test.images[:1])
    rated = [evaluate(mask(model, sites, keep), test) for keep in drawn(model, sites, 6, 5, (1, 6))]
    kept = one.results.store.artefact(row["id"])
    assert kept["accuracy"].tolist() == pytest.approx([r.accuracy for r in rated])
    assert kept["loss"].tolist() == pytest.approx([r.loss for r in rated], rel=1e-5)
    assert row["accuracy"] == pytest.approx(sum(r.accuracy for r in rated) / 5)
    assert row["class_accuracy"] == pytest.approx(torch.tensor([r.class_accuracy for r in rated]).mean(0).tolist())
    six = next(r for r in one.table("magnitude") if r["nodes removed"] == 6)
    both = one.rows(kind="remove", n=6)
    assert six["random, accuracy"] == pytest.approx(sum(r["accuracy"] for r in both) / 2)
    assert six["magnitude − random (points)"] == pytest.approx(
        50 * sum(r["magnitude_accuracy"] - r["accuracy"] for r in both)
    )


def test_shrinking_never_raises_the_training_loss(tmp_path_factory: pytest.TempPathFactory) -> None:
    one = tiny("shrink", tmp_path_factory)
    (part,) = parts(one.results)
    runs = part.steps(part.kind("shrink"))
    assert len(runs) == 2 * 2 * 3 * 3, "networks × n × runs × methods"
    shrunk = runs[runs["method"] == "shrink"]
    assert (shrunk["train_loss"] <= 1e-6).all()
    assert (shrunk["removed"] % shrunk["n"] == 0).all()
    for _, same in runs.groupby(["n", "seed", "run"]):
        assert same["removed"].nunique() == 1, "the controls remove as many"
    cells = one.rows(kind="shrink")
    assert all(cell["cut_difference"] < 1e-5 for cell in cells)
    table = {row["statistic"]: row for row in one.table("describe-removed")}
    assert table["mean"]["n = 1"] == pytest.approx(shrunk[shrunk["n"] == 1]["removed"].mean())


def test_importance_is_that_of_the_plain_loop(tmp_path_factory: pytest.TempPathFactory) -> None:
    one = tiny("importance", tmp_path_factory)
    for model_name, site in (("ann-128", "hidden"), ("cnn-4", "conv4")):
        row = one.rows(kind="importance", model=model_name, seed=0)[0]
        model, chosen = network(one, row), digits("train", 200)
        sites = channels(model, chosen.images[:1])
        whole = evaluate(model, chosen).loss
        change = one.results.store.artefact(row["id"])[f"change.{site}"]
        for unit in range(len(change)):
            loss = evaluate(mask(model, sites, without(sites, [(site, unit)])), chosen).loss
            assert float(change[unit]) == pytest.approx(loss - whole, abs=1e-5)
        assert sum(sum(own.values()) for own in row["labels"].values()) == row["units"]
        assert row["estimates"]["second order"]["spearman"] > row["estimates"]["random"]["spearman"]
    hidden = one.rows(kind="importance", model="ann-128", seed=0)[0]
    assert hidden["estimates"]["next layer"]["spearman"] > 0.999, "there the next layer is all that follows"


def test_labels_need_not_be_next_to_each_other_in_the_ranking() -> None:
    """A unit of a small but sure change may be worse where one of a greater is not."""
    ranked = {
        "order": ["a", "b", "a", "b"],
        "numbers": [3, 0, 1, 2],
        "took": ["worse", "zero", "worse", "important"],
        "losses": [1.0, 0.9, 0.95, 1.0, 1.5],
    }
    assert stop("worse", ranked) == [("a", 3), ("a", 1)]
    assert stop("worse and zero", ranked) == [("a", 3), ("b", 0), ("a", 1)]
    assert stop("no higher loss", ranked) == [("a", 3), ("b", 0), ("a", 1)]
    assert stop("no higher loss", {**ranked, "losses": [1.0, 1.1, 1.2, 1.3, 1.5]}) == []


def test_precomputed_follows_one_ranking(tmp_path_factory: pytest.TempPathFactory) -> None:
    one = tiny("precomputed", tmp_path_factory)
    for model_name in ("ann-128", "cnn-4"):
        (ranked,) = one.rows(kind="rank", model=model_name, seed=0)
        row = one.rows(kind="prune", model=model_name, seed=0, schedule="no higher loss")[0]
        model, chosen = network(one, row), digits("train", 200)
        sites = channels(model, chosen.images[:1])
        changes = LossChange(chosen)(model, sites)
        in_order = [float(changes[s][n]) for s, n in zip(ranked["order"], ranked["numbers"], strict=True)]
        assert in_order == sorted(in_order)
        assert row["train_loss"] == pytest.approx(ranked["losses"][int(row["removed"])], rel=1e-5)
        assert row["train_loss"] <= row["whole_train_loss"] * (1 + 1e-6)
        worse = one.rows(kind="prune", model=model_name, seed=0, schedule="worse")[0]
        both = one.rows(kind="prune", model=model_name, seed=0, schedule="worse and zero")[0]
        assert worse["removed"] == ranked["took"].count("worse")
        assert both["removed"] == worse["removed"] + ranked["took"].count("zero")


@pytest.mark.parametrize("name", ["precomputed", "exhaustive-greedy"])
def test_what_is_pruned_is_really_cut_and_has_its_controls(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    one = tiny(name, tmp_path_factory)
    pruned = one.rows(kind="prune")
    for row in pruned:
        kept = row["kept"]
        if row["model"] == "ann-128":
            assert row["parameters"] == 64 * kept["hidden"] + kept["hidden"] + 10 * kept["hidden"] + 10
        assert (row["parameters"] < row["whole_parameters"]) == (row["removed"] > 0)
        assert row["cut_difference"] < 1e-5
        same = {key: row[key] for key in ("model", "seed", "schedule")}
        controls = one.rows(kind="control", **same)
        assert [c["method"] for c in controls] == ["random", "magnitude"]
        assert {c["removed"] for c in controls} == {row["removed"]}
    magnitude = one.rows(kind="control", method="magnitude", model="ann-128", seed=0)[0]
    (row,) = one.rows(kind="prune", model="ann-128", seed=0, schedule=magnitude["schedule"])
    model = network(one, magnitude)
    sites = channels(model, digits("test", 1).images)
    keep = by_magnitude(one.results.store.artefact(row["id"]), model, sites)
    assert magnitude["accuracy"] == pytest.approx(evaluate(mask(model, sites, keep), digits("test")).accuracy)


def test_exhaustive_and_greedy_end_where_the_training_loss_is_no_higher(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    one = tiny("exhaustive-greedy", tmp_path_factory)
    pruned = one.rows(kind="prune")
    assert len(pruned) == 2 * 2 * 2
    assert all(row["train_loss"] <= row["whole_train_loss"] * (1 + 1e-6) for row in pruned)
    histories = one.results.histories
    for row in pruned:
        steps = histories[(histories["id"] == row["id"]) & (histories["images"] == "training")]
        assert steps["step"].tolist() == list(range(int(row["removed"]) + 1))
        assert steps["loss"].iloc[-1] == pytest.approx(row["train_loss"], rel=1e-5)
        test = histories[(histories["id"] == row["id"]) & (histories["images"] == "test")]
        assert test["loss"].iloc[-1] == pytest.approx(row["loss"], rel=1e-5)
    table = one.table("ann-128-digits-cut")
    assert [row["training loss no higher"] for row in table] == ["2 of 2", "2 of 2"]


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """A pruning that ends with an error after so many removals."""
    from secateur.schedules.walk import Walk

    whole = Walk.remove

    def remove(self: Walk, *given: Any, **options: Any) -> None:
        whole(self, *given, **options)
        if len(self.steps) == step:
            raise KeyboardInterrupt

    Walk.remove = remove  # type: ignore[method-assign]
    try:
        yield
    finally:
        Walk.remove = whole  # type: ignore[method-assign]


def test_a_pruning_goes_on_after_a_kill(tmp_path: Path) -> None:
    study, folder = by_name("charpentier-exhaustive-greedy"), tmp_path / "under-way"
    few = {**SMALL, "seeds": 1, "epochs": 1, "model": "ann-128", "images": 200, "schedules": ["greedy"], "draws": 2}
    straight, store = Store(tmp_path / "straight"), Store(tmp_path / "killed")
    # So many removals that there are some to be killed between.
    few |= {"tolerance": 0.05}
    run_study(study, straight, few, progress=False)
    (pruned,) = [c for c in study.plan(few) if c.recipe.kind == "prune"]
    assert straight.get(pruned.id).metrics["removed"] > 2
    with killed_at(2):
        run_study(study, store, {**few, "checkpoints": str(folder)}, progress=False)
    assert list(folder.iterdir())
    run_study(study, store, {**few, "checkpoints": str(folder)}, progress=False)
    assert not list(folder.iterdir()), "what is finished needs no checkpoint"
    timed = {"cpu_seconds"}
    ours, theirs = ({k: v for k, v in s.get(pruned.id).metrics.items() if k not in timed} for s in (store, straight))
    assert ours == theirs
