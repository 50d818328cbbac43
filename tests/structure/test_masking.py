"""`mask` gives what the cut model computes, also where norms and weights take statistics over what is cut."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from oracle.masked import relative_difference
from secateur.types import UnknownNameError
from zoo.random_nets import random_keep, random_net


class Normed(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.fc, self.norm, self.out = nn.Linear(4, 8), norm, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.relu(self.norm(self.fc(x))))
        return logits


NORMS = {"layer": lambda: nn.LayerNorm(8), "rms": lambda: nn.RMSNorm(8), "group": lambda: nn.GroupNorm(1, 8)}
KEEP = {"fc": torch.tensor([True, False, True, True, False, True, False, True])}


@pytest.mark.parametrize("name", NORMS)
def test_masked_is_cut_at_every_batch(name: str) -> None:
    model = Normed(NORMS[name]()).eval()
    x = torch.randn(5, 4)
    sites = sc.channels(model, x[:1])
    small, masked = sc.cut(model, sites, KEEP), sc.mask(model, sites, KEEP)
    for batch in (x[:1], x, x[:3]):
        assert torch.allclose(masked(batch), small(batch), atol=1e-6)
    plain = sc.mask(model, sites, KEEP, statistics="all")
    assert not torch.allclose(plain(x), small(x), atol=1e-3)
    assert {n: p.tolist() for n, p in plain.named_parameters()} == {n: p.tolist() for n, p in masked.named_parameters()}


def test_a_masked_model_is_a_module_like_any_other() -> None:
    """It is copied with its statistics, takes other weights, has gradients, and in train mode runs its own code."""
    model = Normed(nn.LayerNorm(8)).eval()
    x = torch.randn(3, 4)
    sites = sc.channels(model, x[:1])
    masked = sc.mask(model, sites, KEEP)
    twin = deepcopy(masked)
    with torch.no_grad():
        twin.get_parameter("out.bias").add_(1)
    assert torch.allclose(twin(x), masked(x) + 1, atol=1e-6)
    masked(x).sum().backward()
    assert masked.get_parameter("fc.weight").grad is not None
    plain = sc.mask(model, sites, KEEP, statistics="all")
    assert torch.equal(masked.train()(x), plain.train()(x))
    assert torch.allclose(masked.eval()(x), sc.cut(model, sites, KEEP)(x), atol=1e-6)


def test_no_norm_no_interpreter() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    masked = sc.mask(model, sc.channels(model, torch.zeros(1, 4)), {"0": KEEP["fc"]})
    assert "forward" not in vars(masked)


def test_another_word_for_statistics() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(UnknownNameError, match=r"statistics 'al'; did you mean 'all'"):
        sc.mask(model, sc.weights(model), {}, statistics="al")  # type: ignore[arg-type]


def agree(seed: int) -> bool | None:
    """Whether masked and cut compute the same; None where nothing of the random model can be cut."""
    model = random_net(seed)
    x = model.example(batch=3, seed=1)
    try:
        sites = sc.channels(model, x)
        keep = random_keep({name: site.shape for name, site in sites.items()}, seed)
        small = sc.cut(model, sites, keep)
    except sc.SecateurError:
        return None
    masked = sc.mask(model, sites, keep)
    with torch.no_grad():
        return relative_difference(small(x), masked(x)) < 1e-6


def test_random_models() -> None:
    answers = [agree(seed) for seed in range(8)]
    assert False not in answers
    assert True in answers


@pytest.mark.slow
def test_a_hundred_and_twenty_random_models() -> None:
    answers = [agree(seed) for seed in range(120)]
    assert answers.count(False) == 0
    assert answers.count(True) > 60
