"""The same contents make the same file, in any process: a study that names a file by its contents keeps its ids."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from secateur.saving.manifest import EDITS, MANIFEST, MODEL

CODE = """
import hashlib, json, sys, time
from pathlib import Path
import torch
from torch import nn
time.perf_counter = time.monotonic = lambda: 0.0    # the history of a training holds seconds
from secateur.criteria import Magnitude
from secateur.pruning import prune
from secateur.saving import save_weights
from secateur.schedules import Iterative
from secateur.search import Fitness, RandomSearch, Space
from secateur.structure import channels
from secateur.train import TrainOptions, fit
torch.set_num_threads(1)
torch.manual_seed(0)
folder = Path(sys.argv[1])
tied = nn.Sequential(*[nn.Linear(6, 6) for _ in range(6)])
for number in (1, 2, 4, 5):
    tied[number].weight = tied[number % 3].weight if number > 3 else nn.Parameter(torch.randn(6, 6))
save_weights(folder / "weights.safetensors", tied)
model, data = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)), (torch.randn(20, 6), torch.arange(20) % 6)
fit(model, data, options=TrainOptions(epochs=1), checkpoint=folder / "training")
sites = channels(model, data[0])
prune(model, data[0], sparsity=0.5).save(folder / "small")
Iterative(Magnitude(), 0.5, steps=2)(model, sites, checkpoint=folder / "schedule")
space = Space(model, sites)
RandomSearch()(Fitness(space, data), space, 20, state=folder / "search")
files = sorted(f for f in folder.rglob("*") if f.is_file())
print(json.dumps({str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The checksums of the same files, written by processes whose sets have other orders."""
    checksums = []
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": seed}
        words = [sys.executable, "-c", CODE, str(tmp_path_factory.mktemp("written"))]
        run = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
        assert run.returncode == 0, run.stderr
        checksums.append(json.loads(run.stdout))
    return checksums


NAMES = [
    "weights.safetensors",
    "training",
    "schedule",
    "search",
    *(f"small/{name}" for name in (EDITS, MANIFEST, MODEL)),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_contents_make_the_same_file(name: str, written: list[dict[str, str]]) -> None:
    assert len({checksums[name] for checksums in written}) == 1


def test_no_file_is_left_out(written: list[dict[str, str]]) -> None:
    assert sorted(written[0]) == sorted(NAMES)
