"""Files made to do harm: each is refused with one clear error, in bounded time and memory, and nothing is run or written."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import secateur as sc
from hostile.changes import Answers
from hostile.first_kinds import network
from hostile.guard import harmless, within
from hostile.more_kinds import BODIES, tiny_data
from secateur import cli
from secateur.cli.inputs import example_inputs
from secateur.compression.journal import Journal, Trial
from secateur.files import DEEPEST, from_json
from secateur.lab import Recipe
from secateur.saving import load_weights, save_weights
from secateur.train import fit
from secateur.types import SecateurError
from test_mutations import KINDS, LONGEST, watched

SOURCE = Path(sc.__file__).parent


def only_truth(answers: Answers, truth: Answers, meant: bool = False) -> None:
    assert all(meant or now in (None, then) for now, then in zip(answers, truth, strict=True))


UNSEALED = ("images", "bundle", "toml", "recipe")
"""Kinds whose files have no checksum, so that less of them may say another thing."""


def files_of(whole: Path) -> list[Path]:
    """The files that secateur itself reads; a recipe's JSON is read by its caller."""
    return sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file() and p.name != "recipe.json")


# Truncated, and put in the place of a file


@pytest.mark.parametrize("name", KINDS)
def test_files_that_are_cut_short(name: str, tmp_path: Path) -> None:
    """At every 4 KiB, and at the first and the last byte."""
    kind, whole = watched(KINDS[name], tmp_path), tmp_path / "whole"
    KINDS[name].make(whole)
    truth = kind.read(whole)
    for file in files_of(whole):
        size = (whole / file).stat().st_size
        for length in sorted({*range(0, size, 4096), *range(size)[:1], *range(size)[-1:]}):
            shutil.rmtree(tmp_path / "cut", ignore_errors=True)
            shutil.copytree(whole, tmp_path / "cut")
            os.truncate(tmp_path / "cut" / file, length)
            with within(LONGEST):
                only_truth(kind.read(tmp_path / "cut"), truth, name in UNSEALED)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path)


def nowhere(path: Path) -> None:
    path.symlink_to(path.with_name("not there"))


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("put", [pipe, endless, loop, nowhere, folder])
@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_file_in_the_place_of_each(name: str, put: Callable[[Path], None], tmp_path: Path) -> None:
    kind, whole = watched(KINDS[name], tmp_path), tmp_path / "whole"
    KINDS[name].make(whole)
    truth = kind.read(whole)
    for file in files_of(whole):
        shutil.rmtree(tmp_path / "put", ignore_errors=True)
        shutil.copytree(whole, tmp_path / "put")
        (tmp_path / "put" / file).unlink()
        put(tmp_path / "put" / file)
        with within(LONGEST):
            only_truth(kind.read(tmp_path / "put"), truth, name in ("images", "journal"))


@pytest.mark.parametrize("name", KINDS)
def test_a_link_to_a_file_elsewhere_is_read_and_never_written(name: str, tmp_path: Path) -> None:
    """What a folder from elsewhere links to stays as it is."""
    kind, whole = KINDS[name], tmp_path / "whole"
    kind.make(whole)
    truth = kind.read(whole)
    (tmp_path / "elsewhere").mkdir()
    for number, file in enumerate(sorted(path for path in whole.rglob("*") if path.is_file())):
        place = tmp_path / "elsewhere" / f"{number}{file.suffix}"
        shutil.copy(file, place)
        before = place.read_bytes()
        file.unlink()
        file.symlink_to(place)
        with within(LONGEST):
            only_truth(kind.read(whole), truth)
        assert name == "store" or place.read_bytes() == before
        file.unlink()
        shutil.copy(place, file)


def test_what_a_store_s_witness_links_to_is_not_overwritten(tmp_path: Path) -> None:
    kind = KINDS["store"]
    kind.make(tmp_path / "store")
    (victim := tmp_path / "victim").write_text("mine")
    (witness,) = (tmp_path / "store").glob("*witness*")
    witness.unlink()
    witness.symlink_to(victim)
    kind.read(tmp_path / "store")
    from secateur.lab import Failure, Store

    store = Store(tmp_path / "store", create=False)
    store.fail(Failure(Recipe("toy", "prune", {"seed": 5}), "no", "Traceback", "2024-02-01T00:00:00"))
    store.close()
    assert victim.read_text() == "mine"


# Pickles


class Evil:
    """Pickled, it is a command that makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


def evil_pickle(file: Path, target: Path) -> None:
    file.write_bytes(pickle.dumps({"weight": Evil(target)}))


def evil_torch(file: Path, target: Path) -> None:
    torch.save({"0.weight": torch.ones(1), "x": Evil(target)}, file)


def evil_legacy(file: Path, target: Path) -> None:
    torch.save({"x": Evil(target)}, file, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [evil_pickle, evil_torch, evil_legacy])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".json", ".toml", ""])
def test_pickles_that_carry_code(write: Callable[[Path, Path], None], suffix: str, tmp_path: Path) -> None:
    file, target = tmp_path / f"evil{suffix}", tmp_path / "done"
    write(file, target)
    readers: list[Callable[[], Any]] = [
        lambda: load_weights(file, network()),
        lambda: fit(network(), (torch.zeros(4, 3), torch.zeros(4).long()), epochs=1, checkpoint=file),
        lambda: sc.allocate.CostTable.load(file),
        lambda: sc.measure.read_bench(file),
        lambda: Recipe.from_toml(file),
        lambda: example_inputs([str(file)]),
        lambda: sc.load(tmp_path, network()),
    ]
    for read in readers:
        with harmless(tmp_path), pytest.raises(SecateurError):
            read()
    assert not target.exists()


def test_no_pickle_is_loaded_but_in_our_own_pipes() -> None:
    """Workers are given their cells by the process that started them; weights are read as tensors alone."""
    allowed = {
        "lab/drive/executors/worker.py": {"pickle.loads"},
        "lab/drive/executors/ray.py": {"loads"},
        "saving/weights.py": {"torch.load"},
        "saving/manifest.py": set(),
    }
    loads = re.compile(
        r"\b(pickle\.loads?|cloudpickle\S*\.loads?|torch\.load|joblib\.load|dill\.loads?|marshal\.loads?|shelve\.open|"
        r"allow_pickle=True|yaml\.load|eval\(|exec\(|Unpickler|read_pickle)"
    )
    for file in SOURCE.rglob("*.py"):
        name = file.relative_to(SOURCE).as_posix()
        code = re.sub(r'"""[\s\S]*?"""', "", file.read_text(encoding="utf-8"))
        calls = {
            m[0] for line in code.splitlines() for m in loads.finditer(line.partition("#")[0]) if ".eval(" not in line
        }
        known = {word for word in allowed.get(name, set()) if word != "loads"}
        assert calls <= known, f"{name} loads {calls - known}"
    assert "weights_only=True" in (SOURCE / "saving" / "weights.py").read_text(encoding="utf-8")


# What swells


def test_weights_that_are_a_zip_bomb(tmp_path: Path) -> None:
    """A gigabyte of zeros in one megabyte; torch itself would take the memory."""
    torch.save({"weight": torch.zeros(4)}, tmp_path / "whole.pt")
    file = tmp_path / "bomb.pt"
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in whole.namelist():
            with bomb.open(name, "w", force_zip64=True) as part:
                for _ in range(1024 if name.endswith("data/0") else 0):
                    part.write(bytes(1 << 18))
                part.write(whole.read(name))
    assert file.stat().st_size < 1 << 20
    refused_cheaply(lambda: load_weights(file, network()))


def refused_cheaply(read: Callable[[], Any], megabytes: int = 200) -> None:
    """Refused in time, and the process has not grown by more."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with within(LONGEST), pytest.raises(SecateurError):
        read()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * megabytes


@pytest.mark.parametrize("bomb", ["before", "pax", "name"])
def test_archives_that_swell(bomb: str, tmp_path: Path) -> None:
    """Gigabytes of zeros before the member, in a header, or as a name."""
    place = tmp_path / "cifar-10" / "cifar-10-binary.tar.gz"
    place.parent.mkdir()
    kinds = {"before": tarfile.REGTYPE, "pax": tarfile.XHDTYPE, "name": tarfile.GNUTYPE_LONGNAME}
    member = tarfile.TarInfo("zeros")
    member.size, member.type = 1 << 33, kinds[bomb]
    with gzip.open(place, "wb", compresslevel=1) as stream:
        stream.write(member.tobuf())
        for _ in range(64):
            stream.write(bytes(1 << 20))
    with tiny_data():
        refused_cheaply(lambda: sc.data.load("cifar-10", root=tmp_path, download=False))


@pytest.mark.parametrize("name", ["../../evil", "/evil", "cifar-10-batches-bin/../../../evil"])
def test_names_that_lead_out_of_an_archive(name: str, tmp_path: Path) -> None:
    place = tmp_path / "in" / "cifar-10" / "cifar-10-binary.tar.gz"
    place.parent.mkdir(parents=True)
    with tarfile.open(place, "w:gz") as tar:
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for inside, body in {name: b"evil", **{f"../{key}": body for key, body in BODIES.items()}}.items():
            member = tarfile.TarInfo(inside)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    with tiny_data(), harmless(tmp_path / "in"):
        assert len(sc.data.load("cifar-10", root=tmp_path / "in", download=False)) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_pictures_that_swell(tmp_path: Path) -> None:
    """Of a line of a million pixels, resized to its short side, gigabytes would be made; and a picture of 400 million."""
    from PIL import Image

    for number, shape in enumerate([(1_000_000, 1), (1, 1_000_000)]):
        place = tmp_path / str(number) / "a"
        place.mkdir(parents=True)
        Image.new("1", shape).save(place / "line.png")
        refused_cheaply(lambda place=place: sc.data.load("folder", root=place.parent))  # type: ignore[misc]
    place = tmp_path / "huge" / "a"
    place.mkdir(parents=True)
    data = io.BytesIO()
    Image.new("1", (8, 8)).save(data, "png")
    header = bytearray(data.getvalue())
    header[16:24] = (20_000).to_bytes(4, "big") * 2
    import zlib

    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (place / "huge.png").write_bytes(header)
    refused_cheaply(lambda: sc.data.load("folder", root=place.parent))


def deep(count: int) -> str:
    return "[" * count + "]" * count


@pytest.mark.parametrize("text", [deep(10_000), '{"a":' * 10_000 + "1" + "}" * 10_000, deep(DEEPEST + 2)])
def test_plain_data_nested_thousands_deep(text: str, tmp_path: Path) -> None:
    file = tmp_path / "deep.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="nested more than"):
        from_json(text)
    (tmp_path / "secateur.json").write_text(text)
    (tmp_path / "compression.json").write_text(text)
    (tmp_path / "bench.json").write_text(text)
    (tmp_path / "results.txt").write_text(text)
    (tmp_path / "deep.toml").write_text(f"a = {text}" if text.startswith("[") else text)
    readers: list[Callable[[], Any]] = [
        lambda: sc.load(tmp_path, network()),
        lambda: Journal.opened(tmp_path, {}, Trial),
        lambda: sc.measure.read_bench(tmp_path / "results.txt"),
        lambda: sc.allocate.CostTable.load(file),
        lambda: Recipe.from_toml(tmp_path / "deep.toml"),
    ]
    for read in readers:
        refused_cheaply(read)


@pytest.mark.parametrize("size", [1 << 62, 1 << 40, (1 << 26) + 1, 0])
def test_headers_that_claim_too_much(size: int, tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", network())
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(size.to_bytes(8, "little") + data[8:])
    refused_cheaply(lambda: load_weights(tmp_path / "w.safetensors", network()))
    refused_cheaply(lambda: example_inputs([str(tmp_path / "w.safetensors")]))


@pytest.mark.parametrize("shape", [[1 << 40], [1 << 20, 1 << 20, 1 << 20, 1 << 20], [-1], [0]])
def test_tensors_that_claim_too_much(shape: list[int], tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    refused_cheaply(lambda: load_weights(tmp_path / "x.safetensors", network()))
    refused_cheaply(lambda: example_inputs([str(tmp_path / "x.safetensors")]))


def test_a_text_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    """It is sparse: it takes no room on the disk."""
    for name in ("secateur.json", "compression.json", "results.txt", "big.toml"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 34)
    refused_cheaply(lambda: sc.load(tmp_path, network()))
    refused_cheaply(lambda: Journal.opened(tmp_path, {}, Trial))
    refused_cheaply(lambda: sc.measure.read_bench(tmp_path / "results.txt"))
    refused_cheaply(lambda: sc.allocate.CostTable.load(tmp_path / "secateur.json"))
    refused_cheaply(lambda: Recipe.from_toml(tmp_path / "big.toml"))


# Weights


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(value: float, tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0] = value  # type: ignore[index]
    save_weights(tmp_path / "w.safetensors", model)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        with pytest.raises(sc.FileError, match=r"0\.weight.*1 NaN or infinite"):
            load_weights(tmp_path / name, network())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.int64, torch.bool, torch.uint8])
def test_weights_of_another_type(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({name: x.to(dtype) for name, x in network().state_dict().items()}, tmp_path / "w.pt")
    with pytest.raises(sc.FileError, match=r"0\.weight"):
        load_weights(tmp_path / "w.pt", network())


# The same through the command line

PRUNE = ["prune", "hostile.first_kinds:network", "--input", "[1,3]", "--weights"]

COMMANDS: dict[str, list[list[str]]] = {
    "store": [["runs", "list", "--store", "{}"], ["runs", "failures", "--store", "{}", "--json"]],
    "weights": [
        [*PRUNE, "{}/w.safetensors", "--out", "{}/out"],
        ["export", "hostile.first_kinds:network", "--input-shape", "1,3", "--pruned", "{}/small", "--out", "{}/o.onnx"],
    ],
    "toml": [["report", "{}/mine.toml", "--store", "{}/none"]],
    "inputs": [["inspect", "hostile.first_kinds:network", "--input", "{}/i.safetensors"]],
    "bundle": [["bench", "hostile.first_kinds:network", "--read", "{}/results.txt"]],
    "pickle": [[*PRUNE, "{}/w.pt", "--out", "{}/out"]],
}


def by_command(
    words: list[str], place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> int:
    """Run a command in this process; one that fails says so in one line, without a traceback."""
    monkeypatch.setattr(sys, "argv", ["secateur", *(word.replace("{}", str(place)) for word in words)])
    capsys.readouterr()
    code: Any = 0
    try:
        with within(LONGEST):
            cli.main()
    except SystemExit as end:
        code = end.code or 0
    said = capsys.readouterr()
    assert code in (0, 1, 2), said.err
    assert "Traceback" not in said.err
    if code == 1:
        assert said.err.splitlines()[-1].startswith("secateur: "), said.err
    return code


def bulk(name: str, seeds: range, tmp_path: Path, capsys: Any, monkeypatch: Any) -> list[int]:
    import random

    codes = []
    KINDS[name].make(tmp_path / "whole")
    for seed in seeds:
        shutil.rmtree(tmp_path / "changed", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "changed")
        KINDS[name].change(tmp_path / "changed", random.Random(seed))
        codes += [by_command(words, tmp_path / "changed", capsys, monkeypatch) for words in COMMANDS[name]]
    return codes


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_on_changed_files(name: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    bulk(name, range(3), tmp_path, capsys, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_on_many_changed_files(name: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    codes = bulk(name, range(100, 250), tmp_path, capsys, monkeypatch)
    assert codes.count(1) > len(codes) / 10


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_on_pipes(name: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    KINDS[name].make(tmp_path / "whole")
    for file in sorted(path for path in (tmp_path / "whole").rglob("*") if path.is_file()):
        file.unlink()
        os.mkfifo(file)
    for words in COMMANDS[name]:
        assert by_command(words, tmp_path / "whole", capsys, monkeypatch) == 1


def test_importing_by_path_is_the_only_code_that_a_study_s_file_can_name(tmp_path: Path) -> None:
    """A study's file names functions that are imported, as a script would: it is trusted as one (see SECURITY.md)."""
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\ntitle = "t"\ndata = ["digits"]\nmodel = "os:system"\n')
    done = subprocess.run(
        [sys.executable, "-m", "secateur", "report", str(file), "--store", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
