"""The inputs and outputs of a model as a runtime sees them: flat tensors, without the nesting around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.types import InputError

__all__ = ["Interface"]


@dataclass(frozen=True, eq=False)
class _Nesting:
    """How tensors are nested in a value: its tree, and its leaves that are no tensors."""

    tree: Any
    others: Mapping[int, Any]
    leaves: int

    @classmethod
    def of(cls, value: Any) -> Self:
        leaves, tree = pytree.tree_flatten(value)
        others = {place: leaf for place, leaf in enumerate(leaves) if not isinstance(leaf, Tensor)}
        return cls(tree, others, len(leaves))

    def rebuilt(self, tensors: Sequence[Tensor]) -> Any:
        """The value with other tensors."""
        rest = iter(tensors)
        leaves = [self.others[place] if place in self.others else next(rest) for place in range(self.leaves)]
        return pytree.tree_unflatten(leaves, self.tree)


@dataclass(frozen=True, eq=False)
class Interface:
    """What a model was called with when it was exported, and what it returned.

    >>> interface = Interface.of((torch.zeros(1),), {"scale": 2}, {"sum": torch.zeros(1), "more": [torch.ones(1), None]})
    >>> interface.flat((torch.ones(3),), {"scale": 2})
    [tensor([1., 1., 1.])]
    >>> interface.outputs([torch.zeros(2), torch.ones(2)])
    {'sum': tensor([0., 0.]), 'more': [tensor([1., 1.]), None]}

    Attributes:
        inputs, returned: how its inputs and its outputs are nested.
        outputs_like: the types and shapes of the tensors that it returned.
    """

    inputs: _Nesting
    returned: _Nesting
    outputs_like: tuple[tuple[torch.dtype, torch.Size], ...]

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: Any) -> Self:
        """Read it from a call.

        Raises:
            InputError: the model returns an object that torch cannot look into, or no tensor.
        """
        returned = _Nesting.of(outputs)
        for leaf in returned.others.values():
            if not isinstance(leaf, (int, float, str, type(None))):
                raise InputError(
                    f"export: the model returns a {type(leaf).__name__}, into which torch cannot look; return tensors, or "
                    "tuples, lists and dicts of them, or register the class with torch.export.register_dataclass"
                )
        if len(returned.others) == returned.leaves:
            raise InputError("export: the model returns no tensor, so there is nothing to run it for")
        tensors = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
        return cls(_Nesting.of((args, dict(kwargs))), returned, tuple((leaf.dtype, leaf.shape) for leaf in tensors))

    def flat(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Return the tensors of other inputs, which must be nested as the example was.

        Raises:
            InputError: they are not, or hold another plain value, which is fixed in an export.
        """
        nesting = _Nesting.of((args, dict(kwargs)))
        if nesting.tree != self.inputs.tree or nesting.others.keys() != self.inputs.others.keys():
            raise InputError(
                f"the exported model takes inputs nested as in its example, {_words(self.inputs)}; got {_words(nesting)}"
            )
        for place, value in nesting.others.items():
            if value != self.inputs.others[place]:
                raise InputError(
                    f"the exported model has the plain input {self.inputs.others[place]!r} fixed in it; got {value!r}. "
                    "Export it again with that one"
                )
        leaves = pytree.tree_leaves((args, dict(kwargs)))
        return [leaf.detach().cpu() for leaf in leaves if isinstance(leaf, Tensor)]

    def flattened(self, model: nn.Module) -> nn.Module:
        """Return the model as one that takes tensors one after another, and returns a tuple of tensors."""
        return _Flat(model, self).eval()

    def called(self, model: nn.Module, tensors: Sequence[Tensor]) -> Any:
        """Return what the model answers to tensors, nested as the example was."""
        args, kwargs = self.inputs.rebuilt(tensors)
        return model(*args, **kwargs)

    def outputs(self, tensors: Sequence[Tensor]) -> Any:
        """Return tensors nested as what the model returned.

        Runtimes may give whole numbers of another width, and leave out dimensions of 1: those are as the model's again.
        """
        pairs = zip(tensors, self.outputs_like, strict=True)
        return self.returned.rebuilt([_like(tensor, dtype, shape) for tensor, (dtype, shape) in pairs])

    @property
    def output_count(self) -> int:
        """How many tensors the model returns."""
        return self.returned.leaves - len(self.returned.others)


class _Flat(nn.Module):
    """A model without the nesting of its inputs and outputs, for runtimes that know tensors alone."""

    def __init__(self, model: nn.Module, interface: Interface) -> None:
        super().__init__()
        self.model, self.interface = model, interface

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        returned = pytree.tree_leaves(self.interface.called(self.model, tensors))
        return tuple(leaf for leaf in returned if isinstance(leaf, Tensor))


def _like(tensor: Tensor, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    if tensor.ndim != len(shape) and tensor.numel() == shape.numel():
        tensor = tensor.reshape(shape)
    return tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.to(dtype)


def _words(nesting: _Nesting) -> str:
    args, kwargs = nesting.rebuilt([torch.empty(0)] * (nesting.leaves - len(nesting.others)))
    shown = pytree.tree_map(lambda leaf: "tensor" if isinstance(leaf, Tensor) else leaf, [*args, kwargs])
    return f"{shown[:-1]} and {shown[-1]}" if kwargs else str(shown[:-1])
