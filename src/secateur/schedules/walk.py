"""A pruning under way: what is kept, the steps so far, and the file that it goes on from; and what comes out of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import nan
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from secateur.calls import training
from secateur.checks import check_whole, is_whole
from secateur.files import MALFORMED, require
from secateur.hints import Checked, as_declared, from_plain
from secateur.progress import bar
from secateur.result import Method, Result
from secateur.schedules.checkpoint import Checkpoint, identify
from secateur.structure.infer import Structure
from secateur.structure.sites import check_same_model
from secateur.types import InputError, Sites

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["PruningLog", "Round", "Schedule", "Step", "Unit", "Walk"]

Unit = tuple[str, int]
"""A site's name, and the number of one of its units (of a single weight: its place in the flattened weight)."""


@dataclass(frozen=True)
class Step:
    """One removal. Two steps are equal when all but their `seconds` are.

    Attributes:
        units: what was removed: sites with numbers of units.
        loss_before, loss: the mean loss before and after, of the data that the schedule was given; nan without any.
        accuracy: after the removal; nan where it is not known.
        labels: what each unit was taken for: ``"worse"``, ``"zero"`` or ``"important"``; empty where nobody asked.
        evaluations: how many losses over all of the data it took to find, those of the removals that were not made
            included.
        seconds: wall-clock time since the step before.
    """

    units: tuple[Unit, ...]
    loss_before: float
    loss: float
    accuracy: float
    labels: tuple[str, ...]
    evaluations: int
    seconds: float = field(compare=False)


@dataclass(frozen=True)
class Round:
    """One training of a schedule that trains a network again and again, each time with less of it.

    Attributes:
        round: counted from 0, the training of the whole network.
        sparsity: the fraction of the units that are gone.
        loss, accuracy: after the training, on the schedule's data; nan without any.
        steps: how many steps the training took.
        stopping_step: the step of the lowest validation loss, where early stopping would have ended it; the steps that
            the training took as done are counted. None without validation data.
        stopping_loss, stopping_accuracy: on the validation data, at that step.
    """

    round: int
    sparsity: float
    loss: float
    accuracy: float
    steps: int
    stopping_step: int | None = None
    stopping_loss: float | None = None
    stopping_accuracy: float | None = None


@dataclass(frozen=True, eq=False)
class PruningLog:
    """How a schedule went: the `history` of its `Result`.

    Attributes:
        steps: the removals, in order.
        loss_before, accuracy_before: of the original model on the schedule's data; nan without any.
        evaluations: how many losses over all of the data the pruning took.
        ending: why it ended, where that was not the goal that it was given.
        rounds: the trainings, of a schedule that trains in rounds; empty of others.
    """

    steps: tuple[Step, ...]
    loss_before: float
    accuracy_before: float
    evaluations: int
    ending: str = ""
    rounds: tuple[Round, ...] = ()

    @property
    def loss(self) -> float:
        """The loss after the last step."""
        return self.steps[-1].loss if self.steps else self.loss_before

    @property
    def accuracy(self) -> float:
        """The accuracy after the last step."""
        return self.steps[-1].accuracy if self.steps else self.accuracy_before

    @property
    def removed(self) -> list[Unit]:
        """All removed units, in the order of their removal."""
        return [unit for step in self.steps for unit in step.units]

    def frame(self) -> DataFrame:
        """Return a pandas table with a row for each removed unit; units of one step share its number and figures."""
        rows = []
        for number, step in enumerate(self.steps, 1):
            figures = {key: value for key, value in asdict(step).items() if key not in {"units", "labels"}}
            for at, (site, unit) in enumerate(step.units):
                label = step.labels[at] if step.labels else None
                rows.append({"step": number, "site": site, "unit": unit, "label": label, **figures})
        return require("pandas", "lab").DataFrame(rows)

    def __repr__(self) -> str:
        return f"PruningLog({len(self.removed)} units removed in {len(self.steps)} steps, loss {self.loss:.4g})"

    def to_dict(self) -> dict[str, Any]:
        """Return the log as plain data that JSON can hold: what is not known is None."""
        return {key: _known(value) for key, value in asdict(self).items()}


def _known(value: Any) -> Any:
    """A value for JSON, which holds no nan."""
    if isinstance(value, dict):
        return {key: _known(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_known(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value


OnStep = Callable[[Step], object]


ROUNDING = 1e-7
"""Relative differences of a mean loss up to this are taken for rounding: that of float32."""


class Schedule(Checked, ABC):
    """When to cut: called with ``(model, sites)``, it returns a `Result`; the model is left as it is."""

    minimum: int

    remembers: ClassVar[Mapping[str, Any]] = {}
    """What it puts into a walk's memory: the type of each value by name; whole numbers there are 0 or more."""

    @training
    def __call__(
        self,
        model: nn.Module,
        sites: Sites,
        *,
        on_step: OnStep | None = None,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> Result:
        """Prune, cut and verify.

        Args:
            model: the model that `sites` were found in; it is left as it is.
            sites: from `channels`, `blocks` or `weights`.
            on_step: called with each `Step` when it is done.
            checkpoint: a file, written after every step; the same call goes on from there, to the same end. Delete it
                to start over.
            progress: draw a bar of the units removed, of all, on standard error.

        Raises:
            InputError: the sites are of another model, or an option does not fit them.
            FileError: the checkpoint is damaged, belongs to another pruning, or cannot be written.
            CutError, VerificationError: see `cut`.
        """
        check_same_model(model, sites)
        sites.check_any("prune")
        sites = self._able(model, sites)
        walk = Walk(model, sites, self.minimum, on_step, self.remembers)
        with bar(len(walk.units), progress, "units removed") as walk.advance:
            if checkpoint is not None:
                walk.checkpoint = Checkpoint(Path(checkpoint), identify(self, model, sites))
                walk.restore()
            return replace(self._prune(walk), method=Method(criterion=repr(self)))

    def _able(self, model: nn.Module, sites: Sites) -> Sites:
        """The sites that may lose units."""
        return sites

    @abstractmethod
    def _prune(self, walk: Walk) -> Result:
        """Remove units from where `walk` is until the end."""


class Walk:
    """A pruning under way.

    Attributes:
        keep: the masks so far.
        steps: the removals so far.
        memory: plain values that a schedule needs to go on, kept in the checkpoint.
        tensors: the same for tensors.
        base: the loss and accuracy of the original model.
        evaluations: losses over all of the data so far.
        advance: called with how many more units are gone.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sites,
        minimum: int,
        on_step: OnStep | None,
        remembers: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        check_whole(
            "a schedule", 0, "the units that every site keeps", minimum=minimum
        )  # of one that does not look itself
        if minimum == 0 and isinstance(sites.structure, Structure):
            raise InputError("minimum=0 would empty a site, and nothing would pass it; channels need 1 or more")
        self.model, self.sites, self.minimum, self.on_step = model, sites, minimum, on_step
        self.keep = {name: torch.ones(site.shape, dtype=torch.bool) for name, site in sites.items()}
        self.left = {name: site.size for name, site in sites.items()}
        self.steps: list[Step] = []
        self.remembers = remembers
        self.memory: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self.base: tuple[float, float] = (nan, nan)
        self.evaluations = 0
        self.checkpoint: Checkpoint | None = None
        self.advance: Callable[[float], None] = lambda units: None
        self._since = perf_counter()

    @property
    def units(self) -> list[Unit]:
        """All units of all sites, removed ones too, in order."""
        return [(name, unit) for name, site in self.sites.items() for unit in range(site.size)]

    @property
    def gone(self) -> int:
        """How many units are removed."""
        return sum(site.size - self.left[name] for name, site in self.sites.items())

    @property
    def loss(self) -> float:
        """The loss now."""
        return self.steps[-1].loss if self.steps else self.base[0]

    def removable(self, unit: Unit) -> bool:
        """Whether the unit is there and its site may lose it."""
        name, number = unit
        return self.left[name] > self.minimum and bool(self.keep[name].view(-1)[number])

    def without(self, units: Iterable[Unit]) -> dict[str, Tensor] | None:
        """The masks without these units too; None where a site would keep fewer than the minimum."""
        keep, numbers = dict(self.keep), dict[str, list[int]]()
        for name, number in units:
            numbers.setdefault(name, []).append(number)
        for name, gone in numbers.items():
            keep[name] = keep[name].clone()
            keep[name].view(-1)[gone] = False
        enough = all(int(site_mask.sum()) >= min(self.minimum, site_mask.numel()) for site_mask in keep.values())
        return keep if enough else None

    def goal(self, sparsity: float) -> int:
        """How many units a fraction of all is."""
        total = sum(site.size for site in self.sites.values())
        most = sum(max(site.size - self.minimum, 0) for site in self.sites.values())
        count = round(sparsity * total)
        if count > most:
            raise InputError(
                f"sparsity {sparsity} would remove {count} of {total} units, but every one of the {len(self.sites)} "
                f"sites keeps at least {self.minimum}; ask for {most / total:.4f} or less"
            )
        return count

    def begin(self, loss: float, accuracy: float) -> None:
        """Note what the original model does."""
        if self.steps:
            self.check(self.base[0], loss)
            return
        self.base = (loss, accuracy)
        self.evaluations += 1

    def check(self, was: float, now: float) -> None:
        """Refuse data on which what a checkpoint was written of has another loss now."""
        if self.checkpoint is not None:
            self.checkpoint.check_data(was, now)

    def worse(self, loss: float, tolerance: float = 0.0) -> bool:
        """Whether a loss is above the one now by more than `tolerance` and what rounding does."""
        return not loss - self.loss <= tolerance + ROUNDING * abs(self.loss)

    def better(self, loss: float, tolerance: float = 0.0) -> bool:
        """Whether a loss is below the one now by more than `tolerance` and what rounding does."""
        return loss - self.loss < -tolerance - ROUNDING * abs(self.loss)

    def remove(
        self,
        units: Sequence[Unit],
        loss: float,
        accuracy: float,
        labels: Sequence[str] = (),
        before: float | None = None,
    ) -> None:
        """Note a removal, and write it down."""
        keep = self.without(units)
        assert keep is not None, "a site would be left with too few units"
        self.keep = keep
        for name, _ in units:
            self.left[name] -= 1
        now, evaluations_before = perf_counter(), sum(step.evaluations for step in self.steps)
        before = self.loss if before is None else before
        evaluations, seconds = self.evaluations - evaluations_before, now - self._since
        self._since = now
        self.steps.append(Step(tuple(units), before, loss, accuracy, tuple(labels), evaluations, seconds))
        if self.checkpoint is not None:
            self.checkpoint.write(self._state(), self.tensors)
        self.advance(len(units))
        if self.on_step is not None:
            self.on_step(self.steps[-1])

    def _state(self) -> dict[str, Any]:
        steps = [asdict(step) for step in self.steps]
        return {"steps": steps, "memory": self.memory, "base": self.base, "evaluations": self.evaluations}

    def restore(self) -> None:
        """Go to where the checkpoint left off; do nothing if there is no such file."""
        assert self.checkpoint is not None
        saved = self.checkpoint.read()
        if saved is None:
            return
        state, self.tensors = saved
        try:
            self._take(state)
        except MALFORMED as error:
            raise self.checkpoint.damaged(error) from error
        self.advance(self.gone)

    def _take(self, state: dict[str, Any]) -> None:
        """Do the steps of a checkpoint again."""
        for record in state["steps"]:
            step = from_plain(Step, record)
            keep = self.without(step.units)
            if keep is None or not all(map(self.removable, step.units)):
                raise ValueError(f"step {len(self.steps) + 1} removes what cannot go")
            self.steps.append(step)
            self.keep = keep
            for name, _ in step.units:
                self.left[name] -= 1
        self.memory = {n: as_declared(n, value, self.remembers.get(n, Any)) for n, value in state["memory"].items()}
        if any(is_whole(value) and value < 0 for value in self.memory.values()):
            raise ValueError(f"a count of {self.memory} is below 0")
        self.evaluations = int(state["evaluations"])
        loss, accuracy = map(float, state["base"])
        self.base = (loss, accuracy)

    def finish(
        self,
        trained: nn.Module | None = None,
        *,
        masked: nn.Module | None = None,
        rounds: Sequence[Round] = (),
    ) -> Result:
        """Cut and verify.

        Args:
            trained: the model that was cut and trained on the way, where there is one.
            masked: the model that was trained on the way with its removed units at zero, and is to be cut.
            rounds: for the log.
        """
        log = PruningLog(tuple(self.steps), *self.base, self.evaluations, rounds=tuple(rounds))
        result = Result.of(self.model, self.sites, self.keep, repaired=masked, history=log)
        return result if trained is None else replace(result, model=trained)
