"""What a model answers to plain inputs, kept beside it: it is built again from code on loading, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from secateur.edits.inputs import describe, restore
from secateur.randomness import private_draws
from secateur.state import device_of, evaluating, split_inputs
from secateur.structure.difference import compared_tensors, difference
from secateur.types import ExampleInputs, FileError

__all__ = ["check_answers", "question_and_answers"]

TOLERANCE, TOLERANCE_IN_HALF = 1e-3, 5e-2
"""Relative to the greatest answer; the latter where a model was saved or is loaded in half precision."""
SAMPLED = 1000
"""How many numbers of each tensor of the answers are kept, evenly over it."""


def question_and_answers(model: nn.Module, inputs: ExampleInputs) -> dict[str, Any]:
    """Return a description of inputs of ones, and numbers of what the model answers them with.

    Raises:
        FileError: the example inputs cannot be described, or the model does not run on others of their shapes.
    """
    description = describe(inputs)
    return {"inputs": description, "outputs": _answers(model, restore(description, device_of(model)))}


def _answers(model: nn.Module, inputs: Any) -> list[Tensor]:
    """What the model answers, as tensors on the CPU."""
    args, kwargs = split_inputs(inputs)
    try:
        with evaluating(model), private_draws():
            outputs = model(*args, **kwargs)
    except Exception as error:
        raise FileError(
            f"the {_kind(model)} does not run on inputs of ones ({error}); save it with torch.export.save"
        ) from error
    return [_sampled(x.detach().flatten()).cpu().clone() for x in compared_tensors(outputs)]


def _sampled(numbers: Tensor) -> Tensor:
    """Some of many numbers."""
    return numbers if len(numbers) <= SAMPLED else numbers[:: -(-len(numbers) // SAMPLED)]


def _kind(model: nn.Module) -> str:
    return "graph" if isinstance(model, GraphModule) else "model"


def check_answers(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Require the model to answer as it did when it was saved.

    Raises:
        FileError: it does not; the code of the original model is another one.
    """
    now = _answers(model, _typed(restore(saved["inputs"], device_of(model)), model))
    before = list(saved["outputs"])
    in_half = any(t.is_floating_point() and t.dtype.itemsize < 4 for t in (*before, *now))
    apart = difference(*([torch.nan_to_num(t) for t in side] for side in (before, now)))
    if not apart <= (TOLERANCE_IN_HALF if in_half else TOLERANCE):
        raise FileError(
            f"the {_kind(model)} answers otherwise than when it was saved (relative difference {apart:.1e}): the code of the "
            "model is another one, though its tensors have the same shapes"
        )


def _typed(inputs: Any, model: nn.Module) -> Any:
    """The inputs in the type that the model has now, which may be another one than when it was saved."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(dtypes) != 1:
        return inputs
    return pytree.tree_map_only(Tensor, lambda x: x.to(*dtypes) if x.is_floating_point() else x, inputs)
