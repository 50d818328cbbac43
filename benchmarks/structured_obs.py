"""What StructuredOBS keeps without training, beside ThiNet, on Fashion-MNIST; and how long the parts take.

    python benchmarks/structured_obs.py --networks folder            # lenet-300-100 and cnn-4 (width .25), 5 seeds
    python benchmarks/structured_obs.py --networks folder --only resnet-18 --samples 300

The networks are trained once, and kept in the folder: lenet-300-100 and cnn-4 on the first 5,000 images for 20 epochs,
ResNet-18 of width 16 on 20,000. The small ones lose the same fraction of every layer, with the next 5,000 images to
calibrate (`--seen`: with those that they were trained on, on which they are too sure); differences are paired by seed, with 95 % intervals by t. ResNet-18 is cut to half of its MACs, each layer to a multiple of
8, with `--samples` images that it was not trained on. Needs the extra ``data``, and Fashion-MNIST.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secateur as sc
from secateur.lab.show.stats import summarise
from secateur.measure import macs
from secateur.saving.weights import load_weights, save_weights
from secateur.solvers import Solver, StructuredOBS, ThiNet
from secateur.structure.moments import LayerMoments
from secateur.structure.patches import Patches
from secateur.types import Sites

Pair = tuple[torch.Tensor, torch.Tensor]
SEEDS = range(5)
FRACTIONS = (0.5, 0.7)
SMALL: dict[str, dict[str, Any]] = {"lenet-300-100": {}, "cnn-4": {"width": 0.25}}
RESNET = {"width": 0.25, "input_size": 28, "in_channels": 1, "classes": 10}
CONVOLUTIONAL: dict[str, Any] = {
    "epochs": 12,
    "lr": 0.1,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "batch_size": 128,
}


def solvers(data: Pair) -> dict[str, Solver]:
    """What is compared."""
    return {
        "ThiNet": ThiNet(data),
        "StructuredOBS, least squares alone": StructuredOBS(data, last=None),
        "StructuredOBS, without rounds": StructuredOBS(data, rounds=0),
        "StructuredOBS": StructuredOBS(data),
    }


def trained(
    folder: Path, name: str, seed: int, options: dict[str, Any], fit: Callable[[nn.Module], object]
) -> nn.Module:
    """Return a network, trained now unless the folder has it."""
    model, file = sc.models.build(name, seed=seed, **options), folder / f"{name}-{seed}.safetensors"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fit(model)
        save_weights(file, model)
    load_weights(file, model)
    return model.eval()


def small(folder: Path, seeds: range, seen: bool) -> None:
    """Print the accuracies of the small networks, and the paired differences from ThiNet."""
    train, test = sc.data.load("fashion-mnist", "train"), sc.data.load("fashion-mnist", "test")
    data = train.images[:5000], train.labels[:5000]
    others = data if seen else (train.images[5000:10000], train.labels[5000:10000])
    for name, options in SMALL.items():
        rates: dict[tuple[str, float], list[float]] = {}
        for seed in seeds:
            model = trained(
                folder,
                name,
                seed,
                options,
                lambda m, s=seed: sc.fit(m, data, epochs=20, lr=1e-3, schedule="cosine", seed=s),
            )
            rates.setdefault(("unpruned", 0.0), []).append(sc.evaluate(model, test).accuracy)
            sites = sc.channels(model, data[0][:1])
            for way, solver in solvers(others).items():
                for fraction in FRACTIONS:
                    started = time.process_time()
                    cut = solver.solve(model, sites, fraction).apply(model)
                    spent = time.process_time() - started
                    rates.setdefault((way, fraction), []).append(sc.evaluate(cut, test).accuracy)
                    print(
                        f"# {name} seed {seed} {way} {fraction}: {rates[way, fraction][-1]:.4f}, {spent:.1f} s",
                        flush=True,
                    )
        report(name, rates)


def report(name: str, rates: dict[tuple[str, float], list[float]]) -> None:
    """Print one line a way and fraction."""
    print(f"\n{name}: unpruned {statistics.mean(rates['unpruned', 0.0]):.4f}\n")
    print("| way | removed | accuracy | above ThiNet, paired (95 %) |\n| --- | --- | --- | --- |")
    for (way, fraction), found in rates.items():
        if way != "unpruned":
            above = [a - b for a, b in zip(found, rates["ThiNet", fraction], strict=True)]
            line = summarise(above)
            between = "" if way == "ThiNet" else f"{line.mean:+.4f} ({line.low:+.4f} to {line.high:+.4f})"
            print(f"| {way} | {fraction:.0%} | {statistics.mean(found):.4f} | {between} |")


def halved(model: nn.Module, sites: Sites, example: torch.Tensor, multiple: int = 8) -> dict[str, float]:
    """Return the least equal fraction, each site rounded to a multiple, that leaves half of the MACs at most."""
    whole = macs(model, example)
    for percent in range(20, 80):
        kept = {n: max(multiple, round(s.size * (1 - percent / 100) / multiple) * multiple) for n, s in sites.items()}
        fractions = {n: 1 - min(kept[n], s.size) / s.size for n, s in sites.items()}
        keep = {n: torch.arange(s.size) < kept[n] for n, s in sites.items()}
        if macs(sc.cut(model, sites, keep), example) <= whole / 2:
            return fractions
    raise SystemExit("no fraction halves the MACs")


def residual(folder: Path, samples: int, seeds: range) -> None:
    """Print what ResNet-18 loses at half of its MACs."""
    train, test = sc.data.load("fashion-mnist", "train"), sc.data.load("fashion-mnist", "test")
    order = torch.randperm(len(train.images), generator=torch.Generator().manual_seed(100))
    few, many = order[:samples], order[5000:25000]
    data = train.images[few], train.labels[few]
    losses: dict[str, list[float]] = {}
    for seed in seeds:
        model = trained(
            folder,
            "resnet-18",
            seed,
            RESNET,
            lambda m, s=seed: sc.fit(m, (train.images[many], train.labels[many]), seed=s, **CONVOLUTIONAL),
        )
        whole = sc.evaluate(model, test).accuracy
        sites = sc.channels(model, data[0][:1])
        fractions = halved(model, sites, data[0][:1])
        for way, solver in solvers(data).items():
            started = time.process_time()
            result = solver(model, sites, fractions)
            spent = time.process_time() - started
            rate = sc.evaluate(result.model, test).accuracy
            losses.setdefault(way, []).append(100 * (whole - rate))
            left = macs(result.model, data[0][:1]) / macs(model, data[0][:1])
            print(f"# seed {seed} {way}: {whole:.4f} → {rate:.4f} at {left:.2f} of the MACs, {spent:.1f} s", flush=True)
    print(f"\nResNet-18 of width 16, half of the MACs, {samples} images\n\n| way | points lost |\n| --- | --- |")
    for way, lost in losses.items():
        print(f"| {way} | {statistics.mean(lost):.2f} ({', '.join(f'{x:.2f}' for x in lost)}) |")


def moments() -> None:
    """Print how long the sums behind a repair take, plainly and as they are taken now, for the longest layer of a net.

    The layer is the second convolution of CREPE tiny, at half of its inputs: 64 channels, kernels of 64, 128 places.
    """
    x, aims = torch.randn(64, 64, 128), torch.randn(64, 16, 127)
    patches = Patches.of({"padding": 31, "stride": 1, "dilation": 1}, (64,))
    aims = aims[..., : patches.windows(x[:1]).shape[2]]
    started = time.process_time()
    gram, cross = 0.0, 0.0
    start = 0
    for columns in patches.columns(x, groups=1):
        rows = columns[0].double()
        wanted = aims.movedim(1, -1).flatten(0, 1)[start : start + rows.shape[1]].double()
        gram, cross, start = gram + rows @ rows.mT, cross + rows @ wanted, start + rows.shape[1]
    plain = time.process_time() - started
    started = time.process_time()
    sums = LayerMoments(patches)
    sums.add(x, aims)
    found = sums.gram()[0, :-1, :-1]
    spent = time.process_time() - started
    apart = float((found - gram).abs().max() / gram.abs().max())  # type: ignore[attr-defined]
    print(f"matrix of all patches {plain:.2f} s, now {spent:.2f} s, apart by {apart:.1e} of the greatest moment")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=Path, default=Path("networks"), help="folder of the trained networks")
    parser.add_argument("--only", choices=["small", "resnet-18", "moments"], default="small")
    parser.add_argument("--samples", type=int, default=300, help="images to calibrate ResNet-18 with")
    parser.add_argument("--seen", action="store_true", help="calibrate with the images of the training")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only == "moments":
        moments()
    elif options.only == "small":
        small(options.networks, range(options.seeds), options.seen)
    else:
        residual(options.networks, options.samples, range(options.seeds))


if __name__ == "__main__":
    main()
