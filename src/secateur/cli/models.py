"""The commands that train, prune and measure one model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.derived import parsed, takes_options
from secateur.cli.language import prune_on_text
from secateur.cli.networks import (
    DataName,
    Inputs,
    LossName,
    MetricName,
    ModelName,
    Set,
    Shape,
    Weights,
    blindness,
    build_network,
    example_input,
    fitted_options,
    is_of_transformers,
    write_pruned,
)
from secateur.cli.root import DataDir, Json, app, in_json, options_of, print_record
from secateur.pruning import PruneOptions

if TYPE_CHECKING:
    from torch import nn

    from secateur.data import Split
    from secateur.measure import Evaluation
    from secateur.types import ExampleInputs

__all__ = ["evaluate_", "inspect_", "list_", "on_test", "prune_", "train"]

Seed = Annotated[int, typer.Option(help="Decides initial weights, batches and random scores.")]


@app.command(
    "list",
    epilog="""\b
Example:
  secateur list --json""",
)
def list_(as_json: Json = False) -> None:
    """List all that has a name: models, initialisation schemes, data, criteria, studies."""
    from secateur import criteria, data, models
    from secateur.studies import STUDIES

    names_by_kind = {
        "models": models.names(),
        "schemes": models.schemes(),
        "data": data.names(),
        "criteria": criteria.names(),
        "studies": sorted(STUDIES),
    }
    if as_json:
        print(json.dumps(names_by_kind))
    else:
        for kind, names in names_by_kind.items():
            print(f"{kind + ':':<10}{', '.join(names)}")


@app.command(
    epilog="""\b
Example:
  secateur train lenet-300-100 --data digits --epochs 20 --out lenet.safetensors"""
)
def train(
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the weights (safetensors).")],
    data_name: DataName = "digits",
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Samples a step.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    optimizer: Annotated[str, typer.Option(metavar="NAME", help="sgd, adam, adamw or rmsprop.")] = "adam",
    loss: LossName = "cross_entropy",
    validation: Annotated[
        float, typer.Option(help="Fraction of the training data held out; the best epoch is chosen on it.")
    ] = 0.1,
    patience: Annotated[
        int | None, typer.Option(metavar="EPOCHS", help="Stop after so many epochs without a better validation loss.")
    ] = None,
    seed: Seed = 0,
    data_dir: DataDir = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Train a model and write the weights of its best epoch.

    A run that is stopped (Ctrl-C, kill) goes on where it was when the same command is given again: a checkpoint lies
    beside OUT until training is done.
    """
    from secateur import data, models
    from secateur.measure import evaluate
    from secateur.saving import save_weights
    from secateur.train import fit

    split_options: dict[str, Any] = {"root": data_dir, "validation": validation, "seed": seed}
    network = models.build(model, seed=seed, **fitted_options(model, data_name, options_of(set_)))
    checkpoint = out.with_name(out.name + ".checkpoint")
    try:
        history = fit(
            network,
            data.load(data_name, "train", **split_options),
            data.load(data_name, "validation", **split_options) if validation else None,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            optimizer=optimizer,
            loss=loss,
            patience=patience,
            seed=seed,
            checkpoint=checkpoint,
            progress=not as_json,
        )
    except KeyboardInterrupt:
        typer.echo("secateur: interrupted; the same command goes on from the last finished epoch", err=True)
        raise typer.Exit(130) from None
    save_weights(out, network)
    checkpoint.unlink(missing_ok=True)
    evaluation = evaluate(network, data.load(data_name, "test", root=data_dir), loss)
    record = {
        "weights": str(out),
        "best_epoch": history.best_epoch,
        "test_accuracy": evaluation.accuracy,
        "test_loss": evaluation.loss,
    }
    if not as_json and (warning := blindness(evaluation, "more --epochs, another --lr or another --seed")):
        print(warning)
    print_record({**record, "history": history.to_dicts()} if as_json else record, as_json)


@app.command(
    "prune",
    epilog="""\b
Examples:
  secateur prune lenet-300-100 --data digits --weights lenet.safetensors --out small
  secateur prune lenet-300-100 --data digits --weights lenet.safetensors --criterion loss-change --out small
  secateur prune torchvision.models:resnet18 --input-shape 1,3,224,224 --out small
  secateur prune hf:path/to/llama --sparsity 0.25 --scope layer --out small
  secateur prune hf:path/to/llama --sparsity 0.25 --text book.txt --recover --out small""",
)
@takes_options(PruneOptions)
def prune_(
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The folder to write the pruned model to.")],
    weights: Weights = None,
    data_name: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME",
            help="The data set to look at, if the criterion does, and to rate on (test split); it fits a named model.",
        ),
    ] = None,
    images: Annotated[
        int,
        typer.Option(min=1, help="How many training images a criterion, solver or repair looks at, drawn at random."),
    ] = 1000,
    input_shape: Shape = None,
    inputs: Inputs = None,
    data_dir: DataDir = None,
    set_: Set = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With hf:PATH: a file of text. The MLPs are cut block by block by what they do on it, and repaired.",
        ),
    ] = None,
    recover: Annotated[
        bool, typer.Option("--recover", help="With --text: train the cut model on the uncut one's answers to the text.")
    ] = False,
    as_json: Json = False,
    **chosen: Any,
) -> None:
    """Prune a model, verify and measure the result.

    It is written to a folder that `evaluate --pruned` and `secateur.load` read; that of a model of transformers
    (hf:PATH) is read by plain `from_pretrained`.
    """
    from secateur import data
    from secateur.measure import evaluate
    from secateur.pruning import prune
    from secateur.types import InputError

    if recover and text is None:
        raise InputError("--recover trains on text: name a file with --text")
    model_options = fitted_options(model, data_name, options_of(set_))
    network = build_network(model, weights, model_options)
    if text is not None:
        unread = {"--data": data_name, "--input-shape": input_shape, "--input": inputs, "--data-dir": data_dir}
        if given := next((option for option, value in unread.items() if value), None):
            raise InputError(f"{given} does not go with --text, which is all that is looked at; leave one of them out")
        prune_on_text(model, network, text, parsed(chosen, PruneOptions), out, recover=recover, as_json=as_json)
        return
    test = data.load(data_name, "test", root=data_dir) if data_name else None
    example = example_input(
        model, input_shape, model_options, None if test is None else test.images.shape[1:], inputs, network
    )
    options = PruneOptions(**parsed(chosen, PruneOptions))
    result = prune(network, example, options=options, data=_samples(options, data_name, data_dir, images))
    write_pruned(model, result, out)
    ratings = (
        [] if test is None else [evaluate(m, test, options.loss or "cross_entropy") for m in (network, result.model)]
    )
    if as_json:
        record = {"folder": str(out), **result.report.to_dict()}
        print(in_json({**record, "accuracy": [rating.accuracy for rating in ratings]} if ratings else record))
        return
    if ratings and (warning := blindness(ratings[0])):
        print(warning)
    print(result.report)
    if ratings:
        print(on_test(ratings, data_name))
    print(f"written to {out}")


def on_test(ratings: Sequence[Evaluation], data_name: str | None) -> str:
    """Return a line with the accuracy before and after, or the loss where there are no classes."""
    name = "loss" if isnan(ratings[0].accuracy) else "accuracy"
    before, after = (getattr(rating, name) for rating in ratings)
    return f"{name:<11}{before:>14.4f} → {after:>14.4f}     (test set of {data_name})"


@app.command(
    "inspect",
    epilog="""\b
Examples:
  secateur inspect lenet-300-100
  secateur inspect resnet-18 --set input_size=32 --svg resnet.svg""",
)
def inspect_(
    model: ModelName,
    blocks: Annotated[bool, typer.Option("--blocks", help="Show whole blocks that can be left out instead.")] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a picture of what is tied to what.")] = None,
    input_shape: Shape = None,
    inputs: Inputs = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Show what can be cut out of a model, what is tied to it, and what is left whole and why."""
    from secateur import structure
    from secateur.files import write_text
    from secateur.pruning.configured import without_cache
    from secateur.types import InputError

    if blocks and svg:
        raise InputError("--svg draws channels; leave out --blocks")
    options = options_of(set_)
    network = build_network(model, None, options)
    example = without_cache(network, example_input(model, input_shape, options, None, inputs, network))
    sites = structure.blocks(network, example) if blocks else structure.channels(network, example)
    if svg:
        write_text(svg, structure.to_svg(sites))
    print(json.dumps(structure.to_dict(sites)) if as_json else structure.to_text(sites))


@app.command(
    "evaluate",
    epilog="""\b
Examples:
  secateur evaluate lenet-300-100 --data digits --weights lenet.safetensors
  secateur evaluate lenet-300-100 --data digits --pruned small --json""",
)
def evaluate_(
    model: ModelName,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Trained weights (safetensors).")] = None,
    pruned: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A folder that `secateur prune` wrote; MODEL is the model before pruning."),
    ] = None,
    input_shape: Shape = None,
    inputs: Inputs = None,
    data_name: Annotated[
        str | None,
        typer.Option("--data", metavar="NAME", help="A data set by name; digits; it fits a named model."),
    ] = None,
    data_dir: DataDir = None,
    batch_size: Annotated[int, typer.Option(help="The batch size at which latency is measured.")] = 1,
    runtime: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Where latency is measured: eager, onnxruntime, openvino, executorch, litert or ncnn."
        ),
    ] = "eager",
    threads: Annotated[
        int | None,
        typer.Option(help="The number of threads at which latency is measured; 1 unless the runtime says more."),
    ] = None,
    loss: LossName = "cross_entropy",
    metric: MetricName = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Measure a model: accuracy, size, MACs and latency.

    Loss, accuracy and per-class accuracy are those on the test data; latency is the median with its quartiles.
    """
    from secateur import data
    from secateur.measure import evaluate, file_bytes, latency, macs, parameters
    from secateur.saving import load
    from secateur.types import InputError

    if weights and pruned:
        raise InputError("give --weights or --pruned, not both: a pruned folder holds its own weights")
    if data_name is None and is_of_transformers(model):
        raise InputError(
            f"evaluate rates answers to labelled pictures, and {model} is of transformers: name a data set with --data; a "
            "language model is measured on text, by secateur.measure.perplexity"
        )
    data_name = data_name or "digits"
    options = fitted_options(model, data_name, options_of(set_))
    before = build_network(model, weights, options)
    network = load(pruned, before) if pruned else before
    test = data.load(data_name, "test", root=data_dir)
    example = example_input(model, input_shape, options, test.images.shape[1:], inputs)
    evaluation = evaluate(network, test, loss, metric=metric)
    count = parameters(network)
    ways: dict[str, Any] = {"runtime": runtime, "batch_size": batch_size, "threads": threads}
    time = latency(network, example, **ways)
    record: dict[str, Any] = {
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy,
        "class_accuracy": list(evaluation.class_accuracy),
        **({} if metric is None else {"metric": evaluation.metric}),
        "parameters": count.total,
        "nonzero": count.nonzero,
        "bytes": file_bytes(network),
        "macs": macs(network, example),
        "latency_ms": 1000 * time.median,
        "latency_quartiles_ms": [1000 * time.low, 1000 * time.high],
    }
    if pruned:
        record |= _against(before, network, example, ways, pruned)
    if not as_json and (warning := blindness(evaluation)):
        print(warning)
    print_record(record, as_json)


def _against(
    before: nn.Module, after: nn.Module, example: ExampleInputs, ways: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """How much faster a pruned model is than the one it was made of, and what it was pruned by."""
    from secateur.measure import compare_latency
    from secateur.result import Result

    both = compare_latency({"before": before, "after": after}, example, **ways)
    return {"speedup": both.speedups["after"].median, "pruned_by": Result.read_report(folder)["criterion"]}


def _samples(options: PruneOptions, data_name: str | None, data_dir: Path | None, count: int) -> Split | None:
    """The training images that a criterion, a solver or a repair looks at; None where nothing does."""
    import torch

    from secateur import criteria, data
    from secateur.types import InputError

    needs = {
        f"--criterion {options.criterion}": isinstance(options.criterion, str)
        and criteria.entry(options.criterion).needs_data,
        f"--solver {options.solver}": options.solver is not None,
        "--repair": bool(options.repairs),
    }
    asking = next((option for option, needed in needs.items() if needed), None)
    if asking is None and (data_name is None or options.criterion is not None):
        return None
    if data_name is None:
        raise InputError(f"{asking} looks at images: name a data set with --data")
    train = data.load(data_name, "train", root=data_dir)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    return train.subset(order[:count])
