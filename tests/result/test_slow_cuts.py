"""The report says where the multiply-accumulates that went are not felt, and what may help."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.result import PruneReport


def report(before: float, after: float, macs: tuple[int, int] = (8_000_000, 4_000_000), **more: str) -> PruneReport:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    made = sc.prune(model, torch.zeros(1, 8), sparsity=0.5, latency=False).report
    return replace(made, latency=(before, after), macs=macs, **more)


def test_a_cut_that_is_not_faster_is_warned_of() -> None:
    lines = str(report(1.0, 1.0)).splitlines()
    assert any(
        line.startswith("WARNING: the cut is not faster: 1.00× as fast in eager with 50% fewer MACs; keep multiples")
        for line in lines
    )
    assert 'round_to="auto"' in str(report(1.0, 1.1))


def test_a_cut_that_is_slower_than_it_should_be_is_noted() -> None:
    assert "note: the cut is slower than it should be: 1.25× as fast" in str(report(1.0, 0.8))
    assert "slower than it should be" not in str(report(1.0, 0.6))


def test_the_remedy_depends_on_what_was_done() -> None:
    rounded = "to multiples of 8 (2 sites)"
    assert 'runtime="onnxruntime"' in str(report(1.0, 1.0, rounding=rounded))
    assert "time a larger batch, or another runtime" in str(report(1.0, 1.0, rounding=rounded, runtime="onnxruntime"))
    assert f"rounded {rounded}" in str(report(1.0, 0.5, rounding=rounded))


@pytest.mark.parametrize("macs", [(1000, 500), (8_000_000, 7_900_000)])
def test_nothing_is_said_of_models_too_small_to_time_or_hardly_cut(macs: tuple[int, int]) -> None:
    assert "faster" not in str(report(1.0, 1.0, macs=macs))
    assert "slower" not in str(report(1.0, 1.0, macs=macs))


def test_the_runtime_stands_beside_the_speedup() -> None:
    def halves(model: nn.Module, example: object) -> float:
        return float(sum(p.numel() for p in model.parameters()))

    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    made = sc.prune(model, torch.zeros(1, 8), sparsity=0.5, runtime=halves).report
    assert made.runtime == "halves"
    assert made.latency == (178.0, 90.0)
    assert "(speedup 1.98× in halves)" in str(made)
