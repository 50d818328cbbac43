"""The least-squares problems of a model's layers: each weight as matrices, with what it is multiplied by."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.criteria.layer_inputs import Inputs
from secateur.types import InputError

__all__ = ["damped", "damping_of", "merged"]


def merged(layer_inputs: list[Inputs], doing: str) -> list[Inputs]:
    """Return one problem for every matrix of a parameter; a layer that is used again adds to the same.

    Raises:
        InputError: two products that share a part of their weights only.
    """
    problems: list[Inputs] = []
    for problem in layer_inputs:
        same = next((i for i, other in enumerate(problems) if _same(other, problem)), None)
        if same is not None:
            other = problems[same]
            problems[same] = Inputs(other.layer, other.total + problem.total, other.count + problem.count)
        elif any(_overlap(other, problem) for other in problems):
            raise InputError(
                f"{doing}: {problem.layer.parameter!r} is multiplied in two ways that share entries, as a weight and its "
                f"transpose; leave it out: weights(model, ignore=[{problem.layer.parameter!r}])"
            )
        else:
            problems.append(problem)
    return problems


def _same(a: Inputs, b: Inputs) -> bool:
    return a.layer.entries.shape == b.layer.entries.shape and bool((a.layer.entries == b.layer.entries).all())


def _overlap(a: Inputs, b: Inputs) -> bool:
    return bool(torch.isin(a.layer.entries, b.layer.entries).any())


def damping_of(moments: Tensor, damping: float) -> float:
    """Return what is added to the diagonal of second moments ``(in, in)``: a share of its mean."""
    return max(damping * float(moments.diagonal().mean()), 1e-12)


def damped(moments: Tensor, damping: float) -> Tensor:
    """Return second moments ``(in, in)`` with a share of the mean of their diagonal added to it."""
    raised = moments.clone()
    diagonal = raised.diagonal()
    diagonal += damping_of(moments, damping)
    return raised
