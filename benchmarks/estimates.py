"""How fast and how right the estimates of the loss change are, beside the exact values.

    python benchmarks/estimates.py --net mlp --images 10000

The networks are trained for a moment on Fashion-MNIST. The exact change of every unit comes from re-running only what
follows it, on the samples where it is not zero. The plain loop (zero a unit's parameters, run all images in batches of
500, restore) is timed on a sample of units of each layer, in turns with the estimates, and scaled to all units; its
changes are checked against the exact ones. Process time at one thread. Needs the extra ``data``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import secateur as sc
from secateur.criteria import NextLayer, SecondOrder, Taylor
from secateur.measure.agree import agreement
from secateur.types import Criterion, Sites

LOOP_BATCH = 500
Data = list[tuple[Tensor, Tensor]]


def build(name: str) -> nn.Sequential:
    """Return one of the networks, with its random weights."""
    torch.manual_seed(0)
    if name == "cnn":
        return sc.models.build("janjic-cnn")  # type: ignore[return-value]
    sizes = (784, 1000, 1000, 500, 200, 10) if name == "mlp" else (784, 128, 10)
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def estimates(data: Data) -> dict[str, Criterion]:
    """The estimates, by their names in the table."""
    return {
        "first order, signed": Taylor(data),
        "first order, absolute": Taylor(data, sign="absolute", normalise=False),
        "first order, squared": Taylor(data, sign="squared", minibatch=1),
        "second order, squared": SecondOrder(data),
        "second order, fisher": SecondOrder(data, curvature="fisher"),
        "second order, gauss-newton": SecondOrder(data, curvature="gauss-newton"),
        "next layer": NextLayer(data),
    }


def mean_loss(model: nn.Module, data: Data) -> float:
    """Mean loss over all data, summed in float64."""
    with torch.no_grad():
        total = sum(float(cross_entropy(model(x), y, reduction="sum").double()) for x, y in data)
    return total / sum(len(y) for _, y in data)


def by_loop(model: nn.Module, sites: Sites, site: str, unit: int, data: Data) -> float:
    """The loss without one unit, as anyone would write it: zero its parameters, run everything, restore."""
    parameters = dict(model.named_parameters())
    kept = {m.parameter: parameters[m.parameter].data.clone() for m in sites[site].members}
    for member in sites[site].members:
        assert member.dim is not None
        assert member.index is not None
        parameters[member.parameter].data.index_fill_(member.dim, member.index[unit], 0)
    found = mean_loss(model, data)
    for name, values in kept.items():
        parameters[name].data.copy_(values)
    return found


def exactly(model: nn.Sequential, sites: Sites, data: Data) -> dict[str, Tensor]:
    """The exact change of every unit: what follows it is run again where it is not zero."""
    names = [name for name, _ in model.named_children()]
    found = {name: torch.zeros(site.size, dtype=torch.float64) for name, site in sites.items()}
    with torch.no_grad():
        for x, y in data:
            base = cross_entropy(model(x), y, reduction="none").double()
            for name, sums in found.items():
                at = names.index(name) + 2  # the layer and its activation, which keeps zero at zero
                made, after = model[:at](x), model[at:]
                for unit in range(len(sums)):
                    on = made[:, unit].flatten(1).ne(0).any(1) if made.ndim > 2 else made[:, unit] != 0
                    without = made[on]
                    without[:, unit] = 0
                    change = cross_entropy(after(without), y[on], reduction="none").double() - base[on]
                    sums[unit] += change.sum()
    count = sum(len(y) for _, y in data)
    return {name: sums / count for name, sums in found.items()}


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Process time of one call, and what it returned."""
    start = time.process_time()
    made = work()
    return time.process_time() - start, made


def measure(net: str, images: int, rounds: int, sample: int, batch: int) -> None:
    """Measure one network and print its table."""
    x, y = sc.data.load("fashion-mnist", limit=images)
    model = build(net)
    sc.fit(model, (x, y), epochs=2, batch_size=128)
    model.eval()
    data: Data = list(zip(x.split(LOOP_BATCH), y.split(LOOP_BATCH), strict=True))
    sites = sc.channels(model, x[:1])
    took, exact = seconds(lambda: exactly(model, sites, data))
    units = sum(site.size for site in sites.values())
    print(f"{net}: {units} units, {images} images; exact values in {took:.0f} s", flush=True)
    generator = torch.Generator().manual_seed(0)
    picked = [(n, int(u)) for n, s in sites.items() for u in torch.randperm(s.size, generator=generator)[:sample]]
    base, worst = mean_loss(model, data), 0.0
    runs = estimates(list(zip(x.split(batch), y.split(batch), strict=True)))
    loops: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in runs}
    scores: dict[str, dict[str, Tensor]] = {}
    for number in range(rounds):
        for name, unit in picked[number::rounds]:
            taken, without = seconds(lambda: by_loop(model, sites, name, unit, data))  # noqa: B023
            loops.append(taken)
            worst = max(worst, abs(without - base - float(exact[name][unit])))
        for name, criterion in runs.items():
            taken, scores[name] = seconds(lambda: criterion(model, sites))  # noqa: B023
            times[name].append(taken)
    loop = units * statistics.median(loops)
    print(f"plain loop {loop:.0f} s (median of {len(loops)} units, scaled); its changes differ by {worst:.1e}")
    head = [f"{n:>8}" for n in sites]
    print(f"{'':<28}{'s':>8}{'ratio':>8}{'Spearman':>10}{'best first':>12}{'bottom 10 %':>12}  by layer:", *head)
    for name, criterion_scores in scores.items():
        like = agreement(criterion_scores, exact)
        median = statistics.median(times[name])
        rows = " ".join(f"{rho:8.4f}" for rho in like.by_site.values())
        print(
            f"{name:<28}{median:>8.2f}{loop / median:>8.0f}{like.spearman:>10.4f}{'yes' if like.best else 'no':>12}"
            f"{like.bottom[0.1]:>12.2f}            {rows}",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", nargs="+", choices=["ann", "mlp", "cnn"], default=["mlp", "cnn"])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", type=int, default=5, help="units of each layer that the plain loop is timed on")
    parser.add_argument("--batch", type=int, default=500, help="the estimates' batch size")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for net in options.net:
        measure(net, options.images, options.rounds, options.sample, options.batch)


if __name__ == "__main__":
    main()
