"""Masked ≡ cut: what the cut model computes is compared with the masked model before anything is returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx import Node
from torch.utils import _pytree as pytree

from secateur.state import evaluating
from secateur.structure.axes import Atom, keep_vector
from secateur.structure.infer import Structure
from secateur.structure.rules import Value, op_name
from secateur.structure.sites import masked_tensors
from secateur.types import Keep, Sites, VerificationError

__all__ = ["difference", "reference_outputs", "verify"]


def verify(reference: Any, cut: nn.Module, structure: Structure, tolerance: float) -> float:
    """Return the relative difference between the cut model's outputs and `reference`.

    Raises:
        VerificationError: the difference is above `tolerance`, or the shapes of the outputs differ.
    """
    with evaluating(cut), torch.random.fork_rng(devices=[]):
        outputs = [cut(*args, **kwargs) for args, kwargs in structure.graph.probes]
    found = difference(reference, outputs)
    if not found <= tolerance:
        raise VerificationError(
            f"the cut model differs from the masked one by {found:.2e} (relative; allowed {tolerance:.0e}), so it was "
            "not returned. Leave out sites (ignore=...) until it passes to find the one, and please report the model."
        )
    return found


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
    with evaluating(model), torch.random.fork_rng(devices=[]):
        if not seeing_fewer:
            return [functional_call(model, changed, args, kwargs) for args, kwargs in graph.probes]
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
    tensors = {
        **program.constants,
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers()),
    }
    holders = [n for n in program.graph.nodes if n.op == "placeholder"]
    results = []
    for probe in graph.probes:
        leaves = iter(pytree.tree_leaves(probe))
        flat = [changed.get(name, tensors[name]) if (name := graph.tensors.get(n)) else next(leaves) for n in holders]
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
