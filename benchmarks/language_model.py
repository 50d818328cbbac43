"""SmolLM2 cut on the walk: perplexities of criteria, repairs, depths and single weights; what a walk costs by depth; a plan.

python benchmarks/language_model.py WHAT … [--folder smollm2] [--sequences 16] [--untouched 8] [--seed 0]

WHAT is some of: dense, quarter, quarter-repaired, quarter-eliminated, half, half-repaired, depth, wanda, sparse-gpt, magnitude,
scaling, plan; see `WALKS` for the options of each. Set OMP_WAIT_POLICY=PASSIVE where cores are shared.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from secateur.measure import perplexity
from secateur.models.decoder import decoder
from secateur.solvers import SparseGPT
from secateur.stream import CutUnits, SparsifyWeights, drop_blocks, empty_weights, plan, walk, walk_folder
from secateur.stream.steps import BlockStep

WALKS: dict[str, BlockStep] = {
    "quarter": CutUnits(0.25),
    "quarter-repaired": CutUnits(0.25, repair="stream"),
    "quarter-eliminated": CutUnits(0.25, "elimination", "stream"),
    "half": CutUnits(0.5),
    "half-repaired": CutUnits(0.5, repair="stream"),
    "half-eliminated": CutUnits(0.5, "elimination", "stream"),
    "magnitude": SparsifyWeights(0.5, "l2"),
    "wanda": SparsifyWeights(0.5, "wanda"),
    "sparse-gpt": SparsifyWeights(0.5, SparseGPT),
}


def on_smollm2(names: list[str], folder: Path, sequences: int, untouched: int, seed: int) -> None:
    """Print the perplexity on untouched text of each cut, and the seconds that it took."""
    import smollm2

    model = smollm2.load(folder)
    calibration, measured = smollm2.calibration_and_untouched(folder, seed, sequences, untouched)
    print(f"seed {seed}, calibration {calibration.numel()} tokens, untouched {measured.numel()} tokens")
    for name in names:
        start, cpu = time.time(), time.process_time()
        if name == "dense":
            cut = model
        elif name == "depth":
            dropped = drop_blocks(model, calibration, 2, "influence")
            print(dropped.history.removed)
            cut = dropped.model
        else:
            cut = walk(model, calibration, WALKS[name]).model
        seconds, cpu = time.time() - start, time.process_time() - cpu
        print(f"{name}: perplexity {perplexity(cut, measured):.3f}, {seconds:.0f} s ({cpu:.0f} s of CPU)", flush=True)


SIZES = {"width": 256, "heads": 8, "groups": 4, "neurons": 1024, "vocabulary": 11}


def one_depth(blocks: int) -> None:
    """Print the CPU seconds and the peak memory of a walk over so many blocks whose weights are on disk."""
    import resource

    from safetensors.torch import save_file

    tokens = torch.randint(11, (16, 64), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        with empty_weights():
            model = decoder(blocks=blocks, **SIZES)
        for name, tensor in model.state_dict().items():
            # One tensor at a time, so that writing the model does not set the peak.
            save_file({name: torch.randn(tensor.shape) * 0.02}, source / f"{name}.safetensors")
        table = ",".join(f'"{name}": "{name}.safetensors"' for name in model.state_dict())
        (source / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{table}}}}}')
        start = time.process_time()
        walk_folder(model, source, Path(folder) / "target", tokens, CutUnits(0.25, repair="stream"))
        seconds = time.process_time() - start
    print(blocks, round(seconds, 2), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, flush=True)


def scaling() -> None:
    """Print CPU seconds and MiB at 12 and 24 blocks, each in a process of its own."""
    for blocks in (12, 24):
        subprocess.run([sys.executable, __file__, "one-depth", "--sequences", str(blocks)], check=True)


def planned() -> None:
    """Print what a quarter of the MLPs of a 7-billion-parameter Llama is, without weights; seconds and MiB."""
    import resource

    from transformers import LlamaConfig, LlamaForCausalLM

    start = time.time()
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32))
    result = plan(model, CutUnits(0.25))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{len(result.sites)} sites, {result.before} → {result.after}, {time.time() - start:.1f} s, {peak} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", choices=[*WALKS, "dense", "depth", "scaling", "one-depth", "plan"])
    parser.add_argument("--folder", type=Path, default=Path("smollm2"))
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--untouched", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if "one-depth" in options.what:
        one_depth(options.sequences)
    if "scaling" in options.what:
        scaling()
    if "plan" in options.what:
        planned()
    names = [name for name in options.what if name in WALKS or name in ("dense", "depth")]
    if names:
        on_smollm2(names, options.folder, options.sequences, options.untouched, options.seed)


if __name__ == "__main__":
    main()
