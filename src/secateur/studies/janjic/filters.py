"""Filters of convolutions: the networks, the choices and the cells that the studies of Janjić's thesis share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from torch import Tensor, nn

from secateur import data, models
from secateur.criteria import Energy, Magnitude, Random
from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json, Recipe
from secateur.lab.plan.study import Cell, Context, Outcome, Publication
from secateur.saving import load_weights
from secateur.selection import select
from secateur.structure import channels
from secateur.studies.kit import networks
from secateur.types import Criterion, FileError, InputError, Site, Sites, unknown_name

__all__ = [
    "METHODS",
    "OPTIONS",
    "SOURCE",
    "THRESHOLDS",
    "bases",
    "before_convolution",
    "choose",
    "filters",
    "options",
    "parameters_of",
    "rated",
    "scorer",
    "step_size",
]

SOURCE = Publication(
    "janjic",
    "S. Janjić",
    2018,
    "Exploring Redundancy in Neural Networks: Pruning by Genetic Algorithm & Filter Energy",
)

THRESHOLDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
"""The shares of a layer's energy that the text removes (Algorithm 3)."""

METHODS = ("energy", "random", "l1", "l2")
"""What chooses the filters: the text's energy, and the controls, which remove as many in each layer."""

OPTIONS = (
    *(replace(option, many="no") if option.name in ("data", "model") else option for option in networks.OPTIONS),
    Option("size", "count", 32, "pixels of a side, to which the images are brought", least=8),
    Option("train_images", "count", None, "how many images to train on; all when null", least=1, optional=True),
    Option("test_images", "count", 2500, "how many test images to rate on; all when null", least=1, optional=True),
    Option("weights", "text", None, "a file with trained weights, in place of training", optional=True),
    Option("layers", "text", "*", "which convolutions, by name or pattern", many="either"),
)
"""What every study of filters takes."""


def options(*further: Option, **defaults: Json) -> Options:
    """Return the options of a study of filters, with those of its own and with its defaults."""
    return Options((*OPTIONS, *further)).changed(**defaults)


def bases(study: str, settled: Mapping[str, Json]) -> list[Cell]:
    """Return the cells of the networks to prune: one for each seed that is trained, or one for the given weights.

    Weights from a file are known by their content, so that another file is another cell, and the same one elsewhere
    the same.

    Raises:
        InputError, UnknownNameError: there is no such data set, network or option of it.
        FileError: the file of weights cannot be read.
    """
    trained = list(networks.bases(study, settled, _fitted))
    networks.check_layers(settled, "layers", (nn.Conv2d,), _fitted)
    if settled["weights"] is None:
        return trained
    parameters = {
        "seed": 0,
        "weights": _digest(settled["weights"]),
        **trained[0].lookup,
        "model_options": _fitted(settled),
    }
    recipe = Recipe(study, "load", parameters | {key: settled[key] for key in ("size", "validation")})
    return [Cell(recipe, load_cell, lookup=trained[0].lookup)]


def _fitted(settled: Mapping[str, Json]) -> dict[str, Json]:
    """The options of the network that the data and the size of the images decide, and those given."""
    info = data.info(settled["data"])
    shape = (info.shape[0], settled["size"], settled["size"])
    # Also where it is the network's own size: the data set's own would be taken else.
    size = {"input_size": settled["size"]} if "input_size" in _takes(settled["model"]) else {}
    return {**models.fitting(settled["model"], shape, len(info.classes)), **size, **settled["model_options"]}


def _takes(model: str) -> dict[str, int]:
    """The options of a network that data could decide."""
    return models.fitting(model, (-1, -1, -1), -1)


def _digest(path: str) -> str:
    file = Path(path)
    try:
        facts = file.stat()
    except OSError as error:
        raise FileError(f"weights: {file} cannot be read ({error.strerror}); give a file of weights") from None
    return _digest_of(file, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=8)
def _digest_of(file: Path, changed: int, size: int) -> str:
    # The time and the size stand for the content, so that half a gigabyte is not read at every look at the plan.
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def load_cell(context: Context) -> Outcome:
    """Load a network's weights from a file (safetensors, or what `torch.save` wrote), and rate it."""
    recipe, path = context.recipe.parameters, context.options["weights"]
    if _digest(path) != recipe["weights"]:
        raise FileError(f"weights: {path} is another file than when the study was planned; run it again")
    model = models.build(recipe["model"], seed=0, **recipe["model_options"])
    load_weights(path, model)
    images = rated(context, recipe)
    metrics = {**networks.quality(model, images), **networks.size(model, images.head(1))}
    return Outcome(metrics, artefact=model.state_dict())


def rated(context: Context, recipe: Mapping[str, Json], which: str = "test") -> data.Images:
    """Return the images that the networks of a recipe are rated on: the first `test_images` of a split."""
    count = context.recipe.parameters.get("test_images") or context.options.get("test_images")
    return networks.first(networks.split(context, recipe, which), count)


def step_size(images: Tensor) -> int:
    """Return how many images to run at a time: 250 of 32×32, and fewer of larger ones.

    >>> import torch
    >>> step_size(torch.zeros(1, 3, 32, 32)), step_size(torch.zeros(1, 3, 224, 224))
    (250, 5)
    """
    return max(1, 250 * 32 * 32 // images[0, 0].numel())


def filters(model: nn.Module, inputs: Tensor, layers: str | Sequence[str] = "*") -> Sites:
    """Return the sites whose filters one convolution alone makes, so that it can be pruned by itself.

    Around a residual connection several convolutions add into the same channels; those are no layer's own.

    Args:
        model: the network.
        inputs: example inputs.
        layers: names or patterns; a site is taken when one fits.

    Raises:
        InputError: no convolution is left.
        UnknownNameError: a name fits none.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(8, 3), nn.Linear(3, 2))
    >>> import torch
    >>> list(filters(net, torch.zeros(1, 1, 6, 6))), list(filters(net, torch.zeros(1, 1, 6, 6), "1"))
    (['0', '1'], ['1'])
    """
    sites = channels(model, inputs)
    alone = {name: site for name, site in sites.items() if len(_kernels(site, "out")) == 1}
    if not alone:
        raise InputError(f"{type(model).__name__} has no convolution whose filters can be cut; take another network")
    patterns = [layers] if isinstance(layers, str) else list(layers)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in alone):
            raise unknown_name("convolution", pattern, alone)
    fitting = {name: site for name, site in alone.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}
    return Sites(fitting, sites.frozen, sites.structure)


def _kernels(site: Site, role: str) -> list[str]:
    return [m.parameter for m in site.members if m.role == role and m.dim is not None and len(m.shape) > 2]


def before_convolution(site: Site) -> bool:
    """Say whether a convolution reads the site's filters; the text's algorithm prunes only such layers."""
    return bool(_kernels(site, "in"))


def choose(
    model: nn.Module, sites: Sites, threshold: float, method: str = "energy", seed: int = 0
) -> dict[str, Tensor]:
    """Return the keep masks of every layer: by energy, or by a control with as many filters removed in each.

    Args:
        model: the network.
        sites: from `filters`.
        threshold: the share of a layer's energy to remove.
        method: one of `METHODS`.
        seed: of the random control.

    Raises:
        UnknownNameError: there is no such method.
    """
    score = scorer(method, seed)
    keep = select(Energy()(model, sites), cumulative=threshold)
    if method == "energy":
        return keep
    fractions = {name: float((~mask).double().mean()) for name, mask in keep.items()}
    return select(score(model, sites), fractions, scope="layer")


def scorer(method: str, seed: int) -> Criterion:
    """Return the criterion of a method; the seed is the random control's.

    Raises:
        UnknownNameError: there is no such method.

    >>> scorer("l1", seed=0)
    Magnitude(p=1, side='incoming', reduce='joint')
    """
    table: dict[str, Criterion] = {
        "energy": Energy(),
        "random": Random(seed),
        "l1": Magnitude(p=1),
        "l2": Magnitude(p=2),
    }
    if method not in table:
        raise unknown_name("method", method, METHODS)
    return table[method]


def parameters_of(site: Site, keep: Tensor) -> int:
    """Return how many parameters go with the filters that a mask removes from one site.

    >>> import torch
    >>> from secateur.structure import channels
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3))
    >>> site = channels(net, torch.zeros(1, 1, 6, 6))["0"]
    >>> parameters_of(site, torch.tensor([True, False, True, True]))  # 9 weights, a bias, 2 × 9 weights that read it
    28
    """
    total = 0
    for member in site.members:
        if member.dim is not None and member.index is not None:
            rest = 1
            for place, length in enumerate(member.shape):
                rest *= 1 if place == member.dim else length
            total += rest * member.index[~keep].numel()
    return total
