"""What all searches share: one call, a budget, a history, and a state on disk from which a killed search goes on."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as dump_arrays

from secateur.calls import usual
from secateur.checks import check_number, check_whole, in_one_line, is_number
from secateur.files import MALFORMED, from_json, in_order, read_tensors, write_bytes
from secateur.hints import Checked
from secateur.progress import bar
from secateur.result import Method, Result
from secateur.search.fitness import FitnessLike, Rating
from secateur.search.result import Generation, SearchLog
from secateur.search.space import Genes, Offsets, Space
from secateur.state import digest, tensors
from secateur.types import FileError

__all__ = ["Arrays", "Search", "SearchRun"]

Arrays = dict[str, NDArray[Any]]
"""All that a search carries from one step to the next."""


@dataclass(eq=False)
class SearchRun:
    """A search while it runs.

    Attributes:
        fitness: what is maximised.
        space: what is searched.
        rng: the only source of chance.
        budget: evaluations that may be spent.
        spent: evaluations that were.
        history: the generations so far.
    """

    fitness: FitnessLike
    space: Space
    rng: np.random.Generator
    budget: float
    genes: Genes
    offsets: Offsets | None
    spent: float = 0.0
    best: tuple[float, float, float] = (0.0, 0.0, 0.0)
    history: list[Generation] = field(default_factory=list)

    def affordable(self, candidates: int) -> int:
        """Return how many candidates can still be rated, at most `candidates`."""
        if self.fitness.cost <= 0:
            return candidates
        return max(0, min(candidates, int((self.budget - self.spent) / self.fitness.cost + 1e-9)))

    def rate(self, genes: Genes, offsets: Offsets | None = None, free: NDArray[np.bool_] | None = None) -> Rating:
        """Rate candidates, remember the best, and count what it cost; those beyond the budget are worth −inf.

        Args:
            genes: ``(candidates, units)``.
            offsets: ``(candidates, biases)``, or None.
            free: candidates that are counted, but need not be rated: theirs is rated −inf here and known to the caller.
        """
        count = self.affordable(len(genes))
        to_rate = np.arange(len(genes)) < count
        if free is not None:
            to_rate &= ~free
        lost = np.full(len(genes), -np.inf)
        rating = Rating(lost, lost.copy(), lost.copy(), np.zeros(len(genes), dtype=np.bool_))
        if to_rate.any():
            shifts = None if offsets is None else offsets[to_rate]
            part_rating = self.fitness(genes[to_rate], shifts)
            for name in ("fitness", "accuracy", "compression", "exact"):
                getattr(rating, name)[to_rate] = getattr(part_rating, name)
            self._remember(genes, offsets, rating)
        self.spent += count * self.fitness.cost
        return rating

    def _remember(self, genes: Genes, offsets: Offsets | None, rating: Rating) -> None:
        sure = np.where(rating.exact, rating.fitness, -np.inf)
        n = int(np.argmax(sure))
        if sure[n] > self.best[0]:
            self.best = (float(sure[n]), float(rating.accuracy[n]), float(rating.compression[n]))
            self.genes, self.offsets = genes[n].copy(), None if offsets is None else offsets[n].copy()

    def record(self, rating: Rating, parents: NDArray[np.int64] | None = None) -> None:
        """Add a generation to the history."""
        parent_numbers = np.full((len(rating), 2), -1, dtype=np.int64) if parents is None else parents
        self.history.append(Generation(rating, parent_numbers, self.spent))

    @property
    def over(self) -> bool:
        """Whether nothing more can be rated."""
        return self.affordable(1) == 0


@dataclass(frozen=True)
class Search(Checked, ABC):
    """A search for keep masks: a frozen value that is called with a fitness, a space, a budget and a seed.

    A new one writes `begin` and `step`; what it carries from step to step is arrays, so that a state can be kept.
    """

    @usual
    def __call__(
        self,
        fitness: FitnessLike,
        space: Space,
        budget: float = 1050,
        seed: int = 0,
        *,
        state: str | Path | None = None,
        progress: bool = False,
    ) -> Result:
        """Search, and return the best candidate met; the unpruned model is a candidate, so it is never worse.

        Args:
            fitness: a `Fitness` on this space, or what stands for it.
            space: what is searched.
            budget: candidates that may be rated on all data; rating on a tenth of them costs a tenth.
            seed: of all chance; the same seed gives the same result.
            state: a file that is written after every step. The same call takes a killed search up from it and ends
                with the same result.
            progress: draw a bar of what is spent of the budget on standard error.

        Raises:
            InputError: the budget is below 1.
            FileError: the state is damaged, or belongs to another search.
        """
        check_number(self, "[1, inf)", "evaluations", budget=budget)
        check_whole(self, 0, seed=seed)
        offsets = np.zeros(space.bias_size) if space.biases else None
        run = SearchRun(
            fitness, space, np.random.default_rng(seed), budget, np.ones(space.size, dtype=np.bool_), offsets
        )
        path = None if state is None else Path(state)
        identity = self._identity(run, seed) if path is not None else ""
        arrays = None if path is None else _resume(path, run, identity)
        with bar(budget, progress, "evaluations") as advance:
            if arrays is None:
                arrays = self._moved(self.begin(run), path, run, identity)
            advance(before := run.spent)
            while not run.over and "done" not in arrays:
                arrays = self._moved(self.step(run, arrays), path, run, identity)
                advance(run.spent - before)
                before = run.spent
        log = SearchLog(run.genes, run.offsets, *run.best, run.spent, tuple(run.history), arrays.get("genes"))
        return _result(space, log, Method(criterion=repr(self)))

    @abstractmethod
    def begin(self, run: SearchRun) -> Arrays:
        """Rate the first candidates, and return what the first step takes."""

    @abstractmethod
    def step(self, run: SearchRun, arrays: Arrays) -> Arrays:
        """Go one step, and return what the next one takes; with an array ``done`` in it, the search is over."""

    def _moved(self, arrays: Arrays, path: Path | None, run: SearchRun, identity: str) -> Arrays:
        if path is not None:
            _save(path, run, arrays, identity)
        return arrays

    def _identity(self, run: SearchRun, seed: int) -> str:
        """What must be the same for a state to be taken up: the search, what it searches, on which data."""
        sites = ", ".join(f"{name}{site.shape}" for name, site in run.space.sites.items())
        start = run.fitness(np.stack([run.genes, run.rng.random(run.space.size) < 0.5]))
        run.rng = np.random.default_rng(seed)
        settings = f"{self!r} {getattr(self, 'parts', ())} {seed} {run.budget} {sites} {run.space.biases} {start.fitness.tolist()}"
        return digest(tensors(run.space.model).items(), settings)


def _result(space: Space, log: SearchLog, method: Method) -> Result:
    """The smaller model that the best candidate stands for.

    Channels are cut out; where a candidate empties a layer, nothing would pass it, and there are only zeros.
    """
    keep, repaired = space.keep(log.genes), space.shifted(log.offsets)
    empties = any(site.kind == "channel" and not bool(keep[name].any()) for name, site in space.sites.items())
    make = Result.masked if empties else Result.of
    return make(space.model, space.sites, keep, repaired=repaired, method=method, history=log)


RATED = tuple(f.name for f in fields(Rating))


def _save(path: Path, run: SearchRun, arrays: Arrays, identity: str) -> None:
    state_arrays: Arrays = {f"search.{name}": np.ascontiguousarray(value) for name, value in arrays.items()}
    state_arrays["best.genes"] = run.genes
    if run.offsets is not None:
        state_arrays["best.offsets"] = run.offsets
    for name in RATED:
        state_arrays[f"history.{name}"] = np.concatenate(
            [getattr(g.rating, name) for g in run.history] or [np.zeros(0)]
        )
    state_arrays["history.parents"] = np.concatenate(
        [g.parents for g in run.history] or [np.zeros((0, 2), dtype=np.int64)]
    )
    plain = {
        "identity": identity,
        "rng": run.rng.bit_generator.state,
        "spent": run.spent,
        "best": run.best,
        "generations": [(len(g.rating), g.spent) for g in run.history],
    }
    record = json.dumps(plain)
    header = {"secateur-search": record, "seal": _seal(state_arrays, record)}
    write_bytes(path, in_order(dump_arrays(state_arrays, metadata=header)))


def _resume(path: Path, run: SearchRun, identity: str) -> Arrays | None:
    """Set the run to what the file holds, and return what the next step takes; None where there is no file."""
    if not path.exists():
        return None
    try:
        header, state_arrays = read_tensors(path, "np")
        plain = from_json(header["secateur-search"])
        if header["seal"] != _seal(state_arrays, header["secateur-search"]):
            raise ValueError("its contents do not match its checksum")
        if plain["identity"] != identity:
            raise FileError(
                f"{path} is the state of another search (other settings, seed, budget, model or data); give another path, "
                "or delete it to start anew"
            )
        return _taken(run, plain, state_arrays)
    except (OSError, *MALFORMED) as error:
        raise FileError(
            f"{path} is not a whole state of a search ({in_one_line(error)}); delete it to start anew"
        ) from error


def _taken(run: SearchRun, plain: Mapping[str, Any], state_arrays: Arrays) -> Arrays:
    """Set the run to a state, and return what the next step takes."""
    genes = state_arrays["best.genes"]
    if genes.shape != run.genes.shape or genes.dtype != run.genes.dtype:
        raise ValueError(f"its best candidate is of {genes.shape} {genes.dtype}, not of {run.genes.shape} bool")
    run.rng.bit_generator.state = plain["rng"]
    budget_spent, best = plain["spent"], tuple(plain["best"])
    if not all(map(is_number, (budget_spent, *best))):
        raise ValueError("its evaluations or its best rating are no numbers")
    if len(best) != len(run.best) or not 0 <= budget_spent < inf:
        raise ValueError(f"its evaluations are {budget_spent}, and its best rating has {len(best)} numbers")
    run.spent, run.best = budget_spent, best
    run.genes, run.offsets = state_arrays["best.genes"], state_arrays.get("best.offsets")
    run.history = _history(state_arrays, plain["generations"])
    return {name.removeprefix("search."): value for name, value in state_arrays.items() if name.startswith("search.")}


def _seal(arrays: Arrays, record: str) -> str:
    return digest(((name, torch.tensor(value)) for name, value in sorted(arrays.items())), record)


def _history(state_arrays: Arrays, generations: list[tuple[int, float]]) -> list[Generation]:
    history, first = [], 0
    for count, evaluations in generations:
        part = slice(first, first + count)
        rating = Rating(*(state_arrays[f"history.{name}"][part] for name in RATED))
        history.append(Generation(rating, state_arrays["history.parents"][part], evaluations))
        first += count
    return history
