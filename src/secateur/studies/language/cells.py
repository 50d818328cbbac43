"""Criteria, widths, depths and repairs on a language model, each on several draws of calibration text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from math import log
from typing import Any

import torch
from torch import nn

from secateur.criteria import Random
from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json, Recipe
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.losses import next_token_cross_entropy
from secateur.measure import file_bytes, parameters, perplexity
from secateur.solvers import SparseGPT
from secateur.state_dicts import fill
from secateur.stream import CutUnits, SparsifyWeights, block_container, drop_blocks, remove_blocks, walk
from secateur.stream.steps import BlockStep
from secateur.studies.kit import networks
from secateur.studies.kit.parts import study
from secateur.studies.language.pages import NOTES, cards, sections, words
from secateur.studies.language.subjects import DECODER, TOPICS, Texts, load, made, parameters_of, texts, weights_digest

__all__ = ["STUDY"]

CRITERIA = ("output-norm", "elimination", "wanda", "l2", "random")
REPAIRS = ("none", "layer", "stream")
SINGLE: Mapping[str, Any] = {"magnitude": "l2", "wanda": "wanda", "sparse-gpt": SparseGPT}
"""What sets single weights to zero, by the study's name for it."""

_SHARED = {option.name: option for option in networks.OPTIONS}

OPTIONS = Options(
    (
        Option("seeds", "count", 3, "how many draws of calibration and untouched text", least=1, most=1_000_000),
        Option("data", "text", TOPICS, f"the text: {TOPICS}, or a file or folder of text"),
        Option("model", "text", DECODER, f"what is cut: {DECODER}, or a folder that transformers loads"),
        Option("model_options", "mapping", {}, "the decoder's sizes"),
        Option("epochs", "count", 6, "passes over the text that the decoder is trained for", least=1),
        Option("batch_size", "count", 32, "sequences a step of that training", least=1),
        _SHARED["checkpoint_seconds"],
        Option(
            "length", "count", None, "tokens a sequence; null: 64 for the decoder, else 512", least=2, optional=True
        ),
        Option("calibration", "count", 8192, "tokens that criteria and repairs look at", least=2),
        Option("untouched", "count", 8192, "tokens that figures are measured on, and nothing else", least=2),
        Option(
            "criteria",
            "text",
            ["output-norm", "elimination", "l2", "random"],
            "what chooses neurons",
            allowed=CRITERIA,
            many="any",
        ),
        Option("sparsities", "number", [0.25, 0.5], "fractions of every MLP that are cut", 0, 0.99, many="any"),
        Option("repairs", "text", list(REPAIRS), "what is refitted", allowed=REPAIRS, many="list"),
        Option("blocks", "count", [0, 1], "how many whole blocks go before MLPs are cut", many="list"),
        Option(
            "depth_by",
            "text",
            ["influence", "loss"],
            "what chooses blocks; MLPs are cut behind the first of them",
            allowed=("influence", "loss"),
            many="list",
        ),
        Option(
            "weight_methods",
            "text",
            list(SINGLE),
            "what sets single weights to zero",
            allowed=tuple(SINGLE),
            many="any",
        ),
        Option("weight_sparsities", "number", [0.5], "fractions of them", 0, 0.99, many="any"),
    )
)


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    shared, lookup = parameters_of(settled), {key: settled[key] for key in ("data", "model")}
    kind, run = ("train", train_cell) if settled["model"] == DECODER else ("load", load_cell)
    bases = [Cell(Recipe(name, kind, {"seed": seed, **shared}), run, lookup=lookup) for seed in range(settled["seeds"])]
    # Seed by seed, so that a run that is stopped leaves whole comparisons.
    return [cell for base in bases for cell in (base, *_of_model(base, settled))]


def _of_model(base: Cell, settled: Mapping[str, Json]) -> Iterator[Cell]:
    shown = {"calibration": settled["calibration"]}
    for count in settled["blocks"]:
        depths = settled["depth_by"] if count else []
        depth = [base.then("drop", drop_cell, {"by": by, "blocks": count, **shown}) for by in depths]
        yield from depth
        choices = product(settled["criteria"], settled["sparsities"], settled["repairs"])
        for method, sparsity, repair in choices:
            choice = {"method": method, "sparsity": sparsity, "repair": repair, "blocks": count, **shown}
            yield base.then("prune", prune_cell, choice, after=depth[:1])
    for method, sparsity in product(settled["weight_methods"], settled["weight_sparsities"]):
        yield base.then("sparsify", sparsify_cell, {"method": method, "sparsity": sparsity, **shown})


def train_cell(context: Context) -> Outcome:
    """Train a decoder on all text but the untouched, and rate it."""
    recipe = context.recipe.parameters
    model, text = made(recipe["model_options"], recipe["seed"]), _texts(context.recipe)
    options = {name: recipe[name] for name in ("epochs", "batch_size", "seed")}
    training: Any = (text.training, text.training)
    history = networks.resumed(context, model, training, None, loss=_next_token, schedule="cosine", lr=3e-3, **options)  # type: ignore[arg-type]
    return Outcome(_rated(model, model, text), history.to_dicts(), model.state_dict())


def _next_token(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return next_token_cross_entropy(outputs, targets)


def load_cell(context: Context) -> Outcome:
    """Rate a model from a folder."""
    model = load(context["model"])
    return Outcome(_rated(model, model, _texts(context.recipe)))


def drop_cell(context: Context) -> Outcome:
    """Take whole blocks out, and rate what is left."""
    model, text = _model(context), _texts(context.record().recipe, context["calibration"])
    since = time.process_time()
    dropped = drop_blocks(model, text.calibration, context["blocks"], context["by"])
    seconds = time.process_time() - since
    gone = {
        "removed": list(dropped.history.removed),
        "influence": list(dropped.history.scores.values()),
        "seconds": seconds,
    }
    return Outcome({**_rated(dropped.model, model, text), **gone, "dense_perplexity": _dense(context)})


def prune_cell(context: Context) -> Outcome:
    """Cut a fraction of every MLP, behind blocks that are gone where the recipe says so, and rate what is left."""
    repair = None if context["repair"] == "none" else context["repair"]
    # Random takes no data: its seed is the text's.
    criterion: Any = partial(_random, seed=context["seed"]) if context["method"] == "random" else context["method"]
    gone = context.record(1).metrics["removed"] if context["blocks"] else []
    return _walked(context, CutUnits(context["sparsity"], criterion, repair), gone)


def _random(_: Any, seed: int) -> Random:
    return Random(seed)


def sparsify_cell(context: Context) -> Outcome:
    """Set single weights to zero, and rate what is left."""
    return _walked(context, SparsifyWeights(context["sparsity"], SINGLE[context["method"]]), [])


def _walked(context: Context, step: BlockStep, gone: Sequence[str]) -> Outcome:
    model, text = _model(context), _texts(context.record().recipe, context["calibration"])
    shallower = remove_blocks(model, gone).model if gone else model
    since = time.process_time()
    walked = walk(shallower, text.calibration, step, container=block_container(model))
    seconds = time.process_time() - since
    missing = [{"step": number, "missing": error} for number, error in enumerate(walked.history.errors.values(), 1)]
    rated = _rated(walked.model, model, text)
    return Outcome({**rated, "seconds": seconds, "dense_perplexity": _dense(context)}, missing)


def _dense(context: Context) -> Json:
    return context.record().metrics["perplexity"]


def _texts(recipe: Recipe, calibration: int = 0) -> Texts:
    names = ("data", "model", "seed", "length", "untouched")
    return texts(**{name: recipe.parameters[name] for name in names}, calibration=calibration)


def _model(context: Context) -> nn.Module:
    base = context.record().recipe.parameters
    if base["model"] != DECODER:
        return load(base["model"])
    model = made(base["model_options"], base["seed"])
    fill(model, context.artefact(), f"the artefact of cell {context.record().id}")
    return model


def _rated(model: nn.Module, dense: nn.Module, text: Texts) -> dict[str, Json]:
    count, length = parameters(model), text.untouched.shape[1]
    measured = perplexity(model, text.untouched, batch_size=max(1, 512 // length))
    rated = {
        "perplexity": measured,
        "loss": log(measured),
        "parameters": count.total,
        "nonzero": count.nonzero,
        "parameters_removed": 1 - count.nonzero / parameters(dense).total,
        "bytes": file_bytes(model),
    }
    return rated | ({"weights": weights_digest(model)} if model is dense else {})


STUDY = study(
    "language-model",
    "What a language model bears",
    "Criteria, widths, depths and repairs on a small decoder, or by option on a model of transformers; perplexity on "
    "untouched text, over several draws of calibration text.",
    options=OPTIONS,
    cells=_cells,
    sections=sections,
    words=words,
    cards=cards,
    notes=NOTES,
    trained=False,
    lead="perplexity",
)
