"""The genetic algorithm's studies after Janjić: their grid, their cells, the published figures, and their reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secateur import data, models
from secateur.lab import Picture, Report, Results, Store, Table, run_study, write_report
from secateur.lab.plan.study import Study
from secateur.measure import evaluate
from secateur.search import Genetic, Space, only
from secateur.search.operators import coin_damaged, prune_near_lowest
from secateur.structure import weights
from secateur.studies import by_name
from secateur.studies.janjic.evolution import AUTHORS, CONVERGED, SEARCHES, planned
from secateur.studies.janjic.evolution_claims import ours
from secateur.studies.janjic.evolution_pages import sections
from secateur.studies.janjic.evolution_pictures import EvolutionRun, individuals, kurtosis, trials
from secateur.studies.kit.parts import parts
from secateur.studies.kit.published import published
from secateur.types import InputError, UnknownNameError

MLP, CNN = (published("janjic")["ga"][name] for name in ("janjic-mlp", "janjic-cnn"))

TINY: dict[str, Any] = {
    "data": "digits",
    "seeds": 2,
    "model_options": {"hidden": 30},
    "epochs": 2,
    "damages": [0.1, 0.9],
    "population": 10,
    "generations": 3,
    "searches": ["random", "magnitude", "learned mask"],
    "converged_epochs": 2,
}


@pytest.fixture(scope="module")
def mlp() -> Study:
    return by_name("janjic-ga-mlp")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, mlp: Study) -> Store:
    store = Store(tmp_path_factory.mktemp("runs") / "ga")
    summary = run_study(mlp, store, TINY, progress=False)
    assert summary.exit_code == 0, store.failures()
    return store


@pytest.fixture(scope="module")
def results(mlp: Study, store: Store) -> Results:
    return mlp.results(store, TINY)


@pytest.fixture(scope="module")
def report(mlp: Study, results: Results) -> Report:
    return mlp.pages(results)


def table(report: Report, name: str) -> Table:
    found = [b for s in report.sections for b in s.blocks if isinstance(b, Table) and b.name == name]
    assert len(found) == 1, [b.name for s in report.sections for b in s.blocks if isinstance(b, Table)]
    return found[0]


def part(which: str) -> data.Split:
    return data.load("digits", which, validation=0 if which == "test" else 297, seed=None)


# What the text says


def test_the_published_tables_are_typed_right() -> None:
    """Fitness is the change of accuracy in points + the fraction removed: so Tables 5.1 and 5.2 hang together."""
    low = CNN["fitness"][0.9]
    assert low[0] == pytest.approx(CNN["accuracy"][0.9][0] - CNN["base"] + 0.8995, abs=1e-3)  # −26.20 + .8995
    damage, fitness, accuracy, compression = CNN["best"]
    assert fitness == pytest.approx(accuracy - CNN["base"] + compression, abs=1e-9)
    assert CNN["fitness"][damage][5] == fitness
    assert MLP["best"][1] == pytest.approx(MLP["best"][2] - MLP["base"] + MLP["best"][3], abs=0.01)
    for rates in (CNN["fitness"], CNN["accuracy"], CNN["compression"]):
        assert list(rates) == [0.1, 0.3, 0.5, 0.7, 0.9]
        for row in rates.values():
            assert row[0] <= row[1] <= row[2]
            assert row[3] <= row[4] <= row[5]


def test_kurtosis_of_an_even_distribution_is_minus_1_2() -> None:
    assert kurtosis(np.linspace(-1, 1, 10_001)) == pytest.approx(-1.2, abs=1e-3)


def evolved(damage: float, fitness: list[float], genes: list[bool]) -> EvolutionRun:
    """An evolution that ends with individuals of this fitness, half of whose weights are removed."""
    final = np.array([[0.0] * len(fitness), fitness])
    rated = {"fitness": final, "accuracy": final - 0.5, "compression": np.full(final.shape, 0.5)}
    layer = np.array([-2.0, -1.0, 0.5, 1.0, 2.0])
    kept, nobody = np.array(genes), np.zeros((2, 2), dtype=np.int64)
    return EvolutionRun({"damage": damage}, rated, nobody, layer, np.ones(5, dtype=np.bool_), kept)


def test_the_texts_numbers_of_populations_by_hand() -> None:
    few = evolved(0.3, [1.0, -1.0], [True, False, False, True, True])
    many = evolved(0.5, [2.0, 3.0], [False, False, True, True, True])
    both = [few, many]
    assert ours({"value": "individuals"}, both) == 3
    assert ours({"value": "individuals", "damages": [0.3]}, both) == 1
    assert ours({"value": "fitness", "positive": True}, both) == 2
    assert ours({"value": "accuracy", "positive": True}, both) == 1.5
    assert ours({"value": "compression"}, both) == 50
    assert ours({"value": "common", "damages": [0.3, 0.5]}, both) == 20, "the second weight alone"
    assert ours({"value": "gap", "damages": [0.3]}, both) == 75, "none from −2 to 1, of −2 to 2"
    assert ours({"value": "band", "damages": [0.3]}, both) == pytest.approx(37.5), "−1 and 0.5 are nearest to zero"
    assert np.isnan(ours({"value": "individuals", "damages": [0.7]}, both)), "not run"
    assert np.isnan(ours({"value": "fitness", "positive": True, "damages": [0.3]}, [evolved(0.3, [-1.0], [True] * 5)]))


def test_the_texts_numbers_of_populations_are_typed_right() -> None:
    assert [claim["theirs"] for claim in MLP["claims"]] == [85.64, 65.02, 0.33, 6.81, 6.81]
    assert [claim["theirs"] for claim in CNN["claims"]] == [29, 1, 65.03, 0.46, 54.1]


# The grid


def test_the_grid_is_that_of_the_text(mlp: Study) -> None:
    plan = mlp.plan({"data": "mnist-5k", "seeds": 1})
    genetic = [c.recipe.parameters for c in plan if "damage" in c.recipe.parameters]
    assert [(p["protocol"], p["damage"]) for p in genetic] == [
        (protocol, damage) for protocol in ("thesis", "honest") for damage in (0.1, 0.3, 0.5, 0.7, 0.9)
    ]
    assert {(p["population"], p["evaluations"]) for p in genetic} == {(50, 1050)}
    others = [c.recipe.parameters for c in plan if c.recipe.kind == "search" and "damage" not in c.recipe.parameters]
    assert {p["evaluations"] for p in others} == {1050}
    assert {p["protocol"] for p in others} == {"honest"}
    assert [p["method"] for p in others if p["network"] == AUTHORS] == list(SEARCHES)
    train = plan[0].recipe.parameters
    assert train["fit"] == {"optimizer": "sgd", "lr": 0.05}
    assert (train["epochs"], train["validation"]) == (8, 1000), (
        "3,000 images eight times; as many held out as tested on"
    )


def test_epochs_follow_the_size_of_the_data(mlp: Study) -> None:
    found = {one["data"]: one for one in planned(mlp.settle({"data": ["digits", "fashion-mnist"]}))}
    assert (found["digits"]["epochs"], found["digits"]["validation"]) == (20, 297)
    fashion = found["fashion-mnist"]
    assert (fashion["epochs"], fashion["validation"], fashion["converged_epochs"]) == (1, 10_000, 6)


PINNED = {
    "janjic-ga-mlp": {0: "2c564d5c673294cd", 1: "dbe6ebe5483147b4", 22: "1a2548078220334d"},
    "janjic-ga-cnn": {0: "6091332acf7e19c5", 1: "c9b3cf13867ecd30", 22: "02f579afe7b8afc3"},
}


@pytest.mark.parametrize("name", PINNED)
def test_recipes_keep_their_ids(name: str) -> None:
    """With exact fractions, as before there was a choice; the text's reading of both is another recipe."""
    exact = by_name(name).plan({"initial": "fraction", "weakest": "fraction"})
    assert {at: exact[at].id for at in PINNED[name]} == PINNED[name]
    plan = by_name(name).plan()
    evolved = [at for at, cell in enumerate(plan) if "damage" in cell.recipe.parameters]
    assert [at for at, cell in enumerate(plan) if cell.id != exact[at].id] == evolved


def test_more_seeds_keep_every_result(mlp: Study) -> None:
    one, two = ({cell.id for cell in mlp.plan({**TINY, "seeds": n})} for n in (1, 2))
    assert one < two


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"searches": ["climbing"]}, UnknownNameError, "did you mean 'hill climbing'"),
        ({"damages": [1.5]}, InputError, "damages"),
        ({"protocols": []}, InputError, "protocols"),
        ({"data": "folder"}, InputError, "give validation, epochs and converged_epochs"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(
    mlp: Study, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        mlp.plan(options)


# A tiny run


def rows(results: Results, **wanted: Any) -> list[dict[str, Any]]:
    found = results.frame.to_dict("records")
    return [row for row in found if all(row.get(key) == value for key, value in wanted.items())]


def test_generation_0_is_damaged_by_one_coin_a_weight(results: Results) -> None:
    for damage in (0.1, 0.9):
        greatest = [row["initial_compression_max"] for row in rows(results, kind="search", damage=damage)]
        assert min(greatest) > 100 * damage
        means = {row["initial_compression_mean"] for row in rows(results, kind="search", damage=damage)}
        assert len(means) > 1, "an exact fraction is the same for every seed"


def test_every_cell_is_there(results: Results) -> None:
    assert len(rows(results, kind="search", network=AUTHORS)) == 2 * (2 * 2 + 3)
    assert len(rows(results, kind="search", network=CONVERGED)) == 2 * 2
    assert len(rows(results, kind="converge")) == 2


def test_fitness_is_that_of_the_masked_network(results: Results, store: Store) -> None:
    """Each figure by hand: mask the trained network, rate it whole, subtract."""
    row = rows(results, kind="search", protocol="honest", method="genetic 10 %", seed=1)[0]
    base = store.get(row["id"]).recipe.needs[0]
    model = models.build("janjic-mlp", seed=0, hidden=30, input_size=8)
    model.load_state_dict(store.artefact(base))
    genes = store.artefact(row["id"])["genes"]
    test, validation = (part(which) for which in ("test", "validation"))
    before = {split.split: evaluate(model, split).accuracy for split in (test, validation)}
    with torch.no_grad():
        model.get_parameter("fc2.weight").mul_(genes.view(10, 30))
    after = {split.split: evaluate(model, split).accuracy for split in (test, validation)}
    removed = 1 - genes.float().mean().item()
    assert row["compression"] == pytest.approx(removed)
    assert row["accuracy"] == pytest.approx(after["test"])
    assert row["validation_accuracy"] == pytest.approx(after["validation"])
    assert row["untouched_fitness"] == pytest.approx(100 * (after["test"] - before["test"]) + removed)
    assert row["searched_fitness"] == pytest.approx(100 * (after["validation"] - before["validation"]) + removed)
    assert row["gap"] == pytest.approx(row["searched_change"] - row["untouched_change"])
    assert row["fitness"] == row["untouched_fitness"], "the honest protocol reports what it did not search on"


def test_magnitude_beside_a_search_removes_as_many(results: Results, store: Store) -> None:
    row = rows(results, kind="search", protocol="honest", method="genetic 90 %", seed=0)[0]
    model = models.build("janjic-mlp", seed=0, hidden=30, input_size=8)
    model.load_state_dict(store.artefact(store.get(row["id"]).recipe.needs[0]))
    weight = model.get_parameter("fc2.weight")
    removed = int((~store.artefact(row["id"])["genes"]).sum())
    with torch.no_grad():
        weight.view(-1)[weight.abs().view(-1).argsort(stable=True)[:removed]] = 0
    assert row["magnitude_accuracy"] == pytest.approx(evaluate(model, part("test")).accuracy)


def test_the_thesis_protocol_reports_the_test_images_that_it_searched_on(results: Results) -> None:
    base = {row["seed"]: row["accuracy"] for row in rows(results, kind="train")}
    for row in rows(results, kind="search", protocol="thesis"):
        assert row["fitness"] == row["searched_fitness"] >= 0
        assert row["searched_change"] == pytest.approx(100 * (row["accuracy"] - base[row["seed"]]), abs=1e-6)


def test_generations_are_kept_whole(results: Results, store: Store) -> None:
    for row in rows(results, kind="search", method="genetic 90 %"):
        kept = store.artefact(row["id"])
        assert kept["fitness"].shape == (4, 10)
        best = kept["fitness"].max(1).values
        assert (best.diff() >= 0).all()
        assert best[-1].item() == pytest.approx(row["searched_fitness"], abs=1e-5)
        assert kept["fitness"].allclose(kept["accuracy"] + kept["compression"], atol=1e-5)
        line = kept["lineages"][0]
        assert line[-1] == kept["fitness"][-1].argmax()
        begun = coin_damaged(10, 300, 0.9, np.random.default_rng(row["seed"]))
        assert np.array_equal(kept["begun"].numpy(), begun[int(line[0])])
        assert kept["compression"][0, int(line[0])].item() == pytest.approx(1 - begun[int(line[0])].mean())


def test_the_search_itself_gives_the_same(results: Results, store: Store) -> None:
    """A cell is nothing but a call of the library."""
    from secateur.search import Fitness

    row = rows(results, kind="search", protocol="honest", method="genetic 90 %", seed=0)[0]
    model = models.build("janjic-mlp", seed=0, hidden=30, input_size=8)
    model.load_state_dict(store.artefact(store.get(row["id"]).recipe.needs[0]))
    space = Space(model, only(weights(model), "fc2.weight"))
    found = Genetic(0.9, 10, initial=coin_damaged, lowest=prune_near_lowest)(
        Fitness(space, part("validation")), space, 40, 0
    )
    assert torch.equal(torch.from_numpy(found.history.genes), store.artefact(row["id"])["genes"])


# The report


def test_the_tables_hold_the_means(report: Report, results: Results) -> None:
    shown = table(report, "population-fitness-thesis")
    own = [row["final_fitness_mean"] for row in rows(results, protocol="thesis", method="genetic 90 %")]
    line = next(row for row in shown.rows if row[0] == 0.9)
    assert line[5] == pytest.approx(sum(own) / 2)
    searches = table(report, "searches")
    assert {row[0] for row in searches.rows} == {"genetic 10 %", "genetic 90 %", *TINY["searches"]}
    assert [row[1] for row in searches.rows] == sorted((row[1] for row in searches.rows), reverse=True)
    gaps = table(report, "gap")
    assert [row[:2] for row in gaps.rows] == [[p, d] for p in ("thesis", "honest") for d in (0.1, 0.9)]


def test_searches_are_tested_in_pairs_against_both_controls(report: Report) -> None:
    for control in ("magnitude", "random"):
        assert {row[0] for row in table(report, f"against-{control}").rows} == {
            "genetic 10 %",
            "genetic 90 %",
            "learned mask",
        }
    for value in ("compression", "accuracy"):
        assert [row[0] for row in table(report, f"converged-{value}").rows] == ["learned mask"]


def test_the_authors_best_trial_stands_beside_ours(report: Report) -> None:
    assert table(report, "best-trial").rows[1] == ["the text's, on MNIST", 0.1, 2.0, 94.59, 95.69, 0.896]
    assert table(report, "layer-before").rows[0][2] == 12.03


def test_the_convolutional_networks_tables_stand_beside_ours(results: Results) -> None:
    """The pages take the published figures of any network; those of Table 5.1 go in by damage rate."""
    (part,) = parts(results)
    report = Report("any", sections=sections(part, {"janjic-mlp": CNN}))
    shown = table(report, "population-fitness-thesis")
    assert shown.rows[-1][7:13] == list(CNN["fitness"][0.9])
    assert sum(column.published for column in shown.columns) == 6


def test_the_report_is_written(mlp: Study, store: Store) -> None:
    page = write_report(mlp, store, TINY)
    names = {path.name for path in (Path(page).parent / "figures").iterdir()}
    wanted = {"weights-before", "weights-kept", "solutions", "searches-bars", "progress", "classes"}
    wanted |= {"final-populations", "zero-fitness"}
    kinds = ("ridge", "fitness", "accuracy", "compression", "weights", "individuals")
    wanted |= {f"{kind}-{d}" for kind in kinds for d in (10, 90)}
    assert {f"{name}.svg" for name in wanted} <= names


def picture(report: Report, name: str) -> Picture:
    (block,) = (b for s in report.sections for b in s.blocks if isinstance(b, Picture) and b.name == name)
    return block


def test_the_pictures_show_every_individual(report: Report, results: Results) -> None:
    (part,) = parts(results)
    runs = part.kind("search")
    first = runs[(runs["seed"] == 0) & (runs["protocol"] == "thesis") & runs["damage"].notna()]
    evolutions = trials(part, first)
    for trial in evolutions:
        lines = picture(report, f"individuals-{trial.name}").figure.axes[0].lines
        drawn = np.stack([line.get_ydata() for line in lines[:10]], axis=1)
        assert drawn.tolist() == trial.rated["fitness"].tolist()
        assert individuals(trial).groupby("generation").size().tolist() == [10] * 4
    final = picture(report, "final-populations").data
    assert final["fitness"].tolist() == [value for trial in evolutions for value in trial.rated["fitness"][-1]]
    assert list(final["damage"]) == ["10 %"] * 10 + ["90 %"] * 10


def test_histograms_of_all_damage_rates_have_one_scale(report: Report) -> None:
    drawn = [picture(report, f"weights-{name}").figure.axes[0] for name in ("before", "10", "90")]
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in drawn}) == 1


def test_the_lines_of_zero_fitness(report: Report, results: Results) -> None:
    """Half of the layer may cost half a point with α = 100, and half of all answers with α = 1."""
    rows = picture(report, "zero-fitness").data
    half = rows[rows["removed"] == 50].set_index("alpha")["change"]
    assert half["α = 1"] == -50
    assert half["α = 100 (here)"] == -0.5


def test_a_study_under_way_shows_what_there_is(mlp: Study, results: Results) -> None:
    from dataclasses import replace

    frame = results.frame
    some = [frame.iloc[:0], frame.iloc[:1], frame.iloc[:2], frame[frame["network"] == CONVERGED]]
    for part in some:
        assert mlp.pages(replace(results, frame=part)).title == mlp.title
