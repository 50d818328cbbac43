"""A study of real work for the tests that kill: 5 tiny networks are trained, and 55 cells build on them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.lab import (
    Cell,
    Column,
    Context,
    Outcome,
    Recipe,
    Report,
    Results,
    Section,
    Store,
    Study,
    Table,
    run_study,
)


def note(context: Context) -> None:
    """Write down that a cell was begun, in one write, so that a test can count."""
    log = context.options["log"]
    if log:
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{context.recipe.id}\n")
    time.sleep(context.options["sleep"])


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def problem(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(128, 8, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs[:, :3].argmax(1)


def train(context: Context) -> Outcome:
    """Forty steps of Adam from weights that the cell's own random state decides."""
    note(context)
    model, (inputs, labels) = network(), problem(context["seed"])
    optimizer, history = torch.optim.Adam(model.parameters(), lr=0.02), []
    for epoch in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        history.append({"epoch": epoch, "train_loss": loss.item()})
    return Outcome({"loss": loss.item()}, history, model.state_dict())


def damage(context: Context) -> Outcome:
    """The loss with a fraction of the smallest weights, and a random few, set to zero."""
    note(context)
    model, (inputs, labels) = network(), problem(context["seed"])
    model.load_state_dict(context.artefact())
    weight = model[0].weight.detach()
    weight[weight.abs() < weight.abs().quantile(context["sparsity"])] = 0
    weight[torch.rand_like(weight) < 0.05] = 0
    loss = nn.functional.cross_entropy(model(inputs), labels).item()
    return Outcome({"loss": loss, "more": loss - context.record().metrics["loss"]}, artefact={"weight": weight})


def cells(options: Mapping[str, Any]) -> list[Cell]:
    made: list[Cell] = []
    for seed in range(options["seeds"]):
        trained = Cell(Recipe("sixty", "train", {"seed": seed}), train)
        needs, points = (trained.id,), [k / 16 for k in range(options["points"])]
        damaged = [Recipe("sixty", "damage", {"seed": seed, "sparsity": s}, needs) for s in points]
        made += [trained, *(Cell(recipe, damage) for recipe in damaged)]
    return made


def pages(results: Results) -> Report:
    table = Table.of(results.frame, "sixty", "All cells.", [Column("kind"), Column("loss")])
    return Report("Sixty", ["Sixty cells."], sections=[Section("Results", [table])])


SIXTY = Study(
    "sixty",
    "Sixty",
    None,
    "",
    cells,
    pages,
    {"seeds": 5, "points": 11, "log": "", "sleep": 0.0},
    best=("loss", "min"),
)


if __name__ == "__main__":
    place, log, executor, jobs, sleep = sys.argv[1:6]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from secateur.lab.drive.executors import Processes

    options = {"log": log, "sleep": float(sleep)}
    chosen: Any = Processes(int(jobs), retries=20) if executor == "processes" else executor
    summary = run_study(SIXTY, Store(Path(place)), options, executor=chosen)
    print(summary, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the command does
    sys.exit(summary.exit_code)
