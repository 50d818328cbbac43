"""Ops that torch composes of others are written as those where they have no rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
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


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "smooth l1": F.smooth_l1_loss,
    "huber": F.huber_loss,
    "cross entropy": F.binary_cross_entropy,
    "cross entropy of logits": F.binary_cross_entropy_with_logits,
    "weighted": lambda x, t: F.binary_cross_entropy_with_logits(x, t, pos_weight=torch.tensor(3.0), reduction="sum"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_features_in_train_mode_are_sums_of_their_units(loss: str) -> None:
    class Distilled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.teacher, self.out = nn.Linear(4, 10), nn.Linear(4, 10), nn.Linear(10, 2)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            h = self.a(x).relu()
            if not self.training:
                y: Tensor = self.out(h)
                return y
            return self.out(h), LOSSES[loss](h.sigmoid(), self.teacher(x).sigmoid())

    model = Distilled().eval()
    result = sc.prune(model, torch.randn(3, 4), "l2", 0.4, scope="layer", latency=False)
    assert result.model.teacher.weight.shape == (6, 4)
    assert not result.report.warnings
    masked, x = sc.mask(model, result.sites, result.keep), torch.randn(5, 4)
    torch.testing.assert_close(result.model.train()(x), masked.train()(x))
