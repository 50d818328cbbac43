"""How much accuracy solvers keep, beside magnitude at the same sparsity, without retraining.

python benchmarks/solvers.py            # trained on the digits that scikit-learn ships; a minute
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

import secateur as sc
from secateur.criteria import Magnitude, OptimalBrainSurgeon, Reconstruction, Wanda
from secateur.measure import evaluate
from secateur.solvers import SparseGPT, ThiNet, WoodFisher
from secateur.types import Sites

SEEDS = range(3)
Way = Callable[[nn.Module, Sites, float], nn.Module]


def networks() -> dict[str, Callable[[], nn.Module]]:
    """An MLP and a small convolutional network for 8 × 8 pixels."""
    return {
        "MLP 64-128-64-10": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        ),
        "CNN 16-32-10": lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10),
        ),
    }  # fmt: skip


def by_score(criterion: object, scope: str) -> Way:
    """Mask by a criterion's scores."""
    return lambda model, sites, s: sc.mask(
        model, sites, sc.select(criterion(model, sites), s, scope=scope, sites=sites)
    )  # type: ignore[operator,arg-type]


def by_solver(solver: object) -> Way:
    """Mask and repair by a solver."""
    return lambda model, sites, s: solver.solve(model, sites, s).apply(model)  # type: ignore[operator]


def ways(data: object, unit: str) -> dict[str, Way]:
    """What is compared: first all weights pooled, then the same fraction in every layer."""
    if unit == "channels":
        return {
            "magnitude, layer": by_score(Magnitude(), "layer"),
            "Reconstruction, layer": by_score(Reconstruction(data), "layer"),  # type: ignore[arg-type]
            "ThiNet, layer": by_solver(ThiNet(data)),  # type: ignore[arg-type]
        }
    return {
        "magnitude, global": by_score(Magnitude(), "global"),
        "OptimalBrainSurgeon, global": by_score(OptimalBrainSurgeon(data), "global"),  # type: ignore[arg-type]
        "WoodFisher, global": by_solver(WoodFisher(data)),  # type: ignore[arg-type]
        "magnitude, layer": by_score(Magnitude(), "layer"),
        "Wanda, row": by_score(Wanda(data), "row"),  # type: ignore[arg-type]
        "SparseGPT, layer": by_solver(SparseGPT(data)),  # type: ignore[arg-type]
    }


def main() -> None:
    """Print one table a network and kind of unit."""
    train, test = sc.data.load("digits", "train"), sc.data.load("digits", "test")
    data = (train.images, train.labels)
    for title, build in networks().items():
        for unit, fractions in (("weights", (0.5, 0.7, 0.8, 0.9)), ("channels", (0.3, 0.5, 0.7))):
            table: dict[str, list[list[float]]] = {}
            full = []
            for seed in SEEDS:
                torch.manual_seed(seed)
                model = build()
                sc.fit(model, data, epochs=20, seed=seed)
                full.append(evaluate(model, test).accuracy)
                sites = sc.weights(model) if unit == "weights" else sc.channels(model, train.images[:1])
                for name, way in ways(data, unit).items():
                    row = [evaluate(way(model, sites, fraction), test).accuracy for fraction in fractions]
                    table.setdefault(name, []).append(row)
            print(f"\n{title}, {unit}; whole {100 * sum(full) / len(full):.1f} % (mean of {len(SEEDS)} seeds)")
            print(
                "| way |" + "".join(f" {100 * f:.0f} % |" for f in fractions) + "\n| --- |" + " --- |" * len(fractions)
            )
            for name, rows in table.items():
                means = torch.tensor(rows).mean(0).tolist()
                print(f"| {name} |" + "".join(f" {100 * mean:.1f} |" for mean in means))


if __name__ == "__main__":
    main()
