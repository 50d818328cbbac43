"""Masked ≡ cut: what the cut model computes is compared with the masked model before anything is returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from secateur.randomness import private_draws
from secateur.state import evaluating, own_tensors
from secateur.structure.attention import RectangularAttention
from secateur.structure.axes import Atom, keep_vector
from secateur.structure.infer import Structure
from secateur.structure.literals import new_sizes
from secateur.structure.rules import Value, op_name
from secateur.structure.rules.registry import output_shapes, shape_of
from secateur.structure.sites import masked_tensors
from secateur.structure.trace import trace, where
from secateur.types import Keep, Sites, VerificationError

__all__ = ["check_sizes", "difference", "reference_outputs", "verify"]


def verify(
    reference: list[Any], cut: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor], tolerance: float
) -> float:
    """Return the relative difference between the cut model's outputs and `reference`, shapes inside checked as well.

    Raises:
        VerificationError: the difference is above `tolerance`, or a shape is not what the axes foretell.
    """
    graph = structure.graph
    with evaluating(cut), private_draws():
        outputs = [cut(*args, **kwargs) for args, kwargs in graph.probes]
    found = difference(reference, outputs)
    if not found <= tolerance:
        raise VerificationError(
            f"the cut model differs from the masked one by {found:.2e} (relative; allowed {tolerance:.0e}), so it was "
            "not returned. Leave out sites (ignore=...) until it passes to find the one, and please report the model."
        )
    if not isinstance(cut, GraphModule):
        check_sizes(cut, structure, gone)
    return found


def check_sizes(cut: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor]) -> None:
    """Trace the cut module again and require every tensor in it to have the shape that the axes foretell.

    Code that holds a size as a literal may run on other sizes and mean something else: ``h[:, :2]`` takes two units
    whatever they are. Where the difference in the outputs is small, only the shapes inside give it away. A model
    without any such literal is not traced again.

    Raises:
        VerificationError: a tensor has another shape, or the cut module runs other operations.
    """
    if not any(new_sizes(structure, node, gone) for node in structure.values if _takes_literals(node)):
        return
    graph = structure.graph
    again = trace(cut, graph.args or dict(graph.kwargs), quick=graph.program is None, known_to_run=True)
    _compare_sizes(structure, gone, list(again.nodes), cut)


def _compare_sizes(structure: Structure, gone: Mapping[Atom, Tensor], nodes: list[Node], cut: nn.Module) -> None:
    # A freed attention module computes the same by other operations, and takes no literals.
    freed = {path for path, module in cut.named_modules() if isinstance(module, RectangularAttention)}
    both = (list(structure.graph.nodes), nodes)
    ours, theirs = ([n for n in side if n.op == "call_function" and not _inside(n, freed)] for side in both)
    if [op_name(n) for n in ours] != [op_name(n) for n in theirs]:
        # Code may leave out a repeat by one or a copy of what is in order; what is computed must be the same.
        ours, theirs = ([n for n in side if op_name(n) not in MOVES] for side in (ours, theirs))
    if [op_name(n) for n in ours] != [op_name(n) for n in theirs]:
        raise VerificationError("the cut model runs other operations than the original, so it was not returned")
    for mine, other in zip(ours, theirs, strict=True):
        expected = _expected_shapes(structure, mine, gone)
        if expected is not None and expected != output_shapes(other):
            raise VerificationError(
                f"the cut model has shapes {output_shapes(other)} instead of {expected} at {where(other)}, so it was "
                "not returned: its code holds a size as a literal"
            )


MOVES = {
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze", "expand", "repeat"),
    *("permute", "transpose", "contiguous", "clone", "alias", "detach", "slice", "select", "getitem"),
}


def _inside(node: Node, paths: set[str]) -> bool:
    return any(path in paths for path, _ in (node.meta.get("nn_module_stack") or {}).values())


def _takes_literals(node: Node) -> bool:
    """Whether an op's sizes come from the code that calls it, rather than from a layer that is known and mended."""
    if node.op != "call_function" or op_name(node).startswith(("conv", "layer_norm", "group_norm", "rms_norm")):
        return False
    return not _flattens(node)


def _flattens(node: Node) -> bool:
    """Whether an op only joins the last axes into one: with other sizes it fails, or the outputs' shape gives it away."""
    source = node.args[0] if node.args else None
    if op_name(node) not in {"view", "reshape", "_unsafe_view", "flatten"} or not isinstance(source, Node):
        return False
    before, after = shape_of(source), shape_of(node)
    return len(after) <= len(before) and after[:-1] == before[: len(after) - 1]


def _expected_shapes(structure: Structure, node: Node, gone: Mapping[Atom, Tensor]) -> list[tuple[int, ...]] | None:
    made = structure.values.get(node)
    values = made if isinstance(made, list) else [made]
    known = [v for v in values if isinstance(v, Value)]
    if len(known) != len(values):
        return None
    return [tuple(int(keep_vector(a, gone).sum()) for a in v.axes) for v in known]


def difference(reference: Any, outputs: Any) -> float:
    """Return the greatest absolute difference over the greatest absolute reference value, over all output tensors.

    >>> difference([torch.tensor([1.0, -4.0])], [torch.tensor([1.0, -3.0])])
    0.25
    """
    ours, theirs = _tensors(reference), _tensors(outputs)
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return float("inf")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.numel():
            scale = max(float(a.abs().max()), torch.finfo(torch.float32).tiny)
            worst = max(worst, float((a.double() - b.double()).abs().max()) / scale)
            if not bool(torch.isfinite(b).all()) and bool(torch.isfinite(a).all()):
                return float("nan")
    return worst


def _tensors(outputs: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(_plain(outputs)) if isinstance(t, Tensor) and t.dtype is not torch.bool]


def _plain(outputs: Any) -> Any:
    """Model output classes as plain mappings."""
    if isinstance(outputs, Mapping):
        return {k: _plain(v) for k, v in outputs.items()}
    return [_plain(v) for v in outputs] if isinstance(outputs, (list, tuple)) else outputs


def reference_outputs(model: nn.Module, sites: Sites, keep: Keep) -> list[Any]:
    """Return what the masked model computes on each probe, statistics taken over the kept units."""
    structure: Structure = sites.structure
    changed = masked_tensors(model, sites, keep)
    graph = structure.graph
    gone = {structure.units[n]: k for n, k in keep.items() if not bool(k.all())}
    seeing_fewer = _affected(structure, gone)
    with evaluating(model), private_draws():
        if not seeing_fewer:
            return [functional_call(model, changed, args, kwargs, tie_weights=False) for args, kwargs in graph.probes]
        return _run_with_statistics(model, structure, changed, gone, seeing_fewer)


def _affected(structure: Structure, gone: Mapping[Atom, Tensor]) -> set[Node]:
    """The nodes that take statistics over an axis that is cut."""
    return {
        node
        for node, axes in structure.ties.statistics.items()
        if any(not bool(keep_vector(axis, gone).all()) for axis in axes)
    }


def _run_with_statistics(
    model: nn.Module, structure: Structure, changed: Mapping[str, Tensor], gone: Mapping[Atom, Tensor], nodes: set[Node]
) -> list[Any]:
    graph = structure.graph
    program = graph.program
    assert program is not None, "a recorded graph takes no statistics over what is cut"
    tensors = {
        **program.constants,
        **own_tensors(model),
    }
    holders = [n for n in program.graph.nodes if n.op == "placeholder"]
    names = {n.name: name for n, name in graph.tensors.items()}
    names |= program.graph_signature.inputs_to_lifted_tensor_constants
    results = []
    for probe in graph.probes:
        leaves = iter(pytree.tree_leaves(probe))
        flat = [changed.get(name, tensors[name]) if (name := names.get(n.name)) else next(leaves) for n in holders]
        outputs = _MaskedStatistics(program.graph_module, structure, gone, nodes).run(*flat)
        results.append(pytree.tree_unflatten(list(outputs), program.call_spec.out_spec))
    return results


class _MaskedStatistics(fx.Interpreter):
    """Runs the full-size graph; at the nodes given, statistics are taken over the kept units only."""

    def __init__(
        self, module: fx.GraphModule, structure: Structure, gone: Mapping[Atom, Tensor], nodes: set[Node]
    ) -> None:
        super().__init__(module)
        self.structure, self.gone, self.statistics = structure, gone, nodes

    def run_node(self, n: Node) -> Any:
        if n not in self.statistics:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        operands = [a for a in n.args if isinstance(a, Node)]
        small = {
            id(self.env[a]): self._kept(a, self.env[a]) for a in n.all_input_nodes if isinstance(self.env[a], Tensor)
        }
        args, kwargs = pytree.tree_map(lambda t: small.get(id(t), t) if isinstance(t, Tensor) else t, (args, kwargs))
        result = n.target(*self._literals(n, list(args), operands), **kwargs)  # type: ignore[operator]
        made = self.structure.values[n]
        if isinstance(result, tuple):
            return tuple(self._spread(v, r) for v, r in zip(made, result, strict=True))
        return self._spread(made, result)

    def _literals(self, n: Node, args: list[Any], operands: list[Node]) -> list[Any]:
        """Sizes and group counts among the arguments, as they are after the cut."""
        name = op_name(n)
        if "layer_norm" in name or "rms_norm" in name:
            args[1] = list(args[0].shape[-len(args[1]) :])
        if name == "group_norm":
            args[1] = int(keep_vector(self.structure.ties.groups[n], self.gone).sum())
        return args

    def _kept(self, node: Node, tensor: Tensor) -> Tensor:
        value: Value = self.structure.values[node]
        for dim, axis in enumerate(value.axes):
            kept = keep_vector(axis, self.gone)
            if not bool(kept.all()):
                tensor = tensor.index_select(dim, kept.nonzero().flatten().to(tensor.device))
        return tensor

    def _spread(self, value: Value, tensor: Tensor) -> Tensor:
        """Put a small result back into its full shape, with zeros for the removed units."""
        for dim, axis in enumerate(value.axes):
            kept = keep_vector(axis, self.gone)
            if not bool(kept.all()):
                shape = (*tensor.shape[:dim], axis.size, *tensor.shape[dim + 1 :])
                where = kept.nonzero().flatten().to(tensor.device)
                tensor = tensor.new_zeros(shape).index_copy_(dim, where, tensor)
        return tensor
