"""What joint cuts are foretold and cost: single changes of the loss, and pairs of units.

    python benchmarks/joint.py --net lenet-300-100 --seeds 3

Networks are trained for a moment on Fashion-MNIST, scored on training images, and cut by each criterion, nothing repaired
or trained afterwards. Foretold are the rise of the mean loss on those images as the sum of the measured changes of single
units, and by pairs; beside them stands the truth. Accuracy is that on the test set. Needs the extra ``data``.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from secateur.criteria import JointLossChange, LossChange, Magnitude, SecondOrder
from secateur.measure import rate
from secateur.types import Criterion, Sites

Data = tuple[Tensor, Tensor]
Row = tuple[float, str, str]


def trained(name: str, seed: int, data: Data, epochs: int) -> nn.Module:
    """Return one of the networks, trained."""
    options: dict[str, Any] = {} if name == "lenet-300-100" else {"width": 0.25}
    model = sc.models.build(name, seed=seed, **options)
    sc.fit(model, data, epochs=epochs, seed=seed)
    return model


def criteria(data: Data) -> dict[str, Criterion]:
    """The criteria, by their names in the table."""
    return {
        "magnitude": Magnitude(),
        "loss change, measured": LossChange(data),
        "second order, gauss-newton": SecondOrder(data, curvature="gauss-newton"),
        "joint, scope as cut": JointLossChange(data),
    }


def cuts(model: nn.Module, sites: Sites, data: Data, test: Data, table: dict[Row, list[tuple[float, ...]]]) -> None:
    """Add what every criterion's cuts cost and were foretold to."""
    alone, worth = LossChange(data)(model, sites), JointLossChange(data)(model, sites)
    by_layer = JointLossChange(data, scope="layer")(model, sites)
    whole = float(rate(model, sites, [{}], data).losses[0])
    for name, criterion in criteria(data).items():
        scores = criterion(model, sites)
        for sparsity in (0.3, 0.5, 0.7):
            for scope in ("global", "layer"):
                own = by_layer if name.startswith("joint") and scope == "layer" else scores
                keep = sc.select(own, sparsity, scope=scope, sites=sites)  # type: ignore[arg-type]
                singles = sum(float(alone[site][~mask].sum()) for site, mask in keep.items())
                truth = float(rate(model, sites, [keep], data).losses[0]) - whole
                accuracy = sc.evaluate(sc.mask(model, sites, keep), test).accuracy
                assert accuracy is not None
                table[sparsity, scope, name].append((singles, worth.foretell(keep), truth, accuracy))


def main() -> None:
    """Train, cut, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="lenet-300-100", choices=["lenet-300-100", "cnn-4"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=5000, help="that the criteria look at")
    parser.add_argument("--training", type=int, default=20_000, help="images to train on")
    parser.add_argument("--epochs", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (sc.data.load("fashion-mnist", split) for split in ("train", "test"))
    table: dict[Row, list[tuple[float, ...]]] = defaultdict(list)
    for seed in range(asked.seeds):
        model = trained(asked.net, seed, (train.images[: asked.training], train.labels[: asked.training]), asked.epochs)
        data = train.images[: asked.images], train.labels[: asked.images]
        sites, started = sc.channels(model, data[0][:1]), time.process_time()
        JointLossChange(data)(model, sites)
        print(
            f"seed {seed}: whole {sc.evaluate(model, test).accuracy:.3f}, scored in {time.process_time() - started:.1f} s"
        )
        cuts(model, sites, data, (test.images, test.labels), table)
    print("removed  scope   criterion                    singles   pairs   truth  accuracy")
    for (sparsity, scope, name), rows in table.items():
        singles, pairs, truth, accuracy = (mean(column) for column in zip(*rows, strict=True))
        print(f"{sparsity:6.0%}   {scope:7} {name:28} {singles:7.2f} {pairs:7.2f} {truth:7.2f}  {accuracy:8.3f}")


if __name__ == "__main__":
    main()
