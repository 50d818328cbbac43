"""Criteria as their papers have them, against plain loops with hooks: APoZ, HRank, Taylor of 2017 and of 2019."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.criteria import ActivationRank, ActiveFraction, Taylor
from secateur.structure import channels, weights
from secateur.structure.maps import feature_maps


class Net(nn.Module):
    """Two convolutions, each with a ReLU and a pool, the second with a norm behind its ReLU; then two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.relu1, self.pool1 = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.conv2, self.relu2, self.norm2 = nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(5)
        self.pool2, self.fc1, self.relu3 = nn.AvgPool2d(2), nn.Linear(20, 6), nn.ReLU()
        self.drop, self.fc2 = nn.Dropout(0.5), nn.Linear(6, 3)
        self.norm2.running_mean.fill_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.norm2(self.relu2(self.conv2(x))))
        return self.fc2(self.drop(self.relu3(self.fc1(x.flatten(1)))))


MAPS = {"conv1": "relu1", "conv2": "relu2", "fc1": "relu3"}
"""Site → the module whose outputs are its maps."""


@pytest.fixture
def net() -> nn.Module:
    return Net().eval()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(22, 1, 8, 8, generator=generator), torch.randint(0, 3, (22,), generator=generator)


def hooked(net: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The outputs, and the outputs of the modules of `MAPS` by site, with their gradients kept."""
    seen: dict[str, Tensor] = {}

    def keep(site: str, output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
        seen[site] = output

    hooks = [
        net.get_submodule(module).register_forward_hook(lambda _m, _i, output, site=site: keep(site, output))
        for site, module in MAPS.items()
    ]
    outputs = net(x)
    for hook in hooks:
        hook.remove()
    return outputs, seen


def test_apoz_counts_the_zeros_of_the_map_behind_the_relu(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    scores = ActiveFraction(data, batch_size=5)(net, channels(net, data[0][:1]))
    _, seen = hooked(net, data[0])
    for site, maps in seen.items():
        for unit in range(maps.shape[1]):
            values = maps[:, unit].flatten().tolist()
            apoz = sum(value == 0 for value in values) / len(values)
            assert float(scores[site][unit]) == pytest.approx(1 - apoz, abs=1e-6)
    read = ActiveFraction(data, at="read")(net, channels(net, data[0][:1]))
    assert bool((read["conv1"] > scores["conv1"]).any()), "a max pool leaves fewer zeros"
    assert bool((read["conv2"] > 0.99).all()), "behind the norm nothing is zero"


def test_hrank_takes_the_rank_of_the_map_behind_the_relu(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    scores = ActivationRank(data, batch_size=5)(net, channels(net, data[0][:1]))
    _, seen = hooked(net, data[0])
    for site in ("conv1", "conv2"):
        for unit in range(seen[site].shape[1]):
            ranks = [int(torch.linalg.matrix_rank(sample[unit])) for sample in seen[site]]
            assert float(scores[site][unit]) == pytest.approx(sum(ranks) / len(ranks))
    read = ActivationRank(data, at="read")(net, channels(net, data[0][:1]))
    assert float(read["conv1"].max()) <= 4, "the pooled map is 4 × 4"
    assert float(scores["conv1"].max()) > 4


def test_absolute_taylor_is_that_of_2017(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """Θ = mean over samples of |mean over the map of activation · gradient|, over the layer's Euclidean norm."""
    scores = Taylor(data, sign="absolute", batch_size=7)(net, channels(net, data[0][:1]))
    sums = dict.fromkeys(MAPS, 0.0)
    for at in range(len(data[0])):
        outputs, seen = hooked(net, data[0][at : at + 1])
        nn.functional.cross_entropy(outputs, data[1][at : at + 1]).backward()
        for site in ("conv1", "fc1"):  # max pools and dropout pass activation · gradient on as it is
            assert seen[site].grad is not None
            sums[site] = (
                sums[site]
                + (seen[site] * seen[site].grad)[0]
                .flatten(1 if seen[site].ndim > 2 else 0)
                .reshape(seen[site].shape[1], -1)
                .mean(1)
                .abs()
                .detach()
            )
    for site in ("conv1", "fc1"):
        expected = sums[site] / sums[site].norm()
        torch.testing.assert_close(scores[site], expected, rtol=1e-4, atol=1e-6)
    for score in scores.values():
        assert float(score.norm()) == pytest.approx(1, abs=1e-5)
    raw = Taylor(data, sign="absolute", normalise=False)(net, channels(net, data[0][:1]))
    for site, score in raw.items():
        torch.testing.assert_close(score / score.norm(), scores[site], rtol=1e-4, atol=1e-6)
        assert torch.equal(score.argsort(), scores[site].argsort())
    orders = [torch.cat(list(both.values())).argsort() for both in (raw, scores)]
    assert not torch.equal(*orders), "at global scope it decides"


@pytest.mark.parametrize("minibatch", [1, 8, 32])
def test_squared_taylor_is_that_of_2019_by_minibatch(
    net: nn.Module, data: tuple[Tensor, Tensor], minibatch: int
) -> None:
    """The square of (Σ gradient of the minibatch's mean loss · weight), averaged over minibatches."""
    x, y = data
    sites = channels(net, x[:1])
    by_weights = Taylor(data, sign="squared", on="weights", minibatch=minibatch)(net, sites)
    single = Taylor(data, sign="squared", minibatch=minibatch)(net, weights(net))
    by_gates = Taylor(data, sign="squared", minibatch=minibatch, batch_size=16)(net, sites)
    gate, group, weight = torch.zeros(6), torch.zeros(4), torch.zeros_like(net.get_parameter("fc2.weight"))
    for first, stop in spans(len(x), minibatch, 500):
        outputs, _ = hooked(net, x[first:stop])
        net.zero_grad()
        nn.functional.cross_entropy(outputs, y[first:stop]).backward()
        conv = [net.get_parameter(f"conv1.{name}") for name in ("weight", "bias")]
        group += (stop - first) * sum((p * p.grad).reshape(4, -1).sum(1) for p in conv).detach() ** 2  # type: ignore[operator]
        last = net.get_parameter("fc2.weight")
        weight += (stop - first) * (last * last.grad).detach() ** 2  # type: ignore[operator]
    for first, stop in spans(len(x), minibatch, 16):
        outputs, seen = hooked(net, x[first:stop])
        nn.functional.cross_entropy(outputs, y[first:stop]).backward()
        gate += (stop - first) * (seen["fc1"] * seen["fc1"].grad).detach().sum(0) ** 2  # type: ignore[operator]
    torch.testing.assert_close(by_weights["conv1"], group / len(x), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(single["fc2.weight"], weight / len(x), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(by_gates["fc1"], gate / len(x), rtol=1e-4, atol=1e-9)


def spans(count: int, size: int, batch: int) -> list[tuple[int, int]]:
    """Where minibatches begin and end: a batch falls into parts of `size`, the last of what is left."""
    starts = [at for first in range(0, count, batch) for at in range(first, min(first + batch, count), size)]
    return [(at, min(at + size, (at // batch + 1) * batch, count)) for at in starts]


def test_a_map_that_two_layers_read_is_one_map() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.a, self.b = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x).relu_()
            return self.a(nn.functional.max_pool2d(x, 2)) + self.b(x)[:, :, ::2, ::2][:, :, :1, :1]

    model = Fork().eval()
    sites = channels(model, torch.zeros(1, 1, 8, 8))
    from secateur.structure.flow import Flow

    flow = Flow(model, sites)
    structure, reads = flow.at(torch.zeros(1, 1, 8, 8))
    assert len(reads["conv"]) == 2
    (map_read,) = feature_maps(structure, reads)["conv"]
    assert tuple(map_read.source.meta["val"].shape) == (1, 3, 6, 6)
