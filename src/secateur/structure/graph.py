"""The graph form of a cut model: a `torch.fx.GraphModule` with the sizes written anew, for code that holds literals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule, Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo

from secateur.structure.axes import Atom
from secateur.structure.infer import Structure
from secateur.structure.literals import new_sizes
from secateur.structure.rules import op_name
from secateur.structure.trace import Graph

__all__ = ["graph_form"]


def graph_form(small: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor]) -> GraphModule:
    """Return the traced graph with the tensors of `small` (the cut module) and with every size as it is after the cut.

    The state dict has the same keys as the module's. A graph is what eval mode computes, for the batch size of the
    example inputs.
    """
    root = _holder(small, structure.graph)
    inner = {id(g): _rewritten(structure, g, gone) for g in _graphs(structure)}
    for name, module in structure.graph.program.graph_module.named_children():
        if isinstance(module, GraphModule):
            root.add_module(name, GraphModule(module, inner[id(module.graph)]))
    graph = _top_graph(structure, inner[id(structure.graph.program.graph)])
    made = GraphModule(root, graph, class_name=f"Cut{type(small).__name__}")
    made.eval()
    return made


def _graphs(structure: Structure) -> list[fx.Graph]:
    return list({id(node.graph): node.graph for node in structure.values}.values())


def _holder(small: nn.Module, graph: Graph) -> nn.Module:
    """A tree of bare modules with the parameters and buffers where they were."""
    root = nn.Module()
    state = {
        **dict(small.named_parameters(remove_duplicate=False)),
        **dict(small.named_buffers(remove_duplicate=False)),
    }
    kept = set(small.state_dict())
    for name, tensor in state.items():
        path, _, attribute = name.rpartition(".")
        module = _submodule(root, path)
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(attribute, tensor)
        else:
            module.register_buffer(attribute, tensor, persistent=name in kept)
    constants = graph.program.graph_signature.inputs_to_lifted_tensor_constants
    for name in dict.fromkeys([*graph.tensors.values(), *constants.values()]):
        if name not in state:
            path, _, attribute = name.rpartition(".")
            _submodule(root, path).register_buffer(attribute, _constant(small, graph, name), persistent=False)
    return root


def _constant(small: nn.Module, graph: Graph, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    try:
        found = getattr(small.get_submodule(path), attribute)
    except AttributeError:
        found = graph.program.constants[name]
    assert isinstance(found, Tensor)
    return found


def _submodule(root: nn.Module, path: str) -> nn.Module:
    for part in path.split(".") if path else []:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    return root


def _rewritten(structure: Structure, old: fx.Graph, gone: Mapping[Atom, Tensor]) -> fx.Graph:
    """A copy of a graph in which every argument that is a size has its new value."""
    new = fx.Graph()
    copies: dict[Node, Node] = {}
    for node in old.nodes:
        copy = new.node_copy(node, lambda n: copies[n])
        copies[node] = copy
        changes = new_sizes(structure, node, gone) if node.op == "call_function" else {}
        if changes:
            _change(copy, changes)
    return new


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


def _top_graph(structure: Structure, graph: fx.Graph) -> fx.Graph:
    """Read parameters from the module instead of from the inputs, and take the inputs as the model did."""
    traced = structure.graph
    names = {holder.name: name for holder, name in traced.tensors.items()}
    names |= traced.program.graph_signature.inputs_to_lifted_tensor_constants
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
    spec = traced.program.call_spec
    info = _PyTreeInfo([f"arg{i}" for i in range(len(traced.args))] + list(traced.kwargs), spec.in_spec, spec.out_spec)
    graph.set_codegen(_PyTreeCodeGen(info))
    return graph
