"""What every search must do, as tests that a new one inherits (needs pytest).

from secateur.testing.searches import SearchConformance

class TestMySearch(SearchConformance):
    def make(self):
        return Mine()
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from secateur.result import Result
from secateur.search import Fitness, Rating, Search, Space, only
from secateur.search.space import Genes, Offsets
from secateur.structure import channels, mask, weights
from secateur.testing.toys import TOYS, same_state, snapshot
from secateur.types import FileError, InputError

__all__ = ["SearchConformance"]


class Stop(Exception):
    """What kills a search in a test."""


class FailingFitness(Fitness):
    """A fitness that fails after so many calls."""

    left = 10**9

    def __call__(self, genes: Genes, offsets: Offsets | None = None) -> Rating:
        self.left -= 1
        if self.left < 0:
            raise Stop
        return super().__call__(genes, offsets)


class SearchConformance:
    """The contract of a search; inherit it, and write `make`.

    Attributes:
        budget: evaluations that the tests give it.
        channels: whether it searches channels too.
        biases: whether it searches biases too.
    """

    budget = 120
    channels = True
    biases = False

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Ask about channels where it searches them."""
        if "unit" in metafunc.fixturenames:
            metafunc.parametrize("unit", ["weights", "channels"] if self.channels else ["weights"])

    def make(self) -> Search:
        """Return the search under test."""
        raise NotImplementedError("write make(self): return the search under test")

    def _space(self, unit: str = "weights") -> Space:
        toy = TOYS["cnn"]
        model = toy.build()
        if unit == "channels":
            return Space(model, channels(model, toy.inputs()))
        return Space(model, only(weights(model), "7.weight"), ["7.bias"] if self.biases else [])

    def _fitness(self, space: Space) -> FailingFitness:
        toy = TOYS["cnn"]
        inputs = toy.inputs(40, seed=3)
        labels = torch.randint(toy.classes, (40,), generator=torch.Generator().manual_seed(4))
        return FailingFitness(space, (inputs, labels), batch_size=16)

    def _run(self, space: Space, seed: int = 0, state: Path | None = None) -> Result:
        return self.make()(self._fitness(space), space, self.budget, seed, state=state)

    def test_the_budget_is_kept(self, unit: str) -> None:
        space = self._space(unit)
        result = self._run(space)
        assert result.history.spent <= self.budget
        assert sum(int(np.isfinite(g.rating.fitness).sum()) for g in result.history.generations) > 0

    def test_it_is_never_worse_than_the_unpruned_model(self) -> None:
        space = self._space()
        result = self._run(space)
        assert result.history.fitness >= 0
        again = self._fitness(space)(
            result.history.genes[None], None if result.history.offsets is None else result.history.offsets[None]
        )
        assert again.fitness.tolist() == [result.history.fitness]
        best_by_generation = [g.rating.fitness[g.rating.exact].max(initial=0.0) for g in result.history.generations]
        assert result.history.fitness == max([0.0, *best_by_generation])

    def test_the_same_seed_gives_the_same(self) -> None:
        space = self._space()
        first, state = self._run(space, seed=3), torch.get_rng_state()
        np.random.default_rng(0).random(3)
        again = self._run(space, seed=3)
        assert torch.equal(torch.get_rng_state(), state), "the global random state moved"
        assert np.array_equal(first.history.genes, again.history.genes)
        assert [g.rating.fitness.tolist() for g in first.history.generations] == [
            g.rating.fitness.tolist() for g in again.history.generations
        ]

    def test_the_model_stays_as_it_is(self) -> None:
        space = self._space()
        before = snapshot(space.model)
        self._run(space)
        assert same_state(before, snapshot(space.model))

    def test_what_is_found_is_a_masked_model(self) -> None:
        space = self._space()
        result = self._run(space)
        expected = mask(space.model, space.sites, result.keep)
        masked_model: nn.Module = result.model
        assert torch.equal(masked_model.get_parameter("7.weight"), expected.get_parameter("7.weight"))
        assert result.history.compression == 1 - float(result.history.genes.mean())

    @pytest.mark.parametrize("calls", [2, 4])
    def test_a_killed_search_goes_on_to_the_same_result(self, calls: int, tmp_path: Path) -> None:
        space, path = self._space(), tmp_path / "state.safetensors"
        whole = self._run(space, seed=1)
        fitness = self._fitness(space)
        fitness.left = calls
        with pytest.raises(Stop):
            self.make()(fitness, space, self.budget, 1, state=path)
        resumed = self._run(space, seed=1, state=path)
        assert np.array_equal(whole.history.genes, resumed.history.genes)
        assert (whole.history.fitness, whole.history.spent) == (resumed.history.fitness, resumed.history.spent)
        assert [g.rating.fitness.tolist() for g in whole.history.generations] == [
            g.rating.fitness.tolist() for g in resumed.history.generations
        ]
        assert [g.parents.tolist() for g in whole.history.generations] == [
            g.parents.tolist() for g in resumed.history.generations
        ]

    def test_the_state_of_another_search_is_refused(self, tmp_path: Path) -> None:
        space, path = self._space(), tmp_path / "state.safetensors"
        self._run(space, seed=1, state=path)
        with pytest.raises(FileError, match="another search"):
            self._run(space, seed=2, state=path)

    def test_a_damaged_state_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "state.safetensors"
        path.write_bytes(b"not a state")
        with pytest.raises(FileError, match="delete it to start anew"):
            self._run(self._space(), state=path)

    @pytest.mark.parametrize("budget", [0, float("nan"), True])
    def test_a_budget_below_one_is_refused(self, budget: float) -> None:
        space = self._space()
        with pytest.raises(InputError, match=r"budget=.* must be a finite number, 1 or more: evaluations"):
            self.make()(self._fitness(space), space, budget)

    def test_it_is_a_frozen_value(self) -> None:
        search = self.make()
        assert search == self.make()
        assert repr(search).startswith(type(search).__name__)
        with pytest.raises(dataclasses.FrozenInstanceError):
            search.anything = 1  # type: ignore[attr-defined]
