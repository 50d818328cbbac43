"""Trace a model in parts where it cannot be traced whole: the largest submodules that can, with what they were called with.

What stands between the regions may decide by the values of tensors, and is never read: it sees tensors of the sizes that
they always had, since all that enters or leaves a region is frozen, but for what only other regions see (`borders`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

from torch import fx, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from secateur.randomness import private_draws
from secateur.state import called, evaluating, first_names, fresh, own_tensors, split_inputs
from secateur.structure.asking import ModeReads, mode_reads
from secateur.structure.borders import ASIDE, Borders, called_with, find_borders, function_name
from secateur.structure.both_modes import trace_both, train_traces, turned_traces
from secateur.structure.carriers import Uses, both_uses
from secateur.structure.entries import PLAIN
from secateur.structure.infer import infer
from secateur.structure.trace import Graph, Region, first_line
from secateur.structure.turned import with_turned
from secateur.structure.watch import watch
from secateur.trees import tensors_within
from secateur.types import ExampleInputs, InputError, TraceError

__all__ = ["Alone", "trace_regions"]

CALLS = 4
"""How many calls of one submodule, each with inputs of other shapes, are traced."""

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


class Alone(nn.Module):
    """A submodule that stands alone, under the name that it has in the model; called with its arguments.

    >>> model = nn.Sequential(nn.Sequential(nn.Linear(2, 1)))
    >>> [name for name, _ in Alone(model, "0.0").named_parameters()]
    ['0.0.weight', '0.0.bias']
    """

    def __init__(self, model: nn.Module, path: str) -> None:
        super().__init__()
        self.path = path
        holder: nn.Module = self
        *outer, last = path.split(".")
        for part in outer:
            holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        holder.add_module(last, model.get_submodule(path))

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what the submodule answers."""
        return self.get_submodule(self.path)(*args, **kwargs)


def trace_regions(model: nn.Module, example_inputs: ExampleInputs, whole: TraceError) -> Graph:
    """Return the traces of the largest submodules that can be traced, each with what it is called with, as one graph.

    Args:
        model: a module that cannot be traced; it is left as it is.
        example_inputs: what it is called with.
        whole: why it cannot be traced.

    Raises:
        InputError: the inputs do not fit the model.
        TraceError: no submodule in which anything could be cut can be traced either.

    >>> import torch
    >>> class Halting(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    ...     def forward(self, x):
    ...         return self.body(x) if x.sum() > 0 else x
    >>> graph = trace_regions(Halting(), torch.ones(1, 4), TraceError("it decides by a sum"))
    >>> [(region.path, len(region.graph.inputs)) for region in graph.regions]
    [('body', 1)]
    """
    args, kwargs = fresh(*split_inputs(example_inputs))
    with evaluating(model), private_draws():
        called(model, args, kwargs)
    regions: list[Region] = []
    candidates = _below(model, "")
    while candidates:
        calls = _recorded(model, candidates, (args, kwargs))
        traced = {path: _traced(model, path, calls.get(path, ())) for path in candidates}
        regions += [region for several in traced.values() for region in several]
        candidates = [inner for path in candidates if not traced[path] for inner in _below(model, path)]
    if not regions:
        raise TraceError(f"{whole} None of its submodules could be traced by itself either.") from whole
    return _joined(model, tuple(regions), (args, kwargs), whole)


def _below(model: nn.Module, path: str) -> list[str]:
    """The submodules of a module that have units of their own: two matrices or more, one of which makes what another reads."""
    prefix, module = path + "." if path else "", model.get_submodule(path)
    return [
        prefix + name for name, child in module.named_children() if sum(p.dim() > 1 for p in child.parameters()) > 1
    ]


def _recorded(model: nn.Module, paths: Iterable[str], inputs: Inputs) -> dict[str, list[Inputs]]:
    """What the submodules are called with in a forward pass, each distinct call once."""
    calls: dict[str, dict[tuple[Any, ...], Inputs]] = {}

    def hook(path: str) -> Any:
        def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            distinct = calls.setdefault(path, {})
            key = called_with((args, kwargs))
            if key not in distinct and len(distinct) < CALLS:
                distinct[key] = fresh(args, kwargs)

        return note

    with evaluating(model), private_draws():
        handles = [model.get_submodule(p).register_forward_pre_hook(hook(p), with_kwargs=True) for p in paths]
        try:
            args, kwargs = fresh(*inputs)
            model(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
    return {path: list(distinct.values()) for path, distinct in calls.items()}


def _traced(model: nn.Module, path: str, calls: Iterable[Inputs]) -> list[Region]:
    """A submodule's trace for each of its calls; none where one of them cannot be traced."""
    regions = []
    for call in calls:
        alone = Alone(model, path)
        alone.train(model.get_submodule(path).training)
        try:
            graph = trace_both(alone, call)
            if graph.program is None and infer(graph).ties.statistics:
                graph = trace_both(alone, call, quick=False)  # statistics are verified on an exported program
        except (TraceError, InputError):
            return []
        if graph.decided or any(isinstance(leaf, PLAIN) for leaf in pytree.tree_leaves(call)):
            graph = with_turned(alone, infer(graph)).graph
        for node in (n for traced in (graph, *train_traces(graph), *turned_traces(graph)) for n in traced.nodes):
            stack = node.meta.get("nn_module_stack") or {}
            node.meta["nn_module_stack"] = {
                key: entry for key, entry in stack.items() if f"{entry[0]}.".startswith(f"{path}.")
            }
        if graph.uses is None:
            with evaluating(alone), private_draws():
                graph = replace(graph, uses=watch(alone, *fresh(graph.args, graph.kwargs))[0])
        regions.append(Region(path, graph))
    return regions


def _joined(model: nn.Module, regions: tuple[Region, ...], inputs: Inputs, whole: TraceError) -> Graph:
    """The regions as one graph, whose tensors have the names that they have in the model."""
    model_tensors, first = own_tensors(model), first_names(model)
    tensors = {}
    for region in regions:
        for traced in (region.graph, *train_traces(region.graph), *turned_traces(region.graph)):
            for node, name in traced.tensors.items():
                tensors[node] = first.get(id(traced.state[name]), name)
    outside, ran, reads = _used_outside(model, {region.path for region in regions}, inputs)
    followed = _all_ran(model, regions, ran) and not any(train_traces(region.graph) for region in regions)
    borders = find_borders(model, regions, inputs, reads.asked_mode) if followed else Borders(regions)
    regions = borders.order
    pinned = {first[key]: "what cannot be traced uses it, too" for key in outside if key in first}
    for region in regions:
        pinned |= {first[id(region.graph.state[name])]: why for name, why in region.graph.pinned.items()}
    return Graph(
        graph=fx.Graph(),
        untrained="it was traced in parts, and the code between them asks for the mode" if reads.asked_mode else "",
        asks_gradients=reads.asked_gradients or any(region.graph.asks_gradients for region in regions),
        tensors=tensors,
        state={**{n: t for region in regions for n, t in region.graph.state.items()}, **model_tensors},
        inputs=tuple(node for region in regions for node in region.graph.inputs),
        args=inputs[0],
        kwargs=inputs[1],
        leaving={node: why for region in regions for node, why in region.graph.leaving.items()},
        idle=_idle(model, set(tensors.values()), regions, ran, first_line(whole.__cause__ or whole)),
        pinned=pinned,
        derived={name: node for region in regions for name, node in region.graph.derived.items()},
        packed=any(region.graph.packed for region in regions),
        uses=reduce(both_uses, (region.graph.uses or Uses() for region in regions)),
        regions=regions,
        sources=borders.sources,
        handed=borders.read,
    )


def _all_ran(model: nn.Module, regions: tuple[Region, ...], ran: Container[int]) -> bool:
    """Whether the example runs all that stands beside the regions: else it may take what others take in its place."""
    inside = tuple(f"{region.path}." for region in regions)
    return all(
        id(module) in ran or f"{path}.".startswith(inside) or not list(module.parameters(recurse=False))
        for path, module in model.named_modules()
    )


def _idle(
    model: nn.Module, inside: set[str], regions: tuple[Region, ...], ran: Container[int], cause: str
) -> dict[str, str]:
    """What no region uses, by its name, with the reason."""
    never: dict[str, str] = {}
    for region in regions:
        calls = [other.graph.idle for other in regions if other.path == region.path]
        never |= {name: why for name, why in region.graph.idle.items() if all(name in idle for idle in calls)}
    for name, parameter in model.named_parameters():
        above = any(f"{name}.".startswith(f"{path}.") for path in never)
        if name not in inside and not above and parameter.dim() > 1:
            path = name.rpartition(".")[0]
            runs = id(model.get_submodule(path)) in ran
            why = f"it stands in what cannot be traced ({cause})" if runs else "the example inputs never run it"
            never[path or name] = why
    return never


def _used_outside(model: nn.Module, paths: Iterable[str], inputs: Inputs) -> tuple[set[int], set[int], ModeReads]:
    """The ids of the model's tensors that a forward pass uses elsewhere than in the regions, those of modules that run, and
    what code elsewhere asks for.
    """
    uses = _Outside({id(tensor) for tensor in own_tensors(model).values()})
    with (
        evaluating(model),
        private_draws(),
        mode_reads(model, lambda: not uses.depth) as reads,
        uses.entering(map(model.get_submodule, paths)),
        uses,
    ):
        args, kwargs = fresh(*inputs)
        model(*args, **kwargs)
    return uses.used, uses.ran, reads


@dataclass(eq=False)
class _Outside(TorchFunctionMode):
    """Notes which of a model's tensors torch's functions are given while no region runs."""

    own: set[int]
    used: set[int] = field(default_factory=set)
    ran: set[int] = field(default_factory=set)
    depth: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    @contextmanager
    def entering(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Know when a region runs."""
        handles = [register_module_forward_pre_hook(lambda module, _: self.ran.add(id(module)))]
        for module in modules:
            handles.append(module.register_forward_pre_hook(lambda _m, _a: self._step(1)))
            handles.append(module.register_forward_hook(lambda _m, _a, _o: self._step(-1)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _step(self, by: int) -> None:
        self.depth += by

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.depth and function_name(func) not in ASIDE:
            self.used |= self.own & {id(tensor) for tensor in tensors_within((args, kwargs))}
        return func(*args, **(kwargs or {}))
