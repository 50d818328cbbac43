"""Energy against numbers worked by hand, and against the plain road: a chirp through the layer itself."""

from __future__ import annotations

from math import cos, pi, sqrt

import pytest
import torch
from torch import Tensor, nn

from secateur.criteria import Energy
from secateur.criteria.energy import chirp
from secateur.pruning import prune
from secateur.selection import select
from secateur.structure import channels, weights
from secateur.testing.conformance import CriterionConformance
from secateur.types import Batches, Criterion, InputError, Loss, UnknownNameError
from zoo import ZOO, build


class TestEnergy(CriterionConformance):
    units = ("channels",)

    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return Energy()


def test_a_chirp_worked_by_hand() -> None:
    # Five pixels: n = 5, f0 = 0.2, f1 = 1, distances 2, 1, 0, 1, 2.
    def wave(r: float) -> float:
        return cos(2 * pi * (0.2 * r + 0.8 * r * r / 5))

    torch.testing.assert_close(chirp((5,)), torch.tensor([wave(2), wave(1), 1.0, wave(1), wave(2)]))
    corner = sqrt(0.5)
    n = sqrt(8)
    expected = cos(2 * pi * (corner / n + (1 - 1 / n) * 0.5 / n))
    torch.testing.assert_close(chirp((2, 2)), torch.full((2, 2), expected))


def _plain(layer: nn.Module, size: tuple[int, ...]) -> Tensor:
    """The energies of one layer's filters, as Algorithm 3 has them."""
    signal = chirp(size[1:]).expand(1, *size)
    with torch.no_grad():
        energy = layer(signal).double().square().movedim(1, 0).flatten(1).sum(1)
    return (energy / energy.sum()).float()


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv1d(3, 6, 5, padding=2), (3, 20)),
        (nn.Conv2d(3, 6, 3, stride=2), (3, 11, 8)),
        (nn.Conv3d(2, 6, 3), (2, 5, 6, 7)),
        (nn.ConvTranspose2d(3, 6, 3, stride=2), (3, 5, 5)),
        (nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding_mode="circular", padding=1), (4, 9, 9)),
    ],
)
def test_it_is_the_chirp_through_the_layer(layer: nn.Module, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(1, *size)
    model(x)
    sites = channels(model, x)
    scores = Energy()(model, sites)["0"]
    if "Conv2d(4" in repr(layer):  # units are filters of both groups together: what goes is one of each
        whole = _plain(layer, size)
        torch.testing.assert_close(scores.sum(), torch.tensor(1.0))
        assert scores.numel() in (3, 6)
        if scores.numel() == 6:
            torch.testing.assert_close(scores, whole)
    else:
        torch.testing.assert_close(scores, _plain(layer, size))


def test_one_chirp_after_the_other_is_the_norm_of_single_pixels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 25, 2))
    scores = Energy(channels="each", bias=False)(model, channels(model, torch.zeros(1, 3, 5, 5)))["0"]
    squares = model[0].weight.detach().square().flatten(1).sum(1)
    torch.testing.assert_close(scores, squares / squares.sum())


def test_its_options_matter() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
    sites = channels(model, torch.zeros(1, 3, 8, 8))
    readings = [Energy(), Energy(bias=False), Energy(relu=True), Energy(channels="each"), Energy(top=0.5)]
    found = [tuple(reading(model, sites)["0"].tolist()) for reading in readings]
    assert len(set(found)) == len(readings)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", list(ZOO))
def test_it_scores_what_can_be_scored(name: str) -> None:
    model, inputs = build(name)
    sites = channels(model, inputs)
    try:
        scores = Energy()(model, sites)
    except InputError as error:
        assert "come from no convolution" in str(error)  # noqa: PT017
        return
    for score in scores.values():
        assert bool(torch.isfinite(score).all())
        torch.testing.assert_close(score.sum(), torch.tensor(1.0))


def test_prune_takes_its_threshold() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 2))
    x = torch.randn(2, 1, 8, 8)
    result = prune(model, x, Energy(0.2), latency=False)
    expected = select(Energy()(model, channels(model, x)), cumulative=0.2)
    assert {name: kept.tolist() for name, kept in result.keep.items()} == {n: k.tolist() for n, k in expected.items()}
    assert result.report.rule == {"cumulative": 0.2}
    assert 0 < result.report.units_removed < 16


def test_filters_that_answer_nothing_are_alike() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 16, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
    assert Energy()(model, channels(model, torch.randn(1, 1, 6, 6)))["0"].tolist() == [0.25] * 4


@pytest.mark.parametrize(
    "options", [{"threshold": 1.5}, {"threshold": "much"}, {"channels": "some"}, {"top": 0.0}, {"threshold": -0.1}]
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises((InputError, UnknownNameError), match=rf"{next(iter(options))}.* (must be|of Energy)"):
        Energy(**options)  # type: ignore[arg-type]


def test_single_weights_have_no_energy() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(InputError, match="channels"):
        Energy()(model, weights(model))
