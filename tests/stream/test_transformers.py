"""The walk on models of transformers: a tiny Llama always, and SmolLM2 where `SECATEUR_SMOLLM2` names its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.measure import perplexity
from secateur.stream import (
    CutUnits,
    SparsifyWeights,
    drop_blocks,
    empty_weights,
    plan,
    remove_blocks,
    walk,
    walk_folder,
)

FOLDER = os.environ.get("SECATEUR_SMOLLM2", "")
pytestmark = [
    pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed"),
    pytest.mark.filterwarnings("ignore"),  # the library's own
]
needs_smollm2 = pytest.mark.skipif(
    not (Path(FOLDER) / "config.json").is_file(), reason="SECATEUR_SMOLLM2 names no folder of SmolLM2"
)


def llama(**sizes: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    usual = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 4}
    config = LlamaConfig(**{**usual, "num_hidden_layers": 3, "vocab_size": 100, "eos_token_id": None, **sizes})
    model: nn.Module = LlamaForCausalLM(config).eval()
    return model


def ids(sequences: int, length: int = 24, vocabulary: int = 100) -> Tensor:
    return torch.randint(0, vocabulary, (sequences, length), generator=torch.Generator().manual_seed(0))


ELSEWHERE = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
assert not any(name.startswith("secateur") for name in sys.modules)
with torch.no_grad():
    torch.save(model(torch.load(sys.argv[2])).logits, sys.argv[3])
print(model.generate(torch.load(sys.argv[2])[:1], max_new_tokens=2, do_sample=False, pad_token_id=0).shape[1])
"""


@pytest.mark.parametrize(
    "step", [CutUnits(0.25), CutUnits({"neuron": 0.5, "self_attn.q_proj.heads": 0.5}, "l2", "stream")]
)
def test_a_walked_model_is_loaded_by_from_pretrained_in_a_process_of_its_own(step: CutUnits, tmp_path: Path) -> None:
    small, tokens = walk(llama(), ids(6), step).model, ids(2)
    small.save_pretrained(tmp_path / "small")
    torch.save(tokens, tmp_path / "ids.pt")
    files = [str(tmp_path / name) for name in ("small", "ids.pt", "logits.pt")]
    shown = subprocess.run([sys.executable, "-c", ELSEWHERE, *files], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "26"
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "logits.pt"), small(tokens).logits)


def test_what_is_cut_from_disk_is_what_is_cut_in_memory(tmp_path: Path) -> None:
    model, tokens = llama(), ids(6)
    model.save_pretrained(tmp_path / "whole", max_shard_size="60kB")
    with empty_weights():
        empty = llama()
    walk_folder(empty, tmp_path / "whole", tmp_path / "small", tokens, CutUnits(0.25, repair="stream"))
    again: nn.Module = type(model).from_pretrained(tmp_path / "small").eval()
    small = walk(model, tokens, CutUnits(0.25, repair="stream")).model
    with torch.no_grad():
        assert torch.allclose(again(tokens).logits, small(tokens).logits, atol=1e-5)


def test_padding_takes_no_part() -> None:
    """Sequences of different lengths, filled up, choose as they do one by one."""
    model, long = llama(), ids(4)
    parts = [row[: 24 - 4 * number] for number, row in enumerate(long)]
    mixed = walk(model, parts, CutUnits(0.25)).keep
    filled = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=7)
    mask = torch.nn.utils.rnn.pad_sequence(
        [torch.ones(len(part), dtype=torch.bool) for part in parts], batch_first=True
    )
    masked = walk(model, filled, CutUnits(0.25), mask=mask).keep
    assert all(torch.equal(mixed[name], masked[name]) for name in mixed)


def test_blocks_that_are_gone_are_gone_from_the_config(tmp_path: Path) -> None:
    model, tokens = llama(), ids(4)
    dropped = drop_blocks(model, tokens, 1)
    named = remove_blocks(model, dropped.history.removed).model
    for small in (dropped.model, named):
        assert small.config.num_hidden_layers == 2
        small.save_pretrained(tmp_path / "small")
        again = type(model).from_pretrained(tmp_path / "small").eval()
        with torch.no_grad():
            assert torch.equal(again(tokens).logits, small(tokens).logits)
    with torch.no_grad():
        assert torch.equal(named(tokens).logits, dropped.model(tokens).logits)


def test_a_plan_on_meta_is_what_the_walk_makes() -> None:
    with torch.device("meta"):
        empty = llama()
    planned = plan(empty, CutUnits(0.25))
    small = walk(llama(), ids(4), CutUnits(0.25)).model
    assert planned.after.parameters == sc.measure.parameters(small).total
    assert set(planned.kept.values()) >= {72}


@pytest.fixture(scope="module")
def smollm2() -> nn.Module:
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    return model


def text(sequences: int, first: int, length: int = 256) -> Tensor:
    """Python's own help in SmolLM2's tokens, from a sequence on."""
    from pydoc_data.topics import topics

    from transformers import AutoTokenizer

    words = "\n\n".join(topics[name] for name in sorted(topics)[:12])
    tokens: Tensor = AutoTokenizer.from_pretrained(FOLDER)(words, return_tensors="pt").input_ids[0]
    return tokens[first * length : (first + sequences) * length].view(sequences, length)


@pytest.mark.slow
@needs_smollm2
def test_smollm2_without_a_quarter_of_its_neurons_still_makes_sense(smollm2: nn.Module, tmp_path: Path) -> None:
    """Little text and few sequences, so that bounds are wide; docs/results/language-models.md has the figures."""
    untouched = text(4, 0)
    walked = walk(smollm2, text(16, 4), CutUnits(0.25, repair="stream"), held_out=untouched)
    assert walked.history.before is not None
    assert walked.history.after is not None
    assert walked.history.after < 1.6 * walked.history.before
    blind = perplexity(walk(smollm2, text(2, 4), CutUnits(0.25, "l2")).model, untouched)
    assert blind > 100 * walked.history.before
    walked.model.save_pretrained(tmp_path)
    again = type(smollm2).from_pretrained(tmp_path).eval()
    assert again.config.intermediate_size == 1152
    with torch.no_grad():
        assert torch.equal(again(untouched[:1]).logits, walked.model(untouched[:1]).logits)


@pytest.mark.slow
@needs_smollm2
def test_wanda_zeroes_weights_far_better_than_magnitude(smollm2: nn.Module) -> None:
    untouched, calibration = text(2, 0), text(4, 4)
    wanda, magnitude = (
        perplexity(walk(smollm2, calibration, SparsifyWeights(0.5, by)).model, untouched) for by in ("wanda", "l2")
    )
    assert perplexity(smollm2, untouched) < wanda < magnitude / 2
