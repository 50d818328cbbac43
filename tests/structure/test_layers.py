"""Every product with a weight, as a matrix times columns, is what the op computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node

from secateur.structure.flow import Flow
from secateur.structure.infer import bind
from secateur.structure.layers import layers
from secateur.structure.rules import op_name
from secateur.types import Sites
from zoo import ZOO, build

QUICK = ("unet", "grouped_deconv", "one_dimensional", "three_dimensional", "fused_qkv", "depthwise_separable")


def _compare(model: nn.Module, inputs: tuple[Tensor, ...]) -> set[str]:
    flow = Flow(model, Sites({}))
    found = layers(flow.at(inputs)[0])
    values: dict[Node, Any] = {}

    def see(node: Node, made: Any) -> Any:
        values[node] = made.clone() if isinstance(made, Tensor) else made
        return made

    with torch.no_grad():
        flow(inputs, see=see)
        for layer in found:
            weight = model.get_parameter(layer.parameter).flatten()[layer.entries]
            product = torch.cat([weight @ part for part in layer.columns(values[layer.source])], 2).flatten(0, 1)
            given = bind(layer.node, values)
            bias = given.get("self" if op_name(layer.node) == "addmm" else "bias")
            made = values[layer.node]
            channel = made.ndim - 1 if op_name(layer.node) in {"linear", "addmm", "mm", "matmul"} else 1
            wanted = made.movedim(channel, 0).flatten(1)
            wanted = wanted if bias is None else wanted - bias.reshape(-1, 1)
            torch.testing.assert_close(product, wanted, rtol=1e-4, atol=1e-5)
    return {layer.parameter for layer in found}


@pytest.mark.parametrize("name", QUICK)
def test_layers_compute_what_the_model_does(name: str) -> None:
    model, inputs = build(name)
    assert _compare(model, inputs) == {name for name, p in model.named_parameters() if p.ndim > 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ZOO if name not in QUICK])
def test_layers_of_the_whole_zoo(name: str) -> None:
    _compare(*build(name))


def test_convolutions_of_every_setting() -> None:
    for layer, shape in (
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2), (2, 4, 7, 8)),
        (nn.Conv2d(4, 6, 4, padding="same"), (2, 4, 7, 8)),
        (nn.Conv1d(4, 6, 3, padding="valid"), (2, 4, 9)),
        (nn.ConvTranspose2d(4, 6, (3, 2), stride=(2, 3), padding=1, output_padding=(1, 0), groups=2), (2, 4, 5, 6)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2, dilation=2, padding=3), (2, 4, 9)),
        (nn.ConvTranspose3d(2, 3, 2, stride=2), (1, 2, 3, 3, 3)),
    ):
        _compare(nn.Sequential(layer), (torch.randn(shape),))
