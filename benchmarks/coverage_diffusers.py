"""diffusers: its networks of few layers and small widths, from configurations, with no download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from coverage_case import Case, Made
from coverage_libraries import import_torchvision

__all__ = ["cases"]

Settings = dict[str, Any]
TABLE: dict[str, tuple[str, Settings, dict[str, Any]]] = {}


def cases() -> Iterator[Case]:
    """Yield each network, by the name of its class; variants of one class are told apart after a hyphen."""
    for name, (family, settings, inputs) in TABLE.items():
        yield Case("diffusers", family, name, partial(_made, name.partition("-")[0], settings, inputs))


def _made(name: str, settings: Settings, inputs: dict[str, Any]) -> Made:
    import_torchvision()  # which diffusers imports through transformers
    import diffusers

    return getattr(diffusers, name)(**settings), {key: _input(value) for key, value in inputs.items()}


def _input(value: Any) -> Any:
    """A shape (a tuple of whole numbers) becomes a random tensor, a function what it returns."""
    if isinstance(value, tuple) and all(isinstance(size, int) for size in value):
        return torch.randn(value)
    return value() if callable(value) else value


def _network(name: str, family: str, settings: Settings, /, **inputs: Any) -> None:
    TABLE[name] = (family, settings, inputs)


def _steps(batch: int = 2) -> Callable[[], Tensor]:
    return lambda: torch.randint(1, 1000, (batch,))


def _share(batch: int = 2) -> Tensor:
    return torch.rand(batch)


def _ones(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[], Tensor]:
    return lambda: torch.ones(shape, dtype=dtype)


# U-Nets
BLOCKS = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4}
_network(
    "UNet2DModel",
    "unet",
    {
        **BLOCKS,
        "sample_size": 16,
        "attention_head_dim": 8,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
    sample=(2, 3, 16, 16),
    timestep=_steps(),
)
CONDITIONED = {
    **BLOCKS,
    "sample_size": 16,
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
TEXT = {"encoder_hidden_states": (2, 6, 16)}
_network("UNet2DConditionModel", "unet", CONDITIONED, sample=(2, 4, 16, 16), timestep=_steps(), **TEXT)
_network(
    "UNet2DConditionModel-linear",
    "unet",
    {
        **CONDITIONED,
        "use_linear_projection": True,
        "class_embed_type": "timestep",
        "only_cross_attention": (True, False),
    },
    sample=(2, 4, 16, 16),
    timestep=_steps(),
    class_labels=_steps(),
    **TEXT,
)
_network(
    "UNet1DModel",
    "unet",
    {
        "sample_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "use_timestep_embedding": True,
        "time_embedding_type": "positional",
        "flip_sin_to_cos": False,
        "freq_shift": 1.0,
        "block_out_channels": (16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownResnetBlock1D", "DownResnetBlock1D"),
        "up_block_types": ("UpResnetBlock1D",),
        "mid_block_type": "MidResTemporalBlock1D",
        "out_block_type": "OutConv1DBlock",
        "act_fn": "swish",
    },
    sample=(2, 4, 32),
    timestep=_steps(),
)
_network(
    "UNet3DConditionModel",
    "unet",
    {
        **CONDITIONED,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    },
    sample=(2, 4, 3, 16, 16),
    timestep=_steps(),
    **TEXT,
)
_network(
    "UNetSpatioTemporalConditionModel",
    "unet",
    {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        "cross_attention_dim": 16,
        "num_attention_heads": 4,
        "layers_per_block": 1,
        "sample_size": 16,
        "in_channels": 4,
        "projection_class_embeddings_input_dim": 12,
        "addition_time_embed_dim": 4,
    },
    sample=(2, 3, 4, 16, 16),
    timestep=_steps(),
    encoder_hidden_states=(2, 1, 16),
    added_time_ids=(2, 3),
)
_network(
    "UNetMotionModel",
    "unet",
    {
        "block_out_channels": (16, 32),
        "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
        "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
        "cross_attention_dim": 16,
        "num_attention_heads": 2,
        "layers_per_block": 1,
        "sample_size": 16,
    },
    sample=(2, 4, 3, 16, 16),
    timestep=_steps(),
    encoder_hidden_states=(6, 6, 16),
)
_network(
    "ControlNetModel",
    "unet",
    {**{k: v for k, v in CONDITIONED.items() if k not in {"sample_size", "up_block_types"}}, "in_channels": 4}
    | {"conditioning_embedding_out_channels": (8, 8)},
    sample=(2, 4, 16, 16),
    timestep=_steps(),
    controlnet_cond=(2, 3, 32, 32),
    **TEXT,
)
_network(
    "UVit2DModel",
    "unet",
    {
        "hidden_size": 32,
        "cond_embed_dim": 16,
        "micro_cond_encode_dim": 2,
        "micro_cond_embed_dim": 10,
        "encoder_hidden_size": 16,
        "vocab_size": 32,
        "codebook_size": 32,
        "in_channels": 16,
        "block_out_channels": 16,
        "num_res_blocks": 1,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "block_num_heads": 2,
    },
    input_ids=lambda: torch.randint(0, 32, (2, 8, 8)),
    encoder_hidden_states=(2, 5, 16),
    pooled_text_emb=(2, 16),
    micro_conds=lambda: torch.rand(2, 5),
)

# Autoencoders
VAE = {"block_out_channels": (16, 32), "norm_num_groups": 4, "latent_channels": 4}
BLOCK_2D = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
_network("AutoencoderKL", "autoencoder", {**VAE, **BLOCK_2D}, sample=(2, 3, 32, 32))
_network(
    "AsymmetricAutoencoderKL",
    "autoencoder",
    {
        **BLOCK_2D,
        "down_block_out_channels": (16, 32),
        "layers_per_down_block": 1,
        "up_block_out_channels": (16, 32),
        "layers_per_up_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": 32,
    },
    sample=(2, 3, 32, 32),
    mask=_ones(2, 1, 32, 32),
)
_network(
    "AutoencoderTiny",
    "autoencoder",
    {
        "encoder_block_out_channels": (16, 16),
        "decoder_block_out_channels": (16, 16),
        "num_encoder_blocks": (1, 2),
        "num_decoder_blocks": (2, 1),
    },
    sample=(2, 3, 32, 32),
)
_network(
    "AutoencoderKLTemporalDecoder",
    "autoencoder",
    {"block_out_channels": (32, 64), "down_block_types": ("DownEncoderBlock2D",) * 2, "latent_channels": 4},
    sample=(3, 3, 32, 32),
    num_frames=3,
)
_network("VQModel", "autoencoder", {**VAE, **BLOCK_2D, "num_vq_embeddings": 32}, sample=(2, 3, 32, 32))
_network(
    "AutoencoderDC",
    "autoencoder",
    {
        "in_channels": 3,
        "latent_channels": 4,
        "attention_head_dim": 8,
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (16, 32),
        "decoder_block_out_channels": (16, 32),
        "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "upsample_block_type": "interpolate",
        "downsample_block_type": "stride_conv",
        "decoder_norm_types": "rms_norm",
        "decoder_act_fns": "silu",
    },
    sample=(1, 3, 32, 32),
)
_network(
    "AutoencoderKLCogVideoX",
    "autoencoder",
    {
        **{f"{way}_block_types": (f"CogVideoX{way.title()}Block3D",) * 4 for way in ("down", "up")},
        "block_out_channels": (8, 8, 8, 8),
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 2,
    },
    sample=(1, 3, 8, 16, 16),
)
_network(
    "AutoencoderKLHunyuanVideo",
    "autoencoder",
    {
        **{f"{way}_block_types": (f"HunyuanVideo{way.title()}Block3D",) * 4 for way in ("down", "up")},
        "block_out_channels": (8, 8, 8, 8),
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    sample=(1, 3, 9, 16, 16),
)
_network(
    "AutoencoderKLMochi",
    "autoencoder",
    {
        "latent_channels": 4,
        "encoder_block_out_channels": (32,) * 4,
        "decoder_block_out_channels": (32,) * 4,
        "layers_per_block": (1,) * 5,
    },
    sample=(1, 3, 7, 16, 16),
)
_network(
    "AutoencoderKLWan",
    "autoencoder",
    {"base_dim": 4, "z_dim": 8, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True]}
    | {"latents_mean": [0.0] * 8, "latents_std": [1.0] * 8},
    sample=(1, 3, 5, 16, 16),
)
_network(
    "AutoencoderOobleck",
    "autoencoder",
    {
        "encoder_hidden_size": 8,
        "decoder_channels": 8,
        "decoder_input_channels": 4,
        "audio_channels": 2,
        "downsampling_ratios": [2, 4],
        "channel_multiples": [1, 2],
    },
    sample=(1, 2, 64),
)

# Transformers of pictures and films
HEADS = {"num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 4, "num_layers": 2}
LATENT = (2, 4, 8, 8)
_network(
    "Transformer2DModel",
    "transformer",
    {**HEADS, "cross_attention_dim": 16, "norm_num_groups": 4, "sample_size": 8},
    hidden_states=LATENT,
    **TEXT,
)
_network(
    "DiTTransformer2DModel",
    "transformer",
    {**HEADS, "out_channels": 8, "num_embeds_ada_norm": 8, "sample_size": 8},
    hidden_states=LATENT,
    timestep=_steps(),
    class_labels=lambda: torch.randint(0, 8, (2,)),
)
_network(
    "PixArtTransformer2DModel",
    "transformer",
    {**HEADS, "out_channels": 8, "sample_size": 8, "cross_attention_dim": 32, "caption_channels": 16}
    | {"use_additional_conditions": False},
    hidden_states=LATENT,
    timestep=_steps(),
    added_cond_kwargs={"aspect_ratio": None, "resolution": None},
    **TEXT,
)
_network(
    "PriorTransformer",
    "transformer",
    {"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2, "embedding_dim": 16, "num_embeddings": 7},
    hidden_states=(2, 16),
    timestep=2,
    proj_embedding=(2, 16),
    encoder_hidden_states=(2, 7, 16),
)
_network(
    "AuraFlowTransformer2DModel",
    "transformer",
    {
        "sample_size": 8,
        "in_channels": 4,
        "num_mmdit_layers": 1,
        "num_single_dit_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "caption_projection_dim": 32,
        "joint_attention_dim": 16,
        "out_channels": 4,
        "pos_embed_max_size": 64,
    },
    hidden_states=LATENT,
    timestep=_share,
    **TEXT,
)
SINGLE = {"patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16}
SINGLE |= {"num_attention_heads": 2, "joint_attention_dim": 16, "axes_dims_rope": (4, 4, 8)}
PACKED = {"hidden_states": (2, 16, 4), "timestep": _share, "img_ids": (16, 3), "txt_ids": (6, 3), **TEXT}
_network(
    "FluxTransformer2DModel",
    "transformer",
    {**SINGLE, "pooled_projection_dim": 16},
    pooled_projections=(2, 16),
    **PACKED,
)
_network(
    "ChromaTransformer2DModel",
    "transformer",
    {**SINGLE, "approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1},
    **PACKED,
)
_network(
    "CogVideoXTransformer3DModel",
    "transformer",
    {**HEADS, "out_channels": 4, "time_embed_dim": 8, "text_embed_dim": 16, "sample_width": 8, "sample_height": 8}
    | {"sample_frames": 8, "max_text_seq_length": 6},
    hidden_states=(2, 1, 4, 8, 8),
    timestep=_steps(),
    **TEXT,
)
CONDITION = {"text_embed_dim": 16, "time_embed_dim": 8, "condition_dim": 4, "out_channels": 4}
SIZES = {name: _ones(2, 2) for name in ("original_size", "target_size", "crop_coords")}
_network(
    "CogView3PlusTransformer2DModel",
    "transformer",
    {**HEADS, **CONDITION, "pos_embed_max_size": 8, "sample_size": 8},
    hidden_states=LATENT,
    timestep=_steps(),
    **TEXT,
    **SIZES,
)
_network(
    "CogView4Transformer2DModel",
    "transformer",
    {**HEADS, **CONDITION},
    hidden_states=LATENT,
    timestep=_steps(),
    **TEXT,
    **SIZES,
)
_network(
    "HunyuanVideoTransformer3DModel",
    "transformer",
    {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 10,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "patch_size": 1,
        "text_embed_dim": 16,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (2, 4, 4),
    },
    hidden_states=(1, 4, 1, 8, 8),
    timestep=_steps(1),
    encoder_hidden_states=(1, 6, 16),
    pooled_projections=(1, 8),
    encoder_attention_mask=_ones(1, 6),
    guidance=lambda: torch.rand(1),
)
_network(
    "LatteTransformer3DModel",
    "transformer",
    {**HEADS, "out_channels": 8, "caption_channels": 16, "cross_attention_dim": 32, "sample_size": 8, "patch_size": 2}
    | {"norm_type": "ada_norm_single", "norm_elementwise_affine": False, "activation_fn": "gelu-approximate"},
    hidden_states=(2, 4, 1, 8, 8),
    timestep=_steps(),
    **TEXT,
)
_network(
    "LTXVideoTransformer3DModel",
    "transformer",
    {"in_channels": 4, "out_channels": 4, "num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2}
    | {"cross_attention_dim": 32, "caption_channels": 16},
    hidden_states=(2, 16, 4),
    timestep=_steps(),
    encoder_attention_mask=_ones(2, 6, dtype=torch.bool),
    num_frames=1,
    height=4,
    width=4,
    **TEXT,
)
_network(
    "Lumina2Transformer2DModel",
    "transformer",
    {
        "sample_size": 8,
        "in_channels": 4,
        "hidden_size": 24,
        "num_layers": 2,
        "num_refiner_layers": 1,
        "num_attention_heads": 3,
        "num_kv_heads": 1,
        "multiple_of": 2,
        "axes_dim_rope": (4, 2, 2),
        "axes_lens": (64, 64, 64),
        "cap_feat_dim": 16,
    },
    hidden_states=LATENT,
    timestep=_share,
    encoder_attention_mask=_ones(2, 6, dtype=torch.bool),
    **TEXT,
)
_network(
    "MochiTransformer3DModel",
    "transformer",
    {**HEADS, "pooled_projection_dim": 16, "text_embed_dim": 16, "time_embed_dim": 8, "max_sequence_length": 6},
    hidden_states=(2, 4, 2, 8, 8),
    timestep=_steps(),
    encoder_attention_mask=_ones(2, 6, dtype=torch.bool),
    **TEXT,
)
_network(
    "QwenImageTransformer2DModel",
    "transformer",
    {"in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2}
    | {"joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4)},
    hidden_states=(1, 16, 16),
    timestep=lambda: torch.rand(1),
    encoder_hidden_states=(1, 6, 16),
    encoder_hidden_states_mask=_ones(1, 6, dtype=torch.long),
    img_shapes=[(1, 4, 4)],
)
_network(
    "SanaTransformer2DModel",
    "transformer",
    {**HEADS, "out_channels": 4, "num_cross_attention_heads": 4, "cross_attention_head_dim": 8, "sample_size": 8}
    | {"cross_attention_dim": 32, "caption_channels": 16, "patch_size": 1},
    hidden_states=LATENT,
    timestep=_steps(),
    **TEXT,
)
_network(
    "SD3Transformer2DModel",
    "transformer",
    {**HEADS, "sample_size": 8, "caption_projection_dim": 32, "joint_attention_dim": 16, "pooled_projection_dim": 16}
    | {"out_channels": 4, "pos_embed_max_size": 16},
    hidden_states=LATENT,
    timestep=_steps(),
    pooled_projections=(2, 16),
    **TEXT,
)
_network(
    "StableAudioDiTModel",
    "transformer",
    {**HEADS, "sample_size": 4, "num_key_value_attention_heads": 2, "out_channels": 4, "cross_attention_dim": 16}
    | {"time_proj_dim": 16, "global_states_input_dim": 8, "cross_attention_input_dim": 16},
    hidden_states=(2, 4, 8),
    timestep=_steps(),
    global_hidden_states=(2, 1, 8),
    **TEXT,
)
_network(
    "WanTransformer3DModel",
    "transformer",
    {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 16}
    | {"freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32},
    hidden_states=(1, 4, 2, 8, 8),
    timestep=_steps(1),
    encoder_hidden_states=(1, 6, 16),
)
