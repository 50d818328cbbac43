"""Inputs that decide: what runs where one is set otherwise than on the example ties units, or a warning says that it differs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur as sc
from secateur.structure import turned
from secateur.structure.turns import turns


class Gated(nn.Module):
    """A stem, three blocks and a head; subclasses decide what runs between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = _two(6, 12), _two(12, 3)
        self.blocks = nn.ModuleList(_two(12, 12) for _ in range(3))
        self.tasks = nn.ModuleDict({"a": _two(12, 12), "b": _two(12, 12)})
        self.norm = nn.LayerNorm(12)


def _two(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 10), nn.ReLU(), nn.Linear(10, outputs))


class Default(Gated):
    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        u = self.stem(x)
        v = self.blocks[0](u)
        out: Tensor = self.head(u if skip else v)
        return out


class AtWord(Gated):
    def forward(self, x: Tensor, at: str | None = None) -> Tensor:
        u = self.stem(x)
        out: Tensor = self.head(u if at == "stem" else self.blocks[0](u))
        return out


class AtNumber(Gated):
    def forward(self, x: Tensor, at: int | None = None) -> Tensor:
        u = self.stem(x)
        out: Tensor = self.head(u if at == 0 else self.blocks[0](u))
        return out


class Given(Gated):
    def forward(self, x: Tensor, options: dict[str, bool]) -> Tensor:
        u = self.stem(x)
        out: Tensor = self.head(self.blocks[0](u) + u if options["residual"] else self.blocks[0](u))
        return out


class Both(Gated):
    def forward(self, x: Tensor, first: bool = False, second: bool = False) -> Tensor:
        u = self.stem(x)
        v = self.blocks[1](self.blocks[0](u))
        out: Tensor = self.head(v + u if first and second else v)
        return out


class Level(Gated):
    def forward(self, x: Tensor, level: float) -> Tensor:
        u = self.stem(x)
        if level > 3.25:
            u = self.blocks[0](u)
        out: Tensor = self.head(u)
        return out


class Scaled(Gated):
    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        u = self.stem(x)
        v = self.blocks[0](u)
        out: Tensor = self.head(v + scale * u if scale != 1 else v)
        return out


class Depth(Gated):
    def forward(self, x: Tensor, depth: int = 1) -> Tensor:
        u = self.stem(x)
        for block in self.blocks[:depth]:
            u = block(u)
        out: Tensor = self.head(u)
        return out


class Odd(Gated):
    def forward(self, x: Tensor, step: int) -> Tensor:
        u = self.stem(x)
        v = self.blocks[0](u)
        out: Tensor = self.head(v + u if step % 2 else v)
        return out


class Task(Gated):
    def forward(self, x: Tensor, task: str = "a") -> Tensor:
        u = self.stem(x)
        out: Tensor = self.head(self.tasks[task](u + self.blocks[0](u)))
        return out


class Mode(Gated):
    def forward(self, x: Tensor, mode: str = "plain") -> Tensor:
        u = self.stem(x)
        v = self.blocks[0](u)
        out: Tensor = self.head(v + u if mode == "residual" else v)
        return out


class Any_(Gated):
    def forward(self, x: Tensor, **options: Any) -> Tensor:
        u = self.stem(x)
        v = self.blocks[0](u)
        out: Tensor = self.head(v + u if options.get("residual") else v)
        return out


class Flags(Gated):
    def forward(self, x: Tensor, flags: Tensor) -> Tensor:
        u = self.stem(x)
        for block, flag in zip(self.blocks, flags, strict=True):
            if flag:
                u = block(u)
        out: Tensor = self.head(u)
        return out


class Labels(Gated):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        u = self.stem(x)
        v = self.blocks[0](u)
        y = self.head(v)
        return y if labels is None else (y, F.cross_entropy(y, labels) + (u * v).sum())


class Sliced(Gated):
    def forward(self, x: Tensor, half: bool = False) -> Tensor:
        u = self.stem(x)
        v = self.blocks[0](u)
        out: Tensor = self.head(torch.cat([v[:, :6], u[:, 6:]], 1) if half else v)
        return out


class Normed(Gated):
    def forward(self, x: Tensor, residual: bool = False) -> Tensor:
        u = self.stem(x)
        v = self.norm(self.blocks[0](u))
        out: Tensor = self.head(v + u if residual else v)
        return out


class NormedThere(Gated):
    def forward(self, x: Tensor, normed: bool = False) -> Tensor:
        v = self.blocks[0](self.stem(x))
        out: Tensor = self.head(self.norm(v) if normed else v)
        return out


class InTraining(Gated):
    def forward(self, x: Tensor, auxiliary: bool = False) -> Any:
        u = self.stem(x)
        v = self.blocks[0](u)
        y = self.head(v)
        return (y, (u * v).sum()) if self.training and auxiliary else y


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 10), nn.Linear(10, 10), nn.Linear(10, 12)

    def forward(self, u: Tensor, skip: bool) -> Tensor:
        h = self.a(u).relu()
        out: Tensor = self.c(h if skip else self.b(h).relu())
        return out


class InAPart(Gated):
    """It is traced in parts, one of which is given a flag that a value decides."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(self.stem(x), float(x.detach().sum()) > 0))
        return out


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
THREE = torch.tensor([True, True, True])
CASES: dict[type[Gated], tuple[Any, list[Any]]] = {
    Default: (X, [(X, True)]),
    AtWord: (X, [(X, "stem")]),
    AtNumber: (X, [(X, 0)]),
    Given: ((X, {"residual": False}), [(X, {"residual": True})]),
    Both: (X, [(X, True, True), (X, True, False)]),
    Level: ((X, 7.0), [(X, 3.0)]),
    Scaled: (X, [{"x": X, "scale": 0.5}]),
    Depth: (X, [(X, 0), (X, 2)]),
    Odd: ((X, 2), [(X, 3)]),
    Task: (X, [(X, "b")]),
    Mode: (X, [(X, "residual")]),
    Any_: ({"x": X}, [{"x": X, "residual": True}]),
    Flags: ((X, THREE), [(X, torch.tensor([True, False, True])), (X, ~THREE)]),
    Labels: (X, [(X, torch.tensor([0, 1, 2, 0]))]),
    Sliced: (X, [(X, True)]),
    Normed: (X, [(X, True)]),
    NormedThere: (X, [(X, True)]),
    InTraining: (X, [(X, True)]),
    InAPart: (X.abs(), [-X.abs()]),
}


def answers(model: nn.Module, inputs: Any) -> list[Tensor]:
    if isinstance(inputs, dict):
        returned = model(**inputs)
    else:
        returned = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return list(returned) if isinstance(returned, tuple) else [returned]


@pytest.mark.parametrize("kind", CASES)
def test_a_cut_model_answers_as_the_masked_one_where_an_input_is_set_otherwise(kind: type[Gated]) -> None:
    torch.manual_seed(0)
    model, (example, others) = kind().eval(), CASES[kind]
    sites = sc.channels(model, example)
    keep = {name: torch.randperm(site.size) % 3 != 1 for name, site in sites.items()}
    small, masked = sc.cut(model, sites, keep), sc.mask(model, sites, keep)
    assert type(small) is kind
    for training in (False, True):
        for inputs in (example, *others):
            ours, theirs = (answers(each.train(training), inputs) for each in (small, masked))
            torch.testing.assert_close(ours, theirs)


class Mean(Gated):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        v = self.blocks[0](self.stem(x))
        y = self.head(v)
        return y if labels is None else (y, F.cross_entropy(y, labels) + v.pow(2).mean())


def test_what_differs_where_an_input_is_set_otherwise_is_a_warning() -> None:
    torch.manual_seed(0)
    result = sc.prune(Mean(), X, "l2", 0.4, scope="layer", latency=False)
    (warning,) = result.report.warnings
    assert warning.startswith("with labels=a tensor the cut model differs from the masked one by ")
    assert warning.endswith("it was cut for labels left out; call it so, or leave the sites out with ignore=")
    assert f"WARNING: {warning}" in str(result.report)
    with pytest.warns(UserWarning, match="cut: with labels=a tensor the cut model differs"):
        sc.cut(result.original, result.sites, result.keep)


class Asked(Gated):
    """What it returns on demand is smaller after the cut, and its loss reads what it returns alone."""

    def forward(
        self,
        x: Tensor,
        features: bool = False,
        labels: Tensor | None = None,
        times: int = 2,
        mask: Tensor | None = None,
    ) -> Any:
        v = self.blocks[0](self.stem(x))
        y = self.head(v) * times
        y = y if mask is None else y * mask[:, :1]
        y = y if labels is None else F.cross_entropy(y, labels)
        return (y, v) if features else y


def test_no_false_warnings_and_no_fewer_units() -> None:
    torch.manual_seed(0)
    result = sc.prune(Asked(), X, "l2", 0.4, scope="layer", latency=False)
    assert result.report.warnings == ()
    assert set(result.sites) == {"stem.0", "stem.2", "blocks.0.0", "blocks.0.2", "head.0"}


@contextmanager
def counted_passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[nn.Module]]:
    """The models that were run once more than for the trace."""
    ran: list[nn.Module] = []
    run = turned.logged_pass
    with monkeypatch.context() as patching:
        patching.setattr(turned, "logged_pass", lambda model, training: ran.append(model) or run(model, training))
        yield ran


def test_a_model_of_tensors_alone_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with counted_passes(monkeypatch) as ran:
        sc.channels(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)), torch.ones(1, 3, 4, 4))
        assert not ran
        sc.channels(Default(), X)
        assert ran


class Compares(nn.Module):
    def forward(self, x: Tensor, level: float, depth: int, word: str) -> Tensor:
        if level < 0.5 or depth >= 40 or word == "other":
            return x
        return -x


def test_values_are_tried_on_the_other_side_of_what_code_compares_them_with() -> None:
    tried = [str(turn) for turn in turns(Compares(), ((X, 0.9, 7, "word"), {}))]
    assert {"level=-0.5", "level=1.5", "depth=39", "depth=40", "depth=41", "word='other'"} <= set(tried)


def test_an_argument_goes_where_the_example_puts_its_own() -> None:
    model = Asked()
    by_position = {str(turn): turn.change(((X,), {})) for turn in turns(model, ((X,), {}))}
    assert by_position["features=True"] == ((X, True), {})
    assert by_position["times=3"] == ((X, False, None, 3), {})
    by_name = {str(turn): turn.change(((), {"x": X})) for turn in turns(model, ((), {"x": X}))}
    assert by_name["times=3"] == ((), {"x": X, "times": 3})
    (scaled, *_) = turns(Scaled(), ((X,), {}))
    assert scaled.change(((X,), {}))[1].keys() == {"x", "scale"}


class Keeping(nn.Module):
    """Fills the list that it is given, as a cache, and has a number that code compares."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, past: list[Tensor], most: int = 8) -> Tensor:
        past.append(x)
        y: Tensor = self.b(self.a(torch.cat(past[-most:] if len(past) > most else past, 1)).relu())
        return y


def test_what_a_model_fills_is_filled_for_each_pass_anew() -> None:
    past = [torch.randn(2, 3, 4)]
    sites = sc.channels(Keeping(), (torch.randn(2, 1, 4), past))
    assert len(past) == len(sites.structure.graph.args[1]) == 1


class Entries(dict[str, bool]):
    """Options that code reads as attributes."""

    def __getattr__(self, name: str) -> bool:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class Attributes(Gated):
    def forward(self, x: Tensor, options: Entries) -> Tensor:
        u = self.stem(x)
        out: Tensor = self.head(u if options.skip else self.blocks[0](u))
        return out


def test_entries_that_are_attributes_are_set_otherwise() -> None:
    model = Attributes().eval()
    assert [str(turn) for turn in turns(model, ((X, Entries(skip=False)), {}))] == ["options.skip=True"]
    result = sc.prune(model, (X, Entries(skip=False)), "l2", 0.4, scope="layer", latency=False)
    masked, other = sc.mask(model, result.sites, result.keep), (torch.randn(3, 6), Entries(skip=True))
    if not any("options.skip=True" in warning for warning in result.report.warnings):
        torch.testing.assert_close(result.model(*other), masked(*other))
