"""From a study and its store to the report: the study's pages, with what every report carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from secateur.lab.keep import paths
from secateur.lab.keep.environment import merged
from secateur.lab.keep.records import Record
from secateur.lab.keep.store import Store
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Planned, Study
from secateur.lab.show.origins import reproduce
from secateur.lab.show.report import Report
from secateur.types import InputError

__all__ = ["build_report", "write_report"]


def build_report(
    study: Study | Planned, store: Store, options: Mapping[str, Json] | None = None, *, command: str = ""
) -> Report:
    """Return the study's report on what the store holds, unfinished cells left out.

    The source, the command and the environment are filled in where the study's pages leave them empty; cells
    that are missing are counted in the summary, so that a partial report says that it is one.

    Args:
        study: whose pages to build.
        store: where its results are.
        options: the options that it was run with; None where it is planned with them already.
        command: the command that makes these results again; when empty, `secateur study run` with the options.

    Raises:
        InputError: no cell of the study is finished.
    """
    planned = Planned.of(study, options)
    study, cells = planned.study, planned.cells
    records = store.records(cell.id for cell in cells)
    if not records:
        raise InputError(_nothing_finished(study, store))
    report = study.pages(planned.results(store))
    environment = report.environment or _environment(records)
    missing = len(cells) - len(records)
    notice = [f"This report is not complete: {missing} of {len(cells)} cells are not finished."] if missing else []
    return replace(
        report,
        summary=(*notice, *(report.summary or (study.summary,))),
        source=report.source or (str(study.source) if study.source else ""),
        command=report.command or command or reproduce(planned, environment),
        environment=environment,
    )


def _nothing_finished(study: Study, store: Store) -> str:
    """What to do where none of the cells that the options ask for is there: others may be."""
    count = len(store.ids())
    if not count:
        return f"study {study.name!r} has no finished cell in {store.path}; run it first"
    return (
        f"study {study.name!r} has no finished cell of these options in {store.path}, which holds {count:,} "
        f"{'cell' if count == 1 else 'cells'} of others; give the options that it was run with, or write the report of "
        f"the last run by `secateur report {store.path}`"
    )


def write_report(
    study: Study | Planned,
    store: Store,
    options: Mapping[str, Json] | None = None,
    *,
    directory: Path | str | None = None,
    command: str = "",
) -> Path:
    """Build the study's report and write it, by default into the store's ``report`` folder; return the page.

    Raises:
        InputError: no cell of the study is finished.
        FileError: the directory cannot be written.
    """
    folder = Path(directory) if directory is not None else paths.report_dir(store.path)
    return build_report(study, store, options, command=command).write(folder)


def _environment(records: Sequence[Record]) -> dict[str, str]:
    facts = merged(record.environment for record in records)
    seeds = sorted({record.recipe.seed for record in records if record.recipe.seed is not None})
    if seeds:
        facts["seeds"] = ", ".join(map(str, seeds))
    facts["cells"] = str(len(records))
    facts["computed"] = _span(sorted(record.created[:10] for record in records))
    facts["cpu time"] = f"{sum(record.cpu_seconds for record in records):.0f} s in all"
    return facts


def _span(days: Sequence[str]) -> str:
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
