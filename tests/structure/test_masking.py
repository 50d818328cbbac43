"""`mask` gives what the cut model computes, also where norms and weights take statistics over what is cut."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur as sc
from oracle.masked import relative_difference
from secateur.types import InputError, UnknownNameError
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


class NormsHeads(nn.Module):
    """Its batch norm has a channel a head, and averages over the units of each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 32), nn.BatchNorm1d(4), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.norm(self.a(x).view(x.shape[0], 4, -1)).relu().flatten(1))
        return out


def test_a_batch_norm_that_averages_over_what_is_cut_is_a_warning() -> None:
    torch.manual_seed(0)
    model, x = NormsHeads(), torch.randn(4, 6)
    sites = sc.channels(model, x)
    units = next(name for name, site in sites.items() if site.size == 8)
    with pytest.warns(UserWarning, match="in train mode aten.*batch_norm in norm .* averages over units"):
        sc.cut(model, sites, {units: torch.arange(8) < 5})
    heads = next(name for name, site in sites.items() if site.size == 4)
    sc.cut(model, sites, {heads: torch.arange(4) < 3})


def test_a_masked_model_is_a_module_like_any_other() -> None:
    """It is copied with its statistics, takes other weights, has gradients, and is the cut model in train mode too."""
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
    small = sc.cut(model, sites, KEEP)
    assert torch.allclose(masked.train()(x), small.train()(x), atol=1e-6)
    assert torch.allclose(masked.eval()(x), small.eval()(x), atol=1e-6)


class ByFunction(nn.Module):
    """Norms by a function, so that no module could be run on the kept units alone."""

    def __init__(self, flips: bool = False) -> None:
        super().__init__()
        self.fc, self.bn, self.out, self.flips = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2), flips

    def forward(self, x: Tensor, scale: float = 1.0, shift: Tensor | None = None) -> Tensor:
        h = F.layer_norm(self.fc(x), (self.fc.out_features,)) * scale
        h = self.bn(h) if shift is None else self.bn(h) + shift
        logits: Tensor = self.out(h.flip(0) if self.flips and self.training else h)
        return logits


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "make",
    [*(lambda n=n: Normed(NORMS[n]()) for n in NORMS), ByFunction, lambda: ByFunction(flips=True)],
    ids=[*NORMS, "function", "other code"],
)
def test_masked_is_cut_in_both_modes(make: Callable[[], nn.Module], training: bool) -> None:
    model, x = make().train(), torch.randn(5, 4)
    sites = sc.channels(model, x)
    small, masked = sc.cut(model, sites, KEEP).train(training), sc.mask(model, sites, KEEP).train(training)
    for _ in range(2):
        torch.testing.assert_close(masked(x), small(x), rtol=1e-5, atol=1e-6)
    if isinstance(model, ByFunction):
        norms = small.get_submodule("bn"), masked.get_submodule("bn")
        torch.testing.assert_close(norms[0].running_mean, norms[1].running_mean[KEEP["fc"]])
        assert int(norms[0].num_batches_tracked) == int(norms[1].num_batches_tracked) == 2 * training


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((torch.ones(3, 4),), {}),
        ((torch.ones(3, 4), 2.0), {}),
        ((torch.ones(3, 4),), {"scale": 2.0}),
        ((torch.ones(3, 4),), {"shift": torch.tensor(1.0)}),
        ((), {"shift": torch.tensor(1.0), "scale": 3.0, "x": torch.ones(2, 4)}),
    ],
)
def test_it_takes_inputs_that_the_example_left_out(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    model = ByFunction().eval()
    sites = sc.channels(model, torch.randn(3, 4))
    small, masked = sc.cut(model, sites, KEEP), sc.mask(model, sites, KEEP)
    torch.testing.assert_close(masked(*args, **kwargs), small(*args, **kwargs), rtol=1e-5, atol=1e-6)


@dataclass
class Answer:
    logits: Tensor
    cache: tuple[Tensor, ...]
    note: str = "an object"


class Cached(nn.Module):
    """Answers with an object, keeps what it saw, and takes that back: norms of both kinds on the way."""

    def __init__(self, by_function: bool) -> None:
        super().__init__()
        self.fc, self.norm, self.out, self.by_function = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2), by_function

    def forward(self, x: Tensor, cache: tuple[Tensor, ...] = (), use_cache: bool = True) -> Answer:
        seen = torch.cat([*cache, x], 1)
        h = self.norm(self.fc(seen))
        h = F.normalize(h, dim=-1) if self.by_function else h.relu()
        return Answer(self.out(h[:, -x.shape[1] :] + h.mean(1, keepdim=True)), (seen,) if use_cache else ())


@pytest.mark.parametrize("by_function", [False, True])
def test_answers_are_what_the_model_returns(by_function: bool) -> None:
    model, x = Cached(by_function).eval(), torch.randn(2, 5, 4)
    sites = sc.channels(model, {"x": x, "use_cache": False})
    small, masked = sc.cut(model, sites, KEEP), sc.mask(model, sites, KEEP)
    expected, answer = small(x), masked(x)
    assert isinstance(answer, Answer)
    assert answer.note == "an object"
    torch.testing.assert_close(answer.logits, expected.logits, rtol=1e-5, atol=1e-6)
    more = torch.randn(2, 1, 4)
    torch.testing.assert_close(
        masked(more, answer.cache).logits, small(more, expected.cache).logits, rtol=1e-5, atol=1e-6
    )


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


def test_a_masked_encoder_takes_padding_as_the_cut_one_does() -> None:
    """Norms over cut units are hooks, which the nested tensors of torch's fast path do not pass."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)
    parts = nn.ModuleDict({"stem": nn.Linear(8, 16), "encoder": encoder, "head": nn.Linear(16, 3)})

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = parts

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            h = self.parts["encoder"](self.parts["stem"](x), src_key_padding_mask=padding)
            y: Tensor = self.parts["head"](h)
            return y

    model, padding = Padded().eval(), torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1]]).bool()
    inputs = torch.randn(2, 4, 8), padding
    sites = sc.channels(model, inputs)
    keep = random_keep({name: site.shape for name, site in sites.items()}, 0)
    masked, small = sc.mask(model, sites, keep), sc.cut(model, sites, keep)
    with torch.no_grad():
        torch.testing.assert_close(masked(*inputs)[~padding], small(*inputs)[~padding], rtol=1e-4, atol=1e-5)


def test_a_masked_copy_is_no_model_to_mask_or_cut() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 2)).eval()
    x = torch.randn(2, 3)
    sites = sc.channels(model, x)
    keep = {"0": torch.arange(8) > 2}
    masked = sc.mask(model, sites, keep)
    for call in (
        lambda: sc.mask(masked, sites, keep),
        lambda: sc.cut(masked, sites, keep),
        lambda: sc.channels(masked, x),
    ):
        with pytest.raises(
            InputError, match=r"a copy that sc.mask made, in which 1 of the model .* pass the model that"
        ):
            call()
    plain = sc.mask(model, sites, keep, statistics="all")
    assert list(sc.channels(plain, x)) == ["0"]
