"""Which initialisation bears pruning best: chosen on one network and data set, judged on others.

    python benchmarks/robust_init.py                                  # an hour
    python benchmarks/robust_init.py --seeds 3 --judges 5 --epochs 6 --rate 0.36 --rounds 6   # minutes

Iterative magnitude pruning with resetting (Frankle and Carbin, 2019): train, remove the smallest weights of each layer (the
last layer's at half the rate), set the others back to how they began, again. All seeds and schemes are one stack of
`fit_replicas`. A scheme's figure is its mean accuracy over the rounds after the first, which is the area under the curve of
accuracy over the logarithm of density. Of our own schemes the best of ann-128 on validation images of MNIST-5k, seeds 0, 1,
…, is chosen; it is judged beside the known ones by lenet-300-100 on Fashion-MNIST, with other seeds, paired by seed (t-test,
Holm).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.lab.show.stats.comparisons import compare
from secateur.schedules.tickets import lowest_removed

KNOWN = ("kaiming-normal", "kaiming-uniform", "xavier-normal", "xavier-uniform", "orthogonal", "lsuv")
OURS = ("student-t", "sparse", "sign-balanced", "small-normal", "small-output")
BASELINE = "kaiming-normal"


@dataclass(frozen=True, eq=False)
class Trial:
    """A network on a data set.

    Attributes:
        model: its name.
        train, test: the data.
        seeds: of weights and order.
    """

    model: str
    train: sc.data.Split
    test: sc.data.Split
    seeds: Sequence[int]


def begin(trial: Trial, scheme: str, seed: int) -> nn.Module:
    """A network as a scheme begins it."""
    model = sc.models.build(trial.model, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return sc.models.initialise(model, scheme, trial.train.images)


def pruned(model: nn.Module, keep: dict[str, Tensor], rate: float) -> dict[str, Tensor]:
    """The masks without the smallest of each layer's weights that are left; at half the rate in the last layer."""
    sizes = {name: model.get_parameter(name).detach().abs() for name in keep}
    rates = {name: rate / 2 if name == list(keep)[-1] else rate for name in keep}
    return lowest_removed(sizes, keep, rates, pooled=False)


def curves(trial: Trial, schemes: Sequence[str], asked: argparse.Namespace) -> pd.DataFrame:
    """One row a scheme, seed and round: density and accuracy."""
    runs = [(scheme, seed) for scheme in schemes for seed in trial.seeds]
    begun = [begin(trial, scheme, seed) for scheme, seed in runs]
    keeps = [{n: torch.ones_like(p, dtype=torch.bool) for n, p in m.named_parameters() if p.ndim > 1} for m in begun]
    rows = []
    for round_ in range(asked.rounds + 1):
        nets = copy.deepcopy(begun)
        seeds = [seed for _, seed in runs]
        options = {"epochs": asked.epochs, "batch_size": 60, "lr": 1.2e-3}
        sc.train.fit_replicas(nets, trial.train, seeds=seeds, keeps=keeps, **options)
        for net, keep, (scheme, seed) in zip(nets, keeps, runs, strict=True):
            density = sum(int(m.sum()) for m in keep.values()) / sum(m.numel() for m in keep.values())
            accuracy = 100 * sc.evaluate(net, trial.test).accuracy
            rows.append({"scheme": scheme, "seed": seed, "round": round_, "density": density, "accuracy": accuracy})
        keeps = [pruned(net, keep, asked.rate) for net, keep in zip(nets, keeps, strict=True)]
    return pd.DataFrame(rows)


def areas(frame: pd.DataFrame) -> pd.DataFrame:
    """Each run's mean accuracy over the pruned rounds, and its last."""
    after = frame[frame["round"] > 0]
    runs = after.groupby(["scheme", "seed"], as_index=False)["accuracy"].mean()
    last = after[after["round"] == after["round"].max()][["scheme", "seed", "accuracy"]]
    return runs.merge(last.rename(columns={"accuracy": "last"}))


def show(title: str, frame: pd.DataFrame) -> None:
    """Print the mean accuracies by density, and the comparisons with the baseline."""
    print(f"\n{title}, {frame['seed'].nunique()} seeds\n")
    frame = frame.assign(density=(100 * frame["density"]).round(1))
    print(frame.pivot_table(index="scheme", columns="density", values="accuracy").iloc[:, ::-1].round(2).to_string())
    for value, words in (("accuracy", "mean over the pruned rounds"), ("last", "last round")):
        table = compare(areas(frame), value=value, by="scheme", baseline=BASELINE, within=())
        print(f"\n{words}, points above {BASELINE}")
        print(table[["scheme", "difference", "low", "high", "p_corrected", "verdict"]].round(3).to_string(index=False))


def main() -> None:
    """Choose, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="to choose by")
    parser.add_argument("--judges", type=int, default=10, help="seeds to judge by")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rate", type=float, default=0.2, help="of weights removed after each round")
    parser.add_argument("--images", type=int, default=4000, help="of Fashion-MNIST, to train on")
    parser.add_argument("--csv", help="a file for all accuracies")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    digits = [sc.data.load("mnist-5k", split, validation=1000) for split in ("train", "validation")]
    chosen_on = curves(Trial("ann-128", *digits, range(asked.seeds)), KNOWN + OURS, asked)
    show("Chosen on: ann-128, MNIST-5k", chosen_on)
    means = areas(chosen_on).groupby("scheme")["accuracy"].mean()
    best = str(means[list(OURS)].idxmax())
    print(f"\nOf our own, the highest mean: {best}", flush=True)
    clothes = sc.data.load("fashion-mnist").subset(range(asked.images))
    test = sc.data.load("fashion-mnist", "test").subset(range(5000))
    trial = Trial("lenet-300-100", clothes, test, range(100, 100 + asked.judges))
    judged = curves(trial, (*KNOWN, best), asked)
    show(f"Judged on: lenet-300-100, {asked.images} images of Fashion-MNIST", judged)
    if asked.csv:
        pd.concat([chosen_on.assign(part="chosen"), judged.assign(part="judged")]).to_csv(asked.csv, index=False)


if __name__ == "__main__":
    main()
