"""One's own comparison from a TOML file."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from secateur.lab import Store, Study, Table, build_report, run_study
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


def test_small_data_sets_hold_out_a_tenth(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for data, validation in (("digits", 0.1), ("fashion-mnist", 6000), (["fashion-mnist", "digits"], 0.1)):
        path.write_text(f'name = "mine"\ndata = {json.dumps(data)}\nmodel = "ann-128"\n')
        assert by_name(str(path)).defaults["validation"] == validation
    path.write_text('name = "mine"\ndata = "digits"\nvalidation = 300\nmodel = "ann-128"\n')
    assert by_name(str(path)).defaults["validation"] == 300


def image_folder(root: Path) -> str:
    """Ten images a class in ImageNet's layout."""
    image = pytest.importorskip("PIL.Image")
    for split, label, number in product(("train", "val"), "ab", range(10)):
        place = root / split / label
        place.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (9, 8), (20 * number, 0, 250 * (label == "a"))).save(place / f"{number}.jpg")
    return f"folder:{root}:8"


def saved_items(root: Path) -> str:
    """The same as Hugging Face's library writes it."""
    library, image = pytest.importorskip("datasets"), pytest.importorskip("PIL.Image")
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["a", "b"])})
    items = {"image": [image.new("RGB", (9, 8), (12 * n, 0, 0)) for n in range(20)], "label": [0, 1] * 10}
    split = library.Dataset.from_dict(items, features=features)
    library.DatasetDict({"train": split, "test": split}).save_to_disk(str(root))
    return f"datasets:{root}:8"


@pytest.mark.parametrize("write", [image_folder, saved_items])
def test_a_study_of_small_images_on_disk(tmp_path: Path, write: Callable[[Path], str]) -> None:
    path, name = tmp_path / "mine.toml", write(tmp_path / "images")
    text = f'name = "mine"\ndata = "{name}"\nmodel = "resnet-18"\nmodel_options = {{width = 0.1}}\n'
    text += "seeds = 1\nepochs = 1\ncriteria = ['l2']\nsparsities = [0.5]\naugment = ['flip']\n"
    path.write_text(text + "validation = 20\n")
    with pytest.raises(InputError, match=f"holds out 20 of the 20 training images of {name}.*from 1 to 19"):
        by_name(str(path))
    path.write_text(text)
    study = by_name(str(path))
    assert study.defaults["validation"] == 0.1
    store = Store(tmp_path / "store")
    assert run_study(study, store, progress=False, executor="serial").exit_code == 0
    report = build_report(study, store)
    assert any(isinstance(block, Table) and block.name == "overview" for block in report.blocks())


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
            r"mine\.toml, line 6: seeds is 0; give a whole number from 1 to",
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


# Criteria, solvers and schedules, the library's and one's own

CRITERIA_STUDY = EXAMPLE.with_name("criteria-study.toml")
SMALL = {"data": "digits", "seeds": 1, "epochs": 2, "validation": 300, "sparsities": [0.5], "shown": 60}

OWN = '''
from __future__ import annotations

from dataclasses import dataclass

import torch

from secateur.criteria.base import CriterionBase
from secateur.schedules import Iterative
from secateur.solvers import Solution, Solver
from secateur.solvers.solution import fractions_of


@dataclass(frozen=True)
class Last(CriterionBase):
    """Keeps the last units."""

    def _score(self, model, sites):
        return {name: torch.arange(float(site.size)).reshape(site.shape) for name, site in sites.items()}


class Half(Solver):
    """Removes the first units, repairs nothing."""

    def solve(self, model, sites, sparsity=None, *, pattern=None):
        parts = fractions_of(sparsity, sites, "Half")
        keep = {n: torch.arange(s.size) >= round(parts[n] * s.size) for n, s in sites.items()}
        return Solution({n: mask.reshape(sites[n].shape) for n, mask in keep.items()}, {})


def slowly(criterion, sparsity, steps, train):
    """Iterative pruning along the cubic."""
    return Iterative(criterion, sparsity, steps=steps, curve="cubic", train=train, scope="layer", round_to=1)


class Nothing:
    pass


class Broken(Last):
    def _score(self, model, sites):
        return {name: site.nonsense for name, site in sites.items()}
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_methods.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_methods", raising=False)
    return "own_methods"


def grid(tmp_path: Path, *lines: str) -> Study:
    """The study that a file of these lines describes, on a small setting."""
    text = ['name = "mine"', 'model = "lenet-300-100"', *(f"{key} = {value!r}" for key, value in SMALL.items())]
    (tmp_path / "grid.toml").write_text("\n".join([*text, *lines]))
    return by_name(str(tmp_path / "grid.toml"))


@pytest.mark.skipif(not CRITERIA_STUDY.is_file(), reason="the documents are not beside the tests")
def test_ten_lines_compare_three_criteria(tmp_path: Path) -> None:
    assert len(CRITERIA_STUDY.read_text().splitlines()) <= 10
    study = by_name(str(CRITERIA_STUDY))
    # three networks, each fine-tuned unpruned, and pruned by three criteria and a solver at three sparsities
    kinds = {"train": 3, "unpruned": 3, "prune": 3 * (3 + 1) * 3}
    assert Counter(cell.recipe.kind for cell in study.plan()) == kinds
    options = SMALL | {"sparsities": [0.3, 0.7], "seeds": 2}
    store = Store(tmp_path / "store")
    assert run_study(study, store, options, progress=False, executor="serial").exit_code == 0
    labels = {"random, tuned 1 epoch", "l2, tuned 1 epoch", "taylor, tuned 1 epoch", "thinet, tuned 1 epoch"}
    rows = store.query(kind="prune", where={"sparsity": 0.7})
    assert set(rows["method"]) == labels
    assert (rows["units_removed"] - 0.7).abs().max() < 0.01
    assert (rows["accuracy"] > rows["accuracy_untuned"]).mean() > 0.5
    assert rows["cut_difference"].max() < 1e-4
    report = build_report(study, store, options)
    blocks = {b.name: b for b in report.blocks() if not isinstance(b, str)}
    overview = blocks["overview"]
    assert isinstance(overview, Table)
    assert {str(row[0]).partition(" cut ")[0] for row in overview.rows} == {
        "unpruned",
        "unpruned, tuned 1 epoch",
        *labels,
    }
    assert {"damage-taylor-tuned-1-epoch", "gain-l2-tuned-1-epoch", "against-random-tuned-1-epoch"} <= set(blocks)


def test_every_kind_of_method_runs(tmp_path: Path, own: str) -> None:
    study = grid(
        tmp_path,
        f'criteria = ["obd", "movement", "{own}:Last"]',
        f'solver = ["{own}:Half", "sparse-gpt"]',
        'unit = ["channels", "weights"]',
        'scope = ["layer", "global"]',
        f'schedule = ["one-shot", "iterative", "{own}:slowly"]',
        "steps = 2",
        "finetune = 1",
    )
    cells = study.plan()
    labels = [c.recipe.parameters["method"] for c in cells if c.recipe.kind == "prune"]
    assert len(labels) == 3 * 2 * 2 * 3 + 2 + 1
    wanted = {
        f"{own}:Last, tuned 1 epoch",
        f"{own}:Half, tuned 1 epoch",
        "sparse-gpt weights, tuned 1 epoch",
        "obd weights global, iterative in 2, tuned 1 epoch",
        f"movement, {own}:slowly in 2, tuned 1 epoch",
    }
    assert wanted < set(labels)
    keep = [c for c in cells if c.recipe.kind == "train" or c.recipe.parameters["method"] in wanted]
    few = replace(study, cells=lambda _: keep)
    store = Store(tmp_path / "store")
    summary = run_study(few, store, progress=False, executor="serial")
    assert not summary.failed, [failure.error for failure in store.failures()]
    rows = store.query(kind="prune").set_index("method")
    assert (rows["units_removed"] - 0.5).abs().max() < 0.01
    last = store.query(kind="prune", where={"method": f"{own}:Last, tuned 1 epoch"})
    assert last["kept"].item() == {"fc1": 150, "fc2": 50}
    assert build_report(few, store).summary


def test_a_method_is_the_same_cell_whatever_is_compared_with_it(tmp_path: Path) -> None:
    alone = grid(tmp_path, 'criteria = "taylor"')
    beside = grid(tmp_path, 'criteria = ["l1", "taylor"]', 'scope = ["layer", "global"]', 'methods = ["neuron"]')
    assert {cell.id for cell in alone.plan()} < {cell.id for cell in beside.plan()}
    assert len(beside.plan()) == 1 + 4 + 1


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        ('criteria = ["tailor"]', UnknownNameError, "unknown criterion 'tailor'; did you mean 'taylor'"),
        ('criteria = ["obs"]', InputError, "obs cannot be compared: .*compares single weights"),
        ('criteria = "next-layer"\nunit = "weights"', InputError, "next-layer weights cannot be compared"),
        ('criteria = "l2"\nschedule = "iteratively"', UnknownNameError, "'iteratively'; did you mean 'iterative'"),
        ('solver = "thinnet"', UnknownNameError, "'thinnet'; did you mean 'thinet'"),
        ('criteria = "no_such_module:X"', UnknownNameError, "cannot import 'no_such_module'"),
        ('criteria = "own_methods:Lats"', UnknownNameError, "'Lats'; did you mean 'Last'"),
        ('criteria = "own_methods:Nothing"', InputError, "own_methods:Nothing"),
        ('criteria = "own_methods:Broken"', InputError, "own_methods:Broken cannot be compared: .*AttributeError"),
        ('solver = "own_methods:Last"', InputError, "derive it from secateur.solvers.Solver"),
        ('criteria = "l2"\nschedule = "own_methods:Nothing"', InputError, "own_methods:Nothing"),
        ("methods = []", InputError, r"methods is \[\]; give one or more, or criteria, or a solver"),
        ('criteria = "l2"\nscope = "row"', UnknownNameError, "'row'"),
        ("criteria = 3", InputError, "criteria is 3; give a text, or a list"),
        ('criteria = "l2"\nfinetune = -1', InputError, "finetune is -1"),
        ('criteria = "l2"\nsteps = 0', InputError, "steps is 0"),
    ],
)
def test_a_method_that_cannot_be_is_refused_before_anything_runs(
    tmp_path: Path, own: str, line: str, error: Any, words: str
) -> None:
    with pytest.raises(error, match=words):
        grid(tmp_path, line)
