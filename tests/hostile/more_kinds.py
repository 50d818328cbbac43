"""Checkpoints, search states, tables, journals, bundles, images, archives, example inputs, pickles, edits of all kinds."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import os
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

import secateur as sc
from hostile.changes import Answers, Kind, each, in_bytes, in_files, in_plain
from hostile.first_kinds import network, plain
from saved_folders import reseal
from secateur.allocate import CostTable
from secateur.allocate.tables import SiteCosts
from secateur.cli.inputs import example_inputs
from secateur.compression.journal import Journal, Trial
from secateur.criteria import Magnitude
from secateur.data.registry import REGISTRY, File
from secateur.measure import read_bench
from secateur.schedules import Iterative
from secateur.search import Fitness, HillClimbing, Space
from secateur.state import digest
from secateur.train import fit
from secateur.transforms import LowRank, Quantize, Share

SAMPLES = (torch.linspace(-1, 1, 48).view(16, 3), torch.arange(16) % 2)


def writes(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A maker of one file in a folder."""

    def write(folder: Path) -> None:
        folder.mkdir()
        make(folder / name)

    return write


def reads(name: str, *ways: Callable[[Path], Any]) -> Callable[[Path], Answers]:
    """A reader of one file in a folder."""
    return lambda folder: each(*(lambda way=way: way(folder / name) for way in ways))  # type: ignore[misc]


def damaged(folder: Path, chance: random.Random) -> bool:
    in_files(folder, chance)
    return False


def rewritten(folder: Path, chance: random.Random) -> bool:
    """What has no checksum may say another thing."""
    in_files(folder, chance)
    return True


# Checkpoints and states, whose hash anybody can make


def sealed_again(record_name: str) -> Callable[[Path, random.Random], bool]:
    """Damage a file, or change its record as one does who can seal it."""

    def change(folder: Path, chance: random.Random) -> bool:
        if chance.random() < 0.5:
            return damaged(folder, chance)
        (file,) = folder.iterdir()
        data = file.read_bytes()
        stop = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:stop])
        about = header["__metadata__"]
        about[record_name] = json.dumps(in_plain(json.loads(about[record_name]), chance))
        from safetensors.torch import load

        about["seal"] = digest(sorted(load(data).items()), about[record_name])
        text = json.dumps(header).encode("utf-8", "replace")
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[stop:])
        return True

    return change


def trained(file: Path) -> Any:
    """Two epochs, of which the file holds the first where it is there."""
    model = network()
    try:
        history = fit(model, SAMPLES, epochs=2, batch_size=8, checkpoint=file)
    except sc.SecateurError:
        assert plain(model) == plain(network()), "a refused checkpoint changed the model"
        raise
    return plain(model), [epoch.train_loss for epoch in history.epochs]


class _Stop(Exception):
    pass


def half_trained(file: Path) -> None:
    from secateur.train import Callback, Run

    class Stop(Callback):
        def on_epoch(self, run: Run) -> None:
            if file.exists():
                raise _Stop

    with contextlib.suppress(_Stop):
        fit(network(), SAMPLES, epochs=2, batch_size=8, checkpoint=file, callbacks=[Stop()])


def pruned(file: Path) -> Any:
    model = network()
    made = Iterative(Magnitude(), 0.5, steps=2, data=[SAMPLES])(
        model, sc.channels(model, SAMPLES[0][:1]), checkpoint=file
    )
    return {name: mask.tolist() for name, mask in made.keep.items()}, [s.loss for s in made.history.steps]


def searched(file: Path) -> Any:
    model = network()
    space = Space(model, sc.channels(model, SAMPLES[0][:1]))
    made = HillClimbing()(Fitness(space, SAMPLES), space, budget=6, state=file)
    return {name: mask.tolist() for name, mask in made.keep.items()}


# Tables, journals, bundles


def make_table(file: Path) -> None:
    site = SiteCosts(4, (4, 2), {"macs": (12.0, 6.0)}, (0.0, 0.5))
    CostTable({"macs": 12.0}, {"a": site, "b": site}, {"macs": {"a": {"b": 8.0}}}, about={"where": "here"}).save(file)


def read_table(file: Path) -> Any:
    table = CostTable.load(file)
    return table, table.narrowest, table.foretell(dict.fromkeys(table.sites, 2))


def make_journal(folder: Path) -> None:
    folder.mkdir()
    trials = [
        Trial(1, 0, 0.5, 0.4, 0.9, 0.8, True, "within", 1.5),
        Trial(2, 1, 0.3, None, None, None, False, "no", 2.0),
    ]
    Journal(folder, {"goal": "macs"}, {"metric": 0.9}, trials, "", "eager", [0.1, 0.2]).write()


def read_journal(folder: Path) -> Answers:
    return each(lambda: Journal.opened(folder, {"goal": "macs"}, Trial).to_dict())


def make_bundle(folder: Path) -> None:
    folder.mkdir()
    files = [{"model": name, "runtime": "litert", "file": f"{name}.tflite", "bytes": 9} for name in ("before", "after")]
    notes = {"macs": [20, 10], "parameters": [9, 4]}
    (folder / "bench.json").write_text(json.dumps({"files": files, "threads": [1], "repeats": 3, "notes": notes}))
    lines = []
    for name, us in (("before", 20), ("after", 10)):
        seconds = {"seconds": [1e-6 * us] * 3, "memory": 5, "difference": 0.0}
        lines += [json.dumps({"model": name, "runtime": "ort", "file": name, "threads": 1, **seconds})]
        lines += [f"## model={name} runtime=litert file={name}.tflite threads=1"]
        lines += [f"Inference timings in us: Init: 5, First inference: 1, Warmup (avg): 1, Inference (avg): {us}.5"]
    (folder / "results.txt").write_text("\n".join(lines))


def read_bundle(folder: Path) -> Answers:
    def said() -> Any:
        bench = read_bench(folder / "results.txt")
        return str(bench), bench.to_dict()

    return each(said)


# Images, archives, example inputs


def make_images(folder: Path) -> None:
    from PIL import Image

    for label, suffixes in {"cat": ("png", "jpg", "gif"), "dog": ("bmp", "ppm", "tiff", "webp")}.items():
        (folder / label).mkdir(parents=True)
        for number, suffix in enumerate(suffixes):
            pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.{suffix}")


def read_images(folder: Path) -> Answers:
    return each(lambda: sc.data.load("folder", root=folder, size=16).images.sum().item())


BODIES = {f"data_batch_{number}.bin": bytes([number, *range(12)]) * 2 for number in range(1, 6)} | {
    "test_batch.bin": bytes(range(13)) * 2
}
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
DIGITS = dict(
    zip(
        NAMES,
        (
            bytes([0, 0, 8, 3, *[0, 0, 0, 2], *[0, 0, 0, 4], *[0, 0, 0, 4]]) + bytes(range(32)),
            bytes([0, 0, 8, 1, 0, 0, 0, 2, 3, 1]),
        )
        * 2,
        strict=True,
    )
)


def make_archives(folder: Path) -> None:
    (folder / "cifar-10").mkdir(parents=True)
    (folder / "fashion-mnist").mkdir()
    with tarfile.open(folder / "cifar-10" / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for name, body in BODIES.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    for name, body in DIGITS.items():
        (folder / "fashion-mnist" / f"{name}.gz").write_bytes(gzip.compress(body, mtime=0))


@contextlib.contextmanager
def tiny_data() -> Iterator[None]:
    """The registry as if the tiny files were the true ones, and nothing else on this machine."""

    def files(bodies: dict[str, bytes], test: str) -> tuple[File, ...]:
        return tuple(
            File(name, "test" if name.startswith(test) else "train", len(body), hashlib.sha256(body).hexdigest())
            for name, body in bodies.items()
        )

    tiny = {
        "cifar-10": {"shape": (3, 2, 2), "files": files(BODIES, "test"), "system": ()},
        "fashion-mnist": {"shape": (1, 4, 4), "files": files(DIGITS, "t10k"), "system": ()},
    }
    infos = {name: dataclasses.replace(REGISTRY[name], **changes) for name, changes in tiny.items()}  # type: ignore[arg-type]
    with (
        mock.patch.dict(REGISTRY, infos),
        mock.patch.dict(os.environ, {"XDG_CACHE_HOME": "/nowhere", "SECATEUR_DATA": ""}),
    ):
        yield


def read_archives(folder: Path) -> Answers:
    def loaded(name: str) -> Any:
        data = sc.data.load(name, root=folder, download=False)
        return data.images.tolist(), data.labels.tolist()

    with tiny_data():
        return each(lambda: loaded("cifar-10"), lambda: loaded("fashion-mnist"))


def read_inputs(file: Path) -> Any:
    return {name: tensor.tolist() for name, tensor in dict(example_inputs([str(file)])).items()}  # type: ignore[arg-type]


def make_inputs(file: Path) -> None:
    save_file({"ids": torch.arange(6).view(2, 3), "mask": torch.ones(2, 3).bool(), "x": torch.linspace(0, 1, 4)}, file)


def read_pickle(file: Path) -> Any:
    model = network(1)
    before = plain(model)
    try:
        sc.saving.load_weights(file, model)
    except sc.SecateurError:
        assert plain(model) == before, "a refused file changed the model"
        raise
    return plain(model)


# Saved folders of every edit


def make_edited(folder: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 2))
    example = torch.zeros(1, 24)
    folder.mkdir()
    torch.save(model.state_dict(), folder / "whole.pt")
    for name, made in {
        "rank": LowRank(rank=2)(model, example),
        "shared": Share(bits=2)(model, example),
        "bits": Quantize(bits=4)(model, example),
        "cut": sc.prune(model, example, "l2", 0.5, latency=False),
        "masked": sc.prune(model, example, "l2", 0.5, unit="weights", latency=False),
    }.items():
        made.save(folder / name)


def read_edited(folder: Path) -> Answers:
    def loaded(name: str) -> Any:
        model = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 2))
        return plain(sc.load(folder / name, model))

    names = ("rank", "shared", "bits", "cut", "masked")
    return each(*(lambda name=name: loaded(name) for name in names))  # type: ignore[misc]


def change_edited(folder: Path, chance: random.Random) -> bool:
    """Damage one of the folders, or forge its manifest with the right checksums."""
    place = folder / chance.choice(["rank", "shared", "bits", "cut", "masked"])
    if chance.random() < 0.4:
        return damaged(place, chance)

    def forge(manifest: dict[str, Any]) -> None:
        part = chance.choice(["edits", "encoded", "shared", "report", "edits"])
        manifest[part] = in_plain(manifest[part], chance)

    if chance.random() < 0.5:
        in_bytes(chance.choice(sorted(place.glob("*.safetensors"))), chance)
        reseal(place)
    else:
        reseal(place, forge)
    return True


def whole_pickle(file: Path) -> None:
    torch.save(network().state_dict(), file)


MORE_KINDS = {
    "training": Kind(writes("t.safetensors", half_trained), reads("t.safetensors", trained), sealed_again("record")),
    "pruning": Kind(writes("p.safetensors", pruned), reads("p.safetensors", pruned), sealed_again("record")),
    "search": Kind(
        writes("s.safetensors", searched), reads("s.safetensors", searched), sealed_again("secateur-search")
    ),
    "table": Kind(writes("t.json", make_table), reads("t.json", read_table), rewritten),
    "journal": Kind(make_journal, read_journal, rewritten),
    "bundle": Kind(make_bundle, read_bundle, rewritten),
    "images": Kind(make_images, read_images, rewritten),
    "archives": Kind(make_archives, read_archives, damaged),
    "inputs": Kind(writes("i.safetensors", make_inputs), reads("i.safetensors", read_inputs), rewritten),
    "pickle": Kind(writes("w.pt", whole_pickle), reads("w.pt", read_pickle), rewritten),
    "edited": Kind(make_edited, read_edited, change_edited),
}
