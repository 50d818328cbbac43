"""One training in several processes, one a device, that share every batch: torch's DDP, set up by Lightning Fabric."""

from __future__ import annotations

import json
import logging
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

import secateur.types
from secateur.checks import check_whole, in_one_line
from secateur.data.streaming import Stream
from secateur.files import from_json, in_order, read_tensors, require, write_bytes, write_text
from secateur.labelled import SampleBatch, Samples, batches, spans
from secateur.randomness import seeded
from secateur.rate.tally import Tally
from secateur.state import device_of, modes_kept, restore, snapshot, threads
from secateur.train.history import EpochRecord, History
from secateur.types import InputError, SecateurError

__all__ = ["ALONE", "Portion", "Ranks", "check_devices", "train_on"]

FABRIC = "lightning_fabric"
_RESULT, _ERROR = "result.safetensors", "error.json"


@dataclass(frozen=True, eq=False)
class Portion:
    """What one process trains on of a batch.

    Attributes:
        batch: its samples.
        whole: how many samples the batch has in all processes.
        weight: for how many of them this mean loss stands, so that the mean over the processes is that of the batch.
        counted: whether its losses and answers are counted here, and not by another process that computes the same.
    """

    batch: SampleBatch
    whole: int
    weight: int
    counted: bool = True


@dataclass(frozen=True, eq=False)
class Ranks:
    """Which of the processes this is that train one model together.

    Attributes:
        rank: from 0; the first alone validates and writes.
        count: how many there are.
        wrap: makes the module whose gradients are the mean over the processes.
    """

    rank: int = 0
    count: int = 1
    wrap: Callable[[nn.Module], nn.Module] | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def rows(self, size: int) -> slice:
        """Return which samples of a batch this process takes; all, where a share would be of one sample.

        >>> Ranks(1, 2).rows(5), Ranks(1, 2).rows(3)
        (slice(2, 5, None), slice(None, None, None))
        """
        if size < 2 * self.count:
            return slice(None)
        return slice(size * self.rank // self.count, size * (self.rank + 1) // self.count)

    def portions(self, data: Samples, size: int, order: Generator) -> Iterator[Portion]:
        """Yield this process's portion of each batch of a pass that is the same in all processes."""
        if isinstance(data, Stream) and self.count > 1:
            # Nobody reads what another trains on.
            mine = batches(_Rows(data, self), size, "training data", order)
            for (start, stop), batch in zip(spans(len(data), size), mine, strict=True):
                yield self._portion(batch, stop - start)
            return
        for batch in batches(data, size, "training data", order):
            yield self._portion(batch.rows(self.rows(len(batch))) if self.count > 1 else batch, len(batch))

    def _portion(self, batch: SampleBatch, whole: int) -> Portion:
        if self.count == 1 or whole < 2 * self.count:
            return Portion(batch, whole, whole, self.is_first)
        return Portion(batch, whole, len(batch) * self.count)

    def replica(self, model: nn.Module) -> nn.Module | None:
        """Return the model as it is called in training, of the parameters that it has now; None where it is alone."""
        return None if self.wrap is None else self.wrap(model)

    @contextmanager
    def chance(self, device: torch.device, seed: int, step: int) -> Iterator[None]:
        """Give each process its own random numbers (dropout) for a step, and put back those that all have in common."""
        # Of seed, step and rank alone, so that a resumed training draws the same.
        with nullcontext() if self.count == 1 else seeded(device, hash((seed, step, self.rank)) % 2**62):
            yield

    def summed(self, tally: Tally) -> Tally:
        """Return what all processes have counted."""
        total = Tally()
        for other in self._gathered(tally) if self.count > 1 else [tally]:
            total.count += other.count
            total.loss_sum += other.loss_sum
            if other.answers is not None:
                total.answers = other.answers if total.answers is None else total.answers + other.answers
        return total

    def agreed(self, record: EpochRecord) -> EpochRecord:
        """Return the first process's record, by which all decide."""
        first: EpochRecord = self._gathered(record)[0] if self.count > 1 else record
        return first

    def _gathered(self, value: Any) -> list[Any]:
        values = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values


ALONE = Ranks()
"""A training in one process."""


@dataclass(frozen=True, eq=False)
class _Rows:
    """The samples of a stream that one process reads."""

    stream: Stream
    ranks: Ranks

    def __len__(self) -> int:
        return len(self.stream)

    def one_pass(self, size: int, order: Generator | None = None) -> Iterator[Any]:
        return self.stream.one_pass(size, order, self.ranks.rows)


def check_devices(devices: int, device: torch.device) -> None:
    """Refuse a number of devices that there are not, and several without Lightning Fabric.

    Raises:
        InputError: fewer than one, or more than this machine has; or a device of which there is one.
        MissingLibraryError: Lightning Fabric is not installed.
    """
    check_whole("fit", devices=devices)
    if devices == 1:
        return
    require(FABRIC, "devices")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"fit: devices={devices}, but the model is on {device}; put it on cpu or cuda, or take one")
    if device.type == "cuda" and torch.cuda.device_count() < devices:
        raise InputError(f"fit: devices={devices}, but torch sees {torch.cuda.device_count()} graphics processors here")


def train_on(
    devices: int, train: Callable[..., History], model: nn.Module, seed: int, arguments: tuple[Any, ...]
) -> History:
    """Train on several devices of this machine, each in a process of its own; the model has the result.

    Args:
        devices: how many: graphics processors where the model is on one, else processes on the processor.
        train: ``train(model, *arguments, ranks=ranks)``, a module's function.
        model: trained in place.
        seed: of what all processes draw in common.
        arguments: pickled for the processes.

    Raises:
        InputError: what was given cannot be sent to a process, or a process has died; else what one of them raised.
    """
    kind = device_of(model).type
    with tempfile.TemporaryDirectory(prefix="secateur-devices-") as folder, _environment_kept():
        work = _Work(train, seed, arguments, Path(folder), max(1, torch.get_num_threads() // devices))
        try:
            # By itself the model is given to each process as a copy; elsewhere its tensors would be shared memory.
            _fabric(kind, devices).launch(work, model)
        except (ProcessRaisedException, ProcessExitedException) as error:
            raise _what_was_raised(Path(folder), error) from error
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"fit: devices={devices} sends the model, data, loss and callbacks to other processes, and one of them cannot "
                f"be sent: {in_one_line(error)}; define it in a module, not in a function or as a lambda"
            ) from error
        header, state = read_tensors(Path(folder) / _RESULT)
    restore(model, state)
    return History(tuple(EpochRecord(**record) for record in from_json(header["history"])))


def _fabric(kind: str, devices: int) -> Any:
    _hush()
    fabric, environments = require(FABRIC, "devices"), require(f"{FABRIC}.plugins.environments", "devices")
    strategy = require(f"{FABRIC}.strategies", "devices").DDPStrategy(
        start_method="spawn",
        process_group_backend="nccl" if kind == "cuda" else "gloo",
        # Parameters that a forward pass does not reach have no gradient, as in one process.
        find_unused_parameters=True,
    )
    # Processes of this machine, whatever scheduler it runs under.
    environment = environments.LightningEnvironment()
    return fabric.Fabric(accelerator=kind, devices=devices, strategy=strategy, plugins=[environment])


def _hush() -> None:
    """Let the launcher say nothing but errors; it speaks as soon as it is imported."""
    require(FABRIC, "devices")
    logging.getLogger(FABRIC).setLevel(logging.ERROR)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Take back what the launcher writes into the environment: the port of this training is no other's."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@dataclass(frozen=True, eq=False)
class _Work:
    """What each process does."""

    train: Callable[..., History]
    seed: int
    arguments: tuple[Any, ...]
    folder: Path
    threads: int

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Where a process begins, before the launcher does.
        _hush()
        self.__dict__.update(state)

    def __call__(self, fabric: Any, model: nn.Module) -> None:
        ranks = Ranks(fabric.global_rank, fabric.world_size, fabric.strategy.setup_module)
        try:
            model = model.to(fabric.device)
            with threads(self.threads), modes_kept(model), seeded(fabric.device, self.seed):
                history = self.train(model, *self.arguments, ranks=ranks)
        except SecateurError as error:
            self._write_error(error)
            raise
        if ranks.is_first:
            self._write(model, history)
        # Nobody leaves while another still waits for an answer.
        fabric.barrier()

    def _write_error(self, error: SecateurError) -> None:
        write_text(self.folder / _ERROR, json.dumps({"kind": type(error).__name__, "error": str(error)}))

    def _write(self, model: nn.Module, history: History) -> None:
        from safetensors.torch import save

        # Copies, since the format refuses tensors that share their memory.
        state = {name: tensor.cpu().contiguous() for name, tensor in snapshot(model).items()}
        header = {"history": json.dumps(history.to_dicts())}
        write_bytes(self.folder / _RESULT, in_order(save(state, header)))


def _what_was_raised(folder: Path, error: Exception) -> SecateurError:
    """Return the error of the process that failed first, as it was raised there."""
    if (folder / _ERROR).exists():
        record = json.loads((folder / _ERROR).read_text(encoding="utf-8"))
        kind: type[SecateurError] = getattr(secateur.types, record["kind"])
        return kind(record["error"])
    return InputError(
        f"fit: a process of the training ended: {str(error).strip().splitlines()[-1]}; a script that trains on "
        "several devices does so under `if __name__ == '__main__':`, since each process imports it"
    )
