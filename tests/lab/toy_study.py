"""A small study with made-up numbers, of the shape of a real one: train some nets, prune them two ways."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from secateur.lab import (
    Card,
    Cell,
    Column,
    Context,
    Outcome,
    Picture,
    Publication,
    Recipe,
    Report,
    Results,
    Section,
    Study,
    Table,
    describe,
    summarise,
)
from secateur.lab.show.figures import (
    accuracy_by_sparsity,
    class_bars,
    learning_curves,
    loss_by_sparsity,
    trade_off,
)
from secateur.lab.show.style import styles

CLASSES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SPARSITIES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
# Where each made-up method starts to fall, and how steeply.
METHODS = {"weight": (0.93, 0.035), "neuron": (0.52, 0.06)}


def note(context: Context) -> None:
    """Write down that a cell was run, so that a test can count."""
    log = context.options["log"]
    if log:
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{context.recipe.id}\n")
    if context.recipe.kind in context.options["fail"]:
        raise RuntimeError(f"made to fail\nat seed {context['seed']}")
    time.sleep(context.options["sleep"])


def train(context: Context) -> Outcome:
    note(context)
    noise = torch.Generator().manual_seed(context["seed"])
    history = [_epoch(epoch, 0.004 * torch.randn(2, generator=noise)) for epoch in range(1, 16)]
    last = {"accuracy": history[8]["validation_accuracy"], "loss": history[8]["validation_loss"]}
    return Outcome(last | _costs(0.0, "weight"), history, {"weight": torch.randn(4, generator=noise)})


def prune(context: Context) -> Outcome:
    note(context)
    before = context.record().metrics
    assert context.artefact()["weight"].shape == (4,)
    middle, width = METHODS[context["method"]]
    left = 1 / (1 + math.exp((context["sparsity"] - middle) / width))
    spread = 0.03 * 4 * left * (1 - left) * (context["seed"] - 2)
    accuracy = min(max(0.1 + (before["accuracy"] - 0.1) * left + spread, 0.1), 1.0)
    loss = before["loss"] + (2.303 - before["loss"]) * (1 - left)
    classes = [min(1.0, max(0.0, accuracy + 0.08 * math.sin(2.1 * k))) for k in range(10)]
    costs = _costs(context["sparsity"], context["method"])
    return Outcome({"accuracy": accuracy, "loss": loss, "class_accuracy": classes} | costs)


def cells(options: Mapping[str, Any]) -> list[Cell]:
    trained = {seed: Recipe("toy", "train", {"seed": seed}) for seed in range(options["seeds"])}
    pruned = [
        Recipe("toy", "prune", {"method": method, "sparsity": sparsity, "seed": seed}, (recipe.id,))
        for seed, recipe in trained.items()
        for method in METHODS
        for sparsity in options["sparsities"]
    ]
    return [Cell(recipe, train) for recipe in trained.values()] + [Cell(recipe, prune) for recipe in pruned]


def pages(results: Results) -> Report:
    frame = results.frame
    trained, pruned = frame[frame["kind"] == "train"], frame[frame["kind"] == "prune"]
    base, look, n = summarise(trained["accuracy"]), styles(METHODS), len(trained)
    basis = f"mean and 95 % interval of {n} seeds, test set of 10,000 images"
    half = describe(pruned[pruned["sparsity"] == 0.5], ["method"], ["accuracy"]).set_index("method")["accuracy"]
    return Report(
        "Pruning weights or neurons of a five-layer network on Fashion-MNIST",
        (
            "Removing single weights by magnitude costs nothing up to 70 % and falls off a cliff near 93 %. "
            "Removing whole neurons costs accuracy from 40 % on, but makes the network smaller and faster.",
            "The numbers on this page are made up; they show what a report looks like.",
        ),
        (
            Card("Unpruned accuracy", f"{100 * base.mean:.1f} %", f"{n} seeds; published 88.5 %"),
            Card("Half of the weights removed", f"{100 * half['weight']:.1f} %", "published 87.9 %"),
            Card("Half of the neurons removed", f"{100 * half['neuron']:.1f} %", "published 46.3 %"),
            Card("Speedup at half of the neurons", "2.4×", "MACs 3.6× fewer, one thread, batch 1"),
        ),
        (
            Section("Training", ["The network overfits after nine epochs.", _curves(results, n)]),
            Section("What pruning costs", [*_sweeps(pruned, base.mean, look, basis), _table(pruned, basis)]),
            Section(
                "What pruning gains",
                ["Zeros alone do not speed up a dense product.", *_gains(pruned, base, look)],
            ),
            Section("Which classes pay", [_classes(pruned)]),
        ),
    )


def _epoch(epoch: int, noise: torch.Tensor) -> dict[str, float]:
    a, b = noise.tolist()
    return {
        "epoch": epoch,
        "train_loss": 0.55 * math.exp(-0.16 * epoch) + 0.1 + a,
        "validation_loss": 0.36 * math.exp(-0.5 * epoch) + 0.31 + 0.0012 * (epoch - 6) ** 2 + b,
        "train_accuracy": 0.96 - 0.16 * math.exp(-0.16 * epoch) + a / 2,
        "validation_accuracy": 0.888 - 0.07 * math.exp(-0.5 * epoch) - 0.0002 * (epoch - 7) ** 2 + b,
    }


def _costs(sparsity: float, method: str) -> dict[str, float]:
    kept = 1 - sparsity if method == "neuron" else 1.0
    return {
        "latency": 1e-3 * (0.08 + 0.9 * kept**1.6),
        "bytes": int(9_544_000 * (1 - sparsity) * (kept if method == "neuron" else 1.5) + 4000),
    }


def _curves(results: Results, n: int) -> Picture:
    return Picture(
        "learning-curves",
        learning_curves(results.histories),
        "Loss and accuracy over the epochs of training: the mean, and the range over the seeds.",
        "Training loss falls steadily; validation loss is least near epoch nine and rises afterwards.",
        f"{n} seeds, 54,000 training and 6,000 validation images",
        results.histories,
    )


def _sweeps(pruned: pd.DataFrame, base: float, look: Any, basis: str) -> list[Picture]:
    columns = ["method", "sparsity"]
    theirs = published()
    accuracy = accuracy_by_sparsity(pruned, published=theirs, baseline=base, look=look)
    loss = loss_by_sparsity(pruned, published=theirs, look=look)
    return [
        Picture(
            "accuracy",
            accuracy,
            "Test accuracy over the part that was removed, beside the published points.",
            "Weight pruning holds its accuracy to about 80 %, neuron pruning to about 35 %.",
            basis,
            describe(pruned, columns, ["accuracy"]),
        ),
        Picture("loss", loss, "Test loss likewise.", "Loss mirrors accuracy.", basis),
    ]


def _gains(pruned: pd.DataFrame, base: Any, look: Any) -> list[Picture]:
    timed = pruned.assign(ms=1000 * pruned["latency"], mb=pruned["bytes"] / 1e6)
    parts = (("ms", "Latency (ms)", 0.98), ("mb", "File size (MB)", 9.5))
    return [
        Picture(
            f"trade-off-{cost}",
            trade_off(timed, cost=cost, label=label, baseline=(at, base.mean), look=look, logarithmic=cost == "mb"),
            f"Accuracy against {label.split(' (')[0].lower()}; each point is one sparsity.",
            "Neurons buy speed with accuracy; weights keep accuracy and gain no speed.",
            "mean of the seeds; median of 50 runs, batch 1, one thread",
        )
        for cost, label, at in parts
    ]


def _classes(pruned: pd.DataFrame) -> Picture:
    def of(sparsity: float) -> list[float]:
        rows = pruned[(pruned["method"] == "neuron") & (pruned["sparsity"] == sparsity)]["class_accuracy"]
        return [sum(values) / len(rows) for values in zip(*rows, strict=True)]

    lowest, highest = min(pruned["sparsity"]), sorted(set(pruned["sparsity"]))[1]
    return Picture(
        "classes",
        class_bars(CLASSES, of(lowest), of(highest), names=(f"{lowest:.0%} removed", f"{highest:.0%} removed")),
        "Accuracy of each class, and its change in percentage points, when more neurons are removed.",
        "All classes lose about the same.",
        "mean of the seeds, test set",
    )


def _table(pruned: pd.DataFrame, basis: str) -> Table:
    theirs = published().rename(columns={"accuracy": "theirs"})[["method", "sparsity", "theirs"]]
    ours = describe(pruned, ["method", "sparsity"], ["accuracy", "loss"])
    return Table.of(
        ours.merge(theirs, how="left"),
        "pruning",
        "Accuracy and loss on the test set.",
        (
            Column("Method", key="method"),
            Column("Sparsity", key="sparsity", format=".0%"),
            Column("Accuracy", key="accuracy", format=".4f", best="max"),
            Column("± std", key="accuracy.std", format=".4f"),
            Column("Accuracy", key="theirs", format=".4f", published=True),
            Column("Loss", "nats", key="loss", format=".3f", best="min"),
        ),
        basis,
    )


def published() -> pd.DataFrame:
    """Made up as well, but of the published shape."""
    accuracy = {
        "weight": (0.885, 0.885, 0.884, 0.879, 0.875, 0.856, 0.80, 0.68, 0.10),
        "neuron": (0.884, 0.86, 0.75, 0.463, 0.25, 0.20, 0.12, 0.10, 0.10),
    }
    rows = [
        {"method": method, "sparsity": sparsity, "accuracy": value, "loss": 0.33 + 2.5 * (0.885 - value)}
        for method, values in accuracy.items()
        for sparsity, value in zip(SPARSITIES, values, strict=True)
    ]
    return pd.DataFrame(rows)


STUDY = Study(
    "toy",
    "A toy study",
    Publication("toy", "N. Obody", 2024, "On pruning toys"),
    "Weights or neurons?",
    cells,
    pages,
    {"seeds": 5, "sparsities": list(SPARSITIES), "log": "", "sleep": 0.0, "fail": []},
)
