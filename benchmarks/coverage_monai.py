"""monai: its networks of few layers and small widths, on small pictures and volumes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from coverage_case import Case, Made
from coverage_libraries import import_torchvision

__all__ = ["cases"]

Shape = tuple[int, ...]
PICTURE, LARGER, VOLUME = (1, 1, 32, 32), (1, 1, 64, 64), (1, 1, 32, 32, 32)
STAGES = {"channels": (8, 16, 32), "strides": (2, 2)}
RESIDUAL = {**STAGES, "num_res_units": 2}
CODED = {**STAGES, "strides": (2, 2, 1)}
FEATURES = (8, 8, 16, 32, 64, 8)
PLAIN_2D = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
PLAIN_3D = {**PLAIN_2D, "spatial_dims": 3}
DYNAMIC = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [8, 16, 32]}
TOKENS = {"hidden_size": 32, "mlp_dim": 64, "num_heads": 4}
LEVELS = {"num_res_blocks": (1, 1), "channels": (8, 16), "attention_levels": (False, True), "norm_num_groups": 4}
SWIN = {"in_channels": 1, "out_channels": 2, "feature_size": 12, "spatial_dims": 2, "num_heads": (2, 2, 4, 4)}
REGISTERED = {"spatial_dims": 2, "in_channels": 2, "num_channel_initial": 8}
RESNET = {"spatial_dims": 2, "n_input_channels": 1, "num_classes": 3, "block_inplanes": [8, 16, 32, 64]}
DENSE = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "init_features": 16, "growth_rate": 8}
SQUEEZED = {"spatial_dims": 2, "in_channels": 1, "num_classes": 3}
ENCODED = {"in_shape": (1, 32, 32), "channels": (8, 16, 32), "strides": (2, 2, 2)}
QUANTISED = {"channels": (16, 16), "num_res_layers": 1, "num_res_channels": (16, 16)}
QUANTISED |= {"downsample_parameters": ((2, 4, 1, 1),) * 2, "upsample_parameters": ((2, 4, 1, 1, 0),) * 2}
DIFFUSED = {**LEVELS, "num_head_channels": 8}
STEPS = "steps"

# What is called, its options, and the shapes of what it is called with; variants are told apart after a hyphen.
TABLE: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "AHNet": ({"layers": (1, 1, 1, 1), "spatial_dims": 2, "out_channels": 2, "psp_block_num": 2}, (LARGER,)),
    "AttentionUnet": ({**PLAIN_2D, **STAGES}, (PICTURE,)),
    "AttentionUnet-3d": ({**PLAIN_3D, **STAGES}, (VOLUME,)),
    "AutoEncoder": ({**PLAIN_2D, **CODED, "inter_channels": (16, 16)}, (PICTURE,)),
    "AutoEncoder-residual": ({**PLAIN_2D, **CODED, "num_res_units": 2}, (PICTURE,)),
    "AutoencoderKL": ({**PLAIN_2D, **LEVELS}, (PICTURE,)),
    "AutoencoderKL-3d": ({**PLAIN_3D, **LEVELS, "attention_levels": (False, False)}, ((1, 1, 16, 16, 16),)),
    "BasicUNet": ({**PLAIN_2D, "features": FEATURES}, (PICTURE,)),
    "BasicUNet-3d": ({**PLAIN_3D, "features": FEATURES, "norm": "batch"}, (VOLUME,)),
    "BasicUNetPlusPlus": ({**PLAIN_2D, "features": FEATURES}, (PICTURE,)),
    "BasicUNetPlusPlus-supervised": ({**PLAIN_2D, "features": FEATURES, "deep_supervision": True}, (PICTURE,)),
    "Classifier": ({**ENCODED, "classes": 3}, (PICTURE,)),
    "Critic": (ENCODED, (PICTURE,)),
    "Discriminator": (ENCODED, (PICTURE,)),
    "Regressor": ({**ENCODED, "out_shape": (2,)}, (PICTURE,)),
    "Generator": (
        {"latent_shape": (8,), "start_shape": (16, 4, 4), "channels": (16, 8, 1), "strides": (2, 2, 1)},
        ((2, 8),),
    ),
    "DecoderOnlyTransformer": (
        {"num_tokens": 20, "max_seq_len": 16, "attn_layers_dim": 32, "attn_layers_depth": 2, "attn_layers_heads": 4},
        ("words",),
    ),
    "DenseNet": ({**DENSE, "block_config": (2, 2)}, (PICTURE,)),
    "DenseNet-3d": ({**DENSE, "spatial_dims": 3, "block_config": (2, 2)}, (VOLUME,)),
    "DenseNet121": (DENSE, (PICTURE,)),
    "DiffusionModelUNet": ({**PLAIN_2D, **DIFFUSED}, (PICTURE, STEPS)),
    "DiffusionModelUNet-conditioned": (
        {**PLAIN_2D, **DIFFUSED, "with_conditioning": True, "cross_attention_dim": 8},
        (PICTURE, STEPS, (1, 2, 8)),
    ),
    "ControlNet": (
        {"spatial_dims": 2, "in_channels": 1, **DIFFUSED, "conditioning_embedding_num_channels": (8,)},
        (PICTURE, STEPS, PICTURE),
    ),
    "DynUNet": ({**PLAIN_2D, **DYNAMIC}, (PICTURE,)),
    "DynUNet-residual": ({**PLAIN_3D, **DYNAMIC, "res_block": True}, (VOLUME,)),
    "DynUNet-supervised": ({**PLAIN_2D, **DYNAMIC, "deep_supervision": True}, (PICTURE,)),
    "EfficientNetBN": ({"model_name": "efficientnet-b0", "pretrained": False, **SQUEEZED}, (LARGER,)),
    "EfficientNetBNFeatures": (
        {"model_name": "efficientnet-b0", "pretrained": False, "spatial_dims": 2, "in_channels": 1},
        (LARGER,),
    ),
    "FlexibleUNet": ({"in_channels": 1, "out_channels": 2, "backbone": "efficientnet-b0"}, (LARGER,)),
    "FlexibleUNet-resnet": ({"in_channels": 1, "out_channels": 2, "backbone": "resnet18"}, (LARGER,)),
    "FullyConnectedNet": ({"in_channels": 8, "out_channels": 3, "hidden_channels": (16, 16)}, ((2, 8),)),
    "GlobalNet": ({"image_size": [32, 32], **REGISTERED, "depth": 2}, ((1, 2, 32, 32),)),
    "HighResNet": ({"spatial_dims": 3, "out_channels": 2}, ((1, 1, 16, 16, 16),)),
    "LocalNet": ({**REGISTERED, "extract_levels": [0, 1, 2]}, ((1, 2, 32, 32),)),
    "MaskedAutoEncoderViT": (
        {"in_channels": 1, "img_size": 32, "patch_size": 8, **TOKENS, "num_layers": 2, "spatial_dims": 2}
        | {"decoder_hidden_size": 32, "decoder_mlp_dim": 64, "decoder_num_layers": 1, "decoder_num_heads": 4},
        (PICTURE,),
    ),
    "MedNeXt": (
        {**PLAIN_2D, "init_filters": 8, "kernel_size": 3, "blocks_down": (1, 1), "blocks_bottleneck": 1}
        | {"blocks_up": (1, 1)},
        (PICTURE,),
    ),
    "MedNeXt-residual": (
        {**PLAIN_2D, "init_filters": 8, "kernel_size": 3, "blocks_down": (1, 1), "blocks_bottleneck": 1}
        | {"blocks_up": (1, 1), "use_residual_connection": True, "global_resp_norm": True},
        (PICTURE,),
    ),
    "MILModel": (
        {"num_classes": 2, "mil_mode": "att", "pretrained": False, "backbone": "resnet18"},
        ((1, 3, 3, 64, 64),),
    ),
    "MILModel-transformer": (
        {"num_classes": 2, "mil_mode": "att_trans", "pretrained": False, "backbone": "resnet18", "trans_blocks": 1},
        ((1, 3, 3, 64, 64),),
    ),
    "PatchDiscriminator": ({"spatial_dims": 2, "channels": 8, "in_channels": 1}, (LARGER,)),
    "MultiScalePatchDiscriminator": (
        {"num_d": 2, "num_layers_d": 2, "spatial_dims": 2, "channels": 8, "in_channels": 1, "minimum_size_im": 64},
        (LARGER,),
    ),
    "Quicknat": ({"num_classes": 3, "num_filters": 16}, (LARGER,)),
    "RegUNet": ({**REGISTERED, "depth": 2}, ((1, 2, 32, 32),)),
    "ResNet": ({**RESNET, "block": "basic", "layers": [1, 1, 1, 1]}, (LARGER,)),
    "ResNet-bottleneck": ({**RESNET, "block": "bottleneck", "layers": [1, 1, 1, 1], "spatial_dims": 3}, (VOLUME,)),
    "ResNet-A": ({**RESNET, "block": "basic", "layers": [1, 1, 1, 1], "shortcut_type": "A"}, (LARGER,)),
    "SENet154": ({**SQUEEZED, "layers": (1, 1, 1, 1)}, (LARGER,)),
    "SEResNet50": ({**SQUEEZED, "layers": (1, 1, 1, 1)}, (LARGER,)),
    "SEResNext50": ({**SQUEEZED, "layers": (1, 1, 1, 1), "spatial_dims": 3}, (VOLUME,)),
    "SegResNet": ({**PLAIN_2D, "init_filters": 8}, (PICTURE,)),
    "SegResNet-3d": ({**PLAIN_3D, "init_filters": 8, "upsample_mode": "deconv"}, (VOLUME,)),
    "SegResNetDS": ({**PLAIN_2D, "init_filters": 8, "dsdepth": 2}, (PICTURE,)),
    "SegResNetDS2": ({**PLAIN_2D, "init_filters": 8}, (PICTURE,)),
    "SegResNetVAE": ({"input_image_size": (32, 32), **PLAIN_2D, "vae_nz": 16}, (PICTURE,)),
    "SPADEAutoencoderKL": (
        {**PLAIN_2D, **LEVELS, "label_nc": 3, "spade_intermediate_channels": 8},
        (PICTURE, (1, 3, 32, 32)),
    ),
    "SPADEDiffusionModelUNet": (
        {**PLAIN_2D, **DIFFUSED, "label_nc": 3, "spade_intermediate_channels": 8},
        (PICTURE, STEPS, (1, 3, 32, 32)),
    ),
    "SPADENet": (
        {"spatial_dims": 2, "in_channels": 1, "out_channels": 1, "label_nc": 3, "input_shape": [32, 32]}
        | {"channels": [8, 16, 16], "is_vae": False, "spade_intermediate_channels": 8},
        ((1, 3, 32, 32),),
    ),
    "SwinUNETR": (SWIN, (LARGER,)),
    "SwinUNETR-v2": ({**SWIN, "use_v2": True, "downsample": "mergingv2"}, (LARGER,)),
    "SwinUNETR-3d": ({**SWIN, "spatial_dims": 3, "depths": (1, 1, 1, 1), "norm_name": "batch"}, (VOLUME,)),
    "TorchVisionFCModel": ({"model_name": "resnet18", "num_classes": 3, "pool": None}, ((1, 3, 64, 64),)),
    "UNETR": (
        {"in_channels": 1, "out_channels": 2, "img_size": 32, "feature_size": 8, **TOKENS, "spatial_dims": 2},
        (PICTURE,),
    ),
    "UNETR-3d": ({"in_channels": 1, "out_channels": 2, "img_size": 32, "feature_size": 8, **TOKENS}, (VOLUME,)),
    "UNet": ({**PLAIN_2D, **STAGES}, (PICTURE,)),
    "UNet-residual": ({**PLAIN_3D, **RESIDUAL, "norm": "batch"}, (VOLUME,)),
    "VNet": ({"spatial_dims": 2, "out_channels": 2}, (PICTURE,)),
    "VQVAE": ({**PLAIN_2D, **QUANTISED, "embedding_dim": 8}, (PICTURE,)),
    "VarAutoEncoder": (
        {"spatial_dims": 2, "in_shape": (1, 32, 32), "out_channels": 1, "latent_size": 4, **CODED}
        | {"use_mean_at_inference": True},
        (PICTURE,),
    ),
    "VarFullyConnectedNet": (
        {"in_channels": 8, "out_channels": 8, "latent_size": 4, "encode_channels": (16,), "decode_channels": (16,)}
        | {"use_mean_at_inference": True},
        ((2, 8),),
    ),
    "ViT": (
        {"in_channels": 1, "img_size": 32, "patch_size": 8, **TOKENS, "num_layers": 2, "spatial_dims": 2}
        | {"classification": True, "save_attn": False},
        (PICTURE,),
    ),
    "ViTAutoEnc": (
        {"in_channels": 1, "img_size": 32, "patch_size": 16, **TOKENS, "num_layers": 2, "spatial_dims": 2},
        (PICTURE,),
    ),
    "VoxelMorphUNet": (
        {
            "spatial_dims": 2,
            "in_channels": 2,
            "unet_out_channels": 8,
            "channels": (8, 8, 8, 8),
            "final_conv_channels": (8,),
        },
        ((1, 2, 32, 32),),
    ),
}


def cases() -> Iterator[Case]:
    """Yield each network by its name."""
    for name, (options, inputs) in TABLE.items():
        yield Case("monai", name.partition("-")[0], name, partial(_made, name.partition("-")[0], options, inputs))


def _made(name: str, options: dict[str, Any], inputs: tuple[Any, ...]) -> Made:
    import_torchvision()
    from monai.networks import nets

    return getattr(nets, name)(**options), tuple(map(_input, inputs))


def _input(shape: Shape | str) -> Any:
    if shape == STEPS:
        return torch.randint(0, 100, (1,))
    return torch.randint(0, 20, (1, 12)) if isinstance(shape, str) else torch.randn(shape)
