"""The repeated blocks of a model, and what each of them is called with besides the activations that flow through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.copies import copied
from secateur.measure.language import run_on_tokens
from secateur.state import device_of, evaluating, own_tensors
from secateur.types import InputError, unknown_name

__all__ = ["BlockCall", "Recorded", "block_container", "record", "twin"]


def block_container(model: nn.Module, container: str | None = None) -> str:
    """Return the path of the container (`nn.ModuleList` or `nn.Sequential`) of a model's repeated blocks.

    It is the one with the most parameters of those that hold two or more modules of one class; on meta tensors as well.

    Args:
        model: whose blocks are looked for.
        container: a path that is named, and looked at in its place.

    Raises:
        InputError: the model has none.
        UnknownNameError: no modules lie at the path that is named.

    >>> class Tower(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.stem, self.layers = nn.Linear(2, 4), nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(3))
    >>> block_container(Tower())
    'layers'
    """
    if container:
        return _checked(model, container)
    sizes: dict[str, int] = {}
    for path, module in model.named_modules():
        children = list(module.children())
        # Blocks inside of a block are fewer parameters than the blocks themselves, so the outermost container wins.
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(children) > 1:
            kinds = {type(child) for child in children}
            if len(kinds) == 1 and all(any(True for _ in child.children()) for child in children):
                sizes[path] = sum(p.numel() for p in module.parameters())
    if not sizes:
        raise InputError(
            f"walk: {type(model).__name__} has no nn.ModuleList or nn.Sequential of two or more blocks of one class; "
            "name the container: container='model.layers'"
        )
    return max(sizes, key=sizes.__getitem__)


def _checked(model: nn.Module, container: str) -> str:
    module = dict(model.named_modules()).get(container)
    if module is None or not any(True for _ in module.children()):
        lists = [path for path, kind in model.named_modules() if isinstance(kind, (nn.ModuleList, nn.Sequential))]
        raise unknown_name("container of blocks", container, lists)
    return container


@dataclass(frozen=True, eq=False)
class BlockCall:
    """What a block is called with, besides the activations.

    Attributes:
        args: all positional arguments; where the activations stand there is None.
        kwargs: all keyword arguments, likewise.
        place: the position or the name of the activations.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    place: int | str

    def filled(self, x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return all arguments, with the activations in their place.

        >>> BlockCall((None,), {"mask": None}, 0).filled(torch.ones(1))
        ((tensor([1.]),), {'mask': None})
        """
        if isinstance(self.place, int):
            return (*self.args[: self.place], x, *self.args[self.place + 1 :]), dict(self.kwargs)
        return self.args, {**self.kwargs, self.place: x}


@dataclass(frozen=True, eq=False)
class Recorded:
    """What flows into the first block on one batch, and what every block is called with.

    Attributes:
        x: the activations.
        calls: by block.
        wrapped: whether blocks return tuples, of which the first item flows on.
    """

    x: Tensor
    calls: tuple[BlockCall, ...]
    wrapped: bool


class _EnoughError(Exception):
    """All blocks have been called; what comes behind them is not wanted."""


class _CallRecorder(nn.Module):
    """Stands where a block was, notes what it is called with, and passes the activations on."""

    def __init__(
        self, calls: list[tuple[Tensor, BlockCall]], first: nn.Module | None, last: bool, wrapped: list[bool]
    ) -> None:
        super().__init__()
        self.calls, self.last, self.wrapped = calls, last, wrapped
        self.__dict__["first"] = first  # not a part of the model that is recorded

    def __getattr__(self, name: str) -> Any:
        # Models ask their blocks for plain attributes, such as the type of attention.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Note the call."""
        x, call = _split(args, kwargs)
        self.calls.append((x, call))
        if self.first is not None and not self.wrapped:
            device = device_of(self.first)
            args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), (args, kwargs))
            self.wrapped.append(isinstance(self.first(*args, **kwargs), tuple))
        if self.last:
            raise _EnoughError
        return (x,) if self.wrapped[0] else x


def _split(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, BlockCall]:
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for place, value in places:
        if isinstance(value, Tensor) and value.is_floating_point():
            if isinstance(place, int):
                return value, BlockCall((*args[:place], None, *args[place + 1 :]), kwargs, place)
            return value, BlockCall(args, {**kwargs, place: None}, place)
    raise InputError("walk: the blocks are called without a tensor of activations; name another container")


def twin(model: nn.Module) -> nn.Module:
    """Return a model of modules of its own and the same tensors: what is hung on it or taken out no other thread sees."""
    return copied(model, {id(tensor): tensor for tensor in own_tensors(model).values()})


@contextmanager
def _recording(container: nn.Module, first: nn.Module) -> Iterator[tuple[list[tuple[Tensor, BlockCall]], list[bool]]]:
    originals = dict(container.named_children())
    calls: list[tuple[Tensor, BlockCall]] = []
    wrapped: list[bool] = []
    try:
        for number, (name, block) in enumerate(originals.items()):
            recorder = _CallRecorder(calls, first if number == 0 else None, number == len(originals) - 1, wrapped)
            recorder.__dict__["block"] = block
            container._modules[name] = recorder
        yield calls, wrapped
    finally:
        container._modules.update(originals)


def record(model: nn.Module, container: str, tokens: Sequence[Tensor], first: nn.Module) -> list[Recorded]:
    """Return for each batch what enters the first block, and what each block is called with.

    The blocks themselves do not run, but for the first, once: what they are called with besides the activations (masks,
    rotary embeddings) does not depend on these.

    Args:
        model: whose tensors outside of the blocks are there.
        container: the path of the blocks' container.
        tokens: the batches, without anything that fills sequences up.
        first: the first block with its weights, or on meta with all of its tensors.
    """
    recorded = []
    with evaluating(model), torch.no_grad(), _recording(model.get_submodule(container), first) as (calls, wrapped):
        for batch in tokens:
            calls.clear()
            try:
                run_on_tokens(model, batch, None)
            except _EnoughError:
                pass
            else:
                raise InputError(f"walk: the model does not call every block of {container!r}; name another container")
            recorded.append(Recorded(calls[0][0], tuple(call for _, call in calls), wrapped[0]))
    return recorded
