"""What a graph cannot follow of the circumstances of a call: gradients, how inputs lie in memory, what the model keeps in between.

Code that asks for them is written into the graph with the answers that the example gave. Whether a model answers otherwise in other
circumstances is tried; where it does, its graph refuses them. What the model itself changes from call to call is named.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from secateur.randomness import private_draws
from secateur.state import resting
from secateur.structure.decided import OF_NO_MODEL
from secateur.structure.difference import compared_tensors
from secateur.structure.export import differ
from secateur.structure.frames import Inputs
from secateur.structure.graph_parts import INTERNAL
from secateur.switches import unfused_attention
from secateur.trees import changed, plain_values, tensors_within
from secateur.types import InputError

__all__ = ["CHECKS_OF_INPUTS", "GRADIENTS", "Circumstances", "check_gradients", "circumstances"]

GRADIENTS, DERIVED_INPUTS = "gradients off", "inputs that require no gradients"
LAYOUT = "inputs that lie in memory as the example's"


@dataclass(frozen=True)
class Circumstances:
    """What a graph refuses, and what a reader of its report should know besides.

    Attributes:
        refused: which circumstances must be as on the example, as the model answers otherwise in others.
        conditions: these, and what else may change from call to call, in words.
    """

    refused: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()


def circumstances(model: nn.Module, inputs: Inputs) -> Circumstances:
    """Return what a graph of a model in eval mode could not follow; the model is left as it is.

    >>> class Counts(nn.Module):
    ...     calls = 0
    ...     def forward(self, x):
    ...         self.calls += 1
    ...         return x * 2 if torch.is_grad_enabled() else x
    >>> circumstances(Counts(), ((torch.ones(1),), {}))
    Circumstances(refused=('gradients off',), conditions=('gradients off', 'calls as it is, which the forward pass sets'))
    """
    asked = _Asked()
    with resting(model), unfused_attention(), torch.no_grad():
        before = _kept(model)
        with asked:
            answers = _answers(model, inputs)
        set_names = [name for name, value in _kept(model).items() if name not in before or before[name] != value]
        if _differs(model, answers, inputs):
            set_names += [name for name in _replaced(model, inputs) if name not in set_names]
    refused = tuple(_refused(model, answers, inputs, asked.names))
    conditions = [*refused, *(f"{name} as it is, which the forward pass sets" for name in set_names)]
    if "dtype" in asked.names:
        conditions.append("inputs of the types that the example has, for which the code asks")
    return Circumstances(refused, tuple(conditions))


def _refused(model: nn.Module, answers: list[Tensor], inputs: Inputs, asked: set[str]) -> Iterator[str]:
    """The circumstances in which the model answers otherwise."""

    def otherwise(change: Callable[[Tensor], Tensor], gradients: bool) -> bool:
        with resting(model), unfused_attention(), torch.set_grad_enabled(gradients):
            return _differs(model, answers, inputs, change)

    if otherwise(_deriving, True):
        # Where inputs that require them make the difference, the graph may run where others are recorded.
        with_gradients = otherwise(Tensor.clone, True)
        if with_gradients:
            yield GRADIENTS
        if not with_gradients or otherwise(_deriving, False):
            yield DERIVED_INPUTS
    if asked & {"is_contiguous", "stride"} and otherwise(_laid_otherwise, False):
        yield LAYOUT


def _differs(
    model: nn.Module, answers: list[Tensor], inputs: Inputs, change: Callable[[Tensor], Tensor] = Tensor.clone
) -> bool:
    with suppress(Exception):  # where it does not run there is no other answer
        return differ(answers, _answers(model, inputs, change))
    return False


def _answers(model: nn.Module, inputs: Inputs, change: Callable[[Tensor], Tensor] = Tensor.clone) -> list[Tensor]:
    args, kwargs = changed(inputs, change)
    with private_draws(0):
        return [x.detach() for x in compared_tensors(model(*args, **kwargs))]


def _replaced(model: nn.Module, inputs: Inputs) -> list[str]:
    """The attributes in which a forward pass puts tensors."""
    before = {id(x): x for x in tensors_within([vars(module) for module in model.modules()])}
    _answers(model, inputs)
    return [name for name, value in _attributes(model) if any(id(x) not in before for x in tensors_within(value))]


def _deriving(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_(x.is_floating_point() or x.is_complex())


def _laid_otherwise(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0] if x.is_contiguous() else x.contiguous()


class _Asked(TorchFunctionMode):
    """Notes what a model's own code asks tensors for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        name = getattr(getattr(func, "__self__", None), "__name__", name) if name == "__get__" else name
        if name in ("is_contiguous", "stride", "dtype") and not sys._getframe(1).f_code.co_filename.startswith(
            OF_NO_MODEL
        ):
            self.names.add(name)
        return func(*args, **(kwargs or {}))


def _attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """What the modules hold but for parameters, buffers and submodules."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in INTERNAL:
                yield f"{path}.{name}".lstrip("."), value


def _kept(model: nn.Module) -> dict[str, Any]:
    """What the modules keep in their attributes, as far as it can be compared."""
    visited: dict[int, Any] = {}
    return {name: plain_values(value, visited) for name, value in _attributes(model)}


def check_gradients(_graph: nn.Module, _words: str) -> None:
    """Refuse to run where gradients are recorded.

    >>> check_gradients(nn.Module(), "")
    Traceback (most recent call last):
    secateur.types.InputError: the code of the model answers otherwise where gradients are on, and this graph was made without...
    """
    if torch.is_grad_enabled():
        raise InputError(
            "the code of the model answers otherwise where gradients are on, and this graph was made without: call it within "
            "torch.no_grad(), or change the code so that it does not ask, and cut the model again"
        )


def check_derived_input(x: Any, name: str, _contiguous: bool) -> None:
    """Refuse an input that gradients are asked for.

    >>> check_derived_input(torch.ones(1, requires_grad=True), "x", True)
    Traceback (most recent call last):
    secateur.types.InputError: the code of the model answers otherwise where inputs require gradients, and this graph was made...
    """
    if x.requires_grad:
        raise InputError(
            f"the code of the model answers otherwise where inputs require gradients, and this graph was made without: give it "
            f"{name}.detach(), or change the code so that it does not ask, and cut the model again"
        )


def check_layout(x: Any, name: str, contiguous: bool) -> None:
    """Refuse an input that lies in memory otherwise than the example's.

    >>> check_layout(torch.ones(3, 2).t(), "x", True)
    Traceback (most recent call last):
    secateur.types.InputError: the code of the model answers otherwise where inputs lie otherwise in memory: x of this graph is...
    """
    if x.is_contiguous() is not contiguous:
        raise InputError(
            f"the code of the model answers otherwise where inputs lie otherwise in memory: {name} of this graph is "
            f"{'' if contiguous else 'not '}contiguous; give it {name}.contiguous(), or cut the model again with an example that "
            "lies as you need it"
        )


CheckOfInput = Callable[..., None]
CHECKS_OF_INPUTS: Mapping[str, CheckOfInput] = {DERIVED_INPUTS: check_derived_input, LAYOUT: check_layout}
"""What looks at each tensor among the inputs where a circumstance is refused."""
