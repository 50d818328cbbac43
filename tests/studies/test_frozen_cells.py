"""The ids of all cells of all studies, frozen: a changed id loses every result that people have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from frozen_cells import FILE, SMALL, fingerprint, settings

from secateur.studies import STUDIES, by_name

FROZEN = json.loads(FILE.read_text(encoding="utf-8"))


def test_every_study_is_frozen() -> None:
    assert set(FROZEN) == set(SMALL) == set(STUDIES), (
        "print the ids of the new study with python tests/studies/frozen_cells.py"
    )


@pytest.mark.parametrize("name", FROZEN)
def test_the_ids_of_all_cells_stay_what_they_were(name: str) -> None:
    """Give a new option a default that takes no part in the id instead."""
    assert {which: fingerprint(STUDIES[name], options) for which, options in settings(name).items()} == FROZEN[name]


def test_one_changed_parameter_is_seen() -> None:
    name = "charpentier-shrink"
    assert fingerprint(STUDIES[name], {**SMALL[name], "runs": 4}) != FROZEN[name]["small"]


def test_the_ids_of_a_study_of_ones_own_stay_what_they_were(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\ndata = ["digits", "mnist-5k"]\nmodel = ["lenet-300-100", "ann-128"]\nseeds = 2\n'
        "sparsities = [0.5, 0.8]\ndense = [0.8]\nminimum = 1\nvalidation = 300\n",
        encoding="utf-8",
    )
    assert fingerprint(by_name(str(file)), {}) == {
        "kinds": {"dense": 16, "prune": 96, "train": 8},
        "ids": "0df05a29edf99196c54fac68a9f2d2c755a6197fed588b7baccf2f1a4a886d94",
    }
