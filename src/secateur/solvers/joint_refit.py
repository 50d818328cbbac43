"""All layers that lost something, fitted anew so that the probabilities are nearest to those of the unpruned model.

Least squares meets each layer's outputs; what those errors become behind the layers that follow, it does not see. Near to
the weights as they are, the KL divergence is a quadratic of each layer's outputs z, whose gradient δ and Fisher matrix F one
pass gives: its least is at z − F⁻¹δ. So each layer gets the weights that come nearest to those aims, by the same least
squares with the same kind of ridge, and all of them together move as far on that way as samples say that had no part in it
(a Gauss–Newton step, blockwise and factored: Martens & Grosse, 2015; Grosse & Martens, 2016, for convolutions).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from secateur.equations import COLUMNS, LayerEquations
from secateur.labelled import logits_of
from secateur.repair.beside import HELD, Beside
from secateur.repair.consumers import layer_equations
from secateur.solvers.layer_problems import damped
from secateur.solvers.output_metrics import SAMPLES, Probed
from secateur.solvers.solution import write
from secateur.state import own_tensors
from secateur.structure.consumers import Consumer

__all__ = ["refit_jointly"]

RIDGE = 0.1
"""What a change of weights costs: more than where aims are outputs themselves, as these hold near to the weights only."""

DAMPING = 1.0
"""What is added to the diagonal of F, as a share of its mean: the directions that few samples made cost something, too."""

STEPS = (0.5, 0.25, 0.125, 0.0625)
"""Of the way to the aims; the first that helps is taken."""

GAIN = 1e-5
"""The least that a step must bring, as a share of the cross-entropy; less may be what single precision rounds off."""

ENOUGH = 10
"""So many places for each column, if there are as many."""

FOLDS = 5
"""One row of scores in so many has no part in the aims, and says how far to go."""


Change = tuple[Tensor, Tensor | None]
Changes = dict[str, Change]
"""What is added to the weight, outputs first, and to the bias; and that by layer."""


def refit_jointly(beside: Beside, weights: list[str], rounds: int) -> None:
    """Change layers of the student, all at a time, so that its probabilities are nearer to the teacher's.

    Args:
        beside: both models; the student's masks are all there.
        weights: the names of the layers' weights.
        rounds: so often at most; it ends before where no step brings held-out samples nearer.
    """
    with torch.no_grad():
        targets = [_scores(beside.unpruned(number)).softmax(1) for number in range(beside.count)]
    least = _held_out(beside, targets, {})
    for part in _parts(beside, weights):
        for _ in range(rounds):
            before = least
            least = _step(beside, _changes(beside, _curvatures(beside, part), targets), targets, least)
            if least == before:
                break


def _step(beside: Beside, changes: Changes, wanted: list[Tensor], least: float) -> float:
    """Go the longest step that brings what is held out nearer than it is, if there is one; return how near it is then."""
    for step in STEPS:
        tensors = _moved(beside, changes, step)
        divergence = _held_out(beside, wanted, tensors)
        if divergence < least * (1 - GAIN):
            write(beside.student, tensors)
            return divergence
    return least


def _parts(beside: Beside, weights: list[str]) -> list[list[str]]:
    """The layers in groups whose moments are held at a time; without those that have too many columns."""
    parts: list[list[str]] = [[]]
    held = 0
    for weight in weights:
        equations = _equations(beside, weight)
        columns = [len(inputs) * equations.each for inputs in equations.inputs]
        if max(columns) > COLUMNS:
            continue
        size = 8 * sum(count * count for count in columns)
        if held + size > HELD and parts[-1]:
            parts, held = [*parts, []], 0
        parts[-1].append(weight)
        held += size
    return [part for part in parts if part]


def _scores(outputs: object) -> Tensor:
    scores: Tensor = logits_of(outputs)
    return scores.reshape(-1, scores.shape[-1])


def _held(rows: Tensor, number: int) -> Tensor:
    """Which rows of a batch are held out; of batches of one, one in so many."""
    return (torch.arange(len(rows), device=rows.device) + number) % FOLDS == FOLDS - 1


def _held_out(beside: Beside, wanted: list[Tensor], tensors: Mapping[str, Tensor]) -> float:
    """The cross-entropy of the student on the rows that are held out, summed, with some of its tensors replaced."""
    total = 0.0
    for number, probabilities in enumerate(wanted):
        rows = _held(probabilities, number)
        with torch.no_grad():
            scores = _scores(beside.pruned(number, tensors=tensors))
        total += float(cross_entropy(scores[rows].double(), probabilities[rows].double(), reduction="sum"))
    return total


@dataclass(eq=False)
class _Curvature:
    """How the divergence bends with one layer's weights: A of its inputs and F of its outputs, added up over samples."""

    layer: Consumer
    equations: LayerEquations
    fisher: Tensor | float = 0.0
    places: int = 0
    rows: int = 0

    @property
    def is_enough(self) -> bool:
        """Whether there are so many places that A is more than chance."""
        return self.places >= ENOUGH * max(len(inputs) * self.equations.each for inputs in self.equations.inputs)

    def add(self, inputs: Tensor, outputs: Tensor, drawn: Tensor, rows: int) -> None:
        """Take in a batch: what was read, zeros as outputs, gradients for labels that were drawn, and rows of scores."""
        self.equations.add(inputs, outputs)
        self.fisher, self.places = self.fisher + drawn.mT @ drawn, self.places + len(drawn)
        self.rows += rows

    def change(self, weight: Tensor, bias: Tensor | None) -> Change:
        """Return F⁻¹ C A⁻¹ of the mean gradient −C; outputs of two groups share no weights."""
        aims = self.equations.aimed(-self.rows * weight, None if bias is None else -self.rows * bias)
        change, shift = aims.solve(RIDGE)
        assert isinstance(self.fisher, Tensor)
        group = (
            torch.arange(len(self.fisher), device=self.fisher.device) * self.layer.product.groups // len(self.fisher)
        )
        fisher = damped(self.fisher / self.places, DAMPING) * (group.unsqueeze(0) == group.unsqueeze(1))
        flat = torch.linalg.solve(fisher, change.flatten(1))
        return flat.reshape(change.shape), None if shift is None else torch.linalg.solve(fisher, shift)


def _curvatures(beside: Beside, weights: list[str]) -> dict[str, _Curvature]:
    """Of some layers, on as many samples as are enough."""
    generator, count = torch.Generator().manual_seed(0), 0
    curvatures = {weight: _Curvature(beside.layers()[weight], _equations(beside, weight)) for weight in weights}
    for number in range(beside.count):
        if count >= SAMPLES and all(curvature.is_enough for curvature in curvatures.values()):
            break
        layers = {weight: beside.layers(number)[weight] for weight in weights}
        probed = Probed.of(lambda see, number=number: beside.pruned(number, see), layers)  # type: ignore[misc]
        count += probed.samples
        for weight, gradients in probed.drawn(generator).items():
            outputs = probed.probes[weight].detach()
            curvatures[weight].add(probed.inputs[weight], outputs, gradients, len(probed.scores))
    return curvatures


def _equations(beside: Beside, weight: str) -> LayerEquations:
    return layer_equations(beside.layers()[weight], beside.student, beside.keep, RIDGE)


def _changes(beside: Beside, curvatures: Mapping[str, _Curvature], wanted: list[Tensor]) -> Changes:
    """The whole way to the aims, by layer."""
    model_tensors = own_tensors(beside.student)
    layers = [curvature.layer for curvature in curvatures.values()]
    names = [name for layer in layers for name in (layer.weight, layer.bias) if name]
    leaves = {name: model_tensors[name].detach().clone().requires_grad_() for name in names}
    sums = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    rows = sum(int((~_held(probabilities, number)).sum()) for number, probabilities in enumerate(wanted))
    for number, probabilities in enumerate(wanted):
        fitted = ~_held(probabilities, number)
        with torch.enable_grad():
            scores = _scores(beside.pruned(number, tensors=leaves))
            loss = cross_entropy(scores[fitted], probabilities[fitted], reduction="sum") / rows
        gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total += gradient
    return {
        layer.weight: curvatures[layer.weight].change(
            sums[layer.weight].mT if layer.inputs_first else sums[layer.weight],
            sums[layer.bias] if layer.bias else None,
        )
        for layer in layers
    }


def _moved(beside: Beside, changes: Changes, step: float) -> dict[str, Tensor]:
    """The tensors of the layers so far on their way."""
    return {
        name: tensor for weight, change in changes.items() for name, tensor in _of_layer(beside, weight, change, step)
    }


def _of_layer(beside: Beside, weight: str, change: Change, step: float) -> Iterator[tuple[str, Tensor]]:
    layer, (matrix_change, shift) = beside.layers()[weight], change
    matrix = layer.matrix(beside.student)
    moved = matrix + step * matrix_change.to(matrix)
    yield weight, moved.mT if layer.inputs_first else moved
    if layer.bias is not None and shift is not None:
        bias = own_tensors(beside.student)[layer.bias]
        yield layer.bias, bias + step * shift.to(bias)
