"""Equal shares of sites whose widths follow from one size of a config, by hand."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch
from torch import nn

from secateur.selection.uniform import NOT_IN_CONFIG, uniform, uniform_sites
from secateur.structure import channels
from secateur.structure.configs import ConfigWidth
from secateur.types import InputError

WIDTH = ConfigWidth({("inner",): 6}, {"a": 6, "b": 12}, 6)
"""Site b has two units for each of a."""
SCORES = {"a": torch.arange(6.0), "b": torch.arange(12.0), "c": torch.arange(3.0)}


def counts(share: float, round_to: Any = 1) -> dict[str, int]:
    """How many units are kept of each site where both are to keep a share."""
    keep = {name: torch.arange(len(score)) >= (1 - share) * len(score) for name, score in SCORES.items()}
    masks = uniform(keep, SCORES, [WIDTH], round_to)
    assert torch.equal(masks["c"], keep["c"])
    for name in ("a", "b"):  # the best stay
        kept = int(masks[name].sum())
        assert masks[name].tolist() == [False] * (len(SCORES[name]) - kept) + [True] * kept
    return {name: int(masks[name].sum()) for name in ("a", "b")}


@pytest.mark.parametrize(
    ("share", "round_to", "expected"),
    [
        (0.5, 1, {"a": 3, "b": 6}),
        (1 / 6, 1, {"a": 1, "b": 2}),
        (1.0, 1, {"a": 6, "b": 12}),
        (0.5, {"a": 2}, {"a": 2, "b": 4}),  # 2 and 4 are as near: the smaller
        (5 / 6, {"a": 2}, {"a": 4, "b": 8}),
        (0.5, {"b": 8}, {"a": 4, "b": 8}),
        (0.5, 5, {"a": 5, "b": 10}),
        (0.5, 7, {"a": 6, "b": 12}),  # no other step is a multiple: whole
    ],
)
def test_both_sites_keep_one_share_in_whole_steps(share: float, round_to: Any, expected: dict[str, int]) -> None:
    assert counts(share, round_to) == expected


def test_the_share_is_the_mean_of_the_sites() -> None:
    keep = {"a": torch.arange(6) >= 4, "b": torch.arange(12) >= 4}  # a third and two thirds
    masks = uniform(keep, SCORES, [WIDTH])
    assert (int(masks["a"].sum()), int(masks["b"].sum())) == (3, 6)


@dataclass
class Settings:
    """One size."""

    inner: int = 6

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Configured(nn.Module):
    """A class that is made of its config alone."""

    config_class = Settings

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.first, self.second = nn.Linear(4, config.inner), nn.Linear(config.inner, 5)
        self.third = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.first(x).relu()).relu())  # type: ignore[no-any-return]


def test_sites_that_a_config_says_are_left_and_the_others_frozen_with_the_reason() -> None:
    model = Configured(Settings())
    sites = channels(model, torch.zeros(1, 4))
    assert set(sites) == {"first", "second"}
    left, widths = uniform_sites(model, sites, None)
    assert set(left) == {"first"}
    assert left.frozen["second"] == NOT_IN_CONFIG
    assert [dict(width.units) for width in widths] == [{"first": 6}]
    assert uniform_sites(model, sites, True)[1] == widths
    assert uniform_sites(model, sites, False) == (sites, ())


def test_a_model_without_a_config_has_all_sites_unless_equal_widths_are_asked_for() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    sites = channels(model, torch.zeros(1, 4))
    assert uniform_sites(model, sites, None) == (sites, ())
    assert uniform_sites(model, sites, False) == (sites, ())
    with pytest.raises(InputError, match="mine: uniform=True, but no config says the widths of Sequential"):
        uniform_sites(model, sites, True, "mine")
