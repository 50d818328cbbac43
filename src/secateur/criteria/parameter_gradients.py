"""Derivatives of the mean loss by the parameters of sites: gradients, Hessian times vector, and diagonals of curvature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from secateur.checks import check_name, check_whole
from secateur.criteria.batches import moved
from secateur.criteria.output_curvature import random_roots
from secateur.criteria.second_order import drawn, roots
from secateur.criteria.unit_gradients import gradient
from secateur.criteria.weight_rows import parameters_of
from secateur.labelled import SampleBatch, Samples
from secateur.losses import answers, check_answers, check_slope, packed
from secateur.state import check_finite, device_of, evaluating
from secateur.structure.sites import REPAIR
from secateur.switches import math_attention
from secateur.types import InputError, Loss, Sites
from secateur.untouched import run_with

__all__ = ["Curvature", "Objective", "UnitSums", "by_weight", "check_curvature", "coordinates", "own"]

Curvature = Literal["gauss-newton", "fisher", "empirical", "hutchinson"]
"""How the diagonal of the curvature is found; see `Objective.diagonal`."""

Tensors = dict[str, Tensor]

UnitSums = Callable[[Tensors], Tensors]
"""Linear in a tensor for each parameter, such as sums over units; keeps little of what would be much."""

GROUPS = 50
"""Into how many parts a batch falls where gradients are squared: more leave less chance, and have more passes."""

Along = Callable[[Tensor, Any, Loss], Iterable[tuple[Tensor, Tensor]]]
"""From the outputs of one sample, its targets and the loss of both to directions at its outputs, each with a sign."""


def check_curvature(criterion: object, curvature: str, probes: int) -> None:
    """Refuse an unknown curvature, and less than one probe."""
    check_name(f"curvature for {type(criterion).__name__}", curvature, get_args(Curvature))
    check_whole(criterion, probes=probes)


@dataclass(frozen=True, eq=False)
class Objective:
    """The mean loss of a model over data, to be derived by each parameter of its sites.

    All that it returns has one float64 tensor a parameter, of the shape of its `coordinates`: the parameter's own, unless that
    is complex. The model is left as it is.

    Attributes:
        model, sites: the model, and the sites whose parameters count.
        data: labelled samples.
        batch_size: samples a pass, where the data are in memory.
        loss: of (outputs, targets), the mean over a batch.
        doing: who asks, for the errors.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, 2.0]])
    >>> data = (torch.tensor([[3.0, 1.0]]), torch.zeros(1, 1))      # (3 w1 + w2)²
    >>> objective = Objective(model, weights(model), data, 100, nn.functional.mse_loss, "derive")
    >>> objective.gradients()["weight"].tolist(), objective.diagonal("empirical")["weight"].tolist()
    ([[30.0, 10.0]], [[900.0, 100.0]])
    """

    model: nn.Module
    sites: Sites
    data: Samples
    batch_size: int
    loss: Loss
    doing: str

    def gradients(self) -> Tensors:
        """Return the gradient of the mean loss."""
        with self._leaves() as leaves:
            totals, count = _zeros(leaves), 0
            for mean, size in self._losses(leaves):
                _add(totals, _grad(mean, leaves), size)
                count += size
        return _over(totals, count)

    def products(self, vector: Mapping[str, Tensor]) -> Tensors:
        """Return the Hessian of the mean loss times `vector`."""
        with self._leaves() as leaves:
            totals, count = _zeros(leaves), 0
            along = [vector[name].to(leaf) for name, leaf in leaves.items()]
            for mean, size in self._losses(leaves):
                for _, curved in _curved(mean, leaves, lambda: along, 1):
                    _add(totals, curved, size)
                count += size
        return _over(totals, count)

    def hutchinson(self, probes: int, seed: int) -> Tensors:
        """Return an estimate of the diagonal of the mean loss's Hessian: the mean of z · Hz over random signs z.

        Each batch has `probes` of its own, two backward passes each (Hutchinson, 1989; Bekas et al., 2007).
        """
        generator = torch.Generator().manual_seed(seed)
        with self._leaves() as leaves:
            totals, count = _zeros(leaves), 0
            for mean, size in self._losses(leaves):
                for signs, curved in _curved(mean, leaves, lambda: _signs(leaves, generator), probes):
                    _add(totals, [z * h for z, h in zip(signs, curved, strict=True)], size)
                count += size * probes
        return _over(totals, count)

    def hessian_draws(self, generator: torch.Generator, unit: UnitSums, count: int) -> list[Tensors]:
        """Return so many estimates of the Hessian's diagonal, each from random signs z: `unit` of z · Hz."""
        draws: list[Tensors] = [{} for _ in range(count)]
        with self._leaves() as leaves:
            samples = 0
            for mean, size in self._losses(leaves):
                products = _curved(mean, leaves, lambda: _signs(leaves, generator), count)
                for draw, (signs, curved) in zip(draws, products, strict=False):
                    _add_units(draw, unit(_named(leaves, (z * h for z, h in zip(signs, curved, strict=True)))), size)
                samples += size
        return [_over(draw, samples) for draw in draws]

    def gauss_newton_draws(self, generator: torch.Generator, unit: UnitSums, count: int) -> list[Tensors]:
        """Return so many estimates of the diagonal of the Gauss–Newton matrix: `unit` of squared gradients.

        Each sample draws a random root u of the curvature at its outputs, E u uᵀ = H. The gradient of Σ u · outputs over
        some samples has the square that their diagonals add up to, on average; few at a time leave little chance. One
        backward pass a draw.
        """
        draws: list[Tensors] = [{} for _ in range(count)]
        with self._leaves() as leaves:
            samples = 0
            for number, batch in self._batches():
                for few in batch.split(max(1, len(batch) // GROUPS)):
                    outputs, loss = packed(self._outputs(leaves, few, number), self.loss, len(few))
                    for draw in draws:
                        for root, sign in random_roots(outputs.detach(), few.targets, loss, generator, self.doing):
                            slopes = _grad(outputs, leaves, root, again=True)
                            _add_units(draw, unit(_named(leaves, (sign * slope.square() for slope in slopes))))
                samples += len(batch)
        return [_over(draw, samples) for draw in draws]

    def diagonal(self, curvature: Curvature, probes: int = 1, seed: int = 0) -> Tensors:
        """Return the diagonal of the mean loss's curvature.

        Args:
            curvature: ``"gauss-newton"``: exact for the loss of the outputs, and linear in the network; a pass for each
                sample and class. ``"fisher"``: squared gradients of single samples for labels drawn from the model's own
                outputs, one backward pass each. ``"empirical"``: the same for the labels given. ``"hutchinson"``: the
                Hessian itself, estimated.
            probes: how many random vectors a batch, for ``"hutchinson"``.
            seed: of what is drawn.
        """
        if curvature == "hutchinson":
            return self.hutchinson(probes, seed)
        generator = torch.Generator().manual_seed(seed)

        def along(outputs: Tensor, targets: Any, loss: Loss) -> Iterable[tuple[Tensor, Tensor]]:
            if curvature == "fisher":
                return [drawn(outputs, targets, loss, generator, self.doing)]
            return own(outputs, targets, loss) if curvature == "empirical" else roots(outputs, targets, loss)

        totals: Tensors = {}
        count = 0
        for sample_gradients in self.by_sample(along):
            count += 1
            for slopes, sign in sample_gradients:
                totals = totals or {
                    name: torch.zeros_like(slope, dtype=torch.float64) for name, slope in slopes.items()
                }
                _add(totals, [slope.square() * sign for slope in slopes.values()])
        return _over(totals, count)

    def by_sample(self, along: Along) -> Iterator[Iterator[tuple[Tensors, Tensor]]]:
        """Yield for each sample the gradients of ``outputs · direction``, each with its direction's sign."""
        with self._leaves() as leaves:
            for number, batch in self._batches():
                for sample in batch.split(1):
                    outputs, loss = packed(self._outputs(leaves, sample, number), self.loss, 1)
                    yield _along(outputs, leaves, along(outputs.detach(), sample.targets, loss))

    def _batches(self) -> Iterator[tuple[int, SampleBatch]]:
        return enumerate(moved(self.data, self.batch_size, self.doing, device_of(self.model)), 1)

    def _outputs(self, leaves: Tensors, batch: SampleBatch, number: int) -> Any:
        """What the loss is of."""
        parameters = parameters_of(self.model, self.sites)
        held = {n: torch.view_as_complex(x) if parameters[n].is_complex() else x for n, x in leaves.items()}
        outputs = answers(batch.run(lambda *args, **kwargs: run_with(self.model, held, args, kwargs)), self.loss)
        check_answers(outputs, batch.targets, self.loss, f"{self.doing}, batch {number}")
        return outputs

    def _losses(self, leaves: Tensors) -> Iterator[tuple[Tensor, int]]:
        """The mean loss of each batch, and how many samples it has."""
        for number, batch in self._batches():
            mean = self.loss(self._outputs(leaves, batch, number), batch.targets)
            check_slope(mean)
            if not bool(torch.isfinite(mean)):
                raise InputError(
                    f"{self.doing}, batch {number}: the loss is {mean.item()}; look at its inputs and targets"
                )
            yield mean, len(batch)

    @contextmanager
    def _leaves(self) -> Iterator[Tensors]:
        """The parameters to derive by, in a context in which the model can be derived twice."""
        parameters = parameters_of(self.model, self.sites)
        check_finite(self.model, self.doing, REPAIR)
        names = dict.fromkeys(member.parameter for site in self.sites.values() for member in site.members)
        # A parameter under two names is one leaf: it has one derivative.
        leaf_by_id = {id(parameters[n]): coordinates(parameters[n].detach()).requires_grad_() for n in names}
        leaves = {n: leaf_by_id[id(parameters[n])] for n in names}
        # The fused attention kernels cannot be derived twice.
        with evaluating(self.model), torch.enable_grad(), math_attention():
            yield leaves


def coordinates(parameter: Tensor) -> Tensor:
    """Return a parameter as real numbers: of a complex one the real and the imaginary parts, side by side in a last dimension."""
    return torch.view_as_real(parameter) if parameter.is_complex() else parameter


def by_weight(values: Tensor, parameter: Tensor) -> Tensor:
    """Return numbers for the `coordinates` of a parameter added up for each of its weights.

    >>> by_weight(torch.tensor([[1.0, 2.0]]), torch.ones(1, dtype=torch.complex64))
    tensor([3.])
    """
    return values.sum(-1) if parameter.is_complex() else values


def own(outputs: Tensor, targets: Any, loss: Loss) -> list[tuple[Tensor, Tensor]]:
    """Return the gradient of the samples' own losses at their outputs, as the one direction for `Objective.by_sample`."""
    return [(gradient(outputs, targets, loss), outputs.new_ones(()))]


def _grad(
    value: Tensor, leaves: Tensors, along: Tensor | None = None, *, graph: bool = False, again: bool = False
) -> list[Tensor]:
    """The derivatives by the leaves; zeros where `value` does not depend on one."""
    inputs = list(leaves.values())
    if not inputs or not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in inputs]
    grads = torch.autograd.grad(
        value, inputs, along, create_graph=graph, retain_graph=graph or again, allow_unused=True
    )
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(inputs, grads, strict=True)]


def _curved(
    mean: Tensor, leaves: Tensors, vector: Callable[[], list[Tensor]], count: int
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """`count` vectors v, and the Hessian of `mean` times each: H v = ∇(∇L · v) (Pearlmutter, 1994)."""
    slopes = _grad(mean, leaves, graph=True)
    for _ in range(count if leaves else 0):
        along = vector()
        # Of one leaf under two names the slope is met once.
        dot_by_leaf = {id(leaf): (s * v).sum() for leaf, s, v in zip(leaves.values(), slopes, along, strict=True)}
        yield along, _grad(torch.stack(list(dot_by_leaf.values())).sum(), leaves, again=True)


def _signs(leaves: Tensors, generator: torch.Generator) -> list[Tensor]:
    signs_by_leaf: dict[int, Tensor] = {}
    for leaf in leaves.values():
        if id(leaf) not in signs_by_leaf:
            signs_by_leaf[id(leaf)] = (torch.randint(2, leaf.shape, generator=generator) * 2 - 1).to(leaf)
    return [signs_by_leaf[id(leaf)] for leaf in leaves.values()]


def _along(
    outputs: Tensor, leaves: Tensors, directions: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensors, Tensor]]:
    for direction, sign in directions:
        slopes = _grad(outputs, leaves, direction, again=True)
        yield dict(zip(leaves, slopes, strict=True)), sign.reshape(())


def _zeros(leaves: Tensors) -> Tensors:
    return {name: torch.zeros_like(leaf, dtype=torch.float64) for name, leaf in leaves.items()}


def _add(totals: Tensors, values: Iterable[Tensor], factor: float = 1.0) -> None:
    for total, value in zip(totals.values(), values, strict=True):
        total.add_(value.detach(), alpha=factor)


def _named(leaves: Tensors, values: Iterable[Tensor]) -> Tensors:
    return {name: value.detach().double() for name, value in zip(leaves, values, strict=True)}


def _add_units(totals: Tensors, units: Tensors, factor: float = 1.0) -> None:
    for name, value in units.items():
        totals[name] = totals.get(name, 0) + value * factor


def _over(totals: Tensors, count: float) -> Tensors:
    return {name: total / count for name, total in totals.items()}
