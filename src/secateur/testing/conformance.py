"""What every criterion must do, as tests that a new one inherits (needs pytest).

    from secateur.testing.conformance import CriterionConformance

    class TestMyCriterion(CriterionConformance):
        def make(self, batches, loss):
            return Mine(batches, loss)

Inherited so, every test below runs on every toy model, on single weights and on channels.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.selection import select
from secateur.structure import channels, cut, mask, weights
from secateur.testing.toys import TOYS, Toy, same_state, snapshot
from secateur.types import Batches, Criterion, Loss, SecateurError, Sites

__all__ = ["CriterionConformance"]

Unit = Literal["channels", "weights"]


def _sites(model: nn.Module, toy: Toy, unit: str) -> Sites:
    return channels(model, toy.inputs()) if unit == "channels" else weights(model)


OF_ONE_UNIT = {
    "channels": "test_what_is_tied_gets_one_score_and_can_be_cut",
    "weights": "test_single_weights_are_masked_by_its_scores",
}


class CriterionConformance:
    """The contract of a criterion; inherit it, and write `make`.

    Attributes:
        units: what the criterion can score.
    """

    units: tuple[Unit, ...] = ("channels", "weights")

    def __init_subclass__(cls) -> None:
        """Leave out what only one kind of unit is asked."""
        super().__init_subclass__()
        for unit, test in OF_ONE_UNIT.items():
            if unit not in cls.units:
                setattr(cls, test, None)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Ask about the units that the criterion scores, and no others."""
        if "unit" in metafunc.fixturenames:
            metafunc.parametrize("unit", self.units)

    def make(self, batches: Batches, loss: Loss) -> Criterion:
        """Return the criterion under test; one that needs no data leaves the arguments alone."""
        raise NotImplementedError("write make(self, batches, loss): return the criterion under test")

    def _made(self, name: str, unit: str) -> tuple[Criterion, nn.Module, Sites]:
        toy = TOYS[name]
        model = toy.build()
        return self.make(toy.batches(), cross_entropy), model, _sites(model, toy, unit)

    def _scores(self, name: str, unit: str) -> tuple[dict[str, Tensor], Sites]:
        criterion, model, sites = self._made(name, unit)
        return criterion(model, sites), sites

    @pytest.mark.parametrize("name", list(TOYS))
    def test_scores_have_the_sites_names_and_shapes_and_are_finite(self, name: str, unit: str) -> None:
        scores, sites = self._scores(name, unit)
        assert list(scores) == list(sites)
        for site in sites.values():
            assert tuple(scores[site.name].shape) == site.shape
            assert scores[site.name].is_floating_point()
            assert bool(torch.isfinite(scores[site.name]).all()), site.name
            assert not scores[site.name].requires_grad

    @pytest.mark.parametrize("name", list(TOYS))
    def test_the_same_scores_come_again(self, name: str, unit: str) -> None:
        first, _ = self._scores(name, unit)
        torch.rand(3)  # the global random state must not matter
        again, _ = self._scores(name, unit)
        assert all(torch.equal(first[site], again[site]) for site in first)

    @pytest.mark.parametrize("name", list(TOYS))
    @pytest.mark.parametrize("training", [True, False])
    def test_the_model_stays_as_it_is(self, name: str, unit: str, training: bool) -> None:
        criterion, model, sites = self._made(name, unit)
        model.train(training)
        first = next(model.parameters())
        first.grad = torch.ones_like(first)
        before = snapshot(model)
        criterion(model, sites)
        assert same_state(before, snapshot(model))

    def test_scores_do_not_share_memory_with_the_model(self, unit: str) -> None:
        criterion, model, sites = self._made("mlp", unit)
        scores = criterion(model, sites)
        before = snapshot(model)
        for score in scores.values():
            score.fill_(7)
        assert same_state(before, snapshot(model))

    def test_the_model_s_mode_does_not_change_the_scores(self, unit: str) -> None:
        criterion, model, sites = self._made("residual", unit)
        evaluating = criterion(model.eval(), sites)
        training = criterion(model.train(), sites)
        assert all(torch.equal(evaluating[site], training[site]) for site in sites)

    @pytest.mark.parametrize("name", [name for name, toy in TOYS.items() if toy.tied])
    def test_what_is_tied_gets_one_score_and_can_be_cut(self, name: str) -> None:
        criterion, model, sites = self._made(name, "channels")
        keep = select(criterion(model, sites), 0.4, scope="layer", sites=sites)
        small = cut(model, sites, keep)
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())

    def test_single_weights_are_masked_by_its_scores(self) -> None:
        criterion, model, sites = self._made("cnn", "weights")
        keep = select(criterion(model, sites), 0.5)
        masked = dict(mask(model, sites, keep).named_parameters())
        assert all(not bool(masked[name][~keep_mask].any()) for name, keep_mask in keep.items())

    def test_it_scores_a_copy_alike(self, unit: str) -> None:
        criterion, model, sites = self._made("cnn", unit)
        scores, others = criterion(model, sites), criterion(copy.deepcopy(model), sites)
        assert all(torch.equal(scores[site], others[site]) for site in sites)

    def test_weights_that_are_nan_are_refused_by_name(self, unit: str) -> None:
        criterion, model, sites = self._made("mlp", unit)
        with torch.no_grad():
            model.get_parameter("0.weight")[0, 0] = float("nan")
        with pytest.raises(SecateurError, match=r"(?s)\b0\b.*NaN|NaN.*\b0\b"):
            select(criterion(model, sites), 0.5)

    def test_it_is_a_frozen_value(self) -> None:
        toy = TOYS["mlp"]
        batches = toy.batches()
        criterion, again = self.make(batches, cross_entropy), self.make(batches, cross_entropy)
        kind: Any = type(again)
        assert kind.__dataclass_params__.frozen
        assert criterion == again
        assert repr(criterion).startswith(kind.__name__)
        field = next(iter(dataclasses.fields(kind)), None)
        if field is not None:
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(criterion, field.name, None)
