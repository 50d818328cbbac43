"""Schedules: the contract that all share, and what each removes, worked by hand or by a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.criteria import LossChange, Magnitude, Random, UnitWorth
from secateur.schedules import Exhaustive, Greedy, Iterative, Precomputed, Schedule, Shrink
from secateur.schedules.goals import fraction_at
from secateur.schedules.walk import Unit
from secateur.structure import blocks, channels, weights
from secateur.structure.sites import with_zeros
from secateur.testing.schedules import ScheduleConformance
from secateur.testing.toys import TOYS
from secateur.types import Batches, FileError, InputError, Keep, Loss, Sites, UnknownNameError

Data = tuple[Tensor, Tensor]


class TestPrecomputed(ScheduleConformance):
    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        return Precomputed(LossChange(batches, loss)(model, sites), 0.4, batches, loss)


class TestPrecomputedAtOnce(ScheduleConformance):
    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        return Precomputed(LossChange(batches, loss)(model, sites), reading="significance")


class TestExhaustive(ScheduleConformance):
    lowers = True

    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        return Exhaustive(batches, loss)


class TestExhaustiveToASparsity(ScheduleConformance):
    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        return Exhaustive(batches, loss, until=0.4)


class TestGreedy(ScheduleConformance):
    lowers = True

    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        return Greedy(batches, loss, order="random", seed=1)


class TestRandomShrink(ScheduleConformance):
    lowers = True

    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        return Shrink(1, batches, loss)


class TestIterative(ScheduleConformance):
    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        return Iterative(Magnitude(), 0.5, steps=3, curve="cubic", data=batches, loss=loss)


def a_step_of_training(model: nn.Module, keep: Keep) -> None:
    """Stands for a training: other weights, always the same."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.01 * (number + 1))


class TestIterativeWithTraining(ScheduleConformance):
    trains = True

    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        return Iterative(Magnitude(), 0.5, 2, "geometric", "layer", a_step_of_training, batches, loss)


def net(seed: int = 0, hidden: int = 8, samples: int = 40) -> tuple[nn.Module, Data, Sites]:
    """A network of one hidden layer that has learnt nothing, and its data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        data = torch.randn(samples, 4), torch.randint(3, (samples,))
    return model, data, channels(model, data[0][:1])


def deep(seed: int = 0) -> tuple[nn.Module, Data, Sites]:
    """Two hidden layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
        data = torch.randn(40, 4), torch.randint(3, (40,))
    return model, data, channels(model, data[0][:1])


class Plain:
    """The loss with units removed, one masked model at a time."""

    def __init__(self, model: nn.Module, sites: Sites, data: Data) -> None:
        self.model, self.sites, self.data = model, sites, data
        self.units = [(name, unit) for name, site in sites.items() for unit in range(site.size)]

    def loss(self, gone: list[Unit]) -> float:
        keep = {name: torch.ones(site.shape, dtype=torch.bool) for name, site in self.sites.items()}
        for name, unit in gone:
            keep[name].view(-1)[unit] = False
        with torch.no_grad():
            return float(cross_entropy(with_zeros(self.model, self.sites, keep).eval()(self.data[0]), self.data[1]))

    def last_of_its_site(self, gone: list[Unit], unit: Unit) -> bool:
        return sum(name == unit[0] for name, _ in gone) == self.sites[unit[0]].size - 1

    def exhaustive(self, count: int | None = None) -> tuple[list[Unit], list[float]]:
        """Remove the best until none is better, or until `count` are gone."""
        gone: list[Unit] = []
        path = [self.loss([])]
        while True:
            free = [u for u in self.units if u not in gone and not self.last_of_its_site(gone, u)]
            if not free or len(gone) == count:
                return gone, path
            loss, best = min((self.loss([*gone, unit]), self.units.index(unit)) for unit in free)
            if count is None and not loss < path[-1] - 1e-7:
                return gone, path
            gone.append(self.units[best])
            path.append(loss)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("make", [net, deep])
def test_exhaustive_takes_the_steps_of_the_plain_loop(make: Any, seed: int) -> None:
    model, data, sites = make(seed)
    removed, path = Plain(model, sites, data).exhaustive()
    pruned = Exhaustive(data)(model, sites)
    assert pruned.history.removed == removed
    assert [pruned.history.loss_before, *(step.loss for step in pruned.history.steps)] == pytest.approx(path, abs=1e-6)
    assert removed, "nothing was tried"
    total = sum(site.size for site in sites.values())
    assert pruned.history.evaluations == 1 + sum(total - gone for gone in range(len(removed) + 1))


@pytest.mark.parametrize("make", [net, deep])
def test_exhaustive_to_a_sparsity_takes_the_steps_of_the_plain_loop(make: Any) -> None:
    model, data, sites = make()
    total = sum(site.size for site in sites.values())
    removed, path = Plain(model, sites, data).exhaustive(round(0.75 * total))
    pruned = Exhaustive(data, until=0.75)(model, sites)
    assert pruned.history.removed == removed
    assert [step.loss for step in pruned.history.steps] == pytest.approx(path[1:], abs=1e-6)


def test_the_way_of_the_last_layer_is_that_of_any_network() -> None:
    """A loss that only looks like another one is measured in full."""
    model, data, sites = net()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    fast, slow = Exhaustive(data, until=0.8)(model, sites), Exhaustive(data, loss, until=0.8)(model, sites)
    assert fast.history.removed == slow.history.removed
    for a, b in zip(fast.history.steps, slow.history.steps, strict=True):
        assert (a.labels, a.evaluations) == (b.labels, b.evaluations)
        assert [a.loss_before, a.loss, a.accuracy] == pytest.approx([b.loss_before, b.loss, b.accuracy], abs=1e-6)


def test_exhaustive_ends_where_no_removal_is_worth_its_tolerance() -> None:
    model, data, sites = net()
    gains = [step.loss_before - step.loss for step in Exhaustive(data)(model, sites).history.steps]
    pruned = Exhaustive(data, tolerance=gains[0] / 2)(model, sites)
    assert 0 < len(pruned.history.steps) < len(gains)
    assert all(step.loss_before - step.loss > gains[0] / 2 for step in pruned.history.steps)


class Named(nn.Module):
    """Four hidden units that each speak for one of two classes, by hand: units of `weights` times 1."""

    def __init__(self, columns: list[list[float]]) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, len(columns), bias=False)
        self.out = nn.Linear(len(columns), 2, bias=False)
        with torch.no_grad():
            self.hidden.weight.fill_(1)
            self.out.weight.copy_(torch.tensor(columns).t())

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(torch.relu(self.hidden(x)))
        return made


# One sample of class 0: the loss is log(1 + exp(−margin)), the margin a sum of what the units say for class 0.
ONE = (torch.ones(1, 1), torch.zeros(1, dtype=torch.int64))


def margins(*said: float) -> tuple[nn.Module, Sites]:
    model = Named([[x, 0.0] for x in said])
    return model, channels(model, ONE[0])


def units(schedule: Schedule, *said: float) -> list[int]:
    return [unit for _, unit in schedule(*margins(*said)).history.removed]


def test_exhaustive_by_hand() -> None:
    assert units(Exhaustive(ONE), 1.0, -2.0, 0.5, -1.0) == [1, 3]  # what speaks loudest against the class goes first
    assert units(Exhaustive(ONE, until=0.75), 1.0, -2.0, 0.5, -1.0) == [1, 3, 2]
    assert units(Exhaustive(ONE), 1.0, 0.0) == []  # no change is no improvement
    assert units(Exhaustive(ONE), -1.0, -1.0, -1.0) == [0, 1]  # the first of equals; one must stay


def test_greedy_by_hand() -> None:
    assert units(Greedy(ONE), 1.0, -2.0, 0.5, -1.0) == [1, 3]
    assert units(Greedy(ONE), -1.0, -2.0, 0.5) == [0, 1]  # in the order given, not by gain
    assert units(Greedy(ONE), 1.0, 0.0, 2.0) == [1]  # what does not matter goes
    tolerance = cross_entropy(torch.tensor([[3.0, 0]]), torch.tensor([0])).item()  # of the margin 3.1 → 3, far more
    assert units(Greedy(ONE, tolerance=tolerance), 0.1, 3.0) == [0]


def test_the_labels_of_greedy() -> None:
    steps = Greedy(ONE)(*margins(0.0, -1.0, 1.0)).history.steps
    assert [step.labels for step in steps] == [("zero",), ("worse",)]


@pytest.mark.parametrize(
    ("skip_rounds", "evaluations"),
    [
        # The units say 4, 2, −1, −8, −16; each round goes up to its first removal. The whole model is one evaluation.
        # 0: rounds measure 0 1 2 | 0 1 3 | 0 1 4 | 0 1.
        (0, [1 + 3, 3, 3, 2]),
        # 1: 0 1 2 | (0 and 1 left out) 3 | 0 1 4 | (left out) nothing | 0 1.
        (1, [1 + 3, 1, 3, 2]),
        # 2: 0 1 2 | 3 | 4 | 0 1.
        (2, [1 + 3, 1, 1, 2]),
        # For good: 0 1 2 | 3 | 4.
        (None, [1 + 3, 1, 1, 0]),
    ],
)
def test_the_skip_rule_of_greedy(skip_rounds: int | None, evaluations: list[int]) -> None:
    pruned = Greedy(ONE, skip_rounds=skip_rounds)(*margins(4.0, 2.0, -1.0, -8.0, -16.0))
    assert [unit for _, unit in pruned.history.removed] == [2, 3, 4]
    spent = [step.evaluations for step in pruned.history.steps]
    assert [*spent, pruned.history.evaluations - sum(spent)] == evaluations


def test_only_what_is_above_the_limit_is_skipped() -> None:
    # Removing 0 costs much, removing 1 next to nothing: only 0 is left out of the second round.
    pruned = Greedy(ONE, skip_rounds=None, skip_above=0.1)(*margins(4.0, 0.01, -1.0, -2.0))
    assert [unit for _, unit in pruned.history.removed] == [2, 3]
    spent = [step.evaluations for step in pruned.history.steps]
    assert [*spent, pruned.history.evaluations - sum(spent)] == [1 + 3, 2, 1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [net, deep])
def test_greedy_ends_where_no_single_removal_helps(make: Any, seed: int) -> None:
    model, data, sites = make(seed)
    pruned, plain = Greedy(data, order="random", seed=seed)(model, sites), Plain(model, sites, data)
    end = plain.loss(pruned.history.removed)
    for unit in plain.units:
        if unit not in pruned.history.removed and not plain.last_of_its_site(pruned.history.removed, unit):
            assert plain.loss([*pruned.history.removed, unit]) > end - 1e-6


def test_the_orders_of_greedy() -> None:
    said = (-1.0, -4.0, -2.0, 1.0)
    assert units(Greedy(ONE, order="estimated", estimate=LossChange(ONE)), *said) == [1, 2, 0]
    model, sites = margins(*([-1.0] * 8))
    found = {tuple(Greedy(ONE, order="random", seed=seed)(model, sites).history.removed) for seed in range(6)}
    assert len(found) > 3


def test_random_shrinking_by_hand() -> None:
    # One at a time the order does not matter: what does not speak for the class goes.
    for seed in range(5):
        assert sorted(units(Shrink(1, ONE, seed=seed), 1.0, -2.0, 0.0, -1.0, 3.0)) == [1, 2, 3]
    # Two at a time, all pairs are seen: {0, 1} keeps −1 + 3 > 0, so a pair goes when its sum is not above 0.
    said = [3.0, -1.0, -2.0, 1.0, -4.0]
    for seed in range(8):
        pruned = Shrink(2, ONE, seed=seed)(*margins(*said))
        for step in pruned.history.steps:
            assert len(step.units) == 2
            assert sum(said[unit] for _, unit in step.units) <= 0
        assert pruned.history.evaluations == 1 + len(said) // 2  # the odd one is left over


def test_random_shrinking_tries_each_unit_once() -> None:
    seen: list[float] = []

    def watch(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(round(float(outputs[0, 0]), 3))
        return cross_entropy(outputs, targets)

    said = [1.0, 2.0, 4.0, 8.0]
    Shrink(1, ONE, watch)(*margins(*said))
    assert sorted({15 - x for x in seen}) == [0, 1, 2, 4, 8]


def test_precomputed_by_hand() -> None:
    model, sites = margins(1.0, -2.0, 0.0, -1.0)
    found = LossChange(ONE)(model, sites)
    assert units(Precomputed(found, 0.5), 1.0, -2.0, 0.0, -1.0) == [1, 3]
    # One sample tells nothing of chance: by significance all are zero, and nothing is decided.
    assert units(Precomputed(found, reading="significance"), 1.0, -2.0, 0.0, -1.0) == [1, 3, 2]
    assert units(Precomputed(found), 1.0, -2.0, 0.0, -1.0) == []
    for name in sites:
        found.error[name] = torch.full((4,), 1e-5)
    assert found.label() == {"hidden": ["important", "worse", "zero", "worse"]}
    assert units(Precomputed(found), 1.0, -2.0, 0.0, -1.0) == [1, 3, 2]
    assert units(Precomputed(found, ("worse",)), 1.0, -2.0, 0.0, -1.0) == [1, 3]
    steps = Precomputed(found, ("worse", "zero"), ONE)(model, sites).history.steps
    assert [step.labels for step in steps] == [("worse",), ("worse",), ("zero",)]
    margin = [torch.tensor([[x, 0.0]]) for x in (-2.0, 0.0, 1.0, 1.0)]
    losses = [cross_entropy(z, ONE[1]).item() for z in margin]
    assert [step.loss_before for step in steps] == pytest.approx(losses[:3])
    assert [step.loss for step in steps] == pytest.approx(losses[1:])


def test_precomputed_follows_the_loss_of_many_removals() -> None:
    model, data, sites = net(hidden=80)
    found = LossChange(data)(model, sites)
    pruned, plain = Precomputed(found, 0.9, data)(model, sites), Plain(model, sites, data)
    assert len(pruned.history.steps) == 72
    for count in (1, 63, 64, 65, 72):
        assert pruned.history.steps[count - 1].loss == pytest.approx(
            plain.loss(pruned.history.removed[:count]), abs=1e-6
        )


def test_iterative_removes_what_is_lowest_in_the_end() -> None:
    model, _, sites = net()
    once = Iterative(Magnitude(), 0.5)(model, sites)
    found = Magnitude()(model, sites)["0"]
    assert sorted(unit for _, unit in once.history.removed) == sorted(found.argsort()[:4].tolist())
    many = Iterative(Magnitude(), 0.5, steps=4)(model, sites)
    assert [len(step.units) for step in many.history.steps] == [1, 1, 1, 1]
    assert many.history.removed == [("0", unit) for unit in found.argsort()[:4].tolist()]


def test_the_curves() -> None:
    cubic = [fraction_at("cubic", 0.875, step, 3) for step in (1, 2, 3)]
    assert cubic == pytest.approx([0.875 * (1 - 8 / 27), 0.875 * (1 - 1 / 27), 0.875])
    assert [fraction_at("geometric", 0.875, step, 3) for step in (1, 2, 3)] == pytest.approx([0.5, 0.75, 0.875])
    assert [fraction_at("linear", 0.9, step, 3) for step in (1, 2, 3)] == pytest.approx([0.3, 0.6, 0.9])


def test_the_training_is_that_of_the_smaller_model() -> None:
    model, _, sites = net()
    sizes: list[int] = []

    def train(small: nn.Module, keep: Keep) -> None:
        sizes.append(next(small.parameters()).shape[0])
        assert keep == {}
        with torch.no_grad():
            next(small.parameters()).mul_(-1)

    pruned = Iterative(Magnitude(), 0.5, steps=2, train=train)(model, sites)
    assert sizes == [6, 4]
    kept = model[0].weight[pruned.keep["0"]]  # type: ignore[index]
    assert torch.equal(pruned.model[0].weight, kept)  # type: ignore[index]


def test_single_weights_are_masked_and_held() -> None:
    model, data, _ = net()
    sites = weights(model)

    def train(small: nn.Module, keep: Keep) -> None:
        assert set(keep) == {"0.weight", "2.weight"}
        with torch.no_grad():
            for parameter in small.parameters():
                parameter.add_(1)

    pruned = Iterative(Magnitude(), 0.5, steps=3, train=train, data=data)(model, sites)
    parameters = dict(pruned.model.named_parameters())
    assert sum(int((~kept).sum()) for kept in pruned.keep.values()) == 28
    for name, kept in pruned.keep.items():
        assert not bool(parameters[name][~kept].any())
        assert bool(parameters[name][kept].all())
    assert len(pruned.history.removed) == 28


def test_a_control_at_random() -> None:
    model, data, sites = net()
    pruned = Iterative(Random(seed=3), 0.5, data=data)(model, sites)
    assert pruned.history.loss == pytest.approx(Plain(model, sites, data).loss(pruned.history.removed), abs=1e-6)


def test_the_log_as_a_table() -> None:
    model, data, sites = net()
    pruned = Shrink(2, data, seed=1)(model, sites)
    frame = pruned.history.frame()
    assert [*frame.columns] == [
        *("step", "site", "unit", "label", "loss_before", "loss", "accuracy", "evaluations", "seconds"),
    ]
    assert list(zip(frame.site, frame.unit, strict=True)) == pruned.history.removed
    assert frame.step.tolist() == [number for number, step in enumerate(pruned.history.steps, 1) for _ in step.units]


def test_a_bar_shows_how_many_units_are_gone(capsys: pytest.CaptureFixture[str]) -> None:
    model, data, sites = net()
    Shrink(2, data, seed=1)(model, sites, progress=True)
    shown = capsys.readouterr()
    assert "units removed" in shown.err
    assert not shown.out
    Shrink(2, data, seed=1)(model, sites)
    assert not capsys.readouterr().err


def test_a_checkpoint_is_of_one_pruning(tmp_path: Path) -> None:
    model, data, sites = net()
    path = tmp_path / "a.safetensors"
    pruned = Exhaustive(data)(model, sites, checkpoint=path)
    for other, what in (
        (Exhaustive(data, until=0.5), "options"),
        (Greedy(data), "schedule, options"),
        (Exhaustive((data[0] * 2, data[1])), "the data"),
    ):
        with pytest.raises(FileError, match=f"another pruning; these differ: {what}"):
            other(model, sites, checkpoint=path)
    assert Exhaustive(data)(model, sites, checkpoint=path).history.steps == pruned.history.steps
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(FileError, match="damaged"):
        Exhaustive(data)(model, sites, checkpoint=path)
    path.write_bytes(b"x")
    with pytest.raises(FileError, match="cannot be read"):
        Exhaustive(data)(model, sites, checkpoint=path)
    with pytest.raises(FileError, match="is a folder"):
        Exhaustive(data)(model, sites, checkpoint=tmp_path)


GOOD = (torch.ones(2, 2), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Exhaustive([]), InputError, "there are no batches"),
        (lambda: Exhaustive(GOOD, until="soon"), InputError, "until='soon'; give 'no improvement', or a sparsity"),
        (
            lambda: Exhaustive(GOOD, until=1.5),
            InputError,
            r"until=1.5 must be a number in .0, 1.: the fraction removed",
        ),
        (lambda: Exhaustive(GOOD, tolerance=-1), InputError, "tolerance=-1 must be a finite number, 0 or more"),
        (lambda: Greedy(GOOD, order="best"), UnknownNameError, "unknown order 'best'"),
        (lambda: Greedy(GOOD, order="estimated"), InputError, "estimate"),
        (lambda: Greedy(GOOD, estimate=Magnitude()), InputError, "estimate"),
        (lambda: Greedy(GOOD, skip_rounds=-1), InputError, "skip_rounds=-1 must be a whole number"),
        (lambda: Greedy(GOOD, skip_above=float("nan")), InputError, "skip_above=nan must be a finite number"),
        (lambda: Greedy(GOOD, seed=0.5), InputError, "seed=0.5 must be a whole number"),
        (lambda: Shrink(0, GOOD), InputError, "n=0 must be a whole number, 1 or more"),
        (lambda: Shrink(1, iter([])), InputError, "iterator"),
        (lambda: Precomputed({}), InputError, "importance is a dict; give what LossChange"),
        (lambda: Precomputed(a_change(), ("bad",)), UnknownNameError, "unknown label 'bad'"),
        (lambda: Precomputed(a_change(), 2), InputError, "remove=2 must be a number in .0, 1.: the fraction removed"),
        (
            lambda: Iterative(Magnitude(), -0.5),
            InputError,
            "sparsity=-0.5 must be a number in .0, 1.: the fraction removed",
        ),
        (lambda: Iterative(Magnitude(), 0.5, steps=0), InputError, "steps=0 must be a whole number, 1 or more"),
        (lambda: Iterative(Magnitude(), 0.5, curve="steep"), UnknownNameError, "unknown curve 'steep'"),
        (lambda: Iterative(Magnitude(), 0.5, scope="local"), UnknownNameError, "unknown scope 'local'"),
    ],
)
def test_options_that_are_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def a_change() -> UnitWorth:
    model = TOYS["mlp"].build()
    return LossChange(GOOD)(model, channels(model, GOOD[0]))


def test_options_that_do_not_fit_the_sites() -> None:
    model, data, sites = net()
    with pytest.raises(InputError, match="n=9 units are to go at a time, and there are 8"):
        Shrink(9, data)(model, sites)
    with pytest.raises(InputError, match=r"sparsity 1.0 would remove 8 of 8 units, .* ask for 0.8750 or less"):
        Exhaustive(data, until=1.0)(model, sites)
    with pytest.raises(InputError, match="minimum=0 would empty a site"):
        Exhaustive(data, minimum=0)(model, sites)
    with pytest.raises(InputError, match="site '0' has shape"):
        Precomputed(a_change(), 0.5)(model, sites)
    changes = LossChange(data)(model, sites)
    changes["0"][1] = float("nan")
    with pytest.raises(InputError, match="hold NaN"):
        Precomputed(changes, 0.5)(model, sites)


class Added(nn.Module):
    """A linear layer around which its input passes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + self.inner(x)
        return made


def test_whole_blocks_can_go() -> None:
    model, (_, data, _) = nn.Sequential(Added(), Added(), Added(), nn.Linear(4, 3)), net()
    sites = blocks(model, data[0][:1])
    pruned = Exhaustive(data, until=2 / 3)(model, sites)
    assert len(pruned.history.removed) == 2
    assert pruned.history.loss == pytest.approx(Plain(model, sites, data).loss(pruned.history.removed), abs=1e-6)
    with pytest.raises(InputError, match="sites of blocks"):
        Iterative(Magnitude(), 1 / 3)(model, sites)


def test_precomputed_stops_where_the_joint_loss_leaves_the_tolerance() -> None:
    model, data, sites = net(hidden=80)
    found, plain = LossChange(data)(model, sites), Plain(model, sites, data)
    whole = plain.loss([])
    found["0"] = torch.rand(80, generator=torch.Generator().manual_seed(0))  # in an order that helps nobody
    full = Precomputed(found, 0.9, data)(model, sites).history
    rises = [step.loss / whole - 1 for step in full.steps]
    within = (max(rises) + max(rises[:10])) / 2
    stopped = Precomputed(found, 0.9, data, within=within)(model, sites).history
    count = next(at for at, rise in enumerate(rises) if rise > within)
    assert 10 <= count < 72
    assert stopped.removed == full.removed[:count]
    assert all(plain.loss(full.removed[:at]) <= (1 + within) * whole for at in range(count + 1))
    assert plain.loss(full.removed[: count + 1]) > (1 + within) * whole
    with pytest.raises(InputError, match="give data to follow it on"):
        Precomputed(found, within=0.01)
