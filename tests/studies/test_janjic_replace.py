"""The study of filters that are replaced after pruning: what it mends, and by how much."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from secateur import data, models
from secateur.lab import Report, Results, Store, Table, run_study
from secateur.structure import channels, mask
from secateur.studies import by_name
from secateur.studies.janjic.replace import METHODS, PrunedLayer, seen
from secateur.types import InputError, UnknownNameError

TINY: dict[str, Any] = {
    "data": "digits",
    "seeds": 2,
    "epochs": 1,
    "validation": 1200,
    "images": 100,
    "population": 4,
    "generations": 2,
    "sparsities": [0.5],
    "layers": ["conv2"],
    "model_options": {"width": 0.125, "hidden": 12},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    study, store = by_name("janjic-replace"), Store(tmp_path_factory.mktemp("runs") / "replace")
    summary = run_study(study, store, TINY, progress=False)
    assert summary.exit_code == 0, store.failures()
    return study.results(store, TINY)


@pytest.fixture(scope="module")
def report(results: Results) -> Report:
    return by_name("janjic-replace").pages(results)


def cut(layer: str, reader: str) -> PrunedLayer:
    model = models.build("janjic-cnn", seed=0, width=0.125, hidden=12, input_size=8)
    images = data.load("digits", "train")
    removed = torch.zeros(model.get_parameter(f"{layer}.weight").shape[0], dtype=torch.bool)
    removed[::2] = True
    return PrunedLayer(model, layer, reader, removed, images.images[:200], images.labels[:200], 4, 3, 0)


PLACES = pytest.mark.parametrize(("layer", "reader"), [("conv1", "conv2"), ("conv2", "fc1")])


@PLACES
def test_without_its_filters_the_network_is_the_masked_one(layer: str, reader: str) -> None:
    one = cut(layer, reader)
    sites = channels(one.model, one.images[:1])
    masked = mask(one.model, sites, {layer: ~one.removed})
    with torch.no_grad():
        assert torch.allclose(one.emptied()(one.images), masked(one.images), atol=1e-6)


@PLACES
def test_its_own_filters_give_the_network_back(layer: str, reader: str) -> None:
    one = cut(layer, reader)
    whole = one.filled(one.filters[one.removed])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), one.model.parameters(), strict=True))


@PLACES
def test_the_moments_are_those_of_the_layers_outputs(layer: str, reader: str) -> None:
    """The squared error that the correction lowers, against the plain difference of two forward passes."""
    one = cut(layer, reader)
    moments, whole = one.moments()
    before, after = (seen(model, reader, one.images)[1] for model in (one.model, one.emptied()))
    places = before.numel() / before.shape[1]
    assert float(moments.error(whole)) == pytest.approx(float((after - before).square().sum()) / places, rel=1e-3)
    assert moments.power == pytest.approx(float(before.square().sum()) / places, rel=1e-3)


@PLACES
def test_least_squares_has_the_least_error_and_evolution_none_above_removal(layer: str, reader: str) -> None:
    one = cut(layer, reader)
    before = seen(one.model, reader, one.images)[1]

    def error(method: str) -> float:
        return float((seen(METHODS[method](one)[0], reader, one.images)[1] - before).square().mean())

    assert error("least squares") < error("evolved correction") <= error("removed")


@PLACES
def test_evolved_filters_lower_the_loss_they_are_evolved_for(layer: str, reader: str) -> None:
    one = cut(layer, reader)
    mended, result = METHODS["evolved filters"](one)
    assert result is not None
    with torch.no_grad():
        losses = [
            float(torch.nn.functional.cross_entropy(model(one.images), one.labels)) for model in (one.emptied(), mended)
        ]
    assert losses[0] == pytest.approx(result.start, abs=1e-5), "it starts from removal"
    assert losses[1] == pytest.approx(result.error, abs=1e-5)
    assert losses[1] < losses[0]
    kept = ~one.removed
    for name in ("weight", "bias"):
        old, new = (m.get_parameter(f"{layer}.{name}") for m in (one.model, mended))
        assert torch.equal(old[kept], new[kept]), "filters that stayed are as they were"


def test_nothing_that_is_mended_changes_the_network_given() -> None:
    one = cut("conv2", "fc1")
    before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    for method in METHODS.values():
        method(one)
    assert all(torch.equal(before[name], tensor) for name, tensor in one.model.state_dict().items())


def test_recipes_keep_their_ids() -> None:
    plan = by_name("janjic-replace").plan()
    assert len(plan) == 3 * (1 + 2 * 2 * 2 * 5)
    assert {at: plan[at].id for at in (0, 1, 122)} == {
        0: "c5ee36b3b2a662fb",
        1: "eced9713756f0896",
        122: "e790e65e7d873cda",
    }


def test_mistakes_are_refused_before_anything_runs() -> None:
    study = by_name("janjic-replace")
    with pytest.raises(UnknownNameError, match="did you mean 'conv2'"):
        study.plan({"layers": ["conv3"]})
    with pytest.raises(InputError, match=r"at least 0\.01|from 0\.01"):
        study.plan({"sparsities": [0.0]})


def test_the_report_shows_every_method_and_its_tests(report: Report, results: Results) -> None:
    tables = {b.name: b for s in report.sections for b in s.blocks if isinstance(b, Table)}
    shown = tables["mended-conv2-magnitude"]
    assert [row[1] for row in shown.rows] == list(METHODS)
    frame = results.frame
    own = frame[(frame["method"] == "least squares") & (frame["choice"] == "magnitude")]
    assert shown.rows[-1][2] == pytest.approx(own["accuracy"].mean())
    tests = tables["tests-conv2-random"]
    assert {row[1] for row in tests.rows} == set(METHODS) - {"removed"}
    assert any("least squares" in words for words in report.summary)


def test_likeness_is_told_of_new_filters_alone(results: Results) -> None:
    cells = results.frame[results.frame["kind"] == "replace"]
    told = cells[cells["likeness"].notna()]
    assert set(told["method"]) == {"random filters", "evolved filters"}
    assert told["likeness"].abs().max() <= 1
    assert (cells["filters_removed"] == 4).all()
