"""The masked model as it runs: what a cut is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor, fx, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from secateur.state import own_tensors
from secateur.structure.axes import Atom, is_fixed, keep_vector
from secateur.structure.borders import called_with
from secateur.structure.both_modes import trace_both
from secateur.structure.depth import BlockStructure
from secateur.structure.export import program_inputs
from secateur.structure.frames import Inputs, table_rows
from secateur.structure.infer import Structure, infer
from secateur.structure.inner_shapes import ShapeLog, nodes_of_literals
from secateur.structure.kept_norms import KeptNorm, keep_statistics, kept_norms
from secateur.structure.modes import TrainMode
from secateur.structure.nodes import with_arguments
from secateur.structure.rules import Value, op_name
from secateur.structure.sites import write_zeros, zeros
from secateur.structure.stand_in import DOUBLE, run_substituted
from secateur.structure.trace import AsBefore, exported_like, trace
from secateur.structure.train_code import in_mode
from secateur.structure.turned import turned_alike
from secateur.types import Keep, Site, Sites, TraceError, VerificationError

__all__ = ["Reference", "Statistics"]


class Runner(Protocol):
    """Runs the masked module, or what stands for it."""

    def run(self, module: nn.Module, inputs: Inputs) -> Any:
        """Return what is compared of it."""


class Reference:
    """A model whose removed units are zeros; norms over a cut axis take their statistics over the kept units.

    It is always a copy that runs: the model itself is left as it is, whatever its forward pass writes.

    Attributes:
        model, sites, keep: the model, and what is masked.
        inputs: the example inputs.
        training: whether it runs in train mode, torch's own layers left aside.
    """

    def __init__(self, model: nn.Module, sites: Sites, keep: Keep) -> None:
        self.model, self.sites, self.keep = model, sites, keep
        self._elsewhere: dict[tuple[Any, ...], Structure] = {}
        self._of_all = self  # that of all modes, where this is of one
        structure = sites.structure
        self.structure = structure if isinstance(structure, Structure) else None
        self.training = self.structure is not None and self.structure.graph.training
        source: BlockStructure | Any = structure if self.structure is None else self.structure.graph
        self.inputs: Inputs = (source.args, dict(source.kwargs))
        self._zeros = zeros(model, sites, keep)

    def with_structure(self, structure: Structure) -> Reference:
        """Return the same model, masked alike, in the mode of a structure of it."""
        other = Reference(self.model, replace(self.sites, structure=structure), self.keep)
        other._elsewhere = self._elsewhere  # each trace is of both modes
        other._of_all = self._of_all
        return other

    @cached_property
    def norms(self) -> dict[str, KeptNorm] | None:
        """The norms that take their statistics over what is kept, by path; None where other code takes some, too."""
        if self._of_all is not self:
            return self._of_all.norms
        return {} if self.structure is None else kept_norms(self.model, self.structure, self.structure.gone(self.keep))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The model's own tensors by every name."""
        return own_tensors(self.model)

    @cached_property
    def table_rows(self) -> dict[int, int]:
        """How many rows the tables have that inputs are looked up in."""
        drawn = self.structure is not None and not self.structure.graph.decided  # other tokens might run other ops
        return table_rows(self.structure.graph) if self.structure is not None and drawn else {}

    @cached_property
    def drawn_buffers(self) -> frozenset[int]:
        """The ids of the buffers that a cut may shrink, such as the statistics of norms."""
        axes = self.structure.tensors if self.structure is not None else {}
        free = (name for name, value in axes.items() if not all(map(is_fixed, value.axes)))
        return frozenset(id(self.tensors[name]) for name in free if name in self.tensors)

    @cached_property
    def statistics(self) -> Statistics | None:
        """What has to be interpreted at the example's shapes; None where the masked module runs by itself."""
        return None if self.norms is not None else self.interpreted

    @cached_property
    def interpreted(self) -> Statistics | None:
        """What takes statistics over what is cut at the example's shapes, to be interpreted; None where nothing does."""
        return self._statistics(self.structure)

    def statistics_at(self, inputs: Inputs) -> Statistics | None:
        """Return the same for other inputs, for which the model is traced once more.

        Raises:
            InputError, TraceError: the model cannot be traced there.
            VerificationError: what is cut cannot be cut there.
        """
        return None if self.statistics is None else self._statistics(self.structure_at(inputs))

    def structure_at(self, inputs: Inputs) -> Structure:
        """Return the structure for other inputs, of the types that the model takes.

        Raises:
            InputError, TraceError: the model cannot be traced there.
        """
        args, kwargs = inputs
        graph = None if self.structure is None else self.structure.graph
        as_before = exported_like(graph) if graph else AsBefore(compared=False, as_it_runs=False)
        both = graph is not None and (graph.training or graph.trained is not None)
        shapes = called_with((args, kwargs))
        if shapes not in self._elsewhere:
            traced = (trace_both if both else trace)(self.model, args or kwargs, quick=False, **as_before)
            traced = traced if graph is None else turned_alike(self.model, traced, graph)
            self._elsewhere[shapes] = infer(traced)
        structure = self._elsewhere[shapes]
        if not self.training:
            return structure
        if structure.trained is None:
            raise TraceError(
                structure.graph.untrained or "it runs no other code than eval mode on inputs of these shapes"
            )
        return structure.trained

    def _statistics(self, structure: Structure | None) -> Statistics | None:
        if structure is None:
            return None
        gone = {
            self._unit(structure, name): keep_mask for name, keep_mask in self.keep.items() if not bool(keep_mask.all())
        }
        nodes = {
            node
            for node, axes in structure.ties.statistics.items()
            if any(not bool(keep_vector(axis, gone).all()) for axis in axes)
        }
        return Statistics(structure, gone, nodes) if nodes else None

    def _unit(self, structure: Structure, name: str) -> Atom:
        """The axis of a site in a structure of the same model at other shapes, where it may be called by another name."""
        places = _places(self.sites[name])
        same = (other for other, site in structure.sites.items() if _places(site) == places)
        other_name = name if name in structure.units else next(same, None)
        if other_name is None:
            raise VerificationError(
                f"the units of {name!r} cannot be cut where the inputs have other shapes: the model computes something "
                "else with them there. The cut model would too, so it was not returned; leave the site out with ignore=."
            )
        return structure.units[other_name]

    @cached_property
    def shapes(self) -> ShapeLog | None:
        """What ops the masked module runs by itself `on_example`; None where no code can hold a size that changes."""
        if self.structure is None or not nodes_of_literals(self.structure, self.structure.gone(self.keep)):
            return None
        return ShapeLog()

    def on_example(self) -> Any:
        """Return the outputs on the example inputs, in the model's own types."""
        original_tensors = {name: tensor.detach() for name, tensor in self.tensors.items()}
        return self.outputs(original_tensors.__getitem__, self.inputs, self.statistics or self.shapes, double=False)

    def outputs(
        self,
        full: Callable[[str], Tensor],
        inputs: Inputs,
        runner: Runner | None = None,
        *,
        double: bool = True,
    ) -> Any:
        """Return the outputs with zeros written into copies of the tensors that `full` returns by name.

        Where nothing runs it otherwise, the module is called.
        """

        def fetch(name: str) -> Tensor:
            tensor = full(name)
            dtype = DOUBLE.get(tensor.dtype, tensor.dtype) if double else tensor.dtype
            return write_zeros(tensor.to(dtype, copy=True), self._zeros.get(id(self.tensors[name]), []))

        def run(module: nn.Module, case_inputs: Inputs) -> Any:
            keep_statistics(module, self.norms or {})
            with in_mode(module, self.training):
                return runner.run(module, case_inputs) if runner else module(*case_inputs[0], **case_inputs[1])

        return run_substituted(self.model, fetch, inputs, run, double=double)


def _places(site: Site) -> set[tuple[str, int | None]]:
    return {(member.parameter, member.dim) for member in site.members}


@dataclass(frozen=True, eq=False)
class Statistics:
    """The nodes of a traced graph that take statistics over an axis that is cut.

    Attributes:
        structure: of the graph.
        gone: the keep vectors of the axes that are cut.
        nodes: those that take statistics over one.
        train: what the ops are in train mode, where that is what runs.
    """

    structure: Structure
    gone: Mapping[Atom, Tensor]
    nodes: set[Node]
    train: TrainMode | None = None

    def run(self, module: nn.Module, inputs: Inputs) -> Any:
        """Return what the graph gives with the module's tensors, statistics taken over the kept units."""
        program = self.structure.graph.program
        assert program is not None, "a recorded graph takes no statistics over what is cut"
        tensors_by_name = own_tensors(module)
        for name, step in self.train.counters.items() if self.train else ():
            tensors_by_name[name] += step
        flat = program_inputs(program, module, *inputs, copied=False)
        outputs = _MaskedStatistics(program.graph_module, self).run(*flat)
        if (tree := self.structure.graph.tree) is not None:
            return tree.filled(list(outputs))
        return pytree.tree_unflatten(list(outputs), program.call_spec.out_spec)


class _MaskedStatistics(fx.Interpreter):
    """Runs the full-size graph; at the nodes given, statistics are taken over the kept units only."""

    def __init__(self, module: fx.GraphModule, statistics: Statistics) -> None:
        super().__init__(module)
        self.structure, self.gone, self.statistics = statistics.structure, statistics.gone, statistics.nodes
        self.in_training = statistics.train.arguments if statistics.train else {}

    def fetch_args_kwargs_from_env(self, n: Node) -> Any:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return with_arguments(n, args, kwargs, self.in_training[n]) if n in self.in_training else (args, kwargs)

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
        full_value = self.structure.values[n]
        if isinstance(result, tuple):
            return tuple(self._spread(v, r) for v, r in zip(full_value, result, strict=True))
        return self._spread(full_value, result)

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
            keep_mask = keep_vector(axis, self.gone)
            if not bool(keep_mask.all()):
                tensor = tensor.index_select(dim, keep_mask.nonzero().flatten().to(tensor.device))
        return tensor

    def _spread(self, value: Value, tensor: Tensor) -> Tensor:
        """Put a small result back into its full shape, with zeros for the removed units."""
        for dim, axis in enumerate(value.axes):
            keep_mask = keep_vector(axis, self.gone)
            if not bool(keep_mask.all()):
                shape = (*tensor.shape[:dim], axis.size, *tensor.shape[dim + 1 :])
                where = keep_mask.nonzero().flatten().to(tensor.device)
                tensor = tensor.new_zeros(shape).index_copy_(dim, where, tensor)
        return tensor
