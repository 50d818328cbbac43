"""What no other test of this room reaches: blocks without gradients, renumbered blocks, twins, values kept to go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional as F

from secateur.structure import channels, cut, mask
from secateur.structure.cost import Cost
from secateur.structure.export import answers_otherwise
from secateur.structure.fitting import _head_sizes, set_config
from secateur.structure.flow import Flow
from secateur.structure.infer import infer
from secateur.structure.layers import layers
from secateur.structure.maps import MapPass, feature_maps, watching
from secateur.structure.piecewise import is_piecewise_linear
from secateur.structure.rules.parts import picks_from_alike
from secateur.structure.shallower import without_blocks
from secateur.structure.signature import called_like
from secateur.structure.sites import check_same_model
from secateur.structure.trace import trace
from secateur.types import InputError

ROWS, IMAGE = torch.randn(3, 4), torch.randn(2, 3, 6, 6)


class Blocks(nn.Module):
    """Layers of which some run in a block of their own."""

    def __init__(self, inside: Callable[[], Any]) -> None:
        super().__init__()
        self.first, self.middle, self.last, self.inside = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2), inside

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        with self.inside():
            h = self.middle(h + 1).tanh()
        return self.last(h)  # type: ignore[no-any-return]


@pytest.mark.parametrize("inside", [torch.no_grad, torch.enable_grad, lambda: torch.autocast("cpu", enabled=False)])
def test_what_runs_in_a_block_ties_as_what_runs_without(inside: Callable[[], Any]) -> None:
    model = Blocks(inside)
    plain = channels(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)), ROWS)
    for quick in (True, False):
        structure = infer(trace(model, ROWS, quick=quick))
        assert [site.size for site in structure.sites.values()] == [site.size for site in plain.values()]
        roles = {(m.parameter.split(".")[0], m.dim, m.role) for site in structure.sites.values() for m in site.members}
        assert roles == {
            *(("first", 0, "out"), ("middle", 1, "in"), ("middle", 0, "out"), ("last", 1, "in")),
        }


# ---- bytes, configs and blocks ----


def test_bytes_that_go_are_those_of_saved_tensors_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 6).double(), nn.BatchNorm1d(6).double(), nn.ReLU(), nn.Linear(6, 2).double())
    sites = channels(model, ROWS.double())
    keep = {"0": torch.arange(6) < 4}
    cost = Cost(sites.structure)
    state = model.state_dict()
    small = cut(model, sites, keep).state_dict()
    gone = sum(t.nbytes for t in state.values()) - sum(t.nbytes for t in small.values())
    assert cost.bytes_removed(keep, state) == gone == 8 * 2 * (4 + 1 + 4 + 2)
    assert cost.bytes_removed(keep, {"0.bias": state["0.bias"]}) == 8 * 2
    assert cost.bytes_removed(keep, {}) == cost.bytes_removed({}, state) == 0
    assert cost.parameters_removed(keep) == 2 * (4 + 1 + 2 + 2)


def test_the_size_of_a_head_is_said_where_a_config_would_work_it_out() -> None:
    def config(**values: Any) -> Any:
        return type(
            "Config", (), {"to_dict": lambda self: dict(vars(self)), "__init__": lambda self: vars(self).update(values)}
        )()

    assert list(_head_sizes(config(head_dim=None, num_attention_heads=4, hidden_size=24))) == [(("head_dim",), 6)]
    assert list(_head_sizes(config(head_dim=5, num_attention_heads=4, hidden_size=24))) == [(("head_dim",), 5)]
    for other in ({"num_attention_heads": 4}, {"head_dim": None}, {"head_dim": 5, "num_attention_heads": 0}):
        assert list(_head_sizes(config(hidden_size=24, **other))) == []


def test_what_stands_in_a_config_now_is_told_with_lists_whole() -> None:
    model = nn.Identity()
    model.config = SimpleNamespace(width=8, inner=SimpleNamespace(sizes=[1, 2, 3]))
    changes: Any = {("width",): 6, ("inner", "sizes", 1): 9}
    assert set_config(model, changes) == {"config.width": 6, "config.inner.sizes": [1, 9, 3]}
    assert (model.config.width, model.config.inner.sizes) == (6, [1, 9, 3])


def test_blocks_that_stay_are_numbered_anew_where_they_were_numbered_by_their_place() -> None:
    class Block(nn.Linear):
        def __init__(self, number: int) -> None:
            super().__init__(2, 2)
            self.layer_idx, self.index, self.other = number, 1, number

    model = nn.Sequential(*(Block(n) for n in range(4)))
    small = without_blocks(model, "", ["0", "2"])
    assert [name for name, _ in small.named_children()] == ["0", "1"]
    assert [(b.layer_idx, b.index, b.other) for b in small.children()] == [(0, 0, 1), (1, 1, 3)]
    assert [b.layer_idx for b in model.children()] == [0, 1, 2, 3]
    for new, old in zip(small.children(), (model[1], model[3]), strict=True):
        assert torch.equal(new.weight, old.weight)  # type: ignore[arg-type]


# ---- models that are the same, or not ----


def tied(tie: bool) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    if tie:
        model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_a_model_with_other_twins_is_another(here: bool, there: bool) -> None:
    sites = channels(tied(there), ROWS)
    if here == there:
        check_same_model(tied(here), sites)
        return
    where = "here and not there" if here else "there and not here"
    with pytest.raises(InputError, match=rf"'2.weight' and '0.weight' are one tensor {where}"):
        check_same_model(tied(here), sites)


@pytest.mark.parametrize(
    ("forward", "linear"),
    [
        (lambda m, x: m.b(m.a(x).relu()), True),
        (lambda m, x: m.b(m.a(x).tanh()), False),
        (lambda m, x: m.b(m.a(m.a(x)[:, :4])), False),  # used twice
        (lambda m, x: m.b(x @ m.a.weight.t()), True),
        (lambda m, x: m.b(F.linear(x, m.a.weight.exp())), False),
        (lambda m, x: m.b(m.a(x) * m.a(x).detach()), False),
    ],
)
def test_outputs_are_piecewise_linear_in_a_weight_that_is_used_once(
    forward: Callable[..., Tensor], linear: bool
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return forward(self, x)

    assert is_piecewise_linear(trace(Net(), ROWS), ["a.weight"]) is linear


# ---- runs that go on from what is kept ----


def test_values_are_kept_of_what_the_skipped_ops_take_up() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    flow = Flow(model, channels(model, ROWS))
    nodes = [node for node in flow.at(ROWS)[0].graph.nodes if node.op == "call_function"]
    relus = [node for node in nodes if "relu" in str(node.target)]
    skip = set(nodes[nodes.index(relus[1]) :])
    values = flow.values(ROWS, skip)
    assert not skip & values.keys()
    assert {n for n in nodes if n not in skip} <= values.keys()
    consumed = {source for node in skip for source in node.all_input_nodes}
    for node, value in values.items():
        assert (value is not None) == (node in consumed)
    run: list[Node] = []

    def see(node: Node, value: Any) -> Any:
        run.append(node)
        return value

    torch.testing.assert_close(flow(ROWS, see=see, computed=values), model(ROWS))
    assert {node for node in run if node.op == "call_function"} == skip


def test_columns_of_a_kernel_stand_by_its_places() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, (2, 3)), nn.Flatten(), nn.Linear(4 * 20, 2))
    assert [layer.places for layer in layers(channels(model, IMAGE).structure)] == [6, 1]


@pytest.mark.parametrize("norm", [False, True])
def test_maps_are_shown_as_they_are_once_for_each_read(norm: bool) -> None:
    between: list[nn.Module] = [nn.BatchNorm2d(4), nn.ReLU()] if norm else [nn.ReLU()]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *between, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2)).eval()
    flow = Flow(model, channels(model, IMAGE))
    structure, reads = flow.at(IMAGE)
    maps = feature_maps(structure, reads)
    with torch.no_grad():
        expected = model[: 1 + len(between)](IMAGE)
        shown: list[Tensor] = []
        places = [read for several in maps.values() for read in several]
        flow(IMAGE, see=watching([*places, *places], lambda read, value: shown.append(value.clone())))
        assert len(shown) == 2
        for value in shown:
            torch.testing.assert_close(value, expected)
        seen: list[tuple[Tensor, bool]] = []
        run = MapPass(flow, lambda read, value, spent: seen.append((value.clone(), spent)))
        before = IMAGE.clone()
        for _ in range(2):
            run(IMAGE)
        assert torch.equal(IMAGE, before)
        for value, spent in seen:
            torch.testing.assert_close(value, expected)
            assert spent  # nothing that runs reads it afterwards
        assert len(seen) == 2


# ---- graphs that are called as the model is ----


class Several(nn.Module):
    def forward(self, *tensors: Tensor) -> Tensor:
        return torch.stack(tensors).sum(0)


class Named(nn.Module):
    def forward(self, x: Tensor, *, other: Tensor | None = None, **more: Tensor) -> Tensor:
        total = x if other is None else x + other
        return sum(more.values(), total)


def lines_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    from torch.utils import _pytree as pytree

    _, spec = pytree.tree_flatten((args, dict(kwargs)))
    _, out_spec = pytree.tree_flatten(ROWS)
    return called_like(model, args, kwargs, spec, out_spec).gen_fn_def(["a", "b"], "")


def test_a_graph_is_called_as_its_model_is() -> None:
    several = lines_of(Several(), (ROWS, ROWS), {})
    assert "arg0" in several
    assert "arg1" in several
    assert "arg2" not in several
    with_more = lines_of(Several(), (ROWS,), {"scale": ROWS})
    assert "arg0" in with_more
    assert "scale" in with_more
    named = lines_of(Named(), (ROWS,), {"other": ROWS})
    assert named.startswith("def forward(self, x, *, other=None, **more):")
    assert "check_left_out(more, {}, 'more')" in named
    alone = lines_of(Named(), (ROWS,), {})
    assert "check_left_out(other, None, 'other')" in alone
    assert "leaves_like([x], {}, self._in_spec" in alone


def test_what_is_all_alike_is_picked_from_by_its_first_entry_alone() -> None:
    class Fills(nn.Module):
        def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.a, self.b, self.make = nn.Linear(4, 6), nn.Linear(6, 2), make

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(h) + self.make(h)

    makes: list[tuple[Callable[[Tensor], Tensor], bool]] = [
        (lambda h: torch.zeros_like(h)[:, :1], True),
        (lambda h: torch.full_like(h, 2.0)[:, :1], True),
        (lambda h: h.cos()[:, :1], False),
        (lambda h: h[:, :1], False),
        (lambda h: torch.zeros_like(h).add_(h)[:, :1], False),
    ]
    for make, alike in makes:
        graph = trace(Fills(make), ROWS).graph
        slices = [node for node in graph.nodes if str(node.target).startswith("aten.slice") and node.args[1] == 1]
        assert any(map(picks_from_alike, slices)) is alike
    constant = torch.fx.Graph()
    assert not picks_from_alike(constant.call_function(torch.ops.aten.slice.Tensor, (torch.zeros(3), 0, 0, 1)))


def test_what_is_exported_may_answer_otherwise_in_its_numbers_or_its_shapes() -> None:
    model = nn.Linear(4, 2)
    program = torch.export.export(model, (ROWS,))
    exported: Any = SimpleNamespace(program=program, packed=False, opaque=False)
    answers = model(ROWS).detach()
    assert not answers_otherwise(model, exported, answers, (ROWS,), {})
    assert answers_otherwise(model, exported, answers + 1, (ROWS,), {})
    # What has other shapes, holds NaN or is known to be hidden is not compared here.
    assert not answers_otherwise(model, exported, answers[:1], (ROWS,), {})
    assert not answers_otherwise(model, exported, answers * float("nan"), (ROWS,), {})
    for hidden in ({"packed": True}, {"opaque": True}):
        assert not answers_otherwise(model, SimpleNamespace(**{**vars(exported), **hidden}), answers + 1, (ROWS,), {})  # type: ignore[arg-type]


def test_masked_models_answer_as_cut_ones_where_a_row_is_multiplied_by_a_vector() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.v = nn.Linear(4, 6), nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.a(x).tanh(), self.v)

    model = Scores()
    sites = channels(model, ROWS)
    assert [m.role for m in sites["a"].members] == ["out", "out", "in"]
    keep = {"a": torch.arange(6) % 2 == 0}
    torch.testing.assert_close(cut(model, sites, keep)(ROWS), mask(model, sites, keep)(ROWS))
