"""Whatever is set around a call (inference mode, autocast, another default dtype or device), it does what it always does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.calls import as_usual
from secateur.criteria import CRITERIA, ClassAccuracy, Movement, by_name
from secateur.rate.masks import rate
from secateur.search import Fitness, HillClimbing, Space
from secateur.state import tensors
from secateur.switches import unfused_attention
from secateur.testing.toys import TOYS, same_state, snapshot
from secateur.train import distill, fit
from secateur.types import Criterion, InputError, Sites

Context = Callable[[], AbstractContextManager[object]]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def several() -> Iterator[None]:
    with ExitStack() as stack:
        for make in (AROUND["inference mode"], AROUND["autocast"], AROUND["bfloat16"]):
            stack.enter_context(make())
        yield


AROUND: dict[str, Context] = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": partial(torch.autocast, "cpu", dtype=torch.bfloat16),
    "float64": partial(default_dtype, torch.float64),
    "bfloat16": partial(default_dtype, torch.bfloat16),
    "a device": partial(torch.device, "meta"),
    "the default device": default_device,
    "several": several,
}
around = pytest.mark.parametrize("context", list(AROUND.values()), ids=list(AROUND))
NAMES = [*CRITERIA, "class accuracy", "movement"]


def criterion_of(name: str, model: nn.Module, data: tuple[Tensor, Tensor]) -> Criterion:
    if name == "class accuracy":
        return ClassAccuracy(data, classes=[0])
    if name == "movement":
        return Movement({n: p.detach().clone() for n, p in model.named_parameters()})
    return by_name(name, data, **({"inputs": data[0][:1]} if name == "synflow" else {}))


def setting(toy: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    (inputs, labels), (more, others) = TOYS[toy].batches()
    return TOYS[toy].build(dtype), (torch.cat([inputs, more]).to(dtype), torch.cat([labels, others]))


def sites_for(name: str, model: nn.Module, inputs: Tensor) -> list[Sites]:
    """The sites that a criterion scores."""
    made = []
    for sites in (sc.channels(model, inputs), sc.weights(model)):
        try:
            criterion_of(name, model, (inputs, torch.zeros(len(inputs), dtype=torch.int64)))(model, sites)
            made.append(sites)
        except InputError:
            pass
    return made


@around
@pytest.mark.parametrize("toy", ["mlp", "cnn"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_usual_ones(name: str, toy: str, context: Context) -> None:
    model, data = setting(toy)
    found = sites_for(name, model, data[0])
    assert found, "no sites are scored"
    for sites in found:
        usual = criterion_of(name, model, data)(model, sites)
        with context():
            scores = criterion_of(name, model, data)(model, sites)
        assert all(torch.equal(scores[site], usual[site]) for site in sites), name
        assert all(scores[site].dtype is usual[site].dtype for site in sites), name
        assert not any(score.is_inference() for score in scores.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_double_model_has_the_usual_scores_under_a_double_default(name: str) -> None:
    model, data = setting("mlp", torch.float64)
    for sites in sites_for(name, model, data[0]):
        usual = criterion_of(name, model, data)(model, sites)
        with default_dtype(torch.float64):
            scores = criterion_of(name, model, data)(model, sites)
        assert all(torch.equal(scores[site], usual[site]) for site in sites), name


def test_a_double_model_may_count_on_a_double_default() -> None:
    """Its forward pass makes tensors without a word about their dtype."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.b(torch.relu(self.a(x))) @ torch.eye(2)
            return made

    with default_dtype(torch.float64):
        model, x = Net().eval(), torch.randn(8, 3)
        for criterion in ("l2", "taylor", "loss-change"):
            result = sc.prune(model, x, criterion, 0.5, data=(x, torch.randint(2, (8,))), latency=False)
            assert result.model(x).dtype is torch.float64


def everything(model: nn.Module, data: tuple[Tensor, Tensor], folder: Path) -> dict[str, object]:
    """What the public calls return, as numbers."""
    inputs = data[0]
    sites = sc.channels(model, inputs)
    scores = sc.criteria.Taylor(data)(model, sites)
    keep = sc.select(scores, 0.4, scope="layer")
    small = sc.cut(model, sites, keep)
    masked = sc.mask(model, sites, keep)
    pruned = sc.prune(
        model, inputs, "second-order", 0.4, data=data, scope="layer", repair="least-squares", latency=False
    )
    pruned.save(folder)
    loaded = sc.load(folder, model)
    steps = sc.schedules.Iterative(
        sc.criteria.Snip(data), 0.4, steps=2, train=lambda net, held: fit(net, data, epochs=1), data=data
    )
    solved = sc.solvers.WoodFisher(data, steps=1)(model, sc.weights(model), 0.5)
    space = Space(model, sc.weights(model))
    search = HillClimbing()(Fitness(space, data), space, budget=12, seed=0)
    scan = sc.allocate.sensitivity(model, sites, sc.criteria.Magnitude(), [0.5], data=data)
    student = sc.cut(model, sites, keep)
    history = distill(student, model, data, epochs=1)
    return {
        "scores": scores,
        "keep": keep,
        "cut": tensors(small),
        "mask": tensors(masked),
        "prune": (pruned.keep, tensors(pruned.model), pruned.report.parameters, pruned.report.macs),
        "load": tensors(loaded),
        "schedule": (stepped := steps(model, sites)).keep,
        "schedule's steps": [step.loss for step in stepped.history.steps],
        "trained": tensors(stepped.model),
        "solver": (solved.keep, tensors(solved.model)),
        "search": (search.keep, tensors(search.model)),
        "sensitivity": [row.figures for row in scan.rows],
        "distil": (tensors(student), [record.train_loss for record in history]),
        "rated": sc.evaluate(model, data),
        "masks": rate(model, sites, [keep], data).losses,
        "predicted": sc.measure.predict(model, data),
        "budget": sc.allocate.budget(model, sites, scores, parameters=0.8),
        "size": (sc.measure.parameters(model), sc.measure.macs(model, inputs), sc.measure.file_bytes(model)),
        "models": [small, masked, pruned.model, loaded, stepped.model, solved.model, search.model, student],
    }


@around
@pytest.mark.parametrize("toy", ["mlp", "cnn"])
def test_every_public_call_does_what_it_always_does(toy: str, context: Context, tmp_path: Path) -> None:
    model, data = setting(toy)
    usual = everything(model, data, tmp_path / "usual")
    before = snapshot(model)
    with context():
        found = everything(model, data, tmp_path / "within")
    assert same_state(before, snapshot(model))
    for what, value in usual.items():
        if what != "models":
            same(found[what], value, what)
    models = found["models"]
    assert isinstance(models, list)
    for net in models:
        assert not any(tensor.is_inference() for tensor in tensors(net).values())
        assert all(p.requires_grad for p in net.parameters())
        fit(net, data, epochs=1)


def same(found: object, usual: object, what: str) -> None:
    if isinstance(usual, Tensor):
        assert isinstance(found, Tensor)
        assert found.dtype is usual.dtype, what
        assert torch.equal(found, usual), what
    elif isinstance(usual, dict):
        assert isinstance(found, dict)
        for name, value in usual.items():
            same(found[name], value, f"{what}, {name}")
    elif isinstance(usual, (tuple, list)):
        assert isinstance(found, (tuple, list))
        for one, value in zip(found, usual, strict=True):
            same(one, value, what)
    else:
        assert str(found) == str(usual), what  # as NaN is not itself


@pytest.mark.parametrize("name", ["taylor", "snip", "loss-change", "mean-activation", "obd"])
def test_data_made_under_inference_mode_do(name: str) -> None:
    model, data = setting("cnn")
    with torch.inference_mode():
        made = data[0].clone(), data[1].clone()
    usual = sc.prune(model, data[0], name, 0.4, data=data, latency=False).keep
    for given in (made, [made]):
        keep = sc.prune(model, made[0], name, 0.4, data=given, latency=False).keep
        assert all(torch.equal(keep[site], usual[site]) for site in usual)
    fit(model, made, made, epochs=1)
    fit(model, [made], epochs=1)


def test_a_model_made_under_inference_mode_is_refused_with_the_remedy() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.zeros(3, 4)
    for call in (
        lambda: sc.channels(model, x),
        lambda: sc.weights(model),
        lambda: sc.blocks(model, x),
        lambda: sc.prune(model, x),
        lambda: fit(model, (x, torch.zeros(3, dtype=torch.int64)), epochs=1),
    ):
        with pytest.raises(InputError, match=r"0\.weight of the model was made under torch\.inference_mode.*outside"):
            call()


def test_every_public_function_that_takes_a_model_works_as_usual() -> None:
    """`usual` marks what it wraps; a function that is moved or added must not lose it."""
    rooms = (sc, sc.allocate, sc.measure, sc.repair, sc.search, sc.train, sc.edits)
    public = {f"{room.__name__}.{name}": getattr(room, name) for room in rooms for name in room.__all__}
    functions = {name: f for name, f in public.items() if inspect.isfunction(f)}
    taking = {name: f for name, f in functions.items() if {"model", "before"} & set(inspect.signature(f).parameters)}
    assert len(taking) >= 15
    assert not [name for name, function in taking.items() if "usual" not in vars(function)]


def test_nothing_is_left_set_behind() -> None:
    with default_dtype(torch.float64), torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        with as_usual():
            assert torch.get_default_dtype() is torch.float32
            assert not torch.is_autocast_enabled("cpu")
        with pytest.raises(RuntimeError, match="within"), as_usual():
            raise RuntimeError("within")
        assert torch.get_default_dtype() is torch.float64
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()


def test_gradients_that_are_off_inside_a_call_stay_off() -> None:
    """Only the outermost call sets them: what runs within one has its own reasons."""
    with torch.no_grad(), as_usual():
        assert torch.is_grad_enabled()
        with torch.no_grad(), as_usual():
            assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_threads_that_leave_the_fast_path_put_it_back() -> None:
    """Whoever came first may leave first."""
    before = torch.backends.mha.get_fastpath_enabled()
    first, second = unfused_attention(), unfused_attention()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.mha.get_fastpath_enabled()
    second.__exit__(None, None, None)
    assert torch.backends.mha.get_fastpath_enabled() == before
