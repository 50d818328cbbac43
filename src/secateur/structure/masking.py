"""The masked model as a user holds it: zeros where units are removed, and statistics as the cut model takes them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.calls import usual
from secateur.checks import check_name
from secateur.structure.cases import Cases
from secateur.structure.frames import Inputs
from secateur.structure.kept_norms import keep_statistics
from secateur.structure.modes import train_mode
from secateur.structure.reference import Reference, Statistics
from secateur.structure.sites import with_zeros
from secateur.structure.whole import WholeCases, interpreted
from secateur.types import InputError, Keep, Sites
from secateur.wrappers import check_module, check_readable

__all__ = ["mask"]

STATISTICS = ("kept", "all")
IN_TRAINING = "call .eval() on it, or mask with statistics='all', where norms see the zeros too"


@usual
def mask(model: nn.Module, sites: Sites, keep: Keep, *, statistics: Literal["kept", "all"] = "kept") -> nn.Module:
    """Return a copy of `model` with zeros where `keep` is False, which computes what the cut model does.

    For a channel all that is tied to it becomes zero: the weights and bias that produce it, the scale and shift of
    norms, and the weights that consume it; shapes stay as they are. A layer norm, a group norm or a standardised weight
    takes its statistics over channels, and zeros among them would change those of the others: where any is cut, the
    copy takes them over the kept ones, in eval mode and in train mode. Modules that norm one tensor do so by a hook. Where
    other code takes statistics, the copy interprets its graph, and is traced once more on inputs of each shape; train mode is
    then refused where it is more than flags of layers, such as a branch on the mode. A batch norm that in train mode averages over units of which some are cut sees
    their zeros there: `cut` warns of it.

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
    check_module(model, "mask")
    check_readable(model, "mask")
    masked = with_zeros(model, sites, keep)
    if statistics == "kept" and sites.structure is not None:
        norms = Reference(masked, sites, keep).norms
        if norms is None:
            masked.forward = KeptStatistics(masked, sites, keep)
        else:
            keep_statistics(masked, norms)
    return masked


@dataclass(eq=False)
class KeptStatistics:
    """The forward pass of a masked model whose norms take statistics over what is cut.

    Attributes:
        module: the masked model.
        sites, keep: of which these units stay.
    """

    is_of_masked_copy: ClassVar[bool] = True

    module: nn.Module
    sites: Sites
    keep: Keep
    _by_shapes: dict[Any, Statistics | None] = field(default_factory=dict, repr=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.module
        with _own_forward(module):
            reference = Reference(module, self.sites, self.keep)
            assert reference.structure is not None
            if reference.structure.graph.regions:
                if module.training:
                    raise InputError(f"mask: {type(module).__name__} was traced in parts, in eval mode; {IN_TRAINING}")
                with interpreted(module, WholeCases(reference).parts):
                    return module.forward(*args, **kwargs)
            trained = Cases(reference).trained
            if module.training and trained is not None:
                reference = trained.reference
            inputs = _by_name(module, args, kwargs)
            statistics = self._statistics(reference, inputs)
            return module.forward(*args, **kwargs) if statistics is None else statistics.run(module, inputs)

    def _statistics(self, reference: Reference, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> Statistics | None:
        """The graph at the shapes of the inputs, for which the model is traced once."""
        shapes = str(pytree.tree_map(lambda leaf: tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf, inputs))
        shapes += f" {self.module.training}"
        if shapes not in self._by_shapes:
            try:
                with torch.no_grad():
                    self._by_shapes[shapes] = self._in_this_mode(reference.statistics_at(inputs))
            except LookupError as error:
                raise InputError(
                    f"mask: the masked copy has no site {error} on these inputs: its forward pass computes with tensors that are "
                    "not its own, as of a module in a closure; make that module a submodule, or mask with statistics='all'"
                ) from error
        return self._by_shapes[shapes]

    def _in_this_mode(self, statistics: Statistics | None) -> Statistics | None:
        if statistics is None or not self.module.training:
            return statistics
        train = train_mode(self.module, statistics.structure.graph)
        if train.differs:
            raise InputError(
                f"mask: the masked copy computes what the model does in eval mode alone: {train.differs}; {IN_TRAINING}"
            )
        return replace(statistics, train=train)

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptStatistics:
        # The copy's module is copied already, or is being copied: a forward pass is an attribute of it.
        return KeptStatistics(memo[id(self.module)], self.sites, self.keep)


def _by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """The same inputs all by name, in the order of the forward pass, where all have a name."""
    signature = inspect.signature(module.forward)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if not kwargs or kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY}:
        return args, kwargs
    bound = signature.bind(*args, **kwargs)
    rest = next((n for n, p in signature.parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD), "")
    named = {name: value for name, value in bound.arguments.items() if name != rest}
    return (), {**named, **bound.arguments.get(rest, {})}


@contextmanager
def _own_forward(module: nn.Module) -> Iterator[None]:
    """Let a module run its own code."""
    forward = module.__dict__.pop("forward")
    try:
        yield
    finally:
        module.__dict__["forward"] = forward
