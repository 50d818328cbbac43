"""Stores that older versions wrote open with all that is in them."""

from __future__ import annotations

import json
import math
import sqlite3
from multiprocessing import get_context
from pathlib import Path

import pytest

from secateur.lab import Recipe, Record, Store
from secateur.lab.keep import database, paths
from secateur.lab.keep.schema import queryable
from secateur.types import FileError

# As version 1 wrote it.
SCHEMA_1 = """
PRAGMA journal_mode = WAL;
CREATE TABLE records (
    id TEXT PRIMARY KEY, study TEXT NOT NULL, kind TEXT NOT NULL, seed INTEGER,
    recipe TEXT NOT NULL, metrics TEXT NOT NULL, history TEXT NOT NULL, environment TEXT NOT NULL,
    artefact TEXT, wall_seconds REAL NOT NULL, cpu_seconds REAL NOT NULL, created TEXT NOT NULL
);
CREATE TABLE failures (
    id TEXT PRIMARY KEY, study TEXT NOT NULL, recipe TEXT NOT NULL,
    error TEXT NOT NULL, traceback TEXT NOT NULL, created TEXT NOT NULL
);
PRAGMA application_id = 1397048129;
PRAGMA user_version = 1;
"""
# As version 2 wrote it, without the views, which are made anew.
SCHEMA_2 = """
PRAGMA journal_mode = WAL;
CREATE TABLE records (
    id TEXT PRIMARY KEY, study TEXT NOT NULL, kind TEXT NOT NULL, seed INTEGER, created TEXT NOT NULL,
    wall_seconds REAL NOT NULL, cpu_seconds REAL NOT NULL, artefact TEXT,
    recipe TEXT NOT NULL, metrics TEXT NOT NULL, environment TEXT NOT NULL, exact TEXT
);
CREATE TABLE histories (id TEXT PRIMARY KEY, history TEXT NOT NULL);
CREATE TABLE failures (
    id TEXT PRIMARY KEY, study TEXT NOT NULL, recipe TEXT NOT NULL,
    error TEXT NOT NULL, traceback TEXT NOT NULL, created TEXT NOT NULL
);
CREATE INDEX records_of_study ON records (study, kind, created);
CREATE INDEX records_by_time ON records (created);
CREATE VIEW metrics AS SELECT records.id, one.key AS name, one.value
    FROM records, json_each(records.metrics) AS one WHERE one.type NOT IN ('array', 'object');
PRAGMA application_id = 1397048129;
PRAGMA user_version = 2;
"""
TRAIN = Recipe("toy", "train", {"seed": 0})
PRUNE = Recipe("toy", "prune", {"seed": 0, "sparsity": 0.5}, (TRAIN.id,))
FAILED = Recipe("toy", "train", {"seed": 1})


@pytest.fixture(params=[1, 2])
def old(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A store of an older version: a record with a history, one with a nan, and a failure."""
    connection = sqlite3.connect(paths.database_file(tmp_path))
    connection.executescript(SCHEMA_1 if request.param == 1 else SCHEMA_2)
    history = [{"epoch": 1, "loss": 0.5}]
    rows = [
        (TRAIN, {"accuracy": 0.9}, history, None, 2.0),
        (PRUNE, {"loss": math.nan, "best": math.inf}, [], "ab", 3.0),
    ]
    for recipe, metrics, epochs, artefact, wall in rows:
        held = (recipe.to_dict(), metrics, epochs, {"threads": 1})
        names, texts = (recipe.id, recipe.study, recipe.kind, recipe.seed), [json.dumps(x) for x in held]
        created = f"2024-01-0{wall:.0f}T00:00:00+00:00"
        if request.param == 1:
            row = (*names, *texts, artefact, wall, 1.5, created)
        else:
            plain, exact = queryable(texts[1])
            row = (*names, created, wall, 1.5, artefact, texts[0], plain, texts[3], exact)
            connection.execute("INSERT INTO histories VALUES (?, ?)", (recipe.id, texts[2]))
        connection.execute(f"INSERT INTO records VALUES ({', '.join('?' * 12)})", row)
    failure = (
        FAILED.id,
        "toy",
        json.dumps(FAILED.to_dict()),
        "ValueError: no",
        "Traceback",
        "2024-01-04T00:00:00+00:00",
    )
    connection.execute("INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?)", failure)
    connection.commit()
    connection.close()
    return tmp_path


def check(path: Path) -> None:
    store = Store(path, create=False)
    train, prune = store.records()
    assert (train.id, prune.id) == (TRAIN.id, PRUNE.id)
    assert (train.metrics, train.history, train.environment) == (
        {"accuracy": 0.9},
        [{"epoch": 1, "loss": 0.5}],
        {"threads": 1},
    )
    assert (train.wall_seconds, train.cpu_seconds, train.created) == (2.0, 1.5, "2024-01-02T00:00:00+00:00")
    assert math.isnan(prune.metrics["loss"])
    assert (prune.metrics["best"], prune.history, prune.artefact) == (math.inf, [], "ab")
    (failure,) = store.failures()
    assert (failure.recipe, failure.error, failure.created) == (FAILED, "ValueError: no", "2024-01-04T00:00:00+00:00")
    assert store.query(where={"sparsity": 0.5})["id"].tolist() == [PRUNE.id]
    assert store.query(where=["best>1e300"])["id"].tolist() == [PRUNE.id]
    assert len(store.sql("select * from metrics where value is null")) == 1


def test_a_store_of_an_older_version_opens_with_all_its_records(old: Path) -> None:
    check(old)
    database.close()
    check(old)  # and again, now that it is of this version
    connection = sqlite3.connect(paths.database_file(old))
    assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    connection.close()


def test_an_older_store_gets_seals_that_show_what_changes_afterwards(old: Path) -> None:
    store = Store(old)
    assert paths.witness_file(store.database).exists() is False  # nothing was written yet
    store.put(Record(Recipe("toy", "train", {"seed": 7}), {}))
    assert len(store.records()) == 3
    store.close()
    connection = sqlite3.connect(store.database)
    with connection:
        connection.execute("DELETE FROM records WHERE id = ?", (TRAIN.id,))
    connection.close()
    for read in (store.records, store.ids, lambda: store.get(TRAIN.id), store.check):
        with pytest.raises(FileError, match="3 records were kept, and 2"):
            read()


def test_an_older_store_that_is_damaged_gets_no_seals(old: Path) -> None:
    connection = sqlite3.connect(paths.database_file(old))
    connection.execute("VACUUM")
    page = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name LIKE 'sqlite_autoindex_records%'"
    ).fetchone()[0]
    connection.close()
    data = bytearray(paths.database_file(old).read_bytes())
    data[4096 * page - 10] ^= 1  # a letter of an id in the index
    paths.database_file(old).write_bytes(data)
    with pytest.raises(FileError, match=r"is damaged: .*index"):
        Store(old)


def test_several_processes_may_meet_an_old_store_at_once(old: Path) -> None:
    database.close()
    processes = [get_context("fork").Process(target=check, args=(old,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4


def test_a_migration_that_fails_leaves_the_old_store(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("secateur.lab.keep.schema.VIEWS", {"bad": "SELECT nothing FROM nowhere WHERE ("})
        with pytest.raises(FileError, match="damaged"):
            Store(old)
    check(old)
