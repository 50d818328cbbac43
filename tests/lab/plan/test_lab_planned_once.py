"""A study is planned once, whatever is done with it: its options are settled and checked once, it is looked up once."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secateur import cli, studies
from secateur.lab import Store, Study, build_report, run_study
from secateur.lab.plan.options import Options
from secateur.lab.plan.study import Planned
from secateur.studies import STUDIES, by_name
from secateur.types import InputError

FEW = {"seeds": 1, "epochs": 1, "sparsities": [0.5], "methods": ["weight", "neuron"], "dense": []}


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the demo is looked up, settled, checked and planned."""
    counts: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return function(*args, **kwargs)

        return count

    monkeypatch.setattr(Study, "settle", counted("settled", Study.settle))
    monkeypatch.setattr(Options, "check", counted("checked", Options.check))
    monkeypatch.setattr(studies, "by_name", counted("looked up", by_name))
    demo = STUDIES["demo"]
    monkeypatch.setitem(STUDIES, "demo", replace(demo, cells=counted("planned", demo.cells)))
    return counts


def test_a_run_with_its_report_plans_once(
    counts: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--set={name}={value}" for name, value in FEW.items() if name not in ("seeds", "methods")]
    words += ["--seeds", "1", '--set=methods=["weight","neuron"]', "--store", str(tmp_path), "--quiet"]
    monkeypatch.setattr(sys, "argv", ["secateur", "study", "run", "demo", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0, capsys.readouterr().err
    assert counts == {"looked up": 1, "settled": 1, "checked": 1, "planned": 1}
    assert len(Store(tmp_path).ids()) == 3


def test_what_is_planned_is_run_and_reported_without_planning_again(counts: Counter[str], tmp_path: Path) -> None:
    planned = STUDIES["demo"].planned(FEW)
    store = Store(tmp_path)
    assert run_study(planned, store, progress=False, executor="serial").exit_code == 0
    assert "--set epochs=1" in build_report(planned, store).command
    assert counts == {"settled": 1, "checked": 1, "planned": 1}
    assert len(planned.results(store).frame) == len(planned.cells) == 3


def test_options_are_given_when_a_study_is_planned() -> None:
    planned = STUDIES["demo"].planned(FEW)
    assert Planned.of(planned) is planned
    with pytest.raises(InputError, match=r"planned with its options; give them to `Study.planned`"):
        Planned.of(planned, FEW)
