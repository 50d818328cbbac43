"""Every road to a smaller model ends in a `Result` that a new process loads, to the bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.criteria import LossChange, Magnitude
from secateur.pruning import prune
from secateur.result import Result
from secateur.saving import load
from secateur.schedules import Exhaustive, Greedy, Iterative, Precomputed, Shrink
from secateur.search import Fitness, Genetic, Search, Space, Supermask
from secateur.solvers import SparseGPT, StructuredOBS, ThiNet, WoodFisher
from secateur.structure import blocks, channels, weights
from secateur.train import fit


class Residual(nn.Module):
    """A block whose parameters, all zero, give its input back."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + self.fc(x).tanh()
        return made


class Literal(nn.Module):
    """Holds a size as a number, so that what comes back is a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x).view(-1, 2, 2)
        made: Tensor = self.out(torch.cat([h[:, 0], torch.sigmoid(h[:, 1])], 1))
        return made


def build(name: str) -> nn.Module:
    """The original architecture, with other weights each time."""
    if name == "literal":
        return Literal().eval()
    if name == "blocks":
        return nn.Sequential(nn.Linear(5, 6), nn.Sequential(Residual(), Residual()), nn.Linear(6, 3)).eval()
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(40, 5, generator=generator), torch.randint(3, (40,), generator=generator)


DATA = samples()
X = DATA[0]


def _searched(search: Search, model: nn.Module, unit: str) -> Result:
    space = Space(model, weights(model) if unit == "weights" else channels(model, X[:1]))
    return search(Fitness(space, DATA), space, 80)


def _trained(model: nn.Module) -> Result:
    iterative = Iterative(Magnitude(), 0.4, steps=2, train=lambda small, _: fit(small, DATA, epochs=1))
    return iterative(model, channels(model, X[:1]))


def _by_hand(model: nn.Module) -> Result:
    keep = {"0": torch.arange(8) % 3 > 0, "2": torch.arange(6) > 1}
    return Result.of(model, channels(model, X[:1]), keep)


def _shallower_then_narrower(model: nn.Module) -> Result:
    shallow = Result.of(model, blocks(model, X[:1]), {"1": torch.tensor([True, False])})
    keep = {"0": torch.arange(6) % 2 == 0}
    return Result.of(shallow.model, channels(shallow.model, X[:1]), keep).after(shallow)


def _rated(model: nn.Module) -> Result:
    sites = channels(model, X[:1])
    return Precomputed(LossChange(DATA)(model, sites), remove=0.4, data=DATA)(model, sites)


ROADS: dict[str, tuple[str, Callable[[nn.Module], Result]]] = {
    "prune channels": ("mlp", lambda m: prune(m, X[:2], "l2", 0.5, latency=False)),
    "prune weights": ("mlp", lambda m: prune(m, X[:2], "l2", 0.5, unit="weights", latency=False)),
    "prune graph": ("literal", lambda m: prune(m, X[:2], "l2", 0.5, scope="layer", form="graph", latency=False)),
    "prune with repair": (
        "mlp",
        lambda m: prune(m, X[:2], "l2", 0.5, repair="least-squares", data=DATA, latency=False),
    ),
    "prune with a solver": ("mlp", lambda m: prune(m, X[:2], sparsity=0.5, solver=ThiNet(DATA), latency=False)),
    "exhaustive": ("mlp", lambda m: Exhaustive(DATA, until=0.3)(m, channels(m, X[:1]))),
    "greedy": ("mlp", lambda m: Greedy(DATA)(m, channels(m, X[:1]))),
    "precomputed": ("mlp", _rated),
    "shrink": ("mlp", lambda m: Shrink(2, DATA)(m, channels(m, X[:1]))),
    "iterative": ("mlp", lambda m: Iterative(Magnitude(), 0.5, steps=2)(m, channels(m, X[:1]))),
    "iterative, trained": ("mlp", _trained),
    "iterative, weights": ("mlp", lambda m: Iterative(Magnitude(), 0.5, steps=2)(m, weights(m))),
    "structured-obs": ("mlp", lambda m: StructuredOBS(DATA)(m, channels(m, X[:1]), 0.5)),
    "thinet": ("mlp", lambda m: ThiNet(DATA)(m, channels(m, X[:1]), 0.5)),
    "sparse-gpt": ("mlp", lambda m: SparseGPT(DATA)(m, weights(m), 0.5)),
    "wood-fisher": ("mlp", lambda m: WoodFisher(DATA)(m, weights(m), 0.5)),
    "search, weights": ("mlp", lambda m: _searched(Genetic(population=8), m, "weights")),
    "search, channels": ("mlp", lambda m: _searched(Genetic(population=8), m, "channels")),
    "search, gradients": ("mlp", lambda m: _searched(Supermask(), m, "weights")),
    "blocks": ("blocks", lambda m: Result.of(m, blocks(m, X[:1]), {"1": torch.tensor([False, True])})),
    "by hand": ("mlp", _by_hand),
    "one after another": ("blocks", _shallower_then_narrower),
}

CODE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from safetensors.torch import save_file
from test_roads import ROADS, X, build
from secateur.saving import load
torch.set_num_threads(1)
torch.manual_seed(99)
with torch.no_grad():
    for number, (name, _) in enumerate(ROADS.values()):
        folder = Path(sys.argv[2]) / str(number)
        save_file({"answer": load(folder, build(name))(X[:2])}, folder.parent / f"{number}.safetensors")
"""


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    made = {}
    for road, (name, make) in ROADS.items():
        torch.manual_seed(1)
        made[road] = make(build(name))
    return made


def test_a_new_process_loads_what_each_road_saved(results: dict[str, Result], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for number, result in enumerate(results.values()):
        result.save(tmp_path / str(number))
    subprocess.run(
        [sys.executable, "-c", CODE, str(Path(__file__).parent), str(tmp_path)],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    for number, (road, result) in enumerate(results.items()):
        with torch.no_grad():
            answer = result.model.eval()(X[:2])
        assert torch.equal(load_file(tmp_path / f"{number}.safetensors")["answer"], answer), road


@pytest.mark.parametrize("road", ROADS)
def test_each_reports_and_is_applied_again(results: dict[str, Result], road: str) -> None:
    result = results[road]
    report = result.report
    assert report.parameters[0] == sum(p.numel() for p in result.original.parameters())
    assert report.parameters[1] == sum(p.numel() for p in result.model.parameters())
    assert 0 < report.units_removed < report.units or not report.units_removed
    assert f"{report.unit} by" in str(report)
    again = result.apply(build(ROADS[road][0]))
    with torch.no_grad():
        assert torch.equal(again.eval()(X[:2]), result.model.eval()(X[:2]))


def test_a_history_is_saved_with_the_model(results: dict[str, Result], tmp_path: Path) -> None:
    from secateur.saving import read_record

    folder = results["exhaustive"].save(tmp_path / "small")
    _, history = read_record(folder)
    assert history is not None
    assert len(history["steps"]) == len(results["exhaustive"].history.steps)
    assert read_record(results["prune channels"].save(tmp_path / "other"))[1] is None


def test_a_model_that_was_trained_further_is_saved_as_it_is(results: dict[str, Result], tmp_path: Path) -> None:
    result = replace(results["prune channels"])
    before = result.model.state_dict()["0.weight"].clone()
    with torch.no_grad():
        result.model.get_parameter("0.weight").add_(1)
    again = load(result.save(tmp_path / "small"), build("mlp"))
    assert torch.equal(again.state_dict()["0.weight"], before + 1)
    with torch.no_grad():
        result.model.get_parameter("0.weight").copy_(before)
