"""A comparison's options are checked before a single network is trained."""

from __future__ import annotations

from typing import Any

import pytest

from secateur.lab.plan.options import Options
from secateur.studies import STUDIES
from secateur.studies.comparison.options import OPTIONS
from secateur.types import InputError, UnknownNameError

BAD: dict[str, list[Any]] = {
    "seeds": [0, -1, 1.5, "x", None, True],
    "epochs": [0, -1, "10", 2.5],
    "batch_size": [0, "x"],
    "validation": [0, 0.0, 1.0, -5, "x", True],
    "sparsities": [3, [], [1.1], [-0.1], ["0.5"], "0.5", [None], [float("nan")], {"a": 1}],
    "methods": [[], "neuron", [3], None],
    "data": [3, None, []],
    "data_dir": [3],
    "model": [3, None, [3]],
    "model_options": [3, [1], None],
    "output": [3, None],
    "dense": [0.5, [2], ["a"], None],
    "minimum": [-1, "1", 0.5],
    "loss": [3, None],
    "criteria": [3, [], [3]],
    "unit": [3, [], None],
    "scope": [3, None],
    "solver": [3, []],
    "schedule": [3, [], None],
    "steps": [0, "4", None],
    "finetune": [-1, 0.5],
    "shown": [0, "x"],
    "checkpoint_seconds": [-1, "x", None],
    "device": [3, None],
    "gpus": [-1, "x", None],
    "devices": [0, "x", None],
    "amp": [1, "yes", None],
    "augment": [3, [3]],
    "workers": [-1, 0.5, "x"],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD.items() for v in values])
def test_a_bad_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InputError) as refused:
        STUDIES["demo"].plan({name: value})
    assert f"study 'demo': {name} is {value!r}; give " in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("methods", ["foo"]),
        ("data", "foo"),
        ("data", ["foo"]),
        ("model", "foo"),
        ("model_options", {"foo": 1}),
        ("output", "foo"),
    ],
)
def test_an_unknown_name_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UnknownNameError, match="'foo'"):
        STUDIES["demo"].plan({name: value})


def test_every_option_is_checked_and_every_default_is_right() -> None:
    assert set(OPTIONS) == set(BAD)
    for study in STUDIES.values():
        if isinstance(study.defaults, Options):
            study.defaults.check(study.name, study.settle(None))
        assert study.plan(), "a plan is checked before it is made"


def test_a_study_refuses_them_before_it_plans() -> None:
    with pytest.raises(InputError, match="sparsities is 3"):
        STUDIES["demo"].plan({"sparsities": 3})
