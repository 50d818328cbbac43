"""A report goes by what was removed, and holds fine-tuned networks against unpruned ones that were fine-tuned as long."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest
from typer.testing import CliRunner

from secateur.cli import app
from secateur.lab import Report, Store, Study, Table, build_report, run_study
from secateur.lab.show.shares import as_removed, unlike_asked
from secateur.studies import by_name
from secateur.types import InputError

TINY = """
name = "mine"
data = "digits"
model = "ann-128"
model_options = {hidden = 20}
seeds = 1
epochs = 2
sparsities = [0.3, 0.6]
criteria = ["random", "l2"]
"""


def study_of(tmp_path: Path, *lines: str) -> Study:
    file = tmp_path / "mine.toml"
    file.write_text("\n".join([TINY, *lines]))
    return by_name(str(file))


def reported(tmp_path: Path, *lines: str) -> Report:
    study, store = study_of(tmp_path, *lines), Store(tmp_path / "store")
    assert run_study(study, store, progress=False, executor="serial").exit_code == 0
    return build_report(study, store)


def tables(report: Report) -> dict[str, Table]:
    return {block.name: block for block in report.blocks() if isinstance(block, Table)}


def test_what_removed_nothing_is_not_free(tmp_path: Path) -> None:
    report = reported(tmp_path, "minimum = 500")
    assert report.summary[0] == (
        "WARNING: what was removed is not what was asked for: random, l2: 0 % in place of 30 %, 0 % in place of 60 %. "
        "Tables and figures go by what was removed."
    )
    words = " ".join(report.summary)
    assert "l2 removed nothing, so nothing can be said of what it costs" in words
    assert "costs at most" not in words
    assert [card.label for card in report.cards] == ["unpruned accuracy"]
    assert [row[0] for row in tables(report)["overview"].rows] == ["unpruned", "random pruned 0 %", "l2 pruned 0 %"]
    assert "networks of which no channel was cut" in tables(report)["overview"].caption
    assert [row[0] for row in tables(report)["damage-l2"].rows] == [0.0]  # one network, not two
    (figure,) = (block for block in report.blocks() if not isinstance(block, str) and block.name == "accuracy")
    assert set(figure.data["sparsity"]) == {0.0}  # type: ignore[union-attr]


def test_a_part_that_is_cut_short_stands_as_what_it_is(tmp_path: Path) -> None:
    report = reported(tmp_path, "minimum = 10")  # of 20 neurons
    assert report.summary[0].startswith(
        "What was removed is not what was asked for: random, l2: 50 % in place of 60 %."
    )
    assert [row[0] for row in tables(report)["damage-l2"].rows] == [0.3, 0.5]
    assert "l2 cut 50 %" in {row[0] for row in tables(report)["overview"].rows}


def test_one_seed_has_no_means_and_no_intervals(tmp_path: Path) -> None:
    report = reported(tmp_path)
    text = report.write(tmp_path / "page").with_suffix(".md").read_text()
    assert "mean and 95 % interval" not in text
    assert "; means" not in text
    assert "mean test accuracy" not in text
    assert [row[0] for row in tables(report)["baselines"].rows] == [0]
    assert "one run, no interval" in text


def test_fine_tuned_networks_are_held_against_unpruned_ones_tuned_as_long(tmp_path: Path) -> None:
    lines = ("finetune = 3", 'schedule = ["one-shot", "iterative"]', "steps = 2", "minimum = 1", 'methods = ["neuron"]')
    report, store = reported(tmp_path, *lines), Store(tmp_path / "store")
    whole = store.query(kind="unpruned").set_index("method")["accuracy"]
    assert set(whole.index) == {"unpruned, tuned 3 epochs", "unpruned, tuned 2 × 3 epochs"}
    plain = store.query(kind="train")["accuracy"].item()
    overview = {row[0]: row[1] for row in tables(report)["overview"].rows}
    assert overview["unpruned"] == plain
    assert overview["unpruned, tuned 2 × 3 epochs"] == whole["unpruned, tuned 2 × 3 epochs"]
    cut = store.query(kind="prune", where={"method": "l2, tuned 3 epochs", "sparsity": 0.6})["accuracy"].item()
    change = 100 * (cut - whole["unpruned, tuned 3 epochs"])
    (card,) = (card for card in report.cards if card.label == "60 % removed, l2, tuned 3 epochs")
    assert card.value == f"{change:+.2f} points".replace("-", "−")
    assert not [sentence for sentence in report.summary if "WARNING" in sentence]


def test_without_such_networks_the_report_says_what_its_differences_hold(tmp_path: Path) -> None:
    study, store = study_of(tmp_path, "finetune = 1"), Store(tmp_path / "store")
    assert run_study(study, store, progress=False, executor="serial").exit_code == 0
    store.delete(*store.query(kind="unpruned", columns=["id"])["id"])
    assert (
        build_report(study, store)
        .summary[1]
        .startswith(
            "WARNING: random, tuned 1 epoch, l2, tuned 1 epoch: these networks were fine-tuned, the unpruned ones were not, "
            "so their difference includes what fine-tuning does"
        )
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("steps = 4", 'steps is 4, but nothing uses it; give a schedule, such as "iterative"'),
        ("shown = 30", "shown is 30, but nothing uses it; give criteria that look at data"),
        (
            'solver = "thinet"\nshown = 99999',
            "shown is 99,999, but digits has 1,350 images to train on; give at most 1,350",
        ),
    ],
)
def test_an_option_that_changes_nothing_is_refused(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        study_of(tmp_path, line)


@pytest.mark.parametrize("key", ["finetune = 2", "scope = 'global'", "unit = 'weights'", "schedule = 'iterative'"])
def test_named_methods_take_no_options_of_criteria(tmp_path: Path, key: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'name = "mine"\ndata = "digits"\nmodel = "ann-128"\nmethods = ["neuron"]\n{key}')
    with pytest.raises(InputError, match=f"{key.split()[0]} is .*, but nothing uses it; give criteria"):
        by_name(str(file))
    file.write_text('name = "mine"\ndata = "digits"\nmodel = "ann-128"\nmethods = ["neuron"]')
    with pytest.raises(InputError, match="steps is 8, but nothing uses it"):
        by_name(str(file)).plan({"steps": 8})


def test_the_steps_of_a_schedule_leave_every_layer_a_unit(tmp_path: Path) -> None:
    """In one shot a layer may lose all; steps go on from a network that is cut."""
    study, store = study_of(tmp_path, 'schedule = "iterative"'), Store(tmp_path / "store")
    assert run_study(study, store, {"epochs": 1}, progress=False, executor="serial").exit_code == 0
    assert (store.query(kind="prune")["units_removed"] > 0).all()


def test_a_store_knows_the_file_that_its_study_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_RUNS", str(tmp_path / "runs"))
    study, store = study_of(tmp_path), Store(tmp_path / "runs" / "mine")
    assert run_study(study, store, {"epochs": 1}, progress=False, executor="serial").exit_code == 0
    for name in ("mine", str(store.path)):
        told = CliRunner().invoke(app, ["report", name, "--json"])
        assert json.loads(told.stdout)["report"] == str(store.path / "report" / "report.html"), told.stderr
    (tmp_path / "mine.toml").unlink()
    told = CliRunner().invoke(app, ["report", "mine", "--out", str(tmp_path / "page"), "--json"])
    assert told.exit_code == 0
    assert json.loads(told.stdout)["report"].endswith("page/report.html")
    told = CliRunner().invoke(app, ["report", "mine", "--json"])
    assert "mine.toml, which describes mine, is not there any more" in told.stderr


def test_a_layer_of_few_units_loses_whole_ones() -> None:
    """Two seeds that were asked for the same are one group, at the mean of what they removed; others stay apart."""
    runs = pandas.DataFrame(
        {
            "method": ["l2", "l2", "l1", "l1"],
            "seed": [0, 1, 0, 1],
            "sparsity": [0.3, 0.3, 0.3, 0.3],
            "units_removed": [0.25, 0.5, 0.301, 0.299],
        }
    )
    assert as_removed(runs)["sparsity"].tolist() == [0.375, 0.375, 0.3, 0.3]
    assert unlike_asked(runs) == [
        "What was removed is not what was asked for: l2: 37.5 % in place of 30 %. Tables and figures go by what was removed."
    ]
    assert as_removed(runs.drop(columns="units_removed"))["sparsity"].tolist() == [0.3] * 4
