"""A cut graph as a module: it has the submodules of the model, which hold its tensors and modes, and runs as a whole."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial, reduce
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule, Node
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from secateur.structure.jit_traces import traced
from secateur.types import InputError

__all__ = ["CutGraph", "GraphPart", "mode_of", "part_tree"]

INTERNAL = set(vars(nn.Module()))
"""The attributes in which a module keeps tensors, submodules, hooks and its mode."""
OF_GRAPHS = {*vars(GraphModule(nn.Module(), fx.Graph())), "_in_spec", "_out_spec", "kind", "written"}
"""The attributes of a graph itself."""
RECOGNISED = (_NormBase, _DropoutNd, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
"""Layers that do something else in train mode, by whose class code finds them to set their modes, and what is indexed."""


class _Guarded(nn.Module):
    """Refuses changes that a graph would not follow, or without which it could not run."""

    def __setattr__(self, name: str, value: Any) -> None:
        check_set(self, name, value)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        check_kept(self, name)
        super().__delattr__(name)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Take another parameter in the place of one."""
        check_read(self, name)
        super().register_parameter(name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Take another buffer in the place of one."""
        check_read(self, name)
        super().register_buffer(name, tensor, persistent)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Refuse it."""
        refuse_module(self, name)


class GraphPart(_Guarded):
    """A submodule of a graph: the tensors and the mode of the model's own, and the numbers of torch's layers to read.

    What the graph computes with was written into it, so that attributes cannot be set, hooks would never run, and no part
    runs by itself; each is refused.

    >>> part = GraphPart.of(nn.Dropout(0.5))
    >>> part.p, part.eval().training, isinstance(part, nn.Dropout)
    (0.5, False, True)
    >>> part.p = 0.1
    Traceback (most recent call last):
    secateur.types.InputError: p of a graph's Dropout cannot be set, as it was written into the graph: set it on the model...
    """

    base: type[nn.Module] = nn.Module
    """The class that it is of besides."""
    kind: str
    written: frozenset[str]
    """The attributes that the model's module has, which are no tensors."""

    @classmethod
    def of(cls, module: nn.Module) -> GraphPart:
        """Return the part for a module, without its submodules."""
        kind = module.base if isinstance(module, GraphPart) else type(module)
        part = _unpickled_part(kind)
        nn.Module.__init__(part)
        attributes = {
            name: value
            for name, value in vars(module).items()
            if name not in INTERNAL | OF_GRAPHS and not isinstance(value, Tensor)
        }
        if kind.__module__.startswith("torch.nn."):
            vars(part).update(attributes)
        before = vars(module) if isinstance(module, (GraphPart, CutGraph)) else {}
        vars(part)["kind"] = before.get("kind", kind.__name__)
        vars(part)["written"] = before.get("written", frozenset(attributes))
        vars(part)["training"] = module.training
        part._parameters.update(module._parameters)
        part._buffers.update(module._buffers)
        part._non_persistent_buffers_set.update(module._non_persistent_buffers_set)
        return part

    def insert(self, index: int, module: nn.Module) -> NoReturn:
        """Refuse it."""
        refuse_module(self, index)

    def forward(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refuse to run."""
        raise InputError(
            f"a {self.kind} of a graph does not run by itself: call the graph, or cut the model in module form"
        )

    def extra_repr(self) -> str:
        """Say what it is a part of."""
        return self.kind

    def _get_name(self) -> str:
        return "GraphPart"

    def _refuse_hook(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise InputError(
            f"a hook on a {self.kind} of a graph would never run, as the graph runs as a whole: hook into the graph itself, or into "
            "the model before it is cut, or cut it in module form"
        )

    register_forward_hook = register_forward_pre_hook = _refuse_hook
    register_full_backward_hook = register_full_backward_pre_hook = register_backward_hook = _refuse_hook

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled_part, (self.base,), self.__dict__


def _unpickled_part(base: type[nn.Module]) -> GraphPart:
    part_class = _class_for(base)
    return part_class.__new__(part_class)


CLASSES: dict[type[nn.Module], type[GraphPart]] = {}


def _class_for(kind: type[nn.Module]) -> type[GraphPart]:
    """The class of a part; one that is of the model's own where code looks for that."""
    if not issubclass(kind, RECOGNISED):
        return GraphPart
    if kind not in CLASSES:
        CLASSES[kind] = type("GraphPart", (GraphPart, kind), {"base": kind})
    return CLASSES[kind]


def check_set(module: Any, name: str, value: Any) -> None:
    """Refuse to set what a graph does not read."""
    if name in vars(module).get("written", ()):
        raise InputError(
            f"{name} of a graph's {module.kind} cannot be set, as it was written into the graph: set it on the model, and cut that again"
        )
    if "written" in vars(module) and (isinstance(value, nn.Module) or name in module._modules):
        refuse_module(module, name)


def check_kept(module: Any, name: str) -> None:
    """Refuse to take away what a graph reads, as parametrizations begin with."""
    if name in module._modules:
        refuse_module(module, name)
    if "written" in vars(module) and (name in module._parameters or name in module._buffers):
        raise InputError(
            f"{name} of a graph's {module.kind} cannot be taken away or computed from others, as the graph reads it: give it other "
            "values, or change the model, and cut that again"
        )


def check_read(module: Any, name: str) -> None:
    """Refuse a tensor that a graph does not read."""
    if "written" in vars(module) and name not in module._parameters and name not in module._buffers:
        raise InputError(
            f"{name} of a graph's {module.kind} would never be read: give the tensors that it has other values, or change the model, "
            "and cut that again"
        )


def refuse_module(module: Any, name: int | str) -> NoReturn:
    """Refuse to add, to replace or to remove a submodule."""
    raise InputError(
        f"{name} of a graph's {module.kind} cannot be another module, as the graph runs as a whole: give its tensors other values, "
        "or change the model, and cut that again"
    )


def part_tree(model: nn.Module) -> GraphPart:
    """Return the parts of a model, nested as its modules are."""
    parts = {id(module): GraphPart.of(module) for module in model.modules()}
    for module in model.modules():
        children = {name: None if child is None else parts[id(child)] for name, child in module._modules.items()}
        parts[id(module)]._modules.update(children)
    return parts[id(model)]


def mode_of(root: nn.Module, path: str) -> str:
    """Return the name under which a graph reads the mode of a submodule.

    >>> mode_of(part_tree(nn.Sequential(nn.Dropout())), "0"), mode_of(nn.Module(), "another")
    ('0.training', 'training')
    """
    try:
        root.get_submodule(path)
    except AttributeError:
        path = ""
    return f"{path}.training".lstrip(".")


class CutGraph(_Guarded, GraphModule):
    """The graph of a cut model; it is copied and pickled whole.

    Args:
        root: what holds its tensors, its submodules and its mode.
        graph: what it computes.
        class_name: its name.
    """

    kind: str
    written: frozenset[str]

    def __init__(self, root: nn.Module, graph: fx.Graph, class_name: str) -> None:
        super().__init__(root, graph, class_name)
        # In place of the bare modules that torch makes for the tensors that are read.
        vars(self).update({name: copy.copy(vars(root)[name]) for name in INTERNAL if name in vars(root)})
        vars(self).update({name: vars(root)[name] for name in ("kind", "written") if name in vars(root)})

    def _slow_forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run while `torch.jit.trace` watches, for which torch calls this."""
        return traced(partial(super()._slow_forward, *args, **kwargs))

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse what `torch.jit.script` asks for."""
        raise InputError(
            "torch.jit.script takes code of Python, and a graph has none: use torch.jit.trace or torch.export.export, or cut the model "
            "in module form"
        )

    def __copy__(self) -> CutGraph:
        other = CutGraph(self, self.graph, type(self).__name__)
        other.meta = dict(self.meta)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> CutGraph:
        build, parts = self.__reduce__()
        other: CutGraph = build(*copy.deepcopy(parts, memo))
        memo[id(self)] = other
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        nodes = [
            (node.op, node.name, _named(node.target), fx.map_arg((node.args, node.kwargs), lambda n: _NodeName(n.name)))
            for node in self.graph.nodes
        ]
        holder = nn.Module()
        vars(holder).update({name: vars(self)[name] for name in (*INTERNAL, "kind", "written") if name in vars(self)})
        return _unpickled_graph, (holder, nodes, self.graph._codegen, type(self).__name__, self.meta)


class _NodeName(str):
    """Stands for a node among the arguments of another."""


class _Operator(str):
    """The name of an operator of torch, which cannot be pickled."""


def _named(target: Any) -> Any:
    if isinstance(target, torch._ops.HigherOrderOperator):
        return _Operator(f"higher_order.{target._name}")
    return _Operator(str(target)) if isinstance(target, torch._ops.OpOverload) else target


def _unpickled_graph(
    root: nn.Module, nodes: list[Any], codegen: Any, class_name: str, meta: Mapping[str, Any]
) -> CutGraph:
    graph, by_name = fx.Graph(), dict[str, Node]()
    for op, name, target, arguments in nodes:
        called: Any = target
        if isinstance(target, _Operator):
            called = reduce(getattr, target.split("."), torch.ops)
        args, kwargs = fx.node.map_aggregate(arguments, lambda a: by_name[a] if isinstance(a, _NodeName) else a)
        by_name[name] = graph.create_node(op, called, args, dict(kwargs), name)
    graph.set_codegen(codegen)
    restored = CutGraph(root, graph, class_name)
    restored.meta = dict(meta)
    return restored
