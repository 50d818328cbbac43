"""Families with two sides (an encoder and a decoder), and those that hear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from families import AUDIO, TEXT, TWO_SIDES, WORDS, Made, family, plain, words

__all__: list[str] = []

PAIR = {"vocab_size": 99, "d_model": 32, "max_position_embeddings": 64, **TWO_SIDES}
T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
T5 |= {"decoder_start_token_id": 0}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
POSITIONS = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
GENERATION = "ForConditionalGeneration"


def both() -> dict[str, Tensor]:
    """Words for both sides."""
    return {**words(), "decoder_input_ids": words(7)["input_ids"]}


def sound() -> dict[str, Tensor]:
    """Raw sound ``(2, 800)``."""
    return {"input_values": torch.randn(2, 800)}


plain("T5", "T5", GENERATION, both, **T5)
plain("T5-gated", "T5", GENERATION, both, **T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
plain("mT5", "MT5", GENERATION, both, **T5)
plain("UMT5", "UMT5", GENERATION, both, **T5)
plain("LongT5", "LongT5", GENERATION, both, **T5, local_radius=3)
plain("Switch", "SwitchTransformers", GENERATION, both, **T5, num_experts=4, num_sparse_encoder_layers=1)
plain("BART", "Bart", "Model", both, **PAIR)
plain("mBART", "MBart", GENERATION, both, **PAIR)
plain("Marian", "Marian", "MTModel", both, **PAIR, **SPECIAL)
plain("Pegasus", "Pegasus", GENERATION, both, **PAIR)
plain("Pegasus-X", "PegasusX", GENERATION, both, **PAIR, block_size=4, num_global_tokens=4)
plain("Blenderbot", "Blenderbot", GENERATION, both, **PAIR)
plain("BlenderbotSmall", "BlenderbotSmall", GENERATION, both, **PAIR)
plain("M2M-100", "M2M100", GENERATION, both, **PAIR)
plain("PLBart", "PLBart", GENERATION, both, **PAIR)
plain("LED", "LED", GENERATION, both, vocab_size=99, d_model=32, **TWO_SIDES, attention_window=4,
      max_encoder_position_embeddings=64, max_decoder_position_embeddings=64)  # fmt: skip
plain("ProphetNet", "ProphetNet", GENERATION, both, vocab_size=99, hidden_size=32, max_position_embeddings=64,
      encoder_ffn_dim=64, decoder_ffn_dim=64, num_encoder_layers=2, num_decoder_layers=2,
      num_encoder_attention_heads=4, num_decoder_attention_heads=4, pad_token_id=0)  # fmt: skip
plain("FSMT", "FSMT", GENERATION, both, langs=["en", "de"], src_vocab_size=99, tgt_vocab_size=99, d_model=32,
      max_position_embeddings=64, **TWO_SIDES)  # fmt: skip
plain(
    "Whisper", "Whisper", GENERATION,
    lambda: {"input_features": torch.randn(2, 8, 60), "decoder_input_ids": words(7)["input_ids"]},
    vocab_size=99, d_model=32, num_mel_bins=8, max_source_positions=30, max_target_positions=32, **TWO_SIDES, **SPECIAL,
)  # fmt: skip
plain(
    "Speech2Text", "Speech2Text", GENERATION,
    lambda: {"input_features": torch.randn(2, 40, 8), "decoder_input_ids": words(7)["input_ids"]},
    vocab_size=99, d_model=32, input_feat_per_channel=8, conv_channels=16, num_conv_layers=2, max_source_positions=64,
    max_target_positions=64, **TWO_SIDES, **SPECIAL,
)  # fmt: skip
plain("Moonshine", "Moonshine", GENERATION,
      lambda: {"input_values": torch.randn(2, 2000), "decoder_input_ids": words(7)["input_ids"]},
      vocab_size=99, hidden_size=32, intermediate_size=64, encoder_num_hidden_layers=2, decoder_num_hidden_layers=2,
      encoder_num_attention_heads=4, decoder_num_attention_heads=4, decoder_start_token_id=1)  # fmt: skip
plain("Wav2Vec2", "Wav2Vec2", "ForCTC", sound, **AUDIO, **POSITIONS)
plain("Wav2Vec2-stable", "Wav2Vec2", "ForCTC", sound, **AUDIO, **POSITIONS, do_stable_layer_norm=True,
      feat_extract_norm="layer", conv_bias=True)  # fmt: skip
plain("HuBERT", "Hubert", "ForCTC", sound, **AUDIO, **POSITIONS)
plain("WavLM", "WavLM", "ForCTC", sound, **AUDIO, **POSITIONS, num_buckets=8, max_bucket_distance=16)
plain("UniSpeech", "UniSpeech", "ForCTC", sound, **AUDIO, **POSITIONS)
plain("UniSpeech-SAT", "UniSpeechSat", "ForCTC", sound, **AUDIO, **POSITIONS)
plain("SEW", "SEW", "ForCTC", sound, **AUDIO, **POSITIONS, squeeze_factor=2)
plain("SEW-D", "SEWD", "ForCTC", sound, **AUDIO, **POSITIONS, squeeze_factor=2, position_buckets=8,
      max_position_embeddings=64)  # fmt: skip
plain("Data2Vec-audio", "Data2VecAudio", "ForCTC", sound, **AUDIO, num_conv_pos_embeddings=2,
      num_conv_pos_embedding_groups=4, conv_pos_kernel_size=5)  # fmt: skip
plain("Wav2Vec2-BERT", "Wav2Vec2Bert", "ForCTC", lambda: {"input_features": torch.randn(2, 20, 16)}, **WORDS,
      intermediate_size=64, feature_projection_input_dim=16, left_max_position_embeddings=8,
      right_max_position_embeddings=4, conv_depthwise_kernel_size=5)  # fmt: skip
plain("Wav2Vec2-Conformer", "Wav2Vec2Conformer", "ForCTC", sound, **AUDIO, **POSITIONS, conv_depthwise_kernel_size=5,
      max_source_positions=200)  # fmt: skip
plain("AST", "AST", "ForAudioClassification", lambda: {"input_values": torch.randn(2, 24, 16)}, hidden_size=32,
      num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, patch_size=8, frequency_stride=4,
      time_stride=4, max_length=24, num_mel_bins=16, num_labels=5)  # fmt: skip


@family("BERT-generation")
def bert_generation(transformers: Any) -> Made:
    """A BERT that writes."""
    config = transformers.BertGenerationConfig(**TEXT, is_decoder=True, use_cache=False)
    return transformers.BertGenerationDecoder(config), words()
