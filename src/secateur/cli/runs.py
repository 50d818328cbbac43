"""The commands that look into the stores: list, show, compare, failures, remove, export, sql."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.root import Json, app
from secateur.cli.tables import narrow, print_plain, print_rows, print_table, telling

if TYPE_CHECKING:
    from secateur.lab.keep.store import Store
    from secateur.lab.show.browse import FoundCell, Groups

__all__ = ["runs_compare", "runs_export", "runs_failures", "runs_list", "runs_remove", "runs_show", "runs_sql"]

runs_app = typer.Typer(
    help="Look into the stores: list, filter, compare, export and remove results.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(runs_app, name="runs")

Stores = Annotated[
    list[str] | None,
    typer.Option(
        "--store", metavar="STORE", help="A store's directory, or a study; all under runs by default; may be repeated."
    ),
]
StudyName = Annotated[str | None, typer.Option("--study", metavar="NAME", help="Only cells of this study.")]
Kind = Annotated[str | None, typer.Option("--kind", metavar="KIND", help="Only cells of this kind, such as prune.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="NAME=VALUE, also with != < <= > >=, such as 'accuracy>0.8'; may be repeated.",
    ),
]
Csv = Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")]


def _split(names: str | None) -> list[str] | None:
    return [name.strip() for name in names.split(",") if name.strip()] if names is not None else None


@runs_app.command(
    "list",
    epilog="""\b
Examples:
  secateur runs list
  secateur runs list --study fathollahi --where sparsity=0.5 --where 'accuracy>0.8' --sort=-accuracy
  secateur runs list --kind prune --columns id,method,accuracy --limit 0 --csv""",
)
def runs_list(
    store: Stores = None,
    study: StudyName = None,
    kind: Kind = None,
    where: Where = None,
    columns: Annotated[
        str | None, typer.Option(metavar="NAMES", help="The columns to show, with commas; else those that tell most.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Sort by a column; --sort=-NAME from great to small; newest first."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Show so many cells at most; 0 for all.")] = 50,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """List finished cells with their parameters and results."""
    from secateur.lab.show import browse

    stores = browse.open_stores(store or ())
    cells = browse.listed(
        stores,
        study=study,
        kind=kind,
        where=where,
        columns=_split(columns),
        sort=sort or "-created",
        limit=limit + 1 if limit > 0 else limit or None,
    )
    if not len(cells):
        typer.echo(browse.why_none(stores, study=study, kind=kind, where=where), err=True)
    more = 0 < limit < len(cells)
    cells = cells.head(limit) if more else cells
    if as_json or as_csv:
        print_plain(cells, as_json)
        return
    if len(cells):
        print_table(cells if columns else cells[telling(cells)])
    if more:
        typer.echo(f"the first {limit}; --limit 0 shows all", err=True)


@runs_app.command(
    "show",
    epilog="""\b
Example:
  secateur runs show d3429e69""",
)
def runs_show(
    cell: Annotated[str, typer.Argument(metavar="ID", help="A cell's id, or its first letters.")],
    store: Stores = None,
    as_json: Json = False,
) -> None:
    """Show all about one cell: recipe, results, environment, and the traceback if it failed."""
    from secateur.lab.show import browse

    cell_found = browse.find(browse.open_stores(store or ()), cell)
    facts = _facts(cell_found)
    if as_json:
        from secateur.lab.keep.schema import queryable

        print(queryable(json.dumps(facts))[0])
        return
    for title, content in facts.items():
        _print_facts(title, content)


def _facts(cell: FoundCell) -> dict[str, Any]:
    outcome = cell.record or cell.failure
    assert outcome is not None
    facts: dict[str, Any] = {"id": cell.id, "store": str(cell.store.path), "recipe": outcome.recipe.to_dict()}
    if cell.record is not None:
        record = cell.record
        facts |= {"metrics": dict(record.metrics), "history": list(record.history)}
        facts |= {"wall_seconds": record.wall_seconds, "cpu_seconds": record.cpu_seconds, "created": record.created}
        facts |= {"artefact": record.artefact, "environment": dict(record.environment)}
        facts["needed_by"] = cell.store.dependents([cell.id])
    if cell.failure is not None:
        failure = cell.failure
        facts["failure"] = {"error": failure.error, "created": failure.created, "traceback": failure.traceback}
    return facts


def _print_facts(title: str, content: Any) -> None:
    from secateur.cli.root import print_record

    if not isinstance(content, dict):
        text = f"{len(content)}; --json shows them" if isinstance(content, list) and content else content
        print_record({title: text if text not in (None, []) else "–"}, False)
        return
    print(f"\n{title}")
    for name, value in content.items():
        if name == "traceback":
            print(value)
        elif not (title == "recipe" and name == "defaults"):
            print_record({f"  {name}": json.dumps(value) if isinstance(value, dict) else value}, False)


@runs_app.command(
    "compare",
    epilog="""\b
Examples:
  secateur runs compare d3429e69 02d099e0
  secateur runs compare --by method --by sparsity --study fathollahi --where 'sparsity<0.6'""",
)
def runs_compare(
    cells: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="Two or more cells, by their ids' first letters.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="NAME", help="Compare groups of cells instead, by this first; may be repeated."),
    ] = None,
    metrics: Annotated[str | None, typer.Option(metavar="NAMES", help="The metrics to average, with commas.")] = None,
    store: Stores = None,
    study: StudyName = None,
    kind: Kind = None,
    where: Where = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Show what differs between cells, or the means of groups of them, side by side."""
    from secateur.lab.show import browse
    from secateur.types import InputError

    stores = browse.open_stores(store or ())
    if bool(cells) == bool(by):
        raise InputError("compare takes two or more ids, or --by NAME for groups; give one of both")
    if by:
        groups = browse.groups(stores, by, _split(metrics) or (), study=study, kind=kind, where=where)
        print_rows(groups.table if as_json or as_csv else narrow(groups.table), as_json, as_csv)
        _say_pooled(groups)
        return
    cells_found = [browse.find(stores, prefix) for prefix in cells or ()]
    for cell in cells_found:
        if cell.record is None:
            raise InputError(f"cell {cell.id} failed and has no results; `secateur runs show {cell.id}` shows why")
    print_rows(browse.compare([cell.record for cell in cells_found if cell.record is not None]), as_json, as_csv)


def _say_pooled(groups: Groups) -> None:
    """Say what was averaged over, and what was kept apart."""
    over = ", ".join(f"{name} ({count})" for name, count in groups.over.items())
    typer.echo(f"means (± standard deviation) over {over}" if over else "one cell in each group", err=True)
    if groups.apart:
        typer.echo(f"kept apart, as not the seed alone differs: {', '.join(groups.apart)}", err=True)


@runs_app.command(
    "failures",
    epilog="""\b
Examples:
  secateur runs failures --study demo
  secateur runs failures --study demo --forget""",
)
def runs_failures(
    store: Stores = None,
    study: StudyName = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Forget them, as where the mended cells have other options.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the cells that failed and have not succeeded since, each with its error."""
    from secateur.lab.show import browse

    failed = browse.failures(browse.open_stores(store or ()), study)
    rows = [
        {"store": place.path.name, "id": f.recipe.id, "cell": str(f.recipe), "error": f.error, "created": f.created}
        for place, f in failed
    ]
    if forget:
        for place, failure in failed:
            place.forgive(failure.recipe.id)
    if as_json:
        print(json.dumps({"failures": rows}))
        return
    for row in rows:
        print(f"{row['id']}  {row['created']}  {row['cell']}  ({row['store']})\n    {row['error']}")
    words = "; `secateur runs show ID` shows a traceback" if rows else ""
    typer.echo(f"{len(rows)} failed{', forgotten' if forget and rows else words}", err=True)


@runs_app.command(
    "remove",
    epilog="""\b
Examples:
  secateur runs remove 02d099e0
  secateur runs remove --store demo --where 'sparsity>0.9' --yes""",
)
def runs_remove(
    cells: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="Cells, by their ids' first letters.")
    ] = None,
    store: Stores = None,
    study: StudyName = None,
    kind: Kind = None,
    where: Where = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove cells with their tensors, so that the next run computes them again.

    Give ids, or conditions. What builds upon them stays, and is named.
    """
    from secateur.lab.show import browse
    from secateur.types import InputError

    stores = browse.open_stores(store or ())
    if bool(cells) == bool(where or study or kind):
        raise InputError("remove takes ids, or conditions (--where, --study, --kind); give one of both")
    ids_by_store = _chosen(stores, cells, {"study": study, "kind": kind, "where": where})
    count = sum(map(len, ids_by_store.values()))
    if not count:
        typer.echo(f"nothing removed: {browse.why_none(stores, study=study, kind=kind, where=where)}", err=True)
        return
    for place, ids in ids_by_store.items():
        _announce(place, ids)
    if not yes and not sys.stdin.isatty():
        raise InputError(f"{count} cells would be removed; say --yes where nobody can be asked")
    if not yes and not typer.confirm(f"Remove {count} cell{'s' if count > 1 else ''}?", err=True):
        raise typer.Exit(1)
    for place, ids in ids_by_store.items():
        place.delete(*ids)
    typer.echo(f"{count} removed", err=True)


def _chosen(stores: list[Store], cells: list[str] | None, asked: dict[str, Any]) -> dict[Store, list[str]]:
    """The ids to remove, by store."""
    from secateur.lab.show import browse
    from secateur.types import UnknownNameError

    ids_by_store: dict[Store, list[str]] = {}
    for cell_found in (browse.find(stores, cell) for cell in cells or ()):
        ids_by_store.setdefault(cell_found.store, []).append(cell_found.id)
    if not cells:
        browse.listed(stores, **asked, columns=["id"], limit=0)  # a name that no store knows is a mistake
        for store in stores:
            with suppress(UnknownNameError):
                ids = store.query(**asked, columns=["id"])["id"].tolist()
                ids_by_store |= {store: ids} if ids else {}
    return ids_by_store


def _announce(store: Store, ids: list[str]) -> None:
    depending = store.dependents(ids)
    typer.echo(f"{store.path}: {len(ids)} to remove: {_few(ids)}", err=True)
    if depending:
        typer.echo(f"    {len(depending)} finished cells build upon them and stay: {_few(depending)}", err=True)


def _few(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (" …" if len(ids) > 5 else "")


@runs_app.command(
    "export",
    epilog="""\b
Example:
  secateur runs export --store fathollahi --csv fathollahi.csv""",
)
def runs_export(
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write comma-separated values.")] = None,
    parquet: Annotated[Path | None, typer.Option(metavar="FILE", help="Write Parquet (needs pyarrow).")] = None,
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write a JSON list of one object a cell.")
    ] = None,
    store: Stores = None,
    study: StudyName = None,
    kind: Kind = None,
    where: Where = None,
) -> None:
    """Write cells to a file: one row a cell, one column a parameter and a metric."""
    from secateur.lab.show import browse
    from secateur.lab.show.words import counted
    from secateur.types import InputError

    files = [file for file in (csv, parquet, json_) if file is not None]
    if not files:
        raise InputError("export writes to files; give --csv FILE, --json FILE or --parquet FILE")
    stores = browse.open_stores(store or ())
    frame = browse.listed(stores, study=study, kind=kind, where=where)
    browse.export(frame, csv=csv, parquet=parquet, json=json_)
    why = "" if len(frame) else f": {browse.why_none(stores, study=study, kind=kind, where=where)}"
    typer.echo(f"{counted(len(frame), 'cell')} written to {', '.join(map(str, files))}{why}", err=True)


@runs_app.command(
    "sql",
    epilog="""\b
Example:
  secateur runs sql "select name, avg(value) from metrics group by name" --store demo""",
)
def runs_sql(
    query: Annotated[
        str,
        typer.Argument(metavar="QUERY", help="The query: one SELECT over cells, parameters, metrics, class_metrics, …"),
    ],
    store: Stores = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Ask the stores in SQL; nothing can be changed this way."""
    from secateur.lab.show import browse

    print_rows(browse.sql(browse.open_stores(store or ()), query), as_json, as_csv)
