"""What a model loses without sets of its units: many sets, the model run once up to the first layer that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import nan
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.calls import usual
from secateur.labelled import SampleBatch, Samples, batches, check_samples
from secateur.losses import answers, loss_function
from secateur.rate.last import LastLayer, LastRead
from secateur.rate.memory import KEPT
from secateur.rate.program import Line, Program, Programs, Unfit, leading_to
from secateur.rate.suffix import Shut, Suffix, Values
from secateur.rate.tally import MaskTally
from secateur.rate.whole import masked_runs
from secateur.state import device_of, evaluating
from secateur.structure.infer import Structure
from secateur.structure.sites import check_keep, check_same_model
from secateur.trees import Packing
from secateur.types import InputError, Keep, Loss, Sites, TraceError

__all__ = ["Evaluations", "Removals", "rate"]

DOING = "rate"


@dataclass(frozen=True, eq=False)
class Evaluations:
    """The losses and accuracies of a model under each of several keep masks, over the same samples.

    Attributes:
        losses: mean loss of a sample, float64 ``(masks,)``.
        accuracy: fraction answered rightly, float64 ``(masks,)``; NaN where the targets are not classes.
        class_accuracy: the same for the samples of each class, ``(masks, classes)``; NaN for a class without samples.
            ``(masks, 0)`` where the targets are not classes.
        count: how many samples.
    """

    losses: Tensor
    accuracy: Tensor
    class_accuracy: Tensor
    count: int

    @classmethod
    def of(cls, tally: MaskTally) -> Evaluations:
        """Return what was counted."""
        sums, count = tally.sums, int(tally.sums.count[0])
        losses = sums.loss / count
        if sums.right is None or tally.asked is None:
            nothing = torch.full_like(losses, nan)
            return cls(losses, nothing, nothing.new_empty(len(losses), 0), count)
        return cls(losses, sums.right.sum(1).double() / count, sums.right.double() / tally.asked, count)


@usual
def rate(
    model: nn.Module,
    sites: Sites,
    keeps: Sequence[Keep],
    data: Samples,
    loss: str | Loss = "cross_entropy",
    *,
    max_memory: int | None = None,
    batch_size: int = 500,
) -> Evaluations:
    """Return the loss and accuracy of `model` under each of `keeps`, as those of ``mask(model, sites, keep)``.

    The model runs once up to the first layer that reads a masked unit, and only what follows runs for every mask. Where
    that layer is the last one, as in a network of one hidden layer, all masks share one matrix product.

    Args:
        model: the model; it is left as it is, and runs in eval mode.
        sites: from `channels` (or `weights`, where each mask is a whole forward pass).
        keeps: the masks: one bool tensor a site, True = keep; sites without one stay whole.
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean of its samples' losses.
        max_memory: bytes of activations to keep.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: there are no masks or no samples, or a mask does not fit its site.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    >>> for layer in (0, 2):
    ...     model[layer].weight.data = torch.eye(2)
    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    >>> sites = channels(model, x)
    >>> found = rate(model, sites, [{}, {"0": torch.tensor([True, False])}], [(x, y)])
    >>> found.accuracy.tolist(), found.class_accuracy.tolist()
    ([1.0, 0.5], [[1.0, 1.0], [1.0, 0.0]])
    """
    return Removals(model, sites, data, loss, max_memory, batch_size)(keeps)


@dataclass(eq=False)
class Removals:
    """What `rate` does, again and again: activations that fit into `max_memory` are kept between calls.

    While it is used, the model's weights and the samples must stay as they are.

    >>> from secateur.structure import channels
    >>> model, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), torch.ones(4, 2)
    >>> removals = Removals(model, channels(model, x), [(x, torch.zeros(4, dtype=torch.int64))])
    >>> whole = removals([{}])
    >>> bool(whole.losses == removals([{"0": torch.tensor([True, True, True])}]).losses)
    True
    """

    model: nn.Module
    sites: Sites
    data: Samples
    loss: str | Loss = "cross_entropy"
    max_memory: int | None = None
    batch_size: int = 500
    _programs: Programs | None = field(default=None, init=False, repr=False)
    _suffixes: dict[tuple[Program, frozenset[str]], SitesSuffix] = field(default_factory=dict, init=False, repr=False)
    _kept: dict[frozenset[str], list[Batch]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_same_model(self.model, self.sites)
        check_samples(self.data, DOING)
        if isinstance(self.sites.structure, Structure):
            self._programs = Programs(self.model, self.sites, partial(answers, loss=self.loss))

    @usual
    def __call__(self, keeps: Sequence[Keep]) -> Evaluations:
        """Return what is left under each mask."""
        if not keeps:
            raise InputError("rate: there are no masks to evaluate; give at least one, {} for none removed")
        masks = [_removing(check_keep(self.sites, keep)) for keep in keeps]
        tally = MaskTally(len(masks), loss_function(self.loss), DOING)
        with evaluating(self.model):
            for batch in self._batches(frozenset(name for keep in masks for name in keep)):
                for first, outputs in batch.outputs(masks):
                    tally.add(first, outputs, batch.samples, batch.packing)
        return Evaluations.of(tally)

    @usual
    def last_layer(self) -> tuple[LastLayer, dict[str, Tensor]] | None:
        """Return the last layer, to follow removals in, and which of its inputs each site's units are.

        None where other layers read the sites, where a unit is not one input alone, or where memory is short.
        """
        names = frozenset(self.sites)
        with evaluating(self.model):
            if any(not isinstance(batch, PartedBatch) or not batch.single for batch in self._batches(names)):
                return None
        batches = self._kept.get(names)
        if batches is None or not all(_are_labels(batch.samples.targets) for batch in batches):
            return None
        reads = [batch.last for batch in batches if isinstance(batch, PartedBatch) and batch.last is not None]
        x, targets = torch.cat([read.x for read in reads]), torch.cat([batch.samples.targets for batch in batches])
        bias = None if reads[0].bias is None else reads[0].bias.detach()
        layer = LastLayer(x.detach(), reads[0].weight.detach(), bias, targets)
        return layer, {name: index[:, 0] for name, index in reads[0].columns.items()}

    def _batches(self, names: frozenset[str]) -> Iterator[Batch]:
        """The batches, run as far as no mask of the sites `names` changes anything."""
        if names in self._kept:
            yield from self._kept[names]
            return
        held_back: list[Batch] | None = []
        room = KEPT if self.max_memory is None else self.max_memory
        device = device_of(self.model)
        for samples in batches(self.data, self.batch_size, DOING):
            batch = self._batch(names, samples.to(device))
            room -= batch.bytes
            # All or nothing: batches that are drawn anew come in another order, and none may be counted twice.
            if held_back is not None and room >= 0:
                held_back.append(batch)
            else:
                held_back = None
            yield batch
        if held_back is not None:
            self._kept = {names: held_back}

    def _batch(self, names: frozenset[str], samples: SampleBatch) -> Batch:
        # What its reads do not show of a unit is seen only in a run of the masked model.
        if self._programs is not None and not names & set(self._programs.flow.partial):
            with suppress(Unfit, TraceError):
                program = self._programs.at(samples)
                if (program, names) not in self._suffixes:
                    self._suffixes[program, names] = SitesSuffix(program, names)
                suffix = self._suffixes[program, names]
                return PartedBatch(samples, suffix, self._programs.run(suffix.before, samples), program.packing)
        return WholeBatch(self.model, self.sites, samples, loss_function(self.loss))


def _are_labels(targets: Any) -> bool:
    return isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()


def _removing(keep: Keep) -> dict[str, Tensor]:
    """The masks that remove something."""
    return {name: mask for name, mask in keep.items() if not bool(mask.all())}


class Batch(Protocol):
    """A batch of samples on which masks can be tried.

    Attributes:
        samples: with their targets.
        bytes: what it holds.
        packing: how several outputs lie in the tensor of each mask; None for one by itself.
    """

    samples: SampleBatch
    bytes: int
    packing: Packing | None

    def outputs(self, masks: Sequence[Keep]) -> Iterator[tuple[int, Tensor]]:
        """Yield the outputs under masks, ``(masks, samples, …)`` block by block, with the number of the first."""
        ...


class WholeBatch:
    """A batch on which the masked model runs from the beginning."""

    def __init__(self, model: nn.Module, sites: Sites, samples: SampleBatch, loss: Loss) -> None:
        self.model, self.sites, self.samples, self.loss = model, sites, samples, loss
        self.bytes = sum(tensor.nbytes for _, tensor in samples.named())
        self.packing: Packing | None = None

    def outputs(self, masks: Sequence[Keep]) -> Iterator[tuple[int, Tensor]]:
        """Run the masked model for each."""
        with masked_runs(self.model, self.sites) as run:
            for number, keep in enumerate(masks):
                outputs = answers(run(keep, self.samples), self.loss)
                if not isinstance(outputs, Tensor):
                    self.packing = self.packing or Packing.of(outputs, len(self.samples))
                    outputs = self.packing.pack(outputs)
                yield number, _checked(outputs).unsqueeze(0)


class SitesSuffix:
    """A model parted where the units of some sites are read.

    Attributes:
        shut: the reads, with the site of each.
        suffix: what follows them.
        before: what comes before, which keeps what the suffix takes up.
    """

    def __init__(self, program: Program, names: Iterable[str]) -> None:
        steps = {step.node: step for step in program.steps}
        reads = [read for name in sorted(names) for read in program.reads[name] if read.node in steps]
        self.shut = [(read.site, Shut.at(read, steps)) for read in reads]
        self.suffix = Suffix(program, [shut for _, shut in self.shut])
        self.before = Line(leading_to(program.steps, self.suffix.boundary), self.suffix.boundary)


class PartedBatch:
    """A batch that has run up to where units are read; `last` is the layer that alone follows, if one does."""

    def __init__(self, samples: SampleBatch, parted: SitesSuffix, values: Values, packing: Packing | None) -> None:
        self.samples, self.parted, self.packing = samples, parted, packing
        self.values = {node: values[node] for node in parted.suffix.boundary}
        results = [value for node, value in self.values.items() if node.op != "placeholder"]
        targets = SampleBatch(None, samples.targets).named()
        self.bytes = sum(tensor.nbytes for _, tensor in targets) + sum(
            x.nbytes for x in pytree.tree_leaves(results) if isinstance(x, Tensor)
        )
        self.last = LastRead.of(parted.suffix, dict(parted.shut), self.values)

    @property
    def single(self) -> bool:
        """Whether the last layer alone follows, and each unit is one of its inputs."""
        return self.last is not None and self.last.single

    def outputs(self, masks: Sequence[Keep]) -> Iterator[tuple[int, Tensor]]:
        """Run what follows; one matrix product for many masks where that is a linear layer alone."""
        if self.last is not None:
            yield from self.last.outputs(masks)
            return
        for number, keep in enumerate(masks):
            gates = [shut.gates(keep.get(site, _whole(shut))) for site, shut in self.parted.shut]
            outputs = self.parted.suffix.end(self.values, gates=gates)
            yield number, _checked(outputs).unsqueeze(0)


def _whole(shut: Shut) -> Tensor:
    return torch.ones(len(shut.index), dtype=torch.bool)


def _checked(outputs: Tensor) -> Tensor:
    """Refuse outputs of which a mask makes NaN; all else is asked once."""
    if outputs.isnan().any():
        raise InputError(f"{DOING}: the model's outputs hold NaN; look for NaN in its weights")
    return outputs
