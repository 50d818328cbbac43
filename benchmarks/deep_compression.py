"""Deep Compression of a network: pruned, shared, entropy coded; measured on disk and in a new process.

    python benchmarks/deep_compression.py --data fashion-mnist --net lenet-300-100

The network is trained, then its weights are pruned in steps by magnitude, with a training after each; at each sparsity of
the grid they share 2^bits values, which are trained (Han, Mao and Dally, 2016). The validation split decides: of all
candidates that lose no more than the allowance there, the one of the fewest bytes. It is saved, loaded in a new process,
whose outputs on the test images must be the same to the bit, and only then the test accuracy is looked at. The size is
that of the whole folder, the report and what was done included, against the safetensors file of the trained network.
Needs the extra ``data``; with the extra ``coding`` indices are coded to their entropy.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import secateur as sc
from secateur.criteria import Magnitude
from secateur.data import Split
from secateur.measure import file_bytes
from secateur.schedules import Iterative
from secateur.train import HoldZeros, TrainOptions
from secateur.transforms import Share

PLAIN = TrainOptions(batch_size=256, optimizer="adamw", weight_decay=0.1, schedule="cosine", restore_best=False)
DENSE, BETWEEN, LAST = replace(PLAIN, epochs=12), replace(PLAIN, epochs=3), replace(PLAIN, epochs=8)
SHARED = replace(PLAIN, epochs=2, lr=1e-4, weight_decay=0.0)

LOADER = """
import sys, torch, secateur as sc
from safetensors.torch import load_file, save_file
folder, images, outputs, net = sys.argv[1:]
torch.set_num_threads(1)
model = sc.load(folder, sc.models.build(net, seed=99)).eval()
with torch.no_grad():
    save_file({"outputs": model(load_file(images)["images"])}, outputs)
"""


@dataclass(frozen=True)
class Images:
    """The three splits; the test split is looked at once."""

    train: Split
    validation: Split
    test: Split


@dataclass(frozen=True)
class Candidate:
    """A compressed network."""

    sparsity: float
    bits: int
    accuracy: float
    size: int
    result: sc.Result


def train(model: nn.Module, masks: Mapping[str, Tensor], *, images: Images, options: TrainOptions) -> None:
    """Train what is left."""
    sc.fit(model, images.train, images.validation, options, callbacks=[HoldZeros(dict(masks))])


def pruned(model: nn.Module, images: Images, sparsities: list[float]) -> Iterator[tuple[float, sc.Result]]:
    """Yield the model pruned to each of the sparsities, one made of the one before."""
    earlier: sc.Result | None = None
    for sparsity in sparsities:
        base = model if earlier is None else earlier.model
        schedule = Iterative(Magnitude(), sparsity, train=partial(train, images=images, options=BETWEEN))
        step = schedule(base, sc.weights(base))
        earlier = step if earlier is None else step.after(earlier)
        yield sparsity, earlier


def candidates(model: nn.Module, images: Images, args: argparse.Namespace) -> Iterator[Candidate]:
    """Yield the networks that are compared, with their accuracy on the validation split."""
    for sparsity, result in pruned(model, images, args.sparsities):
        if sparsity < args.least:
            continue
        masks = {name: parameter != 0 for name, parameter in result.model.named_parameters() if parameter.ndim > 1}
        train(result.model, masks, images=images, options=LAST)
        for bits in args.bits:
            share = Share(bits, data=images.train, validation=images.validation, train=SHARED)
            shared = share(result.model, images.validation.images[:16]).after(result)
            accuracy = sc.evaluate(shared.model, images.validation).accuracy
            assert accuracy is not None
            candidate = Candidate(sparsity, bits, accuracy, size_on_disk(shared), shared)
            print(f"{sparsity:.3f} pruned, {bits} bits: {candidate.size:,} bytes, validation {accuracy:.2%}")
            yield candidate


def size_on_disk(result: sc.Result) -> int:
    """Return the bytes of the folder that a result is saved in, all that is written beside the tensors included."""
    with tempfile.TemporaryDirectory() as parent:
        return sum(file.stat().st_size for file in result.save(Path(parent) / "saved").iterdir())


def choice(made: list[Candidate], least: float) -> Candidate:
    """Return the smallest that is accurate enough on the validation split; where none is, the most accurate."""
    able = [candidate for candidate in made if candidate.accuracy >= least]
    if able:
        return min(able, key=lambda candidate: candidate.size)
    print("no candidate keeps its accuracy on the validation split: the most accurate one is taken")
    return max(made, key=lambda candidate: candidate.accuracy)


def outputs_elsewhere(folder: Path, images: Tensor, net: str) -> Tensor:
    """Return the outputs of the saved network in a new process."""
    files = folder.with_suffix(".images"), folder.with_suffix(".outputs")
    save_file({"images": images.contiguous()}, files[0])
    subprocess.run([sys.executable, "-c", LOADER, str(folder), *map(str, files), net], check=True)
    return load_file(files[1])["outputs"]


def outputs_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the outputs here."""
    with torch.no_grad():
        outputs: Tensor = model.eval()(images)
    return outputs


def report(model: nn.Module, best: Candidate, images: Images, args: argparse.Namespace) -> None:
    """Save the chosen network, load it elsewhere, and print what it takes and does."""
    folder = best.result.save(Path(args.out or tempfile.mkdtemp()) / "compressed")
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    same = torch.equal(
        outputs_elsewhere(folder, images.test.images, args.net), outputs_of(best.result.model, images.test.images)
    )
    before, after = (sc.evaluate(m, images.test).accuracy for m in (model, best.result.model))
    assert before is not None
    assert after is not None
    total = sum(sizes.values())
    print(f"chosen: {best.sparsity:.1%} of the weights pruned, {best.bits} bits")
    print(f"bytes: {file_bytes(model):,} → {total:,}, {file_bytes(model) / total:.1f} times smaller: {sizes}")
    print(f"tensors alone: {file_bytes(model) / best.result.report.bytes[1]:.1f} times smaller")
    print(f"test accuracy: {before:.2%} → {after:.2%} ({100 * (after - before):+.2f} points)")
    print(f"outputs in a new process are {'the same to the bit' if same else 'OTHERS'}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--net", default="lenet-300-100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.6, 0.8, 0.88, 0.92, 0.93])
    parser.add_argument("--least", type=float, default=0.92, help="the sparsity from which candidates are made")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 5])
    parser.add_argument("--allowance", type=float, default=0.5, help="points of validation accuracy that may be lost")
    parser.add_argument("--smaller", type=float, default=35.0, help="times that the folder is to be smaller")
    parser.add_argument("--out", help="where the folder is kept")
    return parser.parse_args()


def main() -> None:
    """Compress a network, and print what it took."""
    args, started = arguments(), time.perf_counter()
    torch.set_num_threads(1)
    splits = {split: sc.data.load(args.data, split, validation=10_000) for split in ("train", "validation", "test")}
    images = Images(**splits)
    model = sc.models.build(args.net, seed=args.seed)
    sc.fit(model, images.train, images.validation, DENSE)
    before = sc.evaluate(model, images.validation).accuracy
    assert before is not None
    print(f"trained: {file_bytes(model):,} bytes, validation {before:.2%}")
    most = file_bytes(model) / args.smaller
    made = [candidate for candidate in candidates(model, images, args) if candidate.size <= most]
    if not made:
        sys.exit(f"no candidate is {args.smaller:g} times smaller: prune more, or take fewer bits")
    report(model, choice(made, before - args.allowance / 100), images, args)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
