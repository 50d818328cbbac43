"""Run a model in float64 on tensors drawn anew, whatever its code casts to, in the memory of one layer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.state import own_tensors
from secateur.structure.frames import Inputs

__all__ = ["InDouble", "StandIn"]

WIDE = {
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

    Parameters are strided views of one number in float64, so that code which asks for a shape or a type sees the right
    one. Buffers are fetched at once, as code may write into them.

    >>> copy = StandIn(nn.Linear(2, 1, bias=False))
    >>> copy.run(lambda name: torch.full((1, 2), 2.0, dtype=torch.float64), ((torch.ones(1, 2),), {}))
    tensor([[4.]], dtype=torch.float64)
    """

    def __init__(self, model: nn.Module) -> None:
        memo: dict[int, Any] = {}
        self.parameters: dict[int, str] = {}
        self.buffers: dict[str, Tensor] = {}
        for name, tensor in own_tensors(model).items():
            if id(tensor) in memo or tensor.dtype not in (*WIDE, *WIDE.values()):
                continue
            dtype = WIDE.get(tensor.dtype, tensor.dtype)
            if isinstance(tensor, nn.Parameter):
                memo[id(tensor)] = _shell(tensor, dtype)
                self.parameters[id(memo[id(tensor)])] = name
            else:
                memo[id(tensor)] = self.buffers[name] = torch.empty(tensor.shape, dtype=dtype, device=tensor.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's notices to itself when a graph is copied
            self.model: nn.Module = copy.deepcopy(model, memo)

    def run(self, fetch: Fetch, inputs: Inputs, run: Callable[[nn.Module, Inputs], Any] | None = None) -> Any:
        """Return what the model gives, or what `run` does with it, when its tensors are those that `fetch` returns."""
        for name, buffer in self.buffers.items():
            buffer.copy_(fetch(name))
        with InDouble(self.parameters, fetch):
            return self.model(*inputs[0], **inputs[1]) if run is None else run(self.model, inputs)


def _shell(parameter: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
    number = torch.zeros((), dtype=dtype, device=parameter.device)
    return nn.Parameter(number.expand(parameter.shape), requires_grad=parameter.requires_grad)


class InDouble(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Turns narrower numbers, and what is cast to them, into float64; puts what they stand for in the place of shells."""

    def __init__(self, parameters: dict[int, str], fetch: Fetch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parameters, self.fetch = parameters, fetch
        self.used: set[str] = set()
        self.fetched: dict[str, Tensor] = {}
        # What is written into a narrow tensor must be read from it later: one wide copy each, and the narrow one alive.
        self.widened: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ASSERTS:
            return None
        args, kwargs = pytree.tree_map(self._wide, (args, kwargs or {}))
        return pytree.tree_map(self._wide_result, func(*args, **kwargs))

    def _wide(self, argument: Any) -> Any:
        if isinstance(argument, torch.dtype):
            return WIDE.get(argument, argument)
        if not isinstance(argument, Tensor):
            return argument
        if id(argument) in self.parameters:
            return self._stood_for(self.parameters[id(argument)])
        if argument.dtype not in WIDE:
            return argument
        if id(argument) not in self.widened:
            self.widened[id(argument)] = (argument, argument.to(WIDE[argument.dtype]))
        return self.widened[id(argument)][1]

    def _stood_for(self, name: str) -> Tensor:
        if name in self.fetched:
            return self.fetched[name]
        tensor = self.fetch(name)
        if name in self.used and tensor.numel() * tensor.element_size() <= LARGEST_CACHED:
            self.fetched[name] = tensor
        self.used.add(name)
        return tensor

    @staticmethod
    def _wide_result(result: Any) -> Any:
        return result.to(WIDE[result.dtype]) if isinstance(result, Tensor) and result.dtype in WIDE else result
