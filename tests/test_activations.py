"""Statistics of activations: exact counts, merged over batches and workers, at one pass."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.activations import UnitCounts, UnitStatistics, activation_counts, activation_statistics
from secateur.criteria import ActivationCount, ActiveFraction
from secateur.structure import channels
from secateur.structure.flow import Flow
from secateur.structure.maps import MapPass
from secateur.types import InputError


def model_of(kind: str) -> tuple[nn.Sequential, Tensor]:
    """A model of each kind of layer, with what it is counted on."""
    torch.manual_seed(0)
    layers: dict[str, tuple[list[nn.Module], tuple[int, ...]]] = {
        "linear": ([nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)], (4,)),
        "convolution": ([nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 3, 3)], (2, 7, 7)),
        "transposed": ([nn.ConvTranspose2d(2, 5, 3, 2), nn.ReLU(), nn.ConvTranspose2d(5, 3, 3)], (2, 4, 4)),
        "flattened": ([nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 25, 3)], (2, 7, 7)),
    }
    modules, shape = layers[kind]
    return nn.Sequential(*modules).eval(), torch.randn(23, *shape)


KINDS = ["linear", "convolution", "transposed", "flattened"]


def brute_force(model: nn.Sequential, inputs: Tensor) -> Tensor:
    """What the nonlinearity gives, one row a unit."""
    after = next(n for n, module in enumerate(model) if isinstance(module, nn.ReLU)) + 1
    with torch.no_grad():
        return model[:after](inputs).transpose(0, 1).flatten(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [2, 7, 500])
def test_counts_are_those_of_a_brute_force_count(kind: str, batch_size: int) -> None:
    model, inputs = model_of(kind)
    rows = brute_force(model, inputs)
    expected = torch.tensor([sum(float(value) != 0 for value in row) for row in rows])
    data = inputs, torch.zeros(len(inputs))
    counts = activation_counts(model, channels(model, inputs[:1]), data, batch_size=batch_size)["0"]
    assert torch.equal(counts.active, expected)
    assert counts.values == rows.shape[1]
    assert 0 < int(expected.min()) < rows.shape[1]


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_the_concatenated_data(kind: str) -> None:
    model, inputs = model_of(kind)
    rows = brute_force(model, inputs).double()
    data = inputs, torch.zeros(len(inputs))
    statistics = activation_statistics(model, channels(model, inputs[:1]), data, batch_size=5)["0"]
    assert torch.equal(statistics.counts.active, (rows != 0).sum(1))
    assert torch.equal(statistics.maximum, rows.amax(1))
    for value, expected in (
        (statistics.mean, rows.mean(1)),
        (statistics.mean_absolute, rows.abs().mean(1)),
        (statistics.variance, rows.var(1, correction=0)),
    ):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-15)


def test_parts_merge_into_the_whole_in_any_order_and_across_processes() -> None:
    rows = torch.randn(3, 40, 2).relu()
    whole = UnitStatistics()
    whole.add(rows)
    parts = []
    for at in (slice(30, 40), slice(0, 1), slice(1, 30)):
        part = UnitStatistics()
        part.add(rows[:, at])
        parts.append(pickle.loads(pickle.dumps(part)))
    merged = UnitStatistics()
    for part in parts:
        merged.merge(part)
    assert torch.equal(merged.counts.active, whole.counts.active)
    assert merged.counts.values == whole.counts.values == 80
    assert torch.equal(merged.maximum, whole.maximum)
    torch.testing.assert_close(merged.variance, whole.variance, rtol=1e-12, atol=0)
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=0)


def test_what_holds_nothing_merges_into_nothing_else() -> None:
    counts, rows = UnitCounts(), torch.tensor([[[1.0, 0.0]]])
    counts.add(rows)
    counts.merge(UnitCounts())
    empty = UnitCounts()
    empty.merge(counts)
    assert (counts.values, counts.active.tolist()) == (empty.values, empty.active.tolist()) == (2, [1])


def test_counts_above_other_thresholds_do_not_add_up() -> None:
    counts, other = UnitCounts(), UnitCounts(threshold=0.5)
    other.add(torch.ones(1, 1, 1))
    with pytest.raises(InputError, match=r"above 0\.5 cannot be added to counts above 0\.0"):
        counts.merge(other)


def test_small_values_count_as_zero_where_asked() -> None:
    model, inputs = model_of("linear")
    rows, data = brute_force(model, inputs), (inputs, torch.zeros(len(inputs)))
    scores = ActivationCount(data, threshold=0.3)(model, channels(model, inputs[:1]))["0"]
    assert torch.equal(scores, (rows > 0.3).sum(1).double())


def test_the_count_is_the_fraction_times_the_values() -> None:
    model, inputs = model_of("convolution")
    sites, data = channels(model, inputs[:1]), (inputs, torch.zeros(len(inputs)))
    counts = activation_counts(model, sites, data)["0"]
    torch.testing.assert_close(ActiveFraction(data)(model, sites)["0"].double(), counts.fraction, rtol=1e-6, atol=0)


class Ops(TorchDispatchMode):
    """Notes which ops run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_a_pass_runs_no_op_behind_the_last_map() -> None:
    model, inputs = model_of("linear")
    sizes: list[tuple[int, ...]] = []
    sites = channels(model, inputs[:1])
    run = MapPass(Flow(model, sites), lambda read, activations, spent: sizes.append(activations.shape))
    run(inputs)
    with Ops() as ops:
        run(inputs)
    assert sizes == [(23, 6), (23, 6)]
    assert [name for name in ops.names if name in ("aten::addmm", "aten::relu_")] == ["aten::addmm", "aten::relu_"]


class InPlace(nn.Module):
    """What is read was written into after its op had run."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x.view(-1).relu_()
        return self.last(x)


def test_a_map_is_counted_as_it_is_when_it_is_read() -> None:
    torch.manual_seed(0)
    model, inputs = InPlace().eval(), torch.randn(40, 4)
    counts = activation_counts(model, channels(model, inputs[:1]), (inputs, torch.zeros(40)))["first"]
    assert torch.equal(counts.active, (model.first(inputs) > 0).sum(0))


@pytest.mark.parametrize("samples", [1, 15, 37, 100, 1009])
def test_counts_are_the_same_whatever_the_parts(samples: int) -> None:
    model, _ = model_of("convolution")
    inputs = torch.randn(samples, 2, 7, 7, generator=torch.Generator().manual_seed(samples))
    expected = (brute_force(model, inputs) != 0).sum(1)
    counts = activation_counts(model, channels(model, inputs[:1]), (inputs, torch.zeros(samples)))["0"]
    assert torch.equal(counts.active, expected)
    assert counts.values == samples * 25
    both = activation_counts(model, channels(model, inputs[:1]), [(inputs, torch.zeros(samples))] * 2)["0"]
    assert torch.equal(both.active, 2 * expected)


class Twice(nn.Module):
    """Two layers read the same activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.left(x) + self.right(x)


def test_a_tensor_that_two_layers_read_is_counted_once() -> None:
    model, inputs = Twice().eval(), torch.randn(9, 3)
    counts = activation_counts(model, channels(model, inputs[:1]), (inputs, torch.zeros(9)))["first"]
    assert counts.values == 9
    assert torch.equal(counts.active, (model.first(inputs) > 0).sum(0))


class Shared(nn.Module):
    """What a ReLU is given is read by others, too, or lies in the memory of something that is read later."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first, self.second, self.last = kind, nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.norm = nn.BatchNorm1d(6)

    def first_map(self, x: Tensor) -> Tensor:
        return self.first(x).relu()

    def second_map(self, x: Tensor) -> Tensor:
        before = self.first(x)
        after = before.relu()
        if self.kind == "residual":
            return (self.second(after) + before).relu()
        if self.kind == "view":
            return self.second(after).view(-1).relu().view(-1, 6) + before.view(-1, 6)
        return self.norm(self.second(after)).relu_() + before

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second_map(x))


@pytest.mark.parametrize("kind", ["residual", "view", "norm"])
@pytest.mark.parametrize("counting", [activation_counts, activation_statistics])
def test_what_is_written_over_is_read_by_nothing_else(kind: str, counting: Any) -> None:
    torch.manual_seed(0)
    model, inputs = Shared(kind).eval(), torch.randn(50, 4)
    before = inputs.clone()
    statistics = counting(model, channels(model, inputs[:1]), (inputs, torch.zeros(50)), batch_size=16)
    counts = [getattr(site, "counts", site) for site in statistics.values()]
    with torch.no_grad():
        expected = [(mapped(inputs) != 0).sum(0) for mapped in (model.first_map, model.second_map)]
    assert len(counts) == 1  # one site: the sum ties both layers
    assert torch.equal(counts[0].active, expected[0] + expected[1])
    assert torch.equal(inputs, before)


def test_what_is_counted_may_be_a_view_of_the_inputs_and_stays_as_it_is() -> None:
    inputs = torch.randn(20, 6).relu()
    counts, kept = UnitCounts(), inputs.clone()
    counts.add(inputs.t().unsqueeze(-1))
    assert torch.equal(counts.active, (inputs != 0).sum(0))
    assert torch.equal(inputs, kept)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_what_is_no_number_is_not_silent(threshold: float) -> None:
    counts = UnitCounts(threshold)
    counts.add(torch.tensor([[[float("nan"), 0.0, -0.0]], [[float("inf"), -1.0, 0.25]], [[0.0, 0.0, -0.0]]]))
    assert counts.active.tolist() == [1, 2 if threshold else 3, 0]


def test_what_was_counted_of_other_units_is_not_added() -> None:
    for size in (1, 5):
        counts = UnitCounts(values=10, active=torch.tensor([1, 2, 3]))
        with pytest.raises(InputError, match=f"of {size} units cannot be added to counts of 3"):
            counts.merge(UnitCounts(values=10, active=torch.arange(size)))
        with pytest.raises(InputError, match=f"of {size} units"):
            counts.add(torch.ones(size, 2, 1))
        assert (counts.values, counts.active.tolist()) == (10, [1, 2, 3])
        statistics, other = UnitStatistics(), UnitStatistics()
        statistics.add(torch.ones(3, 2, 1))
        other.add(torch.ones(size, 2, 1))
        with pytest.raises(InputError, match=f"of {size} units"):
            statistics.merge(other)
        assert statistics.mean.tolist() == [1.0, 1.0, 1.0]
    stricter = UnitStatistics(UnitCounts(threshold=0.5))
    stricter.add(torch.zeros(3, 2, 1))
    with pytest.raises(InputError, match=r"counts above 0\.5"):
        statistics.merge(stricter)
    assert statistics.mean.tolist() == [1.0, 1.0, 1.0]
