"""Measures every unit of a chain of layers: the samples go through it once, and then only what a unit changes is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.labelled import SampleBatch
from secateur.rate.chain.images import MapDowndate
from secateur.rate.chain.parse import ChainLayer, ChainOp, parse
from secateur.rate.chain.rows import Rows, Sparse
from secateur.rate.last import EQUAL, column_sums, sample_changes
from secateur.rate.memory import CHAIN, Budget
from secateur.rate.program import Unfit
from secateur.rate.tally import UnitTally
from secateur.state import device_of, evaluating
from secateur.types import Loss, Sites

__all__ = ["ChainEngine", "chain_engine"]

FEW, TOLERANCE = 8, 1e-4  # samples on which the chain is compared with the model, and how close it must be
WORK = 1 << 26  # multiply–accumulates of a group of samples: fewer are lost in the calls' overhead
CACHED = 1 << 20  # floats of a group's rows
CHUNK = 1 << 21  # floats of the widest activations of a block of images


def chain_engine(
    model: nn.Module,
    sites: Sites,
    loss: Loss,
    max_memory: int | None = None,
    advance: Callable[[float], None] = lambda units: None,
) -> ChainEngine | None:
    """Return the engine for a model that is a chain of layers under the cross-entropy; None for any other.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> chain_engine(model, channels(model, torch.zeros(1, 2)), cross_entropy) is None
    False
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    >>> chain_engine(model, channels(model, torch.zeros(1, 2)), cross_entropy) is None
    True
    """
    chain = parse(model, sites) if loss is cross_entropy else None
    room = min(Budget.of(device_of(model), max_memory).total, CHAIN)
    return None if chain is None else ChainEngine(model, *chain, sites, room, advance)


@dataclass(eq=False)
class Block:
    """What the whole model does on a block of samples.

    Attributes:
        reads: what each layer reads.
        gives: what each layer gives, before what follows it.
        targets: the classes.
        losses: of the samples; `right`: whether they are answered rightly.
    """

    reads: list[Tensor]
    gives: list[Tensor]
    targets: Tensor
    losses: Tensor
    right: Tensor

    def __len__(self) -> int:
        return len(self.targets)


class ChainEngine:
    """Measures the units of a chain.

    Args:
        model: the model, to compare the chain with.
        before: what precedes the first layer.
        layers: of the chain.
        sites: whose units are measured; all are those of layers.
        max_memory: bytes that it may take.
        advance: called with the number of units that are done.
    """

    def __init__(
        self,
        model: nn.Module,
        before: Sequence[ChainOp],
        layers: Sequence[ChainLayer],
        sites: Sites,
        max_memory: int = CHAIN,
        advance: Callable[[float], None] = lambda units: None,
    ) -> None:
        self.model, self.before, self.layers, self.sites = model, before, layers, sites
        self.checked: set[torch.Size] = set()
        self.max_memory, self.advance, self.share = max_memory, advance, 1.0
        self.head = next(i for i, layer in enumerate(layers) if layer.linear)  # the first linear layer
        self.sparse = Sparse(layers[self.head :])
        self.start: dict[str, int] = {}
        total = 0
        for name, site in sites.items():
            self.start[name], total = total, total + site.size
        self.change, self.square = torch.zeros(2, total, dtype=torch.float64, device=layers[-1].weight.device)
        self.asked = torch.ones(total, dtype=torch.bool, device=layers[-1].weight.device)
        self.hits = torch.zeros(total, len(layers[-1].weight), dtype=torch.float64, device=layers[-1].weight.device)

    def measure(self, batch: SampleBatch, tally: UnitTally) -> None:
        """Add the changes of the units that the tally asks for on a batch.

        Raises:
            Unfit: the model computes something else than the chain, or takes several inputs.
        """
        inputs, targets = batch.inputs, batch.targets
        if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor):
            raise Unfit("the model takes several inputs, or the data hold several targets or none")
        self._check(inputs)
        self.asked.zero_()
        for name, start in self.start.items():
            self.asked[tally.chosen[name].to(self.asked.device) + start] = True
        size, self.share = self._samples(inputs), 1 / len(inputs)
        with torch.no_grad():
            for x, y in zip(torch.split(inputs, size), torch.split(targets, size), strict=True):
                reads, gives = self._forward(x)
                tally.start(gives[-1], y)
                losses = _losses(gives[-1].T.contiguous(), y)
                self._measure(Block(reads, gives, y, losses, gives[-1].argmax(1) == y), tally)

    def _check(self, inputs: Tensor) -> None:
        """Compare the chain with the model itself on a few samples, once for each shape of them."""
        if inputs.shape[1:] in self.checked:
            return
        some = inputs[:FEW]
        with evaluating(self.model):
            expected = self.model(some)
            try:
                logits = self._forward(some)[1][-1]
            except RuntimeError as error:
                raise Unfit(f"the layers do not take inputs of shape {tuple(inputs.shape)}") from error
        close = isinstance(expected, Tensor) and logits.shape == expected.shape
        if not close or not bool((logits - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp(min=1e-6)):
            raise Unfit("the model computes something else than its layers in a row")
        self.checked.add(inputs.shape[1:])

    def _samples(self, inputs: Tensor) -> int:
        """How many samples a block has."""
        reads, gives = self._forward(inputs[:1])
        floats = sum(x.numel() for x in (*reads, *gives))
        return max(1, self.max_memory // (16 * floats))

    def _forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What each layer reads, and what it gives."""
        reads, gives = [], []
        for op in self.before:
            x = op(x)
        for number, layer in enumerate(self.layers):
            reads.append(x)
            x = layer(x)
            gives.append(x)
            x = layer.after(x) if number < len(self.layers) - 1 else x
        return reads, gives

    def _measure(self, block: Block, tally: UnitTally) -> None:
        for sums in (self.change, self.square, self.hits):
            sums.zero_()
        for number, layer in enumerate(self.layers[:-1]):
            if self._any(layer) and not layer.linear:
                self._images(block, number)
        if any(self._any(layer) for layer in self.layers[self.head : -2]):
            self._neurons(block)
        whole = torch.bincount(block.targets[block.right], minlength=self.hits.shape[1])
        if self.layers[-2].linear and self._any(self.layers[-2]):
            self._last(block)
        for name, units in tally.chosen.items():
            of = units.to(whole.device) + self.start[name]
            tally.add(name, units, self.change[of], self.square[of], self.hits[of].long() + whole)

    def _any(self, layer: ChainLayer) -> bool:
        """Whether any of the units that a layer gives is asked for."""
        return layer.site in self.start and bool(self._asked(layer.site).any())

    def _asked(self, name: str) -> Tensor:
        """Which units of a site are asked for."""
        return self.asked[self.start[name] : self.start[name] + self.sites[name].size]

    def _last(self, block: Block) -> None:
        """The neurons that the last layer reads: the closed form of `rate.last`."""
        name = self.layers[-2].site
        assert name is not None
        order = block.targets.argsort(stable=True)
        counts = torch.bincount(block.targets, minlength=self.hits.shape[1])
        logits = block.gives[-1]
        # log p = z − log Σ exp z, where the loss is log Σ exp z − z_t.
        log_p = logits - (block.losses + logits.gather(1, block.targets[:, None])[:, 0])[:, None]
        read, weight = block.reads[-1].index_select(0, order), self.layers[-1].weight
        of = self._asked(name).nonzero()[:, 0]
        if len(of) < read.shape[1]:
            read, weight = read.index_select(1, of), weight.index_select(1, of)
        of += self.start[name]
        self.advance(self.share * len(of) * len(block))
        delta, right = sample_changes(read, log_p[order], weight, counts)
        self.change[of], self.square[of], hits = column_sums(delta, right, counts)
        self.hits[of] = (hits - torch.bincount(block.targets[block.right], minlength=len(hits))[:, None]).T.double()

    def _neurons(self, block: Block) -> None:
        """The neurons that linear layers read, but for the last: only samples on which they are on."""
        size = self._group(block)
        units = sum(int(self._asked(x.site).sum()) for x in self.layers[self.head : -2] if x.site in self.start)
        ready: list[Rows] = []
        waiting = 0
        for start in range(0, len(block), size):
            rows = self._through_neurons(block, slice(start, start + size))
            ready.append(rows)
            waiting += len(rows.sample)
            self.advance(self.share * units * min(size, len(block) - start))
            if waiting * len(self.layers[-1].weight) > CACHED:
                self._add(block, ready)
                ready, waiting = [], 0
        self._add(block, ready)

    def _group(self, block: Block) -> int:
        """How many samples go together: few, so that zeros are shared, but enough to keep the kernels busy."""
        some = slice(0, None, max(1, len(block) // 64))
        work = rows = 0.0
        for number in range(self.head + 1, len(self.layers) - 1):
            rows += float((block.reads[number][some] != 0).float().sum(1).mean())
            work += rows * self.layers[number].weight.shape[0] * self.layers[number + 1].weight.shape[0]
        wide = max(len(layer.weight) for layer in self.layers[self.head :])
        return max(1, min(int(WORK / max(work, 1)), int(CACHED / max(rows * wide, 1))))

    def _through_neurons(self, block: Block, some: slice) -> Rows:
        """Rows of logits of a few samples without each neuron that is on."""
        values: Tensor | None = None
        samples: list[Tensor] = []
        units: list[Tensor] = []
        for number in range(self.head + 1, len(self.layers)):
            name = self.layers[number - 1].site
            parts = [] if values is None else [values]
            if name in self.sites and number < len(self.layers) - 1:
                assert name is not None
                read, gives = block.reads[number][some], block.gives[number][some]
                sample, unit = ((read != 0) & self._asked(name)).nonzero().unbind(1)
                parts.append(self.sparse.enter(number - self.head, gives, read, sample, unit))
                samples.append(sample + some.start)
                units.append(unit + self.start[name])
            if number < len(self.layers) - 1 and parts:
                values = self.sparse.forward(number - self.head, parts)
        assert values is not None
        return Rows(values, torch.cat(samples), torch.cat(units))

    def _images(self, block: Block, number: int) -> None:
        """The filters of a convolution: what the next layer gives without each, and from there on densely."""
        name = self.layers[number].site
        assert name is not None
        down = MapDowndate(
            self.layers[number + 1], block.reads[number + 1], block.gives[number + 1], self.sites[name].size
        )
        size = min(self._chunk(block, number + 1), len(block))
        for unit in self._asked(name).nonzero()[:, 0].tolist():
            for values, sample in down.rows(unit, size):
                removed = torch.full_like(sample, unit + self.start[name])
                logits = self._suffix(number + 1, values)[: len(sample)]
                self._add(block, [Rows(logits, sample, removed)])
            self.advance(self.share * len(block))

    def _chunk(self, block: Block, number: int) -> int:
        """How many rows go together through the layers from `number` on."""
        widest = max(x[0].numel() for x in (*block.gives[number:], *block.reads[number:]))
        return max(1, min(CHUNK, self.max_memory // 16) // widest)

    def _suffix(self, number: int, values: Tensor) -> Tensor:
        """Run what follows layer `number`, from what it gives to the logits."""
        while number < len(self.layers) - 1:
            if number >= self.head:
                values = self.sparse.forward(number - self.head, [values])
            else:
                values = self.layers[number + 1](self.layers[number].after(values))
            number += 1
        return values

    def _add(self, block: Block, parts: Sequence[Rows]) -> None:
        """Add rows of logits to the sums."""
        if not parts:
            return
        sample, unit = (torch.cat([getattr(rows, key) for rows in parts]) for key in ("sample", "unit"))
        logits = torch.cat([rows.values for rows in parts]).T.contiguous()
        target = block.targets[sample]
        delta = (_losses(logits, target) - block.losses[sample]).double()
        self.change.index_add_(0, unit, delta)
        self.square.index_add_(0, unit, delta.square())
        gained = _first_is(logits, target).double() - block.right[sample].double()
        self.hits.view(-1).index_add_(0, unit * self.hits.shape[1] + target, gained)


def _losses(logits: Tensor, target: Tensor) -> Tensor:
    """The cross-entropy log Σ_c exp z_c − z_t of logits ``(classes, rows)``; the same for all, so that rounding does not look like a change."""
    losses: Tensor = logits.logsumexp(0).sub_(logits.gather(0, target[None])[0])
    return losses


def _first_is(logits: Tensor, target: Tensor) -> Tensor:
    """Whether the target's logit is the highest, and the first such; as argmax says, which takes a hundred times longer.

    `logits` are ``(classes, rows)``. What differs by rounding alone is equal, as it is where it is computed otherwise.
    """
    highest = logits.amax(0)
    near = logits >= highest - EQUAL * (1 + highest.abs())
    right = logits.gather(0, target[None])[0] >= highest
    several = near.sum(0) > 1
    if bool(several.any()):
        right[several] = near[:, several].to(torch.uint8).argmax(0) == target[several]
    return right
