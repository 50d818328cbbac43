"""The models of the coverage benchmark, by suite: how each is made, and what it is called with."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from coverage_case import Case, Made, image
from coverage_libraries import import_timm, import_torchvision

__all__ = ["SUITES", "Case", "cases", "sample"]

TIMM_LIST = Path(__file__).with_name("timm_models.txt")


def cases(suite: str) -> list[Case]:
    """Return the models of one of `SUITES`; its library need not be there before one of them is made."""
    return list(_BY_SUITE[suite]())


def sample(suite: str, size: int | None, seed: int) -> list[Case]:
    """Return `size` models of a suite drawn by `seed`, in their order there; all of them where it has no more."""
    models = cases(suite)
    if size is None or size >= len(models):
        return models
    places = random.Random(f"{suite} {seed}").sample(range(len(models)), size)
    return [models[place] for place in sorted(places)]


def _corpus(module: str) -> Callable[[], Iterator[Case]]:
    """The models of a corpus that has a module of its own, imported when it is asked for."""
    return lambda: import_module(module).cases()


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
    import coverage_transformers

    for name, make in coverage_transformers.MODELS.items():
        yield Case("transformers", name, name, make)


_BY_SUITE: dict[str, Callable[[], Iterator[Case]]] = {
    "zoo": _zoo,
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
    **{
        name: _corpus(f"coverage_{name}") for name in ("diffusers", "geometric", "monai", "segmentation", "ultralytics")
    },
}
SUITES = tuple(_BY_SUITE)
