"""The next layer: its exact change without a unit, and from there on to first order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.fx import Node

from secateur.checks import check_name
from secateur.criteria.base import LossCriterion
from secateur.criteria.unit_gradients import Gated, estimate, gradient
from secateur.losses import answers, is_cross_entropy
from secateur.rate.samples import SampleLoss
from secateur.structure.flow import Flow, Read
from secateur.structure.ops import Product, bind, product_of, writes
from secateur.structure.rules import op_name
from secateur.types import ExampleInputs, Sites

__all__ = ["NextLayer"]

# Ops that treat every sample and channel by itself, whatever the number of samples.
FOLLOWED = {
    *("relu", "tanh", "sigmoid", "gelu", "silu", "elu", "leaky_relu", "hardtanh", "hardswish", "hardsigmoid", "mish"),
    *("softplus", "squeeze", "max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "getitem", "dropout", "batch_norm"),
    *("_native_batch_norm_legit_no_training", "native_batch_norm"),
}
BLOCK = 1 << 20  # numbers in a block of units; more leaves the processor's caches


@dataclass(frozen=True)
class NextLayer(LossCriterion):
    """Scores a channel by following its removal exactly through the next layer, and to first order from there.

    What a linear layer or a convolution makes without the unit is a rank-one (one-channel) update of what it makes; that
    goes through the activation, the norm and the pooling behind it, and its difference meets the loss's gradient there.
    So a unit that other units' activations saturate or shut off is judged right where `Taylor` sees only the slope. Where
    the next layer gives the model's outputs the loss itself is taken, and the score is exact. Units that something else
    reads (a product, a mean over channels, a grouped convolution) are scored as by `Taylor`.

    In a regression compare within each site (``scope="layer"``), as what is exact has another scale than what is not.

    It costs about a forward pass of the next layer's activation for each unit: more than `SecondOrder`, which ranked
    better wherever both were tried (benchmarks/estimates.py), except for the last hidden layer.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean over a batch.
        sign: whether what is known to first order counts ``"signed"``, or sample by sample in ``"absolute"`` value; None
            as for `Taylor`: signed for classes, absolute for numbers.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: unfit data, NaN in the model or its outputs, or sites of single weights.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> model[0].weight.data, model[1].weight.data = torch.tensor([[2.0], [1.0]]), torch.tensor([[3.0, -1.0]])
    >>> data = [(torch.ones(1, 1), torch.zeros(1, 1))]           # the output is 2·3 − 1 = 5
    >>> criterion = NextLayer(data, nn.functional.mse_loss)
    >>> criterion(model, channels(model, torch.ones(1, 1)))         # (5 − 6)² − 5² and (5 + 1)² − 5²
    {'0': tensor([-24.,  11.])}
    """

    sign: Literal["signed", "absolute"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("sign", self.sign, ("signed", "absolute"), or_none=True)

    @property
    def adds_up(self) -> bool:
        """Whether each estimates the change without one unit, with its sign."""
        return self.sign == "signed" or (self.sign is None and is_cross_entropy(self.loss))

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, high = keep; each has its site's shape."""
        flow = Flow(model, sites)

        def plan(inputs: ExampleInputs) -> dict[Read, _Path]:
            answer = flow.answer(inputs, lambda outputs: answers(outputs, self.loss))
            return _paths(flow.reads(inputs), answer)

        return estimate(
            flow,
            self.data,
            self.batch_size,
            self._loss,
            "NextLayer",
            lambda batch: _sums(batch, plan(batch.inputs), self.sign),
            lambda inputs: {node for path in plan(inputs).values() for node in path.seen},
        )


def _sums(batch: Gated, paths: Mapping[Read, _Path], sign: str | None) -> dict[str, Tensor]:
    """The changes of a batch, summed over its samples."""
    sized = batch.numbers if sign is None else sign == "absolute"
    along = gradient(batch.outputs, batch.targets, batch.loss)
    sums_by_site = {name: loop.abs() if sized else loop.clone() for name, loop in batch.loops(along).items()}
    ends = list(dict.fromkeys(path.end for path in paths.values() if not path.last))
    slopes = dict(zip(ends, batch.slopes(along, ends), strict=True))
    sample_loss = SampleLoss(batch.loss, "NextLayer")
    for read, changes in batch.by_read(along):
        path = paths.get(read)
        if path is None:
            sums = changes.abs().sum(0) if sized else changes.sum(0)
        else:
            sums = _followed(batch, read, path, slopes.get(path.end), sample_loss, sized)
        sums_by_site[read.site] = sums_by_site[read.site] + sums if read.site in sums_by_site else sums
    return sums_by_site


@dataclass(frozen=True, eq=False)
class _Path:
    """What follows a layer that reads units, as far as it treats every sample by itself.

    Attributes:
        product: the linear layer or convolution.
        chain: the ops behind it.
        last: whether they end in what the loss is of.
    """

    product: Product
    chain: tuple[Node, ...]
    last: bool

    @property
    def end(self) -> Node:
        """The node whose tensor is compared."""
        return self.chain[-1] if self.chain else self.product.node

    @property
    def seen(self) -> set[Node]:
        """The nodes whose tensors are needed."""
        layer = self.product.node
        return {layer, self.end, *(n for node in (layer, *self.chain) for n in node.all_input_nodes)}


def _paths(reads: Mapping[str, tuple[Read, ...]], answer: Node | None) -> dict[Read, _Path]:
    """The paths of the reads that have one; `answer` is the one tensor that the loss is of."""
    path_by_read = {read: _path(read, answer) for several in reads.values() for read in several}
    return {read: path for read, path in path_by_read.items() if path is not None}


def _path(read: Read, answer: Node | None) -> _Path | None:
    product = product_of(read.node)
    if product is None or not product.plain or product.groups != 1 or product.kind == "matmul":
        return None
    dims = read.source.meta["val"].ndim
    if product.source is not read.source or read.dim != (1 if product.convolution else dims - 1):
        return None
    chain: list[Node] = []
    at = read.node
    while len(at.users) == 1 and (after := next(iter(at.users))).op == "call_function":
        if not (op_name(after) in FOLLOWED and after.args[0] is at):
            break
        chain, at = [*chain, after], after
    while chain and not isinstance(chain[-1].meta["val"], Tensor):
        chain = chain[:-1]  # what has several results is no end
    end = chain[-1] if chain else read.node
    last = end is answer
    # What is changed in place behind the end has another gradient there.
    if not (chain or last) or any(writes(user) for user in end.users):
        return None
    return _Path(product, tuple(chain), last)


def _followed(
    batch: Gated, read: Read, path: _Path, slope: Tensor | None, sample_loss: SampleLoss, sized: bool
) -> Tensor:
    """The change without each unit, ``(units,)``, summed over the samples; by its size where it is to first order."""
    whole, end = batch.numbers_by_node[path.product.node], batch.numbers_by_node[path.end]
    units = max(BLOCK // whole.numel(), 1)
    sums = []
    with torch.no_grad():
        base = sample_loss(batch.outputs, batch.targets) if path.last else None
        for index in torch.split(read.index.to(whole.device), units):
            without: Tensor = _through(batch, path, (whole - _made_by(batch, read, path, index)).flatten(0, 1))
            without = without.reshape(len(index), *end.shape)
            if base is not None:
                rows = without.reshape(len(index), *batch.outputs.shape)
                sums.append((sample_loss.of_units(rows, batch.targets) - base).sum(1))
            elif slope is not None:
                changes = (without - end) * slope
                sums.append(changes.flatten(2).sum(2).abs().sum(1) if sized else changes.flatten(1).sum(1))
            else:
                sums.append(whole.new_zeros(len(index)))
    return torch.cat(sums)


def _made_by(batch: Gated, read: Read, path: _Path, index: Tensor) -> Tensor:
    """What a block of units alone contributes to the layer, ``(units, samples, …)``."""
    passing, weight = batch.numbers_by_node[read.source], batch.numbers_by_node[path.product.weight]
    if not path.product.convolution:
        matrix = weight.T if path.product.out_first else weight
        alone: Tensor = torch.einsum("...up,upo->u...o", passing[..., index], matrix[index])
        return alone
    arguments = bind(path.product.node, batch.numbers_by_node)
    block_inputs = passing[:, index.flatten()]
    rows = weight[:, index].movedim(1, 0).flatten(0, 1)
    arguments |= {"input": block_inputs, "weight": rows, "bias": None, "groups": len(index)}
    outputs: Tensor = path.product.node.target(**arguments)  # type: ignore[operator]
    return outputs.reshape(len(outputs), len(index), -1, *outputs.shape[2:]).movedim(1, 0)


def _through(batch: Gated, path: _Path, value: Any) -> Any:
    """Run the ops behind the layer on what it makes."""
    at = path.product.node
    for node in path.chain:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: value if n is at else batch.numbers_by_node[n])  # noqa: B023
        value, at = node.target(*args, **kwargs), node  # type: ignore[operator]
    return value
