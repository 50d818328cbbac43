"""What code asks of a call besides its inputs' sizes: a graph refuses what it was not made for, or its report says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.types import InputError


class Literal(nn.Module):
    """A size in the code that no attribute holds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.calls, self.log = 0, SimpleNamespace(seen={"rows": 0})
        self.hidden: Tensor | None = None

    def change(self, h: Tensor, _x: Tensor) -> Tensor:
        return h

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(self.change(self.b(self.a(x)).view(-1, 2, 4).flatten(1).relu(), x))
        return made


class AsksForGradients(Literal):
    """Answers otherwise where gradients are on."""

    def change(self, h: Tensor, _x: Tensor) -> Tensor:
        return h * 2 if torch.is_grad_enabled() else h


class AsksForTheInputsGradient(Literal):
    """Answers otherwise where its input requires a gradient."""

    def change(self, h: Tensor, x: Tensor) -> Tensor:
        return h * 2 if x.requires_grad else h


class AsksForBoth(Literal):
    """Answers otherwise in either case."""

    def change(self, h: Tensor, x: Tensor) -> Tensor:
        h = h * 2 if torch.is_grad_enabled() else h
        return h * 3 if x.requires_grad else h


class AsksForTheLayout(Literal):
    """Answers otherwise where its input is not contiguous."""

    def change(self, h: Tensor, x: Tensor) -> Tensor:
        return h if x.is_contiguous() else h * 2


class AsksForNoReason(Literal):
    """Asks for all of it, and answers the same."""

    def change(self, h: Tensor, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.requires_grad or h.requires_grad:
            h = h.clone()
        if torch.is_autocast_enabled("cpu") or self.a.weight.requires_grad or x.storage_offset():
            h = h.clone()
        return h if x.is_contiguous() else h.contiguous()


class Counts(Literal):
    """Answers otherwise at every call."""

    def change(self, h: Tensor, _x: Tensor) -> Tensor:
        self.calls += 1
        return h * self.calls


class CountsElsewhere(Literal):
    """Keeps a number in an object's mapping."""

    def change(self, h: Tensor, x: Tensor) -> Tensor:
        self.log.seen["rows"] += x.shape[0]
        return h


class Remembers(Literal):
    """Adds what it was given before."""

    def change(self, h: Tensor, x: Tensor) -> Tensor:
        h = h if self.hidden is None else h + self.hidden
        self.hidden = x.mean()
        return h


class Keeps(Literal):
    """Keeps what nothing reads."""

    def change(self, h: Tensor, x: Tensor) -> Tensor:
        self.hidden = x.mean()
        return h


class AsksForTheType(Literal):
    """Scales in half precision."""

    def change(self, h: Tensor, x: Tensor) -> Tensor:
        return h / 8 if x.dtype is torch.float16 else h


ANSWERS: dict[str, Callable[[Any, Tensor], Any]] = {
    "strides": lambda _, x: x.stride()[0] == 1,
    "offset": lambda _, x: x.storage_offset() > 0,
    "base": lambda _, x: x._base is not None,
    "leaf": lambda _, x: not x.is_leaf,
    "parameter": lambda _, x: isinstance(x, nn.Parameter),
    "autocast": lambda _, x: torch.is_autocast_enabled("cpu"),
    "inference": lambda _, x: torch.is_inference_mode_enabled(),
    "deterministic": lambda _, x: torch.are_deterministic_algorithms_enabled(),
    "frozen": lambda model, x: not model.a.weight.requires_grad,
    "gradients kept": lambda model, x: model.a.weight.grad is not None,
    "threads": lambda _, x: torch.get_num_threads() == 77,
    "size of a number": lambda _, x: x.element_size() == 2,
    "version": lambda _, x: x._version > 7,
}


class Asks(Literal):
    """Answers otherwise where something is so."""

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question

    def change(self, h: Tensor, x: Tensor) -> Tensor:
        return h * 2 if ANSWERS[self.question](self, x) else h


def pruned(model: nn.Module) -> sc.Result:
    torch.manual_seed(0)
    result = sc.prune(model.eval(), torch.randn(2, 6), sparsity=0.4, latency=False)
    assert result.report.form == "graph"
    return result


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
REFUSED: dict[str, tuple[type[nn.Module], Tensor, bool, str, str]] = {
    "gradients": (AsksForGradients, X, True, "where gradients are on", "gradients off"),
    "an input's": (AsksForTheInputsGradient, X.clone().requires_grad_(), True, r"x.detach\(\)", "require no gradients"),
    "an input's alone": (
        AsksForTheInputsGradient,
        X.clone().requires_grad_(),
        False,
        r"x.detach\(\)",
        "require no gradients",
    ),
    "both": (
        AsksForBoth,
        X.clone().requires_grad_(),
        False,
        r"x.detach\(\)",
        "gradients off and inputs that require no",
    ),
    "layout": (AsksForTheLayout, X.t().contiguous().t(), False, r"x.contiguous\(\)", "inputs that lie in memory"),
}


@pytest.mark.parametrize(("kind", "x", "gradients", "words", "said"), REFUSED.values(), ids=REFUSED)
def test_circumstances_in_which_the_model_answers_otherwise_are_refused(
    kind: type[nn.Module], x: Tensor, gradients: bool, words: str, said: str, tmp_path: Path
) -> None:
    result = pruned(kind())
    assert said in str(result.report)
    masked = sc.mask(result.original, result.sites, result.keep)
    loaded = sc.load(result.save(tmp_path / "small"), kind().eval())
    for graph in (result.model, loaded):
        with torch.no_grad():
            torch.testing.assert_close(graph(X), masked(X))
        with torch.set_grad_enabled(gradients), pytest.raises(InputError, match=words):
            graph(x)
    assert loaded.meta["conditions"] == result.model.meta["conditions"]


def deterministic(graph: nn.Module) -> Any:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        return graph(X)
    finally:
        torch.use_deterministic_algorithms(before)


def within(context: Callable[[], Any], graph: nn.Module) -> Any:
    with context():
        return graph(X)


def with_gradients(graph: nn.Module) -> Any:
    graph(X).sum().backward()
    return graph(X)


ASKED: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "strides": (lambda graph: graph(X.t().contiguous().t()), r"x.contiguous\(\)"),
    "offset": (lambda graph: graph(X[1:]), r"x.clone\(\)"),
    "base": (lambda graph: graph(X[:2]), r"x.clone\(\)"),
    "leaf": (lambda graph: graph(X.clone().requires_grad_() * 1), r"x.detach\(\)"),
    "parameter": (lambda graph: graph(nn.Parameter(X, requires_grad=False)), "inputs are parameters"),
    "autocast": (lambda graph: within(lambda: torch.autocast("cpu", torch.bfloat16), graph), "asks torch.is_autocast"),
    "inference": (lambda graph: within(torch.inference_mode, graph), "asks torch.is_inference_mode_enabled"),
    "deterministic": (deterministic, "asks torch.are_deterministic_algorithms_enabled"),
    "frozen": (lambda graph: graph.requires_grad_(False)(X), "which parameters require gradients, and a.bias"),
    "gradients kept": (with_gradients, "which parameters have gradients, and a.bias"),
}


@pytest.mark.parametrize("question", ASKED)
def test_what_the_code_asks_for_is_refused_where_the_answer_is_another(question: str, tmp_path: Path) -> None:
    result = pruned(Asks(question))
    assert len(result.report.conditions) == 1
    masked = sc.mask(result.original, result.sites, result.keep)
    loaded = sc.load(result.save(tmp_path / "small"), Asks(question).eval())
    call, words = ASKED[question]
    for graph in (result.model, loaded):
        torch.testing.assert_close(graph(X), masked(X))
        with pytest.raises(InputError, match=words):
            call(graph)


@pytest.mark.parametrize("question", [name for name in ANSWERS if name not in ASKED])
def test_what_cannot_be_tried_is_said(question: str) -> None:
    (condition,) = pruned(Asks(question)).report.conditions
    assert condition.endswith("for which the code asks")


def test_what_is_asked_for_no_reason_is_not_refused() -> None:
    result = pruned(AsksForNoReason())
    assert not result.report.conditions
    masked = sc.mask(result.original, result.sites, result.keep)
    for x in (X, X.clone().requires_grad_(), X.t().contiguous().t()):
        torch.testing.assert_close(result.model(x), masked(x))


SAID: dict[type[nn.Module], list[str]] = {
    Literal: [],
    Counts: ["calls as it is, which the forward pass sets"],
    CountsElsewhere: ["log as it is, which the forward pass sets"],
    Remembers: ["hidden as it is, which the forward pass sets"],
    Keeps: [],
    AsksForTheType: ["inputs of the types that the example has, for which the code asks"],
}


@pytest.mark.parametrize(("kind", "conditions"), SAID.items(), ids=[kind.__name__ for kind in SAID])
def test_what_changes_from_call_to_call_is_said(kind: type[nn.Module], conditions: list[str]) -> None:
    model: Any = kind()
    assert list(pruned(model).report.conditions) == conditions
    assert (model.calls, model.log.seen, model.hidden) == (0, {"rows": 0}, None)
