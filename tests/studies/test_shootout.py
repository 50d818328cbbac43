"""The comparison of criteria: its table, its grid, its names for ever, and a tiny run with its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from torch import nn

from secateur import data
from secateur.criteria import names
from secateur.lab import Report, Results, Store, Table, run_study
from secateur.structure import channels, weights
from secateur.studies import by_name
from secateur.studies.shootout.pages import ranked
from secateur.studies.shootout.ways import CRITERIA, SOLVERS, criterion, scorers, solvers
from secateur.types import InputError, UnknownNameError

STUDY = by_name("criteria-shootout")
TINY: dict[str, Any] = {
    "data": "digits",
    "validation": 300,
    "seeds": 2,
    "epochs": 3,
    "images": 600,
    "shown": 40,
    "tune_images": 100,
    "rated": 200,
    "model": "lenet-300-100",
    "model_options": {"lenet-300-100": {"input_size": 8}},
    "criteria": ["random", "magnitude", "taylor", "wanda"],
    "sparsities": [0.5, 0.8],
    "tune_at": 0.8,
}

PINNED = {
    0: "3a39f06e44b9df41",
    1: "b2d4ed981381f530",
    3: "b84cce1052af44f2",
    26: "43dd5c2573e5c2f9",
    30: "d879edec9f9a957d",
    41: "74190c05f65b2f59",
    409: "3bbd55ec96940f5e",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    store = Store(tmp_path_factory.mktemp("runs") / "shootout")
    summary = run_study(STUDY, store, TINY, progress=False, executor="serial")
    assert not summary.failed
    return STUDY.results(store, TINY)


@pytest.fixture(scope="module")
def report(results: Results) -> Report:
    return STUDY.pages(results)


def tables(report: Report) -> dict[str, Table]:
    return {b.name: b for section in report.sections for b in section.blocks if isinstance(b, Table)}


# What takes part


def test_every_criterion_takes_part() -> None:
    """All but those by norms, l2, which is magnitude, and the one that came after the study."""
    assert set(names()) - {name.replace(" ", "-") for name in CRITERIA} == {"bn-scale", "joint-loss-change", "l2"}


@pytest.mark.parametrize("unit", ["channels", "weights"])
def test_every_criterion_scores_the_units_it_says(unit: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.ReLU(), nn.Linear(6, 10)
        )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = data.load("digits", "train").subset(range(20))
    sites = channels(model, images.images[:1]) if unit == "channels" else weights(model)
    for name in scorers(unit, []):
        scores = criterion(name, model, images, 3)(model, sites)
        again = criterion(name, model, images, 3)(model, sites)
        assert {site: score.shape for site, score in scores.items()} == {
            s: torch.Size(one.shape) for s, one in sites.items()
        }
        assert all(torch.equal(scores[site], again[site]) for site in sites), name
    for name in solvers(unit):
        keep = SOLVERS[name].make(images)(model, sites, 0.5).keep
        assert sum(int((~kept).sum()) for kept in keep.values()) > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# The grid


def test_the_grid_goes_seed_by_seed() -> None:
    plan = STUDY.plan()
    seeds = [cell.recipe.parameters["seed"] for cell in plan]
    assert seeds == sorted(seeds)
    assert len(plan) == 5 * 2 * (1 + len(scorers("channels", [])) + len(scorers("weights", [])) + 1 + len(SOLVERS))


def test_recipes_keep_their_ids() -> None:
    plan = [cell.id for cell in STUDY.plan()]
    assert {at: plan[at] for at in PINNED} == PINNED


def test_more_seeds_keep_every_result() -> None:
    few, all_ = ({cell.id for cell in STUDY.plan({"seeds": seeds})} for seeds in (2, 5))
    assert few < all_


def test_bad_options_are_refused_before_anything_runs() -> None:
    with pytest.raises(UnknownNameError, match="'l3'"):
        STUDY.plan({"criteria": ["l3"]})
    with pytest.raises(InputError, match="tune_at is 2"):
        STUDY.plan({"tune_at": 2})
    with pytest.raises(UnknownNameError, match="wide"):
        STUDY.plan({"model_options": {"cnn-4": {"wide": 1}}})


# A tiny run


def test_what_is_removed_is_what_was_asked_for(results: Results) -> None:
    rows = results.histories
    channel = rows[(rows["unit"] == "channels") & (rows["scope"] == "global") & (rows["kind"] == "prune")]
    assert (channel["units_removed"] - channel["sparsity"]).abs().max() < 0.005
    single = rows[(rows["unit"] == "weights") & (rows["tuned"] == 1)]
    assert (single["units_removed"] - 0.9).abs().max() < 0.001
    # lenet-300-100 on 8 × 8: 19,200 + 30,000 of 50,610 weights and biases, a tenth of them left
    assert single["parameters_removed"].to_numpy() == pytest.approx(0.9 * 49_200 / 50_610, abs=0.002)


def test_fine_tuning_helps_what_was_cut_at_random(results: Results) -> None:
    rows = results.histories
    own = rows[(rows["method"] == "random") & (rows["unit"] == "channels") & (rows["scope"] == "layer")]
    own = own[own["sparsity"] == 0.8].groupby("tuned")["accuracy"].mean()
    assert own[1] > own[0]


def test_the_report_tells_who_won(report: Report, results: Results) -> None:
    found = tables(report)
    overview = found["channels-overview"]
    assert [c.title for c in overview.columns][:6] == [
        "network", "unit", "scope", "criterion", "accuracy at 50 %", "accuracy at 80 %",
    ]  # fmt: skip
    plain = results.histories
    plain = plain[(plain["unit"] == "channels") & (plain["scope"] == "layer") & (plain["method"] == "taylor")]
    mean = plain[(plain["sparsity"] == 0.5)]["accuracy"].mean()
    (row,) = [row for row in overview.rows if list(row[2:4]) == ["layer", "taylor"]]
    assert row[4] == pytest.approx(mean)
    layer = [row[6] for row in overview.rows if row[2] == "layer"]
    assert layer == sorted(layer, reverse=True)
    for name in ("channels-against-magnitude", "weights-against-random-tuned", "weights-solvers", "channels-tuned"):
        assert found[name].rows, name
    assert {row[0] for row in found["weights-solvers"].rows} == {"woodfisher", "sparsegpt"}
    assert {"unpruned", "as small, from scratch"} < {row[0] for row in found["channels-tuned"].rows}
    assert any(line.startswith("Channels, scope layer, 2 sparsities, 2 seeds: the best") for line in report.summary)


def test_verdicts_are_those_of_the_tests_of_areas(report: Report, results: Results) -> None:
    found = tables(report)
    titles = [column.title for column in found["channels-overview"].columns]
    for control in ("random", "magnitude"):
        at = titles.index(f"against {control}")
        told = {row[3]: row[at] for row in found["channels-overview"].rows if row[2] == "global"}
        tested = found[f"channels-global-areas-{control}"]
        verdicts = {row[0]: row[-1] for row in tested.rows}
        assert told == {control: None, **verdicts}
        # One half and the other sparsity: the area is the mean of the two accuracies.
        rows = results.histories
        rows = rows[(rows["unit"] == "channels") & (rows["scope"] == "global") & (rows["kind"] == "prune")]
        means = rows.groupby("method")["accuracy"].mean()
        gaps = {row[0]: row[[c.title for c in tested.columns].index("difference")] for row in tested.rows}
        assert gaps["taylor"] == pytest.approx(means["taylor"] - means[control])


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    assert STUDY.pages(STUDY.results(Store(tmp_path / "empty"), TINY)).summary == ["Nothing has been computed yet."]


def summary(results: Results, **options: Any) -> str:
    """What the study says where only some of what it computed was asked for."""
    return " ".join(STUDY.pages(STUDY.results(results.store, {**TINY, **options})).summary)


def test_without_controls_nothing_is_concluded(results: Results) -> None:
    words = summary(results, criteria=["taylor", "wanda"])
    for control in ("random", "magnitude"):
        assert f"Against {control} not tested: no control was asked for." in words
    assert "hown to beat" not in words


def test_one_control_is_tested_and_the_other_is_not(results: Results) -> None:
    words = summary(results, criteria=["taylor", "random"])
    assert "Against magnitude not tested: no control was asked for. Not shown to beat random:" in words
    assert "Shown to beat magnitude" not in words


def test_one_seed_is_no_test(results: Results) -> None:
    words = summary(results, seeds=1)
    assert words.count("Against magnitude not tested: that takes two seeds at least.") == 4
    assert "hown to beat" not in words
    report = STUDY.pages(STUDY.results(results.store, {**TINY, "seeds": 1}))
    assert not any("verdict" in {c.title for c in table.columns} for table in tables(report).values())


def test_equal_accuracies_share_a_rank() -> None:
    rows = {"method": list("abc"), "scope": "layer", "sparsity": 0.5, "seed": 0, "accuracy": [0.8, 0.9, 0.8]}
    assert ranked(pandas.DataFrame(rows))["rank"].tolist() == [2.5, 1.0, 2.5]
