"""What a compression needs of its model and data, looked at before anything is scored, timed or trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.allocate import rounding
from secateur.compression.options import CompressOptions
from secateur.labelled import (
    SampleBatch,
    Samples,
    are_classes,
    batches,
    check_labels,
    check_samples,
    logits_of,
    together,
)
from secateur.losses import is_of_tensors, loss_function
from secateur.randomness import seeded
from secateur.rate.trying import try_loss, try_model
from secateur.state import called, check_ordinary, device_of, evaluating, split_inputs
from secateur.structure import channels
from secateur.train.matching import check_teaches
from secateur.trees import tensors_within
from secateur.types import ExampleInputs, InputError, Loss, Sites
from secateur.wrappers import check_module, check_readable

__all__ = ["check_data", "check_model", "check_training", "cuttable"]

HALVES = (torch.float16, torch.bfloat16)


def check_model(model: nn.Module, inputs: ExampleInputs, options: CompressOptions) -> None:
    """Refuse a model that cannot be trained as was asked, or that does not take the example inputs.

    Raises:
        InputError: with the remedy.
    """
    check_module(model, "compress")
    check_readable(model, "compress")
    check_ordinary(model, "compress")
    for name, parameter in model.named_parameters():
        if parameter.dtype in HALVES:
            raise InputError(
                f"compress: {name} of the model is {parameter.dtype}, which is not supported; use .float()"
            )
    trains = options.train.epochs or (options.finish is not None and options.finish.epochs)
    frozen = not any(parameter.requires_grad for parameter in model.parameters())
    if trains and frozen and any(True for _ in model.parameters()):
        raise InputError(
            "compress: no parameter of the model requires a gradient, so nothing can be trained back; call "
            "model.requires_grad_(True), or train nothing: train=TrainOptions(epochs=0), finish=None"
        )
    args, kwargs = split_inputs(inputs)
    with evaluating(model):
        called(model, args, kwargs)


def cuttable(model: nn.Module, inputs: ExampleInputs, options: CompressOptions) -> Sites:
    """Return the sites of a model.

    Raises:
        InputError: there is none, it says why; or none may be narrower by `minimum` and `round_to`, or these are no numbers of
            units.
    """
    sites = channels(model, inputs, options.ignore)
    sites.check_any("compress")
    multiples = {} if options.round_to == "auto" else rounding(sites, options.round_to).multiples
    if all(max(options.minimum, multiples.get(name, 1)) >= site.size for name, site in sites.items()):
        widest = max(sites.values(), key=lambda site: site.size)
        raise InputError(
            f"compress: with minimum={options.minimum} and round_to={options.round_to!r} nothing can go, as the widest site, "
            f"{widest.name}, has {widest.size} units; give less"
        )
    return sites


def check_data(model: nn.Module, inputs: ExampleInputs, data: Samples, role: str, classes: bool = True) -> None:
    """Refuse data that are empty, not finite, or that the model does not take, and labels that are no classes of its.

    Args:
        model: the unpruned model.
        inputs: what it is called with where it will run.
        data: the samples; those in memory, or in a list, are all looked at.
        role: what they are, for the errors.
        classes: whether whole numbers have to be classes.

    Raises:
        InputError: with the remedy.
    """
    check_samples(data, role)
    batch = _few(model, data, role)
    with evaluating(model):
        outputs = logits_of(_tried(model, batch, role, inputs))
    whole = together(data)
    parts: Iterable[Any] = batches(data, 1, role) if whole is None and isinstance(data, list | tuple) else [whole]
    for part in parts:
        if classes and part is not None and are_classes(outputs, part.targets):
            check_labels(part.targets, outputs.shape[1], role)


def check_training(model: nn.Module, data: Samples, loss: str | Loss | None) -> None:
    """Refuse a loss that does not fit the training data, on two of their samples.

    Raises:
        InputError: with the remedy, and with what a loss of one's own raised as its cause.
    """
    if loss is None:
        return
    batch, function = _few(model, data, "training data"), loss_function(loss)
    if batch.targets is not None:
        with evaluating(model):
            try_loss(model, batch, function, "training data")
    elif not is_of_tensors(loss):
        with evaluating(model):
            outputs = batch.run(model)
        check_teaches(function, outputs, outputs)


def _few(model: nn.Module, data: Samples, role: str) -> SampleBatch:
    device = device_of(model)
    with seeded(device, 0):
        batch = together(data) or next(batches(data, 2, role))
    return batch.rows(slice(2)).to(device)


def _tried(model: nn.Module, batch: SampleBatch, role: str, inputs: ExampleInputs) -> Any:
    """What the model answers; where one input is too few, the error says how to give several."""
    try:
        return try_model(model, batch, role)
    except InputError as error:
        count = len(tensors_within(inputs))
        if count < 2 or not isinstance(batch.inputs, Tensor):
            raise
        names = ", ".join(f"x{number}" for number in range(1, count + 1))
        raise InputError(
            f"{role}: the model takes {count} inputs, as example_inputs have, and the data give one"
            f"{'' if batch.targets is None else ' with targets'}; give (({names}), targets), or (({names}), None) where "
            "there are no labels, and each batch of a loader so, too"
        ) from error
