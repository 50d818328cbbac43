"""Pruned weights that stay at zero while the rest is trained: the one mechanism of every training under masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.checks import check_name
from secateur.state import digest
from secateur.structure.sites import density_words
from secateur.train.callbacks import Callback, Run
from secateur.types import InputError, Keep

__all__ = ["HoldZeros", "TrainingMasks", "check_mask_callbacks", "checked_masks", "clear_pruned"]


class TrainingMasks(Callback, ABC):
    """Trains under masks: at every moment, pruned weights and all that the optimizer holds of them are exactly zero.

    A gradient is masked before it is clipped and used, so that a pruned weight weighs on nothing; after the step the
    weight is set to zero, whatever the optimizer did. The masks stand in ``run.masks`` and in checkpoints. Where several
    callbacks mask a parameter, a weight is pruned where any begins with it pruned.

    A new kind writes `first`, and `changed` where its masks change on the way.

    Attributes:
        grows: whether pruned weights may come back. Such a kind cannot know which weights others hold at zero, so that it
            is refused beside any other kind; of one that says False, a weight that was pruned stays so.
    """

    grows: ClassVar[bool] = True

    @abstractmethod
    def first(self, run: Run) -> Keep:
        """Return the masks that the training begins with: bool, by parameter; True means keep."""

    def changed(self, run: Run, masks: Mapping[str, Tensor]) -> Keep | None:
        """Return other masks, or None; called in every step when the gradients of all weights, pruned ones too, are there.

        What is zero in the new masks becomes zero; what is kept anew goes on from zero.
        """
        return None

    def on_start(self, run: Run) -> None:
        """Begin with the first masks; a resumed training has its masks already."""
        if not run.records or run.masks is None:
            earlier = run.masks or {}
            masks = checked_masks(self.first(run), run.model, type(self).__name__)
            run.masks = earlier | {name: mask & earlier.get(name, mask) for name, mask in masks.items()}
        clear_pruned(run)

    def on_gradients(self, run: Run) -> None:
        """Change the masks where it is time, and set the gradients of pruned weights to zero."""
        assert run.masks is not None
        masks = self.changed(run, run.masks)
        if masks is not None:
            masks = checked_masks(masks, run.model, type(self).__name__)
            if not self.grows:
                masks = {name: mask & run.masks.get(name, mask) for name, mask in masks.items()}
            run.masks = run.masks | masks
            run.settled, run.best = len(run.records), None
            clear_pruned(run)
        for parameter, mask in _masked(run):
            if parameter.grad is not None:
                _clear([parameter.grad], mask)

    def on_step(self, run: Run) -> None:
        """Set the pruned weights to zero, and what the optimizer may have gathered of them."""
        clear_pruned(run)


@dataclass(frozen=True, eq=False)
class HoldZeros(TrainingMasks):
    """Keeps pruned weights at zero while the rest is trained.

    Attributes:
        keep: one bool tensor a parameter, by the parameter's name and of its shape; True means keep.

    Raises:
        InputError: a mask is not bool, or not of its parameter's shape.
        UnknownNameError: the model has no parameter of that name.

    >>> from secateur.train import fit
    >>> model = nn.Linear(2, 1, bias=False)
    >>> hold = HoldZeros({"weight": torch.tensor([[True, False]])})
    >>> _ = fit(model, (torch.ones(4, 2), torch.ones(4, 1)), epochs=1, loss="mse", callbacks=[hold])
    >>> model.weight[0, 1].item()
    0.0
    """

    grows: ClassVar[bool] = False
    keep: Keep

    def __repr__(self) -> str:
        return f"<HoldZeros: {density_words(self.keep)}>"

    def identity(self) -> str:
        """Return a hash of the masks."""
        return f"HoldZeros {digest(sorted(self.keep.items()))}"

    def first(self, run: Run) -> Keep:
        """Return the masks."""
        return self.keep


def clear_pruned(run: Run) -> None:
    """Set to zero what is pruned: the weights, their moments in the optimizer, and their running average."""
    for parameter, mask in _masked(run):
        state = run.optimizer.state.get(parameter, {}).values()
        moments = [x for x in state if isinstance(x, Tensor) and x.shape == parameter.shape]
        _clear([parameter.detach(), *moments], mask)
    if run.average is not None:
        for name, mask in (run.masks or {}).items():
            _clear([run.average[name]], mask)


def _masked(run: Run) -> Iterator[tuple[nn.Parameter, Tensor]]:
    for name, mask in (run.masks or {}).items():
        yield run.model.get_parameter(name), mask


WHOLE_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Types of whole numbers by their bytes."""


def _clear(tensors: Sequence[Tensor], mask: Tensor) -> None:
    """Write zeros into tensors of a mask's shape, in place, where it is False.

    The bits of a number and those of −1, which are all set, are the number's; and those of 0 are +0, of NaN too. On a
    processor that is thirty times as fast as `masked_fill_`, and this is done in every step.
    """
    bits: dict[int, Tensor] = {}
    for tensor in tensors:
        size = tensor.element_size()
        if size not in WHOLE_NUMBERS:  # complex128
            tensor.masked_fill_(~mask, 0)
            continue
        if size not in bits:
            bits[size] = mask.view(torch.int8).to(WHOLE_NUMBERS[size]).neg_()
        tensor.view(WHOLE_NUMBERS[size]).bitwise_and_(bits[size])


def check_mask_callbacks(callbacks: Sequence[Callback]) -> None:
    """Refuse masks that bring weights back beside others, whose pruned weights would come back too.

    Raises:
        InputError: there is such a pair.

    >>> from secateur.train.sparse import GradualMagnitude, RigL
    >>> check_mask_callbacks([HoldZeros({}), GradualMagnitude(0.5)])
    >>> check_mask_callbacks([HoldZeros({}), RigL(0.5)])
    Traceback (most recent call last):
        ...
    secateur.types.InputError: training: RigL brings pruned weights back, those that HoldZeros holds at zero too; give one \
of them
    """
    masking = [callback for callback in callbacks if isinstance(callback, TrainingMasks)]
    growing = next((callback for callback in masking if callback.grows), None)
    if growing is None or len(masking) == 1:
        return
    other = next(callback for callback in masking if callback is not growing)
    raise InputError(
        f"training: {type(growing).__name__} brings pruned weights back, those that {type(other).__name__} holds at zero "
        "too; give one of them"
    )


def checked_masks(keep: Keep, model: nn.Module, what: str) -> dict[str, Tensor]:
    """The masks on the model's device, after a look at their names, types and shapes."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    masks = {}
    for name, mask in keep.items():
        check_name("parameter", name, parameters)
        if mask.dtype != torch.bool or mask.shape != parameters[name].shape:
            raise InputError(
                f"{what}: the mask of {name} is {mask.dtype} of shape {tuple(mask.shape)}; "
                f"it must be torch.bool of shape {tuple(parameters[name].shape)}"
            )
        masks[name] = mask.to(parameters[name].device)
    return masks
