"""Blocks whose answers a model adds to something or takes from it (``x = x + block(x)``): one that answers zeros changes nothing."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.randomness import private_draws
from secateur.state import called, evaluating
from secateur.trees import tensors_within

__all__ = ["added_blocks"]

aten = torch.ops.aten
SUMS = {aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.sub_.Tensor}


def added_blocks(
    model: nn.Module, paths: Collection[str], inputs: tuple[tuple[Any, ...], dict[str, Any]]
) -> frozenset[str]:
    """Return which of these blocks leave everything as it is where they answer zeros: that is tried, all at once.

    Zeros may be scaled or dropped on their way; they must end in sums with something else, and nowhere else. Where the zeros of
    several meet in one sum, as in one that begins with them, each of these is tried while the others answer.

    Args:
        model: it is left as it is.
        paths: modules within it that answer a tensor, or a tuple of them.
        inputs: what the model is called with.

    >>> class Sum(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.added, self.last = nn.Linear(2, 2), nn.Linear(2, 2)
    ...     def forward(self, x):
    ...         return self.last(x + 2 * self.added(x))
    >>> sorted(added_blocks(Sum(), ["added", "last"], ((torch.ones(1, 2),), {})))
    ['added']
    """
    at_once = _followed(model, paths, inputs)
    alone = {path: _followed(model, [path], inputs) for path in sorted(at_once.met)}
    added = at_once.added | {path for path, zeros in alone.items() if zeros.added}
    otherwise = (at_once.otherwise - at_once.met) | {path for path, zeros in alone.items() if zeros.otherwise}
    return frozenset(added - otherwise)


def _followed(model: nn.Module, paths: Collection[str], inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> _Zeros:
    """What becomes of the zeros that these blocks answer."""
    zeros = _Zeros()

    def answer_zeros(path: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            answers = tuple(map(torch.zeros_like, output if isinstance(output, tuple) else (output,)))
            zeros.of |= {id(answer): (answer, {path}) for answer in answers}
            return answers if isinstance(output, tuple) else answers[0]

        return hook

    with evaluating(model), private_draws():
        handles = [model.get_submodule(path).register_forward_hook(answer_zeros(path)) for path in paths]
        try:
            with zeros:
                outputs = called(model, *inputs)
        finally:
            for handle in handles:
                handle.remove()
    for tensor in tensors_within(outputs):
        zeros.otherwise |= zeros.blocks(tensor)
    return zeros


class _Zeros(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows zeros through a forward pass.

    Attributes:
        of: tensors of zeros, with the blocks that answered them, by the tensor's id, which is its own while it lives.
        added, otherwise: the blocks whose zeros were added to something, or went another way.
        met: those whose zeros were added to those of others.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.of: dict[int, tuple[Tensor, set[str]]] = {}
        self.added: set[str] = set()
        self.otherwise: set[str] = set()
        self.met: set[str] = set()

    def blocks(self, tensor: Tensor) -> set[str]:
        """Return the blocks that a tensor of zeros comes from."""
        return self.of[id(tensor)][1] if id(tensor) in self.of else set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operands = tensors_within((args, kwargs or {}))
        blocks = set().union(*map(self.blocks, operands))
        others = [x for x in operands if id(x) not in self.of and not isinstance(x, nn.Parameter)]
        before = others[0].clone() if blocks and func in SUMS and len(others) == 1 else None
        result = func(*args, **(kwargs or {}))
        if not blocks:
            return result
        if before is not None and torch.equal(result, before.broadcast_to(result.shape)):
            self.added |= blocks
            self.of.pop(id(result), None)  # what was added to the zeros in place is no zero now
        elif isinstance(result, Tensor) and not others and not bool(result.count_nonzero()):
            self.of[id(result)] = (result, blocks)
            self.met |= blocks if func in SUMS and len(set(map(id, operands))) > 1 else set()
        else:
            self.otherwise |= blocks
        return result
