"""Export a model with all that leaves its forward pass, also what it returns in no way that a graph could return it."""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx import Node
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils import _pytree as pytree

from secateur.randomness import private_draws
from secateur.state import fresh, own_tensors
from secateur.structure.composites import take_apart
from secateur.structure.decided import Decided, deciding_as
from secateur.structure.difference import compared_tensors, difference, is_usable
from secateur.structure.free_sizes import FreeSizes
from secateur.structure.outputs import Holdings, Stored, opaque_type
from secateur.structure.rules import RULES
from secateur.structure.traceable import LongSizesError, by_shapes, open_lengths
from secateur.trees import TreeDef, tensors_within

__all__ = ["Export", "answers_otherwise", "differ", "export", "program_inputs"]

_exporter = threading.Lock()  # torch.export, and Python's warnings, work in one thread at a time


@dataclass(frozen=True, eq=False)
class Export:
    """An exported program whose outputs are what the model returns.

    Attributes:
        program: the program; what nothing reads is still in its graph where it is named here.
        stored: the nodes that the forward pass stores on the model, with where it does.
        ran: the ids of the modules whose forward pass ran.
        opaque: the type of the outputs where no graph could return it; the program then returns their tensors.
        tree: what holds the tensors, in that case.
        packed: whether it packs sequences, of which the program takes all to be full.
        decided: whether values of the example decided what the program is.
        ragged: whether values decide the sizes of tensors; its nodes then say those of the example.
        as_it_runs: whether code that asks heard that it is not exported.
        free: what sizes are when the inputs have others, where it was asked for.
    """

    program: ExportedProgram
    stored: Mapping[Node, Stored]
    ran: frozenset[int]
    opaque: str
    tree: TreeDef | None
    packed: bool = False
    decided: bool = False
    ragged: bool = False
    as_it_runs: bool = False
    free: FreeSizes | None = None


def export(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    touched: Container[int] | None,
    values: Decided | None = None,
    *,
    as_it_runs: bool = False,
    free: bool = False,
) -> Export:
    """Return the exported program of the model, which is given copies of the inputs, as the exporter leaves marks on tensors.

    The exporter drops what is computed and never read, such as the head that a wrapper leaves out. The modules that ran
    without leaving a trace of their parameters are exported with their results.

    Args:
        model, args, kwargs: the model and what it is called with.
        touched: the ids of the parameters that its forward pass does anything with; None where that is not known.
        values: what its tensors answer where they are asked for values (`decided_values`).
        as_it_runs: let code that asks whether it is being exported, and then goes other ways, hear that it is not.
        free: leave the sizes of the inputs open, as far as the code does.
    """

    def attempt(silent: Sequence[nn.Module]) -> Export:
        for open_dims in (ALL, 1) if free else ():
            with suppress(LongSizesError):
                return _export(model, args, kwargs, values or {}, _Tap(model, silent, as_it_runs), open_dims)
        return _export(model, args, kwargs, values or {}, _Tap(model, silent, as_it_runs))

    exported = attempt(())
    silent = _silent(model, exported, touched)
    return attempt(silent) if silent else exported


def _silent(model: nn.Module, exported: Export, touched: Container[int] | None) -> list[nn.Module]:
    """The modules that ran and hold parameters that were touched, and of which the graph makes no use."""
    names, tensors = (
        exported.program.graph_signature.inputs_to_parameters,
        own_tensors(model),
    )  # made anew when asked for
    used = {
        id(tensors.get(names[node.name])) for node in exported.program.graph.nodes if node.name in names and node.users
    }
    dropped = {id(p) for p in model.parameters() if id(p) not in used and (touched is None or id(p) in touched)}
    ran = [module for module in model.modules() if id(module) in exported.ran]
    return [module for module in ran if any(id(p) in dropped for p in module.parameters(recurse=False))]


def _export(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], values: Decided, tap: _Tap, open_dims: int = 0
) -> Export:
    inputs = fresh(args, kwargs)
    _open_sizes(inputs, open_dims)
    with (
        _exporter,
        _quiet(),
        _empty_buffers_apart(model),
        by_shapes() as traceable,
        open_lengths() if open_dims else nullcontext(),
        deciding_as(values) as begin,
        tap.listening(begin),
    ):
        program = torch.export.export(model, *inputs, strict=False)
    take_apart(program, RULES)
    _fit_any_layout(program)
    stored = _part_outputs(program, tap)
    # Where modules have several names and buffers move, the exporter runs a copy, whose modules are others.
    ran = tap.ran if id(model) in tap.ran else _ran(model, args, kwargs)
    exported = Export(program, stored, frozenset(ran), tap.opaque, tap.tree, traceable.packed, bool(values))
    return replace(exported, as_it_runs=tap.as_it_runs)


def _fit_any_layout(program: ExportedProgram) -> None:
    """Let views be taken of tensors that are laid out otherwise than on the example.

    In other types and of other widths a convolution lays its answer out as suits it, and a ``contiguous()`` that had nothing to
    do on the example is not in the program.
    """
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
                node.target = torch.ops.aten.reshape.default
            module.recompile()


ALL = 99
"""More dimensions than any tensor has."""


def _open_sizes(inputs: Any, open_dims: int) -> None:
    """Mark the sizes of the first dimensions as ones that the exporter may leave open.

    Marks, as `dynamic_shapes` are matched with inputs by the names of the signature, in which those of ``**kwargs`` are none.
    """
    for leaf in pytree.tree_leaves(inputs):
        if isinstance(leaf, Tensor) and (dims := range(min(open_dims, leaf.dim()))):
            torch._dynamo.maybe_mark_dynamic(leaf, list(dims))


OTHERWISE, OTHERWISE_IN_HALF = 1e-3, 3e-2
"""From which difference on, relative to the greatest answer, a program computes something else; and in half precision."""


def answers_otherwise(
    model: nn.Module, exported: Export, answers: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Whether the program answers something else on the example than the model did, as far as the two can be compared.

    So do models whose code asks whether it is being exported, and goes another way then.
    """
    program = exported.program
    if exported.packed or exported.opaque:
        return False
    try:
        with torch.no_grad(), private_draws():
            outputs = fx.Interpreter(program.graph_module).run(*program_inputs(program, model, args, kwargs))
    except Exception:  # noqa: BLE001  (what cannot be run so is compared after the cut)
        return False
    specs = program.graph_signature.output_specs
    expected = compared_tensors(answers)
    returned = compared_tensors(
        [x for x, spec in zip(outputs, specs, strict=False) if spec.kind is OutputKind.USER_OUTPUT]
    )
    return [t.shape for t in expected] == [t.shape for t in returned] and differ(expected, returned)


def differ(expected: list[Tensor], returned: list[Tensor]) -> bool:
    """Whether answers are others than those expected, beyond rounding, as far as they can be compared.

    >>> differ([torch.ones(2)], [torch.ones(2) + 1e-5]), differ([torch.ones(2)], [torch.ones(3)])
    (False, True)
    """
    if any(t.is_meta for t in expected) or not is_usable(expected):
        return False
    limit = OTHERWISE_IN_HALF if any(t.dtype.itemsize < 4 for t in expected) else OTHERWISE
    return difference(expected, returned) > limit


def program_inputs(
    program: ExportedProgram, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, copied: bool = True
) -> list[Any]:
    """Return what a program takes, in its order: the model's tensors, constants and the inputs.

    It may write into those that are no parameters, which are copied unless the model is a copy itself.
    """
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    tensors = {**program.state_dict, **program.constants, **own_tensors(model)}
    leaves = iter(pytree.tree_leaves((args, kwargs)))
    holders = [node for node in program.graph.nodes if node.op == "placeholder"]
    flat = [tensors[names[n.name]] if n.name in names else next(leaves) for n in holders]
    return [
        x.detach().clone() if copied and isinstance(x, Tensor) and not isinstance(x, nn.Parameter) else x for x in flat
    ]


def _ran(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[int]:
    """The ids of the modules that a forward pass runs."""
    ran: set[int] = set()
    handle = register_module_forward_pre_hook(lambda module, _: ran.add(id(module)))
    args, kwargs = fresh(args, kwargs)
    try:
        model(*args, **kwargs)
    finally:
        handle.remove()
    return ran


@contextmanager
def _empty_buffers_apart(model: nn.Module) -> Iterator[None]:
    """Make buffers that hold None plain attributes: what forward stores there, the exporter writes into an input."""
    buffers = [(module, dict(module._buffers)) for module in model.modules() if None in module._buffers.values()]
    try:
        for module, named in buffers:
            for name in [name for name, buffer in named.items() if buffer is None]:
                del module._buffers[name]
                vars(module)[name] = None
        yield
    finally:
        for module, named in buffers:
            for name in [name for name, buffer in named.items() if buffer is None]:
                vars(module).pop(name, None)
            module._buffers.clear()
            module._buffers.update(named)


LOGGERS = [
    logging.getLogger(f"torch.{name}") for name in ("_subclasses.fake_tensor", "fx.experimental.symbolic_shapes")
]


class _Muted(io.TextIOBase):
    """A stream that passes on what other threads write."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        """Write, unless it comes from the thread that made this."""
        return len(text) if threading.get_ident() == self.thread else self.stream.write(text)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back the exporter's notices to its own developers; what fails raises, and a cut may be tried in vain."""
    before, stderr = [logger.disabled for logger in LOGGERS], sys.stderr
    for logger in LOGGERS:
        logger.disabled = True
    sys.stderr = _Muted(stderr)  # it prints the graph up to where it failed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stderr = stderr
        for logger, disabled in zip(LOGGERS, before, strict=True):
            logger.disabled = disabled


@dataclass(eq=False)
class _Tap:
    """Hooks that let the model return all that leaves its forward pass: what it returned, and the rest."""

    model: nn.Module
    silent: Sequence[nn.Module]
    as_it_runs: bool = False
    ran: set[int] = field(default_factory=set)
    results: list[Tensor] = field(default_factory=list)
    stored: list[tuple[Stored, Tensor]] = field(default_factory=list)
    opaque: str = ""
    tree: TreeDef | None = None

    @contextmanager
    def listening(self, begin: Callable[[], None]) -> Iterator[None]:
        """Hook into the model, and unhook. The exporter runs it more than once: each run begins anew."""
        handles = [
            self.model.register_forward_pre_hook(lambda _m, _a: begin(), prepend=True),
            self.model.register_forward_pre_hook(self._begin, prepend=True, with_kwargs=True),
            register_module_forward_pre_hook(lambda module, _: self.ran.add(id(module))),
            *(module.register_forward_hook(lambda _m, _a, out: self._take(out)) for module in self.silent),
            self.model.register_forward_hook(self._end),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        self.results = []
        if self.as_it_runs:
            _say_exporting(False)
        self.holdings = Holdings(
            self.model, (args, kwargs), buffers=False
        )  # the exporter itself follows what is done to buffers

    def _take(self, result: Any) -> None:
        self.results += tensors_within(result)

    def _end(self, _module: nn.Module, _args: Any, outputs: Any) -> Any:
        if self.as_it_runs:
            _say_exporting(True)
        self.stored = self.holdings.stored()
        self.holdings.restore()
        self.opaque = opaque_type(outputs)
        self.tree = TreeDef.of(outputs) if self.opaque else None
        if not (self.stored or self.results or self.opaque):
            return None
        returned = tensors_within(outputs) if self.opaque else outputs
        return returned, [tensor for _, tensor in self.stored], self.results


def _say_exporting(exporting: bool) -> None:
    """Set what `torch.compiler` says; where a forward pass fails, the exporter puts back what was said before."""
    compiler: Any = torch.compiler
    compiler._is_exporting_flag = compiler._is_compiling_flag = exporting


def _part_outputs(program: ExportedProgram, tap: _Tap) -> dict[Node, Stored]:
    """Let the program return what the model returned, and name the nodes of what it stored."""
    if not (tap.stored or tap.results or tap.opaque):
        return {}
    output = next(node for node in reversed(program.graph.nodes) if node.op == "output")
    nodes: list[Any] = list(output.args[0])
    signature = program.module_call_graph[0].signature
    assert signature is not None
    signature.out_spec = signature.out_spec.child(0)
    count = signature.out_spec.num_leaves
    del program.graph_signature.output_specs[count:]
    output.args = (tuple(nodes[:count]),)
    program.graph_module.recompile()
    return {
        node: stored for node, (stored, _) in zip(nodes[count:], tap.stored, strict=False) if isinstance(node, Node)
    }
