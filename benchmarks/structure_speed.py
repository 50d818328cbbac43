"""How long it takes to trace, plan and cut a model, beside Torch-Pruning on the same model, and how much memory.

    python benchmarks/structure_speed.py --model resnet50 --rounds 7
    git worktree add ../before COMMIT && python benchmarks/structure_speed.py --before ../before

Both tools prune 30 % of the channels by L2 norm, in turns in one run at one thread; process time, medians and ratios.
Torch-Pruning does not verify what it made, so our time is given with and without verification; the difference is what
verification costs. ``--before`` measures that of another commit's worktree too, in turns with this one's. Memory is the peak of a
process of its own that does the work once, above what it held before, as a multiple of the model's parameters.
Needs what benchmarks/README.md lists.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

SIZE = 224


def build(name: str) -> nn.Module:
    """Return a torchvision model with random weights, in eval mode."""
    from coverage_libraries import import_torchvision

    torch.manual_seed(0)
    model: nn.Module = import_torchvision().models.get_model(name)
    return model.eval()


def ours(model: nn.Module, inputs: torch.Tensor, verified: bool) -> nn.Module:
    """Trace, score, select and cut with secateur."""
    import secateur as sc
    from secateur.structure.plan import apply_plan, make_plan

    sites = sc.channels(model, inputs)
    keep = sc.select(sc.criteria.Magnitude(p=2)(model, sites), 0.3, scope="layer", sites=sites)
    if verified:
        return sc.cut(model, sites, keep, form="module")
    gone = {sites.structure.units[name]: kept for name, kept in keep.items()}
    return apply_plan(model, make_plan(model, sites.structure, gone))


def theirs(model: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """The same with Torch-Pruning, in place."""
    import torch_pruning as tp

    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    importance = tp.importance.MagnitudeImportance(p=2)
    tp.pruner.MagnitudePruner(model, inputs, importance=importance, pruning_ratio=0.3, ignored_layers=[last]).step()
    return model


def seconds(work: Callable[[], Any]) -> float:
    """Process time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def peak(name: str) -> None:
    """Print how far memory rises above the model, as a multiple of its parameters (run in a process of its own)."""
    model, inputs = build(name), torch.randn(1, 3, SIZE, SIZE)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    with torch.no_grad():
        model(inputs)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # Linux: forget the highest mark so far
    before = _status("VmRSS")
    ours(model, inputs, verified=True)
    after = _status("VmHWM")
    print(f"memory: {size / 2**20:.0f} MiB of parameters; the cut took {(after - before) / size:.2f} times that on top")


SERVE = """
import sys
sys.path[:0] = [sys.argv[1] + "/src", sys.argv[1] + "/benchmarks"]
import torch
from structure_speed import SIZE, build, ours, seconds
torch.set_num_threads(1)
inputs, model = torch.randn(1, 3, SIZE, SIZE), build(sys.argv[2])
for _ in sys.stdin:
    print(*(seconds(lambda: ours(model, inputs, verified=verified)) for verified in (True, False)), flush=True)
"""


def compare(name: str, rounds: int, before: str) -> None:
    """Print what verification costs in this worktree and in another, round by round in turns."""
    roots = {"here": str(Path(__file__).resolve().parents[1]), "before": before}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    servers = {
        which: subprocess.Popen([sys.executable, "-c", SERVE, root, name], **pipes) for which, root in roots.items()
    }
    costs: dict[str, list[float]] = {which: [] for which in roots}
    for _ in range(rounds + 1):
        for which, server in servers.items():
            server.stdin.write("once\n")
            server.stdin.flush()
            verified, unverified = map(float, server.stdout.readline().split())
            costs[which].append(verified - unverified)
    for server in servers.values():
        server.communicate()
    here, then = (statistics.median(costs[which][1:]) for which in roots)
    print(f"verification  {here:8.3f} s   {here / then:5.2f} × before ({then:.3f} s)")


def _status(field: str) -> int:
    """A figure of this process in bytes, from Linux's own account."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="a torchvision classification model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--before", metavar="FOLDER", help="a worktree of another commit to compare with")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        peak(options.model)
        return
    if options.before:
        compare(options.model, options.rounds, options.before)
        return
    inputs = torch.randn(1, 3, SIZE, SIZE)
    found: dict[str, list[float]] = {"verified": [], "not verified": [], "Torch-Pruning": []}
    for _ in range(options.rounds + 1):
        model, other = build(options.model), build(options.model)
        found["verified"].append(seconds(lambda: ours(model, inputs, verified=True)))  # noqa: B023
        found["not verified"].append(seconds(lambda: ours(model, inputs, verified=False)))  # noqa: B023
        found["Torch-Pruning"].append(seconds(lambda: theirs(other, inputs)))  # noqa: B023
    medians = {name: statistics.median(times[1:]) for name, times in found.items()}  # the first round warms up
    for name, median in medians.items():
        print(f"{name:<14}{median:8.3f} s   {median / medians['Torch-Pruning']:5.2f} × Torch-Pruning")
    print(f"verification  {medians['verified'] - medians['not verified']:8.3f} s")
    subprocess.run([sys.executable, __file__, "--model", options.model, "--peak"], check=True)


if __name__ == "__main__":
    main()
