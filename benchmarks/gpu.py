"""Whether a GPU computes what the CPU does: prune, loss change, criteria, search, fit and compress on both, compared.

    python benchmarks/gpu.py             # eight minutes at most; ends with 1 where something differs
    python benchmarks/gpu.py --dry-run   # the same on the CPU alone, against itself: that the script is right

Without CUDA it says so and ends with 2: nothing was compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc

MINUTES = 8.0

CRITERIA = ("l1", "l2", "taylor", "snip", "grasp", "synflow", "activation-rank")


@dataclass(frozen=True)
class Check:
    """One thing that both devices do.

    Attributes:
        name: what.
        run: does it on a device, and gives tensors by name.
        tolerance: the greatest relative difference: what is trained goes apart as rounding is amplified.
    """

    name: str
    run: Callable[[torch.device], dict[str, Tensor]]
    tolerance: float


class Residual(nn.Module):
    """Convolutions, batch norms, a residual connection and a linear layer."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.first = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width))
        self.inner = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(self.stem(x)))
        logits: Tensor = self.head(torch.relu(x + self.inner(x)).mean((2, 3)))
        return logits


def network() -> nn.Module:
    """The same network each time."""
    torch.manual_seed(0)
    return Residual()


def data(device: torch.device, count: int = 512) -> tuple[Tensor, Tensor]:
    """Pictures whose label is where they are bright, on a device."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 10
    images = torch.randn(count, 3, 16, 16, generator=generator)
    images += labels.view(-1, 1, 1, 1) / 10
    return images.to(device), labels.to(device)


def prune(device: torch.device) -> dict[str, Tensor]:
    images, _ = data(device)
    result = sc.prune(network().to(device), images[:1], "l2", 0.5, latency=False)
    with torch.no_grad():
        outputs = result.model.eval()(images[:64])
    return {**{f"keep {name}": keep.float() for name, keep in result.keep.items()}, "outputs": outputs}


def loss_change(device: torch.device) -> dict[str, Tensor]:
    images, labels = data(device, 256)
    model = network().to(device)
    return dict(sc.criteria.LossChange((images, labels))(model, sc.channels(model, images[:1])))


def criteria(device: torch.device) -> dict[str, Tensor]:
    images, labels = data(device, 256)
    model, scores = network().to(device), {}
    sites = sc.channels(model, images[:1])
    for name in CRITERIA:
        needs_data = sc.criteria.entry(name).needs_data
        criterion = sc.criteria.by_name(name, (images, labels) if needs_data else None)
        scores |= {f"{name} {site}": score for site, score in criterion(model, sites).items()}
    return scores


def search(device: torch.device) -> dict[str, Tensor]:
    images, labels = data(device, 256)
    model = network().to(device)
    space = sc.search.Space(model, sc.channels(model, images[:1]))
    result = sc.search.RandomSearch()(sc.search.Fitness(space, (images, labels)), space, budget=40)
    return {"fitness": torch.tensor([result.history.fitness])}


def fit(device: torch.device) -> dict[str, Tensor]:
    model = network().to(device)
    history = sc.fit(model, data(device), epochs=3, batch_size=64, lr=1e-3)
    return {"losses": torch.tensor([epoch.train_loss for epoch in history.epochs])}


def compress(device: torch.device) -> dict[str, Tensor]:
    train = data(device)
    model = network().to(device)
    sc.fit(model, train, epochs=2, batch_size=64, lr=1e-3)
    held = (train[0][:128], train[1][:128])
    result = sc.compress(model, train[0][:1], {"macs": 0.6}, train, held, max_drop=1.0)
    before, after = result.report.macs
    return {"macs": torch.tensor([after / before])}


CHECKS = (
    Check("prune", prune, 1e-3),
    Check("loss change", loss_change, 1e-2),
    Check("criteria", criteria, 1e-2),
    Check("search", search, 5e-2),
    Check("fit", fit, 5e-2),
    Check("compress", compress, 0.2),
)


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The greatest difference between tensors of one name, of the greatest entry of the first; infinite where names differ."""
    if a.keys() != b.keys():
        return float("inf")
    worst = 0.0
    for name, x in a.items():
        x, y = x.detach().double().cpu(), b[name].detach().double().cpu()
        if x.shape != y.shape:
            return float("inf")
        worst = max(worst, float((x - y).abs().max() / x.abs().max().clamp_min(1e-12))) if x.numel() else worst
    return worst


def compared(check: Check, device: torch.device) -> dict[str, Any]:
    """Do a check on both devices, and say how far apart they are."""
    seconds, answers = [], []
    for place in (torch.device("cpu"), device):
        start = time.perf_counter()
        answers.append(check.run(place))
        seconds.append(round(time.perf_counter() - start, 2))
    difference = apart(*answers)
    return {
        "check": check.name,
        "difference": difference,
        "tolerance": check.tolerance,
        "seconds": seconds,
        "same": difference <= check.tolerance,
    }


def main() -> int:
    """Compare, and print a line a check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="compare the CPU with itself")
    dry = parser.parse_args().dry_run
    if not (dry or torch.cuda.is_available()):
        print("there is no CUDA here: nothing was compared (--dry-run tries the script on the CPU)", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device, start, rows = torch.device("cpu" if dry else "cuda"), time.perf_counter(), []
    for check in CHECKS:
        if time.perf_counter() - start > 60 * MINUTES:
            print(f"{check.name}: left out, as the time is up", file=sys.stderr)
            rows.append({"check": check.name, "same": False})
            continue
        try:
            rows.append(compared(check, device))
        except Exception as error:  # noqa: BLE001  (the others are to be seen all the same)
            rows.append({"check": check.name, "same": False, "error": f"{type(error).__name__}: {error}"})
        print(json.dumps(rows[-1]), flush=True)
    return 0 if all(row["same"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
