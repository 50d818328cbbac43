"""Masks evaluated together: the same numbers as one masked model after another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils import _pytree as pytree

from secateur.rate.last import LastRead
from secateur.rate.masks import Evaluations, Removals, rate
from secateur.structure import channels, weights
from secateur.structure.sites import with_zeros
from secateur.testing.toys import TOYS, hand_mlp, same_state, snapshot
from secateur.types import Batches, InputError, Keep, Loss, Sites
from zoo import ZOO, build

Masks = list[dict[str, Tensor]]


def plain(model: nn.Module, sites: Sites, keeps: Masks, batches: Batches, loss: Loss = cross_entropy) -> Evaluations:
    """One masked model after another."""
    losses, accuracy, by_class = [], [], []
    for keep in keeps:
        masked = with_zeros(model, sites, keep).eval()
        with torch.no_grad():
            outputs = torch.cat([masked(x) for x, _ in batches])
        targets = torch.cat([y for _, y in batches])
        losses.append(loss(outputs, targets).double())
        right = (outputs.argmax(1) == targets).double()
        accuracy.append(right.mean())
        by_class.append(torch.stack([right[targets == c].mean() for c in range(outputs.shape[1])]))
    return Evaluations(torch.stack(losses), torch.stack(accuracy), torch.stack(by_class), len(targets))


def draws(sites: Sites, count: int, chance: float = 0.3) -> Masks:
    generator = torch.Generator().manual_seed(3)
    return [
        {name: torch.rand(site.shape, generator=generator) > chance for name, site in sites.items()}
        for _ in range(count)
    ]


def agree(found: Evaluations, wanted: Evaluations) -> None:
    torch.testing.assert_close(found.losses, wanted.losses, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.accuracy, wanted.accuracy)
    torch.testing.assert_close(found.class_accuracy, wanted.class_accuracy, rtol=0, atol=1e-12, equal_nan=True)
    assert found.count == wanted.count


@pytest.mark.parametrize("name", list(TOYS))
def test_it_is_the_loop_over_masked_models(name: str) -> None:
    toy = TOYS[name]
    model, batches = toy.build(), toy.batches()
    sites = channels(model, toy.inputs())
    keeps = [{}, *draws(sites, 6)]
    agree(rate(model, sites, keeps, batches), plain(model, sites, keeps, batches))


@pytest.mark.parametrize("name", list(TOYS))
def test_masks_of_each_site_alone(name: str) -> None:
    toy = TOYS[name]
    model, batches = toy.build(), toy.batches()
    sites = channels(model, toy.inputs())
    removals = Removals(model, sites, batches)
    for site, keep in ((site, keep) for keep in draws(sites, 2) for site in sites):
        agree(removals([{site: keep[site]}]), plain(model, sites, [{site: keep[site]}], batches))


def test_single_weights() -> None:
    toy = TOYS["cnn"]
    model, batches = toy.build(), toy.batches()
    sites = weights(model)
    keeps = draws(sites, 3)
    agree(rate(model, sites, keeps, batches), plain(model, sites, keeps, batches))


class Outputs(nn.Module):
    """Any model of the zoo as one with a row of outputs for each sample."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = pytree.tree_leaves(self.model(x))[0]
        return first.flatten(1)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", list(ZOO))
def test_the_zoo(name: str) -> None:
    inner, inputs = build(name)
    model = Outputs(inner).eval()
    if len(inputs) != 1 or len(model(*inputs)) != len(inputs[0]):
        pytest.skip("takes several inputs, or its samples do not lie along the first dimension")
    (x,) = inputs
    sites = channels(model, x)
    if not sites:
        pytest.skip("nothing can be cut")
    target = torch.zeros_like(model(x))
    keeps = draws(sites, 2)
    found = rate(model, sites, keeps, [(x, target)], mse_loss)
    with torch.no_grad():
        wanted = [mse_loss(with_zeros(model, sites, keep).eval()(x), target).double() for keep in keeps]
    torch.testing.assert_close(found.losses, torch.stack(wanted), rtol=1e-4, atol=1e-6)
    assert bool(found.accuracy.isnan().all())
    assert found.class_accuracy.shape == (2, 0)


class InPlace(nn.Module):
    """Writes into what earlier ops made, and into what a later one takes up."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        beside = self.b(x)
        late = self.c(self.a(x).relu_())
        beside.add_(late)
        result: Tensor = self.out(torch.nn.functional.relu(beside, inplace=True))
        return result


def test_ops_that_write_into_their_operands_reach_nothing_that_is_kept() -> None:
    model, x = InPlace().eval(), torch.randn(5, 3)
    batches = [(x, torch.tensor([0, 1, 0, 1, 1]))]
    sites = channels(model, x)
    removals, keeps = Removals(model, sites, batches), draws(sites, 3)
    for _ in range(2):
        agree(removals(keeps), plain(model, sites, keeps, batches))
        agree(removals([{"a": keeps[0]["a"]}]), plain(model, sites, [{"a": keeps[0]["a"]}], batches))


def test_numbers_worked_by_hand() -> None:
    model, x = hand_mlp(), torch.tensor([[1.0, 2.0]])  # outputs (3, 13); hidden (5, 2, 1)
    sites = channels(model, x)
    keeps: Masks = [{}, {"0": torch.tensor([True, False, True])}, {"0": torch.tensor([False, True, True])}]
    found = rate(model, sites, keeps, [(x, torch.tensor([1]))], lambda z, y: z[:, 1].mean() + 0 * y.sum())
    assert found.losses.tolist() == [13, 13, 3]
    assert found.accuracy.tolist() == [1, 1, 1]
    assert found.class_accuracy[:, 1].tolist() == [1, 1, 1]
    assert bool(found.class_accuracy[:, 0].isnan().all())


class Once:
    """Batches that count how often they are taken."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        return iter(self.batches)


def test_what_fits_is_kept_and_what_does_not_is_not() -> None:
    toy = TOYS["mlp"]
    model = toy.build()
    sites = channels(model, toy.inputs())
    keeps = draws(sites, 3)
    for room, passes in ((None, 1), (1, 2)):
        batches = Once(toy.batches())
        removals = Removals(model, sites, batches, max_memory=room)
        first, again = removals(keeps), removals(keeps)
        assert batches.passes == passes
        assert torch.equal(first.losses, again.losses)


def test_the_model_stays_as_it_is() -> None:
    toy = TOYS["residual"]
    model = toy.build().train()
    sites = channels(model, toy.inputs())
    before = snapshot(model)
    rate(model, sites, draws(sites, 2), toy.batches())
    assert same_state(before, snapshot(model))


@pytest.mark.parametrize(
    ("keeps", "batches", "message"),
    [
        ([], [(torch.ones(1, 2), torch.tensor([0]))], "no masks"),
        ([{}], [], "there are no batches"),
        ([{}], iter([]), "one pass"),
        ([{"0": torch.ones(3)}], [(torch.ones(1, 2), torch.tensor([0]))], "bool tensor"),
        ([{}], [(torch.ones(1, 2), torch.tensor([2]))], "label 2 is out of range"),
    ],
)
def test_bad_input(keeps: list[Keep], batches: Batches, message: str) -> None:
    model = hand_mlp()
    with pytest.raises(InputError, match=message):
        rate(model, channels(model, torch.ones(1, 2)), keeps, batches)


def test_a_loss_that_is_no_mean_of_its_samples_losses_is_refused() -> None:
    model, data = hand_mlp(), [(torch.ones(2, 2), torch.tensor([0, 1]))]
    with pytest.raises(InputError, match=r"^rate: .* plain mean of its samples. losses"):
        rate(model, channels(model, torch.ones(1, 2)), [{}], data, lambda z, y: cross_entropy(z, y, reduction="sum"))


def test_the_last_layer_takes_all_masks_in_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, number_of_masks = hand_mlp(), torch.ones(1, 2), []
    outputs = LastRead.outputs

    def counted(read: LastRead, masks: Masks) -> Iterator[tuple[int, Tensor]]:
        number_of_masks.append(len(masks))
        return outputs(read, masks)

    monkeypatch.setattr(LastRead, "outputs", counted)
    sites = channels(model, x)
    rate(model, sites, draws(sites, 3), [(x, torch.tensor([0]))])
    assert number_of_masks == [3]


def test_a_last_layer_of_sequences_is_evaluated_as_any_other() -> None:
    model, x, y = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(5, 3, 4), torch.randn(5, 3, 2)
    sites = channels(model, x)
    keeps = draws(sites, 3)
    losses = [mse_loss(with_zeros(model, sites, keep)(x), y).double() for keep in keeps]
    torch.testing.assert_close(rate(model, sites, keeps, [(x, y)], mse_loss).losses, torch.stack(losses))
