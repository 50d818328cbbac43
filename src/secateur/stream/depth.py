"""Whole blocks taken out of a language model: those whose outputs are most like their inputs, or that the loss misses least."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import isnan, log
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.calls import usual
from secateur.checks import check_listed, check_name, check_whole
from secateur.edits import Shallower
from secateur.measure.language import Tokens, check_tokens, perplexity, run_on_tokens
from secateur.result import Method, Result
from secateur.state import device_of, evaluating
from secateur.stream.blocks import block_container, twin
from secateur.stream.history import DepthHistory
from secateur.structure.depth import Skip
from secateur.structure.shallower import without_blocks
from secateur.types import InputError, Sites
from secateur.wrappers import check_module

__all__ = ["block_influence", "block_losses", "drop_blocks", "remove_blocks"]


@usual
def block_influence(
    model: nn.Module, tokens: Tokens, mask: Tensor | None = None, *, container: str | None = None
) -> dict[str, float]:
    """Return how much each block turns what flows through it: 1 less the mean cosine of its inputs and outputs.

    The mean is over all tokens that count (block influence: Men et al., 2024). One forward pass.

    Args:
        model: as in `secateur.stream.walk`.
        tokens, mask: text, ids ``(sequences, length)``, and where there are tokens.
        container: the path of the blocks' container.

    >>> from secateur.models.decoder import decoder
    >>> model = decoder(blocks=2)
    >>> _ = model.layers[1].down.weight.data.zero_(), model.layers[1].o.weight.data.zero_()    # it passes all on as it is
    >>> {name: round(score, 3) + 0.0 for name, score in block_influence(model, torch.arange(20).view(2, 10) % 11).items()}
    {'layers.0': 0.02..., 'layers.1': 0.0}
    """
    check_module(model, "block_influence")
    ids, ids_mask = check_tokens(tokens, mask, "block_influence")
    path = block_container(model, container)
    model = twin(model)
    sums = dict.fromkeys((f"{path}.{name}" for name, _ in model.get_submodule(path).named_children()), 0.0)
    count, counts = 0, torch.ones(0)

    def note(name: str, x: Tensor, out: Any) -> None:
        cosine = F.cosine_similarity(x.double(), (out[0] if isinstance(out, tuple) else out).double(), dim=-1)
        sums[name] += float((1 - cosine)[counts].sum())

    with evaluating(model), torch.no_grad(), _watched(model, sums, note):
        for number, row in enumerate(ids.to(device_of(model))):
            counts = torch.ones(1, len(row), dtype=torch.bool) if ids_mask is None else ids_mask[number].unsqueeze(0)
            counts, count = counts.to(row.device), count + int(counts.sum())
            run_on_tokens(model, row.unsqueeze(0), None if ids_mask is None else counts)
    if any(isnan(total) for total in sums.values()):
        raise InputError(
            "block_influence: the blocks answer NaN; load a good checkpoint, or compute in another type, as by .float()"
        )
    return {name: total / count for name, total in sums.items()}


@contextmanager
def _watched(model: nn.Module, paths: Mapping[str, float], note: Any) -> Iterator[None]:
    def hook(name: str) -> Any:
        return lambda _m, args, kwargs, out: note(name, args[0] if args else next(iter(kwargs.values())), out)

    handles = [model.get_submodule(p).register_forward_hook(hook(p), with_kwargs=True) for p in paths]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@usual
def block_losses(
    model: nn.Module,
    tokens: Tokens,
    mask: Tensor | None = None,
    *,
    container: str | None = None,
    without: Sequence[str] = (),
) -> dict[str, float]:
    """Return how much the mean loss of each token rises without each block; measured, so one forward pass a block.

    Args:
        model, tokens, mask, container: as in `block_influence`.
        without: paths of blocks that are left out all the time; they get no score.
    """
    check_module(model, "block_losses")
    path = block_container(model, container)
    model = twin(model)
    names = [f"{path}.{name}" for name, _ in model.get_submodule(path).named_children()]
    wrapped = _wrapped(model, names, tokens)
    with _skipped(model, without, wrapped):
        whole = log(perplexity(model, tokens, mask))
    losses = {}
    for name in names:
        if name not in without:
            with _skipped(model, [*without, name], wrapped):
                losses[name] = log(perplexity(model, tokens, mask)) - whole
    return losses


def _wrapped(model: nn.Module, names: Sequence[str], tokens: Tokens) -> bool:
    """Whether the blocks return tuples."""
    kinds: list[bool] = []
    ids, _ = check_tokens(tokens, None, "block_losses")
    note = _watched(model, dict.fromkeys(names, 0.0), lambda _n, _x, out: kinds.append(isinstance(out, tuple)))
    with evaluating(model), torch.no_grad(), note:
        run_on_tokens(model, ids[:1, :2].to(device_of(model)), None)
    return any(kinds)


@contextmanager
def _skipped(model: nn.Module, names: Sequence[str], wrapped: bool) -> Iterator[None]:
    holders = [(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names]
    originals = [holder._modules[key] for holder, key in holders]
    try:
        for (holder, key), original in zip(holders, originals, strict=True):
            holder._modules[key] = _passing(original, wrapped)
        yield
    finally:
        for (holder, key), original in zip(holders, originals, strict=True):
            holder._modules[key] = original


def _passing(block: nn.Module | None, wrapped: bool) -> Skip:
    """A `Skip` with the plain attributes that a model may ask its block for."""
    skip = Skip(wrapped)
    plain = {
        name: value for name, value in vars(block).items() if isinstance(value, int | str) and name not in vars(skip)
    }
    skip.__dict__.update(plain)
    return skip


@usual
def drop_blocks(
    model: nn.Module,
    tokens: Tokens,
    count: int,
    by: Literal["loss", "influence"] = "loss",
    *,
    mask: Tensor | None = None,
    container: str | None = None,
) -> Result:
    """Return a model without some of its blocks, numbered anew, with the depth in its config.

    Args:
        model, tokens, mask, container: as in `block_influence`; the model is left as it is.
        count: how many go.
        by: ``"loss"`` takes one block after the other, each time that without which the loss on the text is least (one
            forward pass for each block that is left); ``"influence"`` takes those of the least influence (one pass).

    Returns:
        The smaller model, with a `DepthHistory`: what went, in order, and what every block was worth.

    Raises:
        InputError: no block would be left.

    >>> from secateur.models.decoder import decoder
    >>> drop_blocks(decoder(blocks=3), torch.arange(20).view(2, 10) % 11, 1)
    <Result: Decoder, 2 of 3 blocks kept, parameters 6,224 → 4,272>
    """
    check_name("by of drop_blocks", by, ("loss", "influence"))
    check_whole("drop_blocks", 0, count=count)
    path = block_container(model, container)
    total = len(list(model.get_submodule(path).children()))
    if count >= total:
        raise InputError(f"drop_blocks: {count} of {total} blocks cannot go; one stays at least")
    removed: list[str] = []
    if by == "influence":
        scores = block_influence(model, tokens, mask, container=path)
        removed = sorted(scores, key=scores.__getitem__)[:count]
    else:
        first = scores = block_losses(model, tokens, mask, container=path)
        for number in range(count):
            scores = scores if number == 0 else block_losses(model, tokens, mask, container=path, without=removed)
            removed.append(min(scores, key=scores.__getitem__))
        scores = first
    shallower = _without(model, path, removed, Method("blocks by " + by))
    inputs = check_tokens(tokens, mask, "drop_blocks")[0][:1]
    return replace(shallower, history=DepthHistory(tuple(removed), scores), inputs=inputs)


@usual
def remove_blocks(model: nn.Module, removed: Sequence[str]) -> Result:
    """Return a model without the blocks at these paths, numbered anew, with the depth in its config.

    Args:
        model: it is left as it is.
        removed: the paths, in one container, such as ``["model.layers.25"]``.

    Raises:
        UnknownNameError: no block has such a path.
        InputError: no block would be left.

    >>> from secateur.models.decoder import decoder
    >>> remove_blocks(decoder(blocks=3), ["layers.1"])
    <Result: Decoder, 2 of 3 blocks kept, parameters 6,224 → 4,272>
    """
    check_listed("remove_blocks", removed=removed)
    path = removed[0].rpartition(".")[0] if removed else block_container(model)
    blocks = [f"{path}.{name}" for name, _ in model.get_submodule(path).named_children()]
    for name in removed:
        check_name("block", name, blocks)
    if len(set(removed)) == len(blocks):
        raise InputError(f"remove_blocks: all {len(blocks)} blocks cannot go; one stays at least")
    return _without(model, path, removed, Method())


def _without(model: nn.Module, path: str, removed: Sequence[str], method: Method) -> Result:
    gone = tuple(name.removeprefix(f"{path}.") for name in removed)
    is_kept = torch.tensor([name not in gone for name, _ in model.get_submodule(path).named_children()])
    keep = {path: is_kept}
    small = without_blocks(model, path, gone)
    return Result(small, model, Sites.of_masks(keep, "block", "block"), keep, (Shallower(path, gone),), method)
