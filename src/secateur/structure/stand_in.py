"""Run a model on other tensors than its own, in the memory of one layer, and in float64 whatever its code casts to."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.copies import copied
from secateur.randomness import private_draws
from secateur.state import fresh, own_tensors
from secateur.structure.frames import Inputs
from secateur.switches import defaults_put_back, unfused_attention

__all__ = ["DOUBLE", "Fetch", "run_substituted"]

DOUBLE = {
    **dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64),
    **dict.fromkeys((torch.complex64, torch.complex32), torch.complex128),
}
# A graph asserts the types that were traced; here they are all wider.
ASSERTS = {torch.ops.aten._assert_tensor_metadata.default}
# What code writes a parameter by: ``weight.data.clamp_()`` makes such a view, and writes into that.
DETACHING = {torch.ops.aten.detach.default}
LARGEST_CACHED = 2**27
"""Bytes of the largest tensor that is kept where it is used several times in a run, as in a recurrent layer."""

Fetch = Callable[[str], Tensor]
"""Returns the tensor of a name, which is the caller's own: views of it may be written into."""
Types = dict[torch.dtype, torch.dtype]


def _grouped_mm(a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, *_: Any) -> Tensor:
    """Each group of rows of `a`, up to where `offs` says, times its own matrix of `b`."""
    if offs is None or a.dim() != 2 or b.dim() != 3 or bias is not None:
        raise NotImplementedError("another kind of grouped product")
    starts = [0, *offs.tolist()]
    groups = [a[i:j] @ matrix for i, j, matrix in zip(starts, starts[1:], b, strict=False)]
    return torch.cat([*groups, a.new_zeros(len(a) - starts[-1], b.shape[-1])])


# Ops that have no kernel for float64.
WRITTEN_OUT = {torch.ops.aten._grouped_mm.default: _grouped_mm} if hasattr(torch.ops.aten, "_grouped_mm") else {}


def run_substituted(
    model: nn.Module,
    fetch: Fetch,
    inputs: Inputs,
    run: Callable[[nn.Module, Inputs], Any] | None = None,
    *,
    double: bool = True,
) -> Any:
    """Return what a model gives, or what `run` does with it, when its tensors are those that `fetch` returns by name.

    A copy runs, so that the model is left as it is whatever its forward pass writes. The copy's parameters take no
    memory: each is a view of one number with the shape and the type that it should have, so that code which asks for
    those sees the right ones, and is fetched when an op reads it. Buffers are fetched before, as code may write into
    them.

    Args:
        model: it is left as it is.
        fetch: returns the tensor that a parameter or buffer should be; nothing else holds it, as views of it may be written
            into.
        inputs: positional and keyword arguments.
        run: is given the copy and the inputs; the model is called if it is not given.
        double: compute in float64; else in the model's own types.

    >>> run_substituted(nn.Linear(2, 1, bias=False), lambda name: torch.full((1, 2), 2.0), ((torch.ones(1, 2),), {}))
    tensor([[4.]], dtype=torch.float64)
    """
    shells, inputs = _Shells(model, DOUBLE if double else {}), fresh(*inputs)
    with torch.no_grad():
        for name, buffer in shells.buffers.items():
            buffer.copy_(fetch(name))
        with _Substitutes(shells, fetch), private_draws(), unfused_attention(), defaults_put_back():
            # Back and forth, as tables that a module keeps for evaluation were made from other weights.
            shells.model.train()
            shells.model.eval()
            return shells.model(*inputs[0], **inputs[1]) if run is None else run(shells.model, inputs)


Place = tuple[Any, ...]


def _place(tensor: Tensor) -> Place | None:
    """Where a tensor lies in memory; ``weight.data`` lies where the weight does."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return None
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()


class _Shells:
    """A copy of a model with shells for parameters.

    Attributes:
        model: the copy.
        parameters: which parameter a shell stands for, by its place.
        dtypes: the parameters' types, by name.
        buffers: the copy's own floating buffers by name.
        originals: the copy's buffer for each of the model's, by its id.
    """

    def __init__(self, model: nn.Module, types: Types) -> None:
        self.types = types
        self.dtypes: dict[str, torch.dtype] = {}
        self.parameters: dict[Place | None, str] = {}
        self.buffers: dict[str, Tensor] = {}
        self.originals: dict[int, Tensor] = {}
        memo: dict[int, Any] = {}
        for name, tensor in own_tensors(model).items():
            if id(tensor) not in memo and (tensor.is_floating_point() or tensor.is_complex()):
                memo[id(tensor)] = self._made(name, tensor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's notices to itself when a graph is copied
            self.model: nn.Module = copied(model, memo)

    def _made(self, name: str, tensor: Tensor) -> Tensor:
        # The original is noted as well: a function that the model holds may reach for it, as a copy of the model holds
        # the same function.
        dtype = self.types.get(tensor.dtype, tensor.dtype)
        if not isinstance(tensor, nn.Parameter):
            self.buffers[name] = self.originals[id(tensor)] = torch.empty_like(tensor, dtype=dtype)
            return self.buffers[name]
        number = torch.zeros((), dtype=dtype, device=tensor.device)
        shell = nn.Parameter(number.expand(tensor.shape), requires_grad=tensor.requires_grad)
        self.parameters |= dict.fromkeys((_place(shell), _place(tensor)), name)
        self.dtypes[name] = dtype
        return shell


class _Substitutes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Puts what they stand for in the place of shells, and wider types in the place of those that numbers have."""

    def __init__(self, shells: _Shells, fetch: Fetch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parameters, self.buffers, self.types = shells.parameters, shells.originals, shells.types
        self.dtypes, self.fetch = shells.dtypes, fetch
        self.used: set[str] = set()
        self.fetched: dict[str, Tensor] = {}
        # What is written into a narrow tensor must be read from it later: one wide copy each, and the narrow one alive.
        self.widened: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ASSERTS and self.types:
            return None
        written = func._schema.is_mutable or func in DETACHING
        args = [self._argument(argument, written) for argument in args]
        kwargs = {name: self._argument(argument, written) for name, argument in (kwargs or {}).items()}
        kernel = WRITTEN_OUT.get(func, func) if self.types else func
        return self._result(kernel(*args, **kwargs))

    def _argument(self, argument: Any, written: bool) -> Any:
        if isinstance(argument, torch.dtype):
            return self.types.get(argument, argument)
        if isinstance(argument, (list, tuple)):
            return [self._argument(inner, written) for inner in argument]
        if not isinstance(argument, Tensor):
            return argument
        name = self.parameters.get(_place(argument))
        if name is not None:
            return self._stood_for(name, written)
        argument = self.buffers.get(id(argument), argument)
        return self._wide(argument) if argument.dtype in self.types else argument

    def _wide(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self.widened:
            self.widened[id(tensor)] = (tensor, tensor.to(self.types[tensor.dtype]))
        return self.widened[id(tensor)][1]

    def _stood_for(self, name: str, written: bool) -> Tensor:
        """The parameter; kept where it is used again, and where it is written into."""
        if name in self.fetched:
            return self.fetched[name]
        tensor = self.fetch(name).to(self.dtypes[name])
        if written or (name in self.used and tensor.numel() * tensor.element_size() <= LARGEST_CACHED):
            self.fetched[name] = tensor
        self.used.add(name)
        return tensor

    def _result(self, result: Any) -> Any:
        if isinstance(result, (list, tuple)):
            return type(result)(map(self._result, result))
        narrow = isinstance(result, Tensor) and result.dtype in self.types
        return result.to(self.types[result.dtype]) if narrow else result
