"""How large a model is: every number by hand."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.measure import ParameterCount, file_bytes, macs, parameters, peak_memory
from secateur.measure.size import CODE_BY_DTYPE
from secateur.types import InputError


class Tied(nn.Module):
    """An embedding and an output layer that are one matrix of 5 × 4."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.output = nn.Linear(4, 5, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(self.embedding(x))
        return out


def test_parameters_by_hand() -> None:
    # 1·8·9 + 8, 8 + 8, 8·10 + 10; the running means are buffers
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
        model[0].weight[:2] = 0
    count = parameters(model)
    assert count == ParameterCount(total=186, nonzero=168)
    assert count.sparsity == pytest.approx(18 / 186)


def test_shared_parameters_count_once_and_none_is_zero() -> None:
    assert parameters(Tied()).total == 20
    assert parameters(nn.ReLU()) == ParameterCount(0, 0)
    assert parameters(nn.ReLU()).sparsity == 0.0


def test_file_bytes_are_those_of_a_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8))
    save_file(model.state_dict(), tmp_path / "model")
    assert file_bytes(model) == (tmp_path / "model").stat().st_size
    half = nn.Linear(100, 100, bias=False).half()
    assert file_bytes(nn.Linear(100, 100, bias=False)) - file_bytes(half) == 20_000


def test_file_bytes_are_those_of_a_file_of_every_type_and_name(tmp_path: Path) -> None:
    """Which type stands first decides how many digits the places have."""
    model = nn.Module()
    for place, dtype in enumerate(CODE_BY_DTYPE):
        model.register_buffer(f"of {dtype}".replace(".", "\t"), torch.zeros(7 + 100 * place, 3).to(dtype))
    model.register_buffer('naïve "name" \u2028', torch.zeros(()))
    model.register_buffer("empty", torch.zeros(0, 4))
    save_file(model.state_dict(), tmp_path / "model")
    assert file_bytes(model) == (tmp_path / "model").stat().st_size


def test_tensors_that_no_file_holds_are_refused() -> None:
    for tensor in (torch.zeros(2, dtype=torch.complex128), torch.eye(2).to_sparse()):
        model = nn.Module()
        model.register_buffer("odd", tensor)
        with pytest.raises(InputError, match=r"odd of the model's state is .* cannot hold; make it dense"):
            file_bytes(model)


def test_file_bytes_of_a_model_without_memory() -> None:
    with torch.device("meta"):
        model = Tied()
    assert file_bytes(model) == file_bytes(Tied())


def test_shared_tensors_are_in_the_file_once() -> None:
    # 80 bytes of data; twice would be 160
    header = file_bytes(nn.Linear(4, 5, bias=False)) - 80
    assert 80 <= file_bytes(Tied()) < 160 + header
    assert file_bytes(nn.ReLU()) < 64


def test_entries_that_share_a_part_of_their_memory_are_written_whole() -> None:
    whole, model = torch.arange(6.0), nn.Module()
    model.register_buffer("a", whole[:4])
    model.register_buffer("b", whole[2:])
    assert file_bytes(model) > 32


def test_a_state_that_is_not_tensors() -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"version": 1}

    with pytest.raises(InputError, match="_extra_state of the model's state is a dict"):
        file_bytes(Odd(1, 1))


def test_a_model_that_has_no_shape_yet() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says, once, that lazy modules are new
        model = nn.LazyLinear(2)
    for measure in (parameters, file_bytes):
        with pytest.raises(InputError, match="parameter weight has no shape yet"):
            measure(model)


class Attention(nn.Module):
    """Self-attention, with or without torch's fused kernel."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            return F.scaled_dot_product_attention(x, x, x)
        return torch.softmax(x @ x.transpose(-1, -2), -1) @ x


class SelfAttention(nn.MultiheadAttention):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
        (nn.Linear(7, 5, bias=False), (7,), 7 * 5),
        (nn.Linear(7, 5), (7,), 7 * 5),
        (nn.Conv2d(4, 8, 3, stride=2), (2, 4, 7, 7), 2 * 3 * 3 * 8 * 4 * 9),
        (nn.Conv2d(4, 8, 3, padding=1, groups=2), (1, 4, 6, 6), 36 * 8 * 2 * 9),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), (1, 4, 6, 6), 36 * 4 * 9),
        (nn.ConvTranspose2d(4, 8, 2, stride=2), (1, 4, 6, 6), 36 * 4 * 8 * 4),
        (nn.Conv1d(3, 2, 5), (1, 3, 9), 5 * 2 * 3 * 5),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (1, 3, 4, 4), 0),
        (nn.LSTM(8, 6, batch_first=True), (2, 5, 8), 2 * 5 * 4 * 6 * (8 + 6)),
        (nn.GRU(8, 6, batch_first=True), (2, 5, 8), 2 * 5 * 3 * 6 * (8 + 6)),
        (Attention(fused=True), (2, 5, 8), 2 * 2 * 5 * 5 * 8),
        (Attention(fused=False), (2, 5, 8), 2 * 2 * 5 * 5 * 8),
        # queries, keys and values; products with keys and values; output
        (SelfAttention(8, 2, batch_first=True), (2, 5, 8), 2 * (5 * 8 * 24 + 2 * 5 * 5 * 8 + 5 * 8 * 8)),
        # the same and two layers of 8 × 16
        (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            (2, 5, 8),
            2 * (5 * 8 * 24 + 2 * 5 * 5 * 8 + 5 * 8 * 8 + 2 * 5 * 8 * 16),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_macs_by_hand(model: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    model.train()
    assert macs(model, torch.ones(shape)) == expected
    assert all(module.training for module in model.modules())


def test_macs_count_zeros_and_leave_torch_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    nn.init.zeros_(model[0].weight)
    before = (
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.backends.cuda.flash_sdp_enabled(),
        torch.is_grad_enabled(),
    )
    assert macs(model, torch.ones(1, 4)) == 16
    with pytest.raises(InputError, match="failed on the example inputs"):
        macs(model, torch.ones(1, 5))
    after = (
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.backends.cuda.flash_sdp_enabled(),
        torch.is_grad_enabled(),
    )
    assert after == before


def test_inputs_of_every_kind() -> None:
    class Both(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return left @ right

    left, right = torch.ones(2, 3), torch.ones(3, 4)
    for inputs in ((left, right), {"right": right, "left": left}):
        assert macs(Both(), inputs) == 24
        assert peak_memory(Both(), inputs) == 4 * 2 * 4
    with pytest.raises(InputError, match="example_inputs is a list; give a tensor"):
        macs(Both(), [left, right])  # type: ignore[arg-type]


def test_peak_memory_by_hand() -> None:
    x = torch.ones(10, 4)
    assert peak_memory(nn.Identity(), x) == 0
    assert peak_memory(nn.Flatten(0), x) == 0  # a view
    assert peak_memory(nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True)), x) == 10 * 6 * 4
    # 40·6 → 40·9 → 40·2: the widest pair of neighbours
    assert peak_memory(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 9), nn.Linear(9, 2)), x) == 40 * (6 + 9)


def test_peak_memory_sees_what_is_kept_alive() -> None:
    class Skip(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            kept = x + 1
            y = kept * 2
            y = y * 2  # kept, the old y and the new
            return y + kept

    class KeptByAView(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows = (x + 1)[:1]  # the view keeps all of its base
            return rows.sum() + (x * 2).sum()

    x = torch.ones(25)
    assert peak_memory(Skip(), x) == 3 * 100
    # base and one sum of 4 bytes, then the product beside them and its sum
    assert peak_memory(KeptByAView(), x) == 100 + 4 + 100 + 4


def test_peak_memory_is_the_same_every_time_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout())
    x = torch.ones(2, 1, 8, 8)
    first = peak_memory(model, x)
    assert [peak_memory(model, x) for _ in range(3)] == [first] * 3
    assert first >= 2 * 2 * 4 * 36 * 4
    assert model.training
    assert model[1].num_batches_tracked == 0
