"""The masked model as a user holds it: zeros where units are removed, and statistics as the cut model takes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.calls import usual
from secateur.checks import check_name
from secateur.structure.reference import Reference, Statistics
from secateur.structure.sites import with_zeros
from secateur.structure.whole import WholeCases, interpreted
from secateur.types import InputError, Keep, Sites

__all__ = ["mask"]

STATISTICS = ("kept", "all")


@usual
def mask(model: nn.Module, sites: Sites, keep: Keep, *, statistics: Literal["kept", "all"] = "kept") -> nn.Module:
    """Return a copy of `model` with zeros where `keep` is False, which computes what the cut model does.

    For a channel all that is tied to it becomes zero: the weights and bias that produce it, the scale and shift of
    norms, and the weights that consume it; shapes stay as they are. A layer norm, a group norm or a standardised weight
    takes its statistics over channels, and zeros among them would change those of the others: where any is cut, the copy
    in eval mode interprets its graph and takes them over the kept ones (in train mode it runs its own code).

    Args:
        model: the model that `sites` were found in; it is left as it is.
        sites: from `channels` or `weights`.
        keep: one bool tensor a site, of the site's shape, True = keep; sites without one stay whole.
        statistics: ``"all"`` writes zeros and no more: the copy is a plain module, in which norms see the zeros too.

    >>> import torch
    >>> from secateur.structure.sites import channels, weights
    >>> model = nn.Linear(2, 2, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> masked = mask(model, weights(model), {"weight": torch.tensor([[True, False], [True, True]])})
    >>> masked.weight.tolist(), model.weight.tolist()
    ([[1.0, 0.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]])
    """
    check_name("statistics", statistics, STATISTICS)
    masked = with_zeros(model, sites, keep)
    if statistics == "kept" and sites.structure is not None:
        reference = Reference(masked, sites, keep)
        if _takes_statistics(reference):
            masked.forward = KeptStatistics(masked, sites, keep)
    return masked


def _takes_statistics(reference: Reference) -> bool:
    structure = reference.structure
    if structure is None or not structure.graph.regions:
        return reference.statistics is not None
    return any(part.reference.statistics is not None for _, part in WholeCases(reference).parts)


@dataclass(eq=False)
class KeptStatistics:
    """The forward pass of a masked model whose norms take statistics over what is cut.

    Attributes:
        module: the masked model.
        sites, keep: of which these units stay.
    """

    module: nn.Module
    sites: Sites
    keep: Keep
    _by_shapes: dict[Any, Statistics | None] = field(default_factory=dict, repr=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.module
        with _own_forward(module):
            if module.training:
                return module.forward(*args, **kwargs)
            reference = Reference(module, self.sites, self.keep)
            assert reference.structure is not None
            if reference.structure.graph.regions:
                with interpreted(module, WholeCases(reference).parts):
                    return module.forward(*args, **kwargs)
            statistics = self._statistics(reference, (args, kwargs))
            return module.forward(*args, **kwargs) if statistics is None else statistics.run(module, (args, kwargs))

    def _statistics(self, reference: Reference, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> Statistics | None:
        """The graph at the shapes of the inputs, for which the model is traced once."""
        shapes = str(pytree.tree_map(lambda leaf: tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf, inputs))
        if shapes not in self._by_shapes:
            try:
                with torch.no_grad():
                    self._by_shapes[shapes] = reference.statistics_at(inputs)
            except LookupError as error:
                raise InputError(
                    f"mask: the masked copy has no site {error} on these inputs: its forward pass computes with tensors that are "
                    "not its own, as of a module in a closure; make that module a submodule, or mask with statistics='all'"
                ) from error
        return self._by_shapes[shapes]

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptStatistics:
        # The copy's module is copied already, or is being copied: a forward pass is an attribute of it.
        return KeptStatistics(memo[id(self.module)], self.sites, self.keep)


@contextmanager
def _own_forward(module: nn.Module) -> Iterator[None]:
    """Let a module run its own code."""
    forward = module.__dict__.pop("forward")
    try:
        yield
    finally:
        module.__dict__["forward"] = forward
