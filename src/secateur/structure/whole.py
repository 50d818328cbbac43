"""Verify a model that was cut in regions: each region by itself on draws, and the whole in its real forward pass.

A region that is given or hands on what is cut cannot stand alone; where there is one, the whole runs on draws of weights, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.fx import Node

from secateur.randomness import private_draws
from secateur.state import evaluating, first_names, fresh, tensors
from secateur.structure.axes import Atom, keep_vector
from secateur.structure.borders import called_with, output_nodes
from secateur.structure.cases import GAINS, Case, Cases
from secateur.structure.difference import difference, is_usable
from secateur.structure.draws import Draw
from secateur.structure.frames import EXAMPLE, Frame, Inputs, drawn_inputs, other_frames
from secateur.structure.infer import Structure
from secateur.structure.plan import select_rows
from secateur.structure.reference import Reference, Statistics
from secateur.structure.regions import Alone
from secateur.structure.stand_in import run_substituted
from secateur.structure.trace import Region, first_line
from secateur.structure.verify import IN_DOUBLE, Rows, Sliced, Verification, check_tensors, verify
from secateur.trees import changed, tensors_within
from secateur.types import Keep, Member, Site, Sites, VerificationError
from secateur.untouched import writes_undone

__all__ = ["WholeCases", "interpreted", "verify_whole"]


class WholeCases:
    """What a model that was traced in regions is verified on; the masked model runs once, whatever number of cuts is tried.

    Attributes:
        reference: the whole model, masked.
        parts: the regions, each masked by itself, with its draws.
    """

    def __init__(self, reference: Reference) -> None:
        structure = reference.structure
        assert structure is not None
        self.reference = reference
        self.parts = [(region, _part(reference, structure, region)) for region in structure.graph.regions]
        self.gone = structure.gone(reference.keep)
        self._answers: dict[bool, Any] = {}

    @cached_property
    def bordering(self) -> set[Region]:
        """The regions that are given or hand on what is cut."""
        structure = self.reference.structure
        assert structure is not None
        borders = {node for node in (*structure.graph.sources, *structure.graph.handed) if self._kept(node)}
        return {region for region, _ in self.parts if not borders.isdisjoint(region.graph.nodes)}

    def _kept(self, node: Node) -> dict[int, Tensor]:
        """The rows that stay of a tensor, along each dimension that is cut."""
        assert self.reference.structure is not None
        keep_masks = [keep_vector(axis, self.gone) for axis in self.reference.structure.values[node].axes]
        return {dim: mask.nonzero().flatten() for dim, mask in enumerate(keep_masks) if not bool(mask.all())}

    @cached_property
    def handing(self) -> dict[str, Region]:
        """A region of each path that hands on what is cut: of another number of boxes, say, the same channels stay."""
        return {region.path: region for region, _ in reversed(self.parts) if region in self.bordering}

    def kept(self, path: str, answer: Any) -> Any:
        """What stays of the answer of a region that the masked model calls."""
        if path not in self.handing:
            return answer
        pairs = zip(tensors_within(answer), output_nodes(self.handing[path]), strict=False)
        small = {id(tensor): select_rows(tensor, self._kept(node)) for tensor, node in pairs}
        return changed(answer, lambda tensor: small.get(id(tensor), tensor))

    @cached_property
    def draws(self) -> list[Case]:
        """Draws of weights on which the whole model runs, where regions border on what is cut: on the example, and elsewhere."""
        if not self.bordering:
            return []
        cheap = all(part.cheap for region, part in self.parts if region in self.bordering)
        at_example = (self._drawn(EXAMPLE, seed, gain) for seed, gain in enumerate(GAINS if cheap else GAINS[:1]))
        elsewhere = (self._drawn(frame, 0, GAINS[0]) for frame in other_frames(self.reference.inputs))
        return [*filter(None, at_example), *islice(filter(None, elsewhere), 1)]

    def _drawn(self, frame: Frame, seed: int, gain: float) -> Case | None:
        """A draw of weights; None where the model answers nothing with them, as it may decide otherwise then."""
        reference, run = self.reference, _WholeStatistics(self)
        inputs = drawn_inputs(reference.inputs, frame, reference.table_rows, seed, redrawn=frame is not EXAMPLE)
        for mild in (False, True):
            draw = Draw(reference.tensors, reference.drawn_buffers, seed, gain, mild)
            with suppress(Exception):
                outputs = reference.outputs(draw, inputs, run)
                if is_usable(outputs):
                    return Case(frame, draw, inputs, outputs)
        return None

    def answers(self, double: bool) -> Any:
        """Return what the masked model answers to the example, and what its regions do on the way.

        Raises:
            Exception: an op of the model has no float64.
        """
        if double not in self._answers:
            tensors = {name: tensor.detach() for name, tensor in self.reference.tensors.items()}
            self._answers[double] = self.reference.outputs(
                tensors.__getitem__,
                self.inputs(double),
                _WholeStatistics(self),
                double=double,
            )
        return self._answers[double]

    def inputs(self, double: bool) -> Inputs:
        """The example, in float64 where that is asked for."""
        if not double:
            return self.reference.inputs
        args, kwargs = changed(self.reference.inputs, lambda x: x.double() if x.is_floating_point() else x)
        return args, kwargs

    def paths(self) -> list[str]:
        """The regions' paths, each once."""
        return list(dict.fromkeys(region.path for region, _ in self.parts))


def verify_whole(
    cases: WholeCases, cut: nn.Module, rows: Rows, gone: Mapping[Atom, Tensor], tolerance: float
) -> Verification:
    """Compare a cut model with the masked one: its regions as `verify` does, the whole on the example.

    The whole runs in float64, so that what it decides by the values of tensors does not hang on rounding, and in its own
    type. There it may still decide otherwise where two numbers are all but equal, which is noted.

    Raises:
        VerificationError: a region differs, or the whole does.
    """
    check_tensors(cases.reference, cut, rows)
    verifications = {}
    for region, part in cases.parts:
        if region in cases.bordering or all(bool(keep_mask.all()) for keep_mask in part.reference.keep.values()):
            continue
        part_rows = {_named(part.reference.model, name, cases.reference): dims for name, dims in rows.items()}
        present = {name: dims for name, dims in part_rows.items() if name is not None}
        verifications[region] = verify(part, Alone(cut, region.path), present, gone, tolerance)
    double, skipped = _in_double(cases, cut)
    drawn = _on_draws(cases, cut, rows)
    with evaluating(cut), private_draws(), writes_undone(cut):
        example = difference(cases.answers(double=False), _run(cut, cases.reference.inputs, cases.paths()))
    if not example <= tolerance:
        if double is None:
            raise VerificationError(_differs(example, "the example"))
        skipped.append(f"in its own type the whole model decides otherwise on the example (difference {example:.1e})")
        example = max((verification.example for verification in verifications.values()), default=0.0)
    doubles = [double, *drawn, *(verification.double for verification in verifications.values())]
    draws = [f"{region.path}: {draw}" for region, v in verifications.items() for draw in v.draws]
    skipped += [f"{region.path}: {why}" for region, v in verifications.items() for why in v.skipped]
    draws += [f"the whole model with weights drawn anew, {case.frame}" for case in cases.draws]
    structure = cases.reference.structure
    if structure is not None and structure.graph.untrained:
        skipped.append(f"train mode: {structure.graph.untrained}")
    if double is not None:
        draws.append("the whole model on the example")
    return Verification(example, max((d for d in doubles if d is not None), default=None), tuple(draws), tuple(skipped))


def _in_double(cases: WholeCases, cut: nn.Module) -> tuple[float | None, list[str]]:
    """The difference on the example in float64; None where that cannot run, with the reason."""
    try:
        expected = cases.answers(double=True)
    except VerificationError:
        raise
    except Exception as error:  # noqa: BLE001  (what an op raises that has no float64 is its own)
        return None, [f"the whole model in float64: {first_line(error)}"]
    if not is_usable(expected):
        return None, ["the whole model in float64: it answers with NaN"]
    tensors_by_name, paths = tensors(cut), cases.paths()
    answers = run_substituted(
        cut,
        lambda name: tensors_by_name[name].clone(),
        cases.inputs(double=True),
        lambda module, inputs: _run(module, inputs, paths),
    )
    double = difference(expected, answers)
    if not double <= IN_DOUBLE:
        raise VerificationError(_differs(double, "the example, in float64"))
    return double, []


def _on_draws(cases: WholeCases, cut: nn.Module, rows: Rows) -> list[float]:
    """The differences of the whole model on draws of weights."""
    sliced, paths = Sliced(cases.reference, cut, rows), cases.paths()
    differences = []
    for case in cases.draws:
        answers = sliced.run(case, lambda module, inputs: _run(module, inputs, paths))
        # What regions do on the way is known at the example's shapes.
        at = slice(None) if case.frame is EXAMPLE else slice(1)
        deviation = difference(case.outputs[at], answers[at])
        if not deviation <= IN_DOUBLE:
            raise VerificationError(_differs(deviation, f"weights drawn anew, {case.frame}"))
        differences.append(deviation)
    return differences


def _differs(deviation: float, on: str) -> str:
    return (
        f"the whole cut model differs from the masked one by {deviation:.2e} (relative) on {on}, so it was not returned. "
        "Leave out sites (ignore=...) until it passes to find the one, and please report the model."
    )


Take = Callable[[str, Any], Any]
"""Given a region's path and what it answers; returns what is compared of that."""


def _run(module: nn.Module, inputs: Inputs, paths: list[str], take: Take = lambda _path, answer: answer) -> Any:
    """What a model answers, and what its regions do on the way, in their order."""
    answers: list[Any] = []

    def hook(path: str) -> Any:
        return lambda _module, _args, answer: answers.append(take(path, answer))

    handles = [module.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
    args, kwargs = fresh(*inputs)
    try:
        return module(*args, **kwargs), answers
    finally:
        for handle in handles:
            handle.remove()


def _call(region: Region) -> Inputs:
    args, kwargs = region.graph.args
    return args, kwargs


@dataclass(frozen=True, eq=False)
class _WholeStatistics:
    """Runs the masked model; regions in which code takes statistics over what is cut are interpreted where no hooks of norms do."""

    cases: WholeCases

    def run(self, module: nn.Module, inputs: Inputs) -> Any:
        """Return what the model answers, and what its regions do on the way."""
        with interpreted(module, self.cases.parts) if self.cases.reference.norms is None else nullcontext():
            return _run(module, inputs, self.cases.paths(), self.cases.kept)


@contextmanager
def interpreted(module: nn.Module, parts: list[tuple[Region, Cases]]) -> Iterator[None]:
    """Let regions answer by their graphs where their norms see fewer channels after the cut."""
    by_call: dict[str, dict[tuple[Any, ...], Statistics]] = {}
    for region, part in parts:
        if part.reference.interpreted is not None:
            by_call.setdefault(region.path, {})[called_with(_call(region))] = part.reference.interpreted
    replaced: list[nn.Module] = []
    try:
        for path, statistics in by_call.items():
            submodule = module.get_submodule(path)
            submodule.forward = _interpreting(Alone(module, path), submodule.forward, statistics)
            replaced.append(submodule)
        yield
    finally:
        for submodule in replaced:
            del submodule.forward


def _interpreting(alone: Alone, forward: Any, statistics: Mapping[tuple[Any, ...], Statistics]) -> Any:
    def answer(*args: Any, **kwargs: Any) -> Any:
        run = statistics.get(called_with((args, kwargs)))
        if run is None:
            raise VerificationError(
                f"{alone.path} is called in more ways than were traced, and its norms see fewer channels after the cut; "
                "leave its sites out with ignore="
            )
        return run.run(alone, ((args, kwargs), {}))

    return answer


def _part(reference: Reference, structure: Structure, region: Region) -> Cases:
    """What a region is verified on: its own tensors, by the names that they have where it stands alone."""
    alone = Alone(reference.model, region.path)

    def named(name: str) -> str | None:
        return _named(alone, name, reference)

    sites = {name: site for name, old in structure.sites.items() if (site := _within(old, named)).members}
    units = {name: structure.units[name] for name in sites}
    part = replace(
        structure.within(region.graph),
        tensors={inner: value for name, value in structure.tensors.items() if (inner := named(name)) is not None},
        sites=sites,
        units=units,
        derived={name: v for name, v in structure.derived.items() if name.startswith(f"{region.path}.")},
        trained=None,
        turned=None,
    )
    if structure.trained is not None and region.graph.trained is not None:
        in_training = structure.trained.within(region.graph.trained)
        part = replace(
            part, trained=replace(part, graph=in_training.graph, values=in_training.values, ties=in_training.ties)
        )
    keep: Keep = {name: keep_mask for name, keep_mask in reference.keep.items() if name in sites}
    return Cases(Reference(alone, Sites(sites, {}, part), keep))


def _within(site: Site, named: Any) -> Site:
    """The site with those of its members that a region holds."""
    members = ((named(member.parameter), member) for member in site.members)
    return replace(site, members=tuple(_renamed(member, inner) for inner, member in members if inner is not None))


def _renamed(member: Member, name: str) -> Member:
    return member if member.parameter == name else replace(member, parameter=name)


def _named(alone: nn.Module, name: str, reference: Reference) -> str | None:
    """The first name of a tensor of the model in a module that stands alone; None where it holds no such tensor."""
    tensor = reference.tensors.get(name)
    return None if tensor is None else first_names(alone).get(id(tensor))
