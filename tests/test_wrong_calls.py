"""Wrong calls of the whole public API and of the command line, made from type hints and options: each is told in our words.

New functions and commands are covered as soon as they are public.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import click
import pytest
import torch
import typer

import secateur as sc
from secateur import cli
from secateur.cli.root import app
from secateur.testing.toys import same_state, snapshot
from wrong_calls import call, files_below, modules_of, public, stock, wrong_calls

UNTRIED = {("sc.measure.bench", "memory")}
"""Where any value will do, and the right call takes long."""

CALLS = list(
    dict.fromkeys((name, argument) for name, _, argument, _ in wrong_calls() if (name, argument) not in UNTRIED)
)


def test_the_table_is_long_and_covers_the_public_face() -> None:
    assert len(CALLS) > 400
    reached = {name for name, _ in CALLS}
    functions = [name for name, called in public() if not isinstance(called, type)]
    assert len([name for name in functions if name in reached]) > 0.6 * len(functions)


def test_the_types_of_every_class_can_be_looked_at() -> None:
    """One that says a type that its module does not import would be let through unseen."""
    for name, called in public():
        if isinstance(called, type):
            assert {field.name for field in fields(called)} <= {*get_type_hints(called)}, name


@pytest.mark.parametrize("name", sorted({name for name, _ in CALLS}))
def test_wrong_arguments(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of ours that names the function, the argument or what it holds; a class refuses it when it is made."""
    monkeypatch.chdir(tmp_path)
    known = stock()
    before = {role: snapshot(model) for role, model in modules_of(known).items()}
    for named, called, argument, words in wrong_calls():
        if named != name or (name, argument) in UNTRIED:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                call(called, argument, words, known)
                assert not isinstance(called, type), f"{argument}={words} is taken"
            except sc.SecateurError as error:
                told = str(error)
                short = name.rpartition(".")[2]
                assert len(told) > 15, f"{argument}={words}: {told}"
                assert any(
                    word in told
                    for word in (
                        argument,
                        short,
                        short.lower(),
                        "unknown",
                        argument.rstrip("s"),
                        "model",
                        "sites",
                        "data",
                        ":",
                    )
                ), told
    assert not files_below(tmp_path)
    for role, model in modules_of(known).items():
        assert role in ("model", "before", "after", "original") or same_state(before[role], snapshot(model))
    if not name.endswith((".fit", ".distill")):  # which train what they are given
        assert same_state(before["model"], snapshot(known["model"]))


# What goes wrong by more than its type


HAND: list[tuple[str, Any, str]] = [
    *[(f"sc.prune {key}={value!r}", (key, value), words) for key, value, words in [
        ("sparsity", 1.5, r"sparsity=1\.5 must be a number in \[0, 1\]"),
        ("sparsity", -0.1, r"sparsity=-0\.1"),
        ("sparsity", float("nan"), "sparsity=nan"),
        ("criterion", "l22", "unknown criterion 'l22'; did you mean 'l2'"),
        ("criterion", "taylor", "data"),
        ("scope", "globl", "did you mean 'global'"),
        ("unit", "weight", "did you mean 'weights'"),
        ("ignore", ["nope"], "nope"),
        ("budget", {"mac": 0.5}, "macs"),
        ("budget", {"macs": -1}, "macs"),
        ("round_to", 0, "round_to=0"),
        ("repair", "nope", "repair needs data"),
        ("form", "grph", "did you mean 'graph'"),
        ("tolerance", -1.0, "tolerance=-1.0"),
        ("steps", 3, "steps"),
    ]],
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), [(c, m) for _, c, m in HAND], ids=[i for i, _, _ in HAND])
def test_values_out_of_range(changes: tuple[str, Any], message: str) -> None:
    known = stock()
    before = snapshot(known["model"])
    with pytest.raises(sc.SecateurError, match=message):
        sc.prune(known["model"], known["example_inputs"], **{"latency": False, **dict([changes])})
    assert same_state(before, snapshot(known["model"]))


# The command line

WORDS = ("no such thing", "-7.5", "", "../..", "[[[")


def commands(group: Any = None, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    group = group or typer.main.get_command(app)
    listed = []
    for name in group.list_commands(click.Context(group)):
        command = group.commands[name]
        listed += commands(command, (*path, name)) if hasattr(command, "commands") else [((*path, name), command)]
    return listed


def option_calls() -> list[tuple[str, ...]]:
    """Each command with each of its options and a value that it cannot have, besides what it needs."""
    calls: list[tuple[str, ...]] = [("no-such-command",), ("--no-such-option",)]
    for path, command in commands():
        calls += [(*path, "--no-such-option"), (*path, *["superfluous"] * 9)]
        for parameter in command.params:
            if getattr(parameter, "is_flag", False) or parameter.name in ("help", "yes"):
                continue
            flag = max(parameter.opts, key=len)
            calls += [(*path, *([flag] if flag.startswith("-") else []), word) for word in WORDS]
    return calls


def test_there_are_many_wrong_commands() -> None:
    assert len(option_calls()) > 300


@pytest.mark.parametrize("path", [" ".join(path) for path, _ in commands()] + ["no-such-command", "--no-such-option"])
def test_wrong_commands(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Usage errors end with 2, others with 1 and one line; nothing is written, and there is no traceback."""
    monkeypatch.chdir(tmp_path)
    for words in option_calls():
        if words[: len(path.split())] != tuple(path.split()):
            continue
        monkeypatch.setattr(sys, "argv", ["secateur", *words])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        assert code in (0, 1, 2), (words, said.err)
        assert "Traceback" not in said.err, words
        assert code == 0 or said.err.strip() or said.out.strip(), words
        if code == 1:
            assert said.err.splitlines()[-1].startswith("secateur: "), (words, said.err)
    assert torch.get_num_threads() == 1
