"""Thousands of random changes to the files that secateur reads: each gives what was written, or one error of ours.

``pytest -m slow tests/test_mutations.py`` makes 2,000; ``python tests/test_mutations.py KIND SEED`` makes one again, and shows
what comes of it.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.lab import Failure, Recipe, Record, Store
from secateur.lab.keep import database, paths
from secateur.lab.keep.seals import FAILURE, RECORD, open_ledger, seal
from secateur.lab.show import browse
from secateur.saving import load_weights, save_weights
from secateur.studies import by_name
from secateur.types import SecateurError

COUNT = 500
"""Mutations of each kind."""

# What writers of files put where something else is expected.
HOSTILE: list[Any] = [
    None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", "x" * 3000, "\ud800", "\x00", "../../etc", [], {},
    [[]], {"": None}, [None], [1, [2]], {"a": {"b": []}},
]  # fmt: skip
BRACKETS = [
    "[" * 50_000 + "]" * 50_000,
    '{"a":' * 5_000 + "1" + "}" * 5_000,
    "[" * 900 + "]" * 900,
    "9" * 6_000,
    "",
    "null",
    "[",
]


Answers = list[str | None]


def each(*reads: Callable[[], Any]) -> Answers:
    """What each way of reading says; only errors of ours are a refusal."""
    answers: Answers = []
    for read in reads:
        try:
            answers.append(repr(read()))
        except SecateurError:
            answers.append(None)
    return answers


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        make: writes them to a folder.
        read: reads all that they say, in several ways, each as text; None where one is refused.
        change: changes the folder; says whether it left the content what it was meant to be, so that another answer
            than the first is no silent difference.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Answers]
    change: Callable[[Path, random.Random], bool]


# Changes of bytes and of JSON


def in_bytes(file: Path, chance: random.Random) -> None:
    """Flip, cut, double, fill, insert or mix: what disks, editors and copies do."""
    data = bytearray(file.read_bytes())
    start = chance.randrange(len(data) or 1)
    stop = min(len(data), start + chance.choice([1, 8, 64, 512]))
    how = chance.randrange(6)
    if how == 0 and data:
        data[start] ^= 1 << chance.randrange(8)
    elif how == 1:
        del data[start:]
    elif how == 2:
        data[start:start] = data[start:stop]
    elif how == 3:
        data[start:stop] = bytes(stop - start)
    elif how == 4:
        data[start:start] = chance.choice([b"\xff\xfe", b"[" * 2000, b"\x00", "é€".encode(), b'"', b"=", b"\n"])
    else:
        part = data[start:stop]
        chance.shuffle(part)
        data[start:stop] = part
    file.write_bytes(data)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all parts of plain data."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def in_plain(value: Any, chance: random.Random) -> Any:
    """Put something hostile in the place of one part, take a part away, or give it another name."""
    whole = {"": value}
    *way, last = chance.choice([("", *place) for place in places(value)])
    holder: Any = whole
    for key in way:
        holder = holder[key]
    how = chance.randrange(4)
    if how == 0 and way:
        del holder[last]
    elif how == 1 and isinstance(last, str) and way:
        holder[chance.choice(["", "seed", "\x00", "é", "study"])] = holder.pop(last)
    else:
        holder[last] = chance.choice(HOSTILE)
    return whole[""]


def in_json(text: str, chance: random.Random) -> str:
    return chance.choice(BRACKETS) if chance.random() < 0.2 else json.dumps(in_plain(json.loads(text), chance))


# Stores


def make_store(folder: Path) -> None:
    store = Store(folder)
    for seed in range(6):
        recipe = Recipe("toy", "train", {"seed": seed, "layers": [8, 4], "deep": {"rate": seed / 10}})
        metrics = {"accuracy": seed / 7, "class_accuracy": [0.5, 1.0], "note": "é", "loss": float("nan")}
        tensors = {"w": torch.full((3,), float(seed))} if seed % 2 else None
        history = [{"epoch": 1, "loss": 0.5}]
        store.put(Record(recipe, metrics, history, {"host": "h"}, 1.5, 1.0, f"2024-01-0{seed + 1}T00:00:00"), tensors)
    store.fail(Failure(Recipe("toy", "prune", {"seed": 9}), "ValueError: no", "Traceback", "2024-02-01T00:00:00"))
    store.close()


READS: list[Callable[[Store], Any]] = [
    lambda store: [
        (r.id, r.recipe.to_dict(), dict(r.metrics), list(r.history), dict(r.environment), r.wall_seconds, r.created)
        for r in store.records()
    ],
    lambda store: [(f.recipe.id, f.error, f.traceback) for f in store.failures()],
    lambda store: sorted(store.ids()),
    lambda store: store.frame().to_csv(),
    lambda store: store.histories().to_csv(),
    lambda store: store.query(where=["accuracy>0.1"], sort="-accuracy").to_csv(),
    lambda store: store.query(columns=["seed", "accuracy"]).to_csv(),
    lambda store: store.sql("select id, name, value from metrics order by 1, 2").drop(columns=[]).to_csv(),
    lambda store: [[t.tolist() for t in store.artefact(r.id).values()] for r in store.records() if r.artefact],
    lambda store: browse.to_json(browse.listed([store])),
]
"""Ways to look into a store; each by itself gives what was written or an error of ours."""


def read_store(folder: Path) -> Answers:
    try:
        return each(*(lambda read=read: read(Store(folder, create=False)) for read in READS))  # type: ignore[misc]
    finally:
        database.close()


def change_store(folder: Path, chance: random.Random) -> bool:
    """Half of the changes are of the files; half are made by one who can seal what he writes."""
    if chance.random() < 0.5:
        file = chance.choice([f for f in sorted(folder.rglob("*")) if f.is_file() and f.stat().st_size])
        in_bytes(file, chance)
        return False
    with closing(sqlite3.connect(paths.database_file(folder), isolation_level=None)) as connection:
        table, columns = chance.choice([("records", RECORD), ("failures", FAILURE)])
        names = {"records": ["recipe", "metrics", "environment", "exact"], "failures": ["recipe"]}[table]
        identity = chance.choice(connection.execute(f"SELECT id FROM {table}").fetchall())[0]
        if table == "records" and chance.random() < 0.3:
            (text,) = connection.execute("SELECT history FROM histories WHERE id = ?", (identity,)).fetchone()
            text = in_json(text, chance)
            connection.execute("UPDATE histories SET history = ? WHERE id = ?", (text, identity))
            connection.execute("UPDATE records SET history_seal = ? WHERE id = ?", (seal(identity, text), identity))
        elif chance.random() < 0.3:
            column = chance.choice([c for c in columns[1:] if c not in (*names, "id", "history_seal")])
            value = chance.choice([None, -1, 0.5, "x", b"\xff", 2**62, "é"])
            with suppress(sqlite3.IntegrityError):  # the table lets nobody leave it out
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (value, identity))
        else:
            column = chance.choice(names)
            (text,) = connection.execute(f"SELECT {column} FROM {table} WHERE id = ?", (identity,)).fetchone()
            connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE id = ?", (in_json(text or "{}", chance), identity)
            )
        reseal(connection)
    paths.witness_file(paths.database_file(folder)).unlink(missing_ok=True)
    return True


def reseal(connection: sqlite3.Connection) -> None:
    """Seal all rows as secateur does, so that only what they say is wrong."""
    connection.execute("DELETE FROM ledger")
    open_ledger(connection)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


# Weights


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    model[3].weight = nn.Parameter(model[3].weight.detach())
    return model


def make_weights(folder: Path) -> None:
    folder.mkdir()
    save_weights(folder / "w.safetensors", network())
    save = sc.prune(network(), torch.zeros(1, 3), "l2", 0.5, latency=False)
    save.save(folder / "small")


def read_weights(folder: Path) -> Answers:
    """The file of weights, and the folder of a pruned model."""

    def loaded() -> nn.Module:
        model = network(1)
        load_weights(folder / "w.safetensors", model)
        return model

    return [
        *each(lambda: plain(loaded())),
        *each(lambda: plain(sc.load(folder / "small", network()))),
        *each(lambda: sc.Result.read_report(folder / "small")),
    ]


def plain(model: nn.Module) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}


def change_weights(folder: Path, chance: random.Random) -> bool:
    """Of the bytes, or of the header of the file, which names, places and types the tensors."""
    file = chance.choice([f for f in sorted(folder.rglob("*")) if f.is_file()])
    if file.suffix == ".json" and chance.random() < 0.6:
        file.write_text(in_json(file.read_text(), chance), encoding="utf-8", errors="replace")
    elif file.suffix == ".safetensors" and chance.random() < 0.6:
        data = file.read_bytes()
        stop = 8 + int.from_bytes(data[:8], "little")
        text = in_json(data[8:stop].decode(), chance).encode("utf-8", "replace")
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[stop:])
    else:
        in_bytes(file, chance)
    return False


# Recipes and studies in TOML

RECIPE = Recipe("toy", "train", {"seed": 0, "layers": [8, 4], "rate": 0.1, "deep": {"a": [True, "é"]}}, ("0123",))
STUDY = """name = "mine"
title = "A study"
data = ["digits"]
model = "lenet-300-100"
seeds = 2
epochs = 1
validation = 300
methods = ["weight", "neuron"]
sparsities = [0.2, 0.5]
minimum = 1
model_options = { input_size = 8 }
"""


def make_recipe(folder: Path) -> None:
    folder.mkdir()
    RECIPE.to_toml(folder / "recipe.toml")
    (folder / "recipe.json").write_text(json.dumps(RECIPE.to_dict()), encoding="utf-8")


def read_recipe(folder: Path) -> Answers:
    def told(recipe: Recipe) -> Any:
        return recipe.id, str(recipe), recipe.to_dict()

    written = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    return each(lambda: told(Recipe.from_toml(folder / "recipe.toml")), lambda: told(Recipe.from_dict(written)))


def change_recipe(folder: Path, chance: random.Random) -> bool:
    """A recipe is written by hand, so that another recipe is what another text says."""
    if chance.random() < 0.4:
        file = folder / "recipe.json"
        file.write_text(json.dumps(in_plain(json.loads(file.read_text()), chance)), encoding="utf-8")
    else:
        in_toml(folder / "recipe.toml", chance)
    return True


def make_study(folder: Path) -> None:
    folder.mkdir()
    (folder / "mine.toml").write_text(STUDY, encoding="utf-8")


def read_study(folder: Path) -> Answers:
    return each(lambda: [cell.id for cell in by_name(str(folder / "mine.toml")).plan()])


def change_study(folder: Path, chance: random.Random) -> bool:
    in_toml(folder / "mine.toml", chance)
    return True


TOML = [
    "true", "-1", "0", "1e400", "nan", "inf", "[]", "{}", '""', '"x"', "2024-01-01", "[[[]]]", "9" * 6_000, "[" * 5_000,
    "[" * 200 + "]" * 200, "{a=" * 2_000, '"\\ud800"', '"\\u0000"', "'''", "99999999999999999999", '["no.such:Thing"]',
    '"os:system"', "[1, 'a']", "0x7fffffffffffffff",
]  # fmt: skip


def in_toml(file: Path, chance: random.Random) -> None:
    """Change bytes, a value, a key, or the order of the lines."""
    how = chance.randrange(4)
    lines = file.read_text(encoding="utf-8").splitlines()
    at = chance.choice([number for number, line in enumerate(lines) if "=" in line])
    key, _, value = lines[at].partition("=")
    if how == 0:
        in_bytes(file, chance)
        return
    if how == 1:
        lines[at] = f"{key}= {chance.choice(TOML)}"
    elif how == 2:
        others = ["criteria", "solver", "schedule", "unit", "scope", "seeds", '"a b"', "needs", "[x]", "", "a.b.c"]
        lines[at] = f"{chance.choice(others)} ={value}"
    else:
        lines.insert(chance.randrange(len(lines) + 1), chance.choice([lines[at], "[parameters]", "[", "# é", "= 1"]))
    file.write_text("\n".join(lines), encoding="utf-8")


KINDS = {
    "store": Kind(make_store, read_store, change_store),
    "weights": Kind(make_weights, read_weights, change_weights),
    "recipe": Kind(make_recipe, read_recipe, change_recipe),
    "toml": Kind(make_study, read_study, change_study),
}


def mutate(kind: Kind, whole: Path, truth: Answers, seed: int, place: Path) -> str:
    """Change a copy and read it: ``same``, ``refused`` in a way or more, or ``other``, where the text says another thing.

    Raises:
        AssertionError: what was read is silently another thing.
        Exception: an error that is not ours.
    """
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    meant = kind.change(place, random.Random(seed))
    answers = kind.read(place)
    differing = [at for at, (now, then) in enumerate(zip(answers, truth, strict=True)) if now not in (None, then)]
    assert meant or not differing, f"ways {differing} read another thing in silence"
    return "refused" if None in answers else "other" if differing else "same"


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_no_silent_difference_and_no_foreign_error(name: str, tmp_path: Path) -> None:
    kind, whole = KINDS[name], tmp_path / "whole"
    kind.make(whole)
    truth = kind.read(whole)
    assert None not in truth
    outcomes: Counter[str] = Counter()
    faults = []
    for seed in range(COUNT):
        try:
            outcomes[mutate(kind, whole, truth, seed, tmp_path / "changed")] += 1
        except Exception as error:  # noqa: BLE001  (all that is no error of ours is a fault)
            outcomes["fault"] += 1
            faults.append(f"{name} {seed}: {type(error).__name__}: {str(error)[:200]}")
    print(name, dict(outcomes))
    assert not faults, "\n".join(faults)
    assert sum(outcomes.values()) == COUNT
    assert outcomes["refused"] > COUNT / 5, "most changes should do harm"


def test_a_few_of_each_kind(tmp_path: Path) -> None:
    for name, kind in KINDS.items():
        kind.make(tmp_path / name)
        truth = kind.read(tmp_path / name)
        for seed in range(1000, 1004):
            mutate(kind, tmp_path / name, truth, seed, tmp_path / "changed")


def main() -> None:
    """Make one mutation again, and show what comes of it."""
    name, seed = sys.argv[1], int(sys.argv[2])
    folder = Path(tempfile.mkdtemp())
    KINDS[name].make(folder / "whole")
    truth = KINDS[name].read(folder / "whole")
    try:
        print(mutate(KINDS[name], folder / "whole", truth, seed, folder / "changed"))
    except Exception:  # noqa: BLE001
        traceback.print_exc()
    print(folder)


if __name__ == "__main__":
    main()
