"""E. Çallı, 2017, sections 2.1.1 and 2.2.1: the sum of two numbers by a thousand nodes, pruned in cycles to the one it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss

from secateur import models
from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json, Recipe
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.result import Result
from secateur.studies.calli.common import SOURCE, Way, cycle_options
from secateur.studies.calli.summation_pages import NOTES, cards, sections, words
from secateur.studies.kit.parts import study
from secateur.train import Callback, History, Run, TrainOptions, fit

__all__ = ["STUDY", "WAYS", "samples"]

NORMAL = "standard-normal"
WATCHED = 60
"""The first steps of the first cycle, each of which is looked at."""
FRESH = 100_000

WAYS: Mapping[str, Way] = {
    "vanilla": Way(init=NORMAL),
    "small weights": Way(),
    "no biases": Way(init=NORMAL, network=(("bias", False),)),
    "higher rate and momentum": Way(init=NORMAL, lr=0.02, momentum=0.6),
    "Adam": Way(init=NORMAL, optimizer="adam"),
    "RMSProp": Way(init=NORMAL, optimizer="rmsprop", momentum=0.0),
    "fires in at most 1 %": Way(init=NORMAL, rule="fraction", limit=0.01),
    "distorted, multiplied": Way(init=NORMAL, distort="multiply", patience=3),
    "distorted, patient": Way(init=NORMAL, distort="multiply", patience=12),
    "distorted, biases too": Way(init=NORMAL, distort="multiply", distort_of=("*",), patience=12),
    "distorted, added": Way(init=NORMAL, distort="add", patience=3),
    "L1": Way(init=NORMAL, l1=0.01, floor=0.05, patience=6),
    "distorted + L1": Way(init=NORMAL, l1=0.01, floor=0.05, distort="multiply", strength=0.5, until=3, patience=6),
    "group lasso": Way(init=NORMAL, lasso=0.05, floor=0.05, patience=12),
    "distorted + group lasso": Way(
        init=NORMAL, lasso=0.05, floor=0.05, distort="multiply", strength=0.5, until=3, patience=12
    ),
    "Adam + group lasso": Way(init=NORMAL, optimizer="adam", lasso=0.02, floor=0.05, patience=12),
    "distorted + Adam + group lasso": Way(
        init=NORMAL,
        optimizer="adam",
        lasso=0.02,
        floor=0.05,
        distort="multiply",
        strength=0.5,
        until=3,
        patience=12,
    ),
}
"""The rows of the study: the text's, and what its notes ask for."""

MAIN = (
    "vanilla",
    "distorted, multiplied",
    "distorted, patient",
    "distorted, biases too",
    "group lasso",
    "distorted + group lasso",
    "Adam + group lasso",
    "distorted + Adam + group lasso",
)
"""The ways that are run with every seed; the others with the first ones."""


def _cells(name: str, settled: Mapping[str, Json]) -> Iterator[Cell]:
    shared = {key: settled[key] for key in ("hidden", "samples", "low", "epochs", "batch_size", "cycles", "settle")}
    lookup = {"data": settled["data"], "model": "calli-sum"}
    for seed in range(settled["seeds"]):
        for way in settled["ways"]:
            if way not in MAIN and seed >= settled["few"]:
                continue
            parameters = {"seed": seed, "way": way, "how": WAYS[way].recipe(), **shared, **lookup}
            yield Cell(Recipe(name, "cycle", parameters), cycle_cell, lookup=lookup)


def samples(count: int, low: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return pairs of numbers, uniform in [low, 1], and their sums: ``(count, 2)`` and ``(count, 1)``.

    >>> x, y = samples(2, -1.0, seed=0)
    >>> bool((y == x.sum(1, keepdim=True)).all())
    True
    """
    x = torch.rand(count, 2, generator=Generator().manual_seed(seed)) * (1 - low) + low
    return x, x.sum(1, keepdim=True)


def cycle_cell(context: Context) -> Outcome:
    """Prune one network in cycles, train what is left on without penalty or distortion, and rate both on fresh samples."""
    way, seed = Way.of(context["how"]), context["seed"]
    network = {"hidden": context["hidden"], **dict(way.network)}
    model = models.build("calli-sum", seed=seed, init=way.init or None, **network)
    data, fresh = samples(context["samples"], context["low"], seed), samples(FRESH, context["low"], seed + 10**6)
    options = way.options(epochs=context["epochs"], batch_size=context["batch_size"], loss="mse", seed=seed)
    steps, trained = _FirstSteps(context["low"]), _Trained(data)
    result = way.prune(model, data, data, options, context["cycles"], trained, [steps])
    loss = _loss(result.model, fresh)
    settle = TrainOptions(epochs=context["settle"], batch_size=context["batch_size"], loss="mse", lr=0.01)
    fit(result.model, data, options=settle, schedule="cosine", seed=seed)
    metrics = {**_pruned(result), "loss": loss, "settled_loss": _loss(result.model, fresh), **_weights(result.model)}
    return Outcome(metrics, [*steps.rows, *_cycle_rows(result, trained)])


def _pruned(result: Result) -> dict[str, Json]:
    removed = [len(step.units) for step in result.history.steps]
    left = int(result.keep["hidden"].sum())
    counts: dict[str, Json] = {"first": removed[0] if removed else 0, "second": sum(removed[1:2])}
    return {**counts, "left": left, "cycles_done": len(removed), "ending": result.history.ending}


def _weights(model: Any) -> dict[str, Json]:
    """What is left, where it is little; and w₁·w₂, which is (1, 1) at the known optimum."""
    w1, w2 = model.hidden.weight.detach(), model.output.weight.detach()
    product = (w2 @ w1)[0]
    weights: dict[str, Json] = {"product": product.tolist(), "off": float((product - 1).abs().max())}
    if len(w1) == 1 and model.hidden.bias is not None:
        weights |= {
            "w1": w1[0].tolist(),
            "w2": w2.item(),
            "b1": model.hidden.bias.item(),
            "b2": model.output.bias.item(),
        }
    return weights


def _loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return float(mse_loss(model(data[0]), data[1]))


def firing(model: Any, low: float) -> int:
    """Return how many nodes fire anywhere: before its ReLU a node is linear, so greatest in a corner of the inputs' square."""
    corners = torch.tensor([[a, b] for a in (low, 1.0) for b in (low, 1.0)])
    with torch.no_grad():
        return int((model.hidden(corners) > 0).any(0).sum())


def positive(model: nn.Module) -> float:
    """Return the share of positive entries among the gradients of the weights that are not zero."""
    gradients = [p.grad[p.grad != 0] for p in model.parameters() if p.grad is not None and p.ndim > 1]
    count = sum(map(len, gradients))
    return sum(int((gradient > 0).sum()) for gradient in gradients) / count if count else float("nan")


class _FirstSteps(Callback):
    """Notes the first steps of the first cycle."""

    def __init__(self, low: float) -> None:
        self.low = low
        self.rows: list[dict[str, Json]] = []
        self._positive = float("nan")

    def on_gradients(self, run: Run) -> None:
        if len(self.rows) < WATCHED:
            self._positive = positive(run.model)

    def on_step(self, run: Run) -> None:
        if len(self.rows) < WATCHED:
            largest = max(float(p.detach().abs().max()) for p in run.model.parameters())
            row = {"phase": "steps", "step": run.step, "nodes": firing(run.model, self.low), "largest": largest}
            self.rows.append({**row, "positive": self._positive})


class _Trained:
    """Notes each cycle's training: its last loss, and where the gradients point."""

    def __init__(self, data: tuple[Tensor, Tensor]) -> None:
        self.data = data
        self.rows: list[dict[str, Json]] = []

    def __call__(self, cycle: int, model: nn.Module, history: History) -> None:
        mse_loss(model(self.data[0]), self.data[1]).backward()  # type: ignore[no-untyped-call]
        self.rows.append({"train_loss": history.to_dicts()[-1]["train_loss"], "positive": positive(model)})
        model.zero_grad(set_to_none=True)


def _cycle_rows(result: Result, trained: _Trained) -> list[dict[str, Json]]:
    left, rows = result.keep["hidden"].numel(), []
    for cycle, (step, figures) in enumerate(zip(result.history.steps, trained.rows, strict=False), 1):
        left -= len(step.units)
        rows.append({"phase": "cycles", "step": cycle, "nodes": left, **figures})
    return rows


STUDY = study(
    "calli-sum",
    "The sum of two numbers: from a thousand nodes to one",
    "A network of a thousand nodes learns i₁ + i₂ and is pruned by its activations in cycles: vanilla, distorted, penalised.",
    source=SOURCE,
    options=cycle_options(
        WAYS,
        Option("few", "count", 1, "how many networks of ways that are not among the main ones, at most", least=1),
        Option("hidden", "count", 1000, "nodes to begin with", least=1),
        Option("samples", "count", 20_000, "pairs of numbers; the text has 1,000,000", least=1),
        Option("low", "number", 0.0, "the least number; the greatest is 1", most=0.9),
        Option("data", "text", "sums", "what is learnt", allowed=("sums",)),
        seeds=10,
        epochs=10,
        cycles=60,
        settle=50,
        batch_size=1000,
    ),
    cells=lambda name, settled: list(_cells(name, settled)),
    sections=sections,
    words=words,
    cards=cards,
    notes=NOTES,
    network="calli-sum",
    trained=False,
)
