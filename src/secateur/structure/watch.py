"""Watch which attributes a forward pass reads, and whether their values only set sizes or also enter arithmetic.

A head dimension that is read for ``view(b, t, heads, head_dim)`` may be changed with the tensors; one that is also read
for ``scores / head_dim**0.5`` may not, since the temperature would change with it. The text of the code does not tell,
so it is watched: during one forward pass, the modules and the tensors' shapes hand out whole numbers that carry where
they come from (`carriers`), through all arithmetic, to the torch function that takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isclose
from threading import Lock, get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from secateur.structure.carriers import Attribute, Dimension, Origin, UseLog, Uses, carried, origins_of, plain
from secateur.structure.held import is_settings

__all__ = ["WRITABLE", "watch"]


def watch(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Uses | None, Any]:
    """Run `model` once, and return what it did with its sizes, and its answers; None twice where it cannot run while watched.

    It runs in the mode in which it is. What it stores on itself may hold carriers, and must be put back.
    """
    log = _Watch(model)
    try:
        with _watched(log), _Calls(log):
            answers = model(*args, **kwargs)
    except Exception:  # noqa: BLE001  (code may insist on plain numbers; then nothing was seen, and nothing is known)
        return None, None
    finally:
        log.open = False
    return log.uses, answers


POWERS = (-1, 0.5, -0.5, 0.25, -0.25)
TELLING = 5
"""The least size that is known again by its roots: 0.5 is written in much code that means no size of 2 or 4."""


class _Watch(UseLog):
    """The log of one forward pass, which knows the module that is running, and hands out the numbers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.paths = {id(module): path for path, module in model.named_modules()}
        every = model.named_modules(remove_duplicate=False)
        self.uses.first_names = {path: self.paths[id(module)] for path, module in every}
        self.running: list[nn.Module] = []
        self.makers: MutableMapping[Tensor, str] = WeakIdKeyDictionary()  # the path of the module that made each tensor
        self.handed_out: dict[tuple[str, int], set[Origin]] = {}
        self.module_floats = {v for module in model.modules() for v in vars(module).values() if type(v) is float}

    @property
    def path(self) -> str:
        """The path of the module whose forward pass is running."""
        return self.paths[id(self.running[-1])] if self.running else ""

    @property
    def in_torch(self) -> bool:
        """Whether one of torch's own layers runs."""
        return bool(self.running) and type(self.running[-1]).__module__.startswith("torch.")

    def attribute(self, module: nn.Module, name: str, value: Any) -> Any:
        """Return the value of an attribute, carrying its origin where it is a whole number or a row of them."""
        origin = Attribute(self.paths[id(module)], name)
        numbers = [value] if type(value) is int else list(value)
        if not self.open or not numbers or any(type(n) is not int for n in numbers):
            return value
        self.uses.read.add(origin)
        if type(value) is int:
            self.uses.values[origin] = value
        carriers = [self._hand_out(n, origin) for n in numbers]
        return carriers[0] if type(value) is int else type(value)(carriers)

    def settings(self, module: nn.Module, name: str, value: Any) -> Any:
        """Return an object in the place of settings whose numbers carry their origins."""
        return _Settings(value, partial(self._setting, module, name, value)) if self.open else value

    def _setting(self, module: nn.Module, name: str, settings: Any, inner: str) -> Any:
        value = getattr(settings, inner)
        stored = getattr(type(settings), "attribute_map", {}).get(
            inner, inner
        )  # transformers has several names for one
        if type(value) in (int, tuple, list) and stored in vars(settings):
            return self.attribute(module, f"{name}.{stored}", value)
        return self.settings(module, f"{name}.{inner}", value) if is_settings(value) else value

    def shape(self, tensor: Tensor) -> torch.Size:
        """Return the shape of a tensor, each size with its origin."""
        shape, path = tuple(tensor.shape), self.path
        given = not f"{self.makers.get(tensor, '')}.".startswith(f"{path}." if path else "")
        return torch.Size([self._hand_out(size, Dimension(path, shape, d, given)) for d, size in enumerate(shape)])

    def _hand_out(self, value: int, origin: Origin) -> Any:
        if value >= TELLING:
            self.handed_out.setdefault((self.path, value), set()).add(origin)
        return carried(value, frozenset([origin]), self)

    def unexplained(self, number: float) -> None:
        """Note the sizes that a number of unknown origin may come from.

        ``1.0 / size`` is computed by the float, which asks nobody. So a number that no module holds, and that is a root
        or an inverse of a size that was read in the same forward pass, is taken for it.
        """
        if number in self.module_floats or not 1e-7 < number < 1e7:
            return
        for power in POWERS:
            value = round(number ** (1 / power))
            if value >= TELLING and isclose(value**power, number, rel_tol=1e-9):
                self.number(frozenset(self.handed_out.get((self.path, value), ())))


class _Settings:
    """Stands for settings: what is read of it is asked for, all else is done to them."""

    def __init__(self, settings: Any, read: Callable[[str], Any]) -> None:
        object.__setattr__(self, "_settings", settings)
        object.__setattr__(self, "_read", read)

    def __getattribute__(self, name: str) -> Any:
        settings = object.__getattribute__(self, "_settings")
        return getattr(settings, name) if name[:2] == "__" else object.__getattribute__(self, "_read")(name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_settings"), name, value)


def _done_to_settings(name: str) -> Callable[..., Any]:
    def method(self: _Settings, *operands: Any) -> Any:
        return getattr(object.__getattribute__(self, "_settings"), name)(*operands)

    return method


for _name in ("eq", "ne", "hash", "len", "iter", "contains", "getitem", "setitem", "delattr"):
    setattr(_Settings, f"__{_name}__", _done_to_settings(f"__{_name}__"))


PATCHING = Lock()  # all threads share the class of modules


@contextmanager
def _watched(log: _Watch) -> Iterator[None]:
    """Let the modules hand out carriers, and keep the one that is running at the end of `log.running`."""
    thread = get_ident()

    def handed_out(self: nn.Module, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if id(self) not in log.paths or get_ident() != thread:
            return value
        if type(value) not in (int, tuple, list):
            return log.settings(self, name, value) if name[:1] != "_" and is_settings(value) else value
        if log.in_torch and log.running[-1] is self:
            return value  # torch's own layers read theirs as they please; what they do is known
        return log.attribute(self, name, value)

    def enter(module: nn.Module, _args: Any) -> None:
        if id(module) in log.paths:
            log.running.append(module)

    def leave(module: nn.Module, _args: Any, _out: Any) -> None:
        if id(module) in log.paths:
            log.running.pop()

    with PATCHING:
        hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        nn.Module.__getattribute__ = handed_out  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            del nn.Module.__getattribute__
            for hook in hooks:
                hook.remove()


SHAPE_NAMES = ("size", "shape", "sizes", "repeats", "dims")
SPLIT_NAMES = ("split_size", "split_size_or_sections", "split_sizes", "chunks", "indices_or_sections", "sections")

VIEWS = ("view", "reshape", "expand", "broadcast_to", "_unsafe_view")
FACTORIES = ("zeros", "ones", "empty", "rand", "randn")
NEW = ("new_zeros", "new_ones", "new_empty")
SPLITS = ("split", "split_with_sizes", "chunk", "tensor_split")
NORMS = ("layer_norm", "rms_norm")
CONVOLUTIONS = tuple(f"conv{t}{k}d" for t in ("", "_transpose") for k in (1, 2, 3))

# The arguments that are sizes, by the function's name: the first position and the one after the last, and names.
SIZES: dict[str, tuple[int, int, tuple[str, ...]]] = {
    **dict.fromkeys((*VIEWS, *NEW, "repeat", "tile"), (1, 99, SHAPE_NAMES)),
    **dict.fromkeys(FACTORIES, (0, 99, SHAPE_NAMES)),
    **dict.fromkeys(SPLITS, (1, 2, SPLIT_NAMES)),
    **dict.fromkeys(NORMS, (1, 2, ("normalized_shape",))),
    **dict.fromkeys(CONVOLUTIONS, (6, 7, ("groups",))),
    **dict.fromkeys(("__getitem__", "__setitem__"), (1, 2, ())),
    "full": (0, 1, SHAPE_NAMES),
    "eye": (0, 2, ("n", "m")),
    "new_full": (1, 2, SHAPE_NAMES),
    "as_strided": (1, 2, SHAPE_NAMES),
    "unflatten": (2, 3, SHAPE_NAMES),
    "group_norm": (1, 2, ("num_groups",)),
    "pixel_shuffle": (1, 2, ("upscale_factor",)),
    "channel_shuffle": (1, 2, ("groups",)),
    "one_hot": (1, 2, ("num_classes",)),
    "pad": (1, 2, ("pad",)),
    "repeat_interleave": (1, 2, ("repeats", "output_size")),
    "narrow": (2, 4, ("start", "length")),
    "arange": (0, 2, ("start", "end")),  # its step is arithmetic
}
SHAPED = {*VIEWS, *FACTORIES, *NEW, "full", "new_full"}
"""Functions whose sizes line up with the dimensions of what they return."""
GROUPED = ("group_norm", "channel_shuffle", *CONVOLUTIONS)
"""Functions that are given a number of groups of channels."""
WRITABLE = {*SHAPED, "eye", "repeat", "unflatten", *NORMS, *GROUPED}
"""Functions that a size which is written in the code ties to."""
SCALING = {"mul", "div", "true_divide", "multiply", "divide", "rmul", "rdiv", "rtruediv", "imul", "itruediv"}
SCALING |= {"pow", "scaled_dot_product_attention", "baddbmm"}
"""Functions that may scale by a number."""

SHAPE = Tensor.shape.__get__  # type: ignore[attr-defined]
COUNTS = {Tensor.numel, Tensor.nelement, torch.numel}


class _Calls(TorchFunctionMode):
    """Sees every torch function, notes the carriers among its arguments, and passes on plain numbers."""

    def __init__(self, log: _Watch) -> None:
        super().__init__()
        self.log = log

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        bare, named = plain(args), plain(kwargs)
        result = func(*bare, **named)
        if func == SHAPE or func is Tensor.size or func in COUNTS:
            return self._sizes(args[0], result, *bare[1:], **named)
        for made in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(made, Tensor):
                self.log.makers[made] = self.log.path
        self.log.uses.parameters |= {id(a) for a in _flat((args, kwargs)) if isinstance(a, nn.Parameter)}
        name = str(getattr(func, "__name__", ""))
        base_name = name[:-1] if name.endswith("_") and not name.endswith("__") else name
        if bare is not args or named is not kwargs:
            _Call(self.log, base_name, bare, named, result).note(args, kwargs)
        if base_name in WRITABLE and not self.log.in_torch:
            _Call(self.log, base_name, bare, named, result).note_written(args, kwargs)
        if name.strip("_") in SCALING:
            for number in _flat((args, kwargs)):
                if type(number) is float:
                    self.log.unexplained(number)
        return result

    def _sizes(self, tensor: Tensor, result: Any, dim: int | None = None) -> Any:
        """What was asked of a tensor's shape, with its origins."""
        shape = self.log.shape(tensor)
        if isinstance(result, torch.Size):
            return shape
        return shape[dim] if dim is not None else carried(result, origins_of(shape), self.log)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from _flat(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _flat(part)
    else:
        yield value


@dataclass(frozen=True)
class _Call:
    """One call of a torch function with carriers among its arguments."""

    log: _Watch
    name: str
    bare: tuple[Any, ...]
    named: Mapping[str, Any]
    result: Any

    def note(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note which arguments set sizes, and that the others are arithmetic."""
        first, stop, names = self._places()
        self.log.number(origins_of([*args[:first], *args[stop:], *(v for k, v in kwargs.items() if k not in names)]))
        for at, size in enumerate(self._sizes(args, kwargs)):
            self.log.size(origins_of(size), self._set_by(at, plain(size)))

    def note_written(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note the dimensions whose size is a plain number, which no module and no shape is known to have handed out."""
        for at, size in enumerate(self._sizes(args, kwargs)):
            if type(size) is int and size > 1:
                grouped = self.name in GROUPED
                self.log.write([self._dimension(self.result, 1)] if grouped else self._set_by(at, size))

    def _places(self) -> tuple[int, int, tuple[str, ...]]:
        """Which arguments are sizes; none where that is not known."""
        return SIZES.get(self.name, (99, 99, ()))

    def _sizes(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """The arguments that are sizes."""
        first, stop, names = self._places()
        sizes = [*args[first:stop], *(v for k, v in kwargs.items() if k in names)]
        return list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (list, tuple)) else sizes

    def _set_by(self, at: int, size: Any) -> list[Dimension]:
        """The dimensions of the result that the size at a place sets, where that is known."""
        if self.name in SHAPED and isinstance(self.result, Tensor) and at < self.result.dim():
            return [self._dimension(self.result, at)]
        if self.name == "eye":
            is_square = self.result.shape[0] == self.result.shape[1]
            return [self._dimension(self.result, dim) for dim in ((0, 1) if is_square else (at,))]
        if self.name == "repeat" and self.result.shape[at] == size:  # what it repeats is of size 1
            return [self._dimension(self.result, at)]
        if self.name == "unflatten":
            dim = self.bare[1] if len(self.bare) > 1 else self.named["dim"]
            return [self._dimension(self.result, dim % self.bare[0].dim() + at)]
        if self.name in NORMS:
            normalized = self.bare[1] if len(self.bare) > 1 else self.named["normalized_shape"]
            return [self._dimension(self.result, self.result.dim() - len(normalized) + at)]
        if self.name in SPLITS:
            dim = self.bare[2] if len(self.bare) > 2 else self.named.get("dim", 0)
            return [self._dimension(part, dim % part.dim()) for part in self.result]
        return []

    def _dimension(self, tensor: Tensor, dim: int) -> Dimension:
        return Dimension(self.log.path, tuple(tensor.shape), dim)
