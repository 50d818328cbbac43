"""SmolLM2 without a quarter of every MLP, repaired and trained on the uncut model's answers: perplexities, tokens, time, memory.

python benchmarks/recovery.py [--folder smollm2] [--sequences 400] [--rank 0] [--lr 3e-4] [--seed 0]

400 sequences are 204,800 tokens. Set OMP_WAIT_POLICY=PASSIVE where cores are shared.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import smollm2
from secateur.measure import perplexity
from secateur.stream import CutUnits, walk
from secateur.train import Recovery, TrainOptions, recover

CALIBRATION = 16
"""Sequences that the walk looks at; they are trained on as well."""


def main() -> None:
    """Cut, measure, train, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("smollm2"))
    parser.add_argument("--sequences", type=int, default=400)
    parser.add_argument("--untouched", type=int, default=4)
    parser.add_argument("--rank", type=int, default=0, help="of the changes; 0 trains all weights")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    model = smollm2.load(asked.folder)
    text, untouched = smollm2.calibration_and_untouched(asked.folder, asked.seed, asked.sequences, asked.untouched)
    dense = perplexity(model, untouched)
    small = walk(model, text[:CALIBRATION], CutUnits(0.25, repair="stream")).model
    print(f"dense {dense:.3f}, cut and repaired {perplexity(small, untouched) / dense:.3f} times", flush=True)
    options = TrainOptions(
        epochs=1, batch_size=1, accumulate=2, lr=asked.lr, schedule="onecycle", clip_norm=1.0, amp=True
    )
    start, cpu = time.time(), time.process_time()
    recover(small, model, text, Recovery(options, rank=asked.rank or None))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"trained on {text.numel()} tokens: {perplexity(small, untouched) / dense:.3f} times; {time.time() - start:.0f} s "
        f"({time.process_time() - cpu:.0f} s of CPU), at most {memory:.1f} GB"
    )


if __name__ == "__main__":
    main()
