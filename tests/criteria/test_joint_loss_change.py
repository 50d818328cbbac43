"""JointLossChange: the quadratic model against derivatives of the gated loss, greedy orders against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, log_softmax, mse_loss

from secateur import data
from secateur.criteria import JointLossChange, JointWorth, LossChange, SecondOrder
from secateur.criteria.joint_loss_change import joint_worth
from secateur.criteria.output_curvature import curvature_roots
from secateur.criteria.quadratic import Quadratic
from secateur.measure import rate
from secateur.selection import select
from secateur.structure import channels, weights
from secateur.structure.flow import Flow
from secateur.testing.conformance import CriterionConformance
from secateur.testing.toys import TOYS, hand_mlp
from secateur.train import fit
from secateur.types import Batches, Criterion, InputError, Loss, Sites, UnknownNameError


class TestJointLossChange(CriterionConformance):
    units = ("channels",)

    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return JointLossChange(batches, loss)

    def test_single_weights_are_masked_by_its_scores(self) -> None:
        """It does not score single weights; see the refusal below."""


class TestJointLossChangeByLayer(TestJointLossChange):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return JointLossChange(batches, loss, scope="layer", directions=2)


def gated(model: nn.Module, sites: Sites, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The model's outputs as a function of one gate a unit, all sites' in a row."""
    flow, sizes = Flow(model, sites), [site.size for site in sites.values()]

    def outputs(gates: Tensor) -> Tensor:
        by_site = dict(zip(sites, gates.split(sizes), strict=True))
        made: Tensor = flow(x, lambda read, h: h * read.spread(by_site[read.site]))
        return made

    return outputs


def linear_in_gates(outputs: Callable[[Tensor], Tensor], units: int) -> Callable[[Tensor], Tensor]:
    """The outputs to first order around all gates at 1: what Gauss–Newton takes the network for."""
    ones = torch.ones(units, dtype=torch.float64)
    at_ones, slopes = outputs(ones).detach(), jacobian(outputs, ones)
    return lambda gates: at_ones + slopes @ (gates - ones)


def own_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss of one's own that ties the outputs of a sample, and is not convex."""
    return (outputs.square().sum(1).sqrt() * outputs[:, 0].sin() + targets).mean()


def case(name: str) -> tuple[nn.Module, Sites, Tensor, Tensor]:
    toy = TOYS[name]
    model, x = toy.build(torch.float64), toy.inputs(5, dtype=torch.float64)
    return model, channels(model, x), x, torch.arange(5) % toy.classes


@pytest.mark.parametrize("loss", [cross_entropy, own_loss])
@pytest.mark.parametrize("name", list(TOYS))
def test_the_model_is_the_hessian_of_the_gated_loss_linear_in_the_network(name: str, loss: Loss) -> None:
    model, sites, x, y = case(name)
    worth = JointLossChange((x, y), loss)(model, sites)
    units = sum(site.size for site in sites.values())
    straight = linear_in_gates(gated(model, sites, x), units)
    ones = torch.ones(units, dtype=torch.float64)

    def mean(gates: Tensor) -> Tensor:
        return loss(straight(gates), y)

    torch.testing.assert_close(torch.from_numpy(worth.model.slopes), -jacobian(mean, ones))
    torch.testing.assert_close(torch.from_numpy(worth.model.pairs), hessian(mean, ones))


@pytest.mark.parametrize("name", list(TOYS))
def test_a_unit_alone_is_what_second_order_says(name: str) -> None:
    model, sites, x, y = case(name)
    worth = JointLossChange((x, y))(model, sites)
    alone = SecondOrder((x, y), curvature="gauss-newton")(model, sites)
    for site in sites:
        torch.testing.assert_close(worth.alone[site], alone[site])


def test_a_joint_cut_is_foretold_exactly_where_outputs_are_linear_in_the_gates_and_the_loss_is_quadratic() -> None:
    model = hand_mlp()
    batch = (torch.tensor([[1.0, 2.0], [0.5, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    sites = channels(model, batch[0])
    worth = JointLossChange(batch, mse_loss)(model, sites)
    masks = [{"0": torch.tensor([(number >> unit) % 2 == 1 for unit in range(3)])} for number in range(8)]
    losses = rate(model, sites, masks, batch, mse_loss).losses
    truth = (losses - losses[-1]).tolist()
    assert [worth.foretell(mask) for mask in masks] == pytest.approx(truth, abs=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn", "residual"])
def test_batches_of_any_sizes_give_the_same(name: str) -> None:
    model, sites, x, y = case(name)
    whole = JointLossChange((x, y))(model, sites)
    parts = JointLossChange([(x[:1], y[:1]), (x[1:], y[1:])])(model, sites)
    torch.testing.assert_close(torch.from_numpy(whole.model.pairs), torch.from_numpy(parts.model.pairs))
    assert whole.samples == parts.samples == 5


def test_probabilities_as_targets_have_the_curvature_of_classes() -> None:
    """As where the unpruned model's own answers are the targets, and there are no labels."""
    model, sites, x, _ = case("cnn")
    with torch.no_grad():
        answers = model.eval()(x).softmax(1)
    worth = JointLossChange((x, answers))(model, sites)
    general = JointLossChange((x, answers), lambda z, p: -(p * log_softmax(z, 1)).sum(1).mean())(model, sites)
    assert np.abs(worth.model.slopes).max() < 1e-12  # nothing is better than the model's own answers
    np.testing.assert_allclose(worth.model.pairs, general.model.pairs, atol=1e-12)


# ---- greedy orders ----


def random_model(units: dict[str, int], seed: int = 0) -> Quadratic:
    drawn = np.random.default_rng(seed)
    count = sum(units.values())
    roots = drawn.normal(size=(count - 1, count))
    return Quadratic(units, drawn.normal(size=count) * 0.3, roots.T @ roots / count)


def foretold(model: Quadratic, removed: set[int]) -> float:
    chosen = sorted(removed)
    return float(model.slopes[chosen].sum() + model.pairs[np.ix_(chosen, chosen)].sum() / 2)


def plain_greedy(model: Quadratic, quotas: dict[str, int]) -> list[int]:
    """The same by asking for the loss of every set that is one unit larger."""
    removed: list[int] = []
    for _ in range(sum(quotas.values())):
        free = [
            unit
            for name, span in model.spans.items()
            if len(set(removed) & set(range(span.start, span.stop))) < quotas[name]
            for unit in range(span.start, span.stop)
            if unit not in removed
        ]
        removed.append(min(free, key=lambda unit: foretold(model, {*removed, unit})))
    return removed


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("quotas", [{"a": 4, "b": 3}, {"a": 5, "b": 0}, {"a": 3, "b": 2}])
def test_greedy_is_the_plain_loop(seed: int, quotas: dict[str, int]) -> None:
    model = random_model({"a": 5, "b": 4}, seed)
    removal = model.greedy(quotas)
    assert removal.units.tolist() == plain_greedy(model, quotas)
    for count in range(1, len(removal.units) + 1):
        assert removal.rises[:count].sum() == pytest.approx(foretold(model, set(removal.units[:count].tolist())))


@pytest.mark.parametrize("seed", range(3))
def test_greedy_with_pairs_is_better_than_single_changes_and_near_the_best(seed: int) -> None:
    model = random_model({"a": 8}, seed)
    best = min(foretold(model, set(chosen)) for chosen in combinations(range(8), 4))
    greedy = foretold(model, set(model.greedy({"a": 4}).units.tolist()))
    singles = foretold(model, set(np.argsort(model.alone)[:4].tolist()))
    assert best <= greedy <= singles + 1e-12


def worth_of(model: Quadratic, scope: Any, minimum: int = 1) -> JointWorth:
    return joint_worth(model, scope, minimum, samples=1)


@pytest.mark.parametrize("minimum", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_select_keeps_the_greedy_set_at_any_sparsity(seed: int, minimum: int) -> None:
    sizes = {"a": 6, "b": 4}
    model = random_model(sizes, seed)
    quotas = {name: size - minimum for name, size in sizes.items()}
    order = plain_greedy(model, quotas)
    scores = worth_of(model, "global", minimum)
    for count in range(sum(quotas.values()) + 1):
        keep = select(scores, count / 10, minimum=minimum)
        removed = torch.cat([~keep["a"], ~keep["b"]]).nonzero().flatten().tolist()
        assert removed == sorted(order[:count])


@pytest.mark.parametrize("seed", range(3))
def test_by_layer_each_share_has_the_greedy_set_of_sites_that_keep_pace(seed: int) -> None:
    sizes = {"a": 6, "b": 4}
    model = random_model(sizes, seed)
    scores = worth_of(model, "layer")
    turns = sorted([((k + 0.5) / size, name) for name, size in sizes.items() for k in range(size - 1)])
    for places in range(len(turns) + 1):
        share = (turns[places - 1][0] if places else 0) + 1e-6
        keep = select(scores, share, scope="layer")
        removed: list[int] = []
        for _, name in turns[:places]:
            span = model.spans[name]
            free = [unit for unit in range(span.start, span.stop) if unit not in removed]
            removed.append(min(free, key=lambda unit: foretold(model, {*removed, unit})))
        assert torch.cat([~keep["a"], ~keep["b"]]).nonzero().flatten().tolist() == sorted(removed)


def test_numbers_of_each_site_are_met_and_their_losses_add_up() -> None:
    model = random_model({"a": 5, "b": 4})
    worth = worth_of(model, "global")
    keep = worth.choose({"a": 2, "b": 4})
    assert {name: int(mask.sum()) for name, mask in keep.items()} == {"a": 2, "b": 4}
    assert worth.losses()["a"][3] == pytest.approx(worth.foretell(keep))
    assert worth.losses()["b"][0] == 0


# ---- many outputs ----


@pytest.mark.parametrize("loss", [mse_loss, cross_entropy, binary_cross_entropy_with_logits])
def test_random_directions_have_the_curvature_on_average(loss: Any) -> None:
    torch.manual_seed(0)
    outputs = torch.randn(3, 6, dtype=torch.float64)
    targets = torch.tensor([1, 0, 5]) if loss is cross_entropy else torch.rand(3, 6, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def added_up(most: int, times: int) -> Tensor:
        total = torch.zeros(3, 6, 6, dtype=torch.float64)
        for _ in range(times):
            for root, sign in curvature_roots(outputs, targets, loss, most, generator, "draw"):
                total += sign.reshape(-1, 1, 1) * root.unsqueeze(2) * root.unsqueeze(1)
        return total / times

    torch.testing.assert_close(added_up(5, 2000), added_up(6, 1), rtol=0.1, atol=0.01)


def test_places_of_a_picture_that_are_ignored_do_not_count() -> None:
    outputs, targets = torch.randn(2, 3, 4), torch.full((2, 4), -100)
    targets[0, 1] = 2
    generator = torch.Generator().manual_seed(0)
    roots = list(curvature_roots(outputs, targets, cross_entropy, 2, generator, "draw"))
    assert len(roots) == 2
    assert all(int(root.abs().sum(1).bool().sum()) == 1 for root, _ in roots)


# ---- refusals ----


def test_what_cannot_be_is_refused() -> None:
    model, sites, x, y = case("mlp")
    with pytest.raises(InputError, match="channels"):
        JointLossChange((x, y))(model, weights(model))
    with pytest.raises(UnknownNameError, match="layers"):
        JointLossChange((x, y), scope="layers")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="directions"):
        JointLossChange((x, y), directions=0)
    with pytest.raises(InputError, match="directions=2"):
        JointLossChange((x[:1], y[:1]), own_loss, directions=1)(model, sites)
    worth = JointLossChange((x, y))(model, sites)
    with pytest.raises(UnknownNameError, match="nowhere"):
        worth.foretell({"nowhere": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(InputError, match="units; give one bool"):
        worth.foretell({next(iter(sites)): torch.ones(1, dtype=torch.bool)})
    with pytest.raises(InputError, match="cannot keep"):
        worth.choose({next(iter(sites)): 10_000})


def test_more_units_than_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import secateur.criteria.joint_loss_change as module

    model, sites, x, y = case("mlp")
    just_enough = 24 * sum(site.size for site in sites.values()) ** 2
    monkeypatch.setattr(module, "free_memory", lambda device: just_enough)
    JointLossChange((x, y))(model, sites)
    monkeypatch.setattr(module, "free_memory", lambda device: just_enough - 2)
    with pytest.raises(InputError, match="GiB"):
        JointLossChange((x, y))(model, sites)


def test_it_foretells_the_joint_cut_that_single_changes_do_not() -> None:
    """Half of a trained network's units, each nearly free alone, are dear together; and a greedy half is not."""
    torch.manual_seed(0)
    images, labels = data.load("digits")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 10))
    fit(model, (images, labels), epochs=8, seed=0)
    sites = channels(model, images[:1])
    alone, worth = LossChange((images, labels))(model, sites), JointLossChange((images, labels))(model, sites)
    lower, greedy = select(alone, 0.4), select(worth, 0.4)
    whole, lost, best = rate(model, sites, [{}, lower, greedy], (images, labels)).losses.tolist()
    singles = sum(float(alone[site][~lower[site]].sum()) for site in sites)
    assert abs(worth.foretell(lower) - (lost - whole)) < abs(singles - (lost - whole)) / 2
    assert best < lost
