"""LossChange: numbers worked by hand, and the plain loop over `mask` for every unit of every kind of model."""

from __future__ import annotations

import copy
import io
import re
import warnings
from dataclasses import replace
from itertools import product
from math import ceil, inf, isclose, isnan, nan, sqrt

import pytest
import rich.console
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils import _pytree as pytree

from secateur.criteria import LossChange, SecondOrder, UnitWorth
from secateur.criteria.loss_change import Base
from secateur.criteria.loss_change.labels import Uncertainty, student
from secateur.labelled import SampleBatch
from secateur.pruning import prune
from secateur.rate.memory import Budget
from secateur.rate.tally import UnitTally
from secateur.rate.units import GraphEngine
from secateur.rate.whole import PlainLoop
from secateur.structure import blocks, channels, weights
from secateur.structure.sites import with_zeros
from secateur.testing.conformance import CriterionConformance
from secateur.testing.toys import TOYS, hand_mlp
from secateur.types import Batches, Criterion, InputError, Loss, SecateurError, Sites, TraceError
from zoo import ZOO, build
from zoo.random_nets import RULES, NetStep, RandomNet

ONE = (torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))
ROOMY = Budget(2**30, 2**25)
TIGHT = Budget(1, 1)


class TestLossChange(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return LossChange(batches, loss)


def brute(model: nn.Module, sites: Sites, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The changes by the book: mask one unit, run the whole model, again for each."""
    base = cross_entropy(model(x).double(), y)
    found = {}
    for name, site in sites.items():
        changes = []
        for unit in range(site.size):
            kept = torch.ones(site.size, dtype=torch.bool)
            kept[unit] = False
            masked = with_zeros(model, sites, {name: kept.view(site.shape)}).eval()
            changes.append(cross_entropy(masked(x).double(), y) - base)
        found[name] = torch.stack(changes).float().view(site.shape)
    return found


def measured(model: nn.Module, sites: Sites, x: Tensor, y: Tensor, budget: Budget = ROOMY) -> UnitWorth:
    """The changes by the engine for traced models alone, in the model's own precision: where it gives up the test fails."""
    tally = UnitTally(cross_entropy, sites)
    GraphEngine(model, sites, budget).measure(SampleBatch(x, y), tally)
    return UnitWorth.of(tally)


def assert_equal_to_brute(model: nn.Module, sites: Sites, x: Tensor, budget: Budget = ROOMY) -> UnitWorth:
    with torch.no_grad():
        y = torch.arange(len(x)) % model(x).shape[1]
        expected = brute(model, sites, x, y)
    found = measured(model, sites, x, y, budget)
    for name in sites:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5 * max(found.base.loss, 0.1))
    return found


class Logits(nn.Module):
    """A model of any outputs as a classifier: the first output, its mean over all but samples and classes."""

    def __init__(self, inner: nn.Module, others: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.inner, self.others = inner, others

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = pytree.tree_leaves(self.inner(x, *self.others))[0]
        if out.ndim == 3:
            out = out.mean(1 if len(out) == len(x) else 0)
        out = out.flatten(2).mean(2) if out.ndim > 3 else out
        return torch.cat([out, -out], 1) if out.shape[1] == 1 else out


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", list(ZOO))
def test_every_unit_of_the_zoo_is_as_by_brute_force(name: str) -> None:
    inner, inputs = build(name)
    model = Logits(inner, inputs[1:]).eval()
    sites = channels(model, inputs[0])
    found = assert_equal_to_brute(model, sites, inputs[0])
    assert any(bool(x.any()) for x in found.values())


@pytest.mark.parametrize("budget", [ROOMY, TIGHT], ids=["roomy", "tight"])
@pytest.mark.parametrize("name", list(TOYS))
def test_every_unit_of_the_toys_is_as_by_brute_force_whatever_the_memory(name: str, budget: Budget) -> None:
    model = TOYS[name].build()
    assert_equal_to_brute(model, channels(model, TOYS[name].inputs()), TOYS[name].inputs(5), budget)


programs = st.lists(
    st.builds(NetStep, st.integers(0, len(RULES) - 1), st.integers(0, 11), st.integers(0, 11)), max_size=6
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(programs, st.integers(0, 2), st.integers(0, 3))
def test_every_unit_of_random_nets_is_as_by_brute_force(program: list[NetStep], kind: int, seed: int) -> None:
    net = RandomNet(program, kind, seed)
    model, x = Logits(net, ()).eval(), net.example(batch=3, seed=1)
    try:
        sites = channels(model, x)
    except TraceError:
        return
    assert_equal_to_brute(model, sites, x)


class InPlace(nn.Module):
    """Ops that write into tensors that are read before and afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(self.relu(x))
        y = self.relu(y.view(-1, 4))
        y += x
        y.mul_(0.5).sigmoid_()
        out: Tensor = self.c(y)
        return out


def test_ops_in_place_leave_what_is_kept_alone() -> None:
    model = InPlace()
    x = torch.randn(6, 3)
    assert_equal_to_brute(model, channels(model, x), x)
    assert_equal_to_brute(model, channels(model, x), x, TIGHT)


class Overlapping(nn.Module):
    """Writes into a part of a tensor, and reads the whole of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x[1:] *= 2
        out: Tensor = self.b(x)
        return out


def test_what_cannot_be_run_in_parts_takes_the_plain_loop_and_says_so() -> None:
    model, x, y = Overlapping(), torch.randn(6, 3), torch.tensor([0, 1] * 3)
    sites = channels(model, x)
    with pytest.warns(UserWarning, match="whole model once for each unit.*another view"):
        found = LossChange((x, y))(model, sites)
    torch.testing.assert_close(found["a"], brute(model, sites, x, y)["a"], rtol=0, atol=1e-6)


class SmallBatchesOnly(nn.Module):
    """Cannot be traced on more than four samples."""

    def __init__(self) -> None:
        super().__init__()
        self.net = hand_mlp()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x if len(x) <= 4 or float(x.sum()) > 0 else -x)
        return out


def test_a_model_that_cannot_be_traced_takes_the_plain_loop_and_says_so() -> None:
    model, x, y = SmallBatchesOnly(), torch.randn(6, 2), torch.tensor([0, 1] * 3)
    sites = channels(model, x[:2])
    with pytest.warns(UserWarning, match="whole model once for each unit.*cannot be traced"):
        found = LossChange([(x, y), (x, y)])(model, sites)
    torch.testing.assert_close(found["net.0"], brute(model, sites, x, y)["net.0"], rtol=0, atol=1e-5)


class Reversed(nn.Module):
    """Mixes its samples: the answer to each is made from another one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = hand_mlp()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.flip(0))
        return out


def test_samples_that_depend_on_each_other_are_not_taken_apart() -> None:
    model, x, y = Reversed(), torch.randn(6, 2), torch.tensor([0, 1] * 3)
    sites = channels(model, x)
    with pytest.warns(UserWarning, match="computes something else"):
        found = LossChange((x, y), max_memory=1)(model, sites)
    torch.testing.assert_close(found["net.0"], brute(model, sites, x, y)["net.0"], rtol=0, atol=1e-5)


def test_what_vmap_does_not_take_is_run_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("vmap takes nothing")

    monkeypatch.setattr(torch, "vmap", refuse)
    toy = TOYS["attention"]
    assert_equal_to_brute(toy.build(), channels(toy.build(), toy.inputs()), toy.inputs())


def test_changes_worked_by_hand() -> None:
    """Outputs (3, 13) and their mean square 89; without a unit (−2, 3), (5, 13), (3, 9) and 6.5, 97, 45."""
    model = hand_mlp()
    found = LossChange(ONE, mse_loss)(model, channels(model, ONE[0]))
    assert found["0"].tolist() == [-82.5, 8.0, -44.0]
    assert found.base.loss == 89
    assert found.error["0"].tolist() == [inf] * 3
    assert isnan(found.base.accuracy)
    assert found.accuracy["0"].isnan().all()
    assert found.class_accuracy["0"].shape == (3, 0)


def test_errors_worked_by_hand() -> None:
    """Two samples: (1, 2) changes by −82.5, 8, −44; zeros, units (0, 1, 0) and outputs (−1, −1), by 0, −½, 0."""
    model = hand_mlp()
    x, y = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2)
    found = LossChange([(x[:1], y[:1]), (x[1:], y[1:])], mse_loss)(model, channels(model, x))
    assert found["0"].tolist() == [-41.25, 3.75, -22.0]
    # the standard deviation of two numbers is their difference / √2; of their mean, that / √2 again
    assert found.error["0"].tolist() == [41.25, 4.25, 22.0]


def test_accuracies_worked_by_hand() -> None:
    """Outputs (3, 13); without a unit (−2, 3), (5, 13), (3, 9): the answer is 1 always; on zeros (−1, −1), then (0, −1)."""
    model = hand_mlp()
    x, y = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]), torch.tensor([1, 0, 1])
    found = LossChange((x, y))(model, channels(model, x))
    assert found.base.accuracy == 2 / 3
    assert found.base.class_accuracy.tolist() == [1, 0.5]
    assert found.base.class_count.tolist() == [1, 2]
    assert found.accuracy["0"].tolist() == [0, 0, 0]
    model[2].bias.data = torch.tensor([-0.5, -1.0])  # zeros are (−1.5, −1), the answer 1; without unit 1 (−.5, −1), 0
    found = LossChange((x, y))(model, channels(model, x))
    assert found.base.accuracy == 2 / 3
    assert found.class_accuracy["0"].tolist() == [[0, 0], [1, -0.5], [0, 0]]
    assert found.accuracy["0"].tolist() == [0, 0, 0]
    assert found.exact["0"].all()


def test_a_class_without_samples_has_no_accuracy() -> None:
    toy = TOYS["cnn"]
    found = LossChange((toy.inputs(), torch.tensor([0, 2] * 3)))(toy.build(), channels(toy.build(), toy.inputs()))
    assert found.base.class_accuracy.isnan().tolist() == [False, True, False]
    assert all(x.isnan().any(0).tolist() == [False, True, False] for x in found.class_accuracy.values())
    assert not any(x.isnan().any() for x in found.accuracy.values())


def test_single_weights_are_those_of_the_plain_loop() -> None:
    model = hand_mlp()
    x, y = torch.randn(5, 2), torch.tensor([0, 1, 0, 1, 0])
    sites = weights(model)
    found = LossChange((x, y))(model, sites)
    for name, expected in brute(model, sites, x, y).items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-6)
    assert found.class_accuracy["2.weight"].shape == (2, 3, 2)


def test_weights_in_another_order_in_memory() -> None:
    model = TOYS["cnn"].build()
    sites = weights(model, ignore=["7.*"])
    expected = LossChange(TOYS["cnn"].batches())(model, sites)
    found = LossChange(TOYS["cnn"].batches())(copy.deepcopy(model).to(memory_format=torch.channels_last), sites)
    torch.testing.assert_close(dict(found), dict(expected), rtol=0, atol=1e-6)


def test_blocks_are_measured_whole() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.tanh(self.fc(x))

    model = nn.Sequential(nn.Linear(3, 4), *(Block() for _ in range(3)), nn.Linear(4, 2))
    x, y = torch.randn(6, 3), torch.tensor([0, 1] * 3)
    sites = blocks(model, x)
    found = LossChange((x, y))(model, sites)
    for name, expected in brute(model, sites, x, y).items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-6)


def test_many_single_weights_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.criteria.loss_change.criterion.MANY", 5)
    model = hand_mlp()
    with pytest.warns(UserWarning, match="12 single weights"):
        LossChange(ONE, mse_loss)(model, weights(model))


def test_batches_of_unequal_sizes_are_the_whole() -> None:
    toy = TOYS["residual"]
    model, x, y = toy.build(), toy.inputs(10), torch.arange(10) % 3
    sites = channels(model, x)
    whole = LossChange((x, y))(model, sites)
    for data in (
        LossChange([(x[:7], y[:7]), (x[7:], y[7:])]),
        LossChange((x, y), batch_size=3),
        LossChange((x, y), max_memory=9000),
    ):
        found = data(model, sites)
        assert found.base.count == 10
        for name in sites:
            torch.testing.assert_close(found[name], whole[name], rtol=0, atol=1e-6)
            torch.testing.assert_close(found.error[name], whole.error[name], rtol=1e-3, atol=1e-6)
            assert torch.equal(found.accuracy[name], whole.accuracy[name])


def test_a_model_of_another_precision_is_measured_in_single() -> None:
    toy = TOYS["cnn"]
    model, batches = toy.build(), toy.batches()
    sites = channels(model, toy.inputs())
    single = LossChange(batches)(model, sites)
    double = LossChange([(x.double(), y) for x, y in batches])(model.double(), sites)
    assert all(torch.equal(single[name], double[name]) for name in sites)


class Smooth:
    """A loss that is no function of torch's, and has no `reduction`."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets, label_smoothing=0.1)


class Unfriendly(Smooth):
    """Looks at values, which vmap does not take."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().__call__(outputs, targets) if float(outputs.sum()) > -1e9 else outputs.sum()


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(label_smoothing=0.1), Smooth(), Unfriendly()])
def test_losses_of_all_kinds_are_taken_by_sample(loss: Loss) -> None:
    toy = TOYS["cnn"]
    model, (x, y) = toy.build(), toy.batches()[0]
    sites = channels(model, x)
    found = LossChange((x, y), loss)(model, sites)
    with torch.no_grad():
        base = float(loss(model(x), y))
        masked = with_zeros(model, sites, {"0": torch.tensor([True, False, True, True])})
        assert found.base.loss == pytest.approx(base, rel=1e-6)
        assert float(found["0"][1]) == pytest.approx(float(loss(masked(x), y)) - base, abs=1e-6)
    assert getattr(loss, "reduction", "mean") == "mean"


def test_a_loss_that_is_no_plain_mean_is_refused() -> None:
    toy = TOYS["cnn"]
    model, data = toy.build(), toy.batches()
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 1.0]))
    with pytest.raises(InputError, match="plain mean of its samples' losses"):
        LossChange(data, weighted)(model, channels(model, toy.inputs()))
    with pytest.raises(InputError, match="returns the mean, a scalar"):
        LossChange(data, lambda o, y: (o.sum(1) - y)[:, None])(model, channels(model, toy.inputs()))


def changes(values: list[float], errors: list[float], count: int = 10**6) -> UnitWorth:
    model = hand_mlp()
    made = LossChange(ONE, mse_loss)(model, channels(model, ONE[0]))
    made["0"], made.error["0"] = torch.tensor(values), torch.tensor(errors)
    made.base = replace(made.base, count=count)
    return made


def test_labels_by_interval_and_tolerance() -> None:
    base = changes([0.0] * 3, [0.0] * 3).base.loss
    allowed = 0.001 * base  # 0.089
    z = 2.3940  # of 1 − 0.05 / 2 / 3, for three units at once
    half = [0.01, 0.05, 0.2]
    for change, expected in (
        (allowed + 0.06, ["important", "important", "undecided"]),
        (allowed + 0.02, ["important", "undecided", "undecided"]),
        (0.02, ["zero", "zero", "undecided"]),
        (-0.03, ["worse", "zero", "undecided"]),  # −0.03 ± 0.05 lies within ±0.089
        (-0.15, ["worse", "worse", "undecided"]),
        (-0.25, ["worse", "worse", "worse"]),
    ):
        made = changes([change] * 3, [h / z for h in half])
        assert made.label()["0"] == expected, change
        assert made.label(pooled=False)["0"] == expected, change
        low, high = made.interval()["0"].T
        torch.testing.assert_close(high - low, 2 * torch.tensor(half, dtype=torch.float64), rtol=1e-3, atol=0)
        needed = made.images()["0"]
        for label, count in zip(expected, needed.tolist(), strict=True):
            assert (label == "undecided") == (count > made.base.count)
    assert changes([0.02] * 3, [0.2 / z] * 3).label(tolerance=1.0)["0"] == ["zero"] * 3
    assert changes([0.1, 0.0, -0.1], [inf] * 3).label()["0"] == ["undecided"] * 3
    assert changes([1.0, 0.0, -0.1], [0.0] * 3).label()["0"] == ["important", "zero", "worse"]
    with pytest.raises(InputError, match="'fdr' has no intervals"):
        made.label(correction="fdr")


def test_an_interval_by_hand() -> None:
    """Over 10 samples t of 10 degrees is 2.2281: √((pooled + 9 · error²) / 10), pooled (0.01 + 0 + 0.05) / 3 = 0.02."""
    made = changes([0.0] * 3, [0.1, 0.0, 0.05**0.5], 10)
    low, high = made.interval(correction=None)["0"].T
    expected = [2.2281 * sqrt(square / 10) for square in (0.02 + 0.09, 0.02, 0.02 + 0.45)]
    torch.testing.assert_close(high - low, 2 * torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=0)
    alone = made.interval(correction=None, pooled=False)["0"][:, 1]
    torch.testing.assert_close(alone, 2.2622 * made.error["0"].double(), rtol=1e-4, atol=0)  # 9 degrees


@pytest.mark.parametrize("count", [3, 10, 100, 10_000])
def test_the_images_that_are_said_to_decide_do(count: int) -> None:
    """At as many samples as `images` says, with the same spread, an interval just fits."""
    made = changes([0.3, -0.2, 0.01], [0.5, 0.1, 0.2], count)
    for unit, needed in enumerate(made.images(tolerance=0.001, pooled=True)["0"].tolist()):
        spread = Uncertainty.of(
            made.error["0"].double(), torch.full((3,), 0.1, dtype=torch.float64), count, 0.05, "holm"
        )
        wanted = spread.images_needed(made["0"].double(), 0.001 * made.base.loss)[unit]
        assert isclose(needed, float(wanted), rel_tol=1e-6)
        own, rest = spread._squares()
        room = max(0.3 - 0.089, 0.089 - 0.3, -0.3) if unit == 0 else 0.2 if unit == 1 else 0.089 - 0.01
        assert isclose(float(own[unit] / needed + rest[unit] / needed**2), room**2, rel_tol=0.01)


def test_a_label_is_rarely_wrong_where_most_samples_are_quiet() -> None:
    """One sample in a hundred moves a unit, by a half on average: its change is five times the tolerance of 0.001.

    A unit whose 100 samples were all quiet has no spread of its own, and is called zero by it; not by its site's.
    """
    wrong = {True: 0, False: 0}
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        moved, by = torch.rand(2, 100, 40, generator=generator, dtype=torch.float64)
        samples = (moved < 0.01) * by
        made = UnitWorth(Base(1.0, 0.5, torch.zeros(2), 100, torch.tensor([50, 50])), {"fc": samples.mean(0).float()})
        made.error["fc"] = (samples.std(0) / 10).float()
        for pooled in wrong:
            wrong[pooled] += "zero" in made.label(pooled=pooled)["fc"]
    assert wrong[True] <= 2
    assert wrong[False] == 40


def test_students_quantiles() -> None:
    stats = pytest.importorskip("scipy.stats")
    for level, freedom in product((0.5, 0.05, 1e-4, 1e-8), (1, 2, 3, 4, 6, 10, 30, 1000)):
        assert isclose(student(level, freedom), stats.t.isf(level / 2, freedom), rel_tol=2e-5)


def test_more_samples_decide_more_units() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3)).eval()
    with torch.no_grad():
        model[2].weight.mul_(4)
        x = torch.randn(8000, 6)
        y = torch.multinomial(model(x).softmax(1), 1).flatten()
    undecided = []
    for count in (50, 1000, 8000):
        found = LossChange((x[:count], y[:count]))(model, channels(model, x[:1]))
        undecided.append(found.label()["0"].count("undecided"))
        needed = found.images()["0"]
        assert int((needed > count).sum()) == undecided[-1]
    assert undecided[0] > undecided[1] > undecided[2]
    text = found.summary()
    assert "practical (tolerance 0.1 % of the loss)" in text
    assert "significance" in text
    if undecided[-1]:
        assert "samples would decide half of the undecided" in text


def test_labels_by_significance() -> None:
    made = changes([0.25, 0.15, -0.25], [0.1, 0.1, 0.1])  # 1.96 · 0.1 reaches 0.196
    assert made.label(correction=None, reading="significance") == {"0": ["important", "zero", "worse"]}
    assert made.label(correction=None, tolerance=0.06 / made.base.loss, reading="significance") == {
        "0": ["zero", "zero", "zero"]
    }
    assert made.label(alpha=0.2, correction=None, reading="significance") == {"0": ["important", "important", "worse"]}


def test_a_change_without_error_is_sure_and_one_without_any_is_zero() -> None:
    assert changes([0.1, 0.0, -0.1], [0.0] * 3).label(reading="significance") == {"0": ["important", "zero", "worse"]}
    assert changes([0.1, 0.0, -0.1], [inf] * 3).label(reading="significance") == {"0": ["zero"] * 3}


def test_what_is_within_the_numbers_precision_is_zero() -> None:
    made = changes([2e-4, -8e-4, 1e-3], [1e-9] * 3)  # the loss is 89
    assert made.label(reading="significance") == {"0": ["zero", "zero", "important"]}
    assert made.label(tolerance=0, reading="significance") == {"0": ["important", "worse", "important"]}


def test_corrections_for_many_units() -> None:
    """p = 0.0124, 0.0244, 0.0455: Bonferroni allows 0.0167 each; Holm 0.0167, 0.025, 0.05; Benjamini–Hochberg as many."""
    made = changes([2.5, 2.25, -2.0], [1.0] * 3)
    assert made.label(correction=None, reading="significance")["0"] == ["important", "important", "worse"]
    assert made.label(correction="bonferroni", reading="significance")["0"] == ["important", "zero", "zero"]
    assert made.label(correction="holm", reading="significance")["0"] == ["important", "important", "worse"]
    assert made.label(correction="fdr", reading="significance")["0"] == ["important", "important", "worse"]
    made = changes([2.25, 2.1, -2.0], [1.0] * 3)  # p = 0.0244, 0.0357, 0.0455: the first is above 0.0167
    assert made.label(correction="holm", reading="significance")["0"] == ["zero", "zero", "zero"]
    assert made.label(correction="fdr", reading="significance")["0"] == ["important", "important", "worse"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, "alpha=0 must be a number in"),
        ({"alpha": True}, "alpha=True"),
        ({"tolerance": -1}, "tolerance=-1"),
        ({"tolerance": nan}, "tolerance=nan"),
        ({"correction": "hol"}, "unknown correction 'hol'; did you mean 'holm'"),
    ],
)
def test_labels_of_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises((InputError, LookupError), match=message):
        changes([0.1] * 3, [0.1] * 3).label(**options)  # type: ignore[arg-type]


def test_the_table_has_a_row_for_each_unit() -> None:
    model = hand_mlp()
    x, y = torch.randn(8, 2), torch.tensor([0, 1] * 4)
    found = LossChange((x, y))(model, weights(model))
    table = found.frame()
    assert list(table) == [
        *("site", "unit", "loss", "error", "low", "high", "accuracy", "images", "class 0", "class 1", "label"),
        *("significance", "exact"),
    ]
    assert len(table) == 12
    row = table[(table.site == "2.weight") & (table.unit == 4)].iloc[0]
    assert row.loss == pytest.approx(float(found["2.weight"][1, 1]))
    assert row["class 1"] == float(found.class_accuracy["2.weight"][1, 1, 1])
    assert repr(found) == f"UnitWorth(12 units of 2 sites, loss {found.base.loss:.4g} on 8 samples)"


def test_pruning_by_it_removes_what_hurts_least() -> None:
    model = hand_mlp()
    x, y = torch.randn(20, 2), torch.tensor([0, 1] * 10)
    criterion = LossChange((x, y))
    lowest = int(criterion(model, channels(model, x))["0"].argmin())
    result = prune(model, x, criterion=criterion, sparsity=0.34, latency=False)
    assert result.keep["0"].tolist() == [unit != lowest for unit in range(3)]
    assert result.report.criterion == "LossChange(loss=cross_entropy)"


def test_a_tally_that_misses_units_is_told_apart() -> None:
    """Units that were not asked for are marked as not exact."""
    model = hand_mlp()
    x, y = torch.randn(4, 2), torch.tensor([0, 1] * 2)
    sites = channels(model, x)
    tally = UnitTally(cross_entropy, sites, {"0": torch.tensor([2])})
    GraphEngine(model, sites, ROOMY).measure(SampleBatch(x, y), tally)
    assert UnitWorth.of(tally).exact["0"].tolist() == [False, False, True]


def test_a_screen_measures_the_lowest_estimates_and_marks_the_others() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3))
    x, y = torch.randn(60, 6), torch.arange(60) % 3
    sites = channels(model, x[:1])
    exact, screened = (LossChange((x, y), screen=screen)(model, sites) for screen in (None, 0.1))
    estimated = SecondOrder((x, y))(model, sites)
    measured = torch.cat(list(screened.exact.values()))
    assert int(measured.sum()) == 5  # 3 of 30 are looked for
    order = torch.cat(list(estimated.values())).argsort()
    assert sorted(order[:5].tolist()) == measured.nonzero().flatten().tolist()
    for name in sites:
        known = screened.exact[name]
        torch.testing.assert_close(screened[name], torch.where(known, exact[name], estimated[name]), rtol=0, atol=1e-7)
        for of in ("error", "accuracy", "class_accuracy"):
            assert torch.equal(
                getattr(screened, of)[name].isnan().flatten(1 if of == "class_accuracy" else 0).any(-1).reshape(-1)
                if of == "class_accuracy"
                else getattr(screened, of)[name].isnan(),
                ~known,
            )
        labels = screened.label()[name]
        assert [label == "unmeasured" for label in labels] == (~known).tolist()
    assert len(screened.frame()) == 30


def test_a_screen_measures_what_estimates_leave_out() -> None:
    toy = TOYS["attention"]
    sites = channels(toy.build(), toy.inputs())
    found = LossChange(toy.batches(), screen=0.01)(toy.build(), sites)
    assert found.exact["embed"].all()  # a layer norm takes statistics over its units
    assert not found.exact["v"].any() if "v" in sites else True


def test_a_screen_takes_single_weights() -> None:
    toy = TOYS["cnn"]
    found = LossChange(toy.batches(), screen=0.1)(toy.build(), weights(toy.build()))
    assert sum(int(x.sum()) for x in found.exact.values()) == ceil(0.15 * sum(x.numel() for x in found.values()))


@pytest.mark.parametrize("plain", [False, True])
def test_the_bar_reaches_its_end(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    console, written = rich.console.Console, io.StringIO()
    monkeypatch.setattr(rich.console, "Console", lambda **_: console(file=written, force_terminal=True, width=80))
    toy = TOYS["cnn"]
    model = toy.build()
    sites = weights(model, ignore=["7.*"]) if plain else channels(model, toy.inputs())
    LossChange(toy.batches(), progress=True)(model, sites)
    assert re.search(r"loss changes .*100%", written.getvalue())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": []}, "no batches"),
        ({"data": iter([ONE])}, "iterator"),
        ({"data": ONE, "loss": 3}, "unknown loss .3."),
        ({"data": ONE, "max_memory": 0}, "max_memory=0"),
        ({"data": ONE, "batch_size": 1.5}, "batch_size=1.5"),
        ({"data": ONE, "screen": 1}, "screen=1 must be a number in"),
        ({"data": ONE, "screen": True}, "screen=True must be a number"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(SecateurError, match=message):
        LossChange(**options)  # type: ignore[arg-type]


def test_bad_data_are_refused() -> None:
    model = hand_mlp()
    sites = channels(model, ONE[0])
    with pytest.raises(InputError, match=r"label 2 is out of range for a model of 2 outputs"):
        LossChange((torch.zeros(1, 2), torch.tensor([2])))(model, sites)
    with pytest.raises(InputError, match="batch 2 is a int"):
        LossChange([ONE, 3], mse_loss)(model, sites)  # type: ignore[list-item]
    with pytest.raises(InputError, match="belong to another model"):
        LossChange(ONE)(nn.Linear(2, 2), sites)


def test_the_plain_loop_leaves_its_model_as_it_was() -> None:
    model = TOYS["attention"].build()
    before = copy.deepcopy(model.state_dict())
    sites = channels(model, TOYS["attention"].inputs())
    x, y = TOYS["attention"].batches()[0]
    PlainLoop(model, sites).measure(SampleBatch(x, y), UnitTally(cross_entropy, sites))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_no_warning_where_all_goes_well() -> None:
    model = TOYS["residual"].build()
    sites = channels(model, TOYS["residual"].inputs())
    with warnings.catch_warnings(record=True) as seen:
        LossChange(TOYS["residual"].batches())(model, sites)
    assert not seen


def test_memory_is_what_is_free(tmp_path: object) -> None:
    assert 0 < Budget.of(torch.device("cpu")).total < 2**45
    assert sqrt(Budget.of(torch.device("cpu"), 4).total) == 2
