"""Calls of a walk that nothing can come of: one error each, with what to give."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.models.decoder import decoder
from secateur.stream import (
    CutUnits,
    SparsifyWeights,
    block_influence,
    block_losses,
    drop_blocks,
    plan,
    remove_blocks,
    step_within,
    walk,
)
from secateur.types import InputError, UnknownNameError

MODEL = decoder(blocks=2)
IDS = torch.arange(24).view(2, 12) % 11
READERS: dict[str, Callable[..., Any]] = {
    "walk": walk,
    "block_influence": block_influence,
    "block_losses": block_losses,
    "perplexity": sc.measure.perplexity,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("ids", [IDS + 1, IDS - 1], ids=["above", "below"])
def test_ids_that_a_vocabulary_does_not_have(reader: Callable[..., Any], ids: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"does not take tokens .* ids from .*give a causal language model ids below"):
        reader(MODEL, ids)


def test_ids_and_lengths_that_speed_is_not_measured_on() -> None:
    with pytest.raises(InputError, match="failed on the example inputs"):
        sc.measure.tokens_per_second(MODEL, IDS + 1, repeats=2)
    with pytest.raises(InputError, match="no longer than it has positions"):
        plan(MODEL, length=128)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_mask_that_leaves_nothing(reader: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="mask is False everywhere, so no token counts"):
        reader(MODEL, IDS, mask=torch.zeros_like(IDS))


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_whole_numbers_of_any_type_are_ids_and_yes_and_no_are_none(reader: Callable[..., Any]) -> None:
    reader(MODEL, IDS.to(torch.uint8))
    with pytest.raises(InputError, match="give whole numbers"):
        reader(MODEL, IDS > 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda name: walk(MODEL, IDS, container=name),
        lambda name: plan(MODEL, length=8, container=name),
        lambda name: step_within(MODEL, {"macs": 0.9}, length=8, container=name),
        lambda name: block_influence(MODEL, IDS, container=name),
        lambda name: block_losses(MODEL, IDS, container=name),
        lambda name: drop_blocks(MODEL, IDS, 1, container=name),
    ],
)
@pytest.mark.parametrize("name", ["layerz", "head"])
def test_containers_that_are_not_there(call: Callable[[str], Any], name: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"unknown container of blocks '{name}'.*layers"):
        call(name)


def test_names_are_looked_at_when_a_step_is_made() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'output-norm'"):
        CutUnits(0.5, "output-nrom")
    with pytest.raises(UnknownNameError, match="did you mean 'wanda'"):
        SparsifyWeights(0.5, "wandaa")
    with pytest.raises(InputError, match="such as '2:4'"):
        SparsifyWeights(None, pattern="two of four")


@pytest.mark.parametrize("sparsity", [0.0, {}, {"neuron": 0.0}])
def test_a_step_that_removes_nothing_meets_no_budget(sparsity: Any) -> None:
    with pytest.raises(InputError, match="removes nothing, however it is scaled"):
        step_within(MODEL, {"parameters": 0.9}, CutUnits(sparsity), length=8)


def test_counts_and_lists_of_blocks() -> None:
    with pytest.raises(InputError, match="count=True must be a whole number"):
        drop_blocks(MODEL, IDS, True)
    with pytest.raises(InputError, match="must be a list of names"):
        remove_blocks(MODEL, "layers.1")


def test_a_model_that_answers_nan_is_not_measured() -> None:
    broken = decoder(blocks=2)
    broken.get_parameter("layers.0.down.weight").data[0, 0] = float("nan")
    for reader in (sc.measure.perplexity, block_influence, block_losses):
        with pytest.raises(InputError, match="NaN; load a good checkpoint"):
            reader(broken, IDS)


def test_ids_beyond_the_vocabulary_in_a_recovery() -> None:
    with pytest.raises(InputError, match="go up to 11: an embedding has fewer rows"):
        sc.train.recover(decoder(blocks=1), MODEL, IDS + 1)


def test_threads_that_share_a_model_do_not_see_each_other() -> None:
    alone = block_losses(MODEL, IDS), block_influence(MODEL, IDS), sc.measure.perplexity(MODEL, IDS)
    calls = [lambda: block_losses(MODEL, IDS), lambda: block_influence(MODEL, IDS), lambda: walk(MODEL, IDS)] * 3
    with ThreadPoolExecutor(4) as pool:
        found = [task.result() for task in [pool.submit(call) for call in calls]]
    assert all(losses == alone[0] for losses in found[::3])
    assert all(influence == alone[1] for influence in found[1::3])
    assert sc.measure.perplexity(MODEL, IDS) == alone[2]


def test_padding_on_either_side_is_none_of_the_text() -> None:
    parts = [IDS[0], IDS[1, :7], IDS[0, 3:8]]
    left, mask = torch.zeros(3, 12, dtype=torch.long), torch.zeros(3, 12, dtype=torch.bool)
    for row, part in enumerate(parts):
        left[row, 12 - len(part) :], mask[row, 12 - len(part) :] = part, True
    assert sc.measure.perplexity(MODEL, left, mask) == sc.measure.perplexity(MODEL, parts)
    assert block_influence(MODEL, left, mask) == block_influence(MODEL, parts)
    kept = [walk(MODEL, left, CutUnits(0.25), mask=mask).keep, walk(MODEL, parts, CutUnits(0.25)).keep]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


class GapBlock(nn.Module):
    """Every token reads the mean over all of them, those behind it too."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = x + x.mean(1, keepdim=True)
        return x + self.down(torch.relu(self.up(mixed)))  # type: ignore[no-any-return]


class GapFiller(nn.Module):
    """A model as BERT is: it answers at every token with all the others in view."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.layers = nn.Embedding(11, 8), nn.ModuleList([GapBlock(), GapBlock()])
        self.head = nn.Linear(8, 11)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)  # type: ignore[no-any-return]


def test_what_sees_later_tokens_has_no_perplexity_and_is_walked_without_one() -> None:
    model = GapFiller().eval()
    for measured in (model, GapFiller().bfloat16().eval()):
        with pytest.raises(InputError, match=r"GapFiller is no causal language model.*AutoModelForCausalLM"):
            sc.measure.perplexity(measured, IDS)
    seen: list[int] = []
    with pytest.raises(InputError, match="no causal language model"):
        walk(model, IDS, CutUnits(0.25), held_out=IDS, recover=lambda *_: seen.append(1))
    assert not seen, "refused only after the work"
    walked = walk(model, IDS, CutUnits(0.25, "l2"))
    assert [int(mask.sum()) for mask in walked.keep.values()] == [9, 9]


def test_a_causal_model_in_half_precision_is_one() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        mask = torch.tensor([[True] * 12, [True] * 5 + [False] * 7])
        assert sc.measure.perplexity(decoder(blocks=2).to(dtype), IDS, mask) > 1


def test_a_model_of_transformers_that_fills_gaps_is_none() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    bert = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=30, **sizes)).eval()
    with pytest.raises(InputError, match="BertForMaskedLM is no causal"):
        sc.measure.perplexity(bert, IDS)
