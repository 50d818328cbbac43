"""Units that the model does not need begin anew; the rest stays, and a resumed training ends the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.structure import channels
from secateur.testing.toys import TOYS
from secateur.train import fit
from secateur.train.callbacks import Callback, Run
from secateur.train.reinitialise import Reinitialise, reinitialise_units
from secateur.types import InputError, UnknownNameError

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
DATA = (X, (X[:, 0] > 0).long())


def net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))


class Look(Callback):
    """Notes the weights and moments of the first layer before an epoch's first step."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.moments: list[Tensor] = []

    def on_begin(self, run: Run) -> None:
        weight = next(run.model.parameters())
        self.weights.append(weight.detach().clone())
        held = run.optimizer.state.get(weight, {})
        self.moments.append(held["exp_avg_sq"].clone() if held else torch.zeros_like(weight))


def test_only_the_units_found_begin_anew_with_their_moments() -> None:
    model, found = net(), dict[int, list[int]]()
    before, after = Look(), Look()
    again = Reinitialise(2, DATA, on_found=lambda epoch, units: found.__setitem__(epoch, units["0"]))
    fit(model, DATA, epochs=5, lr=0.05, callbacks=[before, again, after])
    assert list(found) == [3, 5]
    assert any(found.values())
    for epoch in range(1, 6):
        changed = (before.weights[epoch - 1] != after.weights[epoch - 1]).any(1).nonzero().flatten().tolist()
        assert changed == found.get(epoch, [])
        kept = [unit for unit in range(6) if unit not in changed]
        assert torch.equal(before.moments[epoch - 1][kept], after.moments[epoch - 1][kept])
        assert not bool(after.moments[epoch - 1][changed].any())
        if epoch > 1 and changed:
            assert bool(before.moments[epoch - 1][changed].any())


def test_the_outputs_do_not_jump_where_the_outgoing_weights_were_zero() -> None:
    model = net()
    with torch.no_grad():
        model[2].weight[:, [1, 4]] = 0
    wanted = model(X)
    reinitialise_units(model, channels(model, X[:1]), {"0": [1, 4]})
    assert torch.equal(model(X), wanted)


@pytest.mark.parametrize(("outgoing", "scale"), [(None, None), (0.0, 0.0), (1.0, 1.0), (0.5, 0.5)])
def test_what_becomes_of_outgoing_weights(outgoing: float | None, scale: float | None) -> None:
    model = net()
    old = model[2].weight.detach().clone()
    torch.manual_seed(5)
    reinitialise_units(model, channels(model, X[:1]), {"0": [2]}, "xavier-normal", outgoing)
    new = model[2].weight.detach()
    assert torch.equal(new[:, [0, 1, 3, 4, 5]], old[:, [0, 1, 3, 4, 5]])
    if scale is None:
        assert torch.equal(new, old)
        return
    torch.manual_seed(5)
    nn.init.xavier_normal_(torch.empty(6, 3))
    drawn = nn.init.xavier_normal_(torch.empty(2, 6)) if scale else torch.zeros(2, 6)
    torch.testing.assert_close(new[:, 2], scale * drawn[:, 2])


def test_norms_and_tied_layers_begin_anew_together() -> None:
    toy = TOYS["residual"]
    model = toy.build()
    sites = channels(model, toy.inputs())
    reinitialise_units(model, sites, {"stem": [1]})
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    old = {**dict(toy.build().named_parameters()), **dict(toy.build().named_buffers())}
    fresh = {"bn.weight": 1, "bn.bias": 0, "bn.running_mean": 0, "bn.running_var": 1, "conv2.bias": 0}
    for name, value in fresh.items():
        assert tensors[name][1] == value
        assert torch.equal(tensors[name][[0, 2, 3]], old[name][[0, 2, 3]])
    for name in ("stem.weight", "conv2.weight"):
        assert [bool((tensors[name][n] == old[name][n]).all()) for n in range(4)] == [True, False, True, True]
    assert not bool(tensors["fc.weight"][:, 1].any())
    assert not bool(tensors["conv1.weight"][:, 1].any())


def test_same_seed_same_weights_and_the_global_random_state_is_left_alone() -> None:
    ends = []
    for seed in (0, 0, 1):
        model, state = net(), torch.get_rng_state()
        fit(model, DATA, epochs=4, lr=0.05, callbacks=[Reinitialise(1, DATA, labels=("zero", "worse"), seed=seed)])
        assert torch.equal(state, torch.get_rng_state())
        ends.append(model[0].weight.detach().clone())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_the_training_around_it_is_the_plain_one() -> None:
    plain, other = net(), net()
    a = fit(plain, DATA, epochs=3)
    b = fit(other, DATA, epochs=3, callbacks=[Reinitialise(1, DATA, cycles=0), Reinitialise(3, DATA)])
    assert a == b
    assert torch.equal(plain[0].weight, other[0].weight)


@pytest.mark.parametrize(("cycles", "epochs"), [(None, [3, 5, 7]), (1, [3]), (2, [3, 5])])
def test_the_cycles(cycles: int | None, epochs: list[int]) -> None:
    seen: list[int] = []
    again = Reinitialise(2, DATA, cycles=cycles, on_found=lambda epoch, _: seen.append(epoch))
    fit(net(), DATA, epochs=8, callbacks=[again])
    assert seen == epochs


class Kill(Callback):
    def on_begin(self, run: Run) -> None:
        if len(run.records) == 3:
            raise KeyboardInterrupt


def test_a_resumed_training_ends_the_same(tmp_path: Path) -> None:
    whole, model, path = net(), net(), tmp_path / "a.safetensors"
    again = Reinitialise(1, DATA, seed=4)
    history = fit(whole, DATA, epochs=6, lr=0.05, callbacks=[again])
    with pytest.raises(KeyboardInterrupt):
        fit(model, DATA, epochs=6, lr=0.05, callbacks=[again, Kill()], checkpoint=path)
    assert fit(model, DATA, epochs=6, lr=0.05, callbacks=[again], checkpoint=path) == history
    for a, b in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_best_weights_are_those_that_were_measured() -> None:
    """Units begin anew before an epoch, never between its validation and what is kept of it."""
    model = net()
    history = fit(model, DATA, DATA, epochs=3, lr=0.05, callbacks=[Reinitialise(1, DATA)], restore_best=True)
    best = history[(history.best_epoch or 1) - 1]
    with torch.no_grad():
        found = nn.functional.cross_entropy(model(X), DATA[1]).item()
    assert found == pytest.approx(best.validation_loss, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 0}, InputError, "every=0 must be a whole number, 1 or more"),
        ({"every": None}, InputError, "every=None must be a whole number"),
        ({"seed": -1}, InputError, "seed=-1 must be a whole number, 0 or more"),
        ({"cycles": 1.5}, InputError, "cycles=1.5 must be a whole number"),
        ({"labels": ("bad",)}, UnknownNameError, "unknown label 'bad'"),
        ({"scheme": "ones"}, UnknownNameError, "unknown initialisation 'ones'"),
        ({"outgoing": float("nan")}, InputError, "outgoing=nan must be a finite number"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Reinitialise(**{"every": 1, "data": DATA, **options})


def test_a_model_without_units_is_refused() -> None:
    with pytest.raises(InputError, match="no units that could be removed"):
        fit(nn.Linear(3, 2), DATA, epochs=2, callbacks=[Reinitialise(1, DATA)])


def test_the_control_begins_as_many_units_anew_at_random() -> None:
    found: dict[bool, list[int]] = {}
    for at_random in (False, True):
        again = Reinitialise(
            1, DATA, at_random=at_random, on_found=lambda _, units, way=at_random: found.__setitem__(way, units["0"])
        )
        fit(net(), DATA, epochs=2, lr=0.05, callbacks=[again])
    assert 0 < len(found[True]) == len(found[False]) < 6
    assert found[True] != found[False]
    assert "at random" in Reinitialise(1, DATA, at_random=True).identity()
    assert "at random" not in Reinitialise(1, DATA).identity()
