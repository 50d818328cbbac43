"""What a graph cannot follow of the circumstances of a call: gradients, how inputs lie in memory, what the model keeps in between.

Code that asks for them is written into the graph with the answers that the example gave. Whether a model answers otherwise in other
circumstances is tried; where it does, its graph refuses them. What the model itself changes from call to call is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.randomness import private_draws
from secateur.state import resting
from secateur.structure.difference import compared_tensors
from secateur.structure.export import differ
from secateur.structure.frames import Inputs
from secateur.structure.graph_parts import INTERNAL
from secateur.structure.queries import NUMBERS, OF_PARAMETERS, OF_STATE, Answers, asking, state_is
from secateur.structure.train_code import in_mode
from secateur.switches import unfused_attention
from secateur.trees import changed, plain_values, tensors_within
from secateur.types import InputError
from secateur.untouched import writes_undone

__all__ = ["IN_INPUTS", "Circumstances", "check_input", "checks_of_graph", "circumstances", "requiring_gradients"]

GRADIENTS, DERIVED_INPUTS = "gradients off", "inputs that require no gradients"
LAYOUT = "inputs that lie in memory as the example's"
NO_PARAMETERS, WHOLE = "inputs that are no parameters", "inputs that are no parts of other tensors"
FROZEN, NO_GRADIENTS = "parameters that require gradients as they did", "parameters with gradients as they were"
STATE_WORDS = {"parameter.requires_grad": FROZEN, "parameter.grad": NO_GRADIENTS}
Change = Callable[[Tensor], Tensor]

ASKED_FOR: Mapping[str, set[str]] = {
    "inputs of the types that the example has": {"dtype", "element_size", "itemsize"},
    "inputs that are no inference tensors": {"is_inference"},
    "inputs that nothing was written into": {"_version"},
    "inputs in memory of the same kind": {"is_pinned"},
    **{f"torch.{name}() as it was": {name} for name in NUMBERS},
}
"""What is not tried, in words, with what asks for it."""


@dataclass(frozen=True)
class Circumstances:
    """What a graph refuses, and what a reader of its report should know besides.

    Attributes:
        refused: which circumstances must be as on the example, as the model answers otherwise in others.
        conditions: these, and what else may change from call to call, in words.
    """

    refused: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()


def circumstances(model: nn.Module, inputs: Inputs, asks_gradients: bool = False) -> Circumstances:
    """Return what a graph of a model could not follow; the model is left as it is.

    Args:
        model: it runs in eval mode.
        inputs: what it is called with.
        asks_gradients: whether its code is known to ask for gradients, so that it is run in train mode, too.

    >>> class Counts(nn.Module):
    ...     calls = 0
    ...     def forward(self, x):
    ...         self.calls += 1
    ...         return x * 2 if torch.is_grad_enabled() else x
    >>> circumstances(Counts(), ((torch.ones(1),), {}))
    Circumstances(refused=('gradients off',), conditions=('gradients off', 'calls as it is, which the forward pass sets'))
    """
    with resting(model), unfused_attention(), torch.no_grad():
        before = _kept(model)
        with asking() as asked:
            answers = _answers(model, inputs)
        set_names = [name for name, value in _kept(model).items() if name not in before or before[name] != value]
        if _differs(model, answers, inputs):
            set_names += [name for name in _replaced(model, inputs) if name not in set_names]
    refused = (*_refused_of_inputs(model, answers, inputs, asked), *_refused_of_state(model, answers, inputs, asked))
    if asks_gradients and GRADIENTS not in refused and _differs_in_training(model, inputs):
        refused = (GRADIENTS, *refused)
    conditions = [*refused, *(f"{name} as it is, which the forward pass sets" for name in set_names)]
    conditions += [f"{words}, for which the code asks" for words, names in ASKED_FOR.items() if asked & names]
    return Circumstances(refused, tuple(conditions))


def _refused_of_inputs(model: nn.Module, answers: list[Tensor], inputs: Inputs, asked: set[str]) -> Iterator[str]:
    """The circumstances of inputs and gradients in which the model answers otherwise."""

    def otherwise(change: Change, gradients: bool = False) -> bool:
        with resting(model), unfused_attention(), torch.set_grad_enabled(gradients):
            return _differs(model, answers, inputs, change)

    if otherwise(nn.Parameter, True) or asked & {"is_leaf", "grad_fn"}:
        # Where inputs that require them make the difference, the graph may run where others are recorded.
        with_gradients = otherwise(Tensor.clone, True)
        if with_gradients:
            yield GRADIENTS
        if otherwise(requiring_gradients, not with_gradients):
            yield DERIVED_INPUTS
        if otherwise(_as_parameter):
            yield NO_PARAMETERS
    if asked & {"is_contiguous", "stride"} and any(map(otherwise, LAYOUTS)):
        yield LAYOUT
    if asked & OF_PARTS and not any(map(_is_part, tensors_within(inputs))) and otherwise(_as_part):
        yield WHOLE


def _differs_in_training(model: nn.Module, inputs: Inputs) -> bool:
    """Whether a model answers otherwise in train mode where gradients are on."""

    def answers(gradients: bool) -> list[Tensor]:
        in_training, on = in_mode(model, True), torch.set_grad_enabled
        with resting(model), writes_undone(model), unfused_attention(), in_training, on(gradients):
            return _answers(model, inputs)

    with suppress(Exception):  # where it does not run there is no other answer
        return differ(answers(False), answers(True))
    return False


def _refused_of_state(model: nn.Module, answers: list[Tensor], inputs: Inputs, asked: set[str]) -> Iterator[str]:
    """What the model answers otherwise for, of the state of torch and of its parameters."""
    questions: Answers = {**OF_PARAMETERS, **dict.fromkeys(OF_STATE, lambda _, answer: not answer)}
    for name in sorted(asked & questions.keys()):
        with resting(model), unfused_attention(), torch.no_grad(), asking({name: questions[name]}):
            if _differs(model, answers, inputs):
                yield STATE_WORDS[name] if name in STATE_WORDS else f"torch.{name}() == {state_is(name)}"


def _differs(model: nn.Module, answers: list[Tensor], inputs: Inputs, change: Change = Tensor.clone) -> bool:
    with suppress(Exception):  # where it does not run there is no other answer
        return differ(answers, _answers(model, inputs, change))
    return False


def _answers(model: nn.Module, inputs: Inputs, change: Change = Tensor.clone) -> list[Tensor]:
    args, kwargs = changed(inputs, change)
    with private_draws(0):
        return [x.detach() for x in compared_tensors(model(*args, **kwargs))]


def _replaced(model: nn.Module, inputs: Inputs) -> list[str]:
    """The attributes in which a forward pass puts tensors."""
    before = {id(x): x for x in tensors_within([vars(module) for module in model.modules()])}
    _answers(model, inputs)
    return [name for name, value in _attributes(model) if any(id(x) not in before for x in tensors_within(value))]


def requiring_gradients(x: Tensor) -> Tensor:
    """Return a copy of a tensor that requires a gradient, where it can have one."""
    with torch.enable_grad():
        return x.detach().clone().requires_grad_(x.is_floating_point() or x.is_complex()) * 1


def _as_parameter(x: Tensor) -> Tensor:
    return nn.Parameter(x.detach().clone(), requires_grad=False)


def _as_part(x: Tensor) -> Tensor:
    return torch.stack([x, x])[1]


def _is_part(x: Tensor) -> bool:
    return bool(x.storage_offset()) or x._is_view()


def _spread(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0] if x.is_contiguous() else x.contiguous()


def _reversed(x: Tensor) -> Tensor:
    return x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 2 else x.clone()


OF_PARTS = {"storage_offset", "_base", "_is_view"}
LAYOUTS: tuple[Change, ...] = (_spread, _reversed, _channels_last)


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


OR_CHANGE = "or change the code so that it does not ask, and cut the model again"

IN_INPUTS: Mapping[str, tuple[Callable[[Tensor, bool], bool], str]] = {
    DERIVED_INPUTS: (
        lambda x, _: x.requires_grad,
        f"answers otherwise where inputs require gradients, and this graph was made without: give it {{name}}.detach(), {OR_CHANGE}",
    ),
    LAYOUT: (
        lambda x, contiguous: x.is_contiguous() is not contiguous,
        "answers otherwise where inputs lie otherwise in memory: {name} of this graph is {contiguous}; give it {name}.contiguous(), "
        "or cut the model again with an example that lies as you need it",
    ),
    NO_PARAMETERS: (
        lambda x, _: isinstance(x, nn.Parameter),
        f"answers otherwise where inputs are parameters, and this graph was made without: give it {{name}}.detach(), {OR_CHANGE}",
    ),
    WHOLE: (
        lambda x, _: _is_part(x),
        f"answers otherwise where inputs are parts of other tensors: give this graph {{name}}.clone(), {OR_CHANGE}",
    ),
}
"""What is looked at in each tensor among the inputs where a circumstance is refused: whether it breaks it, beside whether the
example's was contiguous; and what the error says."""


def check_input(x: Any, circumstance: str, name: str, contiguous: bool) -> None:
    """Refuse an input that is not as the example's was.

    >>> check_input(torch.ones(2)[1:], WHOLE, "x", True)
    Traceback (most recent call last):
    secateur.types.InputError: the code of the model answers otherwise where inputs are parts of other tensors: give this graph...
    """
    breaks, message = IN_INPUTS[circumstance]
    if breaks(x, contiguous):
        told = message.format(name=name, contiguous=f"{'' if contiguous else 'not '}contiguous")
        raise InputError(f"the code of the model {told}")


def check_gradients(_graph: nn.Module, _: object) -> None:
    """Refuse to run where gradients are recorded.

    >>> check_gradients(nn.Module(), None)
    Traceback (most recent call last):
    secateur.types.InputError: the code of the model answers otherwise where gradients are on, and this graph was made without...
    """
    if torch.is_grad_enabled():
        raise InputError(
            "the code of the model answers otherwise where gradients are on, and this graph was made without: call it within "
            f"torch.no_grad(), {OR_CHANGE}"
        )


def check_state(_graph: nn.Module, words: str) -> None:
    """Refuse to run in another state of torch.

    >>> check_state(nn.Module(), "torch.is_autocast_enabled() == True")
    Traceback (most recent call last):
    secateur.types.InputError: the code of the model asks torch.is_autocast_enabled(), and this graph was made where that was True...
    """
    call, _, answer = words.split()
    if str(state_is(call[6:-2])) != answer:
        raise InputError(
            f"the code of the model asks {call}, and this graph was made where that was {answer}: call it so, or cut the model again "
            "where it is as you need it"
        )


IN_PARAMETERS: Mapping[str, tuple[Callable[[nn.Parameter], bool], str, str]] = {
    FROZEN: (
        lambda parameter: not parameter.requires_grad,
        "require gradients",
        "set it back, or set it on the model and cut that again",
    ),
    NO_GRADIENTS: (
        lambda parameter: parameter.grad is not None,
        "have gradients",
        f"call graph.zero_grad(), {OR_CHANGE}",
    ),
}
"""What is looked at in each parameter where a circumstance is refused; what the code asks of them; and the remedy."""


def check_parameters(graph: nn.Module, expected: tuple[str, frozenset[str]]) -> None:
    """Refuse to run where other parameters are frozen, or have gradients.

    >>> check_parameters(nn.Linear(1, 1), (FROZEN, frozenset({"bias"})))
    Traceback (most recent call last):
    secateur.types.InputError: the code of the model asks which parameters require gradients, and bias of this graph did otherwise...
    """
    circumstance, names = expected
    _, question, remedy = IN_PARAMETERS[circumstance]
    others = sorted(names ^ _names_like(graph, circumstance))
    if others:
        raise InputError(
            f"the code of the model asks which parameters {question}, and {others[0]} of this graph did otherwise when it was "
            f"made: {remedy}"
        )


def _names_like(graph: nn.Module, circumstance: str) -> frozenset[str]:
    is_so = IN_PARAMETERS[circumstance][0]
    return frozenset(name for name, parameter in graph.named_parameters() if is_so(parameter))


def checks_of_graph(graph: nn.Module, refused: Iterable[str]) -> list[tuple[Callable[..., None], Any]]:
    """Return what looks at a graph before it runs where circumstances are refused, with what it compares."""
    checks: list[tuple[Callable[..., None], Any]] = []
    for words in refused:
        if words == GRADIENTS:
            checks.append((check_gradients, None))
        elif words in IN_PARAMETERS:
            checks.append((check_parameters, (words, _names_like(graph, words))))
        elif words.startswith("torch."):
            checks.append((check_state, words))
    return checks
