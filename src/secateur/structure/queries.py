"""What the code of a model asks torch and tensors for, beside values: it is noted, or answered otherwise to see what hangs on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import RLock, get_ident
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from secateur.structure.decided import OF_NO_MODEL

__all__ = ["NUMBERS", "OF_PARAMETERS", "OF_STATE", "Answers", "asking", "state_is"]

Answers = Mapping[str, Callable[[Any, Any], Any]]
"""For each question another answer, made of what was asked and the true one."""

OF_STATE: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "is_autocast_enabled": (("cpu",), ("cuda",)),
    "is_autocast_cpu_enabled": ((),),
    "is_inference_mode_enabled": ((),),
    "are_deterministic_algorithms_enabled": ((),),
    "is_anomaly_enabled": ((),),
}
"""Functions of torch that say whether something is on for the thread or process, with the arguments that tell all of it."""
NUMBERS = ("get_num_threads", "get_default_dtype", "get_float32_matmul_precision", "initial_seed")
OF_PARAMETERS: Answers = {
    "parameter.requires_grad": lambda _, answer: not answer,
    "parameter.grad": lambda asked, answer: torch.zeros_like(asked) if answer is None else None,
}
OF_TENSORS = {
    *("is_contiguous", "stride", "storage_offset", "_base", "_is_view", "dtype", "element_size", "itemsize"),
    *("is_leaf", "grad_fn", "_version", "is_pinned", "is_inference"),
}
PATCHING = RLock()


def state_is(name: str) -> bool:
    """Return whether what a function of `OF_STATE` tells of is on.

    >>> state_is("is_autocast_enabled")
    False
    """
    return any(getattr(torch, name)(*args) for args in OF_STATE[name])


@contextmanager
def asking(otherwise: Answers | None = None) -> Iterator[set[str]]:
    """Note what a model's own code asks for within the context, and give some questions another answer.

    >>> class Asks(nn.Module):
    ...     def forward(self, x):
    ...         return x * 2 if torch.is_autocast_enabled("cpu") else x
    >>> with asking() as names:
    ...     Asks()(torch.ones(1))
    tensor([1.])
    >>> with asking({"is_autocast_enabled": lambda _, answer: not answer}):
    ...     Asks()(torch.ones(1))
    tensor([2.])
    >>> names
    {'is_autocast_enabled'}
    """
    names, owner, others = set[str](), get_ident(), otherwise or {}

    def telling(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def answered(*args: Any, **kwargs: Any) -> Any:
            answer = function(*args, **kwargs)
            if get_ident() != owner or _is_torch(sys._getframe(1)):
                return answer
            names.add(name)
            return others[name](args, answer) if name in others else answer

        return answered

    with PATCHING, ExitStack() as stack:
        for name in (*OF_STATE, *NUMBERS):
            stack.enter_context(patch.object(torch, name, telling(name, getattr(torch, name))))
        stack.enter_context(_OfTensors(names, others))
        yield names


class _OfTensors(TorchFunctionMode):
    """Answers what a model's own code asks tensors for."""

    def __init__(self, names: set[str], others: Answers) -> None:
        super().__init__()
        self.names, self.others = names, others

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        name = getattr(getattr(func, "__self__", None), "__name__", name) if name == "__get__" else name
        if args and isinstance(args[0], nn.Parameter) and f"parameter.{name}" in OF_PARAMETERS:
            name = f"parameter.{name}"
        if (name not in OF_TENSORS and name not in OF_PARAMETERS) or _is_torch(sys._getframe(1)):
            return answer
        self.names.add(name)
        return self.others[name](args[0], answer) if name in self.others else answer


def _is_torch(frame: Any) -> bool:
    return bool(frame.f_code.co_filename.startswith(OF_NO_MODEL))
