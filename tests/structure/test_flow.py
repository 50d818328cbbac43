"""Reads: every way from a unit to the output crosses exactly one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.structure import channels, mask, weights
from secateur.structure.flow import Flow, Read
from secateur.testing.toys import TOYS, hand_mlp
from secateur.types import InputError
from zoo import ZOO, build


@pytest.mark.parametrize("name", list(TOYS))
def test_without_a_tap_it_is_the_model(name: str) -> None:
    toy = TOYS[name]
    model = toy.build().eval()
    flow = Flow(model, channels(model, toy.inputs()))
    for inputs, _ in toy.batches():
        torch.testing.assert_close(flow(inputs), model(inputs))


def leaves(outputs: object) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor)]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", list(ZOO))
def test_zero_at_the_reads_is_the_unit_removed(name: str) -> None:
    model, inputs = build(name)
    sites = channels(model, inputs)
    flow = Flow(model, sites)
    torch.testing.assert_close(leaves(flow(inputs)), leaves(model(*inputs)))
    for site in sites.values():
        kept = torch.ones(site.shape, dtype=torch.bool)
        kept[0] = False

        def shut(read: Read, passing: Tensor, name: str = site.name, kept: Tensor = kept) -> Tensor:
            return passing * read.spread(kept.to(passing.dtype)) if read.site == name else passing

        if site.name not in flow.partial:
            removed = mask(model, sites, {site.name: kept}).eval()(*inputs)
            torch.testing.assert_close(leaves(flow(inputs, shut)), leaves(removed), rtol=1e-4, atol=1e-5)


def test_what_the_reads_do_not_show_is_told() -> None:
    model, inputs = build("layer_norm")
    assert "norm" in Flow(model, channels(model, inputs)).partial["a"]
    model, inputs = build("lstm")
    assert Flow(model, channels(model, inputs)).partial == {"layer": "a recurrent layer reads its own units"}


class Standardised(nn.Module):
    """A layer whose weight is divided by its size, units that are gone left out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.b.weight / (self.b.weight.square().sum(1, keepdim=True) + 1)
        out: Tensor = self.c(torch.nn.functional.linear(self.a(x), weight))
        return out


def test_a_weight_that_is_made_by_a_sum_over_units_is_told() -> None:
    model = Standardised()
    assert Flow(model, channels(model, torch.randn(2, 3))).partial == {"a": "a weight is made by a sum over the units"}


def test_activations_by_unit_are_those_worked_by_hand() -> None:
    model = hand_mlp()
    flow = Flow(model, channels(model, torch.zeros(1, 2)))
    seen: list[Tensor] = []

    def look(read: Read, passing: Tensor) -> Tensor:
        seen.append(read.rows(passing))
        return passing

    flow(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), look)
    assert seen[0].tolist() == [[[5.0], [0.0]], [[2.0], [1.0]], [[1.0], [0.0]]]


def test_gates_of_each_sample_have_the_gradient_of_each_sample() -> None:
    model = hand_mlp()
    flow = Flow(model, channels(model, torch.zeros(1, 2)))
    x = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    gates = torch.ones(2, 3, requires_grad=True)
    flow(x, lambda read, passing: passing * read.spread(gates)).sum().backward()
    # activation times the sum of outgoing weights: (1 + 2, −1 + 0, 0 + 4)
    assert gates.grad is not None
    assert gates.grad.tolist() == [[15.0, -2.0, 4.0], [0.0, -1.0, 0.0]]


def test_single_weights_have_no_activations() -> None:
    model = hand_mlp()
    with pytest.raises(InputError, match="channels"):
        Flow(model, weights(model))
