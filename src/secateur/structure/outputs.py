"""What leaves a forward pass beside what it returns: the tensors that it stores on the model, and what nothing reads."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from secateur.structure.graph_parts import INTERNAL
from secateur.trees import walk

__all__ = ["Holdings", "Stored", "dependent", "idle_parts", "opaque_type", "unread"]


@dataclass(frozen=True)
class Stored:
    """Where a forward pass stored a tensor.

    Attributes:
        name: the attribute that leads to it, with the path of its module.
        renewed: whether it took the place of a tensor that the attribute itself held before.
    """

    name: str
    renewed: bool = False


class Holdings:
    """What the modules of a model hold in their attributes at one moment, and what its inputs hold.

    Args:
        model: the model.
        inputs: what it is called with, which its forward pass may fill.
        buffers: whether to look at buffers too.
    """

    def __init__(self, model: nn.Module, inputs: Any, *, buffers: bool) -> None:
        self.inputs = inputs
        self.internal = INTERNAL - {"_buffers"} if buffers else INTERNAL
        self.attributes = [(path, module, dict(vars(module))) for path, module in model.named_modules()]
        self.contents: list[tuple[Any, Any]] = []
        visited_ids: set[int] = set()
        for _, _, attributes in self.attributes:
            for name, value in attributes.items():
                if name not in self.internal:
                    self._remember(value, visited_ids)
        self.held_names = {
            _dotted(path, name)
            for path, _, attributes in self.attributes
            for name, value in attributes.items()
            if isinstance(value, Tensor)
        }
        self.alive = [tensor for _, tensor in self._tensors()]  # an id is a tensor's own only while it lives
        self.held_ids = {id(tensor) for tensor in self.alive}

    def _remember(self, value: Any, visited_ids: set[int]) -> None:
        """Keep what the plain containers among the attributes contain."""
        if type(value) not in (list, dict, set) or id(value) in visited_ids:
            return
        visited_ids.add(id(value))
        self.contents.append((value, value.copy()))
        for inner in list(value.values()) if isinstance(value, dict) else list(value):
            self._remember(inner, visited_ids)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor that an attribute leads to now, by the attribute's name."""
        visited_ids: set[int] = set()
        for path, module, _ in self.attributes:
            for name, value in list(vars(module).items()):
                if name not in self.internal:
                    dotted = path or "a buffer" if name == "_buffers" else _dotted(path, name)
                    for tensor in walk(value, visited_ids, Tensor):
                        yield dotted, tensor
        for tensor in walk(self.inputs, visited_ids, Tensor):
            yield "an entry of an input", tensor

    def stored(self) -> list[tuple[Stored, Tensor]]:
        """Return the tensors that the modules hold now and did not hold then, with where they are."""
        fresh = {id(tensor): (name, tensor) for name, tensor in self._tensors() if id(tensor) not in self.held_ids}
        return [(Stored(name, name in self.held_names), tensor) for name, tensor in fresh.values()]

    def restore(self) -> None:
        """Let the modules hold again what they held then."""
        for container, content in self.contents:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(content)
        for _, module, attributes in self.attributes:
            now = vars(module)
            for name in [n for n in now if n not in attributes and n not in self.internal]:
                del now[name]
            now.update({name: value for name, value in attributes.items() if name not in self.internal})


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}".lstrip(".")


RETURNABLE = (Tensor, int, float, complex, str, type(None), torch.dtype, torch.device, torch.layout)
UNSEEN = (Iterator, FunctionType, MethodType, partial)


def opaque_type(outputs: Any) -> str:
    """Return the name of the first type in a model's outputs that is no container of tensors to torch; else "".

    Raises:
        TypeError: the outputs may hold tensors that nobody can see before they are asked for.

    >>> opaque_type((torch.ones(1), {"scale": 2.0})), opaque_type([slice(1)])
    ('', 'slice')
    """
    leaves = pytree.tree_leaves(outputs)
    for leaf in leaves:
        if isinstance(leaf, UNSEEN):
            raise TypeError(f"it returns a {type(leaf).__name__}, into which nobody can look; return a tuple or a list")
    return next((type(leaf).__name__ for leaf in leaves if not isinstance(leaf, RETURNABLE)), "")


def unread(graph: fx.Graph, tensors: Mapping[fx.Node, str], leaving: Iterable[fx.Node]) -> list[fx.Node]:
    """Return the nodes that parameters are computed into and that nothing reads, where these parameters do no more."""
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    live = _reached([output, *leaving], lambda node: node.all_input_nodes)
    idle = _reached([n for n in tensors if n.users and n not in live], lambda node: list(node.users))
    # What an op makes beside its result, as the indices of a pooling, is no result of the model's.
    return [n for n in idle if not n.users and not (n.target is operator.getitem and n.args[1])]


def dependent(sources: Iterable[fx.Node]) -> set[fx.Node]:
    """Return the nodes that depend on any of the sources, with these."""
    return set(_reached(list(sources), lambda node: list(node.users)))


def _reached(start: list[fx.Node], steps: Callable[[fx.Node], list[fx.Node]]) -> dict[fx.Node, None]:
    reached = dict.fromkeys(start)
    waiting = list(start)
    while waiting:
        for node in steps(waiting.pop()):
            if node not in reached:
                reached[node] = None
                waiting.append(node)
    return reached


def idle_parts(model: nn.Module, ran: Container[int], used: Container[int]) -> tuple[dict[str, str], dict[str, str]]:
    """Return what the example inputs do not run: modules and single parameters by name, and the tensors they pin.

    A module that never ran stays whole. So what it shares with one that ran must stay whole too, unless both are alike,
    as two embeddings of one table: then they shrink alike.

    Args:
        model: the model.
        ran: the ids of the modules whose forward pass ran.
        used: the ids of the parameters that something was computed from.
    """
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    idle: dict[str, str] = {}
    pinned: dict[str, str] = {}
    alike = {_likeness(module) for module in model.modules() if id(module) in ran}
    for path, module in model.named_modules():
        if any(path.startswith(f"{above}.") for above in idle) or not _is_idle(module, ran, used, owners, alike):
            continue
        idle[path] = "the example inputs never run it"
        shared = {id(p) for p in module.parameters() if id(p) in used}
        names = [n for n, p in model.named_parameters(remove_duplicate=False) if id(p) in shared]
        pinned |= dict.fromkeys(names, f"{path}, which the example inputs never run, shares it")
    for name, parameter in model.named_parameters():
        if id(parameter) not in used and not any(name.startswith(f"{above}.") for above in idle):
            idle[name] = "the example inputs never use it"
    return idle, pinned


def _likeness(module: nn.Module) -> tuple[Any, ...]:
    return type(module), *(id(p) for p in module.parameters(recurse=False))


def _is_idle(
    module: nn.Module,
    ran: Container[int],
    used: Container[int],
    owners: Mapping[int, set[int]],
    alike: Container[tuple[Any, ...]],
) -> bool:
    parts = list(module.modules())
    parameters = {id(p) for p in module.parameters()}
    if not parameters or any(id(part) in ran for part in parts) or all(_likeness(p) in alike for p in parts):
        return False
    inside = {id(part) for part in parts}
    # A parameter that is used, and that no module outside has, was read from here.
    return not any(key in used and owners[key] <= inside for key in parameters)
