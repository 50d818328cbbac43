"""What sizes and values a graph takes: it refuses others itself, as it might run on them and mean something else."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import Tensor, fx
from torch.fx import GraphModule, Node

from secateur.structure.circumstances import IN_INPUTS, Circumstances, check_input, checks_of_graph
from secateur.structure.free_sizes import Arithmetic, FreeSizes
from secateur.structure.jit_traces import require_traced
from secateur.structure.nodes import tensor_holders
from secateur.structure.signature import Signed
from secateur.types import InputError, brief

__all__ = ["Shapes", "Span", "in_span", "require_inputs", "span_in_words"]

Span = tuple[int, int | None]
"""The least and the greatest size; None for no bound."""
Shapes = tuple[tuple[int | Span | None, ...], ...]
"""The shapes of the tensors among a model's inputs; None for a size that may be any, two numbers for one from and to."""


def require_inputs(
    graph: GraphModule, shapes: Shapes, free: FreeSizes | None = None, apart: Circumstances | None = None
) -> None:
    """Make a graph refuse inputs of other shapes than `shapes`, other plain values than the example's, and circumstances.

    All is noted in its ``meta``.

    Args:
        graph: the graph; it is changed.
        shapes: what it takes.
        free: where some sizes may be others: what must be true of them besides.
        apart: the circumstances that it cannot follow.
    """
    apart = apart or Circumstances()
    holders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    inputs = tensor_holders(graph.graph)
    values = [node for node in holders if "val" in node.meta and node not in inputs]
    conditions: dict[str, None] = {}
    assert isinstance(graph.graph._codegen, Signed)
    graph.graph._codegen.checks += checks_of_graph(graph, apart.refused)
    with graph.graph.inserting_before(holders[-1].next):
        for number, (node, shape) in enumerate(zip(inputs, shapes, strict=True)):
            graph.graph.call_function(check_shape, (node, shape, number, node.name))
        for node in inputs:
            for circumstance in (each for each in IN_INPUTS if each in apart.refused):
                graph.graph.call_function(
                    check_input, (node, circumstance, node.name, node.meta["val"].is_contiguous())
                )
        for node in values:
            graph.graph.call_function(check_value, (node, node.meta["val"], node.name))
        for condition, words in _conditions(graph.graph, inputs, shapes, free) if free else ():
            graph.graph.call_function(check_condition, (condition, words))
            conditions[words] = None
    graph.meta |= {"shapes": shapes, "conditions": (*conditions, *apart.conditions), "refused": apart.refused}
    graph.recompile()


def _conditions(graph: fx.Graph, inputs: list[Node], shapes: Shapes, free: FreeSizes) -> Iterator[tuple[Any, str]]:
    """What must be true of the sizes that may be others: nodes that tell, and words."""
    arithmetic, named = Arithmetic(graph, {}), dict[Any, Any]()
    same = list[tuple[Node, int, Any, str]]()
    for number, dim in ((n, d) for n, shape in enumerate(shapes) for d in range(len(shape))):
        size, word = free.shapes[number][dim], f"inputs[{number}].shape[{dim}]"
        if isinstance(size, int):
            continue
        if size.is_Symbol and size not in arithmetic.sources:
            arithmetic.sources[size] = (inputs[number], dim)
            named[size] = free.examples[size] if isinstance(shapes[number][dim], int) else _symbol(word)
        else:
            same.append((inputs[number], dim, size, word))
    for node, dim, size, word in same:
        if (told := size.subs(named)).free_symbols:
            actual = graph.call_method("size", (node, dim))
            yield graph.call_function(operator.eq, (actual, arithmetic.node(size))), f"{word} == {_in_words(told)}"
    for condition in free.conditions:
        if (told := condition.subs(named)).free_symbols:
            yield arithmetic.node(condition), _in_words(told)


def _symbol(name: str) -> Any:
    import sympy  # type: ignore[import-untyped]

    return sympy.Symbol(name, integer=True, positive=True)


def _in_words(expression: Any) -> str:
    from torch.utils._sympy.printers import PythonPrinter

    return str(PythonPrinter().doprint(expression))


def check_condition(holds: bool, words: str) -> None:
    """Refuse inputs of other sizes.

    >>> check_condition(7 % 2 == 0, "inputs[0].shape[1] % 2 == 0")
    Traceback (most recent call last):
    secateur.types.InputError: this graph takes inputs of which inputs[0].shape[1] % 2 == 0 alone: cut the model again...
    """
    refusal = f"this graph takes inputs of which {words} alone: cut the model again with an example of the sizes that you need"
    if not holds:
        raise InputError(refusal)
    require_traced(holds, refusal)


def check_shape(x: Any, shape: tuple[int | Span | None, ...], number: int, name: str) -> None:
    """Refuse an input of another shape, and what is no tensor.

    >>> import torch
    >>> check_shape(torch.zeros(5, 3), (None, 2), 0, "x")
    Traceback (most recent call last):
    secateur.types.InputError: input 0 of this graph has shape (5, 3); it takes (any, 2) alone: cut the model again...
    >>> check_shape(None, (None, 2), 1, "mask")
    Traceback (most recent call last):
    secateur.types.InputError: input 1 of this graph, mask, is a tensor of shape (any, 2) and was left out: give one, or cut...
    """
    accepted_shape = ", ".join(map(span_in_words, shape))
    if not isinstance(x, Tensor):
        given = "was left out" if x is None or x is ... else f"cannot be {brief(x)}"
        raise InputError(
            f"input {number} of this graph, {name}, is a tensor of shape ({accepted_shape}) and {given}: give one, or cut the "
            "model again with an example as you need it"
        )
    refusal = f"it takes ({accepted_shape}) alone: cut the model again with an example of the shape that you need"
    if len(x.shape) != len(shape) or not all(map(in_span, x.shape, shape)):
        raise InputError(f"input {number} of this graph has shape {tuple(x.shape)}; {refusal}")
    for holds in chain.from_iterable(map(bounds, x.shape, shape)):
        require_traced(holds, f"input {number} of this graph has another shape; {refusal}")


def in_span(size: int, wanted: int | Span | None) -> bool:
    """Return whether a size is one of those wanted."""
    return all(bounds(size, wanted))


def bounds(size: int, wanted: int | Span | None) -> list[bool]:
    """Return what must hold of a size so that it is one of those wanted.

    >>> bounds(5, 3), bounds(5, (4, None)), bounds(5, (1, 4)), bounds(5, None)
    ([False], [True], [True, False], [])
    """
    if wanted is None:
        return []
    if isinstance(wanted, int):
        return [size == wanted]
    least, most = wanted
    return [size >= least, *([] if most is None else [size <= most])]


def span_in_words(size: int | Span | None) -> str:
    """Return what a size may be.

    >>> [span_in_words(size) for size in (3, None, (2, None), (1, 16), (4, 16))]
    ['3', 'any', '2 or more', 'up to 16', '4 to 16']
    """
    if not isinstance(size, tuple):
        return "any" if size is None else str(size)
    least, most = size
    if most is None:
        return f"{least} or more"
    return f"up to {most}" if least <= 1 else f"{least} to {most}"


def check_value(value: object, expected: object, name: str) -> None:
    """Refuse another plain value than a graph was made with.

    >>> check_value(3, 2, "heads")
    Traceback (most recent call last):
    secateur.types.InputError: this graph was made with heads=2, and takes no 3: cut the model again with an example...
    """
    if type(value) is not type(expected) or value != expected:
        raise InputError(
            f"this graph was made with {name}={expected!r}, and takes no {brief(value)}: cut the model again with an example that "
            "has the value that you need"
        )
