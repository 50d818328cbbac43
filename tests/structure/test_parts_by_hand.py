"""Parts of what traces, watches and ties, each by itself: what is worked out by hand stands beside it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from secateur.structure import channels, weights
from secateur.structure.axes import Atom, Axis, atoms, fixed, product, resolve, total
from secateur.structure.carriers import Attribute, Dimension, Uses, _merged, both_uses, origins_of, plain
from secateur.structure.configs import ConfigWidth, _is_even, _more, _parts, _settled, _size, kept_steps
from secateur.structure.decided import decided_values
from secateur.structure.flow import reads
from secateur.structure.frames import table_rows
from secateur.structure.infer import infer
from secateur.structure.literals import _moved
from secateur.structure.maps import feature_maps
from secateur.structure.read_sizes import tie_read_sizes
from secateur.structure.rules import Value
from secateur.structure.rules.registry import Ties, op_name, output_shapes, shape_of
from secateur.structure.show import to_dict, to_svg, to_text
from secateur.structure.site_table import _multiples, _role, _unit_names, _unused
from secateur.structure.temperature import HEAD_DIMENSION, freeze_temperatures
from secateur.structure.trace import trace
from secateur.structure.watch import watch
from secateur.structure.whole import _interpreting
from secateur.types import Sites, VerificationError

ATEN = torch.ops.aten

# ---- how many units stay together ----


def test_units_stay_in_multiples_that_keep_every_axis_aligned() -> None:
    for places, size in ((1, 8), (2, 8), (3, 8), (4, 6), (6, 4), (8, 8), (16, 8), (5, 10)):
        units, other = Atom(24), Atom(7)
        axis = product(units, fixed(places)) if places > 1 else units
        multiples = _multiples(Ties(aligned=[(axis, size)]))
        step = multiples[units]
        assert step * places % size == 0
        assert not any(fewer * places % size == 0 for fewer in range(1, step))
        # Beside another free axis, neither says how many places the other leaves.
        assert _multiples(Ties(aligned=[(product(units, other), size)])) == {units: size, other: size}
        both = _multiples(Ties(aligned=[(axis, size), (units, 3)]))
        assert both[units] % step == both[units] % 3 == 0
    frozen = Atom(4, "held")
    assert _multiples(Ties(aligned=[(frozen, 8)])) == {}


def test_the_most_particular_word_that_is_said_of_units_names_them() -> None:
    a, b = Atom(2), Atom(3)
    said = [(a, "neuron"), (product(a, b), "filter"), (a, "head"), (b, "neuron"), (a, "head dimension")]
    assert _unit_names(Ties(units=said)) == {a: "head", b: "filter"}  # type: ignore[arg-type]


def test_a_parameter_makes_units_where_an_op_says_so_and_scales_where_none_does() -> None:
    ties = Ties(roles={("w", 0): {"out"}, ("w", 1): {"in"}, ("both", 0): {"in", "out"}})
    assert [_role(ties, *of) for of in (("w", 0, 3), ("w", 1, 3), ("w", 2, 3), ("both", 0, 1), ("gain", 0, 1))] == [
        *("out", "in", "in", "out", "scale")
    ]


def test_a_name_that_is_taken_gets_a_number() -> None:
    taken: Any = {"a": 0, "a:2": 0}
    assert [_unused(name, taken) for name in ("a", "b")] == ["a:3", "b"]
    assert _unused("a", {"a": 0}) == "a:2"  # type: ignore[dict-item]


# ---- what ops are called, and their shapes ----


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (ATEN.add.Tensor, "add"),
        (ATEN.add_.Tensor, "add"),
        (ATEN._to_copy.default, "_to_copy"),
        (ATEN.index_put_.default, "index_put"),
        (ATEN.__and__.Tensor, "__and__"),
        (torch.relu, "relu"),
        (len, "len"),
    ],
)
def test_an_op_in_place_is_called_as_its_plain_form(target: Callable[..., Any], name: str) -> None:
    assert op_name(fx.Graph().call_function(target, ())) == name


def test_shapes_are_those_of_tensors_and_nothing_of_what_is_none() -> None:
    node = fx.Graph().placeholder("x")
    for value, first, every in (
        (torch.zeros(2, 3), (2, 3), [(2, 3)]),
        ((torch.zeros(2), None, torch.zeros(4, 1)), (2,), [(2,), (), (4, 1)]),
        ([], (), []),
        (None, (), [()]),
        (3, (), [()]),
    ):
        node.meta["val"] = value
        assert shape_of(node) == first
        assert output_shapes(node) == every


# ---- feature maps ----

MAP = torch.zeros(2, 1, 6, 6)


@pytest.mark.parametrize(
    ("between", "at"),
    [
        ([nn.ReLU()], "relu"),
        ([nn.ReLU(), nn.MaxPool2d(2)], "relu"),
        ([nn.ReLU(), nn.BatchNorm2d(4)], "relu"),
        ([nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.Dropout()], "relu"),
        ([nn.ReLU6(), nn.BatchNorm2d(4)], "hardtanh"),
        ([nn.Tanh(), nn.BatchNorm2d(4)], "getitem"),
        ([nn.Tanh(), nn.BatchNorm2d(4), nn.AvgPool2d(2)], "getitem"),
        ([nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)], "relu"),
        ([nn.AvgPool2d(2)], "conv"),
        ([], "conv"),
    ],
)
def test_a_map_lies_before_pools_and_before_a_norm_behind_what_rectifies(between: list[nn.Module], at: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), *between, nn.Conv2d(4, 2, 1)).eval()
    structure = infer(trace(model, MAP))
    (read,) = feature_maps(structure, reads(structure))["0"]
    assert at in op_name(read.source)
    assert read.source.meta["val"].shape[read.dim] == 4
    assert read.node in read.source.users
    assert read.index.tolist() == [[0], [1], [2], [3]]


# ---- what is said of where ----


def test_a_reason_names_the_line_of_the_models_own_code() -> None:
    class Sorts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).sort(1).values)  # type: ignore[no-any-return]

    for quick in (True, False):
        structure = infer(trace(Sorts(), torch.zeros(2, 3), quick=quick))
        assert "depends on every entry at" in structure.frozen["a"]
        assert "test_parts_by_hand.py" in structure.frozen["a"]


@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}, {"padding_idx": 0, "scale_grad_by_freq": True}])
def test_tables_are_found_whatever_else_they_are_told(options: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Embedding(7, 3, **options), nn.Linear(3, 2))
    for quick in (True, False):
        assert table_rows(trace(model, torch.tensor([[1, 2]]), quick=quick)) == {0: 7}


# ---- tables and pictures ----


def test_single_weights_are_told_without_a_dimension() -> None:
    sites = weights(nn.Linear(3, 4, bias=False))
    name, units, _, each, tied = to_text(sites).splitlines()[-1].split()
    assert (name, units, each, tied) == ("weight", "12", "1", "weight")
    assert to_dict(sites)["sites"][0]["members"] == [{"parameter": "weight", "dim": None, "role": "out"}]
    assert to_svg(Sites({})).startswith('<svg xmlns="http://www.w3.org/2000/svg" width="464" height="72"')


# ---- whole numbers that carry where they come from ----


class Reads(nn.Module):
    """A module whose numbers a function uses."""

    def __init__(self, use: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.use, self.width, self.count = use, 6, 3

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


WIDTH, COUNT = Attribute("", "width"), Attribute("", "count")


def seen(use: Callable[[Any, Tensor], Tensor]) -> Uses:
    uses, answers = watch(Reads(use), (torch.ones(2, 12),), {})
    assert uses is not None
    assert type(plain(answers)) is type(answers)
    return uses


@pytest.mark.parametrize(
    ("use", "sizes", "numbers"),
    [
        (lambda m, x: x.view(2, 2, m.width), {WIDTH: {2}}, set()),
        (lambda m, x: x.view([2, 2, m.width]), {WIDTH: {2}}, set()),
        (lambda m, x: torch.reshape(x, shape=(2, m.width, 2)), {WIDTH: {1}}, set()),
        (lambda m, x: x.view(2, m.count, -1), {COUNT: {1}}, set()),
        (lambda m, x: torch.zeros(m.width) + x[:, :6], {WIDTH: {0}}, set()),
        (lambda m, x: torch.full((2, m.width), 0.5) + x[:, :6], {WIDTH: {1}}, set()),
        (lambda m, x: torch.full(size=(m.width,), fill_value=m.count) + x[:, :6], {WIDTH: {0}}, {COUNT}),
        (lambda m, x: x.unflatten(1, (2, m.width)), {WIDTH: {2}}, set()),
        (lambda m, x: x.unflatten(-1, (m.width, 2)), {WIDTH: {1}}, set()),
        (lambda m, x: x.unflatten(dim=1, sizes=(2, m.width)), {WIDTH: {2}}, set()),
        (lambda m, x: x.split(m.width, 1)[0], {WIDTH: {1}}, set()),
        (lambda m, x: x.split(m.width, dim=-1)[0], {WIDTH: {1}}, set()),
        (lambda m, x: x.chunk(m.count, 1)[0], {COUNT: {1}}, set()),
        (lambda m, x: x.t().split(m.width)[0], {WIDTH: {0}}, set()),
        (lambda m, x: x.t().chunk(m.count)[0], {COUNT: {0}}, set()),
        (lambda m, x: torch.split(x.t(), [m.width, 6])[0], {WIDTH: {0}}, set()),
        (lambda m, x: torch.split(x, split_size_or_sections=m.width, dim=1)[0], {WIDTH: {1}}, set()),
        (lambda m, x: x[:, :1].repeat(1, m.width), {WIDTH: {1}}, set()),
        (lambda m, x: x.repeat(1, m.width), {WIDTH: set()}, set()),  # what it repeats has other places, too
        (lambda m, x: x.narrow(1, m.count, m.width), {WIDTH: set(), COUNT: set()}, set()),
        (lambda m, x: x[:, : m.width], {WIDTH: set()}, set()),
        (lambda m, x: torch.arange(m.width) + x[:, :6], {WIDTH: set()}, set()),
        (lambda m, x: torch.arange(0, 12, m.width) + x[:, :2], {}, {WIDTH}),
        (lambda m, x: F.layer_norm(x[:, :6], (m.width,)), {WIDTH: {1}}, set()),
        (lambda m, x: x * m.width, {}, {WIDTH}),
        (lambda m, x: x / m.width**0.5, {}, {WIDTH}),
        (lambda m, x: x.view(2, m.width, 2) * m.width, {WIDTH: {1}}, {WIDTH}),
        (lambda m, x: x.add(x, alpha=m.width), {}, {WIDTH}),
        (lambda m, x: x.view(m.count - 1, 12), {COUNT: {0}}, set()),
    ],
)
def test_a_number_sets_sizes_or_enters_arithmetic(
    use: Callable[[Any, Tensor], Tensor], sizes: dict[Attribute, set[int]], numbers: set[Attribute]
) -> None:
    uses = seen(use)
    assert {origin: {d.dim for d in dimensions} for origin, dimensions in uses.sizes.items()} == sizes
    assert {origin for origin in uses.numbers if isinstance(origin, Attribute)} == numbers
    for attribute in (WIDTH, COUNT):
        read = attribute in sizes or attribute in numbers
        assert (attribute in uses.read) == read
        assert uses.may_change(attribute) == (read and attribute not in numbers)
        assert uses.only_sizes(attribute) == (attribute in sizes and attribute not in numbers)
    assert {uses.values[attribute] for attribute in uses.read} <= {6, 3}


def test_a_size_that_is_read_from_a_shape_and_given_on_is_copied() -> None:
    uses = seen(lambda m, x: x.view(x.shape[1], x.size(0)))
    sizes = {(origin.dim, d.dim) for origin, dimensions in uses.copied.items() for d in dimensions}
    assert sizes == {(1, 0), (0, 1)}
    assert {origin.shape for origin in uses.copied} == {(2, 12)}
    assert {d.shape for dimensions in uses.copied.values() for d in dimensions} == {(12, 2)}


def test_what_a_module_keeps_of_its_sizes_writes_nothing_down_afterwards() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width: Any = 6
            self.kept: Any = None

        def forward(self, x: Tensor) -> Tensor:
            self.kept = self.width + x.shape[1]
            return x.view(2, 2, self.width)

    model = Keeps()
    uses, _ = watch(model, (torch.ones(2, 12),), {})
    assert uses is not None
    before = {name: set(value) for name, value in vars(uses).items()}
    assert float(model.kept) == 18
    assert int(model.kept * 2) == 36
    assert model.width == 6
    assert {name: set(value) for name, value in vars(uses).items()} == before


def test_what_two_passes_did_is_all_that_either_did() -> None:
    there, here = Dimension("a", (2, 3), 0), Dimension("b", (4,), 0)
    together = frozenset({WIDTH, COUNT})
    first = Uses({WIDTH}, {WIDTH: 6}, {there}, {WIDTH}, {WIDTH: {there}}, {there: {here}}, {1}, {"a": "a"})
    second = Uses({COUNT}, {COUNT: 3}, {here}, {COUNT}, {WIDTH: {here}}, {here: {there}}, {2}, {"b": "b"})
    first.together, second.together = {together: {there}}, {together: {here}}
    both = both_uses(first, second)
    assert vars(both) == vars(
        Uses(
            {WIDTH, COUNT},
            {WIDTH: 6, COUNT: 3},
            {there, here},
            {WIDTH, COUNT},
            {WIDTH: {there, here}},
            {there: {here}, here: {there}},
            {1, 2},
            {"a": "a", "b": "b"},
            together={together: {there, here}},
        )
    )
    assert first.sizes == {WIDTH: {there}}
    assert _merged({}, {WIDTH: {here}}) == {WIDTH: {here}}
    assert origins_of([1, slice(2), {"a": 3}]) == frozenset()


# ---- values that decide ----


@pytest.mark.parametrize(
    ("ask", "values"),
    [
        (lambda t, x: x[: int(t.max())], [[3]]),
        (lambda t, x: x[: int(t.max()) if bool(t.any()) else 0], [[True, 3]]),
        (lambda t, x: x[t > 1], [[(2, 1)]]),
        (lambda t, x: x[t.to(torch.uint8)] if hasattr(t, "nothing") else x[(t > 2)], [[(1, 1)]]),
        (lambda t, x: x[t - 1], []),  # numbers of places decide nothing
        (lambda t, x: x[(t > 1).nonzero().flatten()], [[(2, 1)]]),
        (lambda t, x: x if float(x.sum()) > 0 else -x, []),
        (lambda t, x: x[x > 0], []),
        (lambda t, x: x[: int(t.max() + x.sum().long())], []),
    ],
)
def test_values_of_whole_numbers_that_decide_are_noted(
    ask: Callable[[Tensor, Tensor], Tensor], values: list[Any]
) -> None:
    class Asks(nn.Module):
        def forward(self, tokens: Tensor, x: Tensor) -> Tensor:
            return ask(tokens, x)

    noted = decided_values(Asks(), (torch.tensor([1, 3, 2]), torch.ones(3)), {})
    shapes = [[getattr(value, "sizes", value) for value in several] for several in noted.values()]
    assert shapes == values


# ---- sizes of a config ----


def structure_of(**sites: int) -> Any:
    return SimpleNamespace(sites={name.replace("_", "."): SimpleNamespace(size=size) for name, size in sites.items()})


@pytest.mark.parametrize(
    ("counts", "even"),
    [
        ({}, True),
        ({"h.0.mlp": 3, "h.1.mlp": 3}, True),
        ({"h.0.mlp": 3, "h.1.mlp": 2}, False),
        ({"h.0.mlp": 3}, False),
        ({"h.0.mlp": 8, "h.1.mlp": 8}, True),
        ({"h.0.att": 3}, True),  # of another size or name it is another kind
        ({"emb": 1}, True),
    ],
)
def test_blocks_are_even_where_sites_that_differ_by_their_number_keep_as_many(
    counts: dict[str, int], even: bool
) -> None:
    assert _is_even(structure_of(h_0_mlp=8, h_1_mlp=8, h_0_att=4, h_1_att=5, emb=6), counts) is even


def test_sizes_of_axes_are_scaled_by_what_they_are_made_of() -> None:
    from fractions import Fraction

    a, b, c = Atom(4), Atom(6), Atom(10)
    half = Fraction(1, 2)
    cases: list[tuple[Axis, list[Atom], int]] = [
        (a, [], 4),
        (a, [a], 2),
        (product(a, b), [a], 12),
        (product(a, b), [a, b], 6),
        (total(a, b), [b], 7),
        (total(product(a, b), c), [a, c], 17),
    ]
    for axis, scaled, size in cases:
        assert _size(axis, scaled, half) == size
    assert list(_more(product(a, b), [a, b], [], half)) == [a]
    assert list(_more(total(a, b), [a, b], [], half)) == [a, b]
    assert list(_more(total(a, b), [b], [a], half)) == [b]
    assert list(_more(total(a, fixed(3)), [a], [], half)) == []
    sizes = [part.size for part in _parts(resolve(product(a, b, c)))]
    assert sorted(sizes) == sorted([240, 4, 24, 240, 6, 60, 10])
    assert sorted(part.size for part in _parts(resolve(total(product(a, b), c)))) == sorted([34, 24, 4, 24, 6, 10])


def test_of_widths_that_change_the_same_the_one_of_more_sizes_is_taken() -> None:
    one = ConfigWidth({("a",): 4}, {"x": 4}, 4)
    two = ConfigWidth({("a",): 4, ("b",): 8}, {"x": 4, "y": 8}, 4)
    other = ConfigWidth({("c",): 4}, {"z": 4}, 4)
    same_site = ConfigWidth({("d",): 4}, {"z": 4}, 4)
    assert list(_settled([one, other, two])) == [other, two]
    assert list(_settled([other, same_site])) == [other]
    assert two.name == "a and b"
    assert [kept_steps(two, counts) for counts in ({"x": 2, "y": 4}, {"x": 2, "y": 6}, {}, {"x": 3, "y": 6})] == [
        *(2, None, 4, 3)
    ]
    assert kept_steps(ConfigWidth({("a",): 8}, {"x": 8}, 4), {"x": 5}) is None


@pytest.mark.parametrize("size", [1, 2, 5])
def test_boundaries_that_lie_outside_stay(size: int) -> None:
    keep = torch.arange(size) % 2 == 0
    for index in range(-size - 2, size + 3):
        if abs(index) >= size:
            assert _moved(index, keep) == index
        else:
            stays = (
                [at for at in range(size)[index:] if keep[at]] if index < 0 else [at for at in range(index) if keep[at]]
            )
            assert _moved(index, keep) == (-len(stays) if index < 0 else len(stays))


# ---- sizes that set a temperature ----


def placed(path: str, *values: Value) -> dict[fx.Node, Value]:
    """Nodes of reshaped tensors in a module."""
    graph, nodes = fx.Graph(), dict[fx.Node, Value]()
    for value in values:
        source = graph.placeholder(f"x{len(nodes)}")
        node = graph.call_function(ATEN.view.default, (source, list(value.shape)))
        node.meta["val"] = torch.zeros(value.shape)
        node.meta["nn_module_stack"] = {path: (path, nn.Module)}
        nodes[node] = value
    return nodes


@pytest.mark.parametrize("temperature", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_head_dimension_whose_size_enters_arithmetic_stays_with_what_it_sizes(
    temperature: bool, frozen: bool
) -> None:
    heads, dimension, other = Atom(4), Atom(8), Atom(8, "the model's output" if frozen else None)
    values = placed("att", Value((heads, dimension)), Value((fixed(3), other)))
    attribute = Attribute("att", "head_dim")
    sizes = {attribute: {Dimension("att", (4, 8), 1), Dimension("att", (3, 8), 1)}}
    uses = Uses(numbers={attribute} if temperature else set(), sizes=sizes, first_names={"att": "att"})
    ties = Ties(units=[(heads, "head"), (dimension, HEAD_DIMENSION)])
    freeze_temperatures(uses, values, ties)
    assert not heads.frozen
    if temperature:
        assert dimension.frozen == "its size also sets the attention's temperature (self.head_dim of att)"
        assert bool(other.frozen)
    elif frozen:
        assert dimension.frozen == "it shares its size with what cannot change (self.head_dim of att)"
    else:
        assert not dimension.frozen
        assert not other.frozen


def test_a_size_that_is_read_of_one_axis_and_given_to_another_makes_them_one() -> None:
    a, b, heads = Atom(8), Atom(8), Atom(4)
    values = placed("m", Value((fixed(2), a)), Value((fixed(3), b)), Value((fixed(5), heads)))
    origin, copy, part = Dimension("m", (2, 8), 1), Dimension("m", (3, 8), 1), Dimension("m", (5, 4), 1)
    uses = Uses(copied={origin: {copy}}, first_names={"m": "m"})
    tie_read_sizes(uses, values)
    assert resolve(a) is resolve(b)
    assert not a.frozen
    assert not heads.frozen
    tie_read_sizes(Uses(copied={origin: {part}}, first_names={"m": "m"}), values)  # 4 is half of 8
    assert next(iter(atoms(a))).frozen == f"a size is computed of it, {origin}"
    assert heads.frozen == f"a size is computed of it, {origin}"


def test_sizes_of_one_attribute_are_one_and_frozen_with_what_cannot_change() -> None:
    for reason in (None, "the model's output"):
        a, b, other = Atom(8), Atom(8, reason), Atom(6)
        values = placed("m", Value((fixed(2), a)), Value((fixed(3), b)), Value((fixed(5), other)))
        attribute = Attribute("m", "width")
        dimensions = {Dimension("m", (2, 8), 1), Dimension("m", (3, 8), 1), Dimension("m", (5, 6), 1)}
        uses = Uses(values={attribute: 8}, sizes={attribute: dimensions}, first_names={"m": "m"})
        tie_read_sizes(uses, values)
        assert resolve(a) is resolve(b) or bool(reason)
        assert bool(next(iter(atoms(a))).frozen) is bool(reason)
        assert not other.frozen  # its size is another number that was made of the attribute


# ---- regions that answer by their graphs ----


def test_a_region_answers_by_the_graph_of_the_call_and_no_other() -> None:
    ran: list[Any] = []

    class Runs:
        def run(self, module: Any, inputs: Any) -> str:
            ran.append((module, inputs))
            return "answer"

    from secateur.structure.borders import called_with

    alone: Any = SimpleNamespace(path="body")
    x = torch.ones(2, 3)
    answer = _interpreting(alone, None, {called_with(((x,), {})): Runs()})  # type: ignore[dict-item]
    assert answer(x + 1) == "answer"
    assert len(ran) == 1
    assert ran[0][0] is alone
    ((args, kwargs), rest) = ran[0][1]
    assert torch.equal(args[0], x + 1)
    assert (kwargs, rest) == ({}, {})
    for args, kwargs in (((torch.ones(4, 3),), {}), ((x, x), {}), ((), {"x": x})):
        with pytest.raises(VerificationError, match="body is called in more ways than were traced"):
            answer(*args, **kwargs)


def test_sites_are_the_same_in_a_model_that_is_traced_twice() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(2, 3)
    assert to_dict(channels(model, x)) == to_dict(channels(model, x))
