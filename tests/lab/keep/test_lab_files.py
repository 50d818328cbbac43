"""Files are whole or not there; names come from one place; extras are asked for by name."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import stat
import sys
from pathlib import Path

import pytest

from secateur.files import replacing, require, sweep, write_text
from secateur.lab.keep import paths
from secateur.lab.keep.environment import environment, merged
from secateur.types import FileError, SecateurError


def test_a_broken_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with contextlib.suppress(RuntimeError), replacing(target) as part:
        part.write_text("half of the n")
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_permissions_are_an_ordinary_files(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "ours", "x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")]
    assert modes[0] == modes[1]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"cannot write .*file/x"):
        write_text(tmp_path / "file" / "x", "")


def test_sweep_takes_old_parts_only(tmp_path: Path) -> None:
    for name in (".a.safetensors.1.part", ".b.safetensors.2.part", "c.part"):
        (tmp_path / name).touch()
    os.utime(tmp_path / ".a.safetensors.1.part", (0, 0))
    os.utime(tmp_path / "c.part", (0, 0))
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".b.safetensors.2.part", "c.part"]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SecateurError, match=r"needs pandas.*pip install 'secateur\[lab\]'"):
        require("pandas", "lab")


def test_runs_live_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(paths.RUNS_VARIABLE, raising=False)
    assert paths.store_dir("toy") == Path("runs/toy")
    monkeypatch.setenv(paths.RUNS_VARIABLE, str(tmp_path))
    assert paths.store_dir("toy") == tmp_path / "toy"


def test_environment_outside_a_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    facts = environment()
    assert facts["commit"] is None
    assert facts["threads"] == 1
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] is None  # no git at all


def test_environment_tells_the_machine_but_names_nobody() -> None:
    facts = environment(executor="processes", worker="worker 2")
    assert (facts["executor"], facts["worker"]) == ("processes", "worker 2")
    assert re.fullmatch(r"[0-9a-f]{8}", str(facts["machine"]))
    assert facts["machine"] == environment()["machine"]
    assert re.fullmatch(r"\d+\.\d GiB", str(facts["memory"]))
    text = json.dumps({**facts, "commit": None, "cpu": None})
    for name in (platform.node(), Path.home().name, str(Path.home())):
        assert name not in text
    assert not {"executor", "worker"} & set(environment())


def test_merged_keeps_what_differs() -> None:
    both = merged([{"torch": "1", "commit": None}, {"torch": "2", "commit": "a"}, {"torch": "1"}])
    assert both == {"torch": "1, 2", "commit": "a"}
