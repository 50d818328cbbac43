"""A graph takes the entries that its example has, under the names that the model has, and says so of others."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.types import InputError


class Literal(nn.Module):
    """A size in the code that no attribute holds, so that a cut comes back as a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def answers(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(self.b(self.a(x)).view(-1, 2, 4).flatten(1).relu())
        return made


class Listed(Literal):
    """Takes any number of features, with a mask or without."""

    def forward(
        self, features: Any, mask: Tensor | None = None, *more: Tensor, scale: float = 1.0, **rest: Any
    ) -> Tensor:
        entries = features.values() if isinstance(features, dict) else features
        x: Any = sum(entries) + sum(more)
        x = x + sum(layer for pair in rest.get("past", ()) for layer in pair)
        return self.answers(x if mask is None else x * mask) * scale


class Pair(NamedTuple):
    """Two features."""

    first: Tensor
    second: Tensor


def rows(count: int = 2) -> Tensor:
    return torch.randn(count, 6)


EXAMPLES: dict[str, tuple[Any, ...]] = {
    "list": ([rows(), rows()],),
    "dict": ({"p": rows(), "q": rows()},),
    "pair": (Pair(rows(), rows()),),
    "mask": ((rows(),), torch.ones(2, 6)),
    "none": ((rows(),), None),
    "more": ((rows(),), None, rows()),
}
GRAPHS: dict[str, Any] = {}


def graph_of(name: str) -> Any:
    if name not in GRAPHS:
        torch.manual_seed(0)
        example = {"features": [rows()], "past": [(rows(), rows())]} if name == "past" else EXAMPLES[name]
        result = sc.prune(Listed().eval(), example, sparsity=0.4, latency=False)
        assert result.report.form == "graph"
        GRAPHS[name] = result
    return GRAPHS[name].model


def check(name: str, *args: Any, **kwargs: Any) -> None:
    graph, result = graph_of(name), GRAPHS[name]
    masked = sc.mask(result.original, result.sites, result.keep)
    torch.testing.assert_close(graph(*args, **kwargs), masked(*args, **kwargs))


def test_inputs_like_the_example_are_taken_at_any_batch() -> None:
    check("list", [rows(5), rows(5)])
    check("list", features=[rows(5), rows(5)])
    check("list", (rows(5), rows(5)), None)
    check("dict", {"p": rows(5), "q": rows(5)})
    check("pair", Pair(rows(5), rows(5)))
    check("mask", (rows(5),), mask=torch.ones(5, 6))
    check("more", (rows(5),), None, rows(5))
    check("past", [rows(5)], past=[(rows(5), rows(5))])


REFUSED: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("list", ([rows()],), {}, "takes features with 2 entries, and was given 1"),
    ("list", ([rows(), rows(), rows()],), {}, "takes features with 2 entries, and was given 3"),
    ("list", ({"p": rows(), "q": rows()},), {}, "features of this graph is a list of 2 entries, and cannot be a dict"),
    ("list", (None,), {}, "features of this graph is a list of 2 entries, and was left out"),
    ("list", ([rows(), None],), {}, "features_1, is a tensor of shape .* and was left out"),
    ("list", ([rows(), [rows()]],), {}, r"features_1, is a tensor of shape .* and cannot be <list>"),
    ("list", ([rows(), rows()],), {"past": []}, "made without rest"),
    ("list", ([rows(), rows()], None, rows()), {}, "made without more"),
    ("list", ([rows(), rows()],), {"scale": 2.0}, "made without scale"),
    ("dict", ({"p": rows()},), {}, "features with the entries 'p', 'q' in this order, and was given 'p'"),
    ("dict", ({"p": rows(), "q": rows(), "r": rows()},), {}, "and was given 'p', 'q', 'r'"),
    ("dict", ({"q": rows(), "p": rows()},), {}, "and was given 'q', 'p'"),
    ("dict", ([rows(), rows()],), {}, "features of this graph is a dict of 2 entries, and cannot be a list"),
    ("pair", ((rows(), rows()),), {}, "features of this graph is a namedtuple of 2 entries, and cannot be a tuple"),
    ("mask", ((rows(),),), {}, "mask, is a tensor of shape .* and was left out"),
    ("none", ((rows(),), torch.ones(2, 6)), {}, "made with mask=None"),
    ("more", ((rows(),), None), {}, "takes 3 inputs by position, and was given 2"),
    ("more", ((rows(),), None, rows(), rows()), {}, "takes 3 inputs by position, and was given 4"),
    ("past", ([rows()],), {"past": [(rows(), rows())] * 2}, "takes past with 1 entries, and was given 2"),
    ("past", ([rows()],), {"past": [(rows(),)]}, r"takes past\[0\] with 2 entries, and was given 1"),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "words"), REFUSED, ids=[f"{r[0]}-{r[3][:40]}" for r in REFUSED])
def test_others_are_refused_by_name(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        graph_of(name)(*args, **kwargs)


def test_a_graph_is_compiled_and_exported_with_its_entries() -> None:
    graph, features = graph_of("dict"), {"p": rows(3), "q": rows(3)}
    expected = graph(features)
    torch.testing.assert_close(torch.compile(graph, backend="eager", fullgraph=True)(features), expected)
    torch.testing.assert_close(torch.export.export(graph, (features,)).module()(features), expected)


class Added(Literal):
    """Each row with the one that all share, or with its own."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.answers(x) + self.answers(y)


class Expanded(Literal):
    """One row beside each other."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([self.answers(x), self.answers(y).expand(len(x), -1)], 1)


class Even(Literal):
    """Does something else with an even number of rows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.answers(x) * (2 if len(x) % 2 == 0 else 1)


OWN: dict[str, tuple[type[Literal], tuple[Tensor, ...], list[tuple[int, ...]]]] = {
    "two with one": (Added, (rows(2), rows(1)), [(5, 1), (1, 1)]),
    "three with one": (Added, (rows(3), rows(1)), [(5, 1), (1, 1)]),
    "one with one": (Added, (rows(1), rows(1)), [(5, 5)]),
    "expanded": (Expanded, (rows(2), rows(1)), [(5, 1), (1, 1)]),
    "expanded from one": (Expanded, (rows(1), rows(1)), [(4, 4)]),
    "odd": (Even, (rows(1),), []),
}


@pytest.mark.parametrize(("kind", "example", "others"), OWN.values(), ids=OWN)
def test_a_graph_takes_its_own_example(
    kind: type[Literal], example: tuple[Tensor, ...], others: list[tuple[int, ...]]
) -> None:
    torch.manual_seed(0)
    result = sc.prune(kind().eval(), example, sparsity=0.4, latency=False)
    assert result.report.form == "graph"
    masked = sc.mask(result.original, result.sites, result.keep)
    for inputs in (example, *(tuple(map(rows, counts)) for counts in others)):
        torch.testing.assert_close(result.model(*inputs), masked(*inputs))
