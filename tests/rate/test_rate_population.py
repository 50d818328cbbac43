"""Counts of whole populations, equal to those of the masked models one by one; and the fitness made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.measure import evaluate
from secateur.models import build
from secateur.rate.population import Population
from secateur.rate.row_bank import RowBank
from secateur.search import Fitness, Space, only
from secateur.structure import channels, weights
from secateur.structure.sites import with_zeros
from secateur.testing.toys import TOYS, hand_mlp, same_state, snapshot
from secateur.types import InputError, UnknownNameError


def _data(model: nn.Module, shape: tuple[int, ...], count: int = 100, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs, and labels that the model answers mostly, so that counts lie between none and all."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, *shape, generator=generator)
    with torch.no_grad():
        labels = model.eval()(inputs).argmax(1)
    labels[::7] = (labels[::7] + 1) % (labels.max() + 1)
    return inputs, labels


def _draws(space: Space, count: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    genes = rng.random((count, space.size)) < rng.random((count, 1))
    return genes, rng.normal(size=(count, space.bias_size)) if space.biases else None


def _applied(space: Space, genes: Any, offsets: Any = None) -> nn.Module:
    """The model that a candidate stands for."""
    return with_zeros(space.shifted(offsets), space.sites, space.keep(genes)).eval()


def _plain(space: Space, genes: Any, offsets: Any, data: Any, batch_size: int) -> list[int]:
    """The reference: mask the model, run it, count."""
    found = []
    for n, one in enumerate(genes):
        model = _applied(space, one, None if offsets is None else offsets[n])
        found.append(round(evaluate(model, data, batch_size=batch_size).accuracy * len(data[1])))
    return found


CASES = [
    ("janjic-mlp", "fc2.weight", "fc2.bias", "last"),
    ("janjic-mlp", "fc2.weight", None, "last"),
    ("janjic-cnn", "fc1.weight", "fc1.bias", "wide"),
    ("janjic-cnn", "fc2.weight", None, "last"),
    ("janjic-cnn", "conv2.weight", "conv2.bias", "wide"),
    ("janjic-cnn", "conv1.weight", None, "wide"),
    ("lenet-300-100", "fc1.weight", None, "wide"),
    ("ann-128", "hidden.weight", "output.bias", "general"),
]


@pytest.mark.parametrize(("name", "weight", "bias", "way"), CASES)
def test_counts_equal_those_of_the_masked_models(name: str, weight: str, bias: str | None, way: str) -> None:
    options = {"hidden": 64} if name.startswith("janjic") else {}
    model = build(name, seed=0, **options)
    data = _data(model, (1, 28, 28))
    space = Space(model, only(weights(model), weight), [bias] if bias else [])
    population = Population(space, *data, batch_size=32)
    wide = population.batches[0].wide
    assert way == ("general" if wide is None else "last" if wide.last else "wide")
    genes, offsets = _draws(space, 5)
    assert population.right(genes, offsets).tolist() == _plain(space, genes, offsets, data, 32)


@pytest.mark.parametrize("weight", ["0.weight", "2.weight", "4.weight"])
def test_layers_without_a_bias_take_the_wide_way_too(weight: str) -> None:
    torch.manual_seed(0)
    linear = [nn.Linear(size, to, bias=False) for size, to in ((12, 9), (9, 7), (7, 4))]
    model = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.Tanh(), linear[2])
    data = _data(model, (12,))
    space = Space(model, only(weights(model), weight))
    population = Population(space, *data, batch_size=32)
    assert population.batches[0].wide is not None
    genes, _ = _draws(space, 5)
    assert population.right(genes).tolist() == _plain(space, genes, None, data, 32)


@pytest.mark.parametrize("name", list(TOYS))
@pytest.mark.parametrize("unit", ["weights", "channels"])
def test_any_model_is_counted(name: str, unit: str) -> None:
    toy = TOYS[name]
    model = toy.build()
    data = _data(model, toy.shape, 21)
    space = Space(model, weights(model) if unit == "weights" else channels(model, data[0][:1]))
    genes, _ = _draws(space, 6)
    genes[0] = True
    assert Population(space, *data, batch_size=8).right(genes).tolist() == _plain(space, genes, None, data, 8)


def test_answers_that_are_almost_ties_are_those_of_the_plain_model() -> None:
    # Pairs of weights that differ in the last bits: sums in another order would tip most answers.
    torch.manual_seed(0)
    model = nn.Linear(512, 10, bias=False)
    with torch.no_grad():
        model.weight[1::2] = model.weight[::2] * (1 + 1e-7 * torch.randn(5, 512))
    inputs = torch.randn(200, 512)
    data = (inputs, torch.randint(10, (200,)))
    space = Space(model, weights(model))
    rows = np.random.default_rng(0).random((8, 5, 512)) < 0.8
    genes = np.repeat(rows, 2, axis=1).reshape(8, -1)  # both of a pair lose the same weights
    assert Population(space, *data, batch_size=64).right(genes).tolist() == _plain(space, genes, None, data, 64)


def test_memory_changes_nothing() -> None:
    model = build("janjic-cnn", seed=0, hidden=32)
    data = _data(model, (1, 28, 28), 40)
    space = Space(model, only(weights(model), "fc1.weight"))
    genes, _ = _draws(space, 9)
    assert Population(space, *data, memory=1).right(genes).tolist() == Population(space, *data).right(genes).tolist()


def test_rows_that_a_child_shares_with_its_parent_are_computed_once() -> None:
    weight, inputs = torch.randn(6, 70), torch.randn(11, 70)
    bank, seen = RowBank(inputs, 6, 24), []

    def finish(made: Tensor, numbers: Tensor) -> Tensor:
        seen.append(len(made))
        return made

    rng = np.random.default_rng(0)
    parents = rng.random((2, 6, 70)) < 0.5
    bank.places(parents, weight, finish)
    children = parents.copy()
    children[1, 2:4] = rng.random((2, 70)) < 0.5
    children[0, 5] = parents[1, 5]
    places = bank.places(children, weight, finish)
    assert seen == [12, 2]
    for child, rows in zip(children, places, strict=True):
        expected = (weight * torch.from_numpy(child)) @ inputs.mT
        torch.testing.assert_close(bank.take(rows), expected)


def test_rows_not_used_for_longest_make_room() -> None:
    weight, inputs = torch.randn(4, 10), torch.randn(3, 10)
    bank = RowBank(inputs, 4, 8)
    rng = np.random.default_rng(0)
    for _ in range(20):
        masks = rng.random((1, 4, 10)) < 0.5
        (rows,) = bank.places(masks, weight, lambda made, _: made)
        torch.testing.assert_close(bank.take(rows), (weight * torch.from_numpy(masks[0])) @ inputs.mT)


def test_a_bank_has_room_for_two_candidates_of_a_large_layer_or_is_none() -> None:
    weight, sources = torch.zeros(1024, 1024), [torch.zeros(3, 1024), torch.zeros(2, 1024)]
    least = 2 * 1024 * 5 * 4  # places of five samples in single precision
    bank = RowBank.of(weight, sources, least)
    assert bank is not None
    assert (bank.rows.shape, bank.candidates) == ((2048, 5), 1)
    assert RowBank.of(weight, sources, least - 1) is None
    assert RowBank.of(weight[1:], sources, least) is None


@pytest.mark.parametrize("bias", [None, "fc1.bias"])
def test_a_wide_layer_is_counted_from_kept_rows(bias: str | None) -> None:
    model = build("janjic-mlp", seed=0)
    data = _data(model, (1, 28, 28), 40)
    space = Space(model, only(weights(model), "fc1.weight"), [bias] if bias else [])
    population = Population(space, *data, batch_size=16)
    assert population._bank is not None
    genes, offsets = _draws(space, 2)
    assert population.right(genes, offsets).tolist() == _plain(space, genes, offsets, data, 16)
    genes[1, : space.size // 2] = genes[0, : space.size // 2]
    assert population.right(genes, offsets).tolist() == _plain(space, genes, offsets, data, 16)


def test_kept_rows_go_into_any_number_of_layers() -> None:
    layers = [nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 8), nn.Tanh(), nn.Linear(8, 5)]
    model = nn.Sequential(*layers).eval()
    data = _data(model, (1024,), 20)
    space = Space(model, only(weights(model), "0.weight"))
    population = Population(space, *data, batch_size=8)
    assert population._bank is not None
    genes, _ = _draws(space, 2)
    assert population.right(genes).tolist() == _plain(space, genes, None, data, 8)


def test_gradients_equal_those_of_autograd() -> None:
    model = TOYS["cnn"].build()
    x, y = _data(model, (1, 8, 8), 12)
    space = Space(model, only(weights(model), ["0.weight", "7.weight"]), ["7.bias"])
    genes, offsets = _draws(space, 1)
    found = Population(space, x, y, batch_size=5).gradient(genes[0], offsets[0], np.array([0, 1, 2]))
    masked = _applied(space, genes[0], offsets[0])
    nn.functional.cross_entropy(masked(x), y).backward()
    slopes = [masked.get_parameter(n).grad for n in ("0.weight", "7.weight", "7.bias")]
    own = [model.get_parameter(n) for n in ("0.weight", "7.weight")]
    expected = torch.cat([(slopes[0] * own[0]).flatten(), (slopes[1] * own[1]).flatten(), slopes[2]])
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-6)


def test_fitness_is_points_plus_the_fraction_removed() -> None:
    model = hand_mlp()
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    space = Space(model, only(weights(model), "2.weight"))
    fitness = Fitness(space, (x, torch.tensor([1, 1, 0, 0])), alpha=100, beta=2)
    rating = fitness(np.array([[True] * 6, [False] * 6]))
    right = [
        int((_applied(space, g)(x).argmax(1) == torch.tensor([1, 1, 0, 0])).sum())
        for g in (np.ones(6, dtype=bool), np.zeros(6, dtype=bool))
    ]
    assert fitness.start == right[0]
    assert rating.accuracy.tolist() == [0, 25 * (right[1] - right[0])]
    assert rating.fitness.tolist() == [0, 25 * (right[1] - right[0]) + 2]


def test_the_model_is_left_as_it_is() -> None:
    model = build("janjic-cnn", seed=0, hidden=16).train()
    before = snapshot(model)
    space = Space(model, only(weights(model), "fc1.weight"), ["fc1.bias"])
    genes, offsets = _draws(space, 3)
    Fitness(space, _random_data())(genes, offsets)
    assert same_state(before, snapshot(model))


def _random_data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(6, 1, 28, 28, generator=generator), torch.randint(10, (6,), generator=generator))] * 2


def test_genes_and_masks_are_the_same_thing() -> None:
    model = hand_mlp()
    space = Space(model, weights(model))
    genes = np.random.default_rng(0).random(space.size) < 0.5
    assert np.array_equal(space.genes(space.keep(genes)), genes)
    assert space.rows.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4]
    assert space.magnitude[space.order].tolist() == sorted(space.magnitude.tolist())


def test_what_does_not_fit_is_refused() -> None:
    model = hand_mlp()
    space = Space(model, weights(model))
    x, y = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(InputError, match=r"labels must be in 0 … 1"):
        Fitness(space, (x, torch.tensor([0, 1, 2, 0])))
    with pytest.raises(InputError, match="give whole numbers"):
        Fitness(space, (x, torch.randn(4)))
    with pytest.raises(InputError, match="batch 1 is a str"):
        Fitness(space, "mnist")
    with pytest.raises(InputError, match=r"alpha=.* must be a finite number"):
        Fitness(space, (x, y), alpha=float("nan"))
    with pytest.raises(InputError, match=r"give bool \(candidates, 12\)"):
        Fitness(space, (x, y))(np.ones((1, 3), dtype=np.bool_))
    with pytest.raises(InputError, match="offsets have shape"):
        Fitness(space, (x, y))(np.ones((1, 12), dtype=np.bool_), np.zeros((1, 2)))
    flat = nn.Sequential(nn.Linear(2, 1))
    with pytest.raises(InputError, match="must return logits"):
        Fitness(Space(flat, weights(flat)), (x, y))
    with pytest.raises(UnknownNameError, match=r"did you mean '2.bias'"):
        Space(model, weights(model), ["2.bia"])
    with pytest.raises(InputError, match="not both"):
        Space(model, weights(model), ["2.weight"])
    with pytest.raises(InputError, match="from 1 to 4"):
        Fitness(space, (x, y)).subset(5)
