"""The graph of a model with that of train mode beside it, where train mode runs code that eval mode does not."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from secateur.randomness import private_draws
from secateur.state import evaluating, fresh
from secateur.structure.axes import Atom, Axis, atoms, freeze, is_fixed
from secateur.structure.carriers import Dimension, Uses
from secateur.structure.held import mapped_numbers
from secateur.structure.nodes import innermost, where
from secateur.structure.ops import flattens
from secateur.structure.rules import Value, op_name, shape_of
from secateur.structure.sized_axes import RESHAPES
from secateur.structure.trace import Graph, first_line, trace
from secateur.structure.train_code import in_mode, runs_other_code
from secateur.structure.watch import WRITABLE, watch
from secateur.types import ExampleInputs

__all__ = [
    "freeze_train_code",
    "idle_in_both",
    "is_covered",
    "joined",
    "trace_both",
    "train_traces",
    "turned_traces",
    "watched",
    "with_train_mode",
]


def trace_both(model: nn.Module, example_inputs: ExampleInputs, **options: Any) -> Graph:
    """Return what `trace` does with these options, with the graph of train mode beside it where that runs other code."""
    return with_train_mode(model, trace(model, example_inputs, **options), **options)


def with_train_mode(model: nn.Module, graph: Graph, **options: Any) -> Graph:
    """Return the graph of a model in eval mode with that of train mode, where that runs other code, or why there is none.

    A model whose code does not ask for the mode, torch's own layers aside, is not run again.

    Args:
        model: the model that was traced; it is left as it is.
        graph: its trace.
        options: those that it was traced with.
    """
    if graph.training or graph.calls is None:
        return graph
    args, kwargs = graph.args, dict(graph.kwargs)
    try:
        example = (args, kwargs)
        other_code, asks_gradients = runs_other_code(model, example, graph.calls, graph.stored, _shapes(graph))
        graph = replace(graph, asks_gradients=graph.asks_gradients or asks_gradients)
        if not other_code:
            return graph
    except Exception as error:  # noqa: BLE001  (a forward pass raises what it likes, as without targets)
        return _untrained(graph, f"it does not run on the example ({first_line(error)})")
    try:
        trained = trace(model, args or kwargs, **{**options, "training": True})
        if graph.program is None and trained.program is not None:  # the lines of both are compared
            exported = trace(model, args or kwargs, **{**options, "quick": False})
            graph = replace(exported, asks_gradients=graph.asks_gradients)
    except Exception as error:  # noqa: BLE001
        why = first_line(error.__cause__ or error)
        return _untrained(graph, f"it runs other code there, which cannot be traced ({why})")
    return replace(graph, trained=_with_written(model, graph, trained))


def _with_written(model: nn.Module, graph: Graph, trained: Graph) -> Graph:
    """The graph of train mode, which knows what its own code does with sizes, and those that it alone has written."""
    uses = trained.uses or watched(model, trained)
    lost = uses.lost_sizes()
    written = {d for d in uses.written if d.shape[d.dim] not in lost and not _is_mapped(model, d)}
    if written:
        written -= (graph.uses or watched(model, graph)).written
    return replace(trained, uses=replace(uses, written=written))


def _is_mapped(model: nn.Module, dimension: Dimension) -> bool:
    """Whether a size may come from a mapping of the module whose code sets it, which is not watched."""
    return dimension.shape[dimension.dim] in mapped_numbers(model.get_submodule(dimension.path)).values()


def watched(model: nn.Module, graph: Graph) -> Uses:
    """Return what a model does with its sizes, of whose trace that is not known yet."""
    with evaluating(model), private_draws(), in_mode(model, graph.training):
        return watch(model, *fresh(graph.args, graph.kwargs))[0] or Uses()


def _untrained(graph: Graph, why: str) -> Graph:
    """The graph of eval mode alone, which knows nothing of what train mode may run."""
    return replace(graph, untrained=why, idle={name: f"{idle} in eval mode" for name, idle in graph.idle.items()})


def _shapes(graph: Graph) -> list[tuple[int, ...]]:
    """The shapes of what a graph returns, the smallest first."""
    returned = pytree.tree_leaves(next(n for n in reversed(graph.graph.nodes) if n.op == "output").args[0])
    tensors = dict.fromkeys(n for n in returned if isinstance(n, Node) and isinstance(n.meta.get("val"), Tensor))
    return sorted(map(shape_of, tensors))


def idle_in_both(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    """Return what neither of two traces runs, by its name, with the reason.

    >>> idle_in_both({"aux": "never run", "old": "never run"}, {"old.fc": "never run", "new": "never run"})
    {'old.fc': 'never run'}
    """
    both = {name: why for name, why in ours.items() if is_covered(name, theirs)}
    return both | {name: why for name, why in theirs.items() if is_covered(name, ours)}


def is_covered(name: str, idle: Mapping[str, str]) -> bool:
    """Whether a module or tensor is among these, or within one of them."""
    return any(f"{name}.".startswith(f"{above}.") for above in idle)


def train_traces(graph: Graph) -> list[Graph]:
    """Return the graphs of train mode: of the regions of a graph, or of all of it."""
    return [traced.trained for traced in graph.traces if traced.trained is not None]


def turned_traces(graph: Graph) -> list[Graph]:
    """Return the graphs of what runs where an input is set otherwise: of the regions of a graph, or of all of it."""
    return [turned for traced in graph.traces for _, turned in traced.turned]


def joined(graph: Graph) -> Graph:
    """Return a graph that knows the tensors of both modes by name, and what leaves in either.

    What runs where an input is set otherwise ties units alone: what the example does not run stays idle, and what leaves there
    leaves in another shape.
    """
    for turned in turned_traces(graph):
        graph = replace(
            graph,
            tensors={**turned.tensors, **graph.tensors},
            state={**turned.state, **graph.state},
            inputs=(*graph.inputs, *turned.inputs),
        )
    for trained in train_traces(graph):
        graph = replace(
            graph,
            tensors={**trained.tensors, **graph.tensors},
            state={**trained.state, **graph.state},
            inputs=(*graph.inputs, *trained.inputs),
            leaving={**{node: f"{why} in train mode" for node, why in trained.leaving.items()}, **graph.leaving},
            idle=idle_in_both(graph.idle, trained.idle),
            pinned={name: why for name, why in graph.pinned.items() if name in trained.pinned},
            derived={**trained.derived, **graph.derived},
        )
    return graph


def freeze_train_code(
    ours: Mapping[Node, Any],
    theirs: Mapping[Node, Any],
    tensors: Mapping[str, Value],
    counted: Container[Dimension],
    written: Container[Dimension],
    what: str = "train mode",
) -> None:
    """Freeze units that train mode alone has, as nothing measures them, and those that its own code counts by numbers.

    Args:
        ours, theirs: the values of the nodes of eval mode and of train mode.
        tensors: the axes of the model's tensors, by name.
        counted: the dimensions whose size the code has from a module or from a tensor.
        written: those whose size is a number in code that the second alone runs.
        what: what the second are of, in words.
    """
    read = set(_atoms(ours.get(operand) for node in _calls(ours) for operand in node.all_input_nodes))
    for value in tensors.values():
        for atom in set(_atoms([value])) - read:
            freeze(atom, f"{what} alone runs it")
    calls, lines = {_call(node) for node in _calls(ours)}, {where(node) for node in _calls(ours)}
    for node in _calls(theirs):
        _freeze_written(node, theirs[node], written, what)
        if op_name(node) in TAKING and _call(node) not in calls:
            axes = [axis for value in leaves_of(theirs.get(node.all_input_nodes[0])) for axis in value.axes]
        elif op_name(node) in RESHAPES and where(node) not in lines and not flattens(node):
            sized = enumerate(theirs[node].axes)
            axes = [axis for dim, axis in sized if Dimension(innermost(node), shape_of(node), dim) not in counted]
        else:
            continue
        for axis in axes:
            _freeze_counted(axis, node, what)


def _freeze_written(node: Node, result: Any, written: Container[Dimension], what: str) -> None:
    """Freeze what an op gives as many units as the code says."""
    for value in leaves_of(result) if op_name(node) in SIZING else ():
        for dim, axis in enumerate(value.axes):
            if Dimension(innermost(node), value.shape, dim) in written:
                _freeze_counted(axis, node, what)


def _freeze_counted(axis: Axis, node: Node, what: str) -> None:
    if not is_fixed(axis):
        freeze(axis, f"{what} counts its units at {where(node)}")


SIZING = WRITABLE | RESHAPES | {"convolution", "native_channel_shuffle"}
"""Ops of the functions that are given sizes of what they return."""
TAKING = {*("slice", "narrow", "split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unbind")}


def _calls(values: Mapping[Node, Any]) -> list[Node]:
    return [node for node in values if node.op == "call_function"]


def _call(node: Node) -> tuple[str, ...]:
    """What is the same of one call in two traces: the op, its line, and its plain arguments."""
    return where(node), *(str(argument) for argument in node.args if not isinstance(argument, Node))


def _atoms(results: Iterable[Any]) -> Iterator[Atom]:
    for value in leaves_of(list(results)):
        for axis in value.axes:
            yield from atoms(axis)


def leaves_of(result: Any) -> Iterator[Value]:
    """Yield what is known of the tensors in what an op gives."""
    if isinstance(result, Value):
        yield result
    elif isinstance(result, (list, tuple)):
        for inner in result:
            yield from leaves_of(inner)
    elif isinstance(result, dict):
        yield from leaves_of(list(result.values()))
