"""The commands that list, run and watch studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.reports import say, study_options, write_report
from secateur.cli.root import DataDir, Json, app, studies_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from secateur.lab.keep.records import Failure
    from secateur.lab.keep.store import Store
    from secateur.lab.plan.study import Planned

__all__ = ["study_list", "study_run", "study_watch"]

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
    options = {**study_options(study.defaults, seeds, data_dir, set_), **_machine(device, gpus, devices)}
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
        say(f"{summary}; the same command goes on from here")
    elif summary.done or summary.found:
        write_report(planned, place, quiet, as_json, str(summary))
    else:
        say(str(summary))
    if failed := [*summary.failed, *summary.failed_before]:
        say(_about(failed, place, study.name))
    raise typer.Exit(summary.exit_code)


def _machine(device: str | None, gpus: float | None, devices: int | None) -> dict[str, Any]:
    """The options that say what a training needs of a machine, as far as they are given."""
    options = {"device": device, "gpus": gpus, "devices": devices}
    return {name: value for name, value in options.items() if value is not None}


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
        say(
            f"nothing computes the {now.left} cells that are left: the run was stopped, or they need what failed; the same "
            "`secateur study run` goes on"
        )


_PATIENCE = 10
"""Seconds without a cell that is computed, after which a run has been stopped."""
