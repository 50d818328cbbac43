"""Which sizes of a graph's inputs may be others, and what the sizes in its ops then are: learnt from an export with free sizes.

The exporter calls every size of the inputs by a letter, follows what the code computes of it, and notes each comparison
that the code makes: the program holds where they come out alike. Its ops are those of the program with the example's own
sizes, one by one, so that what stands there as a number is known as an expression.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from secateur.randomness import private_draws
from secateur.state import evaluating
from secateur.structure.export import export
from secateur.structure.trace import Graph

__all__ = ["Arithmetic", "FreeSizes", "Letters", "Size", "free_sizes"]

Size = Any
"""A size as a number, or as an expression of sympy in the letters."""
Letters = Mapping[Any, int]
"""A number for each letter."""
TORCH = Path(torch.__file__).parent
# Where the exporter compares sizes to learn shapes and strides: there an op fails by itself, or means the same.
SHAPES_ALONE = ("_refs", "_prims", "_prims_common", "_meta_registrations.py", "_subclasses", "_decomp", "_ops.py", "_library")


@dataclass(frozen=True, eq=False)
class FreeSizes:
    """What the sizes of a graph are when the inputs have others.

    Attributes:
        shapes: the shape of each tensor among the inputs.
        examples: the number that each letter is on the example.
        ranges: from which number to which each letter may be, as far as one bound says it; None for no bound.
        conditions: what must be true of the letters besides.
        arguments: the arguments of ops that are sizes, by name, with None in the place of what is none.
        sources: for each graph, by its id, where the size that a letter stands for can be read: the placeholder and dimension.
    """

    shapes: tuple[tuple[Size, ...], ...]
    examples: Letters
    ranges: Mapping[Any, tuple[int, int | None]]
    conditions: tuple[Any, ...]
    arguments: Mapping[Node, Mapping[str, Any]]
    sources: Mapping[int, Mapping[Any, tuple[Node, int]]]

    def allow(self, letters: Letters, *, least: int = 0) -> bool:
        """Whether the ops are the same at these sizes: each is in its range, or `least`, and the conditions are true.

        The exporter never takes a size to be 1, of which it says nothing therefore.
        """
        for letter, (low, high) in self.ranges.items():
            if letters[letter] < low and letters[letter] != least or (high is not None and letters[letter] > high):
                return False
        return all(bool(condition.subs(letters)) for condition in self.conditions)

    def shapes_at(self, letters: Letters) -> list[tuple[int, ...]]:
        """Return the shapes of the inputs' tensors where the letters are these numbers."""
        return [tuple(s if isinstance(s, int) else int(s.subs(letters)) for s in shape) for shape in self.shapes]


def free_sizes(model: nn.Module, graph: Graph) -> FreeSizes | None:
    """Return what the sizes of an exported graph are when its inputs have others; None where the exporter cannot tell.

    Args:
        model: the model that `graph` is of.
        graph: its trace, exported.
    """
    program = graph.program
    if program is None or graph.of_example or graph.packed:
        return None
    try:
        with evaluating(model), private_draws():
            touched = graph.uses.parameters if graph.uses else None
            free = export(model, graph.args, dict(graph.kwargs), touched, as_it_runs=graph.as_it_runs, free=True).program
        pairs = list(_pairs(program.graph_module, free.graph_module))
        return _read(graph, pairs, _environment(free.graph))
    except Exception:  # noqa: BLE001  (whatever the exporter raises, sizes are then those of the example)
        return None


def _environment(graph: fx.Graph) -> Any:
    """What the exporter noted about sizes."""
    tensors = (node.meta.get("val") for node in graph.nodes)
    return next(tensor for tensor in tensors if isinstance(tensor, Tensor)).fake_mode.shape_env  # type: ignore[attr-defined]


def _pairs(ours: GraphModule, theirs: GraphModule) -> Iterator[tuple[fx.Graph, fx.Graph]]:
    """The two graphs and those within them."""
    yield ours.graph, theirs.graph
    inner = [[m for m in side.children() if isinstance(m, GraphModule)] for side in (ours, theirs)]
    for mine, other in zip(*inner, strict=True):
        yield from _pairs(mine, other)


def _read(graph: Graph, pairs: Sequence[tuple[fx.Graph, fx.Graph]], environment: Any) -> FreeSizes:
    sources = {id(ours): _sources(ours, theirs) for ours, theirs in pairs}
    top = sources[id(pairs[0][0])]
    holders = dict(zip(*(_tensor_holders(side) for side in pairs[0]), strict=True))
    inputs = [node for node in graph.inputs if isinstance(node.meta.get("val"), Tensor)]
    shapes = tuple(tuple(map(_size, holders[node].meta["val"].shape)) for node in inputs)
    letters = sorted(top, key=str)
    conditions = [guard.expr for guard in environment.guards if not _of_shapes_alone(guard)]
    conditions += [assertion.expr for deferred in environment.deferred_runtime_asserts.values() for assertion in deferred]
    conditions = [environment.replace(c) for c in conditions]
    ranges, rest = _bounded(letters, [c for c in conditions if c.free_symbols], environment)
    arguments = {
        node: sized for ours, theirs in pairs for node, sized in _arguments(ours, theirs, sources[id(ours)])
    }
    examples = {letter: int(node.meta["val"].shape[dim]) for letter, (node, dim) in top.items()}
    result = FreeSizes(shapes, examples, ranges, rest, arguments, sources)
    letterless = {s for shape in shapes for size in shape if not isinstance(size, int) for s in size.free_symbols} - set(letters)
    if letterless or not result.allow(examples) or result.shapes_at(examples) != [tuple(n.meta["val"].shape) for n in inputs]:
        raise ValueError("sizes that no input has")
    return result


def _tensor_holders(graph: fx.Graph) -> list[Node]:
    return [n for n in graph.nodes if n.op == "placeholder" and isinstance(n.meta.get("val"), Tensor)]


def _sources(ours: fx.Graph, theirs: fx.Graph) -> dict[Any, tuple[Node, int]]:
    """Where the size that a letter stands for can be read in our graph."""
    places: dict[Any, tuple[Node, int]] = {}
    for node, other in zip(_tensor_holders(ours), _tensor_holders(theirs), strict=True):
        for dim, size in enumerate(map(_size, other.meta["val"].shape)):
            if not isinstance(size, int) and size.is_Symbol:
                places.setdefault(size, (node, dim))
    return places


def _size(value: Any) -> Size:
    """A number, or the expression for it."""
    if not isinstance(value, (torch.SymInt, torch.SymFloat)):
        return value
    expression = value.node.expr
    return int(expression) if expression.is_Integer else expression


def _of_shapes_alone(guard: Any) -> bool:
    """Whether torch itself made this comparison, to learn a shape."""
    file = Path(getattr(guard.sloc.framework_loc, "filename", ""))
    return file.is_relative_to(TORCH) and file.relative_to(TORCH).parts[0] in SHAPES_ALONE


def _bounded(
    letters: Sequence[Any], conditions: Sequence[Any], environment: Any
) -> tuple[dict[Any, tuple[int, int | None]], tuple[Any, ...]]:
    """The bounds of the letters, and the conditions that are no bounds."""
    ranges: dict[Any, tuple[int, int | None]] = {}
    for letter in letters:
        found = environment.var_to_range[letter]
        ranges[letter] = (int(found.lower), int(found.upper) if found.upper.is_Integer else None)
    bounds = [c for c in conditions if c.is_Relational and c.rel_op in ("<", "<=", ">", ">=") and c.lhs.is_Symbol and c.rhs.is_Integer]
    return ranges, tuple(dict.fromkeys(c for c in conditions if c not in bounds))


def _arguments(
    ours: fx.Graph, theirs: fx.Graph, sources: Mapping[Any, tuple[Node, int]]
) -> Iterator[tuple[Node, dict[str, Any]]]:
    """The ops of our graph that take sizes which stand as expressions in the other."""
    for node, other in zip(_ops(ours), _ops(theirs), strict=True):
        if node.target != other.target:
            raise ValueError(f"{node.target} is {other.target} where sizes are free")
        if isinstance(node.target, torch._ops.OpOverload):
            names = [argument.name for argument in node.target._schema.arguments]
            mine, others = ({**dict(zip(names, n.args, strict=False)), **n.kwargs} for n in (node, other))
            sized = {name: _expressions(mine[name], others[name], sources) for name in mine}
            if sized := {name: value for name, value in sized.items() if value is not None}:
                yield node, sized


def _ops(graph: fx.Graph) -> list[Node]:
    """The nodes that compute tensors."""
    return [n for n in graph.nodes if n.op == "call_function" and _computes(n)]


def _computes(node: Node) -> bool:
    return any(isinstance(x, Tensor) for x in pytree.tree_leaves(node.meta.get("val")))


def _expressions(mine: Any, other: Any, sources: Mapping[Any, tuple[Node, int]]) -> Any:
    """What stands in the place of a number, or of numbers in a list; None where nothing does."""
    if isinstance(mine, (list, tuple)):
        listed = [_expressions(a, b, sources) for a, b in zip(mine, other, strict=True)]
        return listed if any(e is not None for e in listed) else None
    value = _size(other.meta.get("val")) if isinstance(other, Node) else other
    if isinstance(mine, Node) or isinstance(value, (Tensor, list, tuple)) or not hasattr(value, "free_symbols"):
        return None
    if not value.free_symbols <= set(sources):
        raise ValueError(f"{value} is no size of an input")
    return value


class Arithmetic:
    """Writes expressions into a graph, each once.

    Args:
        graph: where to write.
        sources: the placeholder and dimension of each letter.
    """

    def __init__(self, graph: fx.Graph, sources: dict[Any, tuple[Node, int]]) -> None:
        self.graph, self.sources = graph, sources
        self.tracer = fx.proxy.GraphAppendingTracer(graph)
        self.written: dict[Any, Any] = {}

    def node(self, expression: Any) -> Any:
        """Return the node that computes an expression, written where the graph inserts now; a number where it is none."""
        from torch.utils._sympy.interp import sympy_interp

        for letter in sorted(expression.free_symbols - set(self.written), key=str):
            source, dim = self.sources[letter]
            size = self.graph.call_function(torch.ops.aten.sym_size.int, (source, dim))
            self.written[letter] = fx.Proxy(size, self.tracer)
        if expression not in self.written:
            self.written[expression] = sympy_interp(_analysis(), self.written, expression)
        result = self.written[expression]
        return result.node if isinstance(result, fx.Proxy) else result


def _analysis() -> Any:
    """How expressions become ops; torch rounds by calls that a graph cannot note."""
    from torch.utils._sympy.reference import PythonReferenceAnalysis

    def noted(function: Any) -> Any:
        return staticmethod(lambda x, dtype=None: x.tracer.create_proxy("call_function", function, (x,), {}))

    return type("_Noted", (PythonReferenceAnalysis,), {
        "floor_to_int": noted(math.floor), "ceil_to_int": noted(math.ceil), "trunc_to_int": noted(math.trunc),
    })
