"""The solvers: worked by hand, against plain loops, and against magnitude on a trained network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import secateur
from secateur.criteria import Magnitude
from secateur.criteria.fisher_blocks import repaired
from secateur.criteria.layer_inputs import LayerInputs
from secateur.measure import evaluate
from secateur.selection import layer_fractions, removed_fraction, select
from secateur.selection.patterns import n_of_m
from secateur.solvers import Solution, Solver, SparseGPT, ThiNet, WoodFisher
from secateur.solvers.sparse_gpt import solve
from secateur.structure import channels, cut, mask, weights
from secateur.testing.toys import TOYS, hand_mlp, same_state, snapshot
from secateur.types import InputError, UnknownNameError

Data = tuple[Tensor, Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_repair_is_the_bottom_of_the_bowl() -> None:
    half = normal(2, 5, 5).double()
    fisher = half @ half.mT + torch.eye(5)
    weight, keep = normal(3, 3, seed=1), torch.tensor([[True, False, True], [False, True, True], [True, True, False]])
    found = repaired(weight, fisher, keep)
    assert not found[~keep].any()
    # Plainly: in each block of five solve for the moves of what stays.
    flat = torch.cat([weight.flatten(), torch.zeros(1)]).double().reshape(2, 5)
    kept = torch.cat([keep.flatten(), torch.tensor([False])]).reshape(2, 5)
    for block, (row, stays) in enumerate(zip(flat, kept, strict=True)):
        inner, cross = fisher[block][stays][:, stays], fisher[block][stays][:, ~stays]
        row[stays] += torch.linalg.inv(inner) @ cross @ row[~stays]
        row[~stays] = 0
    torch.testing.assert_close(found.flatten(), flat.flatten()[:9].float())


def test_wood_fisher_moves_the_other_weight_by_hand() -> None:
    # The loss knows w1 + w2 alone, so with w1 gone w2 takes its place; with F = diag nothing moves.
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 2.0]])
    sites = weights(model)
    together = (torch.tensor([[1.0, 1.0]]), torch.zeros(1, 1))
    assert WoodFisher(together, mse_loss, damping=1e-7).solve(model, sites, 0.5).tensors["weight"].tolist()[0] == [
        0,
        pytest.approx(3, abs=1e-4),
    ]
    apart = (torch.eye(2), torch.zeros(2, 1))
    assert WoodFisher(apart, mse_loss, damping=1e-7).solve(model, sites, 0.5).tensors["weight"].tolist() == [[0, 2]]


def test_sparse_gpt_solves_columns_as_the_surgeon_does_one_by_one() -> None:
    """Against the plain loop: for each column remove what is masked, with the exact update of the columns that follow."""
    weight, x = normal(4, 6).double(), normal(6, 40, seed=1).double()
    moments = x @ x.T
    mask = normal(4, 6, seed=2) > 0
    found, kept = solve(weight, moments, [(0, 6)], lambda scores: mask)
    assert torch.equal(kept, mask)
    plain = weight.clone()
    for column in range(6):
        inverse = torch.linalg.inv(moments[column:, column:])
        for row in range(4):
            if not mask[row, column]:
                plain[row, column:] -= plain[row, column] / inverse[0, 0] * inverse[0]
    torch.testing.assert_close(found, plain.masked_fill(~mask, 0))


def surgeon_n_of_m(weight: Tensor, moments: Tensor, n: int, m: int, run: int) -> tuple[Tensor, Tensor]:
    """The paper's loop, plainly: column by column, each group of m chosen when its turn comes; no Cholesky factor."""
    weight, keep = weight.clone(), torch.ones_like(weight, dtype=torch.bool)
    for column in range(weight.shape[1]):
        place = column % run % m
        if place == 0:
            group = range(column, min(column + m, column - column % run + run))
            costs = torch.stack(
                [weight[:, j] ** 2 / torch.linalg.inv(moments[j:, j:])[0, 0] for j in group], dim=1
            )  # w² / [H⁻¹]ⱼⱼ of the columns that are left
            stays = n if len(group) == m else -(-len(group) * n // m)
            for row, cost in enumerate(costs.tolist()):
                for j in sorted(range(len(group)), key=lambda k: (cost[k], k))[: len(group) - stays]:
                    keep[row, column + j] = False
        inverse = torch.linalg.inv(moments[column:, column:])
        lost = torch.where(keep[:, column], 0.0, weight[:, column])
        weight[:, column:] -= torch.outer(lost / inverse[0, 0], inverse[0])
    return weight.masked_fill(~keep, 0.0), keep


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 5), (12,)),
    "trailing columns": (lambda: nn.Linear(14, 5), (14,)),
    "convolution": (lambda: nn.Conv2d(6, 5, 3), (6, 5, 5)),
    "grouped": (lambda: nn.Conv1d(12, 4, 3, groups=2, stride=2), (12, 9)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), (4, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 5, 2, stride=2), (6, 4, 4)),
}


@pytest.mark.parametrize("block", [1, 3, 4, 7, 128])
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:5", "4:8"])
@pytest.mark.parametrize("kind", list(LAYERS))
def test_n_of_m_is_the_plain_loop_that_chooses_each_group_on_updated_weights(
    kind: str, pattern: str, block: int
) -> None:
    """Whatever the block is; a convolution's groups are along its input channels, at each place of the kernel."""
    build, shape = LAYERS[kind]
    torch.manual_seed(1)
    model = nn.Sequential(build())
    mixed = normal(shape[0], shape[0], seed=3) + 2 * torch.eye(shape[0])
    data = torch.einsum("nc...,cd->nd...", normal(60, *shape, seed=2), mixed), torch.zeros(60)
    solution = SparseGPT(data, block=block).solve(model, weights(model), pattern=pattern)
    (inputs,) = LayerInputs(model, data, 60, "test").second_moments(["0.weight"])["0.weight"]
    flat = model[0].weight.detach().flatten().double()
    kernel = model[0].weight[0, 0].numel()
    n, m = map(int, pattern.split(":"))
    for entries, moments in zip(inputs.layer.entries, inputs.total, strict=True):
        count = entries.shape[1]
        order = [c * kernel + k for k in range(kernel) for c in range(count // kernel)]
        damped = moments + 0.01 * moments.diagonal().mean() * torch.eye(count, dtype=torch.float64)
        wanted, keep = surgeon_n_of_m(flat[entries][:, order], damped[order][:, order], n, m, count // kernel)
        assert torch.equal(solution.keep["0.weight"].flatten()[entries][:, order], keep)
        torch.testing.assert_close(
            solution.tensors["0.weight"].flatten()[entries][:, order].double(), wanted, rtol=1e-4, atol=1e-5
        )


def test_n_of_m_on_inputs_that_go_together_loses_less_than_one_choice_for_all() -> None:
    torch.manual_seed(0)
    x = torch.randn(1000, 64) @ (torch.eye(64) + 0.3 * torch.randn(64, 64))
    model = nn.Sequential(nn.Linear(64, 32), nn.Flatten())
    weight, moments = model[0].weight.detach().double(), (x.T @ x).double()
    at_once, _ = solve(weight, moments, [(0, 64)], lambda scores: n_of_m({"w": scores}, "2:4")["w"])
    by_group = (
        SparseGPT((x, torch.zeros(1000))).solve(model, weights(model), pattern="2:4").tensors["0.weight"].double()
    )

    def error(solved: Tensor) -> float:
        return float(((solved - weight) @ moments).mul(solved - weight).sum())

    assert error(by_group) < 0.8 * error(at_once)


def test_thinet_refits_the_readers_by_hand() -> None:
    # Both units are always alike up to a factor of two, so one does for both: 1 · 1 + 2 · 1 = 2 · 1.5.
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    model[0].weight.data, model[1].weight.data = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 1.0]])
    sites = channels(model, torch.zeros(1, 1))
    solution = ThiNet((torch.tensor([[1.0], [-3.0]]), torch.zeros(2)), damping=1e-9).solve(model, sites, 0.5)
    assert solution.keep["0"].tolist() == [False, True]
    small = cut(solution.apply(model), sites, solution.keep)
    x = torch.tensor([[5.0]])
    assert small[0].out_features == 1
    torch.testing.assert_close(small(x), model(x))


SOLVERS = {"WoodFisher": WoodFisher, "SparseGPT": SparseGPT, "ThiNet": ThiNet}


def _made(name: str, toy: str) -> Iterator[object]:
    model = TOYS[toy].build()
    sites = channels(model, TOYS[toy].inputs()) if name == "ThiNet" else weights(model)
    return iter((SOLVERS[name](TOYS[toy].batches()), model, sites))


@pytest.mark.parametrize("toy", list(TOYS))
@pytest.mark.parametrize("name", list(SOLVERS))
def test_on_every_toy_the_fraction_is_right_the_rest_is_zero_and_nothing_else_changes(name: str, toy: str) -> None:
    solver, model, sites = _made(name, toy)
    if (name, toy) == ("ThiNet", "attention"):  # queries and keys meet each other, no layer reads them
        sites = channels(model, TOYS[toy].inputs(), ignore=["qk"])
    before = snapshot(model)
    solution, again = solver.solve(model, sites, 0.5), solver.solve(model, sites, 0.5)
    assert same_state(before, snapshot(model))
    assert list(solution.keep) == list(sites)
    shares = layer_fractions(sites, 0.5)  # groups and the channels inside them share what goes
    for site, kept in solution.keep.items():
        assert torch.equal(kept, again.keep[site])
        if name != "WoodFisher":  # that pools all weights
            assert int((~kept).sum()) == round(kept.numel() * shares[site])
    total = sum(kept.numel() for kept in solution.keep.values())
    expected = sum(site.size * shares[n] for n, site in sites.items()) / total
    assert removed_fraction(solution.keep) == pytest.approx(expected, abs=len(sites) / total)
    changed = solution.apply(model)
    masked = mask(changed, sites, solution.keep)
    for parameter, other in zip(changed.parameters(), masked.parameters(), strict=True):
        assert torch.isfinite(parameter).all()
        assert torch.equal(parameter, other)
    assert all(torch.equal(value, again.tensors[key]) for key, value in solution.tensors.items())


@pytest.mark.parametrize("solver", [SparseGPT, WoodFisher])
def test_two_of_four_along_the_inputs_as_select_has_them(solver: type) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    data = (normal(20, 6, 4, 4), torch.arange(20) % 3)
    solution = solver(data).solve(model, weights(model), pattern="2:4")
    for name, kept in solution.keep.items():
        along = kept.movedim(1, -1)
        whole = along[..., : along.shape[-1] // 4 * 4].reshape(-1, 4)
        assert bool((whole.sum(1) == 2).all())
        assert along.shape[-1] % 4 == 0 or bool((along[..., 4:].sum(-1) == 1).all()), name


def test_grouped_and_transposed_convolutions_are_solved_as_they_compute() -> None:
    """With every input once missing the outputs stay nearly the same, as one channel is a copy of another."""
    torch.manual_seed(0)
    for layer in (
        nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2, bias=False),
        nn.Conv1d(4, 6, 3, dilation=2, padding="same", bias=False),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False),
    ):
        images = normal(8, 2, *[6] * (layer.weight.ndim - 2)).repeat_interleave(2, 1)  # channels 0 = 1, and 2 = 3
        model = nn.Sequential(layer)
        solution = SparseGPT((images, torch.zeros(8)), damping=1e-8).solve(model, weights(model), 0.5)
        with torch.no_grad():
            wanted, found = model(images), solution.apply(model)(images)
            plain = mask(model, weights(model), select(Magnitude()(model, weights(model)), 0.5))(images)
        error = (wanted - found).square().mean() / wanted.square().mean()
        assert error < 0.02 < (wanted - plain).square().mean() / wanted.square().mean()


def test_a_layer_that_is_used_twice_is_one_problem() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(torch.relu(self.fc(x)))
            return y

    model = Twice()
    solution = SparseGPT((normal(10, 4), torch.zeros(10))).solve(model, weights(model), 0.25)
    assert int((~solution.keep["fc.weight"]).sum()) == 4


def test_sparsity_by_site_leaves_the_others_whole() -> None:
    model = hand_mlp()
    data = (normal(8, 2), torch.zeros(8, dtype=torch.int64))
    for solver in (SparseGPT(data), WoodFisher(data, scope="layer")):
        keep = solver.solve(model, weights(model), {"0.weight": 0.5}).keep
        assert (int((~keep["0.weight"]).sum()), int((~keep["2.weight"]).sum())) == (3, 0)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Data, Data]:
    train, test = secateur.data.load("digits", "train"), secateur.data.load("digits", "test")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    secateur.fit(model, (train.images, train.labels), epochs=15, seed=0)
    return model, (train.images[:600], train.labels[:600]), (test.images, test.labels)


def accuracy(model: nn.Module, data: Data) -> float:
    return evaluate(model, data).accuracy


def test_they_beat_magnitude_without_training(trained: tuple[nn.Module, Data, Data]) -> None:
    model, data, test = trained
    single, units = weights(model), channels(model, test[0][:1])
    scores = Magnitude()(model, single)
    pooled = accuracy(mask(model, single, select(scores, 0.8)), test)
    layered = accuracy(mask(model, single, select(scores, 0.8, scope="layer")), test)
    by_unit = accuracy(mask(model, units, select(Magnitude()(model, units), 0.5, scope="layer")), test)
    assert accuracy(WoodFisher(data, steps=2)(model, single, 0.8).model, test) > pooled + 0.02
    assert accuracy(SparseGPT(data)(model, single, 0.8).model, test) > layered + 0.1
    assert accuracy(ThiNet(data).solve(model, units, 0.5).apply(model), test) > by_unit + 0.1


DATA = (torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("solver", "sparsity", "message"),
    [
        (SparseGPT(DATA), None, "either sparsity .* or pattern"),
        (SparseGPT(DATA), 1.5, r"sparsity=1.5 must be a number in \[0, 1\]"),
        (WoodFisher(DATA), 1.5, r"sparsity=1.5 must be a number in \[0, 1\]"),
        (WoodFisher(DATA), None, "give one of sparsity"),
    ],
)
def test_bad_sparsities_are_refused(solver: Solver, sparsity: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        solver(hand_mlp(), weights(hand_mlp()), sparsity)


def test_bad_options_and_sites_are_refused() -> None:
    model = hand_mlp()
    with pytest.raises(InputError, match=r"damping=.* must be a finite number above 0"):
        ThiNet(DATA, damping=0)
    with pytest.raises(InputError, match=r"block=.* must be a whole number"):
        SparseGPT(DATA, block=0)
    with pytest.raises(InputError, match=r"steps=.* must be a whole number"):
        WoodFisher(DATA, steps=0)
    with pytest.raises(UnknownNameError, match="scope"):
        WoodFisher(DATA, scope="site")  # type: ignore[arg-type]
    for solver in (SparseGPT(DATA), WoodFisher(DATA)):
        with pytest.raises(InputError, match=r"single weights, and '0' has channels"):
            solver(model, channels(model, DATA[0]), 0.5)
    with pytest.raises(InputError, match=r"reads the units of site '0.weight'"):
        ThiNet(DATA)(model, weights(model), 0.5)
    with pytest.raises(UnknownNameError, match="site 'fc'"):
        SparseGPT(DATA)(model, weights(model), {"fc": 0.5})
    with pytest.raises(InputError, match=r"another model: it changes 'a' .* has none"):
        Solution({}, {"a": torch.zeros(1)}).apply(model)


def test_a_weight_that_nothing_is_multiplied_by_is_named() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    tokens = (torch.tensor([[1, 2], [3, 4]]), torch.tensor([0, 1]))
    with pytest.raises(InputError, match=r"multiplies by '0.weight' itself.*ignore=\['0.weight'\]"):
        SparseGPT(tokens)(model, weights(model), 0.5)
    assert list(SparseGPT(tokens)(model, weights(model, ignore=["0.weight"]), 0.5).keep) == ["2.weight"]


def test_a_small_damping_is_not_lost_in_rounding() -> None:
    """Two samples span two directions of 32; summed up in single precision, the others had 1e-8 of the greatest."""
    x = torch.randn(2, 32)
    (inputs,) = LayerInputs(nn.Linear(32, 1), (x, torch.zeros(2)), 2, "test").second_moments(["weight"])["weight"]
    sizes = torch.linalg.eigvalsh(inputs.total[0]).abs()
    assert sizes[:-2].max() < 1e-13 * sizes[-1]
