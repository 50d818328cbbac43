"""Models that can only run in part, or not in parts at all: masks, units and candidates are those of the masked model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.criteria import LossChange
from secateur.labelled import SampleBatch
from secateur.rate.downdate import _of_convolution
from secateur.rate.masks import Removals, rate
from secateur.rate.population import Population
from secateur.rate.program import Line, Programs, Unfit, leading_to
from secateur.rate.samples import SampleLoss
from secateur.rate.suffix import Shut, Suffix
from secateur.search import Space, only
from secateur.structure import channels, weights
from secateur.structure.flow import Flow
from secateur.structure.ops import product_of, writes
from secateur.structure.sites import with_zeros
from secateur.testing.toys import hand_mlp
from secateur.types import InputError, Sites


class Net(nn.Module):
    """Three layers; what is between them, subclasses say."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)


class WritesIntoAView(Net):
    """Writes into some samples of a tensor, and reads the whole of it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu() + 0.1
        x[1:] *= 2
        logits: Tensor = self.c(self.b(x).relu())
        return logits


class WritesInABlock(Net):
    """Writes into a tensor inside of a block that the graph runs as one op."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        with torch.no_grad():
            x.mul_(2).add_(0.1)
        logits: Tensor = self.c(self.b(x).relu())
        return logits


class AddsIntoTheWayAround(Net):
    """Writes what a searched layer makes into what was made before it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        beside = x + 0.1
        beside += self.b(x)
        logits: Tensor = self.c(beside.relu_())
        return logits


class NormOfTheBatch(Net):
    """Norms by the batch's own statistics, in evaluation too: no sample stands by itself."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(self.b(self.a(x).relu()), None, None, training=True)
        logits: Tensor = self.c(x.relu())
        return logits


class KeepsATable(Net):
    """Computes a weight once for evaluation, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None

    def train(self, mode: bool = True) -> KeepsATable:
        self.table = None
        super().train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        table = self.c.weight @ self.b.weight if self.table is None else self.table
        if not self.training:
            self.table = table
        return F.linear(self.a(x).relu(), table, self.c.bias)


NETS = [WritesIntoAView, WritesInABlock, AddsIntoTheWayAround, NormOfTheBatch, KeepsATable]


def labelled(model: nn.Module) -> tuple[Tensor, Tensor]:
    x = torch.randn(12, 6)
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    y[::3] = (y[::3] + 1) % 3
    return x, y


def sites_of(model: nn.Module, x: Tensor, unit: str) -> Sites:
    return weights(model) if unit == "weights" else channels(model, x)


def draws(sites: Sites, count: int) -> list[dict[str, Tensor]]:
    return [{name: torch.rand(site.shape) > 0.4 for name, site in sites.items()} for _ in range(count)]


@pytest.mark.parametrize("unit", ["weights", "channels"])
@pytest.mark.parametrize("net", NETS)
def test_masks_are_those_of_the_masked_model(net: type[Net], unit: str) -> None:
    model = net().eval()
    x, y = labelled(model)
    sites = sites_of(model, x, unit)
    keeps = draws(sites, 4)
    losses = rate(model, sites, keeps, (x, y)).losses
    with torch.no_grad():
        expected = [F.cross_entropy(with_zeros(model, sites, keep).eval()(x), y).double() for keep in keeps]
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unit", ["weights", "channels"])
@pytest.mark.parametrize("net", NETS)
def test_candidates_are_those_of_the_masked_model(net: type[Net], unit: str) -> None:
    model = net().eval()
    x, y = labelled(model)
    space = Space(model, sites_of(model, x, unit))
    genes = np.random.default_rng(0).random((6, space.size)) < 0.6
    counts = Population(space, x, y).right(genes)
    with torch.no_grad():
        masked = [with_zeros(model, space.sites, space.keep(row)).eval() for row in genes]
        expected = [int((one(x).argmax(1) == y).sum()) for one in masked]
    assert counts.tolist() == expected


@pytest.mark.parametrize("net", NETS)
def test_candidates_of_one_layer_are_those_of_the_masked_model(net: type[Net]) -> None:
    model = net().eval()
    x, y = labelled(model)
    space = Space(model, only(weights(model), "b.weight"))
    genes = np.random.default_rng(0).random((6, space.size)) < 0.6
    counts = Population(space, x, y).right(genes)
    with torch.no_grad():
        masked = [with_zeros(model, space.sites, space.keep(row)).eval() for row in genes]
        expected = [int((one(x).argmax(1) == y).sum()) for one in masked]
    assert counts.tolist() == expected


@pytest.mark.parametrize("net", [WritesIntoAView, AddsIntoTheWayAround, NormOfTheBatch])
def test_gradients_are_those_of_the_masked_model(net: type[Net]) -> None:
    model = net().eval()
    x, y = labelled(model)
    space = Space(model, only(weights(model), "b.weight"))
    genes = np.random.default_rng(0).random(space.size) < 0.6
    slopes = Population(space, x, y).gradient(genes, None, np.array([0]))
    masked = with_zeros(model, space.sites, space.keep(genes)).eval()
    F.cross_entropy(masked(x), y).backward()
    gradient = masked.get_parameter("b.weight").grad
    assert gradient is not None
    np.testing.assert_allclose(slopes, (gradient * model.b.weight).flatten().detach().numpy(), atol=1e-6)


@pytest.mark.filterwarnings("ignore:LossChange runs the whole model")
@pytest.mark.parametrize("net", NETS)
def test_units_are_those_of_the_masked_model(net: type[Net]) -> None:
    model = net().eval()
    x, y = labelled(model)
    sites = channels(model, x)
    worth = LossChange((x, y))(model, sites)
    with torch.no_grad():
        whole = F.cross_entropy(model(x), y)
        for name, site in sites.items():
            for unit in range(site.size):
                keep = {name: torch.arange(site.size) != unit}
                change = F.cross_entropy(with_zeros(model, sites, keep).eval()(x), y) - whole
                torch.testing.assert_close(worth[name][unit], change, rtol=1e-4, atol=2e-6)


def test_a_program_without_its_changes_is_the_model() -> None:
    model, x = hand_mlp(), torch.tensor([[1.0, 2.0]])  # outputs (3, 13); hidden (5, 2, 1)
    programs = Programs(model, channels(model, x))
    program = programs.at(SampleBatch(x))
    (read,) = program.reads["0"]
    shut = Shut.at(read, {step.node: step for step in program.steps})
    suffix = Suffix(program, [shut])
    values = programs.run(Line(leading_to(program.steps, suffix.boundary), suffix.boundary), SampleBatch(x))
    gates = shut.gates(torch.tensor([[True, True, True], [True, False, True], [False, True, True]]))
    assert suffix.stacked(values, gates=[gates])[:, 0].tolist() == [[3, 13], [5, 13], [-2, 3]]
    assert [suffix.end(values, gates=[gate])[0].tolist() for gate in gates] == [[3, 13], [5, 13], [-2, 3]]
    programs.model = nn.Sequential(model, nn.ReLU())
    with pytest.raises(Unfit, match="something else"):
        programs.check(SampleBatch(-x), SampleBatch(-x))


def test_what_an_op_does_is_read_from_its_schema_and_its_blocks() -> None:
    graph = channels(WritesInABlock(), torch.randn(2, 6)).structure.graph
    assert any(writes(node) for node in graph.nodes)
    graph = channels(nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.ReLU()), torch.zeros(1, 2, 4, 4)).structure.graph
    assert not any(writes(node) for node in graph.nodes)
    (product,) = [product for node in graph.nodes if (product := product_of(node)) is not None]
    assert (product.convolution, product.groups, product.plain, product.out_first) == (True, 2, True, True)


def test_the_last_layer_and_its_columns_are_told_where_it_reads_all_units() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))
    x, y = labelled(model)
    sites = channels(model, x)

    def last(of: list[str], targets: Tensor = y, loss: str = "cross_entropy", room: int | None = None) -> Any:
        return Removals(model, only(sites, of), [(x, targets)], loss, room).last_layer()

    layer, columns = last(["2"])
    assert {name: index.tolist() for name, index in columns.items()} == {"2": [0, 1, 2, 3, 4]}
    keep = torch.tensor([True, False, True, True, False])
    layer.remove(1)
    layer.remove(4)
    with torch.no_grad():
        expected = F.cross_entropy(with_zeros(model, sites, {"2": keep})(x), y)
    assert layer.loss == pytest.approx(float(expected), rel=1e-5)
    assert last(["0"]) is None  # another layer reads it
    assert last(["0", "2"]) is None
    assert last(["2"], room=1) is None
    assert last(["2"], torch.zeros(len(x), 3), "mse") is None


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1, "dilation": 2}])
@pytest.mark.parametrize("flat", [False, True])
def test_a_convolution_without_units_is_brought_up_to_date(options: dict[str, Any], flat: bool) -> None:
    between = nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (6, 6))) if flat else nn.ReLU()
    model = nn.Sequential(nn.Conv2d(1, 4, 3), between, nn.Conv2d(4, 3, 2, **options), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model(x)
    _, reads = Flow(model, channels(model, x)).at(x)
    (read,) = reads["0"]
    product = product_of(read.node)
    assert product is not None
    update = _of_convolution(product, read.source, product.weight, read)
    assert update is not None
    with torch.no_grad():
        h = model[:2](x)
        new = update(model[2](h), {read.source: h, product.weight: model[2].weight}, torch.tensor([2, 0]))
        for without, unit in zip(new, (2, 0), strict=True):
            gone = h.clone()
            gone[:, unit] = 0
            torch.testing.assert_close(without, model[2](gone), rtol=1e-4, atol=1e-5)


def test_a_convolution_in_groups_is_run_again() -> None:
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 2, groups=2), nn.Flatten(), nn.LazyLinear(2)]
    model, x = nn.Sequential(*layers), torch.zeros(3, 1, 8, 8)
    model(x)
    _, reads = Flow(model, channels(model, x)).at(x)
    for read in (read for site_reads in reads.values() for read in site_reads):
        product = product_of(read.node)
        if product is not None and product.convolution:
            assert _of_convolution(product, read.source, product.weight, read) is None


# ---- losses of single samples ----


def test_a_loss_that_maps_over_no_samples_is_not_tried_again_so() -> None:
    called = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        called.append(len(outputs))
        return (outputs - targets).square().mean() * float(outputs.detach().abs().max() >= 0)

    single = SampleLoss(loss, "score")
    outputs, targets = torch.randn(4, 3), torch.zeros(4, 3)
    expected = outputs.square().mean(1)
    torch.testing.assert_close(single(outputs, targets), expected)
    called.clear()
    torch.testing.assert_close(single(outputs, targets), expected)
    assert called == [1] * 4


@pytest.mark.parametrize("loss", [F.cross_entropy, lambda o, t: F.cross_entropy(o, t), F.nll_loss])
@pytest.mark.parametrize("places", [(), (2,)])
def test_the_losses_of_units_are_those_of_each_unit_by_itself(loss: Any, places: tuple[int, ...]) -> None:
    outputs, targets = torch.randn(5, 4, 3, *places), torch.randint(0, 3, (4, *places))
    each = SampleLoss(loss, "score")
    losses = each.of_units(outputs, targets)
    assert losses.shape == (5, 4)
    for unit, row in zip(outputs, losses, strict=True):
        torch.testing.assert_close(row, each(unit, targets))
        singles = [loss(o[None], t[None]) for o, t in zip(unit, targets, strict=True)]
        torch.testing.assert_close(row, torch.stack(singles))


def test_a_loss_is_refused_that_is_not_the_mean_of_its_samples() -> None:
    outputs, targets = torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    plain = SampleLoss(F.cross_entropy, "score")
    losses = plain(outputs, targets)
    plain.check(losses, outputs, targets)
    plain.check(losses * (1 + 5e-5), outputs, targets)
    plain.check(losses * 0, outputs * 0 + torch.tensor([[50.0, 0.0], [0.0, 50.0]]), targets)  # both next to nothing
    for wrong in (losses * (1 + 2e-4), losses * (1 - 2e-4), losses * float("nan"), losses * 2):
        with pytest.raises(InputError, match="plain mean of its samples"):
            plain.check(wrong, outputs, targets)
    weighted = SampleLoss(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0])), "score")
    with pytest.raises(InputError, match="plain mean"):
        weighted.check(weighted(outputs, targets), outputs, targets)
    whole = SampleLoss(lambda o, t: (o - 1).square(), "score")
    with pytest.raises(InputError, match="returns the mean, a scalar"):
        whole(outputs, targets)
