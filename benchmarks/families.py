"""What the tables of transformers families share: how one is registered, usual sizes, and example inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from coverage_libraries import import_torchvision

__all__ = [
    "AUDIO",
    "GROUPED",
    "MODELS",
    "PICTURE",
    "TEXT",
    "TWO_SIDES",
    "WORDS",
    "Made",
    "family",
    "pixels",
    "plain",
    "words",
]

Made = tuple[nn.Module, dict[str, Tensor]]
MODELS: dict[str, Callable[[], Made]] = {}

WORDS = {"vocab_size": 99, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
TEXT = {**WORDS, "intermediate_size": 64, "max_position_embeddings": 64}
GROUPED = {**TEXT, "num_key_value_heads": 2}
PICTURE = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
PICTURE |= {"intermediate_size": 64}
AUDIO = {**WORDS, "intermediate_size": 64, "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2)}
TWO_SIDES = {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in {"layers": 2, "attention_heads": 4, "ffn_dim": 64}.items()
}


def family(name: str) -> Callable[[Callable[[Any], Made]], Callable[[Any], Made]]:
    """Register what makes one family; it is given the transformers package."""

    def register(make: Callable[[Any], Made]) -> Callable[[Any], Made]:
        assert name not in MODELS, f"two families named {name}"

        def made() -> Made:
            import_torchvision()  # which transformers imports
            import transformers

            return make(transformers)

        MODELS[name] = made
        return make

    return register


def plain(name: str, prefix: str, head: str, inputs: Callable[[], dict[str, Tensor]], /, **options: Any) -> None:
    """Register a family that needs no more than a configuration: ``{prefix}Config`` and the class ``{prefix}{head}``."""

    @family(name)
    def make(transformers: Any) -> Made:
        settings = getattr(transformers, f"{prefix}Config")(**options)
        if hasattr(settings, "use_cache"):
            settings.use_cache = False
        return getattr(transformers, f"{prefix}{head}")(settings), inputs()


def words(count: int = 12) -> dict[str, Tensor]:
    """Token numbers ``(2, count)`` and a mask of ones."""
    return {"input_ids": torch.randint(3, 99, (2, count)), "attention_mask": torch.ones(2, count, dtype=torch.long)}


def pixels(size: int = 32) -> dict[str, Tensor]:
    """Images ``(2, 3, size, size)``."""
    return {"pixel_values": torch.randn(2, 3, size, size)}
