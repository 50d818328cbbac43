"""Saving and loading: to the bit in another process, and nothing that was tampered with gets in."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

from saved_folders import reseal
from secateur.pruning import prune
from secateur.result import Result
from secateur.saving import load
from secateur.saving.records import joined, parted
from secateur.testing.toys import TOYS, Residual, same_state, snapshot
from secateur.types import FileError

MODEL, EDITS, MANIFEST = "model.safetensors", "edits.safetensors", "secateur.json"


def pruned(name: str = "cnn", **options: Any) -> tuple[Result, nn.Module]:
    toy = TOYS[name]
    model = toy.build()
    return prune(model, toy.inputs(), "l2", 0.5, latency=False, **options), model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return pruned()[0].save(tmp_path / "small")


def forge(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the one edit of a folder, tensors and all, as one would who knows how it is written."""
    tensors = parse_tensors((folder / EDITS).read_bytes())
    edit = joined(json.loads((folder / MANIFEST).read_text())["edits"][0], tensors)
    answers = joined(json.loads((folder / MANIFEST).read_text())["answers"], tensors)
    change(edit)
    numbered: dict[str, Tensor] = {}
    plain, told = parted(edit, numbered), parted(answers, numbered)
    (folder / EDITS).write_bytes(dump_tensors(numbered))
    reseal(folder, lambda m: m.update(edits=[plain], answers=told))


def refuse(folder: Path, message: str = ".", model: nn.Module | None = None) -> None:
    """Loading is refused with one FileError that names the folder; the model is left alone."""
    model = model or TOYS["cnn"].build()
    before = snapshot(model)
    with pytest.raises(FileError, match=message) as caught:
        load(folder, model)
    assert str(folder) in str(caught.value)
    assert same_state(before, snapshot(model))


def test_a_folder_around_the_one_that_holds_the_model_names_that(saved: Path) -> None:
    """As `compress` writes into ``model``, and what transformers cannot say into ``secateur``."""
    refuse(saved.parent, rf"not found; pass the folder in it that holds the model, {saved}$")
    refuse(saved.parent.parent / "nowhere", "pass a folder that Result.save wrote")


@pytest.mark.parametrize("unit", ["channels", "weights"])
@pytest.mark.parametrize("name", list(TOYS))
def test_a_round_trip_is_exact(name: str, unit: Any, tmp_path: Path) -> None:
    result, model = pruned(name, unit=unit)
    result.save(tmp_path / "small")
    before = snapshot(model)
    again = load(tmp_path / "small", model)
    assert same_state(before, snapshot(model))
    x = TOYS[name].inputs(seed=5)
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x))
    assert type(again) is type(model)
    assert list(again.state_dict()) == list(result.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.buffers(), result.model.buffers(), strict=True))


def test_a_round_trip_in_a_new_process_is_exact(tmp_path: Path) -> None:
    result, _ = pruned("residual")
    result.save(tmp_path / "small")
    code = """
import sys, torch
from secateur.saving import load
from secateur.saving.records import joined, parted
from secateur.testing.toys import TOYS, Residual
torch.set_num_threads(1)
torch.manual_seed(99)
model = load(sys.argv[1], Residual().eval())
with torch.no_grad():
    print(model(TOYS["residual"].inputs(seed=5)).view(torch.int32).tolist())
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "small")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with torch.no_grad():
        expected = result.model(TOYS["residual"].inputs(seed=5)).view(torch.int32).tolist()
    assert json.loads(run.stdout) == expected


def test_a_folder_holds_three_files_and_no_pickle(saved: Path) -> None:
    assert sorted(p.name for p in saved.iterdir()) == [EDITS, MODEL, MANIFEST]
    assert [p.name for p in saved.parent.iterdir()] == ["small"]
    assert set(parse_tensors((saved / MODEL).read_bytes())) == set(TOYS["cnn"].build().state_dict())
    assert Result.read_report(saved)["unit"] == "channels"


def test_the_weights_of_the_model_to_load_into_do_not_matter(saved: Path) -> None:
    model = TOYS["cnn"].build()
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    assert all(bool(torch.isfinite(p).all()) for p in load(saved, model).parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    toy = TOYS["mlp"]
    model = toy.build(dtype)
    result = prune(model, toy.inputs(dtype=dtype), "l1", 1 / 3, latency=False)
    result.save(tmp_path / "small")
    again = load(tmp_path / "small", toy.build(dtype))
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), result.model.parameters(), strict=True))


class Shared(nn.Module):
    """One weight under two names, and a table that is not in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.inner = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 6)
        self.back = nn.Linear(6, 4)
        self.again.weight = self.first.weight
        self.register_buffer("table", torch.arange(6.0) + 1, persistent=False)
        self.table: Tensor

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.again(self.back(self.inner(self.first(x)) * self.table))
        return made


def test_shared_weights_and_tables_outside_the_state_dict(tmp_path: Path) -> None:
    model = Shared()
    x = torch.randn(3, 4)
    result = prune(model, x, "l2", {"inner": 0.5}, scope="layer", latency=False)
    result.save(tmp_path / "small")
    again: Any = load(tmp_path / "small", Shared())
    assert again.again.weight is again.first.weight
    assert again.table.tolist() == result.model.get_buffer("table").tolist()
    assert again.table.numel() == 3
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x))
    stored = parse_tensors((tmp_path / "small" / MODEL).read_bytes())
    assert len({"first.weight", "again.weight"} & set(stored)) == 1


def test_saving_twice_replaces_and_gives_the_same_bytes(saved: Path) -> None:
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    pruned()[0].save(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    assert [p.name for p in saved.parent.iterdir()] == ["small"]


def test_saving_over_other_files_is_refused_and_they_stay(tmp_path: Path) -> None:
    result, _ = pruned()
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "text.tex").write_text("words")
    with pytest.raises(FileError, match=r"thesis.*holds other files"):
        result.save(foreign)
    with pytest.raises(FileError, match=r"text\.tex.*is a file"):
        result.save(foreign / "text.tex")
    assert (foreign / "text.tex").read_text() == "words"
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]


def test_files_that_were_put_beside_a_saved_model_are_not_thrown_away(saved: Path) -> None:
    """A folder with a manifest of ours and notes of the user's is not ours alone."""
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match="holds other files"):
        pruned()[0].save(saved)
    assert (saved / "notes.txt").read_text() == "mine"


def test_a_foreign_folder_with_a_file_of_the_manifest_s_name_is_refused(tmp_path: Path) -> None:
    """The name alone does not make a folder ours."""
    foreign = tmp_path / "other"
    foreign.mkdir()
    (foreign / MANIFEST).write_text('{"somebody": "else"}')
    (foreign / "precious.txt").write_text("words")
    with pytest.raises(FileError, match="holds other files"):
        pruned()[0].save(foreign)
    assert (foreign / "precious.txt").read_text() == "words"


def test_saving_into_a_new_and_an_empty_folder(tmp_path: Path) -> None:
    result, model = pruned()
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "a" / "b" / "c", tmp_path / "empty", str(tmp_path / "text")):
        load(result.save(folder), model)


@pytest.mark.parametrize("failing", ["fsync", "rename"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_write_that_fails_leaves_the_old_folder(
    saved: Path, monkeypatch: pytest.MonkeyPatch, failing: str, at: int
) -> None:
    result, model = pruned("cnn", scope="layer")
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    calls = 0
    real: Any = os.fsync if failing == "fsync" else Path.rename

    def fails(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "rename")), fails)
    if failing == "rename" and at == 3:
        pytest.skip("two renames are all there are")
    with pytest.raises((OSError, FileError), match="No space left"):
        result.save(saved)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    assert [p.name for p in saved.parent.iterdir()] == ["small"]
    load(saved, model)


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"small.*No space left on device"):
        pruned()[0].save(tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [MODEL, EDITS, MANIFEST])
def test_missing_files(saved: Path, name: str) -> None:
    (saved / name).unlink()
    refuse(saved, rf"{name}.*(not found|cannot be read)")


def test_a_missing_folder_and_a_file_in_its_place(tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", "not found")
    (tmp_path / "file").write_text("x")
    refuse(tmp_path / "file", "is a file; pass a folder")


@pytest.mark.parametrize("name", [MODEL, EDITS, MANIFEST])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_files(saved: Path, name: str, share: float) -> None:
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[: int(share * len(data))])
    refuse(saved, name)


@pytest.mark.parametrize("name", [MODEL, EDITS])
def test_every_byte_counts(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    for at in range(0, len(data), max(len(data) // 7, 1)):
        changed = bytearray(data)
        changed[at] ^= 1
        (saved / name).write_bytes(bytes(changed))
        refuse(saved, "SHA-256 differs")


def test_a_changed_manifest(saved: Path) -> None:
    text = (saved / MANIFEST).read_text()
    (saved / MANIFEST).write_text(text.replace('"out_channels": 2', '"out_channels": 3', 1))
    assert (saved / MANIFEST).read_text() != text
    refuse(saved, "changed after it was written")


def test_swapped_files(saved: Path) -> None:
    model, plan = (saved / MODEL).read_bytes(), (saved / EDITS).read_bytes()
    (saved / MODEL).write_bytes(plan)
    (saved / EDITS).write_bytes(model)
    refuse(saved, "SHA-256 differs")
    reseal(saved)
    refuse(saved)


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "3", '"text"', "{", "", "{}", '{"checksum": 1}', "\x00\x01", "[" * 100_000, '{"a": NaN}'],
    ids=lambda t: t[:12],
)
def test_manifests_that_are_none(saved: Path, text: str) -> None:
    (saved / MANIFEST).write_text(text)
    refuse(saved, "not a manifest|changed after")


def test_a_manifest_that_is_not_text(saved: Path) -> None:
    (saved / MANIFEST).write_bytes(b"\xff\xfe\x80" * 10)
    refuse(saved, "not a manifest")


@pytest.mark.parametrize("key", ["format", "sha256", "edits", "shared", "report", "history", "answers", "encoded"])
@pytest.mark.parametrize("value", [None, 7, "text", [1], {"x": 1}, {"x": {"y": "z"}}, {"": {"__class__": 1}}])
def test_sealed_manifests_of_the_wrong_form(saved: Path, key: str, value: Any) -> None:
    """Whoever reseals a manifest can put anything in it; it is read or refused, never another error."""
    reseal(saved, lambda m: m.update({key: value}))
    if key in ("report", "history"):
        return
    try:
        load(saved, TOYS["cnn"].build())
    except FileError as refused:
        if str(saved) not in str(refused):
            raise AssertionError("the error does not name the folder") from refused


@pytest.mark.parametrize("key", ["format", "sha256", "edits", "shared"])
def test_sealed_manifests_without_a_part(saved: Path, key: str) -> None:
    reseal(saved, lambda m: m.pop(key))
    refuse(saved)


def test_another_format_is_refused_by_its_number(saved: Path) -> None:
    reseal(saved, lambda m: m.update(format=99))
    refuse(saved, "has format 99")


@pytest.mark.parametrize(
    ("path", "attribute", "value"),
    [
        ("0", "forward", 1),
        ("0", "training", 1),
        ("0", "__class__", 1),
        ("0", "__dict__", 1),
        ("0", "padding_mode", 1),
        ("0", "out_channels", "2"),
        ("0", "out_channels", -2),
        ("0", "out_channels", 2.5),
        ("0", "out_channels", None),
        ("0", "out_channels", True),
        ("0", "out_channels", [2, 2]),
        ("0", "out_channels", 10**30),
        ("0", "kernel_size", [3]),
        ("0", "kernel_size", 3),
        ("nowhere", "out_channels", 2),
        ("../0", "out_channels", 2),
        ("0.weight", "ndim", 2),
        ("", "_version", 2),
        ("7", "in_features", 0),
    ],
)
def test_attributes_that_are_no_sizes_are_refused(saved: Path, path: str, attribute: str, value: Any) -> None:
    forge(saved, lambda edit: edit["attributes"].update({path: {attribute: value}}))
    refuse(saved)


@pytest.mark.parametrize(
    ("key", "index"),
    [
        ("0.weight|0", [0, 99]),
        ("0.weight|0", [-1, 0]),
        ("0.weight|0", [2**31 - 1]),
        ("0.weight|0", []),
        ("0.weight|0", [[0, 1]]),
        ("0.weight|0", [0.5, 1.0]),
        ("0.weight|0", [0, 0]),
        ("0.weight|0", [1, 0]),
        ("0.weight|9", [0]),
        ("0.weight|-1", [0]),
        ("0.weight|x", [0]),
        ("0.weight", [0]),
        ("nowhere.weight|0", [0]),
        ("../../0.weight|0", [0]),
        ("0.__class__|0", [0]),
        ("0.forward|0", [0]),
        ("|0", [0]),
    ],
)
def test_rows_that_cannot_be_are_refused(saved: Path, key: str, index: list[Any]) -> None:
    rows = torch.tensor(index)
    name, _, dim = key.rpartition("|")
    whole = rows.to(torch.int32) if not rows.is_floating_point() or not index else rows
    forge(saved, lambda edit: edit["rows"].setdefault(name, {}).update({dim: whole}))
    refuse(saved)


def test_a_huge_index_is_refused_before_it_is_used(saved: Path) -> None:
    """Ten million rows of a layer of four would fill the memory if they were picked first."""
    forge(saved, lambda edit: edit["rows"]["0.weight"].update({"0": torch.zeros(10_000_000, dtype=torch.int32)}))
    refuse(saved, "0.weight")


@pytest.mark.parametrize(
    "edits", [[{}], [{"kind": "x"}], [{"kind": "cut"}], [{"kind": "depth", "blocks": {"": True}}], []]
)
def test_edits_that_are_none_or_other_ones_are_refused(saved: Path, edits: list[Any]) -> None:
    reseal(saved, lambda m: m.update(edits=edits))
    refuse(saved)


class Bomb:
    """A pickle that leaves a trace if it is ever opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", [MODEL, EDITS, MANIFEST])
@pytest.mark.parametrize("writer", [pickle.dump, torch.save])
def test_a_pickle_is_never_opened(saved: Path, tmp_path: Path, name: str, writer: Callable[..., None]) -> None:
    trace = tmp_path / "executed"
    with open(saved / name, "wb") as file:
        writer(Bomb(trace), file)
    refuse(saved)
    if name != MANIFEST:
        reseal(saved)
        refuse(saved, "not a safetensors file")
    assert not trace.exists()


@pytest.mark.parametrize("shared", [{"0.weight": "nowhere"}, {"x.y": "0.weight"}, {"0.bias": 3}])
def test_shared_names_that_do_not_fit_are_refused(saved: Path, shared: dict[str, Any]) -> None:
    reseal(saved, lambda m: m.update(shared=shared))
    refuse(saved)


def test_tensors_of_other_names_shapes_or_dtypes_are_refused(saved: Path) -> None:
    tensors = parse_tensors((saved / MODEL).read_bytes())
    cases: list[dict[str, Tensor]] = [
        {**tensors, "extra": torch.ones(1)},
        {name: t for name, t in tensors.items() if name != "0.bias"},
        {**tensors, "0.bias": torch.ones(77)},
    ]
    for changed in cases:
        (saved / MODEL).write_bytes(dump_tensors(changed))
        reseal(saved)
        refuse(saved, "does not fit")


def test_another_architecture_is_refused(saved: Path) -> None:
    refuse(saved, "Residual", Residual())
    refuse(saved, "Sequential", nn.Sequential(nn.Conv2d(1, 2, 3)))
    refuse(saved, "Linear", nn.Linear(2, 2))


def test_reports_are_read_only_from_whole_manifests(saved: Path) -> None:
    with pytest.raises(FileError, match="not found"):
        Result.read_report(saved / "nowhere")
    (saved / MANIFEST).write_text("{}")
    with pytest.raises(FileError, match="not a manifest"):
        Result.read_report(saved)


def test_a_graph_form_comes_back_or_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Where the cut model is a graph, the folder must load again, or saving says that it cannot."""

    class Literal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(2, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.fc(x).view(-1, 2, 2)
            made: Tensor = self.out(torch.cat([h[:, 0], torch.sigmoid(h[:, 1])], 1))
            return made

    model = Literal()
    x = torch.randn(3, 2)
    result = prune(model, x, "l2", 0.5, scope="layer", latency=False)
    try:
        folder = result.save(tmp_path / "small")
    except FileError:
        assert list(tmp_path.iterdir()) == []
        return
    with torch.no_grad():
        assert torch.equal(load(folder, model)(x), result.model(x))
