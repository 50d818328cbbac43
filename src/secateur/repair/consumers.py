"""Layers that lost inputs: their weights and biases set so that they give what they gave before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.calls import usual
from secateur.checks import check_number
from secateur.copies import copied
from secateur.equations import COLUMNS, LayerEquations
from secateur.labelled import Samples, check_samples
from secateur.repair.beside import Beside
from secateur.repair.last_layer import fit_last, last_layer, no_last_layer
from secateur.repair.norms import norms_of, recalibrate
from secateur.state import own_tensors
from secateur.structure import Structure
from secateur.structure.consumers import Consumer
from secateur.structure.flow import Flow
from secateur.structure.sites import check_keep, with_zeros
from secateur.types import InputError, Keep, Sites, unknown_name

__all__ = ["REPAIRS", "Repair", "check_visible", "layer_equations", "repair", "take_change"]

Repair = Literal["least-squares", "bias", "norms", "kl"]
REPAIRS = ("least-squares", "bias", "norms", "kl")
"""What can be repaired without training: weights and bias of consumers, their bias alone, statistics of batch norms, and
the last layer of a classifier."""

ROUNDED = 1e-5
"""From this ridge on, what single precision rounds off the inputs' moments is small beside it."""


@usual
def repair(
    model: nn.Module,
    sites: Sites,
    keep: Keep,
    data: Samples,
    how: Repair | Sequence[Repair] = ("least-squares", "norms"),
    *,
    ridge: float = 1e-4,
    batch_size: int = 256,
) -> nn.Module:
    """Return a copy of `model`, of full size, whose kept part makes up for what `keep` removes: cut that one.

    - ``"least-squares"``: each linear layer and convolution that reads removed units gets the weights with which its
      outputs, from the kept units, are nearest to those of the unpruned model (He et al., 2017; Luo et al., 2017).
    - ``"bias"``: it gets only the bias with which its outputs have the mean that they had (Nagel et al., 2019).
    - ``"norms"``: `recalibrate`, on the masked model.
    - ``"kl"``: a classifier's last layer gets the weights and bias with which its probabilities are nearest to those of the
      unpruned model, in the sense of the mean KL divergence; how far it may move, held-out samples say.

    Layers are repaired in the order of the forward pass, each with the repaired ones before it, so errors do not add
    up. Layers without a bias get none, transposed convolutions and weights that several ops share stay as they are.
    The cost is two forward passes over the data for each layer that is repaired, and its normal equations.

    Args:
        model: the unpruned model, which `sites` were found in; it is left as it is.
        sites: from `channels`.
        keep: what is going to be cut.
        data: samples of any kind that `fit` takes, a few hundred; the targets are not used, and may be missing.
        how: one repair or several, done in the order least-squares, bias, norms, kl.
        ridge: what a change of weights costs, relative to the mean square of the inputs; 0 is plain least squares.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: a norm takes statistics over a site that is cut or a recurrent layer reads its own units, so that
            the activations of the pruned model are not known here; data that are empty; `ridge` below 0.
        UnknownNameError: `how` is not known.

    >>> from secateur.structure import channels, cut
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
    >>> for parameter, values in zip(model.parameters(), ([[1.0, 2], [2, 4]], [0, 0], [[1, 1]])):
    ...     _ = parameter.data.copy_(torch.tensor(values))
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> sites, keep = channels(model, x), {"0": torch.tensor([True, False])}      # unit 1 is twice unit 0
    >>> repaired = repair(model, sites, keep, (x, torch.zeros(2)), "least-squares", ridge=0.0)
    >>> cut(repaired, sites, keep)[1].weight.item()     # 1 of its own, and 1 for each half of what is gone
    3.0
    """
    methods = (how,) if isinstance(how, str) else tuple(how)
    for method in methods:
        if method not in REPAIRS:
            raise unknown_name("repair", method, REPAIRS)
    check_number("repair", "[0, inf)", ridge=ridge)
    check_samples(data, "repair")
    checked = check_keep(sites, keep)
    check_visible(model, sites, [name for name, mask in checked.items() if not bool(mask.all())], "repair")
    repaired = copied(model)
    for method in ("least-squares", "bias"):
        if method in methods:
            beside = Beside(model, repaired, sites, dict(checked), data, batch_size, "repair")
            for consumer in beside.consumers:
                if not bool(consumer.kept(checked).all()):
                    _correct(beside, consumer, ridge, weights=method == "least-squares")
    # Asked for alone, it is an error where there is none.
    if "norms" in methods and (len(methods) == 1 or norms_of(repaired)):
        _take_statistics(repaired, recalibrate(with_zeros(repaired, sites, keep), data, batch_size=batch_size))
    if "kl" in methods:
        beside = Beside(model, repaired, sites, dict(checked), data, batch_size, "repair")
        layer = last_layer(beside)
        if layer is None:
            raise no_last_layer("repair")
        fit_last(beside, layer)
    return repaired


def check_visible(model: nn.Module, sites: Sites, removed: Iterable[str], doing: str) -> None:
    """Refuse sites whose removed units do more than their reads show.

    Args:
        model: that the sites were found in.
        sites: from `channels`.
        removed: the sites that lose units.
        doing: who asks, for the errors.

    Raises:
        InputError: with the site and the reason.
    """
    if not isinstance(sites.structure, Structure):
        raise InputError(f"{doing}: units that others can make up for are channels; find the sites with channels(...)")
    hidden = Flow(model, sites).partial
    for name in removed:
        if name in hidden:
            raise InputError(
                f"{doing}: {hidden[name]} of {name!r}, so what the pruned model computes is not known before it is cut; "
                "keep that site whole (ignore=), or train the cut model instead"
            )


def _take_statistics(model: nn.Module, other: nn.Module) -> None:
    for mine, theirs in zip(norms_of(model), norms_of(other), strict=True):
        for buffer, new in zip(mine.buffers(), theirs.buffers(), strict=True):
            buffer.copy_(new)


def _correct(beside: Beside, consumer: Consumer, ridge: float, *, weights: bool) -> None:
    """Change one layer of the student so that it gives what the teacher's gives."""
    equations = layer_equations(consumer, beside.student, beside.keep, ridge, weights=weights)
    for after, aims in beside.at(consumer.weight):
        equations.add(after, aims - consumer.run(after, beside.student))
    take_change(consumer, beside.student, *equations.solve(ridge))


def take_change(consumer: Consumer, model: nn.Module, change: Tensor, shift: Tensor | None) -> None:
    """Add to a layer's weight, seen with its outputs first, and to its bias, if it has one."""
    with torch.no_grad():
        weight = consumer.matrix(model)
        weight += change.to(weight)
        if consumer.bias and shift is not None:
            bias = own_tensors(model)[consumer.bias]
            bias += shift.to(bias)


def layer_equations(
    consumer: Consumer, model: nn.Module, keep: Keep, ridge: float, *, weights: bool = True, bias: bool | None = None
) -> LayerEquations:
    """Return the equations of a layer's kept inputs; of none of them for the bias alone, and with one where it has one or `bias` says so."""
    weight = consumer.matrix(model)
    bias = consumer.bias is not None if bias is None else bias
    input_mask = consumer.kept(keep)
    places = consumer.places if weight.ndim == 2 and int(input_mask.sum()) > COLUMNS else 1
    by_group = input_mask[::places].reshape(consumer.product.groups, -1)
    inputs = [group.nonzero().flatten()[: None if weights else 0].to(weight.device) for group in by_group]
    exact = ridge < ROUNDED
    return LayerEquations(weight, consumer.product.arguments, inputs, bias=bias, exact=exact, places=places)
