"""How much of a converged network's last layer a learned mask removes, beside one-shot magnitude, at what test accuracy.

    python benchmarks/converged.py

MNIST-5k: 3,000 digits to train on, 1,000 to search on, 1,000 for the test, which nothing is chosen by. Adam at 0.001 in
batches of 128 for 15 epochs, by when the training accuracy is 100 %. Each search has 1,050 evaluations; magnitude spends
them on the best number of weights to remove. ``magnitude, as many`` removes as many as the mask of pressure 3 did.
Differences on the same network, paired t-tests, Holm's correction. About five minutes of one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from pandas import DataFrame
from torch import nn

from secateur import data
from secateur.lab.show.stats import compare
from secateur.measure import evaluate
from secateur.models import build
from secateur.search import Fitness, OneShotMagnitude, Search, Space, Supermask, judge, only
from secateur.search.local import smallest_removed
from secateur.structure import weights
from secateur.train import fit

LAYERS = {"janjic-mlp": "fc2.weight", "janjic-cnn": "fc2.weight"}
BUDGET = 1050
SEARCHES: dict[str, Search] = {
    "magnitude": OneShotMagnitude(),
    "learned mask, pressure 1": Supermask(1.0),
    "learned mask, pressure 3": Supermask(3.0),
    "learned mask, pressure 10": Supermask(10.0),
}


def trained(name: str, seed: int, epochs: int) -> nn.Module:
    """Return a network trained to its plateau."""
    model = build(name, seed=seed)
    fit(model, data.load("mnist-5k", "train", validation=1000), epochs=epochs, seed=seed)
    return model.eval()


def rows(name: str, seed: int, epochs: int) -> Iterator[dict[str, object]]:
    """Yield what each search removed of one network's layer (%), and the points of accuracy that it changed."""
    model = trained(name, seed, epochs)
    own, near = (data.load("mnist-5k", split, validation=1000) for split in ("train", "validation"))
    far = data.load("mnist-5k", "test")
    print(f"{name}, seed {seed}: train {evaluate(model, own).accuracy:.4f}, test {evaluate(model, far).accuracy:.4f}")
    space, base = Space(model, only(weights(model), LAYERS[name])), {"model": name, "seed": seed}
    pairs = [(split.images, split.labels) for split in (near, far)]
    kept = 0
    for method, search in SEARCHES.items():
        found = judge(search, space, *pairs, budget=BUDGET, seed=seed)
        test, kept = found.untouched, int(found.result.history.genes.sum()) if method.endswith(" 3") else kept
        yield {**base, "method": method, "removed": 100 * test.compression[0], "points": test.accuracy[0]}
    test = Fitness(space, pairs[1])(smallest_removed(space.order, torch.tensor([space.size - kept]).numpy()))
    yield {**base, "method": "magnitude, as many", "removed": 100 * test.compression[0], "points": test.accuracy[0]}


def main() -> None:
    """Print the means, and the paired tests against magnitude."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = DataFrame([r for m in LAYERS for seed in range(chosen.networks) for r in rows(m, seed, chosen.epochs)])
    print(found.groupby(["model", "method"], sort=False)[["removed", "points"]].agg(["mean", "std"]).round(2))
    for value, baseline in (("removed", "magnitude"), ("points", "magnitude"), ("points", "magnitude, as many")):
        tests = compare(found, value=value, baseline=baseline, within=("model",))
        shown = ["model", "method", "against", "n", "difference", "low", "high", "p_corrected", "verdict"]
        print(f"\n{value}\n{tests[shown].round(4).to_string(index=False)}")


if __name__ == "__main__":
    main()
