"""One model through one tool: cut about 30 % of every site, check the result independently, and say what happened."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from coverage_case import Case
from oracle import masked
from secateur.copies import copied
from zoo.parts import randomise

__all__ = ["LEAST", "SPARSITY", "TOLERANCE", "first_line", "run_case"]

SPARSITY = 0.3
LEAST = 0.05  # a model passes when at least this fraction of its parameters is gone
TOLERANCE = 1e-4
# Above this the check is repeated in float64, where a cut that is right agrees to EXACT: what is left is not rounding.
ROUNDING, EXACT = 2e-6, 1e-9

Row = dict[str, Any]


def run_case(case: Case, side: str, report: Callable[[Row], None]) -> None:
    """Run `case` through ``"ours"`` or ``"peer"``; `report` is given the row after every stage.

    So a child that is killed leaves word of where it was. A row that is done has ``stage`` "done"; otherwise
    ``stage`` is where it stopped and ``error`` says why.
    """
    row: Row = {"suite": case.suite, "family": case.family, "model": case.name, "side": side, "passed": False}
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    try:
        (_ours if side == "ours" else _peer)(case, row, report)
    except Exception as error:  # noqa: BLE001  (a benchmark records whatever happens)
        row.update(error_type=type(error).__name__, error=first_line(error))
    report(row)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:400] if lines else type(error).__name__


class _Timer:
    """Writes the CPU seconds that each stage takes into the row, and the stage that is running."""

    def __init__(self, row: Row, report: Callable[[Row], None]) -> None:
        self.row, self.report, self.started = row, report, time.process_time()

    def stage(self, name: str) -> None:
        now = time.process_time()
        if "stage" in self.row:
            self.row[f"{self.row['stage']}_s"] = round(now - self.started, 3)
        self.row["stage"], self.started = name, now
        self.report(self.row)


def _made(case: Case, row: Row, timer: _Timer) -> tuple[nn.Module, Any, Any]:
    timer.stage("build")
    model, inputs = case.make()
    model.eval()
    randomise(model)
    row["parameters"] = [_count(model), None]
    timer.stage("forward")
    outputs = masked.run(model, inputs)
    return model, inputs, outputs


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _ours(case: Case, row: Row, report: Callable[[Row], None]) -> None:
    from secateur.criteria import Magnitude
    from secateur.selection import select
    from secateur.structure import channels
    from secateur.structure.cutting import cut_with_plan

    timer = _Timer(row, report)
    model, inputs, outputs = _made(case, row, timer)
    timer.stage("trace")
    sites = channels(model, inputs)
    row.update(sites=len(sites), frozen=len(sites.frozen), units=sum(s.size for s in sites.values()))
    row["reasons"] = dict(Counter(_kind(reason) for reason in sites.frozen.values()).most_common(6))
    timer.stage("select")
    keep = select(Magnitude(p=2)(model, sites), SPARSITY, scope="layer", sites=sites)
    timer.stage("cut")
    made = cut_with_plan(model, sites, keep)
    row.update(
        form="graph" if isinstance(made.model, torch.fx.GraphModule) else "module", difference=made.verification.example
    )
    if row["form"] == "graph":
        timer.stage("why")
        row["why_graph"] = _why_graph(lambda: cut_with_plan(model, sites, keep, form="module"))
    timer.stage("check")
    found = masked.run(made.model, inputs)
    full = masked.zeroed(model, sites, keep)
    modes = (None, masked.KeptStatistics(), masked.KeptStatistics(averages=True))
    _judge(row, made.model, outputs, found, full, inputs, modes)
    timer.stage("done")


def _why_graph(cut_as_module: Callable[[], object]) -> str:
    """What keeps the model's own class from holding the cut."""
    try:
        cut_as_module()
    except Exception as error:  # noqa: BLE001  (whatever it is, it is the answer)
        return first_line(error)
    return "nothing"


def _judge(row: Row, small: nn.Module, outputs: Any, found: Any, full: nn.Module, inputs: Any, modes: Any) -> None:
    """Compare the cut model's outputs with the zero-filled full model's, and decide."""
    best, references = float("inf"), None
    for mode in modes:
        expected = masked.run(full, inputs, mode)
        apart = masked.relative_difference(expected, found)
        if references is None or apart < best:
            best, references = apart, expected
        if best <= TOLERANCE:
            break
    before, after = row["parameters"][0], _count(small)
    # How far masking moves the outputs: where that is nothing, agreement proves nothing.
    effect = masked.relative_difference(outputs, references)
    row.update(parameters=[before, after], own_difference=best, effect=effect)
    row["removed"] = round(1 - after / before, 4)
    row["vacuous"] = not effect > 10 * TOLERANCE
    if ROUNDING < best <= TOLERANCE:
        row["exact_difference"] = _in_float64(small, full, inputs, modes)
    row["wrong"] = not best <= TOLERANCE or row.get("exact_difference", 0.0) > EXACT
    if row.get("exact_difference", 0.0) > EXACT:
        row["error"] = f"in float64 too, the outputs are {row['exact_difference']:.1e} from the masked model's"
    elif not best <= TOLERANCE:
        row["error"] = f"the outputs are {best:.1e} from the masked model's by our own check"
    elif row["removed"] < LEAST:
        row["error"] = f"only {row['removed']:.1%} of the parameters are gone"
    else:
        row["passed"] = True


def _in_float64(small: nn.Module, full: nn.Module, inputs: Any, modes: Any) -> float:
    """The difference in double precision; 0 where a model's code does not run in it."""

    def double(x: Any) -> Any:
        return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x

    given = tree_map(double, dict(inputs) if isinstance(inputs, Mapping) else tuple(inputs))
    try:
        found = masked.run(small.double(), given)
        return min(masked.relative_difference(masked.run(full.double(), given, mode), found) for mode in modes)
    except RuntimeError:
        return 0.0


def _kind(reason: str) -> str:
    """A reason without the place: "summed with … at aten.mul in blocks.0 (x.py:3)" → "summed with … at aten.mul"."""
    return reason.split(" in ")[0].split(" (")[0]


def _peer(case: Case, row: Row, report: Callable[[Row], None]) -> None:
    """Torch-Pruning with its magnitude importance on the same model; only the last layer is ignored."""
    import torch_pruning

    timer = _Timer(row, report)
    model, inputs, outputs = _made(case, row, timer)
    small = copied(model)
    given = dict(inputs) if isinstance(inputs, Mapping) else (inputs[0] if len(inputs) == 1 else list(inputs))
    timer.stage("trace")
    pruner = torch_pruning.pruner.BasePruner(
        small,
        given,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=SPARSITY,
        ignored_layers=_last_layer(small),
    )
    timer.stage("cut")
    pruner.step()
    history = pruner.DG.pruning_history()
    row["sites"] = len(history)
    timer.stage("check")
    found = masked.run(small, inputs)
    origin = _origins(model, given, history)
    full = _padded(model, small, origin)
    _judge(row, small, outputs, found, full, inputs, (None, masked.KeptStatistics(), masked.KeptStatistics(True)))
    timer.stage("done")


def _last_layer(model: nn.Module) -> list[nn.Module]:
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    layers: list[nn.Module] = [m for m in model.modules() if isinstance(m, kinds)]
    return layers[-1:]


def _origins(model: nn.Module, given: Any, history: Any) -> nn.Module:
    """Redo a pruning on a model whose entries are their own numbers, so that each tells where it came from."""
    import torch_pruning

    numbered = copied(model)
    graph = torch_pruning.DependencyGraph().build_dependency(numbered, given)
    for tensor in [*numbered.parameters(), *numbered.buffers()]:
        tensor.data = torch.arange(1, tensor.numel() + 1, dtype=torch.float64).reshape(tensor.shape)
    graph.load_pruning_history(history)
    return numbered


def _padded(model: nn.Module, small: nn.Module, origin: nn.Module) -> nn.Module:
    """The full-size model with the pruned one's parameters where they came from, and zeros elsewhere."""
    full = copied(model)
    places = dict(origin.named_parameters())
    values = dict(small.named_parameters())
    for name, parameter in full.named_parameters():
        where = places[name].detach().flatten().long() - 1
        flat = torch.zeros(parameter.numel(), dtype=parameter.dtype)
        flat[where] = values[name].detach().flatten()
        parameter.data = flat.reshape(parameter.shape)
    return full
