"""Families that see, and those that tie pictures to words."""

from __future__ import annotations

from functools import partial
from typing import Any

from families import PICTURE, TEXT, Made, family, pixels, plain, words

__all__: list[str] = []

CLASSES = {"num_labels": 5}
SEEN = {**PICTURE, **CLASSES}
HEAD = "ForImageClassification"
LARGE = partial(pixels, 64)

plain("ViT", "ViT", HEAD, pixels, **SEEN)
plain("DeiT", "DeiT", HEAD, pixels, **SEEN)
plain("BEiT", "Beit", HEAD, pixels, **SEEN, use_relative_position_bias=True, use_absolute_position_embeddings=False)
plain("Data2Vec-vision", "Data2VecVision", HEAD, pixels, **SEEN, use_shared_relative_position_bias=True)
plain("DINOv2", "Dinov2", HEAD, pixels, **SEEN, mlp_ratio=2)
plain("DINOv2-registers", "Dinov2WithRegisters", HEAD, pixels, **SEEN, mlp_ratio=2)
plain("DINOv2-SwiGLU", "Dinov2", HEAD, pixels, **SEEN, mlp_ratio=2, use_swiglu_ffn=True)
plain("DINOv3", "DINOv3ViT", "Model", pixels, **PICTURE, use_gated_mlp=True)
plain("I-JEPA", "IJepa", HEAD, pixels, **SEEN)
plain("ViT-MSN", "ViTMSN", HEAD, pixels, **SEEN)
plain("YOLOS", "Yolos", "ForObjectDetection", pixels, **{**PICTURE, "image_size": [32, 32]}, num_detection_tokens=5)
plain("Hiera", "Hiera", HEAD, LARGE, embed_dim=16, image_size=[64, 64], depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8],
      num_labels=5)  # fmt: skip
plain("Swin", "Swin", HEAD, pixels, image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4],
      window_size=4, num_labels=5)  # fmt: skip
plain("Swin-v2", "Swinv2", HEAD, pixels, image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4],
      window_size=4, num_labels=5)  # fmt: skip
plain("DonutSwin", "DonutSwin", HEAD, pixels, image_size=32, patch_size=4, embed_dim=16, depths=[2, 2],
      num_heads=[2, 4], window_size=4, num_labels=5)  # fmt: skip
plain("FocalNet", "FocalNet", HEAD, pixels, image_size=32, patch_size=4, embed_dim=16, depths=[1, 1],
      hidden_sizes=[16, 32], focal_levels=[2, 2], focal_windows=[3, 3], num_labels=5)  # fmt: skip
plain("ConvNeXt", "ConvNext", HEAD, LARGE, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_labels=5)
plain("ConvNeXt-v2", "ConvNextV2", HEAD, LARGE, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_labels=5)
plain("ResNet", "ResNet", HEAD, LARGE, embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 1, 1],
      num_labels=5)  # fmt: skip
plain("BiT", "Bit", HEAD, LARGE, embedding_size=32, hidden_sizes=[32, 64], depths=[1, 1], num_groups=8, num_labels=5)
plain("RegNet", "RegNet", HEAD, LARGE, embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 2, 1],
      groups_width=8, num_labels=5)  # fmt: skip
plain("LeViT", "Levit", HEAD, LARGE, image_size=64, hidden_sizes=[16, 32, 48], num_attention_heads=[2, 4, 6],
      depths=[1, 1, 1], key_dim=[8, 8, 8], num_labels=5)  # fmt: skip
plain("CvT", "Cvt", HEAD, LARGE, embed_dim=[16, 32, 48], num_heads=[1, 2, 4], depth=[1, 2, 3], num_labels=5)
plain("PVT", "Pvt", HEAD, LARGE, image_size=64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1],
      num_attention_heads=[1, 2, 4, 4], num_labels=5)  # fmt: skip
plain("PVT-v2", "PvtV2", HEAD, LARGE, image_size=64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1],
      num_attention_heads=[1, 2, 4, 4], num_labels=5)  # fmt: skip
plain("PoolFormer", "PoolFormer", HEAD, LARGE, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_labels=5)
plain("SegFormer", "Segformer", "ForSemanticSegmentation", LARGE, depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32],
      num_attention_heads=[1, 2, 4, 4], decoder_hidden_size=16)  # fmt: skip
plain("GLPN", "GLPN", "ForDepthEstimation", LARGE, depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32],
      num_attention_heads=[1, 2, 4, 4], decoder_hidden_size=16)  # fmt: skip
plain("DPT", "DPT", "ForDepthEstimation", pixels, **{**PICTURE, "num_hidden_layers": 4}, backbone_out_indices=[0, 1, 2, 3],
      neck_hidden_sizes=[8, 16, 24, 32], fusion_hidden_size=16, is_hybrid=False)  # fmt: skip
plain("MobileViT", "MobileViT", HEAD, LARGE, image_size=64, hidden_sizes=[16, 24, 32],
      neck_hidden_sizes=[8, 8, 16, 24, 32, 40, 48], num_attention_heads=4, num_labels=5)  # fmt: skip
plain("MobileViT-v2", "MobileViTV2", HEAD, LARGE, image_size=64, width_multiplier=0.25, num_labels=5)
plain("MobileNet-v1", "MobileNetV1", HEAD, LARGE, image_size=64, depth_multiplier=0.25, num_labels=5)
plain("MobileNet-v2", "MobileNetV2", HEAD, LARGE, image_size=64, depth_multiplier=0.35, num_labels=5)
plain("EfficientNet", "EfficientNet", HEAD, LARGE, image_size=64, width_coefficient=0.25, depth_coefficient=0.25,
      hidden_dim=320, num_labels=5)  # fmt: skip
plain("SwiftFormer", "SwiftFormer", HEAD, LARGE, image_size=64, embed_dims=[8, 16, 24, 32], depths=[1, 1, 1, 1],
      num_labels=5)  # fmt: skip
plain("HGNet-v2", "HGNetV2", HEAD, LARGE, embedding_size=8, stem_channels=[3, 8, 8], hidden_sizes=[16, 24, 32, 40],
      stage_in_channels=[8, 16, 24, 32], stage_mid_channels=[8, 8, 8, 8], stage_out_channels=[16, 24, 32, 40],
      stage_num_blocks=[1, 1, 1, 1], depths=[1, 1, 1, 1], num_labels=5)  # fmt: skip
plain("TextNet", "TextNet", HEAD, LARGE, stem_out_channels=8, hidden_sizes=[8, 8, 16, 24, 32], num_labels=5)
plain("ViTDet", "VitDet", "Model", pixels, image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2,
      num_attention_heads=4, mlp_ratio=2, window_block_indices=[0], window_size=2,
      use_relative_position_embeddings=True)  # fmt: skip
plain("ViTMAE", "ViTMAE", "Model", pixels, **PICTURE, mask_ratio=0.0, decoder_hidden_size=16)
plain("VideoMAE", "VideoMAE", "Model", lambda: {"pixel_values": pixels()["pixel_values"][:, None].repeat(1, 4, 1, 1, 1)},
      **PICTURE, num_frames=4, tubelet_size=2)  # fmt: skip


@family("CLIP")
def clip(transformers: Any) -> Made:
    """Two towers, one for words and one for pictures."""
    config = transformers.CLIPConfig(
        text_config={**TEXT, "eos_token_id": 98}, vision_config={**PICTURE}, projection_dim=16
    )
    return transformers.CLIPModel(config), {**words(), **pixels()}


@family("SigLIP")
def siglip(transformers: Any) -> Made:
    """Two towers; the pictures' is read by one question that attends."""
    config = transformers.SiglipConfig(text_config={**TEXT, "projection_size": 32}, vision_config={**PICTURE})
    return transformers.SiglipModel(config), {**words(), **pixels()}


@family("ViLT")
def vilt(transformers: Any) -> Made:
    """Words and patches in one encoder."""
    config = transformers.ViltConfig(**{**TEXT, **PICTURE}, max_image_length=-1)
    return transformers.ViltModel(config), {**words(), **pixels()}
