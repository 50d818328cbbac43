"""Importing torchvision and timm beside a torch that their binaries were not built for."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["import_timm", "import_torchvision"]

_LIBRARIES: list[torch.library.Library] = []


def import_torchvision() -> Any:
    """Return torchvision; beside a torch that it was not built for, its two ops are declared by hand."""
    try:
        torch.ops.torchvision.nms  # noqa: B018  (reading it is the question)
    except (AttributeError, RuntimeError):
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for op in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",):
            library.define(op)
            library.define("q" + op)
        _LIBRARIES.append(library)  # a library that is collected takes its declarations along
    import torchvision

    return torchvision


def import_timm() -> Any:
    """Return timm, which imports torchvision."""
    import_torchvision()
    import timm

    return timm
