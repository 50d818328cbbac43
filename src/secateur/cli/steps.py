"""Steps of a compression as text: ``low-rank:macs=0.5,refit=true``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from secateur.cli.root import options_of

if TYPE_CHECKING:
    from secateur.compression.options import Step
    from secateur.labelled import Samples

__all__ = ["step_of", "steps_of"]

NEXT_OPTION = re.compile(r",(?=[a-z_]+=)")
"""A comma that another option follows; those within a value, as in block=[4,1], are of the value."""


def steps_of(texts: Sequence[str], data: Samples | None) -> list[Step]:
    """Return the steps that texts describe, in their order.

    Args:
        texts: such as ``prune:sparsity=0.5``, ``share:bits=4`` or ``quantize``.
        data: what a step looks at that needs some.

    Raises:
        InputError, UnknownNameError: no such step, no such option of it, or a value that it does not take.
    """
    return [step_of(text, data) for text in texts]


def step_of(text: str, data: Samples | None = None) -> Step:
    """Return the step that a text describes.

    >>> step_of("prune:sparsity=0.5,unit=weights").sparsity
    0.5
    >>> step_of('low_rank:rank={"fc1": 8}').rank
    {'fc1': 8}
    """
    from secateur.checks import check_name
    from secateur.pruning import Prune
    from secateur.transforms import TRANSFORMS
    from secateur.types import InputError, unknown_name

    kinds: dict[str, Any] = {Prune.kind: Prune, **TRANSFORMS}
    name, _, options = text.partition(":")
    name = name.strip().replace("_", "-")
    check_name("step", name, kinds)
    kind = kinds[name]
    pairs = options_of(NEXT_OPTION.split(options) if options else [], f"--step {name}")
    values = {option: tuple(value) if isinstance(value, list) else value for option, value in pairs.items()}
    known_options = {option.name for option in fields(kind)} - {"data", "validation", "train"}
    for needed in (option.name for option in fields(kind) if option.default is MISSING is option.default_factory):
        if needed not in values:
            raise InputError(f"--step {name}: it needs {needed}, as in --step {name}:{needed}=…")
    for option in values:
        if option not in known_options:
            raise unknown_name(f"option of the step {name}", option, known_options)
    if name == "quantize" and values.get("input_bits") is None:
        data = None
    looks = name in ("low-rank", "structure", "quantize") and data is not None
    step: Step = kind(**values, **({"data": data} if looks else {}))
    return step
