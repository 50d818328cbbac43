"""Sparse layers: where zeros in any place save time on this processor, and where not.

    python benchmarks/sparse.py --threads 1
    python benchmarks/sparse.py --runtime onnxruntime

Linear layers of several widths, at several batches and fractions of zeros, and convolutions of one pixel and of 3 × 3: the
dense layer's time over that in CSR (``csr @ x``), and over ``F.linear`` with a CSR weight. With ``--runtime`` the same
layers are exported with their zeros, to see whether the runtime makes anything of them.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.transforms import CsrLayer

WIDTHS = (256, 1024, 2048)
BATCHES = (1, 16, 64)
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.99)


class Fused(nn.Module):
    """F.linear with a CSR weight."""

    def __init__(self, layer: CsrLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.layer.weight, self.layer.bias)


class Unfolded(nn.Module):
    """A 3 × 3 convolution as a CSR matrix times the patches of its input."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.csr = CsrLayer(layer)
        self.padding = layer.padding

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, 3, padding=self.padding)
        assert self.csr.bias is not None
        product = self.csr.weight @ patches.movedim(1, 0).flatten(1) + self.csr.bias[:, None]
        return product.unflatten(1, (len(x), *x.shape[2:])).movedim(0, 1)


def with_zeros(layer: Any, sparsity: float) -> Any:
    """The layer with the smallest of its weights set to zero."""
    with torch.no_grad():
        least = layer.weight.abs().flatten().kthvalue(int(sparsity * layer.weight.numel())).values
        layer.weight[layer.weight.abs() <= least] = 0
    return layer.eval()


def speedups(models: dict[str, nn.Module], x: Tensor, threads: int, runtime: str = "eager") -> dict[str, float]:
    """How many times as fast as the first each model is; all must answer alike."""
    with torch.no_grad():
        answers = [model(x) for model in models.values()]
    assert runtime != "eager" or all(torch.allclose(answers[0], answer, atol=1e-4) for answer in answers)
    compared = sc.measure.compare_latency(models, x, threads=threads, repeats=25, runtime=runtime)
    return {name: compared.speedups[name].median for name in list(models)[1:]}


def show(kind: str, shape: str, sparsity: float, ratios: dict[str, float]) -> None:
    """Print a row of the table."""
    print(
        f"| {kind} | {shape} | {sparsity:.0%} | {' | '.join(f'{name} {ratio:.2f}' for name, ratio in ratios.items())} |",
        flush=True,
    )


def in_csr(threads: int) -> None:
    """Dense layers beside CSR in PyTorch."""
    for width in WIDTHS:
        for batch in BATCHES:
            for sparsity in SPARSITIES:
                dense = with_zeros(nn.Linear(width, width), sparsity)
                csr = CsrLayer(dense)
                models = {"dense": dense, "csr @ x": csr, "F.linear": Fused(csr)}
                show(
                    "linear", f"{width}, batch {batch}", sparsity, speedups(models, torch.randn(batch, width), threads)
                )
    for side, batch in ((14, 1), (14, 16)):
        for sparsity in SPARSITIES[1:]:
            x = torch.randn(batch, 256, side, side)
            point = with_zeros(nn.Conv2d(256, 256, 1), sparsity)
            show(
                "1 × 1",
                f"256 at {side}², batch {batch}",
                sparsity,
                speedups({"dense": point, "csr @ x": CsrLayer(point)}, x, threads),
            )
            wide = with_zeros(nn.Conv2d(256, 256, 3, padding=1), sparsity)
            show(
                "3 × 3",
                f"256 at {side}², batch {batch}",
                sparsity,
                speedups({"dense": wide, "unfolded": Unfolded(wide)}, x, threads),
            )


def in_runtime(runtime: str, threads: int) -> None:
    """Layers with zeros beside the same without, in a runtime."""
    for width in WIDTHS[1:]:
        for sparsity in SPARSITIES[2:]:
            layer = nn.Linear(width, width)
            zeros = nn.Linear(width, width)
            zeros.load_state_dict(layer.state_dict())
            models = {"dense": layer.eval(), "zeros": with_zeros(zeros, sparsity)}
            show("linear", f"{width}, batch 64", sparsity, speedups(models, torch.randn(64, width), threads, runtime))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runtime", help="one with files, instead of PyTorch")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore", message="Sparse CSR")
    torch.manual_seed(0)
    if chosen.runtime:
        in_runtime(chosen.runtime, chosen.threads)
    else:
        in_csr(chosen.threads)


if __name__ == "__main__":
    main()
