"""Repair without training: exact where the kept units can say what the removed ones did, and never a surprise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.criteria import Magnitude, Random
from secateur.pruning import prune
from secateur.repair import recalibrate, repair
from secateur.selection import select
from secateur.structure import channels, cut, weights
from secateur.testing.toys import TOYS, hand_mlp, same_state, snapshot
from secateur.types import InputError, UnknownNameError
from zoo import build

X = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25], [-2.0, 1.0]])


def labelled(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, torch.zeros(len(x))


def redundant() -> nn.Sequential:
    """The third hidden unit is the first plus twice the second, plus 1; the outputs are their sums."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    values = {
        "0.weight": [[1.0, 2.0], [3.0, 1.0], [7.0, 4.0]],
        "0.bias": [0.0, 1.0, 3.0],
        "1.weight": [[1.0, 1.0, 1.0], [0.0, 2.0, -1.0]],
        "1.bias": [0.0, 5.0],
    }
    model.load_state_dict({name: torch.tensor(rows) for name, rows in values.items()})
    return model


def test_least_squares_gives_the_output_back_exactly() -> None:
    """h₃ = h₁ + 2 h₂ + 1, so its weights 1 and −1 go to the others, and its bias to the outputs'."""
    model = redundant()
    before = snapshot(model)
    sites, keep = channels(model, X), {"0": torch.tensor([True, True, False])}
    repaired = repair(model, sites, keep, labelled(X), "least-squares", ridge=0.0)
    small = cut(repaired, sites, keep)
    assert torch.allclose(small[1].weight, torch.tensor([[2.0, 3.0], [-1.0, 0.0]]), atol=1e-4)
    assert torch.allclose(small[1].bias, torch.tensor([1.0, 4.0]), atol=1e-4)
    assert torch.allclose(small(X), model(X), atol=1e-4)
    assert same_state(before, snapshot(model))


def test_bias_alone_keeps_the_means() -> None:
    """The removed unit's mean over the data is 7 · 0.625 + 4 · 0.5625 + 3 = 9.625."""
    model = redundant()
    sites, keep = channels(model, X), {"0": torch.tensor([True, True, False])}
    small = cut(repair(model, sites, keep, labelled(X), "bias"), sites, keep)
    assert torch.equal(small[1].weight, model[1].weight[:, :2])
    assert torch.allclose(small[1].bias, torch.tensor([9.625, 5 - 9.625]))
    assert torch.allclose(small(X).mean(0), model(X).mean(0), atol=1e-6)


def test_it_is_the_least_squares_of_numpy() -> None:
    """Against a plain solve on the hidden activations of many samples, in two batches."""
    model = hand_mlp()
    x = torch.randn(64, 2)
    sites, keep = channels(model, x), {"0": torch.tensor([True, False, True])}
    small = cut(
        repair(model, sites, keep, [labelled(x[:40]), labelled(x[40:])], "least-squares", ridge=0.0), sites, keep
    )
    hidden = model[:2](x)[:, [0, 2]].double()
    rows = torch.cat([hidden, torch.ones(64, 1, dtype=torch.float64)], 1)
    best = torch.linalg.lstsq(rows, model(x).double()).solution
    assert torch.allclose(small[2].weight.double(), best[:2].T, atol=1e-5)
    assert torch.allclose(small[2].bias.double(), best[2], atol=1e-5)


def test_a_large_ridge_changes_the_bias_alone() -> None:
    model = redundant()
    sites, keep = channels(model, X), {"0": torch.tensor([True, True, False])}
    stiff = repair(model, sites, keep, labelled(X), "least-squares", ridge=1e9)
    bias = repair(model, sites, keep, labelled(X), "bias")
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(stiff.parameters(), bias.parameters(), strict=True))


@pytest.mark.parametrize(
    "name",
    [
        *("residual", "unet", "grouped", "depthwise_separable", "one_dimensional", "three_dimensional", "fused_qkv"),
        *("shared_twice", "glu_mlp", "pixel_shuffle", "dropout", "encoder_layer"),
    ],
)
def test_the_cut_model_is_nearer_to_the_whole_one(name: str) -> None:
    model, (x,) = build(name)
    sites = channels(model, x)
    keep = select(Random(seed=0)(model, sites), 0.3)
    small, whole = cut(model, sites, keep), model(x).detach()
    made = cut(repair(model, sites, keep, labelled(x), "least-squares"), sites, keep)
    assert (made(x) - whole).norm() < 0.99 * (small(x) - whole).norm()


def test_many_parts_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = TOYS["cnn"]
    model, x = toy.build(), toy.inputs(8)
    sites = channels(model, x)
    keep = select(Magnitude()(model, sites), 0.4)
    whole = repair(model, sites, keep, labelled(x))
    for module in ("secateur.structure.moments", "secateur.structure.patches"):
        monkeypatch.setattr(f"{module}.PART", 1)
    parts = repair(model, sites, keep, [labelled(x[:3]), labelled(x[3:])])
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_norms_have_the_statistics_of_the_data() -> None:
    """The first norm sees the data, the second what the first makes of them with the batch's own statistics."""
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).eval()
    x = 3 + 2 * torch.randn(20, 2, 4, 4)
    before = snapshot(model)
    found = recalibrate(model, labelled(x))
    rows = x.movedim(1, -1).flatten(0, -2)
    assert torch.allclose(found[0].running_mean, rows.mean(0), atol=1e-5)
    assert torch.allclose(found[0].running_var, rows.var(0), atol=1e-5)
    inner = model[1]((x - rows.mean(0).view(1, 2, 1, 1)) / (rows.var(0, correction=0) + 1e-5).sqrt().view(1, 2, 1, 1))
    rows = inner.movedim(1, -1).flatten(0, -2)
    assert torch.allclose(found[2].running_mean, rows.mean(0), atol=1e-5)
    assert torch.allclose(found[2].running_var, rows.var(0), atol=1e-5)
    assert not found.training
    assert same_state(before, snapshot(model))


def test_norms_pool_their_batches_and_leave_the_rest() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)).train()
    x = torch.randn(10, 2)
    found = recalibrate(model, [labelled(x[:3]), labelled(x[3:])])
    assert torch.allclose(found[0].running_mean, x.mean(0), atol=1e-6)
    assert torch.allclose(found[0].running_var, x.var(0), atol=1e-6)
    assert int(found[0].num_batches_tracked) == 0
    assert found.training
    assert found[0].training


def test_norms_of_a_model_that_will_be_cut() -> None:
    """Recalibrating before the cut and after it is the same."""
    toy = TOYS["cnn"]
    model, x = toy.build(), toy.inputs(16)
    sites = channels(model, x)
    keep = select(Magnitude()(model, sites), 0.4)
    first = cut(repair(model, sites, keep, labelled(x), "norms"), sites, keep)
    last = recalibrate(cut(model, sites, keep), labelled(x))
    assert torch.allclose(first[1].running_mean, last[1].running_mean, atol=1e-6)
    assert torch.allclose(first[1].running_var, last[1].running_var, atol=1e-6)


def test_prune_repairs() -> None:
    model = redundant()
    result = prune(
        model, X, "l1", 1 / 3, repair=("least-squares", "norms"), data=labelled(X), scope="layer", latency=False
    )
    assert result.report.repair == ("least-squares", "norms")
    plain = prune(model, X, "l1", 1 / 3, latency=False).model
    assert (result.model(X) - model(X)).norm() < 0.1 * (plain(X) - model(X)).norm()
    call: Any = prune
    with pytest.raises(InputError, match="repair needs data"):
        call(model, X, repair="bias")
    with pytest.raises(InputError, match='it goes with unit="channels"'):
        call(model, X, repair="bias", data=labelled(X), unit="weights")


def test_bad_input() -> None:
    model = redundant()
    sites, keep = channels(model, X), {"0": torch.tensor([True, True, False])}
    call: Any = repair
    with pytest.raises(UnknownNameError, match="unknown repair 'norm'; did you mean 'norms'"):
        call(model, sites, keep, labelled(X), "norm")
    with pytest.raises(InputError, match=r"ridge=-1.* must be a finite number, 0 or more"):
        call(model, sites, keep, labelled(X), ridge=-1)
    with pytest.raises(InputError, match="repair: there are no samples"):
        call(model, sites, keep, labelled(X[:0]))
    with pytest.raises(InputError, match="recalibrate: the model has no batch norm"):
        call(model, sites, keep, labelled(X), "norms")
    with pytest.raises(InputError, match="are channels; find the sites with channels"):
        call(model, weights(model), {}, labelled(X))
    toy = TOYS["attention"]
    model, x = toy.build(), toy.inputs()
    sites = channels(model, x)
    keep = select(Magnitude()(model, sites), 0.3, scope="layer")
    with pytest.raises(InputError, match="a norm takes statistics over the units of 'embed'"):
        call(model, sites, keep, labelled(x))
