"""The coverage benchmark: what it records, that it goes on where it stopped, and that it survives what it runs."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zoo

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import coverage_table  # noqa: E402
from coverage_models import Case, cases, sample  # noqa: E402

# By its file, because a well-known package has the same name.
_SPEC = importlib.util.spec_from_file_location("coverage_benchmark", BENCHMARKS / "coverage.py")
assert _SPEC is not None
assert _SPEC.loader is not None
coverage = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(coverage)

import survey  # noqa: E402
import survey_worker  # noqa: E402

LIMITS = argparse.Namespace(seconds=60, gigabytes=14)


def row(**changes: Any) -> dict[str, Any]:
    plain = {"suite": "zoo", "family": "zoo", "model": "unet", "side": "ours", "passed": True, "stage": "done"}
    return {**plain, "removed": 0.4, "own_difference": 1e-7, "forward_s": 1.0, "trace_s": 3.0, "cut_s": 2.0, **changes}


def test_a_model_that_passes() -> None:
    case = next(c for c in cases("zoo") if c.name == "residual")
    found = coverage._in_child(case, "ours", LIMITS)
    assert found["passed"], found
    before, after = found["parameters"]
    assert before == sum(p.numel() for p in zoo.build("residual")[0].parameters())
    assert found["removed"] == pytest.approx(1 - after / before, abs=1e-4)
    assert found["own_difference"] < 1e-5
    assert not found["vacuous"]
    assert found["form"] == "module"


def test_a_model_without_hidden_units_is_said_not_to_pass() -> None:
    case = Case("zoo", "zoo", "line", lambda: (nn.Linear(3, 2), (torch.ones(1, 3),)))
    found = coverage._in_child(case, "ours", LIMITS)
    assert not found["passed"]
    assert found["stage"] == "select"
    assert "nothing of this model can be removed" in found["error"]


def test_a_model_that_cannot_be_built() -> None:
    case = Case("zoo", "zoo", "broken", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    found = coverage._in_child(case, "ours", LIMITS)
    assert (found["stage"], found["error_type"], found["passed"]) == ("build", "ZeroDivisionError", False)


def test_a_model_that_never_ends_is_stopped() -> None:
    def make() -> Any:
        while True:
            pass

    found = coverage._in_child(Case("zoo", "zoo", "endless", make), "ours", argparse.Namespace(seconds=1, gigabytes=14))
    assert (found["stage"], found["error"]) == ("build", "over 1 CPU seconds")


def test_a_model_that_kills_its_process() -> None:
    def make() -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    found = coverage._in_child(Case("zoo", "zoo", "dead", make), "ours", LIMITS)
    assert (found["stage"], found["error"]) == ("build", "the process ended with SIGKILL")


def test_what_has_a_row_is_skipped(tmp_path: Path) -> None:
    results = tmp_path / "rows.jsonl"
    rows = [row(model="unet", passed=False), row(model="unet"), row(model="lstm", passed=False)]
    results.write_text("\n".join(map(json.dumps, rows)) + '\n{"suite": "zoo", "mod', encoding="utf-8")
    done = coverage._read(results)
    assert {model: r["passed"] for (_, model, _), r in done.items()} == {"unet": True, "lstm": False}

    def left(again: str | None, match: str = "*") -> set[str]:
        options = argparse.Namespace(ours=True, peer=False, again=again, match=match, sample=None, seed=0)
        return {case.name for case, _ in coverage._work("zoo", options, done)}

    assert left(None) == set(zoo.ZOO) - {"unet", "lstm"}
    assert left("failed") == set(zoo.ZOO) - {"unet"}
    assert left("graph") == set(zoo.ZOO) - {"unet"}
    assert left("all") == set(zoo.ZOO)
    assert left("all", match="unet") == {"unet"}


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    results = tmp_path / "rows.jsonl"
    command = [sys.executable, str(BENCHMARKS / "coverage.py"), "--only", "zoo", "--match", "buffer*", "--no-peer"]
    command += ["--jobs", "1", "--results", str(results)]
    results.write_text(json.dumps(row(model="buffer_scale")) + "\n" + '{"suite": "zoo", "mod', encoding="utf-8")
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "[1/" not in said
    said = subprocess.run([*command, "--again", "all"], capture_output=True, text=True, check=True, timeout=120).stdout
    assert "[1/1] ours  pass zoo/buffer_scale" in said


def test_lines() -> None:
    assert (
        coverage_table.line(row()) == "ours  pass zoo/unet: 40% removed, 1e-07 apart, forward 1.0s trace 3.0s cut 2.0s"
    )
    failed = row(passed=False, stage="cut", error_type="CutError", error="no")
    assert coverage_table.line(failed) == "ours  FAIL zoo/unet: cut: CutError: no"


def test_table_counts_each_side() -> None:
    rows = [row(), row(side="peer"), row(model="b"), row(model="b", side="peer", passed=False, error="index")]
    said = coverage_table.table(rows, markdown=True)
    assert "| zoo | 2 | 2 | 1 | 1 | 1 | 0 |" in said
    assert "ours: of 2 2 cut and exact (100%), 0 as graphs (0%), 0 wrong (0%)" in said
    assert "peer: of 2 1 cut and exact (50%), 0 as graphs (0%), 1 wrong (50%)" in coverage_table.table(
        [*rows[:3], {**rows[3], "wrong": True}]
    )
    assert "ours: median trace 3.0 ×, cut 2.0 × one forward pass" in said
    assert "- zoo/b: done: index" in said
    assert "–" in coverage_table.table([row()])


def test_the_list_of_timm_models_has_every_module_once() -> None:
    lines = [line.split() for line in (BENCHMARKS / "timm_models.txt").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len({module for module, _ in lines}) == 98
    assert all(len(line) == 2 for line in lines)


class TestSurvey:
    """The survey of cut models on what the cut has not seen: what it says of good and of bad ones."""

    options = argparse.Namespace(seconds=60, gigabytes=14, scores="random")

    def row(self, toy: str, monkeypatch: pytest.MonkeyPatch, spoil: Any = None) -> dict[str, Any]:
        if spoil is not None:
            cut = survey_worker.cut_with_plan

            def spoilt(model: nn.Module, *args: Any) -> Any:
                made = cut(model, *args)
                spoil(model, made.model)
                return made

            monkeypatch.setattr(survey_worker, "cut_with_plan", spoilt)
        found: dict[str, Any] = survey._in_child(next(c for c in cases("zoo") if c.name == toy), self.options)
        return found

    def test_right(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.row("layer_norm", monkeypatch)
        assert found["verdict"] == "right", found
        assert found["difference"] < 1e-13
        assert found["removed"] > 0.1
        assert survey.line(found).startswith("right   zoo/layer_norm: module")

    def test_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def spoil(_model: nn.Module, small: nn.Module) -> None:
            next(m for m in small.modules() if isinstance(m, nn.LayerNorm)).eps *= 1.1

        found = self.row("layer_norm", monkeypatch, spoil)
        assert found["verdict"] == "wrong"
        assert "wrong with" in found["error"]
        assert "drawn weights" in found["error"]

    def test_touched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def spoil(model: nn.Module, _small: nn.Module) -> None:
            next(model.buffers()).add_(1)

        found = self.row("residual", monkeypatch, spoil)
        assert (found["verdict"], "running_mean" in found["error"]) == ("touched", True)

    def test_narrow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def spoil(_model: nn.Module, small: nn.Module) -> None:
            def one_batch(_module: nn.Module, inputs: Any) -> None:
                assert len(inputs[0]) == 2, "another batch"

            small.register_forward_pre_hook(one_batch)

        found = self.row("residual", monkeypatch, spoil)
        assert (found["verdict"], "another batch" in found["error"]) == ("narrow", True)

    def test_refused(self) -> None:
        toy = zoo.REFUSED[next(iter(zoo.REFUSED))]
        case = Case("zoo", "zoo", "refused", lambda: (toy.make(), toy.inputs()))
        found = survey._in_child(case, self.options)
        assert (found["verdict"], found["stage"]) == ("refused", "trace")

    def test_tables(self) -> None:
        good = {"suite": "zoo", "model": "a", "verdict": "right", "form": "graph", "own_shapes": True}
        rows = [good | {"difference": 1e-15, "removed": 0.4}]
        rows += [{"suite": "zoo", "model": "b", "verdict": "refused", "stage": "trace", "error": "no"}]
        assert survey.table(rows) == "zoo: 2 models; 1 refused, 1 right\n\nrefused zoo/b: trace: : no"
        assert "| a | right | graph, of these shapes alone | 40% | 1e-15 |" in survey.markdown(rows)


def test_the_survey_has_its_families() -> None:
    from coverage_transformers import MODELS

    assert len(MODELS) >= 150


@pytest.mark.parametrize("suite", ["diffusers", "geometric", "monai", "segmentation"])
def test_a_corpus_lists_its_models_without_its_library(suite: str) -> None:
    names = [case.name for case in cases(suite)]
    assert len(names) == len(set(names)) > 35
    drawn = [case.name for case in sample(suite, 7, seed=1)]
    assert drawn == [case.name for case in sample(suite, 7, seed=1)]
    assert drawn == sorted(drawn, key=names.index)
    assert drawn != [case.name for case in sample(suite, 7, seed=2)]
    assert len(drawn) == 7
    assert [case.name for case in sample(suite, 10**4, seed=1)] == names
