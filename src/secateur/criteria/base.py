"""What all criteria share: the call, its checks, and the data and the loss of those that look at samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.calls import as_usual
from secateur.checks import check_whole, in_one_line
from secateur.criteria.batches import check_batches
from secateur.hints import Checked
from secateur.labelled import Samples
from secateur.losses import loss_function, scalar
from secateur.state import UNCHANGED
from secateur.structure.sites import check_same_model
from secateur.types import Criterion, InputError, Keep, Loss, Scores, Sites, brief
from secateur.wrappers import unwrapped

__all__ = ["CriterionBase", "DataCriterion", "LossCriterion", "check_scores", "level_sites", "scores_of"]


class CriterionBase(Checked, ABC):
    """The base of criteria: frozen dataclasses that write `_score`.

    A call gives the same scores under inference mode, without gradients, under autocast, and with another default dtype
    or device (see `secateur.calls.as_usual`); it refuses another model than that of the sites, and scores that are NaN
    or infinite.
    """

    level: ClassVar[str] = (
        "the weights are all alike, as they are where they were set to constants; train the model first"
    )
    """Why its scores may all be equal, and what to do then."""

    def __post_init__(self) -> None:
        check_whole(self, -(2**63), most=2**63 - 1, seed=getattr(self, "seed", 0))

    @property
    def default_rule(self) -> Mapping[str, float]:
        """The rule of choosing that goes with the criterion where none is asked for; none for most."""
        return {}

    def __call__(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, high = keep; each has its site's shape.

        Raises:
            InputError: the sites are of another model, a score is not finite, or what the criterion itself refuses.
        """
        model = unwrapped(model)
        with as_usual(model):
            check_same_model(model, sites)
            sites.check_any(type(self).__name__)
            scores = self._score(model, sites)
            _check_finite(scores, type(self).__name__)
            return scores

    def foretold(self, scores: Scores, keep: Keep) -> float | None:
        """Return the rise of the mean loss that scores foretell for a joint cut; None where they are no changes of it.

        Args:
            scores: what a call returned.
            keep: masks of the same sites.
        """
        return None

    @abstractmethod
    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores."""


@dataclass(frozen=True)
class DataCriterion(CriterionBase):
    """The base of criteria that look at samples.

    Attributes:
        data: samples: a pair (inputs, targets), a data set with ``images`` and ``labels`` such as
            `secateur.data.Split`, or batches of such pairs that can be iterated again. Inputs and targets are a tensor, or
            several in a tuple or mapping (see `secateur.fit`); where a criterion looks at no targets they may be missing.
        batch_size: samples a pass, where the data are in memory.
    """

    level: ClassVar[str] = "the samples pass the units without a difference; look at the inputs, and at dead layers"

    data: Samples = field(repr=False)
    batch_size: int = field(default=500, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_batches(type(self).__name__, self.data, self.batch_size)


@dataclass(frozen=True)
class LossCriterion(DataCriterion):
    """The base of criteria that look at the loss on labelled samples.

    Attributes:
        loss: ``"cross_entropy"``, ``"mse"``, or another name that `secateur.fit` takes, or a function of (outputs,
            targets) that returns the mean over a batch. That is given what the model returns, in a tuple, a mapping or an
            object of any kind, and what the data hold.
    """

    level: ClassVar[str] = (
        "the loss does not depend on the units, as where it does not fit the targets, or all outputs or gradients are 0; "
        "pass loss='mse' for numbers (or a function of (outputs, targets)), and look at the model's outputs"
    )

    loss: str | Loss = "cross_entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        loss_function(self.loss)

    @property
    def _loss(self) -> Loss:
        return scalar(loss_function(self.loss))

    @property
    def adds_up(self) -> bool:
        """Whether a score is a change of the loss, or its estimate, so that sums of scores foretell joint cuts."""
        return False

    def foretold(self, scores: Scores, keep: Keep) -> float | None:
        """Return what `CriterionBase.foretold` does: the sum of the scores of what goes, where they add up."""
        if not self.adds_up:
            return None
        return sum(float(scores[name].double()[~mask.to(scores[name].device)].sum()) for name, mask in keep.items())


def scores_of(criterion: Criterion, model: nn.Module, sites: Sites, doing: str) -> dict[str, Tensor]:
    """Return a criterion's scores, once they tell some units apart.

    Raises:
        InputError: they are equal in every site, not finite, or not those of the sites; or the criterion raises something,
            which is then the cause.
    """
    name = getattr(criterion, "__name__", None) or type(criterion).__name__
    try:
        scores = criterion(model, sites)
    except UNCHANGED:
        raise
    except Exception as error:
        raise InputError(
            f"{doing}: the criterion {name} raised {in_one_line(error)}; it is called with (model, sites) and returns one score "
            "a unit, as in {name: tensor} for each name of sites"
        ) from error
    if sites and isinstance(scores, Mapping) and not scores:
        raise InputError(f"{doing}: {name} scored none of the {len(sites)} sites; return one score a unit of each")
    check_scores(scores, f"{doing}: {name}", getattr(criterion, "level", ""))
    return scores


def check_scores(scores: Scores, who: str, why: str = "") -> None:
    """Refuse scores that are not finite, or that are equal in every site, so that units would go by their position.

    Args:
        scores: of all sites.
        who: whose they are, for the errors.
        why: why they may all be equal, and what to do.

    Raises:
        InputError: with the criterion, the likely cause and the remedy.

    >>> check_scores({"a": torch.zeros(3)}, "prune: Mine", "look at the data")
    Traceback (most recent call last):
    secateur.types.InputError: prune: Mine tells no unit from another: in every site all scores are equal (a: 0), and \
units would go by their position. Likely look at the data
    """
    _check_form(scores, who)
    _check_finite(scores, who)
    level = level_sites(scores)
    if not level or len(level) < sum(score.numel() > 1 for score in scores.values()):
        return
    values = ", ".join(f"{name}: {float(scores[name].flatten()[0]):.3g}" for name in level[:3])
    more = f" and {len(level) - 3} more" if len(level) > 3 else ""
    raise InputError(
        f"{who} tells no unit from another: in every site all scores are equal ({values}{more}), and units would go by "
        f"their position. Likely {why or 'the criterion does not see these units; take another, or Random as a control'}"
    )


def level_sites(scores: Scores) -> list[str]:
    """Return the sites of several units whose scores are all equal.

    >>> level_sites({"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([1.0, 2.0]), "c": torch.tensor([1.0])})
    ['a']
    """
    several = ((name, score.flatten()) for name, score in scores.items() if score.numel() > 1)
    return [name for name, flat in several if bool((flat == flat[0]).all())]


def _check_form(scores: object, who: str) -> None:
    if not isinstance(scores, Mapping):
        raise InputError(f"{who} returned {brief(scores)}; return a mapping of each site's name to one score a unit")
    for name, score in scores.items():
        if not isinstance(score, Tensor):
            raise InputError(f"{who}: the scores of {name!r} are a {type(score).__name__}; give a tensor")


def _check_finite(scores: Mapping[str, Tensor], who: str) -> None:
    for name, score in scores.items():
        # A sum is finite unless a term is not, or it overflows; only then is each entry looked at.
        if not bool(torch.isfinite(score.sum())):
            bad = int((~torch.isfinite(score)).sum())
            if bad:
                raise InputError(
                    f"{who}: {bad} scores of {name!r} are NaN or infinite; look for NaN and for very large values in the "
                    "model's weights and in the data"
                )
