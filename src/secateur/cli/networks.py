"""What the commands share that take a model: its options, and the network and the example input made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import nn

    from secateur.measure import Evaluation
    from secateur.result import Result
    from secateur.types import ExampleInputs

__all__ = [
    "DataName",
    "Inputs",
    "LossName",
    "MetricName",
    "ModelName",
    "Set",
    "Shape",
    "Weights",
    "blindness",
    "build_network",
    "example_input",
    "fitted_options",
    "write_pruned",
]

TRANSFORMERS = "hf:"
"""How a name begins that stands for a model of transformers."""

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model by name (see `secateur list`), package.module:factory, or hf:PATH of transformers.",
    ),
]
DataName = Annotated[
    str, typer.Option("--data", metavar="NAME", help="A data set by name (see `secateur list`); it fits a named model.")
]
LossName = Annotated[
    str, typer.Option("--loss", metavar="NAME", help="cross_entropy, mse, l1, bce or package.module:function.")
]
MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric", metavar="NAME", help="A metric of (outputs, targets) to show too, as package.module:function."
    ),
]
Shape = Annotated[
    str | None,
    typer.Option(
        "--input-shape",
        metavar="SIZES",
        help="The shape of the example input, such as 1,3,224,224; known for named models and from --data.",
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="INPUT",
        help="Instead: an example input, such as 'ids=int64[2,128]<50257', '[1,3,224,224]', or a .safetensors file of "
        "them; may be repeated.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of the model, as JSON (input_size=8); may be repeated."),
]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The trained weights (safetensors); without them the model is random."),
]


def fitted_options(name: str, data_name: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a named model with what the data decide: channels, pixels and classes, unless they are given."""
    from secateur import data, models

    if data_name is None:
        return options
    info = data.info(data_name)
    return {**models.fitting(name, info.shape, len(info.classes)), **options}


def build_network(name: str, weights: Path | None, options: dict[str, Any]) -> nn.Module:
    """Return the model with its weights.

    Raises:
        UnknownNameError, InputError, FileError: there is no such model, option or file, or they do not fit.
    """
    from secateur import models
    from secateur.saving import load_weights
    from secateur.types import FileError

    network = from_transformers(name, options) if is_of_transformers(name) else models.build(name, seed=0, **options)
    if weights:
        try:
            load_weights(weights, network)
        except FileError as error:
            if "does not fit" not in str(error):
                raise
            raise FileError(f"{error}: the same --data and --set as in training") from error
    return network


def is_of_transformers(name: str) -> bool:
    """Return whether a name stands for what transformers keeps in a folder or on the hub."""
    return name.startswith(TRANSFORMERS)


def from_transformers(name: str, options: dict[str, Any]) -> nn.Module:
    """Return the model that transformers loads."""
    from secateur.integrations import huggingface

    return huggingface.load(name.removeprefix(TRANSFORMERS), **options)


def write_pruned(name: str, result: Result, folder: Path) -> None:
    """Write a pruned model: one of transformers as that keeps it, with its tokenizer."""
    if not is_of_transformers(name):
        result.save(folder)
        return
    from secateur.integrations import huggingface

    huggingface.save(result, folder, huggingface.load_tokenizer(name.removeprefix(TRANSFORMERS)))


def blindness(evaluation: Evaluation, remedy: str = "trained --weights") -> str:
    """Return the warning that a network has not learnt; empty where it has."""
    from secateur.measure import has_learnt

    if has_learnt(evaluation.class_accuracy):
        return ""
    return (
        f"WARNING: the network has not learnt: its accuracy is {evaluation.accuracy:.4f}, that of blind answers to "
        f"{len(evaluation.class_accuracy)} classes; give {remedy}"
    )


def example_input(
    name: str,
    shape: str | None,
    options: dict[str, Any],
    sizes: Sequence[int] | None,
    inputs: Sequence[str] | None = None,
    network: nn.Module | None = None,
) -> ExampleInputs:
    """Return example inputs: those asked for, of the shape asked for, of the data, or what a named model takes.

    Args:
        sizes: those of an image of the data; None without data.
        network: one of transformers, whose config says what it takes.
    """
    import torch

    from secateur import models
    from secateur.cli.inputs import example_inputs
    from secateur.types import InputError

    if inputs and shape:
        raise InputError("give --input or --input-shape, not both")
    if inputs:
        return example_inputs(inputs)
    generator = torch.Generator().manual_seed(0)
    if shape:
        try:
            return torch.randn([int(s) for s in shape.split(",")], generator=generator)
        except (ValueError, RuntimeError):
            raise InputError(f"--input-shape {shape!r}: write sizes with commas, such as 1,3,224,224") from None
    if sizes is not None:
        return torch.randn(1, *sizes, generator=generator)
    if network is not None and is_of_transformers(name):
        from secateur.integrations import huggingface

        return huggingface.example_inputs(network)
    if ":" in name:
        raise InputError(f"what {name} takes is not known; pass --input-shape, such as 1,3,224,224, --input or --data")
    return torch.randn(1, *models.input_shape(name, **options), generator=generator)
