"""Files of weights: what does not fit, is of another kind or is damaged is refused, and nothing is rounded in silence."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import Tensor, nn

import secateur as sc
from secateur.saving import load_weights, save_weights
from secateur.search.run import _resume, _seal
from secateur.state_dicts import is_lossless
from secateur.testing.toys import same_state, snapshot
from secateur.types import FileError, InputError

State = dict[str, Tensor]
WRITERS: dict[str, Callable[[State, Path], None]] = {
    ".safetensors": lambda state, path: save_file({n: x.contiguous() for n, x in state.items()}, path),
    ".pt": lambda state, path: torch.save(state, path),
}


class Net(nn.Module):
    """Parameters, an integer buffer, a mask with infinities and tied weights."""

    steps: Tensor
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.b.weight = self.a.weight


def state(model: nn.Module | None = None) -> State:
    return {name: x.detach().clone() for name, x in (model or Net()).state_dict().items()}


def change(name: str, how: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    return lambda before: {n: how(x) if n == name else x for n, x in before.items()}


def put(index: int, value: float) -> Callable[[Tensor], Tensor]:
    def changed(x: Tensor) -> Tensor:
        y = x.clone()
        y.view(-1)[index] = value
        return y

    return changed


BAD: dict[str, tuple[Callable[[State], State], str]] = {
    "bool": (change("a.bias", lambda x: x > 0), r"'a.bias' is of type bool and the model's is float32: another kind"),
    "bytes": (change("a.bias", lambda x: x.to(torch.uint8)), "'a.bias' is of type uint8"),
    "whole numbers": (change("norm.weight", Tensor.long), "'norm.weight' is of type int64"),
    "complex": (change("a.bias", lambda x: x.to(torch.complex64)), "'a.bias' is of type complex64"),
    "wider": (change("a.bias", Tensor.double), r"float64 and the model's is float32, which would round.*model\.to\("),
    "a count as a float": (
        change("norm.num_batches_tracked", Tensor.float),
        "is of type float32 and the model's is int64",
    ),
    "a count as a bool": (change("norm.num_batches_tracked", Tensor.bool), "is of type bool"),
    "nan": (change("a.bias", put(2, float("nan"))), "'a.bias' holds 1 NaN or infinite values"),
    "infinite": (change("a.bias", put(0, float("inf"))), "'a.bias' holds 1 NaN or infinite"),
    "nan in half precision": (change("a.bias", lambda x: put(1, float("nan"))(x.half())), "NaN or infinite"),
    "nan in a buffer": (change("norm.running_var", put(1, float("nan"))), "'norm.running_var' holds 1 NaN"),
    "missing": (
        lambda s: {n: x for n, x in s.items() if n != "b.bias"},
        r"1 of the model's 10 tensors are missing.*b\.bias",
    ),
    "spare": (lambda s: {**s, "head.weight": torch.ones(1)}, r"1 tensors are not the model's, the first 'head.weight'"),
    "shape": (change("a.bias", lambda x: x[:2]), r"'a.bias': \(2,\), the model's is \(4,\)"),
    "a name and a shape": (lambda s: {"A" + n: x for n, x in s.items()}, "10 tensors are missing.*10 tensors are not"),
    "tied weights that differ": (change("b.weight", lambda x: x + 1), "'a.weight' and 'b.weight' are one tensor"),
}


@pytest.mark.parametrize("suffix", list(WRITERS))
@pytest.mark.parametrize("kind", list(BAD))
def test_what_is_not_the_models_is_refused_and_the_model_stays(kind: str, suffix: str, tmp_path: Path) -> None:
    damage, message = BAD[kind]
    path, model = tmp_path / f"weights{suffix}", Net()
    WRITERS[suffix](damage(state()), path)
    before = snapshot(model)
    with pytest.raises(FileError, match=message):
        load_weights(path, model)
    assert same_state(before, snapshot(model))


@pytest.mark.parametrize("suffix", list(WRITERS))
@pytest.mark.parametrize("old", [torch.float16, torch.bfloat16, torch.float32])
def test_a_wider_model_takes_the_numbers_exactly(old: torch.dtype, suffix: str, tmp_path: Path) -> None:
    written = {n: x.to(old) if x.is_floating_point() else x for n, x in state().items()}
    WRITERS[suffix](written, tmp_path / f"w{suffix}")
    for new in (torch.float32, torch.float64):
        model = Net().to(new)
        load_weights(tmp_path / f"w{suffix}", model)
        assert all(torch.equal(x.double(), written[n].double()) for n, x in model.state_dict().items())
        assert model.a.weight.dtype == new


def test_which_types_hold_which() -> None:
    """Against trying: every value of a small type, or a draw of them, survives the way there and back."""
    types = [
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.int8,
        torch.uint8,
        torch.int16,
        torch.int32,
    ]
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    noise = torch.randint(-(2**31), 2**31 - 1, (20000,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    values = {t: bits.view(t) for t in (torch.float16, torch.bfloat16, torch.int16)}
    values |= {t: bits.view(torch.int8).view(t) for t in (torch.int8, torch.uint8)}
    values |= {t: noise.view(t) for t in (torch.float32, torch.float64, torch.int32)}
    for old in types:
        finite = values[old][torch.isfinite(values[old])]
        for new in types:
            same_kind = old.is_floating_point == new.is_floating_point
            survives = (
                same_kind
                and torch.equal(finite.to(new).to(old), finite)
                and (torch.equal(finite.to(new).double(), finite.double()))
            )
            assert is_lossless(old, new) == survives, (old, new)


def test_our_own_files_with_any_byte_changed_are_refused_or_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net()
    save_weights(tmp_path / "w.safetensors", model)
    data, wanted, refused = (tmp_path / "w.safetensors").read_bytes(), state(model), 0
    other = Net()
    for place in range(0, len(data), 3):
        (tmp_path / "bad.safetensors").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            load_weights(tmp_path / "bad.safetensors", other)
        except FileError:
            refused += 1
            continue
        assert same_state(wanted, state(other)), place
    assert refused > 0.9 * len(range(0, len(data), 3))
    for length in range(0, len(data), 97):
        (tmp_path / "bad.safetensors").write_bytes(data[:length])
        with pytest.raises(FileError):
            load_weights(tmp_path / "bad.safetensors", other)


def test_swapped_tensors_and_a_lost_seal_are_seen(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    path = tmp_path / "w.safetensors"
    save_weights(path, model)
    with safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    swapped = {"0.weight": tensors["1.weight"], "1.weight": tensors["0.weight"]}
    ((key, entry),) = header.items()
    without = {key: json.dumps({"shared": json.loads(entry)["shared"]})}
    for held, beside in ((swapped, header), (tensors, without)):
        save_file(held, path, beside)
        with pytest.raises(FileError, match="its checksum differs"):
            load_weights(path, model)
    save_file(tensors, path)  # from elsewhere: no checksum at all
    load_weights(path, copy.deepcopy(model))


def test_the_same_weights_make_the_same_file(tmp_path: Path) -> None:
    model = Net()
    for name in "ab":
        save_weights(tmp_path / name, model)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_files_of_the_version_before_still_load(tmp_path: Path) -> None:
    """They had the shared names in the header, and no checksum."""
    model, held = Net(), state()
    shared = held.pop("b.weight")
    save_file(held, tmp_path / "old.safetensors", {"b.weight": "a.weight"})
    load_weights(tmp_path / "old.safetensors", model)
    assert torch.equal(model.b.weight, shared)
    odd = {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}
    save_file(
        odd, tmp_path / "odd.safetensors", {"bias": "weight", "format": "pt"}
    )  # a header that means something else
    linear = nn.Linear(2, 2)
    load_weights(tmp_path / "odd.safetensors", linear)
    assert torch.equal(linear.bias, torch.zeros(2))


class Custom:
    """What no file of weights should hold."""


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda: nn.Linear(2, 2), "holds more than tensors"),
        (lambda: {"model": nn.Linear(2, 2).state_dict(), "args": Custom()}, "holds more than tensors"),
        (lambda: {"state_dict": nn.Linear(2, 2).state_dict()}, r"holds no state dict.*save model\.state_dict"),
        (lambda: [torch.ones(1)], "holds no state dict"),
        (lambda: {"weight": torch.eye(2).to_sparse(), "bias": torch.ones(2)}, "'weight' is a sparse"),
    ],
    ids=["module", "object", "nested", "list", "sparse"],
)
def test_pickles_are_refused_in_our_own_words(what: Callable[[], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(what(), path)
    with pytest.raises(FileError, match=message) as caught:
        load_weights(path, nn.Linear(2, 2))
    assert "weights_only" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_scripts_and_garbage_are_refused_in_our_own_words(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "script.pt"))
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("hello " * 99)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "whole.pt")
    data = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    for name in ("script.pt", "empty.pt", "text.pt", "cut.pt"):
        with pytest.raises(FileError, match=r"cannot be read as weights.*torch\.save\(model\.state_dict\(\)") as caught:
            load_weights(tmp_path / name, nn.Linear(2, 2))
        assert "weights_only" not in str(caught.value), name


def test_a_safetensors_file_by_another_name_is_known_by_its_content(tmp_path: Path) -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    save_weights(tmp_path / "weights.bin", model)
    load_weights(tmp_path / "weights.bin", other)
    assert torch.equal(model.weight, other.weight)


def test_extra_state_that_is_no_tensor_is_named(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

    with pytest.raises(InputError, match="'_extra_state' in the state dict is a dict"):
        save_weights(tmp_path / "w.safetensors", Extra(2, 2))


def test_a_pruned_model_is_not_rounded_when_it_is_loaded(tmp_path: Path) -> None:
    build = lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))  # noqa: E731
    wide = build().double()
    sc.prune(wide, torch.zeros(1, 8).double(), latency=False).save(tmp_path / "wide")
    with pytest.raises(
        FileError, match=r"float64 and the model's is float32, which would round.*model\.to\(torch.float64"
    ):
        sc.load(tmp_path / "wide", build())
    assert sc.load(tmp_path / "wide", build().double())[0].weight.dtype == torch.float64


def test_a_search_state_with_a_changed_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    arrays = {"best.genes": np.ones(3, dtype=bool)}
    record = json.dumps({"identity": "x"})
    save_arrays(
        {"best.genes": np.zeros(3, dtype=bool)}, path, {"secateur-search": record, "seal": _seal(arrays, record)}
    )
    with pytest.raises(FileError, match="do not match its checksum"):
        _resume(path, None, "x")  # type: ignore[arg-type]
