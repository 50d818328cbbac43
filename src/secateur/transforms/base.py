"""What a transform is: options, called with a model and example inputs, that decide upon edits and do them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from secateur.calls import usual
from secateur.edits import Edit, replay
from secateur.hints import Checked
from secateur.labelled import SampleBatch, batches
from secateur.randomness import private_draws
from secateur.result import LayerReport, Log, Method, Replayed, Result
from secateur.state import called, check_finite, evaluating, split_inputs
from secateur.state_dicts import fill
from secateur.structure.difference import difference, is_usable
from secateur.types import ExampleInputs, FileError, InputError, Sites, VerificationError, changed_options, in_groups
from secateur.wrappers import check_module

__all__ = ["Transform", "Transformed", "check_changed"]

TOLERANCE = 1e-6
"""What rounding may do between a result and the same edits done again, as a share of the greatest output."""


COMPARED = 256
"""On how many samples of the data, where they are in memory, outputs are compared with the original's."""


@dataclass(frozen=True, eq=False)
class Transformed(Checked):
    """What a transform made of a model.

    Attributes:
        model: the new model; the one that was given is as it was.
        edits: what was done, in order: done to the original, with this model's state filled in, they give this model.
        layers: what became of each layer that changed.
        left: the layers that were left as they are, with the reason.
        warnings: what may not be as it was meant.
        history: how it went; None where there is nothing to tell.
    """

    model: nn.Module
    edits: tuple[Edit, ...]
    layers: tuple[LayerReport, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    history: Log | None = None


class Transform(Checked, ABC):
    """What makes a model smaller in another way than by cutting: a frozen dataclass of options.

    Called with ``(model, example_inputs)`` it returns a `Result`, and changes nothing that it is given. A subclass writes
    `_transform`; here the model is checked, the result run and compared, and put in its form. To follow a cut, or another
    transform, ``transform(earlier.model, inputs).after(earlier)`` is the result from the start.

    Attributes:
        kind: its name in `TRANSFORMS`.
    """

    kind: ClassVar[str]

    @usual
    def __call__(self, model: nn.Module, example_inputs: ExampleInputs) -> Result:
        """Return the smaller model with its report.

        Args:
            model: it is left as it is.
            example_inputs: a tensor, a tuple of positional inputs, or a mapping of keyword inputs: what the result is
                verified on, and its multiply-accumulates counted.

        Raises:
            InputError: the model or the inputs cannot be worked with, or no layer can be changed.
            VerificationError: the result does not run as the model does, or its edits do not give it again.
        """
        doing = type(self).__name__
        check_module(model, doing)
        split_inputs(example_inputs)
        check_finite(model, doing, "repair the model first")
        change = self._transform(model, example_inputs)
        verification = check_changed(model, change, example_inputs, doing)
        method = Method(criterion=changed_options(self), warnings=change.warnings)
        return Result(
            model=change.model,
            original=model,
            sites=Sites({}, change.left),
            keep={},
            edits=change.edits,
            method=method,
            verification=verification,
            history=change.history,
            inputs=example_inputs,
            layers=change.layers,
        ).compared(self._samples())

    def _samples(self) -> SampleBatch | None:
        """What the outputs are compared on: the first batch of the data, where the transform has some."""
        data = getattr(self, "data", None)
        return None if data is None else next(batches(data, COMPARED, type(self).__name__))

    @abstractmethod
    def _transform(self, model: nn.Module, example_inputs: ExampleInputs) -> Transformed:
        """Return the new model, what was done, and what became of each layer."""


def check_changed(model: nn.Module, change: Transformed, example_inputs: ExampleInputs, doing: str) -> Replayed:
    """Require that the result answers in the model's form, and that its edits done to the model again give the same.

    Raises:
        InputError: nothing was changed.
        VerificationError: outputs of other shapes, NaN where the model has none, or another answer when done again.
    """
    if not change.edits:
        raise InputError(f"{doing}: no layer was changed: {in_groups(change.left) or 'the model has none of its kind'}")
    before, after = _answers(model, example_inputs), _answers(change.model, example_inputs)
    if difference(before, after) == float("inf") or (is_usable(before) and not is_usable(after)):
        raise VerificationError(
            f"{doing}: the changed model does not answer in the form in which the model does, or with NaN; leave out layers "
            "with ignore=[…]"
        )
    try:
        again = replay(change.edits, model)
        fill(again, change.model.state_dict(), "the changed model")
    except FileError as error:
        raise VerificationError(f"{doing}: its edits done again do not fit ({error})") from error
    apart = difference(after, _answers(again, example_inputs))
    if not apart <= TOLERANCE:
        raise VerificationError(f"{doing}: its edits done again give other answers (relative difference {apart:.1e})")
    return Replayed(apart)


def _answers(model: nn.Module, example_inputs: ExampleInputs) -> Any:
    with torch.no_grad(), evaluating(model), private_draws(0):
        return called(model, *split_inputs(example_inputs))
