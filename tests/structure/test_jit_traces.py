"""A cut graph is traced by `torch.jit.trace` with the sizes of other inputs, and its trace refuses those that it does not take."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import secateur as sc
from secateur.structure.jit_traces import sizes_written

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TRACE: Any = torch.jit.trace


class Sized(nn.Module):
    """What it does between two layers hangs on how long its input is."""

    def __init__(self, between: Callable[[Tensor, int, int], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(8, 16), nn.Linear(16, 5), between

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu().view(-1, 16).view(x.shape[0], x.shape[1], 16)
        return self.last(self.between(h, x.shape[0], x.shape[1]))


BETWEEN: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "nothing": lambda h, b, n: h,
    "arange": lambda h, b, n: h * (torch.arange(n) / n)[None, :, None],
    "linspace": lambda h, b, n: h * torch.linspace(0, 1, n)[None, :, None],
    "full": lambda h, b, n: torch.cat([h, torch.full((b, n, 1), 0.5).expand(b, n, 16) * h], 1),
    "zeros": lambda h, b, n: torch.cat([torch.zeros(b, 1, 16) * h[:, :1], h], 1),
    "new_ones": lambda h, b, n: h + h.new_ones(b, n, 1) * h.mean(1, keepdim=True),
    "half": lambda h, b, n: h[:, : n // 2],
    "narrow": lambda h, b, n: h.narrow(1, n // 2, n - n // 2),
    "roll": lambda h, b, n: torch.roll(h, n // 2, 1),
    "pad": lambda h, b, n: F.pad(h, (0, 0, 0, -n % 4)),
    "repeat": lambda h, b, n: h.mean(1, keepdim=True).repeat(1, n, 1),
    "interpolate": lambda h, b, n: F.interpolate(h.transpose(1, 2), size=2 * n).transpose(1, 2),
    "pool": lambda h, b, n: F.adaptive_avg_pool1d(h.transpose(1, 2), n // 2).transpose(1, 2),
    "split": lambda h, b, n: h.split([1, n - 1], 1)[1],
    "number": lambda h, b, n: h * n,
}


def graph_of(between: Callable[[Tensor, int, int], Tensor], length: int = 6) -> tuple[GraphModule, nn.Module]:
    torch.manual_seed(0)
    model, keep = Sized(between).eval(), {"first": torch.arange(16) % 4 != 1}
    sites = sc.channels(model, torch.randn(2, length, 8))
    small = sc.cut(model, sites, keep, form="graph")
    assert isinstance(small, GraphModule)
    return small, sc.mask(model, sites, keep)


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_a_trace_has_the_sizes_of_its_inputs(between: Callable[[Tensor, int, int], Tensor]) -> None:
    graph, masked = graph_of(between)
    traced = TRACE(graph, (torch.randn(2, 6, 8),))
    answered = 0
    for batch, length in ((2, 6), (5, 6), (3, 8), (1, 10)):
        x = torch.randn(batch, length, 8)
        try:
            expected = graph(x)
        except sc.InputError:
            with pytest.raises(RuntimeError):
                traced(x)
        else:
            torch.testing.assert_close(traced(x), expected)
            torch.testing.assert_close(expected, masked(x))
            answered += 1
    assert answered >= 2


def test_a_frozen_trace_refuses_what_the_graph_does() -> None:
    graph, _ = graph_of(lambda h, b, n: h.flip(1) if n > 7 else h)
    traced = torch.jit.freeze(TRACE(graph, (torch.randn(2, 6, 8),)))
    assert traced(torch.randn(3, 6, 8)).shape == (3, 6, 5)
    with pytest.raises(RuntimeError, match=r"takes .* alone: cut the model again with an example"):
        traced(torch.randn(3, 9, 8))


def test_what_is_exported_for_one_shape_has_its_sizes() -> None:
    graph, _ = graph_of(BETWEEN["arange"])
    with sizes_written():
        traced = TRACE(graph, (torch.randn(2, 6, 8),), check_trace=False)
    assert "aten::size" not in str(traced.inlined_graph)


def test_the_older_exporter_to_onnx_follows_sizes() -> None:
    session_of = pytest.importorskip("onnxruntime").InferenceSession
    pytest.importorskip("onnx")
    graph, _ = graph_of(BETWEEN["half"])
    file, x = io.BytesIO(), torch.randn(3, 8, 8)
    torch.onnx.export(
        graph,
        (torch.randn(2, 6, 8),),
        file,
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "batch", 1: "length"}},
    )
    (answer,) = session_of(file.getvalue(), providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(answer), graph(x).detach())


def test_a_script_is_refused_with_what_to_do() -> None:
    graph, _ = graph_of(BETWEEN["nothing"])
    with pytest.raises(sc.InputError, match=r"use torch\.jit\.trace or torch\.export\.export"):
        torch.jit.script(nn.Sequential(graph))
