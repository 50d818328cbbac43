"""What `prune` is worth with its defaults: right answers after half of the multiply-accumulates went, and the speed.

    python benchmarks/defaults.py --cache FOLDER                  # networks are trained where the folder lacks them
    python benchmarks/defaults.py --cache FOLDER --networks onet,cnn-4 --seeds 1

No training follows the cut. Torch-Pruning gets its own defaults: group L2 importance, one ratio for all layers, found by
bisection so that half of the multiply-accumulates are left. See README.md for what must be installed.
"""

from __future__ import annotations

import argparse
import copy
import csv
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch_pruning
from torch import nn

import secateur as sc
from defaults_networks import ARCHITECTURES, Network, networks

HALF = {"macs": 0.5}
RUNTIME, BATCH = "onnxruntime", 16

WAYS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "unrounded": {"round_to": 1},
    "layer": {"scope": "layer"},
    "global": {"scope": "global"},
    "with data": {"data": True},
}
"""What is compared: nothing chosen; the default without rounding; other scopes; nothing chosen but data given."""

MISREAD = {"crepe-tiny": ("conv6",), "onet": ("conv4",)}
"""Layers whose channels are moved behind the space before they are flattened, which Torch-Pruning takes for channels first."""


def torch_pruning_default(network: Network, leave: tuple[str, ...] = ()) -> nn.Module:
    """Torch-Pruning's default at the least ratio that halves the multiply-accumulates."""
    example = network.example()
    goal = sc.measure.macs(network.model, example) / 2
    low, high, best = 0.0, 1.0, network.model
    for _ in range(9):
        ratio = (low + high) / 2
        model = _torch_pruning(network, example, ratio, leave)
        if sc.measure.macs(model, example) <= goal:
            high, best = ratio, model
        else:
            low = ratio
    return best


def _torch_pruning(network: Network, example: torch.Tensor, ratio: float, leave: tuple[str, ...]) -> nn.Module:
    model = copy.deepcopy(network.model)
    layers = dict(model.named_modules())
    outputs = [name for name in sc.channels(network.model, example).frozen if isinstance(layers.get(name), nn.Linear)]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[layers[name] for name in (*outputs, *leave)],
    )
    pruner.step()
    if network.name.startswith("crepe"):
        model.in_features = model.classifier.in_features  # what its forward pass reshapes to
    return model


def ours(network: Network, way: Mapping[str, Any]) -> sc.Result:
    """The result of one call of `prune`."""
    options = dict(way)
    if options.pop("data", False):
        options |= {"data": network.few, **network.data_options}
    return sc.prune(network.model, network.example(), budget=HALF, latency=False, **options)


def row(network: Network) -> dict[str, Any]:
    """All figures of one network."""
    figures: dict[str, Any] = {"network": network.name, "seed": network.seed, "whole": network.rate(network.model)}
    theirs = {leave: torch_pruning_default(network, leave) for leave in {(), MISREAD.get(network.name, ())}}
    figures["Torch-Pruning"] = max(network.rate(model) for model in theirs.values())
    whole = sc.measure.macs(network.model, network.example())
    for name, way in WAYS.items():
        began = time.perf_counter()
        result = ours(network, way)
        figures |= {name: network.rate(result.model), f"{name}: seconds": time.perf_counter() - began}
        if name in ("default", "with data"):
            figures |= _more(network, name, result, whole)
    plain = sc.prune(network.model, network.example(), latency=False)
    figures["nothing given is the same"] = str(
        {n: int(k.sum()) for n, k in plain.keep.items()} == figures["default: kept"]
    )
    figures["Torch-Pruning: speedup"] = _speedup(network, theirs[()])
    return figures


def _more(network: Network, name: str, result: sc.Result, whole: int) -> dict[str, Any]:
    kept = {site: int(mask.sum()) for site, mask in result.keep.items()}
    least = min(site.share for site in result.report.sites)
    change = result.compared(_samples(network)).change
    assert change is not None
    return {
        f"{name}: kept": kept,
        f"{name}: least share kept": least,
        f"{name}: MACs": sc.measure.macs(result.model, network.example()) / whole,
        f"{name}: change": change.relative,
        f"{name}: agreement": change.agreement,
        f"{name}: change on the example": result.change.relative if result.change else None,
        f"{name}: speedup": _speedup(network, result.model),
    }


def _samples(network: Network) -> Any:
    from secateur.labelled import SampleBatch

    return SampleBatch(network.few[0])


def _speedup(network: Network, smaller: nn.Module) -> float:
    both = {"whole": network.model, "smaller": smaller}
    return float(sc.measure.compare_latency(both, network.example(BATCH), runtime=RUNTIME).speedups["smaller"].median)


SHOWN: Mapping[str, Callable[[float], str]] = {
    **dict.fromkeys(["whole", "Torch-Pruning", *WAYS], "{:.3f}".format),
    **dict.fromkeys(["default: MACs", "default: least share kept"], "{:.2f}".format),
    **dict.fromkeys(["default: change", "with data: change"], "{:.2f}".format),
    **dict.fromkeys(["default: speedup", "with data: speedup", "Torch-Pruning: speedup"], "{:.2f}".format),
}
"""The columns of the table, means over the seeds."""


def table(rows: list[dict[str, Any]]) -> str:
    """The means over seeds, in Markdown, with the paired difference to Torch-Pruning."""
    names = list(dict.fromkeys(figures["network"] for figures in rows))
    titles = ["network", "seeds", *SHOWN, "default − Torch-Pruning"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for name in names:
        mine = [figures for figures in rows if figures["network"] == name]
        gains = [figures["default"] - figures["Torch-Pruning"] for figures in mine]
        spread = f" ± {stdev(gains):.3f}" if len(gains) > 1 else ""
        cells = [show(mean(figures[column] for figures in mine)) for column, show in SHOWN.items()]
        lines.append(f"| {' | '.join([name, str(len(mine)), *cells, f'{mean(gains):+.3f}{spread}'])} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of trained weights")
    parser.add_argument("--networks", default=",".join([*ARCHITECTURES, "crepe-tiny", "onet"]))
    parser.add_argument("--seeds", type=int, default=5, help="of the small networks; of the others at most three")
    parser.add_argument("--csv", type=Path, help="write all figures there")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen.cache.mkdir(parents=True, exist_ok=True)
    rows = []
    for network in networks(chosen.cache, chosen.seeds, chosen.networks.split(",")):
        rows.append(row(network))
        print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows))
    if chosen.csv:
        with chosen.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
