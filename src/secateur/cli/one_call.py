"""The command that makes a trained model as small or fast as was asked for, and writes what to run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.derived import parsed, takes_options
from secateur.cli.models import on_test
from secateur.cli.networks import (
    Inputs,
    ModelName,
    Set,
    Shape,
    Weights,
    blindness,
    build_network,
    example_input,
    fitted_options,
)
from secateur.cli.root import DataDir, Json, app, options_of
from secateur.cli.steps import steps_of
from secateur.compression import CompressOptions

if TYPE_CHECKING:
    from secateur.measure import Evaluation
    from secateur.result import Result

__all__ = ["compress_"]


@app.command(
    "compress",
    epilog="""\b
Examples:
  secateur compress lenet-300-100 --data digits --weights lenet.safetensors --goal latency=0.5 --folder half
  secateur compress lenet-300-100 --data digits --weights lenet.safetensors --step prune:unit=weights,sparsity=0.8 --step share:bits=4 --folder few
  secateur compress resnet-18 --data cifar10 --weights resnet.safetensors --goal macs=0.3 --max-drop 0.02 --folder small""",
)
@takes_options(CompressOptions)
def compress_(
    model: ModelName,
    folder: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where all is kept and written: model, file for the runtime, report."),
    ],
    data_name: Annotated[
        str,
        typer.Option(
            "--data", metavar="NAME", help="The data set to train and choose on, and to rate on (test split)."
        ),
    ],
    goal: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT=FRACTION",
            help="What it may use of latency, macs, parameters or bytes; latency=0.5 where no --step is given.",
        ),
    ] = None,
    step: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STEP:KEY=VALUE,…",
            help="Instead of cuts to a goal: prune, low-rank, structure, share or quantize, as in share:bits=4; may be "
            "repeated, and they are taken in that order.",
        ),
    ] = None,
    weights: Weights = None,
    validation: Annotated[
        float, typer.Option(help="Fraction of the training data held out; the metric is taken on it.")
    ] = 0.1,
    input_shape: Shape = None,
    inputs: Inputs = None,
    data_dir: DataDir = None,
    set_: Set = None,
    as_json: Json = False,
    **chosen: Any,
) -> None:
    """Make a trained model smaller or faster, at the accuracy that it had: cut, trained back, verified, measured, exported.

    If it is stopped, the same command goes on where it was. FOLDER/model is read by `evaluate --pruned` and
    `secateur.load`.
    """
    from secateur import data
    from secateur.compression import compress
    from secateur.compression.choosing import calibration
    from secateur.measure import evaluate

    asked = None if goal is None and step else options_of([goal or "latency=0.5"], "--goal")
    options = CompressOptions(**parsed(chosen, CompressOptions))
    model_options = fitted_options(model, data_name, options_of(set_))
    network = build_network(model, weights, model_options)
    split: dict[str, Any] = {"root": data_dir, "validation": validation, "seed": options.seed}
    train, held_out = (data.load(data_name, name, **split) for name in ("train", "validation"))
    example = example_input(model, input_shape, model_options, train.images.shape[1:], inputs)
    if step:
        options = replace(options, steps=steps_of(step, calibration(train, options.samples, options.seed)))
    try:
        result = compress(network, example, asked, train, held_out, options, folder=folder, progress=not as_json)
    except KeyboardInterrupt:
        typer.echo("secateur: interrupted; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    test = data.load(data_name, "test", root=data_dir)
    ratings = [evaluate(module, test, options.loss or "cross_entropy") for module in (network, result.model)]
    _show(result, folder, data_name, ratings, as_json)


def _show(result: Result, folder: Path, data_name: str, ratings: Sequence[Evaluation], as_json: bool) -> None:
    if as_json:
        record = {"folder": str(folder), **result.report.to_dict(), "compression": result.history.to_dict()}
        print(json.dumps({**record, "accuracy": [rating.accuracy for rating in ratings]}))
        return
    if warning := blindness(ratings[0]):
        print(warning)
    print(f"{result.history}\n\n{result.report}")
    print(on_test(ratings, data_name))
    print(f"written to {folder}")
