"""The state of a model and of the random numbers: taking it, putting it back, and hashing it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b

import torch
from torch import Tensor, nn

from secateur.types import InputError

__all__ = [
    "check_finite",
    "check_made",
    "device_of",
    "digest",
    "modes_kept",
    "restore",
    "rng_state",
    "seeded",
    "set_rng_state",
    "snapshot",
    "tensors",
]


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer of the model by name, those that no file keeps included."""
    named: list[tuple[str, Tensor]] = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: tensor.detach() for name, tensor in named}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the model's tensors."""
    return {name: tensor.clone() for name, tensor in tensors(model).items()}


def restore(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy the tensors of `state` into the model."""
    for name, tensor in tensors(model).items():
        tensor.copy_(state[name])


def check_made(model: nn.Module) -> None:
    """Refuse a model with lazy parameters that have no shape yet."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InputError(f"parameter {name} has no shape yet; run the model once on an input first")


def check_finite(model: nn.Module, when: str, remedy: str) -> None:
    """Raise an InputError that names the first tensor of the model that holds NaN or infinite values."""
    for name, tensor in tensors(model).items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{when}: {name} of the model holds NaN or infinite values; {remedy}")


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer; the CPU if it has none."""
    return next((tensor.device for tensor in tensors(model).values()), torch.device("cpu"))


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module back in the training or evaluation mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the global random numbers of the CPU and of `device`, and put their state back afterwards."""
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
    """Return the state of the global random numbers of the CPU and of `device`."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(device: torch.device, state: Mapping[str, Tensor]) -> None:
    """Set the state of the global random numbers."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def digest(named: Iterable[tuple[str, Tensor]], text: str = "") -> str:
    """Return a hash of the names, types, shapes and contents of tensors, and of a text.

    >>> digest([("a", torch.zeros(2))]) == digest([("a", torch.zeros(2))])
    True
    >>> digest([("a", torch.zeros(2))]) == digest([("a", torch.ones(2))])
    False
    """
    total = blake2b(text.encode(), digest_size=16)
    for name, tensor in named:
        total.update(f"|{name}:{tensor.dtype}:{tuple(tensor.shape)}|".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()
