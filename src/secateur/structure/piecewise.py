"""Whether a model is piecewise linear in each of its weights, so that a single weight bends no output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch.fx import Node

from secateur.structure.layers import MOVES
from secateur.structure.ops import NORMS, POOLS, by_sample, product_of
from secateur.structure.rules import op_name
from secateur.structure.trace import Graph

__all__ = ["is_piecewise_linear"]

LINEAR = {
    *MOVES,
    *POOLS,
    "add",
    "sub",
    "neg",
    "cat",
    "concat",
    "concatenate",
    "dropout",
    "mean",
    "sum",
    "pad",
    "identity",
}
"""Ops that are linear in all that they are given, or pick some of it; and sums of those."""

PIECEWISE = {"relu", "relu6", "hardtanh", "leaky_relu", "hardshrink"}


def is_piecewise_linear(graph: Graph, parameters: Iterable[str]) -> bool:
    """Return whether the outputs are piecewise linear in every single entry of these parameters, the others held.

    Then ∂²z/∂w² = 0 at almost every w, and the diagonal of the loss's Hessian is that of its Gauss–Newton part. It is
    so where each parameter is used once, by a layer that multiplies activations by it, and all ops between it and the
    output are linear, ReLUs or pools. A False may be wrong, a True is not.

    >>> import torch
    >>> from torch import nn
    >>> from secateur.structure.trace import trace
    >>> relu, tanh = (nn.Sequential(nn.Linear(2, 3), f, nn.Linear(3, 1)) for f in (nn.ReLU(), nn.Tanh()))
    >>> [is_piecewise_linear(trace(model, torch.zeros(1, 2)), ["0.weight"]) for model in (relu, tanh)]
    [True, False]
    """
    wanted = {id(graph.state[name]) for name in parameters}
    placeholders = {node: id(graph.state[name]) for node, name in graph.tensors.items()}
    uses = Counter(tensor for node, tensor in placeholders.items() for _ in node.users)
    holders = {node for node, tensor in placeholders.items() if tensor in wanted}
    if graph.opaque or any(uses[tensor] != 1 for tensor in wanted):
        return False
    behind: set[Node] = set(holders)
    for node in graph.nodes:
        operands = [source for source in node.all_input_nodes if source in behind]
        if node.op == "call_function" and operands:
            if not _is_fit(node, operands, holders):
                return False
            behind.add(node)
            if all(source in holders for source in operands) and op_name(node) in MOVES:
                holders.add(node)
    return True


def _is_fit(node: Node, operands: list[Node], holders: set[Node]) -> bool:
    """Whether an op is piecewise linear in what comes from the weights, of which it may multiply no two that meet."""
    product = product_of(node)
    if product is not None:
        weight_moves = product.weight in operands and product.weight not in holders
        return product.source not in holders and not weight_moves
    name = op_name(node)
    if name in NORMS:
        return by_sample(node) and not any(source in holders for source in operands)
    return name in LINEAR or name in PIECEWISE
