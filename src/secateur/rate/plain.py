"""The plain loop: zero one unit, run the whole model, restore. Every other engine must give its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from secateur.rate.tally import Tally
from secateur.state import evaluating
from secateur.types import Member, Site, Sites
from secateur.untouched import untouched

__all__ = ["PlainLoop", "removed"]


class PlainLoop:
    """Measures each unit by a full forward pass.

    Args:
        model: a copy of the user's, which is changed and restored.
        sites: whose units are measured, of any kind.
        advance: called with the number of units that are done.
    """

    def __init__(self, model: nn.Module, sites: Sites, advance: Callable[[float], None] = lambda units: None) -> None:
        self.model, self.sites, self.advance = model, sites, advance

    def measure(self, inputs: Tensor, targets: Tensor, tally: Tally) -> None:
        """Add the changes of every unit on a batch."""
        with evaluating(self.model):
            tally.start(self.model(inputs), targets)
        with evaluating(self.model), untouched(self.model) as renew:
            for name, site in self.sites.items():
                for unit in tally.chosen[name].tolist():
                    with removed(self.model, site, unit):
                        outputs = self.model(inputs)
                        tally.add_outputs(name, slice(unit, unit + 1), outputs[None])
                    # A table that a module keeps for evaluation was made from other weights.
                    renew()
                    self.advance(1)


@contextmanager
def removed(model: nn.Module, site: Site, unit: int) -> Iterator[None]:
    """Zero what belongs to one unit in the model itself, and put it back."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    kept: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        try:
            for member in (m for m in site.members if m.unit in (None, unit)):
                parameter = parameters[member.parameter]
                kept.append((parameter, parameter.detach().clone()))
                _zero(parameter, member, unit)
            yield
        finally:
            # Backwards: where two members lie in one parameter, the first saw it whole.
            for tensor, before in reversed(kept):
                tensor.copy_(before)


def _zero(parameter: Tensor, member: Member, unit: int) -> None:
    if member.unit is not None:
        parameter.zero_()
    elif member.dim is None:
        parameter[torch.unravel_index(torch.tensor(unit), parameter.shape)] = 0
    else:
        assert member.index is not None
        parameter.index_fill_(member.dim, member.index[unit].to(parameter.device), 0)
