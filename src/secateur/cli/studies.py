"""The commands that run studies and write their reports."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.root import DataDir, Json, app, options_of, studies_app

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from secateur.lab.keep.records import Failure
    from secateur.lab.keep.store import Store
    from secateur.lab.plan.study import Planned
    from secateur.lab.show.live import LastRun
    from secateur.lab.show.report import Report

__all__ = ["report_", "study_list", "study_run", "study_watch"]

app.add_typer(studies_app, name="study")


@studies_app.command(
    "list",
    epilog="""\b
Example:
  secateur study list""",
)
def study_list(as_json: Json = False) -> None:
    """List the studies with what each compares."""
    from secateur.studies import STUDIES

    if as_json:
        print(
            json.dumps(
                [
                    {"name": s.name, "title": s.title, "source": str(s.source or ""), "summary": s.summary}
                    for s in STUDIES.values()
                ]
            )
        )
        return
    for study in STUDIES.values():
        print(f"{study.name}\n    {study.summary}" + (f"\n    After {study.source}." if study.source else ""))


@studies_app.command(
    "run",
    epilog="""\b
Examples:
  secateur study run demo
  secateur study run mine.toml --dry-run
  secateur study run fathollahi --seeds 3 --data-dir ~/data --set epochs=5
  secateur study run fathollahi --jobs 8
  secateur study run fathollahi --on ray://head-node:10001 --device cuda --gpus 1""",
)
def study_run(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The study, by name (see `secateur study list`), or a TOML file.")
    ],
    seeds: Annotated[
        int | None, typer.Option(metavar="COUNT", help="How many networks to train, with seeds 0, 1, …")
    ] = None,
    data_dir: DataDir = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Another option of the study, as JSON (epochs=5); may be repeated."
        ),
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Where results are kept; runs/NAME by default.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(metavar="COUNT", help="How many cells at a time; $SECATEUR_JOBS, or one a core. 1: no processes."),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="WHERE", help="serial, processes, ray ($RAY_ADDRESS or this machine) or ray://HOST:PORT."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(metavar="COUNT", help="How many threads torch takes for a cell.")] = 1,
    device: Annotated[str | None, typer.Option(help="Where networks are trained, such as cuda; the processor.")] = None,
    gpus: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", help="Graphics processors that a training asks Ray for; a part shares one."),
    ] = None,
    devices: Annotated[
        int | None, typer.Option(metavar="COUNT", help="Devices of a machine that train a network together, by DDP.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again the cells that failed in an earlier run.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Compute nothing: say what would be, what is finished, and about how long it takes."
        ),
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Show results in tensorboard or mlflow as well; may be repeated."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no table.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line for everything that happens, for machines.")
    ] = False,
) -> None:
    """Run a study and write its report.

    What is finished is never computed twice, so a run that was stopped goes on when the same command is given again.
    The same command on the same store in another terminal shares the work.
    """
    from secateur.lab.drive.driver import run_study
    from secateur.lab.drive.progress import JsonLines
    from secateur.lab.drive.trackers import by_name as tracker
    from secateur.lab.drive.trackers import check
    from secateur.lab.keep import paths
    from secateur.lab.keep.store import Store
    from secateur.studies import by_name

    study = by_name(name)
    check(track or ())
    # A mistake in the options should leave no empty store behind.
    options = {**_study_options(study.defaults, seeds, data_dir, set_), **_machine(device, gpus, devices)}
    planned = study.planned(options)
    _check_where(on, jobs, threads)
    folder = store or paths.store_dir(study.name)
    if dry_run:
        _foretell(planned, folder, as_json)
        return
    place = Store(folder)
    summary = run_study(
        planned,
        place,
        executor=on,
        jobs=jobs,
        threads=threads,
        retry_failed=retry_failed,
        progress=JsonLines() if as_json else not quiet,
        trackers=[tracker(name, paths.tracker_dir(place.path, name)) for name in track or ()],
    )
    if summary.interrupted:
        _say(f"{summary}; the same command goes on from here")
    elif summary.done or summary.found:
        _write_report(planned, place, quiet, as_json, str(summary))
    else:
        _say(str(summary))
    if failed := [*summary.failed, *summary.failed_before]:
        _say(_about(failed, place, study.name))
    raise typer.Exit(summary.exit_code)


def _foretell(planned: Planned, folder: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from secateur.lab.drive.forecast import forecast
    from secateur.lab.keep import paths
    from secateur.lab.keep.store import Store

    there_is = paths.database_file(folder).exists()
    foretold = forecast(planned, Store(folder, create=False) if there_is else None)
    print(json.dumps({**asdict(foretold), "seconds": foretold.seconds}) if as_json else foretold)


def _about(failed: Sequence[Failure], store: Store, study: str) -> str:
    """What helps against failures: those of mistakes come again as long as the study is asked for the same."""
    listing = f"secateur runs failures --store {store.path} --study {study}"
    refused = [failure for failure in failed if failure.error.startswith(_REFUSALS)]
    if len(refused) == len(failed):
        return f"{len(failed)} failed, and would again: change what the errors name (`{listing}`)"
    return f"{len(failed)} failed (`{listing}`); once the causes are mended, --retry-failed runs them again"


_REFUSALS = ("InputError", "UnknownNameError", "CutError", "TraceError", "VerificationError")
"""The errors that a cell ends in whenever it is computed."""


def _check_where(on: str | None, jobs: int | None, threads: int) -> None:
    """Refuse a mistake before there is a store."""
    from secateur.lab.drive.executors import by_name
    from secateur.types import InputError

    for option, value in (("--jobs", jobs), ("--threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"{option} {value}: give 1 or more")
    if on is not None:
        by_name(on, jobs)


@studies_app.command(
    "watch",
    epilog="""\b
Examples:
  secateur study watch demo
  secateur study watch runs/fathollahi --terminal""",
)
def study_watch(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A store's directory, or a study.")],
    port: Annotated[int, typer.Option(metavar="PORT", help="Where the page is served; 0 for a free port.")] = 0,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Show it here instead of on a page, until nothing is left to compute.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the present state as one JSON object, and end.")
    ] = False,
) -> None:
    """Show a study while it runs: cells, curves as they come, failures with their logs.

    It serves a page on the loopback interface of this machine until Ctrl-C, and only reads the store.
    """
    from contextlib import suppress
    from dataclasses import asdict

    from secateur.lab.show import live
    from secateur.lab.show.browse import open_stores

    (place,) = open_stores([store])
    if as_json:
        now = live.progress(place)
        print(json.dumps({**asdict(now), "left": now.left, "over": now.is_over}))
        return
    with suppress(KeyboardInterrupt):
        if terminal:
            _watch_here(place)
            return
        with live.server(place, port) as serving:
            print(f"watching {place.path} at http://127.0.0.1:{serving.server_port}/ (Ctrl-C ends it)", flush=True)
            serving.serve_forever()


def _watch_here(store: Store) -> None:
    """Show the state on the terminal until nothing is left or computed any more; where there is none, a line for each change."""
    import time

    from rich.console import Console
    from rich.live import Live

    from secateur.lab.show.live import progress

    console, last, idle = Console(), "", 0
    with Live(console=console, auto_refresh=False) as screen:
        while True:
            now = progress(store)
            lines = [f"{', '.join(now.studies)}: {now}"]
            lines += [f"  running {cell.seconds:4.0f} s  {cell.words}" for cell in now.running[:8]]
            lines += [f"  failed  {cell.words}: {cell.error} (secateur runs show {cell.id})" for cell in now.failed]
            if console.is_terminal:
                screen.update("\n".join(lines).replace("[", "\\["), refresh=True)
            elif str(now) != last:
                print("\n".join(lines), flush=True)
            last = str(now)
            idle = idle + 1 if now.is_idle else 0
            if now.is_over or idle > _PATIENCE:
                break
            time.sleep(1)
    if now.is_idle:
        _say(
            f"nothing computes the {now.left} cells that are left: the run was stopped, or they need what failed; the same "
            "`secateur study run` goes on"
        )


_PATIENCE = 10
"""Seconds without a cell that is computed, after which a run has been stopped."""


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
    planned = study.planned(options or _study_options(study.defaults, seeds, None, set_))
    _write_report(planned, Store(place or paths.store_dir(study.name), create=False), False, as_json, "")


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
        _say(f"{run.file}, which describes {run.study}, is not there any more: this is its page as a run among others")
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


def _study_options(defaults: Any, seeds: int | None, data_dir: Path | None, set_: list[str] | None) -> dict[str, Any]:
    options = options_of(set_)
    if seeds is not None:
        if seeds < 1:
            from secateur.types import InputError

            raise InputError(f"--seeds {seeds}: give 1 or more")
        options["seeds"] = seeds
    if data_dir is not None and "data_dir" in defaults:
        options["data_dir"] = str(data_dir)
    return options


def _machine(device: str | None, gpus: float | None, devices: int | None) -> dict[str, Any]:
    """The options that say what a training needs of a machine, as far as they are given."""
    options = {"device": device, "gpus": gpus, "devices": devices}
    return {name: value for name, value in options.items() if value is not None}


def _write_report(planned: Planned, store: Store, quiet: bool, as_json: bool, done: str) -> None:
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
            _say(done)
    print(f"report: {page.resolve()}")


def _say(words: str) -> None:
    """One line on standard error, however narrow the screen is."""
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
