"""What a finished compression leaves in its folder: the model, the file for the runtime, and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.compression.combination import Combination
from secateur.compression.history import Compression
from secateur.compression.journal import Journal
from secateur.compression.options import CompressOptions
from secateur.files import from_json, read_text, write_text
from secateur.result import Result
from secateur.runtimes import Exported, export, timer
from secateur.runtimes.base import Exporter

__all__ = ["MODEL", "delivered"]

MODEL, REPORT, TEXT = "model", "report.json", "report.txt"


HURRIED: Mapping[str, int] = {"warmup": 1, "repeats": 3}
"""How often both models are run where the time is up."""


def delivered(result: Result, journal: Journal[Any], options: CompressOptions, *, hurried: bool) -> Result:
    """Return the result with its latency in the runtime, after all was written that is not there yet.

    Args:
        result: the outcome.
        journal, options: of the compression.
        hurried: time the models a few times only.

    Raises:
        FileError: a file cannot be written.
        ExportError: the runtime computes something else than torch.
    """
    if not journal.latency:
        if hurried and not result.edits:
            journal.latency = [journal.baseline["latency"]] * 2  # one model is as fast as the same one
        else:
            timed = result.timed(options.where, **HURRIED if hurried else {})
            assert timed.latency is not None
            journal.latency = [*timed.latency]
        journal.write()
    before, after = journal.latency
    result = replace(result, latency=(before, after), runtime=result.history.runtime)
    if journal.folder is not None:
        _write(journal.folder, result, options)
    return result


def _write(folder: Path, result: Result, options: CompressOptions) -> None:
    history: Compression | Combination = result.history
    facts = json.loads(json.dumps({"compression": history.to_dict()}))
    if _recorded(folder / REPORT).get("compression") == facts["compression"]:
        return
    result.save(folder / MODEL)
    exported = _exported(folder, result, options)
    lines = [str(history), "", str(result.report)]
    if exported is not None and exported.file is not None:
        facts["file"] = {
            "name": exported.file.name,
            "runtime": history.runtime,
            "bytes": exported.size,
            "difference": exported.difference,
        }
        lines.append(f"{exported.file.name}: differs from torch by {exported.difference:.1e} in {exported.runtime}")
    else:
        lines.append(
            f"no file for the runtime: {history.runtime} has none; secateur.export(result.model, example, 'onnxruntime', "
            "'model.onnx') writes one"
        )
    write_text(folder / TEXT, "\n".join(lines) + "\n")
    # Last, as it stands for all of them.
    write_text(folder / REPORT, json.dumps({**facts, "report": result.report.to_dict()}, indent=1))


def _recorded(file: Path) -> dict[str, Any]:
    try:
        return dict(from_json(read_text(file)))
    except (OSError, ValueError, TypeError):
        return {}


def _exported(folder: Path, result: Result, options: CompressOptions) -> Exported | None:
    """The file for the runtime; None where the runtime has none."""
    runtime: object = timer(options.where)
    if not isinstance(runtime, Exporter) or result.inputs is None:
        return None
    exported = export(result.model, result.inputs, options.where)
    return replace(exported, file=exported.save(folder / f"{MODEL}{exported.suffix}"))
