"""Run a model on other tensors than its own, in the memory of one layer, and in float64 whatever its code casts to."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.state import evaluating, own_tensors
from secateur.structure.frames import Inputs
from secateur.untouched import copied

__all__ = ["Fetch", "StandIn"]

DOUBLE = {
    **dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64),
    **dict.fromkeys((torch.complex64, torch.complex32), torch.complex128),
}
# A graph asserts the types that were traced; here they are all wider.
ASSERTS = {torch.ops.aten._assert_tensor_metadata.default}
LARGEST_CACHED = 2**27
"""Bytes of the largest tensor that is kept where it is used several times in a run, as in a recurrent layer."""

Fetch = Callable[[str], Tensor]


class StandIn:
    """A copy of a model whose parameters take no memory; each is fetched, by name, when an op reads it.

    A parameter is a view of one number with the shape and the type that it should have, so that code which asks for
    those sees the right ones. Buffers are fetched before a run, as code may write into them.

    Args:
        model: it is left as it is.
        double: compute in float64; else in the model's own types.

    >>> StandIn(nn.Linear(2, 1, bias=False)).run(lambda name: torch.full((1, 2), 2.0), ((torch.ones(1, 2),), {}))
    tensor([[4.]], dtype=torch.float64)
    """

    def __init__(self, model: nn.Module, *, double: bool = True) -> None:
        self.types = DOUBLE if double else {}
        self.parameters: dict[int, str] = {}
        self.buffers: dict[str, Tensor] = {}
        # A function that the model holds may reach for the original's tensors, as a copy keeps what it closes over.
        self.originals: dict[int, Tensor] = {}
        memo: dict[int, Any] = {}
        for name, tensor in own_tensors(model).items():
            if id(tensor) in memo or not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            dtype = self.types.get(tensor.dtype, tensor.dtype)
            if isinstance(tensor, nn.Parameter):
                memo[id(tensor)] = _shell(tensor, dtype)
                self.parameters |= dict.fromkeys((id(memo[id(tensor)]), id(tensor)), name)
            else:
                memo[id(tensor)] = self.buffers[name] = torch.empty(tensor.shape, dtype=dtype, device=tensor.device)
                self.originals[id(tensor)] = self.buffers[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's notices to itself when a graph is copied
            self.model: nn.Module = copied(model, memo)

    def run(self, fetch: Fetch, inputs: Inputs, run: Callable[[nn.Module, Inputs], Any] | None = None) -> Any:
        """Return what the model gives, or what `run` does with it, when its tensors are those that `fetch` returns."""
        with evaluating(self.model), torch.random.fork_rng(devices=[]):
            for name, buffer in self.buffers.items():
                buffer.copy_(fetch(name))
            with _Substitutes(self, fetch):
                return self.model(*inputs[0], **inputs[1]) if run is None else run(self.model, inputs)


def _shell(parameter: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
    number = torch.zeros((), dtype=dtype, device=parameter.device)
    return nn.Parameter(number.expand(parameter.shape), requires_grad=parameter.requires_grad)


class _Substitutes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Puts what they stand for in the place of shells, and wider types in the place of those that numbers have."""

    def __init__(self, stand_in: StandIn, fetch: Fetch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parameters, self.buffers, self.types = stand_in.parameters, stand_in.originals, stand_in.types
        self.fetch = fetch
        self.used: set[str] = set()
        self.fetched: dict[str, Tensor] = {}
        # What is written into a narrow tensor must be read from it later: one wide copy each, and the narrow one alive.
        self.widened: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ASSERTS and self.types:
            return None
        kwargs = {name: self._argument(argument) for name, argument in (kwargs or {}).items()}
        return self._result(func(*map(self._argument, args), **kwargs))

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, torch.dtype):
            return self.types.get(argument, argument)
        if isinstance(argument, (list, tuple)):
            return [self._argument(inner) for inner in argument]
        if not isinstance(argument, Tensor):
            return argument
        if id(argument) in self.parameters:
            return self._stood_for(self.parameters[id(argument)])
        argument = self.buffers.get(id(argument), argument)
        return self._wide(argument) if argument.dtype in self.types else argument

    def _wide(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self.widened:
            self.widened[id(tensor)] = (tensor, tensor.to(self.types[tensor.dtype]))
        return self.widened[id(tensor)][1]

    def _stood_for(self, name: str) -> Tensor:
        if name in self.fetched:
            return self.fetched[name]
        tensor: Tensor = self._result(self.fetch(name))
        if name in self.used and tensor.numel() * tensor.element_size() <= LARGEST_CACHED:
            self.fetched[name] = tensor
        self.used.add(name)
        return tensor

    def _result(self, result: Any) -> Any:
        if isinstance(result, (list, tuple)):
            return type(result)(map(self._result, result))
        narrow = isinstance(result, Tensor) and result.dtype in self.types
        return result.to(self.types[result.dtype]) if narrow else result
