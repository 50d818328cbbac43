"""The loss that a model is rated by: names, what does not fit, and regression; and scores that tell nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.compression.quality import Quality
from secateur.criteria import CRITERIA, ClassAccuracy, by_name
from secateur.criteria.base import LossCriterion, check_scores
from secateur.losses import LOSSES, check_loss, is_cross_entropy, loss_function
from secateur.measure import evaluate
from secateur.schedules import Exhaustive, Greedy, Iterative, Precomputed, Shrink
from secateur.search import Fitness, HillClimbing, Space
from secateur.solvers import WoodFisher
from secateur.testing.toys import hand_mlp
from secateur.train import Reinitialise, distill, fit
from secateur.types import InputError, UnknownNameError

LOSSY = [name for name, row in CRITERIA.items() if isinstance(row.make, type) and issubclass(row.make, LossCriterion)]
OF_WEIGHTS = {"obs"}
REMEDY = r"targets are floats of shape \(\d+, 1\): pass loss='mse'"


def regression() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 8, generator=generator)
    y = x[:, :3].prod(1, keepdim=True) + x.sum(1, keepdim=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    fit(model, (x, y), epochs=40, loss="mse", lr=3e-3)
    return model.eval(), (x, y)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    return regression()


def small() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    x = torch.randn(24, 4, generator=generator)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)).eval(), (x, x.sum(1, keepdim=True))


# The table ------------------------------------------------------------------------------------------------------------


def test_names_of_losses() -> None:
    assert loss_function("cross-entropy") is loss_function("cross_entropy") is F.cross_entropy
    assert loss_function(F.huber_loss) is F.huber_loss
    with pytest.raises(UnknownNameError, match=r"unknown loss 'msf'; did you mean 'mse'.*or give a function"):
        loss_function("msf")
    with pytest.raises(UnknownNameError, match="unknown loss '3'"):
        loss_function(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in LOSSES if "cross_entropy" not in name])
def test_a_named_loss_gives_that_of_each_sample(name: str) -> None:
    outputs = torch.tensor([[0.5], [-1.0], [2.0]])
    targets = torch.tensor([[1.0], [0.0], [1.0]])
    loss: Any = loss_function(name)
    each = loss(outputs, targets, reduction="none")
    assert each.shape == (3, 1)
    assert torch.equal(each.mean(), loss(outputs, targets))
    torch.func.vmap(lambda o, t: loss(o[None], t[None]))(outputs, targets)


def test_losses_by_hand() -> None:
    outputs = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    labels = torch.tensor([0, 0])
    assert loss_function("mse")(outputs, labels).item() == (0 + 0 + 1 + 9) / 4
    assert loss_function("l1")(outputs, labels).item() == (0 + 0 + 1 + 3) / 4
    assert loss_function("bce")(torch.zeros(2, 1), torch.tensor([0, 1])).item() == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.parametrize(
    "loss", ["cross-entropy", F.cross_entropy, nn.CrossEntropyLoss(), partial(F.cross_entropy, label_smoothing=0.1)]
)
def test_what_is_the_cross_entropy(loss: Any) -> None:
    assert is_cross_entropy(loss)
    with pytest.raises(InputError, match="one output column"):
        check_loss(loss, torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64), "rate")


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (torch.zeros(4, 1), torch.zeros(4, 1), r"targets are floats of shape \(4, 1\): pass loss='mse'"),
        (torch.zeros(4, 3), torch.zeros(4), r"targets are floats of shape \(4,\): pass loss='mse'"),
        (torch.zeros(4, 3), torch.zeros(4, 3), "that are no probabilities: pass loss='mse'"),
        (torch.zeros(4, 3), torch.tensor([[1.5, -0.5, 0.0]] * 4), "that are no probabilities"),
        (torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64), "one output column.*loss='bce'"),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64), "one output column"),
        (
            torch.zeros(4, 3),
            torch.zeros(4, 1, dtype=torch.int64),
            r"have the shape \(4, 1\): give class labels of shape",
        ),
        (torch.zeros(2, 3, 2, 2), torch.full((2, 2, 2), 3), "label 3 is out of range for 3 classes"),
    ],
)
def test_targets_that_the_cross_entropy_does_not_fit(outputs: Tensor, targets: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=f"rate: the loss is cross-entropy, and .*{message}"):
        check_loss("cross_entropy", outputs, targets, "rate")


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])),
        (torch.zeros(2, 3), torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])),
        (torch.zeros(2, 3, 2, 2), torch.full((2, 2, 2), -100)),
    ],
)
def test_targets_that_it_fits(outputs: Tensor, targets: Tensor) -> None:
    check_loss("cross_entropy", outputs, targets, "rate")


# Regression -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSY)
def test_a_default_that_does_not_fit_is_refused(name: str) -> None:
    model, data = small()
    unit: Any = "weights" if name in OF_WEIGHTS else "channels"
    with pytest.raises(InputError, match=REMEDY):
        sc.prune(model, data[0][:1], name, 0.4, data=data, unit=unit, latency=False)
    sc.prune(model, data[0][:1], name, 0.4, data=data, unit=unit, loss="mse", latency=False)
    sc.prune(model, data[0][:1], name, 0.4, data=data, unit=unit, loss=F.smooth_l1_loss, latency=False)


@pytest.mark.parametrize("name", [name for name in LOSSY if name not in OF_WEIGHTS])
def test_masks_of_a_regression_are_no_worse_than_random_ones(
    name: str, trained: tuple[nn.Module, tuple[Tensor, Tensor]]
) -> None:
    model, (x, y) = trained
    scope: Any = "layer"

    def error(net: nn.Module) -> float:
        return evaluate(net, (x, y), "mse").loss

    def pruned(criterion: Any, **more: Any) -> float:
        return error(sc.prune(model, x[:1], criterion, 0.2, scope=scope, latency=False, **more).model)

    usual = sum(pruned(sc.criteria.Random(seed)) for seed in range(5)) / 5
    assert pruned(name, data=(x, y), loss="mse") <= usual


@pytest.mark.parametrize(
    "call",
    [
        lambda m, d, **k: evaluate(m, d, **k),
        lambda m, d, **k: fit(m, d, epochs=1, **k),
        lambda m, d, **k: sc.measure.rate(m, sc.channels(m, d[0]), [{}], d, **k),
        lambda m, d, **k: sc.allocate.sensitivity(m, sc.channels(m, d[0]), sc.criteria.Magnitude(), [0.5], data=d, **k),
        lambda m, d, **k: WoodFisher(d, steps=1, **k)(m, sc.weights(m), 0.5),
        lambda m, d, **k: Greedy(d, **k)(m, sc.channels(m, d[0])),
        lambda m, d, **k: Exhaustive(d, **k)(m, sc.channels(m, d[0])),
        lambda m, d, **k: Shrink(1, d, **k)(m, sc.channels(m, d[0])),
        lambda m, d, **k: Iterative(sc.criteria.Magnitude(), 0.5, data=d, **k)(m, sc.channels(m, d[0])),
        lambda m, d, **k: Precomputed(sc.criteria.LossChange(d, "mse")(m, sc.channels(m, d[0])), 0.5, data=d, **k)(
            m, sc.channels(m, d[0])
        ),
        lambda m, d, **k: fit(m, d, epochs=3, loss="mse", callbacks=[Reinitialise(1, d, **k)]),
        lambda m, d, **k: sc.measure.agreement(
            sc.criteria.LossChange(d, "mse")(m, s := sc.channels(m, d[0])),
            sc.criteria.Magnitude()(m, s),
            fractions=[0.5],
            model=m,
            sites=s,
            data=d,
            **k,
        ),
        lambda m, d, **k: distill(
            sc.cut(m, s := sc.channels(m, d[0]), sc.select(sc.criteria.Magnitude()(m, s), 0.5)), m, d, epochs=1, **k
        ),
    ],
)
def test_a_loss_goes_everywhere_that_a_model_is_rated(call: Callable[..., object]) -> None:
    for loss in ("mse", "l1", F.huber_loss):
        model, data = small()
        call(model, data, loss=loss)
    model, data = small()
    with pytest.raises(InputError, match=REMEDY):
        call(model, data)


def test_a_search_by_the_loss() -> None:
    model, data = small()
    space = Space(model, sc.weights(model))
    with pytest.raises(InputError, match=r"give whole numbers.*or a loss to search by"):
        Fitness(space, data)
    fitness = Fitness(space, data, alpha=100, beta=1, loss="mse")
    result = HillClimbing()(fitness, space, budget=60)
    whole, found = evaluate(model, data, "mse").loss, evaluate(result.model, data, "mse").loss
    kept = sum(int(k.sum()) for k in result.keep.values()) / space.size
    genes = space.flat({name: keep.float() for name, keep in result.keep.items()}).astype(bool)[None]
    assert fitness(genes).fitness[0] == pytest.approx(100 * (whole - found) / whole + 1 - kept, abs=1e-4)
    assert fitness(genes).fitness[0] > 0
    assert fitness.subset(5).samples == 5
    with pytest.raises(InputError, match="no right answers are counted"):
        _ = fitness.population


def test_a_student_of_one_column_learns_from_its_teacher() -> None:
    """The soft answers of one column are all 1: what was trained was nothing."""
    model, (x, y) = small()
    torch.manual_seed(2)
    student = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        apart = F.mse_loss(student(x), model(x)).item()
    with pytest.raises(InputError, match=REMEDY):
        distill(student, model, (x, y), epochs=1)
    with pytest.raises(InputError, match="one output column"):
        distill(student, model, (x, torch.zeros(24, dtype=torch.int64)), epochs=1)
    history = distill(student, model, (x, y), weight=1.0, epochs=1, lr=0.0 + 1e-9, loss="mse")
    assert history[0].train_loss == pytest.approx(apart, rel=1e-3)
    distill(student, model, (x, y), weight=1.0, epochs=100, lr=1e-2, loss="mse")
    with torch.no_grad():
        assert F.mse_loss(student(x), model(x)).item() < apart / 10


def test_the_loss_of_a_criterion_that_is_made_is_its_own() -> None:
    model, data = small()
    with pytest.raises(InputError, match="loss goes with a criterion that is given by its name"):
        sc.prune(model, data[0], sc.criteria.Taylor(data), data=data, loss="mse")
    with pytest.raises(InputError, match="leave out loss"):
        sc.prune(model, data[0], solver=WoodFisher(data, "mse"), unit="weights", loss="mse")
    assert sc.prune(model, data[0], "taylor", data=data, loss="mse", latency=False).report.loss is not None
    assert sc.prune(model, data[0], "l2", data=data, loss="mse", latency=False).report.units_removed == 3


def test_signs_of_the_first_order_by_default() -> None:
    """Signed for classes, as ever; absolute for numbers, where what is lowest with its sign pushes all one way."""
    model, data = small()
    sites = sc.channels(model, data[0])
    for kind in (sc.criteria.Taylor, sc.criteria.NextLayer):
        scores = [kind(data, "mse", sign)(model, sites)["0"] for sign in (None, "absolute", "signed")]
        assert torch.equal(scores[0], scores[1])
    signed, usual = (sc.criteria.Taylor(data, "mse", sign)(model, sites)["0"] for sign in ("signed", None))
    assert bool((signed < 0).any())
    assert bool((usual >= 0).all())
    labels = (data[0][:, :2], torch.tensor([0, 1] * 12))
    for kind in (sc.criteria.Taylor, sc.criteria.NextLayer):
        scores = [
            kind(labels, sign=sign)(hand_mlp(), sc.channels(hand_mlp(), labels[0]))["0"] for sign in (None, "signed")
        ]
        assert torch.equal(*scores)


# Scores that tell nothing ---------------------------------------------------------------------------------------------


class Level:
    """Scores that are all alike."""

    def __init__(self, *sites: str, value: float = 2.0) -> None:
        self.sites, self.value = sites, value

    def __call__(self, model: nn.Module, sites: sc.Sites) -> dict[str, Tensor]:
        return {
            name: torch.full(site.shape, self.value) if name in self.sites else torch.arange(site.size) + 1.0
            for name, site in sites.items()
        }


def two_sites() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(4, 3)


@pytest.mark.parametrize("value", [0.0, 2.0, float("nan"), float("inf")])
def test_scores_that_are_alike_everywhere_are_refused(value: float) -> None:
    model, x = two_sites()
    sites, level = sc.channels(model, x), Level("0", "2", value=value)
    calls: list[Callable[[], object]] = [
        lambda: sc.prune(model, x, level, 0.5, latency=False),
        lambda: sc.prune(model, x, level, budget={"macs": 0.5}, latency=False),
        lambda: Iterative(level, 0.5, steps=2)(model, sites),
        lambda: Greedy((x, torch.zeros(4, dtype=torch.int64)), order="estimated", estimate=level)(model, sites),
        lambda: sc.allocate.sensitivity(model, sites, level, [0.5], lambda net: 0.0),
        lambda: sc.allocate.budget(model, sites, level(model, sites), macs=0.5),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"Level|what scores") as error:
            call()
        assert "NaN or infinite" in str(error.value) or "in every site all scores are equal" in str(error.value)


def test_one_site_of_several_is_warned_of() -> None:
    model, x = two_sites()
    report = sc.prune(model, x, Level("0"), 0.5, scope="layer", latency=False).report
    assert report.warnings == ("all scores of '0' are equal, so the position of its units decided which of them went",)
    assert f"WARNING: {report.warnings[0]}" in str(report)
    assert not sc.prune(model, x, "l2", 0.5, scope="layer", latency=False).report.warnings


def test_what_a_criterion_says_of_scores_that_are_alike() -> None:
    model, x = two_sites()
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    with pytest.raises(
        InputError, match=r"prune: Magnitude tells no unit from another.*0: 1\.73.*train the model first"
    ):
        sc.prune(model, x, latency=False)
    dead = (x, torch.zeros(4, dtype=torch.int64))
    nn.init.zeros_(model[4].weight)
    with pytest.raises(InputError, match=r"prune: Snip tells no unit.*pass loss='mse'"):
        sc.prune(model, x, "snip", data=dead, latency=False)


def test_explicit_scores_may_be_alike() -> None:
    keep = sc.select({"a": torch.ones(4)}, 0.5)
    assert keep["a"].tolist() == [False, False, True, True]
    with pytest.raises(InputError, match="all scores are infinite"):
        sc.select({"a": torch.full((3,), float("inf"))}, 0.5)


def test_units_that_stand_alone_are_no_reason_to_refuse() -> None:
    check_scores({"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}, "mine")


def test_a_criterion_of_ones_own_on_the_base_is_checked() -> None:
    model, x = two_sites()
    sites = sc.channels(model, x)
    with torch.no_grad():
        model[0].weight[0, 0] = float("inf")
    with pytest.raises(InputError, match=r"Magnitude: 1 scores of '0' are NaN or infinite"):
        sc.criteria.Magnitude()(model, sites)


def test_classes_need_their_loss_by_name_too() -> None:
    model = hand_mlp()
    data = (torch.tensor([[1.0, 2.0], [2.0, -1.0], [0.0, 1.0]]), torch.tensor([0, 1, 1]))
    sites = sc.channels(model, data[0])
    one, other = (ClassAccuracy(data, [1], loss=loss)(model, sites) for loss in ("cross-entropy", F.cross_entropy))
    assert torch.equal(one["0"], other["0"])
    for name in LOSSY:
        if name not in OF_WEIGHTS:
            one, other = (by_name(name, data, loss)(model, sites) for loss in ("cross_entropy", F.cross_entropy))
            assert torch.equal(one["0"], other["0"])


@pytest.mark.parametrize("loss", ["mse", "l1", "bce"])
def test_one_column_takes_whole_numbers_as_numbers_and_not_as_classes(loss: str) -> None:
    model, x = nn.Linear(2, 1), torch.randn(8, 2)
    labels = torch.arange(8) % 2
    assert sc.fit(model, (x, labels), epochs=1, loss=loss).epochs[0].train_accuracy is None
    named = sc.evaluate(model, (x, labels), loss)
    assert named.loss == pytest.approx(sc.evaluate(model, (x, labels[:, None].float()), loss).loss)


def test_a_loss_that_compares_all_with_all_is_seen_where_the_first_targets_are_alike() -> None:
    x, y = torch.randn(8, 2), torch.tensor([0.5, 0.5, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7])
    with pytest.raises(sc.InputError, match="all compared with all"):
        sc.fit(nn.Linear(2, 1), (x, y), epochs=1, loss=nn.functional.mse_loss)


def _each(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that forgets its mean."""
    return F.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize("name", LOSSY)
def test_a_loss_of_every_sample_is_refused_by_name(name: str) -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(20, 4)
    data = (x, torch.arange(20) % 3)
    sites = sc.weights(model) if name in OF_WEIGHTS else sc.channels(model, x[:1])
    with pytest.raises(InputError, match=r"the loss CrossEntropyLoss\(\) has reduction='none'.* leave reduction out"):
        by_name(name, data, nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(InputError, match=r"loss cross_entropy has reduction='none'"):
        by_name(name, data, partial(F.cross_entropy, reduction="none"))
    with pytest.raises(InputError, match=r"the loss (_each )?gave a tensor of shape .* returns the mean, a scalar"):
        by_name(name, data, _each)(model, sites)


def test_a_metric_of_ones_own_is_given_what_a_loss_of_ones_own_is() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.aux, self.head = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            h = self.body(x).relu()
            return {"aux": self.aux(h), "logits": self.head(h)}

    torch.manual_seed(0)
    model, x = Named(), torch.randn(20, 4)
    data, seen = (x, torch.arange(20) % 3), []

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        seen.append(set(outputs))
        return F.cross_entropy(outputs["logits"], targets)

    def right(outputs: Any, targets: Tensor) -> float:
        seen.append(set(outputs))
        return float((outputs["logits"].argmax(1) == targets).float().mean())

    rated = evaluate(model, data, loss, metric=right)
    assert rated.metric == pytest.approx(rated.accuracy)
    assert all(names == {"aux", "logits"} for names in seen)
    quality = Quality.of(model, data, right)
    assert quality.baseline == quality(model) == pytest.approx(rated.accuracy)
    assert quality.tells_classes
    assert Quality.of(model, data, "accuracy").baseline == pytest.approx(rated.accuracy)
    with pytest.raises(
        InputError, match=r"given all that the model returns: take what it needs, as outputs\['logits'\]"
    ):
        evaluate(model, data, loss, metric=lambda outputs, targets: outputs.argmax(1))
