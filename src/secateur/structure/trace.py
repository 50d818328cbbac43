"""Trace a model into a graph of ATen ops whose tensors have the names that they have in the model."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx import Node

from secateur.state import called, check_ordinary, evaluating, first_names, fresh, own_tensors, split_inputs
from secateur.structure.carriers import Uses
from secateur.structure.decided import OF_NO_MODEL, decided_values
from secateur.structure.derived import parametrized
from secateur.structure.export import Export, answers_otherwise, export
from secateur.structure.free_sizes import FreeSizes, with_free_sizes
from secateur.structure.outputs import Stored, dependent, idle_parts, unread
from secateur.structure.ragged import is_ragged, sized_by_example
from secateur.structure.record import record
from secateur.structure.train_code import CallLog, in_mode, logged_pass, trained
from secateur.structure.turns import Turn
from secateur.structure.watch import watch
from secateur.trees import TreeDef
from secateur.types import ExampleInputs, TraceError
from secateur.wrappers import check_module, check_readable

__all__ = ["AsBefore", "Graph", "Region", "exported_like", "first_line", "model_line", "trace"]


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced model.

    Attributes:
        graph: the ops in the order in which they run; read, never changed.
        tensors: the placeholders that stand for parameters, buffers and other tensors that the model holds, with their
            names.
        state: those tensors, by name.
        inputs: the placeholders that stand for what the user passes in.
        args, kwargs: the example inputs that the trace was made with.
        program: the exported program that the graph is of; None where it was recorded.
        leaving: nodes that leave the forward pass in another way than as what it returns, with the reason.
        idle: what the example inputs do not run, by its name, with the reason.
        pinned: names of tensors that must not shrink, with the reason.
        uses: what the forward pass does with the sizes that the modules hold; None where it was not watched.
        derived: what makes the weights that are no parameters, but made of some on each run (by a parametrization, a
            mask, a normalisation), by the name that the model has them under.
        opaque: the type of the outputs, where it is no container that a graph could return; else "".
        tree: what holds the tensors that the model returns, where no program knows it; None for one tensor alone.
        regions: the parts that were traced each by itself, where the model could not be traced whole (`regions`); the
            ops are then theirs, and `graph` is empty: nothing can run it.
        sources: for an input of a region, the outputs of regions that it is and nothing else, where that is so (`borders`).
        handed: those outputs, with the dimensions whose size is asked for between the regions.
        packed: whether the model packs sequences, which the ops take to be full: they tie as they do, and do not run so.
        decided: whether values of the example decided which ops ran (`decided`): other values may run others.
        ragged: whether values decide the sizes of tensors (`ragged`), which are then those on the example.
        as_it_runs: whether code that asks heard that it is not exported, as otherwise it answers something else or fails.
        free: what sizes are when the inputs have others, where it was asked for.
        training: whether it is what train mode runs, torch's own layers left aside (`train_code`).
        stored: where the forward pass stores tensors.
        asks_gradients: whether code that is not torch's asks if gradients are recorded.
        calls: the ops that ran, where code that is not torch's asks for the mode; else None.
        trained: the graph of train mode, where that runs other code than this one, of eval mode.
        untrained: why there is none although train mode may run other code; else "".
        turns: the inputs that decide, each set otherwise (`turns`), and whether that is in train mode.
        turned: graphs of what runs where one is, with that one, which tie units too (`turned`).
    """

    graph: fx.Graph
    tensors: Mapping[Node, str]
    state: Mapping[str, Tensor]
    inputs: tuple[Node, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    program: ExportedProgram | None = None
    leaving: Mapping[Node, str] = field(default_factory=dict)
    idle: Mapping[str, str] = field(default_factory=dict)
    pinned: Mapping[str, str] = field(default_factory=dict)
    uses: Uses | None = None
    derived: Mapping[str, Node] = field(default_factory=dict)
    opaque: str = ""
    tree: TreeDef | None = None
    regions: tuple[Region, ...] = ()
    sources: Mapping[Node, tuple[Node, ...]] = field(default_factory=dict)
    handed: Mapping[Node, frozenset[int]] = field(default_factory=dict)
    packed: bool = False
    decided: bool = False
    ragged: bool = False
    as_it_runs: bool = False
    free: FreeSizes | None = None
    training: bool = False
    stored: frozenset[str] = frozenset()
    asks_gradients: bool = False
    calls: CallLog | None = None
    trained: Graph | None = None
    untrained: str = ""
    turns: tuple[tuple[Turn, bool], ...] = ()
    turned: tuple[tuple[Turn, Graph], ...] = ()

    @property
    def traces(self) -> list[Graph]:
        """The graphs that were traced by themselves: of its regions, or it alone."""
        return [region.graph for region in self.regions] or [self]

    @property
    def of_example(self) -> bool:
        """Whether values of the example stand in it, so that no graph of it is written that would take others."""
        return self.decided or self.ragged or bool(self.regions)

    @property
    def without_form(self) -> bool:
        """Whether no graph can be written of it, so that what is cut must run as the module that it is."""
        return self.of_example or bool(self.opaque)

    @property
    def nodes(self) -> Iterator[Node]:
        """The nodes, in the order in which they run."""
        if self.regions:
            return chain.from_iterable(region.graph.nodes for region in self.regions)
        return iter(self.graph.nodes)


@dataclass(frozen=True, eq=False)
class Region:
    """A submodule that was traced by itself, as it was called once.

    Attributes:
        path: the submodule.
        graph: its trace, in which tensors and modules have the names that they have in the whole model (`Alone`).
    """

    path: str
    graph: Graph


def trace(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    quick: bool = True,
    compared: bool = False,
    as_it_runs: bool = False,
    uses: Uses | None = None,
    free: bool = False,
    training: bool = False,
) -> Graph:
    """Return the graph of `model` in eval mode on `example_inputs`; the model and the random state stay as they are.

    Args:
        model: any module that `torch.export` takes.
        example_inputs: what the model is called with.
        quick: record a plain network from its forward pass, and export only what is not plain; False always exports.
        compared: what the exported program answers was compared with what the model does before, and is not again.
        as_it_runs: let code that asks whether it is exported hear that it is not. Found out by itself where the model is tried:
            what the exported program answers there is compared with what the model does.
        uses: what was seen of it before, so that it need not be watched again.
        free: learn what sizes are when the inputs have others (`FreeSizes`).
        training: trace what runs in train mode, torch's own layers left aside.

    Raises:
        InputError: the inputs do not fit the model.
        TraceError: the forward pass depends on the values of its tensors, or uses what cannot be exported.
    """
    check_module(model, "trace")
    check_readable(model, "trace")
    check_ordinary(model, "trace")
    args, kwargs = fresh(*split_inputs(example_inputs))
    if quick:
        with _one_pass(model, training) as ran:
            recorded = _recorded(model, args, kwargs)
        if recorded is not None:
            return replace(recorded, training=training, **ran())
    # Each pass anew: what the one before kept in tables is dropped.
    answers, ran = None, _Ran
    if uses is None:
        with _one_pass(model, training) as ran:
            uses, answers = watch(model, *fresh(args, kwargs))
    if uses is None:
        # The exporter works on shapes alone, and lets pass what would fail on numbers, such as a wrong type.
        with _one_pass(model, training) as ran:
            answers = called(model, args, kwargs)
    with evaluating(model), trained(model) if training else nullcontext():
        exported = _export(model, args, kwargs, uses, as_it_runs, free, training)
        may_differ = not (compared or exported.as_it_runs)
        if may_differ and answers_otherwise(model, exported, answers, args, kwargs):
            # Where it makes no difference what the code hears, the two differ by design, as with padded places in fast paths.
            with suppress(Exception):
                other = _export(model, args, kwargs, uses, True, free, training)
                exported = exported if answers_otherwise(model, other, answers, args, kwargs) else other
    graph = _exported(model, exported, args, kwargs, uses)
    return replace(graph, training=training, **ran())


class _Ran(TypedDict, total=False):
    """What is told of a pass: see `Graph`."""

    calls: CallLog | None
    asks_gradients: bool


@contextmanager
def _one_pass(model: nn.Module, training: bool) -> Iterator[Callable[[], _Ran]]:
    """Let a model run once, and leave it as it was; what ran is told where code asked for the mode."""
    with logged_pass(model, training) as (log, reads):
        yield lambda: _Ran(calls=log if reads.asked_mode else None, asks_gradients=reads.asked_gradients)


class AsBefore(TypedDict):
    """How a model was exported before (see `trace`)."""

    compared: bool
    as_it_runs: bool


def exported_like(graph: Graph) -> AsBefore:
    """Return what to tell `trace` so that it exports as the earlier trace was; one that was recorded says nothing of that."""
    return {"compared": graph.program is not None, "as_it_runs": graph.as_it_runs}


def _recorded(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Graph | None:
    """The graph of a plain network; None where it is not plain, or fails."""
    try:
        recording = record(model, *fresh(args, kwargs))
    except Exception:  # noqa: BLE001  (what is wrong with the model is found and said by the export)
        return None
    graph = Graph(recording.graph, recording.tensors, own_tensors(model), tuple(recording.inputs), args, kwargs)
    graph = replace(graph, opaque=recording.opaque, tree=recording.tree)
    return _with_leaving(model, graph, recording.stored, recording.ran)


def _exported(
    model: nn.Module, exported: Export, args: tuple[Any, ...], kwargs: dict[str, Any], uses: Uses | None
) -> Graph:
    program = exported.program
    names = program.graph_signature.inputs_to_parameters | program.graph_signature.inputs_to_buffers
    constants = program.graph_signature.inputs_to_lifted_tensor_constants
    names |= {holder: name for holder, name in constants.items() if _is_attribute(model, name)}
    model_tensors, first = own_tensors(model), first_names(model)
    names = {holder: first.get(id(model_tensors.get(name)), name) for holder, name in names.items()}
    user = set(program.graph_signature.user_inputs)
    holders = [n for n in program.graph.nodes if n.op == "placeholder"]
    graph = Graph(
        graph=program.graph,
        tensors={n: names[n.name] for n in holders if n.name in names},
        state={
            **{k: v for k, v in program.constants.items() if isinstance(v, Tensor)},
            **program.state_dict,
            **model_tensors,
        },
        inputs=tuple(n for n in holders if n.name in user),
        args=args,
        kwargs=kwargs,
        program=program,
        uses=uses,
        opaque=exported.opaque,
        tree=exported.tree,
        packed=exported.packed,
        decided=exported.decided,
        ragged=exported.ragged,
        as_it_runs=exported.as_it_runs,
        free=exported.free,
    )
    return _with_leaving(model, graph, exported.stored, exported.ran)


def _with_leaving(model: nn.Module, graph: Graph, stored: Mapping[Node, Stored], ran: Container[int]) -> Graph:
    """The graph with all that leaves it unreturned, and all that it does not run."""
    model_tensors = own_tensors(model)
    parameters = {n: name for n, name in graph.tensors.items() if isinstance(model_tensors.get(name), nn.Parameter)}
    # A table that is made anew from constants and kept is no output: it shrinks as those do, and so do parameters; and
    # so does a weight that is made anew of parameters on each run, as masks and normalisations make it.
    computed = dependent([*graph.inputs, *parameters]) if stored else set()
    by_input = dependent(graph.inputs) if stored else set()
    leaving = {
        node: f"the forward pass stores it as {place.name}"
        for node, place in stored.items()
        if node in (by_input if place.renewed else computed) and node.op != "placeholder"
    }
    renewed = {place.name: node for node, place in stored.items() if place.renewed and node not in leaving}
    graph = replace(graph, derived={**renewed, **parametrized(model, graph.graph, graph.tensors)})
    leaving |= dict.fromkeys(unread(graph.graph, parameters, leaving), "computed, and nothing reads it")
    idle, pinned = idle_parts(model, ran, {id(model_tensors[name]) for node, name in parameters.items() if node.users})
    names = frozenset(place.name for place in stored.values())
    return replace(graph, leaving=leaving, idle=idle, pinned=pinned, stored=names)


def _is_attribute(model: nn.Module, name: str) -> bool:
    """Whether a constant of the graph is a tensor that the model holds, rather than one made in its forward pass."""
    path, _, attribute = name.rpartition(".")
    try:
        return isinstance(getattr(model.get_submodule(path), attribute), Tensor)
    except AttributeError:
        return False


def _export(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    uses: Uses | None,
    as_it_runs: bool,
    free: bool,
    training: bool,
) -> Export:
    """The exported program; where values decide, as they do on the example, or with the sizes that it has there."""
    touched = uses.parameters if uses else None
    if free:
        try:
            exported = export(model, args, kwargs, touched, as_it_runs=as_it_runs, free=True)
            return replace(exported, free=with_free_sizes(exported.program))
        except Exception as error:
            raise TraceError(_refusal(model, error)) from error
    exports: list[Export] = []
    failure: Exception | None = None
    try:
        exports.append(export(model, args, kwargs, touched, as_it_runs=as_it_runs))
    except Exception as error:  # noqa: BLE001  (whatever the exporter raises, it is told below)
        failure = error
    if failure is not None or is_ragged(exports[0].program):
        with suppress(Exception):  # the first error says more
            with in_mode(model, training):
                values = decided_values(model, *fresh(args, kwargs), settled=training)
            if values or failure is not None:
                exports.insert(
                    0, export(model, args, kwargs, touched, values, as_it_runs=as_it_runs or failure is not None)
                )
    if not exports:
        assert failure is not None
        raise TraceError(_refusal(model, failure)) from failure
    exported = next((e for e in exports if not is_ragged(e.program)), exports[0])
    if not is_ragged(exported.program):
        return exported
    sized_by_example(exported.program, model, args, kwargs)
    return replace(exported, ragged=True)


def _refusal(model: nn.Module, error: Exception) -> str:
    line = model_line(error)
    return (
        f"{type(model).__name__} cannot be traced: {f'{line}: ' if line else ''}{first_line(error)}. "
        f"{NESTED if _meets_nested(error) else CAUSES} torch.export.export(model, inputs, strict=False) shows the whole trace."
    )


CAUSES = (
    "Usual causes: control flow that depends on the values of tensors (use torch.where, or put what stands before and after the "
    "decision into submodules, inside of which can be cut), .item(), numpy in the forward pass, or a custom autograd function."
)
NESTED = (
    "Its forward pass makes nested tensors, which torch does not export: pad them, as by torch.nested.to_padded_tensor, and mask "
    "what was padded; or put what stands before and after them into submodules, inside of which can be cut."
)


def _meets_nested(error: BaseException) -> bool:
    """Whether it is in torch's code of nested tensors that an error comes from."""
    places = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return "_nested_" in first_line(error) or any("/torch/nested/" in place.replace("\\", "/") for place in places)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def model_line(error: BaseException) -> str:
    """Return the innermost line of the model's own code that an error comes from, such as ``net.py:7 (if x > 0:)``."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<", *OF_NO_MODEL))
    ]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} ({frames[-1].line})" if frames else ""
