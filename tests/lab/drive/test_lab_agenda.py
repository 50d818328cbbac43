"""The order of cells, the locks between runs, and Ctrl-C where it does no harm."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.lab import Cell, Recipe
from secateur.lab.drive.agenda import Agenda
from secateur.lab.drive.interrupts import Interrupts
from secateur.lab.drive.locks import Locks
from secateur.types import FileError


def cell(name: str, *needs: Cell) -> Cell:
    return Cell(Recipe("s", name, {}, tuple(need.id for need in needs)), print)  # type: ignore[arg-type]


def all_of(agenda: Agenda) -> list[str]:
    found = []
    while (one := agenda.next()) is not None:
        found.append(one.recipe.kind)
    return found


# a ─► c ─► d, b ─► d
A, B = cell("a"), cell("b")
C = cell("c", A)
D = cell("d", C, B)


def test_a_cell_starts_when_its_needs_are_finished() -> None:
    agenda = Agenda([A, B, C, D], set())
    assert all_of(agenda) == ["a", "b"]
    agenda.finish(B.id)
    assert all_of(agenda) == []
    agenda.finish(A.id)
    assert all_of(agenda) == ["c"]
    agenda.finish(C.id)
    assert all_of(agenda) == ["d"]


def test_what_is_finished_is_not_waited_for() -> None:
    assert all_of(Agenda([B, C], {A.id})) == ["b", "c"]


def test_those_that_need_a_failed_cell_are_dropped() -> None:
    agenda = Agenda([A, B, C, D], set())
    assert all_of(agenda) == ["a", "b"]
    assert agenda.drop(A.id) == [C, D]
    agenda.finish(B.id)
    assert all_of(agenda) == []
    assert agenda.drop(A.id) == []


def test_a_need_that_is_named_twice_is_one() -> None:
    twice = cell("t", A, A)
    agenda = Agenda([A, twice], set())
    assert all_of(agenda) == ["a"]
    agenda.finish(A.id)
    assert all_of(agenda) == ["t"]


@given(st.data())
def test_every_cell_comes_once_and_after_its_needs(data: st.DataObject) -> None:
    cells: list[Cell] = []
    for position in range(data.draw(st.integers(1, 12))):
        needs = data.draw(st.sets(st.integers(0, position - 1), max_size=3)) if position else set()
        cells.append(cell(str(position), *(cells[need] for need in needs)))
    agenda, running, seen = Agenda(cells, set()), list[Cell](), list[str]()
    while (one := agenda.next()) or running:
        if one is not None:
            assert set(one.needs) <= set(seen)
            running.append(one)
        if running and (one is None or data.draw(st.booleans())):
            ended = running.pop(data.draw(st.integers(0, len(running) - 1)))
            seen.append(ended.id)
            agenda.finish(ended.id)
    assert sorted(seen) == sorted(one.id for one in cells)


# Locks

HOLDER = """
import sys, time
from pathlib import Path
from secateur.lab.drive.locks import Locks
locks = Locks(Path(sys.argv[1]))
print(locks.take("a" * 16), flush=True)
time.sleep(60)
"""


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    mine = Locks(tmp_path)
    assert not mine.take("a" * 16)
    assert mine.take("b" * 16)
    process.kill()
    process.communicate()
    assert mine.take("a" * 16)
    mine.give_back_all()
    assert not list((tmp_path / "locks").iterdir()), "a lock that is given back leaves no file"


def test_a_lock_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "locks").touch()
    with pytest.raises(FileError, match=r"cannot lock a cell with .*locks"):
        Locks(tmp_path).take("a" * 16)


# Ctrl-C


def test_ctrl_c_waits_until_it_is_heard() -> None:
    reached = []
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        reached.append("the work was not disturbed")
        with pytest.raises(KeyboardInterrupt), interrupts.heard():
            reached.append("not this")
    assert reached == ["the work was not disturbed"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_is_heard_at_once_where_it_may_be_and_the_second_everywhere() -> None:
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.heard():
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_handler_of_someone_else_stays() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with Interrupts():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


def test_another_thread_changes_no_handler() -> None:
    seen: list[object] = []

    def look() -> None:
        with Interrupts() as interrupts, interrupts.heard():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
