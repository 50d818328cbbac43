"""Families that read or write text: encoders, decoders, mixtures of experts, state spaces."""

from __future__ import annotations

from typing import Any

import torch

from families import GROUPED, TEXT, WORDS, Made, family, plain, words

__all__: list[str] = []

LABELS = {**TEXT, "num_labels": 5}
CLASSIFIER, CAUSAL = "ForSequenceClassification", "ForCausalLM"
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL = {"sliding_window": 8}

# Encoders.
plain("BERT", "Bert", CLASSIFIER, words, **LABELS)
plain("RoBERTa", "Roberta", CLASSIFIER, words, **LABELS)
plain("ALBERT", "Albert", CLASSIFIER, words, **LABELS, embedding_size=16)
plain("ELECTRA", "Electra", CLASSIFIER, words, **LABELS, embedding_size=16)
plain("DistilBERT", "DistilBert", CLASSIFIER, words, vocab_size=99, dim=32, n_heads=4, n_layers=2, hidden_dim=64)
plain("XLM-R", "XLMRoberta", CLASSIFIER, words, **LABELS)
plain("XLM-R-XL", "XLMRobertaXL", CLASSIFIER, words, **LABELS)
plain("CamemBERT", "Camembert", CLASSIFIER, words, **LABELS)
plain("DeBERTa", "Deberta", CLASSIFIER, words, **LABELS, relative_attention=True, pos_att_type=["c2p", "p2c"])
plain(
    "DeBERTa-v2", "DebertaV2", CLASSIFIER, words, **LABELS, relative_attention=True, pos_att_type=["c2p", "p2c"],
    share_att_key=True, position_buckets=8, norm_rel_ebd="layer_norm", conv_kernel_size=3,
)  # fmt: skip
plain("MPNet", "MPNet", CLASSIFIER, words, **LABELS)
plain("ESM", "Esm", CLASSIFIER, words, **LABELS, position_embedding_type="rotary", pad_token_id=1, mask_token_id=98)
plain("Megatron-BERT", "MegatronBert", CLASSIFIER, words, **LABELS)
plain("ModernBERT", "ModernBert", CLASSIFIER, words, **LABELS, pad_token_id=0, local_attention=8)
plain("NomicBERT", "NomicBert", "Model", words, **TEXT)
plain("RemBERT", "RemBert", CLASSIFIER, words, **LABELS, input_embedding_size=16)
plain("ERNIE", "Ernie", CLASSIFIER, words, **LABELS)
plain("Data2Vec-text", "Data2VecText", CLASSIFIER, words, **LABELS)
plain("RoBERTa-PreLN", "RobertaPreLayerNorm", CLASSIFIER, words, **LABELS)
plain(
    "Funnel", "Funnel", CLASSIFIER, words, vocab_size=99, block_sizes=[1, 1], num_decoder_layers=1, d_model=32,
    n_head=4, d_head=8, d_inner=64,
)  # fmt: skip
plain("BigBird", "BigBird", CLASSIFIER, words, **LABELS, attention_type="original_full")
plain("Longformer", "Longformer", CLASSIFIER, words, **LABELS, attention_window=4)
plain(
    "MobileBERT", "MobileBert", CLASSIFIER, words, **LABELS, embedding_size=16, intra_bottleneck_size=16,
    num_feedforward_networks=2,
)  # fmt: skip
plain("SqueezeBERT", "SqueezeBert", CLASSIFIER, words, **LABELS, embedding_size=32)
plain("RoFormer", "RoFormer", CLASSIFIER, words, **LABELS, embedding_size=16)
plain("ConvBERT", "ConvBert", CLASSIFIER, words, **LABELS, embedding_size=16, conv_kernel_size=3)
plain("FNet", "FNet", CLASSIFIER, lambda: {"input_ids": words()["input_ids"]}, **LABELS)
plain("Nystromformer", "Nystromformer", CLASSIFIER, words, **LABELS, num_landmarks=16, segment_means_seq_len=16)
plain("I-BERT", "IBert", CLASSIFIER, words, **LABELS, pad_token_id=1)
plain("Splinter", "Splinter", "Model", words, **TEXT)
plain("XLNet", "XLNet", CLASSIFIER, words, vocab_size=99, d_model=32, n_layer=2, n_head=4, d_inner=64)
plain("XLM", "XLM", CLASSIFIER, words, vocab_size=99, emb_dim=32, n_layers=2, n_heads=4, max_position_embeddings=64)
plain("X-MOD", "Xmod", CLASSIFIER, words, **LABELS, default_language="en", languages=["en", "fr"])
plain("MRA", "Mra", CLASSIFIER, words, **LABELS)
plain("EuroBERT", "EuroBert", CLASSIFIER, words, **LABELS, num_key_value_heads=2, pad_token_id=0)


@family("LayoutLM")
def layoutlm(transformers: Any) -> Made:
    """Words with the boxes that they stand in."""
    corner = torch.randint(0, 30, (2, 12, 2))
    boxes = torch.cat([corner, corner + torch.randint(1, 30, (2, 12, 2))], dim=-1)
    config = transformers.LayoutLMConfig(**LABELS, max_2d_position_embeddings=64)
    return transformers.LayoutLMForSequenceClassification(config), {**words(), "bbox": boxes}


# Decoders.
plain("GPT", "OpenAIGPT", "LMHeadModel", words, vocab_size=99, n_embd=32, n_head=4, n_layer=2, n_positions=64)
plain("GPT-2", "GPT2", "LMHeadModel", words, vocab_size=99, n_embd=32, n_head=4, n_layer=2)
plain(
    "GPT-Neo", "GPTNeo", CAUSAL, words, vocab_size=99, hidden_size=32, num_layers=2, num_heads=4, window_size=8,
    attention_types=[[["global", "local"], 1]], max_position_embeddings=64,
)  # fmt: skip
plain("GPT-NeoX", "GPTNeoX", CAUSAL, words, **TEXT)
plain("GPT-J", "GPTJ", CAUSAL, words, vocab_size=99, n_embd=32, n_head=4, n_layer=2, n_positions=64, rotary_dim=4)
plain("GPT-BigCode", "GPTBigCode", CAUSAL, words, vocab_size=99, n_embd=32, n_head=4, n_layer=2, n_positions=64)
plain("OPT", "OPT", CAUSAL, words, **WORDS, ffn_dim=64, word_embed_proj_dim=32)
plain("BLOOM", "Bloom", CAUSAL, words, vocab_size=99, hidden_size=32, n_layer=2, n_head=4)
plain("CodeGen", "CodeGen", CAUSAL, words, vocab_size=99, n_embd=32, n_head=4, n_layer=2, n_positions=64, rotary_dim=4)
plain("CTRL", "CTRL", "LMHeadModel", words, vocab_size=99, n_embd=32, n_head=4, n_layer=2, n_positions=64, dff=64)
plain("BioGPT", "BioGpt", CAUSAL, words, **TEXT)
plain("XGLM", "XGLM", CAUSAL, words, vocab_size=99, d_model=32, num_layers=2, attention_heads=4, ffn_dim=64)
plain("Llama", "Llama", CAUSAL, words, **GROUPED)
plain("Mistral", "Mistral", CAUSAL, words, **GROUPED, **LOCAL)
plain("Qwen2", "Qwen2", CAUSAL, words, **GROUPED)
plain("Qwen3", "Qwen3", CAUSAL, words, **GROUPED, head_dim=8)
plain("Gemma", "Gemma", CAUSAL, words, **GROUPED, head_dim=8)
plain("Gemma-2", "Gemma2", CAUSAL, words, **GROUPED, head_dim=8, query_pre_attn_scalar=8, **LOCAL)
plain("Phi", "Phi", CAUSAL, words, **TEXT)
plain("Phi-3", "Phi3", CAUSAL, words, **GROUPED, pad_token_id=0)
plain("StableLM", "StableLm", CAUSAL, words, **GROUPED)
plain("Persimmon", "Persimmon", CAUSAL, words, **TEXT)
plain("Falcon", "Falcon", CAUSAL, words, **WORDS, new_decoder_architecture=True, num_kv_heads=2)
plain("MPT", "Mpt", CAUSAL, words, vocab_size=99, d_model=32, n_heads=4, n_layers=2, expansion_ratio=2, max_seq_len=64)
plain("OLMo", "Olmo", CAUSAL, words, **GROUPED)
plain("OLMo-2", "Olmo2", CAUSAL, words, **GROUPED)
plain("OLMo-3", "Olmo3", CAUSAL, words, **GROUPED, **LOCAL)
plain("Cohere", "Cohere", CAUSAL, words, **GROUPED)
plain("Cohere-2", "Cohere2", CAUSAL, words, **GROUPED, **LOCAL)
plain("Granite", "Granite", CAUSAL, words, **GROUPED)
plain("SmolLM3", "SmolLM3", CAUSAL, words, **GROUPED, pad_token_id=0)
plain("Starcoder2", "Starcoder2", CAUSAL, words, **GROUPED)
plain("GLM", "Glm", CAUSAL, words, **GROUPED, head_dim=8, pad_token_id=0)
plain("GLM-4", "Glm4", CAUSAL, words, **GROUPED, head_dim=8, pad_token_id=0)
plain("Nemotron", "Nemotron", CAUSAL, words, **GROUPED)
plain("Arcee", "Arcee", CAUSAL, words, **GROUPED)
plain("Apertus", "Apertus", CAUSAL, words, **GROUPED)
plain("Helium", "Helium", CAUSAL, words, **GROUPED, head_dim=8)
plain("EXAONE-4", "Exaone4", CAUSAL, words, **GROUPED, **LOCAL)
plain("DiffLlama", "DiffLlama", CAUSAL, words, **GROUPED)
plain("ERNIE-4.5", "Ernie4_5", CAUSAL, words, **GROUPED)
plain("Seed-OSS", "SeedOss", CAUSAL, words, **GROUPED, head_dim=8)
plain("BitNet", "BitNet", CAUSAL, words, **GROUPED)


@family("Gemma-3")
def gemma3(transformers: Any) -> Made:
    """Its text model's configuration has a name of its own."""
    config = transformers.Gemma3TextConfig(**GROUPED, head_dim=8, query_pre_attn_scalar=8, use_cache=False, **LOCAL)
    return transformers.Gemma3ForCausalLM(config), words()


# Mixtures of experts.
plain("Mixtral", "Mixtral", CAUSAL, words, **GROUPED, num_local_experts=4, num_experts_per_tok=2)
plain("Qwen2-MoE", "Qwen2Moe", CAUSAL, words, **GROUPED, **EXPERTS, num_experts=4, shared_expert_intermediate_size=48)
plain("Qwen3-MoE", "Qwen3Moe", CAUSAL, words, **GROUPED, **EXPERTS, num_experts=4, head_dim=8)
plain("OLMoE", "Olmoe", CAUSAL, words, **GROUPED, num_experts=4, num_experts_per_tok=2)
plain("PhiMoE", "Phimoe", CAUSAL, words, **GROUPED, num_local_experts=4, num_experts_per_tok=2)
plain("GraniteMoE", "GraniteMoe", CAUSAL, words, **GROUPED, num_local_experts=4, num_experts_per_tok=2)
plain("GPT-OSS", "GptOss", CAUSAL, words, **GROUPED, head_dim=8, num_local_experts=4, num_experts_per_tok=2, **LOCAL)
plain("JetMoE", "JetMoe", CAUSAL, words, **WORDS, intermediate_size=64, kv_channels=8, num_local_experts=4)

# State spaces and other recurrences.
plain(
    "Mamba", "Mamba", CAUSAL, words, vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=8, use_mambapy=False
)
plain(
    "Mamba-2", "Mamba2", CAUSAL, words, vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=8,
    head_dim=8, n_groups=2, chunk_size=4,
)  # fmt: skip
plain("FalconMamba", "FalconMamba", CAUSAL, words, vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=8)
plain("RWKV", "Rwkv", CAUSAL, lambda: {"input_ids": words()["input_ids"]}, vocab_size=99, hidden_size=32,
      attention_hidden_size=32, num_hidden_layers=2, context_length=64)  # fmt: skip
plain("RecurrentGemma", "RecurrentGemma", CAUSAL, words, **GROUPED, head_dim=8, lru_width=32, attention_window_size=8)
plain("LFM2", "Lfm2", CAUSAL, words, **GROUPED, layer_types=["conv", "full_attention"])
