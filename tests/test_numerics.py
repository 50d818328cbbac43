"""Models of every float type and memory layout are cut as they are: types, layouts, ties and frozen parameters stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.testing.toys import same_state, snapshot


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 4)
    )


X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_types_and_layouts(dtype: torch.dtype, layout: torch.memory_format) -> None:
    model = network().to(dtype=dtype, memory_format=layout).eval()  # type: ignore[call-overload]
    x = X.to(dtype=dtype, memory_format=layout)
    result = sc.prune(model, x, "l2", 0.5, latency=False)
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    with torch.no_grad():
        masked, small = sc.mask(model, result.sites, result.keep)(x), result.model.eval()(x)
    assert torch.allclose(masked, small, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


def test_parameters_that_are_not_contiguous_tied_or_frozen() -> None:
    model = network().eval()
    model[3].weight = nn.Parameter(model[3].weight.detach().transpose(0, 1).contiguous().transpose(0, 1))
    model[0].weight.requires_grad_(False)
    assert not model[3].weight.is_contiguous()
    small = sc.prune(model, X, "l2", 0.5, latency=False).model
    assert not small[0].weight.requires_grad  # type: ignore[index]
    assert small[3].weight.requires_grad  # type: ignore[index]


def test_batch_norm_in_train_mode_keeps_its_statistics_and_its_mode() -> None:
    model = network().train()
    before = snapshot(model)
    small = sc.prune(model, X, "l2", 0.5, latency=False).model
    assert small.training
    assert same_state(before, snapshot(model))


def test_a_batch_of_one_and_of_none() -> None:
    model = network().eval()
    assert sc.prune(model, X[:1], "l2", 0.5, latency=False).model(X).shape == (2, 4)
    small = sc.prune(model, X, "l2", 0.5, latency=False).model.eval()
    assert small(X[:1]).shape == (1, 4)
    assert small(X[:0]).shape == (0, 4)
    with pytest.raises(sc.InputError, match="at least one sample"):
        sc.prune(model, X[:0], "l2", 0.5, latency=False)


def test_parameters_without_numbers_are_refused_by_name() -> None:
    with pytest.raises(sc.InputError, match=r"meta"):
        sc.prune(nn.Sequential(nn.Linear(4, 4, device="meta"), nn.Linear(4, 2)), torch.ones(1, 4), latency=False)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_bits(threads: int) -> None:
    data = (X.repeat(8, 1, 1, 1), torch.arange(16) % 4)
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
