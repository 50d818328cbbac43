"""What a traced node says of itself: its arguments by name, the modules that run it, and which nodes hold tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node

__all__ = ["innermost", "module_paths", "named_arguments", "set_arguments", "tensor_holders", "where", "with_arguments"]


def module_paths(node: Node) -> list[str]:
    """Return the paths of the modules that run a node, the innermost last."""
    return [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def innermost(node: Node) -> str:
    """Return the path of the innermost module that runs a node; nothing where none does."""
    return next(reversed(module_paths(node)), "")


def tensor_holders(graph: fx.Graph) -> list[Node]:
    """Return the placeholders of a graph that stand for tensors."""
    return [n for n in graph.nodes if n.op == "placeholder" and isinstance(n.meta.get("val"), Tensor)]


def named_arguments(node: Node) -> dict[str, Any]:
    """Return what an op of ATen is given by name, defaults included."""
    assert isinstance(node.target, torch._ops.OpOverload)
    arguments = node.target._schema.arguments
    defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}
    return {**defaults, **dict(zip((a.name for a in arguments), node.args, strict=False)), **node.kwargs}


def set_arguments(node: Node, values: Mapping[str, Any]) -> None:
    """Give an op of ATen other arguments, by name."""
    node.args, node.kwargs = with_arguments(node, node.args, node.kwargs, values)


def with_arguments(
    node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any], values: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of an op of ATen with others in the place of some, by name."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [a.name for a in node.target._schema.arguments[: len(args)]]
    others = {name: value for name, value in values.items() if name not in names}
    return tuple(values.get(name, value) for name, value in zip(names, args, strict=True)), {**kwargs, **others}


def where(node: Node) -> str:
    """Return a person's words for where `node` is: the op, the module, and the line of the model's code."""
    module = next(filter(None, reversed(module_paths(node))), "")
    op = getattr(node.target, "_schema", None)
    name = op.name.replace("::", ".") if op is not None else str(node.target)
    line = _model_line(str(node.meta.get("stack_trace") or ""))
    return name + (f" in {module}" if module else "") + (f" ({line})" if line else "")


def _model_line(stack_trace: str) -> str:
    """The innermost line of code that is not torch's own."""
    location = ""
    for line in stack_trace.splitlines():
        head = line.strip()
        if head.startswith('File "') and "/torch/nn/" not in head and "/torch/_" not in head:
            path, number = head.split('"')[1], head.split("line ")[1].split(",")[0]
            location = f"{path.rsplit('/', 1)[-1]}:{number}"
    return location
