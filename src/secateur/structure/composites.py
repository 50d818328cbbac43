"""Write ops that have no rule as the ops that they are made of, such as a cosine similarity as products, sums and roots."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import decomposition_table
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import softplus
from torch.utils import _pytree as pytree

from secateur.structure.outputs import dependent

__all__ = ["take_apart"]


def take_apart(program: ExportedProgram, whole: Container[str]) -> None:
    """Replace every op that torch itself composes of others by those, in place.

    Args:
        program: what was exported.
        whole: the names of the ops that stay as they are.
    """
    for module in program.graph_module.modules():
        if not isinstance(module, fx.GraphModule):
            continue
        composed = [node for node in module.graph.nodes if _is_composed(node, whole)]
        if not composed:
            continue
        # What is made of sizes alone, such as a table of places, has no units.
        held = dependent(node for node in module.graph.nodes if node.op == "placeholder")
        for node in filter(held.__contains__, composed):
            if (parts := _parts(node)) is not None:
                _replace(node, parts)
        module.recompile()


def _is_composed(node: Node, whole: Container[str]) -> bool:
    """Whether torch composes an op of others, and it does no more than to make tensors of tensors."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    schema = node.target._schema
    if schema.name.removeprefix("aten::") in whole or schema.is_mutable or not schema.returns:
        return False
    composed = node.target in LOSSES or node.target._can_decompose()
    return composed and all(str(r.type) in {"Tensor", "List[Tensor]"} for r in schema.returns)


def _with_logits(
    x: Tensor, target: Tensor, weight: Tensor | None = None, positive: Tensor | None = None, reduction: int = 1
) -> Tensor:
    """``(1 − t) x + w log(1 + exp(−x))``, where w is 1 beside the weight of what is positive."""
    losses = (1 - target) * x + (1 if positive is None else (positive - 1) * target + 1) * softplus(-x)
    losses = losses if weight is None else losses * weight
    return (losses, losses.mean(), losses.sum())[reduction]


_OF_TORCH = ("mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy")
LOSSES: dict[Any, Callable[..., Any]] = {
    **{op: decomposition_table[op] for op in (getattr(torch.ops.aten, name).default for name in _OF_TORCH)},
    torch.ops.aten.binary_cross_entropy_with_logits.default: _with_logits,
}
"""Losses that torch computes in one op, with what they are made of."""


def _parts(node: Node) -> fx.Graph | None:
    """The ops that an op is made of, as a graph of its operands; None where values, open sizes or further tensors are in it."""
    leaves, spec = pytree.tree_flatten(fx.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta.get("val")))
    at = [number for number, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    target: Any = node.target

    def run(*tensors: Tensor) -> Any:
        filled = list(leaves)
        for number, tensor in zip(at, tensors, strict=True):
            filled[number] = tensor
        args, kwargs = pytree.tree_unflatten(filled, spec)
        return LOSSES.get(target, target.decompose)(*args, **kwargs)

    tracing: Callable[..., fx.GraphModule] = make_fx(run)
    try:
        graph = tracing(*(leaves[number] for number in at)).graph
    except Exception:  # noqa: BLE001  (what stands in the way of one op's parts leaves it whole, which is always right)
        return None
    open_sizes = any(isinstance(a, torch.SymInt) for n in graph.nodes for a in pytree.tree_leaves((n.args, n.kwargs)))
    return None if open_sizes or any(n.op == "get_attr" for n in graph.nodes) else graph


def _replace(node: Node, parts: fx.Graph) -> None:
    """Write the parts where the op stands, as of the same module and line."""
    leaves = pytree.tree_leaves((node.args, dict(node.kwargs)))
    operands = [leaf for leaf in leaves if isinstance(leaf, Node) and isinstance(leaf.meta.get("val"), Tensor)]
    holders = [n for n in parts.nodes if n.op == "placeholder"]
    copies: dict[Node, Node] = dict(zip(holders, operands, strict=True))
    with node.graph.inserting_before(node):
        result: Any = node.graph.graph_copy(parts, copies)
    for part, copy in copies.items():
        if part.op == "call_function":
            copy.meta |= {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}
    if isinstance(result, Node):
        node.replace_all_uses_with(result)
        node.graph.erase_node(node)
        if node not in operands and result not in operands:
            result.name = node.name  # by which the program knows what it returns
    else:
        for user in list(node.users):
            user.replace_all_uses_with(result[user.args[1]])
            user.graph.erase_node(user)
        node.graph.erase_node(node)
