"""The methods and the options of a comparison of prunings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product

from secateur.criteria import entry
from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json
from secateur.studies.kit import networks
from secateur.studies.kit.making import MOVEMENT
from secateur.studies.kit.parts import UNPRUNED
from secateur.types import InputError

__all__ = ["METHODS", "ONE_SHOT", "OPTIONS", "Pruning", "check_used", "methods_of"]

ONE_SHOT = "one-shot"


@dataclass(frozen=True)
class Pruning:
    """One way of pruning.

    Attributes:
        unit: what is removed: ``channels`` or ``weights``.
        criterion: what scores it, by the library's name or as ``module:Class``; empty where a solver chooses.
        scope: where units compete.
        solver: what finds masks and weights together, by name or as ``module:Class``; empty where a criterion scores.
        schedule: ``one-shot``, ``iterative``, or ``module:Class``.
        steps: in how many steps it goes, where not in one.
        finetune: epochs of fine-tuning after the removal, and with a schedule after each step.
    """

    unit: str = "channels"
    criterion: str = ""
    scope: str = "layer"
    solver: str = ""
    schedule: str = ONE_SHOT
    steps: int = 1
    finetune: int = 0

    @property
    def label(self) -> str:
        """What it is called: what is usual is not said.

        >>> Pruning("weights", "taylor", "global", finetune=2).label
        'taylor weights global, tuned 2 epochs'
        """
        words = [self.criterion or self.solver, *(["weights"] if self.unit == "weights" else [])]
        words += [self.scope] if self.criterion and self.scope != "layer" else []
        label = " ".join(words)
        if self.schedule != ONE_SHOT:
            label += f", {self.schedule} in {self.steps}"
        return label + (f", tuned {self.finetune} epoch{'s' if self.finetune > 1 else ''}" if self.finetune else "")

    @property
    def is_random(self) -> bool:
        """Whether chance chooses, so that it is a control of others."""
        return self.criterion == "random"

    @property
    def rounds(self) -> int:
        """How often it is fine-tuned: once, or after each step of a schedule."""
        return self.steps if self.finetune and self.schedule != ONE_SHOT else min(self.finetune, 1)

    @property
    def unpruned(self) -> str:
        """What the unpruned network is called that was trained as long, and it is held against.

        >>> Pruning("channels", "l2").unpruned, Pruning("channels", "l2", schedule="iterative", steps=4, finetune=2).unpruned
        ('unpruned', 'unpruned, tuned 4 × 2 epochs')
        """
        if not self.finetune:
            return UNPRUNED
        times = f"{self.rounds} × " if self.rounds > 1 else ""
        return f"{UNPRUNED}, tuned {times}{self.finetune} epoch{'s' if self.finetune > 1 else ''}"

    @property
    def parameters(self) -> dict[str, Json]:
        """What of it differs from the usual, as a recipe holds it; `Pruning(**parameters)` is the method again."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Pruning(), name)}


METHODS: dict[str, Pruning] = {
    "weight": Pruning("weights", "magnitude", "global"),
    "weight per layer": Pruning("weights", "magnitude", "layer"),
    "weight random": Pruning("weights", "random", "global"),
    "neuron": Pruning("channels", "magnitude", "global"),
    "neuron per layer": Pruning("channels", "magnitude", "layer"),
    "neuron random": Pruning("channels", "random", "global"),
}
"""The methods that have a name; none of them trains."""

_SPARSITIES = [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99]
_UNITS = ("channels", "weights")
_SCOPES = ("layer", "global")


def _several(name: str, default: Json, help_: str, allowed: tuple[str, ...] = ()) -> Option:
    return Option(name, "text", default, help_, allowed=allowed, many="either", optional=default is None)


OPTIONS = Options(
    (
        *networks.OPTIONS,
        networks.LOSS,
        Option("sparsities", "number", _SPARSITIES, "fractions of the units to remove", 0, 1, many="list"),
        Option("methods", "text", list(METHODS), "prunings to compare", allowed=tuple(METHODS), many="any"),
        Option("minimum", "count", 0, "units that each layer keeps at least"),
        Option("dense", "number", [], "where to train a small network from scratch", 0, 1, many="any"),
        Option("output", "text", "whole", "what happens to the output layer", allowed=("whole", "pruned")),
        _several("criteria", None, "criteria to compare, by name or as module:Class"),
        _several("unit", "channels", "what criteria remove", _UNITS),
        _several("scope", "layer", "where the units that criteria score compete", _SCOPES),
        _several("solver", None, "solvers to compare, by name or as module:Class"),
        _several("schedule", ONE_SHOT, "when criteria remove: one-shot, iterative, or module:Class"),
        Option("steps", "count", 4, "in how many steps a schedule removes", least=1),
        Option(
            "finetune", "count", 0, "epochs of fine-tuning after a removal by criteria, a solver or a schedule's step"
        ),
        Option(
            "shown", "count", 500, "training images that criteria and solvers are shown, drawn by the seed", least=1
        ),
    )
)
"""What a comparison takes."""


def methods_of(settled: Mapping[str, Json]) -> dict[str, Pruning]:
    """Return the methods that the options ask for, by what they are called: those with a name, then the grid.

    >>> asked = dict(OPTIONS) | {"methods": ["neuron"], "criteria": ["l2", "taylor"], "scope": ["layer", "global"]}
    >>> list(methods_of(asked))
    ['neuron', 'l2', 'l2 global', 'taylor', 'taylor global']
    """
    grid = [*_by_criteria(settled), *_by_solvers(settled)]
    return {**{name: METHODS[name] for name in settled["methods"]}, **{method.label: method for method in grid}}


def check_used(study: str, settled: Mapping[str, Json], keys: Iterable[str] | None = None) -> None:
    """Refuse options that change nothing, as the methods are.

    Args:
        study: the study's name.
        settled: its options.
        keys: those that were given; None: those that are not at their defaults.

    Raises:
        InputError: nothing uses one of them; the error says what would.

    >>> check_used("mine", dict(OPTIONS) | {"criteria": ["l2"], "steps": 8})
    Traceback (most recent call last):
    ...
    secateur.types.InputError: study 'mine': steps is 8, but nothing uses it; give a schedule, such as "iterative", or leave it out
    """
    given = set(keys) if keys is not None else {key for key in _USED_BY if settled[key] != OPTIONS[key]}
    methods = methods_of(settled)
    for key, (uses, remedy) in _USED_BY.items():
        if key in given and not any(uses(label, method) for label, method in methods.items()):
            raise InputError(
                f"study {study!r}: {key} is {settled[key]}, but nothing uses it; give {remedy}, or leave it out"
            )


def _looks(label: str, method: Pruning) -> bool:
    """Whether a method may look at training images."""
    if label in METHODS:
        return False
    name = method.criterion or method.solver
    scheduled = ":" in method.schedule
    return bool(method.solver) or scheduled or ":" in name or name == MOVEMENT or entry(name).needs_data


_USED_BY: Mapping[str, tuple[Callable[[str, Pruning], bool], str]] = {
    "steps": (lambda _, method: method.schedule != ONE_SHOT, 'a schedule, such as "iterative"'),
    "schedule": (lambda label, method: label not in METHODS and bool(method.criterion), "criteria"),
    "scope": (lambda label, method: label not in METHODS and bool(method.criterion), "criteria"),
    "unit": (lambda label, method: label not in METHODS and method.solver not in SOLVED, "criteria"),
    "finetune": (lambda label, _: label not in METHODS, "criteria or a solver"),
    "shown": (_looks, "criteria that look at data, or a solver"),
}
"""Option → which methods it changes, and what would give it a use."""


def _by_criteria(settled: Mapping[str, Json]) -> Iterator[Pruning]:
    keys = ("unit", "criteria", "scope", "schedule")
    for unit, criterion, scope, schedule in product(*(_listed(settled[key]) for key in keys)):
        steps = 1 if schedule == ONE_SHOT else settled["steps"]
        yield Pruning(unit, criterion, scope, "", schedule, steps, settled["finetune"])


def _by_solvers(settled: Mapping[str, Json]) -> Iterator[Pruning]:
    for solver in _listed(settled["solver"]):
        units = [SOLVED[solver]] if solver in SOLVED else _listed(settled["unit"])
        for unit in units:
            yield Pruning(unit, "", "layer", solver, finetune=settled["finetune"])


SOLVED: Mapping[str, str] = {
    "sparse-gpt": "weights",
    "structured-obs": "channels",
    "thinet": "channels",
    "wood-fisher": "weights",
}
"""What each solver with a name removes."""


def _listed(value: Json) -> list[str]:
    """One text, or several, or none, as a list."""
    return [] if value is None else [value] if isinstance(value, str) else list(value)
