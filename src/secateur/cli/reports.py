"""The command that writes reports, of a study or of several runs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.root import Json, app, options_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from secateur.lab.keep.store import Store
    from secateur.lab.plan.study import Planned
    from secateur.lab.show.live import LastRun
    from secateur.lab.show.report import Report

__all__ = ["report_", "say", "study_options", "write_report"]


@app.command(
    "report",
    epilog="""\b
Examples:
  secateur report demo
  secateur report demo runs/mine --where method=neuron""",
)
def report_(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="The study whose results to show, by name, store or TOML file; or several runs to compare, by store or study.",
        ),
    ],
    seeds: Annotated[int | None, typer.Option(metavar="COUNT", help="As in `study run`.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As in `study run`.")] = None,
    store: Annotated[Path | None, typer.Option(help="Where the results are; runs/NAME by default.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="Of a comparison: only networks with NAME=VALUE, as in `runs list`."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Of a comparison: the folder to write.")] = None,
    as_json: Json = False,
) -> None:
    """Write a study's report again, or one page that compares several runs, computing nothing.

    Of one study, give it the --seeds and --set that the study was run with.
    """
    from secateur.lab.keep import paths
    from secateur.lab.keep.store import Store
    from secateur.lab.show.live import last_run
    from secateur.studies import STUDIES, by_name
    from secateur.types import InputError

    name, options, place, alone = names[0], None, store, len(names) == 1 and not where
    folder = _store_at(name)
    if alone and folder is not None and not (seeds or set_ or store or out):
        # A store knows which study it holds.
        study_run = last_run(folder)
        if study_run is not None and (named := _study_of(study_run)):
            name, options, place = named, study_run.options, folder
    if not alone or (options is None and folder is not None and not (name in STUDIES or seeds or set_)):
        _compare_runs(names, {"--seeds": seeds, "--set": set_, "--store": store}, where, out, as_json)
        return
    if out is not None:
        raise InputError("--out: a study's report lies in its store; it is for comparisons of several runs")
    study = by_name(name)
    planned = study.planned(options or study_options(study.defaults, seeds, None, set_))
    write_report(planned, Store(place or paths.store_dir(study.name), create=False), False, as_json, "")


def _store_at(name: str) -> Path | None:
    """The store that a name stands for: a folder, or that of a study with a name of its own."""
    from secateur.lab.keep import paths

    folders = [Path(name), *([paths.store_dir(name)] if re.fullmatch(r"[\w-]+", name) else [])]
    return next((folder for folder in folders if paths.database_file(folder).exists()), None)


def _study_of(run: LastRun) -> str:
    """What to call a study that was run by: its name, or its file; nothing where that is gone."""
    from secateur.studies import STUDIES

    if run.study in STUDIES:
        return run.study
    if run.file is not None and run.file.is_file():
        return str(run.file)
    if run.file is not None:
        say(f"{run.file}, which describes {run.study}, is not there any more: this is its page as a run among others")
    return ""


def _compare_runs(
    names: Sequence[str], of_study: Mapping[str, object], where: list[str] | None, out: Path | None, as_json: bool
) -> None:
    from secateur.lab.keep import paths
    from secateur.lab.show.browse import open_stores
    from secateur.lab.show.overlay import labels, overlay
    from secateur.lab.show.words import file_name
    from secateur.types import InputError

    for option, value in of_study.items():
        if value is not None:
            raise InputError(f"{option}: several runs are compared by what their stores hold; choose with --where")
    stores = open_stores(names)
    report = overlay(stores, where=where)
    page = report.write(out or paths.comparison_dir([file_name(label) for label in labels(stores)]))
    if as_json:
        print(json.dumps({"report": str(page), "summary": list(report.summary)}))
        return
    _show(report)
    print(f"report: {page.resolve()}")


def study_options(defaults: Any, seeds: int | None, data_dir: Path | None, set_: list[str] | None) -> dict[str, Any]:
    """Return the options of a study that the command line asks for."""
    options = options_of(set_)
    if seeds is not None:
        if seeds < 1:
            from secateur.types import InputError

            raise InputError(f"--seeds {seeds}: give 1 or more")
        options["seeds"] = seeds
    if data_dir is not None and "data_dir" in defaults:
        options["data_dir"] = str(data_dir)
    return options


def write_report(planned: Planned, store: Store, quiet: bool, as_json: bool, done: str) -> None:
    """Write a study's report beside its store, and say what it says and where it is."""
    from secateur.lab.keep import paths
    from secateur.lab.show.build import build_report

    report = build_report(planned, store)
    page = report.write(paths.report_dir(store.path))
    if as_json:
        event = {"event": "report"} if done else {}
        print(json.dumps({**event, "report": str(page), "summary": list(report.summary), "run": done}))
        return
    if not quiet:
        _show(report)
        if done:
            say(done)
    print(f"report: {page.resolve()}")


def say(words: str) -> None:
    """Say one line on standard error, however narrow the screen is."""
    typer.echo(words, err=True)


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    from secateur.lab.show.blocks import Table

    # Where the output is no screen, the table has the room that it needs.
    console = Console(width=None if sys.stdout.isatty() else 110)
    for paragraph in report.summary:
        console.print(paragraph, markup=False, highlight=False)
    overview = next((b for b in report.blocks() if isinstance(b, Table) and b.name == "overview"), None)
    if overview is not None:
        table = RichTable(title=overview.caption, title_justify="left", box=None, header_style="bold")
        for at, column in enumerate(overview.columns):
            table.add_column(column.heading, justify="right" if overview.is_number(at) else "left", no_wrap=at == 0)
        for row in overview.rows:
            table.add_row(*(c.text(v) for c, v in zip(overview.columns, row, strict=True)))
        console.print(table)
