"""The criteria that look at data, and SynFlow: the contract, numbers worked by hand, and what their papers claim."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from secateur.criteria import (
    ActivationCount,
    ActivationRank,
    ActiveFraction,
    GraSP,
    HessianTrace,
    MeanActivation,
    Movement,
    OptimalBrainDamage,
    OptimalBrainSurgeon,
    Reconstruction,
    Snip,
    SynFlow,
    Wanda,
)
from secateur.criteria.fisher_blocks import fisher_blocks
from secateur.criteria.parameter_gradients import Objective
from secateur.criteria.reconstruction import greedy
from secateur.schedules import Iterative
from secateur.selection import select
from secateur.structure import channels, weights
from secateur.structure.sites import with_zeros
from secateur.testing.conformance import CriterionConformance
from secateur.testing.toys import TOYS, hand_mlp
from secateur.train import SumMovement, fit
from secateur.types import Batches, Criterion, InputError, Loss, Scores, SecateurError, Sites, UnknownNameError
from zoo import ZOO, build


class TestSnip(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return Snip(batches, loss)


class TestGraSP(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return GraSP(batches, loss)


class TestSynFlow(CriterionConformance):
    units = ("channels",)

    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return SynFlow()


class TestOptimalBrainDamage(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return OptimalBrainDamage(batches, loss, "hutchinson", seed=1)


class TestHessianTrace(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return HessianTrace(batches, loss, probes=2)


class TestOptimalBrainSurgeon(CriterionConformance):
    units = ("weights",)

    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return OptimalBrainSurgeon(batches, loss, block=8)

    def test_what_is_tied_gets_one_score_and_can_be_cut(self) -> None:  # type: ignore[override]
        model = hand_mlp()
        with pytest.raises(InputError, match="compares single weights, and '0' has channels"):
            OptimalBrainSurgeon(DATA)(model, channels(model, DATA[0]))


class TestActiveFraction(CriterionConformance):
    units = ("channels",)

    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return ActiveFraction(batches)


class TestActivationCount(CriterionConformance):
    units = ("channels",)

    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return ActivationCount(batches)


class TestMeanActivation(CriterionConformance):
    units = ("channels",)

    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return MeanActivation(batches, reduce="max")


class TestActivationRank(CriterionConformance):
    units = ("channels",)

    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return ActivationRank(batches)


class TestWanda(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return Wanda(batches)


DATA = (torch.tensor([[1.0, 2.0], [0.5, -1.0], [2.0, 0.0]]), torch.tensor([0, 1, 1]))


def mlp(criterion: Criterion) -> Scores:
    model = hand_mlp()
    return criterion(model, channels(model, DATA[0][:1]))


# By hand -------------------------------------------------------------------------------------------------------------


def square(y: Tensor, t: Tensor) -> Tensor:
    return (y**2).sum() / len(y)


def bowl() -> tuple[nn.Linear, tuple[Tensor, Tensor]]:
    """The loss is (2 w1 + w2)², at w = (1, −3): slopes −4 and −2, second derivatives 8 and 2, mixed 4."""
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, -3.0]])
    return model, (torch.tensor([[2.0, 1.0]]), torch.zeros(1, 1))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda data: Snip(data, square), [4 / 10, 6 / 10]),  # |1 · −4| and |−3 · −2|
        (
            lambda data: GraSP(data, square, temperature=1),
            [-40.0, 60.0],
        ),  # Hg = (8·−4 + 4·−2, 4·−4 + 2·−2) = (−40, −20)
        (lambda data: OptimalBrainDamage(data, square), [4.0, 9.0]),  # ½ · 8 · 1 and ½ · 2 · 9
        (lambda data: OptimalBrainDamage(data, square, "empirical"), [8.0, 18.0]),  # ½ · 16 · 1 and ½ · 4 · 9
        (lambda data: Wanda(data), [2.0, 3.0]),
        (lambda data: OptimalBrainSurgeon(data, square, block=1, damping=1e-9), [8.0, 18.0]),
    ],
)
def test_scores_of_single_weights(make: Callable[[object], Criterion], expected: list[float]) -> None:
    model, data = bowl()
    torch.testing.assert_close(make(data)(model, weights(model))["weight"], torch.tensor([expected]))


def test_hutchinson_finds_the_diagonal_of_the_hessian() -> None:
    model, data = bowl()
    sites = weights(model)
    found = OptimalBrainDamage(data, square, "hutchinson", probes=1000)(model, sites)["weight"]
    torch.testing.assert_close(found, torch.tensor([[4.0, 9.0]]), rtol=0.15, atol=0)
    mean = HessianTrace(data, square, probes=1000, weighted=False)(model, sites)["weight"]
    torch.testing.assert_close(mean, torch.tensor([[8.0, 2.0]]), rtol=0.2, atol=0)


def test_the_hessian_trace_of_a_channel_is_its_mean_curvature_times_half_its_squared_norm() -> None:
    # relu(w1 x1 + w2 x2) with x = (2, 1) and w = (1, 1): the trace is 8 + 2, the norm² 2, so (10 / 2) · 2 / 2 = 5.
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    model[0].weight.data, model[2].weight.data = torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.ones(1, 2)
    criterion = HessianTrace((torch.tensor([[2.0, 1.0]]), torch.zeros(1, 1)), square, probes=1000)
    torch.testing.assert_close(
        criterion(model, channels(model, torch.ones(1, 2)))["0"], torch.tensor([5.0, 0.0]), rtol=0.2, atol=0
    )


def test_activity_by_hand() -> None:
    # Hidden units on (1, 2), (0.5, −1), (2, 0): (5, 2, 1), (0, 0, 2.5), (2, 0, 6) after the ReLU; before it −1.5, −0.5, −1.
    assert mlp(ActiveFraction(DATA))["0"].tolist() == [pytest.approx(x / 3) for x in (2, 1, 3)]
    assert mlp(MeanActivation(DATA))["0"].tolist() == [pytest.approx(x / 3) for x in (7, 2, 9.5)]
    assert mlp(ActiveFraction(DATA, threshold=2.0))["0"].tolist() == [pytest.approx(x / 3) for x in (1, 0, 2)]


def test_reads_of_a_channel_are_reduced_in_one_way_of_several() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(1, 2, bias=False), nn.Linear(2, 1), nn.Linear(2, 1)
            self.a.weight.data.fill_(-2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            y: Tensor = self.b(torch.relu(h)) + self.c(h)
            return y

    model = Both()
    data = (torch.tensor([[1.0], [-1.0]]), torch.zeros(2))
    found = {
        way: MeanActivation(data, reduce=way)(model, channels(model, data[0]))["a"][0].item()  # type: ignore[arg-type]
        for way in ("joint", "mean", "sum", "max", "first")
    }
    assert found == {"joint": 1.5, "mean": 1.5, "sum": 3.0, "max": 2.0, "first": 1.0}


def test_the_rank_of_a_map_is_that_of_the_image_even_when_it_is_flattened() -> None:
    image = torch.tensor([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 5.0]]).reshape(1, 1, 3, 3)
    conv = nn.Conv2d(1, 2, 1, bias=False)
    conv.weight.data = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
    flat = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(18, 2))
    whole = nn.Sequential(conv, nn.ReLU(), nn.Conv2d(2, 1, 3))
    for model in (flat, whole):
        assert ActivationRank((image, torch.zeros(1)))(model, channels(model, image))["0"].tolist() == [2.0, 0.0]


def test_greedy_reconstruction_is_the_plain_search() -> None:
    made = torch.randn(30, 6, generator=torch.Generator().manual_seed(3)).double()
    gram = made.T @ made
    left, order = set(range(6)), []
    while left:
        gone = [*order]
        order.append(min(left, key=lambda unit: float(made[:, [*gone, unit]].sum(1).square().sum())))
        left.discard(order[-1])
    scores = greedy(gram)
    assert scores.argsort().tolist() == order
    first = float(made[:, order[0]].square().sum() / made.sum(1).square().sum())
    assert float(scores[order[0]]) == pytest.approx(first, rel=1e-5)


def test_reconstruction_is_the_error_in_the_next_layer() -> None:
    """The first to go is the channel without which the next layer's outputs change least, by running it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3, stride=2, padding=1), nn.Flatten())
    images = torch.randn(6, 2, 8, 8)
    sites = channels(model, images[:1])
    with torch.no_grad():
        whole = nn.functional.conv2d(model[:2](images), model[2].weight, None, 2, 1)
        errors = []
        for unit in range(5):
            h = model[:2](images).clone()
            h[:, unit] = 0
            errors.append(float((whole - nn.functional.conv2d(h, model[2].weight, None, 2, 1)).square().sum()))
    scores = Reconstruction((images, torch.zeros(6)))(model, sites)["0"]
    assert int(scores.argmin()) == min(range(5), key=errors.__getitem__)
    assert float(scores.min()) == pytest.approx(min(errors) / float(whole.square().sum()), rel=1e-4)


def test_movement_sums_weight_times_gradient_over_the_steps() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data = torch.tensor([[1.0]])
    movement = SumMovement()
    data = (torch.ones(1, 1), torch.full((1, 1), 2.0))  # slopes 2 (w − 2): −2 at 1, and −1.6 at 1.2 after a step of 0.1
    fit(model, data, epochs=2, loss="mse", optimizer="sgd", lr=0.1, callbacks=[movement])
    assert movement.moved["weight"].item() == pytest.approx(2 + 1.2 * 1.6)
    assert Movement(movement.moved)(model, weights(model))["weight"].item() == pytest.approx(2 + 1.2 * 1.6)


def test_movement_of_another_model_or_of_half_a_training_is_refused() -> None:
    model = hand_mlp()
    with pytest.raises(InputError, match=r"'0\.weight' of shape \(3, 2\) needs sums of its own, and has none"):
        Movement({})(model, weights(model, ignore=["2.weight"]))

    class Later:
        step = 3

    with pytest.raises(InputError, match="goes on after 3 steps"):
        SumMovement().on_start(Later())  # type: ignore[arg-type]


# What the papers claim -----------------------------------------------------------------------------------------------


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(3 * 4, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False),
    )  # fmt: skip


def test_synaptic_flow_is_conserved_by_layers_and_units() -> None:
    model = deep()
    images = torch.zeros(1, 2, 6, 6)
    single = SynFlow(images)(model, weights(model))
    for name, score in single.items():
        assert float(score.sum()) == pytest.approx(1, rel=1e-5), name
    into = single["0.weight"].sum((1, 2, 3))
    out = single["2.weight"].sum((0, 2, 3))
    torch.testing.assert_close(into, out)
    sites = channels(model, images)
    torch.testing.assert_close(SynFlow()(model, sites)["0"], into)
    torch.testing.assert_close(SynFlow(side="outgoing")(model, sites)["0"], into)


def test_synaptic_flow_knows_neither_signs_nor_data_nor_scales() -> None:
    model = deep()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.neg_()
        other[2].weight.mul_(3)
    a, b = (SynFlow(torch.randn(1, 2, 6, 6) * k)(m, weights(m)) for m, k in ((model, 1), (other, 9)))
    assert all(torch.allclose(a[name], b[name]) for name in a)


def test_a_hundred_rounds_of_synaptic_flow_leave_the_flow_through_every_layer() -> None:
    model = deep()
    images = torch.randn(4, 2, 6, 6)
    keep = Iterative(SynFlow(images), 0.95, steps=100, curve="geometric", minimum=0)(model, weights(model)).keep
    removed = sum(int((~kept).sum()) for kept in keep.values())
    assert removed == round(0.95 * sum(kept.numel() for kept in keep.values()))
    left = SynFlow(images)(with_zeros(model, weights(model), keep), weights(model))
    assert [float(score.sum()) for score in left.values()] == [pytest.approx(1, rel=1e-5)] * 4


def test_synflow_on_single_weights_needs_inputs() -> None:
    with pytest.raises(InputError, match=r"give SynFlow\(example_inputs\)"):
        SynFlow()(hand_mlp(), weights(hand_mlp()))


def test_snip_knows_no_sign_of_a_hidden_unit() -> None:
    """A tanh unit with all its weights negated computes the same, and keeps its score."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (other[0].weight[1], other[0].bias[1], other[2].weight[:, 1]):
            tensor.neg_()
    a, b = (Snip(DATA)(m, weights(m)) for m in (model, other))
    assert all(torch.allclose(a[name], b[name]) for name in a)
    assert sum(float(score.sum()) for score in a.values()) == pytest.approx(1, rel=1e-5)


def test_grasp_is_the_change_of_the_gradients_flow() -> None:
    """−2 · score is the slope of |g|² as a weight shrinks, by finite differences in double precision."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    data = (DATA[0].double(), DATA[1])
    sites = weights(model)
    scores = GraSP(data, temperature=1)(model, sites)["0.weight"]

    def flow() -> float:
        slopes = Objective(model, sites, data, 10, cross_entropy, "test").gradients()
        return sum(float(slope.square().sum()) for slope in slopes.values())

    before = flow()
    with torch.no_grad():
        model[0].weight[1, 0] *= 1 - 1e-6
    assert (flow() - before) / 1e-6 == pytest.approx(-2 * float(scores[1, 0]), rel=1e-3)


def test_gauss_newton_is_the_mean_of_the_fishers_draws() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    many = (DATA[0].repeat(200, 1), DATA[1].repeat(200))
    sites = weights(model)
    exact = OptimalBrainDamage(DATA)(model, sites)
    drawn = OptimalBrainDamage(many, curvature="fisher", seed=1)(model, sites)
    for name in sites:
        torch.testing.assert_close(drawn[name], exact[name], rtol=0.35, atol=1e-3)


def test_gauss_newton_is_the_hessian_of_a_linear_model() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    labels = torch.tensor([0, 2, 1])
    found = Objective(model, weights(model), (DATA[0], labels), 10, cross_entropy, "test").diagonal("gauss-newton")
    hessian = torch.autograd.functional.hessian(
        lambda w: cross_entropy(nn.functional.linear(DATA[0], w, model.bias.detach()), labels), model.weight.detach()
    )
    assert isinstance(hessian, Tensor)
    plain = hessian.reshape(6, 6).diagonal().reshape(3, 2)
    torch.testing.assert_close(found["weight"].float(), plain)


def test_fisher_blocks_are_the_outer_products_of_the_samples_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 3, bias=False)
    objective = Objective(model, weights(model), DATA, 2, cross_entropy, "test")
    found = fisher_blocks(objective, 4, 1e-12)["weight"]
    plain = torch.zeros(8, 8, dtype=torch.float64)
    for x, y in zip(*DATA, strict=True):
        (slope,) = torch.autograd.grad(cross_entropy(model(x[None]), y[None]), model.weight)
        row = torch.cat([slope.flatten(), torch.zeros(2)]).double()
        plain += torch.outer(row, row) / 3
    torch.testing.assert_close(found, torch.stack([plain[:4, :4], plain[4:, 4:]]))


def test_wanda_prefers_small_weights_on_large_inputs() -> None:
    model = nn.Linear(3, 2, bias=False)
    model.weight.data = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    data = (torch.tensor([[10.0, 1.0, 0.0], [0.0, 1.0, 1.0]]), torch.zeros(2))
    keep = select(Wanda(data)(model, weights(model)), 2 / 3, scope="row")["weight"]
    assert keep.tolist() == [[True, False, False], [True, False, False]]


def test_wanda_without_a_product_is_magnitude() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    tokens = (torch.tensor([[1, 2], [3, 4]]), torch.tensor([0, 1]))
    assert torch.equal(Wanda(tokens)(model, weights(model))["0.weight"], model[0].weight.detach().abs())


def test_scores_do_not_depend_on_how_the_data_are_cut_into_batches() -> None:
    toy = TOYS["cnn"]
    model = toy.build()
    sites = channels(model, toy.inputs())
    images, labels = (torch.cat(parts) for parts in zip(*toy.batches(), strict=True))
    for kind in (
        Snip,
        GraSP,
        OptimalBrainDamage,
        ActiveFraction,
        MeanActivation,
        ActivationRank,
        Wanda,
        Reconstruction,
    ):
        a, b = (kind((images, labels), batch_size=size)(model, sites) for size in (12, 5))
        assert all(torch.allclose(a[name], b[name], rtol=1e-4, atol=1e-7) for name in sites), kind


# Every kind of model -------------------------------------------------------------------------------------------------

EVERY: dict[str, Callable[[tuple[Tensor, Tensor]], Criterion]] = {
    "Snip": Snip,
    "GraSP": GraSP,
    "SynFlow": lambda data: SynFlow(data[0]),
    "OptimalBrainDamage, gauss-newton": OptimalBrainDamage,
    "OptimalBrainDamage, empirical": lambda data: OptimalBrainDamage(data, curvature="empirical"),
    "HessianTrace": lambda data: HessianTrace(data, probes=1),
    "OptimalBrainSurgeon": OptimalBrainSurgeon,
    "ActiveFraction": ActiveFraction,
    "MeanActivation": MeanActivation,
    "ActivationRank": ActivationRank,
    "Wanda": Wanda,
    "Reconstruction": Reconstruction,
}
CHANNELS = {"ActiveFraction", "MeanActivation", "ActivationRank", "Reconstruction"}
# Units that no layer reads as channels: those of recurrent layers, of heads that meet each other, of experts.
RECURRENT = ("lstm", "lstm_bidirectional", "lstm_two_layers", "lstm_projection", "gru", "gru_bidirectional", "rnn")
UNREAD = {
    "Reconstruction": (
        *(*RECURRENT, "mixture_of_experts", "weight_standardised", "weight_standardised_by_batch_norm"),
        *("prelu_and_maxout", "overlapping_chunks"),
    )
} | dict.fromkeys(("ActiveFraction", "MeanActivation", "ActivationRank"), ("lstm_projection",))
QUICK = ("cat_and_add", "grouped_deconv", "lstm", "fused_qkv", "tied_embedding", "weight_standardised")


def _fitting(name: str) -> tuple[nn.Module, Tensor]:
    """A model of one input with one output of logits a sample."""
    model, inputs = build(name)
    if len(inputs) != 1:
        pytest.skip("takes several inputs")
    made = model(*inputs)
    if not isinstance(made, Tensor) or len(made) != len(inputs[0]):
        pytest.skip("returns no single tensor with a row for each sample")
    return _Logits(model).eval(), inputs[0]


class _Logits(nn.Module):
    """At most five outputs a sample."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.inner(x).flatten(1)[:, :5]
        return made


def _check(scores: Scores, sites: Sites) -> None:
    assert list(scores) == list(sites)
    for name, score in scores.items():
        assert tuple(score.shape) == sites[name].shape
        assert bool(torch.isfinite(score).all()), name


def _table(name: str) -> None:
    model, inputs = _fitting(name)
    data = (inputs, torch.arange(len(inputs)) % 2)
    groups = {"channels": channels(model, inputs), "weights": weights(model)}
    for title, make in EVERY.items():
        for unit, sites in groups.items():
            if unit == ("weights" if title in CHANNELS else "channels" if title == "OptimalBrainSurgeon" else None):
                continue
            if name in UNREAD.get(title, ()) and unit == "channels":
                with pytest.raises(InputError, match=r"(?s)reads the units of site .*ignore="):
                    make(data)(model, sites)
            else:
                _check(make(data)(model, sites), sites)


@pytest.mark.parametrize("name", QUICK)
def test_every_criterion_scores_this_kind_of_model(name: str) -> None:
    _table(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", [name for name in ZOO if name not in QUICK])
def test_every_criterion_scores_every_kind_of_model(name: str) -> None:
    _table(name)


class _Complex(nn.Module):
    """Units of complex weights, whole or in two real parts."""

    def __init__(self, parts: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        real, imaginary = torch.randn(2, 6, 4)
        self.whole = None if parts else nn.Parameter(torch.complex(real, imaginary))
        self.real, self.imaginary = (nn.Parameter(part) if parts else None for part in (real, imaginary))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.whole is not None:
            made = (self.whole * x.unsqueeze(1)).sum(-1)
            h = made.real.tanh() + made.imag.tanh()
        else:
            h = (self.real * x.unsqueeze(1)).sum(-1).tanh() + (self.imaginary * x.unsqueeze(1)).sum(-1).tanh()
        out: Tensor = self.head(h)
        return out


@pytest.mark.parametrize(
    "title", ["Snip", "GraSP", "OptimalBrainDamage, gauss-newton", "OptimalBrainDamage, empirical", "SynFlow"]
)
def test_a_complex_weight_counts_as_its_two_parts(title: str) -> None:
    x = torch.rand(8, 4, generator=torch.Generator().manual_seed(1))
    data, scores = (x, torch.arange(8) % 3), []
    for parts in (False, True):
        model = _Complex(parts)
        sites = channels(model, x, ignore=["head"])
        scores.append(next(iter(EVERY[title](data)(model, sites).values())))
    if title in ("Snip", "SynFlow"):  # |a + b| instead of |a| + |b|, and the absolute value of both
        assert bool((scores[0] > 0).all())
        assert not torch.allclose(*scores)
    else:
        torch.testing.assert_close(*scores)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GraSP(DATA, temperature=0), "temperature=0 must be a finite number above 0"),
        (lambda: ActiveFraction(DATA, threshold=-1), "threshold=-1 must be a finite number, 0 or more"),
        (lambda: HessianTrace(DATA, probes=0), "probes=0 must be a whole number"),
        (lambda: OptimalBrainSurgeon(DATA, damping=0.0), "damping=0.0 must be a finite number above 0"),
        (lambda: Wanda(iter([DATA])), "iterator"),
        (lambda: Snip(DATA, batch_size=0), "batch_size=0"),
        (lambda: Snip(DATA, loss="msf"), "unknown loss 'msf'; did you mean 'mse'"),
    ],
)
def test_bad_options_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SecateurError, match=message):
        make()


def test_unknown_words_are_refused() -> None:
    for make in (
        lambda: Snip(DATA, side="left"),
        lambda: OptimalBrainDamage(DATA, curvature="exact"),
        lambda: ActivationRank(DATA, reduce="median"),
    ):
        with pytest.raises(UnknownNameError, match="Known: "):
            make()


def test_sites_of_the_wrong_kind_are_refused() -> None:
    model = hand_mlp()
    with pytest.raises(InputError, match=r"scores channels, which '0.weight' does not have"):
        ActiveFraction(DATA)(model, weights(model))
    with pytest.raises(InputError, match=r"reads the units of site '0.weight'"):
        Reconstruction(DATA)(model, weights(model))
    with pytest.raises(InputError, match="draws class labels"):
        OptimalBrainDamage((DATA[0], torch.zeros(3, 2)), mse_loss, "fisher")(model, weights(model))
