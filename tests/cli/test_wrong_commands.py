"""Wrong commands written by hand: one line that says what is wrong, where, and the remedy; nothing is written or changed."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.toy_study import STUDY
from secateur import cli, models
from secateur.lab.drive.driver import run_study
from secateur.lab.keep.store import Store
from secateur.pruning import prune
from secateur.saving import save_weights

NET = "lenet-300-100 --set input_size=8"
MINE = "mine_for_wrong_commands"
CODE = """
from torch import nn

def tiny(width=8):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))

def none():
    return None

number = 3
"""
HERE = f"{MINE}:tiny --input-shape 1,4"

Row = tuple[str, str]

ROWS: dict[str, list[Row]] = {
    "every command": [
        ("prunes", "2 No such command 'prunes'"),
        ("list --jsn", "2 No such option.*--jsn"),
        ("train", "2 Missing argument 'MODEL'"),
        ("train lenet-300-100", "2 Missing option '--out'"),
    ],
    "train": [
        ("train lenet-30-100 --out new.safetensors", "unknown model 'lenet-30-100'; did you mean 'lenet-300-100'"),
        ("train lenet-300-100 --data digit --out new.safetensors", "unknown data set 'digit'; did you mean 'digits'"),
        ("train lenet-300-100 --epochs -1 --out new.safetensors", "epochs=-1 must be a whole number, 0 or more"),
        ("train lenet-300-100 --epochs many --out new.safetensors", "2 '--epochs': .*valid integer"),
        ("train lenet-300-100 --batch-size 0 --out new.safetensors", "batch_size=0 must be .*1 or more"),
        ("train lenet-300-100 --lr nan --out new.safetensors", "lr=nan must be"),
        ("train lenet-300-100 --optimizer adamm --out new.safetensors", "unknown optimizer 'adamm'; did you mean 'adam'"),
        ("train lenet-300-100 --loss mine --out new.safetensors", "unknown loss 'mine'.*cross_entropy"),
        ("train lenet-300-100 --loss no_such:loss --out new.safetensors", "loss 'no_such:loss': cannot import 'no_such'.*write 'package.module:loss'"),
        ("train lenet-300-100 --validation 1.5 --out new.safetensors", r"validation is 1\.5; give a count from 0 to 1499, or a fraction below 1"),
        ("train lenet-300-100 --validation 0 --patience 3 --out new.safetensors", "patience=3 needs validation data; give them, or leave it out"),
        ("train lenet-300-100 --set widht=3 --out new.safetensors", "unknown option of lenet-300-100 'widht'.*input_size"),
        ("train lenet-300-100 --set input_size --out new.safetensors", "--set 'input_size': write KEY=VALUE, such as input_size=8"),
        ("train lenet-300-100 --data-dir nowhere --data fashion-mnist --out new.safetensors", "there is no folder nowhere; make it"),
        ("train lenet-300-100 --epochs 0 --out w.safetensors/new.safetensors", r"cannot write w\.safetensors/.*: w\.safetensors is a file; name a place in a folder"),
        (f"train {MINE}:none --out new.safetensors", ":none'.*gave a NoneType; it must return a torch.nn.Module"),
        (f"train {MINE}:number --out new.safetensors", ":number'.*is a int; name a function or class to call"),
        (f"train {MINE}:missing --out new.safetensors", "unknown attribute of .* 'missing'. Known: .*tiny"),
        ("train no_such_module:net --out new.safetensors", "cannot import 'no_such_module'.*PYTHONPATH"),
    ],
    "prune": [
        (f"prune {NET} --weights none.safetensors --out new", r"none\.safetensors: not found; give a file of weights"),
        (f"prune {NET} --weights notes.txt --out new", r"notes\.txt: cannot be read as weights: it is damaged, or of another kind.*save_weights"),
        ("prune lenet-300-100 --weights w.safetensors --out new", "does not fit.*the same --data and --set as in training"),
        (f"prune {NET} --criterion l3 --out new", "unknown criterion 'l3'"),
        (f"prune {NET} --criterion taylor --out new", "--criterion taylor looks at images: name a data set with --data"),
        (f"prune {NET} --repair bias --out new", "--repair looks at images: name a data set with --data"),
        (f"prune {NET} --solver thinet --out new", "--solver thinet looks at images: name a data set with --data"),
        (f"prune {NET} --solver thin --data digits --out new", "unknown solver 'thin'; did you mean 'thinet'"),
        (f"prune {NET} --sparsity 1.5 --out new", r"sparsity=1\.5 must be a number in \[0, 1\]"),
        (f"prune {NET} --sparsity half --out new", "2 '--sparsity': .*valid number"),
        (f"prune {NET} --budget macs --out new", r"--budget 'macs': write KEY=VALUE, such as macs=0\.5"),
        (f"prune {NET} --budget mac=0.5 --out new", "unknown budget 'mac'; did you mean 'macs'"),
        (f"prune {NET} --budget macs=0 --out new", "macs=0 must be a fraction"),
        (f"prune {NET} --scope local --out new", "unknown scope 'local'"),
        (f"prune {NET} --unit filters --out new", "unknown unit 'filters'"),
        (f"prune {NET} --unit weights --block 4x1 --out new", "--block '4x1': write rows and columns, such as 4,1"),
        (f"prune {NET} --unit weights --pattern 4:2 --out new", "pattern is '4:2'; give how many of how many"),
        (f"prune {NET} --ignore conv9 --out new", "unknown site to ignore 'conv9'"),
        (f"prune {NET} --minimum -1 --out new", "minimum=-1 must be a whole number, 0 or more"),
        (f"prune {NET} --round-to some --out new", "round_to='some' must be a whole number.*auto"),
        (f"prune {NET} --runtime tensorrt --out new", "unknown runtime 'tensorrt'. Known: .*onnxruntime"),
        (f"prune {NET} --form script --out new", "unknown form 'script'. Known: auto, graph, module"),
        (f"prune {NET} --tolerance -1 --out new", "tolerance=-1.* 0 or more"),
        (f"prune {NET} --uniform true --out new", "uniform=True, but no config"),
        (f"prune {NET} --images 0 --data digits --out new", "2 '--images': .*greater than or equal to 1"),
        (f"prune {NET} --input-shape 1x64 --out new", "--input-shape '1x64': write sizes with commas"),
        (f"prune {NET} --input-shape 1,1,9,9 --out new", "forward pass failed on the example inputs"),
        (f"prune {NET} --input [1,1,8,8] --input-shape 1,1,8,8 --out new", "give --input or --input-shape, not both"),
        (f"prune {NET} --input 1,8 --out new", "--input '1,8': write name=dtype"),
        (f"prune {NET} --input x=int7[1,8] --out new", "unknown dtype of --input 'int7'"),
        (f"prune {NET} --input none.safetensors --out new", r"--input: none\.safetensors cannot be read"),
        (f"prune {MINE}:tiny --out new", "what .*tiny takes is not known; pass --input-shape"),
        (f"prune {HERE} --recover --out new", "--recover trains on text: name a file with --text"),
        (f"prune {HERE} --text notes.txt --out new", "--input-shape does not go with --text.*leave one of them out"),
        (f"prune {MINE}:tiny --text notes.txt --out new", "--text cuts a language model of transformers; .*begins with hf:"),
        (f"prune {HERE} --out notes.txt", r"notes\.txt: is a file; name a folder to save to"),
        (f"prune {HERE} --out full", r"full: holds other files \(thesis\.tex\); name a new or empty folder"),
        ("prune hf: --out new", "names no model|transformers"),
    ],
    "inspect": [
        ("inspect lenet", "unknown model 'lenet'. Known: .*lenet-300-100"),
        (f"inspect {MINE}:tiny", "pass --input-shape"),
        (f"inspect {HERE} --blocks --svg new.svg", "--svg draws channels; leave out --blocks"),
        (f"inspect {HERE} --svg notes.txt/new.svg", r"cannot write .*notes\.txt is a file; name a place in a folder"),
        (f"inspect {MINE}:tiny --input-shape 1,5", "forward pass failed on the example inputs"),
        (f"inspect {MINE}:tiny --input-shape=-1,4", "--input-shape '-1,4': write sizes with commas"),
    ],
    "evaluate": [
        (f"evaluate {NET} --weights w.safetensors --pruned small", "give --weights or --pruned, not both"),
        ("evaluate hf:path/to/llama", "hf:path/to/llama is of transformers: name a data set with --data; .*secateur.measure.perplexity"),
        (f"evaluate {NET} --pruned nowhere", "nowhere.*not found; pass a folder"),
        (f"evaluate {NET} --pruned around", "around.*the folder in it that holds the model, around/model"),
        ("evaluate lenet-300-100 --set classes=3 --pruned small", "small: does not fit this Sequential.*pass the architecture that was pruned"),
        (f"evaluate {NET} --metric f1", "there is no metric 'f1'; give a function of .*package.module:name"),
        (f"evaluate {NET} --batch-size 0", "batch_size=0 must be a whole number, 1 or more"),
        (f"evaluate {NET} --threads 0", "threads=0 must be a whole number, 1 or more"),
        (f"evaluate {NET} --runtime onnx", "unknown runtime 'onnx'"),
        (f"evaluate {NET} --loss nothing", "unknown loss 'nothing'"),
    ],
    "compress": [
        (f"compress {NET} --folder new", "2 Missing option '--data'"),
        (f"compress {NET} --data digits", "2 Missing option '--folder'"),
        (f"compress {NET} --data digits --goal 0.5 --folder new", "--goal '0.5': write KEY=VALUE, such as latency=0.5"),
        (f"compress {NET} --data digits --goal flops=0.5 --folder new", "unknown goal 'flops'"),
        (f"compress {NET} --data digits --goal macs=2 --folder new", "macs=2 must be a fraction"),
        (f"compress {NET} --data digits --steps 0 --folder new", "steps=0 must be a whole number, 1 or more"),
        (f"compress {NET} --data digits --step shares --folder new", "unknown step 'shares'; did you mean 'share'"),
        (f"compress {NET} --data digits --step share:bit=4 --folder new", "unknown option of the step share 'bit'; did you mean 'bits'"),
        (f"compress {NET} --data digits --step structure --folder new", "--step structure: it needs"),
        (f"compress {NET} --data digits --train epoch=2 --folder new", "unknown option of --train 'epoch'; did you mean 'epochs'"),
        (f"compress {NET} --data digits --time-limit 0 --folder new", "time_limit=0.* must be a number above 0: seconds"),
        (f"compress {NET} --data digits --max-drop nan --folder new", "max_drop=nan must be a number, 0 or more"),
        (f"compress {NET} --data digits --minimum 1000 --goal macs=0.5 --runtime eager --folder new", "minimum=1000.*widest site.*300"),
        (f"compress {NET} --data digits --goal macs=0.5 --folder notes.txt", r"cannot write .*: notes\.txt is a file; name a place in a folder"),
        (f"compress {NET} --data digits --validation 0 --goal macs=0.5 --folder new", "the validation split is empty; pass validation="),
    ],
    "export and bench": [
        (f"export {NET}", "2 Missing option '--out'"),
        (f"export {NET} --runtime onnx --out new.onnx", "unknown runtime 'onnx'"),
        (f"export {NET} --runtime eager --out new.onnx", "runtime 'eager' has no files of its own; give one that has: onnxruntime"),
        (f"export {NET} --batch-size 0 --out new.onnx", "batch_size=0 must be a whole number, 1 or more"),
        (f"export {NET} --pruned notes.txt --out new.onnx", r"notes\.txt: is a file; pass a folder that Result.save wrote"),
        (f"bench {NET} --read none.txt", r"cannot read none\.txt with the bench.json beside it: FileNotFoundError: .*; leave it in its bundle"),
        (f"bench {NET} --sparsity -1", r"sparsity=-1\.0 must be a number in \[0, 1\]"),
        (f"bench {NET} --runtime tensorrt", "unknown runtime 'tensorrt'"),
        (f"bench {NET} --runtime eager --repeats 0", "repeats=0 must be a whole number, 1 or more"),
        (f"bench {NET} --runtime eager --threads 0", "threads=0 must be a whole number, 1 or more"),
    ],
    "study and report": [
        ("study run demos", "unknown study 'demos'; did you mean 'demo'"),
        ("study run none.toml", r"cannot read none\.toml: .*; give a TOML file"),
        ("study run demo --seeds 0", "--seeds 0: give 1 or more"),
        ("study run demo --jobs 0", "--jobs 0: give 1 or more"),
        ("study run demo --threads 0", "--threads 0: give 1 or more"),
        ("study run demo --on slurm", "unknown executor 'slurm'"),
        ("study run demo --track wandb", "unknown tracker 'wandb'. Known: mlflow, tensorboard"),
        ("study run demo --set epoch=1", "unknown option of study 'demo' 'epoch'; did you mean 'epochs'"),
        ("study run demo --set epochs=-1", "epochs is -1; give a whole number of at least 1"),
        ("study run notes.txt", r"unknown study 'notes\.txt'. Known: .*demo"),
        ("study watch nowhere", "there is no store at nowhere"),
        ("report nowhere", "unknown study 'nowhere'. Known: .*demo"),
        ("report demo --store nowhere", "there is no store at nowhere; run the study first"),
        ("report toy_store toy_store --seeds 2", "--seeds: several runs are compared"),
        ("report demo --out page", "--out: a study's report lies in its store"),
    ],
    "runs": [
        ("runs list --store nowhere", "there is no store at nowhere"),
        ("runs list --store toy_store --where sparsity", "condition 'sparsity': write NAME=VALUE"),
        ("runs list --store toy_store --where sparsitty=0.5", "unknown parameter or metric 'sparsitty'; did you mean 'sparsity'"),
        ("runs list --store toy_store --sort nothing", "unknown parameter or metric 'nothing'. Known: accuracy"),
        ("runs list --store toy_store --columns id,nothing", "unknown parameter or metric 'nothing'. Known: accuracy"),
        ("runs show zzzz --store toy_store", "no cell's id begins with 'zzzz' in toy_store; `secateur runs list` shows them"),
        ("runs compare --store toy_store", "compare takes two or more ids, or --by NAME"),
        ("runs compare --by nothing --store toy_store", "unknown column 'nothing'. Known: accuracy"),
        ("runs remove --store toy_store", "remove takes ids, or conditions"),
        ("runs remove --store toy_store --where seed=0", "cells? would be removed; say --yes"),
        ("runs export --store toy_store", "give --csv FILE, --json FILE or --parquet FILE"),
        ("runs export --store toy_store --csv notes.txt/new.csv", r"cannot write .*notes\.txt is a file; name a place in a folder"),
        ("runs sql select --store toy_store", "the query 'select' cannot be answered: .*write one SELECT over cells"),
        ("runs sql drop_table_x --store toy_store", "the query 'drop_table_x' cannot be answered: .*write one SELECT over cells"),
    ],
}  # fmt: skip

CASES = [row for rows in ROWS.values() for row in rows]


def content(folder: Path) -> dict[str, str]:
    """What lies in a folder, by name; files by a hash. What SQLite keeps beside a store while it is open is left out."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
        if not path.name.endswith(("-wal", "-shm", ".lock")) and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a user may have: code, weights, a pruned model, notes, a store."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / f"{MINE}.py").write_text(CODE)
    (folder / "notes.txt").write_text("no model")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.tex").write_text("years of work")
    network = models.build("lenet-300-100", input_size=8, seed=0)
    save_weights(folder / "w.safetensors", network)
    result = prune(network, torch.zeros(1, 1, 8, 8), "l2", 0.5, latency=False)
    result.save(folder / "small")
    result.save(folder / "around" / "model")
    run_study(STUDY, Store(folder / "toy_store"), {"seeds": 1}, executor="serial", progress=False)
    return folder


def test_there_are_many() -> None:
    assert len(CASES) >= 60
    assert len({command for command, _ in CASES}) == len(CASES)


@pytest.mark.parametrize(("command", "words"), CASES, ids=[command for command, _ in CASES])
def test_it_is_told_in_a_line_and_nothing_is_touched(
    command: str, words: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("SECATEUR_JOBS", "1")
    monkeypatch.delenv("SECATEUR_RUNS", raising=False)
    monkeypatch.setattr(sys, "argv", ["secateur", *command.split()])
    monkeypatch.setattr(sys, "path", [*sys.path])
    before, draws = content(place), torch.get_rng_state()
    with pytest.raises(SystemExit) as end:
        cli.main()
    said: Any = capsys.readouterr()
    usage = words.startswith("2 ")
    lines = said.err.strip().splitlines()
    assert end.value.code == (2 if usage else 1), said
    announced = command.startswith("runs remove") and "say --yes" in words  # what would go is listed first
    assert usage or announced or len(lines) == 1, said.err
    assert usage or (lines[-1].startswith("secateur: ") and len(lines[-1]) > 30), said.err
    assert re.search(f"(?s){words.removeprefix('2 ')}", said.err), said.err
    assert not said.out
    assert content(place) == before
    assert torch.equal(draws, torch.get_rng_state())
