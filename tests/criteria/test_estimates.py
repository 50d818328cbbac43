"""Estimates of the loss change: numbers worked by hand, central differences of gates, sums over batches, bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from secateur.criteria import LossChange, NextLayer, SecondOrder, Taylor
from secateur.criteria.unit_gradients import gradient
from secateur.criteria.weight_rows import parameters_of
from secateur.state import evaluating
from secateur.structure import blocks, channels, weights
from secateur.structure.flow import Flow
from secateur.testing.conformance import CriterionConformance
from secateur.testing.toys import TOYS, hand_mlp
from secateur.types import Batches, Criterion, InputError, Loss, Sites, UnknownNameError
from zoo import build

ESTIMATES: list[type[Any]] = [Taylor, SecondOrder, NextLayer]


class TestTaylor(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return Taylor(batches, loss)


class TestTaylorOnWeights(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return Taylor(batches, loss, sign="squared", on="weights")


class TestSecondOrder(CriterionConformance):
    units = ("channels",)

    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return SecondOrder(batches, loss)

    def test_single_weights_are_masked_by_its_scores(self) -> None:
        """It does not score single weights; see the refusal below."""


class TestFisher(TestSecondOrder):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return SecondOrder(batches, loss, "fisher", seed=3)


class TestGaussNewton(TestSecondOrder):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return SecondOrder(batches, loss, "gauss-newton")


class TestHessian(TestSecondOrder):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return SecondOrder(batches, loss, "hessian")


class TestNextLayer(TestSecondOrder):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return NextLayer(batches, loss)


def total(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss whose gradient at every output is 1: the mean over samples of the sum of their outputs."""
    return outputs.sum() / len(outputs)


def halves(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance, summed over the outputs."""
    return (outputs - targets).square().sum() / 2 / len(outputs)


# Hidden units 5, 2, 1 for (1, 2) and 0, 1, 0 for (0, 0); each adds itself times its outgoing weights to the outputs.
HAND = [(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2))]


@pytest.mark.parametrize(
    ("sign", "expected"),
    [
        # activation · (sum of outgoing weights): 5·3, 2·(−1), 1·4 and 0, 1·(−1), 0
        ("signed", [-15 / 2, 3 / 2, -4 / 2]),
        ("absolute", [15 / 2, 3 / 2, 4 / 2]),
        ("squared", [225 / 2, 5 / 2, 16 / 2]),
    ],
)
def test_first_order_by_hand(sign: Any, expected: list[float]) -> None:
    model = hand_mlp()
    sites = channels(model, HAND[0][0])
    assert Taylor(HAND, total, sign, normalise=False, minibatch=1)(model, sites)["0"].tolist() == expected


def test_the_papers_norm_and_minibatch_by_hand() -> None:
    model = hand_mlp()
    sites = channels(model, HAND[0][0])
    absolute, squared = (Taylor(HAND, total, sign)(model, sites)["0"] for sign in ("absolute", "squared"))
    torch.testing.assert_close(absolute, torch.tensor([7.5, 1.5, 2.0]) / (7.5**2 + 1.5**2 + 2**2) ** 0.5)
    assert squared.tolist() == [7.5**2, 1.5**2, 2.0**2]


def test_the_signed_estimate_is_the_change_itself_where_the_loss_is_linear() -> None:
    model = hand_mlp()
    sites = channels(model, HAND[0][0])
    exact = LossChange(HAND, total)(model, sites)
    torch.testing.assert_close(Taylor(HAND, total, "signed")(model, sites)["0"], exact["0"])


def test_second_order_is_the_change_itself_where_the_loss_is_quadratic() -> None:
    """Outputs (3, 13) and (−1, −1), targets 0; removing a unit subtracts it times its outgoing weights."""
    model = hand_mlp()
    sites = channels(model, HAND[0][0])
    first = (3**2 + 13**2) / 2, (1 + 1) / 2
    without = [(-2) ** 2 / 2 + 3**2 / 2, (5**2 + 13**2) / 2, (3**2 + 9**2) / 2]
    other = [1.0, (0 + 1) / 2, 1.0]
    expected = [(a + b - sum(first)) / 2 for a, b in zip(without, other, strict=True)]
    for curvature in ("gauss-newton", "hessian"):
        scores = SecondOrder(HAND, halves, curvature)(model, sites)
        assert scores["0"].tolist() == pytest.approx(expected, rel=1e-5)
    assert LossChange(HAND, halves)(model, sites)["0"].tolist() == pytest.approx(expected)


def test_half_the_square_of_each_sample_s_first_order() -> None:
    model = hand_mlp()
    scores = SecondOrder(HAND, total)(model, channels(model, HAND[0][0]))
    # (−15 + 225/2)/2, ((2 + 2) + (1 + ½))/2 − …: s + ½ s² for s = −15, 2, −4 and 0, 1, 0, over two samples
    assert scores["0"].tolist() == [(-15 + 112.5) / 2, (2 + 2 + 1 + 0.5) / 2, (-4 + 8) / 2]


def gate_differences(model: nn.Module, sites: Sites, name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivatives of the mean loss along each gate of a site, by central differences."""
    flow, step, size = Flow(model, sites), 1e-4, sites[name].size

    def at(unit: int, gate: float) -> float:
        gates = torch.ones(size, dtype=torch.double)
        gates[unit] = gate
        with torch.no_grad():
            outputs = flow(x, lambda read, h: h * read.spread(gates) if read.site == name else h)
        return float(cross_entropy(outputs, y))

    middle = at(0, 1.0)
    both = [(at(unit, 1 + step), at(unit, 1 - step)) for unit in range(size)]
    slopes = [(up - down) / 2 / step for up, down in both]
    bends = [(up + down - 2 * middle) / step**2 for up, down in both]
    return torch.tensor(slopes, dtype=torch.double), torch.tensor(bends, dtype=torch.double)


@pytest.mark.parametrize("name", list(TOYS))
def test_derivatives_are_those_of_central_differences(name: str) -> None:
    toy = TOYS[name]
    model = toy.build(torch.float64)
    x, y = toy.inputs(dtype=torch.float64), toy.batches()[0][1]
    sites = channels(model, x)
    first = Taylor((x, y))(model, sites)
    second = SecondOrder((x, y), curvature="hessian")(model, sites)
    for site in sites:
        slopes, bends = gate_differences(model, sites, site, x, y)
        torch.testing.assert_close(first[site], -slopes, rtol=0, atol=1e-7)
        torch.testing.assert_close(second[site], bends / 2 - slopes, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn", "residual", "grouped"])
def test_gauss_newton_is_the_hessian_of_networks_of_relus(name: str) -> None:
    """Where units are read once; around a residual connection two reads of one unit make a product."""
    toy = TOYS[name]
    model = toy.build(torch.float64)
    data = toy.inputs(dtype=torch.float64), toy.batches()[0][1]
    sites = channels(model, data[0], ignore=["stem"] if name in {"residual", "grouped"} else [])
    gauss, exact = (SecondOrder(data, curvature=c)(model, sites) for c in ("gauss-newton", "hessian"))
    for site in sites:
        torch.testing.assert_close(gauss[site], exact[site])


def test_gauss_newton_of_any_loss_is_that_of_cross_entropy() -> None:
    """The closed form and the eigenvalues of the loss's Hessian."""
    toy = TOYS["cnn"]
    model, data = toy.build(torch.float64), (toy.inputs(dtype=torch.float64), toy.batches()[0][1])
    sites = channels(model, data[0])
    closed = SecondOrder(data, curvature="gauss-newton")(model, sites)
    general = SecondOrder(data, lambda z, y: cross_entropy(z, y), "gauss-newton")(model, sites)
    for site in sites:
        torch.testing.assert_close(closed[site], general[site])


def test_fisher_with_many_draws_is_gauss_newton() -> None:
    toy = TOYS["mlp"]
    model = toy.build()
    x, y = toy.inputs(batch=4000), torch.zeros(4000, dtype=torch.int64)
    sites = channels(model, x)
    gauss = SecondOrder((x, y), curvature="gauss-newton")(model, sites)["0"]
    one, same, other = (SecondOrder((x, y), curvature="fisher", seed=seed)(model, sites)["0"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, gauss, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("kind", ESTIMATES)
@pytest.mark.parametrize("name", list(TOYS))
def test_batches_of_any_sizes_give_the_same(name: str, kind: Callable[..., Criterion]) -> None:
    """Means are over samples, not over batches, and what is squared is squared sample by sample."""
    toy = TOYS[name]
    model = toy.build(torch.float64)
    x, y = toy.inputs(7, dtype=torch.float64), torch.arange(7) % toy.classes
    sites = channels(model, x)
    whole = kind((x, y))(model, sites)
    parts = kind([(x[:1], y[:1]), (x[1:6], y[1:6]), (x[6:], y[6:])])(model, sites)
    sized = kind((x, y), batch_size=3)(model, sites)
    for site in sites:
        torch.testing.assert_close(parts[site], whole[site])
        torch.testing.assert_close(sized[site], whole[site])


class Pooled(nn.Module):
    """A model with the mean over positions as logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.model(x)
        return made.reshape(len(x), -1, made.shape[-1]).mean(1)


def test_samples_are_found_where_other_axes_come_first() -> None:
    model, (x, *_) = build("encoder_layer")
    model = Pooled(model).double().eval()
    x = torch.randn(4, *x.shape[1:], generator=torch.Generator().manual_seed(1)).double()
    y = torch.arange(4) % 2
    sites = channels(model, x)
    assert any(r.source.meta["val"].shape[0] != 4 for found in Flow(model, sites).reads(x).values() for r in found)
    whole = SecondOrder((x, y))(model, sites)
    single = SecondOrder([(x[i : i + 1], y[i : i + 1]) for i in range(4)])(model, sites)
    for site in sites:
        torch.testing.assert_close(whole[site], single[site])


class Recurrent(nn.Module):
    """A recurrent layer of two levels whose last state is classified."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.layer = kind(3, 4, num_layers=2, batch_first=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.layer(x)[0][:, -1])
        return logits


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_units_that_a_loop_reads_have_the_derivative_of_all_weights_that_read_them(kind: Any) -> None:
    torch.manual_seed(0)
    model = Recurrent(kind).double().eval()
    x, y = torch.randn(5, 6, 3).double(), torch.tensor([0, 1, 1, 0, 1])
    sites = channels(model, x)
    scores = Taylor((x, y))(model, sites)["layer"]
    members = [m for m in sites["layer"].members if m.role == "in"]
    parameters = parameters_of(model, sites)
    assert {m.parameter for m in members} > {"layer.weight_hh_l0", "layer.weight_ih_l1", "fc.weight"}

    def loss_at(unit: int, gate: float) -> float:
        kept = {m.parameter: parameters[m.parameter].detach().clone() for m in members}
        with evaluating(model):
            for m in members:
                assert m.index is not None
                assert m.dim is not None
                along = parameters[m.parameter].movedim(m.dim, 0)
                along[m.index[unit]] = along[m.index[unit]] * gate
            found = float(cross_entropy(model(x), y))
            for name, values in kept.items():
                parameters[name].copy_(values)
        return found

    slopes = [(loss_at(u, 1.0001) - loss_at(u, 0.9999)) / 0.0002 for u in range(4)]
    torch.testing.assert_close(scores, -torch.tensor(slopes, dtype=torch.double), rtol=0, atol=1e-7)


def test_single_weights_are_weight_times_gradient() -> None:
    """With the loss as the sum of outputs, an outgoing weight's slope is its unit, and an incoming one's x times the rest."""
    model = hand_mlp()
    scores = Taylor(HAND, total, "signed")(model, weights(model))
    assert scores["2.weight"].tolist() == [[-2.5, 1.5, 0.0], [-5.0, 0.0, -2.0]]
    # only sample (1, 2) reaches the weights: x · weight · (3, −1, 4), halved
    assert scores["0.weight"].tolist() == [[-1.5, -6.0], [-0.5, 1.0], [-6.0, 4.0]]


def test_all_that_produces_a_unit_of_a_relu_is_worth_what_the_unit_is() -> None:
    """Weights and bias together: a ReLU is its input times its slope."""
    toy = TOYS["cnn"]
    model, data = toy.build(torch.float64), (toy.inputs(dtype=torch.float64), toy.batches()[0][1])
    sites = channels(model, data[0])
    by_weights, by_activations = (Taylor(data, on=on)(model, sites)["4"] for on in ("weights", "activations"))
    torch.testing.assert_close(by_weights, by_activations)


def test_blocks_are_scored_by_all_their_weights() -> None:
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = x + self.fc(x)
            return made

    model = nn.Sequential(Block(), Block(), nn.Linear(3, 2)).double()
    data = torch.randn(5, 3).double(), torch.tensor([0, 1, 0, 1, 1])
    sites = blocks(model, data[0])
    cross_entropy(model(data[0]), data[1]).backward()
    expected = [-sum((p * p.grad).sum() for p in model[at].parameters() if p.grad is not None) for at in range(2)]
    (scores,) = Taylor(data)(model, sites).values()
    torch.testing.assert_close(scores, torch.stack(expected))  # type: ignore[arg-type]


def test_the_next_layer_followed_by_hand() -> None:
    """x = (1), hidden 2 and 1; the next layer's one unit is relu(2 − 1 − 0.5) = 0.5, or 0 and 1.5 without one."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1, bias=False))
    values = ([[2.0], [1.0]], [[1.0, -1.0]], [-0.5], [[3.0]])
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.data = torch.tensor(value)
    data = torch.ones(1, 1), torch.zeros(1, 1)
    sites = channels(model, data[0])
    assert NextLayer(data, total, "signed")(model, sites)["0"].tolist() == [(0 - 0.5) * 3, (1.5 - 0.5) * 3]
    assert Taylor(data, total, "signed")(model, sites)["0"].tolist() == [
        -2 * 3,
        1 * 3,
    ]  # knows nothing of the ReLU's zero


def test_the_next_layer_is_its_plain_loop() -> None:
    toy = TOYS["cnn"]
    model, (x, y) = toy.build(torch.float64), (toy.inputs(dtype=torch.float64), toy.batches()[0][1])
    scores = NextLayer((x, y))(model, channels(model, x))
    h = model[:4](x).detach()
    end = model[4:6](h).detach().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(model[6:](end), y), end)
    for unit in range(4):
        without = h.clone()
        without[:, unit] = 0
        torch.testing.assert_close(scores["0"][unit], ((model[4:6](without) - end) * slope).sum().detach())


@pytest.mark.parametrize("loss", [cross_entropy, lambda z, y: cross_entropy(z, y)])
def test_where_the_next_layer_is_the_last_it_is_exact(loss: Loss) -> None:
    for name, site in (("mlp", "0"), ("cnn", "4")):
        toy = TOYS[name]
        model = toy.build()
        sites = channels(model, toy.inputs())
        exact = LossChange(toy.batches())(model, sites)
        torch.testing.assert_close(NextLayer(toy.batches(), loss)(model, sites)[site], exact[site])


def test_activations_that_are_changed_in_place_are_taken_before() -> None:
    def make(inplace: bool) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(inplace), nn.Conv2d(3, 4, 3), nn.ReLU(inplace), nn.Flatten(), nn.Linear(16, 3)
        )

    x, y = torch.randn(5, 1, 6, 6), torch.tensor([0, 1, 2, 0, 1])
    plain, inplace = make(False), make(True)
    for kind in ESTIMATES:
        first, second = (kind((x, y))(model, channels(model, x)) for model in (plain, inplace))
        for site in first:
            torch.testing.assert_close(first[site], second[site])


def test_parameters_that_are_frozen_change_nothing() -> None:
    toy = TOYS["cnn"]
    model = toy.build()
    sites = channels(model, toy.inputs())
    for kind in ESTIMATES:
        before = kind(toy.batches())(model.requires_grad_(True), sites)
        with torch.no_grad():
            after = kind(toy.batches())(model.requires_grad_(False), sites)
        assert all(torch.equal(before[site], after[site]) for site in sites)


def test_each_sample_s_gradient_is_that_of_its_own_loss() -> None:
    """The loss of a batch is a mean, so that its gradient is smaller by the number of samples."""
    outputs, targets = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    assert gradient(outputs, targets, mse_loss).tolist() == [[2.0], [6.0]]


def test_options_that_do_not_exist() -> None:
    data = TOYS["mlp"].batches()
    with pytest.raises(UnknownNameError, match="unknown sign 'abs'"):
        Taylor(data, sign="abs")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match=r"'outputs'.*Known: activations, weights"):
        Taylor(data, on="outputs")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown curvature 'fischer'; did you mean 'fisher'"):
        SecondOrder(data, curvature="fischer")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ESTIMATES)
def test_data_that_do_not_fit_are_refused(kind: Any) -> None:
    name = kind.__name__
    model = hand_mlp()
    sites = channels(model, torch.zeros(1, 2))
    with pytest.raises(InputError, match=f"{name}: got an iterator"):
        kind(iter(TOYS["mlp"].batches()))
    with pytest.raises(InputError, match=f"{name}: there are no batches"):
        kind([])
    with pytest.raises(UnknownNameError, match="unknown loss 'msf'; did you mean 'mse'"):
        kind(TOYS["mlp"].batches(), "msf")
    with pytest.raises(InputError, match=f"{name}: batch_size=0"):
        kind(TOYS["mlp"].batches(), batch_size=0)
    with pytest.raises(InputError, match=f"{name}, batch 1: label 2 is out of range"):
        kind((torch.zeros(1, 2), torch.tensor([2])))(model, sites)


@pytest.mark.parametrize("kind", [SecondOrder, NextLayer])
def test_single_weights_have_no_gates(kind: Any) -> None:
    model = hand_mlp()
    with pytest.raises(InputError, match="channels"):
        kind(TOYS["mlp"].batches())(model, weights(model))


def test_fisher_needs_classes() -> None:
    model = hand_mlp()
    with pytest.raises(InputError, match=r"draws class labels.*gauss-newton"):
        SecondOrder(HAND, mse_loss, "fisher")(model, channels(model, HAND[0][0]))
