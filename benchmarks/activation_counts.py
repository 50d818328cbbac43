"""A pass that counts activations beside a plain forward pass: CPU seconds at one thread, in turns.

python benchmarks/activation_counts.py [--images 500] [--rounds 5]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from secateur import models
from secateur.activations import activation_counts, activation_statistics
from secateur.structure import channels

NETWORKS = ("calli-sum", "calli-autoencoder", "calli-mnist", "calli-cifar", "lenet-300-100", "vgg-16")
FEW = {"vgg-16": 25}
"""Images of the networks that take long for each."""


def timed(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def ratios(name: str, images: int, rounds: int) -> tuple[float, float, float]:
    """Seconds of a forward pass, and how many of them a count and all statistics take, each the median of the rounds."""
    options = {"input_size": 32, "classes": 10} if name == "vgg-16" else {}
    model = models.build(name, seed=0, **options).eval()
    x = torch.rand(FEW.get(name, images), *models.input_shape(name, **options))
    data, sites = (x, torch.zeros(len(x))), channels(model, x[:1])

    def forward() -> None:
        with torch.no_grad():
            model(x)

    runs = (forward, lambda: activation_counts(model, sites, data), lambda: activation_statistics(model, sites, data))
    rows = [[timed(run) for run in runs] for _ in range(rounds + 1)][1:]
    plain = median(row[0] for row in rows)
    return plain, *(median(row[at] / row[0] for row in rows) for at in (1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'network':20} forward   count  all statistics")
    for name in options.networks:
        plain, count, whole = ratios(name, options.images, options.rounds)
        print(f"{name:20} {plain:6.4f}s {count:6.3f}  {whole:6.3f}", flush=True)


if __name__ == "__main__":
    main()
