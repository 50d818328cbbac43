"""One shot and in steps: what is left of a network when half of its units go by scores of single units.

lenet-300-100 on the first training images of Fashion-MNIST. Without any training, an equal share of each layer goes: by the
measured loss change of single units at once or in 16 steps that each measure anew, jointly by pairs, or by magnitude.
Prints the table of docs/criteria.md.

    python benchmarks/steps.py --networks 3
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import mean

import torch

import secateur as sc
from secateur.criteria import JointLossChange, LossChange, Magnitude
from secateur.schedules import Iterative
from secateur.types import Criterion


def ways(images: sc.data.Split) -> dict[str, tuple[Criterion, int]]:
    """What scores, and in how many steps."""
    singles, pairs = LossChange(images), JointLossChange(images, scope="layer")
    return {
        "magnitude": (Magnitude(), 1),
        "loss change, one shot": (singles, 1),
        "loss change, 4 steps": (singles, 4),
        "loss change, 16 steps": (singles, 16),
        "joint loss change, one shot": (pairs, 1),
        "joint loss change, 16 steps": (pairs, 16),
    }


def main() -> None:
    """Train, remove, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--images", type=int, default=20_000, help="to train on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--shown", type=int, default=5_000, help="to score on")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    test = sc.data.load("fashion-mnist", "test")
    train = first(sc.data.load("fashion-mnist"), asked.images)
    accuracies: dict[tuple[str, float], list[float]] = {}
    foretold: list[str] = []
    for seed in range(asked.networks):
        model = sc.models.build("lenet-300-100", seed=seed)
        sc.fit(model, train, epochs=asked.epochs, seed=seed)
        sites = sc.channels(model.eval(), train.images[:1])
        shown = first(train, asked.shown)
        accuracies.setdefault(("whole", 0.0), []).append(sc.evaluate(model, test).accuracy)
        for name, (criterion, steps) in ways(shown).items():
            for sparsity in asked.sparsities:
                result = Iterative(criterion, sparsity, steps=steps, scope="layer")(model, sites)
                accuracies.setdefault((name, sparsity), []).append(sc.evaluate(result.model, test).accuracy)
        once = sc.prune(model, train.images[:1], LossChange(shown), 0.5, scope="layer", latency=False)
        foretold.append(str(once.report.joint))
    print(f"whole {mean(accuracies.pop(('whole', 0.0))):.3f}", *foretold, sep="\n")
    print_table(accuracies, asked.sparsities)


def first(split: sc.data.Split, count: int) -> sc.data.Split:
    """The first images of a split."""
    return split.subset(range(min(count, len(split.labels))))


def print_table(accuracies: dict[tuple[str, float], list[float]], sparsities: list[float]) -> None:
    """One row a way: mean accuracies, and the least and greatest at each sparsity."""
    show: Callable[[list[float]], str] = lambda x: f"{mean(x):.3f} ({min(x):.3f}–{max(x):.3f})"  # noqa: E731
    print("| way | " + " | ".join(f"{100 * s:g} %" for s in sparsities) + " |")
    print("| --- | " + " | ".join("---" for _ in sparsities) + " |")
    for name in dict.fromkeys(name for name, _ in accuracies):
        print(f"| {name} | " + " | ".join(show(accuracies[name, s]) for s in sparsities) + " |")


if __name__ == "__main__":
    main()
