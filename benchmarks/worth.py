"""Whether a compressed model is worth having: twice as fast in ONNX Runtime, at the accuracy it had.

    python benchmarks/worth.py --cache /tmp/worth --seeds 5                  # ResNet-18 of width 16 on Fashion-MNIST
    python benchmarks/worth.py --cache /tmp/worth --seeds 5 --peer           # beside Torch-Pruning, at its latency

A network a seed is trained on ``--images`` of the 60,000 training images (once: the weights are kept in the cache), and
compressed with `secateur.compress` to ``--goal`` of its latency in ONNX Runtime at one thread and batch 16, all by
5,000 other training images. What is printed is taken on the 10,000 test images, which nothing was chosen by: accuracy
before and after, and the speedup at batch 16 and at batch 1, both models timed in turns by the processor's time, with
the mean over seeds and its 95 % interval. ``--peer`` gives Torch-Pruning 1.6.1 the same data, epochs
and latency: its Taylor importance, as many steps, widths rounded as ours are, and the ratio, found by bisection, with
which it is as fast as ours or up to 2 % slower; it is trained by the labels, and once more with ours as a teacher. The
difference is paired by seed. Results are kept in the cache, so that a rerun goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from secateur.measure import compare_latency
from secateur.saving import load_weights, save_weights
from secateur.train.options import TrainOptions

RUNTIME = "onnxruntime"
VALIDATION = 5000
PEER_WAYS = ("fine-tuned", "distilled")
"""How Torch-Pruning's network is trained: by the labels, as its examples do, and with the unpruned one as teacher, as ours is."""
Pair = tuple[Tensor, Tensor]


def data(images: int) -> tuple[Pair, Pair, Pair]:
    """Return training, validation and test images with their labels."""
    train, test = sc.data.load("fashion-mnist"), sc.data.load("fashion-mnist", "test")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(100))
    some, held = order[VALIDATION : VALIDATION + images], order[:VALIDATION]
    return (
        (train.images[some], train.labels[some]),
        (train.images[held], train.labels[held]),
        (test.images, test.labels),
    )


def network() -> nn.Module:
    """Return a ResNet-18 of width 16 for images of 28 × 28 pixels."""
    return sc.models.build("resnet-18", width=0.25, input_size=28, in_channels=1, classes=10).eval()


def trained(cache: Path, seed: int, train: Pair, epochs: int) -> nn.Module:
    """Return the network of a seed, trained or read from the cache."""
    file = cache / f"resnet18-seed{seed}.safetensors"
    if file.exists():
        model = network()
        load_weights(file, model)
        return model
    model = sc.models.build("resnet-18", width=0.25, input_size=28, in_channels=1, classes=10, seed=seed)
    options = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine"}
    sc.fit(model, train, epochs=epochs, seed=seed, progress=True, **options)
    save_weights(file, model)
    return model.eval()


def speedup(before: nn.Module, after: nn.Module, batch: int) -> float:
    """Return how many times as fast the smaller model is in ONNX Runtime at one thread."""
    both = {"before": before, "after": after}
    return compare_latency(both, torch.randn(batch, 1, 28, 28), runtime=RUNTIME).speedups["after"].median


def rated(before: nn.Module, after: nn.Module, test: Pair) -> dict[str, float]:
    """Return what is printed of one compressed model."""
    return {
        "before": sc.evaluate(before, test).accuracy,
        "after": sc.evaluate(after, test).accuracy,
        "batch 16": speedup(before, after, 16),
        "batch 1": speedup(before, after, 1),
    }


def ours(model: nn.Module, train: Pair, validation: Pair, seed: int, args: argparse.Namespace) -> nn.Module:
    """Compress with secateur; what was tried is printed."""
    example = torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    result = sc.compress(
        model,
        example,
        {"latency": args.goal},
        train,
        validation,
        runtime=RUNTIME,
        seed=seed,
        folder=args.cache / f"{args.name}-seed{seed}",
        progress=True,
    )
    print(result.history)
    return result.model


def peer(model: nn.Module, small: nn.Module, train: Pair, seed: int, ways: Iterable[str]) -> dict[str, nn.Module]:
    """Prune with Torch-Pruning to the latency of `small`, in as many steps, with as many epochs, in each way of training."""
    low, high = 0.0, 0.9
    for _ in range(7):
        ratio = (low + high) / 2
        if speedup(small, torch_pruned(model, train, ratio, lambda student: None), 16) >= 0.98:
            high = ratio
        else:
            low = ratio
    options = sc.compression.CompressOptions()

    def fine_tuned(student: nn.Module, how: TrainOptions) -> None:
        sc.fit(student, train, options=how, seed=seed)

    def distilled(student: nn.Module, how: TrainOptions) -> None:
        sc.distill(student, model, train, options=how, seed=seed, match="logits")

    models = {}
    for way in ways:
        train_back = {"fine-tuned": fine_tuned, "distilled": distilled}[way]
        final = torch_pruned(model, train, high, lambda student, run=train_back: run(student, options.train))
        assert options.finish is not None
        train_back(final, options.finish)
        models[way] = final
    return models


def torch_pruned(model: nn.Module, train: Pair, ratio: float, after_step: Callable[[nn.Module], Any]) -> nn.Module:
    """Return a copy pruned by Torch-Pruning's Taylor importance, in two steps."""
    from copy import deepcopy

    import torch_pruning as tp

    student = deepcopy(model).train()
    last = [module for module in student.modules() if isinstance(module, nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        student,
        torch.randn(1, 1, 28, 28),
        importance=tp.importance.GroupTaylorImportance(),
        pruning_ratio=ratio,
        iterative_steps=2,
        global_pruning=True,
        max_pruning_ratio=0.9,
        round_to=8,
        ignored_layers=[last],
    )
    for _ in range(2):
        student.eval()
        student.zero_grad()
        for start in range(0, 1000, 250):
            images, labels = train[0][start : start + 250], train[1][start : start + 250]
            nn.functional.cross_entropy(student(images), labels).backward()
        pruner.step()
        student.zero_grad(set_to_none=True)
        after_step(student)
    return student.eval()


def interval(values: list[float]) -> str:
    """Return the mean, with the 95 % interval of Student's t."""
    from scipy.stats import t

    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.4f}"
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / sqrt(len(values))
    return f"{mean:.4f} [{mean - half:.4f}, {mean + half:.4f}]"


def kept(file: Path, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return what a file holds, computed where it is not there."""
    if not file.exists():
        file.write_text(json.dumps(compute()))
    rows: dict[str, float] = json.loads(file.read_text())
    return rows


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="a folder for weights and results")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--goal", type=float, default=0.5)
    parser.add_argument("--name", default="compressed", help="of the results in the cache")
    parser.add_argument("--peer", action="store_true", help="Torch-Pruning too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    train, validation, test = data(args.images)
    rows: list[dict[str, float]] = []
    for seed in range(args.seeds):
        model = trained(args.cache, seed, train, args.epochs)

        def compute(model: nn.Module = model, seed: int = seed) -> dict[str, float]:
            small = ours(model, train, validation, seed, args)
            row = rated(model, small, test)
            if args.peer:
                for way, pruned in peer(model, small, train, seed, PEER_WAYS).items():
                    row |= {f"peer, {way}: {name}": value for name, value in rated(model, pruned, test).items()}
            return row

        rows.append(kept(args.cache / f"{args.name}{'-peer' if args.peer else ''}-seed{seed}.json", compute))
        print(seed, {name: round(value, 4) for name, value in rows[-1].items()}, flush=True)
    for name in rows[0]:
        print(f"{name:<28} {interval([row[name] for row in rows])}")
    print(f"{'drop':<28} {interval([row['before'] - row['after'] for row in rows])}")
    for way in PEER_WAYS if args.peer else ():
        above = interval([row["after"] - row[f"peer, {way}: after"] for row in rows])
        print(f"ours above Torch-Pruning, {way}: {above}")


if __name__ == "__main__":
    main()
