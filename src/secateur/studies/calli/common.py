"""What the studies after E. Çallı, 2017, share: the source, and the ways to prune by activations in cycles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from secateur.criteria import ActivationCount, ActiveFraction
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Publication
from secateur.result import Result
from secateur.schedules import Cycles
from secateur.selection import AtMost, BelowQuantile, Outliers, Rule
from secateur.structure import channels
from secateur.train import ActivationPenalty, Callback, Distortion, GroupLasso, History, TrainCycle, TrainOptions
from secateur.train import WeightPenalty
from secateur.types import Criterion

__all__ = ["SOURCE", "OnCycle", "Way", "widths"]

SOURCE = Publication("calli", "E. Çallı", 2017, "Optimizing Neural Networks for Mobile Devices")

OnCycle = Callable[[int, nn.Module, History], object]


@dataclass(frozen=True)
class Way:
    """One way to prune in cycles, as plain data: it stands in the recipes of its cells, as far as it is not the default.

    Attributes:
        optimizer, lr, momentum: of the training.
        distort, strength, decay, until: of `Distortion`; "" distorts nothing.
        l1, l1_of: strength of an L1 on the parameters of these patterns.
        activity: strength of an L1 on the activations.
        lasso, roles: strength of the group lasso, and what belongs to a group.
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
    l1: float = 0.0
    l1_of: tuple[str, ...] = ("*",)
    activity: float = 0.0
    lasso: float = 0.0
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
        return {name: dict(v) if name == "network" else list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def of(cls, recipe: Mapping[str, Json]) -> Way:
        """Return the way that stands in a recipe.

        >>> way = Way(lasso=0.1, roles=("scale",), network=(("bias", False),))
        >>> Way.of(way.recipe()) == way
        True
        """
        tuples = {"network": lambda value: tuple(value.items()), "roles": tuple, "l1_of": tuple}
        return cls(**{name: tuples[name](value) if name in tuples else value for name, value in recipe.items()})

    def options(self, **further: Any) -> TrainOptions:
        """Return the options of a cycle's training."""
        momentum = {"momentum": self.momentum} if self.optimizer in ("sgd", "rmsprop") else {}
        return TrainOptions(optimizer=self.optimizer, lr=self.lr, **momentum, **further)

    def penalties(self, example: Tensor) -> list[Callback]:
        """Return the terms that are added to the loss."""
        terms: list[Callback] = []
        if self.l1:
            terms.append(WeightPenalty(self.l1, self.l1_of))
        if self.activity:
            terms.append(ActivationPenalty(self.activity))
        if self.lasso:
            terms.append(GroupLasso(self.lasso, example, self.roles))
        return terms

    def prune(
        self,
        model: nn.Module,
        data: tuple[Tensor, Tensor],
        options: TrainOptions,
        cycles: int,
        on_cycle: OnCycle,
        callbacks: Sequence[Callback] = (),
    ) -> Result:
        """Return what is left of a model after the cycles; it is counted on the training data."""
        example = data[0][:1]
        distort = None
        if self.distort:
            # Both names are checked there.
            how: Any = self.distort
            distort = Distortion(how, self.strength, self.decay, self.until, seed=options.seed)
        train = TrainCycle(data, options, [*self.penalties(example), *callbacks], distort, on_cycle)
        schedule = Cycles(self._criterion(data), train, self._rule(), cycles, self.patience)
        return schedule(model, channels(model, example))

    def _criterion(self, data: tuple[Tensor, Tensor]) -> Criterion:
        return (ActiveFraction if self.rule == "fraction" else ActivationCount)(data, threshold=self.floor)

    def _rule(self) -> Rule:
        rules: dict[str, Callable[[float], Rule]] = {"outliers": Outliers, "quantile": BelowQuantile}
        return rules.get(self.rule, AtMost)(self.limit)


def widths(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Return how many units each site has; a site of one unit is none."""
    return {name: site.size for name, site in channels(model, example).items()}
