"""What reads the units of a small model: the layers that can be fitted anew, other uses of weights, units within units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional as F

from secateur.structure import channels, mask
from secateur.structure.axes import Atom, Axis, fixed, product, total
from secateur.structure.consumers import Consumer, consumers_of, layers_of
from secateur.structure.flow import Flow
from secateur.structure.layers import other_uses
from secateur.structure.nesting import _terms


class Computes(nn.Module):
    """A layer of five units between inputs and a function of the model's own tensors."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.function = nn.Linear(4, 5), function
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.first(x).tanh())


def layers_and_values(model: nn.Module, x: Tensor) -> tuple[dict[str, Consumer], dict[Node, Tensor]]:
    flow = Flow(model, channels(model, x))
    values: dict[Node, Tensor] = {}

    def see(node: Node, output: Any) -> Any:
        values[node] = output
        return output

    flow(x, see=see)
    structure, reads = flow.at(x)
    return {layer.weight: layer for layer in layers_of(structure, reads)}, values


IMAGE, ROWS = torch.randn(2, 3, 7, 5), torch.randn(2, 4)
READERS: dict[str, tuple[nn.Module, Tensor, str]] = {
    "linear": (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), ROWS, "2.weight"),
    "linear on rows of rows": (nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), torch.randn(2, 7, 4), "1.weight"),
    "without a bias": (nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3, bias=False)), ROWS, "1.weight"),
    "inputs first": (Computes(lambda m, h: torch.addmm(m.b, h, m.w), w=(5, 3), b=(3,)), ROWS, "w"),
    "turned": (Computes(lambda m, h: torch.addmm(m.b, h, m.w.t()), w=(3, 5), b=(3,)), ROWS, "w"),
    "a product alone": (Computes(lambda m, h: torch.mm(h, m.w), w=(5, 3)), ROWS, "w"),
    "convolution": (nn.Sequential(nn.Conv2d(3, 6, 2), nn.Tanh(), nn.Conv2d(6, 4, 2, stride=2)), IMAGE, "2.weight"),
    "pixels": (nn.Sequential(nn.Conv2d(3, 6, 4), nn.Flatten(), nn.Linear(6 * 8, 4)), IMAGE, "2.weight"),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_reader_gives_what_its_op_does_and_what_stays_of_it_what_the_masked_model_does(kind: str) -> None:
    model, x, weight = READERS[kind]
    layers, values = layers_and_values(model, x)
    layer = layers[weight]
    source, output = values[layer.product.source], values[layer.node]
    torch.testing.assert_close(layer.run(source, model), output)

    sites = channels(model, x)
    (name,) = (read.site for read in layer.reads)
    keep = {name: torch.arange(sites[name].size) % 3 != 1}
    kept, dim = layer.kept(keep), 1 if layer.product.convolution else -1
    matrix = layer.matrix(model)
    assert matrix.data_ptr() == model.get_parameter(weight).data_ptr()
    assert (layer.inputs, kept.numel()) == (source.shape[dim], matrix.shape[1])
    units = layer.units(name)
    assert units is not None
    assert units[keep[name]].flatten().tolist() == kept.nonzero().flatten().tolist()
    # The masked model has the columns of what went at zero.
    masked = dict(mask(model, sites, keep).named_parameters())[weight].detach()
    expected = torch.where(kept.view(-1, *[1] * (matrix.ndim - 2)), matrix, 0)
    torch.testing.assert_close(masked.mT if layer.inputs_first else masked, expected)

    assert layer.units("another") is None
    assert bool(layer.kept({"another": torch.zeros(2, dtype=torch.bool)}).all())
    assert (layer.places == 1) == (kind != "pixels")


UNFIT: dict[str, tuple[nn.Module, Tensor]] = {
    "transposed": (nn.Sequential(nn.Conv2d(3, 6, 2), nn.ConvTranspose2d(6, 4, 2)), IMAGE),
    "two activations": (Computes(lambda m, h: h @ h.mT), ROWS),
    "scaled": (Computes(lambda m, h: torch.addmm(m.b, h, m.w, alpha=2), w=(5, 3), b=(3,)), ROWS),
    "bias scaled": (Computes(lambda m, h: torch.addmm(m.b, h, m.w, beta=2), w=(5, 3), b=(3,)), ROWS),
    "a vector": (Computes(lambda m, h: F.linear(h, m.w), w=(5,)), ROWS),
    "a table as bias": (Computes(lambda m, h: torch.addmm(m.b, h, m.w), w=(5, 3), b=(2, 3)), ROWS),
    "twice": (Computes(lambda m, h: F.linear(h, m.w) + F.linear(h.cos(), m.w), w=(3, 5)), ROWS),
    "bias twice": (Computes(lambda m, h: F.linear(h, m.w, m.b) + m.b, w=(3, 5), b=(3,)), ROWS),
    "made of another": (Computes(lambda m, h: F.linear(h, m.w.exp()), w=(3, 5)), ROWS),
    "bias made of another": (Computes(lambda m, h: F.linear(h, m.w, m.b.exp()), w=(3, 5), b=(3,)), ROWS),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_is_scaled_shared_or_computed_cannot_be_fitted_anew(kind: str) -> None:
    model, x = UNFIT[kind]
    layers, _ = layers_and_values(model, x)
    assert list(layers) == [name for name in ("first.weight", "0.weight") if name in dict(model.named_parameters())]


def test_consumers_are_the_layers_that_read_units_in_their_order() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    structure, reads = Flow(model, channels(model, ROWS)).at(ROWS)
    assert [layer.weight for layer in layers_of(structure, reads)] == ["0.weight", "2.weight", "4.weight"]
    consumers = consumers_of(structure, reads)
    assert [(layer.weight, [read.site for read in layer.reads]) for layer in consumers] == [
        ("2.weight", ["0"]),
        ("4.weight", ["2"]),
    ]


@pytest.mark.parametrize(
    ("function", "shapes", "uses"),
    [
        (lambda m, h: F.linear(h, m.w), {"w": (3, 5)}, {}),
        (lambda m, h: F.linear(h, m.w.t().t()), {"w": (3, 5)}, {}),
        (lambda m, h: F.linear(h, m.w) * m.w.sum(), {"w": (3, 5)}, {"w": "sum"}),
        (lambda m, h: F.linear(h * m.w[0], m.w), {"w": (3, 5)}, {"w": "mul"}),
        (lambda m, h: F.linear(h, m.w) * m.s, {"w": (3, 5), "s": (3,)}, {"s": "mul"}),
        # the first of several, and a weight that is multiplied by another
        (lambda m, h: F.linear(h, m.w) + m.w.cos().sum() + m.w.sin().sum(), {"w": (3, 5)}, {"w": "cos"}),
        (lambda m, h: F.linear(h, m.v @ m.w), {"v": (3, 2), "w": (2, 5)}, {"v": "matmul", "w": "matmul"}),
    ],
)
def test_weights_have_other_uses_where_another_op_reads_them(
    function: Callable[[Any, Tensor], Tensor], shapes: dict[str, tuple[int, ...]], uses: dict[str, str]
) -> None:
    model = Computes(function, **shapes)
    others = other_uses(channels(model, ROWS).structure)
    named = {name: str(node.target).split(".")[1] for name, node in others.items() if name in shapes}
    assert named.keys() == uses.keys()
    assert all(named[name] in (word, "mm") for name, word in uses.items())


def test_an_axis_is_a_sum_of_products_of_sites() -> None:
    a, b, other = Atom(2), Atom(3), Atom(5)
    names = {a: "a", b: "b"}
    cases: list[tuple[Axis, set[tuple[str, ...]]]] = [
        (a, {("a",)}),
        (other, {()}),
        (fixed(7), {()}),
        (product(b, a), {("a", "b")}),
        (product(a, fixed(7)), {("a",)}),
        (product(a, a), {("a", "a")}),
        (total(a, b), {("a",), ("b",)}),
        (total(product(a, b), a, fixed(7)), {("a", "b"), ("a",), ()}),
        (product(total(a, b), b), {("a", "b"), ("b", "b")}),
    ]
    for axis, terms in cases:
        assert _terms(axis, names) == terms
