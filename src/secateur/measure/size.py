"""How large a model is: parameters, bytes of its file, multiply-accumulates, and memory of a forward pass."""

from __future__ import annotations

import json
import weakref
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from secateur.calls import looking, shaping, usual
from secateur.randomness import private_draws
from secateur.state import called_in_place, evaluating, fresh, split_inputs, tensors
from secateur.switches import math_attention, plain_operations, unfused_attention
from secateur.types import ExampleInputs, InputError
from secateur.wrappers import check_module

__all__ = ["ParameterCount", "file_bytes", "macs", "parameters", "peak_memory"]


@dataclass(frozen=True)
class ParameterCount:
    """How many parameters a model has, and how many of them are not zero."""

    total: int
    nonzero: int

    @property
    def sparsity(self) -> float:
        """The fraction that is zero; 0 for a model without parameters."""
        return 1 - self.nonzero / self.total if self.total else 0.0


@usual
def parameters(model: nn.Module) -> ParameterCount:
    """Count the parameters of a model; a parameter that several modules share counts once.

    Buffers (running means, masks) are not parameters. NaN is not zero.

    Raises:
        InputError: a lazy parameter that has no shape yet.

    >>> layer = nn.Linear(3, 2)
    >>> with torch.no_grad():
    ...     _ = layer.weight[0].zero_(), layer.weight[1].fill_(1), layer.bias.fill_(1)
    >>> parameters(layer)
    ParameterCount(total=8, nonzero=5)
    """
    check_module(model, "parameters")
    all_parameters = list(model.parameters())
    return ParameterCount(
        total=sum(parameter.numel() for parameter in all_parameters),
        nonzero=sum(int(torch.count_nonzero(parameter)) for parameter in all_parameters),
    )


# What a safetensors file can hold, in the order in which it does, and its names for them.
_DTYPES = (
    "uint64 int64 float64 complex64 float32 uint32 int32 bfloat16 float16 uint16 int16 float8_e5m2fnuz float8_e4m3fnuz "
    "float8_e4m3fn float8_e5m2 int8 uint8 bool"
)
_CODES = "U64 I64 F64 C64 F32 U32 I32 BF16 F16 U16 I16 F8_E5M2FNUZ F8_E4M3FNUZ F8_E4M3 F8_E5M2 I8 U8 BOOL"
CODE_BY_DTYPE = {getattr(torch, dtype): code for dtype, code in zip(_DTYPES.split(), _CODES.split(), strict=True)}


@looking
def file_bytes(model: nn.Module) -> int:
    """Return the bytes of the model's safetensors file, counted without writing it.

    The file holds what ``state_dict`` does, parameters and buffers, dense; tensors that are shared are
    written once; the header with names and shapes counts too.

    Raises:
        InputError: a lazy parameter that has no shape yet, or an entry of the state that such a file cannot hold.

    >>> file_bytes(nn.Linear(100, 10)) - 4 * (100 * 10 + 10)  # what is left is the header
    136
    """
    check_module(model, "file_bytes")
    header, end, order = {}, 0, list(CODE_BY_DTYPE)
    for name, tensor in sorted(_distinct_tensors(model), key=lambda entry: (order.index(entry[1].dtype), entry[0])):
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": CODE_BY_DTYPE[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    # The header's length is a number of 8 bytes; spaces fill it to a multiple of 8.
    return 8 + -(-len(text) // 8) * 8 + end


def _distinct_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The tensors of the state by name, those that are the same memory once."""
    distinct: dict[object, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise InputError(
                f"file_bytes: {name} of the model's state is a {type(tensor).__name__}; "
                "a safetensors file holds tensors only: keep it in a buffer"
            )
        if tensor.layout != torch.strided or tensor.dtype not in CODE_BY_DTYPE:
            raise InputError(
                f"file_bytes: {name} of the model's state is {tensor.dtype}, {tensor.layout}, which a safetensors file "
                "cannot hold; make it dense, of a type that it can: float32, say"
            )
        memory = tensor.data_ptr() or tensor.untyped_storage()._cdata  # on the meta device there is no pointer
        place = (memory, tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        distinct.setdefault(place if tensor.numel() else name, (name, tensor))
    return list(distinct.values())


@shaping
def macs(model: nn.Module, example_inputs: ExampleInputs) -> int:
    """Count the multiply-accumulates of one forward pass over the example inputs, in evaluation mode.

    Counted are matrix products, convolutions, recurrent layers and attention, with torch's own counter
    (``torch.utils.flop_counter``, halved) over the plain operations: fused kernels, whose work that counter
    does not see, are switched off while it counts. Not counted are the additions of biases, normalisation,
    activations, pooling, embeddings, and products written elementwise (``nn.Bilinear`` is one). Of experts those count
    that tokens are routed to: each token's products with each of its experts. Zeros in the
    weights count like any other value. All samples of the example inputs count: give a batch of one for the
    MACs of a sample.

    Raises:
        InputError: the example inputs are not a tensor, a tuple or a dict.

    >>> macs(nn.Conv2d(3, 8, kernel_size=3, padding=1), torch.zeros(1, 3, 5, 5)) == 8 * 5 * 5 * 3 * 3 * 3
    True
    """
    check_module(model, "macs")
    inputs = fresh(*split_inputs(example_inputs))
    counter = FlopCounterMode(display=False, custom_mapping=MORE_PRODUCTS)
    counter.mod_tracker = _Untracked()  # type: ignore[assignment]
    with evaluating(model), private_draws(), unfused_attention(), math_attention(), plain_operations(), counter:
        called_in_place(model, *inputs)
    return int(counter.get_total_flops()) // 2


class _Untracked:
    """In the place of what tells the counter's modules apart, which fails on some inputs of modules (DeBERTa's tables of positions)."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        """Note nothing."""

    def __exit__(self, *_: object) -> None:
        """Note nothing."""


def _matrix_vector(matrix: Any, vector: Any, *_: Any, **__: Any) -> int:
    return int(2 * matrix[0] * matrix[1])


def _added_matrix_vector(bias: Any, matrix: Any, vector: Any, *_: Any, **__: Any) -> int:
    return int(2 * matrix[0] * matrix[1])


def _dot(left: Any, right: Any, *_: Any, **__: Any) -> int:
    return int(2 * left[0])


def _grouped(left: Any, right: Any, *_: Any, **__: Any) -> int:
    """Rows of `left` in groups, each times a matrix of its own: as many products as one matrix for all would take."""
    return int(2 * prod(left) * right[-1])


# torch's counter knows products of matrices only; an input without a batch dimension makes these, and experts the last.
MORE_PRODUCTS: dict[Any, Any] = {
    torch.ops.aten.mv: _matrix_vector,
    torch.ops.aten.addmv: _added_matrix_vector,
    torch.ops.aten.dot: _dot,
    torch.ops.aten._grouped_mm: _grouped,
}


@usual
def peak_memory(model: nn.Module, example_inputs: ExampleInputs) -> int:
    """Return the most bytes of activations that live at one time in a forward pass, in evaluation mode.

    Every tensor that an operation makes is counted from when it is made until it is freed, by the memory
    behind it: views and in-place results add nothing. Not counted are the model's own tensors, the inputs,
    sparse tensors, and what a kernel takes and gives back within one operation. The number is the same every
    time.

    Raises:
        InputError: the example inputs are not a tensor, a tuple or a dict.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> peak_memory(model, torch.zeros(3, 4))  # the ReLU's input and output, 3 × 8 floats each
    192
    """
    check_module(model, "peak_memory")
    inputs = fresh(*split_inputs(example_inputs))
    counter = LiveBytes([*tensors(model).values(), *tree_leaves(inputs)])
    with evaluating(model), private_draws(), counter:
        called_in_place(model, *inputs)
    return counter.peak


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make and that are still alive.

    Attributes:
        live: bytes now.
        peak: the most bytes so far.
    """

    def __init__(self, given: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        # Held, so that no new tensor can take the place of one of them.
        self._given = [memory for memory in map(self._memory, given) if memory is not None]
        self._known = {memory._cdata for memory in self._given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            memory = self._memory(leaf)
            if memory is not None:
                self._count(memory)
        return result

    @staticmethod
    def _memory(leaf: Any) -> torch.UntypedStorage | None:
        dense = isinstance(leaf, Tensor) and leaf.layout == torch.strided
        return leaf.untyped_storage() if dense else None

    def _count(self, memory: torch.UntypedStorage) -> None:
        key, size = memory._cdata, memory.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(memory, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
