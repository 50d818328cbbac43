"""What is left of a model by its keep masks: counted from the structure, or by cutting where that does not see all."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from secateur.measure import file_bytes, macs, parameters
from secateur.structure import Structure
from secateur.structure.cost import Cost
from secateur.structure.cutting import draft
from secateur.structure.sites import inputs_of
from secateur.types import ExampleInputs, Keep, Sites

__all__ = ["COUNTED", "Counter", "counter_by_cutting", "examples", "quick_counter", "size"]

COUNTED = ("macs", "parameters", "bytes")
"""What is counted, and not timed."""

Counter = Callable[[Keep], int]


def examples(sites: Sites) -> ExampleInputs:
    """Return the inputs that the sites were found on."""
    inputs = inputs_of(sites)
    assert inputs is not None
    return inputs


def size(measure: str, model: nn.Module, sites: Sites) -> int:
    """Return what a model has of a measure."""
    if measure == "macs":
        return macs(model, examples(sites))
    return parameters(model).total if measure == "parameters" else file_bytes(model)


def counter_by_cutting(model: nn.Module, sites: Sites, measure: str) -> Counter:
    """Return what cuts the model by masks and counts what is left."""
    return lambda keep: size(measure, draft(model, sites, keep), sites)


def quick_counter(model: nn.Module, sites: Sites, measure: str) -> Counter | None:
    """Return what counts from the structure; None where that does not see all that is to be counted."""
    if not isinstance(sites.structure, Structure):
        return None
    cost, whole = Cost(sites.structure), size(measure, model, sites)
    if measure == "parameters":
        return lambda keep: whole - cost.parameters_removed(keep)
    if measure == "bytes":
        # The file's header gets no longer when sizes get smaller.
        state = model.state_dict()
        return lambda keep: whole - cost.bytes_removed(keep, state)
    return cost.macs if cost.macs({}) == whole else None
