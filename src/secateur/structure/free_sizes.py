"""Which sizes of a graph's inputs may be others, and what the sizes in its ops then are: learnt from an export with free sizes.

The exporter calls every size of the inputs by a letter, follows what the code computes of it, and notes each comparison
that the code makes: the program holds where they come out alike. For the rules, the example's numbers are put in the place
of the expressions; a graph that is written anew gets them back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from secateur.structure.nodes import named_arguments, tensor_holders

__all__ = ["Arithmetic", "FreeSizes", "Letters", "Size", "with_free_sizes"]

Size = Any
"""A size as a number, or as an expression of sympy in the letters."""
Letters = Mapping[Any, int]
"""A number for each letter."""
SIZES = (torch.SymInt, torch.SymFloat, torch.SymBool)
ASSERTS = {torch.ops.aten._assert_scalar.default, torch.ops.aten.sym_constrain_range_for_size.default}
ASSERTS |= {torch.ops.aten.sym_constrain_range.default}
TORCH = Path(torch.__file__).parent
# Where the exporter compares sizes to learn shapes and strides: there an op fails by itself, or means the same.
SHAPES_ALONE = (
    "_refs",
    "_prims",
    "_prims_common",
    "_meta_registrations.py",
    "_subclasses",
    "_decomp",
    "_ops.py",
    "_library",
)


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
            if (letters[letter] < low and letters[letter] != least) or (high is not None and letters[letter] > high):
                return False
        return all(bool(condition.subs(letters)) for condition in self.conditions)

    def with_example(self, shapes: Sequence[Sequence[int]]) -> FreeSizes | None:
        """Return the same with the numbers of another example; None where the ops would be others there."""
        letters: dict[Any, int] = {}
        for named, numbers in zip(self.shapes, shapes, strict=True):
            for size, number in zip(named, numbers, strict=True):
                if size in self.examples:
                    letters.setdefault(size, number)
        if self.shapes_at(letters) != [tuple(numbers) for numbers in shapes] or not self.allow(letters, least=1):
            return None
        return replace(self, examples=letters)

    def shapes_at(self, letters: Letters) -> list[tuple[int, ...]]:
        """Return the shapes of the inputs' tensors where the letters are these numbers."""
        return [tuple(s if isinstance(s, int) else int(s.subs(letters)) for s in shape) for shape in self.shapes]


def with_free_sizes(program: ExportedProgram) -> FreeSizes:
    """Put the example's numbers in the place of free sizes, and return what stood there.

    Args:
        program: exported with free sizes; it is changed.

    Raises:
        ValueError: a size is none of an input's, or the program returns one.
    """
    environment = _environment(program.graph)
    user_inputs = set(program.graph_signature.user_inputs)
    holders = [n for n in tensor_holders(program.graph) if n.name in user_inputs]
    shapes = tuple(tuple(map(_size, node.meta["val"].shape)) for node in holders)
    sources, arguments = dict[int, dict[Any, tuple[Node, int]]](), dict[Node, dict[str, Any]]()
    for module in (m for m in program.graph_module.modules() if isinstance(m, GraphModule)):
        sources[id(module.graph)] = _sources(module.graph)
    top = sources[id(program.graph)]
    examples = {letter: _hint(node.meta["val"].shape[dim]) for letter, (node, dim) in top.items()}
    conditions = [environment.replace(c) for c in _compared(environment)]
    for module in (m for m in program.graph_module.modules() if isinstance(m, GraphModule)):
        arguments |= _with_numbers(module.graph, sources[id(module.graph)])
        module.recompile()
    free = FreeSizes(shapes, examples, *_bounded(sorted(top, key=str), conditions, environment), arguments, sources)
    if not {s for shape in shapes for size in shape if not isinstance(size, int) for s in size.free_symbols} <= set(
        top
    ):
        raise ValueError("sizes that no input has")
    if not free.allow(examples):
        raise ValueError("the example's own sizes are not allowed")
    return free


def _environment(graph: fx.Graph) -> Any:
    """What the exporter noted about sizes."""
    tensors = (node.meta.get("val") for node in graph.nodes)
    return next(tensor for tensor in tensors if isinstance(tensor, Tensor)).fake_mode.shape_env  # type: ignore[attr-defined]


def _sources(graph: fx.Graph) -> dict[Any, tuple[Node, int]]:
    """Where the size that a letter stands for can be read."""
    places: dict[Any, tuple[Node, int]] = {}
    for node in tensor_holders(graph):
        for dim, size in enumerate(map(_size, node.meta["val"].shape)):
            if not isinstance(size, int) and size.is_Symbol:
                places.setdefault(size, (node, dim))
    return places


def _size(value: Any) -> Size:
    """A number, or the expression for it."""
    if not isinstance(value, SIZES):
        return value
    expression = value.node.expr
    return int(expression) if expression.is_Integer else expression


def _hint(value: Any) -> Any:
    """The number that a size is on the example.

    Raises:
        ValueError: values of tensors decide it.
    """
    if isinstance(value, SIZES):
        if value.node.hint is None:
            raise ValueError("a size that values decide")
        return value.node.hint
    return value


def _compared(environment: Any) -> Iterator[Any]:
    """What came out true where the code compared sizes."""
    for guard in environment.guards:
        file = Path(getattr(guard.sloc.framework_loc, "filename", ""))
        if not (file.is_relative_to(TORCH) and file.relative_to(TORCH).parts[0] in SHAPES_ALONE):
            yield guard.expr
    for deferred in environment.deferred_runtime_asserts.values():
        yield from (assertion.expr for assertion in deferred)


def _bounded(
    letters: Sequence[Any], conditions: Sequence[Any], environment: Any
) -> tuple[dict[Any, tuple[int, int | None]], tuple[Any, ...]]:
    """The bounds of the letters, and the conditions that are no bounds."""
    known = {letter: environment.var_to_range[letter] for letter in letters}
    ranges = {x: (int(r.lower), int(r.upper) if r.upper.is_Integer else None) for x, r in known.items()}
    rest = [c for c in conditions if c.free_symbols and not _is_bound(c)]
    return ranges, tuple(dict.fromkeys(rest))


def _is_bound(condition: Any) -> bool:
    """Whether it compares a letter with a number, which its range says."""
    if not condition.is_Relational or condition.rel_op not in ("<", "<=", ">", ">="):
        return False
    sides = condition.lhs, condition.rhs
    return any(side.is_Symbol for side in sides) and any(side.is_Integer for side in sides)


def _with_numbers(graph: fx.Graph, sources: Mapping[Any, tuple[Node, int]]) -> dict[Node, dict[str, Any]]:
    """Put numbers in the place of what computes sizes, and return what stood there, by node and argument."""
    arguments: dict[Node, dict[str, Any]] = {}
    sizes = [node for node in graph.nodes if _is_number(node)]
    for node in graph.nodes:
        if node in sizes or not (set(node.all_input_nodes) & set(sizes)):
            continue
        if isinstance(node.target, torch._ops.OpOverload) and node.target not in ASSERTS:
            expressions = {name: _expressions(value, sources) for name, value in named_arguments(node).items()}
            arguments[node] = {name: value for name, value in expressions.items() if value is not None}
            node.args, node.kwargs = fx.map_arg((node.args, dict(node.kwargs)), _number)
        elif isinstance(node.target, torch._ops.HigherOrderOperator):
            node.args = tuple(a for a in node.args if a not in sizes)
        elif node.op == "output":
            raise ValueError("it returns a size")
    for node in reversed([n for n in graph.nodes if n in sizes or n.target in ASSERTS]):
        if not node.users:
            graph.erase_node(node)
    for node in graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = pytree.tree_map(_at_example, node.meta["val"])
    return arguments


def _is_number(node: Node) -> bool:
    return node.op in ("call_function", "placeholder") and isinstance(node.meta.get("val"), SIZES)


def _number(node: Node) -> Any:
    """The number in the place of a size's node."""
    return _hint(node.meta["val"]) if _is_number(node) else node


def _at_example(value: Any) -> Any:
    """A tensor of the example's shape."""
    if not isinstance(value, Tensor) or not any(isinstance(s, SIZES) for s in (*value.shape, *value.stride())):
        return _hint(value)
    return torch.empty_strided(
        [_hint(s) for s in value.shape], [_hint(s) for s in value.stride()], dtype=value.dtype, device="meta"
    )


def _expressions(argument: Any, sources: Mapping[Any, tuple[Node, int]]) -> Any:
    """What stands in the place of a number, or of numbers in a list; None where nothing does."""
    if isinstance(argument, (list, tuple)):
        listed = [_expressions(a, sources) for a in argument]
        return listed if any(e is not None for e in listed) else None
    if not isinstance(argument, Node) or not _is_number(argument):
        return None
    size = _size(argument.meta["val"])
    if not hasattr(size, "free_symbols") or not size.free_symbols:
        return None
    if not size.free_symbols <= set(sources):
        raise ValueError(f"{size} is no size of an input")
    return size


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
            size = self.graph.call_method("size", (source, dim))
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

    return type(
        "_Noted",
        (PythonReferenceAnalysis,),
        {
            "floor_to_int": noted(math.floor),
            "ceil_to_int": noted(math.ceil),
            "trunc_to_int": noted(math.trunc),
        },
    )
