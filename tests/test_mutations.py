"""Thousands of random changes to the files that secateur reads: each gives what was written, or one error of ours.

``pytest -m slow tests/test_mutations.py`` makes more than 10,000; ``python tests/test_mutations.py KIND SEED`` makes one again,
and shows what comes of it.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from hostile.changes import Answers, Kind, mutate
from hostile.first_kinds import FIRST_KINDS
from hostile.guard import harmless, within
from hostile.more_kinds import MORE_KINDS

COUNT = 700
"""Mutations of each kind."""

KINDS = FIRST_KINDS | MORE_KINDS

LONGEST = 20.0
"""Seconds in which a reader has to say what it thinks of a file."""


def watched(kind: Kind, inside: Path) -> Kind:
    """A kind whose readers may run nothing, and write only below a folder."""

    def read(folder: Path) -> Answers:
        with harmless(inside):
            return kind.read(folder)

    return replace(kind, read=read)


def faults_of(name: str, seeds: range, tmp_path: Path) -> tuple[Counter[str], list[str]]:
    """Make mutations, and say what came of them."""
    kind, whole = KINDS[name], tmp_path / "whole"
    kind.make(whole)
    truth = kind.read(whole)
    assert None not in truth
    assert kind.read(whole) == truth, "reading once more says another thing"
    outcomes: Counter[str] = Counter()
    faults = []
    for seed in seeds:
        try:
            with within(LONGEST):
                outcomes[mutate(watched(kind, tmp_path), whole, truth, seed, tmp_path / "changed")] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            outcomes["fault"] += 1
            faults.append(f"{name} {seed}: {type(error).__name__}: {str(error)[:200]}")
    return outcomes, faults


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_no_silent_difference_and_no_foreign_error(name: str, tmp_path: Path) -> None:
    outcomes, faults = faults_of(name, range(COUNT), tmp_path)
    print(name, dict(outcomes))
    assert not faults, "\n".join(faults)
    assert sum(outcomes.values()) == COUNT
    assert outcomes["refused"] > COUNT / 5, "most changes should do harm"


def test_there_are_more_than_ten_thousand() -> None:
    assert len(KINDS) * COUNT >= 10_000


@pytest.mark.parametrize("name", KINDS)
def test_a_few_of_each_kind(name: str, tmp_path: Path) -> None:
    _, faults = faults_of(name, range(1000, 1006), tmp_path)
    assert not faults, "\n".join(faults)


def main() -> None:
    """Make one mutation again, and show what comes of it."""
    name, seed = sys.argv[1], int(sys.argv[2])
    folder = Path(tempfile.mkdtemp())
    KINDS[name].make(folder / "whole")
    truth = KINDS[name].read(folder / "whole")
    try:
        print(mutate(KINDS[name], folder / "whole", truth, seed, folder / "changed"))
    except Exception:  # noqa: BLE001
        traceback.print_exc()
    print(folder)


if __name__ == "__main__":
    main()
