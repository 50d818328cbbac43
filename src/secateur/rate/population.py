"""How many samples each candidate of a population answers rightly: exact, and far faster than one model after another.

Everything before the searched layer is computed once. Where one layer is searched and what follows treats samples one
by one, all candidates are one wide product (`wide`); any other model runs its suffix for the stacked candidates
(`torch.func.vmap`), or for one after another where that cannot be. Sums in another order can tip an answer whose two
best outputs are almost equal, so a batch in which a candidate has such an answer is run again as the plain model runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.calls import usual
from secateur.checks import check_whole
from secateur.labelled import SampleBatch, logits_of
from secateur.rate.candidates import Candidates, Genes, Offsets
from secateur.rate.memory import POPULATION, WIDE
from secateur.rate.program import Line, Program, Programs, Unfit, leading_to
from secateur.rate.row_bank import RowBank
from secateur.rate.suffix import Suffix, Values
from secateur.rate.wide import Wide, wide
from secateur.state import device_of, evaluating, own_tensors
from secateur.types import InputError, Sites, TraceError
from secateur.untouched import run_with

__all__ = ["Counts", "Population"]

Counts = NDArray[np.int64]
"""One whole number a candidate."""

Changed = Callable[[int], Mapping[str, Tensor]]
"""From the number of a candidate to the tensors that it changes."""

CLOSE = 128  # in units of rounding at the greatest logit: sums in another order differ by a few


@dataclass(frozen=True, eq=False)
class Counted(ABC):
    """A batch of samples on which candidates are counted."""

    labels: Tensor

    @property
    def wide(self) -> Wide | None:
        """The fast way for all candidates at once, if there is one."""
        return None

    @abstractmethod
    def outputs(self, changed: Mapping[str, Tensor]) -> Tensor:
        """Return the outputs of one candidate, as the plain model gives them, to the bit."""

    def right(self, changed: Mapping[str, Tensor]) -> int:
        """Return how many samples one candidate answers rightly."""
        return int((self.outputs(changed).argmax(1) == self.labels).sum())

    def counts(self, changed: Sequence[Mapping[str, Tensor]]) -> Counts:
        """Return how many samples each candidate answers rightly."""
        return np.array([self.right(tensors) for tensors in changed], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class CountedWhole(Counted):
    """A batch on which the model runs from its inputs, as it cannot be parted."""

    model: nn.Module
    inputs: Tensor

    def outputs(self, changed: Mapping[str, Tensor]) -> Tensor:
        """Run the model with the tensors that changed."""
        gradients = torch.is_grad_enabled()
        with evaluating(self.model), torch.set_grad_enabled(gradients):
            outputs: Tensor = logits_of(run_with(self.model, changed, (self.inputs,)))
            return outputs


@dataclass(frozen=True, eq=False)
class CountedAfter(Counted):
    """A batch that has run as far as no candidate changes anything."""

    parted: ParametersSuffix
    values: Values

    @property
    def wide(self) -> Wide | None:
        """The fast way for all candidates at once, if there is one."""
        return self.parted.wide

    def outputs(self, changed: Mapping[str, Tensor]) -> Tensor:
        """Run what follows the tensors that changed."""
        return self.parted.suffix.end(self.values, self.parted.replacements(changed))

    def counts(self, changed: Sequence[Mapping[str, Tensor]]) -> Counts:
        """Run what follows for the stacked tensors of all candidates."""
        if len(changed) == 1:
            return super().counts(changed)
        rows = [self.parted.replacements(tensors) for tensors in changed]
        stacked = [torch.stack(tensors) for tensors in zip(*rows, strict=True)]
        return _count(self.parted.suffix.stacked(self.values, stacked).permute(2, 0, 1), self, changed.__getitem__)


class ParametersSuffix:
    """A model parted at parameters that change, aliases included.

    Args:
        program: the model on inputs of one shape.
        model: its module.
        names: the parameters.
        samples: how many it was traced on.
        layer: the names of the one weight that changes, and of the bias that does, if any; None where more do.

    Raises:
        InputError: the outputs do not depend on the parameters.
    """

    def __init__(
        self,
        program: Program,
        model: nn.Module,
        names: Sequence[str],
        samples: int,
        layer: tuple[str, str | None] | None,
    ) -> None:
        holders = program.holders(own_tensors(model))
        # By the node, as a parameter under two names may have two, and either name may be asked for.
        self.names = {node: name for name in names for node in holders[name]}
        self.suffix = Suffix(program, replaced=self.names)
        if not self.suffix.touched:
            raise InputError("search: the model's output does not depend on the sites; search other ones")
        self.before = Line(leading_to(program.steps, self.suffix.boundary), self.suffix.boundary)
        changing = {self.names[node]: node for node in self.suffix.replaced}
        alone = layer is not None and len(changing) == len(self.suffix.replaced)
        self.wide = wide(self.suffix, changing, *layer, samples) if layer is not None and alone else None

    def replacements(self, changed: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the values of the parameters that change, in the order of the suffix."""
        return [changed[self.names[node]] for node in self.suffix.replaced]


class Population:
    """Counts right answers of many candidates on the same samples.

    The model's weights are read when it is made; make a new one after training.

    Args:
        space: what is searched.
        inputs: ``(samples, …)``, what the model takes.
        labels: ``(samples,)``, whole numbers.
        batch_size: samples a batch; counts equal those of the masked model run in such batches.
        memory: bytes that a chunk of candidates may take beside what is kept of the samples.

    Raises:
        InputError: the model does not return logits ``(samples, classes)``, or labels do not fit.

    >>> from secateur.search import Space
    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 2, bias=False)
    >>> model.weight.data = torch.eye(2)
    >>> counted = Population(Space(model, weights(model)), torch.eye(2), torch.tensor([0, 1]))
    >>> counted.right(np.array([[True] * 4, [False] * 4])).tolist()
    [2, 1]
    """

    @usual
    def __init__(
        self, space: Candidates, inputs: Tensor, labels: Tensor, *, batch_size: int = 256, memory: int = POPULATION
    ) -> None:
        _check(inputs, labels, batch_size, memory)
        self.space, self.samples, self.memory = space, len(labels), memory
        self.device = device_of(space.model)
        parameters = own_tensors(space.model)
        names = [*(m.parameter for site in space.sites.values() for m in site.members), *space.biases]
        self._parameters = {name: parameters[name].detach() for name in names}
        with evaluating(space.model):
            self.batches = tuple(self._batches(inputs, labels, batch_size))
        self._bank = self._make_bank()

    @usual
    def right(self, genes: Genes, offsets: Offsets | None = None) -> Counts:
        """Return how many samples each candidate answers rightly, ``(candidates,)``.

        Args:
            genes: ``(candidates, units)`` bool, True = keep.
            offsets: ``(candidates, biases)``, what is added to the space's biases; None for nothing.
        """
        if genes.ndim != 2 or genes.shape[1] != self.space.size or genes.dtype != np.bool_:
            raise InputError(
                f"search: genes are {genes.dtype} of shape {genes.shape}; give bool (candidates, {self.space.size})"
            )
        if offsets is not None and offsets.shape != (len(genes), self.space.bias_size):
            raise InputError(
                f"search: offsets have shape {offsets.shape}; give ({len(genes)}, {self.space.bias_size}), one number "
                "for each searched bias"
            )
        step, counts = self._at_a_time(), [np.zeros(0, dtype=np.int64)]
        with torch.no_grad():
            for first in range(0, len(genes), step):
                part = slice(first, first + step)
                counts.append(self._chunk(genes[part], None if offsets is None else offsets[part]))
        return np.concatenate(counts)

    def count(self, batches: NDArray[np.int64]) -> int:
        """Return how many samples these batches have."""
        return sum(len(self.batches[n].labels) for n in batches)

    @usual
    def gradient(
        self, genes: NDArray[np.bool_], offsets: NDArray[np.float64] | None, batches: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the gradient of the mean cross-entropy by the genes, taken as factors of their weights, and the offsets.

        Args:
            genes: ``(units,)`` bool; single weights alone.
            offsets: ``(biases,)``, or None.
            batches: the numbers of the batches to take it on.

        Returns:
            ``(units + biases,)``.

        Raises:
            InputError: the space has channels.
        """
        channel = next((site.name for site in self.space.sites.values() if site.kind != "weight"), None)
        if channel is not None:
            raise InputError(f"search: gradients are taken of single weights, and {channel!r} has channels")
        keep = {n: k.to(self._parameters[n]).requires_grad_() for n, k in self.space.keep(genes).items()}
        shift = {n: x.to(self._parameters[n]).requires_grad_() for n, x in self.space.offset(offsets).items()}
        free = [*keep.values(), *shift.values()]
        total = [torch.zeros_like(x) for x in free]
        for n in batches:
            with torch.enable_grad():
                new = {k: self._parameters[k] * g for k, g in keep.items()} | {
                    k: self._parameters[k] + x for k, x in shift.items()
                }
                batch = self.batches[n]
                loss = cross_entropy(batch.outputs({**self._parameters, **new}), batch.labels, reduction="sum")
                for sum_, part in zip(total, torch.autograd.grad(loss, free), strict=True):
                    sum_ += part
        return torch.cat([x.flatten() for x in total]).double().cpu().numpy() / self.count(batches)

    def _batches(self, inputs: Tensor, labels: Tensor, batch_size: int) -> Iterator[Counted]:
        parted: dict[int, ParametersSuffix | None] = {}
        programs = Programs(self.space.model, Sites({}), logits_of)
        for x, y in zip(torch.split(inputs, batch_size), torch.split(labels, batch_size), strict=True):
            x, y = x.to(self.device), y.to(self.device)
            if len(x) not in parted:
                check_outputs(logits_of(self.space.model(x)), y)
                parted[len(x)] = self._parted(programs, x)
            suffix = parted[len(x)]
            if suffix is None:
                yield CountedWhole(y, self.space.model, x)
            else:
                values = programs.run(suffix.before, SampleBatch(x))
                yield CountedAfter(y, suffix, {node: values[node] for node in suffix.suffix.boundary})

    def _parted(self, programs: Programs, x: Tensor) -> ParametersSuffix | None:
        """The model parted at what candidates change; None where it can only run whole."""
        site, biases = next(iter(self.space.sites.values())), self.space.biases
        alone = len(self.space.sites) == 1 and len(biases) <= 1 and site.kind == "weight"
        layer = (site.name, next(iter(biases), None)) if alone else None
        with suppress(Unfit, TraceError):
            return ParametersSuffix(
                programs.at(SampleBatch(x)), self.space.model, list(self._parameters), len(x), layer
            )
        return None

    def _make_bank(self) -> RowBank | None:
        first = self.batches[0].wide
        if any(b.wide is None for b in self.batches) or first is None or first.last:
            return None
        weight = next(iter(self._parameters[name] for name in self.space.sites))
        sources = [b.values[b.wide.source] for b in self.batches if isinstance(b, CountedAfter) and b.wide is not None]
        return RowBank.of(weight, sources, self.memory)

    def _at_a_time(self) -> int:
        """How many candidates a chunk takes: what fits into the caches, and into the memory, and one at least."""
        if self._bank is not None:
            return self._bank.candidates
        batch = self.batches[0]
        steps = batch.parted.suffix.line.steps if isinstance(batch, CountedAfter) else ()
        values = [step.node.meta["val"] for step in steps]
        size = sum(x.nbytes for x in values if isinstance(x, Tensor)) + 4 * self.space.size
        return max(1, min(self.memory, WIDE) // size)

    def _chunk(self, genes: Genes, offsets: Offsets | None) -> Counts:
        def changed(n: int) -> dict[str, Tensor]:
            return {**self._parameters, **self.space.tensors(genes[n], None if offsets is None else offsets[n])}

        if self._bank is not None:
            return self._banked(genes, offsets, changed)
        if all(batch.wide is not None for batch in self.batches):
            return self._wide(genes, offsets, changed)
        changes = [changed(n) for n in range(len(genes))]
        total = np.zeros(len(genes), dtype=np.int64)
        for batch in self.batches:
            total += batch.counts(changes)
        return total

    def _wide(self, genes: Genes, offsets: Offsets | None, changed: Changed) -> Counts:
        weight, masks = self._masks(genes)
        last = self.batches[0].wide is not None and self.batches[0].wide.last
        masked = weight.unsqueeze(1) * masks.transpose(0, 1) if last else weight * masks
        total = np.zeros(len(genes), dtype=np.int64)
        for batch in self.batches:
            assert isinstance(batch, CountedAfter)
            assert batch.wide is not None
            run = batch.wide.classes_first if last else batch.wide.outputs
            total += _count(run(batch.values, masked, self._bias(batch.wide, batch.values, offsets)), batch, changed)
        return total

    def _banked(self, genes: Genes, offsets: Offsets | None, changed: Changed) -> Counts:
        """Rows of the layer that were computed before are taken from the bank, one candidate after another."""
        assert self._bank is not None
        weight, masks = self._masks(genes)
        batch = self.batches[0]
        assert isinstance(batch, CountedAfter)
        assert batch.wide is not None
        first, values = batch.wide, batch.values
        bias = self._bias(first, values, None)
        shifted = self._bias(first, values, offsets) if offsets is not None and self.space.biases else None
        head = first.head if shifted is None else ()
        places = self._bank.places(
            genes.reshape(masks.shape),
            weight,
            lambda rows_of, rows: first.finish(
                values,
                rows_of if bias is None or shifted is not None else rows_of.add_(bias[0, rows, None]),
                first.layer,
                head,
            ),
        )
        total = np.zeros(len(genes), dtype=np.int64)
        for n, rows in enumerate(places):
            rows_of = self._bank.take(rows)
            if shifted is not None:
                rows_of = rows_of + shifted[n].unsqueeze(-1)
            logits = first.from_rows(values, rows_of, head[-1].node if head else first.layer, first.rest[len(head) :])
            parts = torch.split(logits, [len(b.labels) for b in self.batches])
            for batch, part in zip(self.batches, parts, strict=True):
                total[n] += _count(part.mT.unsqueeze(1), batch, changed, first=n)[0]
        return total

    def _masks(self, genes: Genes) -> tuple[Tensor, Tensor]:
        name, site = next(iter(self.space.sites.items()))
        return self._parameters[name], torch.from_numpy(genes).to(self.device).view(-1, *site.shape)

    def _bias(self, fast: Wide, values: Values, offsets: Offsets | None) -> Tensor | None:
        """The biases of the searched layer, ``(candidates or 1, outputs)``."""
        if not self.space.biases:
            bias: Tensor | None = None if fast.bias is None else values[fast.bias].unsqueeze(0)
            return bias
        bias = self._parameters[self.space.biases[0]]
        return bias.unsqueeze(0) if offsets is None else bias + torch.from_numpy(offsets).to(bias)


def _count(logits: Tensor, batch: Counted, changed: Changed, first: int = 0) -> Counts:
    """Count right answers in logits ``(classes, candidates, samples)``; the candidates are those from `first` on.

    A candidate with a sample whose true class and best other class are too close to tell is run as the plain model.
    """
    index = batch.labels.expand(1, *logits.shape[1:])
    true = logits.gather(0, index)[0]
    others = logits.scatter(0, index, -torch.inf).amax(0)
    margin = true - others
    close = margin.abs() <= CLOSE * torch.finfo(logits.dtype).eps * max(
        float(true.abs().max()), float(others.abs().max())
    )
    counts = (margin > 0).sum(1).cpu().numpy()
    for n in close.any(1).nonzero().flatten().tolist():
        counts[n] = batch.right(changed(first + n))
    return counts


def _check(inputs: Tensor, labels: Tensor, batch_size: int, memory: int) -> None:
    if not isinstance(inputs, Tensor) or not isinstance(labels, Tensor) or len(inputs) != len(labels):
        raise InputError("search: give the data as inputs (samples, …) and labels (samples,), both tensors")
    if len(labels) == 0 or labels.ndim != 1 or labels.is_floating_point():
        raise InputError(
            f"search: labels are {labels.dtype} of shape {tuple(labels.shape)}; give whole numbers (samples,), "
            "or a loss to search by: Fitness(space, data, loss='mse')"
        )
    check_whole("search", batch_size=batch_size, memory=memory)


def check_outputs(outputs: object, labels: Tensor) -> None:
    """Refuse outputs that are not logits, and labels that they have no class for."""
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2 or len(outputs) != len(labels):
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(
            f"search counts right answers of a classifier, and the model returned {shape}; it must return "
            f"logits ({len(labels)}, classes)"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= outputs.shape[1]:
        raise InputError(
            f"search: labels must be in 0 … {outputs.shape[1] - 1}; got {int(labels.min())} … {int(labels.max())}"
        )
