"""One's own comparison from a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secateur.lab import Store, Table, build_report, run_study
from secateur.studies import STUDIES, by_name
from secateur.types import FileError, InputError, UnknownNameError

GRID = """
name = "mine"
title = "Two networks on digits"
data = "digits"
model = ["lenet-300-100", "ann-128"]
seeds = 2
epochs = 1
validation = 300
methods = ["weight", "neuron"]
sparsities = [0.5]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(GRID)
    return path


EXAMPLE = Path(__file__).parents[2] / "docs" / "example-study.toml"


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="the documents are not beside the tests")
def test_the_example_in_the_documents_runs(tmp_path: Path) -> None:
    study = by_name(str(EXAMPLE))
    assert len(study.plan()) == 2 * 2 * (1 + 4 * 3)
    tiny = {"seeds": 1, "epochs": 1, "methods": ["weight", "neuron"], "sparsities": [0.5]}
    plan = study.plan(tiny)
    assert len(plan) == 2 * (1 + 2)
    models = {cell.recipe.parameters["model"] for cell in plan}
    assert models == {"lenet-300-100", "ann-128"}
    # The same cells, whether the networks are compared or studied by themselves.
    assert {cell.id for cell in study.plan({**tiny, "model": "ann-128"})} < {cell.id for cell in plan}

    store = Store(tmp_path / "store")
    assert run_study(study, store, tiny, progress=False).exit_code == 0
    report = build_report(study, store, tiny)
    assert report.title == "Two networks on digits"
    assert f"secateur study run {EXAMPLE} --seeds 1 --set epochs=1" in report.command
    titles = [section.title for section in report.sections]
    assert "lenet-300-100 on digits: At a glance" in titles
    assert "ann-128 on digits: At a glance" in titles
    (wide,) = (b for b in report.blocks() if not isinstance(b, str) and b.name == "ann-128-digits-baselines")
    assert isinstance(wide, Table)
    assert wide.rows[0][2] == store.query(where={"model": "ann-128"}, kind="train")["accuracy"].item()
    assert store.query(where={"model": "ann-128", "method": "neuron"}).shape[0] == 1


def test_what_the_data_decide_is_added_where_it_is_no_default(file: Path) -> None:
    train = by_name(str(file)).plan({"data": ["digits", "fashion-mnist"], "model": "lenet-300-100"})
    assert [c.recipe.parameters["model_options"] for c in train if c.recipe.kind == "train"] == [
        {"input_size": 8},
        {"input_size": 8},
        {},
        {},
    ]


def test_the_cells_of_a_file_are_those_of_a_study_of_that_name(file: Path) -> None:
    """A list of one network is that network; the demo's own options give the demo's own cells."""
    demo = STUDIES["demo"]
    listed = demo.plan({"model": ["lenet-300-100"], "data": ["digits"]})
    assert [cell.id for cell in listed] == [cell.id for cell in demo.plan()]
    # What the data decide needs not be given.
    assert [cell.id for cell in demo.plan({"model_options": {}})] == [cell.id for cell in demo.plan()]


def change(line: str, by: str) -> str:
    assert line in GRID
    return GRID.replace(line, by)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (
            change("seeds = 2", "sedes = 2"),
            UnknownNameError,
            r"key in .*mine\.toml, line 6: 'sedes'; did you mean 'seeds'",
        ),
        (
            change("seeds = 2", "seeds = 0"),
            InputError,
            r"mine\.toml, line 6: seeds is 0; give a whole number of at least 1",
        ),
        (
            change("[0.5]", "0.5"),
            InputError,
            r"line 10: sparsities is 0\.5; give a list of numbers from 0 to 1, such as \[0\.2,0\.5\]",
        ),
        (change("[0.5]", "[1.5]"), InputError, r"line 10: sparsities is \[1\.5\]; give .* from 0 to 1"),
        (
            change('"neuron"', '"neurn"'),
            UnknownNameError,
            r"value of methods in .*line 9: 'neurn'; did you mean 'neuron'",
        ),
        (
            change('"ann-128"', '"an-128"'),
            UnknownNameError,
            r"mine\.toml: unknown model 'an-128'; did you mean 'ann-128'",
        ),
        (
            change('"digits"', '"digit"'),
            UnknownNameError,
            r"mine\.toml: unknown data set 'digit'; did you mean 'digits'",
        ),
        (change('"mine"', '"My study"'), InputError, r"line 2: name is 'My study'; give small letters"),
        (change('"mine"', "3"), InputError, r"line 2: name is 3; give a text"),
        (change('name = "mine"', ""), InputError, r'give the study a name, such as name = "mine"'),
        (change('"mine"', '"demo"'), InputError, r"line 2: name is 'demo', which is a study of secateur; give another"),
        (change('"mine"', "mine"), FileError, r"mine\.toml is not TOML: .*line 2"),
        (GRID + "model_options = { widht = 3 }", UnknownNameError, r"mine\.toml: .*'widht'"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(file: Path, text: str, error: Any, words: str) -> None:
    file.write_text(text)
    with pytest.raises(error, match=words):
        by_name(str(file))


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(FileError, match=r"cannot read nowhere\.toml"):
        by_name("nowhere.toml")
