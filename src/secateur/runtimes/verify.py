"""An exported model is compared with torch before anybody gets it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.randomness import private_draws
from secateur.runtimes.base import Exported
from secateur.state import called
from secateur.structure.difference import difference
from secateur.types import ExampleInputs, ExportError, InputError

__all__ = ["check_runnable", "compare", "noisy"]

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2}
"""The greatest difference over the greatest output, by the least exact type of number that a model returns."""

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def check_runnable(inputs: list[Tensor], outputs: Any) -> None:
    """Refuse what is not to be compared, or not to be handed over.

    Raises:
        ExportError: outputs that are NaN, or types of numbers that numpy does not have.
    """
    tensors = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    for tensor in (*inputs, *tensors):
        if tensor.dtype is torch.bfloat16 or tensor.is_complex() or tensor.is_quantized:
            raise ExportError(
                f"export: the model takes or returns {str(tensor.dtype).removeprefix('torch.')}, which cannot be handed "
                "to the runtime; export model.float()"
            )
    if any(bool(torch.isnan(tensor).any()) for tensor in tensors if tensor.is_floating_point()):
        raise ExportError(
            "export: the model's outputs on the example are NaN, so nothing can be compared; mend that first"
        )


def compare(model: nn.Module, exported: Exported, inputs: Inputs, samples: int | None = None) -> float:
    """Return how far an exported model's outputs are from torch's; on another number of samples than the example's if it is given.

    Raises:
        ExportError: too far; the message says how far.
    """
    args, kwargs = inputs
    expected = [leaf for leaf in pytree.tree_leaves(called(model, args, kwargs)) if isinstance(leaf, Tensor)]
    tolerance = max((TOLERANCES.get(t.dtype, 0.0) for t in expected), default=0.0)
    try:
        answers = [leaf for leaf in pytree.tree_leaves(exported.run(*args, **kwargs)) if isinstance(leaf, Tensor)]
        apart = max(_apart(a, b) for a, b in zip(expected, answers, strict=True))
    except InputError:  # the runtime refuses them
        if samples is None:
            raise
        apart = float("inf")
    if not apart <= tolerance and samples is not None:
        raise ExportError(
            f"export: with a batch of {samples} {exported.runtime} computes something else than torch: the model's code asks "
            "how large the batch is, and a file goes one way alone; leave out dynamic_batch"
        )
    if not apart <= tolerance:
        raise ExportError(
            f"export: {exported.runtime} computes something else than torch: outputs differ by {apart:.2g} of the "
            f"greatest on the example (up to {tolerance:g} is rounding). The model may draw random numbers or depend on what it "
            "was called with before; otherwise it is a fault of the exporter, so please report the model"
        )
    return apart


def _apart(expected: Tensor, answer: Tensor) -> float:
    if expected.shape != answer.shape or expected.dtype != answer.dtype:
        return float("inf")
    if expected.is_floating_point():
        return difference([expected], [answer])
    return 0.0 if torch.equal(expected, answer) else float("inf")


def noisy(example_inputs: ExampleInputs) -> ExampleInputs | None:
    """Return the example with noise where a tensor holds one number alone, such as zeros, which hide faults; None else.

    >>> noisy(torch.zeros(2)) is None, noisy(torch.tensor([1.0, 2.0])) is None
    (False, True)
    """
    constant = [id(leaf) for leaf in pytree.tree_leaves(example_inputs) if _constant(leaf)]
    if not constant:
        return None
    with private_draws(0):
        noise: ExampleInputs = pytree.tree_map_only(
            Tensor, lambda leaf: torch.randn_like(leaf) if id(leaf) in constant else leaf, example_inputs
        )
    return noise


def _constant(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and bool((leaf == leaf.flatten()[0]).all())
