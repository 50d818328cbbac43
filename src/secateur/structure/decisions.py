"""Where code outside of torch asks for the values of tensors: from there on it may go another way on other inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from secateur.trees import tensors_within

__all__ = ["Values"]

SIZES = {
    "shape",
    "size",
    "__len__",
    "__iter__",
    "numel",
    "nelement",
    "nbytes",
    "stride",
    "is_contiguous",
    "is_same_size",
}
"""What tells how large a tensor is."""
RAGGED = {"nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "nms", "bincount", "combinations"}
"""What makes tensors whose size values decide; so do choosing by a mask and repeating by counts."""
DRAWING = ("rand", "normal", "bernoulli", "multinomial", "poisson", "dropout", "uniform", "exponential", "geometric")
OBJECTS = {
    *("__hash__", "__class__", "data_ptr", "storage", "untyped_storage", "storage_offset", "dim_order", "element_size"),
    *("itemsize", "type", "get_device", "grad_fn", "names", "name", "output_nr", "_version", "register_hook"),
    *("result_type", "can_cast", "promote_types", "retains_grad", "has_names", "_backward_hooks"),
}
"""What is asked of a tensor, beside what `borders` lets by, and tells nothing of its values."""


@dataclass(eq=False)
class Values:
    """Tells which torch functions hand values to Python that may be others on other inputs.

    Tensors that are made from sizes and from numbers in the code alone have the values that they have. All others may not:
    inputs, weights, what is drawn, and what is computed from these.

    >>> values, x = Values(), torch.tensor([1.0, -1.0])
    >>> values.asked("item", (x.sum(),), {}, 0.0)
    True
    >>> values.asked("add", (x, 1), {}, x + 1)
    False
    """

    fixed: dict[int, Any] = field(default_factory=dict)  # storages, by what is their own while they live
    ragged: dict[int, Any] = field(default_factory=dict)

    def asked(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
        """Follow what a function did, and return whether it told Python anything that may be otherwise on other inputs."""
        operands, results = tensors_within((args, kwargs)), tensors_within(result)
        is_fixed = all(_key(tensor) in self.fixed for tensor in operands)
        if is_fixed and not name.startswith(DRAWING):
            self._note(self.fixed, results)
        elif result is None or any(tensor is operand for tensor in results for operand in operands):
            for tensor in operands:  # it may have been written into
                self.fixed.pop(_key(tensor), None)
        is_ragged = self.is_ragged(operands)
        if is_ragged or _decides_size(name, args, kwargs):
            self._note(self.ragged, results)
        if name in SIZES:
            return is_ragged
        tells = result is not None and not results and name not in OBJECTS
        return tells and bool(operands) and not is_fixed and (name == "is_nonzero" or not name.startswith("is_"))

    def is_ragged(self, tensors: Sequence[Tensor]) -> bool:
        """Return whether values decided the size of any of these."""
        return any(_key(tensor) in self.ragged for tensor in tensors)

    def sized_by_values(self, tensors: Sequence[Tensor]) -> None:
        """Note that values decided how large these are."""
        self._note(self.ragged, tensors)

    def _note(self, storages: dict[int, Any], tensors: Sequence[Tensor]) -> None:
        storages |= {_key(tensor): tensor.untyped_storage() for tensor in tensors if _key(tensor)}


def _key(tensor: Tensor) -> int:
    """What views of one tensor share; 0 for a tensor that has no memory of its own kind, as a sparse one."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return 0
    key: int = tensor.untyped_storage()._cdata
    return key


def _decides_size(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if name == "__getitem__":
        return any(tensor.dtype in {torch.bool, torch.uint8} for tensor in tensors_within(args[1:]))
    if name == "repeat_interleave":
        return len(tensors_within((args, kwargs))) > 1
    return name in RAGGED or (name == "where" and len(args) + len(kwargs) == 1)
