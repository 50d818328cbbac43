"""The command line, as people use it: what it prints, what it writes, how it fails, and how it goes on."""

from __future__ import annotations

import ast
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import secateur
from secateur import cli, models
from secateur.cli.root import MODULES
from secateur.saving import load_weights, save_weights

DIGITS = ("lenet-300-100", "--set", "input_size=8")
TINY_STUDY = ("demo", "--seeds", "1", "--set", "epochs=1", "--set", "sparsities=[0.5]")
TINY_METHODS = ("--set", 'methods=["weight","neuron"]', "--set", "dense=[]")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> Any:
        """What it printed with ``--json``: one object, and nothing else."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def records(self) -> list[Any]:
        """What it printed with ``--json``, one object a line."""
        assert self.code == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Done]


def call(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Done:
    before, sys.argv = sys.argv, ["secateur", *map(str, words)]
    path = list(sys.path)
    try:
        cli.main()
        code: Any = 0
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv, sys.path[:] = before, path
    return Done(int(code or 0), *capsys.readouterr())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process, in an empty folder; an error that is not ours comes out as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("SECATEUR_RUNS", raising=False)
    return lambda *words: call(capsys, *words)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    source = str(Path(secateur.__file__).parents[1])
    inherited = {k: v for k, v in os.environ.items() if k != "SECATEUR_RUNS"}
    return subprocess.Popen(
        [sys.executable, "-m", "secateur.cli", *words],
        cwd=folder,
        env={**inherited, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop(process: subprocess.Popen[str], when: Callable[[], bool], with_: signal.Signals) -> Done:
    """Send a signal as soon as `when` is so, and wait for the end."""
    deadline = time.monotonic() + 120
    while not when():
        assert process.poll() is None, f"it ended too soon: {process.communicate()}"
        assert time.monotonic() < deadline, "nothing happened in two minutes"
        time.sleep(0.005)
    process.send_signal(with_)
    out, err = process.communicate(timeout=120)
    return Done(process.returncode, out, err)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of LeNet-300-100 for 8×8 pixels."""
    path = tmp_path_factory.mktemp("weights") / "lenet.safetensors"
    save_weights(path, models.build("lenet-300-100", input_size=8, seed=0))
    return path


@pytest.fixture
def pruned(run: Run, weights: Path, tmp_path: Path) -> Path:
    """A folder that `secateur prune` wrote."""
    folder = tmp_path / "small"
    assert run("prune", *DIGITS, "--weights", weights, "--scope", "layer", "--out", folder).code == 0
    return folder


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


# Help and usage


@pytest.mark.parametrize("words", list(commands(typer.main.get_command(cli.app))), ids=" ".join)
def test_help_explains_every_option(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words, "--help")
    assert done.code == 0
    assert done.out.startswith("Usage: ")
    command: Any = typer.main.get_command(cli.app)
    for word in words:
        command = command.commands[word]
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{' '.join(words)} {parameter.name} has no help"
        is_option = parameter.param_type_name == "option"
        assert (parameter.opts[0] if is_option else parameter.metavar or parameter.opts[0]) in done.out


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("train",), "Missing argument"),
        (("train", *DIGITS), "--out"),
        (("prune", *DIGITS, "--out", "a", "--sparsity", "half"), "--sparsity"),
        (("prune", *DIGITS, "--out", "a", "--sparse", "0.5"), "No such option"),
        (("study", "run"), "Missing argument"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_wrong_usage_is_exit_code_2(run: Run, words: tuple[str, ...], wanted: str) -> None:
    done = run(*words)
    assert done.code == 2
    assert wanted in done.err
    assert not done.out


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    process = start(tmp_path, "list", "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert set(json.loads(out)) == {"models", "schemes", "data", "criteria", "studies"}
    assert not err


# Listing


def test_list_names_everything(run: Run) -> None:
    known = run("list", "--json").record
    assert known["criteria"] == secateur.criteria.names()
    assert "digits" in known["data"]
    plain = run("list").out
    for names in known.values():
        assert all(name in plain for name in names)


def test_study_list_names_the_source(run: Run) -> None:
    listed = {study["name"]: study for study in run("study", "list", "--json").record}
    assert "M. Fathollahi, 2022" in listed["fathollahi"]["source"]
    assert listed["demo"]["source"] == ""
    assert "After M. Fathollahi, 2022" in run("study", "list").out


# Train, prune, evaluate


def test_from_training_to_the_pruned_model(run: Run) -> None:
    trained = run("train", *DIGITS, "--epochs", "6", "--out", "lenet.safetensors", "--json").record
    assert [epoch["epoch"] for epoch in trained["history"]] == [1, 2, 3, 4, 5, 6]
    assert 1 <= trained["best_epoch"] <= 6
    assert trained["test_accuracy"] > 0.8
    assert not list(Path().glob("*.checkpoint")), "the checkpoint goes when training is done"

    whole = run("evaluate", *DIGITS, "--weights", "lenet.safetensors", "--json").record
    assert whole["accuracy"] == trained["test_accuracy"]
    assert whole["parameters"] == 64 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10 == 50_610
    assert whole["macs"] == 64 * 300 + 300 * 100 + 100 * 10
    assert len(whole["class_accuracy"]) == 10

    words = ("prune", *DIGITS, "--weights", "lenet.safetensors", "--data", "digits", "--sparsity", "0.5")
    words += ("--criterion", "l2", "--scope", "layer")
    report = run(*words, "--out", "small", "--json").record
    assert report["parameters"] == [50_610, 64 * 150 + 150 + 150 * 50 + 50 + 50 * 10 + 10]
    assert report["macs"] == [50_200, 64 * 150 + 150 * 50 + 50 * 10]
    assert report["accuracy"][0] == trained["test_accuracy"]
    assert report["difference"] < 1e-5
    assert report["frozen"] == {"fc3": "the model's output"}

    small = run("evaluate", *DIGITS, "--pruned", "small", "--json").record
    assert small["accuracy"] == report["accuracy"][1]
    assert small["parameters"] == 17_810
    assert small["pruned_by"] == "l2"
    assert small["speedup"] > 0


def test_losses_and_metrics_by_name_and_by_import_path(run: Run, weights: Path) -> None:
    trained = run("train", *DIGITS, "--epochs", "1", "--loss", "mse", "--out", "mse.safetensors", "--json").record
    assert trained["test_loss"] < 0.2, "squared differences from one-hot vectors"
    rate = ("evaluate", *DIGITS, "--weights", "mse.safetensors", "--json", "--loss")
    assert run(*rate, "mse").record["loss"] == trained["test_loss"]
    path = "torch.nn.functional:cross_entropy"
    both = run(*rate, path, "--metric", path).record
    assert both["metric"] == pytest.approx(both["loss"], rel=1e-5)
    wanted = ("prune", *DIGITS, "--data", "digits", "--weights", "mse.safetensors", "--criterion", "taylor", "--loss")
    assert run(*wanted, "mse", "--out", "small", "--json").record["loss"] == "mse"
    for words, error in (((*rate, "msee"), "did you mean 'mse'"), ((*rate, "nothing:at_all"), "cannot import")):
        done = run(*words)
        assert (done.code, error in done.err) == (1, True), done


def test_training_again_gives_the_same_weights(run: Run) -> None:
    for name in ("a", "b"):
        run("train", *DIGITS, "--epochs", "1", "--seed", "3", "--out", f"{name}.safetensors")
    run("train", *DIGITS, "--epochs", "1", "--seed", "4", "--out", "c.safetensors")
    a, b, c = (Path(f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_plain_prune_prints_the_report(run: Run, weights: Path) -> None:
    done = run("prune", *DIGITS, "--weights", weights, "--sparsity", "0.25", "--criterion", "l1", "--out", "small")
    first, *_, last = done.out.splitlines()
    assert first == "100 of 400 units removed (25.0%): channels by l1, layer"
    assert last == "written to small"


def test_ignored_sites_stay_whole(run: Run, weights: Path) -> None:
    words = ("prune", *DIGITS, "--weights", weights, "--ignore", "fc1", "--out", "small", "--json")
    report = run(*words).record
    assert report["sites"] == [{"name": "fc2", "units": 100, "kept": 50}]
    assert report["frozen"]["fc1"] == "ignored, as asked"


def test_weight_pruning_keeps_the_shapes(run: Run, weights: Path) -> None:
    run("prune", *DIGITS, "--weights", weights, "--unit", "weights", "--sparsity", "0.5", "--out", "sparse")
    rated = run("evaluate", *DIGITS, "--pruned", "sparse", "--json").record
    assert rated["parameters"] == 50_610
    assert rated["nonzero"] <= 50_610 - 25_100


def test_other_rules_than_a_fraction(run: Run, weights: Path) -> None:
    words = ("prune", *DIGITS, "--weights", weights, "--out", "small", "--json")
    by_share = run(*words, "--criterion", "energy", "--cumulative", "0.1").record
    assert by_share["rule"] == {"cumulative": 0.1}
    assert by_share["sparsity"] is None
    by_pattern = run(*words, "--unit", "weights", "--pattern", "2:4").record
    # Inputs of 64, 300 and 100 come in fours.
    assert by_pattern["units_removed"] * 2 == by_pattern["units"]
    done = run(*words, "--sparsity", "0.5", "--pattern", "2:4")
    assert done.code == 1
    assert "sparsity and pattern" in done.err


OWN_MODEL = """
from torch import nn

def small(width=8):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))

def parallel(width=8):
    return nn.DataParallel(small(width))
"""


def test_a_criterion_and_a_repair_look_at_training_images(run: Run, weights: Path) -> None:
    words = ("prune", *DIGITS, "--weights", weights, "--data", "digits", "--scope", "layer", "--sparsity", "0.8")
    plain = run(*words, "--out", "a", "--json").record
    bare = run(*words[:4], *words[6:], "--criterion", "l2", "--out", "d", "--json").record
    exact = run(*words, "--criterion", "taylor", "--images", "200", "--out", "b", "--json").record
    mended = run(*words, "--repair", "least-squares", "--out", "c", "--json").record
    assert exact["criterion"] == "taylor"
    assert exact["macs"] == plain["macs"] == mended["macs"]
    assert mended["repair"] == ["least-squares"]
    assert mended["accuracy"][1] > bare["accuracy"][1]


def test_any_model_on_the_path_can_be_pruned(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    words = ("prune", "own_networks:small", "--set", "width=6", "--input-shape", "1,4", "--out", "small", "--json")
    for factory in ("small", "parallel"):  # what stands around a model is taken off
        report = run("prune", f"own_networks:{factory}", *words[2:]).record
        assert report["parameters"] == [4 * 6 + 6 + 6 * 2 + 2, 4 * 3 + 3 + 3 * 2 + 2]


def test_a_model_that_cannot_be_imported_is_named(run: Run) -> None:
    done = run("prune", "torchless.nothing:Model", "--input-shape", "1,2", "--out", "a")
    assert done.code == 1
    assert "cannot import 'torchless.nothing'" in done.err


def test_a_pruned_folder_can_be_written_again(run: Run, pruned: Path, weights: Path) -> None:
    again = run("prune", *DIGITS, "--weights", weights, "--sparsity", "0.1", "--out", pruned, "--json")
    assert again.record["units_removed"] == 40
    assert run("evaluate", *DIGITS, "--pruned", pruned, "--json").record["parameters"] < 50_610


# To a goal

QUICK = ("--goal", "macs=0.5", "--runtime", "eager", "--round-to", "4", "--train", "epochs=1", "--finish", "epochs=1")


def test_compress_writes_a_model_a_report_and_goes_on(run: Run, weights: Path) -> None:
    words = (
        "compress",
        *DIGITS,
        "--data",
        "digits",
        "--weights",
        weights,
        *QUICK,
        "--max-drop",
        "1",
        "--folder",
        "half",
    )
    record = run(*words, "--json").record
    assert record["compression"]["reached"]
    assert record["compression"]["settings"]["options"]["train"]["epochs"] == 1
    assert record["macs"][1] <= record["macs"][0] / 2
    assert record["runtime"] == "eager"
    assert len(record["accuracy"]) == 2
    assert run("evaluate", *DIGITS, "--pruned", "half/model", "--json").record["accuracy"] == record["accuracy"][1]
    before = {path: path.read_bytes() for path in Path("half").rglob("*") if path.is_file()}
    assert Path("half/report.txt") in before
    again = run(*words)
    assert again.code == 0, again.err
    assert again.out.startswith("WARNING: the network has not learnt: its accuracy is 0.1")  # it had one epoch
    assert "goal macs 0.5: the goal is reached" in again.out
    assert "written to half" in again.out
    assert before == {path: path.read_bytes() for path in Path("half").rglob("*") if path.is_file()}


def test_compress_says_how_it_gets_on(run: Run, weights: Path) -> None:
    done = run(
        "compress", *DIGITS, "--data", "digits", "--weights", weights, *QUICK, "--steps", "1", "--folder", "half"
    )
    assert done.code == 0, done.err
    assert "compress: trial 1: to 50.0% of the macs" in done.err


def test_compress_takes_steps_in_their_order(run: Run, weights: Path) -> None:
    words = ("compress", *DIGITS, "--data", "digits", "--weights", weights, "--runtime", "eager", "--max-drop", "1")
    steps = ("--step", "prune:unit=weights,sparsity=0.5", "--step", "share:bits=3", "--train", "epochs=0")
    done = run(*words, *steps, "--folder", "few", "--json")
    assert done.code == 0, done.err
    steps_done = done.record["compression"]["steps"]
    assert [step["step"] for step in steps_done] == ["Prune(sparsity=0.5, unit='weights')", "Share(bits=3)"]
    assert run("evaluate", *DIGITS, "--pruned", "few/model", "--json").code == 0
    wrong = run(*words, "--step", "shar:bits=3", "--folder", "few")
    assert wrong.code != 0
    assert "unknown step 'shar'; did you mean 'share'?" in wrong.err


def test_compress_writes_a_file_for_the_runtime(run: Run, weights: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    quick = [word for word in QUICK if word not in {"--runtime", "eager"}]
    words = (*quick, "--runtime", "onnxruntime", "--max-drop", "1", "--steps", "1", "--input-shape", "4,1,8,8")
    done = run("compress", *DIGITS, "--data", "digits", "--weights", weights, *words, "--folder", "half")
    assert done.code == 0, done.err
    session = runtime.InferenceSession("half/model.onnx")
    assert session.get_inputs()[0].shape == [4, 1, 8, 8]
    assert "model.onnx: differs from torch by" in Path("half/report.txt").read_text()


def test_ctrl_c_in_compress_says_how_to_go_on(run: Run, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("secateur.compression.work.distill", interrupt)
    done = run("compress", *DIGITS, "--data", "digits", "--weights", weights, *QUICK, "--folder", "half", "--json")
    assert done.code == 130
    assert done.err == "secateur: interrupted; the same command goes on from here\n"


# Errors: one clear line, exit code 1

COMPRESS = ("compress", *DIGITS, "--data", "digits", "--folder", "a", "--runtime", "eager")

REFUSED = {
    "model": (("train", "lenet-300", "--out", "a"), "unknown model 'lenet-300'; did you mean 'lenet-300-100'?"),
    "data": (("train", *DIGITS, "--data", "digit", "--out", "a"), "unknown data set 'digit'; did you mean 'digits'?"),
    "criterion": (("prune", *DIGITS, "--criterion", "l22", "--out", "a"), "unknown criterion 'l22'; did you mean"),
    "study": (("study", "run", "demos"), "unknown study 'demos'; did you mean 'demo'?"),
    "report of no study": (("report", "demos"), "unknown study 'demos'; did you mean 'demo'?"),
    "optimizer": (("train", *DIGITS, "--optimizer", "adams", "--out", "a"), "did you mean 'adam'?"),
    "criterion without data": (
        ("prune", *DIGITS, "--criterion", "taylor", "--out", "a"),
        "--criterion taylor looks at images: name a data set with --data",
    ),
    "repair without data": (("prune", *DIGITS, "--repair", "bias", "--out", "a"), "--repair looks at images"),
    "unit": (("prune", *DIGITS, "--unit", "weight", "--out", "a"), "did you mean 'weights'?"),
    "scope": (("prune", *DIGITS, "--scope", "layers", "--out", "a"), "did you mean 'layer'?"),
    "ignored site": (("prune", *DIGITS, "--ignore", "fc9", "--out", "a"), "unknown site to ignore 'fc9'"),
    "sparsity above 1": (
        ("prune", *DIGITS, "--sparsity", "1.5", "--out", "a"),
        "sparsity=1.5 must be a number in [0, 1]: the fraction removed",
    ),
    "sparsity below 0": (
        ("prune", *DIGITS, "--sparsity", "-0.1", "--out", "a"),
        "sparsity=-0.1 must be a number in [0, 1]: the fraction removed",
    ),
    "sparsity nan": (
        ("prune", *DIGITS, "--sparsity", "nan", "--out", "a"),
        "sparsity=nan must be a number in [0, 1]: the fraction removed",
    ),
    "everything": (("prune", *DIGITS, "--sparsity", "1", "--scope", "global", "--out", "a"), "keeps at least 1"),
    "epochs": (("train", *DIGITS, "--epochs", "-1", "--out", "a"), "epochs=-1"),
    "learning rate": (("train", *DIGITS, "--lr", "0", "--out", "a"), "lr=0.0"),
    "batch": (("train", *DIGITS, "--batch-size", "0", "--out", "a"), "batch_size=0"),
    "validation": (("train", *DIGITS, "--validation", "2", "--out", "a"), "validation is 2.0"),
    "seed": (("train", *DIGITS, "--seed", "-1", "--out", "a"), "seed=-1 must be"),
    "input shape": (("prune", *DIGITS, "--input-shape", "1,1,9,9", "--out", "a"), "(1, 1, 9, 9)"),
    "no input shape": (("prune", *DIGITS, "--input-shape", "big", "--out", "a"), "--input-shape 'big'"),
    "empty input": (("prune", *DIGITS, "--input-shape", "0,1,8,8", "--out", "a"), "at least one sample"),
    "no weights": (("prune", *DIGITS, "--weights", "none.safetensors", "--out", "a"), "none.safetensors: not found"),
    "no folder": (("evaluate", *DIGITS, "--pruned", "none"), "none/secateur.json: not found"),
    "both": (("evaluate", *DIGITS, "--pruned", "a", "--weights", "b"), "give --weights or --pruned, not both"),
    "no value": (
        ("prune", "lenet-300-100", "--set", "input_size", "--out", "a"),
        "--set 'input_size': write KEY=VALUE",
    ),
    "no key": (("prune", "lenet-300-100", "--set", "=8", "--out", "a"), "--set '=8': write KEY=VALUE"),
    "option": (("prune", "lenet-300-100", "--set", "input=8", "--out", "a"), "unknown option of lenet-300-100 'input'"),
    "option's value": (("prune", "lenet-300-100", "--set", "input_size=big", "--out", "a"), "input_size is 'big'"),
    "data folder": (("evaluate", "lenet-300-100", "--data", "mnist", "--data-dir", "none"), "there is no folder none"),
    "threads": (("evaluate", *DIGITS, "--threads", "0"), "threads=0"),
    "seeds": (("study", "run", "demo", "--seeds", "0"), "--seeds 0: give 1 or more"),
    "jobs": (("study", "run", "demo", "--jobs", "0"), "--jobs 0: give 1 or more"),
    "threads of a study": (("study", "run", "demo", "--threads", "-1"), "--threads -1: give 1 or more"),
    "where": (("study", "run", "demo", "--on", "procesess"), "unknown executor 'procesess'; did you mean 'processes'?"),
    "where and how many": (("study", "run", "demo", "--on", "serial", "--jobs", "2"), "does 1 cell at a time, not 2"),
    "study's value": (("study", "run", "demo", "--set", "epochs"), "--set 'epochs': write KEY=VALUE"),
    "no store": (("report", "demo", "--store", "none"), "there is no store at none"),
    "goal": ((*COMPRESS, "--goal", "speed=0.5"), "unknown goal 'speed'"),
    "goal's form": ((*COMPRESS, "--goal", "latency"), "--goal 'latency': write KEY=VALUE, such as latency=0.5"),
    "goal's value": ((*COMPRESS, "--goal", "macs=2"), "above 0 and below 1"),
    "metric": ((*COMPRESS, "--metric", "acuracy"), "did you mean 'accuracy'?"),
    "option of a training": (
        (*COMPRESS, "--train", "epoch=2"),
        "unknown option of --train 'epoch'; did you mean 'epochs'?",
    ),
    "value of a training": ((*COMPRESS, "--finish", "epochs=-1"), "epochs=-1"),
    "runtime": ((*COMPRESS[:-1], "eagre"), "unknown runtime 'eagre'; did you mean 'eager'?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_clear_line_and_exit_code_1(run: Run, case: str, tmp_path: Path) -> None:
    words, wanted = REFUSED[case]
    done = run(*words)
    assert done.code == 1
    assert wanted in done.err
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("secateur: ")
    assert not done.out
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_data_that_do_not_fit_the_model_are_named(run: Run) -> None:
    words = ("--set", "input_size=28", "--data", "digits", "--epochs", "1", "--out", "a")
    done = run("train", "lenet-300-100", *words)
    assert done.code == 1
    assert "does not take inputs of shape (2, 1, 8, 8)" in done.err


def test_damaged_weights_are_refused(run: Run, weights: Path, tmp_path: Path) -> None:
    whole = weights.read_bytes()
    for name, content in {"half": whole[: len(whole) // 2], "noise": os.urandom(999), "empty": b""}.items():
        bad = tmp_path / f"{name}.safetensors"
        bad.write_bytes(content)
        done = run("prune", *DIGITS, "--weights", bad, "--out", "a")
        assert done.code == 1, name
        assert "cannot be read as weights" in done.err, name
        assert len(done.err.splitlines()) == 1, name
    assert not (tmp_path / "a").exists()


def test_weights_of_another_model_are_refused(run: Run, weights: Path) -> None:
    done = run("prune", "lenet-300-100", "--weights", weights, "--out", "a")
    assert done.code == 1
    assert "the first 'fc1.weight'" in done.err


def test_weights_that_would_run_code_are_refused(run: Run, tmp_path: Path) -> None:
    torch.save({"fc1.weight": Trap()}, tmp_path / "trap.pt")
    done = run("prune", *DIGITS, "--weights", "trap.pt", "--out", "a")
    assert done.code == 1
    assert "cannot be read as weights" in done.err
    assert not (tmp_path / "sprung").exists()


class Trap:
    """An object whose unpickling makes a file."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, ("sprung", "w")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink], ids=["flipped bit", "truncated", "deleted"])
@pytest.mark.parametrize("name", ["model.safetensors", "edits.safetensors", "secateur.json"])
def test_a_tampered_folder_is_refused(run: Run, pruned: Path, name: str, harm: Callable[[Path], None]) -> None:
    harm(pruned / name)
    done = run("evaluate", *DIGITS, "--pruned", pruned)
    assert done.code == 1
    assert name in done.err
    assert len(done.err.splitlines()) == 1
    assert not done.out


def test_a_folder_of_another_architecture_is_refused(run: Run, pruned: Path) -> None:
    done = run("evaluate", "ann-128", "--set", "input_size=8", "--pruned", pruned)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1


def test_places_that_cannot_be_written_are_named(run: Run, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for out, wanted in (("file", "is a file"), ("full", "holds other files"), ("file/inside", "file")):
        done = run("prune", *DIGITS, "--weights", weights, "--out", out)
        assert done.code == 1, out
        assert wanted in done.err, out
    assert run("train", *DIGITS, "--epochs", "1", "--out", "file/weights.safetensors").code == 1
    assert run("study", "run", *TINY_STUDY, *TINY_METHODS, "--store", "file").code == 1
    assert (tmp_path / "file").read_text() == "mine"
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]


# Stopping and going on


def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the steps of Adam from here on."""
    taken = [0]
    plain = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        taken[0] += 1
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    return taken


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_training_goes_on_where_it_was_stopped(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    epochs, steps = 40, 11  # 1,350 images in batches of 128
    words = ("train", *DIGITS, "--epochs", str(epochs), "--out")
    checkpoint = tmp_path / "stopped.safetensors.checkpoint"
    stopped = stop(start(tmp_path, *words, "stopped.safetensors"), checkpoint.exists, how)
    assert stopped.code == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in stopped.err
    assert not (tmp_path / "stopped.safetensors").exists()

    taken = steps_taken(monkeypatch)
    assert run(*words, "stopped.safetensors").code == 0
    assert 0 < taken[0] < epochs * steps, "it goes on, rather than begins again"
    assert not checkpoint.exists()
    assert run(*words, "straight.safetensors").code == 0
    assert (tmp_path / "stopped.safetensors").read_bytes() == (tmp_path / "straight.safetensors").read_bytes()


def finished(store: Path) -> dict[str, str]:
    """The finished cells of a store with the time of each."""
    database = store / "records.sqlite"
    if not database.exists():
        return {}
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return dict(connection.execute("SELECT id, created FROM records").fetchall())
    except sqlite3.OperationalError:
        return {}  # the table is not there yet
    finally:
        connection.close()


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_a_study_goes_on_and_repeats_nothing(run: Run, tmp_path: Path, how: signal.Signals, jobs: str) -> None:
    grid = (*TINY_STUDY[:-1], "sparsities=[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9]", *TINY_METHODS)
    words = ("study", "run", *grid, "--jobs", jobs)
    store = tmp_path / "store"
    stopped = stop(start(tmp_path, *words, "--store", "store"), lambda: len(finished(store)) >= 3, how)
    assert stopped.code == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in stopped.err
    if how == signal.SIGINT:
        assert stopped.err.count("interrupted") == 1
        assert stopped.err.splitlines()[-1].endswith("; the same command goes on from here")
    before = finished(store)
    assert 3 <= len(before) < 19, "it was stopped in the middle"

    *events, rest = run(*words, "--store", "store", "--json").records
    assert {event["event"] for event in events} == {"begin", "started", "done", "summary"}
    assert sum(event["event"] == "done" for event in events) == 19 - len(before)
    assert rest["event"] == "report"
    assert rest["run"].startswith(f"{19 - len(before)} done, {len(before)} found")
    after = finished(store)
    assert len(after) == 1 + 2 * 9
    assert before.items() <= after.items(), "what was finished is not computed again"
    assert (store / "report" / "report.html").exists()


# Studies and reports


def test_a_study_runs_and_its_report_is_written_again(run: Run, tmp_path: Path) -> None:
    first = run("study", "run", *TINY_STUDY, *TINY_METHODS)
    assert first.code == 0, first.err
    assert "3 done" in first.err
    page = tmp_path / "runs" / "demo" / "report" / "report.html"
    assert first.out.splitlines()[-1] == f"report: {page}"
    assert "neuron cut 50 %" in first.out
    written = page.read_text(encoding="utf-8")
    page.unlink()

    again = run("report", *TINY_STUDY, *TINY_METHODS, "--json").record
    assert again["report"].endswith("report.html")
    assert page.read_text(encoding="utf-8") == written
    assert len(finished(tmp_path / "runs" / "demo")) == 3

    page.unlink()
    of_the_store = run("report", str(tmp_path / "runs" / "demo"), "--json").record
    assert of_the_store["report"].endswith("runs/demo/report/report.html"), "a store knows its study and its options"
    assert page.read_text(encoding="utf-8") == written

    quiet = run("study", "run", *TINY_STUDY, *TINY_METHODS, "--quiet")
    assert quiet.out == f"report: {page}\n"
    assert not quiet.err


def test_the_runs_can_be_elsewhere(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_RUNS", str(tmp_path / "elsewhere"))
    assert run("report", "demo").code == 1
    assert "elsewhere/demo" in run("report", "demo").err


BAD_OPTIONS = {
    "no such option": (("epoch=1",), "unknown option"),
    "sparsities is no list": (("sparsities=3",), "sparsities is 3; give a list of numbers from 0 to 1"),
    "seeds is no number": (("seeds=many",), "seeds is 'many'"),
    "seeds below 1": (("seeds=-1",), "seeds is -1"),
    "no such method": (('methods=["weigth"]',), "'weigth'; did you mean 'weight'?"),
    "no such data": (("data=digit",), "unknown data set 'digit'"),
    "no such option of the model": (('model_options={"size":8}',), "unknown option of lenet-300-100 'size'"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_of_a_study_are_one_clear_line(run: Run, case: str, tmp_path: Path) -> None:
    words, wanted = BAD_OPTIONS[case]
    done = run("study", "run", "demo", *(w for pair in words for w in ("--set", pair)))
    assert done.code == 1
    assert wanted in done.err
    assert len(done.err.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing is left behind"


# Sizes from the data, and models that no one knows


def test_the_data_decide_the_sizes_of_a_named_model(run: Run) -> None:
    assert run("train", "lenet-300-100", "--epochs", "1", "--out", "w.safetensors").code == 0
    words = ("lenet-300-100", "--weights", "w.safetensors", "--data", "digits")
    report = run("prune", *words, "--scope", "layer", "--out", "small", "--json").record
    assert report["parameters"] == [50_610, 25_353]
    small = run("evaluate", "lenet-300-100", "--pruned", "small", "--json").record
    assert small["accuracy"] == report["accuracy"][1]
    assert run("prune", "lenet-300-100", "--out", "b", "--json").record["parameters"][0] == 266_610


def test_what_is_set_wins_over_the_data(run: Run) -> None:
    words = ("--data", "digits", "--set", "classes=12", "--out", "a", "--json")
    report = run("prune", "lenet-300-100", *words).record
    assert report["parameters"][0] == 64 * 300 + 300 + 300 * 100 + 100 + 100 * 12 + 12


def test_weights_of_other_sizes_ask_for_the_same_data(run: Run, weights: Path) -> None:
    done = run("prune", "lenet-300-100", "--weights", weights, "--out", "a")
    assert "the same --data and --set as in training" in done.err
    assert run("prune", "lenet-300-100", "--weights", weights, "--data", "digits", "--out", "a").code == 0


def test_a_model_of_unknown_input_asks_for_its_shape(run: Run) -> None:
    done = run("prune", "torch.nn:Linear", "--set", "in_features=4", "--set", "out_features=2", "--out", "a")
    assert done.code == 1
    assert "--input-shape" in done.err


def test_an_imported_model_is_pruned_and_evaluated(run: Run) -> None:
    words = ("secateur.models.mlp:lenet_300_100", "--set", "input_size=8")
    assert run("prune", *words, "--input-shape", "1,1,8,8", "--out", "a").code == 0
    whole = run("evaluate", *words, "--json").record
    assert whole["parameters"] == 50_610
    again = run("evaluate", *words, "--pruned", "a", "--input-shape", "2,1,8,8", "--json").record
    assert again["macs"] < 2 * whole["macs"]
    assert "--input-shape 'x'" in run("evaluate", *words, "--input-shape", "x").err


# How it starts and ends


def test_python_m_secateur_is_the_program(tmp_path: Path) -> None:
    source = str(Path(secateur.__file__).parents[1])
    words = [sys.executable, "-m", "secateur", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": source})
    assert done.stdout == f"secateur {secateur.__version__}\n"


def test_help_calls_the_program_by_its_name_and_shows_examples(run: Run) -> None:
    assert run("--help").out.startswith("Usage: secateur [OPTIONS]")
    for command in ("train", "prune", "evaluate", "report"):
        done = run(command, "--help")
        assert f"  secateur {command} " in done.out.partition("Example")[2]
        assert "list[str]" not in done.out.partition("Options")[2]


def secateur_process(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The program as people start it, in a process of its own."""
    source = str(Path(secateur.__file__).parents[1])
    variables = {**os.environ, "PYTHONPATH": source, **environment}
    return subprocess.run([sys.executable, *words], capture_output=True, check=False, env=variables)


@pytest.mark.parametrize("words", [("--help",), ("--version",), (), ("study", "--help"), ("runs", "list", "--help")])
def test_help_and_version_need_no_torch(words: tuple[str, ...]) -> None:
    code = (
        "import sys; from secateur.__main__ import main\n"
        f"sys.argv = ['secateur', *{words!r}]\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = secateur_process("-c", code)
    assert done.stderr.decode().splitlines()[-1] == "[]"
    assert done.returncode == (0 if words else 2)


def test_the_list_of_commands_is_that_of_their_modules() -> None:
    group: Any = typer.main.get_command(cli.app)
    for name, (_, words) in MODULES.items():
        assert group.commands[name].help.strip().partition("\n\n")[0].replace("\n", " ") == words, name
    assert list(group.commands) == list(MODULES)
    assert set(group.commands.registered) == set(MODULES)
    assert {entry.name or "" for entry in cli.app.registered_groups} == {"study", "runs"}


def test_words_that_a_terminal_cannot_spell_are_no_error(weights: Path, tmp_path: Path) -> None:
    words = ("-m", "secateur", "prune", *DIGITS, "--weights", str(weights), "--data", "digits", "--criterion", "l2")
    done = secateur_process(*words, "--out", str(tmp_path / "small"), PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"accuracy" in done.stdout
    assert b" ? " in done.stdout  # the arrow
    odd = secateur_process("-m", "secateur", "report", os.fsdecode(b"mine\xff.toml"))
    assert odd.returncode == 1
    assert odd.stderr.startswith(b"secateur: cannot read mine?.toml")
    assert odd.stderr.count(b"\n") == 1


@pytest.mark.parametrize("wrapped", ["KeyboardInterrupt()", "ImportError('numpy failed to import')"])
def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path: Path, wrapped: str) -> None:
    """Also where an import that it breaks makes an error of its own of it."""
    text = f"try: raise KeyboardInterrupt\nexcept KeyboardInterrupt as cut: raise {wrapped} from cut"
    (tmp_path / "torch.py").write_text(text)
    path = os.pathsep.join([str(tmp_path), str(Path(secateur.__file__).parents[1])])
    done = secateur_process("-m", "secateur", "list", PYTHONPATH=path)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"secateur: interrupted\n")


def test_ctrl_c_by_a_signal_during_the_imports(tmp_path: Path) -> None:
    """A real one, at the moment when torch is being imported, and before the commands are."""
    source = str(Path(secateur.__file__).parents[1])
    for module in ("torch", "typer"):
        folder = tmp_path / module
        folder.mkdir()
        (folder / f"{module}.py").write_text("import time, pathlib\npathlib.Path('there').touch()\ntime.sleep(60)")
        path = os.pathsep.join([str(folder), source])
        words = [sys.executable, "-m", "secateur", "list"]
        environment = {**os.environ, "PYTHONPATH": path}
        with subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, env=environment) as process:
            while not (folder / "there").exists():
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (130, b"secateur: interrupted\n"), module


def test_no_command_imports_torch_before_it_runs() -> None:
    """A command's module may take the options that it derives its own from; all else waits until it runs."""
    heavy = {"torch", "rich", "numpy"}
    derived_from = {"secateur.pruning", "secateur.compression"}
    for path in Path(cli.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] not in heavy, f"{path.name} imports {name}"
                ours = name.startswith("secateur") and not name.startswith("secateur.cli")
                assert not ours or name in derived_from, f"{path.name}: {name}"


def test_ctrl_c_in_any_command_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "build", interrupt)
    done = run("prune", *DIGITS, "--out", "a")
    assert (done.code, done.out, done.err) == (130, "", "secateur: interrupted\n")


def test_import_paths_reach_modules_of_the_working_folder_after_all_others(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my_network.py").write_text(
        "from torch.nn import *\ndef made(): return Sequential(Linear(4, 8), Linear(8, 2))\n"
    )
    (tmp_path / "secateur.py").write_text("raise RuntimeError('hides the library')")
    done = run("inspect", "my_network:made", "--input-shape", "1,4", "--json")
    assert [site["units"] for site in done.record["sites"]] == [8]
    sys.modules.pop("my_network")


def test_export_takes_the_shape_of_the_data_for_a_network_of_ones_own(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "own_network.py").write_text(
        "from torch.nn import *\ndef made(): return Sequential(Flatten(), Linear(64, 8), ReLU(), Linear(8, 10))\n"
    )
    done = run("export", "own_network:made", "--data", "digits", "--out", "own.onnx", "--json")
    assert (done.code, done.err) == (0, "")
    sys.modules.pop("own_network")


def test_a_full_disk_is_one_clear_line(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = run("prune", *DIGITS, "--out", "small")
    assert done.code == 1
    assert done.err.startswith("secateur: small: cannot be written ([Errno 28] No space left on device)")
    assert len(done.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_weights_are_loaded_as_they_were_saved(weights: Path) -> None:
    model = models.build("lenet-300-100", input_size=8, seed=1)
    load_weights(weights, model)
    wanted = models.build("lenet-300-100", input_size=8, seed=0).state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
