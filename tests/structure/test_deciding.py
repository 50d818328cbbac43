"""What code may decide by, in whatever form it comes: the cut model answers as the masked one, or a warning names the input."""

from __future__ import annotations

import enum
from collections import UserDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import numpy
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.structure import turned
from secateur.structure.turns import turns
from structure.test_turned import Gated, X


class Ways(Gated):
    """Adds what the stem gives where a function of the other input says so."""

    def __init__(self, decides: Callable[..., Any]) -> None:
        super().__init__()
        self.decides = decides
        self.ways = {"plain": 0, "residual": 1}
        self.first = nn.Identity()

    def way_plain(self) -> int:
        return 0

    def way_residual(self) -> int:
        return 1

    def forward(self, x: Tensor, given: Any) -> Tensor:
        u = self.stem(x)
        v = self.blocks[0](u)
        out: Tensor = self.head(v + u if self.decides(self, given) else v)
        return out


class Act(enum.Enum):
    RELU, GELU, NONE = "relu", "gelu", "none"


class Word(enum.StrEnum):
    A, B, C = "a", "b", "c"


class Parts(enum.Flag):
    HEAD, TAIL, SKIP = 1, 2, 4


class Named(NamedTuple):
    skip: bool = False


@dataclass(slots=True)
class Slotted:
    skip: bool = False


@dataclass(frozen=True, slots=True)
class FrozenSlotted:
    skip: bool = False


class Attributes(dict[str, Any]):
    __getattr__ = dict.get


class Answering:
    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)

    def __getattr__(self, name: str) -> None:
        return None


class Proxy:
    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        return self.fields[name]


class OfClass:
    skip = False


class Private:
    def __init__(self, mode: str) -> None:
        self._mode = mode

    @property
    def mode(self) -> str:
        return self._mode


def nested(**fields: Any) -> Any:
    return SimpleNamespace(block=SimpleNamespace(**fields))


WAYS = {"plain": 0, "residual": 1}
SKIPPING = {"residual"}
NUMBERS = {3: 0, 17: 0, 470: 1}
NAMES = ("plain", "residual")
MANY = {f"k{number}": number for number in range(60)}
Case = tuple[Callable[..., Any], Any, Any]
SETTINGS: dict[str, Case] = {
    "nested": (lambda m, s: s.block.act == "gelu", nested(act="relu"), nested(act="gelu")),
    "nested deeper": (lambda m, s: s.a.block.skip, *(SimpleNamespace(a=nested(skip=flag)) for flag in (False, True))),
    "dict in settings": (lambda m, s: s.block.more["skip"], *(nested(more={"skip": flag}) for flag in (False, True))),
    "tuple in settings": (lambda m, s: s.block.named.skip, *(nested(named=Named(flag)) for flag in (False, True))),
    "slots": (lambda m, s: s.skip, Slotted(), Slotted(True)),
    "frozen slots": (lambda m, s: s.skip, FrozenSlotted(), FrozenSlotted(True)),
    "named tuple": (lambda m, s: s.skip, Named(), Named(True)),
    "settings in a list": (lambda m, s: s[0].block.skip, *([nested(skip=flag)] for flag in (False, True))),
    "property": (lambda m, s: s.mode == "residual", Private("plain"), Private("residual")),
    "own mapping": (lambda m, s: s["n"] == 2, UserDict(n=1), UserDict(n=2)),
    "dict with attributes": (lambda m, s: s.skip, Attributes(skip=False), Attributes(skip=True)),
    "one of many entries": (lambda m, s: s["way"] == "b", {**MANY, "way": "a"}, {**MANY, "way": "b"}),
    "one of many fields": (lambda m, s: s.way == "b", *(SimpleNamespace(**MANY, way=way) for way in "ab")),
    "all of many fields": (lambda m, s: vars(s)["way"] == "b", *(SimpleNamespace(**MANY, way=way) for way in "ab")),
    "None in settings": (lambda m, s: s.block.at is not None, nested(at=None), nested(at=1)),
    "of the class": (lambda m, s: s.skip, OfClass(), SimpleNamespace(skip=True)),
    "answering for all": (lambda m, s: s.skip, Answering(skip=False), Answering(skip=True)),
    "handing on": (lambda m, s: s.skip, Proxy(skip=False), Proxy(skip=True)),
    "unchangeable": (lambda m, s: s["skip"], *(MappingProxyType({"skip": flag}) for flag in (False, True))),
    "number of numpy's": (lambda m, s: s["n"] > 5, *({"n": numpy.int64(number)} for number in (1, 9))),
    "one after the other": (
        lambda m, s: s.a.skip and s.b.skip,
        *(SimpleNamespace(a=SimpleNamespace(skip=flag), b=SimpleNamespace(skip=flag)) for flag in (False, True)),
    ),
}
LEFT_OUT: dict[str, Case] = {
    "get": (lambda m, s: s.get("skip"), {"other": 1}, {"other": 1, "skip": True}),
    "get with a word": (lambda m, s: s.get("way", "a") == "b", {"other": 1}, {"other": 1, "way": "b"}),
    "in": (lambda m, s: "skip" in s, {}, {"skip": True}),
    "entry of an entry": (lambda m, s: s["a"].get("skip", False), {"a": {}}, {"a": {"skip": True}}),
    "entry beside tensors": (lambda m, s: s.get("mask") is not None, {"x": X}, {"x": X, "mask": X}),
    "getattr": (lambda m, s: getattr(s, "skip", False), SimpleNamespace(), SimpleNamespace(skip=True)),
    "attribute of a dict": (lambda m, s: s.skip, Attributes(), Attributes(skip=True)),
    "attribute of an object": (lambda m, s: s.skip, Answering(), Answering(skip=True)),
    "own mapping": (lambda m, s: s.get("skip"), UserDict(), UserDict(skip=True)),
    "with a default for all": (lambda m, s: s["skip"], defaultdict(bool), defaultdict(bool, skip=True)),
}
LISTED: dict[str, Case] = {
    "third member": (lambda m, e: e is Act.NONE, Act.RELU, Act.NONE),
    "member that is a word": (lambda m, e: e == "c", Word.A, Word.C),
    "member in settings": (lambda m, s: s.block.act is Act.NONE, nested(act=Act.RELU), nested(act=Act.NONE)),
    "flag of several": (lambda m, e: Parts.SKIP in e, Parts.HEAD, Parts.HEAD | Parts.SKIP),
    "type": (lambda m, t: t is torch.float16, torch.float32, torch.float16),
    "set": (lambda m, s: "skip" in s, frozenset({"a"}), frozenset({"a", "skip"})),
    "smaller set": (lambda m, s: "a" not in s, {"a", "b"}, {"b"}),
    "empty": (lambda m, s: "skip" in s, (), ("skip",)),
    "some": (lambda m, s: bool(s), (), ("skip",)),
    "some settings": (lambda m, s: len(s) > 0, {}, {"skip": 1}),
    "more of them": (lambda m, s: len(s) > 2, [1, 2], [1, 2, 3]),
}
TABLES: dict[str, Case] = {
    "of the module": (lambda m, w: WAYS[w], "plain", "residual"),
    "get": (lambda m, w: WAYS.get(w, 0), "plain", "residual"),
    "get of what it lacks": (lambda m, w: WAYS.get(w, 0), "none", "residual"),
    "in": (lambda m, w: w in WAYS and WAYS[w], "none", "residual"),
    "in a table on self": (lambda m, w: w in m.ways and m.ways[w], "none", "residual"),
    "in a set": (lambda m, w: w in SKIPPING, "none", "residual"),
    "get of a number": (lambda m, n: NUMBERS.get(n, 0), 5, 470),
    "on self": (lambda m, w: m.ways[w], "plain", "residual"),
    "of numbers": (lambda m, n: NUMBERS[n], 3, 470),
    "written there": (lambda m, w: {"plain": 0, "residual": 1}[w], "plain", "residual"),
    "of names": (lambda m, w: NAMES.index(w), "plain", "residual"),
    "method": (lambda m, w: getattr(m, "way_" + w)(), "plain", "residual"),
    "method, formatted": (lambda m, w: getattr(m, f"way_{w}")(), "plain", "residual"),
    "method, formatted so": (lambda m, w: getattr(m, "way_%s" % w)(), "plain", "residual"),  # noqa: UP031
    "of members": (lambda m, w: Word(w) is Word.C, "a", "c"),
    "of names of members": (lambda m, w: Act[w] is Act.NONE, "RELU", "NONE"),
    "whole name of it": (lambda m, w: getattr(m, w)(), "way_plain", "way_residual"),
}
NUMBER: dict[str, Case] = {
    "item beyond a number": (lambda m, t: t.item() > 50, torch.tensor(0), torch.tensor(60)),
    "int beyond a number": (lambda m, t: int(t) > 50, torch.tensor(0), torch.tensor(60)),
    "tensor beyond a number": (lambda m, t: t > 50, torch.tensor(0), torch.tensor(60)),
}
CASES = {f"{kind}: {name}": case for kind, cases in (
    ("settings", SETTINGS), ("left out", LEFT_OUT), ("listed", LISTED), ("table", TABLES), ("number", NUMBER),
) for name, case in cases.items()}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_cut_model_answers_as_the_masked_one_or_the_input_is_named(name: str) -> None:
    decides, example, other = CASES[name]
    torch.manual_seed(0)
    model = Ways(decides).eval()
    sites = sc.channels(model, (X, example))
    keep = {name: torch.randperm(site.size) % 3 != 1 for name, site in sites.items()}
    small, masked = sc.cut(model, sites, keep), sc.mask(model, sites, keep)
    for given in (example, other):
        torch.testing.assert_close(small(X, given), masked(X, given))


class Narrow(Gated):
    """How many features count is an input."""

    def forward(self, x: Tensor, width: Any) -> Tensor:
        u = self.stem(x)
        out: Tensor = self.head(self.blocks[0](u)) + u[:, : int(width)].reshape(4, 4, -1).sum((1, 2))[:, None]
        return out


@pytest.mark.parametrize("given", [lambda n: n, torch.tensor], ids=["number", "tensor"])
def test_a_width_that_is_greater_than_the_features(given: Callable[[int], Any]) -> None:
    torch.manual_seed(0)
    model = Narrow().eval()
    sites = sc.channels(model, (X, given(16)))
    keep = {name: torch.randperm(site.size) % 3 != 1 for name, site in sites.items()}
    small, masked = sc.cut(model, sites, keep), sc.mask(model, sites, keep)
    for width in (16, 8, 4):
        torch.testing.assert_close(small(X, given(width)), masked(X, given(width)))


class Pooled(Ways):
    def forward(self, x: Tensor, given: Any) -> Tensor:
        v = self.blocks[0](self.stem(x))
        out: Tensor = self.head(v) + (v.mean() if given["a"].get("pool") else 0)
        return out


def test_a_warning_names_the_entry() -> None:
    torch.manual_seed(0)
    model = Pooled(lambda m, s: False).eval()
    result = sc.prune(model, (X, {"a": {}}), "l2", 0.4, scope="layer", latency=False)
    (warning,) = result.report.warnings
    assert warning.startswith("with given['a']['pool']=True the cut model differs from the masked one by ")
    assert "it was cut for given['a']['pool'] left out; call it so" in warning


def test_what_is_given_stays_as_it_is() -> None:
    class Lone:
        """There is one, which copies of it are, too."""

        skip = False

        def __init__(self) -> None:
            self.skip = False

        def __copy__(self) -> Lone:
            return self

    given = {"act": Act.RELU, "alone": Lone(), "named": Named(), "names": {"a"}}
    sc.channels(Ways(lambda m, s: s["act"] is Act.GELU or s["alone"].skip or "b" in s["names"]).eval(), (X, given))
    assert (Act.RELU.name, vars(Act.RELU)["_value_"]) == ("RELU", "relu")
    assert (given["alone"].skip, given["names"], len(given)) == (False, {"a"}, 4)


def test_only_what_code_looks_at_is_tried() -> None:
    def tried(decides: Callable[..., Any], given: Any) -> set[str]:
        return {turn.name for turn in turns(Ways(decides).eval(), ((X, given), {}))}

    words = {"way": "a", "other": "b"}
    assert tried(lambda m, s: s["way"] == "c", words) == {"given['way']"}
    assert tried(lambda m, s: s.way == "c", SimpleNamespace(**words)) == {"given.way"}
    both = {"given['way']", "given['other']"}
    assert both <= tried(lambda m, s: next(iter(s.values())) == "c", words)
    assert tried(lambda m, s: type(s) is dict and s["way"] == "c", words) == both


def test_tensors_in_a_dict_take_one_pass_more_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[nn.Module] = []
    run = turned.logged_pass
    monkeypatch.setattr(turned, "logged_pass", lambda *args: passes.append(args[0]) or run(*args))
    assert turns(Ways(lambda m, s: s["x"] is None).eval(), ((X, {"x": X, "y": X}), {})) == []
    sc.channels(Ways(lambda m, s: s["x"] is None).eval(), (X, {"x": X, "y": X}))
    assert not passes


class Merging(Ways):
    def forward(self, x: Tensor, given: Any) -> Tensor:
        u = self.stem(x)
        v = self.blocks[0](u)
        out: Tensor = self.head(v + u if {"skip": False, **given}["skip"] else v)
        return out


def test_what_is_put_over_defaults() -> None:
    tried = [str(turn) for turn in turns(Merging(lambda m, s: s).eval(), ((X, {}), {}))]
    assert "given['skip']=True" in tried


class WithMuch(Narrow):
    def forward(self, x: Tensor, a: Any = None, b: Any = None, c: Any = None, d: Any = None, width: int = 16) -> Tensor:
        return super().forward(x, width)


def test_something_is_tried_of_each_of_many() -> None:
    tried = [str(turn) for turn in turns(WithMuch().eval(), ((X, {f"k{n}": n for n in range(5)}), {}))]
    assert {"b=a tensor", "d=a tensor", "width=8"} <= set(tried)
    assert len(tried) <= 32


def test_the_last_of_many_numbers_is_tried_on_both_sides() -> None:
    numbers = {f"k{n}": 0 for n in range(16)}
    tried = {str(turn) for turn in turns(Ways(lambda m, s: any(s[k] > 2 for k in numbers)).eval(), ((X, numbers), {}))}
    assert {"given['k15']=2", "given['k15']=3"} <= tried


class Optionally(Ways):
    """Its first block is passed over where a function of the optional argument says so."""

    def forward(self, x: Tensor, given: Any = None) -> Tensor:
        u = self.stem(x)
        v = self.blocks[0](u)
        out: Tensor = self.head(v + u if self.decides(self, given) else v)
        return out


OPTIONAL = {
    "left out later": (lambda m, t: t is None, (X, X), (X,)),
    "left out later, by name": (lambda m, t: t is None, {"x": X, "given": X}, {"x": X}),
    "number left out later": (lambda m, n: n is None, (X, 3), (X,)),
}


@pytest.mark.parametrize("name", OPTIONAL)
def test_what_later_calls_leave_out_or_give(name: str) -> None:
    decides, example, other = OPTIONAL[name]
    torch.manual_seed(0)
    model = Optionally(decides).eval()
    sites = sc.channels(model, example)
    keep = {name: torch.randperm(site.size) % 3 != 1 for name, site in sites.items()}
    small, masked = sc.cut(model, sites, keep), sc.mask(model, sites, keep)
    for given in (example, other):
        outs = [model(**given) if isinstance(given, dict) else model(*given) for model in (small, masked)]
        torch.testing.assert_close(*outs)


def test_what_a_model_cannot_run_without_is_not_left_out() -> None:
    sites = sc.channels(Optionally(lambda m, t: t.sum() is None).eval(), (X, X))
    assert sites.structure is not None
    assert not sites.structure.graph.turns


def test_a_warning_says_that_it_was_given() -> None:
    class Pools(Ways):
        def forward(self, x: Tensor, mask: Any = None) -> Tensor:
            v = self.blocks[0](self.stem(x))
            out: Tensor = self.head(v) + (v.mean() if mask is None else 0)
            return out

    torch.manual_seed(0)
    result = sc.prune(Pools(lambda m, s: False).eval(), (X, X), "l2", 0.4, scope="layer", latency=False)
    (warning,) = result.report.warnings
    assert warning.startswith("with mask=None the cut model differs from the masked one by ")
    assert "it was cut for mask given; call it so" in warning


class Variadic(Ways):
    def forward(self, x: Tensor, scale: float = 1, *given: Any) -> Tensor:
        return super().forward(x * scale, given)


def test_what_is_given_by_place_beyond_the_example() -> None:
    tried = {str(turn) for turn in turns(Variadic(lambda m, s: s).eval(), ((X,), {}))}
    assert {"*given=a tensor", "*given=True"} <= tried
    sites = sc.channels(Variadic(lambda m, s: s).eval(), X)
    assert sites.structure is not None
    assert [str(turn) for turn, _ in sites.structure.graph.turns] == ["*given=a tensor"]
