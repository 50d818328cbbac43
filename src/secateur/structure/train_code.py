"""Code that train mode alone runs: whether a model has any, and how it is run there so that two runs can be compared.

Torch's own layers stay in eval mode: what they do in train mode is known, ties nothing, and may fail on one sample.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from secateur.randomness import private_draws
from secateur.state import evaluating, fresh
from secateur.structure.asking import ModeReads, is_of_torch, mode_reads, said_in_training
from secateur.structure.outputs import Holdings
from secateur.trees import tensors_within, told_shape
from secateur.untouched import writes_refused

__all__ = ["CallLog", "in_mode", "logged_pass", "runs_other_code", "trained"]


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Run a model that is in eval mode in train mode, where that is asked for; who calls this puts the mode back.

    What is drawn at random is settled: nothing is dropped, and noise is zero, whatever the number of units.
    """
    if not training:
        yield
        return
    with trained(model), _SettledDraws(), _SettledLayers():  # type: ignore[no-untyped-call]
        yield


@contextmanager
def _seeded(model: nn.Module) -> Iterator[None]:
    """Let Python and numpy draw the same numbers in each forward pass, traced or run, and go on as before afterwards."""
    numpy = sys.modules.get("numpy")
    states = random.getstate(), numpy.random.get_state() if numpy else None

    def seed(_module: nn.Module, _args: Any) -> None:
        random.seed(0)
        if numpy:
            numpy.random.seed(0)

    handle = model.register_forward_pre_hook(seed, prepend=True)
    try:
        yield
    finally:
        handle.remove()
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])


@contextmanager
def trained(model: nn.Module) -> Iterator[None]:
    """Put a model in train mode, but for torch's own layers, which only say so to code that is not torch's.

    >>> class Asks(nn.Sequential):
    ...     def forward(self, x):
    ...         return self[0](x), self[0].training
    >>> with trained(model := Asks(nn.Dropout(1.0))):
    ...     model(torch.ones(1))
    (tensor([1.]), True)
    """
    model.train()
    settled = [module for module in model.modules() if is_of_torch(module) and module.training]
    for module in settled:
        vars(module)["training"] = False
    with said_in_training(settled), _seeded(model):
        yield


SETTLED = {
    **dict.fromkeys(("bernoulli", "bernoulli_"), 1.0),
    **dict.fromkeys(("rand", "rand_like", "uniform", "uniform_"), 0.5),
    **dict.fromkeys(("randn", "randn_like", "normal", "normal_", "normal_functional"), 0.0),
}
"""What the ops that draw answer instead."""


class _SettledDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers numbers in the place of random ones."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in ("native_dropout", "_fused_dropout", "dropout"):
            return (args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)) if "_" in name else args[0].clone()
        result = func(*args, **(kwargs or {}))
        return result.fill_(SETTLED[name]) if name in SETTLED else result


DROPPING = {
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "feature_alpha_dropout",
    "feature_dropout",
}


class _SettledLayers(TorchFunctionMode):
    """Lets functions, and the ops that a trace has of them, drop nothing, and norm by what they know, as in eval mode."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, is_op = dict(kwargs or {}), isinstance(func, OpOverload)
        name = func.overloadpacket.__name__ if is_op else getattr(func, "__name__", "")
        if name in DROPPING:
            return args[0] if args else kwargs["input"]
        place, argument, settled = SETTLED_ARGUMENTS.get(name, (0, "", None))
        mean = 3 if is_op else 1
        if name == "batch_norm" and (args[mean] if len(args) > mean else kwargs.get("running_mean")) is None:
            argument = ""  # it has nothing else to norm by
        if argument and argument in kwargs:
            kwargs[argument] = settled
        elif argument and len(args) > place:
            args = (*args[:place], settled, *args[place + 1 :])
        return func(*args, **kwargs)


SETTLED_ARGUMENTS = {
    "scaled_dot_product_attention": (4, "dropout_p", 0.0),
    "batch_norm": (5, "training", False),
}
"""What functions are given in train mode instead: the argument's place, its name, and its value."""


class CallLog:
    """The ops of a forward pass, each with what makes it another one than the next: parameters, shapes, positions, and the ops
    that gave what it takes.

    What is made or drawn for whole samples, and what scales a tensor by that or by a number, ties nothing and is left out.

    Attributes:
        calls: the ops.
    """

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.by_sample: dict[int, Tensor] = {}  # an id is a tensor's own only while it lives
        self.given_by = WeakTensorKeyDictionary()

    def note(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Note one op."""
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        is_plain = isinstance(result, Tensor) and not result.is_nested
        if not (is_plain and self._ties_nothing(name, args, result)):
            told = self._told(args), self._told(list(kwargs.values()))
            for place, tensor in enumerate(tensors_within(result)):
                self.given_by[tensor] = len(self.calls), place
            self.calls.append((name, *told, self._told(result)))

    def _told(self, argument: Any) -> Any:
        if isinstance(argument, nn.Parameter):
            return id(argument)
        if isinstance(argument, Tensor):
            return told_shape(argument), self.given_by.get(argument)  # type: ignore[no-untyped-call]
        if isinstance(argument, (list, tuple)):
            return [self._told(inner) for inner in argument]
        return argument if type(argument) in (int, str) else None

    def _ties_nothing(self, name: str, args: Any, result: Tensor) -> bool:
        if result.is_meta and name == "empty":  # a shape that the recorder notes
            return True
        operands = [x for x in args if isinstance(x, Tensor)] if name in SCALING else []
        whole = [x for x in operands if id(x) not in self.by_sample]
        if whole:
            scales = [x for x in operands if id(x) in self.by_sample]
            # One of fewer dimensions lines up with the last axes, and one of a weight with its units.
            of_samples = not isinstance(whole[0], nn.Parameter) and all(x.dim() == result.dim() for x in scales)
            scalar = all(x.numel() == 1 for x in scales)
            ties_nothing = len(whole) == 1 and whole[0].shape == result.shape and (of_samples or scalar)
            if ties_nothing and whole[0] in self.given_by:
                self.given_by[result] = self.given_by[whole[0]]
            return ties_nothing
        by_sample = result.shape[1:].numel() == 1 and (bool(operands) or name in MAKING)
        if by_sample:
            self.by_sample[id(result)] = result
        return by_sample


MAKING = {*("empty", "new_empty", "empty_like", "full", "new_full", "ones", "new_ones", "zeros", "new_zeros", "fill")}
MAKING |= {*("rand", "randn", "rand_like", "randn_like", "bernoulli", "uniform", "normal")}
SCALING = {
    *("mul", "div", "add", "sub", "rsub", "floor", "lt", "gt", "le", "ge", "_to_copy", "clone", "detach", "alias")
}


@contextmanager
def logged_pass(model: nn.Module, training: bool) -> Iterator[tuple[CallLog, ModeReads]]:
    """Let a model run once, and leave it as it was; what ran is noted, and what its code asks for."""
    log = CallLog()
    with (
        evaluating(model),
        private_draws(),
        in_mode(model, training),
        mode_reads(model) as reads,
        writes_refused(model, log.note),
    ):
        yield log, reads


def runs_other_code(
    model: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]], log: CallLog, stored: Container[str], shapes: Any
) -> tuple[bool, bool]:
    """Whether a model runs other ops in train mode than in eval mode, stores other tensors, or returns others; and whether
    its code asks for gradients there.

    Args:
        model: the model; it is left as it is.
        inputs: what it is called with.
        log, stored, shapes: what ran in eval mode, where it stored tensors, and the shapes of what it returned.

    Raises:
        Exception: whatever the model raises in train mode on these inputs.
    """
    args, kwargs = fresh(*inputs)
    with logged_pass(model, training=True) as (in_training, reads):
        holdings = Holdings(model, (args, kwargs), buffers=False)
        outputs = model(*args, **kwargs)
        places = {place.name for place, _ in holdings.stored()}
    once = {id(x): told_shape(x) for x in tensors_within(outputs)}
    other_code = (
        log.calls != in_training.calls
        or any(place not in stored for place in places)
        or sorted(once.values()) != shapes
    )
    return other_code, reads.asked_gradients
