"""Round after round in one process: nothing grows, and threads do not disturb each other."""

from __future__ import annotations

import ctypes
import errno
import gc
import linecache
import os
import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import graph_module

import secateur as sc
from oracle.masked import KeptStatistics, living, relative_difference, run, zeroed
from secateur.files import write_bytes
from zoo.random_nets import RandomNet, random_keep, random_net


def padded(model: RandomNet, sites: sc.Sites, keep: sc.Keep, x: torch.Tensor) -> torch.Tensor:
    """What the cut should answer, without the library's masks: zeros by hand; norms take their statistics over what is kept."""
    normed = any("norm" in op or "standard" in op for op in model.text)
    if not normed:
        return cast("torch.Tensor", run(zeroed(model, sites, keep), (x,)))
    mode = KeptStatistics(averages=True)
    left = living(model, sites, keep, (x,), mode)
    mode.seen, mode.left = [], left
    return cast("torch.Tensor", run(zeroed(model, sites, keep), (x,), mode))


def _tells_removed(model: RandomNet) -> bool:
    """Whether zeros by hand say what was removed: to a norm behind a pad, its zeros look like channels that are gone."""
    return "pad" not in model.text or not any("norm" in op for op in model.text[model.text.index("pad") :])


def round_of(seed: int, folder: Path) -> bool | None:
    """Cut a random model, compare it with the masked one and with zeros by hand, save it and load it; None where nothing can be cut."""
    model = random_net(seed)
    x = model.example(batch=3, seed=1)
    try:
        sites = sc.channels(model, x)
        keep = random_keep({name: site.shape for name, site in sites.items()}, seed)
        result = sc.Result.of(model, sites, keep)
    except sc.SecateurError:
        return None
    small = result.model.eval()
    with torch.no_grad():
        same = relative_difference(sc.mask(model, sites, keep)(x), small(x)) < 1e-6
        if _tells_removed(model):
            same = same and relative_difference(padded(model, sites, keep, x), small(x)) < 1e-5
        try:
            again = sc.load(result.save(folder), model).eval()
        except sc.FileError:  # a graph whose inputs cannot be kept says so
            return same
        return same and torch.equal(again(x), small(x))


def held() -> tuple[int, int, int]:
    """Resident memory in pages, open files, threads; without what torch keeps of every export, with no bound.

    That is 48 kB a round: the answers of its fake tensors, and the source of each `torch.fx` module. What the C library
    has freed and not given back is given back where it can be asked to.
    """
    FakeTensorMode.cache_clear()
    graph_module._loader.eval_cache.clear()
    linecache.clearcache()
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages, len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say what a process holds")
def test_a_thousand_rounds_leave_nothing_behind(tmp_path: Path) -> None:
    """After a hundred rounds, in which caches fill, no more than a fiftieth is added."""
    answers = [round_of(seed, tmp_path / "small") for seed in range(100)]
    pages, files, threads = held()
    answers += [round_of(seed, tmp_path / "small") for seed in range(100, 1000)]
    assert answers.count(False) == 0
    assert answers.count(True) > 500
    later = held()
    assert later[0] < 1.02 * pages
    assert later[1] <= files
    assert later[2] <= threads


def test_a_few_rounds(tmp_path: Path) -> None:
    answers = [round_of(seed, tmp_path / "small") for seed in range(4)]
    assert False not in answers
    assert True in answers


def pruned_outputs(seed: int, folder: Path) -> torch.Tensor:
    """Prune a model of a seed, save it into the folder and load it again."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16 + seed), torch.nn.ReLU(), torch.nn.Linear(16 + seed, 3))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.sin(torch.arange(parameter.numel()) * (seed + number + 1.0)).view_as(parameter))
    x = torch.ones(2, 6)
    result = sc.prune(model, x, "l2", 0.5, latency=False)
    with torch.no_grad():
        outputs: torch.Tensor = sc.load(result.save(folder / str(seed)), model)(x)
    return outputs


def test_eight_threads_on_one_folder_get_what_one_gets_alone(tmp_path: Path) -> None:
    alone = [pruned_outputs(seed, tmp_path / "alone") for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: pruned_outputs(seed, tmp_path / "together"), range(8)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


# Faults of the disk and of the process


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk: the system refuses to write more."""
    file = tmp_path / "file"
    write_bytes(file, b"old")
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, old_limit[1]))
        with pytest.raises(sc.FileError, match="free space"):
            write_bytes(file, bytes(4096))
        with pytest.raises(sc.FileError, match=r"folder|free space"):
            pruned_outputs(0, tmp_path / "models")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, heard)
    assert file.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["file"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("step", ["open", "flush", "replace"])
def test_a_disk_that_refuses_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, step: str
) -> None:
    """Root may write everywhere, so that the system's answer is put in: read-only, not permitted, damaged, over the quota."""
    file = tmp_path / "file"
    write_bytes(file, b"old")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    for name in {"open": ["write_bytes", "unlink"], "flush": ["unlink"], "replace": ["replace", "unlink"]}[step]:
        monkeypatch.setattr(Path, name, refuse)
    if step == "flush":
        monkeypatch.setattr("secateur.files.flush", refuse)
    with pytest.raises(sc.FileError, match=r"cannot write .*permissions and free space"):
        write_bytes(file, b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b"old"


INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
from secateur.__main__ import main
sys.argv = ["secateur", "inspect", "lenet-300-100"]
main()
"""


@pytest.mark.parametrize("module", ["secateur.cli", "typer", "torch", "secateur.structure"])
def test_ctrl_c_during_import(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, module], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "secateur: interrupted")
    assert "Traceback" not in done.stderr


WRITER = """
import sys
from contextlib import suppress
from pathlib import Path
from typing import cast
from secateur.files import write_bytes
print("ready", flush=True)
for number in range(10**6):
    write_bytes(Path(sys.argv[1]), bytes([number % 256]) * 65536)
"""


def test_killed_at_any_write_a_file_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            threading.Event().wait(0.1)
            writer.kill()
        if file.exists():
            data = file.read_bytes()
            assert len(data) == 65536
            assert len(set(data)) == 1
