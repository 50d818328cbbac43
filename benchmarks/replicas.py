"""How long training many networks of one architecture takes as one stack, beside training each alone.

    python benchmarks/replicas.py --rounds 5
    python benchmarks/replicas.py --model conv-2 --images 600

Three ways, in turns in one run: the loop that a user would write, with a DataLoader and Adam; the same loop with the data in
memory and fused Adam; and `fit_replicas`, whole with its checks and the tracing. With `--density`, all of them hold masks. Process
time at one thread, medians of ratios, and the ratio of the best times, which a busy machine disturbs less. The loops train two networks and are scaled to as many as the stack has. Convolutional
networks do not gain: `fit_replicas` trains them one after the other, which `pays` tells beforehand.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc
from secateur.types import Keep

LR = 1.2e-3
ALONE = 2


def seconds(work: Callable[[], object]) -> float:
    """Return the process time of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def hold(model: nn.Module, keep: Keep) -> None:
    """Set the removed weights to zero, as a user would after every step."""
    with torch.no_grad():
        for name, mask in keep.items():
            model.get_parameter(name).mul_(mask)


def with_loader(model: nn.Module, images: Tensor, labels: Tensor, batch: int, keep: Keep) -> None:
    """An epoch of the loop that a user would write."""
    optimizer = torch.optim.Adam(model.parameters(), LR)
    for x, y in DataLoader(TensorDataset(images, labels), batch, shuffle=True):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        hold(model, keep)


def in_memory(model: nn.Module, images: Tensor, labels: Tensor, batch: int, keep: Keep) -> None:
    """The same with data in memory and fused Adam."""
    optimizer = torch.optim.Adam(model.parameters(), LR, fused=True)
    for rows in torch.randperm(len(images)).split(batch):
        optimizer.zero_grad()
        cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
        hold(model, keep)


def masks(model: nn.Module, density: float) -> Keep:
    """Keep masks of the weights at random; none at a density of 1."""
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1} if density < 1 else {}
    return {name: torch.rand_like(p) < density for name, p in weights.items()}


def measure(asked: argparse.Namespace, data: sc.data.Split) -> tuple[float, float, float]:
    """Seconds for one epoch of all networks, each way."""
    options = {"in_channels": 3, "input_size": 32} if asked.model.startswith("conv") else {}
    nets: Sequence[nn.Module] = [sc.models.build(asked.model, seed=seed, **options) for seed in range(asked.count)]
    keeps = [masks(net, asked.density) for net in nets]
    images, labels, scale = data.images, data.labels, asked.count / ALONE
    alone = []
    for loop in (with_loader, in_memory):
        few = [sc.models.build(asked.model, seed=seed, **options) for seed in range(ALONE)]
        alone.append(
            scale * seconds(lambda: [loop(m, images, labels, asked.batch, k) for m, k in zip(few, keeps, strict=False)])  # noqa: B023
        )
    stack = seconds(lambda: sc.train.fit_replicas(nets, data, keeps=keeps, epochs=1, batch_size=asked.batch, lr=LR))
    return alone[0], alone[1], stack


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="lenet-300-100")
    parser.add_argument("--count", type=int, default=12, help="networks")
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=60)
    parser.add_argument("--density", type=float, default=1.0, help="of random masks")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = sc.data.load("fashion-mnist").subset(range(asked.images))
    if asked.model.startswith("conv"):
        padded = nn.functional.pad(data.images, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()
        data = replace(data, images=padded)
    rounds = [measure(asked, data) for _ in range(asked.rounds + 1)][1:]  # the first warms up
    steps = asked.count * -(-asked.images // asked.batch)
    paying = sc.train.pays(sc.models.build(asked.model, seed=0), data)
    print(f"{asked.count} × {asked.model}, batch {asked.batch}, density {asked.density:g}, stacked: {paying}")
    best = [min(times) for times in zip(*rounds, strict=True)]
    for number, name in enumerate(("DataLoader", "in memory, fused Adam", "fit_replicas")):
        ratios = [times[number] / times[2] for times in rounds]
        each = 1e3 * median(times[number] for times in rounds) / steps
        spread = f"({min(ratios):.2f} … {max(ratios):.2f})"
        print(
            f"{name:25s} {each:7.3f} ms a step  {median(ratios):5.2f}×  {spread}  best {best[number] / best[2]:5.2f}×"
        )


if __name__ == "__main__":
    main()
