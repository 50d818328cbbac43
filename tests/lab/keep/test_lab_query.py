"""Queries: conditions by hand, against plain loops, and SQL that may only look."""

from __future__ import annotations

import math
import operator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.lab import Recipe, Record, Store
from secateur.lab.keep.query import Condition, conditions
from secateur.lab.keep.query import sql as ask
from secateur.types import InputError, UnknownNameError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One trained network, and six prunings of it: accuracy 1 − sparsity for weights, half of it for neurons."""
    store = Store(tmp_path_factory.mktemp("runs") / "toy")
    train = Recipe("toy", "train", {"seed": 0, "augment": True})
    store.put(Record(train, {"accuracy": 0.95, "loss": math.nan}, created="2024-01-01T00:00:00+00:00"))
    for method, factor in (("weight", 1.0), ("neuron", 0.5)):
        for sparsity in (0.2, 0.5, 0.8):
            accuracy = factor * (1 - sparsity)
            metrics = {"accuracy": accuracy, "class_accuracy": [accuracy, 0.0], "loss": math.inf, "note": method}
            recipe = Recipe(
                "toy", "prune", {"seed": 0, "method": method, "sparsity": sparsity, "epochs": 3}, (train.id,)
            )
            store.put(Record(recipe, metrics, wall_seconds=sparsity, created="2024-01-02T00:00:00+00:00"))
    store.put(Record(Recipe("other", "prune", {"sparsity": 0.5, "accuracy": "asked"}), {"accuracy": 0.1}))
    return store


def found(store: Store, where: Any = None, **more: Any) -> list[tuple[Any, ...]]:
    frame = store.query(where=where, columns=["method", "sparsity"], **more)
    return [(m, s) for m, s in frame.itertuples(index=False) if isinstance(m, str)]


WHERES: list[tuple[Any, list[tuple[str, float]]]] = [
    ({"sparsity": 0.5}, [("weight", 0.5), ("neuron", 0.5)]),
    (["sparsity=0.5", "method=neuron"], [("neuron", 0.5)]),
    ({"sparsity": (0.3, None), "method": "weight"}, [("weight", 0.5), ("weight", 0.8)]),
    ({"sparsity": (0.2, 0.5), "method": "weight"}, [("weight", 0.2), ("weight", 0.5)]),
    ({"method": ["weight", "bias"], "sparsity": 0.2}, [("weight", 0.2)]),
    ({"method": {"neuron"}, "sparsity": 0.2}, [("neuron", 0.2)]),
    (["accuracy>0.4", "accuracy<0.8"], [("weight", 0.5)]),
    (["accuracy >= 0.4", "accuracy<=0.5"], [("weight", 0.5), ("neuron", 0.2)]),
    (["method!=weight", "sparsity!=0.5"], [("neuron", 0.2), ("neuron", 0.8)]),
    (['method=["neuron"]', "wall_seconds=0.8"], [("neuron", 0.8)]),
    (["loss>1e308", "sparsity=0.2"], [("weight", 0.2), ("neuron", 0.2)]),
    (["note=weight", "metric.accuracy>0.7"], [("weight", 0.2)]),
    (["created<2024-01-02", "kind=train"], []),
    ({"method": None, "parameter.sparsity": 0.5}, []),
    (["method>a", "sparsity=0.8"], [("weight", 0.8), ("neuron", 0.8)]),
    (["epochs>=3", "sparsity=0.8", "kind=prune", "study=toy"], [("weight", 0.8), ("neuron", 0.8)]),
]


@pytest.mark.parametrize(("where", "wanted"), WHERES, ids=lambda v: str(v)[:40])
def test_conditions_by_hand(store: Store, where: Any, wanted: list[tuple[str, float]]) -> None:
    assert found(store, where) == wanted


def test_study_kind_sort_limit_and_columns(store: Store) -> None:
    assert len(store.query(study="toy")) == 7
    assert len(store.query(study="toy", kind="prune")) == 6
    assert found(store, sort="-accuracy", limit=3) == [("weight", 0.2), ("weight", 0.5)]
    assert found(store, kind="prune", study="toy", sort="accuracy", limit=1) == [("neuron", 0.8)]
    assert store.query(columns=["seed", "id"], kind="train").columns.tolist() == ["seed", "id"]
    assert store.query(limit=0).shape[0] == 0
    assert found(store, sort="-sparsity", limit=2) == [("weight", 0.8), ("neuron", 0.8)]  # equal ones: oldest first
    # What has no sparsity comes last, either way.
    assert store.query(sort="-sparsity")["kind"].tolist()[-1] == "train"
    assert store.query(sort="sparsity")["kind"].tolist()[-1] == "train"


def test_values_come_back_as_they_are(store: Store) -> None:
    row = store.query(columns=["augment", "seed", "loss", "accuracy"], kind="train").iloc[0]
    assert row["augment"] is True or bool(row["augment"])
    assert (row["seed"], row["accuracy"]) == (0, 0.95)
    assert math.isnan(row["loss"])
    pruned = store.query(columns=["loss", "class_accuracy"], where={"sparsity": 0.2, "method": "neuron"}).iloc[0]
    assert (pruned["loss"], pruned["class_accuracy"]) == (math.inf, [0.4, 0.0])


def test_without_conditions_it_is_the_frame(store: Store) -> None:
    assert store.query().equals(store.frame())


def test_a_name_of_both_is_the_metric_unless_told(store: Store) -> None:
    assert store.query(study="other", columns=["accuracy", "parameter.accuracy"]).values.tolist() == [[0.1, "asked"]]
    assert store.query(where={"parameter.accuracy": "asked"})["study"].tolist() == ["other"]
    with pytest.raises(InputError, match="accuracy=asked: accuracy holds numbers; give a number"):
        store.query(where={"accuracy": "asked"})


@pytest.mark.parametrize(
    ("condition", "words"),
    [("method>0", "holds texts; give a text"), ("sparsity=half", "holds numbers"), ("accuracy<=x", "holds numbers")],
)
def test_numbers_and_texts_are_not_compared(store: Store, condition: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        store.query(where=[condition])


NUMBERS = st.sampled_from([0.1, 0.2, 0.25, 0.4, 0.5, 0.8, 0.95])
OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@given(
    st.lists(
        st.tuples(st.sampled_from(["accuracy", "sparsity"]), st.sampled_from(sorted(OPERATORS)), NUMBERS), max_size=3
    )
)
def test_conditions_against_the_plain_loop(store: Store, asked: list[tuple[str, str, float]]) -> None:
    def fits(record: Record) -> bool:
        values = {**record.recipe.parameters, **record.metrics}
        return all(name in values and OPERATORS[how](values[name], value) for name, how, value in asked)

    wanted = [record.id for record in store.records() if fits(record)]
    assert store.query(where=[f"{name}{how}{value}" for name, how, value in asked])["id"].tolist() == wanted


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (["accuracy"], "condition 'accuracy': write NAME=VALUE"),
        ("accuracy>1", "give a list of such texts"),
        ({"accuracy": (1, 2, 3)}, r"condition on 'accuracy': a range is a pair"),
        ({"accuracy": {"a": 1}}, "cannot compare with"),
        (["accuracy>null"], "> needs a number or a text, not None"),
        (["accuracy>[1,2]"], "cannot compare with"),
        ({'a"b': 1}, "cannot name a parameter"),
        ({"": 1}, "cannot name a parameter"),
    ],
)
def test_bad_conditions_are_refused(store: Store, where: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        store.query(where=where)


@pytest.mark.parametrize("asked", [{"where": ["acuracy>0.5"]}, {"columns": ["acuracy"]}, {"sort": "-acuracy"}])
def test_unknown_names_are_refused_with_the_nearest(store: Store, asked: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match="unknown parameter or metric 'acuracy'; did you mean 'accuracy'"):
        store.query(**asked)
    with pytest.raises(InputError, match="limit=-1 must be"):
        store.query(limit=-1)
    with pytest.raises(InputError, match="columns is empty"):
        store.query(columns=[])


def test_an_empty_store_has_nothing_to_find(tmp_path: Path) -> None:
    assert len(Store(tmp_path).query(where=["accuracy>0.5"], columns=["method"])) == 0


def test_conditions_read_both_ways() -> None:
    assert conditions(["a=1", "b=x y", "c<=-2.5", "d=true", "e=null", "f= [1, 2]", "id=1e5"]) == [
        Condition("a", "=", 1), Condition("b", "=", "x y"), Condition("c", "<=", -2.5), Condition("d", "=", True),
        Condition("e", "=", None), Condition("f", "=", [1, 2]), Condition("id", "=", "1e5"),
    ]  # fmt: skip


def test_sql_by_hand(store: Store) -> None:
    means = store.sql("""
        SELECT p.value AS method, avg(m.value) AS accuracy FROM parameters AS p JOIN metrics AS m USING (id)
        WHERE p.name = 'method' AND m.name = 'accuracy' GROUP BY 1 ORDER BY 1""")
    assert means["method"].tolist() == ["neuron", "weight"]
    assert means["accuracy"].tolist() == pytest.approx([0.25, 0.5])
    classes = store.sql(
        "select class, value from class_metrics where name = ? order by value desc limit 1", ["class_accuracy"]
    )
    assert classes.values.tolist() == [[0, 0.8]]
    assert store.sql("select count(*) as n from cells where json_extract(parameters, '$.sparsity') = 0.5")[
        "n"
    ].tolist() == [3]
    assert store.sql("select * from failures").columns.tolist()[:3] == ["store", "id", "study"]
    assert store.sql("select distinct store from cells")["store"].tolist() == ["toy"]


def test_sql_over_several_stores(store: Store, tmp_path: Path) -> None:
    more = [Store(tmp_path / str(number)) for number in range(11)]
    more[0].put(Record(Recipe("x", "y"), {}))
    two = {"a'b": store.database, "second": more[0].database}
    counts = ask(two, "select store, count(*) as n from cells group by store order by n")
    assert counts.values.tolist() == [["second", 1], ["a'b", 8]]
    with pytest.raises(InputError, match="at most 10 stores, not 11"):
        ask({s.path.name: s.database for s in more}, "select 1")


HOSTILE = [
    "delete from records",
    "drop table records",
    "insert into records values (1)",
    "update store0.records set study = 'x'",
    "create table x (y)",
    "create temp table x as select 1",
    "attach '/tmp/x.sqlite' as y",
    "detach store0",
    "pragma journal_mode = delete",
    "pragma writable_schema = 1",
    "pragma query_only = 0",
    "vacuum into '/tmp/x.sqlite'",
    "vacuum",
    "begin",
    "select load_extension('/tmp/x.so')",
    "select 1; delete from records",
    "reindex",
    "analyze",
    "with x as (select 1) delete from records",
    "replace into failures values (1, 2, 3, 4, 5, 6)",
    "select randomblob(900000000)",
    "select writefile('/tmp/x', 'y')",
    "selct 1",
    "select * from cats",
    "select ?",
    "",
    "-- nothing",
    "select 1 \x00 from cells",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_sql_can_only_look(store: Store, text: str) -> None:
    before = store.database.read_bytes()
    with pytest.raises(InputError, match=r"(?s)^the query .*; write (one|a) SELECT"):
        store.sql(text)
    assert store.database.read_bytes() == before
    assert len(store.ids()) == 8
    assert not Path("/tmp/x.sqlite").exists()


def test_sql_without_end_is_given_up(store: Store) -> None:
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"
    with pytest.raises(InputError, match=r"it took more than 0\.2 s"):
        store.sql(endless, seconds=0.2)


def test_a_store_that_nobody_has_open_can_be_asked(store: Store) -> None:
    store.close()
    assert len(ask({"toy": store.database}, "select * from cells")) == 8
