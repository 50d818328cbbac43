"""Derivatives of the mean loss by the parameters of sites: gradients, Hessian times vector, and diagonals of curvature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.criteria.batches import check_labels, checked
from secateur.criteria.gates import REPAIR, gradient
from secateur.criteria.second_order import drawn, roots
from secateur.criteria.units import parameters_of
from secateur.state import check_finite, device_of, evaluating
from secateur.types import Batches, InputError, Loss, Sites, unknown_name

__all__ = ["Curvature", "check_curvature", "diagonal", "gradients", "hutchinson", "products", "sample_gradients"]

Curvature = Literal["empirical", "fisher", "gauss-newton", "hutchinson"]
"""How the diagonal of the curvature is found; see `diagonal`."""

Tensors = dict[str, Tensor]


def check_curvature(criterion: object, curvature: str, probes: int) -> None:
    """Refuse an unknown curvature, and less than one probe."""
    if curvature not in get_args(Curvature):
        raise unknown_name(f"curvature for {type(criterion).__name__}", curvature, get_args(Curvature))
    check_probes(criterion, probes)


def check_probes(criterion: object, probes: int) -> None:
    """Refuse less than one probe."""
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise InputError(f"{type(criterion).__name__}: probes must be a whole number, at least 1; got {probes!r}")


@contextmanager
def _leaves(model: nn.Module, sites: Sites, doing: str) -> Iterator[Tensors]:
    """The parameters of the sites to derive by, in a context in which the model can be derived twice."""
    parameters = parameters_of(model, sites)
    check_finite(model, doing, REPAIR)
    names = dict.fromkeys(member.parameter for site in sites.values() for member in site.members)
    # A parameter under two names is one leaf: it has one derivative.
    made: dict[int, Tensor] = {}
    leaves = {n: made.setdefault(id(parameters[n]), parameters[n].detach().requires_grad_()) for n in names}
    # The fused attention kernels cannot be derived twice.
    with evaluating(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield leaves


def _losses(
    model: nn.Module, leaves: Tensors, batches: Batches, loss: Loss, doing: str
) -> Iterator[tuple[Tensor, int]]:
    """The mean loss of each batch, and how many samples it has."""
    for number, (inputs, targets) in enumerate(checked(batches, doing, device_of(model)), 1):
        outputs = check_labels(functional_call(model, leaves, (inputs,)), targets, f"{doing}, batch {number}")
        mean = loss(outputs, targets)
        if not bool(torch.isfinite(mean)):
            raise InputError(
                f"{doing}, batch {number}: the loss is {mean.item()}; look for what is wrong in its inputs"
            )
        yield mean, len(inputs)


def _grad(
    value: Tensor, leaves: Tensors, along: Tensor | None = None, *, graph: bool = False, again: bool = False
) -> list[Tensor]:
    """The derivatives by the leaves; zeros where `value` does not depend on one."""
    inputs = list(leaves.values())
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in inputs]
    found = torch.autograd.grad(
        value, inputs, along, create_graph=graph, retain_graph=graph or again, allow_unused=True
    )
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(inputs, found, strict=True)]


def _zeros(leaves: Tensors) -> Tensors:
    return {name: torch.zeros_like(leaf, dtype=torch.float64) for name, leaf in leaves.items()}


def _add(totals: Tensors, values: Iterable[Tensor], factor: float = 1.0) -> None:
    for total, value in zip(totals.values(), values, strict=True):
        total.add_(value.detach(), alpha=factor)


def _over(totals: Tensors, count: float) -> Tensors:
    return {name: total / count for name, total in totals.items()}


def gradients(model: nn.Module, sites: Sites, batches: Batches, loss: Loss, doing: str) -> Tensors:
    """Return the gradient of the mean loss over all samples, float64, for each parameter of the sites."""
    with _leaves(model, sites, doing) as leaves:
        totals, count = _zeros(leaves), 0
        for mean, size in _losses(model, leaves, batches, loss, doing):
            _add(totals, _grad(mean, leaves), size)
            count += size
    return _over(totals, count)


def products(
    model: nn.Module, sites: Sites, batches: Batches, loss: Loss, doing: str, vector: Mapping[str, Tensor]
) -> Tensors:
    """Return the Hessian of the mean loss times `vector`, float64, for each parameter of the sites."""
    with _leaves(model, sites, doing) as leaves:
        totals, count = _zeros(leaves), 0
        along = [vector[name].to(leaf) for name, leaf in leaves.items()]
        for mean, size in _losses(model, leaves, batches, loss, doing):
            _add(totals, _curved(mean, leaves, along)[0], size)
            count += size
    return _over(totals, count)


def _curved(mean: Tensor, leaves: Tensors, *vectors: list[Tensor]) -> list[list[Tensor]]:
    """The Hessian of `mean` times each of the vectors."""
    slopes = _grad(mean, leaves, graph=True)
    found = []
    for vector in vectors:
        # Of one leaf under two names the slope is met once.
        once = {id(leaf): (s * v).sum() for leaf, s, v in zip(leaves.values(), slopes, vector, strict=True)}
        found.append(_grad(torch.stack(list(once.values())).sum(), leaves, again=True))
    return found


def hutchinson(
    model: nn.Module, sites: Sites, batches: Batches, loss: Loss, doing: str, probes: int, seed: int
) -> Tensors:
    """Return an estimate of the diagonal of the mean loss's Hessian, float64: the mean of z · Hz over random signs z.

    Each batch has probes of its own. Costs two backward passes a probe and batch (Hutchinson, 1989; Bekas et al., 2007).
    """
    generator = torch.Generator().manual_seed(seed)
    with _leaves(model, sites, doing) as leaves:
        totals, count = _zeros(leaves), 0
        for mean, size in _losses(model, leaves, batches, loss, doing):
            for _ in range(probes):
                signs = _signs(leaves, generator)
                (curved,) = _curved(mean, leaves, signs)
                _add(totals, [z * h for z, h in zip(signs, curved, strict=True)], size)
            count += size * probes
    return _over(totals, count)


def _signs(leaves: Tensors, generator: torch.Generator) -> list[Tensor]:
    drawn: dict[int, Tensor] = {}
    for leaf in leaves.values():
        if id(leaf) not in drawn:
            drawn[id(leaf)] = (torch.randint(2, leaf.shape, generator=generator) * 2 - 1).to(leaf)
    return [drawn[id(leaf)] for leaf in leaves.values()]


def diagonal(
    model: nn.Module,
    sites: Sites,
    batches: Batches,
    loss: Loss,
    doing: str,
    curvature: Curvature,
    probes: int = 1,
    seed: int = 0,
) -> Tensors:
    """Return the diagonal of the mean loss's curvature, float64, for each parameter of the sites.

    Args:
        model, sites, batches, loss, doing: as everywhere.
        curvature: ``"empirical"``: squared gradients of single samples, one backward pass each. ``"fisher"``: the same
            for labels drawn from the model's own outputs. ``"gauss-newton"``: exact for the loss of the outputs, and
            linear in the network; a pass for each sample and class. ``"hutchinson"``: the Hessian itself, estimated.
        probes: how many random vectors a batch, for ``"hutchinson"``.
        seed: of what is drawn.
    """
    if curvature == "hutchinson":
        return hutchinson(model, sites, batches, loss, doing, probes, seed)
    generator = torch.Generator().manual_seed(seed)

    def along(outputs: Tensor, targets: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        if curvature == "empirical":
            return [(gradient(outputs, targets, loss), outputs.new_ones(()))]
        if curvature == "fisher":
            return [drawn(outputs, targets, loss, generator, doing)]
        return roots(outputs, targets, loss)

    totals: Tensors = {}
    count = 0
    for _, found in sample_gradients(model, sites, batches, doing, along):
        count += 1
        for slopes, sign in found:
            totals = totals or {name: torch.zeros_like(slope, dtype=torch.float64) for name, slope in slopes.items()}
            _add(totals, [slope.square() * sign for slope in slopes.values()])
    return _over(totals, count)


Along = Callable[[Tensor, Tensor], Iterable[tuple[Tensor, Tensor]]]
"""From the outputs and targets of one sample to directions at its outputs, each with a sign."""


def sample_gradients(
    model: nn.Module, sites: Sites, batches: Batches, doing: str, along: Along
) -> Iterator[tuple[int, Iterator[tuple[Tensors, Tensor]]]]:
    """Yield for each sample its number, and the gradients of ``outputs · direction`` with each direction's sign."""
    with _leaves(model, sites, doing) as leaves:
        number = 0
        for at, (inputs, targets) in enumerate(checked(batches, doing, device_of(model)), 1):
            for x, y in zip(torch.split(inputs, 1), torch.split(targets, 1), strict=True):
                outputs = check_labels(functional_call(model, leaves, (x,)), y, f"{doing}, batch {at}")
                if not bool(torch.isfinite(outputs).all()):
                    raise InputError(f"{doing}, batch {at}: the model's outputs hold NaN or infinite values")
                yield number, _along(outputs, leaves, along(outputs.detach(), y))
                number += 1


def _along(
    outputs: Tensor, leaves: Tensors, directions: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensors, Tensor]]:
    for direction, sign in directions:
        slopes = _grad(outputs, leaves, direction, again=True)
        yield dict(zip(leaves, slopes, strict=True)), sign.reshape(())
