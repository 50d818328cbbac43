"""A model and a loss tried on a batch: what they do not take is one error, whatever their own code raises."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from secateur.checks import in_one_line
from secateur.labelled import SampleBatch, logits_of
from secateur.losses import answers, check_answers
from secateur.state import UNCHANGED, tensors
from secateur.trees import changed
from secateur.types import InputError, Loss

__all__ = ["loss_of_answers", "try_loss", "try_model"]


def try_model(model: nn.Module, batch: SampleBatch, what: str) -> Any:
    """Return what a model answers; `what` says in the error whose inputs it does not take.

    Raises:
        InputError: the model raises something, which is then the cause.

    >>> import torch
    >>> try_model(nn.Linear(2, 1), SampleBatch(torch.zeros(1, 2).half()), "evaluate")
    Traceback (most recent call last):
    secateur.types.InputError: evaluate: the model does not take inputs of shape (1, 2) and torch.float16: RuntimeError: \
mat1 and mat2 must have the same dtype, but got Half and Float; its weights are torch.float32: bring both to one type, \
as by .float()
    """
    try:
        return batch.run(model)
    except UNCHANGED:
        raise
    except Exception as error:
        raise InputError(
            f"{what}: the model does not take inputs of {_shapes(batch.inputs)}: {in_one_line(error)}"
            f"{_beyond(batch) if isinstance(error, IndexError) else _types_apart(model, batch)}"
        ) from error


def _beyond(batch: SampleBatch) -> str:
    """Which whole numbers were given, for a table of embeddings that is shorter; empty where there are none."""
    whole = [x for name, x in batch.named() if name.startswith("x") and not x.is_floating_point() and x.numel()]
    return (
        f"; its whole numbers go up to {max(int(x.max()) for x in whole)}: an embedding has fewer rows" if whole else ""
    )


def _types_apart(model: nn.Module, batch: SampleBatch) -> str:
    """The types of weights and inputs in words, with a remedy, where they differ; empty where they are one."""
    weights = {tensor.dtype for tensor in tensors(model).values() if tensor.is_floating_point() or tensor.is_complex()}
    inputs = {tensor.dtype for name, tensor in batch.named() if name.startswith("x")}
    if len(weights) != 1 or inputs <= weights:
        return ""
    return f"; its weights are {weights.pop()}: bring both to one type, as by .float()"


def loss_of_answers(outputs: Any, targets: Any, loss: Loss, what: str) -> Tensor:
    """Return the loss of what a model answers, a scalar.

    Raises:
        InputError: the loss raises something, which is then the cause, or returns no scalar.
    """
    shapes = f"outputs of {_shapes(outputs)} and targets of {_shapes(targets)}"
    try:
        value = loss(outputs, targets)
    except UNCHANGED:
        raise
    except Exception as error:
        raise InputError(f"{what}: the loss does not take {shapes}: {in_one_line(error)}") from error
    if not isinstance(value, Tensor) or value.ndim:
        raise InputError(f"{what}: the loss must return a scalar tensor for {shapes}; take the mean over the batch")
    return value


def try_loss(model: nn.Module, batch: SampleBatch, loss: Loss, what: str) -> Any:
    """Return what a model answers, the logits of what names them, where the loss takes it.

    Raises:
        InputError: it does not, raises something, or returns no scalar.
    """
    outputs = answers(try_model(model, batch, what), loss)
    check_answers(outputs, batch.targets, loss, what)
    loss_of_answers(outputs, batch.targets, loss, what)
    return logits_of(outputs)


def _shapes(values: Any) -> Any:
    """Shapes and types in words, of one tensor or of several.

    >>> import torch
    >>> _shapes(torch.zeros(2, 3)), _shapes({"ids": torch.zeros(2), "cache": None})
    ('shape (2, 3) and torch.float32', {'ids': 'shape (2,) and torch.float32', 'cache': None})
    """
    return changed(values, lambda tensor: f"shape {tuple(tensor.shape)} and {tensor.dtype}")
