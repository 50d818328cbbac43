"""Tiny models of the transformers families, from configurations, with no download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from coverage_models import import_torchvision

__all__ = ["MODELS"]

Made = tuple[nn.Module, dict[str, Tensor]]
MODELS: dict[str, Callable[[], Made]] = {}

WORDS = {"vocab_size": 99, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
TEXT = {**WORDS, "intermediate_size": 64, "max_position_embeddings": 64}
GROUPED = {**TEXT, "num_key_value_heads": 2}
PICTURE = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def family(name: str) -> Callable[[Callable[[Any], Made]], Callable[[Any], Made]]:
    """Register what makes one family; it is given the transformers package."""

    def register(make: Callable[[Any], Made]) -> Callable[[Any], Made]:
        def made() -> Made:
            import_torchvision()  # which transformers imports
            import transformers

            return make(transformers)

        MODELS[name] = made
        return make

    return register


def words(count: int = 12) -> dict[str, Tensor]:
    """Token numbers ``(2, count)`` and a mask of ones."""
    return {"input_ids": torch.randint(3, 99, (2, count)), "attention_mask": torch.ones(2, count, dtype=torch.long)}


def pixels(size: int = 32) -> dict[str, Tensor]:
    """Images ``(2, 3, size, size)``."""
    return {"pixel_values": torch.randn(2, 3, size, size)}


def _text(name: str, config: str, model: str, options: dict[str, Any]) -> None:
    @family(name)
    def make(transformers: Any) -> Made:
        settings = getattr(transformers, config)(**options)
        if hasattr(settings, "use_cache"):
            settings.use_cache = False
        return getattr(transformers, model)(settings), words()


_text("BERT", "BertConfig", "BertForSequenceClassification", {**TEXT, "num_labels": 5})
_text("RoBERTa", "RobertaConfig", "RobertaForSequenceClassification", {**TEXT, "num_labels": 5})
_text("ALBERT", "AlbertConfig", "AlbertForSequenceClassification", {**TEXT, "embedding_size": 16, "num_labels": 5})
_text("ELECTRA", "ElectraConfig", "ElectraForSequenceClassification", {**TEXT, "embedding_size": 16, "num_labels": 5})
_text(
    "DistilBERT",
    "DistilBertConfig",
    "DistilBertForSequenceClassification",
    {"vocab_size": 99, "dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 64, "num_labels": 5},
)
_text("GPT-2", "GPT2Config", "GPT2LMHeadModel", {"vocab_size": 99, "n_embd": 32, "n_head": 4, "n_layer": 2})
_text("OPT", "OPTConfig", "OPTForCausalLM", {**WORDS, "ffn_dim": 64, "word_embed_proj_dim": 32})
_text("GPT-NeoX", "GPTNeoXConfig", "GPTNeoXForCausalLM", TEXT)
_text("Llama", "LlamaConfig", "LlamaForCausalLM", GROUPED)
_text("Mistral", "MistralConfig", "MistralForCausalLM", GROUPED)
_text("Qwen2", "Qwen2Config", "Qwen2ForCausalLM", GROUPED)
_text("Qwen3", "Qwen3Config", "Qwen3ForCausalLM", {**GROUPED, "head_dim": 8})
_text("Gemma", "GemmaConfig", "GemmaForCausalLM", {**GROUPED, "head_dim": 8})
_text("Phi", "PhiConfig", "PhiForCausalLM", TEXT)
_text("Mixtral", "MixtralConfig", "MixtralForCausalLM", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2})


@family("T5")
def t5(transformers: Any) -> Made:
    """An encoder and a decoder with relative positions and tied embeddings."""
    config = transformers.T5Config(
        vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, use_cache=False
    )
    return transformers.T5ForConditionalGeneration(config), {**words(), "decoder_input_ids": words(7)["input_ids"]}


@family("BART")
def bart(transformers: Any) -> Made:
    """An encoder and a decoder with learnt positions."""
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in _BART.items()}
    config = transformers.BartConfig(vocab_size=99, d_model=32, max_position_embeddings=64, use_cache=False, **sizes)
    return transformers.BartModel(config), {**words(), "decoder_input_ids": words(7)["input_ids"]}


_BART = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}


@family("ViT")
def vit(transformers: Any) -> Made:
    """A vision transformer."""
    config = transformers.ViTConfig(**PICTURE, intermediate_size=64, num_labels=5)
    return transformers.ViTForImageClassification(config), pixels()


@family("DeiT")
def deit(transformers: Any) -> Made:
    """A vision transformer with a distillation token."""
    config = transformers.DeiTConfig(**PICTURE, intermediate_size=64, num_labels=5)
    return transformers.DeiTForImageClassification(config), pixels()


@family("Swin")
def swin(transformers: Any) -> Made:
    """Shifted windows with relative positions."""
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=5
    )
    return transformers.SwinForImageClassification(config), pixels()


@family("ConvNeXt")
def convnext(transformers: Any) -> Made:
    """Depthwise convolutions and channels-last layers."""
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_labels=5)
    return transformers.ConvNextForImageClassification(config), pixels(64)


@family("ResNet")
def resnet(transformers: Any) -> Made:
    """Residual blocks."""
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 1, 1], num_labels=5
    )
    return transformers.ResNetForImageClassification(config), pixels(64)


@family("SegFormer")
def segformer(transformers: Any) -> Made:
    """A pyramid of transformers with a decoder."""
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 4, 4], decoder_hidden_size=16
    )
    return transformers.SegformerForSemanticSegmentation(config), pixels(64)


@family("CLIP")
def clip(transformers: Any) -> Made:
    """Two towers, one for words and one for pictures."""
    config = transformers.CLIPConfig(
        text_config={**TEXT, "eos_token_id": 98},
        vision_config={**PICTURE, "intermediate_size": 64},
        projection_dim=16,
    )
    return transformers.CLIPModel(config), {**words(), **pixels()}


@family("Whisper")
def whisper(transformers: Any) -> Made:
    """Convolutions over a spectrogram, an encoder, a decoder."""
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in _BART.items()}
    config = transformers.WhisperConfig(
        vocab_size=99, d_model=32, num_mel_bins=8, max_source_positions=30, max_target_positions=32, use_cache=False,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, **sizes,
    )  # fmt: skip
    inputs = {"input_features": torch.randn(2, 8, 60), "decoder_input_ids": words(7)["input_ids"]}
    return transformers.WhisperForConditionalGeneration(config), inputs


@family("Wav2Vec2")
def wav2vec2(transformers: Any) -> Made:
    """Convolutions over raw sound and a transformer, with a weight-normalised convolution for positions."""
    config = transformers.Wav2Vec2Config(
        **WORDS, intermediate_size=64, conv_dim=(16, 16), conv_kernel=(10, 3), conv_stride=(5, 2),
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    return transformers.Wav2Vec2ForCTC(config), {"input_values": torch.randn(2, 800)}
