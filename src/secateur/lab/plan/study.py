"""What a study is: an ordered list of cells, and the pages that are made of their results.

A study is written as two functions: `cells` says what to compute, `pages` says what to show. Neither knows
how, where, or in how many sittings the cells are run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor

from secateur.checks import check_name
from secateur.lab.plan.options import Options
from secateur.lab.plan.recipe import Json, Recipe, canonical
from secateur.types import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

    from secateur.lab.keep.records import Record
    from secateur.lab.keep.store import Store
    from secateur.lab.show.report import Report

__all__ = ["Cell", "Context", "Needed", "Outcome", "Planned", "Publication", "Resources", "Results", "Study"]


@dataclass(frozen=True)
class Publication:
    """Where a study's experiment was published.

    >>> print(Publication("fathollahi", "M. Fathollahi", 2022, "Comparing performance of two pruning"))
    M. Fathollahi, 2022, Comparing performance of two pruning
    """

    key: str
    author: str
    year: int
    title: str

    def __str__(self) -> str:
        return f"{self.author}, {self.year}, {self.title}"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a cell gives back.

    Attributes:
        metrics: results by name: plain numbers, strings, or lists of numbers (one a class).
        history: one mapping an epoch (or step), oldest first, as `History.to_dicts` gives.
        artefact: tensors to keep for the cells that need this one, such as a state dict.
    """

    metrics: Mapping[str, Json]
    history: Sequence[Mapping[str, Json]] = ()
    artefact: Mapping[str, Tensor] | None = None


class Needed(Protocol):
    """Where a running cell finds what the cells that it needs have left: a `Store`, or what was sent along."""

    def get(self, identity: str, /) -> Record:
        """Return the record of a finished cell."""
        ...

    def artefact(self, identity: str, /) -> dict[str, Tensor]:
        """Return the tensors that a finished cell kept."""
        ...


@dataclass(frozen=True)
class Context:
    """What a running cell may look at: its recipe, and what the cells that it needs have left.

    Attributes:
        recipe: the recipe that is being computed; `context["sparsity"]` is one of its parameters.
        needed: where the results of the cells that it needs are; far from the store, nothing else is there.
        options: the study's options, such as where the data are; what changes a result belongs in the recipe.
        checkpoint: a file that only this cell writes and reads, for what it has done so far (`secateur.fit` takes it): it
            lasts when the cell is killed and goes when the cell is stored; None where there is no such place.
    """

    recipe: Recipe
    needed: Needed
    options: Mapping[str, Json] = field(default_factory=dict)
    checkpoint: Path | None = None

    def __getitem__(self, name: str) -> Json:
        check_name("parameter", name, self.recipe.parameters)
        return self.recipe.parameters[name]

    def record(self, position: int = 0) -> Record:
        """Return the record of the needed cell at `position` in `recipe.needs`."""
        return self.needed.get(self._need(position))

    def artefact(self, position: int = 0) -> dict[str, Tensor]:
        """Return the tensors of the needed cell at `position` in `recipe.needs`."""
        return self.needed.artefact(self._need(position))

    def _need(self, position: int) -> str:
        needs = self.recipe.needs
        if not 0 <= position < len(needs):
            raise InputError(f"cell {self.recipe} needs {len(needs)} cells, so there is none at {position}")
        return needs[position]


@dataclass(frozen=True)
class Resources:
    """What a cell needs of a machine, for executors that choose one (Ray).

    Attributes:
        cpus: processor cores.
        gpus: graphics processors; a part of one lets several cells share it.
        memory: bytes.

    Raises:
        InputError: a negative number.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise InputError(f"a cell cannot need {value} {name}; give 0 or more")

    def __str__(self) -> str:
        words = [f"{self.cpus:g} CPUs", *([f"{self.gpus:g} GPUs"] if self.gpus else [])]
        return ", ".join([*words, *([f"{self.memory / 1e9:g} GB of memory"] if self.memory else [])])


@dataclass(frozen=True, eq=False)
class Cell:
    """One thing to compute: a recipe, the function that computes it, and what it needs of a machine.

    `run` should be a module's function, so that another process can call it; all that it depends on stands in
    the recipe. Torch's global random state is seeded from the recipe's id before each cell.

    Attributes:
        recipe: what is computed.
        run: computes it.
        resources: what it needs of a machine.
        lookup: what the cells that build upon it are looked up by, such as the data set: it decides these already, so
            that they stand in their recipes but take no part in their ids.
    """

    recipe: Recipe
    run: Callable[[Context], Outcome]
    resources: Resources = Resources()
    lookup: Mapping[str, Json] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The recipe's id."""
        return self.recipe.id

    @property
    def needs(self) -> tuple[str, ...]:
        """The ids of the cells that must be finished before this one."""
        return self.recipe.needs

    def then(
        self,
        kind: str,
        run: Callable[[Context], Outcome],
        parameters: Mapping[str, Json],
        *,
        after: Sequence[Cell] = (),
        lookup: Mapping[str, Json] | None = None,
        defaults: Mapping[str, Json] | None = None,
    ) -> Cell:
        """Return a cell of the same study and seed that builds upon this one, and then upon those of `after`.

        Args:
            kind: what sort of cell it is.
            run: computes it.
            parameters: what it is told beside the seed and the lookup.
            after: further cells that it needs, in this order behind this one.
            lookup: what it is looked up by besides.
            defaults: the values at which a parameter takes no part in its id.

        >>> train = Cell(Recipe("toy", "train", {"seed": 0, "data": "digits"}), print, lookup={"data": "digits"})
        >>> cut = train.then("prune", print, {"method": "l1"})
        >>> str(cut.recipe), cut.needs == (train.id,), cut.recipe.defaults
        ('prune seed=0 method=l1 data=digits', True, {'data': 'digits'})
        """
        looked_up = {**self.lookup, **(lookup or {})}
        recipe = Recipe(
            self.recipe.study,
            kind,
            {"seed": self.recipe.seed, **parameters, **looked_up},
            (self.id, *(cell.id for cell in after)),
            {**(defaults or {}), **looked_up},
        )
        return Cell(recipe, run, lookup=looked_up)


@dataclass(frozen=True, eq=False)
class Results:
    """What `pages` is made from.

    Attributes:
        frame: one row a finished cell, in the study's order (`Store.frame`).
        histories: one row an epoch of a finished cell (`Store.histories`).
        options: the study's options.
        store: for the artefacts.
    """

    frame: DataFrame
    histories: DataFrame
    options: Mapping[str, Json]
    store: Store


@dataclass(frozen=True, eq=False)
class Study:
    """A published experiment, or one of one's own: its grid and its pages.

    Attributes:
        name: the short name, which is also its directory's.
        title: the report's title.
        source: where it was published.
        summary: one or two sentences on what is compared with what.
        cells: from the options to the cells, in an order in which a cell comes after those that it needs.
        pages: from the results to the report; it must bear with cells that are not there yet.
        defaults: the options and their default values; as `Options` they are checked.
        best: the metric whose best value the progress shows, with ``"max"`` or ``"min"``; none when None.
        file: the TOML file that describes it, which the command line calls it by; None for a study with a name there.
    """

    name: str
    title: str
    source: Publication | None
    summary: str
    cells: Callable[[Mapping[str, Json]], Sequence[Cell]]
    pages: Callable[[Results], Report]
    defaults: Mapping[str, Json] = field(default_factory=dict)
    best: tuple[str, Literal["max", "min"]] | None = None
    file: Path | None = None

    def settle(self, options: Mapping[str, Json] | None = None) -> dict[str, Json]:
        """Return the defaults with `options` in their place.

        Raises:
            UnknownNameError: the study has no such option, or a value is an unknown name.
            InputError: a value is of the wrong kind or out of range (where `defaults` are `Options`).
        """
        for name in options or {}:
            check_name(f"option of study {self.name!r}", name, self.defaults)
        if isinstance(self.defaults, Options):
            self.defaults.check(f"study {self.name!r}", options or {})
        return {**self.defaults, **(options or {})}

    def planned(self, options: Mapping[str, Json] | None = None) -> Planned:
        """Return the study with its options settled and its cells planned and checked: no two alike, none before its needs.

        Raises:
            UnknownNameError, InputError: an option is wrong; as `settle`.
            InputError: the list is empty, repeats a cell, or has one before what it needs.
        """
        settled = self.settle(options)
        cells = list(self.cells(settled))
        if not cells:
            raise InputError(f"study {self.name!r} has no cells with options {canonical(options or {})}")
        earlier: set[str] = set()
        for cell in cells:
            if cell.id in earlier:
                raise InputError(f"study {self.name!r} lists the cell {cell.recipe} twice; drop one")
            for need in cell.needs:
                if need not in earlier:
                    raise InputError(
                        f"study {self.name!r}: cell {cell.recipe} needs {need}, which no earlier cell makes"
                    )
            earlier.add(cell.id)
        return Planned(self, settled, tuple(cells))

    def plan(self, options: Mapping[str, Json] | None = None) -> list[Cell]:
        """Return the cells of `planned`."""
        return list(self.planned(options).cells)

    def results(self, store: Store, options: Mapping[str, Json] | None = None) -> Results:
        """Return what the store holds of the cells that these options ask for."""
        return self.planned(options).results(store)


@dataclass(frozen=True, eq=False)
class Planned:
    """A study that was planned once, for everything that is done with it then: running it, its report.

    Attributes:
        study: the study.
        options: all of its options, settled.
        cells: what to compute, each after those that it needs.
    """

    study: Study
    options: Mapping[str, Json]
    cells: Sequence[Cell]

    @classmethod
    def of(cls, study: Study | Planned, options: Mapping[str, Json] | None = None) -> Planned:
        """Return a study planned with these options; one that is planned already as it is.

        Raises:
            InputError: it is planned already, and there are options again.
        """
        if isinstance(study, Study):
            return study.planned(options)
        if options is not None:
            raise InputError(f"study {study.study.name!r} is planned with its options; give them to `Study.planned`")
        return study

    def results(self, store: Store) -> Results:
        """Return what a store holds of the cells."""
        ids = [cell.id for cell in self.cells]
        return Results(store.frame(ids), store.histories(ids), self.options, store)
