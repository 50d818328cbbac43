"""The store: what goes in comes out, and what is damaged says so."""

from __future__ import annotations

import contextlib
import math
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from secateur.lab import Failure, Recipe, Record, Store
from secateur.lab.keep import database, paths
from secateur.types import FileError, InputError, UnknownNameError

TRAIN = Recipe("toy", "train", {"seed": 0})
PRUNE = Recipe("toy", "prune", {"seed": 0, "sparsity": 0.5}, (TRAIN.id,))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_goes_in_comes_out(store: Store) -> None:
    metrics = {"accuracy": 0.5, "class_accuracy": [0.25, 0.75], "note": "ok", "loss": math.inf}
    history = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]
    store.put(Record(TRAIN, metrics, history, {"threads": 1}, 2.0, 1.5, "2024-01-01T00:00:00+00:00"))
    again = Store(store.path, create=False).get(TRAIN.id)
    assert (again.metrics, again.history, again.environment) == (metrics, history, {"threads": 1})
    assert (again.wall_seconds, again.cpu_seconds, again.created) == (2.0, 1.5, "2024-01-01T00:00:00+00:00")
    assert again.recipe == TRAIN
    assert again.recipe.parameters == TRAIN.parameters


def test_has_ids_delete(store: Store) -> None:
    assert not store.has(TRAIN.id)
    store.put(Record(TRAIN, {}), {"w": torch.ones(1)})
    assert store.has(TRAIN.id)
    assert store.ids() == {TRAIN.id}
    store.delete(TRAIN.id)
    assert store.ids() == set()
    assert os.listdir(paths.artefacts_dir(store.path)) == []


def test_artefacts_of_every_kind(store: Store) -> None:
    tied = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "a": tied,
        "b": tied,
        "t": tied.T,
        "mask": tied > 2,
        "n": torch.tensor(7),
        "none": torch.ones(0),
    }
    kept = store.put(Record(TRAIN, {}), tensors)
    assert kept.artefact is not None
    back = store.artefact(TRAIN.id)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_a_second_put_takes_the_place_of_the_first(store: Store) -> None:
    for value in (1.0, 2.0):
        store.put(Record(TRAIN, {"x": value}), {"w": torch.tensor([value])})
    assert store.get(TRAIN.id).metrics == {"x": 2.0}
    assert store.artefact(TRAIN.id)["w"].item() == 2.0


def test_frame_by_hand(store: Store) -> None:
    store.put(Record(TRAIN, {"accuracy": 0.9}))
    store.put(Record(PRUNE, {"accuracy": 0.8}, wall_seconds=3.0))
    frame = store.frame([PRUNE.id, "not there", TRAIN.id])
    assert list(frame.columns) == [
        "id", "study", "kind", "seed", "sparsity", "accuracy", "wall_seconds", "cpu_seconds", "created",
    ]  # fmt: skip
    assert frame["kind"].tolist() == ["prune", "train"]
    assert frame["accuracy"].tolist() == [0.8, 0.9]
    assert frame["sparsity"].isna().tolist() == [False, True]
    assert frame["wall_seconds"].tolist() == [3.0, 0.0]


def test_frame_hides_no_column_behind_another(store: Store) -> None:
    store.put(Record(Recipe("s", "k", {"loss": "mse", "kind": 3}), {"loss": 0.5, "created": 1}))
    row = store.frame().iloc[0]
    assert (row["loss"], row["parameter.loss"]) == (0.5, "mse")
    assert (row["kind"], row["parameter.kind"]) == ("k", 3)
    assert row["metric.created"] == 1


def test_frame_of_nothing(store: Store) -> None:
    assert len(store.frame()) == 0
    assert "kind" in store.frame().columns
    assert len(store.histories()) == 0


def test_histories_by_hand(store: Store) -> None:
    store.put(Record(TRAIN, {}, [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]))
    table = store.histories()
    assert table[["seed", "epoch", "loss"]].values.tolist() == [[0, 1, 0.5], [0, 2, 0.25]]


def test_failures_are_kept_until_success(store: Store) -> None:
    store.fail(Failure(TRAIN, "ValueError: no", "Traceback ..."))
    (failure,) = store.failures()
    assert (failure.recipe, failure.error, failure.traceback) == (TRAIN, "ValueError: no", "Traceback ...")
    store.put(Record(TRAIN, {}))
    assert store.failures() == []


def test_what_is_not_json_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match=r"results of cell train seed=0 cannot be kept.*\.item\(\)"):
        store.put(Record(TRAIN, {"loss": torch.ones(1)}))
    assert store.ids() == set()


def test_unknown_ids(store: Store) -> None:
    with pytest.raises(UnknownNameError, match="unknown record 'abc'"):
        store.get("abc")
    store.put(Record(TRAIN, {}))
    with pytest.raises(FileError, match="kept no tensors"):
        store.artefact(TRAIN.id)


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no store at .*nowhere; run the study first"):
        Store(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot make the store's directory"):
        Store(tmp_path / "file")


def test_somebody_elses_database(tmp_path: Path) -> None:
    connection = sqlite3.connect(paths.database_file(tmp_path))
    connection.execute("CREATE TABLE cats (name TEXT)")
    connection.close()
    with pytest.raises(FileError, match=r"records\.sqlite is not a secateur store"):
        Store(tmp_path)


def test_a_newer_store(store: Store) -> None:
    store.close()
    connection = sqlite3.connect(store.database)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(FileError, match="written by a newer secateur; upgrade"):
        Store(store.path)


def test_a_locked_store_is_not_called_damaged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_PATIENCE", 0.05)
    store.close()
    holder = sqlite3.connect(store.database)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(FileError, match=r"database is locked; .*no other program holds") as caught:
        store.put(Record(TRAIN, {}))
    assert "damaged" not in str(caught.value)
    holder.close()


@pytest.mark.parametrize("damage", ["garbage", "truncated", "json"])
def test_a_damaged_database(store: Store, damage: str) -> None:
    for seed in range(24):
        store.put(Record(Recipe("toy", "train", {"seed": seed}), {"text": "x" * 300}))
    store.close()
    if damage == "json":
        connection = sqlite3.connect(store.database)
        with connection:
            connection.execute("UPDATE records SET metrics = '{' WHERE seed = 3")
        connection.close()
    else:
        data = store.database.read_bytes()
        store.database.write_bytes(b"hello" * 1000 if damage == "garbage" else data[: len(data) // 2])
    with pytest.raises(FileError, match=r"records\.sqlite is damaged.*move it\s+away"):
        Store(store.path).records()


def test_damage_anywhere_is_one_clear_error_or_none(store: Store, tmp_path: Path) -> None:
    for seed in range(20):
        store.put(Record(Recipe("toy", "train", {"seed": seed}), {"text": "x" * 500}))
    store.close()
    data, chance, found = store.database.read_bytes(), random.Random(1), 0
    for round_ in range(60):
        copy = tmp_path / f"copy{round_}"
        copy.mkdir()
        start = chance.randrange(len(data))
        noise = bytes(chance.randrange(256) for _ in range(64))
        paths.database_file(copy).write_bytes(data[:start] + noise + data[start + 64 :])
        with contextlib.suppress(FileError):
            Store(copy).records()
            continue
        found += 1
    assert found > 10


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_artefact(store: Store, damage: str) -> None:
    store.put(Record(TRAIN, {}), {"w": torch.arange(100.0)})
    path = paths.artefact_file(store.path, TRAIN.id)
    data = path.read_bytes()
    if damage == "flip":
        path.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    elif damage == "truncate":
        path.write_bytes(data[:-5])
    else:
        path.unlink()
    with pytest.raises(FileError, match=rf"artefact .*{TRAIN.id}\.safetensors.*Store\.delete\('{TRAIN.id}'\)"):
        store.artefact(TRAIN.id)


def test_an_artefact_that_cannot_be_written_leaves_no_record(store: Store) -> None:
    shutil.rmtree(paths.artefacts_dir(store.path), ignore_errors=True)
    paths.artefacts_dir(store.path).touch()  # a file in the folder's place
    with pytest.raises(FileError, match=r"cannot (write|remove)"):
        store.put(Record(TRAIN, {}), {"w": torch.ones(1)})
    assert store.ids() == set()


def test_many_writers_at_once(tmp_path: Path) -> None:
    def write(seed: int) -> None:
        Store(tmp_path / "shared").put(Record(Recipe("toy", "train", {"seed": seed}), {"seed_again": seed}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(24)))
    assert sorted(Store(tmp_path / "shared").frame()["seed_again"]) == list(range(24))


WRITER = """
import sys, torch
from pathlib import Path
from secateur.lab import Recipe, Record, Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
for seed in range(100000):
    recipe = Recipe("toy", "train", {"seed": seed})
    store.put(Record(recipe, {"x": seed}), {"w": torch.full((20000,), float(seed))})
    print(seed, flush=True)
"""


def test_kill_at_any_moment_leaves_a_store_that_opens(tmp_path: Path) -> None:
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(tmp_path / "store")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(12)]
    process.kill()
    rest = process.stdout.read().split()
    process.stdout.close()
    process.wait()
    store = Store(tmp_path / "store")
    told = [int(word) for word in (*"".join(lines[1:]).split(), *rest)]
    records = {record.recipe.parameters["seed"]: record for record in store.records()}
    assert set(told) <= set(records)  # what was reported finished is there
    for seed, record in records.items():
        assert record.metrics == {"x": seed}
        assert store.artefact(record.id)["w"][-1].item() == seed
