"""Masked ≡ cut: what the cut model computes is compared with the masked model before anything is returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from secateur.randomness import private_draws
from secateur.state import evaluating, fresh, own_tensors
from secateur.structure.axes import Atom, keep_vector
from secateur.structure.cases import Case, Cases
from secateur.structure.difference import compared_tensors, difference
from secateur.structure.frames import Frame, Inputs
from secateur.structure.infer import Structure
from secateur.structure.inner_shapes import ShapeLog, check_sizes
from secateur.structure.nodes import where
from secateur.structure.plan import select_rows
from secateur.structure.reference import Reference
from secateur.structure.stand_in import run_substituted
from secateur.structure.trace import first_line
from secateur.structure.train_code import in_mode
from secateur.switches import unfused_attention
from secateur.types import CutError, VerificationError
from secateur.untouched import writes_undone

__all__ = [
    "IN_DOUBLE",
    "IN_SINGLE",
    "Rows",
    "Sliced",
    "Verification",
    "agrees_at",
    "allowed_on",
    "averaging",
    "check_tensors",
    "run_alone",
    "verify",
]

IN_DOUBLE = 1e-9
"""The greatest relative difference in float64; what rounding leaves is below 1e-12 in most models."""
IN_SINGLE = 1e-4
"""The same where an op has no float64."""
Rows = Mapping[str, Mapping[int, Tensor]]


@dataclass(frozen=True)
class Verification:
    """What was run and compared before a cut model was returned.

    Attributes:
        example: the relative difference on the example inputs, in the model's own type.
        double: the greatest one in float64, over all draws of parameters and inputs; None where nothing could be drawn.
        draws: for each draw the shapes of its inputs.
        skipped: what was not run, with the reason.
        otherwise: where it answers otherwise than the masked model: where an input that decides is not as on the example, and
            where batch norms average over what was cut.
    """

    example: float
    double: float | None = None
    draws: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    otherwise: tuple[str, ...] = ()

    def __str__(self) -> str:
        example = f"{self.example:.1e} on the example"
        if self.double is None:
            return f"differs from the masked model by {example}"
        draws = f"{len(self.draws)} draw{'s' if len(self.draws) > 1 else ''} ({'; '.join(dict.fromkeys(self.draws))})"
        return f"differs from the masked model by {self.double:.1e} in float64 on {draws}, {example}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know: what was not run of train mode and with gradients, and where the two models part.

        >>> Verification(0.0, skipped=("train mode: it needs targets",)).warnings
        ('train mode was not verified on weights drawn anew: it needs targets; try a step of training first',)
        """
        parted = [why.partition("train mode: ") for why in self.skipped if "train mode: " in why]
        in_training = [f"{place}train mode was not verified on weights drawn anew: {why}" for place, _, why in parted]
        with_gradients = [f"not verified {why}" for why in self.skipped if "with gradients on" in why]
        not_run = (f"{text}; try a step of training first" for text in (*in_training, *with_gradients))
        return (*not_run, *self.otherwise)


def averaging(structure: Structure, gone: Mapping[Atom, Tensor]) -> tuple[str, ...]:
    """Return in words which batch norms average over what was cut in train mode.

    As of other statistics, theirs are of what stays; a masked copy, which knows eval mode's averages, sees zeros there.
    """
    nodes = (
        n for n, axes in structure.ties.averaged.items() if not all(bool(keep_vector(a, gone).all()) for a in axes)
    )
    return tuple(
        f"in train mode {place} averages over units of which some were cut: over those that stay, where sc.mask's copy takes "
        "their zeros, too; leave the sites out with ignore= to train either alike"
        for place in dict.fromkeys(map(where, nodes))
    )


def verify(cases: Cases, cut: nn.Module, rows: Rows, gone: Mapping[Atom, Tensor], tolerance: float) -> Verification:
    """Compare the cut model with the masked one: in float64 on every draw, and in its own type on the example.

    A graph is written for the example's shapes, and compared at those; where else it may run, `agrees_at` tells.

    Args:
        cases: what to compare on.
        cut: the cut model.
        rows: for each tensor that shrank, the rows that were kept along each dimension.
        gone: the keep vectors of the axes that were cut.
        tolerance: the greatest relative difference on the example; rounding alone is allowed elsewhere.

    Raises:
        VerificationError: they differ, a tensor is not the original's rows, or a shape is not what the axes foretell.
    """
    reference, is_graph = cases.reference, isinstance(cut, GraphModule)
    check_tensors(reference, cut, rows)
    sliced = Sliced(reference, cut, rows)
    answers = sliced.run_example()  # where that fails the masked model need not be traced at other shapes
    elsewhere = [] if is_graph else cases.elsewhere
    compared_cases = [*(cases.once_at_example if cases.cheap else ()), *elsewhere] if elsewhere else cases.at_example
    differences = {case: _compare(sliced, case) for case in compared_cases}
    example = difference(cases.example, answers)
    allowed = allowed_on(cases.example, tolerance) if compared_cases else tolerance
    if not example <= allowed:
        raise VerificationError(_differs(example, allowed, "the example"))
    if not is_graph and reference.structure is not None:
        if reference.shapes is not None and not reference.shapes.calls:  # the masked model was interpreted
            run_alone(reference.model, reference.inputs, reference.training, reference.shapes.run)
        check_sizes(cut, reference.structure, gone, reference.shapes, sliced.shapes)
    double = max((deviation for case, deviation in differences.items() if case.double), default=None)
    verification = Verification(example, double, tuple(map(str, compared_cases)), tuple(cases.skipped))
    return verification if is_graph else _with_train_mode(verification, cases, cut, rows, gone, tolerance)


def _with_train_mode(
    evaluated: Verification, cases: Cases, cut: nn.Module, rows: Rows, gone: Mapping[Atom, Tensor], tolerance: float
) -> Verification:
    """What was found in eval mode, with what is found in train mode where that runs other code."""
    structure = cases.reference.structure
    untrained = "" if structure is None else structure.graph.untrained
    try:
        if cases.trained is not None:
            return _both(evaluated, verify(cases.trained, cut, rows, gone, tolerance))
        if untrained:
            _check_untraced(cases.untraced, cut, rows, tolerance)
    except Exception as error:
        if cases.trained is not None and _wavers(cases.trained, tolerance):
            return replace(evaluated, skipped=(*evaluated.skipped, "train mode: it answers otherwise each time"))
        kind = type(error) if isinstance(error, VerificationError) else CutError
        why = f" ({untrained})" if untrained else ""
        raise kind(f"in train mode, which runs other code than eval mode{why}: {first_line(error)}") from error
    return replace(evaluated, skipped=(*evaluated.skipped, f"train mode: {untrained}")) if untrained else evaluated


def _wavers(cases: Cases, tolerance: float) -> bool:
    """Whether the masked model differs from itself, as where it draws from generators of its own."""
    return not difference(cases.example, cases.reference.on_example()) <= allowed_on(cases.example, tolerance)


def _both(evaluated: Verification, trained: Verification) -> Verification:
    doubles = [v.double for v in (evaluated, trained) if v.double is not None]
    return Verification(
        max(evaluated.example, trained.example),
        max(doubles, default=None),
        (*evaluated.draws, *(f"{draw} in train mode" for draw in trained.draws)),
        (*evaluated.skipped, *(f"in train mode {why}" for why in trained.skipped)),
    )


def _check_untraced(cases: Cases, cut: nn.Module, rows: Rows, tolerance: float) -> None:
    """Compare the two on the example where the masked model runs by itself in train mode, of which there is no trace."""
    try:
        expected = cases.example if cases.reference.statistics is None else None
    except Exception:  # noqa: BLE001  (a model raises what it likes where it is given no targets)
        return
    if expected is None:
        return
    deviation = difference(expected, Sliced(cases.reference, cut, rows).run_example())
    allowed = allowed_on(expected, tolerance)
    if not deviation <= allowed:
        raise VerificationError(_differs(deviation, allowed, "the example"))


def agrees_at(cases: Cases, cut: nn.Module, rows: Rows, frame: Frame) -> bool | None:
    """Whether the cut model answers at these shapes as the masked one does; None where that does not run there."""
    sliced = Sliced(cases.reference, cut, rows)
    try:
        deviations = [_compare(sliced, case) for case in cases.at(frame)]
    except VerificationError:
        return False
    return True if deviations else None


def _compare(sliced: Sliced, case: Case) -> float:
    """The difference on a draw, which must be rounding."""
    try:
        outputs = sliced.run(case)
    except Exception as error:
        sliced.run_example()  # raises where the cut model cannot run at all, which is another error
        raise VerificationError(f"the cut model fails where the original runs, {case}: {error}") from error
    deviation = difference(case.outputs, outputs)
    allowed = IN_DOUBLE if case.double else allowed_on(case.outputs, IN_SINGLE)
    if not deviation <= allowed:
        raise VerificationError(_differs(deviation, allowed, f"weights and inputs drawn anew, {case}"))
    return deviation


def _differs(deviation: float, allowed: float, on: str) -> str:
    return (
        f"the cut model differs from the masked one by {deviation:.2e} (relative; allowed {allowed:.0e}) on {on}, so it "
        "was not returned. Leave out sites (ignore=...) until it passes to find the one, and please report the model."
    )


def allowed_on(outputs: Any, tolerance: float) -> float:
    """What is proven in float64 needs only to be seen in half precision, whose steps are this much coarser."""
    steps = [torch.finfo(t.dtype).eps for t in compared_tensors(outputs) if t.is_floating_point()]
    coarser = max(steps, default=0.0) / torch.finfo(torch.float32).eps
    return max(tolerance, min(0.5, tolerance * coarser))


def run_alone(
    module: nn.Module, inputs: Inputs, training: bool, run: Callable[[nn.Module, Inputs], Any] | None = None
) -> Any:
    """Return what a module answers by itself in a mode, or what `run` does with it.

    It is left as it is, whatever it writes into its parameters.
    """
    args, kwargs = fresh(*inputs)
    with evaluating(module), private_draws(), in_mode(module, training), writes_undone(module), unfused_attention():
        return module(*args, **kwargs) if run is None else run(module, (args, kwargs))


class Sliced:
    """A cut model that runs on rows of drawn parameters, sliced here and not where the cut itself was made."""

    def __init__(self, reference: Reference, cut: nn.Module, rows: Rows) -> None:
        self.reference, self.cut = reference, cut
        self.cut_tensors, self.shapes = own_tensors(cut), ShapeLog()
        self.rows = rows_by_tensor(reference, rows)

    def run(self, case: Case, run: Callable[[nn.Module, Inputs], Any] | None = None) -> Any:
        """Return what the cut model answers, or what `run` does with it."""

        def fetch(name: str) -> Tensor:
            full = self.reference.tensors.get(name)
            if full is None:
                return self.cut_tensors[name].detach().clone()
            rows, drawn = self.rows.get(id(full)), case.draw(name)
            return select_rows(drawn, rows) if rows else drawn.clone()

        def run_in_mode(module: nn.Module, inputs: Inputs) -> Any:
            with in_mode(module, self.reference.training):
                return module(*inputs[0], **inputs[1]) if run is None else run(module, inputs)

        return run_substituted(self.cut, fetch, case.inputs, run_in_mode, double=case.double)

    def run_example(self) -> Any:
        """Return what it answers to the example, whatever it writes into its parameters, which are those that are returned."""
        run = None if self.reference.shapes is None else self.shapes.run
        return run_alone(self.cut, self.reference.inputs, self.reference.training, run)


def rows_by_tensor(reference: Reference, rows: Rows) -> dict[int, Mapping[int, Tensor]]:
    """Return the rows that are kept of each tensor of the model, by its id: one that has two names has one set."""
    return {id(reference.tensors[name]): dims for name, dims in rows.items() if name in reference.tensors}


def check_tensors(reference: Reference, cut: nn.Module, rows: Rows) -> None:
    """Require every tensor of the cut model to be the original's rows, to the bit, and those that were one to be one.

    Raises:
        VerificationError: a tensor is another one.
    """
    by_tensor = rows_by_tensor(reference, rows)
    cut_tensors = {name: tensor for name, tensor in own_tensors(cut).items() if name in reference.tensors}
    for name, tensor in cut_tensors.items():
        full = reference.tensors[name]
        expected = select_rows(full.detach(), by_tensor.get(id(full), {}))
        if tensor.dtype != full.dtype or not _is_same(tensor.detach(), expected):
            raise VerificationError(
                f"{name} of the cut model is not what is kept of the original's; it is not returned"
            )
    names = [name for name in reference.tensors if name in cut_tensors]
    if _partition(reference.tensors, names) != _partition(cut_tensors, names):
        raise VerificationError("tensors that are one in the original are two in the cut model; it was not returned")


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and (torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num()))


def _partition(tensors: Mapping[str, Tensor], names: list[str]) -> list[int]:
    """For each name the number of the first that names the same tensor."""
    first: dict[int, int] = {}
    return [first.setdefault(id(tensors[name]), number) for number, name in enumerate(names)]
