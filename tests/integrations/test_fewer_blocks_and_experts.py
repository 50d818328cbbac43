"""Blocks and experts taken out of models of transformers: the config says so, and a new process loads the rest."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import secateur as sc
from secateur.integrations import huggingface
from secateur.stream import CutUnits, drop_blocks, drop_experts, remove_blocks, walk
from secateur.structure.shallower import without_blocks

pytestmark = [
    pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed"),
    pytest.mark.filterwarnings("ignore"),  # the library's own
]

IDS = torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(0))
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
    "eos_token_id": None,
}
ROUTED = {"num_local_experts": 8, "num_experts_per_tok": 2}
NAMED = {"num_experts": 8, "num_experts_per_tok": 2, "head_dim": 8, "moe_intermediate_size": 16}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
DEEP = {**LATENT, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "topk_group": 1}

MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Mixtral": ("num_local_experts", ROUTED),
    "Qwen3Moe": ("num_experts", NAMED),
    "Olmoe": ("num_experts", {"num_experts": 8, "num_experts_per_tok": 2}),
    "GptOss": ("num_local_experts", {**ROUTED, "head_dim": 8}),
    "DeepseekV3": ("n_routed_experts", {**DEEP, "num_key_value_heads": 4, "first_k_dense_replace": 2, "n_group": 2}),
}
PLAIN: dict[str, dict[str, Any]] = {"Llama": {}, "Olmo3": {}, "Gemma2": {"head_dim": 8}, "Qwen2": {}, "Phi": {}}

RELOAD = """
import sys, torch
from dataclasses import replace
from pathlib import Path
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
for folder in map(Path, sys.argv[1:]):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    expected = load_file(folder.with_suffix(".safetensors"))
    with torch.no_grad():
        assert torch.equal(model(expected["ids"]).logits, expected["logits"]), folder
    assert model.generate(expected["ids"], max_new_tokens=3, do_sample=False, pad_token_id=0).shape == (2, 15)
assert "secateur" not in sys.modules
"""


def tiny(family: str, **sizes: Any) -> Any:
    """A model of a family, with weights large enough that its parts matter."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **sizes})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = 0.2 * torch.randn_like(parameter)
    return model


def saved(result: sc.Result, folder: Path) -> Path:
    from safetensors.torch import save_file

    huggingface.save(result, folder)
    with torch.no_grad():
        logits = result.model(IDS).logits
    save_file({"ids": IDS, "logits": logits}, folder.with_suffix(".safetensors"))
    return folder


def test_a_new_process_loads_models_without_some_of_their_experts(tmp_path: Path) -> None:
    folders = []
    for family, (name, sizes) in MIXTURES.items():
        model = tiny(family, **sizes)
        small = drop_experts(model, IDS, 2)
        assert getattr(small.model.config, name) == 6, family
        assert all(int(mask.sum()) == 6 for mask in small.keep.values()), family
        folders.append(saved(small, tmp_path / family))
        if family == "DeepseekV3":  # two groups of four, of which a token goes to one
            assert all(mask.view(2, 4).sum(1).tolist() == [3, 3] for mask in small.keep.values())
    subprocess.run([sys.executable, "-W", "ignore", "-c", RELOAD, *folders], check=True)


def test_a_new_process_loads_models_without_some_of_their_blocks(tmp_path: Path) -> None:
    folders = []
    for family, sizes in {**PLAIN, **{family: sizes for family, (_, sizes) in MIXTURES.items()}}.items():
        small = drop_blocks(tiny(family, **sizes), IDS, 1, "influence")
        assert small.model.config.num_hidden_layers == 3, family
        folders.append(saved(small, tmp_path / family))
    subprocess.run([sys.executable, "-W", "ignore", "-c", RELOAD, *folders], check=True)


def test_a_new_process_loads_what_a_walk_has_cut(tmp_path: Path) -> None:
    ids = torch.randint(3, 64, (4, 24), generator=torch.Generator().manual_seed(1))
    small = walk(tiny("Llama"), ids, CutUnits({"neuron": 0.25, "head": 0.5}, repair="stream"))
    config = small.model.config
    assert (config.intermediate_size, config.num_attention_heads, config.num_key_value_heads) == (48, 2, 1)
    again = small.apply(tiny("Llama"))
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, small.model(IDS).logits)
    folder = saved(small, tmp_path / "llama")
    subprocess.run([sys.executable, "-W", "ignore", "-c", RELOAD, folder], check=True)


def test_lists_and_counts_of_blocks_follow() -> None:
    olmo = tiny("Olmo3", layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"])
    assert without_blocks(olmo, "model.layers", ["2"]).config.layer_types == [
        "sliding_attention",
        "full_attention",
        "sliding_attention",
    ]
    deep = tiny("DeepseekV3", **{**MIXTURES["DeepseekV3"][1], "first_k_dense_replace": 3})
    assert without_blocks(deep, "model.layers", ["1"]).config.first_k_dense_replace == 2
    qwen = tiny("Qwen3Moe", **NAMED, mlp_only_layers=[0, 2])
    assert without_blocks(qwen, "model.layers", ["1"]).config.mlp_only_layers == [0, 1]


def test_a_depth_that_no_config_says_goes_into_our_folder(tmp_path: Path) -> None:
    def every_second() -> Any:
        return tiny("Qwen3Moe", **NAMED, decoder_sparse_step=2)

    model = every_second()
    result = replace(remove_blocks(model, ["model.layers.1"]), inputs=IDS)
    assert result.model.config.num_hidden_layers == 4  # two dense blocks in a row
    folder = huggingface.save(result, tmp_path / "own")
    assert "a config of transformers cannot say" in (folder / "README.md").read_text()
    again = sc.load(folder / "secateur", every_second())
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, result.model(IDS).logits)


def test_products_of_experts_count_where_tokens_are_routed() -> None:
    """48 tokens, each through two experts of 3 · 32 · 64 products, whatever the number of experts; written out for Mixtral."""
    ids = IDS.repeat(2, 1)
    model = tiny("Mixtral", **ROUTED, num_hidden_layers=2)
    attention = 2 * 32 * 32 + 2 * 32 * 16
    block = 48 * (attention + 32 * 8 + 2 * 3 * 32 * 64) + 4 * 2 * 12 * 12 * 32
    assert sc.measure.macs(model, {"input_ids": ids}) == 2 * block + 48 * 32 * 64
    small = drop_experts(model, IDS, 4).model
    assert sc.measure.macs(small, {"input_ids": ids}) == 2 * (block - 48 * 32 * 4) + 48 * 32 * 64
