"""Units cut out of a module, which stays one of its own class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, int32, int64, nn

from secateur.checks import is_whole
from secateur.edits.base import Edit
from secateur.structure.held import is_settings, mapped_numbers
from secateur.structure.mend import SWITCHES, Edits
from secateur.structure.plan import Plan, apply_plan
from secateur.structure.rebuilding import is_config, whole_numbers
from secateur.types import FileError

__all__ = ["Cut"]


@dataclass(frozen=True, eq=False)
class Cut(Edit):
    """The rows that stay of each tensor that shrinks, and the attributes that hold sizes.

    Attributes:
        plan: both, as `secateur.cut` worked them out.
    """

    kind: ClassVar[str] = "cut"
    plan: Plan

    def apply(self, model: nn.Module) -> nn.Module:
        """Return a copy of `model` with only the rows that stay, and the attributes set."""
        for name, rows in self.plan.rows.items():
            for dim, index in rows.items():
                _check_rows(model, name, dim, index)
        _check_attributes(model, self.plan.attributes)
        return apply_plan(model, self.plan)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as mappings; rows as int32."""
        rows = {
            name: {str(dim): index.to(int32) for dim, index in dims.items()} for name, dims in self.plan.rows.items()
        }
        return {"rows": rows, "attributes": self.plan.attributes}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the cut that `to_dict` described."""
        rows = {name: {int(dim): index for dim, index in dims.items()} for name, dims in record["rows"].items()}
        return cls(Plan(rows, {path: dict(values) for path, values in record["attributes"].items()}))


def _check_rows(model: nn.Module, name: str, dim: int, index: object) -> None:
    """Require a selection of rows that the model has, in their order."""
    path, _, attribute = name.rpartition(".")
    tensor = getattr(model.get_submodule(path), attribute, None)
    if not isinstance(tensor, Tensor) or not 0 <= dim < tensor.ndim:
        raise FileError(f"dimension {dim} of {name!r} is none of its tensors'")
    size = tensor.shape[dim]
    # The count first, so that a forged index is never worked with.
    if not isinstance(index, Tensor) or index.dtype not in (int32, int64) or index.ndim != 1:
        raise FileError(f"the rows of {name!r} are no list of whole numbers")
    if not 0 < index.numel() <= size:
        raise FileError(f"the rows of {name!r} are of shape {tuple(index.shape)} for its {size}")
    if int(index[0]) < 0 or int(index[-1]) >= size or not bool((index.diff() > 0).all()):
        raise FileError(f"the rows of {name!r} lie outside its {size}, or are out of order")


def _check_attributes(model: nn.Module, attributes: Edits) -> None:
    """Require sizes that a module already has, and none larger than it is."""
    modules = dict(model.named_modules())
    for path, values in attributes.items():
        for attribute, value in values.items():
            sizes = _sizes(modules[path]) if path in modules else {}
            before = sizes.get(attribute)
            stated = attribute in sizes and before is None and is_whole(value) and value >= 1
            turned_off = attribute in SWITCHES and value is False and isinstance(before, bool)
            if not turned_off and not stated and not _is_smaller(value, before):
                raise FileError(f"{path}.{attribute} = {value!r} is no size of it")


def _sizes(module: nn.Module) -> dict[str, Any]:
    """What may hold sizes: attributes, by dotted names those of the config and of mappings; a config may leave one open (None)."""
    attributes = {name: value for name, value in vars(module).items() if value is not None and name[:1] != "_"}
    config = attributes.get("config")
    numbers = {"config": whole_numbers(config)} if is_config(config) else {}
    numbers |= {name: vars(value) | numbers.get(name, {}) for name, value in attributes.items() if is_settings(value)}
    named = {f"{name}.{inner}": value for name, several in numbers.items() for inner, value in several.items()}
    return attributes | mapped_numbers(module) | named


def _is_smaller(new: object, old: object) -> bool:
    if isinstance(new, list):
        return isinstance(old, (list, tuple)) and len(new) == len(old) and all(map(_is_smaller, new, old))
    return is_whole(new) and is_whole(old) and (1 <= new <= old or new == old)
