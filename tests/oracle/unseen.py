"""A check of a cut in float64, on weights and inputs that it has not seen, beside zeros written by hand.

It shares nothing with `secateur.structure.verify` but the sites. The weights of the cut model are put back into their
full shapes, with zeros where the sites say that units went; the original's own forward pass runs on them, its norms
taken over what is kept (`oracle.masked`). Everything that the code does in single precision is done in
double, so that a right cut agrees to about 1e-13, and whatever differs by more is wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from oracle import masked
from secateur.copies import copied
from secateur.types import InputError, Keep, Sites

__all__ = ["UNSEEN", "Comparison", "InDouble", "InputDraw", "compare", "draw_inputs", "redraw"]

SINGLE = (torch.float32, torch.float16, torch.bfloat16)
WIDTH = 0.3  # the standard deviation of drawn weights: attention, gates and norms then matter


@dataclass(frozen=True)
class InputDraw:
    """How inputs are drawn anew from example inputs.

    Attributes:
        batch: samples; None for as many as in the example.
        stretch: whether sequences of integers get longer, and along which dimensions tensors of numbers do.
        scale: the standard deviation of numbers.
        padded: whether masks of ones end in zeros in every second sample.
        vocabulary: integers are drawn below it; None draws them within the example's range.
        same_words: whether integers stay as they are in the example.
        seed: same seed, same inputs.
    """

    batch: int | None = None
    stretch: tuple[bool, tuple[int, ...]] = (False, ())
    scale: float = 1.0
    padded: bool = False
    vocabulary: int | None = None
    same_words: bool = False
    seed: int = 0

    def fallbacks(self, vocabulary: int | None) -> Iterator[InputDraw]:
        """This draw with what the original may not take left out step by step."""
        stretches = [self.stretch] if self.stretch == (False, ()) else STRETCHES
        for words in dict.fromkeys((vocabulary, None)):
            for stretch in stretches:
                yield replace(self, stretch=stretch, vocabulary=words)
        yield replace(self, stretch=(False, ()), same_words=True)


STRETCHES: list[tuple[bool, tuple[int, ...]]] = [
    *((True, dims) for dims in ((-2, -1), (1,), (-1,), ())),
    (False, (-2, -1)),
    (False, (1,)),
    (False, (-1,)),
    (False, ()),
]

UNSEEN = (
    InputDraw(scale=3.0),
    InputDraw(batch=3, stretch=STRETCHES[0], seed=1),
    InputDraw(batch=1, scale=0.1, padded=True, seed=2),
    InputDraw(batch=5, scale=10.0, padded=True, seed=3),
)
"""One input of the example's own shapes, and three that differ in batch size, length, scale and words."""


def draw_inputs(inputs: Any, draw: InputDraw) -> Any:
    """Return new inputs like the example `inputs` (a tuple or a mapping of tensors).

    Numbers become normal, integers uniform; what is constant in the example (a mask, a flag) stays constant.

    >>> {k: tuple(v.shape) for k, v in draw_inputs({"ids": torch.arange(6)[None]}, InputDraw(2, (True, ()))).items()}
    {'ids': (2, 11)}
    """
    generator = torch.Generator().manual_seed(draw.seed)
    return pytree.tree_map(lambda x: _drawn(x, draw, generator) if isinstance(x, Tensor) else x, inputs)


def _drawn(x: Tensor, draw: InputDraw, generator: torch.Generator) -> Tensor:
    shape = list(x.shape)
    if shape and draw.batch is not None:
        shape[0] = draw.batch
    if x.is_floating_point():
        for dim in draw.stretch[1]:
            if -x.ndim < dim < x.ndim and x.ndim > 1:
                shape[dim] *= 2
    elif x.ndim == 2 and draw.stretch[0]:
        shape[1] += 5
    if bool((x == x.flatten()[0]).all()):
        return _constant(x, shape, draw)
    if x.is_floating_point():
        return draw.scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    if draw.same_words:
        return x[torch.arange(shape[0]) % len(x)]
    low, high = (int(x.min()), int(x.max()) + 1) if draw.vocabulary is None else (0, draw.vocabulary)
    return torch.randint(low, high, shape, generator=generator).to(x.dtype)


def _constant(x: Tensor, shape: Sequence[int], draw: InputDraw) -> Tensor:
    result = torch.full(tuple(shape), x.flatten()[0].item(), dtype=torch.float64 if x.is_floating_point() else x.dtype)
    if draw.padded and not x.is_floating_point() and x.ndim == 2 and bool(x.flatten()[0]):
        result[::2, -2:] = 0
    return result


class InDouble(TorchFunctionMode):
    """Does in float64 whatever code asks for in a lower precision, such as ``x.to(torch.float32)`` in a norm."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        func = CASTS.get(func, func)
        args, kwargs = pytree.tree_map(_double, (args, dict(kwargs or {})))
        return func(*args, **kwargs)


CASTS: dict[Any, Any] = {Tensor.float: Tensor.double, Tensor.half: Tensor.double, Tensor.bfloat16: Tensor.double}


def _double(x: Any) -> Any:
    if isinstance(x, Tensor) and x.dtype in SINGLE:
        return x.double()
    return torch.float64 if isinstance(x, torch.dtype) and x in SINGLE else x


@contextmanager
def _double_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _run(model: nn.Module, inputs: Any, mode: TorchFunctionMode | None = None) -> Any:
    with _double_by_default(), InDouble():
        return masked.run(model, inputs, mode)


def redraw(full: nn.Module, small: nn.Module, sites: Sites, keep: Keep, seed: int = 0) -> None:
    """Draw every parameter anew, in place: `small` gets the kept entries, `full` the same with zeros in between.

    Raises:
        ValueError: a parameter of `small` has not the shape that the sites' members foretell.
    """
    generator = torch.Generator().manual_seed(seed)
    positions_by_id = _kept_positions(full, sites, keep)
    small_parameters = dict(small.named_parameters(remove_duplicate=False))
    tensors_by_id: dict[int, Tensor] = {}
    with torch.no_grad():
        for name, parameter in full.named_parameters(remove_duplicate=False):
            positions = positions_by_id[id(parameter)]
            if id(parameter) not in tensors_by_id:
                tensors_by_id[id(parameter)] = _drawn_parameter(parameter, generator)
                parameter.copy_(_with_zeros(tensors_by_id[id(parameter)], positions))
            if name in small_parameters:
                _put(small_parameters[name], _taken(tensors_by_id[id(parameter)], positions), name)


def _drawn_parameter(parameter: Tensor, generator: torch.Generator) -> Tensor:
    if not parameter.is_floating_point():
        return parameter.detach().clone()
    return WIDTH * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)


def _kept_positions(full: nn.Module, sites: Sites, keep: Keep) -> dict[int, list[Tensor]]:
    """For each parameter, by identity, which positions along each dimension belong to no removed unit."""
    parameters = dict(full.named_parameters(remove_duplicate=False))
    masks_by_id = {id(p): [torch.ones(s, dtype=torch.bool) for s in p.shape] for p in parameters.values()}
    for name, keep_mask in keep.items():
        for member in sites[name].members:
            assert member.dim is not None
            assert member.index is not None
            masks_by_id[id(parameters[member.parameter])][member.dim][member.index[~keep_mask].flatten()] = False
    return masks_by_id


def _with_zeros(tensor: Tensor, positions: Sequence[Tensor]) -> Tensor:
    result = tensor.clone()
    for dim, keep_mask in enumerate(positions):
        result.movedim(dim, 0)[~keep_mask] = 0
    return result


def _taken(tensor: Tensor, positions: Sequence[Tensor]) -> Tensor:
    for dim, keep_mask in enumerate(positions):
        tensor = tensor.index_select(dim, keep_mask.nonzero().flatten())
    return tensor


def _put(parameter: Tensor, values: Tensor, name: str) -> None:
    if parameter.shape != values.shape:
        raise ValueError(f"{name} has shape {tuple(parameter.shape)}; its sites foretell {tuple(values.shape)}")
    parameter.copy_(values)


@dataclass(frozen=True)
class Comparison:
    """What one unseen input told.

    Attributes:
        inputs: how it was drawn, as far as the original takes that.
        weights: ``"its own"`` or ``"drawn"``.
        difference: the greatest relative L2 difference of an output; infinite where shapes differ, None where the cut
            model did not run.
        error: what the cut model raised there, else empty.
        refused: whether that was an error of ours: a graph says which shapes it takes.
    """

    inputs: InputDraw
    weights: str
    difference: float | None
    error: str = ""
    refused: bool = False


def compare(
    model: nn.Module, small: nn.Module, sites: Sites, keep: Keep, inputs: Any, vocabulary: int | None = None
) -> list[Comparison]:
    """Compare a cut model with the zero-padded original on each of `UNSEEN`, with its own and with drawn weights.

    Args:
        model: the original; it is left as it is, as is `small`.
        small: what `secateur.cut` returned.
        sites: the sites that were cut.
        keep: what was kept.
        inputs: the example inputs of the cut, a tuple or a mapping.
        vocabulary: how many words there are, for integer inputs.

    Raises:
        RuntimeError: the original takes none of the inputs in float64.
    """
    full = masked.zeroed(model, sites, keep).double()
    small = _copied(small).double()
    drawn_inputs = [_taken_by(model, inputs, draw, vocabulary) for draw in UNSEEN]
    results = [_compared(full, small, draw, x, "its own") for draw, x in drawn_inputs]
    redraw(full, small, sites, keep)
    return results + [_compared(full, small, draw, x, "drawn") for draw, x in drawn_inputs]


def _copied(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, where the module is a graph
        return copied(model)


def _taken_by(model: nn.Module, inputs: Any, draw: InputDraw, vocabulary: int | None) -> tuple[InputDraw, Any]:
    """The first of a draw's fallbacks that the original runs on."""
    original = copied(model).double()
    error: Exception | None = None
    for attempt in draw.fallbacks(vocabulary):
        drawn_inputs = draw_inputs(inputs, attempt)
        try:
            _run(original, drawn_inputs)
        except Exception as refused:  # noqa: BLE001  (the model's own code may raise anything)
            error = refused
        else:
            return attempt, drawn_inputs
    raise RuntimeError(f"the original runs on no inputs drawn in float64: {error}") from error


MODES: tuple[Callable[[], TorchFunctionMode | None], ...] = (
    lambda: None,
    masked.KeptStatistics,
    lambda: masked.KeptStatistics(averages=True),
)


def _compared(full: nn.Module, small: nn.Module, draw: InputDraw, inputs: Any, weights: str) -> Comparison:
    try:
        outputs = _run(small, inputs)
    except Exception as error:  # noqa: BLE001
        message = f"{type(error).__name__}: {error}"[:300]
        return Comparison(draw, weights, None, message, isinstance(error, InputError))
    apart = min(masked.relative_difference(_run(full, inputs, mode()), outputs) for mode in MODES)
    return Comparison(draw, weights, apart)
