"""Structured OBS: the choice, the costs and the refit against plain least squares, for every kind of layer that reads."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur import equations
from secateur.equations import LayerEquations
from secateur.repair import beside, repair
from secateur.solvers import StructuredOBS, ThiNet, by_name, joint_refit, output_metrics
from secateur.solvers.elimination import LeastSquares, removals
from secateur.structure import channels, cut
from secateur.structure.patches import Patches
from secateur.testing.toys import same_state, snapshot
from secateur.types import InputError, UnknownNameError


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unlabelled(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, torch.zeros(len(x))


def error_without(moments: Tensor, best: Tensor, gone: Tensor) -> float:
    """The error beyond the least one, with some rows zero and the rest refitted: tr((W − B)ᵀ H (W − B))."""
    stays = torch.ones(len(moments), dtype=torch.bool)
    stays[gone] = False
    refit = torch.zeros_like(best)
    refit[stays] = torch.linalg.solve(moments[stays][:, stays], (moments @ best)[stays])
    return float(((refit - best) * (moments @ (refit - best))).sum())


def problems(units: int, *blocks: int) -> list[LeastSquares]:
    """One problem for each number of inputs that a unit has; the last input belongs to no unit."""
    drawn = []
    for seed, block in enumerate(blocks):
        x = normal(units * block + 1, 60, seed=seed).double()
        x[: units * block] += 0.7 * x[: units * block].roll(1, 0)
        rows = torch.randperm(units * block, generator=torch.Generator().manual_seed(seed)).view(units, block)
        drawn.append(LeastSquares(x @ x.T, normal(len(x), 3, seed=seed + 9).double(), torch.arange(units), rows))
    return drawn


@pytest.mark.parametrize("blocks", [(1,), (3,), (2, 1)])
def test_the_unit_that_goes_is_the_one_that_a_refit_of_all_candidates_finds(blocks: tuple[int, ...]) -> None:
    drawn, gone, total = problems(6, *blocks), [], 0.0
    for unit, added in removals(drawn, 6, 4):
        costs = {
            candidate: sum(
                error_without(p.moments, p.weights, torch.cat([p.rows[u] for u in (*gone, candidate)])) for p in drawn
            )
            for candidate in set(range(6)) - set(gone)
        }
        assert unit == min(costs, key=costs.__getitem__)
        gone.append(unit)
        total += added
        assert total == pytest.approx(costs[unit], rel=1e-8)


def test_the_first_choice_is_the_best_of_all_and_later_ones_near_to_it() -> None:
    (problem,) = problems(6, 2)
    order = [unit for unit, _ in removals([problem], 6, 3)]

    def error(units: tuple[int, ...]) -> float:
        return error_without(problem.moments, problem.weights, problem.rows[list(units)].flatten())

    assert error((order[0],)) == min(error((unit,)) for unit in range(6))
    assert error(tuple(order)) <= 1.5 * min(error(three) for three in combinations(range(6), 3))


def test_units_without_inputs_in_a_problem_cost_nothing_there() -> None:
    moments = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    weights = torch.tensor([[1.0], [1.0], [2.0]], dtype=torch.float64)
    uneven = LeastSquares(moments, weights, torch.tensor([0, 2]), torch.tensor([[0, 1], [2, -1]]))
    # Unit 1 has none, so it is free; unit 0 costs 1 · 1² + 2 · 1², unit 2 costs 3 · 2².
    assert removals([uneven], 3, 3) == [(1, 0.0), (0, pytest.approx(3.0)), (2, pytest.approx(12.0))]


class Residual(nn.Module):
    """A site that three layers read: a branch, the layer behind the sum, and the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.inner, self.outer = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 3, padding=1)
        self.norm, self.side = nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1)
        self.head = nn.Linear(6 + 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.norm(x + self.outer(torch.relu(self.inner(x)))))
        y: Tensor = self.head(torch.cat([x.mean((2, 3)), self.side(x).relu().mean((2, 3))], 1))
        return y


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)), (4,)),
    "tokens": (lambda: nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)), (5, 4)),
    "flattened": (
        lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4)),
        (2, 6, 6),
    ),
    "strided": (
        lambda: nn.Sequential(nn.Conv1d(2, 6, 5), nn.ReLU(), nn.Conv1d(6, 4, 4, stride=2, bias=False)),
        (2, 20),
    ),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(32, 3)
        ),
        (2, 6, 6),
    ),
    "depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 3, 1)
        ),
        (2, 6, 6),
    ),
    "residual": (Residual, (2, 6, 6)),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, shape = MODELS[name]
    return model().eval(), normal(400, *shape, seed=1)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_cut_model_is_nearer_than_that_of_thinet_and_the_given_one_is_untouched(name: str) -> None:
    model, x = build(name)
    before = snapshot(model)
    sites = channels(model, x[:1])
    made = StructuredOBS(unlabelled(x))(model, sites, 0.4)
    other = ThiNet(unlabelled(x)).solve(model, sites, 0.4).apply(model)
    assert same_state(before, snapshot(model))
    assert sum(int((~kept).sum()) for kept in made.keep.values()) > 0
    with torch.no_grad():
        whole, y, z = (m(x) for m in (model, made.model, other))
    assert float((y - whole).norm()) < float((z - whole).norm()) * 1.02


@pytest.mark.parametrize("name", ["mlp", "flattened", "strided", "grouped", "residual"])
def test_its_refit_is_the_repair_for_its_masks(name: str) -> None:
    model, x = build(name)
    sites = channels(model, x[:1])
    solution = StructuredOBS(unlabelled(x)).solve(model, sites, 0.4)
    repaired = repair(model, sites, solution.keep, unlabelled(x), "least-squares", ridge=1e-2)
    mine, theirs = (cut(m, sites, solution.keep) for m in (solution.apply(model), repaired))
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_unit_that_others_say_goes_first_and_nothing_is_lost() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight[2] = 5 * model[0].weight[0] - model[0].weight[1]
    x = normal(50, 3)
    small = StructuredOBS(unlabelled(x), ridge=1e-10)(model, channels(model, x[:1]), 0.25)
    assert torch.allclose(small.model(x), model(x), atol=1e-3)
    assert int(small.keep["0"].sum()) == 3


def test_later_layers_are_fitted_to_the_unpruned_network_on_inputs_of_the_pruned_one() -> None:
    """Against the two layers fitted by hand, the second on what the first, fitted before, gives."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    x = normal(300, 3)
    solution = StructuredOBS(unlabelled(x), ridge=1e-8).solve(model, channels(model, x[:1]), 0.5)
    ones = torch.ones(300, 1, dtype=torch.float64)
    with torch.no_grad():
        first, second = (solution.keep[name] for name in ("0", "2"))
        read = torch.cat([model[:2](x)[:, first].double(), ones], 1)
        made = read @ torch.linalg.lstsq(read, model[:3](x).double()).solution
        read = torch.cat([made.relu()[:, second], ones], 1)
        wanted = read @ torch.linalg.lstsq(read, model(x).double()).solution
        torch.testing.assert_close(solution.apply(model)(x).double(), wanted, rtol=1e-3, atol=1e-3)


def test_batches_of_several_sizes_activations_not_held_and_one_batch_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("residual")
    sites = channels(model, x[:1])
    whole = StructuredOBS(unlabelled(x)).solve(model, sites, 0.4)
    monkeypatch.setattr(beside, "HELD", 0)
    monkeypatch.setattr(beside, "SHARE", 2**60)
    parts = StructuredOBS([unlabelled(x[:150]), unlabelled(x[150:])]).solve(model, sites, 0.4)
    assert all(torch.equal(whole.keep[name], parts.keep[name]) for name in sites)
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(tensor, parts.tensors[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "options", "every"),
    [((9,), {"stride": 2, "padding": 4}, 1), ((3, 3), {"padding": 1}, 1), ((33,), {"padding": 16}, 2)],
)
def test_large_kernels_change_within_their_principal_directions(
    kernel: tuple[int, ...], options: dict[str, int], every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against least squares with one input for each direction of each channel; of long kernels at some places alone."""
    monkeypatch.setattr(equations, "COLUMNS", 12)
    x, weight = normal(60, 4, *[12] * len(kernel)), normal(5, 4, *kernel, seed=1)
    convolve = torch.conv1d if len(kernel) == 1 else torch.conv2d
    aims = convolve(x, normal(5, 4, *kernel, seed=2), **options)
    some = LayerEquations(weight, options, [torch.arange(4)], bias=False)
    some.add(x, aims)
    change, _ = some.solve(0.0)
    assert some.each == 3
    rows = torch.cat([c[0].mT for c in Patches.of(options, kernel).columns(x, 1)]).double()
    directions = [torch.linalg.svd(weight[:, c].flatten(1).double())[2][:3].mT for c in range(4)]
    inside = (rows @ torch.block_diag(*directions))[::every]  # an even number of places
    best = torch.linalg.lstsq(inside, aims.movedim(1, -1).reshape(-1, 5).double()[::every]).solution
    expected = torch.block_diag(*directions) @ best
    torch.testing.assert_close(change.flatten(1), expected.mT, rtol=1e-5, atol=1e-6)


def test_maps_that_a_linear_layer_reads_are_kernels_then(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (equations, __import__("secateur.repair.consumers", fromlist=["x"])):
        monkeypatch.setattr(module, "COLUMNS", 48)
    model, x = build("flattened")
    sites = channels(model, x[:1])
    made = StructuredOBS(unlabelled(x))(model, sites, 0.5)
    plain = cut(model, sites, made.keep)
    with torch.no_grad():
        whole = model(x)
        assert (made.model(x) - whole).norm() < 0.9 * (plain(x) - whole).norm()


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    train, test = sc.data.load("digits", "train"), sc.data.load("digits", "test")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    sc.fit(model, (train.images, train.labels), epochs=15, seed=0)
    return model, (train.images, train.labels), (test.images, test.labels)


Digits = tuple[nn.Module, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def divergence(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted, made = model(x).log_softmax(1), other(x).log_softmax(1)
    return float((wanted.exp() * (wanted - made)).sum(1).mean())


def test_it_beats_thinet_and_probabilities_come_nearer_with_the_last_layer(trained: Digits) -> None:
    model, data, test = trained
    sites = channels(model, test[0][:1])
    thinet, plain, fitted = (
        solver.solve(model, sites, 0.7).apply(model)
        for solver in (ThiNet(data), StructuredOBS(data, last=None), StructuredOBS(data))
    )
    thinet_rate, plain_rate, fitted_rate = (sc.evaluate(m, test).accuracy for m in (thinet, plain, fitted))
    assert min(plain_rate, fitted_rate) > thinet_rate
    assert divergence(model, fitted, test[0]) < 0.9 * divergence(model, plain, test[0])


def test_the_last_layer_is_fitted_where_targets_are_classes_or_it_is_asked_for(trained: Digits) -> None:
    model, (x, labels), _ = trained
    sites = channels(model, x[:1])
    names = {
        (last, floating): StructuredOBS((x, labels.float() if floating else labels), last=last).solve(model, sites, 0.5)
        for last in (None, "auto", "kl")
        for floating in (False, True)
        if (last, floating) != ("kl", True)
    }
    weights = {key: solution.tensors["5.weight"] for key, solution in names.items()}
    assert torch.equal(weights[None, False], weights["auto", True])
    assert torch.equal(weights["kl", False], weights["auto", False])
    assert not torch.equal(weights["kl", False], weights[None, True])
    with pytest.raises(InputError, match="the targets are numbers, so there are no probabilities to fit"):
        StructuredOBS((x, labels.float()), last="kl").solve(model, sites, 0.5)


def test_the_last_layer_alone_is_a_repair(trained: Digits) -> None:
    model, (x, labels), test = trained
    sites = channels(model, x[:1])
    keep = StructuredOBS((x, labels), last=None).solve(model, sites, 0.6).keep
    fitted = cut(repair(model, sites, keep, (x, labels), "kl"), sites, keep)
    plain = cut(model, sites, keep)
    assert divergence(model, fitted, test[0]) < 0.5 * divergence(model, plain, test[0])
    assert torch.equal(fitted[1].weight, plain[1].weight)
    assert not torch.equal(fitted[5].weight, plain[5].weight)
    ending = nn.Sequential(model, nn.Tanh())
    its_sites = channels(ending, x[:1])
    with pytest.raises(InputError, match=r"repair: the model's one output is not .* leave out 'kl'"):
        repair(ending, its_sites, {}, (x, labels), "kl")


def test_the_metric_of_the_last_layer_is_the_curvature_of_the_divergence(trained: Digits) -> None:
    """There the Fisher matrix is the mean of diag(p) − p pᵀ, up to the labels that were drawn and what is shrunk."""
    model, (x, labels), _ = trained
    passes = beside.Beside(model, model, channels(model, x[:1]), {}, (x[:1000], labels[:1000]), 500, "test")
    root = output_metrics.output_metrics(passes)["5.weight"]
    with torch.no_grad():
        p = model(x[:1000]).softmax(1).double()
    fisher = (torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)).mean(0)
    kept = 1 - output_metrics.SHRUNK
    expected = kept * fisher + output_metrics.SHRUNK * fisher.diagonal().mean() * torch.eye(10)
    assert float((root @ root.mT - expected).norm() / expected.norm()) < 0.3


def test_layers_fitted_together_bring_unseen_probabilities_nearer(trained: Digits) -> None:
    model, data, test = trained
    sites = channels(model, test[0][:1])
    apart, together = (StructuredOBS(data, rounds=rounds).solve(model, sites, 0.7) for rounds in (0, 4))
    assert all(torch.equal(apart.keep[name], together.keep[name]) for name in sites)
    first, second = apart.apply(model), together.apply(model)
    assert divergence(model, second, test[0]) < 0.9 * divergence(model, first, test[0])
    changed = [n for n, p in first.named_parameters() if not torch.equal(p, second.get_parameter(n))]
    assert changed == ["1.weight", "1.bias", "3.weight", "3.bias", "5.weight", "5.bias"]
    assert not second[1].weight[~together.keep["1"]].any()


def test_layers_that_lose_nothing_keep_their_weights(trained: Digits) -> None:
    model, data, test = trained
    solution = StructuredOBS(data).solve(model, channels(model, test[0][:1]), {"3": 0.6})
    assert {name.split(".")[0] for name in solution.tensors} == {"3", "5"}


def test_a_step_is_the_gauss_newton_step_of_each_layer_by_itself(
    trained: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against F⁻¹ C A⁻¹ from gradients of single samples; the model is beside itself with other scores."""
    teacher, (x, _), _ = trained
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
    monkeypatch.setattr(joint_refit, "ENOUGH", 0)
    x = x[:100]
    passes = beside.Beside(model, model, channels(model, x[:1]), {}, unlabelled(x), 100, "test")
    with torch.no_grad():
        wanted = teacher(x).softmax(1)
    curvatures = joint_refit._curvatures(passes, ["1.weight", "3.weight"])
    change, shift = joint_refit._changes(passes, curvatures, [wanted])["3.weight"]
    labels = torch.multinomial(model(x).softmax(1).detach(), 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    with torch.no_grad():
        ones = torch.ones(100, 1, dtype=torch.float64)
        read = torch.cat([model[:3](x).double(), ones], 1)
        p = model(x).softmax(1).double()
        drawn = p - nn.functional.one_hot(labels, 10)
        fisher = drawn.mT @ drawn / 100
        fisher += fisher.diagonal().mean() * torch.eye(10)
        moments = read.mT @ read / 100
        moments[range(6), range(6)] += joint_refit.RIDGE * moments.diagonal()[:6].mean()
        fitted = torch.arange(100) % 5 != 4
        gradient = (p - wanted)[fitted].mT @ read[fitted] / 80
        expected = -torch.linalg.inv(fisher) @ gradient @ torch.linalg.inv(moments)
    assert shift is not None
    torch.testing.assert_close(torch.cat([change, shift.unsqueeze(1)], 1), expected, rtol=1e-3, atol=1e-5)


def test_groups_are_layers_of_their_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 4, 1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    x = normal(40, 4, 3)
    passes = beside.Beside(model, model, channels(model, x[:1]), {}, unlabelled(x), 40, "test")
    wanted = [normal(40, 3, seed=2).softmax(1)]
    curvatures = joint_refit._curvatures(passes, ["0.weight"])
    change, _ = joint_refit._changes(passes, curvatures, wanted)["0.weight"]
    curvature = curvatures["0.weight"]
    fisher = (
        curvature.fisher / curvature.places
        + torch.eye(4) * float(curvature.fisher.diagonal().mean()) / curvature.places
    )
    leaf = model[0].weight.detach().clone().requires_grad_()
    scores = passes.pruned(0, tensors={"0.weight": leaf})
    fitted = torch.arange(40) % 5 != 4
    nn.functional.cross_entropy(scores[fitted], wanted[0][fitted]).backward()
    assert leaf.grad is not None
    for group in range(2):
        rows = slice(2 * group, 2 * group + 2)
        read = torch.cat([x[:, rows].movedim(1, -1).flatten(0, 1).double(), torch.ones(120, 1)], 1)
        moments = read.mT @ read / 40
        moments[range(2), range(2)] += joint_refit.RIDGE * moments.diagonal()[:2].mean()
        # The bias is solved for besides, with the gradient of its own.
        inverse = torch.linalg.inv(moments)[:2, :2]
        apart = torch.linalg.inv(fisher[rows, rows]) @ leaf.grad[rows, :, 0].double() @ inverse
        bias = torch.linalg.inv(fisher[rows, rows]) @ _bias_gradient(passes, wanted[0], fitted)[rows].double()
        expected = -(apart + bias.unsqueeze(1) @ torch.linalg.inv(moments)[2:, :2])
        torch.testing.assert_close(change[rows, :, 0], expected, rtol=1e-3, atol=1e-5)


def test_what_cannot_come_nearer_stays() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    x = normal(40, 4)
    passes = beside.Beside(model, model, channels(model, x[:1]), {}, unlabelled(x), 40, "test")
    before = snapshot(model)
    joint_refit.refit_jointly(passes, ["0.weight", "2.weight"], 3)
    assert same_state(before, snapshot(model))


def _bias_gradient(passes: beside.Beside, wanted: Tensor, fitted: Tensor) -> Tensor:
    bias = dict(passes.student.named_parameters())["0.bias"].detach().clone().requires_grad_()
    scores = passes.pruned(0, tensors={"0.bias": bias})
    nn.functional.cross_entropy(scores[fitted], wanted[fitted]).backward()
    assert bias.grad is not None
    return bias.grad


def test_nothing_removed_changes_nothing(trained: Digits) -> None:
    model, data, _ = trained
    solution = StructuredOBS(data).solve(model, channels(model, data[0][:1]), 0.0)
    assert not solution.tensors
    assert all(bool(kept.all()) for kept in solution.keep.values())


def test_fractions_by_site_and_its_name() -> None:
    model, x = build("mlp")
    sites = channels(model, x[:1])
    keep = by_name("structured-obs", unlabelled(x)).solve(model, sites, {"2": 0.5}).keep
    assert (int(keep["0"].sum()), int(keep["2"].sum())) == (8, 3)
    emptied = StructuredOBS(unlabelled(x)).solve(model, sites, 1.0).keep
    assert [int(kept.sum()) for kept in emptied.values()] == [1, 1]


def test_what_it_cannot_do_is_said() -> None:
    model, x = build("mlp")
    data, sites = unlabelled(x), channels(model, x[:1])
    with pytest.raises(InputError, match=r"ridge=.* must be a finite number above 0"):
        StructuredOBS(data, ridge=0)
    with pytest.raises(InputError, match=r"rounds=-1 must be a whole number"):
        StructuredOBS(data, rounds=-1)
    with pytest.raises(UnknownNameError, match="last 'softmax'"):
        StructuredOBS(data, last="softmax")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give a sparsity"):
        StructuredOBS(data).solve(model, sites)
    with pytest.raises(InputError, match=r"find the sites with channels"):
        StructuredOBS(data).solve(model, sc.weights(model), 0.5)
    normed = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    with pytest.raises(InputError, match=r"StructuredOBS: a norm takes statistics .* keep that site whole"):
        StructuredOBS(data).solve(normed, channels(normed, x[:1]), 0.5)
    upwards = nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.ConvTranspose1d(6, 2, 3))
    signal = normal(20, 2, 8)
    with pytest.raises(InputError, match=r"StructuredOBS: no linear layer or convolution reads the units of site '0'"):
        StructuredOBS(unlabelled(signal)).solve(upwards, channels(upwards, signal[:1]), 0.5)
