"""How far do results with two threads lie from those with one? Each with the same seed; a table in markdown.

python benchmarks/threads.py
python benchmarks/threads.py --only repair search
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

import secateur as sc
from secateur import solvers
from secateur.criteria import (
    CRITERIA,
    GraSP,
    HessianTrace,
    OptimalBrainDamage,
    OptimalBrainSurgeon,
    SecondOrder,
    Snip,
    Taylor,
    by_name,
    entry,
)
from secateur.repair import REPAIRS, repair
from secateur.search import CmaEs, Fitness, Genetic, HillClimbing, Search, Space, Supermask, only

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(256, 3, 16, 16, generator=GENERATOR)
DATA = (X, torch.randint(0, 10, (256,), generator=GENERATOR))
Answer = Mapping[str, Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    features = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3)]
    return nn.Sequential(
        *features, nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 128), nn.ReLU(), nn.Linear(128, 10)
    ).eval()


def with_threads(number: int, compute: Callable[[], Answer]) -> Answer:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        return compute()
    finally:
        torch.set_num_threads(before)


def difference(compute: Callable[[], Answer]) -> float:
    """The greatest difference by the greatest value, over all tensors; 0 where all bits are the same."""
    alone, together = (with_threads(number, compute) for number in (1, 2))
    if all(torch.equal(alone[name], together[name]) for name in alone):
        return 0.0
    greatest = max(float(tensor.double().abs().max()) for tensor in alone.values())
    return max(float((alone[n].double() - together[n].double()).abs().max()) for n in alone) / greatest


def trained() -> Answer:
    model = network()
    sc.fit(model, DATA, epochs=2, batch_size=64, seed=0)
    return _weights(model)


def computations() -> dict[str, Callable[[], Answer]]:
    model = network()
    sites, single = sc.channels(model, X[:1]), sc.weights(model)
    table: dict[str, Callable[[], Answer]] = {"fit, 2 epochs of Adam (weights)": trained}
    on_weights = [Snip(DATA), GraSP(DATA), Taylor(DATA), HessianTrace(DATA, probes=2), OptimalBrainDamage(DATA)]
    for criterion in [*on_weights, SecondOrder(DATA), OptimalBrainSurgeon(DATA)]:
        name = f"{type(criterion).__name__}, single weights"
        table[name] = lambda criterion=criterion: criterion(model, single)  # type: ignore[misc]
    for name in CRITERIA:
        criterion = by_name(name, DATA if entry(name).needs_data else None)
        table[f"{name}, channels"] = lambda criterion=criterion: criterion(model, sites)  # type: ignore[misc]
    return {**table, **repairs(model, sites), **solutions(model), **searches(model)}


def repairs(model: nn.Module, sites: sc.Sites) -> dict[str, Callable[[], Answer]]:
    """Repair after a cut of half of each layer's channels: the weights."""
    keep = sc.select(by_name("l2")(model, sites), 0.5)
    ways = {how: lambda how=how: _weights(repair(model, sites, keep, DATA, how)) for how in REPAIRS}  # type: ignore[misc]
    return {f"repair, {how} (weights)": compute for how, compute in ways.items()}


def solutions(model: nn.Module) -> dict[str, Callable[[], Answer]]:
    """What each solver leaves of a half, masks and weights."""
    small = {"structured-obs": sc.channels(model, X[:1]), "thinet": sc.channels(model, X[:1])}
    few = (X[:64], DATA[1][:64])
    single = only(sc.weights(model), "9.weight")
    return {
        f"{name}, solver (weights)": lambda name=name: _weights(  # type: ignore[misc]
            solvers.by_name(name, few).solve(model, small.get(name, single), 0.5).apply(model)
        )
        for name in solvers.names()
    }


def searches(model: nn.Module) -> dict[str, Callable[[], Answer]]:
    """The masks that searches find, and how good these are."""

    def found(search: Search) -> Answer:
        space = Space(model, only(sc.weights(model), "9.weight"))
        result = search(Fitness(space, DATA), space, budget=200, seed=0)
        return {"genes": result.keep["9.weight"].float(), "fitness": torch.tensor(result.history.fitness)}

    each: list[Search] = [Genetic(damage=0.3), HillClimbing(), CmaEs("all"), Supermask()]
    return {f"{type(search).__name__}, search (mask)": lambda search=search: found(search) for search in each}  # type: ignore[misc]


def _weights(model: nn.Module) -> Answer:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="what holds one of these texts")
    asked = parser.parse_args()
    print("| what | greatest difference ÷ greatest value | seconds |\n| --- | --- | --- |", flush=True)
    for name, compute in computations().items():
        if not any(text in name for text in asked.only):
            continue
        since = time.monotonic()
        try:
            size = difference(compute)
        except sc.SecateurError as error:
            print(f"| {name} | not for these units ({str(error)[:60]}) | |", flush=True)
            continue
        print(f"| {name} | {f'{size:.0e}' if size else '0'} | {time.monotonic() - since:.0f} |", flush=True)


if __name__ == "__main__":
    main()
