"""Movement: what a training moves away from zero is wanted (Sanh et al., 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from secateur.criteria.base import CriterionBase
from secateur.criteria.weight_rows import Reduce, Side, check_reduce, check_side, parameters_of, unit_sums
from secateur.types import InputError, Sites, brief

__all__ = ["Movement"]


@dataclass(frozen=True)
class Movement(CriterionBase):
    """Scores a weight by how far a training moved it away from zero: −Σ w · gradient over its steps (Sanh et al., 2020).

    A weight that grew scores above zero, one that shrank below, whatever its size: made for fine-tuning, where large
    weights come from another task. The sums come from a training, by `secateur.train.SumMovement`. A channel's score is
    the sum over the weights that produce it.

    Attributes:
        moved: −Σ w · gradient for each parameter, by name.
        side: the weights of a channel that count.
        reduce: how several weights of a tied group become one score; ``"joint"`` adds all up.

    Raises:
        InputError: a parameter of the sites without sums, or with sums of another shape.

    >>> import torch
    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 1, bias=False)
    >>> Movement({"weight": torch.tensor([[0.5, -0.25]])})(model, weights(model))
    {'weight': tensor([[ 0.5000, -0.2500]])}
    """

    moved: Mapping[str, Tensor] = field(repr=False)
    side: Side = "incoming"
    reduce: Reduce = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        moved: object = self.moved
        if not isinstance(moved, Mapping):
            raise InputError(
                f"Movement: moved={brief(moved)} must be the sums of a training by the parameter's name "
                "(SumMovement().moved)"
            )
        check_side(self, self.side)
        check_reduce(self, self.reduce)

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, of either sign; high = keep."""
        parameters = parameters_of(model, sites)
        named = {member.parameter for site in sites.values() for member in site.members}
        return unit_sums({n: self._of(n, parameters[n]) for n in named}, sites, self.side, self.reduce)

    def _of(self, name: str, parameter: Tensor) -> Tensor:
        moved = self.moved.get(name)
        if moved is None or moved.shape != parameter.shape:
            got = "none" if moved is None else f"those of shape {tuple(moved.shape)}"
            raise InputError(
                f"Movement: parameter {name!r} of shape {tuple(parameter.shape)} needs sums of its own, and has {got}; "
                "take them from a training of this model (SumMovement().moved)"
            )
        return moved.to(parameter.device, copy=True)
