"""8 bits beside float32 in every runtime that is installed: accuracy, difference, bytes and time.

    python benchmarks/int8.py --cache /tmp/networks

A ResNet-18 of a quarter of the channels, trained on Fashion-MNIST, is exported to each runtime in float32 and, with 500
training images as data, in 8 bits. Both answer the same test images in the runtime, one by one, and take turns at one of
them on one thread: a ratio is of the processor's time within a turn. ``resnet18-half`` is ResNet-18 with half its channels
and random weights, for its time alone. Give each runtime an environment of its own; the cache is shared. Needs the extra
``data`` and those of the runtimes.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from defaults_networks import ARCHITECTURES, on_fashion
from secateur.measure.speed import spread
from secateur.runtimes import RUNTIMES, Exported, Int8
from secateur.runtimes.timing import Prepared, in_turns

UNTRAINED = "resnet18-half"
COLUMNS = ("runtime", "accuracy, %", "difference: of all outputs (greatest)", "MB", "time of float32 ÷ 8 bits")


@dataclass(frozen=True)
class Case:
    """A network with the images that give the ranges, and those that are answered; without labels it is only timed."""

    model: nn.Module
    data: Any
    images: Tensor
    labels: Tensor | None


def trained(name: str, args: argparse.Namespace) -> Case:
    """Return a network that was trained on Fashion-MNIST."""
    network = on_fashion(name, 0, args.cache)
    images, labels = (tensor[: args.images] for tensor in network.samples)
    return Case(network.model, network.few, images, labels)


def untrained() -> Case:
    """Return ResNet-18 with half the channels of every layer, for its time alone."""
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Case(sc.models.build("resnet-18", input_size=32, width=0.5, seed=0).eval(), images, images, None)


def answers(exported: Exported, images: Tensor) -> Tensor:
    """Return what a file answers to images, one by one."""
    return torch.cat([exported.run(image[None]) for image in images])


def compared(kind: type[Int8], case: Case, repeats: int) -> str:
    """Return the row of a runtime: both files' accuracy, how far apart they answer, their bytes, and the times' ratio."""
    example = case.images[:1]
    files = {
        "float32": kind.exact().export(case.model, example),
        "int8": kind(data=case.data, points=100).export(case.model, example),
    }
    outputs = {name: answers(file, case.images) for name, file in files.items()}
    exact, apart = outputs["float32"], outputs["int8"] - outputs["float32"]
    ready = {
        name: Prepared(file.call.ready([example]), 0.0, alone=kind().on_one_thread(case.model))
        for name, file in files.items()
    }
    middle, low, high = spread(in_turns(ready, warmup=5, repeats=repeats).ratios("int8"))
    cells = [
        kind.exact.name,
        " → ".join(accuracy(y, case.labels) for y in outputs.values()),
        f"{float(apart.norm() / exact.norm()):.3f} ({float(apart.abs().max() / exact.abs().max()):.2f})",
        " → ".join(f"{file.size / 1e6:.2f}" for file in files.values()),
        f"{middle:.2f} ({low:.2f}–{high:.2f})",
    ]
    return f"| {' | '.join(cells)} |"


def accuracy(outputs: Tensor, labels: Tensor | None) -> str:
    """Return the share of right answers, of a hundred."""
    return "–" if labels is None else f"{100 * float((outputs.argmax(1) == labels).double().mean()):.2f}"


def kinds(names: list[str] | None) -> Iterator[type[Int8]]:
    """Yield the runtimes in 8 bits that are asked for, or else all that are installed."""
    for name, kind in RUNTIMES.items():
        if issubclass(kind, Int8) and (name in names if names else sc.runtimes.is_installed(name)):
            yield kind


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", nargs="+", default=["resnet18", UNTRAINED], choices=[*ARCHITECTURES, UNTRAINED])
    parser.add_argument("--images", type=int, default=1000, help="test images that are answered")
    parser.add_argument("--repeats", type=int, default=101, help="turns that are timed")
    parser.add_argument("--runtimes", nargs="+", help="such as litert-int8; default: all that are installed")
    parser.add_argument("--cache", type=Path, default=Path("networks"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # the runtimes' own
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    for name in args.net:
        case = untrained() if name == UNTRAINED else trained(name, args)
        print(f"\n{name}, {sc.measure.macs(case.model, case.images[:1]):,} multiply–accumulates")
        print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
        for kind in kinds(args.runtimes):
            print(compared(kind, case, args.repeats), flush=True)


if __name__ == "__main__":
    main()
