"""Agreement: ranks, overlaps and losses that a reader can check by hand."""

from __future__ import annotations

from math import isnan
from typing import Any

import pytest
import torch
from torch import Tensor

from secateur.criteria import LossChange, SecondOrder
from secateur.measure.agree import agreement
from secateur.measure.quality import evaluate
from secateur.selection import select
from secateur.structure import channels
from secateur.structure.sites import with_zeros
from secateur.testing.toys import TOYS
from secateur.types import InputError, UnknownNameError

A = {"fc1": torch.tensor([1.0, 2.0, 3.0]), "fc2": torch.tensor([6.0, 5.0])}
B = {"fc1": torch.tensor([10.0, 30.0, 20.0]), "fc2": torch.tensor([50.0, 60.0])}


def test_ranks_and_overlaps_by_hand() -> None:
    """Ranks 1 2 3 5 4 and 1 3 2 4 5: Σd² = 4, so ρ = 1 − 6·4 / (5·24) = 0.8."""
    found = agreement(A, B, fractions=[0.2, 0.4, 0.6])
    assert found.spearman == pytest.approx(0.8)
    assert found.by_site == {"fc1": pytest.approx(0.5), "fc2": pytest.approx(-1.0)}
    assert found.bottom == {0.2: 1.0, 0.4: 0.5, 0.6: 1.0}
    assert found.top == {0.2: 0.0, 0.4: 1.0, 0.6: pytest.approx(2 / 3)}
    assert found.best
    assert not agreement({"x": torch.tensor([1.0, 2.0])}, {"x": torch.tensor([2.0, 1.0])}).best


def test_equal_scores_share_their_ranks() -> None:
    """Ranks 1.5 1.5 3 4 beside 1 2 3 4, as scipy has it."""
    from scipy.stats import spearmanr

    a, b = torch.tensor([2.0, 2.0, 5.0, 7.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = float(spearmanr(a.numpy(), b.numpy()).statistic)
    assert agreement({"x": a}, {"x": b}).spearman == pytest.approx(expected)
    assert isnan(agreement({"x": torch.ones(3)}, {"x": b[:3]}).spearman)


def test_sites_are_matched_by_name_not_by_order() -> None:
    assert agreement(A, dict(reversed(B.items()))) == agreement(A, B)


def test_the_loss_suffered_is_that_of_the_masked_model() -> None:
    toy = TOYS["cnn"]
    model, batches = toy.build(), toy.batches()
    sites = channels(model, toy.inputs())
    a, b = SecondOrder(batches)(model, sites), LossChange(batches)(model, sites)
    found = agreement(a, b, fractions=[0.3], model=model, sites=sites, data=batches)
    expected = [evaluate(with_zeros(model, sites, select(s, 0.3)), batches).loss for s in (a, b)]
    assert list(found.suffered[0.3]) == expected
    assert found.loss == evaluate(model, batches).loss
    assert "loss after removal" in str(found)
    sums = [sum(float(b[name].double()[~select(s, 0.3)[name]].sum()) for name in sites) for s in (a, b)]
    assert found.added[0.3] == pytest.approx(tuple(sums))
    assert found.joint[0.3] == pytest.approx(tuple(loss - found.loss for loss in expected))
    assert f"joint change {found.joint[0.3][0]:+.4f}" in str(found)
    assert found.frame()["joint_b"].tolist() == pytest.approx([found.joint[0.3][1]])


def test_the_table_has_a_row_a_fraction() -> None:
    frame = agreement(A, B, fractions=[0.2, 0.4]).frame()
    assert frame["fraction"].tolist() == [0.2, 0.4]
    assert frame["bottom"].tolist() == [1.0, 0.5]
    assert frame["loss_a"].isna().all()


def test_unfit_scores_are_refused() -> None:
    with pytest.raises(InputError, match="no scores"):
        agreement({}, {})
    with pytest.raises(UnknownNameError, match="unknown site 'fc2'"):
        agreement(A, {"fc1": B["fc1"]})
    with pytest.raises(InputError, match="'fc2' has scores on one side only"):
        agreement({"fc1": A["fc1"]}, B)
    with pytest.raises(InputError, match=r"'fc1' have shapes \(3,\) and \(2,\)"):
        agreement(A, B | {"fc1": torch.zeros(2)})
    with pytest.raises(InputError, match="NaN"):
        agreement(A, B | {"fc2": torch.tensor([1.0, float("nan")])})


@pytest.mark.parametrize("fraction", [0, 1, 1.5, "half", True])
def test_fractions_out_of_range_are_refused(fraction: Any) -> None:
    with pytest.raises(InputError, match=r"fractions=.* must be a number in \(0, 1\): a fraction of the units"):
        agreement(A, B, fractions=[fraction])


def test_a_model_needs_its_sites_and_data() -> None:
    some: dict[str, Tensor] = A
    with pytest.raises(InputError, match="all three"):
        agreement(some, B, model=TOYS["mlp"].build())
