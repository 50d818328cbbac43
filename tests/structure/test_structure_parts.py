"""Parts of what ties and cuts by themselves, and the numbers that they are written with."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.structure import channels, literals, plan
from secateur.structure.attention import RectangularAttention
from secateur.structure.consumers import layers_of
from secateur.structure.draws import Draw
from secateur.structure.flow import Flow
from secateur.structure.frames import Frame, other_frames, table_rows
from secateur.structure.graph import _twice
from secateur.structure.infer import infer
from secateur.structure.makers import OwnTensors, makers_of
from secateur.structure.ops import by_sample
from secateur.structure.piecewise import is_piecewise_linear
from secateur.structure.rules import op_name
from secateur.structure.show import to_svg, to_text
from secateur.structure.staged import Staged
from secateur.structure.trace import first_line, trace


def test_attention_with_fewer_heads_is_called_as_torchs_is() -> None:
    mine, torchs = (signature(kind.forward).parameters for kind in (RectangularAttention, nn.MultiheadAttention))
    assert {n: p.default for n, p in mine.items()} == {n: p.default for n, p in torchs.items()}


# ---- pictures ----


def two_sites() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6, 3)
    )


def test_a_picture_has_a_row_a_layer_and_a_lane_a_site() -> None:
    lines = to_svg(channels(two_sites(), torch.zeros(1, 1, 5, 5))).splitlines()
    assert lines[0].startswith('<svg xmlns="http://www.w3.org/2000/svg" width="408" height="144" viewBox="0 0 408 144"')
    assert lines[3:] == [
        '<text x="24" y="24" class="bold">2 sites with 10 units; 1 layer left whole</text>',
        '<text x="24" y="42" class="key">● produces   ○ consumes   ■ scales</text>',
        '<text x="56" y="60" class="">0</text>',
        '<text x="56" y="78" class="">1</text>',
        '<text x="56" y="96" class="">3</text>',
        '<text x="56" y="114" class="frozen">5  — the model&#x27;s output</text>',
        '<g stroke="#0072b2" stroke-width="2"><title>0: 4 units (filter)</title><line x1="24" y1="56" x2="24" y2="92"/>',
        '<circle cx="24" cy="56" r="5" fill="#0072b2"/>',
        '<rect x="20" y="70" width="8" height="8" fill="#0072b2"/>',
        '<circle cx="24" cy="92" r="5" fill="#fff"/>',
        "</g>",
        '<g stroke="#d55e00" stroke-width="2"><title>3: 6 units (filter)</title><line x1="40" y1="92" x2="40" y2="110"/>',
        '<circle cx="40" cy="92" r="5" fill="#d55e00"/>',
        '<circle cx="40" cy="110" r="5" fill="#fff"/>',
        "</g>",
        "</svg>",
    ]


def test_a_table_of_sites_says_what_goes_with_a_unit() -> None:
    assert to_text(channels(two_sites(), torch.zeros(1, 1, 5, 5))).splitlines() == [
        "2 sites with 10 units; 1 layer left whole",
        "",
        "site   units  unit            parameters/unit  tied",
        # 9 weights and a bias, 2 of the norm, and 6 · 9 that read it
        "0          4  filter                       66  0.weight[0], 0.bias[0], 1.weight[0], 1.bias[0] and 1 more",
        "3          6  filter                       40  3.weight[0], 3.bias[0], 5.weight[1]",
        "",
        "left whole",
        "5  the model's output",
    ]


# ---- the shapes and numbers that a cut is verified on ----

ALONE = (dict[int, int](), 1)
FLOATS, TOKENS = torch.zeros, (lambda *shape: torch.zeros(*shape, dtype=torch.long))


@pytest.mark.parametrize(
    ("tensors", "sizes"),
    [
        ((TOKENS(2, 8),), [({8: 12}, 1), ({8: 4}, 1), ALONE]),
        ((FLOATS(2, 8),), [({8: 12}, 1), ({8: 4}, 1), ALONE]),
        ((FLOATS(2, 5, 10),), [({5: 7}, 1), ({5: 3}, 1), ({10: 14}, 2), ({10: 6}, 2), ALONE]),
        ((FLOATS(2, 3, 32, 32),), [({32: 40}, 1), ({32: 24}, 1), ALONE]),
        ((FLOATS(2, 3, 64, 64),), [({64: 80}, 1), ({64: 48}, 1), ALONE]),
        ((FLOATS(2, 3, 224, 72),), [({224: 32, 72: 8}, 1), ({224: 168, 72: 52}, 1), ({224: 280, 72: 92}, 1), ALONE]),
        ((FLOATS(2, 3, 1, 65),), [({65: 8}, 1), ({65: 48}, 1), ({65: 82}, 1), ALONE]),
        ((FLOATS(2, 6), FLOATS(2, 3, 8, 8)), [({8: 12}, 1), ({8: 4}, 1), ALONE]),
        ((FLOATS(2),), [ALONE]),
    ],
)
def test_other_shapes_are_small_pictures_longer_and_shorter_inputs_and_another_batch(
    tensors: tuple[Tensor, ...], sizes: list[tuple[dict[int, int], int]]
) -> None:
    frames = list(other_frames((tensors, {})))
    assert {frame.batch for frame in frames} == {(2, 3)}
    assert [(frame.sizes, frame.dim) for frame in frames] == sizes


def test_tokens_and_signals_change_together_and_each_alone() -> None:
    tensors = (TOKENS(2, 8), FLOATS(2, 12, 16))
    longer = [frame for frame in other_frames((tensors, {})) if not any(new < old for old, new in frame.sizes.items())]
    assert [(frame.sizes, frame.dim) for frame in longer] == [
        ({8: 12, 12: 16}, 1),
        ({8: 12, 16: 20}, 2),
        ({12: 16}, 1),
        ({16: 20}, 2),
        ({8: 12}, 1),
        ALONE,
    ]


@pytest.mark.parametrize(("batch", "new"), [(1, 2), (2, 3), (3, 2), (4, 3)])
def test_the_other_batch_is_of_two_or_three(batch: int, new: int) -> None:
    assert {frame.batch for frame in other_frames(((FLOATS(batch, 8),), {}))} == {(batch, new)}


def test_what_has_no_batch_has_no_other_shapes() -> None:
    assert not [*other_frames(((3, FLOATS(())), {}))]


def test_only_lengths_change_and_a_frame_says_which() -> None:
    frame = Frame((2, 3), {2: 7, 8: 12})
    assert frame.shape(FLOATS(2, 2, 8)) == (3, 7, 8)
    assert frame.shape(FLOATS(2, 8, 2, 8)) == (3, 8, 7, 12)
    assert frame.shape(TOKENS(2, 2, 8)) == (3, 7, 12)
    assert (str(frame), str(Frame())) == ("batch 3, 2 → 7, 8 → 12", "the example's shapes")


class Tables(nn.Module):
    """Tokens that are looked up in two tables, once as they are and once moved, beside numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large, self.out = nn.Embedding(5, 3), nn.Embedding(9, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        h = self.small(tokens) + self.large(tokens + 1) + self.large(places.view(-1))
        return self.out(h.relu() + x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("quick", [True, False])
def test_tokens_are_as_many_as_the_smallest_table_has_rows(quick: bool) -> None:
    graph = trace(Tables(), (FLOATS(2, 3), TOKENS(2), TOKENS(2, 1)), quick=quick)
    assert table_rows(graph) == {1: 5, 2: 9}


def drawn(tensor: Tensor, **options: float) -> Tensor:
    return Draw({"a": tensor}, frozenset({id(tensor)}), **options)("a")  # type: ignore[arg-type]


def test_weights_are_drawn_so_that_signals_keep_their_size() -> None:
    weight = nn.Parameter(torch.full((64, 32, 3, 3), 5.0))
    for gain in (1.0, 4.0):
        deviation = float(drawn(weight, gain=gain).std()) * (32 * 9) ** 0.5 / gain
        assert 2**-0.5 < deviation < 2**0.5  # to a power of two


def test_vectors_are_drawn_around_what_they_are_and_buffers_keep_their_signs() -> None:
    bias = drawn(nn.Parameter(torch.full((4000,), 3.0)))
    assert (float(bias.mean()), float(bias.std())) == pytest.approx((3, 0.5), abs=0.05)
    row = drawn(nn.Parameter(torch.full((1, 4000), 3.0)))
    assert (float(row.mean()), float(row.std())) == pytest.approx((3, 0.5), abs=0.05)
    for value in (drawn(torch.full((4000,), 3.0)), drawn(nn.Parameter(torch.full((40, 100), 3.0)), mild=True)):
        assert 2 < float(value.min()) < 2.1
        assert 3.9 < float(value.max()) < 4


@pytest.mark.parametrize("shape", [(2, 600_000), (2, 1_000_100), (3, 1_000_003), (1_200_000, 2), (2_100_000,)])
def test_tensors_that_are_larger_than_the_pool_are_drawn_whole(shape: tuple[int, ...]) -> None:
    noise = Draw({"a": torch.zeros(())}, frozenset())._noise("a", torch.zeros(shape))
    assert noise.shape == shape
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    if len(shape) > 1 and shape[1] < 10**6:
        assert not torch.equal(noise[0], noise[1])


def test_what_is_zero_is_drawn_small_and_of_a_buffer_above_it() -> None:
    buffer, parameter = drawn(torch.zeros(4000)), drawn(nn.Parameter(torch.zeros(4000)), mild=True)
    assert float(buffer.min()) >= 0
    assert float(parameter.mean()) == pytest.approx(0, abs=0.01)
    assert float(buffer.square().mean()) == pytest.approx(0.01, rel=0.1)
    assert float(parameter.square().mean()) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(
    ("tensor", "order"),
    [
        (torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.channels_last),
        (torch.zeros(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d), torch.channels_last_3d),
        (torch.zeros(2, 3, 4, 5), torch.contiguous_format),
        (torch.zeros(2, 3, 4, 5, 6), torch.contiguous_format),
        (torch.zeros(2, 3, 1, 1).to(memory_format=torch.channels_last), torch.contiguous_format),  # both orders are one
        (torch.zeros(3, 2).t(), torch.contiguous_format),
    ],
)
def test_rows_are_laid_out_as_the_model_has_them(tensor: Tensor, order: torch.memory_format) -> None:
    rows = plan._sliced(tensor, {0: torch.tensor([1])})
    assert rows.is_contiguous(memory_format=order)


def test_one_sample_is_taken_twice() -> None:
    for x, shape in ((FLOATS(1, 3), (2, 3)), (FLOATS(2, 3), (2, 3)), (FLOATS(()), ())):
        assert _twice(x).shape == shape


def test_what_was_compared_is_not_run_once_more() -> None:
    runs: list[int] = []

    class Counting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            runs.append(len(x))
            return super().forward(x)

    first = trace(Counting(3, 2), FLOATS(2, 3), quick=False)
    once = len(runs)
    assert first.program is not None
    assert first.uses is not None
    assert trace(Counting(3, 2), FLOATS(2, 3), quick=False, compared=True, uses=first.uses).program is not None
    assert len(runs) - once == once - 1


# ---- roles ----


class Roles(nn.Module):
    """Layers that make units, scale them and take them up, some by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.dw = nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1, groups=3)
        self.up, self.pre = nn.ConvTranspose2d(3, 4, 1), nn.PReLU(4)
        self.lin, self.ln = nn.Linear(4, 5), nn.LayerNorm(5)
        self.matrix, self.shift, self.right = (nn.Parameter(torch.randn(s)) for s in ((5, 6), (6,), (6, 7)))
        self.out = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pre(self.up(self.dw(self.bn(self.conv(x))))).mean((2, 3))
        h = torch.addmm(self.shift, self.ln(self.lin(h)), self.matrix).relu()
        return self.out(torch.einsum("ni,io->no", h, self.right))  # type: ignore[no-any-return]


@pytest.mark.parametrize("quick", [True, False])
def test_parameters_make_units_scale_them_or_take_them_up(quick: bool) -> None:
    sites = infer(trace(Roles(), FLOATS(2, 1, 4, 4), quick=quick)).sites
    assert {name: [(m.parameter, m.dim, m.role) for m in site.members] for name, site in sites.items()} == {
        "conv": [
            ("conv.weight", 0, "out"),
            ("conv.bias", 0, "out"),
            ("bn.weight", 0, "scale"),
            ("bn.bias", 0, "scale"),
            ("dw.weight", 0, "out"),
            ("dw.bias", 0, "out"),
            ("up.weight", 0, "in"),
        ],
        "up": [("up.weight", 1, "out"), ("up.bias", 0, "out"), ("pre.weight", 0, "scale"), ("lin.weight", 1, "in")],
        "lin": [
            ("lin.weight", 0, "out"),
            ("lin.bias", 0, "out"),
            ("ln.weight", 0, "scale"),
            ("ln.bias", 0, "scale"),
            ("matrix", 0, "in"),
        ],
        "matrix": [("matrix", 1, "out"), ("shift", 0, "out"), ("right", 0, "in")],
        "right": [("right", 1, "out"), ("out.weight", 1, "in")],
    }


# ---- the layers that make units ----


@pytest.mark.parametrize("quick", [True, False])
def test_layers_that_make_units_run_by_themselves(quick: bool) -> None:
    layers = [
        nn.Conv2d(1, 3, 2),
        nn.ReLU(),
        nn.ConvTranspose2d(3, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(64, 5),
        nn.Tanh(),
    ]
    model = nn.Sequential(*layers, nn.Linear(5, 2, bias=False)).eval()
    structure = infer(trace(model, FLOATS(2, 1, 3, 3), quick=quick))
    own = {node: dict(model.named_parameters())[name].detach() for node, name in structure.graph.tensors.items()}
    by_site = makers_of(structure, OwnTensors(structure.graph, own))
    assert {name: [maker.shape for maker in makers] for name, makers in by_site.items()} == {
        "0": [(1, 1, 3, 3)],
        "2": [(1, 3, 2, 2)],
        "4": [(1, 64)],
    }
    for name, (maker,) in by_site.items():
        layer, signal = model.get_submodule(name), torch.randn(3, *maker.shape[1:])
        assert torch.equal(maker.index.flatten(), torch.arange(len(maker.index)))
        with torch.no_grad():
            torch.testing.assert_close(maker.run(signal), layer(signal))
            layer.bias.zero_()
            torch.testing.assert_close(maker.run(signal, bias=False), layer(signal))


@pytest.mark.parametrize(
    ("layer", "space"), [(nn.Conv1d(3, 4, 2), (5,)), (nn.Conv2d(3, 4, 2), (5, 6)), (nn.Conv3d(3, 4, 2), (5, 6, 7))]
)
def test_a_maker_knows_the_shape_of_one_sample_of_its_input(layer: nn.Module, space: tuple[int, ...]) -> None:
    model = nn.Sequential(layer, nn.Tanh(), type(layer)(4, 2, 1))  # type: ignore[call-arg]
    structure = infer(trace(model, FLOATS(2, 3, *space)))
    own = {node: dict(model.named_parameters())[name].detach() for node, name in structure.graph.tensors.items()}
    ((maker,),) = (makers_of(structure, OwnTensors(structure.graph, own))["0"],)
    assert maker.shape == (1, 3, *space)
    x = torch.randn(2, 3, *space)
    torch.testing.assert_close(maker.run(x), layer(x).detach())


def test_ops_that_treat_samples_by_themselves() -> None:
    class Ops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.out = nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = F.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
            h = F.batch_norm(h, None, None, training=True).flatten(1)
            h = self.out(h).sort(0).values
            return torch.matmul(h, h.t()).cumsum(0)

    nodes = trace(Ops(), FLOATS(3, 1, 4, 4), quick=False).nodes
    names = {op_name(node): set[bool]() for node in nodes if node.op == "call_function"}
    for node in nodes:
        if node.op == "call_function":
            names[op_name(node)].add(by_sample(node))
    alone = {"conv2d", "relu", "max_pool2d", "linear", "getitem"}
    assert {name for name, answers in names.items() if answers == {True}} == alone
    assert names["batch_norm"] == {True, False}
    assert all(names[name] == {False} for name in ("sort", "matmul", "cumsum"))


# ---- passes in stages ----


def test_a_pass_in_stages_ends_as_the_model_does() -> None:
    model, x = two_sites().eval(), torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    flow = Flow(model, channels(model, x))
    staged = Staged(flow, x)
    layers = [node for node in flow.at(x)[0].graph.nodes if "conv" in node.name]
    middle = staged.after(layers[0])
    assert torch.equal(middle, model[0](x))
    assert staged.nbytes == middle.nbytes
    other = staged.fork()
    assert torch.equal(staged.outputs(), model(x))
    assert torch.equal(other.before(layers[1], layers[1].args[0]), model[:3](x))
    assert torch.equal(other.outputs(), model(x))
    other.forget()
    assert other.nbytes == 0
    with torch.no_grad():
        model[5].bias += 1
    assert torch.equal(other.outputs(), model(x))


# ---- what bends ----


class Meeting(nn.Module):
    """Weights of one layer, which meet in a product or a norm."""

    def __init__(self, meet: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.meet = nn.Linear(4, 4), meet

    def forward(self, x: Tensor) -> Tensor:
        return self.meet(self.a(x)).mean(1)


@pytest.mark.parametrize(
    ("model", "parameters", "linear"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(), nn.Linear(4, 2)), ["0.weight", "2.bias"], True),
        (nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)), ["2.weight"], True),
        (nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)), ["0.weight"], False),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4).eval(), nn.ReLU(), nn.Linear(4, 2)), ["0.weight"], True),
        (nn.Sequential(nn.BatchNorm1d(4).eval(), nn.Linear(4, 2)), ["0.weight"], False),  # it may be; not known
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)), ["0.weight"], False),
        (Meeting(lambda h: F.batch_norm(h, None, None, training=True)), ["a.weight"], False),
        (Meeting(lambda h: h * h), ["a.weight"], False),
        (Meeting(lambda h: h @ h), ["a.weight"], False),
        (Meeting(lambda h: h + h.relu()), ["a.weight"], True),
    ],
)
def test_which_models_bend_in_a_single_weight(model: nn.Module, parameters: list[str], linear: bool) -> None:
    assert is_piecewise_linear(trace(model, FLOATS(4, 4)), parameters) is linear


# ---- sizes ----


@pytest.mark.parametrize(
    ("index", "moved"),
    [(0, 0), (1, 1), (2, 1), (3, 2), (4, 3), (5, 5), (9, 9), (-1, -1), (-2, -2), (-4, -3), (-5, -5), (-9, -9)],
)
def test_boundaries_move_to_where_units_are_kept(index: int, moved: int) -> None:
    keep = torch.tensor([True, False, True, True, True])
    assert literals._moved(index, keep) == moved


class Joined(nn.Module):
    """A layer that reads the pixels of a map alone, and one that reads them beside others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.beside = nn.Conv2d(1, 3, 2), nn.Linear(4, 2)
        self.flat, self.joined = nn.Linear(12, 2), nn.Linear(14, 2)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.conv(x).relu().flatten(1)
        joined = torch.cat([pixels, self.beside(x[:, 0, :2, :2].flatten(1))], 1)
        return self.flat(pixels) + self.joined(joined)  # type: ignore[no-any-return]


def test_inputs_that_follow_each_other_go_together_where_one_site_has_all() -> None:
    model, x = Joined(), FLOATS(2, 1, 3, 3)
    structure, reads = Flow(model, channels(model, x)).at(x)
    places = {layer.weight: layer.places for layer in layers_of(structure, reads)}
    assert places == {"conv.weight": 1, "beside.weight": 1, "flat.weight": 4, "joined.weight": 1}


# ---- words ----


def test_the_first_line_of_an_error_is_what_it_says_first() -> None:
    assert first_line(ValueError("\n  one\n two")) == "one"
    assert first_line(ValueError(" ")) == "ValueError"
