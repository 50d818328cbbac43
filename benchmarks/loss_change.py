"""How long the exact loss change of every unit takes, beside the plain loop, and how much memory.

    python benchmarks/loss_change.py                                 # every net; hours at one thread, most for the VGG
    python benchmarks/loss_change.py --net ann-128 fathollahi-5      # some
    python benchmarks/loss_change.py --net vgg-16 --images 200
    python benchmarks/loss_change.py --exhaustive                    # ann-128 until one neuron is left

The plain loop zeroes a unit's parameters, runs the whole model on all images in batches of 500, and restores them. It is
timed on a random sample of each layer's units and scaled to all of them. Both run in turns in one process at one
thread; times are process time, medians. The nets are trained for a moment on Fashion-MNIST, so that their ReLUs are as
sparse as they come; the changes are measured on its test images.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

import secateur as sc
from secateur import data, models
from secateur.criteria import UnitWorth
from secateur.labelled import SampleBatch
from secateur.rate.chain.engine import chain_engine
from secateur.rate.chain.gemm import product
from secateur.rate.last import LastLayer
from secateur.rate.tally import UnitTally
from secateur.types import Site, Sites

BATCH = 500
# Options of the model, images, and whether we too are timed on the sample of units alone.
NETS: dict[str, tuple[dict[str, Any], int, bool]] = {
    "ann-128": ({}, 10_000, False),
    "mlp-3": ({}, 10_000, False),
    "fathollahi-5": ({}, 10_000, False),
    "janjic-cnn": ({}, 10_000, False),
    "cnn-4": ({}, 1_000, False),
    "vgg-16": ({"input_size": 32, "classes": 10, "in_channels": 1, "batch_norm": True}, 1_000, True),
}


def trained(name: str, options: dict[str, Any], steps: int) -> nn.Module:
    """Return the net after some steps of Adam on Fashion-MNIST."""
    split = data.load("fashion-mnist", limit=20_000, size=options.get("input_size"))
    model = models.build(name, seed=0, **options)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        some = torch.randint(0, len(split), (128,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(model(split.images[some]), split.labels[some]).backward()
        optimizer.step()
    return model.eval()


def sampled(sites: Sites, each: int) -> dict[str, Tensor]:
    """Return some units of every site, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randperm(site.size, generator=generator)[:each].sort().values for name, site in sites.items()}


@contextmanager
def removed(model: nn.Module, site: Site, unit: int) -> Iterator[None]:
    """Zero what belongs to one unit in the model itself, and put it back."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    kept = []
    with torch.no_grad():
        for member in site.members:
            parameter = parameters[member.parameter]
            kept.append((parameter, parameter.detach().clone()))
            assert member.dim is not None
            assert member.index is not None
            parameter.index_fill_(member.dim, member.index[unit], 0)
        yield
        for tensor, before in reversed(kept):
            tensor.copy_(before)


def mean_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Return the mean loss, by batches."""
    total = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        for x, y in zip(inputs.split(BATCH), targets.split(BATCH), strict=True):
            total += cross_entropy(model(x), y, reduction="sum")
    return float(total / len(targets))


def plain_loop(
    model: nn.Module, sites: Sites, units: dict[str, Tensor], inputs: Tensor, targets: Tensor, base: float
) -> Iterator[tuple[str, float, list[float]]]:
    """Yield for each site the seconds that all its units take, and the changes of those in the sample."""
    for name, chosen in units.items():
        start = time.process_time()
        found = []
        for unit in chosen.tolist():
            with removed(model, sites[name], unit):
                found.append(mean_loss(model, inputs, targets) - base)
        yield name, (time.process_time() - start) / len(chosen) * sites[name].size, found


def ours(model: nn.Module, sites: Sites, units: dict[str, Tensor] | None, inputs: Tensor, targets: Tensor) -> Any:
    """Return the loss changes, of the units alone where some are given."""
    engine = chain_engine(model, sites, cross_entropy)
    assert engine is not None
    tally = UnitTally(cross_entropy, sites, units)
    engine.measure(SampleBatch(inputs, targets), tally)
    return UnitWorth.of(tally)


class Work(TorchDispatchMode):
    """Counts the multiply–accumulates of products and convolutions."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in {"aten::convolution", "aten::conv2d", "aten::mkldnn_convolution", "mkldnn::_linear_pointwise"}:
            self.total += out.numel() * args[1][0].numel()
        elif name in {"aten::mm", "aten::addmm", "aten::linear"}:
            self.total += out.numel() * args[-2].shape[-1]
        return out


def gemm_peak() -> float:
    """Return the multiply–accumulates a second of the best product of two square matrices here."""
    x = torch.randn(1024, 1024)
    found = [seconds(lambda: torch.mm(x, x)) for _ in range(5)] + [seconds(lambda: product(x, x)) for _ in range(5)]
    return 1024**3 / min(found)


def seconds(work: Callable[[], Any]) -> float:
    """Process time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def status(field: str) -> int:
    """A figure of this process in bytes, from Linux's own account."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))


def peak(work: Callable[[], Any]) -> int:
    """Return how far memory rises while `work` is done."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # Linux: forget the highest mark so far
    before = status("VmRSS")
    work()
    return max(0, status("VmHWM") - before)


def compare(name: str, images: int | None, each: int, steps: int, channels_last: bool) -> None:
    """Measure one net and print its line."""
    options, count, sample_only = NETS[name]
    model = trained(name, options, steps)
    split = data.load("fashion-mnist", "test", limit=images or count, size=options.get("input_size"))
    inputs, targets = split.images, split.labels
    sites = sc.channels(model, inputs[:1])
    units = sampled(sites, each)
    asked = units if sample_only else None
    start = time.process_time()
    risen = peak(lambda: ours(model, sites, asked, inputs, targets))
    once = time.process_time() - start
    counter = Work()
    some = min(len(inputs), 200)
    with counter:
        ours(model, sites, asked, inputs[:some], targets[:some])
    loop = model.to(memory_format=torch.channels_last) if channels_last else model
    base = mean_loss(loop, inputs, targets)
    plain, difference, times, shared = 0.0, 0.0, [], []
    for site, spent, changes in plain_loop(loop, sites, units, inputs, targets, base):
        # Where we are timed on a sample too: what all units share once, and each site's own time scaled.
        wanted = {n: units[n] if n == site else units[n][:0] for n in sites} if sample_only else None
        start = time.process_time()
        found = ours(model, sites, wanted, inputs, targets)
        spent_here = time.process_time() - start
        if sample_only:
            nothing = {n: units[n][:0] for n in sites}
            shared.append(seconds(lambda nothing=nothing: ours(model, sites, nothing, inputs, targets)))
            spent_here = (spent_here - shared[-1]) * sites[site].size / len(units[site])
        times.append(spent_here)
        plain += spent
        difference = max(difference, float((found[site][units[site]] - torch.tensor(changes)).abs().max()) / base)
    total = sum(site.size for site in sites.values())
    measured = sum(map(len, units.values())) if sample_only else total
    mine = sum(times) + statistics.median(shared) if sample_only else statistics.median(times)
    fraction = counter.total * len(inputs) / some / (once if sample_only else mine) / gemm_peak()
    print(
        f"{name:<14}{len(inputs):>7}{total:>7}{measured:>7}{plain:>10.1f}{mine:>9.2f}{plain / mine:>8.1f}"
        f"{difference:>11.1e}{risen / 2**20:>8.0f}{fraction:>7.0%}",
        flush=True,
    )


def exhaustive(images: int, steps: int) -> None:
    """Time the removal of one unit after the other, the best each time, against a plain loop that does the same."""
    model = trained("ann-128", {}, steps)
    split = data.load("fashion-mnist", "test", limit=images)
    sites = sc.channels(model, split.images[:1])
    hidden, output = model.get_submodule("hidden"), model.get_submodule("output")
    assert isinstance(hidden, nn.Linear)
    assert isinstance(output, nn.Linear)

    def run() -> list[int]:
        with torch.no_grad():
            h = product(split.images.flatten(1), hidden.weight, hidden.bias).relu_()
            return removals(LastLayer(h, output.weight, output.bias, split.labels), len(h[0]) - 1)

    each, mine, sequence = [], [], run()
    for unit in range(0, 128, 8):
        with removed(model, sites["hidden"], unit):
            each.append(seconds(lambda: mean_loss(model, split.images, split.labels)))
        if unit % 32 == 0:
            mine.append(seconds(run))
    one, all_removals = statistics.median(each), sum(range(2, 129))
    print(
        f"one scan of the 128 units by the plain loop: {128 * one:.2f} s; all 127 removals by it: {all_removals * one:.0f} s"
    )
    print(
        f"ours, all 127 removals: {statistics.median(mine):.3f} s; ratio {all_removals * one / statistics.median(mine):.0f}"
    )
    some = slice(0, 1000)
    with torch.no_grad():
        h = model.get_submodule("relu1")(hidden(split.images[some].flatten(1)))
        fast = removals(LastLayer(h, output.weight, output.bias, split.labels[some]), 127)
        slow = brute_force(h, output, split.labels[some])
    print(f"same sequence as brute force on 1,000 images: {fast == slow}; first removed on all: {sequence[:8]}")


def removals(layer: LastLayer, count: int) -> list[int]:
    """Remove the best unit, again and again."""
    found = []
    for _ in range(count):
        found.append(int(layer.changes().loss.argmin()))
        layer.remove(found[-1])
    return found


def brute_force(h: Tensor, output: nn.Linear, targets: Tensor) -> list[int]:
    """The same removals, each loss by a pass through the last layer in float64."""
    h, weight, bias, found = h.double(), output.weight.double(), output.bias.double(), list[int]()
    while len(found) < h.shape[1] - 1:
        losses = []
        for unit in range(h.shape[1]):
            kept = h.clone()
            kept[:, unit] = 0
            gone = unit in found
            losses.append(torch.inf if gone else float(cross_entropy(kept @ weight.T + bias, targets)))
        found.append(int(torch.tensor(losses).argmin()))
        h[:, found[-1]] = 0
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--images", type=int, help="how many test images")
    parser.add_argument("--each", type=int, default=30, help="units of each layer that the plain loop is timed on")
    parser.add_argument("--steps", type=int, default=300, help="steps of training before")
    parser.add_argument("--channels-last", action="store_true", help="the plain loop in channels_last")
    parser.add_argument("--exhaustive", action="store_true", help="time exhaustive pruning of ann-128 instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.exhaustive:
        exhaustive(options.images or 10_000, options.steps)
        return
    print("net            images  units  timed  plain s   ours s   ratio  max diff.  MiB    GEMM")
    for name in options.net:
        compare(name, options.images, options.each, options.steps, options.channels_last)


if __name__ == "__main__":
    main()
