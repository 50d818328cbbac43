"""The watch over the whole suite sees each kind of change to a model, and passes what leaves it alone."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

import secateur as sc
from secateur import saving
from untouched_guard import Touched, watched


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))


LEAKS = {
    "a parameter's numbers": lambda m: m[0].weight.data.add_(1),
    "another parameter": lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.detach().clone())),
    "a parameter's memory": lambda m: setattr(m[0].weight, "data", m[0].weight.data.clone()),
    "a large parameter": lambda m: m.large.data[70_000].neg_(),
    "a buffer's numbers": lambda m: m[1].num_batches_tracked.add_(1),
    "another buffer": lambda m: setattr(m[1], "running_mean", m[1].running_mean.clone()),
    "a mode": lambda m: m[1].eval(),
    "a gradient": lambda m: setattr(m[0].weight, "grad", torch.zeros(3, 4)),
    "requires_grad": lambda m: m[0].bias.requires_grad_(False),
    "a hook": lambda m: m[0].register_forward_hook(lambda *_: None),
    "a new attribute": lambda m: setattr(m, "seen", 1),
    "an attribute": lambda m: setattr(m[0], "in_features", 5),
    "a cache": lambda m: m.cache.append(1),
    "a tensor kept beside": lambda m: m.beside.add_(1),
    "a submodule": lambda m: setattr(m, "0", nn.Linear(4, 3)),
}


@pytest.mark.parametrize("leak", list(LEAKS))
def test_a_planted_leak_is_seen(leak: str) -> None:
    model = _model()
    model.large, model.cache, model.beside = nn.Parameter(torch.randn(80_000)), [], torch.zeros(2)

    def leaks(model: nn.Module) -> None:
        LEAKS[leak](model)

    with pytest.raises(Touched, match="leaks changed the model"):
        watched(leaks)(model)


def test_a_leak_is_seen_in_a_failed_call_and_in_a_mapping_of_models() -> None:
    def fails(models: dict[str, nn.Module]) -> None:
        models["a"].eval()
        raise ValueError("halfway")

    with pytest.raises(Touched):
        watched(fails)({"a": _model()})


def test_what_leaves_the_model_alone_passes() -> None:
    def reads(model: nn.Module) -> torch.Tensor:
        return model.eval().train()(torch.ones(2, 4)) if False else model[0].weight.sum()

    assert watched(reads)(_model()).ndim == 0


def test_the_public_face_is_watched() -> None:
    for room, names in {
        sc: ("prune", "channels", "weights", "blocks", "mask", "cut", "evaluate", "fit", "distill"),
        sc.measure: ("rate", "predict", "latency", "macs", "peak_memory", "parameters", "file_bytes", "agreement"),
        sc.allocate: ("sensitivity", "budget"),
        sc.repair: ("repair", "recalibrate"),
        saving: ("save_weights",),
    }.items():
        for name in names:
            assert hasattr(getattr(room, name), "watched"), name
    kinds = [c for c in vars(sc.criteria).values() if inspect.isclass(c) and issubclass(c, sc.criteria.CriterionBase)]
    assert len(kinds) > 10
    for kind in (
        *kinds,
        sc.schedules.Iterative,
        sc.schedules.Greedy,
        sc.solvers.ThiNet,
        sc.solvers.StructuredOBS,
        sc.solvers.SparseGPT,
        sc.transforms.LowRank,
        sc.transforms.Replace,
        sc.Result,
    ):
        assert any(hasattr(method, "watched") for c in kind.__mro__ for method in vars(c).values()), kind
