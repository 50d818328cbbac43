"""The one call to a goal: what comes back, on what kinds of models and data, and after being killed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur import deadline
from secateur.compression import Compression, CompressOptions, choosing, steps
from secateur.compression import work as trainings
from secateur.compression.costs import Costs
from secateur.compression.options import Goal
from secateur.compression.work import Task
from secateur.labelled import SampleBatch
from secateur.state import tensors
from secateur.structure.cutting import draft
from secateur.train.options import TrainOptions

QUICK = {
    "train": TrainOptions(epochs=2, lr=0.01),
    "finish": TrainOptions(epochs=4, lr=0.01),
    "round_to": 1,
    "runtime": "eager",
}


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three classes around three points."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    centres = 2 * torch.eye(3, 8)
    return centres[labels] + 0.5 * torch.randn(count, 8, generator=generator), labels


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    sc.fit(model, blobs(600, 0), epochs=10, lr=0.01)
    return model


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = tensors(first), tensors(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_half_the_macs_at_the_same_accuracy(trained: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in tensors(trained).items()}
    result = sc.compress(trained, torch.zeros(1, 8), {"macs": 0.5}, blobs(600, 0), blobs(400, 1), **QUICK)
    history: Compression = result.history
    assert history.reached
    assert history.best is not None
    assert history.best.cost <= 0.5
    macs = result.report.macs
    assert macs is not None
    assert macs[1] / macs[0] == pytest.approx(history.best.cost)
    test = blobs(500, 2)
    assert sc.evaluate(result.model, test).accuracy >= sc.evaluate(trained, test).accuracy - 0.02
    assert sum(site.kept for site in result.report.sites) == sum(
        layer.out_features for layer in (result.model[0], result.model[2])
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(trained).items())


@pytest.mark.parametrize("goal", [{"parameters": 0.4}, {"bytes": 0.6}])
def test_goals_that_are_counted(trained: nn.Module, goal: dict[str, float], tmp_path: Path) -> None:
    result = sc.compress(trained, torch.zeros(1, 8), goal, blobs(600, 0), blobs(400, 1), **QUICK)
    assert result.history.reached
    loaded = sc.load(result.save(tmp_path / "small"), trained)
    assert same(loaded, result.model)


def test_a_goal_that_cannot_be_had(trained: nn.Module) -> None:
    options: dict[str, Any] = {**QUICK, "max_drop": 0.0, "metric": "fidelity", "retries": 1}
    result = sc.compress(trained, torch.zeros(1, 8), {"macs": 0.02}, blobs(100, 0), blobs(100, 1), **options)
    assert not result.history.reached
    assert "cannot be had" in str(result.history)
    assert "the original comes back" in str(result.history)
    assert same(result.model, trained)


def test_a_time_limit_ends_it(trained: nn.Module) -> None:
    result = sc.compress(
        trained, torch.zeros(1, 8), {"macs": 0.3}, blobs(300, 0), blobs(100, 1), **QUICK, time_limit=1e-6
    )
    assert not result.history.reached
    assert "time limit" in result.history.why


@pytest.mark.parametrize("at", range(3))
def test_killed_at_any_moment_it_ends_the_same(
    trained: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    call = (trained, torch.zeros(1, 8), {"macs": 0.4}, blobs(600, 0), blobs(400, 1))
    whole = sc.compress(*call, **QUICK)
    epochs = 0
    distill = trainings.distill

    class Killed(BaseException):
        pass

    def dying(*args: Any, **more: Any) -> Any:
        nonlocal epochs
        result = distill(*args, **more)
        epochs += 1
        if epochs == at + 1:
            raise Killed
        return result

    monkeypatch.setattr(trainings, "distill", dying)
    with pytest.raises(Killed):
        sc.compress(*call, folder=tmp_path / "kept", **QUICK)
    monkeypatch.setattr(trainings, "distill", distill)
    resumed = sc.compress(*call, folder=tmp_path / "kept", **QUICK)
    assert same(resumed.model, whole.model)
    assert [(t.asked, t.cost, t.metric) for t in resumed.history.trials] == [
        (t.asked, t.cost, t.metric) for t in whole.history.trials
    ]
    again = sc.compress(*call, folder=tmp_path / "kept", **QUICK)  # all is there
    assert same(again.model, whole.model)
    with pytest.raises(sc.FileError, match=r"another compression.*goal"):
        sc.compress(trained, torch.zeros(1, 8), {"macs": 0.5}, *call[3:], folder=tmp_path / "kept", **QUICK)


def test_killed_after_a_noisy_measurement_it_goes_on_with_what_it_chose(
    trained: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = torch.Generator().manual_seed(0)

    def seconds(model: nn.Module, inputs: Any) -> float:
        count = sum(parameter.numel() for parameter in model.parameters())
        return count * (1 + 0.2 * float(torch.rand((), generator=noise)))

    call = (trained, torch.zeros(1, 8), {"latency": 0.6}, blobs(600, 0), blobs(400, 1))
    widths: list[list[int]] = []
    distill = trainings.distill

    class Killed(BaseException):
        pass

    def dying(model: nn.Module, *args: Any, **more: Any) -> Any:
        widths.append([layer.out_features for layer in model if isinstance(layer, nn.Linear)])
        history = distill(model, *args, **more)
        if len(widths) == 1:
            raise Killed
        return history

    monkeypatch.setattr(trainings, "distill", dying)
    with pytest.raises(Killed):
        sc.compress(*call, folder=tmp_path / "noisy", **{**QUICK, "runtime": seconds})
    resumed = sc.compress(*call, folder=tmp_path / "noisy", **{**QUICK, "runtime": seconds})
    assert widths[0] == widths[1]
    assert resumed.history.trials


def test_without_labels(trained: nn.Module) -> None:
    result = sc.compress(
        trained, torch.zeros(1, 8), {"macs": 0.6}, blobs(600, 0)[0], blobs(400, 1)[0], max_drop=0.05, **QUICK
    )
    assert result.history.metric == "fidelity"
    assert result.history.reached


def test_batches_of_a_loader(trained: nn.Module) -> None:
    x, y = blobs(600, 0)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=50)
    result = sc.compress(trained, torch.zeros(1, 8), {"macs": 0.6}, loader, loader, **QUICK)
    assert result.history.reached


class Heads(nn.Module):
    """Two outputs of one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.box, self.face = nn.Linear(8, 32), nn.Linear(32, 4), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        trunk = self.trunk(x).relu()
        return self.box(trunk), self.face(trunk).softmax(1)


def test_several_outputs_and_a_metric_of_ones_own() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Heads()
    x = blobs(600, 0)[0]

    def nearness(outputs: Any, targets: Any) -> float:
        with torch.no_grad():
            return -float((outputs[0] - model(x)[0]).square().mean())

    result = sc.compress(model, x[:1], {"macs": 0.6}, x, x, metric=nearness, max_drop=0.5, **QUICK)
    assert result.history.reached
    assert [tuple(part.shape) for part in result.model(x[:2])] == [(2, 4), (2, 2)]


class TwoInputs(nn.Module):
    """Adds what two layers make of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(32, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head((self.left(left) + self.right(right)).relu())


def test_several_inputs() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TwoInputs()
    x, y = blobs(600, 0)
    sc.fit(model, ((x, x), y), epochs=5, lr=0.01)
    result = sc.compress(model, (x[:1], x[:1]), {"macs": 0.5}, ((x, x), y), ((x, x), y), **QUICK)
    assert result.history.reached


@pytest.mark.parametrize(
    ("goal", "changes", "words"),
    [
        ({}, {}, "give one"),
        ({"macs": 0.5, "bytes": 0.5}, {}, "give one"),
        ({"speed": 0.5}, {}, "unknown goal 'speed'"),
        ({"macs": 1.5}, {}, "above 0 and below 1"),
        ({"macs": True}, {}, "above 0 and below 1"),
        ({"macs": 0.5}, {"steps": 0}, "steps"),
        ({"macs": 0.5}, {"max_drop": -1}, "max_drop"),
        ({"macs": 0.5}, {"time_limit": 0}, "time_limit"),
        ({"macs": 0.5}, {"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"macs": 0.5}, {"stepz": 1}, "option of compress"),
        ({"macs": 0.5}, {"runtime": "onnx"}, "unknown runtime"),
        ({"macs": 0.5}, {"metric": lambda outputs, targets: float("nan")}, "finite"),
    ],
)
def test_bad_input(trained: nn.Module, goal: Any, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(sc.SecateurError, match=words):
        sc.compress(
            trained,
            torch.zeros(1, 8),
            goal,
            blobs(60, 0),
            blobs(40, 1),
            folder=tmp_path / "new",
            **{**QUICK, **changes},
        )
    assert not (tmp_path / "new").exists()


def test_options_are_data() -> None:
    assert CompressOptions().identity() == CompressOptions(time_limit=5.0).identity()


class _Sequences(nn.Module):
    """A recurrent layer, whose units nothing can make up for before the cut, and two layers behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop, self.hidden, self.head = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return three numbers for each sequence."""
        last: Tensor = self.loop(x)[0][:, -1]
        scores: Tensor = self.head(self.hidden(last).relu())
        return scores


def test_layers_beside_one_that_cannot_be_refitted_still_are() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = _Sequences(), torch.randn(200, 6, 4)
    changes = {**QUICK, "train": TrainOptions(epochs=1), "max_drop": 1.0, "steps": 1, "finish": None}
    result = sc.compress(model, x[:1], {"macs": 0.5}, x, x[:100], **changes)
    assert result.history.reached
    kept = {site.name: site.kept for site in result.report.sites}
    assert result.method is not None
    assert result.method.repair == ("structured-obs",) or kept["hidden"] == 32


def test_many_outputs_are_looked_at_in_as_many_directions_as_tell_the_units_apart() -> None:
    model, x = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 100)), torch.randn(50, 4)
    sites = sc.channels(model, x[:1])
    few, many = (choosing.Scoring.of(model, SampleBatch(inputs), False) for inputs in (x[:10], x))
    directions = [choosing._criterion(CompressOptions(), scoring, sites).directions for scoring in (few, many)]
    assert directions == [2 * 40 // 10, 4]
    classes = choosing.Scoring.of(model[:2], SampleBatch(x), False)  # 40 outputs: exact
    assert choosing._criterion(CompressOptions(), classes, sites).directions == 64


def test_no_training_begins_when_the_time_is_up(trained: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    now, real = [0.0], steps.smaller

    def slow(*args: Any) -> Any:
        result = real(*args)
        now[0] = 1e12
        return result

    monkeypatch.setattr(steps, "smaller", slow)
    monkeypatch.setattr(deadline, "monotonic", lambda: now[0])
    call = (trained, torch.zeros(1, 8), {"macs": 0.3}, blobs(300, 0), blobs(100, 1))
    result = sc.compress(*call, **QUICK, max_drop=1.0, time_limit=60.0)
    (trial,) = result.history.trials
    assert trial.metric == trial.untrained
    assert "time limit" in result.history.why


def test_a_training_that_makes_it_worse_is_undone(trained: nn.Module) -> None:
    changes = {**QUICK, "train": TrainOptions(epochs=1, lr=3.0), "finish": None, "steps": 1, "max_drop": 1.0}
    validation = blobs(400, 1)
    result = sc.compress(trained, torch.zeros(1, 8), {"macs": 0.4}, blobs(600, 0), validation, **changes)
    (trial,) = result.history.trials
    assert trial.metric == trial.untrained == sc.evaluate(result.model, validation).accuracy
    assert trial.untrained > 0.5


def test_a_cut_that_is_no_faster_is_taken_back(trained: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    real = steps.chosen
    monkeypatch.setattr(steps, "chosen", lambda *args: replace(real(*args), cost=1.1))
    changes = {**QUICK, "max_drop": 1.0, "finish": None, "retries": 0}
    result = sc.compress(trained, torch.zeros(1, 8), {"macs": 0.3}, blobs(300, 0), blobs(100, 1), **changes)
    (trial,) = result.history.rejected
    assert trial.why == "no less macs than before"
    assert same(result.model, trained)


def test_a_cut_saves_what_is_asked_whatever_a_table_of_times_foretells(trained: nn.Module) -> None:
    """Of a table that foretells too little saved, or too much, the widths are planned anew once they were measured."""
    options = replace(CompressOptions(runtime=numbers_of), round_to=1)
    scoring = choosing.Scoring.of(trained, choosing.calibration(blobs(300, 0), 300, 0), True)
    chosen_costs = []
    for scale in (0.6, 1.0, 1.6):
        costs = Costs(Goal.of({"latency": 0.7}), trained, torch.zeros(1, 8), options)
        costs._table = replace(costs.table, scale={"latency": scale})
        chosen_costs.append(choosing.chosen(trained, 0.7, costs, scoring, options, lambda model: 0.0).cost)
    assert all(0.68 <= cost <= 0.7 for cost in chosen_costs)


@pytest.mark.parametrize("what", ["macs", "parameters", "latency"])
def test_no_unit_is_cut_for_nothing(trained: nn.Module, what: str) -> None:
    """No site can have a portion more of its units within what was asked."""
    options, inputs = CompressOptions(runtime=stairs, round_to=1), torch.zeros(1, 8)
    scoring = choosing.Scoring.of(trained, choosing.calibration(blobs(300, 0), 300, 0), True)
    costs = Costs(Goal.of({what: 0.6}), trained, inputs, options)
    choice = choosing.chosen(trained, 0.6, costs, scoring, options, lambda model: 0.0)
    assert choice.cost <= 0.6
    for name, mask in choice.keep.items():
        wider = {**choice.keep, name: torch.arange(32) < min(int(mask.sum()) + 2, 32)}
        assert bool(mask.all()) or costs(draft(trained, choice.sites, wider)) > 0.6


def test_of_several_allocations_the_one_that_is_rated_best_is_taken(trained: nn.Module) -> None:
    """One by which no site loses more than half of its units is tried beside the one that is foretold to lose least."""
    options, inputs, goal = CompressOptions(runtime="eager", round_to=1), torch.zeros(1, 8), Goal.of({"macs": 0.35})
    scoring = choosing.Scoring.of(trained, choosing.calibration(blobs(300, 0), 300, 0), True)
    costs = Costs(goal, trained, inputs, options)

    def narrowest(model: nn.Module) -> float:
        return float(
            min(layer.out_features for layer in model if isinstance(layer, nn.Linear) and layer.out_features > 3)
        )

    even, uneven = (
        choosing.chosen(trained, 0.35, costs, scoring, options, rating)
        for rating in (narrowest, lambda m: -narrowest(m))
    )
    counts = [[int(mask.sum()) for mask in choice.keep.values()] for choice in (even, uneven)]
    assert min(counts[0]) >= 16 > min(counts[1])
    assert max(even.cost, uneven.cost) <= 0.35


def stairs(model: nn.Module, inputs: Any) -> float:
    """A time that falls in steps of eight units, as that of blocked kernels does."""
    widths = [-(-layer.out_features // 8) for layer in model if isinstance(layer, nn.Linear)]
    return float(1 + 3 * widths[0] + widths[0] * widths[1])


def test_a_trial_looks_for_the_sites_once(trained: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    real, looks = choosing.channels, []

    def counting(*args: Any) -> Any:
        looks.append(args)
        return real(*args)

    for module in (choosing, steps):
        monkeypatch.setattr(module, "channels", counting)
    call = (trained, torch.zeros(1, 8), {"macs": 0.4}, blobs(300, 0), blobs(100, 1))
    result = sc.compress(*call, **{**QUICK, "max_drop": 1.0})
    assert len(looks) == len(result.history.trials) == 2


@pytest.mark.parametrize(
    ("metrics", "trainings"),
    [
        ([0.95, 0.97, 0.985, 0.995, 0.999], 3),  # until it is enough
        ([0.95, 0.951, 0.952], 1),  # at this pace it would not be by the end
        ([0.95, 0.96, 0.975, 0.976, 0.99], 3),  # it slows down
        ([0.95, 0.992], 1),
    ],
)
def test_training_goes_on_while_it_would_lead_to_the_metric(
    trained: nn.Module, monkeypatch: pytest.MonkeyPatch, metrics: list[float], trainings: int
) -> None:
    seeds: list[int] = []

    def train(
        self: Any, model: nn.Module, metric: float, options: TrainOptions, number: int, what: str, edits: Any
    ) -> Any:
        if what == "train":
            return metrics[0], True
        seeds.append(options.seed)
        return metrics[len(seeds)], True

    monkeypatch.setattr(steps._Walk, "_trained", train)
    options = CompressOptions(**QUICK)
    task = Task(trained, torch.zeros(1, 8), Goal("macs", 0.5), blobs(300, 0), blobs(100, 1), options, None, False)
    walk = steps._Walk(task)
    walk.journal.baseline["metric"] = 0.99 + walk.options.max_drop
    metric = walk._trained_back(trained, 0.9, 1, is_last=True)
    assert metric == metrics[trainings]
    assert seeds == [*range(trainings)]


@pytest.mark.parametrize(
    ("helps", "rates"),
    [([True, False, False], [0.01, 0.01, 0.001]), ([False, False], [0.01, 0.001]), ([True, True], [0.01] * 2)],
)
def test_a_training_that_made_it_worse_is_followed_by_a_calmer_one(
    trained: nn.Module, monkeypatch: pytest.MonkeyPatch, helps: list[bool], rates: list[float]
) -> None:
    seen: list[float] = []

    def train(
        self: Any, model: nn.Module, metric: float, options: TrainOptions, number: int, what: str, edits: Any
    ) -> Any:
        seen.append(options.lr)
        return metric, helps[len(seen) - 1]

    monkeypatch.setattr(steps._Walk, "_trained", train)
    options = CompressOptions(**QUICK)
    task = Task(trained, torch.zeros(1, 8), Goal("macs", 0.5), blobs(300, 0), blobs(100, 1), options, None, False)
    walk = steps._Walk(task)
    walk.journal.baseline["metric"] = 0.99 + walk.options.max_drop
    assert walk._trained_back(trained, 0.95, 1, is_last=True) == 0.95
    assert seen == pytest.approx(rates)


def test_an_optimizer_of_ones_own_has_a_rate_of_its_own() -> None:
    own = TrainOptions(optimizer=partial(torch.optim.SGD, lr=0.1))
    assert trainings.calmer(own) == own
    assert trainings.calmer(TrainOptions(lr=0.5)).lr == pytest.approx(0.05)


def test_a_metric_without_a_name(trained: nn.Module) -> None:
    call = (trained, torch.zeros(1, 8), {"macs": 0.6}, blobs(300, 0), blobs(100, 1))
    result = sc.compress(
        *call, metric=lambda outputs, targets: float((outputs.argmax(1) == targets).float().mean()), **QUICK
    )
    assert result.history.metric == "metric"
    assert "lambda" not in str(result.history)


def numbers_of(model: nn.Module, inputs: Any) -> float:
    """A time that is the number of parameters."""
    return float(sum(parameter.numel() for parameter in model.parameters()))


def test_a_transformer_is_cut_in_steps(tmp_path: Path) -> None:
    """Where all heads but one are gone, their dimensions are a site that the original did not have."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.Sequential(
        nn.Unflatten(1, (4, 2)), nn.Linear(2, 16), nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(64, 3)
    )
    sc.fit(model, blobs(300, 0), epochs=2, lr=0.003)
    goal, options = {"macs": 0.35}, {**QUICK, "finish": None, "steps": 3, "samples": 60}
    result = sc.compress(model, torch.zeros(2, 8), goal, blobs(300, 0), blobs(200, 1), max_drop=0.5, **options)
    assert result.history.reached
    assert same(sc.load(result.save(tmp_path / "small"), model), result.model)
