"""Weights that are made of parameters on each run: masks, parametrizations, normalisations; their own tensors are cut."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import secateur as sc
from secateur.structure import channels
from secateur.structure.derived import effective_weights


class Absolute(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.abs()


class Tanh(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.tanh()


class Standardized(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        centred = rows - rows.mean(1, keepdim=True)
        return (centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()).view_as(weight)


class Same(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight


def _several(layer: nn.Module) -> None:
    parametrize.register_parametrization(layer, "weight", Absolute())
    parametrize.register_parametrization(layer, "weight", Tanh())
    parametrize.register_parametrization(layer, "bias", Absolute())


def _masked(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)
    prune.random_unstructured(layer, "weight", 0.2)
    prune.random_unstructured(layer, "bias", 0.3)


WAYS = {
    "absolute": lambda layer: parametrize.register_parametrization(layer, "weight", Absolute()),
    "same": lambda layer: parametrize.register_parametrization(layer, "weight", Same()),
    "several": _several,
    "mask": _masked,
    "structured mask": lambda layer: prune.ln_structured(layer, "weight", 0.5, n=2, dim=0),
    "weight norm": parametrizations.weight_norm,
    "weight norm of columns": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "weight norm of all": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "old weight norm": weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "old spectral norm": spectral_norm,
}
ignore_old = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")


def _convolutional() -> tuple[nn.Module, Tensor]:
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 2)]
    return nn.Sequential(*layers), torch.randn(2, 3, 8, 8)


def _dense() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(4, 6)


@ignore_old
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("network", [_convolutional, _dense])
def test_the_parametrizations_own_tensors_are_cut(network, way: str) -> None:
    model, x = network()
    WAYS[way](model[0])
    WAYS[way](model[2])
    model.eval()
    sites = sc.channels(model, x)
    assert [(name, site.size) for name, site in sites.items()] == [("0", 8), ("2", model[2].weight.shape[0])]
    keep = {name: torch.arange(site.size) % 3 != 1 for name, site in sites.items()}
    small, masked = sc.cut(model, sites, keep), sc.mask(model, sites, keep)
    left = [int(mask.sum()) for mask in keep.values()]
    assert [small[0].weight.shape[0], *small[2].weight.shape[:2]] == [left[0], left[1], left[0]]
    other = torch.randn_like(x)
    torch.testing.assert_close(small(other), masked(other))
    assert list(small.state_dict()) == list(model.state_dict())


@ignore_old
@pytest.mark.parametrize("way", WAYS)
def test_a_cut_model_trains_as_the_masked_one(way: str) -> None:
    model, x = _dense()
    WAYS[way](model[2])
    sites = sc.channels(model, x)
    keep = {"0": torch.arange(8) > 2, "2": torch.arange(8) > 3}
    small = sc.cut(model, sites, keep).train()
    before = small(x).detach()
    small(x).square().sum().backward()
    torch.optim.SGD(small.parameters(), lr=0.01).step()
    assert not torch.equal(small(x), before)
    again = copy.deepcopy(small.eval()) if "old" not in way and "mask" not in way else small.eval()
    assert torch.equal(again(x), small(x))


@ignore_old
@pytest.mark.parametrize("way", ["weight norm", "old weight norm", "mask", "spectral norm"])
def test_a_pruned_model_comes_back_from_its_folder(tmp_path, way: str) -> None:
    model, x = _dense()
    WAYS[way](model[2])
    result = sc.prune(model.eval(), x, sparsity=0.5, latency=False)
    result.save(tmp_path / "small")
    fresh, _ = _dense()
    WAYS[way](fresh[2])
    again = sc.load(tmp_path / "small", fresh.eval())
    torch.testing.assert_close(again(x), result.model(x))


def test_units_that_a_mask_has_emptied_go_first() -> None:
    model, x = _dense()
    prune.ln_structured(model[2], "weight", 0.5, n=2, dim=0)
    emptied = model[2].weight_mask.sum(1) == 0
    result = sc.prune(model.eval(), x, "l2", 0.5, scope="layer", ignore=("0",), latency=False)
    assert torch.equal(result.keep["2"], ~emptied)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (torch.nn.utils.parametrizations.weight_norm, {"0.parametrizations.weight.original1"}),
        (lambda layer: prune.random_unstructured(layer, "weight", 0.5), {"0.weight_orig"}),
    ],
)
def test_effective_weights_have_the_names_of_parameters_of_their_shape(change, names: set[str]) -> None:
    model = nn.Sequential(change(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2))
    graph = channels(model, torch.zeros(1, 3)).structure.graph
    weights = effective_weights(model, graph.derived, graph.tensors)
    assert weights.keys() == names
    assert all(torch.equal(weight, model[0].weight) for weight in weights.values())


def test_a_standardised_weight_is_standardised_over_what_is_kept() -> None:
    model, x = _convolutional()
    parametrize.register_parametrization(model[2], "weight", Standardized())
    small = sc.prune(model.eval(), x, sparsity=0.5, scope="layer", latency=False).model
    kept = small[2].parametrizations.weight.original
    torch.testing.assert_close(small[2].weight, Standardized()(kept))
    assert kept.shape == (3, 4, 3, 3)


def test_a_weight_of_which_every_entry_hangs_on_the_others_stays_and_is_named() -> None:
    model, x = _dense()
    parametrizations.orthogonal(model[2])
    sites = sc.channels(model.eval(), x)
    assert "2.parametrizations.weight" in sites.frozen["0"]
