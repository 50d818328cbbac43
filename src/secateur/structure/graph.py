"""The graph form of a cut model: a `torch.fx.GraphModule` with the sizes written anew, for code that holds literals."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from secateur.state import own_tensors
from secateur.structure.axes import Atom
from secateur.structure.both_modes import with_train_mode
from secateur.structure.free_sizes import Arithmetic
from secateur.structure.graph_parts import CutGraph, GraphPart, mode_of, part_tree
from secateur.structure.infer import Structure, infer
from secateur.structure.literals import new_sizes
from secateur.structure.modes import TrainMode, require_mode
from secateur.structure.nodes import innermost, named_arguments, set_arguments
from secateur.structure.rules import op_name
from secateur.structure.signature import called_like
from secateur.structure.trace import Graph, exported_like, trace
from secateur.structure.turned import turned_alike
from secateur.types import CutError

__all__ = ["graph_form", "graph_structure"]


def graph_form(small: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor], train: TrainMode) -> GraphModule:
    """Return the traced graph with the tensors of `small` (the cut module) and with every size as it is after the cut.

    The state dict has the same keys as the module's. In train mode ops take the arguments that they have there. Where the structure was traced with
    free sizes (`graph_structure`), they are computed from the inputs' own; else all are those of the example.
    """
    program = structure.graph.program
    assert program is not None, "a recorded graph is exported before it is rewritten"
    if structure.graph.opaque:
        raise CutError(f"a graph cannot return a {structure.graph.opaque}; return tensors in tuples, lists or dicts")
    root = _holder(small, structure.graph, program)
    modes = {
        node: mode_of(root, innermost(node)) if node.graph is program.graph else "training" for node in train.arguments
    }
    inner = {id(g): _rewritten(structure, g, gone, train, modes) for g in _graphs(structure)}
    for name, module in program.graph_module.named_children():
        if isinstance(module, GraphModule):
            root._modules[name] = CutGraph(module, inner[id(module.graph)], name)
    graph = _top_graph(small, structure, program, inner[id(program.graph)])
    graph_module = CutGraph(root, graph, f"Cut{type(small).__name__}")
    require_mode(graph_module, train)
    if train.differs:
        graph_module.eval()  # it does not begin with what it refuses
    return graph_module


def _graphs(structure: Structure) -> list[fx.Graph]:
    return list({id(node.graph): node.graph for node in structure.values}.values())


def _holder(small: nn.Module, graph: Graph, program: ExportedProgram) -> GraphPart:
    """The parts of the model, with what else the graph reads."""
    root, state = part_tree(small), own_tensors(small)
    constants = program.graph_signature.inputs_to_lifted_tensor_constants
    for name in dict.fromkeys([*graph.tensors.values(), *constants.values()]):
        if name not in state:
            path, _, attribute = name.rpartition(".")
            holder = root.get_submodule(path)
            holder._buffers[attribute] = _constant(small, program, name)
            holder._non_persistent_buffers_set.add(attribute)
    return root


def _constant(small: nn.Module, program: ExportedProgram, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    try:
        tensor = getattr(small.get_submodule(path), attribute)
    except AttributeError:
        tensor = program.constants[name]
    assert isinstance(tensor, Tensor)
    return tensor


def graph_structure(model: nn.Module, graph: Graph, free: bool) -> Structure:
    """Return the structure of the model's exported program, whose graph can be rewritten.

    Args:
        model: the model.
        graph: an earlier trace, for its inputs.
        free: learn what sizes are when the inputs have others. One sample is then taken twice, as the exporter takes a size
            of 1 to be that always.

    Raises:
        InputError, TraceError: the model does not take these inputs, or the exporter cannot tell what sizes are.
    """
    ways = exported_like(graph)
    ways["compared"] = ways["compared"] and not free
    args, kwargs = graph.args, dict(graph.kwargs)
    traced = _traced_twice(model, args, kwargs, ways) if free else None
    traced = traced or trace(model, args or kwargs, quick=False, free=free, **ways)
    if graph.trained is not None:
        traced = with_train_mode(model, traced, quick=False, **exported_like(graph.trained))
    # What was not seen of a recorded network tied nothing in the sites that are cut.
    traced = traced if graph.uses is not None else replace(traced, uses=None)
    return infer(turned_alike(model, traced, graph))


def _traced_twice(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], ways: Mapping[str, Any]
) -> Graph | None:
    """The trace with one sample taken twice, for the sizes of the example; None where it holds for two alone, or for none.

    So it is where one row goes with each of the other inputs' rows: there it is always one.
    """
    more_args, more_kwargs = pytree.tree_map_only(Tensor, _twice, (args, kwargs))
    shapes, more_shapes = (
        [x.shape for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
        for inputs in ((args, kwargs), (more_args, more_kwargs))
    )
    if shapes == more_shapes:
        return None
    with suppress(Exception):  # a forward pass raises what it likes on sizes that do not go together
        traced = trace(model, more_args or more_kwargs, quick=False, free=True, **ways)
        free = traced.free and traced.free.with_example(shapes)
        return replace(traced, free=free) if free else None
    return None


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x]) if x.dim() and len(x) == 1 else x


def _rewritten(
    structure: Structure, old: fx.Graph, gone: Mapping[Atom, Tensor], train: TrainMode, modes: Mapping[Node, str]
) -> fx.Graph:
    """A copy of a graph in which every argument that is a size has its new value, and those of train mode follow `modes`."""
    new = fx.Graph()
    copies: dict[Node, Node] = {}
    free = structure.graph.free
    letters = free.sources[id(old)] if free is not None else {}
    arithmetic = Arithmetic(new, {})
    for node in old.nodes:
        copy = new.node_copy(node, lambda n: copies[n])
        copies[node] = copy
        arithmetic.sources |= {letter: (copy, dim) for letter, (holder, dim) in letters.items() if holder is node}
        changes = new_sizes(structure, node, gone) if node.op == "call_function" else {}
        if changes:
            _change(copy, changes)
        if free is not None and node in free.arguments:
            _compute_sizes(node, copy, free.arguments[node], arithmetic)
        if node in train.arguments:
            _follow_mode(copy, train.arguments[node], modes[node])
    return new


def _follow_mode(copy: Node, in_training: Mapping[str, Any], mode_name: str) -> None:
    """Give an op other arguments in train mode."""
    now = named_arguments(copy)
    with copy.graph.inserting_before(copy):
        mode = copy.graph.create_node("get_attr", mode_name)
        chosen = {
            name: mode
            if (value, now[name]) == (True, False)
            else copy.graph.call_function(torch.sym_ite, (mode, type(now[name])(value), now[name]))
            for name, value in in_training.items()
        }
    set_arguments(copy, chosen)


def _compute_sizes(node: Node, copy: Node, expressions: Mapping[str, Any], arithmetic: Arithmetic) -> None:
    """Compute the sizes among a node's arguments from those of the inputs."""
    if copy.target != node.target:
        raise CutError(f"{node.target} takes sizes that follow the inputs, and no list of them")
    old, new = named_arguments(node), named_arguments(copy)
    with copy.graph.inserting_before(copy):
        set_arguments(copy, {name: _computed(old[name], new[name], e, arithmetic) for name, e in expressions.items()})


def _computed(old: Any, new: Any, expression: Any, arithmetic: Arithmetic) -> Any:
    """The node of a size; where the cut made a number of the example smaller, the size is that part of the expression."""
    if isinstance(expression, list):
        return [_computed(*each, arithmetic) for each in zip(old, new, expression, strict=True)]
    if expression is None:
        return new
    size = arithmetic.node(expression)
    if new == old:
        return size
    scaled = arithmetic.graph.call_function(operator.mul, (size, new))
    return arithmetic.graph.call_function(operator.floordiv, (scaled, old))


def _change(node: Node, changes: Mapping[str, Any]) -> None:
    assert isinstance(node.target, torch._ops.OpOverload)
    if op_name(node) in {"chunk", "split"} and any(isinstance(v, list) for v in changes.values()):
        dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
        node.target = torch.ops.aten.split_with_sizes.default
        node.args, node.kwargs = (node.args[0], next(iter(changes.values())), dim), {}
        return
    set_arguments(node, dict(changes))


def _top_graph(small: nn.Module, structure: Structure, program: ExportedProgram, graph: fx.Graph) -> fx.Graph:
    """Read parameters from the module instead of from the inputs, and take the inputs as the model did."""
    traced = structure.graph
    names = {holder.name: name for holder, name in traced.tensors.items()}
    names |= program.graph_signature.inputs_to_lifted_tensor_constants
    inputs = []
    for node in list(graph.nodes):
        if node.op != "placeholder":
            continue
        name = names.get(node.name)
        if name is None:
            inputs.append(node.name)
            continue
        with graph.inserting_before(node):
            read = graph.create_node("get_attr", name, name=f"{node.name}_")
        node.replace_all_uses_with(read)
        graph.erase_node(node)
    spec = program.call_spec
    graph.set_codegen(called_like(small, traced.args, traced.kwargs, spec.in_spec, spec.out_spec))
    # What leaves in other ways than as an output ends here. The tensors stay, for the state dict.
    graph.eliminate_dead_code(lambda node: node.op == "get_attr" or node.is_impure())
    return graph
