"""Weight sharing: the weights of a layer, or of all, take few values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from secateur.checks import check_name, check_options, check_whole
from secateur.coding import check_coder
from secateur.copies import copied
from secateur.edits import Shared, nearest
from secateur.labelled import Samples, check_data
from secateur.result import LayerReport
from secateur.state import digest, own_tensors
from secateur.structure import weights
from secateur.train import Callback, Run, TrainOptions, fit
from secateur.transforms.base import Transform, Transformed
from secateur.transforms.codebooks import INITIALISATIONS, centroids
from secateur.transforms.history import TransformTraining
from secateur.types import ExampleInputs, InputError

__all__ = ["HoldShared", "Share"]

WIDEST = 8


@dataclass(frozen=True, eq=False)
class HoldShared(Callback):
    """Trains the values that weights share, and leaves which weight has which: the weights of a cluster move as one.

    Each gets the gradient of their common value, the sum of the gradients of all (Han, Mao and Dally, 2016, section 3.3),
    before gradients are clipped and used. Weights that are zero stay zero.

    Attributes:
        groups: parameters that share values among them, by name, each with the cluster of every entry: whole numbers from
            0, of its shape.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[0.5, 0.5]])
    >>> hold = HoldShared([{"weight": torch.tensor([[0, 0]])}])
    >>> x = torch.tensor([[1.0, 0.0]])
    >>> _ = fit(model, (x, x.sum(1, True)), epochs=1, loss="mse", optimizer="sgd", lr=0.1, callbacks=[hold])
    >>> model.weight.tolist()  # only the first one has a gradient, of −1
    [[0.6000000238418579, 0.6000000238418579]]
    """

    groups: Iterable[Mapping[str, Tensor]]
    _clusters: list[_Cluster] = field(default_factory=list, init=False, repr=False)

    def identity(self) -> str:
        """Return a hash of the clusters."""
        named = [(f"{place} {name}", x) for place, group in enumerate(self.groups) for name, x in sorted(group.items())]
        return f"HoldShared {digest(named)}"

    def on_start(self, run: Run) -> None:
        """Find the parameters, and one weight of each cluster that stands for it."""
        self._clusters[:] = [_Cluster.of(run.model, group) for group in self.groups]

    def on_gradients(self, run: Run) -> None:
        """Give every weight the gradient of its cluster's value."""
        for clusters in self._clusters:
            clusters.sum_gradients()

    def on_step(self, run: Run) -> None:
        """Give every weight the value of its cluster: rounding may have set them apart."""
        for clusters in self._clusters:
            clusters.write(clusters.values())

    def on_end(self, run: Run) -> None:
        """Let go of the parameters."""
        self._clusters.clear()


@dataclass(frozen=True, eq=False)
class _Cluster:
    """The weights of several parameters, and the cluster of each.

    Attributes:
        parameters: as one string of weights.
        index: the cluster of each weight.
        first: the place of one weight of each cluster in the string.
        start: the value of each cluster at the beginning.
        is_held: whether that stays: zero, and where a parameter that is not trained has it.
    """

    parameters: list[Tensor]
    index: Tensor
    first: Tensor
    start: Tensor
    is_held: Tensor

    @classmethod
    def of(cls, model: nn.Module, group: Mapping[str, Tensor]) -> _Cluster:
        named = own_tensors(model)
        for name, clusters in group.items():
            check_name("parameter", name, named)
            if clusters.shape != named[name].shape or clusters.is_floating_point():
                raise InputError(
                    f"HoldShared: the clusters of {name} must be whole numbers of shape {named[name].shape}"
                )
        parameters = [named[name] for name in group]
        index = torch.cat([clusters.flatten() for clusters in group.values()]).to(parameters[0].device)
        # Clusters without a weight are left out of account.
        numbers, index = torch.unique(index, return_inverse=True)
        first = torch.full_like(numbers, len(index))
        first.scatter_reduce_(0, index, torch.arange(len(index), device=index.device), "amin")
        start = torch.cat([parameter.detach().flatten() for parameter in parameters])[first]
        is_frozen = torch.cat([torch.full((p.numel(),), not p.requires_grad, device=p.device) for p in parameters])
        is_held = start == 0
        is_held[index[is_frozen]] = True
        return cls(parameters, index, first, start, is_held)

    def values(self) -> Tensor:
        """The value of each cluster."""
        string = torch.cat([parameter.detach().flatten() for parameter in self.parameters])
        return torch.where(self.is_held, self.start, string[self.first])

    def write(self, values: Tensor) -> None:
        with torch.no_grad():
            for parameter, part in zip(self.parameters, self._parts(values[self.index]), strict=True):
                parameter.copy_(part)

    def sum_gradients(self) -> None:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        string = torch.cat([gradient.flatten() for gradient in gradients])
        sums = torch.zeros(len(self.first), dtype=string.dtype, device=string.device)
        sums.index_add_(0, self.index, string).masked_fill_(self.is_held, 0)
        for parameter, part in zip(self.parameters, self._parts(sums[self.index]), strict=True):
            if parameter.requires_grad:
                parameter.grad = part.clone()

    def _parts(self, string: Tensor) -> list[Tensor]:
        sizes = [parameter.numel() for parameter in self.parameters]
        return [part.view_as(p) for part, p in zip(torch.split(string, sizes), self.parameters, strict=True)]


@dataclass(frozen=True)
class Share(Transform):
    """Weights share few values, found by k-means; the indices go to disk in n bits or entropy coded.

    The second and third step of Deep Compression (Han, Mao and Dally, 2016). Shared are the parameters of two dimensions
    or more. Zeros stay zeros, as a value of their own: call it on a pruned model. With `data`, the values are trained
    afterwards; each gets the sum of its weights' gradients.

    Attributes:
        bits: the indices': a layer has up to 2^bits values, zero among them where it has zeros; 1 to 8.
        scope: a codebook for each ``"layer"``, or one for all (``"global"``).
        initialisation: ``"exact"``, ``"linear"``, ``"density"`` or ``"random"``: see `secateur.transforms.centroids`.
        seed: of ``"random"``.
        data, validation: what the values are trained with; None trains nothing.
        train: the training: see `secateur.fit`. Only values and what is not shared (biases, norms) are trained.
        coder: of the indices on disk: ``"packed"``, ``"constriction"``, ``"lzma"``, ``"zlib"``, or ``"auto"``: see
            `secateur.coding.encode_symbols`.
        ignore: parameters to leave as they are, by name or pattern.

    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    >>> result = Share(bits=2)(model, torch.ones(1, 64))
    >>> result.model[0].weight.unique().numel(), result.report.bytes[0] / result.report.bytes[1] > 5
    (4, True)
    """

    kind: ClassVar[str] = "share"
    bits: int = 5
    scope: Literal["layer", "global"] = "layer"
    initialisation: str = "exact"
    seed: int = 0
    data: Samples | None = field(default=None, repr=False)
    validation: Samples | None = field(default=None, repr=False)
    train: TrainOptions = field(default_factory=TrainOptions, repr=False)
    coder: str = "auto"
    ignore: Iterable[str] = ()

    def __post_init__(self) -> None:
        check_whole(self, most=WIDEST, bits=self.bits)
        check_whole(self, 0, seed=self.seed)
        check_name("scope", self.scope, ["layer", "global"])
        check_name("initialisation", self.initialisation, ["exact", *INITIALISATIONS])
        check_options("Share", TrainOptions, train=self.train)
        check_coder("Share", self.coder)
        check_data(self)
        if self.validation is not None and self.data is None:
            raise InputError("Share: validation data without data=: there is nothing to train with")

    def _transform(self, model: nn.Module, example_inputs: ExampleInputs) -> Transformed:
        """Find the values, train them where there are data, and write down which they became."""
        names = list(weights(model, self.ignore))
        groups = [names] if self.scope == "global" else [[name] for name in names]
        result = copied(model)
        named = own_tensors(result)
        clusters = [self._clusters({name: named[name] for name in group}) for group in groups]
        history = None
        if self.data is not None:
            hold = HoldShared(clusters)
            history = TransformTraining(fit(result, self.data, self.validation, self.train, callbacks=[hold]))
        codebooks = tuple(
            torch.unique(torch.cat([named[name].detach().flatten() for name in group])) for group in groups
        )
        edit = Shared(codebooks, {name: place for place, group in enumerate(groups) for name in group}, self.coder)
        before = own_tensors(model)
        layers = tuple(
            _layer(name, before[name].detach(), named[name].detach(), edit.codebook(name)) for name in edit.of
        )
        return Transformed(result, (edit,), layers, history=history)

    def _clusters(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Write the values of one codebook into parameters, and return which each weight got."""
        string = torch.cat([parameter.detach().flatten() for parameter in parameters.values()])
        others, has_zeros = string[string != 0], bool((string == 0).any())
        room = (1 << self.bits) - has_zeros
        numbers = others.double().cpu().numpy() if others.numel() else np.zeros(1)
        values = torch.unique(torch.from_numpy(centroids(numbers, room, self.initialisation, self.seed)).to(string))
        clusters = {}
        for name, parameter in parameters.items():
            index, zeros = nearest(parameter, values), parameter.detach() == 0
            with torch.no_grad():
                parameter.copy_(values[index].masked_fill(zeros, 0))
            clusters[name] = (index + 1).masked_fill(zeros, 0)
        return clusters


def _layer(name: str, before: Tensor, after: Tensor, codebook: Tensor) -> LayerReport:
    """What became of a parameter; the error is the lost part of its weights' squares."""
    error = float((after - before).double().square().sum() / before.double().square().sum().clamp(min=1e-300))
    form = f"{len(codebook)} values"
    return LayerReport(name, form, (before.numel(), after.numel()), error)
