"""The one result of every road to a smaller model."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from secateur.calls import usual
from secateur.edits import Cut, Depth, Edit, GraphCut, Masked, joined_edits, replay
from secateur.edits.rebuilt import Rebuilt
from secateur.labelled import SampleBatch
from secateur.measure import compare_latency, file_bytes, macs, parameters
from secateur.result.change import OutputChange, output_change
from secateur.result.layers import LayerReport, Replayed
from secateur.result.report import Method, PruneReport, SiteReport
from secateur.runtimes import Runtime, name_of
from secateur.saving import read_record, save, stored_bytes
from secateur.state import device_of
from secateur.state_dicts import fill
from secateur.structure.cutting import TOLERANCE, Form, cut_with_plan
from secateur.structure.depth import BlockStructure, removed_blocks
from secateur.structure.sites import inputs_of, with_zeros
from secateur.structure.verify import Verification
from secateur.types import ExampleInputs, InputError, Keep, Sites, unknown_name

__all__ = ["Log", "Result"]

BY_HAND = Method()


class Log(Protocol):
    """How a schedule or a search went: what it says of itself in a saved folder."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        ...


@dataclass(frozen=True, eq=False)
class Result:
    """A smaller model with all that is known of how it was made.

    `prune`, every schedule, solver and search return one; a cut of your own gets one from `Result.of`.

    Attributes:
        model: the smaller model, an ordinary module.
        original: the model that it was made of, as it was given.
        sites, keep: the sites of the original and the masks that were chosen.
        edits: what was done to the original, in order.
        method: how the units were chosen.
        verification: what was compared before the smaller model was returned: a cut one with the masked one, and what a
            transform made with its edits done again; None for masked ones.
        latency: median seconds of a forward pass before and after; None if not measured.
        runtime: where that was measured.
        change: how far the outputs are from the original's; None if not compared.
        history: how the schedule or the search went; None where there was neither.
        inputs: example inputs, to count MACs on; None where there are none.
        layers: what became of each layer that was put in another form (see `secateur.transforms`).
    """

    model: nn.Module
    original: nn.Module
    sites: Sites
    keep: Keep
    edits: tuple[Edit, ...]
    method: Method = BY_HAND
    verification: Verification | Replayed | None = None
    latency: tuple[float, float] | None = None
    history: Any = None
    inputs: ExampleInputs | None = None
    runtime: str = "eager"
    change: OutputChange | None = None
    layers: tuple[LayerReport, ...] = ()

    def __repr__(self) -> str:
        before, after = (parameters(model).total for model in (self.original, self.model))
        units = sum(site.size for site in self.sites.values())
        left = units - sum(int((~keep_mask).sum()) for keep_mask in self.keep.values())
        units_left = [f"{left:,} of {units:,} {_unit(self.sites)} kept"] if units else []
        changed = [f"{len(self.layers)} layers changed"] if self.layers else []
        done = ", ".join([type(self.model).__name__, *units_left, *changed])
        return f"<Result: {done}, parameters {before:,} → {after:,}>"

    @classmethod
    @usual
    def of(
        cls,
        model: nn.Module,
        sites: Sites,
        keep: Keep,
        *,
        repaired: nn.Module | None = None,
        form: Form = "auto",
        tolerance: float = TOLERANCE,
        method: Method = BY_HAND,
        history: Log | None = None,
    ) -> Self:
        """Return the result of removing what `keep` marks False: channels are cut out, blocks left out, weights zeroed.

        Args:
            model: the model that `sites` were found in; it is left as it is.
            sites: from `channels`, `blocks` or `weights`.
            keep: one bool tensor a site, True = keep; sites without one stay whole.
            repaired: a model of the same architecture with the weights that the smaller one is to have.
            form, tolerance: for channels: see `cut`.
            method, history: for the report and the folder.

        Raises:
            CutError, VerificationError: see `cut`.

        >>> from secateur.structure import channels
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> sites = channels(model, torch.ones(1, 4))
        >>> result = Result.of(model, sites, {"0": torch.tensor([True, False, True])})
        >>> result.model[0].out_features, result.report.parameters
        (2, (23, 16))
        """
        ready = model if repaired is None else repaired
        masks = dict(keep)
        if sites.structure is None:
            edit: Edit = Masked.of(sites, masks)
            small, verification = with_zeros(ready, sites, masks), None
        else:
            cut = cut_with_plan(ready, sites, masks, form=form, tolerance=tolerance)
            small, verification = cut.model, cut.verification
            edit = _edit(model, small, sites, masks, cut.plan)
        return cls(small, model, sites, masks, (edit,), method, verification, None, history, inputs_of(sites))

    @classmethod
    @usual
    def masked(
        cls,
        model: nn.Module,
        sites: Sites,
        keep: Keep,
        *,
        repaired: nn.Module | None = None,
        method: Method = BY_HAND,
        history: Log | None = None,
    ) -> Self:
        """Return the result of writing zeros where `keep` is False, channels too: shapes stay as they are."""
        small = with_zeros(model if repaired is None else repaired, sites, keep)
        edits = (Masked.of(sites, keep),)
        return cls(small, model, sites, dict(keep), edits, method, None, None, history, inputs_of(sites))

    def after(self, earlier: Result) -> Self:
        """Return this result as one from the start: it was made of the model that `earlier` made.

        The sites and masks are those of the start, too, with what either removed; where the two are of other units, as
        blocks and channels are, they stay those of the last cut.

        >>> from secateur.structure import channels
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> first, second = (torch.tensor([True] * 2 + [False]), torch.tensor([True, False]))
        >>> once = Result.of(model, channels(model, torch.ones(1, 4)), {"0": first})
        >>> twice = Result.of(once.model, channels(once.model, torch.ones(1, 4)), {"0": second}).after(once)
        >>> len(twice.edits), twice.apply(model)[0].out_features
        (2, 1)
        >>> twice.keep["0"].tolist()
        [True, False, False]
        """
        sites, keep = _since(earlier, self)
        edits, layers = joined_edits(earlier.edits, self.edits), (*earlier.layers, *self.layers)
        both = replace(self, original=earlier.original, sites=sites, keep=keep, edits=edits, layers=layers)
        return both if self.change is None else both.compared()

    @usual
    def timed(self, runtime: Runtime = "eager", *, warmup: int = 5, repeats: int = 30) -> Self:
        """Return this result with the latency of both models on the example inputs, measured in turns.

        Args:
            runtime: where they run; see `secateur.measure.latency`.
            warmup, repeats: passes of each model, before the first that counts and that count.

        Raises:
            InputError: there are no example inputs, as with single weights made by hand.
            MissingLibraryError, ExportError, UnknownNameError: see `secateur.export`.

        >>> from secateur.structure import channels
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> result = Result.of(model, channels(model, torch.ones(1, 4)), {"0": torch.tensor([True, False, True])})
        >>> result.latency is None, len(result.timed().latency)
        (True, 2)
        """
        if self.inputs is None:
            raise InputError("timed: this result has no example inputs; give them, as in replace(result, inputs=x)")
        both = {"before": self.original, "after": self.model}
        comparison = compare_latency(both, self.inputs, runtime=runtime, warmup=warmup, repeats=repeats)
        before = comparison.latencies["before"].median
        # The ratio is surer than the smaller model's own time.
        seconds = before, before / comparison.speedups["after"].median
        return replace(self, latency=seconds, runtime=name_of(runtime))

    @usual
    def compared(self, data: SampleBatch | None = None) -> Self:
        """Return this result with how far the outputs are from the original's, on samples or on the example inputs.

        Args:
            data: the samples; None takes the example inputs. Where there are neither, nothing is compared.

        >>> from secateur.structure import channels
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> result = Result.of(model, channels(model, torch.ones(1, 4)), {"0": torch.tensor([True, True, True])})
        >>> result.compared().change.relative
        0.0
        """
        batch = SampleBatch(self.inputs) if data is None else data
        if batch.inputs is None:
            return self
        batch = batch.to(device_of(self.original))
        return replace(
            self, change=output_change(self.original, self.model, batch, "example" if data is None else "data")
        )

    @cached_property
    def report(self) -> PruneReport:
        """What went, what it cost and what it gained."""
        before, after = self.original, self.model
        counts = parameters(before), parameters(after)
        graph = next((edit for edit in self.edits if isinstance(edit, GraphCut)), None)
        return PruneReport(
            unit=_unit(self.sites) if self.sites or not self.layers else "layers",
            criterion=self.method.criterion,
            scope=self.method.scope,
            sparsity=self.method.sparsity,
            units_removed=sum(int((~keep_mask).sum()) for keep_mask in self.keep.values()),
            units=sum(site.size for site in self.sites.values()),
            parameters=(counts[0].total, counts[1].total),
            nonzero=(counts[0].nonzero, counts[1].nonzero),
            macs=None if self.inputs is None else (macs(before, self.inputs), macs(after, self.inputs)),
            bytes=(_bytes(before), self._stored_bytes()),
            latency=self.latency,
            difference=self.verification.example if isinstance(self.verification, Verification) else None,
            verified="" if self.verification is None else str(self.verification),
            form="graph" if graph else "module",
            shapes=graph.shapes if graph else (),
            conditions=graph.conditions if graph else (),
            eval_only=graph.eval_only if graph else "",
            sites=tuple(
                SiteReport(name, keep_mask.numel(), int(keep_mask.sum())) for name, keep_mask in self.keep.items()
            ),
            frozen=dict(self.sites.frozen),
            versions={"python": platform.python_version(), "torch": torch.__version__},
            rule=self.method.rule,
            repair=self.method.repair,
            loss=self.method.loss,
            warnings=(
                *self.method.warnings,
                *(self.verification.warnings if isinstance(self.verification, Verification) else ()),
            ),
            runtime=self.runtime,
            rounding=self.method.rounding,
            change=self.change,
            joint=self.method.joint,
            layers=self.layers,
        )

    def _stored_bytes(self) -> int:
        """The bytes of the smaller model's tensors on disk, encoded where an edit says how."""
        is_encoded = any(edit.codecs() for edit in self.edits)
        return stored_bytes(self.model, self.edits) if is_encoded else _bytes(self.model)

    def channels_left(self, *modules: str) -> dict[str, Tensor | None]:
        """Return which of the original's output channels modules still have: the `hints` of `secateur.train.distill`.

        Args:
            modules: names of layers that have a bias or weights, such as convolutions, linear layers and norms.

        Returns:
            Positions in the original, int64 ``(channels left,)``; None where all are left.

        Raises:
            UnknownNameError: a name of no such layer.
            InputError: the model is a graph, whose layers have no outputs of their own.

        >>> from secateur.structure import channels
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> result = Result.of(model, channels(model, torch.ones(1, 4)), {"0": torch.tensor([True, False, True])})
        >>> result.channels_left("0", "2")
        {'0': tensor([0, 2]), '2': None}
        """
        if any(isinstance(edit, GraphCut) for edit in self.edits):
            raise InputError("channels_left: the model is in graph form, whose layers cannot be looked at one by one")
        layers = {path: parameter for path, layer in self.original.named_modules() if (parameter := _of_outputs(layer))}
        for name in modules:
            if name not in layers:
                raise unknown_name("layer with weights", name, layers)
        return {name: self._rows_left(name, layers[name]) for name in modules}

    def _rows_left(self, layer: str, parameter: str) -> Tensor | None:
        """The rows of the original layer's parameter that are left after every cut."""
        left: Tensor | None = None
        for edit in self.edits:
            if isinstance(edit, Rebuilt):
                layer = edit.outputs_under(layer)
            elif isinstance(edit, Cut) and (rows := edit.plan.rows.get(f"{layer}.{parameter}", {}).get(0)) is not None:
                left = rows if left is None else left[rows]
        return left

    @usual
    def apply(self, model: nn.Module) -> nn.Module:
        """Return the smaller model again, made of a `model` of the original architecture, whose weights do not matter.

        Raises:
            FileError: the model is of another architecture.
        """
        small = replay(self.edits, model)
        fill(small, self.model.state_dict(), "this result")
        return small

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model to `folder` as safetensors and JSON; `secateur.load` reads it in another process.

        Raises:
            FileError: the folder holds other files or cannot be written; or the model is in graph form and its
                example inputs hold something else than tensors and plain values.
        """
        history = None if self.history is None else self.history.to_dict()
        report = self.report
        cheap = report.macs is not None and report.macs[1] <= ANSWERED_UP_TO
        return save(folder, self.model, self.edits, report.to_dict(), history, self.inputs if cheap else None)

    @staticmethod
    def read_report(folder: str | os.PathLike[str]) -> dict[str, Any]:
        """Return the report that was saved with a model, as plain data.

        Raises:
            FileError: the manifest is missing or damaged.
        """
        return read_record(folder)[0]


ANSWERED_UP_TO = 10**11
"""The multiply–accumulates up to which a saved model's answers are kept beside it, as that takes a forward pass."""


def _since(earlier: Result, later: Result) -> tuple[Sites, Keep]:
    """The sites of the start and what both left of them; the later ones where they are not what is left of the earlier."""
    if not later.sites or not earlier.sites:  # a transform has none
        before = later if not earlier.sites else earlier
        return Sites(
            before.sites.table, {**earlier.sites.frozen, **later.sites.frozen}, before.sites.structure
        ), before.keep
    if type(earlier.sites.structure) is not type(later.sites.structure) or not later.keep.keys() <= earlier.keep.keys():
        return later.sites, later.keep
    masks: dict[str, Tensor] = {}
    for name, first in earlier.keep.items():
        second = later.keep.get(name)  # a site of one unit is none any more
        masks[name] = first.clone()
        if second is None:
            continue
        if second.shape == first.shape:
            masks[name] &= second
        elif second.numel() == int(first.sum()):
            masks[name][first] = second
        else:
            return later.sites, later.keep
    return earlier.sites, masks


def _edit(model: nn.Module, small: nn.Module, sites: Sites, keep: Keep, plan: Any) -> Edit:
    if isinstance(sites.structure, BlockStructure):
        skips = removed_blocks(sites.structure, keep)
        wrapped = {path: skip.wrapped for path, skip in skips.items()}
        shapes = {path: skip.shapes for path, skip in skips.items() if skip.shapes}
        return Depth(wrapped, tuple(path for path, skip in skips.items() if skip.zero), shapes)
    if _is_graph(model, small):
        inputs = inputs_of(sites)
        assert inputs is not None
        meta = cast(GraphModule, small).meta
        return GraphCut(keep, inputs, **{name: meta[name] for name in ("shapes", "conditions", "eval_only", "refused")})
    return Cut(plan)


def _bytes(model: nn.Module) -> int:
    """The bytes of a model's file; of its tensors alone where no such file can hold them, as complex128 ones."""
    try:
        return file_bytes(model)
    except InputError:
        return sum(x.nbytes for x in model.state_dict().values() if isinstance(x, Tensor) and x.layout is torch.strided)


def _is_graph(model: nn.Module, small: nn.Module) -> bool:
    # A model that was a graph module before is cut as the module that it is: a copy runs the same code.
    copied = isinstance(model, GraphModule) and isinstance(small, GraphModule) and small.code == model.code
    return isinstance(small, GraphModule) and not copied


def _of_outputs(layer: nn.Module) -> str | None:
    """The name of a layer's parameter whose first dimension is its output channels."""
    # A transposed convolution's weight has its inputs first.
    for name in ("bias", "weight"):
        tensor = getattr(layer, name, None)
        if isinstance(tensor, Tensor) and not (name == "weight" and getattr(layer, "transposed", False)):
            return name
    return None


def _unit(sites: Sites) -> str:
    """What the units of the sites are, as a report names it."""
    kinds = {site.kind for site in sites.values()}
    return f"{kinds.pop()}s" if len(kinds) == 1 else "weights" if sites.structure is None else "channels"
