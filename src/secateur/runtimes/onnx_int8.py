"""ONNX Runtime with whole numbers of 8 bits: a quarter of the bytes, and faster where the processor has instructions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.checks import check_number, check_whole
from secateur.files import require
from secateur.labelled import SampleBatch, Samples, batches, check_samples
from secateur.runtimes.base import Exported, Run
from secateur.runtimes.exporting import silent
from secateur.runtimes.fidelity import Fidelity
from secateur.runtimes.inputs import batch_size_of
from secateur.runtimes.onnx_runtime import EXTRA, OnnxRuntime, Session, feeds_of, open_session
from secateur.state import device_of, evaluating, split_inputs
from secateur.types import ExampleInputs, ExportError, InputError, SecateurError

__all__ = ["OnnxInt8"]

NAME = "onnxruntime-int8"
DYNAMIC = ("MatMul", "Gather", "LSTM", "Attention", "EmbedLayerNormalization")
"""What a dynamic file has in 8 bits: convolutions would be many times slower so."""


@dataclass(frozen=True)
class OnnxInt8:
    """Exports models to ONNX with weights of 8 bits, and times them in ONNX Runtime on the CPU.

    With `data` what flows between the layers is rounded, too, to ranges that the first samples led to (static: u8s8, a scale
    for each channel of a weight); without, each layer finds the range of its input as it runs (dynamic), which suits linear
    layers. The file is run and compared with torch before it is returned, on `data`: with labels it may lose no more than
    `points` of accuracy; without, a classifier's greatest outputs must agree; other outputs, and a dynamic file, may be a
    tenth of their size apart.

    Attributes:
        threads: of the CPU, within an op.
        data: what ranges are taken from, and what is compared; as `fit` takes it. None makes a dynamic file.
        samples: how many of them give the ranges.
        points: of a hundred, how much accuracy may be lost; one sample may always be.
        reduce_range: weights of 7 bits, for x86 processors without VNNI instructions, on which sums of 8 may overflow.
    """

    threads: int = 1
    data: Samples | None = field(default=None, repr=False)
    samples: int = 512
    points: float = 0.5
    reduce_range: bool = False

    def __post_init__(self) -> None:
        check_whole(self, threads=self.threads, samples=self.samples)
        check_number(self, "[0, 100]", points=self.points)
        if self.data is not None:
            check_samples(self.data, f"{NAME}: data")

    def __call__(self, model: nn.Module, example_inputs: ExampleInputs) -> Run:
        """Return what runs the exported model once, on the example; it was compared with torch before.

        Raises:
            MissingLibraryError, ExportError, InputError: see `secateur.export`.
        """
        exported = self.export(model, example_inputs)
        return exported.call.ready(exported.interface.flat(*split_inputs(example_inputs)))

    def export(self, model: nn.Module, example_inputs: ExampleInputs, *, dynamic_batch: bool = False) -> Exported:
        """Return the model in ONNX with 8-bit weights, once it was run and compared with torch; see `secateur.export`."""
        exact = OnnxRuntime(self.threads).export(model, example_inputs, dynamic_batch=dynamic_batch)
        size = batch_size_of(example_inputs)
        content = self._quantised(exact, size)
        exported = replace(exact, runtime=NAME, content=content, call=Session(open_session(content, self.threads)))
        samples = [SampleBatch(example_inputs)] if self.data is None else _batches(self.data, size)
        fidelity = Fidelity()
        with evaluating(model), torch.no_grad():
            for batch in samples:
                expected = batch.to(device_of(model)).run(model)
                fidelity.add(expected, batch.run(exported.run), batch.targets)
        fidelity.check(NAME, self.points)
        return replace(exported, difference=fidelity.relative)

    def on_one_thread(self, model: nn.Module) -> bool:
        """Whether all of the work is done by one thread of this process, so that its processor time is the time."""
        return self.threads == 1

    def _quantised(self, exact: Exported, size: int) -> bytes:
        """The file with 8-bit weights."""
        library = require("onnxruntime.quantization", EXTRA)
        with tempfile.TemporaryDirectory() as folder, silent():
            proto, target = _prepared(exact.content, Path(folder)), Path(folder) / "int8.onnx"
            weights = {"weight_type": library.QuantType.QInt8, "per_channel": True, "reduce_range": self.reduce_range}
            try:
                if self.data is None:
                    library.quantize_dynamic(proto, target, list(DYNAMIC), **weights)
                else:
                    reader = _CalibrationReader(self._feeds(exact, size))
                    library.quantize_static(proto, target, reader, activation_type=library.QuantType.QUInt8, **weights)
            except SecateurError:
                raise
            except Exception as error:
                raise ExportError(f"export: ONNX Runtime cannot quantise this model: {error}") from error
            content = target.read_bytes()
        _check_some(require("onnx", EXTRA).load_from_string(content))
        return content

    def _feeds(self, exact: Exported, size: int) -> Iterator[dict[str, Any]]:
        """What the file is called with, for the samples that give the ranges."""
        assert self.data is not None
        session, count = exact.call.session, 0  # type: ignore[attr-defined]
        for batch in _batches(self.data, size):
            yield feeds_of(session, exact.interface.flat(*split_inputs(batch.inputs)))
            count += len(batch)
            if count >= self.samples:
                return


def _batches(data: Samples, size: int) -> Iterator[SampleBatch]:
    """Samples in batches as large as the example, which a file may be fixed to; what is left over is left out.

    Raises:
        InputError: there are fewer samples than the example has.
    """
    count = 0
    for batch in batches(data, size, f"{NAME}: data"):
        for part in batch.split(size):
            if len(part) == size:
                count += 1
                yield part
    if not count:
        raise InputError(f"{NAME}: data hold fewer samples than the example, {size}; give more, or a smaller example")


def _prepared(content: bytes, folder: Path) -> Any:
    """The file with norms folded into convolutions, and with the shapes that the quantiser needs."""
    onnx, shapes = require("onnx", EXTRA), require("onnxruntime.quantization.shape_inference", EXTRA)
    proto = onnx.load_from_string(content)
    # The exporter notes the shapes of weights, too, which those that a quantiser turns round do not have.
    del proto.graph.value_info[:]
    # By file: of a model in memory it loses the weights.
    source, target = folder / "exact.onnx", folder / "prepared.onnx"
    source.write_bytes(proto.SerializeToString())
    try:
        shapes.quant_pre_process(source, target, skip_symbolic_shape=True)
        prepared = onnx.load(target)
        onnx.checker.check_model(prepared)
    except Exception as error:
        raise ExportError(f"export: ONNX Runtime cannot prepare this model for whole numbers: {error}") from error
    return prepared


def _check_some(proto: Any) -> None:
    kinds = {node.op_type for node in proto.graph.node}
    if not any("Quantize" in kind or "Integer" in kind for kind in kinds):
        raise ExportError(
            f"export: ONNX Runtime found nothing to quantise among {', '.join(sorted(kinds))}; export to 'onnxruntime'"
        )


@dataclass(frozen=True, eq=False)
class _CalibrationReader:
    """Hands samples to ONNX Runtime's quantiser, one batch after another."""

    feeds: Iterator[dict[str, Any]]

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)
