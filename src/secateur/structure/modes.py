"""What the ops of a graph are in train mode: those of eval mode with other flags, such as that of a dropout, or others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from secateur.randomness import private_draws
from secateur.state import evaluating
from secateur.structure.export import export
from secateur.structure.graph_parts import mode_of
from secateur.structure.nodes import named_arguments, tensor_holders, where
from secateur.structure.signature import Signed
from secateur.structure.trace import Graph, model_line
from secateur.types import InputError

__all__ = ["TrainMode", "require_mode", "train_mode"]


@dataclass(frozen=True, eq=False)
class TrainMode:
    """How train mode differs.

    Attributes:
        arguments: arguments of ops that are others in train mode, by name.
        counters: buffers that count the batches, with what is added for each.
        differs: where other ops run, in words; empty where none do.
        in_branches: whether some of these ops are in branches of ``torch.cond``, which see the mode of the whole alone.
    """

    arguments: Mapping[Node, Mapping[str, Any]] = field(default_factory=dict)
    counters: Mapping[str, Any] = field(default_factory=dict)
    differs: str = ""
    in_branches: bool = False


class _OtherOpsError(Exception):
    """Train mode is no matter of flags."""


def train_mode(model: nn.Module, graph: Graph) -> TrainMode:
    """Return how the ops of a model in train mode differ from those of its graph, which are those of eval mode.

    Args:
        model: the model that was traced; it is left as it is.
        graph: its trace, exported.
    """
    assert graph.program is not None, "a recorded graph is exported before it is rewritten"
    touched = graph.uses.parameters if graph.uses else None
    as_it_runs, free = graph.as_it_runs, graph.free is not None
    try:
        if graph.trained is not None and graph.trained.program is not None:
            _compared(graph.program, graph.trained.program)  # other ops of the model's own code are there already
        with evaluating(model), private_draws():
            model.train()
            trained = export(model, graph.args, dict(graph.kwargs), touched, as_it_runs=as_it_runs, free=free).program
        return _compared(graph.program, trained)
    except _OtherOpsError as error:
        return TrainMode(differs=str(error))
    except Exception as error:  # noqa: BLE001  (whatever the exporter raises)
        line = model_line(error)
        return TrainMode(differs=f"what it does in train mode cannot be traced{f' ({line})' if line else ''}")


def _compared(program: ExportedProgram, trained: ExportedProgram) -> TrainMode:
    arguments: dict[Node, dict[str, Any]] = {}
    buffers = trained.graph_signature.inputs_to_buffers
    counting = [n for n in trained.graph.nodes if _counts(n, buffers)]
    for ours, theirs in _pairs(program.graph_module, trained.graph_module):
        same = {b: a for a, b in zip(tensor_holders(ours), tensor_holders(theirs), strict=False)}
        others = [n for n in _ops(theirs) if n not in counting]
        for node, other in zip(_ops(ours), others, strict=False):
            same[other] = node
            if changes := _changes(node, other, same):
                arguments[node] = changes
        if len(_ops(ours)) != len(others):
            raise _OtherOpsError("other operations run in train mode")
        if not _alike(_returned(ours), _returned(theirs), same):
            raise _OtherOpsError("it returns something else in train mode")
    in_branches = any(node.graph is not program.graph for node in arguments)
    return TrainMode(arguments, {buffers[n.args[0].name]: n.args[1] for n in counting}, in_branches=in_branches)


def _pairs(ours: GraphModule, theirs: GraphModule) -> Iterator[tuple[fx.Graph, fx.Graph]]:
    """The two graphs and those within them."""
    sides = [[m.graph for m in side.modules() if isinstance(m, GraphModule)] for side in (ours, theirs)]
    if len(sides[0]) != len(sides[1]):
        raise _OtherOpsError("other operations run in train mode")
    yield from zip(*sides, strict=True)


def _counts(node: Node, buffers: Mapping[str, str]) -> bool:
    """Whether it adds to a buffer of whole numbers, as a batch norm counts batches."""
    if node.target is not torch.ops.aten.add_.Tensor:
        return False
    counter, step = node.args[0], node.args[1]
    return isinstance(counter, Node) and counter.name in buffers and isinstance(step, int) and not node.users


def _returned(graph: fx.Graph) -> Any:
    return next(n for n in reversed(graph.nodes) if n.op == "output").args[0]


def _ops(graph: fx.Graph) -> list[Node]:
    """The nodes that compute tensors."""
    nodes = [n for n in graph.nodes if n.op == "call_function"]
    return [n for n in nodes if any(isinstance(x, Tensor) for x in pytree.tree_leaves(n.meta.get("val")))]


def _changes(node: Node, other: Node, same: Mapping[Node, Node]) -> dict[str, Any]:
    """The arguments that are others in train mode."""
    if node.target != other.target:
        raise _OtherOpsError(f"train mode runs {where(other)} in the place of {where(node)}")
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    mine, others = named_arguments(node), named_arguments(other)
    changes = {name: others[name] for name in mine if not _alike(mine[name], others[name], same)}
    if any(
        not isinstance(value, (bool, int, float)) for value in (*changes.values(), *(mine[name] for name in changes))
    ):
        raise _OtherOpsError(f"train mode gives {where(other)} other tensors")
    return changes


def _alike(mine: Any, other: Any, same: Mapping[Node, Node]) -> bool:
    if isinstance(mine, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(mine) == len(other) and all(_alike(a, b, same) for a, b in zip(mine, other, strict=True))
    if isinstance(other, Node):
        is_size = not isinstance(other.meta.get("val"), (Tensor, list, tuple)) and other.op != "get_attr"
        return is_size or other.op == "get_attr" or same.get(other) is mine
    return bool(type(mine) is type(other) and mine == other)


def require_mode(graph: GraphModule, train: TrainMode) -> None:
    """Let a graph count batches in train mode, or refuse to run in it, and note in its ``meta`` why.

    Args:
        graph: the graph; it is changed.
        train: how train mode differs.
    """
    codegen = graph.graph._codegen
    assert isinstance(codegen, Signed)
    graph.meta["eval_only"] = train.differs
    if train.differs:
        codegen.checks.append((check_eval, train.differs))
    elif train.in_branches:
        codegen.checks.append((check_alike, ""))
    holders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    with graph.graph.inserting_before(holders[-1].next):
        for name, step in train.counters.items():
            mode = graph.graph.create_node("get_attr", mode_of(graph, name.rpartition(".")[0]))
            graph.graph.call_function(count, (mode, graph.graph.create_node("get_attr", name), step))
    graph.recompile()


def check_eval(graph: nn.Module, reason: str) -> None:
    """Refuse to run where a part is in train mode.

    >>> check_eval(nn.Sequential(nn.ReLU()), "train mode runs aten.rand")
    Traceback (most recent call last):
    secateur.types.InputError: this graph computes what the model does in eval mode alone: train mode runs aten.rand. Call...
    """
    if any(module.training for module in graph.modules()):
        raise InputError(
            f"this graph computes what the model does in eval mode alone: {reason}. Call .eval() on it first; to train it, "
            "cut a model whose layers read the mode, as torch's do, or one that needs no graph"
        )


def check_alike(graph: nn.Module, _words: str) -> None:
    """Refuse to run where parts are in other modes than the whole.

    >>> check_alike(nn.Sequential(nn.ReLU().eval()), "")
    Traceback (most recent call last):
    secateur.types.InputError: a part of this graph is in another mode than the whole, which branches of torch.cond cannot...
    """
    if any(module.training is not graph.training for module in graph.modules()):
        raise InputError(
            "a part of this graph is in another mode than the whole, which branches of torch.cond cannot follow: call .train() or "
            ".eval() on the graph itself"
        )


def count(training: bool, counter: Tensor, step: int) -> None:
    """Add to a counter in train mode.

    >>> counter = torch.tensor(1)
    >>> count(True, counter, 2)
    >>> counter
    tensor(3)
    """
    if training:
        counter.add_(step)
