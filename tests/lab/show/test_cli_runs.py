"""`secateur runs`: what it lists, shows, compares, removes and exports, and how it refuses."""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur import cli
from secateur.files import write_text
from secateur.lab import Failure, Recipe, Record, Store
from secateur.lab.keep import paths
from secateur.lab.show import browse
from secateur.types import InputError, MissingLibraryError, UnknownNameError

Run = Callable[..., tuple[int, str, str]]
TRAIN = Recipe("toy", "train", {"seed": 0})


def prune(method: str, sparsity: float, seed: int = 0) -> Recipe:
    return Recipe("toy", "prune", {"seed": seed, "method": method, "sparsity": sparsity}, (TRAIN.id,))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `secateur runs` in a folder with two stores; give its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("SECATEUR_RUNS", raising=False)
    toy, other = Store(paths.store_dir("toy")), Store(paths.store_dir("other"))
    metrics = {"accuracy": 0.9, "loss": math.nan, "class_accuracy": [1.0, 0.8]}
    toy.put(Record(TRAIN, metrics, [{"epoch": 1}], {"torch": "2.13.0"}), {"w": torch.ones(2)})
    for method, factor in (("weight", 1.0), ("neuron", 0.5)):
        for sparsity in (0.2, 0.5):
            for seed in (0, 1):
                toy.put(Record(prune(method, sparsity, seed), {"accuracy": factor * (1 - sparsity) + seed / 10}))
    toy.fail(Failure(prune("neuron", 0.99), "ValueError: nothing left", "Traceback (most recent call last):\n  …"))
    other.put(Record(Recipe("other", "train", {"seed": 3}), {"accuracy": 0.25}))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["secateur", "runs", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    return call


def rows(done: tuple[int, str, str]) -> list[dict[str, Any]]:
    assert done[0] == 0, done[2]
    found: list[dict[str, Any]] = json.loads(done[1])["rows"]
    return found


def test_list_all_stores_newest_first(run: Run) -> None:
    found = rows(run("list", "--json"))
    assert len(found) == 10
    assert {row["store"] for row in found} == {"toy", "other"}
    code, out, _ = run("list", "--store", "toy", "--kind", "train")
    assert code == 0
    assert out.split()[:4] == ["id", "kind", "accuracy", "loss"]
    assert TRAIN.id in out


def test_list_filters_sorts_and_limits(run: Run) -> None:
    found = rows(run("list", "--where", "sparsity=0.5", "--where", "accuracy>0.3", "--sort=-accuracy", "--json"))
    assert [(r["method"], r["accuracy"]) for r in found] == [("weight", 0.6), ("weight", 0.5), ("neuron", 0.35)]
    found = rows(
        run("list", "--study", "toy", "--columns", "method,accuracy", "--sort", "accuracy", "--limit", "2", "--json")
    )
    assert found == [
        {"store": "toy", "method": "neuron", "accuracy": 0.25},
        {"store": "toy", "method": "neuron", "accuracy": 0.35},
    ]
    code, out, _ = run(
        "list", "--store", "runs/toy", "--columns", "method,sparsity", "--csv", "--limit", "1", "--sort=-sparsity"
    )
    assert (code, out) == (0, "method,sparsity\nweight,0.5\n")


def test_several_stores_are_sorted_together(run: Run) -> None:
    found = rows(run("list", "--sort", "accuracy", "--limit", "2", "--columns", "accuracy", "--json"))
    assert [(r["store"], r["accuracy"]) for r in found] == [("other", 0.25), ("toy", 0.25)]


def test_show_a_record_and_a_failure(run: Run) -> None:
    code, out, _ = run("show", TRAIN.id[:6])
    assert code == 0
    for words in (
        TRAIN.id,
        "runs/toy",
        '{"seed": 0}',
        "class_accuracy      1 0.8",
        "torch               2.13.0",
        "needed_by             8;",
    ):
        assert words in out
    code, out, _ = run("show", TRAIN.id, "--json")
    shown = json.loads(out)
    assert shown["metrics"]["loss"] is None
    assert len(shown["needed_by"]) == 8
    code, out, _ = run("show", prune("neuron", 0.99).id)
    assert "ValueError: nothing left" in out
    assert "Traceback (most recent call last):\n  …" in out


def test_compare_cells(run: Run) -> None:
    one, two = prune("weight", 0.2), prune("neuron", 0.2)
    found = rows(run("compare", one.id, two.id, "--json"))
    assert found[:2] == [
        {"what": "parameter", "name": "method", one.id: "weight", two.id: "neuron"},
        {"what": "metric", "name": "accuracy", one.id: 0.8, two.id: 0.4},
    ]
    assert [row["name"] for row in found[2:]] == ["wall_seconds", "cpu_seconds"]


def test_compare_groups_means_by_hand(run: Run) -> None:
    done = run("compare", "--by", "method", "--by", "sparsity", "--json")
    table = {(r["method"], r["sparsity"]): (r["accuracy"], r["accuracy.n"]) for r in rows(done)}
    assert table[("weight", 0.5)] == (pytest.approx(0.55), 2)
    assert table[("neuron", 0.2)] == (pytest.approx(0.45), 2)
    assert "means (± standard deviation) over seed (2)" in done[2]
    done = run("compare", "--by", "method", "--study", "toy", "--json")
    assert [(r["method"], r["sparsity"], r["accuracy.n"]) for r in rows(done)] == [
        *(("neuron", 0.2, 2), ("neuron", 0.5, 2), ("weight", 0.2, 2), ("weight", 0.5, 2)),
    ]
    assert "kept apart, as not the seed alone differs: sparsity" in done[2]


def test_failures(run: Run) -> None:
    code, out, err = run("failures")
    assert code == 0
    assert "prune seed=0 method=neuron sparsity=0.99" in out
    assert "ValueError: nothing left" in out
    assert "1 failed; `secateur runs show ID`" in err
    assert json.loads(run("failures", "--study", "other", "--json")[1]) == {"failures": []}


def test_what_was_mended_is_forgotten_wherever_it_was(run: Run) -> None:
    store, failed = Store(paths.store_dir("other")), prune("neuron", 0.99)
    store.put(Record(failed, {"accuracy": 0.1}, created="2001-01-01T00:00:00+00:00"))
    assert "1 failed" in run("failures")[2]  # it failed after that
    store.put(Record(failed, {"accuracy": 0.1}))
    assert run("failures")[1:] == ("", "0 failed\n")
    assert "1 failed" in run("failures", "--store", "toy")[2]


def test_failures_can_be_forgotten(run: Run) -> None:
    toy = Store(paths.store_dir("toy"))
    toy.fail(Failure(TRAIN, "OSError: no room", "Traceback", "2999-01-01T00:00:00+00:00"))
    assert "2 failed, forgotten" in run("failures", "--forget")[2]
    assert (run("failures")[1], toy.failures(), toy.has(TRAIN.id)) == ("", [], True)
    toy.check()


@pytest.mark.parametrize("stores", [(), ("--store", "toy")])
@pytest.mark.parametrize("asked", [("--kind", "nosuch"), ("--where", "accuracy>5")])
def test_no_match_is_an_empty_table(run: Run, stores: tuple[str, ...], asked: tuple[str, ...]) -> None:
    code, out, err = run("list", *stores, *asked)
    assert (code, out, "fits" in err or "no cell of kind nosuch" in err) == (0, "", True)
    assert rows(run("list", *stores, *asked, "--json")) == []
    header = "accuracy\n" if stores else "store,accuracy\n"
    assert run("list", *stores, *asked, "--columns", "accuracy", "--csv")[1] == header
    assert run("list", *stores, *asked, "--sort", "accuracy")[0] == 0
    assert run("export", *stores, *asked, "--csv", "a.csv")[0] == 0
    code, _, err = run("compare", *stores, *asked, "--by", "method")
    assert (code, err) == (1, "secateur: no finished cell fits; see `secateur runs list`\n")


def test_remove_asks_and_says_what_depends(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run("remove", TRAIN.id)
    assert code == 1
    assert "8 finished cells build upon them and stay" in err
    assert "say --yes where nobody can be asked" in err
    store = Store(paths.store_dir("toy"))
    assert store.has(TRAIN.id)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    assert run("remove", TRAIN.id)[0] == 1
    assert store.has(TRAIN.id)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    assert run("remove", TRAIN.id)[0] == 0
    assert not store.has(TRAIN.id)
    assert not list(paths.artefacts_dir(store.path).iterdir())


def test_remove_by_condition_and_a_failure(run: Run) -> None:
    assert run("remove", "--where", "sparsity=0.5", "--where", "method=weight", "--yes")[0] == 0
    store = Store(paths.store_dir("toy"))
    assert len(store.ids()) == 7
    assert run("remove", prune("neuron", 0.99).id, "--yes")[0] == 0
    assert store.failures() == []
    code, _, err = run("remove", "--where", "sparsity=0.77", "--yes")
    assert (code, "nothing removed: no finished cell fits; sparsity is 0.2" in err) == (0, True)


def test_export_writes_whole_files(run: Run, tmp_path: Path) -> None:
    assert run("export", "--store", "toy", "--csv", "a.csv", "--json", "a.json")[0] == 0
    with (tmp_path / "a.csv").open(newline="") as file:
        lines = {line["id"]: line for line in csv.DictReader(file)}
    assert len(lines) == 9
    assert json.loads(lines[TRAIN.id]["class_accuracy"]) == [1.0, 0.8]
    whole = {row["id"]: row for row in json.loads((tmp_path / "a.json").read_text())}
    assert whole[TRAIN.id]["class_accuracy"] == [1.0, 0.8]
    assert whole[TRAIN.id]["loss"] is None
    assert whole[prune("weight", 0.2, 1).id]["accuracy"] == 0.9


def test_export_to_parquet(run: Run, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    assert run("export", "--parquet", "a.parquet")[0] == 0
    assert len(pandas.read_parquet(tmp_path / "a.parquet")) == 10


def test_parquet_without_its_library_says_so(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingLibraryError, match=r"needs pyarrow.*pip install 'secateur\[parquet\]'"):
        browse.export(Store(paths.store_dir("toy")).frame(), parquet=tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()


def test_sql_asks_all_stores(run: Run) -> None:
    found = rows(run("sql", "select store, count(*) as n from cells group by store order by n", "--json"))
    assert found == [{"store": "other", "n": 1}, {"store": "toy", "n": 9}]
    assert run("sql", "select max(value) as best from metrics", "--csv")[1] == "best\n0.9\n"
    assert run("sql", "select 1 as one")[1].split() == ["one", "1"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("list", "--where", "acuracy>1"), "unknown parameter or metric 'acuracy'; did you mean 'accuracy'"),
        (("list", "--where", "accuracy"), "condition 'accuracy': write NAME=VALUE"),
        (
            ("list", "--store", "tyo"),
            "there is no store at tyo, and none of a study of that name under runs; there are: other, toy",
        ),
        (("list", "--sort", "x"), "unknown parameter or metric 'x'"),
        (("list", "--limit", "-1"), "limit=-1 must be a whole number, 0 or more"),
        (("show", "zz"), "no cell's id begins with 'zz'"),
        (("show", ""), "an empty id fits every cell"),
        (("compare", TRAIN.id), "comparing needs two or more different cells"),
        (("compare", TRAIN.id, TRAIN.id), "comparing needs two or more different cells"),
        (("compare",), "compare takes two or more ids, or --by NAME"),
        (("compare", TRAIN.id, prune("neuron", 0.99).id), "failed and has no results"),
        (("compare", "--by", "methd"), "unknown column 'methd'; did you mean 'method'"),
        (("remove", "--yes"), "remove takes ids, or conditions"),
        (("remove", "--where", "spasity=1", "--yes"), "unknown parameter or metric 'spasity'"),
        (("export",), "export writes to files"),
        (("sql", "delete from records"), "cannot be answered: "),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_mistakes_are_one_clear_line(run: Run, words: tuple[str, ...], wanted: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert err.startswith("secateur: ")
    assert wanted in err
    assert err.count("\n") == 1


def test_without_any_store(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_RUNS", str(tmp_path / "elsewhere"))
    code, _, err = run("list")
    assert code == 1
    assert "there is no store under" in err


def test_an_id_that_fits_several_cells(run: Run) -> None:
    stores = browse.open_stores(["toy"])
    for seed in range(17):
        stores[0].put(Record(prune("weight", 0.9, seed), {}))  # of 17 ids two begin with one digit
    firsts = [identity[0] for identity in stores[0].ids()]
    twice = next(letter for letter in firsts if firsts.count(letter) > 1)
    with pytest.raises(InputError, match=rf"cells' ids begin with '{twice}'.*give more of it"):
        browse.find(stores, twice)
    with pytest.raises(UnknownNameError, match="no cell's id begins with"):
        browse.find(stores, "*")


def test_a_name_that_only_one_store_knows_is_no_mistake(run: Run) -> None:
    assert len(browse.listed(browse.open_stores(), where=["sparsity=0.5"])) == 4


def test_the_commands_are_fast(run: Run) -> None:
    run("list")
    start = time.process_time()
    run("list")
    run("show", TRAIN.id)
    run("failures")
    assert time.process_time() - start < 1.5


def test_a_file_in_runs_is_no_store(run: Run) -> None:
    write_text(Path("runs/notes/readme.txt"), "not a store")
    assert {store.path.name for store in browse.open_stores()} == {"toy", "other"}


@pytest.mark.parametrize(
    "words",
    [("list",), ("compare", "--by", "method"), ("failures",), ("export", "--csv", "x.csv"), ("remove", "--yes")],
)
def test_a_study_that_no_store_holds_is_refused(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run(*words, "--study", "tio")
    assert (code, out) == (1, "")
    assert "unknown study in the stores 'tio'; did you mean 'toy'? Known: other, toy" in err


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("accuracy>abc", "accuracy>abc: accuracy holds numbers; give a number"),
        ("seed=first", "seed=first: seed holds numbers; give a number"),
        ("method>3", "method>3: method holds texts; give a text"),
        ("wall_seconds<long", "wall_seconds<long: wall_seconds holds numbers; give a number"),
    ],
)
def test_numbers_are_not_compared_with_texts(run: Run, condition: str, words: str) -> None:
    code, _, err = run("list", "--store", "toy", "--where", condition)
    assert code == 1
    assert words in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--where", "method=l2"), "no finished cell fits; method is weight, neuron"),
        (("--where", "accuracy>7"), "no finished cell fits; accuracy is 0.25 to 0.9"),
        (("--kind", "dense"), "no cell of kind dense is finished; there are: train, prune"),
    ],
)
def test_a_filter_without_a_match_says_so(run: Run, words: tuple[str, ...], said: str) -> None:
    code, out, err = run("list", *words)
    assert (code, out, err.strip()) == (0, "", said)
    assert json.loads(run("list", *words, "--json")[1]) == {"rows": []}
    assert run("export", "--csv", "x.csv", *words)[2].strip() == f"0 cells written to x.csv: {said}"
