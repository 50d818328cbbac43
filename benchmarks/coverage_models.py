"""The models of the coverage benchmark, by suite: how each is made, and what it is called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import coverage_transformers
from coverage_libraries import import_timm, import_torchvision

__all__ = ["SUITES", "Case", "cases"]

SUITES = ("zoo", "torchvision", "timm", "transformers")
TIMM_LIST = Path(__file__).with_name("timm_models.txt")

Made = tuple[nn.Module, Any]


@dataclass(frozen=True)
class Case:
    """One model: where it belongs, and what makes it with the inputs that it takes."""

    suite: str
    family: str
    name: str
    make: Callable[[], Made]


def cases(suite: str) -> list[Case]:
    """Return the models of one of `SUITES`."""
    found = {"zoo": _zoo, "torchvision": _torchvision, "timm": _timm, "transformers": _transformers}
    return list(found[suite]())


def image(size: int, batch: int = 1, channels: int = 3) -> Tensor:
    """Return a batch of random images."""
    return torch.randn(batch, channels, size, size)


def _zoo() -> Iterator[Case]:
    import zoo

    for name, toy in zoo.ZOO.items():
        yield Case("zoo", "zoo", name, partial(_of_zoo, toy))


def _of_zoo(toy: Any) -> Made:
    return toy.make(), toy.inputs()


# Images of 128 pixels are enough for the models that take any size, and save most of the time.
TORCHVISION_SIZES = {"inception_v3": 299, "maxvit_t": 224}


def _torchvision() -> Iterator[Case]:
    models = import_torchvision().models
    for name in models.list_models(models):
        size = TORCHVISION_SIZES.get(name, 224 if name.startswith("vit") else 128)
        module = inspect.getmodule(models.get_model_builder(name))
        family = (module.__name__ if module else name).rpartition(".")[2]
        yield Case("torchvision", family, name, partial(_of_torchvision, name, size))


def _of_torchvision(name: str, size: int) -> Made:
    models = import_torchvision().models
    options = {"init_weights": True} if name in {"googlenet", "inception_v3"} else {}
    return models.get_model(name, weights=None, **options), (image(size),)


def _timm() -> Iterator[Case]:
    for line in TIMM_LIST.read_text(encoding="utf-8").splitlines():
        module, name = line.split()
        yield Case("timm", module, name, partial(_of_timm, name))


def _of_timm(name: str) -> Made:
    model = import_timm().create_model(name, pretrained=False)
    config = model.pretrained_cfg
    channels, height, width = config.get("test_input_size") or config["input_size"]
    if not config.get("fixed_input_size"):
        height, width = config["input_size"][1:]
    return model, (torch.randn(1, channels, height, width),)


def _transformers() -> Iterator[Case]:
    for name, make in coverage_transformers.MODELS.items():
        yield Case("transformers", name, name, make)
