"""What is done to each block on a walk: units cut out and what reads them refitted, or single weights set to zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from secateur.checks import check_fraction, check_name, check_number
from secateur.criteria import by_name, names
from secateur.criteria.base import scores_of
from secateur.labelled import SampleBatch
from secateur.repair.beside import Beside
from secateur.selection import select
from secateur.selection.patterns import parse_pattern
from secateur.solvers.refitting import Choose, Refitting, by_elimination, by_fluctuation, by_output
from secateur.solvers.solution import Solver, write
from secateur.stream.slots import PREFIX, Slot
from secateur.structure import weights
from secateur.structure.flow import Flow
from secateur.structure.sites import masked_tensors
from secateur.types import Criterion, InputError, Sites, unknown_name

__all__ = ["BlockStep", "CutUnits", "MakeCriterion", "MakeSolver", "Repair", "SparsifyWeights", "Stage"]

MakeCriterion = Callable[[Any], Criterion]
"""From samples to a criterion that looks at them, as the class `secateur.criteria.Wanda` is."""

MakeSolver = Callable[[Any], Solver]
"""From samples to a solver, as the class `secateur.solvers.SparseGPT` is."""

ORDERS: Mapping[str, Choose] = {
    "output-norm": by_output,
    "elimination": by_elimination,
    "fluctuation": by_fluctuation,
}
"""The orders that look at what the readers of units make of them on the walk, and not at a block by itself."""

Repair = Literal["stream", "layer", "bias"]


@dataclass(frozen=True, eq=False)
class Stage:
    """One block on a walk, with what enters it.

    Attributes:
        teacher: the block of the uncut model.
        student: that of the cut model, which a step changes; it begins with the same weights.
        sites: of both.
        flow: the traced block.
        dense: what enters the teacher, batch by batch: the activations of the uncut model.
        pruned: what enters the student: those of the model whose blocks before this one are cut.
    """

    teacher: Slot
    student: Slot
    sites: Sites
    flow: Flow
    dense: list[SampleBatch]
    pruned: list[SampleBatch]

    def beside(self, keep: dict[str, Any], *, stream: bool) -> Beside:
        """Return both passes side by side, with the units of the student that are gone."""
        return Beside(
            self.teacher,
            self.student,
            self.sites,
            keep,
            self.dense,
            1,
            "walk",
            pruned_data=self.pruned,
            stream=stream,
            flow=self.flow,
        )


class BlockStep(Protocol):
    """What is done to each block."""

    def __call__(self, stage: Stage) -> Beside:
        """Change the student; return both passes with the masks of its units, not yet at their end."""
        ...


@dataclass(frozen=True)
class CutUnits:
    """Cuts a fraction of the units of every block, and refits what reads them.

    Units of ``"output-norm"`` go by what they add to their readers' outputs on the activations of the cut model (for a neuron
    of an MLP its activations' root mean square times the norm of its column of the down-projection); those of
    ``"elimination"`` one after the other by what that costs once the readers are refitted (as `secateur.solvers.StructuredOBS`
    does); those of ``"fluctuation"`` by how much their part in those outputs varies about its mean (FLAP: An et al., 2024), as
    suits the repair ``"bias"``. Any criterion of `secateur.criteria` scores the block by itself, on what enters it.

    With ``repair="stream"`` a layer that lost inputs and writes into the residual stream gets the weights that bring the stream
    nearest to the uncut model's, by least squares in which each change from the old weights has its price; so it makes up for
    what blocks before have lost, too. ``"layer"`` aims at what the layer makes in the uncut model. ``"bias"`` keeps its weights,
    and gives it the bias with which its outputs have the mean that they had; layers without biases refuse it. None leaves all
    weights as they are.

    Attributes:
        sparsity: the fraction of every MLP's neurons that goes; or fractions by unit (``{"neuron": 0.25, "head": 1 / 3}``)
            or by a site's name in its block.
        criterion: ``"output-norm"``, ``"elimination"``, ``"fluctuation"``, the name of a criterion, or what makes one from samples.
        repair: see above.
        ridge: what a change of weights costs, relative to the mean square of the inputs.

    Raises:
        UnknownNameError: a criterion or a repair of no known name.
        InputError: an option out of range, or no block has such units.
    """

    sparsity: float | Mapping[str, float] = 0.25
    criterion: str | MakeCriterion = "output-norm"
    repair: Repair | None = None
    ridge: float = 1e-2

    def __post_init__(self) -> None:
        check_number("CutUnits", "[0, inf)", ridge=self.ridge)
        for fraction in self.fractions.values():
            check_fraction("CutUnits", sparsity=fraction)
        if isinstance(self.criterion, str):
            check_name("criterion of CutUnits", self.criterion, sorted({*ORDERS, *names()}))
        if self.repair is not None:
            check_name("repair of CutUnits", self.repair, ("stream", "layer", "bias"))

    @property
    def fractions(self) -> Mapping[str, float]:
        """The fractions by unit or site."""
        return self.sparsity if isinstance(self.sparsity, Mapping) else {"neuron": self.sparsity}

    def scaled(self, factor: float) -> CutUnits:
        """Return the step with all fractions multiplied.

        >>> CutUnits({"neuron": 0.5, "head": 0.25}).scaled(0.5).sparsity
        {'neuron': 0.25, 'head': 0.125}
        """
        return replace(self, sparsity={name: min(factor * share, 1.0) for name, share in self.fractions.items()})

    def __call__(self, stage: Stage) -> Beside:
        """Change the student; return both passes with the masks of its units."""
        counts = self.counts(stage.sites)
        keep = {} if self.criterion in ORDERS else self._scored(stage, counts)
        beside = stage.beside(keep, stream=self.repair == "stream")
        choose = ORDERS.get(self.criterion, by_output) if isinstance(self.criterion, str) else by_output
        refits: Any = {None: None, "bias": "bias"}.get(self.repair, "weights")
        Refitting(beside, counts, self.ridge, "walk", choose=choose, refits=refits).run()
        return beside

    def counts(self, sites: Sites) -> dict[str, int]:
        """Return how many units of each site of a block go; at least one stays.

        Raises:
            UnknownNameError: no block has such a unit or site.
        """
        counts = dict.fromkeys(sites, 0)
        for wanted, fraction in self.fractions.items():
            names = sites_of(sites, wanted)
            if not names:
                units = sorted({site.unit for site in sites.values()})
                raise unknown_name(
                    "unit or site of a block", wanted, [*units, *(n.removeprefix(PREFIX) for n in sites)]
                )
            for name in names:
                size = sites[name].size
                counts[name] = min(round(fraction * size), size - 1)
        return counts

    def _scored(self, stage: Stage, counts: Mapping[str, int]) -> dict[str, Any]:
        """The masks by a criterion that looks at the student alone."""
        cut_sites = {name: site for name, site in stage.sites.items() if counts[name]}
        sites = Sites(cut_sites, stage.sites.frozen, stage.sites.structure)
        scores = scores_of(_criterion(self.criterion, stage.pruned), stage.student, sites, "walk")
        fractions = {name: counts[name] / site.size for name, site in sites.items()}
        return select(scores, fractions, scope="layer")


def sites_of(sites: Sites, wanted: str) -> list[str]:
    """Return the sites of a block that a name or the word for a unit stands for.

    Of several sites of heads at one layer (query groups with all of their heads, and heads inside of the groups) it is the
    first: whole groups, so that all heads have as many.
    """
    if PREFIX + wanted in sites:
        return [PREFIX + wanted]
    named = [name for name, site in sites.items() if site.unit == wanted]
    return [name for name in named if ":" not in name or name.partition(":")[0] not in named]


def _criterion(criterion: str | MakeCriterion, data: list[SampleBatch]) -> Criterion:
    return by_name(criterion, data) if isinstance(criterion, str) else criterion(data)


@dataclass(frozen=True)
class SparsifyWeights:
    """Sets single weights of every block's matrices to zero; nothing gets smaller.

    Attributes:
        sparsity: the fraction of each matrix that goes, in each row by itself (Sun et al., 2024); a solver does as it does.
        by: the name of a criterion (``"wanda"``, ``"l2"``), or what makes a criterion or a solver from samples
            (`secateur.solvers.SparseGPT`).
        pattern: instead of `sparsity`, N of every M weights stay, such as ``"2:4"``.
    """

    sparsity: float | None = 0.5
    by: str | MakeCriterion | MakeSolver = "wanda"
    pattern: str | None = None

    def __post_init__(self) -> None:
        if (self.sparsity is None) == (self.pattern is None):
            raise InputError("SparsifyWeights: give either a sparsity or a pattern (sparsity=None, pattern='2:4')")
        if self.sparsity is not None:
            check_fraction("SparsifyWeights", sparsity=self.sparsity)
        if self.pattern is not None:
            parse_pattern(self.pattern)
        if isinstance(self.by, str):
            check_name("criterion of SparsifyWeights", self.by, names())

    def __call__(self, stage: Stage) -> Beside:
        """Change the student; return both passes."""
        student = stage.student
        sites = weights(student)
        method: Any = _criterion(self.by, stage.pruned)  # type: ignore[arg-type]
        if isinstance(method, Solver):
            write(student, method.solve(student, sites, self.sparsity, pattern=self.pattern).tensors)
        else:
            scores = scores_of(method, student, sites, "walk")
            rule: dict[str, Any] = (
                {"pattern": self.pattern} if self.pattern else {"sparsity": self.sparsity, "scope": "row"}
            )
            write(student, masked_tensors(student, sites, select(scores, **rule)))
        return stage.beside({}, stream=False)
