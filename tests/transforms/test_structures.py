"""Structures in the place of convolutions: nearest to their weights, and trained on what they read and made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.edits import from_dict
from secateur.pruning import prune
from secateur.saving import load
from secateur.testing.toys import same_state, snapshot
from secateur.train import TrainOptions
from secateur.transforms import STRUCTURES, LowRank, Replace
from secateur.types import FileError, InputError, UnknownNameError

X = torch.randn(60, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, (3, 5), stride=2, padding=(1, 2), bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 5),
    ).eval()


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("options", [{}, {"data": X}, {"data": (X, torch.zeros(60)), "norms": True}])
def test_every_structure_is_cheaper_and_saved(structure: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = network()
    before = snapshot(model)
    result = Replace(structure, **options)(model, X[:2])
    assert same_state(before, snapshot(model))
    # 3 · 16 · (4 + 16) is more than 9 · 4 · 16.
    assert [layer.name for layer in result.layers] == (["3"] if structure == "one-dimensional" else ["0", "3"])
    for layer in result.layers:
        row = result.model.get_submodule(layer.name)
        assert type(row) is nn.Sequential
        assert layer.parameters[1] == sum(p.numel() for p in row.parameters())
        assert any(isinstance(part, nn.BatchNorm2d) for part in row) == bool(options.get("norms"))
    assert result.report.macs is not None
    assert result.report.macs[1] < result.report.macs[0]
    loaded = load(result.save(tmp_path / "small"), network())
    assert torch.equal(loaded.eval()(X), result.model(X))
    assert f"{result.layers[-1].name}: {structure}, " in str(result.report)


def test_a_separable_convolution_is_found_again() -> None:
    """What is separable is met exactly, by weights alone: two filters for each channel."""
    depthwise, pointwise = nn.Conv2d(3, 6, 3, groups=3, padding=1, bias=False), nn.Conv2d(6, 8, 1)
    layer = nn.Conv2d(3, 8, 3, padding=1)
    kernels = torch.einsum("oif,ifhw->oihw", pointwise.weight.view(8, 3, 2), depthwise.weight.view(3, 2, 3, 3))
    layer.weight.data, layer.bias.data = kernels.detach(), pointwise.bias.detach()  # type: ignore[union-attr]
    x = X[:5, :3]
    exact, less = (Replace("separable", filters=filters)(nn.Sequential(layer), x) for filters in (2, 1))
    torch.testing.assert_close(exact.model(x), layer(x))
    assert exact.change is not None
    assert less.change is not None
    assert exact.change.relative < 1e-6 < less.change.relative


def test_a_column_and_a_row_are_found_again() -> None:
    column = nn.Conv2d(4, 3, (3, 1), stride=(2, 1), padding=(1, 0), bias=False)
    row = nn.Conv2d(3, 6, (1, 3), stride=(1, 2), padding=(0, 1))
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    layer.weight.data = torch.einsum("nih,onw->oihw", column.weight[..., 0], row.weight[:, :, 0]).detach()
    layer.bias.data = row.bias.detach()  # type: ignore[union-attr]
    exact, less = (Replace("one-dimensional", middle=n)(nn.Sequential(layer), X[:3]) for n in (3, 2))
    torch.testing.assert_close(exact.model(X), row(column(X)))
    assert exact.model[0][0].kernel_size == (3, 1)
    assert exact.change is not None
    assert less.change is not None
    assert exact.change.relative < 1e-6 < less.change.relative


def test_training_brings_it_nearer_than_least_squares_alone() -> None:
    for structure in ("composed", "bottleneck"):
        fitted, trained = (
            Replace(structure, data=X, train=train, ignore=["3"])(network(), X[:1]).layers[0].error
            for train in (None, TrainOptions(epochs=8, lr=5e-3, optimizer="adam", batch_size=16))
        )
        assert fitted is not None
        assert trained is not None
        assert trained < fitted < 1


def test_training_that_makes_it_worse_is_undone() -> None:
    """A learning rate at which nothing is learnt leaves the fit as it was."""
    wild = TrainOptions(epochs=1, lr=50.0, optimizer="adam", batch_size=16)
    fitted, trained = (
        Replace("bottleneck", data=X, train=train, ignore=["3"])(network(), X[:1]).layers[0].error
        for train in (None, wild)
    )
    assert trained == pytest.approx(fitted)


def test_later_layers_make_up_for_earlier_ones() -> None:
    """The second is fitted on what the first makes, and so nearer than where it was fitted on the unchanged inputs."""
    both = Replace("separable", data=X, train=None)(network(), X[:1])
    second = Replace("separable", data=X, train=None, ignore=["0"])(network(), X[:1])
    mixed = both.apply(network())
    mixed[3] = second.model[3]
    torch_model = network()

    def error(small: nn.Module) -> float:
        with torch.no_grad():
            return float((small[:4](X) - torch_model[:4](X)).square().sum())  # type: ignore[index, operator]

    assert error(both.model) < error(mixed)


def test_the_middle() -> None:
    def widths(**options: Any) -> list[int]:
        return [
            row[0].out_channels for row in Replace(**options)(network(), X[:1]).model if isinstance(row, nn.Sequential)
        ]

    assert widths(structure="bottleneck") == [2, 8]  # half of the inputs
    assert widths(structure="one-dimensional") == [16]  # as many as outputs
    # n = K₁ K₂ m₁ m₂ / 2 (K₂ m₁ + K₁ m₂): 9 · 64 / (2 · 3 · 20) = 4.8 and 15 · 256 / (2 · (5 + 3) · 16) = 15
    assert widths(structure="composed") == [4, 15]
    assert widths(structure="composed", middle=3) == [3, 3]
    assert widths(structure="bottleneck", middle=0.25) == [1, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": 0}, "filters=0 must be"),
        ({"middle": 0}, "middle=0 must be a whole number, 1 or more, or a share"),
        ({"middle": -0.5}, "middle=-0.5 must be"),
        ({"middle": True}, "middle=True must be"),
        ({"norms": 1}, "norms=1 must be True or False"),
        ({"train": {"epochs": 1}}, r"train=.* must be made by TrainOptions"),
        ({"data": []}, "there are no batches"),
        ({"batch_size": 0}, "batch_size=0 must be"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Replace("separable", **options)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="structure 'seperable'"):
        Replace("seperable")
    with pytest.raises(UnknownNameError, match="layer to ignore"):
        Replace("separable", ignore=["conv9"])(network(), X[:1])


class Mixed(nn.Module):
    """Convolutions that no structure replaces, and one that is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, groups=2)
        self.point = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.conv = nn.Conv2d(8, 12, 3)
        self.tiny = nn.Conv2d(12, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.tiny(torch.relu(self.conv(self.up(self.point(self.grouped(x))))))  # type: ignore[no-any-return]


def test_what_stays_whole_says_why() -> None:
    report = Replace("separable")(Mixed(), X[:1]).report
    assert [layer.name for layer in report.layers] == ["conv"]
    assert report.frozen == {
        "grouped": "a grouped or transposed convolution is replaced by none of the structures",
        "point": "a 1×1 convolution has no kernel to take apart",
        "up": "a grouped or transposed convolution is replaced by none of the structures",
        "tiny": "separable, it would take no fewer multiply-accumulates",
    }
    with pytest.raises(InputError, match="taking a kernel apart takes two dimensions"):
        Replace("composed")(nn.Sequential(nn.Conv1d(4, 8, 3)), torch.zeros(1, 4, 9))


def test_the_same_again_and_the_random_numbers_left_alone() -> None:
    model = network()
    before = torch.get_rng_state()
    first, second, other = (Replace("bottleneck", data=X, seed=seed)(model, X[:1]).model for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first(X), second(X))
    assert not torch.equal(first(X), other(X))


def test_it_goes_with_cuts_and_low_rank(tmp_path: Path) -> None:
    replaced = Replace("separable", data=X)(network(), X[:1])
    cut = prune(replaced.model, X[:1], "l2", 0.25, latency=False).after(replaced)
    both = LowRank(rank={"6": 2})(cut.model, X[:1]).after(cut)
    assert [edit.kind for edit in both.edits] == ["structure", "cut", "low-rank"]
    assert torch.equal(load(both.save(tmp_path / "small"), network()).eval()(X), both.model(X))
    assert both.report.macs[1] < cut.report.macs[1] < replaced.report.macs[1]  # type: ignore[index]


def test_in_onnx_runtime_it_answers_alike() -> None:
    pytest.importorskip("onnxruntime")
    import secateur as sc

    for structure in STRUCTURES:
        sc.export(Replace(structure, norms=True, data=X, train=None)(network(), X[:1]).model, X[:1], "onnxruntime")


def test_forged_edits_are_refused() -> None:
    for layers in (
        {"0": [{"kind": "Dropout", "options": {}}]},
        {"6": [{"kind": "Linear", "options": {"in_features": 1}}]},
    ):
        with pytest.raises(FileError, match="none of"):
            from_dict({"kind": "structure", "layers": layers}).apply(network())
