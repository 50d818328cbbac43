"""What is wrong with options or networks is said before anything runs, or on top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secateur.lab import Store, build_report, run_study
from secateur.studies import STUDIES, by_name
from secateur.types import InputError, UnknownNameError

DIGITS: dict[str, Any] = {"data": "digits", "seeds": 1, "epochs": 1}


@pytest.mark.parametrize(
    ("study", "options", "words"),
    [
        ("fathollahi", {"data": "digits"}, r"validation is 6000, which holds out 6,000 of the 1,500 training images"),
        ("demo", {"validation": 1500}, "give a count from 1 to 1499, or a fraction such as 0.1"),
        ("demo", {"validation": 0.0001}, "validation is 0.0001, which holds out 0 of"),
        ("criteria-shootout", {"data": "digits"}, "validation is 6000"),
        (
            "charpentier-random",
            {"validation": 0.1, "removed": [1, 129]},
            "removed holds 129, but ann-128 has only 128 units",
        ),
        ("charpentier-shrink", {"validation": 0.1, "model": "ann-128", "n": [200]}, "n holds 200"),
        ("criteria-shootout", {"sparsities": [0.3]}, "tune_at is 0.5, which is none of sparsities"),
    ],
)
def test_options_that_the_data_or_the_network_refuse(study: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        STUDIES[study].plan(options)


@pytest.mark.parametrize(
    ("study", "options"),
    [
        ("janjic-ga-mlp", {"layer": "fc9"}),
        ("janjic-energy-vgg16", {"layers": ["features.0", "nothing.*"]}),
    ],
)
def test_layers_that_a_network_lacks(study: str, options: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match=r"layer in layers? of .*'(fc9|nothing.*)'"):
        STUDIES[study].plan(options)


def test_a_report_of_a_network_that_has_not_learnt_says_so_first(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\ndata = "digits"\nmodel = "ann-128"\nseeds = 2\nepochs = 1\nvalidation = 1490\nmethods = ["neuron"]\n'
        "sparsities = [0.5]\nbatch_size = 10\n"
    )
    study, store = by_name(str(file)), Store(tmp_path / "store")
    assert run_study(study, store, progress=False, executor="serial").exit_code == 0
    first = build_report(study, store).summary[0]
    assert first.startswith("WARNING: 2 of 2 unpruned networks have not learnt: their test accuracy is ")
    assert "where blind answers have about 10.0 %" in first
