"""What a criterion cannot score, and options of another kind than it takes: one error of ours, whatever the criterion."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.criteria import CRITERIA, Magnitude, Movement, Random, SynFlow, by_name
from secateur.structure import blocks, channels, weights
from secateur.types import InputError, SecateurError, Sites, UnknownNameError

X, Y = torch.linspace(-1, 1, 60).reshape(10, 6), torch.arange(10) % 3
DATA = (X, Y)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.inner(x))


def model() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(Block(), Block()), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
    )


@pytest.mark.parametrize("name", CRITERIA)
def test_without_sites_there_is_nothing_to_score(name: str) -> None:
    single = nn.Linear(6, 3)
    criterion = by_name(name, DATA)
    with pytest.raises(InputError, match=rf"^{type(criterion).__name__}: there are no sites to score: "):
        criterion(single, channels(single, X))


@pytest.mark.parametrize("find", [channels, blocks, lambda network, inputs: weights(network)])
@pytest.mark.parametrize("name", CRITERIA)
def test_sites_of_each_kind_are_scored_or_refused(name: str, find: Any) -> None:
    network = model().eval()
    sites: Sites = find(network, X)
    try:
        scores = by_name(name, DATA)(network, sites)
    except SecateurError:
        return
    assert {site: tuple(score.shape) for site, score in scores.items()} == {n: s.shape for n, s in sites.items()}


@pytest.mark.parametrize("name", ["energy", "next-layer", "second-order"])
def test_criteria_of_activations_refuse_blocks_by_name(name: str) -> None:
    network = model().eval()
    with pytest.raises(InputError, match=r"activations are those of channels; find the sites with channels\("):
        by_name(name, DATA)(network, blocks(network, X))


def test_synflow_scores_blocks() -> None:
    network = model().eval()
    (scores,) = SynFlow()(network, blocks(network, X)).values()
    assert scores.shape == (2,)
    assert bool((scores > 0).all())


WRONG = {"data": DATA, "None": None, "text": "abc", "list": [1, 2], "tensor": X, "array": X.numpy(), "half": 0.5}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", CRITERIA)
def test_options_of_another_kind_are_refused_or_taken(name: str, wrong: str) -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    criterion: Any = by_name(name, DATA)
    for option in fields(criterion):
        message = ""
        try:
            scores = replace(criterion, **{option.name: WRONG[wrong]})(network, channels(network, X))
        except SecateurError as error:
            message, scores = str(error), {"0": None}
        assert set(scores) == {"0"}, option.name
        assert len(message) < 500, option.name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Random(DATA), "Random: seed=<tuple> must be a whole number"),
        (lambda: Random(2**64), "Random: seed=18446744073709551616 must be a whole number from"),
        (lambda: Magnitude(DATA), "Magnitude: p=<tuple> must be a number"),
        (lambda: Movement(DATA), r"Movement: moved=<tuple> must be the sums of a training by the parameter's name"),
        (lambda: by_name("energy", bias=1), "Energy: bias=1 must be True or False"),
        (lambda: by_name("taylor", DATA, batch_size=0.5), "Taylor: batch_size=0.5 must be a whole number"),
    ],
)
def test_what_is_given_in_the_wrong_place_is_named(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_name_of_another_kind_is_no_name() -> None:
    with pytest.raises(UnknownNameError, match="unknown side of a channel for Magnitude '<tuple>'"):
        Magnitude(2, DATA)


def test_inputs_that_the_model_does_not_take() -> None:
    network = model().eval()
    with pytest.raises(InputError, match=r"forward pass failed on the example inputs \(10, 6\), \(10,\)"):
        SynFlow(DATA)(network, channels(network, X))
