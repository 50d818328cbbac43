"""What runtimes with whole numbers of 8 bits share: ranges from data, and a comparison by what the model is for."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.checks import check_number, check_whole
from secateur.labelled import SampleBatch, Samples, batches, check_samples
from secateur.runtimes.base import Callee, Exported
from secateur.runtimes.exporting import FileRuntime, Inputs
from secateur.runtimes.fidelity import Fidelity
from secateur.runtimes.inputs import batch_size_of
from secateur.runtimes.interface import Interface
from secateur.state import device_of, split_inputs
from secateur.types import ExampleInputs, ExportError, InputError

__all__ = ["Int8", "nothing_to_quantise"]


@dataclass(frozen=True)
class Int8(FileRuntime, ABC):
    """A runtime that computes with whole numbers of 8 bits. A new one says how it writes files.

    With `data` what flows between the layers is rounded, too, to ranges that the first samples led to (static); without,
    there are no ranges, and what is done then is the runtime's (dynamic, or weights alone). The file is run and compared with
    torch before it is returned, on `data`: with labels it may lose no more than `points` of accuracy; without, a
    classifier's greatest outputs must agree; other outputs, and a file without data, may be a tenth of their size apart.

    Attributes:
        threads: of the CPU, within an op.
        data: what ranges are taken from, and what is compared; as `fit` takes it.
        samples: how many of them give the ranges.
        points: of a hundred, how much accuracy may be lost; one sample may always be.
    """

    data: Samples | None = field(default=None, repr=False)
    samples: int = 512
    points: float = 0.5

    exact: ClassVar[type[FileRuntime]]
    """The same runtime in floating point."""

    def __post_init__(self) -> None:
        check_whole(self, threads=self.threads, samples=self.samples)
        check_number(self, "[0, 100]", points=self.points)
        if self.data is not None:
            check_samples(self.data, f"{self.name}: data")

    def opened(self, parts: Mapping[str, bytes]) -> Callee:
        """Open the files as those in floating point are."""
        return self.exact(self.threads).opened(parts)

    def compared(
        self, model: nn.Module, exported: Exported, example_inputs: ExampleInputs, example: ExampleInputs
    ) -> float:
        """Return how far the outputs are from torch's, once they were compared on the data."""
        given, fidelity = SampleBatch(example_inputs), Fidelity()
        data = [given] if self.data is None else self._batches(batch_size_of(example_inputs))
        with torch.no_grad():
            for batch in data:
                expected = batch.to(device_of(model)).run(model)
                fidelity.add(expected, batch.run(exported.run), batch.targets)
        fidelity.check(self.name, self.points)
        return fidelity.relative

    def calibration(self, interface: Interface, inputs: Inputs) -> Iterator[list[Tensor]]:
        """Yield the samples that give the ranges as the flat tensors of a model, in batches as large as its inputs."""
        count = 0
        for batch in self._batches(batch_size_of(tuple(interface.flat(*inputs)))):
            yield interface.flat(*split_inputs(batch.inputs))
            count += len(batch)
            if count >= self.samples:
                return

    def _batches(self, size: int) -> Iterator[SampleBatch]:
        """The data in batches as large as the example, which a file may be fixed to; what is left over is left out.

        Raises:
            InputError: there are fewer samples than the example has.
        """
        assert self.data is not None
        count = 0
        for batch in batches(self.data, size, f"{self.name}: data"):
            for part in batch.split(size):
                if len(part) == size:
                    count += 1
                    yield part
        if not count:
            raise InputError(
                f"{self.name}: data hold fewer samples than the example, {size}; give more, or a smaller example"
            )


def nothing_to_quantise(runtime: str, exact: str, kinds: set[str]) -> ExportError:
    """Return the error of a model in which a runtime has nothing to put into 8 bits: it names the ops that it has.

    >>> str(nothing_to_quantise("LiteRT", "litert", {"SOFTMAX"}))
    "export: LiteRT found nothing to quantise among SOFTMAX; export to 'litert'"
    """
    return ExportError(
        f"export: {runtime} found nothing to quantise among {', '.join(sorted(kinds))}; export to '{exact}'"
    )
