"""Two models side by side in every runtime that is installed: time, bytes and memory, before and after a cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from secateur import state
from secateur.calls import looking, usual
from secateur.checks import check_whole, in_one_line
from secateur.files import MALFORMED
from secateur.hints import from_plain
from secateur.measure.device_folder import FILE, SCRIPT, read_results, write_bundle
from secateur.measure.size import file_bytes, macs, parameters, peak_memory
from secateur.measure.speed import Spread, compare_latency, spread
from secateur.runtimes.base import Exported, Runtime
from secateur.runtimes.exporting import FileRuntime
from secateur.runtimes.inputs import with_batch_size
from secateur.runtimes.names import available, name_of, timer
from secateur.runtimes.timing import Prepared, in_turns
from secateur.state import split_inputs
from secateur.types import ExampleInputs, ExportError, FileError, InputError
from secateur.wrappers import check_module

__all__ = ["Bench", "BenchRow", "bench", "bundle", "read_bench"]

FASTER = 1.05
"""A cut model that is not so many times as fast as the whole one is not faster: machines are no more exact."""

BEFORE, AFTER = "before", "after"

Pair = tuple[float | None, float | None]


@dataclass(frozen=True)
class BenchRow:
    """Two models in one runtime, at one number of threads; each pair is before and after the cut.

    Attributes:
        runtime, threads: where they ran.
        seconds: the median time of one pass.
        speedup: before ÷ after within each turn, with its quartiles; None where they did not run in turns.
        bytes: of the files.
        memory: the most bytes that the process grew by to open and run the file; in eager PyTorch those of the
            activations. None where the system does not say.
        difference: how far the outputs of the exported models were from torch's.
        problem: why there is nothing else; empty where there is.
    """

    runtime: str
    threads: int
    seconds: Pair = (None, None)
    speedup: Spread | None = None
    bytes: Pair = (None, None)
    memory: Pair = (None, None)
    difference: Pair = (None, None)
    problem: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times as fast the cut model is."""
        if self.speedup is not None:
            return self.speedup.median
        before, after = self.seconds
        return None if before is None or not after else before / after

    @property
    def is_faster(self) -> bool:
        """Whether the cut is felt: by more than noise, in three turns of four."""
        certain = self.speedup is None or self.speedup.low > 1
        return self.ratio is not None and self.ratio >= FASTER and certain


@dataclass(frozen=True)
class Bench:
    """What `bench` measured.

    Attributes:
        macs, parameters: of one pass over the example, and of the models: before, after.
        rows: one a runtime and number of threads.
    """

    macs: tuple[int, int]
    parameters: tuple[int, int]
    rows: tuple[BenchRow, ...]

    @property
    def verdicts(self) -> list[str]:
        """Where the cut did not make the model faster, in plain words."""
        fewer = f"with {self.macs[0] / max(self.macs[1], 1):.2f} times fewer multiply–accumulates"
        slow = [row for row in self.rows if row.ratio is not None and not row.is_faster]
        words = [
            f"pruning did NOT speed it up in {row.runtime} at {_threads(row.threads)}: {row.ratio:.2f}× as fast {fewer}"
            for row in slow
        ]
        return words + [f"{row.runtime}: {row.problem}" for row in self.rows if row.problem]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        rows = [{**asdict(row), "ratio": row.ratio, "faster": row.is_faster} for row in self.rows]
        return {"macs": list(self.macs), "parameters": list(self.parameters), "rows": rows, "verdicts": self.verdicts}

    def __str__(self) -> str:
        head = f"MACs {self.macs[0]:,} → {self.macs[1]:,} (÷ {self.macs[0] / max(self.macs[1], 1):.2f}), parameters {self.parameters[0]:,} → {self.parameters[1]:,}"
        columns = [
            "runtime",
            "threads",
            "ms before",
            "ms after",
            "speedup",
            "KB before",
            "KB after",
            "peak KB before",
            "after",
        ]
        lines = [columns, *(_cells(row) for row in self.rows if not row.problem)]
        widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
        table = ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([head, "", *table, *([""] if self.verdicts else []), *self.verdicts])


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _cells(row: BenchRow) -> list[str]:
    def cell(value: float | None, scale: float, form: str) -> str:
        return "–" if value is None else format(value * scale, form)

    speedup = "–" if row.ratio is None else f"{row.ratio:.2f}"
    if row.speedup is not None:
        speedup += f" ({row.speedup.low:.2f}–{row.speedup.high:.2f})"
    pairs = [(row.seconds, 1e3, ".3f"), (row.bytes, 1e-3, ",.1f"), (row.memory, 1e-3, ",.0f")]
    before_after = [[cell(value, scale, form) for value in pair] for pair, scale, form in pairs]
    return [row.runtime, str(row.threads), *before_after[0], speedup, *before_after[1], *before_after[2]]


@usual
def bench(
    before: nn.Module,
    after: nn.Module,
    example_inputs: ExampleInputs,
    *,
    runtimes: Sequence[Runtime] | None = None,
    threads: Sequence[int] | None = None,
    batch_size: int | None = None,
    memory: bool = True,
    warmup: int = 5,
    repeats: int = 30,
) -> Bench:
    """Measure a model before and after a cut, side by side in several runtimes.

    Each model is exported once a runtime and compared with torch; then the two are timed in turns, at each number of
    threads. A runtime that does not take one of them has a row that says why.

    Args:
        before, after: the models.
        example_inputs: what both take.
        runtimes: their names, or runtimes; None takes all that are installed here.
        threads: numbers of threads; None takes 1 and as many as the machine has for this process.
        batch_size: samples a pass; None: the example's.
        memory: whether each file is opened and run in a process of its own, to see how much that takes.
        warmup, repeats: passes that do not count, and that do.

    Raises:
        MissingLibraryError: a runtime that was asked for is not installed.

    >>> import torch
    >>> model, small = nn.Linear(64, 512), nn.Linear(64, 8)
    >>> result = bench(model, small, torch.zeros(64, 64), runtimes=["eager"], threads=[1], repeats=9)
    >>> result.macs, len(result.rows)
    ((2097152, 32768), 1)
    """
    check_whole("bench", repeats=repeats)
    check_whole("bench", 0, warmup=warmup)
    for model in (before, after):
        check_module(model, "bench")
    example = with_batch_size(example_inputs, batch_size)
    counts = _thread_counts(threads)
    models = {BEFORE: before, AFTER: after}
    times: dict[str, Any] = {"warmup": warmup, "repeats": repeats}
    rows: list[BenchRow] = []
    for runtime in available() if runtimes is None else runtimes:
        clock = timer(runtime)
        if isinstance(clock, FileRuntime):
            rows += _rows(clock, name_of(runtime).partition(":")[0], models, example, counts, memory, times)
        else:
            rows += [_in_process(runtime, models, example, count, times) for count in counts]
    return Bench(*_sizes(models.values(), example), tuple(rows))


@usual
def bundle(
    before: nn.Module,
    after: nn.Module,
    example_inputs: ExampleInputs,
    folder: str | os.PathLike[str],
    *,
    runtimes: Sequence[Runtime] | None = None,
    threads: Sequence[int] = (1, 4),
    repeats: int = 50,
) -> Path:
    """Write a folder that measures a model before and after a cut on another machine, such as a telephone.

    ``sh bench.sh`` there, or ``sh bench.sh --adb`` here, writes ``results.txt`` into it, which `read_bench` reads.

    Args:
        before, after, example_inputs, runtimes, threads, repeats: as for `bench`.
        folder: where; made if need be.

    Raises:
        MissingLibraryError, ExportError: see `secateur.export`.
        InputError: none of the runtimes has files.
        FileError: it cannot be written.
    """
    models = {BEFORE: before, AFTER: after}
    exporters = [timer(runtime) for runtime in (available() if runtimes is None else runtimes)]
    able = [runtime for runtime in exporters if isinstance(runtime, FileRuntime)]
    if not able:
        raise InputError(
            "bundle: none of the runtimes has files; install one (pip install 'secateur[onnx]') and name it"
        )
    exported = {name: [runtime.export(model, example_inputs) for runtime in able] for name, model in models.items()}
    sizes = dict(zip(("macs", "parameters"), _sizes(models.values(), example_inputs), strict=True))
    return write_bundle(Path(folder), models, exported, example_inputs, threads=threads, repeats=repeats, notes=sizes)


@looking
def read_bench(file: str | os.PathLike[str]) -> Bench:
    """Return what a bundle measured on a device, read from its ``results.txt``, which lies in the bundle.

    Raises:
        FileError: it cannot be read, or holds no results.
    """
    notes, results = read_results(Path(file))
    try:
        return _read_bench(notes, results)
    except MALFORMED as error:
        raise FileError(
            f"{file} does not say what a bundle measures ({in_one_line(error)}); run bench.sh again, or write the bundle anew"
        ) from error


def _read_bench(notes: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Bench:
    by_row: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for result in results:
        # Of a runtime's own tool and Python the later one stands, which is the tool's.
        by_row.setdefault((result["runtime"], result["threads"]), {})[result["model"]] = result
    rows = [_read_row(runtime, threads, pair) for (runtime, threads), pair in by_row.items()]
    counts = {name: notes[name] for name in ("macs", "parameters")}
    return from_plain(Bench, {**counts, "rows": rows})


def _read_row(runtime: str, threads: int, results: Mapping[str, Mapping[str, Any]]) -> BenchRow:
    both = [results.get(name, {"error": "it was not measured"}) for name in (BEFORE, AFTER)]
    problems = [
        f"{name}: {result['error']}" for name, result in zip((BEFORE, AFTER), both, strict=True) if "error" in result
    ]
    if problems:
        return BenchRow(runtime, threads, problem="; ".join(problems))
    columns = {key: [both[0].get(key), both[1].get(key)] for key in ("seconds", "bytes", "memory", "difference")}
    return from_plain(BenchRow, {"runtime": runtime, "threads": threads, **columns})


def _sizes(models: Iterable[nn.Module], example: ExampleInputs) -> tuple[tuple[int, int], tuple[int, int]]:
    """The multiply-accumulates and the parameters of two models."""
    (first, second) = models
    counts = (parameters(first).total, parameters(second).total)
    return (macs(first, example), macs(second, example)), counts


def _thread_counts(threads: Sequence[int] | None) -> list[int]:
    if threads is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return sorted({1, cores})
    if not threads:
        raise InputError("bench: threads is empty; give at least one number, such as [1]")
    for count in threads:
        check_whole("bench", threads=count)
    return list(threads)


def _in_process(
    runtime: Runtime, models: Mapping[str, nn.Module], example: ExampleInputs, threads: int, times: Mapping[str, Any]
) -> BenchRow:
    """Models that run without a file: in eager PyTorch, or in a timer of the user's."""
    has_threads = hasattr(timer(runtime), "threads")
    compared = compare_latency(models, example, runtime=runtime, threads=threads if has_threads else None, **times)
    seconds = [compared.latencies[name].median for name in models]
    return BenchRow(
        name_of(runtime).partition(":")[0],
        threads,
        (seconds[0], seconds[1]),
        compared.speedups[AFTER],
        _pair(file_bytes, models.values()),
        _pair(lambda model: peak_memory(model, example), models.values()),
    )


def _rows(
    runtime: FileRuntime,
    name: str,
    models: Mapping[str, nn.Module],
    example: ExampleInputs,
    counts: Sequence[int],
    memory: bool,
    times: Mapping[str, Any],
) -> list[BenchRow]:
    """The rows of a runtime that has files."""
    try:
        exported = {key: runtime.export(model, example) for key, model in models.items()}
    except (ExportError, InputError) as error:
        return [BenchRow(name, count, problem=str(error)) for count in counts[:1]]
    sizes = _pair(lambda each: each.size, exported.values())
    apart = _pair(lambda each: each.difference, exported.values())
    rows = []
    for count in counts:
        with state.threads(count):
            seconds, speedup = _timed(replace(runtime, threads=count), exported, example, times)
        rows.append(BenchRow(name, count, seconds, speedup, sizes, (None, None), apart))
    if not memory:
        return rows
    grown = _grown(models, exported, example, counts)
    return [replace(row, memory=grown[row.threads]) for row in rows]


def _timed(
    runtime: FileRuntime, exported: Mapping[str, Exported], example: ExampleInputs, times: Mapping[str, Any]
) -> tuple[Pair, Spread]:
    ready = {}
    for name, export in exported.items():
        tensors = export.interface.flat(*split_inputs(example))
        ready[name] = Prepared(runtime.opened(export.parts).ready(tensors), 0.0, runtime.threads == 1)
    turns = in_turns(ready, **times)
    seconds = [spread(turns.wall[name])[0] for name in exported]
    return (seconds[0], seconds[1]), Spread(*spread(turns.ratios(AFTER)))


def _grown(
    models: Mapping[str, nn.Module], exported: Mapping[str, Exported], example: ExampleInputs, counts: Sequence[int]
) -> dict[int, Pair]:
    """How much a process of its own grows by as it opens and runs each file, by the number of threads."""
    peaks: dict[int, dict[str, float]] = {count: {} for count in counts}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for key, export in exported.items():  # one at a time, as what one leaves behind would help the next
            for count in counts:
                write_bundle(folder, {key: models[key]}, {key: [export]}, example, threads=[count], repeats=3)
                done = subprocess.run([sys.executable, folder / SCRIPT], capture_output=True, text=True)
                for line in done.stdout.splitlines():
                    if line.startswith("{") and (grown := json.loads(line).get("memory")) is not None:
                        peaks[count][key] = grown
                (folder / FILE).unlink()
    return {count: (by_model.get(BEFORE), by_model.get(AFTER)) for count, by_model in peaks.items()}


def _pair(measure: Callable[[Any], float], objects: Iterable[Any]) -> tuple[float, float]:
    first, second = (measure(each) for each in objects)
    return first, second
