"""Peak memory of a training on a folder of images, streamed: does it grow with the folder?

    python benchmarks/streaming.py 1000 20000

Small JPEG files are made on the spot (as copies of a few, under names of their own). A process of its own then trains one
epoch of a small network on them, rates it and scores its filters; its peak resident memory is what the system counted.
`index` is what listing the files adds, for each image.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORK = """
import resource, sys, time
import torch
from torch import nn
from secateur import data
from secateur.criteria import Taylor
from secateur.measure import evaluate
from secateur.structure import channels
from secateur.train import fit

torch.set_num_threads(1)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
images = data.stream(f"folder:{sys.argv[1]}:32", augment=("flip", "crop"), workers=2)
model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10))
listed, begin = peak(), time.perf_counter()
fit(model, images, epochs=1, batch_size=64)
seconds = time.perf_counter() - begin
evaluate(model, images, batch_size=64)
Taylor(images)(model, channels(model, images.head(1)))
print(before, listed, peak(), len(images) / seconds)
"""


def make(folder: Path, count: int) -> None:
    """Ten classes of images, `count` in all."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    pixels = [random.integers(0, 255, (40, 40, 3), dtype=np.uint8) for _ in range(10)]
    for label, image in enumerate(pixels):
        place = folder / f"class{label}"
        place.mkdir()
        first = place / "00000000.jpg"
        Image.fromarray(image).save(first)
        for number in range(1, count // 10):
            # A name of its own for the same bytes: reading it is all the same, and the disk stays small.
            (place / f"{number:08}.jpg").hardlink_to(first)


def main() -> None:
    """Print one row for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", type=int, nargs="*", default=[1000, 20_000])
    print("images    as tensors MB   peak MB: imports   listed   in all   images/s   seconds")
    for count in parser.parse_args().counts:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), count)
            begin = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", WORK, folder], capture_output=True, text=True, check=True)
            before, listed, peak, speed = map(float, done.stdout.split())
        whole, seconds = count * 3 * 32 * 32 * 4 / 1e6, time.perf_counter() - begin
        row = f"{count:<9,} {whole:>13.0f} {before:>18.0f} {listed:>8.0f} {peak:>8.0f} {speed:>10.0f} {seconds:>9.0f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
