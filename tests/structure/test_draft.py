"""A draft of a cut is the cut, without the verification."""

from __future__ import annotations

import pytest
import torch
from torch.fx import GraphModule

import zoo
from secateur.criteria import Random
from secateur.selection import select
from secateur.structure import channels, cut, cutting
from secateur.structure.cutting import draft
from secateur.testing.toys import TOYS, same_state, snapshot


@pytest.mark.parametrize("name", TOYS)
def test_a_draft_has_the_numbers_and_outputs_of_the_cut(name: str) -> None:
    toy = TOYS[name]
    model, x = toy.build(), toy.inputs()
    before = snapshot(model)
    sites = channels(model, x)
    if not sites:
        return
    keep = select(Random(seed=0)(model, sites), 0.4)
    drafted, verified = draft(model, sites, keep), cut(model, sites, keep)
    numbers = verified.state_dict()
    assert drafted.state_dict().keys() == numbers.keys()
    assert all(torch.equal(tensor, numbers[name]) for name, tensor in drafted.state_dict().items())
    args = x if isinstance(x, tuple) else (x,)
    with torch.no_grad():
        assert torch.equal(_first(drafted.eval()(*args)), _first(verified.eval()(*args)))
    assert same_state(before, snapshot(model))


def test_what_runs_when_it_is_cut_is_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = TOYS["cnn"]
    model = toy.build()
    sites = channels(model, toy.inputs())
    monkeypatch.setattr(cutting, "cut", None)
    draft(model, sites, select(Random(seed=0)(model, sites), 0.4))


def test_what_does_not_run_as_a_module_comes_as_the_cut() -> None:
    """Sizes are numbers in its code, which no attribute mends."""
    model, inputs = zoo.build("fused_qkv")
    sites = channels(model, inputs)
    keep = select(Random(seed=0)(model, sites), 0.4)
    assert isinstance(cut(model, sites, keep), GraphModule)
    assert isinstance(draft(model, sites, keep), GraphModule)


def _first(outputs: object) -> torch.Tensor:
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]  # type: ignore[index]
