"""The comparison of criteria: its table, its grid, its names for ever, and a tiny run with its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from torch import nn

from secateur import data, models
from secateur.criteria import names
from secateur.lab import Report, Results, Store, Table, run_study
from secateur.structure import channels, weights
from secateur.studies import by_name
from secateur.studies.kit.networks import drawn
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
    "criteria": ["taylor", "wanda"],
    "sparsities": [0.5, 0.8],
    "tune_at": 0.8,
}

PINNED = {
    0: "3a39f06e44b9df41",
    1: "3dd6abca14572f81",
    2: "dee24e91c6743124",
    4: "430c22405b92b98c",
    13: "d5c9c50c1f27a230",
    40: "4a3592dc9bc58abf",
    194: "2bdcf975e1e28a3a",
    333: "1d2d9fa5c9d6095d",
    2729: "63ec8d08b54b4da5",
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
    """All but those by norms, l2, which is magnitude, counts, which rank as the active fraction does, and what came later."""
    others = {"activation-count", "bn-scale", "joint-loss-change", "l2"}
    assert set(names()) - {name.replace(" ", "-") for name in CRITERIA} == others


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
    channels_, weights_ = (len(scorers(unit, [])) for unit in ("channels", "weights"))
    # of a criterion its scores, two scopes at three and two sparsities, one of them fine-tuned; solvers at three and two
    assert len(plan) == 5 * 2 * (1 + channels_ * (1 + 2 * 3 + 1) + weights_ * (1 + 2 * 2 + 1) + 1 + 3 + 2 * 2)


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
    rows = results.frame
    channel = rows[(rows["unit"] == "channels") & (rows["scope"] == "global") & (rows["kind"] == "prune")]
    assert (channel["units_removed"] - channel["sparsity"]).abs().max() < 0.005
    single = rows[(rows["unit"] == "weights") & (rows["kind"] == "tune")]
    assert (single["units_removed"] - 0.9).abs().max() < 0.001
    # lenet-300-100 on 8 × 8: 19,200 + 30,000 of 50,610 weights and biases, a tenth of them left
    assert single["parameters_removed"].to_numpy() == pytest.approx(0.9 * 49_200 / 50_610, abs=0.002)


def test_every_number_is_a_row_that_can_be_asked_for(results: Results) -> None:
    """One row for each method, unit, scope, sparsity and seed; the controls are there without being asked for."""
    asked = {"unit": "channels", "scope": "layer", "sparsity": 0.5}
    for method in ("random", "magnitude", "taylor", "wanda"):
        found = results.store.query(kind="prune", where={**asked, "method": method}, columns=["seed", "accuracy"])
        assert sorted(found["seed"]) == [0, 1], method
    assert len(results.store.query(kind="tune", where={"unit": "channels"})) == 4 * 2
    solved = results.store.query(kind="solve", where={"method": "thinet", "sparsity": 0.8}, columns=["accuracy"])
    assert len(solved) == 2


def test_what_criteria_are_shown_is_drawn_by_the_seed() -> None:
    images = data.load("digits", "train").subset(range(30))
    draws = [drawn(images, 10, seed).images for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    pool = {image.numpy().tobytes() for image in images.images}
    assert {image.numpy().tobytes() for image in draws[2]} < pool
    assert len(drawn(images, 99, 0)) == 30


def test_scores_of_two_seeds_see_other_images(results: Results) -> None:
    """The scores of a cell are those of its network on the images that its seed draws."""
    (cell,) = [c for c in STUDY.plan(TINY) if str(c.recipe).startswith("score seed=1 unit=channels method=taylor")]
    recipe = results.store.get(cell.needs[0]).recipe.parameters
    model = models.build(recipe["model"], seed=0, **recipe["model_options"])
    model.load_state_dict(results.store.artefact(cell.needs[0]))
    # seed=None: the last 300 are the validation set
    trained_on = data.load("digits", "train", validation=300, seed=None).subset(range(600))
    shown = drawn(trained_on, 40, 1)
    expected = criterion("taylor", model, shown, 1)(model, channels(model, shown.images[:1]))
    kept = results.store.artefact(cell.id)
    assert all(torch.allclose(kept[name], score) for name, score in expected.items())


def test_fine_tuning_helps_what_was_cut_at_random(results: Results) -> None:
    rows = results.frame
    own = rows[(rows["method"] == "random") & (rows["unit"] == "channels") & (rows["scope"] == "layer")]
    own = own[own["sparsity"] == 0.8].groupby("kind")["accuracy"].mean()
    assert own["tune"] > own["prune"]


def test_the_report_tells_who_won(report: Report, results: Results) -> None:
    found = tables(report)
    overview = found["channels-overview"]
    assert [c.title for c in overview.columns][:6] == [
        "network", "unit", "scope", "criterion", "accuracy at 50 %", "accuracy at 80 %",
    ]  # fmt: skip
    plain = results.frame[results.frame["kind"] == "prune"]
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
    assert any(
        line.startswith("Channels, scope layer, 2 sparsities, 2 seeds: of 4 criteria the") for line in report.summary
    )
    assert all("chosen on the test images" in line for line in report.summary if "highest" in line)


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
        rows = results.frame
        rows = rows[(rows["unit"] == "channels") & (rows["scope"] == "global") & (rows["kind"] == "prune")]
        means = rows.groupby("method")["accuracy"].mean()
        gaps = {row[0]: row[[c.title for c in tested.columns].index("difference")] for row in tested.rows}
        assert gaps["taylor"] == pytest.approx(means["taylor"] - means[control])


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    assert STUDY.pages(STUDY.results(Store(tmp_path / "empty"), TINY)).summary == ["Nothing has been computed yet."]


def summary(results: Results, **options: Any) -> str:
    """What the study says where only some of what it computed was asked for."""
    return " ".join(STUDY.pages(STUDY.results(results.store, {**TINY, **options})).summary)


def test_fine_tuning_is_at_a_sparsity_that_is_there_or_nowhere() -> None:
    with pytest.raises(
        InputError, match=r"tune_at is 0.8, which is none of sparsities \[0.3\]; give one of them, or null"
    ):
        STUDY.plan({**TINY, "sparsities": [0.3]})
    kinds = [cell.recipe.kind for cell in STUDY.plan({**TINY, "tune_at": None, "units": ["channels"]})]
    assert "tune" not in kinds
    assert "dense" not in kinds


def test_one_seed_is_no_test(results: Results) -> None:
    words = summary(results, seeds=1)
    assert words.count("Against magnitude not tested: that takes two seeds at least.") == 4
    assert "hown to beat" not in words
    report = STUDY.pages(STUDY.results(results.store, {**TINY, "seeds": 1}))
    assert not any("verdict" in {c.title for c in table.columns} for table in tables(report).values())


def test_equal_accuracies_share_a_rank() -> None:
    rows = {"method": list("abc"), "scope": "layer", "sparsity": 0.5, "seed": 0, "accuracy": [0.8, 0.9, 0.8]}
    assert ranked(pandas.DataFrame(rows))["rank"].tolist() == [2.5, 1.0, 2.5]
