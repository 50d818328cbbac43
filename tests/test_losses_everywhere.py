"""Every road that data take, with every kind of outputs and losses: each must do what it does for one tensor of numbers.

A kind has a twin: the same layers behind one tensor of outputs, with a loss that says the same of it. Scores, losses and
masks of both must agree.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur import criteria, measure, schedules, search, solvers
from secateur.criteria import CRITERIA, by_name
from secateur.repair import repair
from secateur.structure import channels, weights

COUNT = 24


class Body(nn.Module):
    """Two hidden layers under two heads of 3 and 2 outputs, whose outputs a kind arranges."""

    def __init__(self, arranged: Callable[[Tensor, Tensor], Any], columns: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 6)
        self.left, self.right = nn.Linear(6, columns), nn.Linear(6, 2)
        self.arranged = arranged

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.second(torch.relu(self.first(x))))
        return self.arranged(self.left(h), self.right(h))


@dataclass
class Pair:
    """Outputs in a dataclass that torch does not know."""

    left: Tensor
    right: Tensor
    note: str = "no tensor"


@dataclass
class HubLike(OrderedDict):  # type: ignore[type-arg]
    """Outputs as those of the Hugging Face hub are: fields of a dataclass and entries of a mapping at once."""

    left: Tensor | None = None
    right: Tensor | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            OrderedDict.__setitem__(self, entry.name, getattr(self, entry.name))

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, entry.name) for entry in fields(self))


class Named(NamedTuple):
    """Outputs in a tuple with names."""

    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class Kind:
    """Outputs, targets and a loss, with what they are as one tensor."""

    arranged: Callable[[Tensor, Tensor], Any]
    targets: Callable[[Tensor], Any]
    loss: Any
    twin: Callable[[Tensor, Tensor], Tensor]
    twin_loss: Callable[[Tensor, Tensor], Tensor]
    columns: int = 3


def _only_left(left: Tensor, right: Tensor) -> Tensor:
    return left


def _side_by_side(left: Tensor, right: Tensor) -> Tensor:
    return torch.cat([left, right], 1)


def _huber_and_l1(left: Tensor, right: Tensor, y: Tensor) -> Tensor:
    """A loss of two heads; smooth, and not that of any name."""
    return F.smooth_l1_loss(left, y[:, :3]) + 0.5 * (right - y[:, 3:]).square().mean()


def _of_columns(outputs: Tensor, y: Tensor) -> Tensor:
    return _huber_and_l1(outputs[:, :3], outputs[:, 3:], y)


def _numbers(y: Tensor) -> Tensor:
    return y


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets.reshape(outputs.shape)).square().mean()


def _bce(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.softplus(outputs).mean() - (outputs * targets).mean()


def _many(arranged: Callable[[Tensor, Tensor], Any], of: Callable[[Any], tuple[Tensor, Tensor]]) -> Kind:
    return Kind(arranged, _numbers, lambda o, y: _huber_and_l1(*of(o), y), _side_by_side, _of_columns)


KINDS: Mapping[str, Kind] = {
    "one number": Kind(lambda a, b: a.squeeze(1), lambda y: y[:, 0], "mse", _only_left, _mse, 1),
    "one column": Kind(_only_left, lambda y: y[:, :1], "mse", _only_left, _mse, 1),
    "several numbers": Kind(_only_left, lambda y: y[:, :3], "mse", _only_left, _mse),
    "several labels": Kind(_only_left, lambda y: (y[:, :3] > 0).float(), "bce", _only_left, _bce),
    "labels as whole numbers": Kind(_only_left, lambda y: (y[:, :3] > 0).long(), "bce", _only_left, _bce),
    "a loss of one's own": Kind(
        _only_left,
        lambda y: y[:, :3],
        lambda o, y: F.huber_loss(o, y, delta=0.3),
        _only_left,
        lambda o, y: F.huber_loss(o, y, delta=0.3),
    ),
    "logits of a name": Kind(lambda a, b: {"logits": a, "hidden": b}, lambda y: y[:, :3], "mse", _only_left, _mse),
    "tuple": _many(lambda a, b: (a, b), lambda o: o),
    "list in a tuple": _many(lambda a, b: (a, [None, b]), lambda o: (o[0], o[1][1])),
    "named tuple": _many(Named, lambda o: (o.left, o.right)),
    "dict": _many(lambda a, b: {"left": a, "right": b}, lambda o: (o["left"], o["right"])),
    "dict of one": Kind(
        lambda a, b: {"left": a}, lambda y: y[:, :3], lambda o, y: F.mse_loss(o["left"], y), _only_left, _mse
    ),
    "dataclass": _many(Pair, lambda o: (o.left, o.right)),
    "as the hub's": _many(HubLike, lambda o: (o.left, o["right"])),
    "targets in a tuple": Kind(
        lambda a, b: (a, b),
        lambda y: (y[:, :3], y[:, 3:]),
        lambda o, y: _huber_and_l1(*o, torch.cat(y, 1)),
        _side_by_side,
        _of_columns,
    ),
    "targets in a dict": Kind(
        Pair,
        lambda y: {"left": y[:, :3], "right": y[:, 3:]},
        lambda o, y: _huber_and_l1(o.left, o.right, torch.cat([y["left"], y["right"]], 1)),
        _side_by_side,
        _of_columns,
    ),
}


@dataclass(frozen=True)
class Case:
    """A model with its data and its loss."""

    model: nn.Module
    data: Any
    loss: Any
    inputs: Tensor = field(repr=False)


def _samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(COUNT, 4, generator=generator)
    return x, torch.cat([x.sin(), x[:, :1] * x[:, 1:2]], 1) + 0.1 * torch.randn(COUNT, 5, generator=generator)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    return made(request.param)


def made(name: str, twin: bool = False) -> Case:
    """The case of a kind, or its twin."""
    kind, (x, y) = KINDS[name], _samples()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Body(kind.twin if twin else kind.arranged, kind.columns).eval()
    if not twin:
        return Case(model, (x, kind.targets(y)), kind.loss, x)
    plain = {"one number": y[:, :1]}.get(name, kind.targets(y))
    if not isinstance(plain, Tensor):
        plain = y
    return Case(model, (x, plain), kind.twin_loss, x)


ALL = pytest.mark.parametrize("name", KINDS)

SITES = {"obs": weights}
"""The criteria of single weights; all others are asked about channels."""


def _scores(name: str, case: Case) -> Iterator[Tensor]:
    sites = SITES.get(name, channels)(*((case.model,) if name in SITES else (case.model, case.inputs[:2])))
    options = {"curvature": "empirical"} if name == "obd" else {}
    scores = by_name(name, case.data, case.loss, **options)(case.model, sites)
    for site in ("first", "second") if name not in SITES else ("first.weight", "second.weight"):
        yield scores[site]


OF_DATA = [name for name, entry in CRITERIA.items() if entry.needs_data]


@ALL
@pytest.mark.parametrize("criterion", OF_DATA)
def test_scores_are_those_of_one_tensor(criterion: str, name: str) -> None:
    scores, expected = list(_scores(criterion, made(name))), list(_scores(criterion, made(name, twin=True)))
    for ours, theirs in zip(scores, expected, strict=True):
        assert float(ours.std()) > 0
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-6)


LABELLED = {
    "row of classes": (lambda a, b: a, lambda y: y[:, :3].argmax(1), "cross_entropy"),
    "classes behind a name": (lambda a, b: {"logits": a, "hidden": b}, lambda y: y[:, :3].argmax(1), "cross_entropy"),
}
"""Classes, which a criterion of classes and right answers ask for."""


def classes(name: str) -> Case:
    """A classifier, its logits by themselves or behind a name."""
    arranged, targets, loss = LABELLED[name]
    x, y = _samples()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Case(Body(arranged).eval(), (x, targets(y)), loss, x)


@pytest.mark.parametrize("criterion", [*OF_DATA, "class-accuracy"])
def test_logits_behind_a_name_score_as_logits(criterion: str) -> None:
    plain, named = (classes(name) for name in LABELLED)
    if criterion == "class-accuracy":
        ours, theirs = (
            criteria.ClassAccuracy(c.data, [0])(c.model, channels(c.model, c.inputs)) for c in (named, plain)
        )
        ours, theirs = ours["second"], theirs["second"]
    else:
        ours, theirs = (torch.cat([score.flatten() for score in _scores(criterion, c)]) for c in (named, plain))
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-6)


def _half(case: Case) -> tuple[Any, dict[str, Tensor]]:
    sites = channels(case.model, case.inputs[:2])
    return sites, {name: torch.arange(site.size) < (site.size + 1) // 2 for name, site in sites.items()}


@ALL
def test_rate_and_evaluate_agree(name: str) -> None:
    """Losses under masks are those of the masked model, in every engine, and those of the twin."""
    ours, twin = made(name), made(name, twin=True)
    sites, keep = _half(ours)
    twin_sites, twin_keep = _half(twin)
    rated = measure.rate(ours.model, sites, [{}, keep], ours.data, ours.loss).losses
    expected = measure.rate(twin.model, twin_sites, [{}, twin_keep], twin.data, twin.loss).losses
    torch.testing.assert_close(rated, expected, rtol=1e-5, atol=1e-7)
    masked = sc.mask(ours.model, sites, keep)
    assert measure.evaluate(masked, ours.data, ours.loss).loss == pytest.approx(float(rated[1]), rel=1e-5)


@ALL
def test_loss_change_takes_no_slow_road(name: str, recwarn: pytest.WarningsRecorder) -> None:
    case = made(name)
    changes = criteria.LossChange(case.data, case.loss)(case.model, channels(case.model, case.inputs[:2]))
    assert not [w for w in recwarn if "slow" in str(w.message)]
    alone = torch.ones(8, dtype=torch.bool).index_fill(0, torch.tensor(3), False)
    sites = channels(case.model, case.inputs[:2])
    one = measure.rate(case.model, sites, [{}, {"first": alone}], case.data, case.loss).losses
    assert float(changes["first"][3]) == pytest.approx(float(one[1] - one[0]), abs=1e-5)


@ALL
def test_fit_learns(name: str) -> None:
    case = made(name)
    before = measure.evaluate(case.model, case.data, case.loss).loss
    history = sc.fit(case.model, case.data, case.data, epochs=30, lr=1e-2, batch_size=12, loss=case.loss)
    assert measure.evaluate(case.model, case.data, case.loss).loss < 0.9 * before
    assert history[-1].validation_loss == pytest.approx(
        measure.evaluate(case.model, case.data, case.loss).loss, rel=0.5
    )


@ALL
def test_distill_comes_near(name: str) -> None:
    """A student comes near to its teacher with the targets' loss, and without targets."""
    case, other = made(name), made(name)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other.model.load_state_dict({k: torch.randn_like(v) * 0.3 for k, v in case.model.state_dict().items()})

    def apart() -> float:
        pairs = zip(_tensors(case.model), _tensors(other.model), strict=True)
        return sum(float((a - b).square().mean()) for a, b in pairs)

    def _tensors(model: nn.Module) -> list[Tensor]:
        from secateur.trees import numbers_within

        return numbers_within(measure.predict(model, case.inputs))

    before = apart()
    sc.distill(other.model, case.model, case.data, epochs=60, lr=1e-2, weight=1.0, loss=case.loss)
    assert apart() < 0.5 * before
    sc.distill(other.model, case.model, case.inputs, epochs=10, lr=1e-3)


ROADS: Mapping[str, Callable[[Case, Any], Any]] = {
    "iterative": lambda c, s: schedules.Iterative(
        criteria.SecondOrder(c.data, c.loss), 0.5, steps=2, data=c.data, loss=c.loss, round_to=1
    )(c.model, s),
    "exhaustive": lambda c, s: schedules.Exhaustive(c.data, c.loss, until=0.4)(c.model, s),
    "greedy": lambda c, s: schedules.Greedy(c.data, c.loss, tolerance=0.02)(c.model, s),
    "shrink": lambda c, s: schedules.Shrink(2, c.data, c.loss)(c.model, s),
    "precomputed": lambda c, s: schedules.Precomputed(
        criteria.LossChange(c.data, c.loss)(c.model, s), 0.4, c.data, c.loss
    )(c.model, s),
    "thinet": lambda c, s: solvers.ThiNet(c.data)(c.model, s, 0.5),
    "structured obs": lambda c, s: solvers.StructuredOBS(c.data)(c.model, s, 0.5),
    "genetic": lambda c, s: search.Genetic(population=6)(
        search.Fitness(search.Space(c.model, s), c.data, loss=c.loss), search.Space(c.model, s), budget=20
    ),
}
"""Roads to a smaller model of channels."""


@ALL
@pytest.mark.parametrize("road", ROADS)
def test_roads_end_where_the_twin_ends(road: str, name: str) -> None:
    ours, twin = made(name), made(name, twin=True)
    result, expected = (ROADS[road](c, channels(c.model, c.inputs[:2], ignore=["right"])) for c in (ours, twin))
    for site in ("first", "second"):
        assert torch.equal(result.keep[site], expected.keep[site])
    if isinstance(result.history, schedules.PruningLog) and road != "thinet":
        assert result.history.loss == pytest.approx(expected.history.loss, rel=1e-4)
    assert not all(bool(mask.all()) for mask in result.keep.values()) or road in ("greedy", "shrink", "genetic")


@ALL
@pytest.mark.parametrize("solver", [solvers.SparseGPT, solvers.WoodFisher])
def test_solvers_of_weights_end_where_the_twin_ends(solver: Any, name: str) -> None:
    solutions = []
    for case in (made(name), made(name, twin=True)):
        made_solver = solver(case.data, case.loss) if solver is solvers.WoodFisher else solver(case.data)
        sites = weights(case.model, ignore=["left.weight", "right.weight"])
        solutions.append(made_solver.solve(case.model, sites, 0.5))
    ours, theirs = solutions
    for parameter in ("first.weight", "second.weight"):
        torch.testing.assert_close(ours.tensors[parameter], theirs.tensors[parameter], rtol=1e-3, atol=1e-5)


@ALL
@pytest.mark.parametrize("how", ["least-squares", "bias"])
def test_repairs_are_those_of_the_twin(how: Any, name: str) -> None:
    ours, twin = (repair(c.model, *_half(c), c.data, how).state_dict() for c in (made(name), made(name, twin=True)))
    for parameter, tensor in ours.items():
        torch.testing.assert_close(tensor, twin[parameter], rtol=1e-4, atol=1e-6)


class Normed(Body):
    """With a batch norm between."""

    def __init__(self, arranged: Callable[[Tensor, Tensor], Any], columns: int = 3) -> None:
        super().__init__(arranged, columns)
        self.second = nn.Sequential(self.second, nn.BatchNorm1d(6))  # type: ignore[assignment]


@ALL
def test_norms_are_recalibrated(name: str) -> None:
    kind, (x, y) = KINDS[name], _samples()
    model = Normed(kind.arranged, kind.columns).eval()
    repaired = repair(model, *_half(Case(model, None, None, x)), (x, kind.targets(y)), "norms")
    assert not torch.equal(repaired.second[1].running_mean, model.second[1].running_mean)


def test_kl_is_of_classes_and_of_logits_behind_a_name() -> None:
    plain, named = (classes(name) for name in LABELLED)
    ours, theirs = (repair(c.model, *_half(c), c.data, "kl").left.weight for c in (named, plain))
    torch.testing.assert_close(ours, theirs)
    for name in ("several numbers", "several labels"):
        case = made(name)
        with pytest.raises(sc.InputError, match="the targets are numbers"):
            repair(case.model, *_half(case), case.data, "kl")


@ALL
def test_prune_with_data(name: str) -> None:
    """The whole line, the default and by name, repairs included."""
    case = made(name)
    result = sc.prune(
        case.model, case.inputs[:2], data=case.data, loss=case.loss, criterion="joint-loss-change", latency=False
    )
    assert result.report.parameters[1] < result.report.parameters[0]
    assert measure.evaluate(result.model, case.data, case.loss).loss > 0
    solved = sc.prune(
        case.model, case.inputs[:2], data=case.data, loss=case.loss, solver="wood-fisher", unit="weights", latency=False
    )
    assert solved.report.nonzero[1] < solved.report.nonzero[0]


@pytest.mark.parametrize("name", ["several numbers", "several labels", "tuple", "dataclass", "targets in a dict"])
def test_compress(name: str, tmp_path: Any) -> None:
    case = made(name)
    sc.fit(case.model, case.data, epochs=30, lr=1e-2, loss=case.loss)
    result = sc.compress(
        case.model, case.inputs[:2], {"macs": 0.7}, case.data, case.data,
        loss=case.loss, metric=lambda o, y: 1 / (1 + float(_value(case.loss, o, y))), max_drop=0.5, runtime="eager",
        steps=1, retries=0,
    )  # fmt: skip
    assert result.report.macs[1] <= 0.7 * result.report.macs[0]


def _value(loss: Any, outputs: Any, targets: Any) -> Tensor:
    from secateur.losses import loss_function

    return loss_function(loss)(outputs, targets)


X, Y = torch.randn(40, 4, generator=torch.Generator().manual_seed(3)), torch.arange(40.0)


def _line(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


UNTEACHING: Mapping[str, tuple[Callable[[Any, Any], Any], str]] = {
    "ignores the teacher": (lambda o, a: o.square().mean(), "does not depend on the teacher's answers"),
    "is constant": (lambda o, a: (0 * o).sum() + a.mean(), "it is constant"),
    "has no gradient": (lambda o, a: (o.detach() - a).square().mean(), "has no gradient"),
    "counts": (lambda o, a: (o.argmax(1) == a.argmax(1)).float().mean(), "has no gradient"),
    "is no scalar": (lambda o, a: (o - a).square(), "no scalar tensor"),
    "is a number": (lambda o, a: 1.0, "returns float"),
}


@pytest.mark.parametrize("name", UNTEACHING)
@pytest.mark.parametrize("way", ["match", "loss without targets"])
def test_distill_refuses_what_cannot_teach(name: str, way: str) -> None:
    function, problem = UNTEACHING[name]
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    before = student.weight.clone()
    data, options = ((X, Y.long() % 3), {"match": function}) if way == "match" else (X, {"loss": function})
    with pytest.raises(sc.InputError, match=f"cannot teach: .*{problem}"):
        sc.distill(student, teacher, data, epochs=1, **options)
    assert torch.equal(student.weight, before)


@pytest.mark.parametrize(
    "function",
    [
        F.mse_loss,
        F.smooth_l1_loss,
        lambda o, a: (o.mean(0) - a.mean(0)).square().sum(),
        lambda o, a: (torch.cdist(o, o) - torch.cdist(a, a)).square().mean(),
        lambda o, a: F.cross_entropy(o, a.argmax(1)),
    ],
    ids=["mse", "huber", "means", "relations", "hard labels"],
)
def test_distill_takes_what_can(function: Any) -> None:
    """Also where the student is its teacher's copy, so that all gradients are nothing at first."""
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    for weights_of in (teacher, student):
        student.load_state_dict(weights_of.state_dict())
        sc.distill(student, teacher, X, match=function, epochs=1)
        sc.distill(student, teacher, X, loss=function, epochs=1)


@pytest.mark.parametrize("loss", [F.mse_loss, nn.L1Loss(), nn.HuberLoss(), _line], ids=["mse", "l1", "huber", "own"])
def test_loose_pairs_are_refused(loss: Any) -> None:
    """Outputs (N, 1) against targets (N,) are N² pairs to torch."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    for call in (
        lambda: sc.fit(model, (X, Y), epochs=1, loss=loss),
        lambda: measure.evaluate(model, (X, Y), loss),
        lambda: criteria.Taylor((X, Y), loss)(model, channels(model, X[:1])),
        lambda: criteria.LossChange((X, Y), loss)(model, channels(model, X[:1])),
    ):
        with pytest.raises(sc.InputError, match="whichever target goes with which sample"):
            call()
    assert measure.evaluate(model, (X, Y), "mse").loss == pytest.approx(
        measure.evaluate(model, (X, Y[:, None]), loss=_line).loss
    )


def test_a_loss_without_a_gradient_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    blind = lambda o, y: (o.detach() - y[:, None]).square().mean()  # noqa: E731
    for call in (
        lambda: sc.fit(model, (X, Y), epochs=1, loss=blind),
        lambda: criteria.Taylor((X, Y), blind)(model, channels(model, X[:1])),
        lambda: criteria.Snip((X, Y), blind)(model, weights(model)),
        lambda: criteria.Taylor((X, Y), blind)(model, weights(model)),
    ):
        with pytest.raises(sc.InputError, match="no gradient by the model's outputs"):
            call()


def test_losses_and_metrics_by_import_path() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    data, path = (X, Y[:, None]), f"{__name__}:_line"
    rated = measure.evaluate(model, data, path, metric="torch.nn.functional:l1_loss")
    assert rated.loss == pytest.approx(measure.evaluate(model, data, _line).loss)
    assert rated.metric == pytest.approx(measure.evaluate(model, data, "l1").loss)
    assert measure.evaluate(model, data, "torch.nn:HuberLoss").loss > 0
    pruned = sc.prune(model, X[:1], "taylor", 0.5, data=data, loss=path, latency=False)
    assert pruned.report.units_removed == 4
    for wrong, error in (("no_such_module:loss", "cannot import"), ("torch.nn:HuberLos", "HuberLoss")):
        with pytest.raises(sc.UnknownNameError, match=error):
            sc.prune(model, X[:1], "taylor", data=data, loss=wrong)
    with pytest.raises(sc.UnknownNameError, match="import path"):
        measure.evaluate(model, data, "mse", metric="r2")


def test_packing_holds_all_that_a_loss_may_read() -> None:
    from secateur.trees import Packing

    shared = torch.randn(3, 2)
    outputs = {"a": shared, "again": shared, "ids": torch.tensor([5, 7, 9]), "seen": torch.ones(3, dtype=torch.bool)}
    outputs |= {"scale": torch.tensor(2.0), "pair": Pair(torch.randn(3, 2, 2), shared)}
    packing = Packing.of(outputs, 3)
    packed = packing.pack(outputs)
    assert packed.shape == (3, 2 + 1 + 1 + 4)
    back = packing.unpack(packed[1:])
    assert back["again"] is back["a"]
    assert back["pair"].right is back["a"]
    assert torch.equal(back["ids"], outputs["ids"][1:])
    assert back["seen"].dtype is torch.bool
    assert back["scale"] == 2
    assert torch.equal(back["pair"].left, outputs["pair"].left[1:])
    assert back["pair"].note == "no tensor"
    with pytest.raises(sc.InputError, match=r"shape \(\) that has no row"):
        Packing.of((shared, torch.ones((), requires_grad=True)), 3)
