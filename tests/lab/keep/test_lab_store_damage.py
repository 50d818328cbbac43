"""Damaged stores: whatever is done to the files, what is read is what was written, or there is one clear error."""

from __future__ import annotations

import json
import math
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.lab import Failure, Recipe, Record, Store
from secateur.lab.keep import database, paths
from secateur.types import FileError, SecateurError

COUNT = 30


def cell(seed: int) -> Recipe:
    needs = (cell(seed - 3).id,) if seed % 3 == 2 and seed > 2 else ()
    return Recipe("toy", "prune" if needs else "train", {"seed": seed, "sparsity": seed / 10, "rate": 0.1}, needs)


def fill(store: Store) -> None:
    """Records with every kind of value, long and short, some with a history and tensors; a few failures."""
    for seed in range(COUNT):
        metrics: dict[str, Any] = {
            "accuracy": 1 / (seed + 1),
            "class_accuracy": [seed / 7, 0.5],
            "text": "x" * (40 * seed),
        }
        if seed % 5 == 0:
            metrics["loss"] = math.nan if seed % 2 else math.inf
        history = [{"epoch": epoch, "loss": seed / (epoch + 1)} for epoch in range(1 + seed % 4)]
        times = 1.0 + seed, seed / 3, f"2024-01-{1 + seed * 7 % 28:02d}T00:00:00+00:00"
        tensors = {"w": torch.full((5,), float(seed))} if seed % 6 == 0 else None
        store.put(Record(cell(seed), metrics, history, {"threads": seed, "host": "y" * 300}, *times), tensors)
    for seed in range(100, 104):
        store.fail(Failure(cell(seed), "ValueError: no", f"Traceback {seed}", "2024-02-01T00:00:00+00:00"))


def plain(record: Record) -> tuple[Any, ...]:
    facts = (record.recipe.to_dict(), dict(record.metrics), list(record.history), dict(record.environment))
    return json.dumps(facts), record.wall_seconds, record.cpu_seconds, record.created, record.artefact


def some(seeds: range) -> list[str]:
    return [cell(seed).id for seed in seeds]


READ: dict[str, Callable[[Store], Any]] = {
    "records": lambda store: [plain(record) for record in store.records()],
    "some": lambda store: [plain(record) for record in store.records(some(range(0, COUNT, 4)))],
    "each": lambda store: [plain(store.get(identity)) for identity in some(range(COUNT))],
    "ids": lambda store: store.ids(),
    "matching": lambda store: store.matching(cell(4).id[:2]),
    "failures": lambda store: [(f.recipe.id, f.error, f.traceback, f.created) for f in store.failures()],
    "frame": lambda store: store.frame().to_csv(),
    "histories": lambda store: store.histories().to_csv(),
    "query": lambda store: store.query(where={"sparsity": (0.5, None)}).to_csv(),
    "query a study": lambda store: store.query(study="toy", kind="prune", sort="-accuracy").to_csv(),
    "query columns": lambda store: store.query(columns=["seed", "accuracy"], where=["accuracy>0.1"]).to_csv(),
    "sql": lambda store: store.sql("select * from cells order by id").drop(columns="store").to_csv(),
    "sql of classes": lambda store: store.sql("select id, value from class_metrics order by 1, 2").to_csv(),
    "sql of failures": lambda store: store.sql("select id, error from failures order by 1").to_csv(),
    "dependents": lambda store: store.dependents([cell(2).id]),
    "artefacts": lambda store: [store.artefact(i)["w"].tolist() for i in some(range(0, COUNT, 6))],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A store, closed, and all that is read from it."""
    store = Store(tmp_path_factory.mktemp("damage") / "whole")
    fill(store)
    truth = {name: read(store) for name, read in READ.items()}
    store.check()
    store.close()
    return store.path, truth


def refusals(path: Path, truth: dict[str, Any]) -> int:
    """In how many ways of reading the store refuses; in the others what is read must be the truth."""
    refused = 0
    for name, read in READ.items():
        try:
            found = read(Store(path, create=False))
        except SecateurError:
            refused += 1
            continue
        assert found == truth[name], f"{name}: other records were read"
    try:
        newest = Store(path, create=False).query(limit=5, sort="-created")
    except SecateurError:
        refused += 1
    else:
        rows = truth["frame"].splitlines()
        for line in newest.to_csv(header=False).splitlines():
            assert any(row.partition(",")[2] == line.partition(",")[2] for row in rows) or "," in line
    try:
        Store(path, create=False).check()
    except FileError:
        refused += 1
    else:
        assert not refused, "check() finds nothing where reading is refused"
    database.close()
    return refused


Damage = Callable[[Path, random.Random], None]


def in_file(change: Callable[[bytearray, random.Random], bytearray | bytes]) -> Damage:
    """A damage to the bytes of the database's file."""

    def damage(path: Path, chance: random.Random) -> None:
        file = paths.database_file(path)
        file.write_bytes(change(bytearray(file.read_bytes()), chance))

    return damage


def flip(data: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice([1, 1, 1, 4])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def noise(data: bytearray, chance: random.Random) -> bytearray:
    start = chance.randrange(len(data))
    data[start : start + 64] = chance.randbytes(len(data[start : start + 64]))
    return data


def digit(data: bytearray, chance: random.Random) -> bytearray:
    """Another digit for one of a number in a row: as JSON as right as before."""
    place = chance.choice(
        [i for i, byte in enumerate(data) if chr(byte).isdigit() and chr(data[i - 1]) in ". 0123456789"]
    )
    data[place] = ord("0") + (data[place] - ord("0") + chance.randrange(1, 9)) % 10
    return data


def swap_pages(data: bytearray, chance: random.Random) -> bytearray:
    a, b = (4096 * chance.randrange(1, len(data) // 4096) for _ in range(2))
    data[a : a + 4096], data[b : b + 4096] = data[b : b + 4096], data[a : a + 4096]
    return data


def by_sql(*statements: str) -> Damage:
    """A damage by someone with an SQL shell; ``?1``, ``?2`` are two records' ids, ``?3`` a failure's."""

    def damage(path: Path, chance: random.Random) -> None:
        connection = sqlite3.connect(paths.database_file(path))
        first, second = chance.sample(some(range(1, COUNT)), 2)
        with connection:
            for statement in statements:
                held = {"1": first, "2": second, "3": cell(chance.randrange(100, 104)).id}
                for mark, identity in held.items():
                    statement = statement.replace(f"?{mark}", f"'{identity}'")
                connection.execute(statement)
        connection.close()

    return damage


def swapped(table: str, *columns: str) -> Damage:
    """The values of columns of two rows exchanged."""
    moves = [f"UPDATE {table} SET {c} = (SELECT {c} FROM other WHERE id = ?2) WHERE id = ?1" for c in columns]
    backs = [f"UPDATE {table} SET {c} = (SELECT {c} FROM other WHERE id = ?1) WHERE id = ?2" for c in columns]
    return by_sql(f"CREATE TEMP TABLE other AS SELECT * FROM {table}", *moves, *backs)


ROWS: dict[str, Damage] = {
    "a record deleted": by_sql("DELETE FROM records WHERE id = ?1"),
    "a record and its history deleted": by_sql("DELETE FROM records WHERE id = ?1", "DELETE FROM histories WHERE id = ?1"),
    "all records deleted": by_sql("DELETE FROM records"),
    "a history deleted": by_sql("DELETE FROM histories WHERE id = ?1"),
    "a failure deleted": by_sql("DELETE FROM failures WHERE id = ?3"),
    "the ledger deleted": by_sql("DELETE FROM ledger"),
    "the ledger doubled": by_sql("INSERT INTO ledger SELECT * FROM ledger"),
    "the ledger counted down": by_sql("UPDATE ledger SET records = records - 1", "DELETE FROM records WHERE id = ?1"),
    "an accuracy": by_sql("UPDATE records SET metrics = json_set(metrics, '$.accuracy', 0.99) WHERE id = ?1"),
    "every accuracy": by_sql("UPDATE records SET metrics = json_set(metrics, '$.accuracy', 0.99)"),
    "a parameter": by_sql("UPDATE records SET recipe = json_set(recipe, '$.parameters.rate', 0.2) WHERE id = ?1"),
    "a need": by_sql("UPDATE records SET recipe = json_set(recipe, '$.needs', json_array(?2)) WHERE id = ?1"),
    "a default": by_sql("UPDATE records SET recipe = json_set(recipe, '$.defaults.rate', 0.1) WHERE id = ?1"),
    "a seed": by_sql("UPDATE records SET seed = seed + 1 WHERE id = ?1"),
    "a time": by_sql("UPDATE records SET wall_seconds = wall_seconds + 1e-9 WHERE id = ?1"),
    "a date": by_sql("UPDATE records SET created = '2023-01-01T00:00:00+00:00' WHERE id = ?1"),
    "a study": by_sql("UPDATE records SET study = 'other' WHERE id = ?1"),
    "an environment": by_sql("UPDATE records SET environment = '{}' WHERE id = ?1"),
    "an artefact": by_sql(f"UPDATE records SET artefact = 'ab' WHERE id = '{cell(6).id}'"),
    "no artefact": by_sql(f"UPDATE records SET artefact = NULL WHERE id = '{cell(6).id}'"),
    "an exact value": by_sql(f"UPDATE records SET exact = NULL WHERE id = '{cell(5).id}'"),
    "a history": by_sql("UPDATE histories SET history = '[{\"epoch\": 1}]' WHERE id = ?1"),
    "a traceback": by_sql("UPDATE failures SET traceback = '' WHERE id = ?3"),
    "a text as bytes": by_sql("UPDATE records SET metrics = CAST(metrics AS BLOB) WHERE id = ?1"),
    "metrics swapped": swapped("records", "metrics", "exact"),
    "results and times swapped": swapped("records", "metrics", "exact", "wall_seconds", "cpu_seconds", "created"),
    "all but the ids swapped": swapped(
        "records", "seal", "history_seal", "study", "kind", "seed", "recipe", "metrics", "exact", "environment",
        "created", "wall_seconds", "cpu_seconds", "artefact",
    ),
    "histories swapped": swapped("histories", "history"),
    "ids swapped": by_sql(
        "UPDATE records SET id = 'aa' WHERE id = ?1", "UPDATE records SET id = ?1 WHERE id = ?2",
        "UPDATE records SET id = ?2 WHERE id = 'aa'",
    ),
    "a row copied under another id": by_sql(
        "CREATE TEMP TABLE other AS SELECT * FROM records WHERE id = ?1", "DELETE FROM records WHERE id = ?2",
        "UPDATE other SET id = ?2", "INSERT INTO records SELECT * FROM other",
    ),
    "a row more": by_sql(
        "CREATE TEMP TABLE other AS SELECT * FROM records WHERE id = ?1", "UPDATE other SET id = '00000000000000aa'",
        "INSERT INTO records SELECT * FROM other",
    ),
    "a history more": by_sql("INSERT INTO histories VALUES ('00000000000000aa', '[]')"),
    "an index dropped": by_sql("DROP INDEX records_by_time"),
    "a view dropped": by_sql("DROP VIEW metrics"),
    "a view changed": by_sql("DROP VIEW metrics", "CREATE VIEW metrics AS SELECT id, 'a' AS name, 1 AS value FROM records"),
    "a table dropped": by_sql("DROP TABLE histories"),
    "a version of before": by_sql("PRAGMA user_version = 2"),
    "no version": by_sql("PRAGMA user_version = 0"),
}  # fmt: skip


def damages(count: int) -> Iterator[tuple[str, Damage]]:
    """So many damages to bytes, and every one of the other kinds."""
    for kind in (flip, noise, digit, swap_pages):
        yield from ((f"{kind.__name__} {number}", in_file(kind)) for number in range(count))
    yield from ROWS.items()
    yield from ((f"{name} again", damage) for name, damage in ROWS.items())


def pages(size: int) -> Iterator[tuple[str, Damage]]:
    """Every page lost to the end, half lost, zeroed, and filled with ones."""
    for page in range(size // 4096):
        at = 4096 * page
        yield f"truncated at page {page}", in_file(lambda data, _, at=at: data[:at])
        yield f"truncated in page {page}", in_file(lambda data, _, at=at: data[: at + 1000])
        yield f"zeroed page {page}", in_file(lambda data, _, at=at: data[:at] + bytes(4096) + data[at + 4096 :])
        yield f"filled page {page}", in_file(lambda data, _, at=at: data[:at] + b"\xff" * 4096 + data[at + 4096 :])


def check_all(whole: tuple[Path, dict[str, Any]], folder: Path, count: int) -> int:
    path, truth = whole
    found = total = 0
    size = paths.database_file(path).stat().st_size
    for number, (name, damage) in enumerate([*damages(count), *pages(size)]):
        copy = folder / str(number)
        shutil.copytree(path, copy)
        damage(copy, random.Random(number))
        try:
            refused = refusals(copy, truth)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
        if name.removesuffix(" again") in ROWS:
            assert refused, f"{name}: nothing is refused"
        found, total = found + bool(refused), total + 1
        shutil.rmtree(copy)
    assert total >= 150
    return found


def test_every_damage_is_refused_or_reads_as_it_was(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    assert check_all(whole, tmp_path, 12) > 130


@pytest.mark.slow
def test_a_thousand_more_damages(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    assert check_all(whole, tmp_path, 300) > 700


def running(whole: tuple[Path, dict[str, Any]], folder: Path) -> tuple[Path, dict[str, Any]]:
    """A copy, made while a process had it open: the latest records are in the log alone; and what is read from it."""
    shutil.copytree(whole[0], folder / "open")
    store = Store(folder / "open")
    for seed in range(200, 203):
        store.put(Record(cell(seed), {"accuracy": 0.5}, [{"epoch": 0}], {"threads": 1}))
    shutil.copytree(store.path, folder / "copy")
    truth = {name: read(store) for name, read in READ.items()}
    store.close()
    return folder / "copy", truth


def log(path: Path) -> Path:
    return Path(f"{paths.database_file(path)}-wal")


LOGS: dict[str, Callable[[Path], object]] = {
    "lost": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "flipped": lambda file: file.write_bytes(file.read_bytes()[:5000] + b"\x55" + file.read_bytes()[5001:]),
    "its last page flipped": lambda file: file.write_bytes(file.read_bytes()[:-99] + b"\x55" + file.read_bytes()[-98:]),
    "another's": lambda file: file.write_bytes(file.read_bytes()[:24] + b"\x55" * 99_000),
}


@pytest.mark.parametrize("kind", list(LOGS))
def test_a_log_that_is_lost_or_damaged_is_one_clear_error(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, kind: str
) -> None:
    path, truth = running(whole, tmp_path)
    if kind == "lost":  # whole, it is read; the copy of the copy is opened, as opening writes the log into the database
        shutil.copytree(path, tmp_path / "again")
        assert refusals(tmp_path / "again", truth) == 0
    LOGS[kind](log(path))
    with pytest.raises(
        FileError, match=r"damaged: \d transactions are missing that records\.witness.*-wal file was lost"
    ) as caught:
        Store(path)
    assert f"delete {path / 'records.witness'}" in str(caught.value)
    (path / "records.witness").unlink()  # what the error says for an older copy that is wanted
    older = Store(path)
    older.check()
    assert set(some(range(COUNT))) <= older.ids()


def test_an_older_copy_in_its_place_is_said(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "store")
    store = Store(tmp_path / "store")
    store.put(Record(cell(300), {}))
    store.close()
    shutil.copy(paths.database_file(whole[0]), store.database)
    with pytest.raises(FileError, match="1 transactions are missing"):
        Store(store.path).ids()
    other = Store(tmp_path / "other")
    other.close()
    shutil.copy(other.database, store.database)
    with pytest.raises(FileError, match=r"it is another one than records\.witness beside it knows of"):
        Store(store.path).ids()


def test_a_witness_that_is_lost_or_damaged_disturbs_nobody(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"hello", b"\xff" * 99, None)):
        shutil.copytree(whole[0], tmp_path / str(number))
        witness = tmp_path / str(number) / "records.witness"
        if content is None:
            witness.unlink()
        else:
            witness.write_bytes(content)
        store = Store(tmp_path / str(number))
        store.put(Record(cell(300), {}))
        store.check()
        assert witness.read_text().split()[1] == f"{COUNT + 5:020d}"


@pytest.mark.parametrize("create", [True, False])
def test_an_empty_file_is_no_store(tmp_path: Path, create: bool) -> None:
    paths.database_file(tmp_path).touch()
    for _ in range(2):
        with pytest.raises(
            FileError, match=r"is damaged: it is empty \(0 bytes\); put a copy in its place, or move it"
        ):
            Store(tmp_path, create=create).check()
    assert paths.database_file(tmp_path).stat().st_size == 0
    sqlite3.connect(paths.database_file(tmp_path)).execute("VACUUM").connection.close()
    with pytest.raises(FileError, match=r"is damaged: it (holds no tables|is empty)"):
        Store(tmp_path, create=create)


def test_a_store_that_is_emptied_while_it_is_open(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fill(store)
    store.close()
    store.database.write_bytes(b"")
    with pytest.raises(FileError, match="is empty"):
        store.ids()


def test_making_a_store_that_is_killed_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(database, "prepare", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Store(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert Store(tmp_path).ids() == set()


def test_what_a_killed_maker_left_is_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    left = tmp_path / ".records.sqlite.abc"
    left.mkdir()
    (left / "records.sqlite").touch()
    store.sweep()
    assert left.exists()  # it may be at work
    store.sweep(older_than=-1)
    assert not left.exists()


def test_artefacts_of_two_cells_exchanged(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "store")
    a, b = (paths.artefact_file(tmp_path / "store", cell(seed).id) for seed in (0, 6))
    one, two = a.read_bytes(), b.read_bytes()
    a.write_bytes(two)
    b.write_bytes(one)
    for seed in (0, 6):
        with pytest.raises(FileError, match="its checksum is not the one that was recorded"):
            Store(tmp_path / "store").artefact(cell(seed).id)
    with pytest.raises(FileError, match="its checksum"):
        Store(tmp_path / "store").check()


def test_another_process_that_writes_is_seen_by_the_next_query(tmp_path: Path) -> None:
    """What was found good is good until somebody writes."""
    store = Store(tmp_path)
    fill(store)
    assert len(store.query(where={"seed": (10, None)})) == COUNT - 10
    other = sqlite3.connect(store.database)
    with other:
        other.execute("UPDATE records SET metrics = '{}' WHERE seed = 3")
    other.close()
    with pytest.raises(FileError, match=rf"record {cell(3).id} is not as it was written"):
        store.query(where={"seed": (10, None)})
