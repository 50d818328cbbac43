"""Where rows come from, how to reproduce, per-class damage, and sections that any study can use."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from toy_study import STUDY

from secateur.cli.root import options_of
from secateur.lab import Basis, Picture, Report, Section, Store, Study, Table, run_study
from secateur.lab.plan.study import Planned
from secateur.lab.show.class_damage import class_changes, class_damage
from secateur.lab.show.origins import Origins, reproduce
from secateur.lab.show.published import Published
from secateur.lab.show.report import html, markdown
from secateur.lab.show.sections import interval, mean, pick, sweep_table, training
from secateur.studies import by_name
from secateur.types import InputError

FULL = pd.DataFrame({"seed": [0, 1], "class_accuracy": [[0.9, 0.5], [0.9, 0.7]]})
CUT = pd.concat(
    [
        FULL.assign(method="l1", sparsity=0.5, class_accuracy=[[0.8, 0.5], [0.6, 0.7]]),
        FULL.assign(method="l2", sparsity=0.5, class_accuracy=[[0.9, 0.2], [0.9, 0.2]]),
        FULL.assign(method="l1", sparsity=0.2, class_accuracy=[[0.9, 0.5], [0.9, 0.7]]),
    ]
)


def frame() -> pd.DataFrame:
    rows = [
        {"id": f"{kind}{method}{sparsity}{seed}", "study": "toy", "kind": kind} | named
        for kind in ("train", "prune")
        for method in (("",) if kind == "train" else ("l1", "per layer"))
        for sparsity in ((0,) if kind == "train" else (0.2, 0.5, 0.9))
        for seed in range(3)
        for named in [{"seed": seed} | ({} if kind == "train" else {"method": method, "sparsity": sparsity})]
    ]
    return pd.DataFrame(rows)


def listed(store: pd.DataFrame, query: str) -> set[str]:
    """The ids that a query lists, read as `secateur runs list` reads it."""
    words = shlex.split(query)
    assert words[:3] == ["secateur", "runs", "list"]
    for option, value in zip(words[3::2], words[4::2], strict=True):
        if option != "--where":
            store = store[store[option[2:]] == value]
            continue
        for sign in (">=", "<=", "="):
            if sign in value:
                key, _, wanted = value.partition(sign)
                column = store[key]
                other: Any = wanted if column.dtype == object or str(column.dtype) == "str" else float(wanted)
                fits = (
                    {"=": column == other}[sign]
                    if sign == "="
                    else column.ge(other)
                    if sign == ">="
                    else column.le(other)
                )
                store = store[fits]
                break
    return set(store["id"])


@pytest.mark.parametrize(
    ("where", "query"),
    [
        ({"kind": "train"}, "--kind train"),
        ({"kind": "prune"}, "--kind prune"),
        ({"kind": "prune", "method": "per layer"}, "--kind prune --where 'method=per layer'"),
        ({"kind": "prune", "sparsity": 0.5}, "--kind prune --where sparsity=0.5"),
        ({"kind": "prune", "method": "l1", "seed": 1}, "--kind prune --where method=l1 --where seed=1.0"),
    ],
)
def test_the_query_lists_the_rows_of_the_block(where: dict[str, object], query: str) -> None:
    store = frame()
    rows = pick(store, **where)
    found = Origins(store).of(rows, "test set")
    assert listed(store, found.query) == set(rows["id"]) == set(found.cells)
    assert found.query.removeprefix("secateur runs list --study toy ") == query.replace("1.0", "1")


def test_ranges_and_what_no_condition_can_tell() -> None:
    store = frame()
    few = store[(store["kind"] == "prune") & (store["seed"] < 2) & (store["sparsity"] >= 0.5)]
    found = Origins(store).of(few, "test set")
    assert listed(store, found.query) == set(few["id"])
    assert found.query.endswith("--where 'sparsity>=0.5' --where 'seed<=1'")
    twice = pd.concat([store, few.assign(id=few["id"] + "b")])
    assert Origins(twice).of(few, "").query.endswith(f"  # and {len(few)} more")


def test_rows_that_were_chosen_by_what_they_have() -> None:
    store = frame().assign(cut=[None] * 3 + [5.0, 5.0, None] * 6)
    rows = store[store["cut"].notna()]
    query = Origins(store).of(rows, "", having="cut").query
    assert query.endswith("--kind prune --where 'seed<=1' --where 'cut>0'")


def test_the_basis_is_on_the_page_with_its_cells() -> None:
    basis = Basis("2 seeds, test set", "secateur runs list --study toy", ("abc", "def")).also("mean")
    report = Report("R", sections=[Section("S", [sweep_table(_runs(), "t", "caption", basis, theirs=None)])])
    text = html(report, {})
    assert "Computed from: 2 seeds, test set; mean." in text
    assert "2 cells: abc def" in text
    assert "    secateur runs list --study toy\n" in markdown(report)


def test_the_command_names_every_option_that_is_not_the_default() -> None:
    study = Study(
        **{**vars(STUDY), "defaults": {"seeds": 3, "list": [1], "word": "a", "data_dir": None, "flag": False}}
    )
    chosen = {"list": [0.5, 0.9], "word": "it's 5", "data_dir": "/da ta", "flag": True, "seeds": 2}
    planned = Planned(study, study.settle(chosen), [])
    comment, line = reproduce(planned, {"secateur": "0.1.0", "commit": "abc"}).splitlines()
    assert comment == "# secateur 0.1.0, commit abc"
    words = shlex.split(line)
    assert words[:6] == ["secateur", "study", "run", "toy", "--seeds", "2"]
    assert words[words.index("--data-dir") + 1] == "/da ta"
    options = options_of([words[at + 1] for at, word in enumerate(words) if word == "--set"])
    assert options == {"list": [0.5, 0.9], "word": "it's 5", "flag": True}
    # Words that JSON would read as something else stay words.
    line = reproduce(Planned(study, study.settle({"word": "null"}), []), {})
    assert options_of([shlex.split(line)[-1]]) == {"word": "null"}


def test_the_command_in_the_report_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run by a shell's rules, from another folder, it computes the same cells with the same numbers."""
    import sys

    from secateur import cli
    from secateur.lab import build_report

    study, store = by_name("demo"), Store(tmp_path / "first")
    few = {"seeds": 1, "epochs": 1, "sparsities": [0.5], "methods": ["weight", "neuron per layer"], "dense": [0.5]}
    run_study(study, store, few, progress=False)
    command = build_report(study, store, few).command
    words = shlex.split(command, comments=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SECATEUR_RUNS", raising=False)
    monkeypatch.setattr(sys, "argv", [*words, "--quiet"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    again = Store(tmp_path / "runs" / "demo", create=False).frame().set_index("id")
    first = store.frame().set_index("id")
    assert set(again.index) == set(first.index)
    assert again["accuracy"].to_dict() == first["accuracy"].to_dict()
    assert "\n# " not in command
    assert command.startswith("# secateur ")


def test_class_changes_are_paired_by_seed() -> None:
    found = class_changes(FULL, CUT, ["cat", "dog"]).set_index(["method", "sparsity", "class"])
    cat = found.loc[("l1", 0.5, "cat")]
    # Changes of −0.1 and −0.3: t(0.975, 1) = 12.706 times 0.1; but who had 0.9 can lose 0.9 and gain 0.1.
    assert (cat["change"], cat["low"], cat["high"]) == tuple(pytest.approx(at) for at in (-0.2, -0.9, 0.1))
    assert (cat["before"], cat["after"], cat["n"]) == (pytest.approx(0.9), pytest.approx(0.7), 2)
    lone = class_changes(FULL[:1], CUT, ["cat", "dog"])
    assert set(lone["n"]) == {1}
    assert lone["low"].isna().all()
    with pytest.raises(InputError, match="rated on 2 classes, but 3 are named"):
        class_changes(FULL, CUT, ["cat", "dog", "cow"])


def test_class_damage_names_the_worst_class() -> None:
    words, bars, heat, numbers = class_damage(FULL, CUT, ["cat", "dog"], method="l1", basis="2 seeds")
    assert isinstance(words, str)
    assert words.startswith(
        "Hurt most with 50 % removed, method l1: cat (−20.0 points, 95 % −90.0 to +10.0), dog (+0.0"
    )
    assert "Of all methods, l2 hurts one class most: dog (−40.0 points)." in words
    assert isinstance(bars, Picture)
    assert bars.data is not None
    assert list(bars.data["class"]) == ["cat", "dog"]
    assert isinstance(heat, Picture)
    assert [t.get_text() for t in heat.figure.axes[0].texts] == ["−20.0", "+0.0", "+0.0", "−40.0"]
    assert isinstance(numbers, Table)
    assert [row[:2] for row in numbers.rows] == [["l1", "cat"], ["l1", "dog"], ["l2", "cat"], ["l2", "dog"]]
    assert [numbers.tone(row, 4) for row in range(4)] == ["", "", "", "bad"]


def test_class_damage_without_what_it_needs() -> None:
    assert class_damage(FULL.drop(columns="class_accuracy"), CUT, ["cat", "dog"]) == []
    assert class_damage(FULL[:0], CUT, ["cat", "dog"]) == []
    without = FULL.assign(class_accuracy=[[], []])  # as of networks that answer something else than classes
    assert class_damage(without, CUT.assign(class_accuracy=[[]] * len(CUT)), ["cat", "dog"]) == []
    one = class_damage(FULL, CUT[CUT["method"] == "l2"], ["cat", "dog"], method="l1", sparsity=0.5)
    assert [type(block) for block in one] == [str, Picture, Table], "no heat map of one method"


def _runs() -> pd.DataFrame:
    rows = {"sparsity": [0.5, 0.5, 0.2], "accuracy": [0.8, 0.9, 0.9], "loss": [1.0, 2.0, 0.5]}
    return pd.DataFrame(rows | {"parameters_removed": 0.5})


def test_a_sweep_table_stands_beside_the_published_numbers() -> None:
    table = sweep_table(_runs(), "t", "", "", theirs={0.5: (0.88, None)})
    assert table.rows[0] == [0.2, 0.5, 0.9, "", 0.5, "", None, None]
    assert table.rows[1] == [0.5, 0.5, pytest.approx(0.85), "0.2147 to 1.0000", 1.5, "0.0000 to 7.8531", 0.88, None]
    assert [column.published for column in table.columns[-2:]] == [True, True]


def test_training_shows_its_own_epochs_only() -> None:
    trained = pd.DataFrame(
        {"id": ["a"], "seed": [0], "best_epoch": [1], "accuracy": [0.9], "loss": [0.3], "parameters": [10]}
    )
    columns = ["train_loss", "validation_loss", "train_accuracy", "validation_accuracy"]
    epochs = pd.DataFrame({"id": ["a", "b"], "epoch": [1, 2], **dict.fromkeys(columns, 0.5)})
    section = training(trained, epochs, "1 seed", published=Published(baseline=(0.8851, 0.326)))
    table, curves = section.blocks
    assert isinstance(table, Table)
    assert table.rows[-1] == ["published", None, 0.8851, 0.326, None]
    assert isinstance(curves, Picture)
    assert curves.data is not None
    assert set(curves.data["id"]) == {"a"}
    assert len(training(trained, epochs[:0], "1 seed").blocks) == 1


def test_means_of_what_is_missing() -> None:
    assert mean(pd.DataFrame({"x": [None, None]}), "x") != mean(pd.DataFrame({"x": [None, None]}), "x")
    assert interval([1.0]) == ""
