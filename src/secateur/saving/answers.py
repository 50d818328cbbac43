"""What a model in graph form answers to plain inputs, kept beside it: a graph is traced again on loading, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.edits.inputs import describe, restore
from secateur.randomness import private_draws
from secateur.state import device_of, evaluating, split_inputs
from secateur.structure.difference import difference
from secateur.types import ExampleInputs, FileError

__all__ = ["check_answers", "question_and_answers"]

TOLERANCE = 1e-3


def question_and_answers(model: nn.Module, inputs: ExampleInputs) -> dict[str, Any]:
    """Return a description of inputs of ones, and the tensors that the model answers them with.

    Raises:
        FileError: the example inputs cannot be described, or the graph does not run on others of their shapes.
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
            f"the graph does not run on inputs of ones ({error}); save it with torch.export.save"
        ) from error
    return [x.detach().cpu().clone().contiguous() for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor)]


def check_answers(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Require the model to answer as it did when it was saved.

    Raises:
        FileError: it does not; the code of the original model is another one.
    """
    now = _answers(model, restore(saved["inputs"], device_of(model)))
    pairs = [(torch.nan_to_num(a), torch.nan_to_num(b)) for a, b in zip(saved["outputs"], now, strict=True)]
    apart = difference([a for a, _ in pairs], [b for _, b in pairs])
    if not apart <= TOLERANCE:
        raise FileError(f"the graph answers otherwise than when it was saved (relative difference {apart:.1e})")
