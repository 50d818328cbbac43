"""Many keep masks evaluated together beside the plain loop, and exhaustive pruning: CPU seconds at one thread.

python benchmarks/removal.py [--masks 70] [--images 10000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.rate.masks import Removals, rate
from secateur.schedules import Exhaustive
from secateur.structure import channels
from secateur.types import Keep

Batches = list[tuple[Tensor, Tensor]]


def plain(model: nn.Sequential, keeps: Sequence[Keep], batches: Batches) -> Tensor:
    """For every mask: zero the weights, run the model over all data in batches of 500, restore."""
    first, last = model[0], model[2]
    kept = [x.detach().clone() for x in (first.weight, first.bias, last.weight)]
    losses = []
    with torch.no_grad():
        for keep in keeps:
            gone = ~keep["0"]
            first.weight[gone], first.bias[gone], last.weight[:, gone] = 0, 0, 0
            total = sum(float(cross_entropy(model(x), y)) * len(y) for x, y in batches)
            losses.append(total / sum(len(y) for _, y in batches))
            for tensor, before in zip((first.weight, first.bias, last.weight), kept, strict=True):
                tensor.copy_(before)
    return torch.tensor(losses, dtype=torch.float64)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    made = run()
    return time.process_time() - start, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("masks", 70), ("images", 10_000), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)).eval()
    x, y = torch.rand(options.images, 784), torch.randint(10, (options.images,))
    batches = list(zip(x.split(500), y.split(500), strict=True))
    sites = channels(model, x[:1])
    keeps: list[Keep] = []
    for number in range(options.masks):
        kept = torch.ones(128, dtype=torch.bool)
        kept[torch.randperm(128)[: 2 ** (number % 7)]] = False
        keeps.append({"0": kept})
    print("plain loop s | once s | again s | ratio once | ratio again | greatest difference | exhaustive s (128 steps)")
    for _ in range(options.rounds):
        loop, wanted = timed(lambda: plain(model, keeps, batches))
        once, found = timed(lambda: rate(model, sites, keeps, batches))
        removals = Removals(model, sites, batches)
        removals(keeps[:1])
        again, _ = timed(lambda r=removals: r(keeps))
        far, _ = timed(lambda: Exhaustive(batches, until=127 / 128)(model, sites))
        difference = float((found.losses - wanted).abs().max())
        print(
            f"{loop:.3f} | {once:.3f} | {again:.3f} | {loop / once:.1f} | {loop / again:.1f} | {difference:.1e} | {far:.2f}"
        )


if __name__ == "__main__":
    main()
