"""How far do results with two threads lie from those with one? Each with the same seed; a table in markdown.

python benchmarks/threads.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

import secateur as sc
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
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


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
    return table


def main() -> None:
    """Print the table."""
    print("| what | greatest difference ÷ greatest value |\n| --- | --- |")
    for name, compute in computations().items():
        try:
            size = difference(compute)
        except sc.SecateurError as error:
            print(f"| {name} | not for these units ({str(error)[:60]}) |", flush=True)
            continue
        print(f"| {name} | {f'{size:.0e}' if size else '0'} |", flush=True)


if __name__ == "__main__":
    main()
