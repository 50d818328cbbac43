"""torchvision's whole detectors, cut in regions: post-processing and all."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import secateur as sc
from oracle import masked
from secateur.structure.cutting import cut_with_plan
from secateur.structure.difference import difference

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),  # torchvision's own keypoints are scripted
    pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed"),
]

FEW = {"rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 20, "box_detections_per_img": 10}
SMALL = {"min_size": 64, "max_size": 96}
RCNN: dict[str, Any] = {**FEW, **SMALL}
DENSE: dict[str, Any] = {"topk_candidates": 10}

DETECTORS: dict[str, dict[str, Any]] = {
    "fasterrcnn_resnet50_fpn": RCNN,
    "fasterrcnn_mobilenet_v3_large_fpn": RCNN,
    "maskrcnn_resnet50_fpn": RCNN,
    "keypointrcnn_resnet50_fpn": RCNN,
    "retinanet_resnet50_fpn": {**DENSE, **SMALL},
    "fcos_resnet50_fpn": {**DENSE, **SMALL},
    "ssd300_vgg16": DENSE,
    "ssdlite320_mobilenet_v3_large": DENSE,
}

_LIBRARY: list[torch.library.Library] = []


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression: a box goes where one of a higher score overlaps it by more than the threshold."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    alive, kept = torch.ones(len(boxes), dtype=torch.bool), []
    for best in scores.argsort(descending=True, stable=True).tolist():
        if alive[best]:
            kept.append(best)
            corner = torch.minimum(boxes[best, 2:], boxes[:, 2:])
            inner = (corner - torch.maximum(boxes[best, :2], boxes[:, :2])).clamp(min=0).prod(1)
            alive &= inner / (area[best] + area - inner) <= threshold
    return torch.tensor(kept, dtype=torch.long)


@pytest.fixture(scope="module")
def detection() -> Any:
    """torchvision's detectors; where its compiled part does not load, its op is written in Python."""
    try:
        import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl("nms", nms, "CPU")
        _LIBRARY.append(library)  # the declarations live as long as the object does
        import_module("torchvision")
    extension = import_module("torchvision.extension")
    if not extension._has_ops():
        if not _LIBRARY:
            library = torch.library.Library("torchvision", "IMPL")
            library.impl("nms", nms, "CPU")
            _LIBRARY.append(library)
        import_module("torchvision.models.detection")
        extension._has_ops = lambda: True
        sys.modules["torchvision.ops.roi_align"]._has_ops = lambda: False  # type: ignore[attr-defined]
    return import_module("torchvision.models.detection")


def built(detection: Any, name: str) -> nn.Module:
    torch.manual_seed(0)
    classes = 2 if "keypoint" in name else 3
    options = {"weights": None, "weights_backbone": None, "num_classes": classes, **DETECTORS[name]}
    model: nn.Module = getattr(detection, name)(**options)
    return model.eval()


def targets(name: str) -> list[dict[str, Tensor]]:
    target: dict[str, Tensor] = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]), "labels": torch.tensor([1])}
    if "mask" in name:
        target["masks"] = torch.ones(1, 64, 80, dtype=torch.uint8)
    if "keypoint" in name:
        target["keypoints"] = torch.full((1, 17, 3), 20.0)
    return [target]


def losses(model: nn.Module, name: str, image: Tensor) -> dict[str, Tensor]:
    """The losses of the model as it trains on two images, batch statistics and all, but for dropout."""
    for module in model.modules():
        module.training = not isinstance(module, nn.Dropout)
    torch.manual_seed(1)
    with torch.no_grad():
        answer: dict[str, Tensor] = model([image.clone(), image.flip(1)], targets(name) * 2)
    return answer


class KeptGroups(TorchFunctionMode):
    """Leaves out of group norms what is cut; batch norms take each channel by itself anyway."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        norm = masked.NORMS[func] if func is F.group_norm else func
        return norm(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", DETECTORS)
def test_a_whole_detector_is_cut(detection: Any, name: str) -> None:
    model = built(detection, name)
    image = torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(0))
    sites = sc.channels(model, ([image],))
    keep = {site: torch.arange(sites[site].size) >= int(0.3 * sites[site].size) for site in sites}
    cut = cut_with_plan(model, sites, keep)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, cut.model))
    assert after <= 0.8 * before
    assert cut.verification.double is not None
    assert cut.verification.double <= 1e-9
    assert "the whole model on the example" in cut.verification.draws
    zeroed = sc.mask(model, sites, keep, statistics="all")
    with KeptGroups():
        expected = losses(zeroed, name, image)
    assert difference(expected, losses(cut.model, name, image)) <= 1e-3
