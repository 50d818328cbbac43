"""What a pruning removed, what it left, and what it took: as data, and as a text for a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from secateur.result.change import OutputChange
from secateur.result.joint import JointCut
from secateur.result.layers import LayerReport
from secateur.structure.accepted import Shapes, span_in_words
from secateur.types import in_groups, some_of

__all__ = ["UNREPAIRED", "Method", "PruneReport", "SiteReport"]


@dataclass(frozen=True)
class Method:
    """How the units that go were chosen, for the report.

    Attributes:
        criterion: what scored, or what decided in its place.
        scope: where units competed; None where that says nothing.
        sparsity: the fraction asked for, or one by site; None where another rule decided.
        rule: that rule: cumulative, pattern, block, budget.
        repair: what was repaired without training, in the order of doing.
        loss: what the criterion took for the loss, where one was asked for.
        rounding: to which multiples what each site keeps was rounded, in words.
        warnings: what may not be as it was meant, such as a site whose units all had the same score.
        joint: what the cut did to the loss beside what the scores foretold; None where they are no changes of the loss.
    """

    criterion: str = "hand"
    scope: str | None = None
    sparsity: float | Mapping[str, float] | None = None
    rule: Mapping[str, Any] = field(default_factory=dict)
    repair: tuple[str, ...] = ()
    loss: str | None = None
    rounding: str = ""
    warnings: tuple[str, ...] = ()
    joint: JointCut | None = None


UNREPAIRED = "not repaired from the data"
"""How the warning begins that a repair could not be done."""

NEARLY_EMPTY = 0.1
"""A site that keeps this fraction of its units, or less, is warned of."""

APART = 0.1
"""How far the share of the parameters may be from what that of the units leads to expect before it is said."""

NOT_FASTER = 1.02
"""A cut model that is not so many times as fast as the unpruned one is not faster."""

FELT = 0.5
"""The speedup should be the ratio of the multiply-accumulates to at least this power: 1.41 where half of them are gone."""

WORTH_TIMING = 1_000_000
"""With fewer multiply-accumulates a model's time is that of calling it."""


@dataclass(frozen=True)
class SiteReport:
    """How many units a site had and has."""

    name: str
    units: int
    kept: int

    @property
    def share(self) -> float:
        """The fraction of its units that a site keeps."""
        return self.kept / self.units


@dataclass(frozen=True)
class PruneReport:
    """What a pruning removed, what it left, and what it took.

    Attributes:
        unit: ``"channels"`` (cut out), ``"blocks"`` (left out), ``"weights"`` (set to zero), or ``"layers"`` where no units
            went, but layers were put in another form.
        criterion, scope, sparsity: how they were chosen; no scope and no sparsity where something else decided.
        units_removed, units: how many of how many units went.
        parameters, nonzero, macs, bytes: before and after; MACs for the example inputs (None without any), bytes of a safetensors file,
            or of the tensors alone where no such file can hold one of them.
        latency: median seconds of a forward pass before and after, in turns, in `runtime`; None if not asked.
        difference: the greatest relative difference between the cut and the masked model's outputs on the example; None
            for weights.
        verified: what else was compared, and how far it was apart.
        form: ``"module"`` (of the model's own class), or ``"graph"`` (a `torch.fx.GraphModule`: see `cut`).
        shapes: the shapes of the inputs that a graph takes: None for a size that may be any, two numbers for one from and to.
        conditions: what must be true of those sizes besides, and of the circumstances of a call.
        eval_only: why a graph runs in eval mode alone; empty where it runs in train mode, too.
        sites: the units of every site.
        frozen: what could not be pruned, with the reason.
        versions: what it was done with.
        rule: how units were chosen where it was not by sparsity: cumulative, pattern, block, budget.
        repair: what was repaired without training, in the order of doing.
        loss: what the criterion took for the loss, where one was asked for.
        warnings: what may not be as it was meant, such as a site whose units all had the same score.
        runtime: where the latency was measured.
        rounding: to which multiples what each site keeps was rounded, in words; empty if it was not.
        change: how far the outputs are from the unpruned model's; None if not compared.
        joint: what the cut did to the loss beside what the scores foretold; None where they are no changes of the loss.
        layers: what became of each layer that was put in another form.
    """

    unit: str
    criterion: str
    scope: str | None
    sparsity: float | Mapping[str, float] | None
    units_removed: int
    units: int
    parameters: tuple[int, int]
    nonzero: tuple[int, int]
    macs: tuple[int, int] | None
    bytes: tuple[int, int]
    latency: tuple[float, float] | None
    difference: float | None
    verified: str = ""
    form: str = "module"
    shapes: Shapes = ()
    conditions: tuple[str, ...] = ()
    eval_only: str = ""
    sites: tuple[SiteReport, ...] = ()
    frozen: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    rule: Mapping[str, Any] = field(default_factory=dict)
    repair: tuple[str, ...] = ()
    loss: str | None = None
    warnings: tuple[str, ...] = ()
    runtime: str = "eager"
    rounding: str = ""
    change: OutputChange | None = None
    joint: JointCut | None = None
    layers: tuple[LayerReport, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data that JSON can hold."""
        return {**asdict(self), "nearly_empty": [asdict(site) for site in self.nearly_empty]}

    @property
    def nearly_empty(self) -> tuple[SiteReport, ...]:
        """The sites that keep a tenth of their units or less, those that keep the least first."""
        return tuple(sorted((site for site in self.sites if site.share <= NEARLY_EMPTY), key=lambda site: site.share))

    @property
    def headline(self) -> str:
        """How many units went, or layers changed, and by what, in a line."""
        if not self.units and self.layers:
            return f"{len(self.layers):,} layers changed by {self.criterion}"
        if not self.units_removed:
            return f"nothing removed: all {self.units:,} units are kept"
        return (
            f"{self.units_removed:,} of {self.units:,} units removed ({self.units_removed / self.units:.1%}): "
            f"{self.unit} by {self.criterion}" + (f", {self.scope}" if self.scope else "")
        )

    def __str__(self) -> str:
        rows = [
            self.headline,
            _change("parameters", *self.parameters),
            _change("non-zero", *self.nonzero),
            *([_change("MACs", *self.macs)] if self.macs else []),
            _change("bytes", *self.bytes),
        ]
        if self.latency:
            before, after = (1000 * s for s in self.latency)
            rows.append(
                f"{'latency':<11}{before:>14.3f} → {after:>14.3f} ms  (speedup {before / after:.2f}× in {self.runtime})"
            )
        if self.verified:
            rows.append(f"verified: {self.verified}")
        return "\n".join([*rows, *self._notes()])

    def _notes(self) -> list[str]:
        """What a reader of the numbers should know."""
        notes = [
            *_warning(self.nearly_empty),
            *self._beyond_recognition(),
            *self._not_additive(),
            *(f"WARNING: {text}" for text in self.warnings),
            *self._slow(),
            *self._parting(),
            *map(str, self.layers),
        ]
        if self.rounding:
            notes.append(f"rounded {self.rounding}")
        if self.repair:
            notes.append(f"repaired without training: {', '.join(self.repair)}")
        if self.form == "graph":
            notes.append(f"form: a graph (torch.fx.GraphModule), on inputs of {_shapes(self.shapes, self.conditions)}")
            notes += [f"the graph is for inference: {self.eval_only}"] if self.eval_only else []
        if self.unit == "weights":
            notes.append("zeros are not cut out: the shapes stay, so the model is neither smaller nor faster")
        if self.frozen:
            notes.append(f"left whole: {in_groups(self.frozen)}")
        return notes

    def _beyond_recognition(self) -> list[str]:
        """Say so where the smaller model answers something else."""
        if self.change is None or not self.change.is_beyond_recognition:
            return []
        return [f"WARNING: {self.change}: hardly recognisable; {self._restoring()}train it back, or remove less"]

    def _restoring(self) -> str:
        """What else than training brings the answers back: nothing where it was done, or could not be."""
        if self.repair or any(text.startswith(UNREPAIRED) for text in self.warnings):
            return ""
        if self.change is not None and self.change.inputs == "data":
            return 'repair it from the data (repair="least-squares"), '
        return "give data= to score and repair with, "

    def _not_additive(self) -> list[str]:
        """Say what the joint cut did to the loss, and so that nobody misses it where that is far from what was foretold."""
        if self.joint is None:
            return []
        if not self.joint.is_far_worse:
            return [str(self.joint)]
        remedy = (
            "units that make up for each other do not add up; cut in steps (secateur.schedules.Iterative), or score "
        )
        return [f"WARNING: {self.joint}: {remedy}jointly (joint-loss-change)"]

    def _slow(self) -> list[str]:
        """Say so where the multiply-accumulates that went are not felt in the runtime, and what may help."""
        if self.latency is None or self.macs is None or self.macs[0] < WORTH_TIMING or not self.macs[1]:
            return []
        speedup, fewer = self.latency[0] / self.latency[1], self.macs[0] / self.macs[1]
        if fewer < 1 + APART or speedup >= fewer**FELT:
            return []
        figures = f"{speedup:.2f}× as fast in {self.runtime} with {1 - 1 / fewer:.0%} fewer MACs; {self._remedy()}"
        slow = "WARNING: the cut is not faster" if speedup < NOT_FASTER else "note: the cut is slower than it should be"
        return [f"{slow}: {figures}"]

    def _remedy(self) -> str:
        if not self.rounding:
            return 'keep multiples that the runtime likes (round_to="auto", or 8), as a channel more may be faster'
        if self.runtime.startswith("eager"):
            return 'eager PyTorch spends much on other things than MACs: time it where it will run, as in runtime="onnxruntime"'
        return "time a larger batch, or another runtime"

    def _parting(self) -> list[str]:
        """Say so where the share of the parameters that went is not what the share of the units leads to expect.

        With the fraction u of the units of every layer, a weight that loses outputs alone loses u, one that loses inputs
        too 1 − (1 − u)².
        """
        if not self.units or self.layers:
            return []
        units, parameters = self.units_removed / self.units, 1 - self.parameters[1] / max(self.parameters[0], 1)
        if self.unit == "weights" or units - APART <= parameters <= 1 - (1 - units) ** 2 + APART:
            return []
        return [
            f"note: {parameters:.0%} of the parameters went with {units:.0%} of the units, as units are not of one size: "
            "wide layers lost another share than narrow ones, or several sites make up one axis and multiply"
        ]


def _shapes(shapes: Shapes, conditions: tuple[str, ...]) -> str:
    """The shapes that a graph takes, in words.

    >>> _shapes(((None, 12), ((1, 16), 12)), ()), _shapes(((None, 3, 8, 8),), ("inputs[0].shape[0] % 2 == 0",))
    ('shapes (any, 12) and (up to 16, 12)', 'shape (any, 3, 8, 8) with inputs[0].shape[0] % 2 == 0')
    """
    words = [f"({', '.join(map(span_in_words, shape))})" for shape in shapes]
    where = f" with {' and '.join(conditions)}" if conditions else ""
    return f"shape{'s' if len(words) > 1 else ''} {' and '.join(words)}{where}"


def _warning(sites: tuple[SiteReport, ...]) -> list[str]:
    """The line about sites of which hardly anything is left.

    >>> _warning((SiteReport("conv1", 64, 1), SiteReport("conv2", 64, 6)))
    ['WARNING: 2 sites keep 10 % of the units or less: conv1 (1 of 64), conv2 (6 of 64)']
    """
    if not sites:
        return []
    count = f"{len(sites)} sites keep" if len(sites) > 1 else "1 site keeps"
    least = some_of([f"{site.name} ({site.kept} of {site.units})" for site in sites])
    return [f"WARNING: {count} {100 * NEARLY_EMPTY:g} % of the units or less: {least}"]


def _change(quantity: str, before: int, after: int) -> str:
    share = f"{1 - after / before:.1%} removed" if before else "none"
    return f"{quantity:<11}{before:>14,} → {after:>14,}     ({share})"
