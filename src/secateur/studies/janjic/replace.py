"""S. Janjić, 2018, section 6.2: filters evolved in the place of pruned ones, and corrections in the layer that reads them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import data
from secateur.criteria import Magnitude, Random
from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.search import Moments, Replacement, corrections, patches, replacements
from secateur.selection import select
from secateur.structure import channels
from secateur.studies.janjic.filters import SOURCE
from secateur.studies.janjic.replace_pages import NOTES, sections, words
from secateur.studies.kit import networks
from secateur.studies.kit.networks import example, first, loaded, network, rate, split
from secateur.studies.kit.parts import study

__all__ = ["METHODS", "STUDY", "PrunedLayer", "replace_cell"]

NEXT = {"conv1": "conv2", "conv2": "fc1"}
"""The layers whose filters are pruned, and the layers that read them."""

CHOICES = ("magnitude", "random")
"""Whose filters go."""


@dataclass(frozen=True, eq=False)
class PrunedLayer:
    """A network without some filters of a layer, and what a method may use to mend it.

    Attributes:
        model: the network as it was trained.
        layer, reader: the names of the pruned layer and of the one that reads it.
        removed: bool, one a filter: those that went.
        images, labels: training data.
        population, generations, seed: of what is evolved.
    """

    model: nn.Module
    layer: str
    reader: str
    removed: Tensor
    images: Tensor
    labels: Tensor
    population: int
    generations: int
    seed: int

    def emptied(self) -> nn.Module:
        """Return the network with zeros in the place of the removed filters, so that what reads them reads zeros."""
        return self.filled(torch.zeros(int(self.removed.sum()), self.genes))

    @property
    def genes(self) -> int:
        """The numbers that a filter has: its weights and its bias."""
        weight: Tensor = self.model.get_parameter(f"{self.layer}.weight")
        return weight[0].numel() + 1

    @property
    def filters(self) -> Tensor:
        """All filters with their biases, ``(filters, genes)``."""
        weight, bias = (self.model.get_parameter(f"{self.layer}.{name}").detach() for name in ("weight", "bias"))
        return torch.cat([weight.flatten(1), bias[:, None]], dim=1)

    def filled(self, filters: Tensor) -> nn.Module:
        """Return the network with other filters in the place of the removed ones, ``(removed, genes)``."""
        model = copy.deepcopy(self.model)
        weight, bias = (model.get_parameter(f"{self.layer}.{name}") for name in ("weight", "bias"))
        with torch.no_grad():
            weight[self.removed] = filters[:, :-1].to(weight).view(-1, *weight.shape[1:])
            bias[self.removed] = filters[:, -1].to(bias)
        return model

    def moments(self) -> tuple[Moments, Tensor]:
        """Return what the squared error of a corrected reader depends on, and the reader's weight with its bias."""
        reader = self.model.get_submodule(self.reader)
        weight, bias = (reader.get_parameter(name).detach() for name in ("weight", "bias"))
        whole = torch.cat([weight.flatten(1), bias[:, None]], dim=1)
        emptied, parts = self.emptied(), []
        for images in torch.split(self.images, 250):
            x, y = (_rows(seen(model, self.reader, images)[0], reader) for model in (self.model, emptied))
            parts.append(Moments.of(x, y, whole))
        return Moments.pooled(parts), whole

    def corrected(self, whole: Tensor) -> nn.Module:
        """Return the network without the filters, its reader's weight and bias replaced, ``(outputs, inputs + 1)``."""
        model = self.emptied()
        weight, bias = (model.get_parameter(f"{self.reader}.{name}") for name in ("weight", "bias"))
        with torch.no_grad():
            weight.copy_(whole[:, :-1].reshape(weight.shape))
            bias.copy_(whole[:, -1])
        return model


def seen(model: nn.Module, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a layer reads and what it makes of some images."""
    calls: list[tuple[Tensor, Tensor]] = []
    layer = model.get_submodule(name)
    hook = layer.register_forward_hook(lambda _, inputs, outputs: calls.append((inputs[0], outputs)))
    try:
        with torch.no_grad():
            model(images)
    finally:
        hook.remove()
    return calls[0]


def _rows(inputs: Tensor, reader: nn.Module) -> Tensor:
    """A layer's inputs as rows, with a one for the bias."""
    if isinstance(reader, nn.Conv2d):
        inputs = patches(inputs, (reader.kernel_size[0], reader.kernel_size[1]))
    return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)


Mended = tuple[nn.Module, Replacement | None]


def removed(cut: PrunedLayer) -> Mended:
    """Mend nothing: the filters are gone."""
    return cut.emptied(), None


def random_filters(cut: PrunedLayer) -> Mended:
    """Put filters of random weights there, as layers begin: the control of evolved ones."""
    generator = torch.Generator().manual_seed(cut.seed)
    bound = (cut.genes - 1) ** -0.5
    return cut.filled((2 * torch.rand(int(cut.removed.sum()), cut.genes, generator=generator) - 1) * bound), None


def evolved_filters(cut: PrunedLayer) -> Mended:
    """Evolve filters for the places of the removed ones, so that the network's loss on training images falls."""
    count = int(cut.removed.sum())
    modules = dict(cut.model.named_children())
    names = list(modules)
    at = names.index(cut.layer)
    inputs, activations = seen(cut.model, cut.layer, cut.images[:256])
    rest = nn.Sequential(*(modules[name] for name in names[at + 1 :]))
    layer = modules[cut.layer]
    shape = layer.get_parameter("weight").shape[1:]

    def error(candidates: NDArray[np.float64]) -> NDArray[np.float64]:
        losses = []
        with torch.no_grad():
            for filters in torch.from_numpy(candidates).to(activations).view(-1, count, cut.genes):
                outputs = activations.clone()
                outputs[:, cut.removed] = F.conv2d(inputs, filters[:, :-1].reshape(count, *shape), filters[:, -1])
                losses.append(float(F.cross_entropy(rest(outputs), cut.labels[:256])))
        return np.array(losses)

    sigma = np.full(count * cut.genes, float(cut.filters.std()))
    result = replacements(
        error, np.zeros_like(sigma), sigma, generations=cut.generations, population=cut.population, seed=cut.seed
    )
    return cut.filled(torch.from_numpy(result.values).view(count, cut.genes)), result


def evolved_correction(cut: PrunedLayer) -> Mended:
    """Evolve small changes of the reading layer that absorb the error, as chapter 8 proposes."""
    moments, whole = cut.moments()
    result = corrections(moments, whole, generations=cut.generations, population=cut.population, seed=cut.seed)
    return cut.corrected(torch.from_numpy(result.values).view(whole.shape)), result


def least_squares_correction(cut: PrunedLayer) -> Mended:
    """Correct the reading layer in closed form, the bar that evolved corrections are held to."""
    return cut.corrected(cut.moments()[0].best(1e-6)), None


METHODS: Mapping[str, Callable[[PrunedLayer], Mended]] = {
    "removed": removed,
    "random filters": random_filters,
    "evolved filters": evolved_filters,
    "evolved correction": evolved_correction,
    "least squares": least_squares_correction,
}
"""What is done after filters are pruned."""

OPTIONS = Options(
    (
        *networks.OPTIONS,
        Option("layers", "text", list(NEXT), "layers that lose filters", allowed=tuple(NEXT), many="list"),
        Option("sparsities", "number", [0.25, 0.5], "fractions of a layer's filters", 0.01, 0.99, many="list"),
        Option("choices", "text", list(CHOICES), "whose filters go", allowed=CHOICES, many="list"),
        Option("methods", "text", list(METHODS), "what is done then", allowed=tuple(METHODS), many="list"),
        Option("images", "count", 2000, "training images to correct on", least=1),
        Option("population", "count", 20, "individuals", least=2),
        Option("generations", "count", 40, "generations", least=1),
    )
).changed(epochs=3, model="janjic-cnn")


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    keys = ("layer", "sparsity", "choice", "method")
    grid = list(product(*(settled[key] for key in ("layers", "sparsities", "choices", "methods"))))
    effort = {key: settled[key] for key in ("images", "population", "generations")}
    cells: list[Cell] = []
    for base in networks.bases(name, settled):
        parameters = [{**dict(zip(keys, values, strict=True)), **effort} for values in grid]
        cells += [base, *(base.then("replace", replace_cell, point) for point in parameters)]
    return cells


def replace_cell(context: Context) -> Outcome:
    """Prune filters of one layer, mend the network, and rate it; all that is mended uses training images alone."""
    model, recipe = network(context)
    parts = {which: loaded(split(context, recipe, which)) for which in ("test", "validation", "train")}
    cut = _cut(context, model, example(context, recipe), first(parts["train"], context["images"]))
    mended, result = METHODS[context["method"]](cut)
    parts["train"] = first(parts["train"], len(parts["test"]))
    metrics: dict[str, Json] = {**rate(mended, parts), **_compared(cut, mended, parts["validation"])}
    if context["method"].endswith("filters"):
        metrics |= _likeness(cut, mended)
    history = [] if result is None else [{"step": n, "error": e} for n, e in enumerate(result.history)]
    return Outcome(metrics, history)


def _cut(context: Context, model: nn.Module, image: Tensor, images: data.Split) -> PrunedLayer:
    layer, seed = context["layer"], context["seed"]
    sites = channels(model, image)
    scorer = Random(seed) if context["choice"] == "random" else Magnitude(p=2)
    keep = select(scorer(model, sites), {layer: context["sparsity"]}, scope="layer")
    effort = context["population"], context["generations"]
    return PrunedLayer(model.eval(), layer, NEXT[layer], ~keep[layer], images.images, images.labels, *effort, seed)


def _compared(cut: PrunedLayer, mended: nn.Module, held_out: data.Split) -> dict[str, Json]:
    """By how much the reading layer's outputs are off on images that mended nothing, as a part of their power."""
    images = held_out.head(1000)
    before, after = (seen(model, cut.reader, images)[1] for model in (cut.model, mended))
    return {
        "filters_removed": int(cut.removed.sum()),
        "error": float((after - before).square().sum() / before.square().sum()),
    }


def _likeness(cut: PrunedLayer, mended: nn.Module) -> dict[str, Json]:
    """How near new filters are to those that they replace, and how strong beside the ones that stayed."""
    weight = mended.get_parameter(f"{cut.layer}.weight").detach().flatten(1)
    old, new, stayed = cut.filters[cut.removed, :-1], weight[cut.removed], weight[~cut.removed]
    return {
        "likeness": float(F.cosine_similarity(old, new).mean()),
        "strength": float(new.norm(dim=1).mean() / stayed.norm(dim=1).mean()),
    }


STUDY = study(
    "janjic-replace",
    "Filters evolved in the place of pruned ones",
    "Filters of a convolutional network are pruned and replaced by evolved ones, or what reads them is corrected.",
    source=SOURCE,
    options=OPTIONS,
    cells=_cells,
    sections=sections,
    words=words,
    notes=NOTES,
    best=("accuracy", "max"),
)
