"""One block as a module of its activations alone, into which the weights of others that are made alike are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.copies import copied
from secateur.labelled import SampleBatch
from secateur.state import own_tensors
from secateur.stream.blocks import BlockCall
from secateur.structure.shallower import COUNTERS
from secateur.types import InputError

__all__ = ["PREFIX", "CallFrame", "Slot", "kind_of"]

PREFIX = "block."
"""Before the names of a block's own tensors in a slot."""


@dataclass(frozen=True, eq=False)
class CallFrame:
    """What the calls of one block on all batches have in common.

    Attributes:
        leaves: all that it is called with; None for tensors, which lie in `constants` or differ from batch to batch.
        spec: how the leaves are put together.
        constants: tensors that are the same on all batches, by their position among the leaves.
        varying: the positions of those that are not.
        place: where the activations stand.
    """

    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec
    constants: Mapping[int, Tensor]
    varying: tuple[int, ...]
    place: int | str

    @classmethod
    def of(cls, calls: Sequence[BlockCall]) -> CallFrame:
        """Return the frame of a block's calls, one a batch.

        Raises:
            InputError: batches call the block in different ways.
        """
        tables = [pytree.tree_flatten((call.args, dict(call.kwargs))) for call in calls]
        first, spec = tables[0]
        constants, varying, leaves = {}, [], []
        for position, leaf in enumerate(first):
            others = [table[position] for table, _ in tables[1:]]
            if not isinstance(leaf, Tensor):
                leaves.append(leaf)
                continue
            leaves.append(None)
            if all(leaf is other or (leaf.shape == other.shape and torch.equal(leaf, other)) for other in others):
                constants[position] = leaf
            else:
                varying.append(position)
        if any(other != spec for _, other in tables):
            raise InputError("walk: a block is called with other arguments on some batches; give batches of one kind")
        return cls(tuple(leaves), spec, constants, tuple(varying), calls[0].place)

    def __deepcopy__(self, memo: dict[int, Any]) -> CallFrame:
        return self  # it never changes

    def batch(self, x: Tensor, call: BlockCall) -> SampleBatch:
        """Return a batch of a slot: the activations of one sequence, and what differs from batch to batch."""
        flat = pytree.tree_flatten((call.args, dict(call.kwargs)))[0]
        # Each counts as one sample, as the sequence does, whatever its own first dimension is.
        varying = (flat[position].unsqueeze(0) for position in self.varying)
        return SampleBatch((x, *varying) if self.varying else x)


class Slot(nn.Module):
    """A block that is called with its activations alone (and what differs from batch to batch), and returns a tensor.

    Args:
        block: with its weights, or on meta; it is copied.
        frame: what it is called with besides.
        device: where the slot is.

    >>> from secateur.stream.blocks import BlockCall
    >>> slot = Slot(nn.Linear(2, 2), CallFrame.of([BlockCall((None,), {}, 0)]), torch.device("cpu"))
    >>> slot.load({"weight": torch.eye(2), "bias": torch.zeros(2)}, slot.frame)
    >>> slot(torch.ones(1, 2))
    tensor([[1., 1.]])
    """

    def __init__(self, block: nn.Module, frame: CallFrame, device: torch.device) -> None:
        super().__init__()
        memo: dict[int, Any] = {
            id(p): nn.Parameter(torch.empty_like(p, device=device), False) for p in block.parameters()
        }
        self.block = copied(block, memo).eval()
        self.frame = frame
        for position, tensor in frame.constants.items():
            self.register_buffer(f"constant_{position}", tensor.detach().clone().to(device), persistent=False)

    def forward(self, x: Tensor, *varying: Tensor) -> Tensor:
        """Return what flows on."""
        leaves = list(self.frame.leaves)
        for position in self.frame.constants:
            leaves[position] = getattr(self, f"constant_{position}")
        for position, tensor in zip(self.frame.varying, varying, strict=True):
            leaves[position] = tensor[0]
        args, kwargs = pytree.tree_unflatten(leaves, self.frame.spec)
        args, kwargs = BlockCall(args, kwargs, self.frame.place).filled(x)
        out = self.block(*args, **kwargs)
        result: Tensor = out[0] if isinstance(out, tuple) else out
        return result

    def load(self, tensors: Mapping[str, Tensor], frame: CallFrame) -> None:
        """Take over a block's tensors, by their names in the block, and what is constant in its calls.

        Raises:
            InputError: a parameter is missing.
        """
        with torch.no_grad():
            for name, mine in own_tensors(self.block).items():
                if name in tensors:
                    mine.copy_(tensors[name])
                elif isinstance(mine, nn.Parameter):
                    raise InputError(
                        f"walk: the weights of a block have no {name!r}; are the files those of this model?"
                    )
            for position, tensor in frame.constants.items():
                getattr(self, f"constant_{position}").copy_(tensor)


def kind_of(block: nn.Module, frame: CallFrame) -> str:
    """Return what blocks that one slot can hold have in common: class, tensors, attributes and the form of their calls.

    >>> frame = CallFrame.of([BlockCall((None,), {}, 0)])
    >>> kind_of(nn.Linear(2, 2), frame) == kind_of(nn.Linear(2, 2), frame), kind_of(nn.Linear(2, 2), frame) == kind_of(nn.Linear(2, 3), frame)
    (True, False)
    """
    parts = [str(frame.spec), repr(frame.leaves), repr([(p, t.shape, t.dtype) for p, t in frame.constants.items()])]
    for path, module in block.named_modules():
        plain = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, int | float | str | bool)
            and not name.startswith("_")
            and name not in {*COUNTERS, "training"}
        }
        parts.append(f"{path} {type(module).__qualname__} {sorted(plain.items(), key=str)}")
    parts += [f"{name} {tuple(t.shape)} {t.dtype}" for name, t in own_tensors(block).items()]
    return "\n".join(parts)
