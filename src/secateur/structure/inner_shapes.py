"""The shapes inside a cut module: each must be what the axes foretell, as code that holds a size as a literal may run on others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from threading import get_ident
from typing import Any

from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.state import own_tensors
from secateur.structure.asking import is_of_torch
from secateur.structure.attention import RectangularAttention
from secateur.structure.axes import Atom, keep_vector
from secateur.structure.carriers import Uses
from secateur.structure.frames import Inputs
from secateur.structure.infer import Structure
from secateur.structure.literals import new_sizes
from secateur.structure.nodes import innermost, module_paths, where
from secateur.structure.ops import flattens
from secateur.structure.ragged import known_sizes
from secateur.structure.rules import Value, op_name
from secateur.structure.rules.registry import output_shapes
from secateur.structure.trace import trace
from secateur.types import VerificationError

__all__ = ["ShapeLog", "check_sizes", "nodes_of_literals"]


Shapes = tuple[tuple[int, ...], ...]
"""Of the tensors that an op gives."""


class ShapeLog:
    """The ops that a module runs, each with the shapes of what it gives, by the path of the module that runs it.

    What modules run that are none of its own, as the hooks of masked norms are, has no path.

    >>> import torch
    >>> log = ShapeLog()
    >>> _ = log.run(nn.Sequential(nn.Flatten()), ((torch.ones(2, 3, 4),), {}))
    >>> dict(log.calls)
    {'0': [('view', ((2, 12),))]}
    """

    def __init__(self) -> None:
        self.calls: defaultdict[str | None, list[tuple[str, Shapes]]] = defaultdict(list)

    def run(self, module: nn.Module, inputs: Inputs) -> Any:
        """Return what a module answers; of several runs the last is noted."""
        self.calls.clear()
        with _running(module) as paths, _Noted(self.calls, paths):
            return module(*inputs[0], **inputs[1])


class _Noted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every op."""

    def __init__(self, calls: defaultdict[str | None, list[tuple[str, Shapes]]], paths: list[str | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls, self.paths = calls, paths

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        path = self.paths[-1] if self.paths else ""
        kind = _kind(func._schema.name.removeprefix("aten::").rstrip("_"))
        if kind not in COPIES:
            tensors = result if isinstance(result, (list, tuple)) else (result,)
            self.calls[path].append((kind, tuple(tuple(t.shape) for t in tensors if isinstance(t, Tensor))))
        return result


@contextmanager
def _running(model: nn.Module) -> Iterator[list[str | None]]:
    """The paths of the modules that run, the innermost last; None for one that is none of the model's."""
    names, thread = {module: path for path, module in model.named_modules()}, get_ident()
    paths: list[str | None] = []

    def enter(module: nn.Module, _args: Any) -> None:
        if get_ident() == thread:
            paths.append(names.get(module))

    def leave(_module: nn.Module, _args: Any, _out: Any) -> None:
        if get_ident() == thread:
            paths.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield paths
    finally:
        for handle in handles:
            handle.remove()


COPIES = {"clone", "alias", "detach", "contiguous", "_to_copy", "to", "lift_fresh", "copy"}
"""Ops that give what they are given, and are left out where that is in order as it is."""
KINDS = {
    **dict.fromkeys(("reshape", "_unsafe_view", "_reshape_alias", "flatten", "unflatten", "view_as"), "view"),
    **dict.fromkeys(("chunk", "split_with_sizes", "unsafe_split", "unsafe_chunk", "tensor_split"), "split"),
    **dict.fromkeys(("broadcast_to", "expand_as"), "expand"),
    "narrow": "slice",
}
"""What the ops of a trace are when they run."""


def _kind(name: str) -> str:
    return KINDS.get(name, name)


def nodes_of_literals(structure: Structure, gone: Mapping[Atom, Tensor]) -> list[Node]:
    """Return the ops whose sizes change and come from the code that calls them."""
    return [node for node in structure.values if _takes_literals(node) and new_sizes(structure, node, gone)]


def check_sizes(
    cut: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor], full: ShapeLog | None, small: ShapeLog
) -> None:
    """Require every tensor in a cut module to have the shape that the axes foretell.

    Code that holds a size as a literal may run on other sizes and mean something else: ``h[:, :2]`` takes two units
    whatever they are. Where the difference in the outputs is small, only the shapes inside give it away. Where what was seen of a
    run on the example does not show that all is right, the cut module is traced again, which tells.

    Args:
        cut: the cut module.
        structure: of the whole model.
        gone: the keep vectors of the axes that were cut.
        full, small: what ran of the masked model and of the cut one on the example; None where no code could hold such a size.

    Raises:
        VerificationError: a tensor has another shape, or the cut module runs other operations.
    """
    # A freed attention module computes the same by other operations, and takes no literals.
    freed = {path for path, module in cut.named_modules() if isinstance(module, RectangularAttention)}
    if full is None or _are_as_foretold(structure, gone, full, small, cut, freed):
        return
    graph = structure.graph
    again = trace(
        cut,
        graph.args or dict(graph.kwargs),
        quick=graph.program is None,
        compared=True,
        as_it_runs=graph.as_it_runs,
        uses=graph.uses and _as_of(graph.uses, graph.state, cut),
        training=graph.training,
    )
    _compare_sizes(structure, gone, list(again.nodes), freed)


Key = tuple[str, str, Shapes]
"""The path of a module, the kind of an op, and the shapes that it gives at full size."""


def _are_as_foretold(
    structure: Structure, gone: Mapping[Atom, Tensor], full: ShapeLog, small: ShapeLog, cut: nn.Module, freed: set[str]
) -> bool:
    """Whether two runs show that every op of literals gives what it should; that may hold where they do not show it.

    Ops of one kind that give the same shapes in the same module are told apart by their order, if as many ran as were traced: a
    trace does not show what functions run inside.
    """
    seen = _side_by_side(full, small, cut, freed)
    if seen is None:
        return False
    ran = {call for calls in full.calls.values() for call in calls}
    for node in nodes_of_literals(structure, gone):
        key = _key(node)
        # What is in the trace alone, as of code that asks whether it is exported, is nowhere in the run.
        if key not in seen and not _inside(node, freed) and (key[1] not in KINDS.values() or key[1:] in ran):
            return False
    foretold: defaultdict[Key, list[Shapes]] = defaultdict(list)
    for node in structure.values:
        expected = _expected_shapes(structure, node, gone) if node.op == "call_function" else None
        if expected is not None:
            foretold[_key(node)].append(tuple(expected))
    return all(
        others == foretold[key] or len({*others, *foretold[key]}) == 1
        for key, others in seen.items()
        if key in foretold
    )


def _side_by_side(
    full: ShapeLog, small: ShapeLog, cut: nn.Module, freed: set[str]
) -> defaultdict[Key, list[Shapes]] | None:
    """What the ops of the full model give in the cut one, in their order; None where that runs others.

    Torch's own layers may compute the same by other ops, as weights lie otherwise in memory: of those nothing is seen then.
    """
    seen: defaultdict[Key, list[Shapes]] = defaultdict(list)
    for path in full.calls.keys() | small.calls.keys():
        if path is None:
            continue
        ours, theirs = full.calls.get(path, []), small.calls.get(path, [])
        if [kind for kind, _ in ours] == [kind for kind, _ in theirs]:
            for (kind, shapes), (_, others) in zip(ours, theirs, strict=True):
                seen[path, kind, shapes].append(others)
        elif not (is_of_torch(cut.get_submodule(path)) or any(f"{path}.".startswith(f"{mha}.") for mha in freed)):
            return None
    return seen


def _key(node: Node) -> Key:
    return innermost(node), _kind(op_name(node)), tuple(output_shapes(node))


def _as_of(uses: Uses, state: Mapping[str, Tensor], cut: nn.Module) -> Uses:
    """What was seen of the original, with the cut module's parameters in the place of those of the same names."""
    own = own_tensors(cut)
    return replace(
        uses, parameters={id(own[name]) for name, t in state.items() if id(t) in uses.parameters and name in own}
    )


def _compare_sizes(structure: Structure, gone: Mapping[Atom, Tensor], nodes: list[Node], freed: set[str]) -> None:
    both = (list(structure.graph.nodes), nodes)
    ours, theirs = ([n for n in side if n.op == "call_function" and not _inside(n, freed)] for side in both)
    if [op_name(n) for n in ours] != [op_name(n) for n in theirs]:
        # Code may leave out a repeat by one or a copy of what is in order; what is computed must be the same.
        ours, theirs = ([n for n in side if op_name(n) not in MOVES] for side in (ours, theirs))
    if [op_name(n) for n in ours] != [op_name(n) for n in theirs]:
        raise VerificationError("the cut model runs other operations than the original, so it was not returned")
    for mine, other in zip(ours, theirs, strict=True):
        expected = _expected_shapes(structure, mine, gone)
        if expected is not None and known_sizes(expected, mine) != (shapes := known_sizes(output_shapes(other), other)):
            raise VerificationError(
                f"the cut model has shapes {shapes} instead of {expected} at {where(other)}, so it was "
                "not returned: its code holds a size as a literal"
            )


MOVES = {
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze", "expand", "repeat"),
    *("permute", "transpose", "contiguous", "clone", "alias", "detach", "slice", "select", "getitem"),
}


def _inside(node: Node, paths: set[str]) -> bool:
    return not paths.isdisjoint(module_paths(node))


def _takes_literals(node: Node) -> bool:
    """Whether an op's sizes come from the code that calls it, rather than from a layer that is known and mended."""
    if node.op != "call_function" or op_name(node).startswith(("conv", "layer_norm", "group_norm", "rms_norm")):
        return False
    return not flattens(node)


def _expected_shapes(structure: Structure, node: Node, gone: Mapping[Atom, Tensor]) -> list[tuple[int, ...]] | None:
    output = structure.values.get(node)
    values = output if isinstance(output, list) else [output]
    output_values = [v for v in values if isinstance(v, Value)]
    if len(output_values) != len(values):
        return None
    return [tuple(int(keep_vector(a, gone).sum()) for a in v.axes) for v in output_values]
