"""Masked ≡ cut where gradients are recorded, for models whose code asks for that: no trace has seen what it runs then."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from secateur.randomness import private_draws
from secateur.state import evaluating
from secateur.structure.circumstances import requiring_gradients
from secateur.structure.difference import compared_tensors, difference
from secateur.structure.frames import Inputs
from secateur.structure.reference import Reference
from secateur.structure.train_code import in_mode
from secateur.structure.verify import allowed_on
from secateur.switches import unfused_attention
from secateur.trees import changed
from secateur.types import VerificationError
from secateur.untouched import writes_undone

__all__ = ["verify_with_gradients"]


@dataclass(frozen=True)
class _Circumstance:
    """How a model is called on the example."""

    training: bool
    gradients: bool = False
    deriving: bool = False

    def __str__(self) -> str:
        asked = " and inputs that require them" if self.deriving else ""
        return f"in {'train' if self.training else 'eval'} mode with gradients on{asked}"

    def run(self, module: nn.Module, inputs: Inputs) -> list[Tensor]:
        """Return the tensors that a module answers."""
        args, kwargs = changed(inputs, requiring_gradients if self.deriving else Tensor.clone)
        with in_mode(module, self.training), torch.set_grad_enabled(self.gradients):
            return [tensor.detach() for tensor in compared_tensors(module(*args, **kwargs))]


def verify_with_gradients(reference: Reference, cut: nn.Module, tolerance: float, statistics: bool) -> tuple[str, ...]:
    """Compare a cut module with the masked model on the example wherever that answers otherwise as gradients are on.

    Args:
        reference: the masked model, in eval mode.
        cut: the cut module; it is left as it is.
        tolerance: the greatest relative difference.
        statistics: whether the masked model takes statistics over what is cut, so that it does not run by itself.

    Returns:
        What could not be compared, with the reason.

    Raises:
        VerificationError: they differ, or the cut module does not run there.
    """
    skipped = []
    for training, deriving in product((False, True), repeat=2):
        here = _Circumstance(training, True, deriving)
        try:
            without, expected = _masked(reference, _Circumstance(training)), _masked(reference, here)
        except Exception:  # noqa: BLE001  (a forward pass raises what it likes, as without targets)
            continue
        allowed = allowed_on(expected, tolerance)
        if difference(without, expected) <= allowed:
            continue
        if statistics:
            skipped.append(f"{here}: it answers otherwise there, and takes statistics over what is cut")
        elif not difference(expected, _masked(reference, here)) <= allowed:
            skipped.append(f"{here}: it answers otherwise each time")
        else:
            _compare(expected, cut, reference.inputs, here, allowed)
    return tuple(skipped)


def _masked(reference: Reference, circumstance: _Circumstance) -> list[Tensor]:
    tensors = {name: tensor.detach() for name, tensor in reference.tensors.items()}
    answers: list[Tensor] = reference.outputs(
        tensors.__getitem__,
        reference.inputs,
        circumstance,
        double=False,
    )
    return answers


def _compare(expected: list[Tensor], cut: nn.Module, inputs: Inputs, here: _Circumstance, allowed: float) -> None:
    try:
        with evaluating(cut), private_draws(), writes_undone(cut), unfused_attention():
            deviation = difference(expected, here.run(cut, inputs))
    except Exception as error:
        raise VerificationError(_refusal(here, f"the cut model cannot run ({error})")) from error
    if not deviation <= allowed:
        raise VerificationError(_refusal(here, f"the cut model differs from the masked one by {deviation:.2e}"))


def _refusal(here: _Circumstance, why: str) -> str:
    return (
        f"cut: {here}, where the model runs other code, {why}. Leave the sites out with ignore=, or change the code so that it "
        "does not ask for gradients"
    )
