"""An independent check of a cut: what the masked model computes, worked out without the library's own reference.

It shares nothing with `secateur.structure.verify` but the sites: parameters are zeroed here, by hand, and the
model's own forward pass runs, with torch's normalisations and averages replaced by ones that leave removed channels
out. So a mistake in the one is not repeated in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from secateur.copies import copied
from secateur.randomness import private_draws
from secateur.state import evaluating
from secateur.structure.axes import keep_vector
from secateur.structure.infer import Structure
from secateur.types import Keep, Sites

__all__ = ["KeptStatistics", "living", "relative_difference", "run", "zeroed"]


def zeroed(model: nn.Module, sites: Sites, keep: Keep) -> nn.Module:
    """Return a copy of `model` with zeros wherever a parameter or a buffer belongs to a removed unit.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> masked = zeroed(model, channels(model, torch.ones(1, 2)), {"0": torch.tensor([True, False])})
    >>> (masked[0].weight[1] == 0).all().item(), (masked[1].weight[:, 1] == 0).all().item()
    (True, True)
    """
    result = copied(model)  # weights that an old weight_norm has left on a graph, too
    parameters = dict(result.named_parameters(remove_duplicate=False))
    for name, keep_mask in keep.items():
        for member in (m for m in sites[name].members if m.masked):
            assert member.dim is not None
            assert member.index is not None
            along = parameters[member.parameter].data.movedim(member.dim, 0)
            along[member.index[~keep_mask].flatten()] = 0
    _zero_buffers(result, sites, keep)
    return result


def _zero_buffers(model: nn.Module, sites: Sites, keep: Keep) -> None:
    """Write zeros into buffers where they belong to removed units, such as a table of positions that is added."""
    structure = sites.structure
    if not isinstance(structure, Structure):
        return
    gone = {structure.units[name]: keep_mask for name, keep_mask in keep.items()}
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and name in structure.tensors:
            for dim, axis in enumerate(structure.tensors[name].axes):
                buffer.movedim(dim, 0)[~keep_vector(axis, gone)] = 0


def run(model: nn.Module, inputs: Any, mode: TorchFunctionMode | None = None) -> Any:
    """Return what `model` computes in eval mode on a tuple of positional or a mapping of keyword inputs."""
    args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
    with evaluating(model), private_draws(0), mode or nullcontext():
        return model(*args, **kwargs)


def living(
    model: nn.Module, sites: Sites, keep: Keep, inputs: tuple[Tensor, ...], mode: KeptStatistics, draws: int = 16
) -> list[Tensor]:
    """Return, for each time that `mode` asks which slices are left, those whose values differ over draws of weights and inputs.

    A unit that is left may be silent with these weights on these inputs; with others it speaks. What was removed is the
    same number throughout: nought, or what an activation makes of it.
    """
    lows, highs = [], []
    for seed in range(draws):
        other = copied(model)
        with private_draws(seed), torch.no_grad():
            for parameter in other.parameters():
                parameter.copy_(parameter + torch.randn_like(parameter))
            others = tuple(torch.randn_like(x) for x in inputs)
        mode.seen, mode.left = [], []
        run(zeroed(other, sites, keep), others, mode)
        lows.append([low for low, _ in mode.seen])
        highs.append([high for _, high in mode.seen])
    return [
        torch.stack(low).amin(0) != torch.stack(high).amax(0)
        for low, high in zip(zip(*lows, strict=True), zip(*highs, strict=True), strict=True)
    ]


def relative_difference(expected: Any, outputs: Any) -> float:
    """Return the greatest relative L2 distance between matching output tensors; infinite where shapes differ.

    >>> relative_difference({"y": torch.tensor([3.0, 4.0])}, {"y": torch.tensor([3.0, 3.0])})
    0.2
    """
    a, b = _leaves(expected), _leaves(outputs)
    if not a or [t.shape for t in a] != [t.shape for t in b]:
        return float("inf")
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        same = torch.isinf(x) & (x == y)  # a masked entry, say, whose difference is no number
        x, y = x.masked_fill(same, 0), y.masked_fill(same, 0)
        norm = float(x.double().norm())
        apart = float((x.double() - y.double()).norm()) / max(norm, 1e-30)
        # NaN anywhere must not look like agreement.
        worst = max(worst, apart) if apart == apart else float("inf")
    return worst


def _leaves(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, (list, tuple)):
        return [leaf for item in outputs for leaf in _leaves(item)]
    leaves = [x for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor)]
    return [x for x in leaves if x.dtype is not torch.bool]


_MODES: list[KeptStatistics] = []
"""Those that are entered, the innermost last."""


class KeptStatistics(TorchFunctionMode):
    """Takes the statistics of normalisations over the channels that are kept.

    A channel counts as removed where the norm's own scale is zero there; without such a scale, where all values are zero.

    Args:
        averages: also let means, variances, maxima and softmax leave out slices that are zero throughout, for norms
            and gates that are written out in the model's code. What is left out of a mean stays zero when the mean is
            subtracted, as a second mean is to leave it out too.
    """

    def __init__(self, averages: bool = False) -> None:
        super().__init__()
        self.averages = averages
        self.seen: list[tuple[Tensor, Tensor]] = []
        """The least and the greatest value of each slice, each time that it was asked which are left."""
        self.left: list[Tensor] = []
        """What is to be answered (`living`); by the values where it is empty."""
        # By the identity of a mean: it, what it was taken of, and what of that took part.
        self._means: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __enter__(self) -> KeptStatistics:
        _MODES.append(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        _MODES.remove(self)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        norm = NORMS.get(func)
        if norm is not None:
            return norm(*args, **kwargs)
        if self.averages and func in AVERAGES:
            return self._average(func, args, kwargs)
        if self.averages and func in DIFFERENCES and len(args) == 2:
            _, averaged, keep_mask = self._means.get(id(args[1]), (None, None, None))
            # Only what a mean was taken of is centred by it; from anything else it is subtracted as any number is.
            if keep_mask is not None and args[0] is averaged:
                return func(*args, **kwargs) * keep_mask
        if self.averages and func in COMPARED:
            return _compared(func, args, kwargs)
        return func(*args, **kwargs)

    def _average(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = args[0] if args else kwargs["input"]
        kwargs = {"dim" if name == "axis" else name: value for name, value in kwargs.items()}
        dim_argument = kwargs.get("dim", args[1] if len(args) > 1 else None)
        keepdim = kwargs.get("keepdim", args[2] if len(args) > 2 and AVERAGES[func] == "mean" else False)
        if isinstance(dim_argument, bool):
            return func(*args, **kwargs)
        over_all = range(x.ndim) if dim_argument is None else dim_argument
        dims = [over_all] if isinstance(over_all, int) else list(over_all)
        keep_mask = torch.ones((), dtype=x.dtype)
        for dim in dims:
            keep_mask = keep_mask * _kept(x, [dim])
        mean = _masked_mean(x, keep_mask, dims)
        result = mean if keepdim else _squeezed(mean, dims)
        self._means |= {id(m): (m, x, keep_mask) for m in (mean, result)}
        if AVERAGES[func] == "mean":
            return result
        count = keep_mask.expand_as(x).sum(dim=tuple(dims), keepdim=True)
        biased = kwargs.get("unbiased") is False or kwargs.get("correction", 1) == 0
        variance = _masked_mean((x - mean) ** 2, keep_mask, dims) * (1 if biased else count / (count - 1).clamp(min=1))
        spread = variance.sqrt() if AVERAGES[func] == "std" else variance
        results = [spread, mean] if AVERAGES[func] == "var_mean" else [spread]
        results = results if keepdim else [_squeezed(r, dims) for r in results]
        return tuple(results) if len(results) > 1 else results[0]


def _kept(x: Tensor, dims: Sequence[int]) -> Tensor:
    """1 where any value of a slice along `dims` is not zero, of a shape that broadcasts over `x`."""
    others = tuple(d for d in range(x.ndim) if d not in {d % x.ndim for d in dims})
    mode = _MODES[-1] if _MODES else None
    if mode is not None:
        mode.seen.append((x.amin(others, keepdim=True), x.amax(others, keepdim=True)) if others else (x, x))
        if mode.left:
            return mode.left[len(mode.seen) - 1].to(x.dtype)
    return (x != 0).to(x.dtype).amax(dim=others, keepdim=True) if others else (x != 0).to(x.dtype)


def _kept_by(weight: Tensor | None, x: Tensor, dims: Sequence[int]) -> Tensor:
    """1 where the scale is not zero; a scale without zeros, such as ``1 + weight``, tells nothing, and the values do."""
    by_scale = weight is not None and bool((weight == 0).any())
    return (weight != 0).to(x.dtype) if weight is not None and by_scale else _kept(x, dims)


def _masked_mean(x: Tensor, keep_mask: Tensor, dims: Sequence[int]) -> Tensor:
    weight = keep_mask.expand_as(x)
    return (x * weight).sum(dim=tuple(dims), keepdim=True) / weight.sum(dim=tuple(dims), keepdim=True).clamp(min=1)


def _layer_norm(
    input: Tensor,  # noqa: A002  (torch's own name, which may come as a keyword)
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    dims = list(range(-len(normalized_shape), 0))
    keep_mask = _kept_by(weight, input, dims)
    centred = input - _masked_mean(input, keep_mask, dims)
    result = centred * torch.rsqrt(_masked_mean(centred**2, keep_mask, dims) + eps) * keep_mask
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def _rms_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    dims = list(range(-len(normalized_shape), 0))
    keep_mask = _kept_by(weight, input, dims)
    floor = torch.finfo(input.dtype).eps if eps is None else eps
    result = input * torch.rsqrt(_masked_mean(input**2, keep_mask, dims) + floor)
    return result if weight is None else result * weight


def _group_norm(
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    tail = [1] * (input.ndim - 2)
    channel_mask = _kept_by(weight.view(1, -1, *tail) if weight is not None else None, input, [1])
    grouped = input.reshape(input.shape[0], num_groups, -1)
    mask = channel_mask.expand_as(input).reshape(grouped.shape)
    centred = grouped - _masked_mean(grouped, mask, [-1])
    result = (centred * torch.rsqrt(_masked_mean(centred**2, mask, [-1]) + eps) * mask).reshape(input.shape)
    result = result if weight is None else result * weight.view(1, -1, *tail)
    return result if bias is None else result + bias.view(1, -1, *tail)


def _batch_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Statistics of its own input are those of the slices that are not zero throughout (weight standardisation)."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    dims = [0, *range(2, input.ndim)]
    keep_mask = torch.ones((), dtype=input.dtype)
    for dim in dims:
        keep_mask = keep_mask * _kept(input, [dim])
    centred = input - _masked_mean(input, keep_mask, dims)
    result = centred * torch.rsqrt(_masked_mean(centred**2, keep_mask, dims) + eps) * keep_mask
    shape = [1, -1, *[1] * (input.ndim - 2)]
    result = result if weight is None else result * weight.view(shape)
    return result if bias is None else result + bias.view(shape)


def _compared(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Softmax and maximum with minus infinity where a slice is zero throughout."""
    x = args[0] if args else kwargs["input"]
    dim_argument = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if not x.is_floating_point() or not isinstance(dim_argument, (int, tuple, list)):
        return func(*args, **kwargs)
    lowered = x
    for dim in [dim_argument] if isinstance(dim_argument, int) else dim_argument:
        keep_mask = _kept(x, [dim]) > 0
        lowered = lowered.masked_fill(~keep_mask, -torch.inf) if bool(keep_mask.any()) else lowered
    kwargs.pop("input", None)
    return func(lowered, *args[1:], **kwargs)


def _squeezed(x: Tensor, dims: Sequence[int]) -> Tensor:
    return x.squeeze(tuple(dims))


NORMS: dict[Any, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
}
AVERAGES: dict[Any, str] = {
    torch.mean: "mean",
    Tensor.mean: "mean",
    torch.var: "var",
    Tensor.var: "var",
    torch.std: "std",
    Tensor.std: "std",
    torch.var_mean: "var_mean",
}
DIFFERENCES: set[Any] = {torch.sub, Tensor.sub, Tensor.__sub__}
COMPARED: set[Any] = {F.softmax, torch.softmax, Tensor.softmax, torch.amax, Tensor.amax}
