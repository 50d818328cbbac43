"""Models as people bring them: wrapped, compiled, scripted, fused, quantized or spread over processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import Tensor, nn

import secateur as sc
from secateur.criteria import Magnitude
from secateur.saving import load_weights, save_weights
from secateur.structure import mask
from secateur.types import SecateurError
from secateur.wrappers import unwrapped

X, Y = torch.randn(12, 3, 10, 10), torch.arange(12) % 4
DATA = (X, Y)


def plain() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        stem = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        return nn.Sequential(*stem, inner, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "compiled": compiled,
    "both": lambda model: nn.DataParallel(compiled(model)),
}


@pytest.fixture
def one_process() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


CALLS: dict[str, Callable[[nn.Module], object]] = {
    "prune": lambda m: sc.prune(m, X, "l2", 0.5, latency=False).keep,
    "prune weights": lambda m: sc.prune(m, X, unit="weights", latency=False).keep,
    "channels": lambda m: list(sc.channels(m, X)),
    "weights": lambda m: list(sc.weights(m)),
    "criterion": lambda m: Magnitude()(m, sc.channels(m, X)),
    "mask": lambda m: mask(m, s := sc.channels(m, X), {n: torch.arange(v.size) < 4 for n, v in s.items()}).state_dict(),
    "cut": lambda m: sc.cut(
        m, s := sc.channels(m, X), {n: torch.arange(v.size) < 4 for n, v in s.items()}
    ).state_dict(),
    "recalibrate": lambda m: sc.repair.recalibrate(m, DATA).state_dict(),
    "parameters": sc.measure.parameters,
    "macs": lambda m: sc.measure.macs(m, X),
    "file_bytes": sc.measure.file_bytes,
    "evaluate": lambda m: sc.evaluate(m, DATA),
    "low rank": lambda m: sc.transforms.LowRank(rank=1)(m, X).model.state_dict(),
    "schedule": lambda m: sc.schedules.Iterative(Magnitude(), 0.5, steps=2, scope="layer")(m, sc.channels(m, X)).keep,
    "compress": lambda m: sc.compress(
        m, X, {"macs": 0.8}, DATA, DATA, train=sc.train.TrainOptions(epochs=0), finish=None, max_drop=1.0
    ).model.state_dict(),
}


def same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return a == b


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("call", CALLS)
def test_what_stands_around_a_model_is_taken_off(call: str, wrapper: str) -> None:
    assert same(CALLS[call](WRAPPED[wrapper](plain())), CALLS[call](plain()))


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_a_wrapped_model_is_trained_where_it_stands(wrapper: str) -> None:
    bare = plain()
    outer = WRAPPED[wrapper](copy.deepcopy(bare))
    for model in (bare, outer):
        sc.fit(model, DATA, epochs=1, seed=3)
    assert same(unwrapped(outer).state_dict(), bare.state_dict())
    sc.distill(outer, WRAPPED[wrapper](plain()), DATA, epochs=1)


def test_weights_are_written_by_the_names_of_the_model_proper(tmp_path: Path) -> None:
    model, other = plain(), nn.DataParallel(copy.deepcopy(plain()))
    save_weights(tmp_path / "weights.safetensors", nn.DataParallel(model))
    nn.init.zeros_(other.module[0].weight)
    load_weights(tmp_path / "weights.safetensors", other)
    assert same(other.module.state_dict(), model.state_dict())


def test_processes_prune_alike_and_are_not_trained_apart(one_process: None) -> None:
    distributed = nn.parallel.DistributedDataParallel(plain())
    for call in ("prune", "channels", "evaluate", "parameters"):
        assert same(CALLS[call](distributed), CALLS[call](plain()))
    for train in (
        lambda: sc.fit(distributed, DATA, epochs=1),
        lambda: sc.distill(distributed, plain(), DATA, epochs=1),
        lambda: CALLS["compress"](distributed),
        lambda: sc.schedules.Iterative(Magnitude(), 0.5, scope="layer")(distributed, sc.channels(distributed, X)),
    ):
        with pytest.raises(sc.InputError, match=r"several processes train together.*pass model\.module"):
            train()


def test_weights_that_are_spread_over_processes_are_refused(one_process: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = plain()
    fully_shard(model[3], mesh=init_device_mesh("cpu", (1,)))
    for call in ("prune", "channels", "mask", "evaluate", "compress"):
        with pytest.raises(sc.InputError, match=r"3 is a FSDPModule.*get_model_state_dict"):
            CALLS[call](model)


def _with_part(change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    model = plain()
    model[3] = change(model[3])
    return model


def _compiled_in_place() -> nn.Module:
    model = plain()
    model[3].compile(backend="eager")
    model(X)
    return model


def _compiled_forward() -> nn.Module:
    model = plain()
    model[3].forward = torch.compile(model[3].forward, backend="eager")
    return model


CUT_AS_THEY_ARE: dict[str, Callable[[], nn.Module]] = {
    "a part in DataParallel": lambda: _with_part(nn.DataParallel),
    "a compiled part": lambda: _with_part(compiled),
    "compiled in place": _compiled_in_place,
    "a compiled method": _compiled_forward,
    "a graph of torch.fx": lambda: torch.fx.symbolic_trace(plain()),
    "averaged weights": lambda: torch.optim.swa_utils.AveragedModel(plain()),
    "fused by torch.nn.utils": lambda: _with_part(
        lambda part: nn.Sequential(nn.utils.fusion.fuse_conv_bn_eval(part[0], part[1]), part[2])
    ),
    "fused for quantization": lambda: torch.ao.quantization.fuse_modules(plain(), [["0", "1", "2"], ["3.0", "3.1"]]),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", CUT_AS_THEY_ARE)
def test_models_with_such_parts_are_cut(kind: str) -> None:
    model = CUT_AS_THEY_ARE[kind]().eval()
    sites = sc.channels(model, X)
    assert [site.size for site in sites.values()] == [8, 16]
    keep = {name: torch.arange(site.size) % 2 == 0 for name, site in sites.items()}
    small, masked = sc.cut(model, sites, keep), mask(model, sites, keep)
    torch.testing.assert_close(small(X), masked(X))
    assert [p.shape[0] for p in small.parameters() if p.dim() == 4] == [4, 8]


def _prepared() -> nn.Module:
    model = plain()
    model.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")
    return torch.ao.quantization.prepare(model)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "traced": (lambda: torch.jit.trace(plain(), X), "TorchScript.*pass the Python module that it was made from"),
    "a scripted part": (lambda: _with_part(torch.jit.script), "3 of the model is compiled by TorchScript"),
    "quantized": (lambda: torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear}), "6 of the model.*is quantized"),
    "prepared": (_prepared, "prune the model before it is prepared"),
    "exported": (lambda: torch.export.export(plain(), (X,)), "pass the Python module that it was exported from"),
    "exported module": (lambda: torch.export.export(plain(), (X,)).module(), "is an exported program.*Python module"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4)), "run the model once"),
    "a function": (lambda: plain().forward.__func__, "pass an nn.Module: the one whose forward it is"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantize.*:UserWarning", "ignore:.*reduce_range.*")
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("call", ["prune", "channels", "criterion", "mask", "cut", "schedule", "compress"])
def test_what_cannot_be_read_is_refused_with_the_remedy(kind: str, call: str) -> None:
    make, words = REFUSED[kind]
    with pytest.raises(SecateurError, match=words):
        CALLS[call](make())
