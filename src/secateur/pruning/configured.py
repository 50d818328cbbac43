"""Models made of a config: inputs without a cache of keys and values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import Tensor, nn

from secateur.structure.rebuilding import is_configured
from secateur.structure.signature import RETURNED_BESIDES
from secateur.types import ExampleInputs

__all__ = ["without_cache"]


def without_cache(model: nn.Module, example_inputs: ExampleInputs) -> ExampleInputs:
    """Return inputs that ask for no cache where the model, made of a config, would return one.

    The keys and values in a cache leave the model, so no head could go; generation makes caches of the new sizes.
    """
    if not is_configured(model) or not getattr(model.config, "use_cache", False):
        return example_inputs
    parameters = list(inspect.signature(model.forward).parameters)
    if "use_cache" not in parameters:
        return example_inputs
    if isinstance(example_inputs, Mapping):
        return {**RETURNED_BESIDES, **example_inputs}
    positional = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    return {**RETURNED_BESIDES, **dict(zip(parameters, positional, strict=False))}
