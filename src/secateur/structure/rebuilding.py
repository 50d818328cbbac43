"""A model's class made anew of its config with other sizes, on the meta device, and what differs then."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from secateur.checks import is_whole
from secateur.structure.mend import Edits

__all__ = [
    "Changes",
    "Rebuilding",
    "Shapes",
    "SizeName",
    "changed_modules",
    "configs_within",
    "differences",
    "is_config",
    "is_configured",
    "nested_configs",
    "open_sizes",
    "rebuilt_shapes",
    "set_in_config",
    "shapes_of",
    "sizes_of",
    "whole_numbers",
]

SizeName = tuple[str | int, ...]
"""Where a size stands in a config: names of attributes, of nested configs too, and a place in a list."""

Changes = Mapping[SizeName, Any]
"""What is to stand in a config, and where: sizes, and whole lists."""

Shapes = dict[str, tuple[int, ...]]


def is_configured(model: nn.Module) -> bool:
    """Return whether a model says that its class is made of one config."""
    return hasattr(type(model), "config_class") and is_config(getattr(model, "config", None))


def rebuilt_shapes(model: nn.Module) -> Shapes | None:
    """Return the shapes of what a model's class keeps (its state dict) when it is made of the model's config; None where it cannot be."""
    rebuilt = Rebuilding(model).built({})
    return None if rebuilt is None else {name: tuple(tensor.shape) for name, tensor in rebuilt.state_dict().items()}


class _Undrawn(TorchFunctionMode):
    """Leaves out what fills weights, which have no numbers on the meta device and take most of the time that a class does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")
        fills = getattr(func, "__module__", "") == "torch.nn.init" or getattr(func, "__name__", "") in FILLING
        return filled if fills and isinstance(filled, Tensor) and filled.is_meta else func(*args, **kwargs)


FILLING = {"uniform_", "normal_", "zero_", "fill_"}


class Rebuilding:
    """A model's class made anew, on the meta device, of its config with other sizes; `count` says how often."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.config: Any = model.config
        self.count = 0

    def built(self, sizes: Changes) -> nn.Module | None:
        """The class with these sizes; None where it refuses them."""
        config = with_types(copy.deepcopy(self.config))
        self.count += 1
        try:
            for place, size in sizes.items():
                set_in_config(config, place, size)
            with torch.device("meta"), _Undrawn(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return type(self.model)(config)
        except Exception:  # noqa: BLE001  (a class may raise anything on sizes that do not fit together)
            return None


def with_types(config: Any) -> Any:
    """Return a config whose types are torch's: saving a model leaves their names there, which not every class takes."""
    for _, inner in configs_within(config):
        named = getattr(inner, "dtype", None)
        if isinstance(named, str) and isinstance(dtype := getattr(torch, named, None), torch.dtype):
            inner.dtype = dtype
    return config


def set_in_config(config: Any, place: SizeName, size: Any) -> None:
    """Write a size, or a list, into a config."""
    *path, last = place
    for name in path if isinstance(last, str) else path[:-1]:
        config = getattr(config, str(name))
    if isinstance(last, str):
        setattr(config, last, size)
        return
    sizes = list(getattr(config, str(path[-1])))
    sizes[last] = size
    setattr(config, str(path[-1]), type(getattr(config, str(path[-1])))(sizes))


def nested_configs(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield the configs within a config, by name."""
    yield from ((name, value) for name, value in vars(config).items() if is_config(value))


def configs_within(config: Any, path: SizeName = ()) -> Iterator[tuple[SizeName, Any]]:
    """Yield a config and all that are nested in it, with where they stand."""
    yield path, config
    for name, inner in nested_configs(config):
        yield from configs_within(inner, (*path, name))


def sizes_of(config: Any) -> Iterator[tuple[SizeName, int]]:
    """Yield every whole number in a config, with where it stands."""
    for path, inner in configs_within(config):
        for name, value in vars(inner).items():
            if is_whole(value) and not name.startswith("_"):
                yield (*path, name), value
            elif isinstance(value, list | tuple):
                yield from (((*path, name, place), size) for place, size in enumerate(value) if is_whole(size))


NO_SIZES = ("_id", "dtype", "_version", "_type", "architectures")
"""How names of config attributes end that are no sizes where they are None."""


def open_sizes(config: Any) -> Iterator[SizeName]:
    """Yield what a config leaves open (None) and may be a size."""
    for path, inner in configs_within(config):
        for name, value in vars(inner).items():
            if value is None and not name.startswith("_") and not name.endswith(NO_SIZES):
                yield (*path, name)


def shapes_of(model: nn.Module) -> Shapes:
    """Return the shapes of all parameters and buffers."""
    tensors: list[tuple[str, Tensor]] = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def whole_numbers(config: Any) -> dict[str, Any]:
    """Return the whole numbers of a config, of nested ones too, by dotted names; lists whole."""
    numbers = {}
    for name, value in vars(config).items():
        whole_list = isinstance(value, list | tuple) and value and all(map(is_whole, value))
        if (is_whole(value) or whole_list or value is None) and not name.startswith("_"):
            numbers[name] = list(value) if whole_list else value
    for name, inner in nested_configs(config):
        numbers |= {f"{name}.{key}": value for key, value in whole_numbers(inner).items()}
    return numbers


def _attributes(module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module, and the whole numbers of its config."""
    plain: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name == "config":
            plain |= (
                {f"config.{key}": number for key, number in whole_numbers(value).items()} if is_config(value) else {}
            )
        elif name != "training" and not name.startswith("_") and isinstance(value, int | float | list | tuple):
            plain[name] = value
    return plain


def changed_modules(whole: nn.Module, rebuilt: nn.Module) -> set[str]:
    """Return the paths of the modules that hold other plain values, not counting their configs."""
    modules = dict(rebuilt.named_modules())
    return {path for path, module in whole.named_modules() if path in modules and _own(module) != _own(modules[path])}


def _own(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in _attributes(module).items() if not name.startswith("config.")}


def is_config(value: Any) -> bool:
    """Return whether a value is a config, as transformers has them."""
    return callable(getattr(value, "to_dict", None)) and hasattr(value, "__dict__")


def differences(whole: nn.Module, rebuilt: nn.Module) -> Edits | None:
    """The sizes that differ between two models of one class, by module; None where something else does, as a temperature.

    A buffer that is not saved is computed when the model is made: one of another shape has other values, too.
    """
    modules = dict(whole.named_modules())
    edits: Edits = {}
    if [path for path, _ in rebuilt.named_modules()] != list(modules):
        return None
    for path, module in rebuilt.named_modules():
        before, after = _attributes(modules[path]), _attributes(module)
        for name in (n for n in after if n in before and after[n] != before[n]):
            new = list(after[name]) if isinstance(after[name], list | tuple) else after[name]
            if not all(map(is_whole, new if isinstance(new, list) else [new])):
                return None
            edits.setdefault(path, {})[name] = new
        computed = [n for n in module._non_persistent_buffers_set if module._buffers[n] is not None]
        if any(module._buffers[n].shape != modules[path]._buffers[n].shape for n in computed):
            return None
    return edits
