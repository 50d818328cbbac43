"""The command line: parses, calls the library, prints. Every command here is one library call that a script can make."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table as RichTable

from secateur import data, models
from secateur.criteria import CRITERIA
from secateur.lab import paths
from secateur.lab.blocks import Table
from secateur.lab.build import build_report
from secateur.lab.report import Report
from secateur.lab.run import run_study
from secateur.lab.store import Store
from secateur.measure import compare_latency, evaluate, file_bytes, latency, macs, parameters
from secateur.prune import prune
from secateur.saving import load as load_pruned
from secateur.saving import load_weights, read_report, save_weights
from secateur.studies import STUDIES
from secateur.studies import by_name as study_by_name
from secateur.train import fit
from secateur.types import FileError, InputError, SecateurError

__all__ = ["app", "main"]

app = typer.Typer(
    name="secateur",
    help="Find what a trained network does not need, cut it out for real, and show what the cut cost and gained.",
    epilog="Exit codes: 0 done, 1 something failed (one line on standard error says what and what to do), 2 wrong usage, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
studies = typer.Typer(
    help="Run a published experiment again, from training to report.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(studies, name="study")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output, for machines.")]
ModelName = Annotated[str, typer.Argument(help="A model by name (see `secateur list`), or package.module:factory.")]
DataName = Annotated[str, typer.Option("--data", help="A data set by name (see `secateur list`).")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="The folder with the data files; otherwise $SECATEUR_DATA, the system's package, the cache, a download.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of the model, as JSON (input_size=8); may be repeated."),
]
Seed = Annotated[int, typer.Option(help="Decides initial weights, batches and random scores.")]

screen = Console(stderr=True)


def _options(pairs: list[str] | None) -> dict[str, Any]:
    """KEY=VALUE pairs as a mapping; values are JSON where they can be, else text."""
    found: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--set {pair!r}: write KEY=VALUE, such as input_size=8")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _print(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(record))
        return
    for name, value in record.items():
        print(f"{name:<20}{_words(value)}")


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return " ".join(_words(v) for v in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the models, data sets, criteria and studies that are known by name."""
    known = {
        "models": models.names(),
        "data": data.names(),
        "criteria": sorted(CRITERIA),
        "studies": sorted(STUDIES),
    }
    if as_json:
        print(json.dumps(known))
    else:
        for what, names in known.items():
            print(f"{what + ':':<10}{', '.join(names)}")


@app.command()
def train(
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", help="Where to write the weights (safetensors).")],
    data_name: DataName = "digits",
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Samples a step.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    optimizer: Annotated[str, typer.Option(help="sgd, adam, adamw or rmsprop.")] = "adam",
    validation: Annotated[
        float, typer.Option(help="Fraction of the training data held out; the best epoch is chosen on it.")
    ] = 0.1,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better validation loss.")
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
    options = _options(set_)
    held: dict[str, Any] = {"root": data_dir, "validation": validation, "seed": seed}
    network = models.build(model, seed=seed, **options)
    checkpoint = out.with_name(out.name + ".checkpoint")
    history = fit(
        network,
        data.load(data_name, "train", **held),
        data.load(data_name, "validation", **held) if validation else None,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        optimizer=optimizer,
        patience=patience,
        seed=seed,
        checkpoint=checkpoint,
        progress=not as_json,
    )
    save_weights(out, network)
    checkpoint.unlink(missing_ok=True)
    rated = evaluate(network, data.load(data_name, "test", root=data_dir))
    record = {
        "weights": str(out),
        "best_epoch": history.best_epoch,
        "test_accuracy": rated.accuracy,
        "test_loss": rated.loss,
    }
    _print({**record, "history": history.to_dicts()} if as_json else record, as_json)


@app.command("prune")
def prune_(
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", help="The folder to write the pruned model to.")],
    weights: Annotated[
        Path | None, typer.Option(help="The trained weights (safetensors); without them the model is random.")
    ] = None,
    criterion: Annotated[str, typer.Option(help="What to score by (see `secateur list`).")] = "l2",
    sparsity: Annotated[float, typer.Option(help="The fraction of units to remove, 0 to 1.")] = 0.5,
    unit: Annotated[
        str, typer.Option(help="channels (neurons and filters are cut out) or weights (set to zero).")
    ] = "channels",
    scope: Annotated[str, typer.Option(help="global (all units ranked together) or layer (within each).")] = "global",
    ignore: Annotated[
        list[str] | None, typer.Option(help="A site to leave whole, by name or pattern; may be repeated.")
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="The shape of the example input, such as 1,3,224,224; known for named models.")
    ] = None,
    data_name: Annotated[
        str | None, typer.Option("--data", help="Rate the model on this data set's test split before and after.")
    ] = None,
    data_dir: DataDir = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Prune a model, verify and measure the result, and write it to a folder that `evaluate --pruned` reads."""
    options = _options(set_)
    network = _network(model, weights, options)
    example = _example(model, input_shape, options)
    result = prune(network, example, criterion, sparsity, unit=unit, scope=scope, ignore=ignore or ())  # type: ignore[arg-type]
    result.save(out)
    record: dict[str, Any] = {"folder": str(out), **result.report.to_dict()}
    rated = {}
    if data_name:
        test = data.load(data_name, "test", root=data_dir)
        rated = {"accuracy": (evaluate(network, test).accuracy, evaluate(result.model, test).accuracy)}
    if as_json:
        print(json.dumps({**record, **rated}))
        return
    print(result.report)
    if rated:
        print(
            f"{'accuracy':<11}{rated['accuracy'][0]:>14.4f} → {rated['accuracy'][1]:>14.4f}     (test set of {data_name})"
        )
    print(f"written to {out}")


@app.command("evaluate")
def evaluate_(
    model: ModelName,
    weights: Annotated[Path | None, typer.Option(help="Trained weights (safetensors).")] = None,
    pruned: Annotated[
        Path | None, typer.Option(help="A folder that `secateur prune` wrote; MODEL is the model before pruning.")
    ] = None,
    data_name: DataName = "digits",
    data_dir: DataDir = None,
    batch_size: Annotated[int, typer.Option(help="The batch size at which latency is measured.")] = 1,
    threads: Annotated[int, typer.Option(help="The number of threads at which latency is measured.")] = 1,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Measure a model: loss, accuracy and per-class accuracy on test data, parameters, bytes, MACs, latency."""
    if weights and pruned:
        raise InputError("give --weights or --pruned, not both: a pruned folder holds its own weights")
    options = _options(set_)
    network = _network(model, weights, options)
    example = _example(model, None, options)
    before = network
    if pruned:
        network = load_pruned(pruned, network)
    rated = evaluate(network, data.load(data_name, "test", root=data_dir))
    count = parameters(network)
    time = latency(network, example, batch_size=batch_size, threads=threads)
    record: dict[str, Any] = {
        "loss": rated.loss,
        "accuracy": rated.accuracy,
        "class_accuracy": list(rated.class_accuracy),
        "parameters": count.total,
        "nonzero": count.nonzero,
        "bytes": file_bytes(network),
        "macs": macs(network, example),
        "latency_ms": 1000 * time.median,
        "latency_quartiles_ms": [1000 * time.low, 1000 * time.high],
    }
    if pruned:
        both = compare_latency({"before": before, "after": network}, example, batch_size=batch_size, threads=threads)
        record |= {"speedup": both.speedups["after"].median, "pruned_by": read_report(pruned)["criterion"]}
    _print(record, as_json)


def _network(name: str, weights: Path | None, options: dict[str, Any]) -> torch.nn.Module:
    network = models.build(name, seed=0, **options)
    if weights:
        load_weights(weights, network)
    return network


def _example(name: str, shape: str | None, options: dict[str, Any]) -> torch.Tensor:
    if shape:
        try:
            sizes = [int(s) for s in shape.split(",")]
            return torch.randn(sizes, generator=torch.Generator().manual_seed(0))
        except (ValueError, RuntimeError):
            raise InputError(f"--input-shape {shape!r}: write sizes with commas, such as 1,3,224,224") from None
    known = models.input_shape(name, **options)
    return torch.randn(1, *known, generator=torch.Generator().manual_seed(0))


@studies.command("list")
def study_list(as_json: Json = False) -> None:
    """List the studies with what each compares."""
    if as_json:
        print(
            json.dumps(
                [
                    {"name": s.name, "title": s.title, "source": str(s.source or ""), "summary": s.summary}
                    for s in STUDIES.values()
                ]
            )
        )
        return
    for study in STUDIES.values():
        print(f"{study.name}\n    {study.summary}" + (f"\n    After {study.source}." if study.source else ""))


@studies.command("run")
def study_run(
    name: Annotated[str, typer.Argument(help="The study (see `secateur study list`).")],
    seeds: Annotated[int | None, typer.Option(help="How many networks to train, with seeds 0, 1, …")] = None,
    data_dir: DataDir = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Another option of the study, as JSON (epochs=5); may be repeated."
        ),
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Where results are kept; runs/NAME by default.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar and no table.")] = False,
    as_json: Json = False,
) -> None:
    """Run a study and write its report; what is finished is never computed twice, so a stopped run goes on."""
    study = study_by_name(name)
    options = _study_options(study.defaults, seeds, data_dir, set_)
    place = Store(store or paths.store_dir(name))
    summary = run_study(study, place, options, progress=not quiet and not as_json)
    if not summary.interrupted:
        _write_report(name, place, options, quiet, as_json, str(summary))
    else:
        screen.print(f"interrupted: {summary}; the same command goes on from here", markup=False)
    raise typer.Exit(summary.exit_code)


@app.command("report")
def report_(
    name: Annotated[str, typer.Argument(help="The study whose results to show.")],
    seeds: Annotated[int | None, typer.Option(help="As in `study run`.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As in `study run`.")] = None,
    store: Annotated[Path | None, typer.Option(help="Where the results are; runs/NAME by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write a study's report again from the results that are there, computing nothing."""
    study = study_by_name(name)
    place = Store(store or paths.store_dir(name), create=False)
    _write_report(name, place, _study_options(study.defaults, seeds, None, set_), False, as_json, "")


def _study_options(defaults: Any, seeds: int | None, data_dir: Path | None, set_: list[str] | None) -> dict[str, Any]:
    options = _options(set_)
    if seeds is not None:
        if seeds < 1:
            raise InputError(f"--seeds {seeds}: give 1 or more")
        options["seeds"] = seeds
    if data_dir is not None and "data_dir" in defaults:
        options["data_dir"] = str(data_dir)
    return options


def _write_report(name: str, store: Store, options: dict[str, Any], quiet: bool, as_json: bool, done: str) -> None:
    study = study_by_name(name)
    report = build_report(study, store, options)
    page = report.write(paths.report_dir(store.path))
    if as_json:
        print(json.dumps({"report": str(page), "summary": list(report.summary), "run": done}))
        return
    if not quiet:
        _show(report)
        if done:
            screen.print(done, markup=False)
    print(f"report: {page.resolve()}")


def _show(report: Report) -> None:
    console = Console()
    for paragraph in report.summary:
        console.print(paragraph, markup=False, highlight=False)
    overview = next((b for b in report.blocks() if isinstance(b, Table) and b.name == "overview"), None)
    if overview is not None:
        shown = RichTable(title=overview.caption, title_justify="left", box=None, header_style="bold")
        for at, column in enumerate(overview.columns):
            shown.add_column(column.heading, justify="right" if overview.is_number(at) else "left", no_wrap=at == 0)
        for row in overview.rows:
            shown.add_row(*(c.text(v) for c, v in zip(overview.columns, row, strict=True)))
        console.print(shown)


def main() -> None:
    """Run the command line; one clear line for every error that is ours, and no traceback."""
    try:
        app()
    except SecateurError as error:
        print(f"secateur: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("secateur: interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        print(f"secateur: {FileError(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
