"""Norms of a masked model that take their statistics over the units that stay, each where it stands.

A module that is given one tensor and gives back one of the same axes, as norms are, can be run on the kept units alone; what it
makes of them is put back among zeros. That takes no trace, and goes in every mode and with every input.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import Node

from secateur.state import first_names, own_tensors
from secateur.structure.axes import Atom, keep_vector
from secateur.structure.infer import Structure
from secateur.structure.literals import new_sizes
from secateur.structure.mend import SWITCHES
from secateur.structure.nodes import module_paths
from secateur.structure.plan import Plan, apply_plan, make_plan, select_rows
from secateur.structure.rules import Value, op_name
from secateur.structure.rules.registry import shape_of
from secateur.types import VerificationError

__all__ = ["KeptNorm", "keep_statistics", "kept_norms"]


SAME = {"to", "_to_copy", "alias", "contiguous", "detach"}

Kept = tuple[bool, ...]


def kept_norms(model: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor]) -> dict[str, KeptNorm] | None:
    """Return what stays of the norms that take statistics over what is cut, by their paths.

    Args:
        model: the model, whole.
        structure: of the model.
        gone: the keep vectors of the axes that are cut.

    Returns:
        None where other code takes such statistics as well, or a norm would not run so.
    """
    modules, first = dict(model.named_modules(remove_duplicate=False)), first_names(model)
    paths = {module: path for path, module in model.named_modules()}
    places_by_path: dict[str, list[tuple[int, Kept, Node]]] = {}
    for half in filter(None, (structure, structure.trained, structure.turned)):
        statistics = half.ties.statistics.items()
        nodes = [n for n, axes in statistics if any(not bool(keep_vector(a, gone).all()) for a in axes)]
        nodes_by_call = _by_call(half) if nodes else {}
        for call in dict.fromkeys(map(_call, nodes)):
            module = modules.get(_path(call)) if call else None
            place = _place(half, nodes_by_call[call], gone)
            if module is None or place is None or not _follows(module, half, nodes_by_call[call], gone):
                return None
            places_by_path.setdefault(paths[module], []).append(place)
    plan = make_plan(model, structure, gone) if places_by_path else Plan()
    # What stays of a block of layers is not what its zeros do.
    layers = {name for name, _ in structure.ties.roles}
    norms: dict[str, KeptNorm] = {}
    for path, ((dim, kept, given), *others) in places_by_path.items():
        names = {name: first[id(tensor)] for name, tensor in own_tensors(modules[path]).items()}
        if any(other[:2] != (dim, kept) for other in others) or layers.intersection(names.values()):
            return None
        rows = {name: plan.rows.get(full, {}) for name, full in names.items()}
        norm = KeptNorm.of(modules[path], path, plan, rows, dim, kept)
        if norm is None or not norm.runs(modules[path], given):
            return None
        norms[path] = norm
    return norms


def keep_statistics(masked: nn.Module, norms: Mapping[str, KeptNorm]) -> None:
    """Let the norms of a model of zeros take their statistics over what is kept."""
    for path, norm in norms.items():
        masked.get_submodule(path).register_forward_hook(norm, with_kwargs=True)
    for module in masked.modules() if norms else ():
        vars(module).update(dict.fromkeys(SWITCHES & vars(module).keys(), False))  # no hook takes nested tensors


def _call(node: Node) -> str:
    """The innermost module that runs an op, and which of its calls it is."""
    return next(filter(None, reversed(module_paths(node))), "")


def _path(call: str) -> str:
    return re.sub(r"@\d+", "", call)


def _by_call(structure: Structure) -> dict[str, list[Node]]:
    nodes: defaultdict[str, list[Node]] = defaultdict(list)
    for node in structure.values:
        if node.op == "call_function":
            nodes[_call(node)].append(node)
    return nodes


def _place(structure: Structure, inside: list[Node], gone: Mapping[Atom, Tensor]) -> tuple[int, Kept, Node] | None:
    """Where a module of these nodes takes what is cut: along which dimension, what stays of it, and of what node.

    None where it is no module that makes one tensor of one of the same axes.
    """
    parameters = set(structure.graph.tensors)
    given = {operand for n in inside for operand in n.all_input_nodes} - set(inside) - parameters
    # What is cast to the type that it has is what it was, to the exporter too.
    result = [
        n for n in inside if set(n.users) - set(inside) and not (op_name(n) in SAME and set(n.all_input_nodes) <= given)
    ]
    if len(given) != 1 or len(result) != 1:
        return None
    before, after = (list(_kept_along(structure, node, gone)) for node in (*given, *result))
    cut = [dim for dim, kept in enumerate(before) if not all(kept)]
    if before != after or len(cut) != 1:
        return None
    dim = cut[0]
    return dim - len(before) if dim == len(before) - 1 else dim, before[dim], next(iter(given))


def _follows(module: nn.Module, structure: Structure, inside: list[Node], gone: Mapping[Atom, Tensor]) -> bool:
    """Whether no number of the module's own says how it parts what is cut: a wrong one would do the same in masked and cut.

    What torch's group norm holds is mended; a layer norm fails with another size than its input's.
    """
    parting = [
        n for n in inside if not op_name(n).endswith(("layer_norm", "rms_norm")) and new_sizes(structure, n, gone)
    ]
    return all(type(module) is nn.GroupNorm and op_name(node) == "group_norm" for node in parting)


def _kept_along(structure: Structure, node: Node, gone: Mapping[Atom, Tensor]) -> Iterator[Kept]:
    value = structure.values.get(node)
    for axis in value.axes if isinstance(value, Value) else ():
        yield tuple(keep_vector(axis, gone).tolist())


class KeptNorm(nn.Module):
    """What stays of a norm; as a hook of that norm it gives what is made of the kept units.

    It is a module, so that who follows which module runs sees that what it runs is none of the norm's own.

    Attributes:
        small: the norm with the sizes that it has after the cut.
        rows: which rows of the norm's tensors stay.
        dim: the dimension of the units.
        size: how many units the norm has.
        index: the units that stay.
        path: the path of the norm.
    """

    is_of_masked_copy = True

    def __init__(
        self, small: nn.Module, rows: Mapping[str, Mapping[int, Tensor]], dim: int, kept: Kept, path: str
    ) -> None:
        super().__init__()
        self.small, self.rows, self.dim, self.path = small, rows, dim, path
        self.size, self.index = len(kept), [number for number, stays in enumerate(kept) if stays]

    @classmethod
    def of(
        cls, norm: nn.Module, path: str, plan: Plan, rows: Mapping[str, Mapping[int, Tensor]], dim: int, kept: Kept
    ) -> KeptNorm | None:
        """Return what stays of the norm at a path; None where its tensors keep other rows than those of the units."""
        index = torch.tensor(kept).nonzero().flatten()
        if not all(len(dims) <= 1 and all(torch.equal(row, index) for row in dims.values()) for dims in rows.values()):
            return None
        edits = plan.attributes.items()
        attributes = {full[len(path) + 1 :]: new for full, new in edits if f"{full}.".startswith(f"{path}.")}
        small = apply_plan(norm, Plan({name: dims for name, dims in rows.items() if dims}, attributes))
        small._forward_pre_hooks.clear()  # it is given what these made
        return cls(small, rows, dim, kept, path)

    def runs(self, norm: nn.Module, given: Node) -> bool:
        """Whether it runs on what the norm is given in the trace: not where a number in its code is the size of old."""
        with suppress(Exception), torch.no_grad():
            x = torch.zeros(shape_of(given), dtype=given.meta["val"].dtype, device=given.meta["val"].device)
            return bool(self(norm, (x,), {}, x).shape == x.shape)
        return False

    def forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        """Return what the norm makes of the kept units, among zeros.

        Raises:
            VerificationError: it is given other units than were traced, or cannot run on those that stay.
        """
        x = next(leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, Tensor))
        size = x.shape[self.dim] if -x.dim() <= self.dim < x.dim() else 1
        if size != self.size:
            raise VerificationError(
                f"the units of {self.path!r} cannot be cut where the inputs have other shapes: it norms {size} of them there, and "
                f"{self.size} on the example; leave the site out with ignore="
            )
        index = torch.tensor(self.index, device=x.device)
        for mine, its in zip(self.small.modules(), module.modules(), strict=True):
            vars(mine)["training"] = vars(its)["training"]
        tensors = {name: select_rows(tensor, self.rows[name]) for name, tensor in own_tensors(module).items()}

        def small(leaf: Any) -> Any:
            return leaf.index_select(self.dim, index) if leaf is x else leaf

        try:
            given = tuple(map(small, args)), {name: small(leaf) for name, leaf in kwargs.items()}
            kept = functional_call(self.small, tensors, *given)
        except Exception as error:
            raise VerificationError(f"{self.path} cannot run on the units that stay: {error}") from error
        return output.new_zeros(output.shape).index_copy(self.dim, index, kept)
