"""Replacements and corrections after a cut, beside the closed form that bounds them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secateur.search import Moments, corrections, least_squares, patches, replacements
from secateur.types import InputError


def _cut() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(200, 4, generator=generator)
    before = torch.cat([base, base @ torch.randn(4, 3, generator=generator) + 0.1], 1)
    return before, before[:, :5], torch.randn(2, 7, generator=generator)


def test_the_closed_form_is_the_least_error() -> None:
    before, after, weight = _cut()
    moments, best = Moments.of(before, after, weight), least_squares(before, after, weight)
    expected = (before @ weight.mT - after @ best.mT).square().sum(1).mean()
    assert float(moments.error(best[None])[0]) == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
    noise = best + 0.01 * torch.randn(20, 2, 5, generator=torch.Generator().manual_seed(1))
    assert bool((moments.error(noise) > moments.error(best[None])).all())


def test_evolved_corrections_absorb_most_of_the_error_and_never_beat_the_closed_form() -> None:
    before, after, weight = _cut()
    moments = Moments.of(before, after, weight)
    found = corrections(moments, weight[:, :5], sigma=0.3, seed=0)
    least = float(moments.error(least_squares(before, after, weight)[None])[0])
    assert least <= found.error + 1e-9
    assert found.error < 0.3 * found.start
    assert list(found.history) == sorted(found.history, reverse=True)
    again = corrections(moments, weight[:, :5], sigma=0.3, seed=0)
    assert np.array_equal(found.values, again.values)


def test_a_replacement_filter_can_only_be_evolved_back() -> None:
    # As the author found: with the next layer left as it is, the filter that was there is the best there can be.
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(100, 3, generator=generator), torch.tensor([1.0, -2.0, 0.5])

    def error(values: np.ndarray) -> np.ndarray:
        made = torch.tanh(torch.from_numpy(values).float() @ x.mT)
        found: np.ndarray = (made - torch.tanh(x @ target)).square().mean(1).numpy()
        return found

    found = replacements(error, np.zeros(3), np.full(3, 0.5), generations=150)
    assert found.error < 0.01 * found.start
    np.testing.assert_allclose(found.values, target.numpy(), atol=0.3)


def test_patches_make_a_convolution_a_product() -> None:
    x, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    rows = patches(x, (3, 3), stride=(2, 2), padding=(1, 1)) @ weight.flatten(1).mT
    expected = torch.nn.functional.conv2d(x, weight, stride=2, padding=1)
    torch.testing.assert_close(rows.view(2, -1, 4).mT.reshape(expected.shape), expected)


def test_what_does_not_fit_is_refused() -> None:
    before, after, weight = _cut()
    with pytest.raises(InputError, match="one row for each sample"):
        least_squares(before, after[:5], weight)
    with pytest.raises(InputError, match="reads 7 inputs"):
        least_squares(before, after, weight[:, :3])
    with pytest.raises(InputError, match="NaN"):
        least_squares(before * float("nan"), after, weight)
    with pytest.raises(InputError, match=r"ridge=.* must be a finite number, 0 or more"):
        least_squares(before, after, weight, ridge=-1)
    with pytest.raises(InputError, match="the moments are of"):
        corrections(Moments.of(before, after, weight), weight)
    with pytest.raises(InputError, match="population=1 must be a whole number, 2 or more"):
        replacements(lambda x: x.sum(1), np.ones(2), np.ones(2), population=1)
