"""Cut models of transformers: loaded by plain `from_pretrained` in a new process, generating, uploaded."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import secateur as sc
from secateur.cli import app
from secateur.integrations import huggingface

ROOT = Path(sc.__file__).parents[1]
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
quiet = pytest.mark.filterwarnings("ignore")  # the library's own

IDS = torch.randint(0, 100, (2, 10), generator=torch.Generator().manual_seed(0))


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 4}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=100, eos_token_id=None)).eval()


def pruned(**options: Any) -> sc.Result:
    return sc.prune(llama(), IDS, "l2", **{"sparsity": 0.25, "scope": "layer", "latency": False, **options})


def test_nothing_of_it_is_imported_with_the_library() -> None:
    code = "import sys, secateur, secateur.pruning, secateur.cli; print([m for m in sys.modules if 'integrations' in m or 'transformers' in m])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(shown.stdout.replace("'", '"')) == []


RELOAD = """
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
told = load_file(sys.argv[2])
with torch.no_grad():
    assert torch.equal(model(told["ids"]).logits, told["logits"])
assert model.generate(told["ids"], max_new_tokens=3, do_sample=False, pad_token_id=0).shape == (2, 13)
assert "secateur" not in sys.modules
"""


@needs_transformers
@quiet
def test_a_new_process_loads_it_and_answers_the_same(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    result = pruned()
    assert result.report.form == "module"
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    assert [getattr(result.model.config, size) for size in sizes] == [48, 72, 6, 3, 8]
    assert result.model.config.use_cache
    folder = huggingface.save(result, tmp_path / "small")
    with torch.no_grad():
        logits = result.model(IDS).logits
    save_file({"ids": IDS, "logits": logits}, tmp_path / "told.safetensors")
    subprocess.run([sys.executable, "-W", "ignore", "-c", RELOAD, folder, tmp_path / "told.safetensors"], check=True)
    card = (folder / "README.md").read_text()
    assert "| num_key_value_heads | 4 | 3 |" in card
    assert "LlamaForCausalLM.from_pretrained" in card
    assert "library_name: transformers" in card


@needs_transformers
@quiet
def test_widths_of_their_own_go_into_our_folder(tmp_path: Path) -> None:
    result = pruned(sparsity=0.3, scope="global", uniform=False, ignore="*head*")
    assert len({layer.mlp.gate_proj.out_features for layer in result.model.model.layers}) == 2
    folder = huggingface.save(result, tmp_path / "uneven")
    assert "a config of transformers cannot say" in (folder / "README.md").read_text()
    again = sc.load(folder / "secateur", llama())
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, result.model(IDS).logits)


@needs_transformers
@quiet
def test_what_cannot_be_saved_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    result = pruned()
    with pytest.raises(sc.FileError, match="holds other files"):
        huggingface.save(result, tmp_path / "full")
    monkeypatch.setattr(huggingface, "_same_answers", lambda *_: False)
    with pytest.raises(sc.FileError, match="answers otherwise"):
        huggingface.save(result, tmp_path / "small")
    assert not (tmp_path / "small").exists()


@needs_transformers
@quiet
def test_the_command_cuts_what_transformers_keeps(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "whole")
    words = [
        "prune",
        f"hf:{tmp_path / 'whole'}",
        "--sparsity",
        "0.25",
        "--scope",
        "layer",
        "--out",
        str(tmp_path / "small"),
    ]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, ran.output
    again = huggingface.load(str(tmp_path / "small"))
    assert again.config.intermediate_size == 72
    missing = CliRunner().invoke(app, ["prune", f"hf:{tmp_path / 'none'}", "--out", str(tmp_path / "other")])
    assert isinstance(missing.exception, sc.FileError)


@needs_transformers
@quiet
def test_files_that_lack_weights_or_are_damaged_are_refused(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "whole")
    weights, config = tmp_path / "whole" / "model.safetensors", tmp_path / "whole" / "config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "num_hidden_layers": 4}))
    with pytest.raises(sc.FileError, match=r"files lack \d+ of the weights .* would be random"):
        huggingface.load(str(tmp_path / "whole"))
    config.write_text(json.dumps({**said, "intermediate_size": 80}))
    with pytest.raises(sc.FileError, match="transformers cannot load it"):
        huggingface.load(str(tmp_path / "whole"))
    config.write_text(json.dumps(said))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(sc.FileError, match="transformers cannot load it"):
        huggingface.load(str(tmp_path / "whole"))
    with pytest.raises(sc.FileError, match="names no model"):
        huggingface.load("")


@needs_transformers
@quiet
def test_heads_are_shown_as_they_are_cut(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "whole")
    shown = CliRunner().invoke(app, ["inspect", f"hf:{tmp_path / 'whole'}"])
    assert "  head  " in shown.output
    assert "model.layers" not in shown.output.partition("\nleft whole")[2]


@needs_transformers
@quiet
def test_a_card_says_what_was_saved_whatever_saving_does_to_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([True, True, False])
    monkeypatch.setattr(huggingface, "is_reloadable", lambda _: next(answers))
    folder = huggingface.save(pruned(), tmp_path / "small")
    assert "LlamaForCausalLM.from_pretrained" in (folder / "README.md").read_text()


@needs_transformers
@quiet
def test_the_command_cuts_on_text_and_recovers(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(100)}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="w0").save_pretrained(tmp_path / "whole")
    model = llama()
    model.config.max_position_embeddings = 32
    model.save_pretrained(tmp_path / "whole")
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{number * number % 97}" for number in range(700)))
    words_of_command = ["prune", f"hf:{tmp_path / 'whole'}", "--text", str(text), "--out", str(tmp_path / "small")]
    ran = CliRunner().invoke(app, [*words_of_command, "--recover", "--sparsity", "0.5", "--json"])
    assert ran.exit_code == 0, ran.output
    perplexities = json.loads(ran.stdout.splitlines()[-1])["perplexity"]
    assert perplexities["after"] != perplexities["untrained"]
    assert huggingface.load(str(tmp_path / "small")).config.intermediate_size == 48
    assert huggingface.load_tokenizer(str(tmp_path / "small")) is not None
    for wrong, words_of_error in (
        (["--scope", "layer"], "--scope does not go with --text"),
        (["--data", "digits"], "--data does not go with --text"),
        (["--text", str(tmp_path / "none.txt")], "cannot be read"),
    ):
        ran = CliRunner().invoke(app, [*words_of_command, *wrong])
        assert words_of_error in str(ran.exception)


class _Hub(BaseHTTPRequestHandler):
    """What of the hub's answers an upload needs."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.calls.append((self.path, body))  # type: ignore[attr-defined]
        if self.path.endswith("/repos/create"):
            answer: dict[str, Any] = {"url": f"http://{self.headers['Host']}/me/small", "name": "me/small"}
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        elif "/commit/" in self.path:
            answer = {
                "commitUrl": f"http://{self.headers['Host']}/me/small/commit/1",
                "commitOid": "1",
                "success": True,
            }
        else:
            answer = {"errors": [], "warnings": []}
        self._answer(answer)

    def do_GET(self) -> None:
        self._answer({"siblings": [], "id": "me/small", "sha": "0", "private": False})

    def _answer(self, answer: dict[str, Any]) -> None:
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    """A hub that takes what is uploaded."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.calls = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@needs_transformers
@quiet
def test_what_is_uploaded_is_what_is_saved(hub: Any) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    huggingface.push_to_hub(pruned(), "me/small", token="hf_none", endpoint=endpoint)
    created = next(json.loads(body) for path, body in hub.calls if path.endswith("/repos/create"))
    assert created["name"] == "small"
    commit = next(body for path, body in hub.calls if "/commit/" in path)
    files = {}
    for line in map(json.loads, commit.splitlines()):
        if line["key"] == "file":
            files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
    assert {"README.md", "config.json", "model.safetensors"} <= set(files)
    assert json.loads(files["config.json"])["intermediate_size"] == 72


def test_examples_are_made_up_from_the_config() -> None:
    class Words(torch.nn.Module):
        main_input_name = "input_ids"
        config = type("Config", (), {"vocab_size": 7, "is_encoder_decoder": True, "max_position_embeddings": 5})()

    inputs = huggingface.example_inputs(Words())
    assert {name: (x.shape, int(x.max()) < 7) for name, x in inputs.items()} == {
        "input_ids": ((1, 5), True),
        "decoder_input_ids": ((1, 5), True),
    }
    Words.main_input_name = "input_features"
    with pytest.raises(sc.InputError, match="input_features"):
        huggingface.example_inputs(Words())


@needs_transformers
@quiet
@pytest.mark.slow
def test_families_are_cut_saved_and_loaded(tmp_path: Path) -> None:
    """At least 20 causal families and 10 others of the benchmark's hold: equal answers, and they generate."""
    script = [sys.executable, str(BENCHMARKS / "huggingface.py"), "--folder", str(tmp_path / "cut")]
    subprocess.run(script, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    loaded = [json.loads(line) for line in (tmp_path / "cut" / "loaded.jsonl").read_text().splitlines()]
    assert all(row["equal"] and row["generates"] is not False for row in loaded), loaded
    assert sum(row["generates"] is True for row in loaded) >= 20
    assert sum(row["generates"] is None for row in loaded) >= 10
