"""Stores, weights, recipes and studies: how they are made, read and changed."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secateur as sc
from hostile.changes import Answers, Kind, each, in_bytes, in_files, in_json, in_plain
from secateur.lab import Failure, Recipe, Record, Store
from secateur.lab.keep import database, paths
from secateur.lab.keep.seals import FAILURE, RECORD, open_ledger, seal
from secateur.lab.show import browse
from secateur.saving import load_weights, save_weights
from secateur.studies import by_name


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
    in_files(folder, chance)
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


FIRST_KINDS = {
    "store": Kind(make_store, read_store, change_store),
    "weights": Kind(make_weights, read_weights, change_weights),
    "recipe": Kind(make_recipe, read_recipe, change_recipe),
    "toml": Kind(make_study, read_study, change_study),
}
