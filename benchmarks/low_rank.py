"""Low rank: what data are worth at half the multiply-accumulates, and where a product stops being cheaper.

    python benchmarks/low_rank.py accuracy --seeds 5 --cache /tmp/networks
    python benchmarks/low_rank.py bound --runtime onnxruntime

``accuracy`` splits a narrow VGG-16 (a quarter of the channels, batch norms; trained on 6,000 images of Fashion-MNIST) by
each way to half its multiply-accumulates, without training, and gives the test accuracy that is lost, seed by seed, and
the paired differences to plain SVD. ``bound`` times layers beside their products of ranks around m1 m2 / (m1 + m2), the
rank at which both take as many multiply-accumulates (calli, E. Çallı, 2017, section 1.3), and gives the rank at which they
take as long. Needs the extra ``data``; ``onnx`` for its runtime.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from defaults_networks import Network, on_fashion
from secateur.transforms import LowRank, factor_layer

SHARES = (0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
"""Ranks, as shares of the bound."""


def ways(network: Network) -> dict[str, LowRank]:
    """The transforms that are compared, by their names in the table."""
    data = network.few
    plain = LowRank(macs=0.5)(network.model, network.example())
    same_ranks: dict[str, Any] = {layer.name: int(layer.form.split()[1]) for layer in plain.report.layers}
    return {
        "svd": LowRank(macs=0.5),
        "svd, data": LowRank(macs=0.5, data=data),
        "svd, data, ranks of plain svd": LowRank(rank=same_ranks, data=data),
        "svd, data, refit": LowRank(macs=0.5, data=data, refit=True),
        "spatial": LowRank(macs=0.5, method="spatial"),
        "spatial, data, refit": LowRank(macs=0.5, method="spatial", data=data, refit=True),
        "tucker": LowRank(macs=0.5, method="tucker"),
        "tucker, data, refit": LowRank(macs=0.5, method="tucker", data=data, refit=True),
    }


def accuracy(cache: Path, seeds: int) -> None:
    """Print the accuracy that each way loses, seed by seed."""
    cache.mkdir(parents=True, exist_ok=True)
    lost: dict[str, list[float]] = {}
    shares: dict[str, list[float]] = {}
    for seed in range(seeds):
        network = on_fashion("vgg-16", seed, cache)
        before = network.rate(network.model)
        print(f"seed {seed}: {before:.4f}", flush=True)
        for name, transform in ways(network).items():
            result = transform(network.model, network.example())
            lost.setdefault(name, []).append(100 * (before - network.rate(result.model)))
            macs = result.report.macs
            assert macs is not None
            shares.setdefault(name, []).append(macs[1] / macs[0])
            print(f"  {name:<32}{lost[name][-1]:>8.2f} points lost, {shares[name][-1]:.3f} of the MACs", flush=True)
    print(f"\n{'way':<32}{'points lost':>20}{'less than plain SVD':>24}{'MACs':>8}")
    for name, values in lost.items():
        gains = [plain - value for plain, value in zip(lost["svd"], values, strict=True)]
        print(f"{name:<32}{_spread(values):>20}{_spread(gains):>24}{mean(shares[name]):>8.3f}")


def _spread(values: list[float]) -> str:
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


def layers() -> dict[str, tuple[nn.Module, Tensor]]:
    """The layers that are timed, each with its input."""
    return {
        "linear 1024 → 1024, batch 64": (nn.Linear(1024, 1024), torch.randn(64, 1024)),
        "linear 2048 → 512, batch 64": (nn.Linear(2048, 512), torch.randn(64, 2048)),
        "1×1 convolution 256 → 256, 28×28": (nn.Conv2d(256, 256, 1), torch.randn(1, 256, 28, 28)),
        "3×3 convolution 128 → 128, 28×28": (nn.Conv2d(128, 128, 3, padding=1), torch.randn(1, 128, 28, 28)),
    }


def bound(runtime: str) -> None:
    """Print how long products take beside the layer that they are of, by rank, and where they take as long."""
    torch.manual_seed(0)
    for name, (layer, x) in layers().items():
        outputs, inputs = layer.weight.flatten(1).shape  # type: ignore[operator, union-attr]
        most = inputs * outputs / (inputs + outputs)
        ratios = []
        print(f"{name}: bound {most:.1f}, in {runtime}")
        for share in SHARES:
            rank = max(round(share * most), 1)
            if rank > min(inputs, outputs):
                continue
            product = factor_layer(layer, rank)
            times = sc.measure.compare_latency({"layer": layer, "product": product}, x, runtime=runtime)
            macs = sc.measure.macs(product, x) / sc.measure.macs(layer, x)
            ratios.append((share, 1 / times.speedups["product"].median))
            print(
                f"  rank {rank:>4} ({share:.2f} of it): {macs:.2f} of the MACs, {ratios[-1][1]:.2f} of the time",
                flush=True,
            )
        print(f"  as long at {_crossing(ratios)} of the bound\n", flush=True)


def _crossing(ratios: list[tuple[float, float]]) -> str:
    """Where the time reaches the layer's, by the straight line between two measurements."""
    for (share, ratio), (after, later) in pairwise(ratios):
        if ratio < 1 <= later:
            return f"{share + (1 - ratio) / (later - ratio) * (after - share):.2f}"
    return f"less than {SHARES[0]}" if ratios[0][1] >= 1 else f"more than {SHARES[-1]}"


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["accuracy", "bound"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path("networks"))
    parser.add_argument("--runtime", default="eager")
    options = parser.parse_args()
    if options.part == "accuracy":
        accuracy(options.cache, options.seeds)
    else:
        bound(options.runtime)


if __name__ == "__main__":
    main()
