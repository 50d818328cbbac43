"""ultralytics: every architecture that it describes in a file of its own, at the least width and depth that it names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from coverage_case import Case, Made, image
from coverage_libraries import import_torchvision

__all__ = ["cases"]

SIZE, CLASSES = 64, 4
# By what a file's name says of its task; the plain ones detect.
TASKS = {"cls": "Classification", "seg": "Segmentation", "sem": "SemanticSegmentation", "pose": "Pose", "obb": "OBB"}
WIDTH = {"width_multiple": 0.25, "depth_multiple": 0.33}


def cases() -> Iterator[Case]:
    """Yield each architecture, by name; those that are given words besides a picture are left out."""
    for path in sorted(_folder().rglob("*.yaml")):
        if "yoloe" not in path.stem and "world" not in path.stem:
            yield Case("ultralytics", path.parent.name, path.stem, partial(_made, path))


def _folder() -> Path:
    os.environ.setdefault("YOLO_OFFLINE", "true")
    import_torchvision()
    import ultralytics

    return Path(ultralytics.__file__).parent / "cfg" / "models"


def _made(path: Path) -> Made:
    from ultralytics.nn import tasks
    from ultralytics.utils import YAML

    settings: dict[str, Any] = YAML.load(path)
    if "scales" in settings:
        scales = settings["scales"]
        settings["scale"] = "n" if "n" in scales else next(iter(scales))
    elif "width_multiple" in settings:
        settings |= {name: min(least, settings.get(name, 1.0)) for name, least in WIDTH.items()}
    for layer in settings["backbone"]:
        layer[3] = [None if argument == "DEFAULT" else argument for argument in layer[3]]  # no weights from elsewhere
    task = next((task for word, task in TASKS.items() if f"-{word}" in path.stem), "Detection")
    if path.stem.startswith("rtdetr") or path.stem.endswith("rtdetr"):
        task = "RTDETRDetection"
    model = getattr(tasks, f"{task}Model")(settings, nc=CLASSES, verbose=False)
    with torch.no_grad():
        model.eval()(image(SIZE))  # its head makes the table of its anchors when it is first called
    return model, (image(SIZE),)
