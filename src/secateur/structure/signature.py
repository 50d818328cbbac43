"""The signature of a graph: that of the model's own forward pass, so that it is called in the same ways."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from secateur.structure.entries import PLAIN, check_left_out, leaves_like

__all__ = ["RETURNED_BESIDES", "Signed", "called_like"]

RETURNED_BESIDES: Mapping[str, Any] = {"use_cache": False}
"""Arguments that ask for what is returned besides, with the value that asks for nothing: a graph is called without them."""

Parameter = inspect.Parameter


def called_like(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], spec: Any, out_spec: Any) -> Signed:
    """Return what writes the code of a graph, with the signature of `model`.

    Args:
        model: the model.
        args, kwargs: what it was traced with.
        spec, out_spec: the forms of inputs and outputs.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    positional = [p.name for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    names = [*positional[: len(args)], *(f"arg{i}" for i in range(len(positional), len(args))), *kwargs]
    traced = dict(zip(names, [*args, *kwargs.values()], strict=True))
    return Signed(_PyTreeInfo(list(traced), spec, out_spec), parameters, traced, len(args))


class Signed(_PyTreeCodeGen):
    """Writes a forward pass with the parameters of another one; those that it was not traced with are to be left out.

    Attributes:
        checks: what looks at the graph itself before it runs, with what it compares.
    """

    def __init__(
        self, info: _PyTreeInfo, parameters: list[Parameter], traced: Mapping[str, Any], positional: int
    ) -> None:
        super().__init__(info)
        named = [p for p in parameters if p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
        more = [p.name for p in parameters if p.kind is Parameter.VAR_POSITIONAL]
        rest = [p.name for p in parameters if p.kind is Parameter.VAR_KEYWORD]
        heads = [_declared(p, traced) for p in named if p.kind is not Parameter.KEYWORD_ONLY]
        by_keyword = [_declared(p, traced) for p in named if p.kind is Parameter.KEYWORD_ONLY]
        by_position, by_name = list(traced)[:positional], list(traced)[positional:]
        others = [name for name in by_name if name not in {p.name for p in named}]
        by_keyword += [f"{name}={RETURNED_BESIDES[name]}" if _is_besides(name, traced) else name for name in others]
        separator = [f"*{name}" for name in more] or (["*"] if by_keyword else [])
        self.heads = [*heads, *separator, *by_keyword, *(f"**{name}" for name in rest)]
        self.left_out = [(p.name, _literal(p.default)) for p in named if p.name not in traced]
        self.left_out += [(name, "{}") for name in rest]
        by_position = [name for name in by_position if name in {p.name for p in named}]
        if len(by_position) < positional:
            by_position += [f"*{name}" for name in more]
        else:
            self.left_out += [(name, "()") for name in more]
        self.values = f"[{', '.join(by_position)}], {{{', '.join(f'{name!r}: {name}' for name in by_name)}}}"
        self.names = tuple(traced)
        self.checks: list[tuple[Callable[..., None], Any]] = []

    def __getstate__(self) -> dict[str, Any]:
        # As examples of their forms, since torch's specs of leaves cannot be pickled without a warning.
        names, *specs = self.pytree_info
        # Leaves are tensors there, as an object's form is that of its tensors.
        leaf = torch.empty(0)
        forms = [pytree.tree_unflatten([leaf] * spec.num_leaves, spec) for spec in specs if spec is not None]
        return {**vars(self), "pytree_info": (names, *forms)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        names, *forms = state["pytree_info"]
        vars(self).update(state, pytree_info=_PyTreeInfo(names, *map(pytree.tree_structure, forms)))

    def gen_fn_def(self, free_vars: list[str], maybe_return_annotation: str, *, expanded_def: bool = False) -> str:
        """Write the first lines of the forward pass."""
        text = f"def {self._func_name}({', '.join(['self', *self.heads])}){maybe_return_annotation}:"
        for name, default in self.left_out:
            text += f"\n    check_left_out({name}, {default}, {name!r})"
        for check, expected in self.checks:
            text += f"\n    {check.__name__}(self, {expected!r})"
        bare = [variable.split(":")[0].split("#")[0] for variable in free_vars]
        return text + f"\n    {', '.join(bare)}, = leaves_like({self.values}, self._in_spec, {self.names})"

    def additional_globals(self) -> list[tuple[str, Any]]:
        """What the first lines call."""
        functions = [check_left_out, leaves_like, *(check for check, _ in self.checks)]
        return [(function.__name__, function) for function in functions]


def _is_besides(name: str, traced: Mapping[str, Any]) -> bool:
    return name in RETURNED_BESIDES and traced.get(name) is RETURNED_BESIDES[name]


def _declared(parameter: Parameter, traced: Mapping[str, Any]) -> str:
    """A parameter with its default."""
    if _is_besides(parameter.name, traced):
        return f"{parameter.name}={RETURNED_BESIDES[parameter.name]}"
    if parameter.default is Parameter.empty:
        return parameter.name
    return f"{parameter.name}={_literal(parameter.default)}"


def _literal(default: object) -> str:
    """The default in the code; an ellipsis where it is no plain value."""
    return repr(default) if default is None or type(default) in PLAIN else "..."
