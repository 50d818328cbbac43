"""What reports say where one seed ran, networks guess, numbers are missing or without end, and cells failed: never "nan"."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from frozen_cells import SMALL
from matplotlib.text import Text

from secateur.lab import Picture, Report, Results, Store, Study, Table, run_study
from secateur.lab.show.blocks import Block
from secateur.studies import STUDIES, by_name

NO_WORDS = re.compile(r"(?<![\w.\-])[+−-]?(nan|NaN|inf|Infinity|None|NaT)(?![\w\-])|±\s*–|–\s*%")


def texts(report: Report) -> Iterator[str]:
    """All that a report says."""
    yield from (report.title, *report.summary)
    for card in report.cards:
        yield from (card.label, card.value, card.note, card.interval)
    for block in report.blocks():
        yield from _of(block)


def _of(block: Block) -> Iterator[str]:
    if isinstance(block, str):
        yield block
    elif isinstance(block, Table):
        yield block.caption
        for row in block.rows:
            yield from (column.text(value) for column, value in zip(block.columns, row, strict=True))
    elif isinstance(block, Picture):
        yield from (block.caption, block.alt)
        yield from (text.get_text() for text in block.figure.findobj(Text))


def changed(results: Results, change: Callable[[str, float], float], kinds: Callable[[str], bool]) -> Results:
    """The results with every measured fraction of the cells of some kinds changed, by name and value; and every history."""

    def at(name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [at(name, entry) for entry in value]
        return change(name, value) if isinstance(value, float) else value

    frame, histories = results.frame.copy(), results.histories.copy()
    for name in {name for record in results.store.records() for name in record.metrics} & set(frame):
        values = [at(name, v) if kinds(kind) else v for v, kind in zip(frame[name], frame["kind"], strict=True)]
        frame[name] = values
    for name in histories.select_dtypes("float").columns:
        histories[name] = [change(name, value) for value in histories[name]]
    return replace(results, frame=frame, histories=histories)


def without(results: Results, every: int) -> Results:
    """The results in which one of so many cells has failed, of each kind."""
    place = results.frame.groupby("kind").cumcount()
    return replace(results, frame=results.frame[place % every != every - 1].reset_index(drop=True))


def _everything(kind: str) -> bool:
    return True


def _later(kind: str) -> bool:
    return kind != "train"


def _loss(end: float) -> Callable[[str, float], float]:
    return lambda name, value: end if "loss" in name else value


def _guessing(name: str, value: float) -> float:
    return 0.1 if "accuracy" in name else value


TROUBLES: dict[str, Callable[[Results], Results]] = {
    "nothing else": lambda results: results,
    "no losses after training": lambda results: changed(results, _loss(math.nan), _later),
    "no losses": lambda results: changed(results, _loss(math.nan), _everything),
    "losses without end": lambda results: changed(results, _loss(math.inf), _everything),
    "chance": lambda results: changed(results, _guessing, _everything),
    "every other failed": lambda results: without(results, 2),
    "one cell of a kind": lambda results: replace(results, frame=results.frame.groupby("kind").head(1)),
    "trained alone": lambda results: replace(results, frame=results.frame[results.frame["kind"] == "train"]),
}


def bad_words(study: Study, results: Results) -> list[str]:
    """What a report must not say, for each trouble."""
    return [
        f"{trouble}: {text}"
        for trouble, change in TROUBLES.items()
        for text in texts(study.pages(change(results)))
        if NO_WORDS.search(text)
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", STUDIES)
def test_no_study_says_nan(name: str, tmp_path: Path) -> None:
    study, store = by_name(name), Store(tmp_path)
    options = {**SMALL[name], "seeds": 1}
    assert run_study(study, store, options, executor="serial", progress=False).exit_code == 0, store.failures()
    assert not bad_words(study, study.planned(options).results(store))
