"""Structured OBS: units by what their removal costs the layers that read them, once those are refitted exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from secateur.calls import usual
from secateur.checks import check_number, check_whole
from secateur.copies import copied
from secateur.criteria.batches import check_batches
from secateur.labelled import Data, batches
from secateur.repair.beside import Beside
from secateur.repair.consumers import check_visible
from secateur.repair.last_layer import fit_last, last_layer, no_last_layer
from secateur.solvers.joint_refit import refit_jointly
from secateur.solvers.output_metrics import output_metrics
from secateur.solvers.refitting import Refitting
from secateur.solvers.solution import Fractions, Solution, Solver, fractions_of, write
from secateur.state import own_tensors
from secateur.structure.consumers import Consumer, consumers_of
from secateur.structure.flow import Flow
from secateur.structure.sites import masked_tensors
from secateur.types import InputError, Sites, unknown_name

__all__ = ["StructuredOBS"]


@dataclass(frozen=True)
class StructuredOBS(Solver):
    """Removes the units that the layers reading them miss least once refitted, one after the other, and refits those.

    The inputs X of a layer are those that it has in the pruned network, its targets Y what it computes in the unpruned
    one. With H = XᵀX and the weights W = H⁻¹XᵀY, the removal of a unit, whose rows are g, adds
    tr(W_gᵀ (H⁻¹_gg)⁻¹ W_g) to the squared error of the refitted layer (Hassibi & Stork, 1992; Frantar & Alistarh, 2022).
    The unit of the least cost goes, W and H⁻¹ are updated by block elimination, and so on (Kurtic et al., 2023, prune
    structures so; Meng et al., 2024, layer by layer on the outputs of the unpruned network). A unit's rows are all that
    it has: the places of a kernel, the pixels of a flattened map. Where several layers read a site their costs are added,
    each as a share of the squares of the layer's outputs about their means. In a classifier errors of outputs count by what
    they do to its probabilities instead (see `secateur.solvers.output_metrics`). Sites are taken in the order in which they are
    read, and layers refitted in their order, each on what the layers before leave. Every site loses the same fraction, or
    its own.

    At the end the last layer of a classifier is fitted so that its probabilities are nearest to the unpruned network's
    (see `secateur.repair.last_layer`): squared errors of scores are not what they cost. Then all layers that lost inputs or
    outputs are fitted to those probabilities together, by least squares on aims that are a Gauss–Newton step away, as long
    as that brings samples nearer which are held out (see `secateur.solvers.joint_refit`).

    It takes about three forward passes of both networks, in a classifier some 5 more a round, and for each layer of d input columns a matrix d × d; above
    4,096 columns a kernel changes within its principal directions alone (see `secateur.equations.COLUMNS`).

    Attributes:
        data: labelled samples; the targets are not used, but for ``last="auto"``.
        ridge: what a change of weights costs, relative to the mean square of the inputs.
        last: ``"kl"`` takes the outputs for a classifier's scores: its last layer is fitted to the probabilities, and errors
            before it count by what they do to those; ``"auto"`` does so where the targets are classes and the scores
            those of a linear layer; None never, so that there are squared errors alone.
        rounds: how often the layers of a classifier are fitted together at the end, at most; 0 for never, as where training
            follows.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: unfit data, an option out of range, sites of single weights, units that no linear layer or convolution
            reads, or that do more than their readers show (see `secateur.repair.repair`).

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> model[0].weight.data, model[1].weight.data = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 1.0]])
    >>> data = (torch.tensor([[1.0], [3.0]]), torch.zeros(2))
    >>> solution = StructuredOBS(data, ridge=1e-9).solve(model, channels(model, torch.zeros(1, 1)), 0.5)
    >>> solution.keep["0"].tolist(), solution.tensors["1.weight"]        # 1 · 1 + 2 · 1 = 2 · 1.5
    ([False, True], tensor([[0.0000, 1.5000]]))
    """

    data: Data = field(repr=False)
    ridge: float = 1e-2
    last: Literal["kl", "auto"] | None = "auto"
    rounds: int = 4
    batch_size: int = 500

    def __post_init__(self) -> None:
        check_batches("StructuredOBS", self.data, self.batch_size)
        check_number(self, "(0, inf)", ridge=self.ridge)
        check_whole("StructuredOBS", 0, rounds=self.rounds)
        if self.last not in ("kl", "auto", None):
            raise unknown_name("last", self.last, ("kl", "auto", "None"))

    def able(self, model: nn.Module, sites: Sites) -> list[str]:
        """Return the sites that it can choose from; `solve` refuses to remove units of others.

        >>> from secateur.structure import channels
        >>> model, x = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 2)), torch.zeros(2, 4)
        >>> sites = channels(model, x)
        >>> [*sites], StructuredOBS((x, torch.zeros(2))).able(model, sites)
        (['0', '2'], ['2'])
        """
        flow = Flow(model, sites)
        layers = consumers_of(*flow.at(next(batches(self.data, self.batch_size, "StructuredOBS")).inputs))
        read = {name for name in sites if any(layer.units(name) is not None for layer in layers)}
        return [name for name in sites if name in read and name not in flow.partial]

    @usual
    def solve(
        self, model: nn.Module, sites: Sites, sparsity: Fractions | None = None, *, pattern: str | None = None
    ) -> Solution:
        """Return masks and weights; one unit of every site stays at least."""
        if sparsity is None or pattern is not None:
            raise InputError("StructuredOBS: give a sparsity (a fraction, or one by site); channels have no pattern")
        fractions = fractions_of(sparsity, sites, "StructuredOBS")
        counts = {name: min(round(fractions[name] * site.size), site.size - 1) for name, site in sites.items()}
        check_visible(model, sites, [name for name, count in counts.items() if count], "StructuredOBS")
        student = copied(model).requires_grad_(False)
        beside = Beside(model, student, sites, {}, self.data, self.batch_size, "StructuredOBS")
        _Classifying(self, beside, counts).run()
        write(student, masked_tensors(student, sites, beside.keep))
        before = own_tensors(model)
        changed = {n: t.detach().clone() for n, t in own_tensors(student).items() if not torch.equal(t, before[n])}
        return Solution({name: beside.keep[name] for name in sites}, changed)


@dataclass(eq=False)
class _Classifying:
    """What is done besides where the outputs are the scores of classes."""

    options: StructuredOBS
    beside: Beside
    counts: Mapping[str, int]

    def run(self) -> None:
        """Fill the masks, and change the student's weights."""
        last = self._last() if any(self.counts.values()) else None
        metrics = output_metrics(self.beside) if last is not None else {}
        Refitting(self.beside, self.counts, self.options.ridge, "StructuredOBS", metrics=metrics).run()
        if last is not None:
            fit_last(self.beside, last)
            refit_jointly(self.beside, self._losing(), self.options.rounds)

    def _losing(self) -> list[str]:
        """The layers that lose inputs or outputs, by their weights."""
        sites = self.beside.sites
        members = {m.parameter for name, count in self.counts.items() if count for m in sites[name].members}
        return [weight for weight in self.beside.layers() if weight in members]

    def _last(self) -> Consumer | None:
        """The layer whose scores are taken for those of classes."""
        if self.options.last is None or not (self.options.last == "kl" or self.beside.classes):
            return None
        layer = last_layer(self.beside)
        if layer is None and self.options.last == "kl":
            raise no_last_layer("StructuredOBS")
        return layer
