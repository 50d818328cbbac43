"""Masks by what a score is, not by how many are to go: absolute, by quantile, or as an outlier of its layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.checks import check_number
from secateur.selection.choose import check_scores
from secateur.types import InputError, Scores, brief

__all__ = ["AtMost", "BelowQuantile", "Outliers", "Rule", "checked_masks"]

Rule = Callable[[Scores], dict[str, Tensor]]
"""From scores to keep masks; how many go is up to the scores, and may be none or all."""


@dataclass(frozen=True)
class AtMost:
    """Removes the units that score this or less (Çallı, 2017, section 2.2.1: the activation threshold).

    >>> AtMost(0)({"fc": torch.tensor([0.0, 3.0, 0.0])})
    {'fc': tensor([False,  True, False])}
    """

    limit: float = 0.0

    def __post_init__(self) -> None:
        check_number(self, "(-inf, inf)", limit=self.limit)

    def __call__(self, scores: Scores) -> dict[str, Tensor]:
        """Return the masks.

        Raises:
            InputError: scores that are empty, NaN or all infinite.
        """
        check_scores(scores, "AtMost")
        return {name: score > self.limit for name, score in scores.items()}


@dataclass(frozen=True)
class BelowQuantile:
    """Removes the units of each site that score below its quantile; equal scores go or stay together.

    Attributes:
        quantile: in [0, 1]; between two scores it is taken linearly.

    >>> BelowQuantile(0.5)({"fc": torch.tensor([4.0, 1.0, 3.0, 1.0])})
    {'fc': tensor([ True, False,  True, False])}
    """

    quantile: float

    def __post_init__(self) -> None:
        check_number(self, "[0, 1]", quantile=self.quantile)

    def __call__(self, scores: Scores) -> dict[str, Tensor]:
        """Return the masks.

        Raises:
            InputError: scores that are empty, NaN or infinite.
        """
        check_scores(scores, "BelowQuantile", finite=True)
        return {name: s >= torch.quantile(s.double().flatten(), self.quantile) for name, s in scores.items()}


@dataclass(frozen=True)
class Outliers:
    """Removes the units of each site that score below mean − k · standard deviation (Çallı, 2017, section 2.2.2: k = 2).

    Mean and standard deviation (over all units, not one less) are those of the site's scores.

    >>> scores = torch.tensor([0.0, 9.0, 10.0, 10.0, 11.0, 10.0])      # mean 8.33, standard deviation 3.77
    >>> Outliers()({"conv": scores})
    {'conv': tensor([False,  True,  True,  True,  True,  True])}
    """

    deviations: float = 2.0

    def __post_init__(self) -> None:
        check_number(self, "[0, inf)", deviations=self.deviations)

    def __call__(self, scores: Scores) -> dict[str, Tensor]:
        """Return the masks.

        Raises:
            InputError: scores that are empty, NaN or infinite.
        """
        check_scores(scores, "Outliers", finite=True)
        exact = {name: score.double() for name, score in scores.items()}
        return {name: s >= s.mean() - self.deviations * s.std(correction=0) for name, s in exact.items()}


def checked_masks(rule: Rule, scores: Scores, doing: str) -> dict[str, Tensor]:
    """Return a rule's masks, once there is one for every site, and each can be one.

    Raises:
        InputError: the rule, which may be anyone's, returns something else.

    >>> checked_masks(lambda scores: {}, {"fc": torch.tensor([1.0, 2.0])}, "Cycles")
    Traceback (most recent call last):
    secateur.types.InputError: Cycles: the rule <lambda> returns no mask for 'fc'; it must return {'fc': a bool tensor of \
shape (2,), True = keep}, and so for every site that has scores
    """
    masks: object = rule(scores)
    if (wrong := _wrong(masks, scores)) is not None:
        name, problem = wrong
        rule_name = getattr(rule, "__name__", None) or type(rule).__name__
        raise InputError(
            f"{doing}: the rule {rule_name} returns {problem}; it must return {{{name!r}: a bool tensor of shape "
            f"{tuple(scores[name].shape)}, True = keep}}, and so for every site that has scores"
        )
    assert isinstance(masks, Mapping)
    return {name: masks[name].detach() for name in scores}


def _wrong(masks: object, scores: Scores) -> tuple[str, str] | None:
    """The first site of which there is no mask, and what there is."""
    for name, score in scores.items():
        if not isinstance(masks, Mapping):
            return name, brief(masks)
        if name not in masks:
            return name, f"no mask for {name!r}"
        mask = masks[name]
        if not isinstance(mask, Tensor):
            return name, f"{brief(mask)} for {name!r}"
        if mask.dtype is not torch.bool or mask.shape != score.shape:
            kind = str(mask.dtype).removeprefix("torch.")
            return name, f"a mask of {kind} and of shape {tuple(mask.shape)} for {name!r}"
    other = [name for name in masks if name not in scores] if isinstance(masks, Mapping) else []
    return (next(iter(scores)), f"a mask for {other[0]!r}, which has no scores") if other else None
