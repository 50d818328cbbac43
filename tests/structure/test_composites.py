"""Ops that torch composes of others are written as those where they have no rule."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.structure.composites import take_apart
from secateur.structure.nodes import module_paths
from secateur.structure.rules import RULES, op_name


class Composed(nn.Module):
    """Ops with and without rules, one of which is returned as it is, and one of which gives several tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.layer(x)
        first, second = h.hsplit(2)
        places = torch.multiply(torch.arange(6), 2)
        return {"cosine": F.cosine_similarity(h, x), "sum": torch.outer(first[0], second[0]).sum() + places.sum()}


def test_parts_compute_the_same_and_stand_where_the_op_stood() -> None:
    model, x = Composed(), torch.randn(2, 6)
    program = torch.export.export(model, (x,), strict=False)
    names = [spec.arg.name for spec in program.graph_signature.output_specs]
    take_apart(program, RULES)
    program.graph.lint()
    ops = [op_name(node) for node in program.graph.nodes if node.op == "call_function"]
    assert not {"cosine_similarity", "outer", "hsplit"}.intersection(ops)
    assert {"linear", "multiply"} <= set(ops)  # one has a rule, and one has no units
    assert [node.name for node in program.graph.output_node().all_input_nodes] == names
    assert all("stack_trace" in node.meta for node in program.graph.nodes if node.op == "call_function")
    assert [module_paths(node)[-1] for node in program.graph.nodes if op_name(node) == "linear"] == ["layer"]
    for name, answer in program.module()(x).items():
        torch.testing.assert_close(answer, model(x)[name], rtol=0, atol=0)
