"""Norms of a masked model that take their statistics over the units that stay, each where it stands.

A module that is given one tensor and gives back one of the same axes, as norms are, can be run on the kept units alone; what it
makes of them is put back among zeros. That takes no trace, and goes in every mode and with every input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import Node

from secateur.state import own_tensors
from secateur.structure.axes import Atom, keep_vector
from secateur.structure.infer import Structure
from secateur.structure.mend import SWITCHES
from secateur.structure.nodes import module_paths
from secateur.structure.plan import apply_plan, make_plan
from secateur.structure.rules import Value, op_name
from secateur.structure.verify import select_rows
from secateur.types import Keep, Sites

__all__ = ["keep_statistics"]


SAME = {"to", "_to_copy", "alias", "contiguous", "detach"}


def keep_statistics(masked: nn.Module, sites: Sites, keep: Keep) -> bool:
    """Let the norms of `masked` take their statistics over what is kept; return whether that was possible for all.

    Args:
        masked: a model of zeros; its norms get a hook.
        sites, keep: what was masked.
    """
    structure = sites.structure
    assert isinstance(structure, Structure)
    gone = structure.gone(keep)
    modules: dict[str, set[tuple[int, tuple[bool, ...]] | None]] = {}
    for half in filter(None, (structure, structure.trained, structure.turned)):
        statistics = half.ties.statistics.items()
        nodes = [n for n, axes in statistics if any(not bool(keep_vector(a, gone).all()) for a in axes)]
        for call in dict.fromkeys(map(_call, nodes)):
            modules.setdefault(_path(call), set()).add(_place(half, call, gone))
    if any(None in places for places in modules.values()):
        return False
    if any(len(different) > 1 for different in modules.values()):
        return False
    plan = make_plan(masked, structure, gone)
    small = apply_plan(masked, plan)
    for path, (place,) in modules.items():
        assert place is not None
        dim, kept = place
        rows = {name: plan.rows.get(f"{path}.{name}", {}) for name in own_tensors(masked.get_submodule(path))}
        index = [number for number, stays in enumerate(kept) if stays]
        masked.get_submodule(path).register_forward_hook(KeptNorm(small.get_submodule(path), rows, dim, index))
    for module in masked.modules():
        vars(module).update(dict.fromkeys(SWITCHES & vars(module).keys(), False))  # no hook takes nested tensors
    return True


def _call(node: Node) -> str:
    """The innermost module that runs an op, and which of its calls it is."""
    return next(filter(None, reversed(module_paths(node))), "")


def _path(call: str) -> str:
    return re.sub(r"@\d+", "", call)


def _place(structure: Structure, call: str, gone: Mapping[Atom, Tensor]) -> tuple[int, tuple[bool, ...]] | None:
    """Along which dimension a module takes what is cut, and what stays; None where it is no module of one tensor."""
    inside = [n for n in structure.values if n.op == "call_function" and _call(n) == call]
    parameters = set(structure.graph.tensors)
    given = {operand for n in inside for operand in n.all_input_nodes} - set(inside) - parameters
    # What is cast to the type that it has is what it was, to the exporter too.
    result = [
        n for n in inside if set(n.users) - set(inside) and not (op_name(n) in SAME and set(n.all_input_nodes) <= given)
    ]
    if not call or len(given) != 1 or len(result) != 1:
        return None
    before, after = (list(_kept_along(structure, node, gone)) for node in (*given, *result))
    cut = [dim for dim, kept in enumerate(before) if not all(kept)]
    if before != after or len(cut) != 1:
        return None
    dim = cut[0]
    return dim - len(before) if dim == len(before) - 1 else dim, before[dim]


def _kept_along(structure: Structure, node: Node, gone: Mapping[Atom, Tensor]) -> Iterator[tuple[bool, ...]]:
    value = structure.values.get(node)
    for axis in value.axes if isinstance(value, Value) else ():
        yield tuple(keep_vector(axis, gone).tolist())


@dataclass(eq=False)
class KeptNorm:
    """A hook that gives what a norm makes of the kept units.

    Attributes:
        small: the norm with the sizes that it has after the cut.
        rows: which rows of the norm's tensors stay.
        dim: the dimension of the units.
        index: the units that stay.
    """

    small: nn.Module
    rows: Mapping[str, Mapping[int, Tensor]]
    dim: int
    index: list[int]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        x: Tensor = args[0]
        index = torch.tensor(self.index, device=x.device)
        self.small.train(module.training)
        tensors = {name: select_rows(tensor, self.rows[name]) for name, tensor in own_tensors(module).items()}
        kept = functional_call(self.small, tensors, (x.index_select(self.dim, index), *args[1:]))
        return output.new_zeros(output.shape).index_copy(self.dim, index, kept)
