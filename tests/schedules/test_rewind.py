"""Rewinding, round by round: what goes, what comes back, and what tickets are held against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.criteria import Random
from secateur.edits import Masked
from secateur.measure import parameters
from secateur.result import Result
from secateur.schedules import (
    Rewind,
    Schedule,
    SparseTraining,
    Ticket,
    TrainedTicket,
    Training,
    random_ticket,
    reinitialised,
    shuffled,
    small_dense,
)
from secateur.schedules.tickets import lowest_removed
from secateur.state import tensors
from secateur.structure import blocks, channels, weights
from secateur.testing.schedules import ScheduleConformance
from secateur.testing.toys import TOYS
from secateur.train import GradualMagnitude, HoldZeros, RigL, SparseEvolution, TrainOptions, TrainSparse, TrainTicket
from secateur.types import Batches, InputError, Loss, Sites, UnknownNameError


class TestRewindOfWeights(ScheduleConformance):
    trains, unit = True, "weights"

    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        train = TrainTicket(batches, TrainOptions(epochs=2, loss=loss, optimizer="sgd", lr=0.05, momentum=0.9))
        return Rewind(train, rounds=2, rate=0.3, step=1, data=batches, loss=loss)


class TestRewindOfChannels(ScheduleConformance):
    trains = True

    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        train = TrainTicket(batches, TrainOptions(epochs=1, loss=loss, lr=0.01), validation=batches)
        return Rewind(train, rounds=2, rate=0.3, scope="global", reset="rate", data=batches, loss=loss)


class TestGradualMagnitude(ScheduleConformance):
    trains, unit = True, "weights"

    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        train = TrainSparse(batches, GradualMagnitude(0.5, every=1), TrainOptions(epochs=2, loss=loss))
        return SparseTraining(train, batches, loss)


class TestSparseEvolution(TestGradualMagnitude):
    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        train = TrainSparse(batches, SparseEvolution(0.5), TrainOptions(epochs=3, loss=loss))
        return SparseTraining(train, batches, loss)


class TestRigL(TestGradualMagnitude):
    def make(self, model: nn.Module, sites: Sites, batches: Batches, loss: Loss) -> Schedule:
        train = TrainSparse(batches, RigL(0.5, every=1), TrainOptions(epochs=2, loss=loss))
        return SparseTraining(train)


def net() -> nn.Sequential:
    """2-2-1 without biases, its weights 1 … 6."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        model[2].weight.copy_(torch.tensor([[5.0, 6.0]]))
    return model


class Script:
    """A training of one's own: round → what is added to the first layer's weights, where they are not pruned."""

    def __init__(self, moves: Mapping[int, list[list[float]]] | None = None) -> None:
        self.moves = dict(moves or {})
        self.starts: list[Tensor] = []
        self.tickets: list[Ticket] = []

    def __call__(self, model: Any, ticket: Ticket, early: int | None) -> Training:
        self.tickets.append(ticket)
        self.starts.append(model[0].weight.detach().clone())
        keep = ticket.masks.get("0.weight", torch.ones(2, 2, dtype=torch.bool))
        with torch.no_grad():
            model[0].weight += keep * torch.tensor(self.moves.get(ticket.round, [[0.0, 0.0], [0.0, 0.0]]))
        halfway = {name: tensor + 100 for name, tensor in tensors(model).items()}
        return Training(7, halfway if early is not None else None)


TURNED = {0: [[10.0, 0.0], [0.0, 0.0]], 1: [[0.0, 0.0], [10.0, 0.0]]}
"""Training makes the first weight the largest, then the third."""


def run(train: Any, **options: Any) -> Result:
    options = {"rounds": 2, "rate": 0.25, "outputs": (), "output_rate": 0.0, **options}
    model = net()
    return Rewind(train, **options)(model, weights(model))


def test_the_lowest_of_the_trained_weights_go_and_the_others_begin_again() -> None:
    train = Script(TURNED)
    result = run(train, outputs=("2.weight",))
    # 11, 2, 3, 4: the second goes. Again 1, 3 + 10, 4: of three weights a quarter is one, the first.
    assert [start.tolist() for start in train.starts] == [
        [[1.0, 2.0], [3.0, 4.0]],
        [[1.0, 0.0], [3.0, 4.0]],
        [[0.0, 0.0], [3.0, 4.0]],
    ]
    assert result.keep["0.weight"].tolist() == [[False, False], [True, True]]
    assert [step.units for step in result.history.steps] == [(), (("0.weight", 1),), (("0.weight", 0),)]
    assert [round(r.sparsity, 4) for r in result.history.rounds] == [0.0, round(1 / 6, 4), round(2 / 6, 4)]
    assert [r.steps for r in result.history.rounds] == [7, 7, 7]


def test_late_rewinding_goes_back_to_the_early_weights_of_the_first_training() -> None:
    train = Script(TURNED)
    run(train, outputs=("2.weight",), step=3)
    assert [start.tolist() for start in train.starts[1:]] == [
        [[111.0, 0.0], [103.0, 104.0]],
        # Trained from 111, 103 + 10, 104 in the second round: the last is the lowest.
        [[111.0, 0.0], [103.0, 0.0]],
    ]
    assert [ticket.step for ticket in train.tickets] == [0, 3, 3]


def test_rewinding_the_rate_alone_leaves_the_weights_as_they_are() -> None:
    train = Script(TURNED)
    run(train, outputs=("2.weight",), reset="rate")
    assert [start.tolist() for start in train.starts[1:]] == [
        [[11.0, 0.0], [3.0, 4.0]],
        [[11.0, 0.0], [13.0, 0.0]],
    ]


def test_the_output_layer_loses_half_as_much() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 10))
    result = Rewind(lambda model, ticket, early: Training(), rounds=1)(model, weights(model))  # type: ignore[arg-type]
    left = {name: int(mask.sum()) for name, mask in result.keep.items()}
    assert left == {"0.weight": 160, "2.weight": 160, "4.weight": 90}


def test_global_ranks_the_layers_together_but_for_the_output() -> None:
    model = net()
    result = run(Script(), rounds=1, rate=0.5, output_rate=None, outputs=None, scope="global")
    assert result.keep["0.weight"].tolist() == [[False, False], [True, True]]
    assert result.keep["2.weight"].tolist() == [[True, True]]  # a quarter of two rounds to none
    pooled = run(Script(), rounds=1, rate=0.5, outputs=(), scope="global")
    assert pooled.keep["0.weight"].tolist() == [[False, False], [False, True]]
    layered = run(Script(), rounds=1, rate=0.5, outputs=(), scope="layer")
    assert layered.keep["2.weight"].tolist() == [[False, True]]
    assert torch.equal(layered.original[0].weight, model[0].weight)


def test_biases_and_norms_are_kept() -> None:
    model = TOYS["cnn"].build()
    batches = TOYS["cnn"].batches()
    rewind = Rewind(TrainTicket(batches, TrainOptions(epochs=1)), rounds=1, rate=0.9)
    result = rewind(model, weights(model))
    assert set(result.keep) == {"0.weight", "4.weight", "7.weight"}
    assert all(bool((p != 0).all()) for name, p in result.model.named_parameters() if p.ndim == 1)


def test_every_site_keeps_its_minimum() -> None:
    result = run(Script(), rounds=5, rate=0.9, output_rate=0.9, minimum=2)
    assert {name: int(mask.sum()) for name, mask in result.keep.items()} == {"0.weight": 2, "2.weight": 2}


def test_channels_are_trained_under_masks_and_cut_at_the_end() -> None:
    toy = TOYS["cnn"]
    model, batches = toy.build(), toy.batches()
    result = Rewind(TrainTicket(batches, TrainOptions(epochs=1)), rounds=2, rate=0.3)(
        model, channels(model, toy.inputs())
    )
    assert result.verification is not None
    assert [len(step.units) for step in result.history.steps] == [0, 3, 2]
    assert result.model[0].out_channels == int(result.keep["0"].sum())


def test_training_really_holds_the_masks_and_the_same_comes_of_rounds_one_by_one() -> None:
    toy = TOYS["mlp"]
    model, batches = toy.build(), toy.batches()
    sites = weights(model)
    rewind = Rewind(TrainTicket(batches, TrainOptions(epochs=3, lr=0.05)), rounds=2, rate=0.4, step=2)
    last: TrainedTicket | None = None
    for number in range(3):
        stored = None if last is None else TrainedTicket.of_tensors(last.tensors(), number - 1)
        last = rewind.trained(model, rewind.ticket(model, sites, stored), stored)
        assert last.round == number
    assert last is not None
    whole = rewind(model, sites)
    assert all(torch.equal(whole.model.state_dict()[name], tensor) for name, tensor in last.weights.items())
    for name, mask in whole.keep.items():
        assert not bool(whole.model.get_parameter(name)[~mask].any())
        assert not torch.equal(whole.model.get_parameter(name)[mask], model.get_parameter(name)[mask])


def test_a_round_takes_the_steps_that_are_left_at_the_rate_of_then() -> None:
    data = torch.randn(12, 2), torch.randn(12, 1)
    rates: list[list[float]] = []
    options = TrainOptions(epochs=4, batch_size=4, loss="mse", lr=1.0, optimizer="sgd", schedule="step", step_size=1)
    train = TrainTicket(
        data,
        TrainOptions(**{**options.to_dict(), "lr": 0.01}),
        on_round=lambda number, model, history: rates.append([r.lr for r in history]),
    )
    model = net()
    result = Rewind(train, rounds=1, rate=0.5, step=5)(model, weights(model))
    # 3 steps an epoch, 12 in all; after 5 of them 7 are left, the first at the rate of the second epoch.
    assert [r.steps for r in result.history.rounds] == [12, 7]
    assert rates[0] == pytest.approx([0.01, 0.001, 0.0001, 0.00001])
    assert rates[1] == pytest.approx([0.001, 0.0001, 0.00001])


def test_the_step_of_early_stopping_is_that_of_the_lowest_validation_loss() -> None:
    data = torch.ones(8, 1), torch.ones(8, 1)
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    # Four steps of 0.3 from 0 to 1 without slowing down: |w − 0.65| is lowest after the second.
    options = TrainOptions(epochs=2, batch_size=4, loss="l1", optimizer="sgd", lr=0.3, restore_best=False)
    validation = data[0], 0.65 * data[1]
    seen = TrainTicket(data, options, validation, validate_every=1)(model, Ticket({}, {}, {}), None)
    assert (seen.steps, seen.stopping_step) == (4, 2)
    assert seen.stopping_loss == pytest.approx(0.05)
    again = TrainTicket(data, options, validation)(nn.Linear(1, 1), Ticket({}, {}, {}, step=2), None)
    assert (again.steps, again.stopping_step) == (2, 4)


def test_a_step_that_does_not_come_is_refused() -> None:
    model, batches = TOYS["mlp"].build(), TOYS["mlp"].batches()
    with pytest.raises(InputError, match="no step 50 to go back to, it took 2"):
        Rewind(TrainTicket(batches, TrainOptions(epochs=1)), step=50)(model, weights(model))


def ticket_of(model: nn.Module, sparsity: float = 0.7) -> tuple[Ticket, Sites]:
    sites = weights(model)
    generator = torch.Generator().manual_seed(5)
    keep = {name: torch.rand(site.shape, generator=generator) > sparsity for name, site in sites.items()}
    keep["2.weight"] |= True
    return Ticket.of(sites, keep, tensors(model), round=4), sites


def test_controls_change_one_thing_each() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, fresh = (nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 4)) for _ in range(2))
    ticket, sites = ticket_of(model)
    counts = {name: int(mask.sum()) for name, mask in ticket.keep.items()}

    other = reinitialised(ticket, fresh)
    assert other.keep is ticket.keep
    assert torch.equal(other.model(model)[0].weight, fresh[0].weight * ticket.keep["0.weight"])

    moved = shuffled(ticket, sites, seed=1)
    assert {name: int(mask.sum()) for name, mask in moved.keep.items()} == counts
    assert not torch.equal(moved.keep["0.weight"], ticket.keep["0.weight"])
    assert torch.equal(moved.model(model)[0].weight, model[0].weight * moved.keep["0.weight"])
    assert torch.equal(shuffled(ticket, sites, seed=1).keep["0.weight"], moved.keep["0.weight"])
    assert not torch.equal(shuffled(ticket, sites, seed=2).keep["0.weight"], moved.keep["0.weight"])

    anywhere = random_ticket(ticket, sites, seed=1)
    assert sum(int(mask.sum()) for mask in anywhere.keep.values()) == sum(counts.values())
    assert {name: int(mask.sum()) for name, mask in anywhere.keep.items()} != counts
    assert anywhere.round == moved.round == other.round == 4


def test_the_small_dense_network_has_no_more_parameters_and_nearly_as_many() -> None:
    model = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 5))
    small = small_dense(model, torch.zeros(1, 30), 400)
    assert 300 < parameters(small).total <= 400
    assert small[0].out_features < 20
    assert small[2].out_features < 10


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    rates=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    pooled=st.booleans(),
    minimum=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_each_round_removes_its_part_of_what_is_left(
    sizes: list[int], rates: list[float], pooled: bool, minimum: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {str(i): torch.rand(size, generator=generator) for i, size in enumerate(sizes)}
    keep = {name: torch.ones(score.shape, dtype=torch.bool) for name, score in scores.items()}
    by_site = {name: rates[i] for i, name in enumerate(scores)}
    for _ in range(3):
        lower = lowest_removed(scores, keep, by_site, pooled=pooled, minimum=minimum)
        for name, mask in keep.items():
            assert not bool((lower[name] & ~mask).any())
            assert int(lower[name].sum()) >= min(minimum, int(mask.sum()))
            if not pooled:
                gone = min(round(by_site[name] * int(mask.sum())), max(int(mask.sum()) - minimum, 0))
                assert int((mask & ~lower[name]).sum()) == gone
                left, lost = scores[name][lower[name]], scores[name][mask & ~lower[name]]
                assert not left.numel() or not lost.numel() or left.min() >= lost.max()
        keep = lower


def test_a_plateau_rate_is_trained_from_the_start() -> None:
    plateau: Any = torch.optim.lr_scheduler.ReduceLROnPlateau
    train = TrainTicket(TOYS["mlp"].batches(), TrainOptions(epochs=1, schedule=plateau))
    model = TOYS["mlp"].build()
    assert len(Rewind(train, rounds=1)(model, weights(model)).history.rounds) == 2
    with pytest.raises(InputError, match="no rate of its own to rewind to"):
        Rewind(train, rounds=1, step=1)(model, weights(model))


def test_any_criterion_scores() -> None:
    model = net()
    first, second = (
        Rewind(Script(), rounds=1, rate=0.5, criterion=Random(seed))(model, weights(model)) for seed in (0, 3)
    )
    assert not torch.equal(first.keep["0.weight"], second.keep["0.weight"])


def test_the_log_is_saved_with_the_network(tmp_path: Path) -> None:
    result = run(Script())
    result.save(tmp_path / "ticket")
    assert result.history.to_dict()["rounds"][1]["round"] == 1
    assert result.history.to_dict()["rounds"][0]["loss"] is None


def test_what_does_not_fit_is_refused() -> None:
    model = net()
    for options, error in (
        ({"rate": 1.5}, InputError),
        ({"rounds": 0}, InputError),
        ({"step": -1}, InputError),
        ({"output_rate": -0.1}, InputError),
        ({"scope": "row"}, UnknownNameError),
        ({"reset": "weight"}, UnknownNameError),
    ):
        with pytest.raises(error):
            Rewind(Script(), **options)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match=r"unknown output layer's site 'fc'"):
        Rewind(Script(), outputs=("fc",))(model, weights(model))
    with pytest.raises(InputError, match="validate_every needs validation data"):
        TrainTicket((torch.ones(4, 2), torch.ones(4, 1)), validate_every=3)
    sparse = SparseTraining(TrainSparse((torch.ones(4, 2), torch.ones(4, 1)), RigL(0.5), TrainOptions(loss="mse")))
    with pytest.raises(InputError, match=r"single weights; find the sites with weights\(model\)"):
        sparse(model, channels(model, torch.ones(1, 2)))


def test_sparse_training_refuses_masks_of_other_things() -> None:
    model = net()
    with pytest.raises(UnknownNameError, match="unknown site 'conv'"):
        SparseTraining(lambda model, sites: {"conv": torch.ones(1).bool()})(model, weights(model))
    empty = {"2.weight": torch.zeros(1, 2, dtype=torch.bool)}
    with pytest.raises(InputError, match=r"2\.weight was left with 0 of 2 weights, and minimum is 1"):
        SparseTraining(lambda model, sites: empty)(model, weights(model))


def test_blocks_are_rewound_too() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x)  # type: ignore[no-any-return]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(*(Block() for _ in range(4)), nn.Linear(3, 2))
        data = torch.randn(12, 3), torch.randint(2, (12,))
    sites = blocks(model, data[0][:2])
    result = Rewind(TrainTicket(data, TrainOptions(epochs=1)), rounds=2, rate=0.3, outputs=())(model, sites)
    assert len(result.history.removed) == 2


def test_a_ticket_is_of_one_architecture() -> None:
    model = nn.Linear(2, 2)
    rewind = Rewind(lambda model, ticket, early: Training(), rounds=1, rate=0.5)
    ticket = rewind.ticket(model, weights(model))
    last = rewind.trained(model, ticket)
    for other in (nn.Linear(3, 3), nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2, bias=False)):
        for use in (
            lambda other=other: reinitialised(ticket, other),
            lambda other=other: rewind.trained(other, ticket),
            lambda other=other: last.model(other),
        ):
            with pytest.raises(InputError, match="the ticket is of another model"):
                use()
    assert rewind.trained(model, reinitialised(ticket, nn.Linear(2, 2))).round == 0


@pytest.mark.parametrize(
    "wrong", [{"rate": 0.0}, {"rate": 1.0}, {"output_rate": 1.0}, {"outputs": "2.weight"}, {"rate": -0.1}]
)
def test_rates_that_remove_nothing_or_all_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"Rewind: {next(iter(wrong))}="):
        Rewind(Script(), **wrong)


def test_what_holds_tensors_prints_in_a_line() -> None:
    model = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
    keep = {name: torch.rand(site.shape) < 0.5 for name, site in weights(model).items()}
    start = {name: tensor.detach() for name, tensor in model.named_parameters()}
    ticket = Ticket.of(weights(model), keep, start, round=2)
    trained = TrainedTicket(keep, start, start, 2, Training(9, start, 5, 0.1, 0.9))
    left = sum(int(mask.sum()) for mask in keep.values())
    masks = f"2 masks, {left:,} of 5,500 kept ({left / 55:.1f} %)"
    assert repr(ticket) == f"<Ticket: round 2, {masks}, network of 4 tensors>"
    assert repr(trained) == f"<TrainedTicket: round 2, {masks}, network of 4 tensors, early network of 4 tensors>"
    assert repr(trained.training) == "<Training: 9 steps, early network of 4 tensors, least validation loss at step 5>"
    assert repr(HoldZeros(ticket.masks)) == f"<HoldZeros: {masks}>"
    assert repr(Masked(ticket.masks)) == f"<Masked: {masks}>"
