"""Pieces that criteria are made of, by themselves: roots of curvature, batches of classes, rows of units, greedy orders, maps."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.criteria import Taylor
from secateur.criteria.activity import _map_shape
from secateur.criteria.class_accuracy import _Samples, _tie
from secateur.criteria.layerwise import _lamp
from secateur.criteria.loss_change.screen import MARGIN, lowest
from secateur.criteria.next_layer import _path
from secateur.criteria.output_curvature import MANY, curvature_roots, random_roots
from secateur.criteria.quadratic import Descent, Quadratic
from secateur.criteria.weight_rows import side_rows, unit_rows
from secateur.structure import blocks, channels
from secateur.structure.flow import Flow
from secateur.types import InputError

# ---- the curvature of a loss at the outputs ----


def hessians(outputs: Tensor, targets: Any, loss: Any) -> Tensor:
    """Each sample's: ``(samples, outputs, outputs)``."""

    def of(rows: Tensor) -> Tensor:
        value: Tensor = loss(rows.reshape(outputs.shape), targets) * len(outputs)
        return value

    flat = outputs.reshape(len(outputs), -1)
    whole = torch.autograd.functional.hessian(of, flat)
    return torch.stack([whole[n, :, n] for n in range(len(outputs))])  # type: ignore[index,call-overload]


def outer(draws: list[tuple[Tensor, Tensor]]) -> Tensor:
    return sum(
        (sign.reshape(-1, 1, 1) * v.flatten(1)[:, :, None] * v.flatten(1)[:, None, :] for v, sign in draws),
        torch.zeros(()),
    )


def bent(outputs: Tensor, targets: Tensor) -> Tensor:
    """Bends up at some outputs and down at others."""
    return (outputs - targets).cos().sum() / len(outputs)


@pytest.mark.parametrize("loss", [F.mse_loss, bent, F.smooth_l1_loss])
@pytest.mark.parametrize("most", [1, 4, 99])
def test_signed_roots_add_up_to_the_curvature_of_each_output(loss: Callable[..., Tensor], most: int) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(3, 5, generator=generator), torch.zeros(3, 5)
    draws = list(curvature_roots(outputs, targets, loss, most, generator, "draw"))
    expected = hessians(outputs, targets, loss)
    # However many draws there are, each entry of the diagonal is exact.
    diagonal = outer(draws).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(diagonal, expected.diagonal(dim1=1, dim2=2), rtol=1e-4, atol=1e-5)
    signs = {int(s) for _, sign in draws for s in sign.flatten()} - {0}
    assert signs == ({1, -1} if loss is bent else {1})
    if most == 99:
        torch.testing.assert_close(outer(draws), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 400])
def test_draws_of_a_cross_entropy_add_up_to_its_curvature(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(2, 6, generator=generator), torch.tensor([1, 4])
    draws = list(curvature_roots(outputs, targets, F.cross_entropy, count if count < 6 else 5, generator, "draw"))
    assert len(draws) == min(count, 5)
    many = [d for _ in range(400) for d in curvature_roots(outputs, targets, F.cross_entropy, 1, generator, "draw")]
    mean = outer(many) / 400
    torch.testing.assert_close(mean, hessians(outputs, targets, F.cross_entropy), rtol=0, atol=0.03)


def test_a_loss_that_ties_many_outputs_is_told_how_to_take_all_of_them() -> None:
    def tied(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum(1).square().mean()

    generator, outputs = torch.Generator().manual_seed(0), torch.randn(2, 5)
    with pytest.raises(InputError, match="has 5 outputs, which this loss ties to one another; pass directions=5"):
        list(curvature_roots(outputs, outputs, tied, 4, generator, "draw"))
    weak = torch.full((2, 5), 1e-3)
    with pytest.raises(InputError, match="ties"):
        list(curvature_roots(weak, weak, lambda o, t: (o * 1e-3).sum(1).square().mean(), 4, generator, "draw"))
    assert len(list(curvature_roots(outputs, outputs, tied, 5, generator, "draw"))) >= 1


@pytest.mark.parametrize("width", [MANY, MANY + 1])
def test_random_roots_of_many_outputs_are_drawn_for_each(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, width, generator=generator)
    draws = list(random_roots(outputs, torch.zeros(2, width), bent, generator, "draw"))
    assert [float(sign) for _, sign in draws] == [1.0, -1.0]
    diagonal = outer(draws).diagonal(dim1=1, dim2=2)
    expected = hessians(outputs, torch.zeros(2, width), bent).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(diagonal, expected, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_straight_has_no_roots() -> None:
    generator, outputs = torch.Generator().manual_seed(0), torch.randn(2, MANY + 1)
    assert not list(random_roots(outputs, outputs, lambda o, t: o.sum() / 2, generator, "draw"))


# ---- which batch is wrong ----


@pytest.mark.parametrize("on", ["weights", "activations"])
def test_an_error_names_the_batch(on: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    good, bad = torch.zeros(2, 3), torch.full((2, 3), torch.nan)
    labels = torch.zeros(2, dtype=torch.int64)
    for number, inputs in ((1, [bad]), (2, [good, bad]), (3, [good, good, bad])):
        with pytest.raises(InputError, match=rf"batch {number}\b"):
            Taylor([(x, labels) for x in inputs], on=on)(model, channels(model, good))


# ---- samples of classes ----


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 99])
@pytest.mark.parametrize("inside", [True, False])
def test_samples_of_classes_come_in_their_order_in_batches_of_one_size(size: int, inside: bool) -> None:
    y = torch.tensor([0, 1, 2, 1, 1, 0, 2, 1])
    samples = _Samples((torch.arange(8.0)[:, None], y), (1, 2), inside, size)
    for _ in range(2):
        given = list(samples)
        picked = [n for n, label in enumerate(y.tolist()) if (label in (1, 2)) is inside]
        assert torch.cat([batch.inputs for batch in given]).flatten().tolist() == picked
        assert torch.equal(torch.cat([batch.targets for batch in given]), y[picked])
        whole, rest = divmod(len(picked), size)
        assert [len(batch) for batch in given] == [size] * whole + [rest] * bool(rest)


@pytest.mark.parametrize(
    ("classes", "inside", "message"),
    [((1, 7), True, "no sample of class 7"), ((0, 1), False, r"no sample of classes other than \[0, 1\]")],
)
def test_classes_without_samples_are_told(classes: tuple[int, ...], inside: bool, message: str) -> None:
    data = torch.zeros(4, 1), torch.tensor([0, 1, 1, 0])
    with pytest.raises(InputError, match=message):
        list(_Samples(data, classes, inside, 2))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(4), r"shape \(2,\) and type torch.float32"),
        (torch.zeros(4, 1).long(), r"shape \(2, 1\) and type torch.int64"),
    ],
)
def test_targets_that_are_no_classes_are_told(targets: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(_Samples((torch.zeros(4, 1), targets), (0,), True, 2))


def test_losses_order_what_accuracies_do_not_tell_apart_and_nothing_else() -> None:
    losses = torch.tensor([-1e6, -1.0, 0.0, 1.0, 1e6])
    ties = _tie(losses, 0.25)
    assert torch.equal(ties.argsort(), torch.arange(5))
    assert 0.25 * 0.99 < float(ties.max() - ties.min()) < 0.25
    assert ties.tolist()[1:4] == [-0.0625, 0.0, 0.0625]


# ---- rows of units ----


def test_a_block_is_a_row_of_all_its_entries() -> None:
    class Residual(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, width), nn.Linear(width, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(self.up(x).relu())  # type: ignore[no-any-return]

    model = nn.Sequential(Residual(3), Residual(5)).requires_grad_(False)
    sites = blocks(model, torch.zeros(2, 4))
    (site,) = sites.values()
    parameters = dict(model.named_parameters())
    sizes = [sum(p.numel() for p in block.parameters()) for block in model]
    for rows in (unit_rows(parameters, site), side_rows(parameters, site), side_rows(parameters, site, "outgoing")):
        (row,) = rows
        assert row.shape == (2, max(sizes))
        for number, block in enumerate(model):
            assert row[number].square().sum() == pytest.approx(float(sum(p.square().sum() for p in block.parameters())))
            assert not row[number, sizes[number] :].any()


def test_what_is_left_after_the_lowest_is_shared_among_the_others() -> None:
    squares = torch.tensor([4.0, 1.0, 0.0, 3.0], dtype=torch.float64)
    assert _lamp(squares).tolist() == [1.0, 1 / 8, 0.0, 3 / 7]
    assert _lamp(torch.zeros(3)).tolist() == [0, 0, 0]
    assert _lamp(torch.tensor([5.0])).tolist() == [1]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_the_lowest_estimates_are_measured_with_a_margin_and_all_that_are_unknown(fraction: float) -> None:
    scores = {"a": torch.tensor([3.0, 1.0, -torch.inf, 7.0]), "b": torch.arange(16.0).reshape(4, 4) + 0.5}
    chosen = lowest(scores, fraction)
    flat = torch.cat([x.flatten() for x in scores.values()])
    count = min(ceil(MARGIN * fraction * 20), 20)
    expected = set(flat.argsort()[:count].tolist()) | {2}
    assert {*chosen["a"].tolist(), *(4 + chosen["b"]).tolist()} == expected
    assert MARGIN > 1


# ---- greedy orders ----


def quadratic() -> Quadratic:
    generator = np.random.default_rng(0)
    pairs = generator.normal(size=(7, 7))
    return Quadratic({"a": 3, "b": 4}, generator.normal(size=7), pairs + pairs.T)


@pytest.mark.parametrize("before", [[], [0], [3], [1, 5]])
@pytest.mark.parametrize(("site", "count"), [("a", 2), ("b", 1), ("b", 3)])
def test_the_cheapest_units_of_a_site_are_those_that_add_least_each_after_the_others(
    before: list[int], site: str, count: int
) -> None:
    model = quadratic()
    walk = Descent(model)
    if before:
        walk.remove(before)
    costs, gone = walk.costs.copy(), walk.gone.copy()
    removal = walk.cheapest(site, count if count + len(before) < 5 else 1)
    assert np.array_equal(costs, walk.costs)  # without taking them away
    assert np.array_equal(gone, walk.gone)
    taken = list(before)

    def loss(units: list[int]) -> float:
        removed = np.isin(np.arange(7), units).astype(float)
        return float(model.slopes @ removed + removed @ model.pairs @ removed / 2)

    for unit, rise in zip(removal.units.tolist(), removal.rises.tolist(), strict=True):
        left = [u for u in range(*((0, 3) if site == "a" else (3, 7))) if u not in taken]
        rises = {u: loss([*taken, u]) - loss(taken) for u in left}
        assert rise == pytest.approx(min(rises.values()))
        assert unit == min(rises, key=rises.__getitem__)
        taken.append(unit)


# ---- paths and maps behind layers ----

IMAGE = torch.zeros(2, 3, 6, 6)


@pytest.mark.parametrize(
    ("layers", "chain"),
    [
        ([nn.Linear(4, 3), nn.Linear(3, 2)], 0),
        ([nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)], 1),
        ([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3), nn.ReLU(), nn.AvgPool2d(2)], 2),
        ([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3, groups=2), nn.ReLU()], None),
        ([nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 3), nn.ReLU()], None),
    ],
)
def test_what_follows_a_layer_in_one_group_is_followed(layers: list[nn.Module], chain: int | None) -> None:
    model = nn.Sequential(*layers).eval()
    x = IMAGE if isinstance(layers[0], nn.Conv2d) else torch.zeros(2, 4)
    flow = Flow(model, channels(model, x))
    answer = flow.answer(x, lambda outputs: outputs)
    read = next(iter(flow.reads(x).values()))[0]
    path = _path(read, answer)
    assert (path is None) == (chain is None)
    if path is not None and chain is not None:
        assert path.product.node is read.node
        assert [n.op for n in path.chain].count("call_function") >= chain


@pytest.mark.parametrize(
    ("between", "shape"),
    [
        ([], (4, 4)),
        ([nn.Flatten(2), nn.Unflatten(2, (4, 4))], (4, 4)),
        ([nn.Dropout()], (4, 4)),
    ],
)
def test_a_map_is_as_high_and_wide_as_it_was_before_it_was_flattened(
    between: list[nn.Module], shape: tuple[int, int]
) -> None:
    for last in ([nn.Flatten(), nn.Linear(64, 2)], [nn.Conv2d(4, 2, 1)]):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), *between, *last).eval()
        flow = Flow(model, channels(model, IMAGE))
        (read,) = flow.reads(IMAGE)["0"]
        assert _map_shape(read, 16) == shape
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    (read,) = Flow(model, channels(model, torch.zeros(2, 4))).reads(torch.zeros(2, 4))["0"]
    assert _map_shape(read, 1) == (1, 1)
