"""Cut units out of a model: slice what they own, mend what remembers sizes, verify, and only then return."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.calls import usual
from secateur.checks import check_name, check_number
from secateur.randomness import private_draws
from secateur.state import called, evaluating
from secateur.structure.accepted import require_inputs
from secateur.structure.axes import Atom
from secateur.structure.cases import Cases
from secateur.structure.circumstances import circumstances
from secateur.structure.configs import config_edits
from secateur.structure.depth import BlockStructure, removed_blocks
from secateur.structure.graph import graph_form, graph_structure
from secateur.structure.graph_parts import GraphPart
from secateur.structure.guesses import proposals
from secateur.structure.held import held, set_attributes
from secateur.structure.infer import Structure
from secateur.structure.mend import Edits
from secateur.structure.modes import train_mode
from secateur.structure.optimizer import carry_over, check_optimizer
from secateur.structure.parting import with_place
from secateur.structure.plan import Plan, apply_plan, make_plan
from secateur.structure.reference import Reference
from secateur.structure.sites import check_keep, check_same_model
from secateur.structure.skippable import skipping
from secateur.structure.trace import model_line
from secateur.structure.tried_shapes import shapes_taken
from secateur.structure.verify import Verification, agrees_at, averaging, verify
from secateur.structure.verify_turned import verify_turned
from secateur.structure.whole import WholeCases, verify_whole
from secateur.structure.with_gradients import verify_with_gradients
from secateur.types import CutError, InputError, Keep, Sites, VerificationError
from secateur.wrappers import check_readable

__all__ = ["TOLERANCE", "CutModel", "cut", "cut_with_plan", "draft"]

TOLERANCE = 1e-4

Form = Literal["auto", "module", "graph"]
FORMS = ("auto", "module", "graph")


@usual
def cut(
    model: nn.Module,
    sites: Sites,
    keep: Keep,
    *,
    form: Form = "auto",
    optimizer: Optimizer | None = None,
    tolerance: float = TOLERANCE,
) -> nn.Module:
    """Return a smaller copy of `model` without the units that `keep` marks False, verified against the masked model.

    The copy is an ordinary module of the same class with the same ``state_dict`` keys; modes, dtypes, devices,
    ``requires_grad`` and shared parameters are as they were. Before it is returned, its outputs are compared with those
    of the masked model: in float64 on weights and inputs drawn anew, to 1e-9 of the greatest output, at the example's
    shapes and at others where the model runs there (a large model on one draw alone), and in its own type on the example.
    So it is in train mode, where that runs other code. What cannot be run there (as without targets) is not: a warning says so,
    as the report of `prune` does. Another warns where code decides by an input (a flag, a number, labels that the example leaves
    out), and the cut model answers otherwise than the masked one with another value of it.

    Args:
        model: the model that `sites` were found in; it is left as it is.
        sites: from `channels`, or from `blocks`, which are left out.
        keep: one bool tensor a site, of the site's shape, True = keep; sites without one stay whole.
        form: ``"module"`` returns a module of the model's own class. Where its code holds a size as a literal that no
            attribute holds, that cannot run; ``"graph"`` returns the traced graph as a `torch.fx.GraphModule` instead
            (for inference, on inputs of the shapes that it was verified on; a batch or a length is any where it was run
            at others), and ``"auto"`` does so where the module cannot run.
        optimizer: the optimizer that trains `model`; it is changed in place to train the small model on, its moments
            cut with the parameters. It stays as it is when the cut fails.
        tolerance: the greatest relative difference between the cut and the masked model's outputs on the example; of
            outputs in half precision, as many times that as their steps are coarser, where the draws have agreed.

    Raises:
        InputError: sites of single weights or of another model, masks that do not fit, an optimizer of another model.
        CutError: a site would lose every unit, or the smaller model cannot run; nothing is returned.
        VerificationError: the cut model computes something else than the masked one; nothing is returned.

    >>> import torch
    >>> from secateur.structure.sites import channels
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> sites = channels(model, torch.ones(1, 4))
    >>> cut(model, sites, {"0": torch.tensor([True, False, True])})
    Sequential(
      (0): Linear(in_features=4, out_features=2, bias=True)
      (1): ReLU()
      (2): Linear(in_features=2, out_features=2, bias=True)
    )
    """
    if optimizer is not None:
        check_optimizer(optimizer, model)
    verified_cut = cut_with_plan(model, sites, keep, form=form, tolerance=tolerance)
    for text in verified_cut.verification.warnings:
        warnings.warn(f"cut: {text}", stacklevel=3)  # who calls, above what `usual` adds
    if optimizer is not None:
        carry_over(optimizer, model, verified_cut.model, verified_cut.plan.rows)
    return verified_cut.model


@dataclass(frozen=True, eq=False)
class CutModel:
    """A cut model with the plan that made it and what was verified."""

    model: nn.Module
    plan: Plan
    verification: Verification


@usual
def cut_with_plan(
    model: nn.Module, sites: Sites, keep: Keep, *, form: Form = "auto", tolerance: float = TOLERANCE
) -> CutModel:
    """Return what `cut` does, with the plan and the difference found."""
    check_name("form", form, FORMS)
    check_number("cut", "[0, inf)", "a relative difference", tolerance=tolerance)
    check_same_model(model, sites)
    check_readable(model, "cut")
    checked = check_keep(sites, keep)
    if isinstance(sites.structure, BlockStructure):
        small = skipping(model, removed_blocks(sites.structure, checked))
        return CutModel(small, Plan(), verify(Cases(Reference(model, sites, checked)), small, {}, {}, tolerance))
    structure = _structure(sites)
    for name, keep_mask in checked.items():
        if not bool(keep_mask.any()):
            raise CutError(f"cut: every unit of {name!r} would go and nothing would pass it; keep at least one")
    gone = structure.gone(checked)
    reference = Reference(model, sites, checked)
    cases = WholeCases(reference) if structure.graph.regions else Cases(reference)
    plan = make_plan(model, structure, gone)
    small = apply_plan(model, plan)
    error: Exception | None = None
    if form != "graph":
        try:
            return _module_form(cases, small, plan, structure, gone, form, tolerance)
        except CutError as refused:
            if form == "module" or structure.graph.of_example:
                raise
            error = refused
    if form == "graph" and structure.graph.of_example:
        raise CutError(
            f"cut: {type(model).__name__} {_of_example(structure)}; leave form= out, which returns a module of the model's own class"
        )
    assert isinstance(cases, Cases)
    return _graph_form(cases, small, plan, structure, tolerance, error)


def draft(model: nn.Module, sites: Sites, keep: Keep) -> nn.Module:
    """Return what `cut` would, but not verified: for counting and timing candidates, of which most are thrown away.

    Raises:
        CutError, VerificationError: where the module form does not run, `cut` is asked, and may refuse.
    """
    if not isinstance(sites.structure, Structure):
        return cut_with_plan(model, sites, keep).model
    structure, checked = sites.structure, check_keep(sites, keep)
    gone = structure.gone(checked)
    plan = make_plan(model, structure, gone)
    small = apply_plan(model, plan)
    for attributes in _attribute_sets(model, structure, gone, plan.attributes):
        set_attributes(small, attributes)
        if _runs(small, structure):
            return small
        set_attributes(small, _originals(model, attributes))
    return cut_with_plan(model, sites, keep).model


def _runs(model: nn.Module, structure: Structure) -> bool:
    try:
        with evaluating(model), private_draws():
            called(model, structure.graph.args, structure.graph.kwargs)
    except Exception:  # noqa: BLE001  (the user's forward may raise anything on sizes it was not made for)
        return False
    return True


def _graph_form(
    cases: Cases, small: nn.Module, plan: Plan, structure: Structure, tolerance: float, error: Exception | None
) -> CutModel:
    """The cut graph, for the sizes of inputs at which it verifies."""
    reference = cases.reference
    for free in (True, False):
        try:
            traced = graph_structure(reference.model, structure.graph, free)
            gone = traced.gone(reference.keep)
            set_attributes(small, plan.attributes)  # its parts show the numbers of torch's layers
            graph = graph_form(small, traced, gone, train_mode(reference.model, traced.graph))
            # Verified on the example inputs themselves, not on those of the second trace.
            verification = verify(cases, graph, plan.rows, gone, tolerance)
            shapes = shapes_taken(cases, traced.graph.free, partial(agrees_at, cases, graph, plan.rows))
            asked = circumstances(reference.model, reference.inputs, structure.graph.asks_gradients)
            require_inputs(graph, shapes, traced.graph.free, asked)
            verification = replace(verification, otherwise=averaging(traced, gone))
            return CutModel(graph, plan, verification)
        except VerificationError:
            if not free:
                raise
        except Exception as broken:  # noqa: BLE001  (what a rewritten graph raises depends on its ops)
            if not free:
                message = f"{error or 'cut:'} Nor can its graph be written: {broken}"
                raise CutError(message) from (error or broken)
    raise AssertionError("the second attempt returns or raises")


def _verified(
    cases: Cases | WholeCases, small: nn.Module, plan: Plan, gone: Mapping[Atom, Tensor], tolerance: float
) -> Verification:
    """What was verified of a cut module."""
    if isinstance(cases, WholeCases):
        verification = verify_whole(cases, small, plan.rows, gone, tolerance)
        references = [part.reference for _, part in cases.parts]
    else:
        verification = verify(cases, small, plan.rows, gone, tolerance)
        references = [cases.reference]
    structure = cases.reference.structure
    if structure is None:
        return verification
    verification = replace(verification, otherwise=averaging(structure, gone))
    if not (structure.graph.asks_gradients or structure.graph.turns):
        return verification
    if structure.turned is not None:
        references.append(cases.reference.with_structure(structure.turned))
    statistics = any(reference.statistics is not None for reference in references)
    turned = verify_turned(cases.reference, small, plan.rows, tolerance, statistics)
    verification = replace(verification, otherwise=(*verification.otherwise, *turned))
    if not structure.graph.asks_gradients:
        return verification
    skipped = verify_with_gradients(cases.reference, small, tolerance, statistics)
    return replace(verification, skipped=(*verification.skipped, *skipped))


def _module_form(
    cases: Cases | WholeCases,
    small: nn.Module,
    plan: Plan,
    structure: Structure,
    gone: Mapping[Atom, Tensor],
    form: Form,
    tolerance: float,
) -> CutModel:
    """Try the proposed attribute edits in turn on `small`; the first that runs and verifies is it."""
    model = cases.reference.model
    failure: CutError | None = None
    for attributes in _attribute_sets(model, structure, gone, plan.attributes):
        set_attributes(small, attributes)
        try:
            verification = _verified(cases, small, plan, gone, tolerance)
            return CutModel(small, Plan(plan.rows, attributes), verification)
        except VerificationError as error:
            failure = failure or (with_place(error, cases.reference, small) if form == "module" else error)
        except Exception as error:  # noqa: BLE001  (the user's forward may raise anything on sizes it was not made for)
            failure = failure or CutError(_cannot_run(small, structure, form, error) + _uneven(cases.reference))
        set_attributes(small, _originals(model, attributes))
    assert failure is not None
    raise failure


def _attribute_sets(
    model: nn.Module, structure: Structure, gone: Mapping[Atom, Tensor], certain_edits: Edits
) -> Iterator[Edits]:
    """The sets of attribute edits to try: those of the class made of a new config, then those that are proposed."""
    rebuilt = config_edits(model, structure, gone)
    if rebuilt is not None:
        paths = dict.fromkeys([*certain_edits, *rebuilt])
        yield {path: {**certain_edits.get(path, {}), **rebuilt.get(path, {})} for path in paths}
    yield from proposals(model, structure.joint, gone, certain_edits)


def _originals(model: nn.Module, attributes: Edits) -> Edits:
    return {p: {name: held(model.get_submodule(p), name) for name in names} for p, names in attributes.items()}


def _cannot_run(small: nn.Module, structure: Structure, form: Form, error: Exception) -> str:
    first, line = next(iter(str(error).splitlines()), type(error).__name__), model_line(error)
    remedy = "leave the site out with ignore=."
    if structure.graph.of_example:
        remedy = f"{type(small).__name__} {_of_example(structure)}; {remedy}"
    elif form == "module":
        remedy = f'allow form="graph", or {remedy}'
    return (
        f"cut: the smaller model cannot run ({_blame(small, structure)}{f', {line}' if line else ''}: {first}). A size is written "
        f"into its code that no attribute holds; {remedy}"
    )


def _of_example(structure: Structure) -> str:
    """Why no graph of a model can be written."""
    reason = (
        "it cannot be traced whole" if structure.graph.regions else "what it runs hangs on the values of its tensors"
    )
    return f"has no graph: {reason}"


def _uneven(reference: Reference) -> str:
    """What to do where sites keep numbers of units that an op does not take."""
    counts = {name: int(keep_mask.sum()) for name, keep_mask in reference.keep.items()}
    multiples = {
        name: reference.sites[name].multiple for name, n in counts.items() if n % reference.sites[name].multiple
    }
    listed = ", ".join(f"{name} of {multiple}" for name, multiple in multiples.items())
    return f" An op takes multiples of units alone, as select(..., sites=sites) keeps them: {listed}." if listed else ""


def _structure(sites: Sites) -> Structure:
    structure = sites.structure
    if not isinstance(structure, Structure):
        raise InputError("cut: these sites are single weights, which leave the shapes as they are; use channels(...)")
    return structure


def _forget(entered: list[str]) -> None:
    # Nothing is returned: what a forward hook returns takes the place of the module's output.
    entered.pop()


def _blame(model: nn.Module, structure: Structure) -> str:
    """The innermost module whose forward fails, for the error message."""
    entered: list[str] = []
    handles = []
    for path, module in ((p, m) for p, m in model.named_modules() if not isinstance(m, GraphPart)):
        handles.append(module.register_forward_pre_hook(lambda _m, _a, path=path: entered.append(path or "the model")))
        handles.append(module.register_forward_hook(lambda _m, _a, _o: _forget(entered)))
    try:
        with evaluating(model), private_draws():
            called(model, structure.graph.args, structure.graph.kwargs)
    except Exception:  # noqa: BLE001  (the error itself is the caller's; here only its place is wanted)
        return f"in {entered[-1]}" if entered else "in the model"
    finally:
        for handle in handles:
            handle.remove()
    return "in the model"
