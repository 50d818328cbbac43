"""Models whose weights lie on disk, or nowhere: walked block by block, and planned."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import secateur as sc
from secateur.models.decoder import Decoder, decoder
from secateur.stream import CutUnits, empty_weights, plan, walk, walk_folder
from secateur.stream.shards import Shards
from secateur.types import FileError, InputError


class Configured(Decoder):
    """A decoder that is made of a config, as Hugging Face's models are."""

    def __init__(self, config: SimpleNamespace) -> None:
        c = config
        super().__init__(c.depth, c.width, c.heads, c.groups, c.neurons, c.vocabulary)
        self.config = config


def saved(folder: Path, blocks: int = 3) -> tuple[Decoder, Decoder]:
    """A model, and the same without weights, whose weights are in the folder in two shards."""
    model = decoder(blocks=blocks)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    names = sorted(state)
    folder.mkdir()
    table = {}
    for number, some in enumerate((names[::2], names[1::2]), 1):
        save_file({name: state[name] for name in some}, folder / f"model-0000{number}-of-00002.safetensors")
        table |= dict.fromkeys(some, f"model-0000{number}-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    (folder / "tokenizer.json").write_text("{}")
    torch.manual_seed(5)
    with empty_weights():
        empty = Decoder(blocks, 16, 4, 2, 24, 11)
    empty.positions = model.positions.clone()
    return model, empty.eval()


def test_what_is_written_block_by_block_is_what_the_walk_in_memory_makes(tmp_path: Path) -> None:
    model, empty = saved(tmp_path / "source")
    tokens, step = torch.arange(60).view(3, 20) % 11, CutUnits({"neuron": 0.25, "head": 0.5}, repair="stream")
    walked = walk_folder(empty, tmp_path / "source", tmp_path / "target", tokens, step)
    shards = Shards.of(tmp_path / "target")
    written = shards.read(shards.files)
    expected = walk(model, tokens, step).model.state_dict()
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    assert len({*shards.files.values()}) == 4
    assert (tmp_path / "target" / "tokenizer.json").read_text() == "{}"
    assert list(walked.errors) == ["layers.0", "layers.1", "layers.2"]
    assert all(parameter.is_meta for parameter in empty.parameters())


def test_the_config_says_the_new_sizes(tmp_path: Path) -> None:
    model, _ = saved(tmp_path / "source")
    sizes = {"depth": 3, "width": 16, "heads": 4, "groups": 2, "neurons": 24, "vocabulary": 11}
    (tmp_path / "source" / "config.json").write_text(json.dumps(sizes))
    with empty_weights():
        empty = Configured(SimpleNamespace(**sizes))
    empty.positions = model.positions.clone()
    walked = walk_folder(empty, tmp_path / "source", tmp_path / "target", torch.arange(40).view(2, 20) % 11)
    config = json.loads((tmp_path / "target" / "config.json").read_text())
    assert dict(walked.sizes) == {"neurons": 18}
    assert config == {**sizes, "neurons": 18}
    again = Configured(SimpleNamespace(**config))
    again.load_state_dict(Shards.of(tmp_path / "target").read(Shards.of(tmp_path / "target").files))


def test_files_that_are_missing_damaged_or_in_the_way_are_refused(tmp_path: Path) -> None:
    _, empty = saved(tmp_path / "source")
    tokens = torch.zeros(1, 8, dtype=torch.long)
    with pytest.raises(FileError, match="give another folder"):
        walk_folder(empty, tmp_path / "source", tmp_path / "source", tokens)
    with pytest.raises(FileError, match=r"no model\.safetensors"):
        walk_folder(empty, tmp_path, tmp_path / "target", tokens)
    (tmp_path / "source" / "model-00001-of-00002.safetensors").write_bytes(b"\0" * 99)
    with pytest.raises(FileError, match="cannot be read"):
        walk_folder(empty, tmp_path / "source", tmp_path / "target", tokens)


def test_a_plan_without_weights_is_what_the_walk_makes() -> None:
    step = CutUnits({"neuron": 0.25, "head": 0.5})
    with empty_weights():
        empty = Decoder(3, 16, 4, 2, 24, 11)
    planned = plan(empty, step, length=20)
    small = walk(decoder(blocks=3), torch.arange(40).view(2, 20) % 11, step).model
    assert planned.after.parameters == sum(p.numel() for p in small.parameters())
    assert planned.after.nbytes == 4 * planned.after.parameters
    tokens, head = torch.zeros(1, 20, dtype=torch.long), 20 * 16 * 11
    assert planned.after.macs == sc.measure.macs(small, tokens) - head
    assert planned.before.macs == sc.measure.macs(decoder(blocks=3), tokens) - head


def test_sites_are_found_on_the_meta_device() -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 3, device="meta"), torch.nn.ReLU(), torch.nn.Linear(3, 2, device="meta")
    )
    x = torch.zeros(1, 4, device="meta")
    assert {name: site.size for name, site in sc.channels(model, x).items()} == {"0": 3}
    assert sc.measure.macs(model, x) == 18


def test_the_weights_of_one_file_are_read(tmp_path: Path) -> None:
    model = decoder(blocks=1)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors"
    )
    read = Shards.of(tmp_path).read(["head.weight", "absent"])
    assert torch.equal(read["head.weight"], load_file(tmp_path / "model.safetensors")["head.weight"])
    assert list(read) == ["head.weight"]


TOKENS = torch.arange(40).view(2, 20) % 11


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    _, empty = saved(tmp_path / "source")
    (tmp_path / "full").mkdir()
    save_file({"head.weight": torch.zeros(11, 16)}, tmp_path / "full" / "model.safetensors")
    with pytest.raises(FileError, match="holds other files; name a new or empty folder"):
        walk_folder(empty, tmp_path / "source", tmp_path / "full", TOKENS)
    with pytest.raises(InputError, match="does not take tokens"):
        walk_folder(empty, tmp_path / "source", tmp_path / "target", TOKENS + 1)
    with pytest.raises(InputError, match="no targets for the loss"):
        walk_folder(empty, tmp_path / "source", tmp_path / "target", TOKENS, CutUnits(0.5, "taylor"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "source"]


def test_weights_of_the_larger_model_stay_behind(tmp_path: Path) -> None:
    _, empty = saved(tmp_path / "source")
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json", "vocab.json"):
        (tmp_path / "source" / name).write_text("{}")
    walk_folder(empty, tmp_path / "source", tmp_path / "target", TOKENS)
    names = {path.name for path in (tmp_path / "target").iterdir()}
    assert {name for name in names if "safetensors" not in name} == {"tokenizer.json", "vocab.json"}


@pytest.mark.parametrize("blocks", [2, 4])
def test_files_of_a_model_of_another_depth_are_refused(tmp_path: Path, blocks: int) -> None:
    saved(tmp_path / "source")
    with empty_weights():
        other = Decoder(blocks, 16, 4, 2, 24, 11)
    with pytest.raises(FileError, match=r"not in the .*make the model of the config"):
        walk_folder(other.eval(), tmp_path / "source", tmp_path / "target", TOKENS)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor[:1, :1], "make the model of the config"),
        (lambda tensor: tensor.int(), "of whole numbers in the files"),
        (lambda tensor: tensor * float("nan"), "holds NaN or infinite values; give a good checkpoint"),
    ],
)
def test_weights_of_another_kind_are_refused(tmp_path: Path, change: Any, words: str) -> None:
    _, empty = saved(tmp_path / "source")
    table = Shards.of(tmp_path / "source").files
    path = table["layers.1.down.weight"]
    state = load_file(path)
    save_file({**state, "layers.1.down.weight": change(state["layers.1.down.weight"]).contiguous()}, path)
    with pytest.raises(FileError, match=words):
        walk_folder(empty, tmp_path / "source", tmp_path / "target", TOKENS)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight', "[" * 9999])
def test_a_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    _, empty = saved(tmp_path / "source")
    (tmp_path / "source" / "model.safetensors.index.json").write_text(text)
    with pytest.raises(FileError, match=r"cannot be read .*; download the model again"):
        walk_folder(empty, tmp_path / "source", tmp_path / "target", TOKENS)


def test_a_pipe_or_a_damaged_config_is_refused(tmp_path: Path) -> None:
    _, empty = saved(tmp_path / "source")
    (tmp_path / "source" / "config.json").write_text("[]")
    with pytest.raises(FileError, match="it holds no options by name"):
        walk_folder(empty, tmp_path / "source", tmp_path / "target", TOKENS)
    shard = tmp_path / "source" / "model-00001-of-00002.safetensors"
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(FileError, match="no regular file"):
        walk_folder(empty, tmp_path / "source", tmp_path / "target", TOKENS)
