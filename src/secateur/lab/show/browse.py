"""What is in the stores: find, list, compare, remove, export. `secateur runs` is these functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.checks import is_number
from secateur.files import replacing, require, write_text
from secateur.lab.keep import paths, query
from secateur.lab.keep.frames import FIXED
from secateur.lab.keep.records import Failure, Record
from secateur.lab.keep.schema import queryable
from secateur.lab.keep.store import Store
from secateur.lab.plan.recipe import SEEDS, Json
from secateur.lab.show import pooling
from secateur.lab.show.live import studies_of
from secateur.lab.show.stats import describe
from secateur.lab.show.words import number
from secateur.types import FileError, InputError, UnknownNameError, unknown_name

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "FoundCell",
    "Groups",
    "check_study",
    "compare",
    "export",
    "failures",
    "find",
    "groups",
    "listed",
    "open_stores",
    "sql",
    "to_json",
    "varying",
    "why_none",
]


@dataclass(frozen=True)
class FoundCell:
    """A cell that was found by its id: its store, and its record or its failure (or both, after a rerun failed)."""

    id: str
    store: Store
    record: Record | None
    failure: Failure | None


def open_stores(names: Sequence[str | Path] = ()) -> list[Store]:
    """Return stores by directory or by study; without names all under ``runs`` (or ``$SECATEUR_RUNS``), by name.

    Raises:
        FileError: one is not there, or there is none at all.
    """
    if names:
        return [_open(name) for name in names]
    folders = sorted(file.parent for file in paths.runs_dir().glob(paths.database_file(Path("*")).as_posix()))
    if not folders:
        raise FileError(f"there is no store under {paths.runs_dir()}; run a study first, or give a store's directory")
    return [Store(folder, create=False) for folder in folders]


def _open(name: str | Path) -> Store:
    for folder in (Path(name), paths.store_dir(str(name))):
        if paths.database_file(folder).exists():
            return Store(folder, create=False)
    names = [file.parent.name for file in paths.runs_dir().glob(paths.database_file(Path("*")).as_posix())]
    raise FileError(
        f"there is no store at {name}, and none of a study of that name under {paths.runs_dir()}; "
        f"there are: {', '.join(sorted(names)) or 'none'}"
    )


def listed(
    stores: Sequence[Store],
    *,
    study: str | None = None,
    kind: str | None = None,
    where: query.Where = None,
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    limit: int | None = None,
) -> DataFrame:
    """Return the records of several stores that fulfil conditions, as `Store.query` does for one.

    With several stores there is a first column ``store``.

    Raises:
        UnknownNameError: no store holds such a study, or no record has a parameter or a metric of that name.
        InputError: a condition that makes no sense.
    """
    pandas = require("pandas", "lab")
    asked_columns = (
        None if columns is None else list(dict.fromkeys([*columns, *([sort.removeprefix("-")] if sort else [])]))
    )
    check_study(stores, study)
    asked: dict[str, Any] = {"study": study, "kind": kind, "where": where, "sort": sort, "limit": limit}
    frames, unknown = [], []
    for store in stores:
        try:
            frame = store.query(columns=asked_columns, **asked)
        except UnknownNameError as error:
            unknown.append(error)
            continue
        if len(stores) > 1:
            frame.insert(0, "store", store.path.name)
        if len(frame) or len(stores) == 1:
            frames.append(frame)
    if unknown and len(unknown) == len(stores):
        raise unknown[0]
    both = _joined(pandas, frames, sort, limit) if frames else _nothing(pandas, columns)
    return both if columns is None else both[[*(["store"] if "store" in both else []), *columns]]


def check_study(stores: Sequence[Store], study: str | None) -> None:
    """Refuse the name of a study of which no store holds anything.

    Raises:
        UnknownNameError: the error names those that there are.
    """
    if study is None:
        return
    names = {name for store in stores for name in studies_of(store)}
    if study not in names:
        raise unknown_name("study in the stores", study, names)


def why_none(
    stores: Sequence[Store], *, study: str | None = None, kind: str | None = None, where: query.Where = None
) -> str:
    """Return in one line why no cell fits: what there is to choose from, for those who made a slip.

    Args:
        stores, study, kind, where: as `listed` was asked with.
    """
    cells = listed(stores, study=study)
    if not len(cells):
        return f"no cell is finished{f' of study {study}' if study else ''}"
    kinds = list(dict.fromkeys(cells["kind"]))
    if kind is not None and kind not in kinds:
        return f"no cell of kind {kind} is finished; there are: {', '.join(kinds)}"
    told = [words for condition in query.conditions(where) if (words := _values(cells, condition))]
    return "; ".join(["no finished cell fits", *told])


def _values(cells: DataFrame, condition: query.Condition) -> str:
    """The values that there are of what a condition asks for."""
    if condition.name not in cells:
        return ""
    values = cells[condition.name].dropna()
    if not len(values) or not _is_plain(values):
        return ""
    if condition.operator in ("=", "!="):
        different = list(dict.fromkeys(map(str, values)))
        return f"{condition.name} is {', '.join(different[:6])}{' …' if len(different) > 6 else ''}"
    least, most = values.min(), values.max()
    least, most = (number(end) if is_number(end) else str(end) for end in (least, most))
    return f"{condition.name} is {least} to {most}"


def _nothing(pandas: Any, columns: Sequence[str] | None) -> DataFrame:
    """The table without rows, with the columns that a table with rows is sure to have."""
    return pandas.DataFrame(columns=list(dict.fromkeys(["store", *(FIXED if columns is None else columns)])))


def _joined(pandas: Any, frames: Sequence[DataFrame], sort: str | None, limit: int | None) -> DataFrame:
    if len(frames) == 1:
        return frames[0]
    both = pandas.concat([frame.astype(object) for frame in frames], ignore_index=True).infer_objects()
    if sort:
        both = both.sort_values(sort.removeprefix("-"), ascending=not sort.startswith("-"), kind="stable")
    return both.head(limit).reset_index(drop=True) if limit is not None else both


def find(stores: Sequence[Store], start: str) -> FoundCell:
    """Return the cell whose id begins so.

    Raises:
        UnknownNameError: there is none.
        InputError: there are several, or `start` is empty.
    """
    if not start:
        raise InputError("an empty id fits every cell; give its first letters")
    fits = [(store, identity) for store in stores for identity in store.matching(start)]
    if not fits:
        places = ", ".join(str(store.path) for store in stores)
        raise UnknownNameError(f"no cell's id begins with {start!r} in {places}; `secateur runs list` shows them")
    if len(fits) > 1:
        matches = ", ".join(f"{identity} in {store.path.name}" for store, identity in fits[:5])
        raise InputError(
            f"{len(fits)} cells' ids begin with {start!r}: {matches}{' …' if len(fits) > 5 else ''}; give more of it"
        )
    store, identity = fits[0]
    record = store.get(identity) if store.has(identity) else None
    failure = next((failed for failed in store.failures() if failed.recipe.id == identity), None)
    return FoundCell(identity, store, record, failure)


def failures(stores: Sequence[Store], study: str | None = None) -> list[tuple[Store, Failure]]:
    """Return the cells that failed and have not succeeded since in any of the stores, each with its store.

    Args:
        stores: where to look.
        study: those of this study alone.

    Raises:
        UnknownNameError: no store holds such a study.
    """
    check_study(stores, study)
    failed = [(store, failure) for store in stores for failure in store.failures()]
    ids = sorted({failure.recipe.id for _, failure in failed})
    finished: dict[str, str] = {}
    for store in stores if ids else ():
        for record in store.records(ids):
            finished[record.id] = max(record.created, finished.get(record.id, ""))
    return [
        (store, failure)
        for store, failure in failed
        if study in (None, failure.recipe.study) and failure.created > finished.get(failure.recipe.id, "")
    ]


def compare(records: Sequence[Record]) -> DataFrame:
    """Return records side by side: one row a parameter that differs or a metric that is one number or text.

    Returns:
        The columns ``what`` (parameter, metric or time), ``name``, and one a record, named by its id.

    Raises:
        InputError: there are fewer than two, or one is there twice.

    >>> from secateur.lab.plan.recipe import Recipe
    >>> pair = [Record(Recipe("s", "k", {"seed": n, "epochs": 3}), {"accuracy": 0.5 + n / 10}) for n in (0, 1)]
    >>> compare(pair).iloc[:2, 1:].values.tolist()
    [['seed', 0, 1], ['accuracy', 0.5, 0.6]]
    """
    ids = [record.id for record in records]
    if len(set(ids)) < 2 or len(set(ids)) < len(ids):
        raise InputError(f"comparing needs two or more different cells, got {', '.join(ids) or 'none'}")
    facts = [{"study": r.recipe.study, "kind": r.recipe.kind, **r.recipe.parameters} for r in records]
    rows = [["parameter", name, *values] for name, values in _rows(facts) if any(v != values[0] for v in values)]
    for name, values in _rows([r.metrics for r in records]):
        if not any(isinstance(value, (list, dict)) for value in values):
            rows.append(["metric", name, *values])
    rows += [["time", n, *(getattr(r, n) for r in records)] for n in ("wall_seconds", "cpu_seconds")]
    return require("pandas", "lab").DataFrame(rows, columns=["what", "name", *ids], dtype=object)


def _rows(facts: Sequence[Mapping[str, Json]]) -> Iterator[tuple[str, list[Json]]]:
    for name in dict.fromkeys(key for fact in facts for key in fact):
        yield name, [fact.get(name) for fact in facts]


@dataclass(frozen=True, eq=False)
class Groups:
    """Means of metrics within groups of cells that differ by their seed alone.

    Attributes:
        table: as from `secateur.lab.show.stats.describe`: the columns that were asked for and those of `apart`, then for each
            metric its mean, spread and interval, and how many values are behind it.
        over: how many values of each seed a group has at most: ``{"seed": 3}`` says means over three seeds.
        apart: what else tells the cells of one group apart, and so was not averaged over.
    """

    table: DataFrame
    over: dict[str, int]
    apart: list[str]


def groups(
    stores: Sequence[Store],
    by: Sequence[str],
    values: Sequence[str] = (),
    *,
    study: str | None = None,
    kind: str | None = None,
    where: query.Where = None,
) -> Groups:
    """Return the means of metrics within groups of cells, only like with like.

    Cells are averaged where their recipes, and those of the cells that they build upon, differ by nothing but the seed.
    Whatever else differs (the kind of cell, the epochs of the network that was cut) keeps them apart and is a column.
    A cell that stands in several stores counts once.

    Args:
        stores: where to look.
        by: the parameters that come first, such as method and sparsity; cells that lack one are left out.
        values: the metrics to average; ``accuracy``, ``loss`` and ``parameters_removed`` where there are any of them,
            else every number that varies.
        study, kind, where: which cells, as in `listed`.

    Raises:
        UnknownNameError: there is no such column.
        InputError: there is nothing to average.
    """
    frame = listed(stores, study=study, kind=kind, where=where)
    if not len(frame):
        raise InputError("no finished cell fits; see `secateur runs list`")
    for name in [*by, *values]:
        if name not in frame.columns:
            raise unknown_name("column", name, map(str, frame.columns))
    frame = frame.dropna(subset=list(by)).drop_duplicates("id", ignore_index=True)
    parameters = {name for store in stores for name in store.sql("SELECT DISTINCT name FROM parameters")["name"]}
    metrics = list(values) or _measures(frame, {*by, *parameters})
    if not len(frame) or not metrics:
        raise InputError(f"no cell has {' and '.join(by)} and a number to average; see `secateur runs list`")
    ids = frame["id"].tolist()
    facts = pooling.deciding(pooling.with_needed(stores, ids), ids)
    # As the frame names a parameter that would hide a metric.
    facts = facts.rename(columns=lambda name: f"parameter.{name}" if f"parameter.{name}" in frame else name)
    apart = pooling.apart(facts.drop(columns=list(by), errors="ignore"), frame[list(by)])
    frame = frame.assign(**{name: facts[name] for name in apart})
    keys = [*by, *apart]
    seeds = [name for name in SEEDS if name in frame and name not in keys]
    over = {name: int(frame.groupby(keys, dropna=False)[name].nunique().max()) for name in seeds}
    return Groups(describe(frame, keys, metrics), {name: count for name, count in over.items() if count > 1}, apart)


def _measures(frame: DataFrame, known: set[str]) -> list[str]:
    usual = [n for n in ("accuracy", "loss", "parameters_removed") if n in frame and frame[n].notna().any()]
    numbers = [n for n in frame.select_dtypes("number").columns if n not in {*known, "wall_seconds", "cpu_seconds"}]
    return usual or [str(n) for n in numbers if frame[n].nunique() > 1]


def varying(frame: DataFrame) -> list[str]:
    """Return the columns of plain values that are not the same in every row.

    >>> import pandas
    >>> varying(pandas.DataFrame({"a": [1, 1], "b": [1, 2], "c": [[1], [2]]}))
    ['b']
    """
    return [str(n) for n in frame.columns if _is_plain(frame[n]) and frame[n].nunique(dropna=False) > 1]


def _is_plain(column: Any) -> bool:
    return not column.map(lambda value: isinstance(value, (list, dict))).any()


def export(frame: DataFrame, *, csv: Path | None = None, parquet: Path | None = None, json: Path | None = None) -> None:
    """Write a table to files, each whole or not at all; in CSV and Parquet lists and mappings are JSON texts.

    Raises:
        MissingLibraryError: Parquet needs pyarrow.
        FileError: a file cannot be written.
    """
    flat = frame.map(lambda value: dumps(value) if isinstance(value, (list, dict)) else value)
    if csv is not None:
        write_text(csv, flat.to_csv(index=False))
    if json is not None:
        write_text(json, to_json(frame) + "\n")
    if parquet is not None:
        require("pyarrow", "parquet")
        with replacing(parquet) as part:
            flat.to_parquet(part, index=False)


def to_json(frame: DataFrame) -> str:
    """Return a table as a JSON list of one object a row; what is missing or nan is null.

    >>> import pandas
    >>> to_json(pandas.DataFrame({"a": [1, 2], "b": [0.5, float("nan")]}))
    '[{"a": 1, "b": 0.5}, {"a": 2, "b": null}]'
    """
    return queryable(dumps(frame.astype(object).to_dict("records")))[0]


def sql(stores: Iterable[Store], text: str) -> DataFrame:
    """Return the answer to one SELECT over several stores; see `Store.sql`.

    Raises:
        InputError: the query is wrong, would change something, takes more than a minute, or asks over ten stores.
    """
    table: dict[str, Path] = {}
    for store in stores:
        # Two directories may have one name.
        table[store.path.name if store.path.name not in table else str(store.path)] = store.database
    return query.sql(table, text)
