"""Models made of a config: which widths it can say, and inputs without a cache of keys and values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from secateur.structure.configs import ConfigWidth, config_widths
from secateur.structure.rebuilding import is_configured
from secateur.types import ExampleInputs, InputError, Sites

__all__ = ["uniform_sites", "without_cache"]

NOT_IN_CONFIG = "no size of the model's config gives its width; prune(..., uniform=False) cuts it"


def without_cache(model: nn.Module, example_inputs: ExampleInputs) -> ExampleInputs:
    """Return inputs that ask for no cache where the model, made of a config, would return one.

    The keys and values in a cache leave the model, so no head could go; generation makes caches of the new sizes.
    """
    parameters = list(inspect.signature(model.forward).parameters)
    if not is_configured(model) or not getattr(model.config, "use_cache", False) or "use_cache" not in parameters:
        return example_inputs
    if isinstance(example_inputs, Mapping):
        return {"use_cache": False, **example_inputs}
    positional = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    return {"use_cache": False, **dict(zip(parameters, positional, strict=False))}


def uniform_sites(model: nn.Module, sites: Sites, asked: bool | None) -> tuple[Sites, Sequence[ConfigWidth]]:
    """Return the sites whose widths the model's config can say, with those widths; all sites and none where it says none.

    Args:
        asked: False for all sites; True where a model without such a config is an error.

    Raises:
        InputError: equal widths are asked of a model that no config rebuilds.
    """
    widths = () if asked is False else config_widths(model, sites)
    if asked and not widths:
        raise InputError(
            f"prune: uniform=True, but no config says the widths of {type(model).__name__}: it is not made of one, was "
            "changed since, or its class works them out of sizes that cannot shrink; leave uniform out"
        )
    if not widths:
        return sites, ()
    named = {name for width in widths for name in width.units}
    frozen = {**sites.frozen, **{name: NOT_IN_CONFIG for name in sites if name not in named}}
    return Sites({name: site for name, site in sites.items() if name in named}, frozen, sites.structure), widths
