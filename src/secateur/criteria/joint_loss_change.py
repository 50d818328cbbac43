"""The loss change of a joint cut: Gauss–Newton on the units' gates, with what pairs of units do together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from secateur.checks import check_name, check_whole
from secateur.criteria.base import LossCriterion
from secateur.criteria.output_curvature import curvature_roots
from secateur.criteria.quadratic import Floats, Quadratic, Removal
from secateur.criteria.unit_gradients import Gated, each_batch, gradient
from secateur.deadline import check_time
from secateur.rate.memory import free_memory
from secateur.structure.flow import Flow
from secateur.types import InputError, Keep, Scores, Sites

__all__ = ["JointLossChange", "JointWorth"]

PACES = ("global", "layer")


class JointWorth(dict[str, Tensor]):
    """Places in a greedy order of removal, by site; and the model of the loss that the order was found with.

    Attributes:
        model: the quadratic model of the mean loss.
        samples: how many it was measured on.
    """

    def __init__(self, scores: Mapping[str, Tensor], model: Quadratic, samples: int) -> None:
        super().__init__(scores)
        self.model, self.samples = model, samples

    @property
    def alone(self) -> dict[str, Tensor]:
        """The foretold rise of the loss without each unit alone, float64: what `SecondOrder` estimates too."""
        return self.by_site(torch.from_numpy(self.model.alone))

    def foretell(self, keep: Keep) -> float:
        """Return the foretold rise of the mean loss when all that `keep` removes goes together.

        Raises:
            UnknownNameError, InputError: a mask is of no site, or of another shape than its site.
        """
        return self.model.foretell(keep)

    def losses(self) -> dict[str, list[float]]:
        """Return, for each site alone, the foretold rise when the best 0, 1, 2, … of its units go."""
        rises = {name: self.model.greedy({name: size}).rises for name, size in self.model.sizes.items()}
        return {name: [0.0, *np.cumsum(of_site).tolist()] for name, of_site in rises.items()}

    def choose(self, left: Mapping[str, int]) -> dict[str, Tensor]:
        """Return keep masks with so many units of each site, taken away in greedy order over all of them.

        Sites that are not named stay whole.

        Raises:
            UnknownNameError: there is no such site.
            InputError: a number is below 0 or above the site's units.
        """
        for name, count in left.items():
            check_name("site", name, self.model.sizes)
            if not 0 <= count <= self.model.sizes[name]:
                raise InputError(f"choose: {name!r} cannot keep {count} of its {self.model.sizes[name]} units")
        quotas = {name: self.model.sizes[name] - count for name, count in left.items()}
        mask = torch.ones(len(self.model.slopes), dtype=torch.bool)
        mask[torch.from_numpy(self.model.greedy(quotas).units)] = False
        return self.by_site(mask)

    def by_site(self, units: Tensor) -> dict[str, Tensor]:
        """Return values of all units in a row as one tensor a site."""
        return {name: units[span].clone() for name, span in self.model.spans.items()}

    def __repr__(self) -> str:
        return f"JointWorth({len(self.model.slopes)} units of {len(self)} sites, on {self.samples} samples)"


@dataclass(frozen=True)
class JointLossChange(LossCriterion):
    """Scores a channel by its place in a greedy order of removal under a model of the loss that has pairs of units.

    With a gate on every unit, 1 while it is kept and 0 without it, the mean loss is taken to second order in the gates:
    ``ΔL(d) = gᵀd + ½ dᵀGd``, d = −1 for what goes, where ``G = mean Jᵀ H J``, J the Jacobian of a sample's outputs in
    the gates and H the Hessian of its loss in the outputs (Gauss–Newton). The diagonal of G is what `SecondOrder` takes
    (``"gauss-newton"``); beside it stands what two units do together: of two that make up for each other only one goes
    free. The next unit to go is the one that costs least once those before it are gone.

    Scores are the rises of the loss in that order, made to rise steadily, so that `select` removes the order's first
    units, whatever the sparsity or the budget. What comes back foretells joint cuts (`JointWorth.foretell`), finds the
    units for given numbers of each site (`choose`), and says what each site's removals cost (`losses`).

    The method is that of Hassibi and Stork (1993) on gates, without the adjustment of what stays; Gauss–Newton with
    pairs on filters is in Liu et al., 2021 (Group Fisher pruning, diagonal) and Kurtić et al., 2022 (oBERT, blocks).

    Memory is 8 bytes for each pair of units, and one batch's activations with their gradients; the Jacobian is never
    whole. What a recurrent layer does inside its loop counts to first order only.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean over a batch.
        scope: the one that `select` will be given: ``"global"`` orders the units of all sites as one, ``"layer"`` lets
            sites lose their units at the same pace, so that the order is greedy for an equal share of each.
        minimum: how many units each site keeps to the end, as `select` does.
        directions: backward passes a batch, beside the one for g. Where a sample has as many outputs, or fewer, G is
            exact; else it is estimated without bias from so many random signs, drawn anew for each batch.
        seed: of the random signs.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: unfit data, NaN in the model or its outputs, sites of single weights, or more units than fit.
        UnknownNameError: another scope.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    >>> model[0].weight.data, model[1].weight.data = torch.ones(3, 1), torch.tensor([[1.0, -1.0, 3.0]])
    >>> data = [(torch.ones(1, 1), torch.full((1, 1), 3.0))]     # the output is 3, as it should be
    >>> worth = JointLossChange(data, nn.functional.mse_loss)(model, channels(model, torch.ones(1, 1)))
    >>> [round(rise, 4) for rise in worth.alone["0"].tolist()]        # 1², 1² and 3²
    [1.0, 1.0, 9.0]
    >>> round(worth.foretell({"0": torch.tensor([False, False, True])}), 4)    # together the first two do nothing
    0.0
    """

    scope: Literal["global", "layer"] = "global"
    minimum: int = 1
    directions: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("scope of JointLossChange", self.scope, PACES)
        check_whole(self, 0, minimum=self.minimum)
        check_whole(self, directions=self.directions)

    def __call__(self, model: nn.Module, sites: Sites) -> JointWorth:
        """Return the scores, high = keep; each has its site's shape."""
        scores = super().__call__(model, sites)
        assert isinstance(scores, JointWorth)
        return scores

    def foretold(self, scores: Scores, keep: Keep) -> float | None:
        """Return what the pairs foretell (`JointWorth.foretell`)."""
        return scores.foretell(keep) if isinstance(scores, JointWorth) else None

    def _score(self, model: nn.Module, sites: Sites) -> JointWorth:
        flow, sums = Flow(model, sites), _Sums(sites, self.directions, self.seed)
        samples = each_batch(flow, self.data, self.batch_size, self._loss, "JointLossChange", sums.add)
        return joint_worth(sums.mean(samples), self.scope, self.minimum, samples)


def joint_worth(model: Quadratic, scope: str, minimum: int, samples: int) -> JointWorth:
    """Return the scores of a model's greedy order, and the model with them."""
    scores = torch.from_numpy(_rising(model.order(minimum, evenly=scope == "layer")))
    return JointWorth({name: scores[span].clone() for name, span in model.spans.items()}, model, samples)


class _Sums:
    """The sums over samples of the first-order changes, and of the products of two units' changes."""

    def __init__(self, sites: Sites, directions: int, seed: int) -> None:
        self.sizes = {name: site.size for name, site in sites.items()}
        self.directions, self.generator = directions, torch.Generator().manual_seed(seed)
        units = sum(self.sizes.values())
        _check_room(units)
        self.slopes = torch.zeros(units, dtype=torch.float64)
        self.pairs = torch.zeros(units, units, dtype=torch.float64)

    def add(self, batch: Gated) -> None:
        """Add a batch: one backward pass for the slopes, and one for each root of the curvature at the outputs."""
        along = gradient(batch.outputs, batch.targets, batch.loss)
        loops = batch.loops(along)
        slopes = {name: rows.sum(0) for name, rows in batch.changes(along, last=False).items()}
        self.slopes += self._row({name: slopes.get(name, 0) + loops.get(name, 0) for name in self.sizes})
        for rows, signed in self._curved(batch):
            self.pairs += (rows.T @ signed).cpu()

    def _curved(self, batch: Gated) -> Iterator[tuple[Tensor, Tensor]]:
        """Each root's changes ``(samples, units)``, and the same times the roots' signs."""
        answers = batch.outputs, batch.targets, batch.loss
        for root, sign in curvature_roots(*answers, self.directions, self.generator, "JointLossChange"):
            check_time()
            changes = batch.changes(root, last=False)
            whole = [changes.get(n, batch.outputs.new_zeros(batch.count, k)) for n, k in self.sizes.items()]
            rows = torch.cat(whole, dim=1)
            yield rows, rows * sign

    def _row(self, values: Mapping[str, Tensor | int]) -> Tensor:
        parts = [torch.as_tensor(values[name]).double().cpu().expand(size) for name, size in self.sizes.items()]
        return torch.cat([torch.zeros(0, dtype=torch.float64), *parts])

    def mean(self, samples: int) -> Quadratic:
        """Return the model of the mean loss."""
        return Quadratic(self.sizes, self.slopes.div_(samples).numpy(), self.pairs.div_(samples).numpy())


def _check_room(units: int) -> None:
    """Refuse more pairs than half of the free memory holds: their sums, and the products of one batch."""
    needed, room = 12 * units**2, free_memory(torch.device("cpu")) // 2
    if needed > room:
        raise InputError(
            f"JointLossChange: the pairs of {units:,} units take {needed / 2**30:.1f} GiB, and {room / 2**30:.1f} GiB are "
            "free for them; leave sites out (ignore=...), or take SecondOrder, which looks at single units"
        )


def _rising(order: Removal) -> Floats:
    """One score a unit that rises along the order: the greatest rise so far, and a trace more at each step."""
    steady = np.maximum.accumulate(order.rises)
    trace = 1e-12 * np.abs(steady).max(initial=0.0)
    scores: Floats = np.empty(len(steady))
    scores[order.units] = steady + trace * np.arange(len(steady))
    return scores
