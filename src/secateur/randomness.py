"""Random numbers of one's own: what the library draws, and what a model draws while the library runs it.

Torch has one global generator for all threads. Two threads that seed it, or that put its state back after use, give
each other their numbers. So whatever needs a seed draws from generators of its own (`private_draws`). Only training runs
the model's code under the global generator (`seeded`), one training at a time.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["private_draws", "rng_state", "seeded", "set_rng_state"]

PATIENCE = 60.0
"""After how many seconds a thread says that it waits."""
_global = threading.RLock()
"""Held while the global generators' state is not what the program left."""
_thread = threading.local()


@contextmanager
def private_draws(seed: int | None = None) -> Iterator[None]:
    """Give this thread generators of its own for all that torch draws within; the global ones are left alone.

    The numbers are those that the global generators would give. Other threads see nothing of it, and do not disturb it.

    Args:
        seed: where the generators begin; None begins at copies of the global ones.

    >>> torch.manual_seed(1).initial_seed(), torch.rand(1)
    (1, tensor([0.7576]))
    >>> with private_draws(1):
    ...     torch.rand(1)
    tensor([0.7576])
    >>> torch.rand(1)      # the second after the seed
    tensor([0.2793])
    """
    draws, stack = _PrivateDraws(seed), _draws_of_thread()
    stack.append(draws)
    try:
        with draws:
            yield
    finally:
        stack.pop()


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the global random numbers of the CPU and of `device`, and put their state back afterwards.

    For code that runs long under the global generators, as training does. One thread is within at a time; another waits,
    and says so after a minute. A thread that draws from the global generators without this meanwhile takes numbers from
    this stream. Within `private_draws` it is those generators that are seeded, and nobody waits.
    """
    if _draws_of_thread():
        with private_draws(seed):
            yield
        return
    with _alone():
        before = rng_state(device)
        try:
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
        finally:
            set_rng_state(device, before)


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of the random numbers that this thread draws on the CPU and on `device`."""
    devices = {"cpu": torch.device("cpu")} | ({"cuda": device} if device.type == "cuda" else {})
    private = _draws_of_thread()
    if private:
        return {name: private[-1].generator(where).get_state() for name, where in devices.items()}
    return {name: _get_state(where) for name, where in devices.items()}


def set_rng_state(device: torch.device, state: Mapping[str, Tensor]) -> None:
    """Set the state of the random numbers that this thread draws."""
    private = _draws_of_thread()
    for name, values in state.items():
        where = device if name == "cuda" else torch.device("cpu")
        if private:
            private[-1].generator(where).set_state(values)
        else:
            _set_state(where, values)


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the global generators; a thread that waits long is told why."""
    lock = _global  # a child process has another one
    if not lock.acquire(timeout=PATIENCE):
        warnings.warn(
            f"this thread has waited {PATIENCE:.0f} s for another one that trains or computes a cell with seeded random "
            "numbers; it goes on when that one is done. If that one waits for this thread, train in one of them only.",
            stacklevel=4,
        )
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _in_child() -> None:
    # The thread that held it is not in the child.
    global _global
    _global = threading.RLock()


os.register_at_fork(after_in_child=_in_child)


def _draws_of_thread() -> list[_PrivateDraws]:
    """The private draws that this thread is within, the innermost last."""
    stack: list[_PrivateDraws] = _thread.__dict__.setdefault("stack", [])
    return stack


class _PrivateDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands generators of its own to every op that draws; the modes of torch are a thread's own."""

    def __init__(self, seed: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if not _draws(func) or options.get("generator") is not None or _drops_nothing(func, args, options):
            return func(*args, **options)
        device = _device(args, options)
        if device.type == "meta":
            return func(*args, **options)
        generator, taking = self.generator(device), _taking_generator(func)
        if taking is None:
            return self._swapped(generator, lambda: func(*args, **options))
        return taking(*args, **{**options, "generator": generator})

    def generator(self, device: torch.device) -> torch.Generator:
        """Return the generator of a device."""
        if device not in self.generators:
            generator = torch.Generator(device)
            if self.seed is not None:
                generator.manual_seed(self.seed)
            else:
                generator.set_state(_get_state(device))
            self.generators[device] = generator
        return self.generators[device]

    def _swapped(self, generator: torch.Generator, draw: Callable[[], Any]) -> Any:
        """Run an op that knows the global generator alone, as the fused dropout of CUDA does, on another's state."""
        device = generator.device
        with _alone():
            before = _get_state(device)
            _set_state(device, generator.get_state())
            try:
                return draw()
            finally:
                generator.set_state(_get_state(device))
                _set_state(device, before)


@cache
def _draws(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _drops_nothing(func: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    """Whether an op that draws only to drop, as attention does, is to drop nothing."""
    place = _drop_place(func)
    return place is not None and (args[place] if len(args) > place else options.get("dropout_p", 0.0)) == 0


@cache
def _drop_place(func: Any) -> int | None:
    names = [argument.name for argument in func._schema.arguments]
    return names.index("dropout_p") if "dropout_p" in names else None


@cache
def _taking_generator(func: Any) -> Any:
    """The op, or its overload that takes a generator besides; None where there is none."""
    names = [argument.name for argument in func._schema.arguments]
    if "generator" in names:
        return func
    for name in func.overloadpacket.overloads():
        other = getattr(func.overloadpacket, name)
        if sorted(argument.name for argument in other._schema.arguments) == sorted([*names, "generator"]):
            return other
    return None


def _device(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.device:
    if kwargs.get("device") is not None:
        return _numbered(torch.device(kwargs["device"]))
    tensor = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _numbered(device: torch.device) -> torch.device:
    return (
        device if device.type in ("cpu", "meta") or device.index is not None else torch.empty(0, device=device).device
    )


def _get_state(device: torch.device) -> Tensor:
    return torch.get_rng_state() if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)


def _set_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)
