"""Wrong calls written by hand, over the whole public face: what is told names what is wrong, where, and the remedy."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.criteria import LossChange, Magnitude, Taylor
from secateur.schedules import Cycles, Exhaustive, Greedy, Iterative, Precomputed, Rewind, Shrink, SparseTraining
from secateur.search import Annealing, CmaEs, Genetic, HillClimbing, Nsga2, OneShotMagnitude, Space, Supermask, judge
from secateur.solvers import SparseGPT, StructuredOBS, ThiNet, WoodFisher
from secateur.testing.toys import hand_mlp, same_state, snapshot
from secateur.train import RigL, TrainCycle, TrainOptions, TrainSparse, TrainTicket
from secateur.transforms import LowRank, Quantize, Replace, Share

X = torch.ones(1, 2)
DATA = (torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1] * 4))
NAN = math.nan
OTHER = nn.Sequential(nn.Linear(2, 9), nn.ReLU(), nn.Linear(9, 2))
Case = tuple[str, Callable[[nn.Module, sc.Sites], object], str]


def kept(sites: sc.Sites, **changes: Any) -> dict[str, Any]:
    return {name: torch.ones(site.shape, dtype=torch.bool) for name, site in sites.items()} | changes


def with_nan() -> nn.Module:
    model = hand_mlp()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = NAN
    return model


CALLS: dict[str, list[Case]] = {
    "finding": [
        ("no model", lambda m, s: sc.channels("resnet", X), "channels: the model is a str; pass an nn.Module"),
        ("no inputs", lambda m, s: sc.channels(m, None), "example_inputs"),
        ("text inputs", lambda m, s: sc.channels(m, "1,2"), "example_inputs"),
        ("wrong width", lambda m, s: sc.channels(m, torch.ones(1, 3)), "example"),
        ("no sample", lambda m, s: sc.channels(m, torch.ones(0, 2)), "at least one sample"),
        ("ignored site unknown", lambda m, s: sc.channels(m, X, ignore=["head"]), "head"),
        ("ignored site a number", lambda m, s: sc.channels(m, X, ignore=3), "ignore must be names.*3"),
        ("no parameter to prune", lambda m, s: sc.prune(nn.ReLU(), X), "nothing"),
        ("weights ignored unknown", lambda m, s: sc.weights(m, ignore=["nope"]), "nope"),
        ("weights of no model", lambda m, s: sc.weights(3), "weights: the model is a int; pass an nn.Module"),
        ("unknown site looked up", lambda m, s: s["hed"], "hed"),
    ],
    "masks": [
        ("site unknown", lambda m, s: sc.mask(m, s, {"nope": torch.ones(3).bool()}), "nope"),
        ("not bool", lambda m, s: sc.cut(m, s, {n: torch.ones(v.shape) for n, v in s.items()}), "bool"),
        ("wrong shape", lambda m, s: sc.cut(m, s, {n: torch.ones(99).bool() for n in s}), r"99|shape"),
        ("nothing left", lambda m, s: sc.cut(m, s, {n: torch.zeros(v.shape).bool() for n, v in s.items()}), "at least|every|all"),
        ("a list", lambda m, s: sc.cut(m, s, {n: [True] * v.size for n, v in s.items()}), "bool|tensor"),
        ("no mapping", lambda m, s: sc.mask(m, s, 0.5), "keep must be a mapping of site name to bool tensor; got a float"),
        ("sites of another model", lambda m, s: sc.cut(OTHER, s, kept(s)), "another model|sites"),
        ("statistics unknown", lambda m, s: sc.mask(m, s, kept(s), statistics="most"), "statistics.*most"),
        ("form unknown", lambda m, s: sc.cut(m, s, kept(s), form="onnx"), "form.*onnx"),
        ("tolerance below 0", lambda m, s: sc.cut(m, s, kept(s), tolerance=-1), "tolerance=-1"),
        ("tolerance nan", lambda m, s: sc.cut(m, s, kept(s), tolerance=NAN), "tolerance=nan"),
        ("optimizer of another", lambda m, s: sc.cut(m, s, kept(s), optimizer=torch.optim.SGD(OTHER.parameters(), lr=1)), "optimizer"),
        ("optimizer a text", lambda m, s: sc.cut(m, s, kept(s), optimizer="adam"), "optimizer='adam'"),
    ],
    "select": [
        ("neither amount", lambda m, s: sc.select({"a": torch.ones(3)}), "sparsity"),
        ("two amounts", lambda m, s: sc.select({"a": torch.ones(3)}, 0.5, threshold=1.0), "sparsity.*threshold|threshold.*sparsity|one of"),
        ("above 1", lambda m, s: sc.select({"a": torch.ones(3)}, 1.1), r"sparsity=1\.1.*\[0, 1\]"),
        ("nan", lambda m, s: sc.select({"a": torch.ones(3)}, NAN), "sparsity=nan"),
        ("a text", lambda m, s: sc.select({"a": torch.ones(3)}, "half"), "sparsity='half'"),
        ("True", lambda m, s: sc.select({"a": torch.ones(3)}, True), "sparsity=True"),
        ("no scores", lambda m, s: sc.select({}, 0.5), "scores|site"),
        ("nan scores", lambda m, s: sc.select({"a": torch.tensor([NAN, 1.0])}, 0.5), "a.*NaN|NaN.*a"),
        ("scope", lambda m, s: sc.select({"a": torch.ones(3)}, 0.5, scope="net"), "unknown scope 'net'"),
        ("pattern words", lambda m, s: sc.select({"a": torch.ones(4, 4)}, pattern="half"), "pattern"),
        ("pattern 4:2", lambda m, s: sc.select({"a": torch.ones(4, 4)}, pattern="4:2"), "4:2"),
        ("pattern of channels", lambda m, s: sc.select({"a": torch.ones(4)}, pattern="2:4"), "pattern|2:4"),
        ("block zero", lambda m, s: sc.select({"a": torch.ones(4, 4)}, 0.5, block=(0, 1)), "block"),
        ("minimum below 0", lambda m, s: sc.select({"a": torch.ones(4)}, 0.5, minimum=-1), "minimum=-1"),
        ("round to 0", lambda m, s: sc.select({"a": torch.ones(4)}, 0.5, round_to=0), "round_to=0"),
        ("cumulative 2", lambda m, s: sc.select({"a": torch.ones(4)}, cumulative=2.0), r"cumulative=2\.0"),
    ],
    "prune": [
        ("unknown option", lambda m, s: sc.prune(m, X, sparcity=0.5), "sparcity.*sparsity"),
        ("criterion no callable", lambda m, s: sc.prune(m, X, 3), "criterion is 3; give the name of one, such as 'l2'"),
        ("weights with a budget of latency", lambda m, s: sc.prune(m, X, unit="weights", budget={"latency": 0.5}), "zeros make a model no smaller or faster.*channels"),
        ("budget empty", lambda m, s: sc.prune(m, X, budget={}), "budget"),
        ("budget unknown", lambda m, s: sc.prune(m, X, budget={"flops": 0.5}), "flops.*macs"),
        ("budget no number", lambda m, s: sc.prune(m, X, budget={"macs": "half"}), "half"),
        ("budget and sparsity", lambda m, s: sc.prune(m, X, "l2", 0.5, budget={"macs": 0.5}), "budget|sparsity"),
        ("solver unknown", lambda m, s: sc.prune(m, X, solver="obs", data=DATA), "obs"),
        ("solver without data", lambda m, s: sc.prune(m, X, solver="thinet"), "data"),
        ("repair unknown", lambda m, s: sc.prune(m, X, "l2", 0.5, data=DATA, repair="bais"), "bais.*bias"),
        ("data an iterator", lambda m, s: sc.prune(m, X, "taylor", 0.5, data=iter([DATA])), "iterator.*list"),
        ("data of unequal lengths", lambda m, s: sc.prune(m, X, "taylor", 0.5, data=(torch.ones(3, 2), torch.zeros(2))), "3.*2"),
        ("data of another width", lambda m, s: sc.prune(m, X, "taylor", 0.5, data=(torch.ones(3, 5), torch.zeros(3).long())), "data|inputs|model"),
        ("labels of no class", lambda m, s: sc.prune(m, X, "taylor", 0.5, data=(torch.ones(3, 2), torch.full((3,), 9))), "9|label|class"),
        ("weights of NaN", lambda m, s: sc.prune(with_nan(), X, "l2", 0.5), "NaN"),
        ("latency a text", lambda m, s: sc.prune(m, X, "l2", 0.5, latency="yes"), "latency='yes'"),
    ],
    "criteria": [
        ("no data", lambda m, s: Taylor(None), "Taylor"),
        ("data a path", lambda m, s: Taylor("digits"), "Taylor"),
        ("empty data", lambda m, s: Taylor([]), "Taylor.*no batches.*at least one"),
        ("batch 0", lambda m, s: Taylor(DATA, batch_size=0), "batch_size=0.*1 or more"),
        ("loss unknown", lambda m, s: Taylor(DATA, loss="entropy"), "entropy"),
        ("p nan", lambda m, s: Magnitude(p=NAN), "p=nan"),
        ("p below", lambda m, s: Magnitude(p=-1), "p=-1"),
        ("side", lambda m, s: Magnitude(side="both"), "both"),
        ("reduce", lambda m, s: Magnitude(reduce="median"), "median"),
        ("seed a number", lambda m, s: sc.criteria.Random(seed=0.5), r"seed=0\.5.*whole"),
        ("energy share", lambda m, s: sc.criteria.Energy(threshold=-1.0), "threshold=-1"),
        ("threshold of firing", lambda m, s: sc.criteria.ActiveFraction(DATA, threshold=NAN), "threshold=nan"),
        ("damping", lambda m, s: sc.criteria.OptimalBrainSurgeon(DATA, damping=0.0), r"damping=0\.0"),
        ("probes", lambda m, s: sc.criteria.HessianTrace(DATA, probes=-3), "probes=-3"),
        ("temperature", lambda m, s: sc.criteria.GraSP(DATA, temperature=0.0), r"temperature=0\.0"),
        ("classes", lambda m, s: sc.criteria.ClassAccuracy(DATA, classes=[99])(m, s), "99"),
        ("moved", lambda m, s: sc.criteria.Movement({"nope": torch.ones(3)})(m, s), "without|parameter"),
        ("name", lambda m, s: sc.criteria.by_name("tailor", DATA), "tailor.*taylor"),
        ("option", lambda m, s: sc.criteria.by_name("l2", q=3), "q"),
        ("memory", lambda m, s: LossChange(DATA, max_memory=-1), "max_memory=-1"),
        ("directions", lambda m, s: sc.criteria.JointLossChange(DATA, directions=0), "directions=0"),
    ],
    "schedules": [
        ("neither amount", lambda m, s: Iterative(Magnitude()), "sparsity= or budget="),
        ("steps", lambda m, s: Iterative(Magnitude(), 0.5, steps=0), "steps=0"),
        ("curve", lambda m, s: Iterative(Magnitude(), 0.5, curve="cubical"), "cubical"),
        ("criterion", lambda m, s: Iterative("l2", 0.5), "criterion='l2'"),
        ("train", lambda m, s: Iterative(Magnitude(), 0.5, train=3), "train=3"),
        ("minimum", lambda m, s: Iterative(Magnitude(), 0.5, minimum=-1), "minimum=-1"),
        ("greedy order", lambda m, s: Greedy(DATA, order="best"), "best"),
        ("greedy estimate", lambda m, s: Greedy(DATA, order="estimated"), "estimate=.*Taylor"),
        ("greedy tolerance", lambda m, s: Greedy(DATA, tolerance=NAN), "tolerance=nan"),
        ("greedy minimum", lambda m, s: Greedy(DATA, minimum=-7), "minimum=-7.*0 or more"),
        ("exhaustive until", lambda m, s: Exhaustive(DATA, until="end"), "until='end'"),
        ("shrink n", lambda m, s: Shrink(0, DATA), "n=0"),
        ("shrink more than there are", lambda m, s: Shrink(999, DATA)(m, s), "999"),
        ("precomputed", lambda m, s: Precomputed({"0": torch.ones(3)}), "LossChange"),
        ("cycles train", lambda m, s: Cycles(Magnitude(), train=print), "TrainCycle"),
        ("cycles minimum", lambda m, s: Cycles(Magnitude(), TrainCycle(DATA), minimum=0), "minimum=0"),
        ("rewind train", lambda m, s: Rewind(7), "train=7"),
        ("rewind rate", lambda m, s: Rewind(TrainTicket(DATA), rate=1.0), r"rate=1\.0"),
        ("rewind outputs a text", lambda m, s: Rewind(TrainTicket(DATA), outputs="head"), r"outputs='head'.*\['head'\]"),
        ("sparse of channels", lambda m, s: SparseTraining(TrainSparse(DATA, RigL(0.5)))(m, s), r"weights\(model\)"),
        ("sites of another", lambda m, s: Shrink(1, DATA)(OTHER, s), "another model|sites"),
        ("quantile", lambda m, s: sc.schedules.BelowQuantile(1.5), r"quantile=1\.5"),
        ("checkpoint a folder", lambda m, s: Shrink(1, DATA)(m, s, checkpoint=Path()), "folder|checkpoint|director"),
    ],
    "solvers": [
        ("no data", lambda m, s: ThiNet(None), "ThiNet"),
        ("damping", lambda m, s: ThiNet(DATA, damping=-1.0), r"damping=-1\.0"),
        ("rounds", lambda m, s: StructuredOBS(DATA, rounds=-1), "rounds=-1"),
        ("last", lambda m, s: StructuredOBS(DATA, last="mse"), "mse.*kl"),
        ("block", lambda m, s: SparseGPT(DATA, block=0), "block=0"),
        ("both amounts", lambda m, s: SparseGPT(DATA).solve(m, sc.weights(m), 0.5, pattern="2:4"), "either sparsity"),
        ("channels", lambda m, s: SparseGPT(DATA).solve(m, s, 0.5), r"weights"),
        ("steps", lambda m, s: WoodFisher(DATA, steps=0), "steps=0"),
        ("scope", lambda m, s: WoodFisher(DATA, scope="net"), "net.*global"),
        ("pattern of channels", lambda m, s: ThiNet(DATA).solve(m, s, pattern="2:4"), "no pattern"),
        ("name", lambda m, s: sc.solvers.by_name("sparsegpt", DATA), "sparsegpt.*sparse-gpt"),
        ("sparsity", lambda m, s: ThiNet(DATA).solve(m, s, 2.0), r"2\.0"),
    ],
    "search": [
        ("population", lambda m, s: Genetic(population=0), "population=0"),
        ("mutation", lambda m, s: Genetic(mutation=1.5), r"mutation=1\.5"),
        ("mutation nan", lambda m, s: Nsga2(mutation=NAN), "mutation=nan"),
        ("chains", lambda m, s: Annealing(chains=0), "chains=0"),
        ("heat", lambda m, s: Annealing(hot=-1.0), r"hot=-1\.0"),
        ("neighbours", lambda m, s: HillClimbing(neighbours=0), "neighbours=0"),
        ("sigma", lambda m, s: CmaEs(sigma=0.0), r"sigma=0\.0"),
        ("scope", lambda m, s: CmaEs(scope="net"), "net"),
        ("points", lambda m, s: OneShotMagnitude(points=0), "points=0"),
        ("gradients", lambda m, s: Supermask(gradients=0), "gradients=0"),
        ("biases", lambda m, s: Space(m, sc.weights(m), biases=["nope"]), "nope"),
        ("budget", lambda m, s: judge(HillClimbing(), Space(m, sc.weights(m)), DATA, DATA, budget=0), "budget"),
        ("protocol", lambda m, s: judge(HillClimbing(), Space(m, sc.weights(m)), DATA, DATA, protocol="fair"), "fair"),
    ],
    "training": [
        ("epochs", lambda m, s: sc.fit(m, DATA, epochs=-1), "epochs=-1"),
        ("lr", lambda m, s: sc.fit(m, DATA, lr=NAN), "lr=nan"),
        ("optimizer", lambda m, s: sc.fit(m, DATA, optimizer="adamm"), "adamm.*adam"),
        ("unknown option", lambda m, s: sc.fit(m, DATA, epoch=1), "epoch"),
        ("loss that does not fit", lambda m, s: sc.fit(m, (DATA[0], torch.ones(8, 7)), loss="mse", epochs=1), "mse|targets|outputs"),
        ("labels out of range", lambda m, s: sc.fit(m, (DATA[0], torch.full((8,), 50)), epochs=1), "50"),
        ("data with NaN", lambda m, s: sc.fit(m, (torch.full((8, 2), NAN), DATA[1]), epochs=1), "NaN"),
        ("callbacks of another kind", lambda m, s: sc.fit(m, DATA, epochs=1, callbacks=[print]), "fit: callbacks=.*Callback"),
        ("options a mapping", lambda m, s: sc.fit(m, DATA, options={"epochs": 1}), "options=.*TrainOptions"),
        ("patience without validation", lambda m, s: sc.fit(m, DATA, patience=3), "validation"),
        ("milestones", lambda m, s: TrainOptions(schedule="multistep", milestones=[5, 2]), "milestones"),
        ("momentum of adam", lambda m, s: TrainOptions(momentum=0.9), "does not belong to optimizer 'adam'"),
        ("temperature", lambda m, s: sc.distill(m, hand_mlp(), DATA, temperature=0.0), r"temperature=0\.0"),
        ("weight", lambda m, s: sc.distill(m, hand_mlp(), DATA, weight=2.0), r"weight=2\.0"),
        ("hints", lambda m, s: sc.distill(m, hand_mlp(), DATA, hints={"9": "9"}), "9"),
        ("teacher", lambda m, s: sc.distill(m, "big", DATA), "teacher"),
        ("penalty", lambda m, s: sc.train.WeightPenalty("much"), "strength='much'"),
        ("penalty of unknown", lambda m, s: sc.fit(m, DATA, epochs=1, callbacks=[sc.train.WeightPenalty(1.0, ["nope"])]), "nope"),
        ("masks", lambda m, s: sc.fit(m, DATA, epochs=1, callbacks=[sc.train.HoldZeros({"nope": torch.ones(1).bool()})]), "nope"),
        ("drop", lambda m, s: RigL(0.5, drop=2.0), r"drop=2\.0"),
        ("validation never", lambda m, s: TrainTicket(DATA, validate_every=3), "validation"),
        ("cycle's data", lambda m, s: TrainCycle(7), "TrainCycle: data: got a int"),
        ("replicas", lambda m, s: sc.train.fit_replicas([], DATA), "no network; give at least one"),
    ],
    "transforms": [
        ("two sizes", lambda m, s: LowRank(rank=2, energy=0.9), "rank and energy"),
        ("rank", lambda m, s: LowRank(rank=0), "rank"),
        ("method", lambda m, s: LowRank(rank=2, method="qr"), "qr"),
        ("refit", lambda m, s: LowRank(rank=1, refit=True)(m, X), "data"),
        ("bits", lambda m, s: Quantize(bits=0), "bits=0"),
        ("per", lambda m, s: Quantize(per="row"), "row"),
        ("training without data", lambda m, s: Quantize(train=TrainOptions()), "train= needs data="),
        ("coder", lambda m, s: Quantize(coder="zip"), "zip"),
        ("ignored", lambda m, s: Quantize(ignore=["nope"])(m, X), "nope"),
        ("shared bits", lambda m, s: Share(bits=99), "bits=99"),
        ("shared data", lambda m, s: Share(data=[]), "Share: data.*no batches"),
        ("structure", lambda m, s: Replace("winograd"), "winograd"),
        ("sparsity of rows", lambda m, s: sc.transforms.as_csr(m, X, sparsity=-1), "sparsity=-1"),
    ],
    "allocating": [
        ("nothing bounded", lambda m, s: sc.allocate.budget(m, s, Magnitude()(m, s)), "macs"),
        ("share", lambda m, s: sc.allocate.budget(m, s, Magnitude()(m, s), macs=-0.5), r"macs=-0\.5"),
        ("too little", lambda m, s: sc.allocate.budget(m, s, Magnitude()(m, s), parameters=1), "parameters|least"),
        ("uniform", lambda m, s: sc.allocate.uniform(s, 1.5), r"sparsity=1\.5"),
        ("measures", lambda m, s: sc.allocate.cost_table(m, s, measures=["flops"]), "flops"),
        ("sensitivity", lambda m, s: sc.allocate.sensitivity(m, s, Magnitude(), 0.5, data=DATA), "sparsities.*list"),
        ("sensitivity without a measure", lambda m, s: sc.allocate.sensitivity(m, s, Magnitude(), [0.5]), "data|evaluate"),
        ("rounding", lambda m, s: sc.allocate.rounding(s, "eight"), "eight"),
    ],
    "compress": [
        ("goal unknown", lambda m, s: sc.compress(m, X, {"mac": 0.5}, DATA, DATA), "mac"),
        ("goal empty", lambda m, s: sc.compress(m, X, {}, DATA, DATA), "goal"),
        ("goal a number", lambda m, s: sc.compress(m, X, 0.5, DATA, DATA), "goal"),
        ("goal nan", lambda m, s: sc.compress(m, X, {"macs": NAN}, DATA, DATA), "nan"),
        ("no data", lambda m, s: sc.compress(m, X, {"macs": 0.5}, None, DATA), "data"),
        ("unknown option", lambda m, s: sc.compress(m, X, {"macs": 0.5}, DATA, DATA, drop=1), "drop"),
        ("minimum of more than there are", lambda m, s: sc.compress(m, X, {"macs": 0.5}, DATA, DATA, minimum=1000), "minimum=1000.*widest site, 0, has 3.*less"),
        ("multiples of more than there are", lambda m, s: sc.compress(m, X, {"macs": 0.5}, DATA, DATA, round_to=8), "round_to=8.*widest site, 0, has 3.*less"),
        ("multiples of none", lambda m, s: sc.compress(m, X, {"macs": 0.5}, DATA, DATA, round_to={"0": 0}), "rounding of '0': round_to=0.*1 or more"),
        ("multiples of an unknown site", lambda m, s: sc.compress(m, X, {"macs": 0.5}, DATA, DATA, round_to={"conv": 2}), "site to round 'conv'.*0"),
    ],
    "measuring": [
        ("batch", lambda m, s: sc.evaluate(m, DATA, batch_size=0), "batch_size=0"),
        ("no data", lambda m, s: sc.evaluate(m, None), "got a NoneType; give a Split"),
        ("metric", lambda m, s: sc.evaluate(m, DATA, metric="f1"), "metric='f1'|f1"),
        ("runtime", lambda m, s: sc.measure.latency(m, X, runtime="tensorrt"), "tensorrt"),
        ("repeats", lambda m, s: sc.measure.latency(m, X, repeats=0), "repeats=0"),
        ("threads", lambda m, s: sc.measure.latency(m, X, threads=0), "threads=0"),
        ("threads of a runtime", lambda m, s: sc.runtimes.Eager(threads=-7), "Eager: threads=-7.*1 or more"),
        ("agreement", lambda m, s: sc.measure.agreement({"a": torch.ones(3)}, {"b": torch.ones(3)}), "a|b"),
        ("macs of text", lambda m, s: sc.measure.macs(m, "x"), "example_inputs"),
        ("runtime of a file", lambda m, s: sc.export(m, X, "onnx-runtime"), "onnx-runtime.*onnxruntime"),
        ("bins", lambda m, s: sc.measure.calibration_error(torch.ones(4, 2), torch.zeros(4).long(), bins=0), "bins=0"),
        ("rank of what was measured", lambda m, s: sc.measure.rate(m, s, [], DATA), "no masks.*at least one"),
    ],
    "names": [
        ("model", lambda m, s: sc.models.build("resnet18"), "resnet18.*resnet-18"),
        ("model's option", lambda m, s: sc.models.build("lenet-300-100", width=3), "width"),
        ("scheme", lambda m, s: sc.models.initialise(m, "xavier"), "xavier"),
        ("data set", lambda m, s: sc.data.load("digit"), "digit"),
        ("split", lambda m, s: sc.data.load("digits", split="val"), "val"),
        ("limit", lambda m, s: sc.data.load("digits", limit=0), "limit=0"),
        ("stream of nothing", lambda m, s: sc.data.stream("no-such-folder"), "no-such-folder"),
        ("repair", lambda m, s: sc.repair.repair(m, s, kept(s), DATA, how=("least",)), "least"),
        ("ridge", lambda m, s: sc.repair.repair(m, s, kept(s), DATA, ridge=-1.0), r"ridge=-1\.0"),
        ("attribute", lambda m, s: sc.prunes, "prunes"),
    ],
    "files": [
        ("no folder", lambda m, s: sc.load("none", m), "none"),
        ("a file in place of the folder", lambda m, s: sc.load(os.devnull, m), "null|folder"),
        ("into what is no folder", lambda m, s: sc.prune(m, X, "l2", 0.5, latency=False).save(os.devnull), "null"),
        ("checkpoint nowhere", lambda m, s: sc.fit(m, DATA, epochs=1, checkpoint=os.devnull), "null"),
        ("results of a bundle", lambda m, s: sc.measure.read_bench("none.txt"), r"none\.txt"),
        ("edits", lambda m, s: sc.edits.from_dict({"kind": "nope"}), "nope"),
        ("edits no record", lambda m, s: sc.edits.from_dict(3), "3|record"),
    ],
}  # fmt: skip

CASES = {f"{group}: {case}": (call, words) for group, cases in CALLS.items() for case, call, words in cases}


def test_there_are_many() -> None:
    assert len(CASES) >= 150


@pytest.mark.parametrize("case", CASES)
def test_the_error_says_what_is_wrong_and_nothing_is_changed(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, words = CASES[case]
    monkeypatch.chdir(tmp_path)
    model = hand_mlp()
    sites, before, draws = sc.channels(model, X), snapshot(model), torch.get_rng_state()
    with pytest.raises((sc.SecateurError, AttributeError), match=f"(?s){words}") as caught:
        call(model, sites)
    assert isinstance(caught.value, sc.SecateurError) or case == "names: attribute"
    assert len(str(caught.value)) > 20
    after = snapshot(model)
    if case.startswith(("training", "files: checkpoint")):  # a training that fails puts back what it trained
        before["identities"] = after["identities"]
    assert same_state(before, after)
    assert torch.equal(draws, torch.get_rng_state())
    assert not list(tmp_path.iterdir())
