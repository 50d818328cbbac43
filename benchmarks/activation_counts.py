"""A pass that counts activations beside a plain forward pass: CPU seconds at one thread, in turns.

python benchmarks/activation_counts.py [--batch-sizes 50 500 1000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from secateur import models
from secateur.activations import activation_counts, activation_statistics
from secateur.structure import channels

NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "calli-sum": ({}, 300_000),
    "lenet-300-100": ({}, 60_000),
    "calli-autoencoder": ({}, 4000),
    "calli-mnist": ({}, 2000),
    "calli-cifar": ({}, 2000),
    "cnn-4": ({}, 2000),
    "vgg-16": ({"input_size": 32, "classes": 10, "width": 0.25}, 2000),
    "resnet-18": ({}, 100),
}
"""Options, and how many samples a pass has."""


def timed(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def ratios(name: str, batch_size: int, rounds: int) -> tuple[float, float, float]:
    """Seconds of a forward pass, and how many of them a count and all statistics take, each the least of the rounds."""
    options, images = NETWORKS[name]
    model = models.build(name, seed=0, **options).eval()
    x = torch.rand(images, *models.input_shape(name, **options))
    data, sites = (x, torch.zeros(len(x))), channels(model, x[:1])

    def forward() -> None:
        with torch.no_grad():
            for part in x.split(batch_size):
                model(part)

    def count(counting: Callable[..., object]) -> Callable[[], object]:
        return lambda: counting(model, sites, data, batch_size=batch_size)

    runs = (forward, count(activation_counts), count(activation_statistics))
    rows = [[timed(run) for run in runs] for _ in range(rounds)]
    plain, counted, whole = (min(column) for column in zip(*rows, strict=True))
    return plain, counted / plain, whole / plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[50, 500, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'network':20} batch forward   count  all statistics")
    for name in options.networks:
        for batch_size in options.batch_sizes:
            plain, count, whole = ratios(name, batch_size, options.rounds)
            print(f"{name:20} {batch_size:5} {plain:6.4f}s {count:6.3f}  {whole:6.3f}", flush=True)


if __name__ == "__main__":
    main()
