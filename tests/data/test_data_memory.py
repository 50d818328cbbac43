"""A training on a folder laid out as ImageNet, in a process that may not take the memory that all its images need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SIZE, COUNT, ROOM_MB = 64, 3000, 48
"""All images take 147 MB as tensors, and the process may take 48 MB more than it has when they are listed."""

WORK = """
import resource, sys
import torch
from torch import nn
from secateur import data
from secateur.criteria import Taylor
from secateur.measure import evaluate
from secateur.structure import channels
from secateur.train import fit

torch.set_num_threads(1)
how, root, size, room = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
name = f"folder:{root}:{size}"

def use(train, validation, batch_size):
    layers = nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)
    model = nn.Sequential(*layers)
    fit(model, train, validation, epochs=1, batch_size=batch_size)
    Taylor(validation)(model, channels(model, validation.head(1)))
    return evaluate(model, train, batch_size=batch_size).count

def in_use():
    pages = open("/proc/self/status").read().split("VmData:")[1].split()[0]
    return int(pages) * 1024

splits = [data.stream(name, split, augment=("flip", "crop") * (split == "train"), workers=2) for split in ("train", "validation")]
# Once before the cap: what the libraries take at the first call is no image's.
use(splits[0].subset(range(128)), splits[1].subset(range(32)), 32)
cap = in_use() + room * 1024**2
resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
print(use(*splits, 32) if how == "stream" else len(data.load(name)))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ with four classes, of a few pictures under many names."""
    pillow = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("imagenet")
    for split, count in (("train", COUNT), ("val", COUNT // 20)):
        for label in range(4):
            home = folder / split / f"n{label:08}"
            home.mkdir(parents=True)
            first = home / "ILSVRC2012_00000000.JPEG"
            pillow.new("RGB", (80, 70), (60 * label, 90, 30)).save(first, "JPEG")
            for number in range(1, count // 4):
                (home / f"ILSVRC2012_{number:08}.JPEG").hardlink_to(first)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux caps what a process takes for its data")
@pytest.mark.parametrize(("how", "ends"), [("stream", True), ("load", False)])
def test_a_tree_is_streamed_where_it_could_not_be_loaded(tree: Path, how: str, ends: bool) -> None:
    words = [sys.executable, "-c", WORK, how, str(tree), str(SIZE), str(ROOM_MB)]
    # One arena, so that what is freed is there for every thread.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert (done.returncode == 0) == ends, done.stderr
    if ends:
        assert done.stdout.split() == [str(COUNT)]
    else:
        assert "memory" in done.stderr.lower(), done.stderr
