"""What changes with the mode and with the sizes, by itself: arguments, counters, packed sequences, attributes to guess."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from secateur.structure import channels
from secateur.structure.carriers import Attribute, Dimension, Uses
from secateur.structure.flow import Flow
from secateur.structure.graph import _follow_mode
from secateur.structure.guesses import Guess, _choices, _holds, _module_guesses
from secateur.structure.modes import TrainMode, require_mode, train_mode
from secateur.structure.signature import called_like
from secateur.structure.trace import trace
from secateur.types import InputError

ATEN = torch.ops.aten
ROWS = torch.randn(4, 3)


class Net(nn.Module):
    """What stands between two layers may read the mode."""

    def __init__(self, between: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.between = nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2), between

    def forward(self, x: Tensor) -> Any:
        return self.between(self, self.a(x))


@pytest.mark.parametrize(
    ("between", "changes", "counters", "differs"),
    [
        (lambda m, h: m.b(h.relu()), [], {}, ""),
        (lambda m, h: m.b(m.norm(h)), [{"training": True}], {"norm.num_batches_tracked": 1}, ""),
        (lambda m, h: m.b(F.dropout(h, 0.5, m.training)), [{"train": True}], {}, ""),
        (lambda m, h: m.b(F.dropout(h, 0.5, not m.training)), [{"train": False}], {}, ""),
        (lambda m, h: m.b(F.leaky_relu(h, 0.5 if m.training else 0.1)), [{"negative_slope": 0.5}], {}, ""),
        (lambda m, h: m.b(h.flip(1) if m.training else h), [], {}, "other operations|in the place of"),
        (
            lambda m, h: m.b(h.relu() if m.training else h.tanh()),
            [],
            {},
            "train mode runs aten.relu .* in the place of",
        ),
        (
            lambda m, h: (m.b(h), h) if m.training else (h, m.b(h)),
            [],
            {},
            "returns something else|cannot be exported|other",
        ),
        (lambda m, h: m.b(h * (m.a.bias if m.training else m.norm.weight)), [], {}, "other tensors|in the place of"),
    ],
)
def test_train_mode_is_other_arguments_or_is_told_in_words(
    between: Callable[[Any, Tensor], Any], changes: list[dict[str, Any]], counters: dict[str, int], differs: str
) -> None:
    import re

    model = Net(between).eval()
    mode = train_mode(model, trace(model, ROWS, quick=False))
    assert not model.training
    assert not any(module.training for module in model.modules())
    assert bool(mode.differs) == bool(differs)
    if differs:
        assert re.search(differs, mode.differs)
    else:
        assert list(mode.arguments.values()) == changes
        assert dict(mode.counters) == counters


def counting_graph() -> fx.GraphModule:
    model = nn.ReLU()
    graph = fx.Graph()
    x = graph.placeholder("input")
    graph.output((graph.call_function(ATEN.relu.default, (x,)),))
    forms = (pytree.tree_structure(form) for form in (((ROWS,), {}), ROWS))
    graph.set_codegen(called_like(model, (ROWS,), {}, *forms))
    module = fx.GraphModule(nn.Module(), graph)
    module.register_buffer("counter", torch.tensor(3))
    return module


@pytest.mark.parametrize("differs", ["", "train mode runs aten.flip"])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_graph_counts_in_train_mode_or_refuses_it(differs: str, step: int) -> None:
    graph = counting_graph()
    before = len(graph.graph.nodes)
    require_mode(graph, TrainMode(counters={"counter": step} if step else {}, differs=differs))
    assert graph.meta["eval_only"] == differs
    assert (len(graph.graph.nodes) == before) == (not step)
    graph.eval()
    assert torch.equal(graph(ROWS), ROWS.relu())
    assert int(graph.counter) == 3
    graph.train()
    if differs:
        with pytest.raises(InputError, match=r"in eval mode alone: train mode runs aten\.flip"):
            graph(ROWS)
    else:
        assert torch.equal(graph(ROWS), ROWS.relu())
        assert int(graph.counter) == 3 + step


@pytest.mark.parametrize(
    ("op", "arguments", "in_training"),
    [
        (ATEN.leaky_relu.default, (0.1,), {"negative_slope": 0.5}),
        (ATEN.dropout.default, (0.5, False), {"train": True}),
        (ATEN.dropout.default, (0.5, True), {"train": False}),
        (ATEN.dropout.default, (1.0, True), {"p": 0.0}),
        (ATEN.hardtanh.default, (-1.0, 1.0), {"min_val": 0.0, "max_val": 0.5}),
    ],
)
def test_an_op_takes_other_arguments_in_train_mode(
    op: Callable[..., Any], arguments: tuple[Any, ...], in_training: dict[str, Any]
) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    node = graph.call_function(op, (x, *arguments))
    graph.output(node)
    _follow_mode(node, in_training, "training")
    module = fx.GraphModule(nn.Module(), graph)
    names = [argument.name for argument in op._schema.arguments]  # type: ignore[attr-defined]
    usual = dict(zip(names[1:], arguments, strict=False))
    for training in (False, True):
        module.train(training)
        torch.manual_seed(0)
        given = module(ROWS)
        torch.manual_seed(0)
        assert torch.equal(given, op(ROWS, **(usual | (in_training if training else {}))))


def test_attributes_that_hold_a_size_are_guessed_to_become_the_new_one() -> None:
    class Holds(nn.Module):
        pass

    attributes = {"width": 8, "both": (8, 4), "many": [3, 8], "same": 7, "flag": True, "word": "8", "nested": [[8]]}
    guesses = _module_guesses("m", Holds(), {n: v for n, v in attributes.items() if n != "nested"}, {8: 5, 4: 3, 1: 2})
    assert {guess.attribute: guess.value for guess in guesses} == {"width": 5, "both": [5, 3], "many": [3, 5]}
    assert {guess.path for guess in guesses} == {"m"}
    assert not any(guess.unwatched for guess in guesses)
    assert all(guess.unwatched for guess in _module_guesses("m", nn.LayerNorm(8), {"width": 8}, {8: 5}))
    assert [_holds(value, 8) for value in attributes.values()] == [True, True, True, False, False, False, True]
    assert not _holds(True, 1)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("total", [None, 4, 6])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_full_sequences_that_are_packed_are_traced_as_they_are(
    kind: type[nn.RNNBase], total: int | None, batch_first: bool
) -> None:
    class Packs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loop, self.out = kind(3, 5, batch_first=batch_first), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Any:
            lengths = torch.full((2,), 4)
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=batch_first)
            padded, lengths = nn.utils.rnn.pad_packed_sequence(
                self.loop(packed)[0], batch_first=batch_first, padding_value=0.5, total_length=total
            )
            return self.out(padded), lengths

    model, x = Packs().eval(), torch.randn(2, 4, 3) if batch_first else torch.randn(4, 2, 3)
    flow = Flow(model, channels(model, x))
    answers, expected = flow(x), model(x)
    torch.testing.assert_close(answers[0], expected[0])
    assert answers[0].shape[1 if batch_first else 0] == (total or 4)
    assert answers[1].tolist() == expected[1].tolist() == [4, 4]


def test_attributes_that_likely_hold_a_size_change_first_and_each_is_left_out_once() -> None:
    seen = {Attribute("m", name): {Dimension("m", (8,), 0)} for name in ("width", "heads", "window")}
    read = {*seen, Attribute("m", "lost")}
    uses = Uses(read=read, lost={Attribute("m", "lost")}, sizes={**seen, Attribute("m", "lost"): set()})
    guesses = [Guess("m", name, 5, "K") for name in ("width", "heads", "window", "lost")]
    width, heads, window, lost = (("K", guess.attribute) for guess in guesses)
    choices = _choices(uses, guesses)
    assert choices[:5] == [
        {width, heads},
        {width, heads, window},
        {width, heads, lost},
        {width, heads, window, lost},
        set(),
    ]
    assert choices[5:] == [{heads}, {width}, {width, heads, window}, {width, heads, lost}]
    # What was seen to set the very size is likely whatever it is called, and what is of torch is not lost.
    known = [Guess("m", "window", 5, "K", seen=True), Guess("m", "other", 5, "K", unwatched=True)]
    assert _choices(uses, known)[0] == {("K", "window"), ("K", "other")}
    assert len(_choices(uses, [Guess("m", f"n{n}", 5, "K", unwatched=True) for n in range(40)])) == 24
