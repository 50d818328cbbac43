"""Export a model with all that leaves its forward pass, also what it returns in no way that a graph could return it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx import Node
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils import _pytree as pytree

from secateur.state import own_tensors
from secateur.structure.outputs import Holdings, opaque_type, tensors_within

__all__ = ["Export", "export"]

_exporter = threading.Lock()  # torch.export, and Python's warnings, work in one thread at a time


@dataclass(frozen=True, eq=False)
class Export:
    """An exported program whose outputs are what the model returns.

    Attributes:
        program: the program; what nothing reads is still in its graph where it is named here.
        leaving: the nodes that leave in another way, with the reason.
        ran: the ids of the modules whose forward pass ran.
        opaque: the type of the outputs where no graph could return it; the program then returns their tensors.
    """

    program: ExportedProgram
    leaving: Mapping[Node, str]
    ran: frozenset[int]
    opaque: str


def export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Export:
    """Return the exported program of the model.

    The exporter drops what is computed and never read, such as the head that a wrapper leaves out. The modules that ran
    without leaving a trace of their parameters are exported with their results.
    """
    exported = _export(model, args, kwargs, ())
    silent = _silent(model, exported)
    return _export(model, args, kwargs, silent) if silent else exported


def _silent(model: nn.Module, exported: Export) -> list[nn.Module]:
    """The modules that ran and hold parameters of which the graph makes no use."""
    signature, tensors = exported.program.graph_signature, own_tensors(model)
    used = {
        id(tensors.get(signature.inputs_to_parameters[node.name]))
        for node in exported.program.graph.nodes
        if node.name in signature.inputs_to_parameters and node.users
    }
    return [m for m in model.modules() if id(m) in exported.ran and any(id(p) not in used for p in m.parameters(False))]


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], silent: Iterable[nn.Module]) -> Export:
    tap = _Tap(model, tuple(silent))
    with _exporter, warnings.catch_warnings(), tap.listening():
        warnings.simplefilter("ignore")  # the exporter's notices to its own developers
        program = torch.export.export(model, args, kwargs, strict=False)
    leaving = _part_outputs(program, tap)
    return Export(program, leaving, frozenset(tap.ran), tap.opaque)


@dataclass(eq=False)
class _Tap:
    """Hooks that let the model return all that leaves its forward pass: what it returned, and the rest."""

    model: nn.Module
    silent: Sequence[nn.Module]
    ran: set[int] = field(default_factory=set)
    results: list[Tensor] = field(default_factory=list)
    stored: list[tuple[str, Tensor]] = field(default_factory=list)
    opaque: str = ""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hook into the model, and unhook. The exporter runs it more than once: each run begins anew."""
        handles = [
            self.model.register_forward_pre_hook(self._begin, prepend=True),
            register_module_forward_pre_hook(lambda module, _: self.ran.add(id(module))),
            *(module.register_forward_hook(lambda _m, _a, out: self._take(out)) for module in self.silent),
            self.model.register_forward_hook(self._end),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, _module: nn.Module, _args: Any) -> None:
        self.results = []
        self.holdings = Holdings(self.model)

    def _take(self, result: Any) -> None:
        self.results += tensors_within(result)

    def _end(self, _module: nn.Module, _args: Any, outputs: Any) -> Any:
        self.stored = self.holdings.stored()
        self.holdings.restore()
        self.opaque = opaque_type(outputs)
        if not (self.stored or self.results or self.opaque):
            return None
        returned = tensors_within(outputs) if self.opaque else outputs
        return returned, [tensor for _, tensor in self.stored], self.results


def _part_outputs(program: ExportedProgram, tap: _Tap) -> dict[Node, str]:
    """Let the program return what the model returned, and name the nodes of all else that left it."""
    output = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    specs = program.graph_signature.output_specs
    nodes: list[Any] = list(output.args[0])
    returned = [n for n, spec in zip(nodes, specs, strict=True) if spec.kind is OutputKind.USER_OUTPUT]
    reasons = {n: f"the forward pass writes it into {s.target}" for n, s in zip(nodes, specs, strict=True) if s.target}
    tapped = bool(tap.stored or tap.results or tap.opaque)
    if not tapped and len(returned) == len(nodes):
        return {}
    signature = program.module_call_graph[0].signature
    assert signature is not None
    if tapped:
        spec: pytree.TreeSpec = signature.out_spec.child(0)
        returned, rest = returned[: spec.num_leaves], returned[spec.num_leaves :]
        reasons |= dict(zip(rest, [f"the forward pass stores it as {name}" for name, _ in tap.stored], strict=False))
        signature.out_spec = spec
    specs[:] = [s for s in specs if s.kind is OutputKind.USER_OUTPUT][: len(returned)]
    output.args = (tuple(returned),)
    program.graph_module.recompile()
    return {node: reason for node, reason in reasons.items() if isinstance(node, Node)}
