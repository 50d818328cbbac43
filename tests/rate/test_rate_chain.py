"""The fast engine of chains gives what the plain loop gives, on chains of every kind."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from secateur.criteria.loss_change import LossChange
from secateur.criteria.loss_change.result import UnitWorth
from secateur.labelled import SampleBatch
from secateur.rate.chain.engine import ChainEngine, chain_engine
from secateur.rate.chain.gemm import product
from secateur.rate.chain.parse import parse
from secateur.rate.last import LastLayer
from secateur.rate.tally import UnitTally
from secateur.rate.whole import PlainLoop
from secateur.structure import channels, weights
from secateur.types import InputError, Sites

CLASSES = 4


def mlp(*hidden: int, act: type[nn.Module] = nn.ReLU, bias: bool = True, norm: bool = False) -> nn.Sequential:
    """A chain of linear layers on 6 numbers."""
    sizes = (6, *hidden)
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out, bias=bias), *([nn.BatchNorm1d(n_out)] if norm else []), act(), nn.Dropout()]
    return lively(nn.Sequential(*layers, nn.Linear(sizes[-1], CLASSES, bias=bias)))


def cnn(
    *filters: int,
    kernel: int = 3,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    act: type[nn.Module] = nn.ReLU,
    pool: nn.Module | None = None,
    norm: bool = False,
    hidden: int = 0,
    size: int = 9,
) -> nn.Sequential:
    """A chain of convolutions on two maps of 9 × 9, a flattening, and linear layers."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip((2, *filters), filters, strict=False):
        layers += [nn.Conv2d(n_in, n_out, kernel, stride, padding, dilation, bias=not norm)]
        layers += [nn.BatchNorm2d(n_out)] if norm else []
        layers += [act(), *([copy.deepcopy(pool)] if pool is not None else [])]
    layers.append(nn.Flatten())
    width = nn.Sequential(*layers).eval()(torch.zeros(1, 2, size, size)).shape[1]
    if hidden:
        layers += [nn.Linear(width, hidden), act()]
    return lively(nn.Sequential(*layers, nn.Linear(hidden or width, CLASSES)))


def lively(model: nn.Sequential) -> nn.Sequential:
    """Batch norms that do something, and logits that are not all alike."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor, low in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.weight, 0.5)):
                assert tensor is not None
                tensor.data.uniform_(low, low + 1)
            module.bias.data.uniform_(-0.3, 0.3)
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter.mul_(3)
    return model.eval()


def measured(
    model: nn.Module, sites: Sites, inputs: Tensor, targets: Tensor, max_memory: int | None = None, batch: int = 1000
) -> tuple[UnitWorth, UnitWorth]:
    """What the engine finds, and what the plain loop does."""
    engine = chain_engine(model, sites, cross_entropy, max_memory)
    assert engine is not None
    found = []
    for each in (engine, PlainLoop(copy.deepcopy(model), sites)):
        tally = UnitTally(cross_entropy, sites)
        for x, y in zip(inputs.split(batch), targets.split(batch), strict=True):
            each.measure(SampleBatch(x, y), tally)
        found.append(UnitWorth.of(tally))
    return found[0], found[1]


def check(model: nn.Module, inputs: Tensor, targets: Tensor, max_memory: int | None = None, batch: int = 1000) -> None:
    """Compare all that both find."""
    sites = channels(model, inputs[:1])
    fast, plain = measured(model, sites, inputs, targets, max_memory, batch)
    assert list(fast) == list(plain) == list(sites)
    close = {"rtol": 1e-5, "atol": 1e-5 * max(plain.base.loss, 0.1), "equal_nan": True}
    for name in sites:
        torch.testing.assert_close(fast[name], plain[name], **close)
        torch.testing.assert_close(fast.error[name], plain.error[name], **close)
        torch.testing.assert_close(fast.accuracy[name], plain.accuracy[name])
        torch.testing.assert_close(fast.class_accuracy[name], plain.class_accuracy[name], equal_nan=True)


def labelled(*shape: int, samples: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, CLASSES, (samples,), generator=generator)
    return torch.randn(samples, *shape, generator=generator), targets


CHAINS = {
    "linear only": lambda: lively(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, CLASSES))),
    "one hidden": lambda: mlp(8),
    "three hidden": lambda: mlp(9, 7, 5),
    "no bias": lambda: mlp(9, 7, bias=False),
    "tanh": lambda: mlp(9, 7, act=nn.Tanh),
    "sigmoid": lambda: mlp(9, 7, act=nn.Sigmoid),
    "leaky": lambda: mlp(9, 7, act=nn.LeakyReLU),
    "gelu": lambda: mlp(9, 7, act=nn.GELU),
    "norm": lambda: mlp(9, 7, norm=True),
    "wide": lambda: mlp(200, 150, 90),
    "one filter layer": lambda: cnn(5),
    "filters": lambda: cnn(5, 4, 3),
    "filters and hidden": lambda: cnn(5, 4, hidden=7, pool=nn.MaxPool2d(2)),
    "tanh before the pool": lambda: cnn(5, 4, hidden=7, act=nn.Tanh, pool=nn.MaxPool2d(3, 2, padding=1)),
    "pool of what falls": lambda: cnn(4, 3, act=nn.GELU, pool=nn.MaxPool2d(2)),
    "average": lambda: cnn(5, 4, pool=nn.AvgPool2d(2)),
    "global": lambda: cnn(5, pool=nn.AdaptiveAvgPool2d(1), hidden=6),
    "global and last": lambda: cnn(5, 4, pool=nn.AdaptiveAvgPool2d(1)),
    "strides": lambda: cnn(4, 3, kernel=3, stride=2, padding=2, dilation=2),
    "folded norm": lambda: cnn(5, 4, norm=True, hidden=6),
}


@pytest.mark.parametrize("name", list(CHAINS))
def test_the_plain_loop_gives_the_same(name: str) -> None:
    model = CHAINS[name]()
    shape = (6,) if isinstance(model[0], nn.Linear) else (2, 9, 9)
    check(model, *labelled(*shape))


@settings(max_examples=25)
@given(data=st.data())
def test_the_plain_loop_gives_the_same_on_any_chain(data: st.DataObject) -> None:
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 1000)))
    act = draw(st.sampled_from([nn.ReLU, nn.Tanh, nn.ELU]))
    samples, batch = draw(st.integers(1, 17)), draw(st.integers(1, 20))
    if draw(st.booleans()):
        widths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
        model, shape = mlp(*widths, act=act, norm=draw(st.booleans())), (6,)
    else:
        model = cnn(
            *draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)),
            kernel=draw(st.sampled_from([1, 2, 3])),
            stride=draw(st.integers(1, 2)),
            padding=draw(st.integers(1, 2)),
            dilation=draw(st.integers(1, 2)),
            act=act,
            norm=draw(st.booleans()),
            hidden=draw(st.integers(0, 4)),
        )
        shape = (2, 9, 9)
    inputs, targets = labelled(*shape, samples=samples)
    check(model, inputs, targets, batch=batch)


def test_blocks_of_few_samples_give_the_same() -> None:
    for name, shape in (("three hidden", (6,)), ("filters and hidden", (2, 9, 9))):
        check(CHAINS[name](), *labelled(*shape, samples=11), max_memory=20_000, batch=4)


def test_dead_neurons_and_those_that_are_always_on() -> None:
    model = mlp(6, 5, 4)
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.bias[0], layer.bias[1] = -100, 100
    inputs, targets = labelled(6)
    check(model, inputs, targets)
    sites = channels(model, inputs[:1])
    fast, _ = measured(model, sites, inputs, targets)
    assert fast["0"][0] == fast["3"][0] == 0


def test_wide_layers_of_which_few_neurons_are_on() -> None:
    """Only their columns are gathered and multiplied."""
    torch.manual_seed(0)
    model = mlp(160, 150, 4)
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.bias[torch.randperm(len(layer.bias))[:-30]] = -100
    check(model, *labelled(6, samples=8))


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_what_does_nothing_changes_nothing_to_the_last_bit(scale: float) -> None:
    model = mlp(8, 7)
    with torch.no_grad():
        model[-1].weight.mul_(scale)
        model[3].bias[0] = -100  # dead
        model[-1].weight[:, 1] = 0  # read by nothing
        model[-1].weight[:, 2] = 5  # the same for all classes
    inputs, targets = labelled(6, samples=400)
    found = LossChange((inputs, targets))(model, channels(model, inputs[:1]))
    assert found["3"][0] == found["3"][1] == found["3"][2] == 0
    assert found.label(pooled=False)["3"][:3] == ["zero"] * 3


def test_a_loss_that_falls_far_is_exact() -> None:
    h = torch.tensor([[20.0, 0.1]])
    weight = torch.tensor([[1.0, 0.0], [-0.5, 1.0], [0.0, 0.5]])
    found = LastLayer(h, weight, None, torch.tensor([1])).changes()
    logits = h.double() @ weight.double().T
    without = torch.tensor([[0.0, 0.1, 0.05]], dtype=torch.float64)
    expected = cross_entropy(without, torch.tensor([1])) - cross_entropy(logits, torch.tensor([1]))
    assert float(found.loss[0]) == pytest.approx(float(expected), rel=1e-6)  # about -29


def test_nothing_is_on() -> None:
    model = mlp(6, 80, 4)
    with torch.no_grad():
        model[3].bias.fill_(-100)
    check(model, *labelled(6))


def test_equal_logits_go_to_the_first_class() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.ones_like(parameter))
    check(model, torch.tensor([[1.0, 1.0], [2.0, 0.0], [-9.0, -9.0]]), torch.tensor([0, 1, 2]))


def test_equal_values_in_a_pool() -> None:
    check(cnn(3, 3, pool=nn.MaxPool2d(2)), torch.ones(5, 2, 9, 9), torch.tensor([0, 1, 2, 3, 0]))


@pytest.mark.parametrize("targets", [[2], [1, 1, 1], [3, 0, 3, 0]])
def test_one_sample_and_absent_classes(targets: list[int]) -> None:
    for name in ("one hidden", "three hidden"):
        check(CHAINS[name](), labelled(6, samples=len(targets))[0], torch.tensor(targets))


def test_steep_logits_are_exact_too() -> None:
    model = mlp(8, 8)
    with torch.no_grad():
        model[-1].weight.mul_(300)
    check(model, *labelled(6))


def test_a_part_of_the_sites() -> None:
    model = mlp(9, 7, 5)
    inputs, targets = labelled(6)
    sites = channels(model, inputs[:1])
    for name in sites:
        some = Sites({name: sites[name]}, structure=sites.structure)
        fast, plain = measured(model, some, inputs, targets)
        torch.testing.assert_close(fast[name], plain[name], rtol=1e-5, atol=1e-5)


def test_the_model_stays_as_it_was() -> None:
    model = cnn(3, 3, norm=True).train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    inputs, targets = labelled(2, 9, 9)
    engine = chain_engine(model, channels(model, inputs[:1]), cross_entropy)
    assert isinstance(engine, ChainEngine)
    engine.measure(SampleBatch(inputs, targets), UnitTally(cross_entropy, engine.sites))
    assert model.training
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


class Twice(nn.Module):
    """One layer that is used two times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        logits: Tensor = self.last(self.layer(self.layer(self.first(x)).relu()).relu())
        return logits


class Residual(Twice):
    """A way around the middle layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        x = self.first(x).relu()
        logits: Tensor = self.last(x + self.layer(x))
        return logits


NO_CHAINS = {
    "twice": Twice,
    "residual": Residual,
    "layer norm": lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)),
    "norm after the activation": lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 3)),
    "norm first": lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 5), nn.Linear(5, 3)),
    "an activation at the end": lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3), nn.ReLU()),
    "softmax between": lambda: nn.Sequential(nn.Linear(6, 5), nn.Softmax(1), nn.Linear(5, 3)),
    "one output": lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1)),
}


@pytest.mark.parametrize("name", list(NO_CHAINS))
def test_what_is_no_chain_is_left_to_others(name: str) -> None:
    model = NO_CHAINS[name]().eval()
    assert parse(model, channels(model, torch.randn(2, 6))) is None


def test_groups_of_filters_are_no_chain() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 3)
    )
    assert parse(model, channels(model, torch.randn(1, 2, 9, 9))) is None


def test_other_losses_and_single_weights_are_left_to_others() -> None:
    model = mlp(5)
    sites = channels(model, torch.zeros(1, 6))
    assert chain_engine(model, sites, cross_entropy) is not None
    assert chain_engine(model, sites, mse_loss) is None
    assert chain_engine(model, weights(model), cross_entropy) is None


def test_products_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    for rows, inputs, outputs in ((1, 1, 1), (65, 130, 7), (0, 3, 4)):
        x = torch.randn(rows, inputs, generator=generator)
        weight, bias = torch.randn(outputs, inputs, generator=generator), torch.randn(outputs, generator=generator)
        torch.testing.assert_close(product(x, weight, bias), (x.double() @ weight.double().T + bias).float())


def brute_force(h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, gone: list[int]) -> tuple[Tensor, Tensor]:
    """The loss and the right answers with each unit removed on top of those that are gone."""
    h = h.clone()
    h[:, gone] = 0
    losses, right = [], []
    for unit in range(h.shape[1]):
        without = h.clone()
        without[:, unit] = 0
        logits = (without @ weight.T + bias).double()
        losses.append(cross_entropy(logits, targets))
        right.append(torch.bincount(targets[logits.argmax(1) == targets], minlength=len(weight)))
    return torch.stack(losses), torch.stack(right, 1)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_the_last_layer_follows_removals(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(60, 20, generator=generator).relu()
    weight, bias = torch.randn(5, 20, generator=generator) * scale, torch.randn(5, generator=generator)
    targets = torch.randint(0, 4, (60,), generator=generator)  # class 4 is absent
    layer, gone = LastLayer(h, weight, bias, targets), list[int]()
    while len(gone) < 19:
        losses, right = brute_force(h, weight, bias, targets, gone)
        found = layer.changes()
        left = [unit for unit in range(20) if unit not in gone]
        assert layer.units.tolist() == left
        torch.testing.assert_close((found.loss + layer.loss)[left], losses[left], rtol=1e-5, atol=1e-6)
        assert torch.equal(found.right[:, left], right[:, left])
        assert torch.isinf(found.loss[gone]).all()
        best = int(found.loss.argmin())
        assert best == left[int(losses[left].argmin())]
        layer.remove(best)
        gone.append(best)
    assert layer.right.sum() <= 60


def test_bad_input_of_the_last_layer() -> None:
    h, weight, targets = torch.ones(3, 2), torch.ones(4, 2), torch.tensor([0, 1, 2])
    layer = LastLayer(h, weight, None, targets)
    layer.remove(1)
    for unit in (1, 2):
        with pytest.raises(InputError, match=f"unit {unit} is not among the 1"):
            layer.remove(unit)
    with pytest.raises(InputError, match="do not fit"):
        LastLayer(h, torch.ones(4, 3), None, targets)
    with pytest.raises(InputError, match="no samples"):
        LastLayer(h[:0], weight, None, targets[:0])
    with pytest.raises(InputError, match="from 0 to 3"):
        LastLayer(h, weight, None, targets + 2)
    with pytest.raises(InputError, match="one class"):
        LastLayer(h, weight[:1], None, targets * 0)


@pytest.mark.parametrize("name", ["one hidden", "three hidden", "filters and hidden"])
def test_every_unit_is_reported_done(name: str) -> None:
    model = CHAINS[name]()
    inputs, targets = labelled(*((2, 9, 9) if "filters" in name else (6,)), samples=7)
    sites, done = channels(model, inputs[:1]), list[float]()
    engine = chain_engine(model, sites, cross_entropy, max_memory=20_000, advance=done.append)
    assert engine is not None
    engine.measure(SampleBatch(inputs, targets), UnitTally(cross_entropy, sites))
    assert sum(done) == pytest.approx(sum(site.size for site in sites.values()))


class Swerving(nn.Module):
    """A chain on what it was traced on, and something else on the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        h = self.first(x).relu()
        logits: Tensor = self.last(h if len(x) < 3 else 2 * h)
        return logits


def test_a_model_that_swerves_is_measured_all_the_same() -> None:
    model = Swerving().eval()
    inputs, targets = labelled(6)
    targets %= 3
    sites = channels(model, inputs[:1])
    assert chain_engine(model, sites, cross_entropy) is not None
    found = LossChange((inputs, targets))(model, sites)
    tally = UnitTally(cross_entropy, sites)
    PlainLoop(copy.deepcopy(model), sites).measure(SampleBatch(inputs, targets), tally)
    torch.testing.assert_close(found["first"], UnitWorth.of(tally)["first"], rtol=1e-5, atol=1e-6)
