"""The commands that write files for runtimes, and measure there: here, and on a device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.networks import ModelName, Set, Shape, Weights, build_network, example_input, fitted_options
from secateur.cli.root import Json, app, options_of, print_record

if TYPE_CHECKING:
    from torch import nn

    from secateur.measure import Bench
    from secateur.types import ExampleInputs

__all__ = ["bench_", "export_"]

Pruned = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="A folder that `secateur prune` wrote; MODEL is the model before pruning."),
]
DataToFit = Annotated[
    str | None, typer.Option("--data", metavar="NAME", help="A data set by name; a named model is made to fit it.")
]
BatchSize = Annotated[int | None, typer.Option(help="Samples in the example; 1 unless --input-shape says otherwise.")]


@app.command(
    "export",
    epilog="""\b
Examples:
  secateur export resnet-18 --set input_size=32 --runtime openvino --out resnet.xml
  secateur export lenet-300-100 --data digits --pruned small --runtime executorch --out small.pte""",
)
def export_(
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write.")],
    runtime: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="onnxruntime, openvino, executorch, litert or ncnn; all but ncnn with -int8 behind it, too.",
        ),
    ] = "onnxruntime",
    weights: Weights = None,
    pruned: Pruned = None,
    data_name: DataToFit = None,
    input_shape: Shape = None,
    batch_size: BatchSize = None,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Take any number of samples.")] = False,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Write a model as a file for a runtime, once it was run there and compared with torch."""
    from secateur.runtimes import export

    before, example = _network(model, weights, data_name, input_shape, batch_size, options_of(set_))
    network = _loaded(pruned, before)
    exported = export(network, example, runtime, out, dynamic_batch=dynamic_batch)
    others = [str(out.with_suffix(suffix)) for suffix in exported.beside]
    record = {"file": str(out), "beside": others, "runtime": runtime, "bytes": exported.size}
    print_record({**record, "difference": exported.difference}, as_json)


@app.command(
    "bench",
    epilog="""\b
Examples:
  secateur bench resnet-18 --set input_size=32 --sparsity 0.5
  secateur bench lenet-300-100 --data digits --pruned small --runtime onnxruntime --runtime openvino
  secateur bench resnet-18 --set input_size=32 --sparsity 0.5 --bundle phone
  secateur bench resnet-18 --read phone/results.txt""",
)
def bench_(
    model: ModelName,
    pruned: Pruned = None,
    sparsity: Annotated[
        float, typer.Option(help="Without --pruned: the fraction of each layer's channels that is cut, by l2.")
    ] = 0.5,
    runtimes: Annotated[
        list[str] | None,
        typer.Option("--runtime", metavar="NAME", help="Where to measure; may be repeated. All that are installed."),
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(help="Numbers of threads; may be repeated. 1, and as many as there are cores.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Measure nothing: write a folder to carry to a device (bench.sh runs there)."
        ),
    ] = None,
    read: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measure nothing: show the results.txt of a bundle.")
    ] = None,
    memory: Annotated[
        bool, typer.Option(help="Whether each file is run in a process of its own, too, to see the memory it takes.")
    ] = True,
    repeats: Annotated[int, typer.Option(help="Passes that count.")] = 30,
    weights: Weights = None,
    data_name: DataToFit = None,
    input_shape: Shape = None,
    batch_size: BatchSize = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Measure a model before and after pruning in all runtimes: time, bytes, memory, and whether pruning made it faster."""
    from secateur import measure

    before, example = _network(model, weights, data_name, input_shape, batch_size, options_of(set_))
    if read:
        _show(measure.read_bench(read), as_json)
        return
    after = _loaded(pruned, before) if pruned else _cut(before, example, sparsity)
    if bundle:
        options: dict[str, Any] = {"threads": threads} if threads else {}
        folder = measure.bundle(before, after, example, bundle, runtimes=runtimes, repeats=repeats, **options)
        print_record({"folder": str(folder), "files": sorted(path.name for path in folder.iterdir())}, as_json)
        return
    _show(
        measure.bench(before, after, example, runtimes=runtimes, threads=threads, memory=memory, repeats=repeats),
        as_json,
    )


def _network(
    name: str,
    weights: Path | None,
    data_name: str | None,
    shape: str | None,
    batch_size: int | None,
    options: dict[str, Any],
) -> tuple[nn.Module, ExampleInputs]:
    """The model before pruning, and an example for it."""
    from secateur import data

    fitted = fitted_options(name, data_name, options)
    sizes = data.info(data_name).shape if data_name else None
    example = example_input(name, shape, fitted, sizes if ":" in name else None)
    network = build_network(name, weights, fitted)
    if batch_size is None:
        return network, example
    from secateur.checks import check_whole
    from secateur.trees import changed

    check_whole("the example inputs", batch_size=batch_size)

    return network, changed(example, lambda x: x.repeat(batch_size, *[1] * (x.ndim - 1)))


def _loaded(pruned: Path | None, before: nn.Module) -> nn.Module:
    from secateur.saving import load

    return load(pruned, before) if pruned else before


def _cut(network: nn.Module, example: ExampleInputs, sparsity: float) -> nn.Module:
    from secateur.pruning import prune

    return prune(network, example, "l2", sparsity=sparsity, latency=False).model


def _show(result: Bench, as_json: bool) -> None:
    print(json.dumps(result.to_dict()) if as_json else result)
