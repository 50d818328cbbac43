"""What torch's layers do by the values of tensors, done by shapes alone while a model is traced.

A trace says which axes are one; for that the lengths of packed sequences do not matter, nor whether a mask is known to be
causal. What is verified is run as it is.
"""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations, combinations_with_replacement
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import fake_impls
from torch.nn.modules import transformer
from torch.overrides import TorchFunctionMode

__all__ = ["LongSizesError", "Traceable", "by_shapes", "open_lengths"]

GROUPED = [torch.ops.aten._grouped_mm.default] if hasattr(torch.ops.aten, "_grouped_mm") else []
DATA = Tensor.data.__get__  # type: ignore[attr-defined]
RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class Traceable:
    """Notes what was done by shapes alone.

    Attributes:
        packed: whether the model packs sequences: the traced ops then stand for ragged ones, and are not to be run.
    """

    packed = False


class _FullBatches(tuple[int, ...]):
    """How many sequences go on at each step, as a tensor has it that a packed sequence holds: all of them."""

    __slots__ = ()
    device = torch.device("cpu")

    def size(self, dim: int) -> int:
        return len(self)


@contextmanager
def by_shapes() -> Iterator[Traceable]:
    """Let this thread pack sequences as if all were full, and look into no attention mask.

    >>> from torch.nn.utils.rnn import pack_padded_sequence
    >>> with by_shapes():
    ...     pack_padded_sequence(torch.zeros(2, 3, 1), torch.tensor([3, 1]), batch_first=True).data.shape
    torch.Size([6, 1])
    """
    noted, thread = Traceable(), threading.get_ident()
    functions: Any = torch._VF
    names = ("_pack_padded_sequence", "_pad_packed_sequence", *RECURRENT)
    originals = {name: getattr(functions, name) for name in names}
    replacements = {
        "_pack_padded_sequence": _packing(noted),
        "_pad_packed_sequence": _unpacked,
        **{name: _recurrent(originals[name]) for name in RECURRENT},
    }
    causal = transformer._detect_is_causal_mask
    shapes = fake_impls.op_implementations_dict
    grouped = [op for op in GROUPED if op not in shapes]

    def here(original: Callable[..., Any], replacement: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return (replacement if threading.get_ident() == thread else original)(*args, **kwargs)

        return call

    try:
        for name, replacement in replacements.items():
            setattr(functions, name, here(originals[name], replacement))
        transformer._detect_is_causal_mask = here(causal, _as_told)
        shapes.update(dict.fromkeys(grouped, _grouped))
        with _Written():
            yield noted
    finally:
        transformer._detect_is_causal_mask = causal
        for op in grouped:
            del shapes[op]
        for name in names:
            delattr(functions, name)  # the module finds torch's own by itself


class _Written(TorchFunctionMode):
    """Gives by ops that the exporter takes what torch's functions compute by others, or after a look at values.

    So is a tensor's ``data``, which it does not see; without gradients that is what `detach` gives.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0].detach() if func == DATA else WRITTEN.get(func, func)(*args, **(kwargs or {}))


def _covariance(x: Tensor, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Tensor:
    """What `torch.cov` gives, which compares a number made of sizes with zero."""
    if fweights is not None or aweights is not None:
        return torch.cov(x, correction=correction, fweights=fweights, aweights=aweights)
    rows = x.view(1, -1) if x.dim() < 2 else x
    centred = rows - rows.mean(1, keepdim=True)
    return (centred @ centred.mH / max(rows.shape[1] - correction, 0)).squeeze()


def _correlation(x: Tensor) -> Tensor:
    """What `torch.corrcoef` gives."""
    covariance = _covariance(x)
    if covariance.dim() == 0:
        return covariance / covariance
    deviation = covariance.diagonal().real.sqrt()
    correlation = covariance / deviation[:, None] / deviation
    if correlation.is_complex():
        return torch.complex(correlation.real.clamp(-1, 1), correlation.imag.clamp(-1, 1))
    return correlation.clamp(-1, 1)


def _combined(x: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """What `torch.combinations` gives, which chooses by a mask of the sizes alone."""
    combine = combinations_with_replacement if with_replacement else combinations
    places = torch.tensor(list(combine(range(len(x)), r)), dtype=torch.int64, device=x.device)
    return x[places.view(-1, r)]


WRITTEN: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((torch.cov, Tensor.cov), _covariance),
    **dict.fromkeys((torch.corrcoef, Tensor.corrcoef), _correlation),
    torch.combinations: _combined,
}
"""What is called in the place of torch's functions."""


LONGEST = 24
"""Of how many terms and operators a size may be made: what windows and paddings make of a height grows with every layer."""


class LongSizesError(Exception):
    """What sizes are cannot be said in short, and would take the exporter minutes to work out."""


class _ShortSizes(TorchFunctionMode):
    """Gives up where the sizes of tensors become long expressions of those of the inputs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes: tuple[Any, ...] = tuple(result.shape) if isinstance(result, Tensor) else ()
        for size in sizes:
            if isinstance(size, torch.SymInt) and size.node.expr.count_ops() > LONGEST:
                raise LongSizesError
        return result


@contextmanager
def open_lengths() -> Iterator[None]:
    """Let this thread's ``len(x)`` of a tensor be its first size, which the exporter may leave open: a length of Python is a number."""
    original, thread = builtins.len, threading.get_ident()

    def length(x: Any) -> int:
        is_open = type(x) is not tuple and threading.get_ident() == thread and isinstance(x, Tensor) and x.dim() > 0
        return x.shape[0] if is_open else original(x)

    vars(builtins)["len"] = length
    try:
        with _ShortSizes():
            yield
    finally:
        vars(builtins)["len"] = original


def _grouped(_mode: Any, _op: Any, rows: Tensor, weight: Tensor, *_: Any, **__: Any) -> Any:
    """The shape of rows times the matrices of their groups, which runs in more types than it can be exported in."""
    return rows.new_empty((*rows.shape[:-1], weight.shape[-1])) if weight.dim() == 3 else NotImplemented


def _as_told(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    """Whether a mask is said to be causal; one of which nothing is said is used as it is, with the same outputs."""
    return is_causal is True


def _packing(noted: Traceable) -> Callable[..., Any]:
    def pack(x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Any]:
        noted.packed = True
        steps = x.transpose(0, 1) if batch_first else x
        return steps.flatten(0, 1), _FullBatches([steps.shape[1]] * steps.shape[0])

    return pack


def _unpacked(
    data: Tensor, batch_sizes: _FullBatches, batch_first: bool, padding: float, length: int
) -> tuple[Tensor, Tensor]:
    padded = torch.unflatten(data, 0, (len(batch_sizes), batch_sizes[0]))
    if length > len(batch_sizes):
        more = padded.new_full((length - len(batch_sizes), *padded.shape[1:]), padding)
        padded = torch.cat([padded, more])
    lengths = torch.full((batch_sizes[0],), len(batch_sizes), dtype=torch.int64)
    return padded.transpose(0, 1) if batch_first else padded, lengths


def _recurrent(original: Callable[..., Any]) -> Callable[..., Any]:
    """A recurrent layer that takes packed data of full sequences as what they are."""

    def run(data: Tensor, second: Any, *rest: Any) -> Any:
        if not isinstance(second, _FullBatches):
            return original(data, second, *rest)
        steps = torch.unflatten(data, 0, (len(second), second[0]))
        output, *states = original(steps, *rest, False)  # time comes first
        return output.flatten(0, 1), *states

    return run
