"""Criteria, solvers and schedules made for a study: by name, or one's own by import path."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from secateur import criteria, data, solvers
from secateur.checks import imported
from secateur.criteria import Movement
from secateur.labelled import Data
from secateur.solvers import Solver
from secateur.train import SumMovement, fit
from secateur.types import Criterion, InputError, SecateurError

__all__ = ["MOVEMENT", "criterion", "made", "solver"]

MOVEMENT = "movement"
"""A criterion that looks at a training, so that the library has no name for it."""


def criterion(
    name: str, model: nn.Module, images: Data, seed: int, loss: str = "cross_entropy", **options: Any
) -> Criterion:
    """Return a criterion for a network: by name, or one of one's own, ``module:Class``.

    Args:
        name: the criterion's. A class of one's own is given ``data``, ``seed``, ``model`` and ``loss`` as far as it takes them.
        model: the network; one that looks at a training is shown one epoch on the images, in a copy.
        images: what it looks at, if it does.
        seed: of what is drawn.
        loss: what the network was trained for, where the criterion takes one.
        options: what else it takes.
    """
    if ":" in name:
        return made(name, "criterion", {"data": images, "seed": seed, "model": model, "loss": loss, **options})  # type: ignore[no-any-return]
    if name == MOVEMENT:
        moved = SumMovement()
        fit(copy.deepcopy(model), images, epochs=1, batch_size=32, seed=seed, callbacks=[moved], loss=loss)
        return Movement(moved.moved)
    further: dict[str, dict[str, Any]] = {"random": {"seed": seed}}
    if name == "synflow":
        further[name] = {"inputs": images.head(1)} if isinstance(images, data.Split) else {}
    return criteria.by_name(name, images, loss, **options, **further.get(name, {}))


def solver(name: str, images: Data, seed: int) -> Solver:
    """Return a solver, by name or one of one's own, ``module:Class``, that is given ``data`` and ``seed`` as far as it takes them."""
    if ":" not in name:
        return solvers.by_name(name, images)
    named = made(name, "solver", {"data": images, "seed": seed})
    if not isinstance(named, Solver):
        raise InputError(f"solver {name!r} makes a {type(named).__name__}; derive it from secateur.solvers.Solver")
    return named


def made(path: str, kind: str, offered: Mapping[str, Any]) -> Any:
    """Make what an import path names, of what is offered as far as it takes it."""
    factory = imported(path, kind, "Class")
    try:
        parameters = inspect.signature(factory).parameters
        thing = factory(**{name: value for name, value in offered.items() if name in parameters})
    except (TypeError, ValueError) as error:
        if isinstance(error, SecateurError):
            raise
        raise InputError(f"{kind} {path!r} cannot be made: {error}; it is offered {', '.join(offered)}") from error
    if not callable(thing):
        raise InputError(f"{kind} {path!r} makes a {type(thing).__name__}, which cannot be called with (model, sites)")
    return thing
