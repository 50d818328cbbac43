"""Watch which attributes a forward pass reads, and whether their values only set sizes or also enter arithmetic.

A head dimension that is read for ``view(b, t, heads, head_dim)`` may be changed with the tensors; one that is also read
for ``scores / head_dim**0.5`` may not, since the temperature would change with it. The text of the code does not tell,
so it is watched: during one forward pass, the modules and the tensors' shapes hand out whole numbers that carry where
they come from (`_Size`), through all arithmetic, to the torch function that takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

__all__ = ["Attribute", "Dimension", "Uses", "watch"]


@dataclass(frozen=True)
class Attribute:
    """An attribute of the module at `path`."""

    path: str
    name: str

    def __str__(self) -> str:
        return f"self.{self.name} of {self.path}" if self.path else f"self.{self.name}"


@dataclass(frozen=True)
class Dimension:
    """A dimension of a tensor of `shape` that the forward pass of the module at `path` has in its hands."""

    path: str
    shape: tuple[int, ...]
    dim: int

    def __str__(self) -> str:
        where = f" in {self.path}" if self.path else ""
        return f"a size read from a tensor of shape {self.shape}{where}"


Origin = Attribute | Dimension


@dataclass(eq=False)
class Uses:
    """What a forward pass did with the whole numbers that its modules hold.

    Attributes:
        read: the attributes that it read.
        numbers: the attributes, and the dimensions of tensors, whose size entered arithmetic on tensors, or became a
            number that could not be followed.
        lost: those that became a whole number that could not be followed, as by ``int()``.
        sizes: the attributes that set sizes, and the dimensions that they set.
        first_names: the path by which a module is called here, by each of its paths.
    """

    read: set[Attribute] = field(default_factory=set)
    numbers: set[Origin] = field(default_factory=set)
    lost: set[Origin] = field(default_factory=set)
    sizes: dict[Attribute, set[Dimension]] = field(default_factory=dict)
    first_names: dict[str, str] = field(default_factory=dict)

    def may_change(self, attribute: Attribute) -> bool:
        """Whether the attribute was read and, as far as could be seen, for no arithmetic."""
        return attribute in self.read and attribute not in self.numbers

    def only_sizes(self, attribute: Attribute) -> bool:
        """Whether all that the attribute was read for was seen, and was to set sizes."""
        return self.may_change(attribute) and attribute in self.sizes and attribute not in self.lost


def watch(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Uses | None:
    """Run `model` once, and return what it did with its sizes; None where it cannot run while watched.

    It runs in the mode in which it is. What it stores on itself holds watched numbers, and must be put back.
    """
    log = _Log(model)
    try:
        with _watched(log), _Calls(log):
            model(*args, **kwargs)
    except Exception:  # noqa: BLE001  (code may insist on plain numbers; then nothing was seen, and nothing is known)
        return None
    finally:
        log.open = False
    return log.uses


class _Log:
    """Where the watched numbers write what becomes of them."""

    def __init__(self, model: nn.Module) -> None:
        self.paths = {id(module): path for path, module in model.named_modules()}
        every = model.named_modules(remove_duplicate=False)
        self.uses = Uses(first_names={path: self.paths[id(module)] for path, module in every})
        self.running: list[nn.Module] = []
        self.open = True

    @property
    def path(self) -> str:
        """The path of the module whose forward pass is running."""
        return self.paths[id(self.running[-1])] if self.running else ""

    def attribute(self, module: nn.Module, name: str, value: Any) -> Any:
        """Return the value of an attribute as a watched one, where it is a whole number or a row of them."""
        origin = Attribute(self.paths[id(module)], name)
        watched = _watched_value(value, frozenset([origin]), self)
        if watched is not value:
            self.uses.read.add(origin)
        return watched

    def shape(self, tensor: Tensor) -> torch.Size:
        """Return the shape of a tensor, each size with its origin."""
        shape, path = tuple(tensor.shape), self.path
        return torch.Size([_Size.of(s, frozenset([Dimension(path, shape, d)]), self) for d, s in enumerate(shape)])

    def number(self, origins: frozenset[Origin]) -> None:
        """Note that these entered arithmetic."""
        if self.open:
            self.uses.numbers |= origins

    def lose(self, origins: frozenset[Origin]) -> None:
        """Note that these became a whole number that goes its own ways."""
        if self.open:
            self.uses.lost |= origins

    def size(self, origins: frozenset[Origin], dimensions: Iterable[Dimension]) -> None:
        """Note that these set a size, and of which dimensions."""
        for origin in origins:
            if isinstance(origin, Attribute):
                self.uses.sizes.setdefault(origin, set()).update(dimensions)


def _watched_value(value: Any, origins: frozenset[Origin], log: _Log) -> Any:
    if type(value) is int:
        return _Size.of(value, origins, log)
    if type(value) in (tuple, list) and value and all(type(v) is int for v in value):
        return type(value)(_Size.of(v, origins, log) for v in value)
    return value


class _Carrier:
    """What a number of a known origin does: it hands its origins on to whatever is computed from it."""

    origins: frozenset[Origin]
    log: _Log

    def __float__(self) -> float:
        self.log.number(self.origins)  # as math.sqrt does, and what it makes of it cannot be followed
        return float(plain(self))

    def __int__(self) -> int:
        self.log.lose(self.origins)
        return int(plain(self))

    __trunc__ = __int__

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        self.log.number(self.origins)
        return getattr(ufunc, method)(*plain(inputs), **plain(kwargs))

    def __reduce__(self) -> Any:
        value = plain(self)
        return type(value), (value,)

    def __copy__(self) -> Any:
        return plain(self)

    def __deepcopy__(self, memo: Any) -> Any:
        return plain(self)


class _Size(_Carrier, int):
    """A whole number that carries its origins."""

    @classmethod
    def of(cls, value: int, origins: frozenset[Origin], log: _Log) -> int:
        if not log.open:
            return value
        carrier = cls(value)
        carrier.origins, carrier.log = origins, log
        return carrier


class _Fraction(_Carrier, float):
    """A number that was computed from sizes; as a size again it may still be one, in arithmetic it tells on them."""

    @classmethod
    def of(cls, value: float, origins: frozenset[Origin], log: _Log) -> float:
        if not log.open:
            return value
        carrier = cls(value)
        carrier.origins, carrier.log = origins, log
        return carrier


def _carrying(name: str) -> Callable[..., Any]:
    """The method `name` of numbers, with the origins of all operands on what it returns."""

    def method(*operands: Any) -> Any:
        first = operands[0]
        value, others = plain(first), plain(operands[1:])
        made = getattr(value, name)(*others)
        if made is NotImplemented and isinstance(others[0], float):
            made = getattr(float(value), name)(*others)
        if made is NotImplemented and not isinstance(others[0], Tensor):
            first.log.number(first.origins)  # an array, say, which takes the bare number
        carriers = [o for o in operands if isinstance(o, _Carrier)]
        origins = frozenset().union(*(c.origins for c in carriers))
        return _carried(made, origins, first.log)

    return method


def _carried(value: Any, origins: frozenset[Origin], log: _Log) -> Any:
    if type(value) is int:
        return _Size.of(value, origins, log)
    if type(value) is float:
        return _Fraction.of(value, origins, log)
    return tuple(_carried(v, origins, log) for v in value) if type(value) is tuple else value


ARITHMETIC = [
    *(
        f"__{side}{name}__"
        for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow")
        for side in ("", "r")
    ),
    *("__neg__", "__pos__", "__abs__", "__round__", "__floor__", "__ceil__"),
]
for _kind in (_Size, _Fraction):
    for _name in ARITHMETIC:
        setattr(_kind, _name, _carrying(_name))


def plain(value: Any) -> Any:
    """Return `value` with every watched number in it as a plain one."""
    if isinstance(value, _Size):
        return int.__int__(value)
    if isinstance(value, _Fraction):
        return float.__float__(value)
    if isinstance(value, slice):
        return slice(*plain((value.start, value.stop, value.step)))
    if type(value) in (list, tuple, torch.Size) and any(plain(v) is not v for v in value):
        return type(value)([plain(v) for v in value])
    if type(value) is dict and any(plain(v) is not v for v in value.values()):
        return {k: plain(v) for k, v in value.items()}
    return value


@contextmanager
def _watched(log: _Log) -> Iterator[None]:
    """Let the modules hand out watched numbers, and keep the one that is running at the end of `log.running`."""
    thread = get_ident()

    def handed_out(self: nn.Module, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if type(value) not in (int, tuple, list) or id(self) not in log.paths or get_ident() != thread:
            return value
        if log.running and log.running[-1] is self and type(self).__module__.startswith("torch."):
            return value  # torch's own layers read theirs as they please; what they do is known
        return log.attribute(self, name, value)

    def enter(module: nn.Module, _args: Any) -> None:
        if id(module) in log.paths:
            log.running.append(module)

    def leave(module: nn.Module, _args: Any, _out: Any) -> None:
        if id(module) in log.paths:
            log.running.pop()

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
CONVOLUTIONS = [f"conv{t}{k}d" for t in ("", "_transpose") for k in (1, 2, 3)]

# The arguments that are sizes, by the function's name: the first position, whether all that follow are, and names.
SIZES: dict[str, tuple[int, bool, tuple[str, ...]]] = {
    **dict.fromkeys(
        ["view", "reshape", "expand", "repeat", "tile", "broadcast_to", "_unsafe_view"], (1, True, SHAPE_NAMES)
    ),
    **dict.fromkeys(["new_zeros", "new_ones", "new_empty"], (1, True, SHAPE_NAMES)),
    **dict.fromkeys(["zeros", "ones", "empty", "rand", "randn"], (0, True, SHAPE_NAMES)),
    **dict.fromkeys(["split", "split_with_sizes", "chunk", "tensor_split"], (1, False, SPLIT_NAMES)),
    **dict.fromkeys(["layer_norm", "rms_norm"], (1, False, ("normalized_shape",))),
    **dict.fromkeys(CONVOLUTIONS, (6, False, ("groups",))),
    **dict.fromkeys(["__getitem__", "__setitem__"], (1, False, ())),
    "full": (0, False, SHAPE_NAMES),
    "new_full": (1, False, SHAPE_NAMES),
    "unflatten": (2, False, SHAPE_NAMES),
    "group_norm": (1, False, ("num_groups",)),
    "pixel_shuffle": (1, False, ("upscale_factor",)),
    "channel_shuffle": (1, False, ("groups",)),
    "one_hot": (1, False, ("num_classes",)),
    "pad": (1, False, ("pad",)),
    "repeat_interleave": (1, False, ("repeats",)),
    "narrow": (2, True, ("start", "length")),
    "arange": (0, True, ("start", "end")),
}
SHAPED = {
    *[
        "view",
        "reshape",
        "expand",
        "broadcast_to",
        "_unsafe_view",
        "new_zeros",
        "new_ones",
        "new_empty",
        "zeros",
        "ones",
        "empty",
    ]
}
SHAPED |= {*["rand", "randn", "full", "new_full"]}
"""Functions whose sizes line up with the dimensions of what they return."""

SPLIT = {*["split", "split_with_sizes", "chunk", "tensor_split"]}

SHAPE = Tensor.shape.__get__  # type: ignore[attr-defined]
COUNTS = {Tensor.numel, Tensor.nelement, torch.numel}


class _Calls(TorchFunctionMode):
    """Sees every torch function, notes the watched numbers among its arguments, and passes on plain ones."""

    def __init__(self, log: _Log) -> None:
        super().__init__()
        self.log = log

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        bare, named = plain(args), plain(kwargs)
        result = func(*bare, **named)
        if func == SHAPE or func is Tensor.size or func in COUNTS:
            return self._sizes(args[0], result, *bare[1:], **named)
        if bare is not args or named is not kwargs:
            name = str(getattr(func, "__name__", ""))
            _Call(self.log, name if name.endswith("__") else name.removesuffix("_"), bare, named, result).note(
                args, kwargs
            )
        return result

    def _sizes(self, tensor: Tensor, result: Any, dim: int | None = None) -> Any:
        """What was asked of a tensor's shape, watched."""
        shape = self.log.shape(tensor)
        if isinstance(result, torch.Size):
            return shape
        if dim is not None:
            return shape[dim]
        return _carried(result, frozenset().union(*(_origins(size) for size in shape)), self.log)


@dataclass(frozen=True)
class _Call:
    """One call of a torch function with watched numbers among its arguments."""

    log: _Log
    name: str
    bare: tuple[Any, ...]
    named: Mapping[str, Any]
    result: Any

    def note(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note which arguments set sizes, and that the others are arithmetic."""
        first, rest, names = SIZES.get(self.name, (len(args), False, ()))
        last = len(args) if rest else first + 1
        if self.name == "arange":
            last = 2  # the step is arithmetic
        others = [*args[:first], *args[last:], *(v for k, v in kwargs.items() if k not in names)]
        self.log.number(_origins(others))
        sizes = [*args[first:last], *(v for k, v in kwargs.items() if k in names)]
        if len(sizes) == 1 and isinstance(sizes[0], (list, tuple)):
            sizes = list(sizes[0])
        for at, size in enumerate(sizes):
            self.log.size(_origins(size), self._set_by(at))

    def _set_by(self, at: int) -> list[Dimension]:
        """The dimensions of the result that the size at a place sets, where that is known."""
        if self.name in SHAPED and isinstance(self.result, Tensor) and at < self.result.dim():
            return [self._dimension(self.result, at)]
        if self.name in SPLIT:
            dim = self.bare[2] if len(self.bare) > 2 else self.named.get("dim", 0)
            return [self._dimension(part, dim % part.dim()) for part in self.result]
        return []

    def _dimension(self, tensor: Tensor, dim: int) -> Dimension:
        return Dimension(self.log.path, tuple(tensor.shape), dim)


def _origins(value: Any) -> frozenset[Origin]:
    """The origins of all watched numbers in a value."""
    if isinstance(value, _Carrier):
        return value.origins
    if isinstance(value, slice):
        return _origins((value.start, value.stop, value.step))
    if isinstance(value, dict):
        return _origins(list(value.values()))
    parts = value if isinstance(value, (list, tuple)) else ()
    return frozenset().union(*map(_origins, parts))
