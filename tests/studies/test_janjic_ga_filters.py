"""The genetic algorithm over filters: equal budgets, what was found is what was cut, and controls of as many filters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from secateur import data, models
from secateur.lab import Report, Results, Store, Table, run_study
from secateur.measure import evaluate
from secateur.search import Space
from secateur.structure import cut, mask
from secateur.studies import by_name
from secateur.studies.janjic.filters import filters
from secateur.types import InputError, UnknownNameError

TINY: dict[str, Any] = {
    "data": "digits",
    "seeds": 2,
    "epochs": 8,
    "validation": 300,
    "batch_size": 32,
    "images": 200,
    "population": 6,
    "generations": 6,
    "model_options": {"width": 0.25, "hidden": 12},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    study, store = by_name("janjic-ga-filters"), Store(tmp_path_factory.mktemp("runs") / "filters")
    summary = run_study(study, store, TINY, progress=False, executor="serial")
    assert summary.exit_code == 0, store.failures()
    return study.results(store, TINY)


@pytest.fixture(scope="module")
def report(results: Results) -> Report:
    return by_name("janjic-ga-filters").pages(results)


def table(report: Report, name: str) -> Table:
    (block,) = (b for s in report.sections for b in s.blocks if isinstance(b, Table) and b.name == name)
    return block


def test_every_fitness_has_the_same_budget_and_cheap_ones_more_generations(results: Results) -> None:
    runs = results.frame[results.frame["kind"] == "evolve"]
    assert set(runs["method"]) == {"all images", "some images", "taylor", "second order"}
    assert (runs["spent"] <= 6 * 7 + 1e-6).all()
    generations = runs.groupby("method")["generations"].mean()
    assert generations["all images"] == 6
    assert generations["some images"] > 6
    assert runs["fitness"].min() >= 0, "the unpruned network is a candidate"


def test_what_was_found_is_what_is_rated_and_cut(results: Results) -> None:
    store, test = results.store, data.load("digits", "test")
    run = results.frame[results.frame["method"] == "some images"].iloc[0]
    base = store.artefact(store.get(run["id"]).recipe.needs[0])
    model = models.build(
        "janjic-cnn", seed=0, **store.get(store.get(run["id"]).recipe.needs[0]).recipe.parameters["model_options"]
    )
    model.load_state_dict(base)
    sites = filters(model, test.images[:1])
    keep = Space(model, sites).keep(store.artefact(run["id"])["genes"].numpy())
    before, after = evaluate(model, test).accuracy, evaluate(mask(model, sites, keep), test).accuracy
    assert run["accuracy"] == pytest.approx(after)
    assert run["untouched_change"] == pytest.approx(100 * (after - before))
    assert run["untouched_fitness"] == pytest.approx(100 * (after - before) + run["compression"])
    small = cut(model, sites, keep)
    counts = [sum(p.numel() for p in net.parameters()) for net in (model, small)]
    assert run["parameters_removed"] == pytest.approx(1 - counts[1] / counts[0])
    assert torch.cat([mask.flatten() for mask in keep.values()]).double().mean() == pytest.approx(
        1 - run["compression"]
    )


def test_the_report_shows_every_fitness_beside_other_choices(report: Report) -> None:
    found, others = table(report, "evolved-filters"), table(report, "other-choices")
    assert [row[0] for row in found.rows] == [row[0] for row in others.rows]
    assert [column.title for column in others.columns][1:] == [
        "evolved",
        "95 %",
        "by energy",
        "by L2 norm",
        "at random",
    ]
    assert len([s for s in report.summary if s.startswith("Rated by")]) == 4
    text = " ".join(block for section in report.sections for block in section.blocks if isinstance(block, str))
    assert "{" not in text


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"fitnesses": ["tailor"]}, UnknownNameError, "did you mean 'taylor'"),
        ({"share": 0}, InputError, "share"),
        ({"layers": "fc1"}, UnknownNameError, "layer in layers of janjic-cnn: 'fc1'"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        by_name("janjic-ga-filters").plan({**TINY, **options})
