"""Tracing: names, inputs, places, and what a trace may not change."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from secateur.structure import channels, cut
from secateur.structure.infer import infer
from secateur.structure.nodes import where
from secateur.structure.ragged import known_sizes
from secateur.structure.record import GaveUp, record
from secateur.structure.trace import trace
from secateur.testing.toys import TOYS, hand_mlp, same_state, snapshot
from secateur.types import InputError, TraceError


def ops(model: nn.Module, inputs: Any) -> list[str]:
    return [str(n.target) for n in trace(model, inputs, quick=False).nodes if n.op == "call_function"]


def test_the_graph_of_an_mlp() -> None:
    graph = trace(hand_mlp(), torch.ones(1, 2), quick=False)
    assert list(graph.tensors.values()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(graph.inputs) == 1
    assert ops(hand_mlp(), torch.ones(1, 2)) == ["aten.linear.default", "aten.relu.default", "aten.linear.default"]
    assert torch.equal(graph.args[0], torch.ones(1, 2))
    assert dict(graph.kwargs) == {}


def test_buffers_and_constants_have_their_names() -> None:
    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.register_buffer("kept", torch.ones(2))
            self.register_buffer("passing", torch.ones(2), persistent=False)
            self.plain = torch.ones(2)
            self.kept: Tensor
            self.passing: Tensor

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.fc(x) * self.kept * self.passing + self.plain
            return made

    found = set(trace(Tables(), torch.ones(1, 2)).tensors.values())
    assert {"fc.weight", "fc.bias", "kept", "passing"} <= found


def test_keyword_and_nested_inputs() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, pair: tuple[Tensor, Tensor], *, scale: Tensor, flag: bool = True) -> Tensor:
            made: Tensor = self.fc(pair[0] + pair[1]) * scale
            return made if flag else -made

    x = torch.ones(1, 2)
    with pytest.raises(InputError, match=r"forward pass failed.*scale"):
        trace(Nested(), ((x, x),))
    graph = trace(Nested(), {"pair": (x, x), "scale": x, "flag": False})
    assert set(graph.kwargs) == {"pair", "scale", "flag"}


def test_a_trace_is_of_eval_mode_and_leaves_the_modes() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.BatchNorm1d(2)).train()
    model[2].eval()
    before = snapshot(model)
    graph = trace(model, torch.ones(1, 2))  # one sample: in training mode a batch norm would refuse it
    assert not any("native_dropout" in str(n.target) for n in graph.nodes)
    assert same_state(before, snapshot(model))


@pytest.mark.parametrize("name", list(TOYS))
def test_a_trace_changes_nothing(name: str) -> None:
    toy = TOYS[name]
    model = toy.build().train()
    x = toy.inputs()
    kept = x.clone()
    model(x).sum().backward()  # there are gradients, and batch norms have counted once
    before = snapshot(model)
    trace(model, x)
    assert same_state(before, snapshot(model))
    assert torch.equal(x, kept)


def test_the_trace_computes_what_the_model_does() -> None:
    for name, toy in TOYS.items():
        model = toy.build()
        graph = trace(model, toy.inputs(), quick=False)
        assert graph.program is not None
        with torch.no_grad():
            torch.testing.assert_close(graph.program.module()(toy.inputs()), model(toy.inputs()), msg=name)


def test_a_plain_model_is_recorded_and_ties_as_its_export_does() -> None:
    for name in ("mlp", "cnn", "residual", "grouped"):
        model, x = TOYS[name].build(), TOYS[name].inputs()
        quick, full = trace(model, x), trace(model, x, quick=False)
        assert quick.program is None, name
        found, expected = (
            {
                (site.unit, site.shape, frozenset((m.parameter, m.dim, m.role, str(m.index)) for m in site.members))
                for site in infer(graph).sites.values()
            }
            for graph in (quick, full)
        )
        assert found == expected, name


def test_what_is_not_plain_is_exported() -> None:
    assert trace(TOYS["attention"].build(), TOYS["attention"].inputs()).program is not None


def test_places_are_told_in_a_person_s_words() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.fc(x).sort(-1).values
            return made

    graph = trace(nn.Sequential(Inner()), torch.ones(1, 2))
    place = next(where(n) for n in graph.nodes if "sort" in str(n.target))
    assert place.startswith("aten.sort in 0 (test_trace.py:")


def test_a_model_under_no_grad_or_with_frozen_parameters_is_traced() -> None:
    model = hand_mlp().requires_grad_(False)
    with torch.no_grad():
        assert len(ops(model, torch.ones(1, 2))) == 3
    with torch.inference_mode():
        assert len(ops(model, torch.ones(1, 2))) == 3
        with pytest.raises(InputError, match="inference_mode"):
            ops(hand_mlp(), torch.ones(1, 2))


def test_a_scripted_model_is_refused_plainly() -> None:
    with pytest.warns((DeprecationWarning, FutureWarning), match="script"):
        scripted = torch.jit.script(hand_mlp())
    with pytest.raises(InputError, match="TorchScript"):
        trace(scripted, torch.ones(1, 2))


@pytest.mark.parametrize(
    "read",
    [
        lambda h: h.mean(0).tolist()[0],
        lambda h: float(h.detach().numpy()[0, 0]),
        lambda h: h.mean().item(),
        lambda h: 2.0 if h.mean() else 1.0,
        lambda h: 1.0 if h.data_ptr() else 2.0,
    ],
    ids=["tolist", "numpy", "item", "bool", "data_ptr"],
)
def test_numbers_that_are_read_are_never_recorded(read: Any) -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.fc(x) * read(x)
            return made

    with pytest.raises(GaveUp), torch.no_grad():
        record(Reads(), (torch.randn(2, 4),), {})


def test_sizes_that_values_decide_are_those_of_the_example() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            y: Tensor = self.b(h[x[:, 0] > 0])
            return y

    x = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [2, 0, 0]])
    graph = trace(Chosen(), x, quick=False)
    assert graph.ragged
    chosen = next(node for node in graph.nodes if node.name.startswith("index"))
    assert known_sizes([chosen.meta["val"].shape], chosen) == [(-1, 4)]
    assert chosen.meta["val"].shape == (2, 4)


def test_parameters_without_entries() -> None:
    class Tokens(nn.Module):
        """Tokens before the sequence, of which this configuration has none."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)
            self.tokens = nn.Parameter(torch.zeros(1, 0, 4))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.cat([self.tokens.expand(len(x), -1, -1), self.a(x)], 1)
            y: Tensor = self.b(self.norm(h).view(len(x), -1, 4))
            return y

    model, x = Tokens().eval(), torch.randn(2, 5, 3)
    sites = channels(model, x)
    assert {name: site.size for name, site in sites.items()} == {"a": 4}
    small = cut(model, sites, {"a": torch.tensor([True, False, True, True])})
    assert small.tokens.shape == (1, 0, 3)


def test_code_that_fails_where_it_is_exported_is_traced_as_it_runs() -> None:
    class Asks(nn.Module):
        """Makes a mask of the wrong size when it hears that it is exported, as it then looks into no mask."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x) + (torch.ones(3) if torch.compiler.is_exporting() else 0)
            y: Tensor = self.b(h)
            return y

    model, x = Asks().eval(), torch.randn(2, 3)
    assert not trace(model, x, quick=False).decided
    assert not torch.compiler.is_exporting()
    sites = channels(model, x)
    assert {name: site.size for name, site in sites.items()} == {"a": 4}
    assert cut(model, sites, {"a": torch.tensor([True, False, True, True])}).b.in_features == 3


def test_what_torch_logs_for_its_developers_is_kept_back() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if type(x) is Tensor else x @ x

    class Heard(logging.Handler):
        messages: ClassVar[list[str]] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.messages.append(record.getMessage())

    logger, handler = logging.getLogger("torch._subclasses.fake_tensor"), Heard(logging.ERROR)
    logger.addHandler(handler)
    try:
        with pytest.raises(TraceError, match="Broken cannot be traced"):
            trace(Broken(), torch.ones(2, 3), quick=False)
        assert not handler.messages
        logger.error("heard again")
        assert handler.messages == ["heard again"]
    finally:
        logger.removeHandler(handler)


class Chooses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        chosen: Tensor = self.last(torch.cond(h.sum() > 0, torch.relu, torch.tanh, (h,)))
        return chosen


def test_a_higher_order_operator_is_refused_with_a_remedy() -> None:
    with pytest.raises(
        InputError, match=r"Chooses calls torch's higher-order operator 'cond'.*call torch.where in its place"
    ):
        channels(Chooses(), torch.ones(1, 4))
