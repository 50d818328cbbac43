"""A layer of which the model's own code reads something stays whole: what takes its place does not have it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.transforms import LowRank
from secateur.transforms.layers import layers_of, read_elsewhere


class AsksForItsType(nn.Module):
    """Casts to the type of a layer's weight, as language models in parts of other precision do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu().to(self.second.weight.dtype))
        return y


class Encoder(nn.Module):
    """torch's own encoder, whose layers hand weights to a fused kernel where nobody wants gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.stem, self.encoder = nn.Linear(32, 32), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.encoder(self.stem(x))
        return y


@pytest.mark.parametrize(
    ("model", "x", "split"),
    [(AsksForItsType(), torch.randn(4, 32), "first"), (Encoder(), torch.randn(2, 5, 32), "stem")],
)
def test_it_stays_whole_and_the_report_says_why(model: nn.Module, x: Tensor, split: str) -> None:
    model.eval()
    result = LowRank(rank=2)(model, x)
    assert [layer.name for layer in result.report.layers if layer.form.startswith("rank")] == [split]
    others = {name: why for name, why in result.report.frozen.items() if name != split}
    assert others
    assert all("other code reads its weight" in why for why in others.values())
    with torch.no_grad():
        assert result.model(x).shape == model(x).shape  # in eager mode, without gradients: the fused kernel's road
    assert sc.measure.macs(result.model, x) < sc.measure.macs(model, x)


def test_the_model_is_as_it_was_after_it_was_watched() -> None:
    model = AsksForItsType().train()
    before = dict(model.named_modules())
    assert read_elsewhere(model, layers_of(model, (nn.Linear,)), torch.randn(4, 32)) == {"second"}
    assert dict(model.named_modules()) == before
    assert model.training
