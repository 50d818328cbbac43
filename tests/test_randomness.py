"""Random numbers of one's own: the same as torch's, in any thread, and nobody else's are touched."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur import randomness
from secateur.randomness import private_draws, rng_state, seeded, set_rng_state
from secateur.studies.janjic.dropout import dropped
from secateur.testing.toys import TOYS

CPU = torch.device("cpu")
HALF = torch.full((6,), 0.5)

DRAWS: dict[str, Callable[[], Tensor]] = {
    "rand": lambda: torch.rand(3, dtype=torch.float64),
    "randn": lambda: torch.randn(2, 2),
    "randint": lambda: torch.randint(9, (4,)),
    "randint from": lambda: torch.randint(2, 9, (4,)),
    "randperm": lambda: torch.randperm(9),
    "rand_like": lambda: torch.rand_like(HALF),
    "randn_like": lambda: torch.randn_like(HALF),
    "randint_like": lambda: torch.randint_like(HALF, 9),
    "randint_like from": lambda: torch.randint_like(HALF, 2, 9),
    "bernoulli": lambda: torch.bernoulli(HALF),
    "multinomial": lambda: torch.multinomial(HALF, 3),
    "poisson": lambda: torch.poisson(9 * HALF),
    "normal": lambda: torch.normal(HALF, HALF),
    "normal of a size": lambda: torch.normal(0.0, 1.0, (3,)),
    "in place": lambda: torch.empty(5).exponential_() + torch.empty(5).random_(9) + torch.empty(5).uniform_(),
    "dropout": lambda: F.dropout(torch.ones(20)),
    "dropout with gradients": lambda: F.dropout(torch.ones(20, requires_grad=True)),
    "alpha dropout": lambda: F.alpha_dropout(torch.ones(20), training=True),
    "rrelu": lambda: F.rrelu(-torch.ones(5), training=True),
    "attention": lambda: F.scaled_dot_product_attention(*(torch.ones(1, 2, 4, 4),) * 3, dropout_p=0.5),
    "recurrent dropout": lambda: nn.LSTM(3, 4, 2, dropout=0.5)(torch.ones(2, 2, 3))[0],
    "encoder": lambda: nn.TransformerEncoderLayer(8, 2, dropout=0.5)(torch.ones(2, 3, 8)),
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(4, 4)),
    "sparse": lambda: nn.init.sparse_(torch.empty(6, 6), 0.5),
    "truncated": lambda: nn.init.trunc_normal_(torch.empty(9)),
    "gamma": lambda: torch.distributions.Gamma(1.0, 2.0).sample((3,)),
    "dirichlet": lambda: torch.distributions.Dirichlet(torch.ones(4)).sample(),
    "layers": lambda: torch.cat([p.flatten() for p in nn.Sequential(nn.Conv2d(2, 3, 3), nn.GRU(3, 4)).parameters()]),
}


@pytest.mark.parametrize("name", list(DRAWS))
def test_private_draws_are_the_numbers_of_the_global_generator_which_stays(name: str) -> None:
    torch.manual_seed(3)
    wanted = [DRAWS[name](), DRAWS[name]()]
    torch.manual_seed(4)
    state = torch.get_rng_state()
    with private_draws(3):
        found = [DRAWS[name](), DRAWS[name]()]
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    with private_draws():
        copy = DRAWS[name]()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(copy, DRAWS[name]())


def test_private_draws_within_each_other_and_generators_of_ones_own() -> None:
    with private_draws(1):
        first = torch.rand(1)
        with private_draws(2):
            inner, given = torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(5))
        second = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.cat([first, second]), torch.rand(2))
    assert torch.equal(inner, torch.rand(1, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(given, torch.rand(1, generator=torch.Generator().manual_seed(5)))


def test_a_private_state_can_be_kept_and_set() -> None:
    with private_draws(1):
        state = rng_state(CPU)
        first = torch.rand(4)
        set_rng_state(CPU, state)
        assert torch.equal(torch.rand(4), first)


def drawing_all_the_time(work: Callable[[int], None], threads: int = 6, times: int = 24) -> Tensor:
    """What a thread draws from the global generator, seeded with 11, while others do `work`."""
    torch.manual_seed(11)
    done = threading.Event()
    drawn: list[Tensor] = []

    def draw() -> None:
        while not done.is_set() or len(drawn) < 50:
            drawn.append(torch.rand(7))

    with ThreadPoolExecutor(threads + 1) as pool:
        other = pool.submit(draw)
        try:
            list(pool.map(work, range(times)))
        finally:
            done.set()
        other.result()
    return torch.stack(drawn)


def undisturbed(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.stack([torch.rand(7, generator=generator) for _ in range(count)])


@pytest.mark.parametrize("name", ["lenet-300-100", "janjic-cnn", "calli-mnist", "torch.nn:GRU"])
def test_builds_in_threads_have_their_seeds_weights_and_disturb_nobody(name: str) -> None:
    options = {"input_size": 9, "hidden_size": 8} if ":" in name else {}
    wanted = [sc.models.build(name, seed=seed, **options).state_dict() for seed in range(3)]

    def build(number: int) -> None:
        found = sc.models.build(name, seed=number % 3, **options).state_dict()
        assert all(torch.equal(found[key], value) for key, value in wanted[number % 3].items())

    drawn = drawing_all_the_time(build)
    assert torch.equal(drawn, undisturbed(len(drawn)))


class Noisy(nn.Module):
    """Draws in evaluation mode, too, what changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(torch.relu(self.a(x)) + 0 * torch.rand_like(x[:, :1]))
        return y


def test_pruning_a_model_that_draws_in_threads_disturbs_nobody() -> None:
    x = torch.ones(2, 4)

    def prune(number: int) -> None:
        with private_draws(number):
            model = Noisy()
        assert sc.prune(model, x, latency=False).model.a.out_features == 4

    drawn = drawing_all_the_time(prune, threads=3, times=6)
    assert torch.equal(drawn, undisturbed(len(drawn)))


def test_dropout_studies_and_toys_in_threads() -> None:
    layer, ones, toy = nn.Sequential(nn.Dropout(0.5)), torch.ones(1, 50), next(iter(TOYS.values()))
    wanted, weights = [dropped(layer, ones, 0.5, seed) for seed in range(24)], toy.build().state_dict()

    def work(number: int) -> None:
        assert torch.equal(dropped(nn.Sequential(nn.Dropout(0.5)), ones, 0.5, number), wanted[number])
        again = toy.build().state_dict()
        assert all(torch.equal(again[key], value) for key, value in weights.items())

    drawn = drawing_all_the_time(work)
    assert torch.equal(drawn, undisturbed(len(drawn)))


def trained(seed: int) -> Tensor:
    model = sc.models.build("ann-128", seed=0, input_size=2, hidden=8, classes=2, dropout=0.5)
    x = torch.arange(64.0).reshape(16, 1, 2, 2) / 64
    sc.fit(model, (x, torch.arange(16) % 2), epochs=3, batch_size=4, seed=seed)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_trainings_with_dropout_in_threads_are_those_of_one_thread() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    wanted = [trained(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(a, b) for a, b in zip(pool.map(trained, range(8)), wanted, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_training_within_private_draws_is_the_same_and_moves_nothing() -> None:
    torch.manual_seed(5)
    wanted, state = trained(1), torch.get_rng_state()
    with private_draws(9):
        before = rng_state(CPU)
        assert torch.equal(trained(1), wanted)
        assert torch.equal(rng_state(CPU)["cpu"], before["cpu"])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_thread_that_waits_long_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomness, "PATIENCE", 0.01)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with seeded(CPU, 0):
            inside.set()
            leave.wait(60)

    with ThreadPoolExecutor(1) as pool, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        holder = pool.submit(hold)
        inside.wait(60)
        threading.Timer(0.2, leave.set).start()
        with seeded(CPU, 0):
            first = torch.rand(1)
        holder.result()
    assert torch.equal(first, torch.rand(1, generator=torch.Generator().manual_seed(0)))
    assert "waited 0 s for another one that trains" in str(caught[0].message)
