"""What it costs to remove all units that are labelled zero or worse, by either reading and by the images that decide.

Networks of 784-128-10 on Fashion-MNIST (L. Charpentier, 2020): every unit's loss change is measured on the first training
images, and all zero and worse units are removed at once; or one after the other, as long as the joint loss on those images
stays within the tolerance. Prints the tables of docs/criteria.md, and with --out writes a row a network and setting as CSV.

    python benchmarks/labels.py --networks 3 --out labels.csv

With --draws it counts instead in how many draws of few images some label is wrong, held against the changes on all images: of
lenet-300-100 on the digits, by the spread of each unit alone and by that of its site.

    python benchmarks/labels.py --draws 25 --images 10 100 300
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import nn

import secateur as sc
from secateur.criteria import LossChange, UnitWorth
from secateur.schedules import Precomputed

REMOVED = ("zero", "worse")
SHOWN = ("important", "zero", "worse", "undecided")


def trained(seed: int, epochs: int, images: sc.data.Split) -> nn.Module:
    """A network trained as the text has it: Adam, rate 0.001, batches of 32."""
    model = sc.models.build("ann-128", seed=seed)
    sc.fit(model, images, epochs=epochs, batch_size=32, lr=1e-3, seed=seed)
    return model.eval()


def rows_of(
    model: nn.Module, seed: int, count: int, train: sc.data.Split, test: sc.data.Split
) -> Iterator[dict[str, Any]]:
    """One row a way of removing."""
    images = train.subset(range(count))
    sites = sc.channels(model, train.images[:1])
    worth = LossChange(images)(model, sites)
    before = sc.evaluate(model, test)
    ways = {
        "significance": Precomputed(worth, REMOVED, reading="significance"),
        "practical": Precomputed(worth, REMOVED),
        "practical, followed": Precomputed(worth, REMOVED, images, within=0.001),
    }
    for name, schedule in ways.items():
        result = schedule(model, sites)
        after = sc.evaluate(result.model, test)
        yield {
            "way": name,
            "images": count,
            "seed": seed,
            **counts(worth, schedule.reading),
            "removed": len(result.history.removed),
            "drop": 100 * (before.accuracy - after.accuracy),
            "rise": after.loss - before.loss,
            "would decide": deciding(worth),
        }


def counts(worth: UnitWorth, reading: str) -> dict[str, int]:
    """How many units have each label."""
    labels = [label for names in worth.label(reading=reading).values() for label in names]  # type: ignore[arg-type]
    return {label: labels.count(label) for label in SHOWN}


def deciding(worth: UnitWorth) -> float:
    """How many images would decide half of the undecided units; 0 where none is."""
    labels, images = worth.label(), worth.images()
    needed = [
        count
        for name, units in labels.items()
        for count, label in zip(images[name].tolist(), units, strict=True)
        if label == "undecided"
    ]
    return median(needed) if needed else 0.0


def table(rows: list[dict[str, Any]], way: str) -> Iterator[str]:
    """The lines of one way's table: means over networks, and the worst network's fall."""
    followed = "followed" in way
    titles = ["images", *SHOWN, "removed", "points lost", "most", "test loss", "would decide half"]
    if followed:
        titles = ["images", "removed", "points lost", "most", "test loss"]
    yield "| " + " | ".join(titles) + " |"
    yield "| " + " | ".join(["---"] * len(titles)) + " |"
    for count in dict.fromkeys(row["images"] for row in rows):
        runs = [row for row in rows if (row["images"], row["way"]) == (count, way)]
        cells = [f"{mean(row[label] for row in runs):.1f}" for label in SHOWN if not followed]
        cells += [f"{mean(row['removed'] for row in runs):.1f}", f"{mean(row['drop'] for row in runs):.2f}"]
        cells += [f"{max(row['drop'] for row in runs):.2f}", f"{mean(row['rise'] for row in runs):+.4f}"]
        if not followed:
            cells.append(f"{median(row['would decide'] for row in runs):,.0f}" if way == "practical" else "–")
        yield f"| {count:,} | " + " | ".join(cells) + " |"


def wrong_labels(draws: int, counts: list[int]) -> Iterator[str]:
    """In how many draws some label contradicts the change on all images, a row a number of images."""
    images = sc.data.load("digits")
    model = sc.models.build("lenet-300-100", input_size=8, seed=0)
    sc.fit(model, images, epochs=5, seed=0)
    sites = sc.channels(model, images.images[:1])
    whole = LossChange(images)(model, sites)
    generator = torch.Generator().manual_seed(1)
    yield "| images | own spread | pooled | zero, own | zero, pooled |\n| --- | --- | --- | --- | --- |"
    for count in counts:
        wrong, zero = {False: 0, True: 0}, {False: 0, True: 0}
        for _ in range(draws):
            few = images.subset(torch.randint(len(images), (count,), generator=generator))
            worth = LossChange(few)(model, sites)
            for pooled in wrong:
                labels = worth.label(pooled=pooled)
                wrong[pooled] += any(is_wrong(labels[site], whole[site], worth, whole) for site in whole)
                zero[pooled] += sum(names.count("zero") for names in labels.values())
        yield (
            f"| {count:,} | {wrong[False]} of {draws} | {wrong[True]} of {draws} | {zero[False] / draws:.1f} | "
            f"{zero[True] / draws:.1f} |"
        )


def is_wrong(labels: list[str], changes: torch.Tensor, worth: UnitWorth, whole: UnitWorth) -> bool:
    """Whether a label contradicts the true change, by the tolerance of the draw's loss or of the true one."""
    losses = (worth.base.loss, whole.base.loss)
    least, most = 1e-3 * min(losses), 1e-3 * max(losses)
    contradicts = {
        "zero": lambda change: abs(change) > most,
        "important": lambda change: change <= least,
        "worse": lambda change: change >= 0,
        "undecided": lambda change: False,
    }
    return any(contradicts[label](change) for label, change in zip(labels, changes.tolist(), strict=True))


def main() -> None:
    """Train, measure, remove, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 2_000, 10_000, 30_000])
    parser.add_argument("--draws", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.draws:
        for line in wrong_labels(asked.draws, asked.images):
            print(line, flush=True)
        return
    train, test = sc.data.load("fashion-mnist"), sc.data.load("fashion-mnist", "test")
    rows: list[dict[str, Any]] = []
    for seed in range(asked.networks):
        model = trained(seed, asked.epochs, train)
        for count in asked.images:
            rows += rows_of(model, seed, count, train, test)
        print(f"network {seed} done", flush=True)
    if asked.out:
        with asked.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    for way in dict.fromkeys(row["way"] for row in rows):
        print(f"\n{way}\n", *table(rows, way), sep="\n")


if __name__ == "__main__":
    main()
