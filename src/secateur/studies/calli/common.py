"""What the studies after E. Çallı, 2017, share: the source, and the ways to prune by activations in cycles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from secateur.activations import activation_counts
from secateur.criteria import ActivationCount, ActiveFraction
from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Publication
from secateur.labelled import Samples
from secateur.result import Result
from secateur.schedules import Cycles
from secateur.selection import AtMost, BelowQuantile, Outliers, Rule
from secateur.structure import channels
from secateur.train import (
    ActivationPenalty,
    Callback,
    Distortion,
    GroupLasso,
    History,
    TrainCycle,
    TrainOptions,
    WeightPenalty,
    fit,
)
from secateur.types import Criterion

__all__ = ["ON_IMAGES", "SOURCE", "Course", "OnCycle", "Way", "cycle_options"]

SOURCE = Publication("calli", "E. Çallı", 2017, "Optimizing Neural Networks for Mobile Devices")

OnCycle = Callable[[int, nn.Module, History], object]

ON_IMAGES = (
    Option("data", "text", "", "data sets, by name", many="either"),
    Option("data_dir", "text", None, "the folder with the data files", optional=True),
    Option("images", "count", 2000, "training images, the first ones", least=1),
)
"""The options of a study that is on images."""


def cycle_options(ways: Iterable[str], *further: Option, least_batch: int = 1, **defaults: Json) -> Options:
    """Return the options that all studies of cycles have, and further ones, with a study's own defaults.

    >>> dict(cycle_options(["vanilla"], seeds=3))["seeds"]
    3
    """
    names = tuple(ways)
    table = (
        Option("seeds", "count", 1, "how many networks of each way", least=1),
        Option("ways", "text", list(names), "what is done in the cycles", allowed=names, many="list"),
        *further,
        Option("epochs", "count", 2, "passes over the samples in a cycle", least=1),
        Option("cycles", "count", 2, "how many cycles at most", least=1),
        Option("settle", "count", 2, "passes without penalty and distortion at the end", least=1),
        Option("batch_size", "count", 50, "samples a step", least=least_batch),
    )
    return Options(table).changed(**defaults)


@dataclass(frozen=True)
class Way:
    """One way to prune in cycles, as plain data: it stands in the recipes of its cells, as far as it is not the default.

    Attributes:
        optimizer, lr, momentum: of the training.
        distort, strength, decay, until: of `Distortion`; "" distorts nothing.
        distort_of: patterns of the parameters that it disturbs; empty for the weights.
        l1, l1_of: strength of an L1 on the parameters of these patterns.
        activity: strength of an L1 on the activations.
        lasso, lasso_of, roles: strength of the group lasso, its factor at the sites of each pattern, and what belongs to a
            group.
        rule, limit: ``"at most"`` so many activations, ``"fraction"`` of them, below a ``"quantile"``, or ``"outliers"``
            below mean − limit · standard deviation.
        floor: absolute activations up to this count as zero.
        patience: how many cycles in a row may remove nothing.
        init: how the weights begin; "" as the network has them.
        network: options of the network.
    """

    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.3
    distort: str = ""
    strength: float = 1.0
    decay: float = 1.0
    until: int | None = None
    distort_of: tuple[str, ...] = ()
    l1: float = 0.0
    l1_of: tuple[str, ...] = ("*",)
    activity: float = 0.0
    lasso: float = 0.0
    lasso_of: tuple[tuple[str, float], ...] = (("*", 1.0),)
    roles: tuple[Any, ...] = ("out", "in")
    rule: str = "at most"
    limit: float = 0.0
    floor: float = 0.0
    patience: int = 1
    init: str = ""
    network: tuple[tuple[str, Any], ...] = ()

    def recipe(self) -> dict[str, Json]:
        """Return what differs from the defaults, for a recipe."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        plain: dict[str, Json] = json.loads(json.dumps(values))
        return plain | ({"network": dict(self.network)} if self.network else {})

    @classmethod
    def of(cls, recipe: Mapping[str, Json]) -> Way:
        """Return the way that stands in a recipe.

        >>> way = Way(lasso=0.1, roles=("scale",), network=(("bias", False),))
        >>> Way.of(way.recipe()) == way
        True
        """
        tuples: dict[str, Callable[[Any], Any]] = {"roles": tuple, "l1_of": tuple, "distort_of": tuple}
        tuples |= {"network": lambda value: tuple(value.items()), "lasso_of": lambda pairs: tuple(map(tuple, pairs))}
        return cls(**{name: tuples[name](value) if name in tuples else value for name, value in recipe.items()})

    def options(self, **further: Any) -> TrainOptions:
        """Return the options of a cycle's training."""
        momentum: dict[str, Any] = {"momentum": self.momentum} if self.optimizer in ("sgd", "rmsprop") else {}
        return TrainOptions(optimizer=self.optimizer, lr=self.lr, **momentum, **further)

    def penalties(self, example: Tensor) -> list[Callback]:
        """Return the terms that are added to the loss."""
        terms: list[Callback] = []
        if self.l1:
            terms.append(WeightPenalty(self.l1, self.l1_of))
        if self.activity:
            terms.append(ActivationPenalty(self.activity))
        for pattern, factor in self.lasso_of if self.lasso else ():
            terms.append(GroupLasso(self.lasso * factor, example, self.roles, (pattern,)))
        return terms

    def prune(
        self,
        model: nn.Module,
        train: Samples,
        counted: tuple[Tensor, Tensor],
        options: TrainOptions,
        cycles: int,
        on_cycle: OnCycle,
        callbacks: Sequence[Callback] = (),
    ) -> Result:
        """Return what is left of a model after the cycles: trained on some samples, counted on others."""
        example = counted[0][:1]
        distort = None
        if self.distort:
            # Both names are checked there.
            how: Any = self.distort
            distort = Distortion(how, self.strength, self.decay, self.until, self.distort_of, seed=options.seed)
        training = TrainCycle(train, options, [*self.penalties(example), *callbacks], distort, on_cycle)
        schedule = Cycles(self._criterion(counted), training, self._rule(), cycles, self.patience)
        return schedule(model, channels(model, example))

    def _criterion(self, data: tuple[Tensor, Tensor]) -> Criterion:
        return (ActiveFraction if self.rule == "fraction" else ActivationCount)(data, threshold=self.floor)

    def _rule(self) -> Rule:
        rules: dict[str, Callable[[float], Rule]] = {"outliers": Outliers, "quantile": BelowQuantile}
        return rules.get(self.rule, AtMost)(self.limit)


@dataclass(frozen=True, eq=False)
class Course:
    """How long all networks of a study are trained, pruned or not: cycles first, then without penalty and distortion.

    Attributes:
        train: what they are trained on.
        counted: what activations are counted on, and what the first of is the example.
        epochs: of each cycle.
        cycles: how many at most.
        settle: epochs after them, at least; those of cycles that were not needed come on top, so all train as long.
        batch_size, loss: of the training.
    """

    train: Samples
    counted: tuple[Tensor, Tensor]
    epochs: int
    cycles: int
    settle: int
    batch_size: int
    loss: str

    def prune(self, way: Way, model: nn.Module, seed: int) -> tuple[Result, list[dict[str, Json]]]:
        """Return what is left of a model when it is trained, and a row for each cycle."""
        rows: list[dict[str, Json]] = []

        def note(cycle: int, trained: nn.Module, history: History) -> None:
            loss = history.to_dicts()[-1]["train_loss"]
            rows.append({"step": cycle, "train_loss": loss, **_quietest(trained, self.counted)})

        options = self._options(way, self.epochs, seed)
        result = way.prune(model, self.train, self.counted, options, self.cycles, note)
        for row, left in zip(rows, _left(result), strict=False):
            row["units"] = sum(left)
            row["left"] = "-".join(map(str, left))
        self._finish(way, result.model, seed, self.epochs * len(rows))
        return result, rows

    def plain(self, way: Way, model: nn.Module, seed: int) -> None:
        """Train a model as long without pruning it."""
        fit(model, self.train, options=self._options(way, self.epochs * self.cycles, seed))
        self._finish(way, model, seed, self.epochs * self.cycles)

    def _finish(self, way: Way, model: nn.Module, seed: int, done: int) -> None:
        """Train the epochs that are left, the learning rate going to zero along a cosine."""
        options = self._options(way, self.epochs * self.cycles + self.settle - done, seed + 1000)
        fit(model, self.train, options=options, schedule="cosine")

    def _options(self, way: Way, epochs: int, seed: int) -> TrainOptions:
        return way.options(epochs=epochs, batch_size=self.batch_size, loss=self.loss, seed=seed)


def _quietest(model: nn.Module, data: tuple[Tensor, Tensor]) -> dict[str, Json]:
    """How often the least active unit of the model fires on the first samples."""
    some = data[0][:1000], data[1][:1000]
    counts = activation_counts(model, channels(model, some[0][:1]), some)
    return {"least_active": min(float(site_counts.fraction.min()) for site_counts in counts.values())}


def _left(result: Result) -> list[list[int]]:
    """How many units each site has after each cycle."""
    left = {name: keep_mask.numel() for name, keep_mask in result.keep.items()}
    counts = []
    for step in result.history.steps:
        for name, _ in step.units:
            left[name] -= 1
        counts.append(list(left.values()))
    return counts
