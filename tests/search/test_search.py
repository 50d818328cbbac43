"""Searches: the contract that all keep, and operators and fronts by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secateur.search import (
    Annealing,
    CmaEs,
    CoordinateRows,
    Fitness,
    Genetic,
    HillClimbing,
    Nsga2,
    OneShotMagnitude,
    RandomSearch,
    Screened,
    Search,
    Space,
    Supermask,
    Surrogate,
    front,
    judge,
    lineage,
    only,
    operators,
)
from secateur.structure import channels, weights
from secateur.testing.searches import SearchConformance
from secateur.testing.toys import TOYS
from secateur.types import InputError, UnknownNameError


class TestGenetic(SearchConformance):
    def make(self) -> Search:
        return Genetic(damage=0.3, population=10)


class TestRandom(SearchConformance):
    def make(self) -> Search:
        return RandomSearch()

    budget = 250


class TestOneShot(SearchConformance):
    def make(self) -> Search:
        return OneShotMagnitude(points=4)

    @pytest.mark.parametrize("calls", [2, 3])
    def test_a_killed_search_goes_on_to_the_same_result(self, calls: int, tmp_path: Any) -> None:
        super().test_a_killed_search_goes_on_to_the_same_result(calls, tmp_path)


class TestHill(SearchConformance):
    def make(self) -> Search:
        return HillClimbing()


class TestAnnealing(SearchConformance):
    def make(self) -> Search:
        return Annealing(chains=6)


class TestCmaEs(SearchConformance):
    biases = True

    def make(self) -> Search:
        return CmaEs(population=12)


class TestCmaEsOfOne(SearchConformance):
    def make(self) -> Search:
        return CmaEs("all", population=12)


class TestCoordinateRows(SearchConformance):
    biases = True

    def make(self) -> Search:
        return CoordinateRows(points=5)


class TestNsga2(SearchConformance):
    def make(self) -> Search:
        return Nsga2(population=10)


class TestSupermask(SearchConformance):
    biases, channels = True, False

    def make(self) -> Search:
        return Supermask(gradients=3)


def _toy() -> tuple[Space, Fitness]:
    toy = TOYS["cnn"]
    model = toy.build()
    inputs = toy.inputs(60, seed=3)
    space = Space(model, only(weights(model), "7.weight"))
    return space, Fitness(space, (inputs, model(inputs).argmax(1)))


def test_generation_0_has_the_undamaged_layer_first() -> None:
    genes = operators.damaged(5, 100, 0.3, np.random.default_rng(0))
    assert genes.sum(1).tolist() == [100, 70, 70, 70, 70]
    assert len(np.unique(genes, axis=0)) == 5


def test_a_coin_a_weight_scatters_as_the_published_initial_maxima_do() -> None:
    # Table 5.2: the greatest compressions of generation 0, of 50 individuals of 2,000 weights.
    for damage, published in ((0.1, 0.115), (0.3, 0.3245), (0.5, 0.524), (0.7, 0.719), (0.9, 0.917)):
        greatest = [
            1 - operators.coin_damaged(50, 2000, damage, np.random.default_rng(seed)).mean(1).min()
            for seed in range(200)
        ]
        low, high = np.quantile(greatest, [0.025, 0.975])
        assert low <= published <= high, (damage, low, high)
        exact = 1 - operators.damaged(50, 2000, damage, np.random.default_rng(0)).mean(1).min()
        assert exact == pytest.approx(damage)
        assert exact < low


def test_damage_and_mutators_are_what_plain_loops_give() -> None:
    rng = np.random.default_rng(5)
    magnitudes = rng.random(30)
    genes = operators.coin_damaged(6, 30, 0.4, np.random.default_rng(1))
    coins = np.random.default_rng(1).random((6, 30))
    for number, mask in enumerate(genes):
        assert [bool(gene) for gene in mask] == [number == 0 or coin >= 0.4 for coin in coins[number]]
    for strength in (0.0, 0.1, 0.5):
        mutants, changed = operators.prune_near_lowest(genes, magnitudes, 0.5, strength, np.random.default_rng(2))
        heads = np.random.default_rng(2).random(6) < 0.5
        assert changed.tolist() == heads.tolist()
        for mask, mutant, head in zip(genes, mutants, heads, strict=True):
            lowest = min(m for m, gene in zip(magnitudes, mask, strict=True) if gene)
            expected = [
                bool(gene and not (head and m <= lowest * (1 + strength)))
                for m, gene in zip(magnitudes, mask, strict=True)
            ]
            assert mutant.tolist() == expected


def test_nobody_is_its_own_partner_and_the_fittest_wins() -> None:
    fitness = np.array([1.0, 5.0, 3.0, 4.0])
    for seed in range(20):
        assert operators.tournament(fitness, 3, np.random.default_rng(seed)).tolist() == [1, 3, 1, 1]
        one = operators.tournament(fitness, 1, np.random.default_rng(seed))
        assert (one != np.arange(4)).all()


def test_a_child_is_the_parent_outside_two_cuts_and_the_partner_between() -> None:
    parents = np.array([[True] * 50, [False] * 50])
    for seed in range(20):
        children, crossed = operators.two_point_crossover(parents, np.array([1, 0]), 1.0, np.random.default_rng(seed))
        assert crossed.all()
        changes = np.flatnonzero(np.diff(np.concatenate([[True], children[0], [True]]).astype(int)))
        assert len(changes) == 2, "one run of the partner's genes"
    same, crossed = operators.two_point_crossover(parents, np.array([1, 0]), 0.0, np.random.default_rng(0))
    assert not crossed.any()
    assert np.array_equal(same, parents)


def test_mutators_take_a_part_of_what_is_left() -> None:
    genes = np.array([[True] * 10 + [False] * 10, [True] * 20])
    magnitudes = np.arange(20, 0, -1) / 20  # the last gene is the weakest
    lowest, _ = operators.prune_lowest(genes, magnitudes, 1.0, 0.2, np.random.default_rng(0))
    assert np.flatnonzero(~lowest[0]).tolist() == [8, 9, *range(10, 20)]
    assert np.flatnonzero(~lowest[1]).tolist() == [16, 17, 18, 19]
    dropped, changed = operators.prune_random(genes, 1.0, 0.2, np.random.default_rng(0))
    assert dropped.sum(1).tolist() == [8, 16]
    assert not (dropped & ~genes).any()
    assert changed.all()
    weakest, _ = operators.prune_lowest(genes, magnitudes, 1.0, 0.0, np.random.default_rng(0))
    assert weakest.sum(1).tolist() == [9, 19], "one gene at least"
    nothing, changed = operators.prune_random(np.zeros((1, 4), dtype=np.bool_), 1.0, 0.5, np.random.default_rng(0))
    assert not nothing.any()
    assert not changed.any()


def test_the_best_of_a_genetic_search_never_falls() -> None:
    space, fitness = _toy()
    result = Genetic(damage=0.3, population=20)(fitness, space, 200)
    best = [g.rating.fitness.max() for g in result.history.generations]
    assert best == sorted(best)
    assert best[0] >= 0
    assert [len(g.rating) for g in result.history.generations] == [20] * 10
    assert result.history.generations[-1].spent == 200
    worst = [g.rating.fitness.min() for g in result.history.generations]
    assert worst == sorted(worst), "elitism by index lifts the worst as well"


def test_the_line_of_an_individual_is_followed_back() -> None:
    space, fitness = _toy()
    result = Genetic(damage=0.3, population=12)(fitness, space, 60)
    line = lineage(result.history.generations, result.history.generations[-1].best)
    assert (
        line == [result.history.generations[-1].best] * 5
    )  # replaced by index, so the first parent has the same number
    crossed = np.concatenate([g.parents[:, 1] for g in result.history.generations[1:]])
    assert ((crossed >= -1) & (crossed < 12)).all()
    assert (crossed >= 0).any()


def test_an_operator_can_be_replaced() -> None:
    space, fitness = _toy()

    def nothing(genes: Any, probability: float, strength: float, rng: Any) -> Any:
        return genes, np.zeros(len(genes), dtype=np.bool_)

    kept = Genetic(damage=0.0, population=5, crossover=0.0, mutation=0.0, drop=nothing)(fitness, space, 50)
    assert kept.history.compression == 0
    with pytest.raises(InputError, match="drop must be a function"):
        Genetic(drop=None)  # type: ignore[arg-type]


def test_children_that_did_not_change_are_not_rated_again() -> None:
    space, fitness = _toy()
    seen = []

    class Watched(Fitness):
        def __call__(self, genes: Any, offsets: Any = None) -> Any:
            seen.append(len(genes))
            return super().__call__(genes, offsets)

    watched = Watched(space, fitness.data)
    Genetic(damage=0.2, population=10, crossover=0.0, mutation=0.0)(watched, space, 50)
    assert seen == [10]


def test_several_layers_and_channels_are_searched_by_the_same_code() -> None:
    toy = TOYS["residual"]
    model, inputs = toy.build(), toy.inputs(30)
    labels = model(inputs).argmax(1)
    for sites in (weights(model), channels(model, inputs[:1])):
        space = Space(model, sites)
        result = Genetic(damage=0.2, population=8)(Fitness(space, (inputs, labels)), space, 40)
        assert list(result.keep) == list(sites)
        right = (result.model(inputs).argmax(1) == labels).float().mean().item()
        if sites.structure is None:
            assert round(100 * right - 100, 4) == round(result.history.accuracy, 4)


def test_one_shot_magnitude_finds_the_number_to_remove() -> None:
    model = nn.Linear(4, 2, bias=False)
    model.weight.data = torch.tensor([[9.0, 0.1, 0.2, 0.3], [0.4, 8.0, 0.5, 0.6]])
    space = Space(model, weights(model))
    fitness = Fitness(space, (torch.eye(4)[:2], torch.tensor([0, 1])))
    result = OneShotMagnitude(points=4)(fitness, space, 100)
    # Without 8 the second sample ties, and the first class wins a tie: 9 and 8 stay.
    assert result.history.compression == 6 / 8
    assert result.history.accuracy == 0
    assert result.history.spent < 20


def test_a_gradient_search_reaches_what_the_labels_ask_for() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(400, 200)
    model = nn.Linear(200, 3)
    good = model.weight.detach().clone()
    good[torch.rand(3, 200) < 0.5] = 0  # labels of a pruned model, which a search can find
    space = Space(model, weights(model), ["bias"])
    fitness = Fitness(space, (inputs, (inputs @ good.mT + model.bias).argmax(1)))
    found = {
        s: s(fitness, space, 600).history.fitness for s in (Supermask(pressure=0.3), OneShotMagnitude(), RandomSearch())
    }
    learned, smallest, drawn = found.values()
    assert learned > smallest
    assert learned > drawn


def test_a_cma_es_finds_the_threshold() -> None:
    space, fitness = _toy()
    assert (
        CmaEs("all")(fitness, space, 200).history.fitness
        >= OneShotMagnitude()(fitness, space, 200).history.fitness - 0.05
    )


def test_the_front_of_nsga2_holds_what_nothing_beats() -> None:
    space, fitness = _toy()
    result = Nsga2(population=20)(fitness, space, 200)
    pairs = front(result.history.generations)
    assert pairs == sorted(pairs)
    assert [accuracy for _, accuracy in pairs] == sorted((accuracy for _, accuracy in pairs), reverse=True)
    assert len(pairs) > 3
    assert pairs[0][1] >= 0


def test_a_subset_costs_its_part_and_the_best_are_rated_again() -> None:
    space, fitness = _toy()
    cheap = fitness.subset(15, seed=1)
    assert (cheap.samples, cheap.cost) == (15, 0.25)
    screened = Screened(fitness, cheap, share=0.2)
    result = Genetic(damage=0.2, population=20)(screened, space, 100)
    assert result.history.spent <= 100
    assert len(result.history.generations) > 100 / 20, "more generations for the same cost"
    assert fitness(result.history.genes[None]).fitness[0] == result.history.fitness


def test_a_surrogate_adds_up_what_is_removed() -> None:
    space, fitness = _toy()
    scores = {"7.weight": torch.rand(3, 20, generator=torch.Generator().manual_seed(0))}
    cheap = Surrogate(fitness, scores)
    genes = np.ones((2, 60), dtype=np.bool_)
    genes[1, :30] = False
    expected = -100 * cheap.slope * float(scores["7.weight"].flatten()[:30].sum())
    assert cheap(genes).accuracy.tolist() == pytest.approx([0, expected], rel=1e-5)
    result = Genetic(damage=0.2, population=10)(Screened(fitness, cheap, 0.1), space, 20)
    assert len(result.history.generations) >= 10
    with pytest.raises(UnknownNameError, match="scores of site"):
        Surrogate(fitness, {"0": torch.ones(3)})


def test_protocols_search_on_one_split_and_report_on_the_other() -> None:
    space, fitness = _toy()
    x, y = fitness.data.inputs, fitness.data.targets
    first, second = (x[:30], y[:30]), (x[30:], y[30:])
    honest = judge(Genetic(population=10), space, first, second, budget=50)
    thesis = judge(Genetic(population=10), space, second, first, budget=50, protocol="thesis")
    assert np.array_equal(honest.result.history.genes, thesis.result.history.genes)
    assert honest.reported.fitness.tolist() == honest.untouched.fitness.tolist()
    assert thesis.reported.fitness.tolist() == [thesis.result.history.fitness]
    assert honest.gap == thesis.gap == honest.searched.accuracy[0] - honest.untouched.accuracy[0]
    with pytest.raises(UnknownNameError, match="did you mean 'honest'"):
        judge(Genetic(), space, first, second, protocol="honst")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Genetic(damage=1.5), "damage=1.5 must be a number in"),
        (lambda: Genetic(population=1), "population=1 must be a whole number, 2 or more"),
        (lambda: Annealing(hot=0.1, cold=0.2), "cold=0.2 must be a number in .0, 0.1.: a temperature"),
        (lambda: CmaEs(sigma=0.0), "sigma=0.0 must be a finite number above 0"),
        (lambda: CmaEs(start=1.0), "start=1.0 must be a number in"),
        (lambda: CoordinateRows(shift=-1.0), "shift=-1.0 must be a finite number above 0"),
        (lambda: Supermask(pressure=-1.0), "pressure=-1.0 must be a finite number, 0 or more"),
        (lambda: CmaEs("rows"), "did you mean 'row'"),
    ],
)
def test_options_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises((InputError, UnknownNameError), match=message):
        make()


def test_a_gradient_search_refuses_channels_and_surrogates() -> None:
    toy = TOYS["cnn"]
    model, inputs = toy.build(), toy.inputs(12)
    space = Space(model, channels(model, inputs))
    fitness = Fitness(space, (inputs, model(inputs).argmax(1)))
    with pytest.raises(InputError, match="has channels"):
        Supermask()(fitness, space, 50)
    space, fitness = _toy()
    with pytest.raises(InputError, match="needs gradients"):
        Supermask()(Surrogate(fitness, {"7.weight": torch.ones(3, 20)}), space, 50)


def test_a_metric_stands_for_accuracy() -> None:
    """Δ of the metric for Δ of accuracy; of the share of right answers, the same to the bit."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    data = (torch.randn(12, 4), torch.randint(3, (12,)))
    space = Space(model, weights(model))
    genes = np.random.default_rng(0).random((3, space.size)) > 0.3

    def right(outputs: torch.Tensor, labels: torch.Tensor) -> float:
        return float((outputs.argmax(1) == labels).double().mean())

    plain, measured = Fitness(space, data), Fitness(space, data, metric=right)
    assert measured(genes).accuracy == pytest.approx(plain(genes).accuracy)
    assert measured(genes).fitness == pytest.approx(plain(genes).fitness)
    assert measured.subset(5)(genes).accuracy == pytest.approx(plain.subset(5)(genes).accuracy)
    judged = judge(RandomSearch(), space, data, data, metric=right, budget=5)
    assert judged.gap == 0
    with pytest.raises(InputError, match="loss and metric are two ways"):
        Fitness(space, data, loss="mse", metric=right)
    with pytest.raises(InputError, match="leave out loss and metric"):
        Fitness(Space(model, only(weights(model), "0.weight"), ["2.bias"]), data, metric=right)
    with pytest.raises(InputError, match="right answers"):
        _ = measured.population
