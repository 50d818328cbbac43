"""Models of every float type, memory layout and mode: each road through the library keeps them as they are, or refuses by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.testing.toys import same_state, snapshot

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 4)
    )


def typed(dtype: torch.dtype) -> nn.Module:
    return network().to(dtype).eval()


def strided() -> nn.Module:
    """Weights whose memory lies in another order than their dimensions."""
    model = network().eval()
    for layer in (model[3], model[5]):
        layer.weight = nn.Parameter(layer.weight.detach().transpose(0, 1).contiguous().transpose(0, 1))
    return model


class Tied(nn.Module):
    """One weight in two layers, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.first, self.second = nn.Linear(108, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight, self.head = self.first.weight, nn.Linear(8, 4)
        self.stem.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1)).relu()
        return self.head(self.second(self.first(x).relu()).relu())  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Kind:
    """A kind of model, what it is called with, and how near its answers are; or why it is refused."""

    build: Callable[[], nn.Module]
    x: Tensor
    tolerance: float = 1e-5
    refused: str = ""


KINDS = {
    "float64": Kind(lambda: typed(torch.float64), X.double(), 1e-12),
    "bfloat16": Kind(lambda: typed(torch.bfloat16), X.bfloat16(), 0.05),
    "float16": Kind(lambda: typed(torch.float16), X.half(), 0.01),
    "channels last": Kind(
        lambda: network().to(memory_format=torch.channels_last).eval(), X.to(memory_format=torch.channels_last)
    ),
    "not contiguous": Kind(strided, X),
    "tied and frozen": Kind(lambda: Tied().eval(), X),
    "in train mode": Kind(lambda: network().train(), X),
    "frozen": Kind(lambda: network().requires_grad_(False).eval(), X),
    "batch of one": Kind(lambda: network().eval(), X[:1]),
    "batch of none": Kind(lambda: network().eval(), X[:0], refused="(at least one|no) sample"),
    "meta": Kind(lambda: network().to("meta").eval(), X, refused="on the meta device hold no values; load them"),
}


def answers(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(x).double()  # type: ignore[no-any-return]


def near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def chosen(model: nn.Module, x: Tensor) -> tuple[sc.Sites, sc.Keep]:
    sites = sc.channels(model, x)
    return sites, sc.select(sc.criteria.Magnitude()(model, sites), 0.5, scope="layer")


def alike(model: nn.Module, other: nn.Module) -> None:
    """Types, ties, what is trained, the mode and the order in memory are those of the model."""
    ours, theirs = (dict(m.named_parameters(remove_duplicate=False)) for m in (model, other))
    assert list(ours) == list(theirs)
    for name, parameter in ours.items():
        assert theirs[name].dtype == parameter.dtype
        assert theirs[name].requires_grad == parameter.requires_grad
    tied = [[n for n in ours if ours[n] is tensor] for tensor in ours.values()]
    assert tied == [[n for n in theirs if theirs[n] is tensor] for tensor in theirs.values()]
    assert [m.training for m in model.modules()] == [m.training for m in other.modules()]


def pruned(kind: Kind, model: nn.Module) -> None:
    result = sc.prune(model, kind.x, "l2", 0.5, latency=False)
    alike(model, result.model)
    masked = sc.mask(model, result.sites, result.keep)
    assert near(answers(result.model, kind.x), answers(masked, kind.x), kind.tolerance)
    assert answers(result.model, X[:1].to(kind.x.dtype)).shape == (1, 4)
    assert answers(result.model, X[:0].to(kind.x.dtype)).shape == (0, 4)


def selected_and_cut(kind: Kind, model: nn.Module) -> None:
    sites, keep = chosen(model, kind.x)
    small = sc.cut(model, sites, keep)
    alike(model, small)
    assert near(answers(small, kind.x), answers(sc.mask(model, sites, keep), kind.x), kind.tolerance)


def masked_by_hand(kind: Kind, model: nn.Module) -> None:
    sites, keep = chosen(model, kind.x)
    masked = sc.mask(model, sites, keep)
    alike(model, masked)
    assert [p.shape for p in masked.parameters()] == [p.shape for p in model.parameters()]
    for name, site in sites.items():
        parameters = dict(masked.named_parameters(remove_duplicate=False))
        for member in site.members:
            along = parameters[member.parameter].movedim(member.dim or 0, 0)
            assert member.index is not None
            assert not bool(along[member.index[~keep[name]].flatten()].any())


def trained(kind: Kind, model: nn.Module) -> None:
    """Two steps in float64 say where the weights should be."""
    if not any(p.requires_grad for p in model.parameters()):
        with pytest.raises(sc.InputError, match="no parameter that requires a gradient"):
            sc.fit(model, (kind.x, LABELS[: len(kind.x)]), epochs=1)
        return
    exact, before = copy.deepcopy(model).double(), copy.deepcopy(model)
    for module, x in ((model, kind.x), (exact, kind.x.double())):
        sc.fit(module, (x, LABELS[: len(x)]), epochs=2, batch_size=4, optimizer="sgd", lr=0.1, seed=0)
    alike(before, model)
    for name, parameter in model.named_parameters():
        assert near(parameter.double(), exact.get_parameter(name), 4 * kind.tolerance), name
        assert parameter.requires_grad or torch.equal(parameter, before.get_parameter(name))


def measured(kind: Kind, model: nn.Module) -> None:
    plain = Tied() if isinstance(model, Tied) else network()
    assert sc.measure.parameters(model).total == sum(p.numel() for p in plain.parameters())
    assert sc.measure.macs(model, kind.x) == len(kind.x) * sc.measure.macs(plain.eval(), X[:1])
    assert sc.measure.latency(model, kind.x, repeats=2).median > 0
    loss = sc.evaluate(model, (kind.x, LABELS[: len(kind.x)])).loss
    exact = sc.evaluate(copy.deepcopy(model).double(), (kind.x.double(), LABELS[: len(kind.x)])).loss
    assert loss == pytest.approx(exact, rel=4 * kind.tolerance)


def scored(kind: Kind, model: nn.Module) -> None:
    data = (kind.x, LABELS[: len(kind.x)])
    exact = copy.deepcopy(model).double()
    for criterion in (sc.criteria.Magnitude(), sc.criteria.by_name("taylor", data)):
        wide = sc.criteria.by_name("taylor", (kind.x.double(), data[1])) if "data" in vars(criterion) else criterion
        scores = criterion(model, sc.channels(model, kind.x))
        expected = wide(exact, sc.channels(exact, kind.x.double()))
        assert all(near(scores[name].double(), expected[name], 10 * kind.tolerance) for name in scores)


ROADS = {road.__name__: road for road in (pruned, selected_and_cut, masked_by_hand, trained, measured, scored)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("road", ROADS)
def test_each_road_on_each_kind_of_model(road: str, kind: str) -> None:
    model = KINDS[kind].build()
    before = snapshot(model) if kind != "meta" else None
    if KINDS[kind].refused:
        with pytest.raises(sc.InputError, match=KINDS[kind].refused):
            ROADS[road](KINDS[kind], model)
    else:
        ROADS[road](KINDS[kind], model)
    if road != "trained" and before is not None:
        assert same_state(before, snapshot(model))


def test_layers_stay_in_their_order_in_memory() -> None:
    model = network().to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    small = sc.prune(model, X, "l2", 0.5, latency=False).model
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in small.parameters() if p.ndim == 4)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_bits(threads: int) -> None:
    data = (X.repeat(4, 1, 1, 1), torch.arange(16) % 4)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        models = [network(), network()]
        for model in models:
            sc.fit(model, data, epochs=2, batch_size=8, seed=1)
        first, second = (model.state_dict() for model in models)
        assert all(torch.equal(first[name], second[name]) for name in first)
    finally:
        torch.set_num_threads(before)
