"""The graph form of a cut model: a `torch.fx.GraphModule` with the sizes written anew, for code that holds literals."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from secateur.structure.axes import Atom, atoms, resolve
from secateur.structure.infer import Structure, infer
from secateur.structure.literals import new_sizes
from secateur.structure.rules import Value, op_name
from secateur.structure.trace import Graph, exported_like, trace
from secateur.types import CutError, InputError

__all__ = ["Shapes", "graph_form", "graph_structure", "require_shapes"]

Shapes = tuple[tuple[int | None, ...], ...]
"""The shapes of the tensors among a model's inputs; None for a size that may be any."""


def require_shapes(graph: GraphModule, shapes: Shapes) -> None:
    """Make a graph refuse inputs of other shapes than `shapes`, which are noted in its ``meta``, and other plain values.

    A graph holds sizes as numbers, and inputs that are no tensors as they were on the example; on others it might run and
    mean something else.
    """
    graph.meta["shapes"] = shapes
    holders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    examples = [node for node in holders if isinstance(node.meta.get("val"), Tensor)]
    plain = [node for node in holders if type(node.meta.get("val")) in PLAIN]
    with graph.graph.inserting_after(holders[-1]):
        for number, (node, shape) in enumerate(zip(examples, shapes, strict=True)):
            graph.graph.call_function(check_shape, (node, shape, number))
        for node in plain:
            graph.graph.call_function(check_value, (node, node.meta["val"], node.name))
    graph.recompile()


def check_shape(x: Tensor, shape: tuple[int | None, ...], number: int) -> None:
    """Refuse an input of another shape.

    >>> check_shape(torch.zeros(5, 3), (None, 2), 0)
    Traceback (most recent call last):
    secateur.types.InputError: input 0 of this graph has shape (5, 3); it takes (any, 2) alone: cut the model again...
    """
    if len(x.shape) != len(shape) or any(want not in (None, size) for size, want in zip(x.shape, shape, strict=True)):
        accepted_shape = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(
            f"input {number} of this graph has shape {tuple(x.shape)}; it takes ({accepted_shape}) alone: cut the model "
            "again with an example of the shape that you need"
        )


PLAIN = (bool, int, float, str)


def check_value(value: object, expected: float | str, name: str) -> None:
    """Refuse another plain value than a graph was made with.

    >>> check_value(3, 2, "heads")
    Traceback (most recent call last):
    secateur.types.InputError: this graph was made with heads=2, and takes no 3: cut the model again with an example...
    """
    if type(value) is not type(expected) or value != expected:
        raise InputError(
            f"this graph was made with {name}={expected!r}, and takes no {value!r}: cut the model again with an example that has "
            "the value that you need"
        )


def graph_form(small: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor]) -> GraphModule:
    """Return the traced graph with the tensors of `small` (the cut module) and with every size as it is after the cut.

    The state dict has the same keys as the module's. A graph is what eval mode computes. Where the structure was traced
    on two samples or more (`graph_structure`), sizes that contain the batch are computed from the inputs, so that it
    takes any batch size.
    """
    program = structure.graph.program
    assert program is not None, "a recorded graph is exported before it is rewritten"
    if structure.graph.opaque:
        raise CutError(f"a graph cannot return a {structure.graph.opaque}; return tensors in tuples, lists or dicts")
    root = _holder(small, structure.graph, program)
    inner = {id(g): _rewritten(structure, g, gone) for g in _graphs(structure)}
    for name, module in program.graph_module.named_children():
        if isinstance(module, GraphModule):
            root.add_module(name, GraphModule(module, inner[id(module.graph)]))
    graph = _top_graph(structure, program, inner[id(program.graph)])
    graph_module = GraphModule(root, graph, class_name=f"Cut{type(small).__name__}")
    graph_module.eval()
    return graph_module


def _graphs(structure: Structure) -> list[fx.Graph]:
    return list({id(node.graph): node.graph for node in structure.values}.values())


def _holder(small: nn.Module, graph: Graph, program: ExportedProgram) -> nn.Module:
    """A tree of bare modules with the parameters and buffers where they were."""
    root = nn.Module()
    state = {
        **dict(small.named_parameters(remove_duplicate=False)),
        **dict(small.named_buffers(remove_duplicate=False)),
    }
    persistent_names = set(small.state_dict())
    for name, tensor in state.items():
        path, _, attribute = name.rpartition(".")
        module = _submodule(root, path)
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(attribute, tensor)
        else:
            module.register_buffer(attribute, tensor, persistent=name in persistent_names)
    constants = program.graph_signature.inputs_to_lifted_tensor_constants
    for name in dict.fromkeys([*graph.tensors.values(), *constants.values()]):
        if name not in state:
            path, _, attribute = name.rpartition(".")
            _submodule(root, path).register_buffer(attribute, _constant(small, program, name), persistent=False)
    return root


def _constant(small: nn.Module, program: ExportedProgram, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    try:
        tensor = getattr(small.get_submodule(path), attribute)
    except AttributeError:
        tensor = program.constants[name]
    assert isinstance(tensor, Tensor)
    return tensor


def _submodule(root: nn.Module, path: str) -> nn.Module:
    for part in path.split(".") if path else []:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    return root


def graph_structure(model: nn.Module, graph: Graph, any_batch: bool) -> Structure:
    """Return the structure of the model's exported program, whose graph can be rewritten.

    Args:
        model: the model.
        graph: an earlier trace, for its inputs.
        any_batch: trace on each sample twice where there is one only, so that the batch can be told from a size of 1.

    Raises:
        InputError, TraceError: the model does not take these inputs.
    """
    args, kwargs = graph.args, dict(graph.kwargs)
    if any_batch:
        args, kwargs = pytree.tree_map_only(Tensor, _twice, (args, kwargs))
    ways = exported_like(graph)
    ways["compared"] = ways["compared"] and not any_batch
    return infer(trace(model, args or kwargs, quick=False, **ways))


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x]) if x.dim() and len(x) == 1 else x


def _batch(structure: Structure) -> tuple[Node, Atom] | None:
    """An input that has the batch axis, and that axis; None where there is no batch, or one sample only."""
    for node in structure.graph.inputs:
        value = structure.values.get(node)
        if isinstance(value, Value) and value.axes and value.axes[0].size > 1:
            axis = resolve(value.axes[0])
            return (node, axis) if isinstance(axis, Atom) else None
    return None


def _rewritten(structure: Structure, old: fx.Graph, gone: Mapping[Atom, Tensor]) -> fx.Graph:
    """A copy of a graph in which every argument that is a size has its new value."""
    new = fx.Graph()
    copies: dict[Node, Node] = {}
    batch = _batch(structure)
    for node in old.nodes:
        copy = new.node_copy(node, lambda n: copies[n])
        copies[node] = copy
        changes = new_sizes(structure, node, gone) if node.op == "call_function" else {}
        if changes:
            _change(copy, changes)
        if batch is not None and batch[0] in copies:
            _follow_batch(structure, node, copy, copies[batch[0]], batch[1])
    return new


def _follow_batch(structure: Structure, node: Node, copy: Node, source: Node, batch: Atom) -> None:
    """Compute from the input's batch every size of a view that contains it."""
    output = structure.values.get(node)
    name = {"view": "size", "reshape": "shape", "_unsafe_view": "size", "expand": "size"}.get(op_name(node))
    if name is None or not isinstance(output, Value):
        return
    at = [a.name for a in node.target._schema.arguments].index(name)  # type: ignore[union-attr]
    sizes = list(copy.args[at]) if at < len(copy.args) else []  # type: ignore[arg-type]
    with copy.graph.inserting_before(copy):
        for dim, (size, axis) in enumerate(zip(sizes, output.axes, strict=False)):
            if isinstance(size, int) and size > 0 and list(atoms(axis)).count(batch) == 1:
                now = copy.graph.call_function(torch.ops.aten.sym_size.int, (source, 0))
                sizes[dim] = copy.graph.call_function(operator.mul, (now, size // batch.size))
    if sizes:
        copy.args = (*copy.args[:at], sizes, *copy.args[at + 1 :])


def _change(node: Node, changes: Mapping[str, Any]) -> None:
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [a.name for a in node.target._schema.arguments]
    if op_name(node) in {"chunk", "split"} and any(isinstance(v, list) for v in changes.values()):
        dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
        node.target = torch.ops.aten.split_with_sizes.default
        node.args, node.kwargs = (node.args[0], next(iter(changes.values())), dim), {}
        return
    args = list(node.args)
    for name, value in changes.items():
        at = names.index(name)
        if at < len(args):
            args[at] = value
        else:
            node.update_kwarg(name, value)
    node.args = tuple(args)


def _top_graph(structure: Structure, program: ExportedProgram, graph: fx.Graph) -> fx.Graph:
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
    info = _PyTreeInfo([f"arg{i}" for i in range(len(traced.args))] + list(traced.kwargs), spec.in_spec, spec.out_spec)
    graph.set_codegen(_PyTreeCodeGen(info))
    # What leaves in other ways than as an output ends here. The tensors stay, for the state dict.
    graph.eliminate_dead_code(lambda node: node.op == "get_attr" or node.is_impure())
    return graph
