"""A mask never leaks: pruned weights are zero after every step of any optimizer, and so is all that is kept of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.train import Callback, GradualMagnitude, HoldZeros, RigL, Run, SparseEvolution, TrainingMasks, fit
from secateur.types import InputError, Keep


def net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))


def samples(seed: int = 0, count: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator)


def keep_masks(seed: int, density: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: p.shape for name, p in net().named_parameters() if p.ndim > 1}
    return {name: torch.rand(shape, generator=generator) < density for name, shape in shapes.items()}


class Leaks(Callback):
    """Looks, after every step, at all that is kept of a pruned weight."""

    def __init__(self) -> None:
        self.steps, self.leaks, self.masks = 0, set[str](), list[dict[str, Tensor]]()

    def on_step(self, run: Run) -> None:
        assert run.masks is not None
        self.steps += 1
        self.masks.append(dict(run.masks))
        for name, mask in run.masks.items():
            parameter = run.model.get_parameter(name)
            state = {k: v for k, v in run.optimizer.state[parameter].items() if v is not None}
            moments = {k: v for k, v in state.items() if v.shape == parameter.shape}
            for what, tensor in {"weight": parameter.detach(), **moments}.items():
                if bool(tensor[~mask].view(torch.int32).any()):  # bytes: −0 would be a leak, too
                    self.leaks.add(f"{what} of {name}")

    def on_epoch(self, run: Run) -> None:
        for name, mask in (run.masks or {}).items():
            if bool(run.weights()[name][~mask].any()):
                self.leaks.add(f"average of {name}")


def lion(parameters: Any) -> torch.optim.Optimizer:
    """An optimizer that moves a weight without a gradient, and keeps something of it."""

    class Restless(torch.optim.Optimizer):
        def __init__(self) -> None:
            super().__init__(list(parameters), {"lr": 0.1})

        def step(self, closure: Any = None) -> None:
            for parameter in self.param_groups[0]["params"]:
                moment = self.state[parameter].setdefault("moment", torch.ones_like(parameter))
                moment.add_(parameter.grad).add_(0.1)
                parameter.detach().sub_(0.1 * moment.sign() + 0.01)

    return Restless()


OPTIMIZERS: list[dict[str, Any]] = [
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "momentum": 0.9},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    {"optimizer": "adam"},
    {"optimizer": "adamw"},
    {"optimizer": "rmsprop"},
    {"optimizer": "rmsprop", "momentum": 0.9},
    {"optimizer": lambda parameters: torch.optim.Adam(parameters, lr=0.05, amsgrad=True, weight_decay=0.1)},
    {"optimizer": lambda parameters: torch.optim.RMSprop(parameters, lr=0.05, centered=True, momentum=0.9)},
    {"optimizer": lambda parameters: torch.optim.Adagrad(parameters, lr=0.05, initial_accumulator_value=0.1)},
    {"optimizer": lion},
]
SCHEDULES = ["constant", "cosine", "onecycle"]
KINDS: list[Any] = [
    lambda seed, density: HoldZeros(keep_masks(seed, density)),
    lambda seed, density: GradualMagnitude(1 - density, every=1, end=0.6),
    lambda seed, density: GradualMagnitude(1 - density, every=2, begin=0.2, initial=0.1, scope="layer"),
    lambda seed, density: SparseEvolution(1 - density, every=2, seed=seed),
    lambda seed, density: RigL(1 - density, every=2, seed=seed, densities="uniform"),
]


@settings(max_examples=50, deadline=None)
@given(
    optimizer=st.sampled_from(OPTIMIZERS),
    kind=st.sampled_from(KINDS),
    density=st.floats(0.05, 0.95),
    seed=st.integers(0, 1000),
    decay=st.sampled_from([0.0, 0.1]),
    schedule=st.sampled_from(SCHEDULES),
    options=st.fixed_dictionaries(
        {},
        optional={
            "clip_norm": st.sampled_from([0.01, 1.0]),
            "ema": st.sampled_from([0.5, 0.99]),
            "amp": st.just(True),
            "accumulate": st.just(2),
        },
    ),
    validated=st.booleans(),
)
def test_a_mask_never_leaks(
    optimizer: dict[str, Any],
    kind: Any,
    density: float,
    seed: int,
    decay: float,
    schedule: str,
    options: dict[str, Any],
    validated: bool,
) -> None:
    model, leaks, masks = net(seed), Leaks(), kind(seed, density)
    choices = {**optimizer, **options, "schedule": schedule}
    if isinstance(optimizer["optimizer"], str):
        choices |= {"lr": 0.05, "weight_decay": decay}
    validation = samples(seed + 1) if validated else None
    fit(model, samples(seed), validation, callbacks=[masks, leaks], epochs=3, batch_size=6, **choices)
    assert leaks.leaks == set()
    assert leaks.steps >= 6
    for name, mask in leaks.masks[-1].items():
        weight = model.get_parameter(name).detach()
        assert not bool(weight[~mask].any())
        assert bool(weight[mask].any())


def test_a_momentum_from_before_does_not_push_what_is_pruned() -> None:
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.weight.sum().backward()
    optimizer.step()
    data = torch.ones(4, 2), torch.ones(4, 1)
    hold = HoldZeros({"weight": torch.tensor([[True, False]])})
    fit(model, data, epochs=1, loss="mse", optimizer=lambda _: optimizer, callbacks=[hold])
    assert model.weight[0, 1].item() == 0.0
    assert optimizer.state[model.weight]["momentum_buffer"][0, 1].item() == 0.0
    assert optimizer.state[model.weight]["momentum_buffer"][0, 0].item() != 0.0


def test_two_masks_of_a_parameter_are_both_held() -> None:
    model = nn.Linear(3, 1, bias=False)
    first, second = (HoldZeros({"weight": torch.tensor([row])}) for row in ([True, False, True], [True, True, False]))
    fit(model, (torch.ones(4, 3), torch.ones(4, 1)), epochs=1, loss="mse", callbacks=[first, second])
    assert (model.weight[0] != 0).tolist() == [True, False, False]


class Script(TrainingMasks):
    """Masks that change at given steps."""

    def __init__(self, masks: dict[int, list[bool]]) -> None:
        self.masks = masks

    def first(self, run: Run) -> Keep:
        return {"weight": torch.tensor([self.masks[0]])}

    def changed(self, run: Run, masks: Any) -> Keep | None:
        return {"weight": torch.tensor([self.masks[run.step]])} if run.step and run.step in self.masks else None


def test_what_comes_back_begins_at_zero_and_without_moments() -> None:
    # Loss (Σ w − 1)², all inputs 1: one step of plain SGD from w = 0 with lr 0.1 adds 0.2 (1 − Σ w).
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, 7.0]]))
    data = torch.ones(2, 2), torch.ones(2, 1)
    options: dict[str, Any] = {"loss": "mse", "optimizer": "sgd", "lr": 0.1, "batch_size": 2}
    fit(model, data, epochs=2, callbacks=[Script({0: [True, False], 1: [True, True]})], **options)
    # Step 0: Σ = 0.5, so w₀ = 0.6. Step 1: Σ = 0.6, both move by 0.08.
    assert model.weight[0].tolist() == pytest.approx([0.68, 0.08])


def test_the_best_epoch_is_one_of_the_last_masks() -> None:
    model, data = net(), samples()
    history = fit(
        model, data, data, epochs=6, batch_size=24, lr=0.1, callbacks=[GradualMagnitude(0.9, every=1, end=0.5)]
    )
    assert len(history) == 6
    zeros = sum(int((p == 0).sum()) for p in model.parameters() if p.ndim > 1)
    assert zeros == round(0.9 * 84)


def test_early_stopping_waits_until_the_masks_stay() -> None:
    losses_rise = Script({step: [True, step % 2 == 0] for step in range(8)})
    model = nn.Linear(2, 1, bias=False)
    data = torch.ones(2, 2), torch.ones(2, 1)
    worse = torch.ones(2, 2), -torch.ones(2, 1)
    options: dict[str, Any] = {"loss": "mse", "optimizer": "sgd", "lr": 0.1, "batch_size": 2}
    history = fit(model, data, worse, epochs=20, patience=2, callbacks=[losses_rise], **options)
    assert len(history) >= 8


@pytest.mark.parametrize(
    "masks",
    [RigL(0.7, every=3), SparseEvolution(0.7), GradualMagnitude(0.8, every=2), HoldZeros(keep_masks(0, 0.3))],
    ids=["rigl", "set", "gradual", "hold"],
)
def test_a_killed_training_resumes_to_the_bit(masks: TrainingMasks, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    class Kill(Callback):
        def on_epoch(self, run: Run) -> None:
            if len(run.records) == 2:
                raise Killed

    options: dict[str, Any] = {"epochs": 5, "batch_size": 6, "lr": 0.05}
    whole, resumed, data = net(), net(), samples()
    fit(whole, data, data, callbacks=[masks], **options)
    path = tmp_path / "training.safetensors"
    # The checkpoint is written after the callbacks, so the kill comes an epoch later than what is saved.
    with pytest.raises(Killed):
        fit(resumed, data, data, callbacks=[masks, Kill()], checkpoint=path, **options)
    fit(resumed, data, data, callbacks=[masks], checkpoint=path, **options)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def run_with(masks: TrainingMasks, model: nn.Module, epochs: int = 6) -> list[dict[str, Tensor]]:
    leaks = Leaks()
    fit(model, samples(), epochs=epochs, batch_size=12, lr=0.05, callbacks=[masks, leaks])
    return leaks.masks


def test_gradual_pruning_follows_the_cubic() -> None:
    # 84 weights, 12 steps, t₀ = 0, t₁ = 9: sparsity 0.9 (1 − (1 − t/9)³) before step t.
    masks = run_with(GradualMagnitude(0.9, every=3), net())
    gone = [sum(int((~m).sum()) for m in step.values()) for step in masks]
    expected = [round(84 * 0.9 * (1 - (1 - t / 9) ** 3)) for t in (0, 3, 6, 9)]
    assert gone == [count for count in expected[:3] for _ in range(3)] + [expected[3]] * 3
    assert expected == [0, 53, 73, 76]


def test_gradual_pruning_reaches_its_end_where_the_steps_do_not_divide() -> None:
    masks = run_with(GradualMagnitude(0.5, every=5, end=0.8), net())
    assert sum(int((~m).sum()) for m in masks[-1].values()) == 42


def test_gradual_pruning_takes_nothing_back() -> None:
    masks = run_with(GradualMagnitude(0.9, every=1), net())
    for before, after in pairwise(masks):
        assert all(not bool((after[name] & ~before[name]).any()) for name in before)


@pytest.mark.parametrize("masks", [RigL(0.6, every=2, drop=0.5), SparseEvolution(0.6, every=2, drop=0.5)])
def test_dynamic_masks_move_and_keep_their_number(masks: TrainingMasks) -> None:
    steps = run_with(masks, net())
    counts = {tuple(int(mask.sum()) for mask in step.values()) for step in steps}
    assert len(counts) == 1
    # 34 of 84 weights: ERK is 16/48 and 15/36 scaled alike.
    assert sum(counts.pop()) == pytest.approx(0.4 * 84, abs=1)
    assert any(not torch.equal(steps[0][name], steps[-1][name]) for name in steps[0])


def test_rigl_takes_the_smallest_weight_for_the_largest_gradient() -> None:
    # One output, loss (w·x − 1)²: the gradient of weight i is in proportion to xᵢ.
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.1, 0.0, 0.0]]))

    class Fixed(RigL):
        def first(self, run: Run) -> Keep:
            return {"weight": torch.tensor([[True, True, False, False]])}

    data = torch.tensor([[0.1, 0.1, 5.0, 0.2]] * 2), torch.ones(2, 1)
    # Steps 0 and 1 of 3: at step 1 of 3 · 0.75 the share is 0.98 (1 + cos 80°) / 2 = 0.58, of two weights one.
    options = {"loss": "mse", "optimizer": "sgd", "lr": 1e-6}
    fit(model, data, epochs=3, callbacks=[Fixed(0.5, drop=0.98, every=1)], **options)
    assert (model.weight[0] != 0).tolist() == [True, False, True, False]


def test_set_takes_the_weights_nearest_to_zero_of_either_sign() -> None:
    model = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.1, 2.0, -0.2, -3.0, 0.0, 0.0, 0.0, 0.0]]))

    class Fixed(SparseEvolution):
        def first(self, run: Run) -> Keep:
            return {"weight": torch.tensor([[True] * 4 + [False] * 4])}

    masks = run_masks(Fixed(0.5, drop=0.5, every=1), model)
    assert masks[:4] == [False, True, False, True]
    assert sum(masks[4:]) == 2


def run_masks(masks: TrainingMasks, model: nn.Module) -> list[bool]:
    leaks = Leaks()
    data = torch.ones(2, 8), torch.ones(2, 1)
    fit(model, data, epochs=2, loss="mse", optimizer="sgd", lr=1e-6, callbacks=[masks, leaks])
    return leaks.masks[-1]["weight"][0].tolist()


def test_bad_options() -> None:
    for wrong in ({"sparsity": 1.5}, {"sparsity": 0.5, "every": 0}, {"sparsity": 0.5, "begin": 0.8, "end": 0.5}):
        with pytest.raises(InputError):
            GradualMagnitude(**wrong)  # type: ignore[arg-type]
    for wrong in ({"sparsity": -1}, {"sparsity": 0.5, "drop": 2.0}, {"sparsity": 0.5, "until": -0.1}):
        with pytest.raises(InputError):
            RigL(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("growing", [RigL(0.3, every=2), SparseEvolution(0.3, every=2), Script({0: [True, False]})])
@pytest.mark.parametrize(
    "other", [HoldZeros(keep_masks(0, 0.5)), GradualMagnitude(0.5), RigL(0.5), SparseEvolution(0.5)]
)
@pytest.mark.parametrize("epochs", [0, 1])
def test_masks_that_bring_weights_back_are_refused_beside_others(
    growing: TrainingMasks, other: TrainingMasks, epochs: int
) -> None:
    steps = Leaks()
    for callbacks in ([other, steps, growing], [growing, steps, other]):
        with pytest.raises(InputError, match=r"brings pruned weights back, .* give one of them"):
            fit(net(), samples(), epochs=epochs, callbacks=callbacks)
    assert not steps.steps


def test_masks_that_bring_nothing_back_are_held_together() -> None:
    held, leaks = keep_masks(0, 0.5), Leaks()
    for order in (1, -1):
        model = net()
        fit(
            model,
            samples(),
            epochs=6,
            batch_size=6,
            callbacks=[*[GradualMagnitude(0.8, every=1), HoldZeros(held)][::order], leaks],
        )
        assert not any(bool(model.get_parameter(name)[~mask].any()) for name, mask in held.items())
    assert not leaks.leaks


def test_a_kind_that_says_that_it_brings_nothing_back_cannot() -> None:
    class Shrinks(Script):
        grows = False

    model, leaks = nn.Linear(2, 1, bias=False), Leaks()
    hold = HoldZeros({"weight": torch.tensor([[True, False]])})
    data = torch.ones(4, 2), torch.ones(4, 1)
    fit(model, data, epochs=3, loss="mse", callbacks=[hold, Shrinks({0: [True, True], 1: [True, True]}), leaks])
    assert (model.weight[0] != 0).tolist() == [True, False]
