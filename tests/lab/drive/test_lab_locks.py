"""Locks of cells: what killed runs leave goes, what others hold stays."""

from __future__ import annotations

from pathlib import Path

from secateur.lab.drive.locks import Locks
from secateur.lab.keep import paths


def test_only_what_nobody_holds_of_finished_cells_is_swept(tmp_path: Path) -> None:
    left, held, unfinished = "a" * 16, "b" * 16, "c" * 16
    theirs = Locks(tmp_path)
    assert theirs.take(held)
    for identity in (left, unfinished):
        paths.lock_file(tmp_path, identity).touch()
    Locks(tmp_path).sweep({left, held})
    assert not paths.lock_file(tmp_path, left).exists()
    assert paths.lock_file(tmp_path, held).exists()
    assert paths.lock_file(tmp_path, unfinished).exists()
    theirs.give_back_all()
