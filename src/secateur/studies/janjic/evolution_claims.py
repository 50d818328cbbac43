"""What the text says of its final populations in numbers, beside the same of ours (S. Janjić, 2018, section 5.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.lab.show.blocks import Column, Table
from secateur.studies.janjic.evolution_pictures import EvolutionRun, Floats, overlap, trials
from secateur.studies.kit.parts import Part

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["band", "claims_table", "gap", "ours"]

Claim = Mapping[str, Any]
"""A number that the text gives: `words`, `theirs`, its `value`, and of which trials it is (`published.toml`)."""

_SCALES = {"compression": 100.0, "accuracy": 1.0, "fitness": 1.0}


def gap(trial: EvolutionRun) -> float:
    """Return the part of the range of a layer's weights, about zero, in which the best solution has none left."""
    left = trial.weights[trial.genes]
    low = left[left <= 0].max(initial=trial.weights.min())
    high = left[left >= 0].min(initial=trial.weights.max())
    return float((high - low) / np.ptp(trial.weights))


def band(weights: Floats, removed: int) -> float:
    """Return the part of the range of weights that the `removed` ones nearest to zero span.

    >>> band(np.array([-4.0, -1.0, 1.0, 6.0]), 2)
    0.2
    """
    nearest = weights[np.argsort(np.abs(weights), kind="stable")[:removed]]
    return float(np.ptp(nearest) / np.ptp(weights)) if removed else 0.0


def ours(claim: Claim, evolutions: Sequence[EvolutionRun]) -> float:
    """Return one network's number for one of the text's; nan where a trial that it is of was not run.

    Args:
        claim: its ``value`` is the mean ``compression``, ``accuracy`` or ``fitness`` of the final populations, of all
            individuals or of those of ``positive`` fitness; how many ``individuals`` are positive; what the best solutions
            removed in ``common``; or the ``gap`` or ``band`` of the best one. ``damages`` are its trials; all where none
            are named.
        evolutions: the network's trials.
    """
    damages = claim.get("damages", [trial.row["damage"] for trial in evolutions])
    of_claim = [trial for trial in evolutions if trial.row["damage"] in damages]
    if len(of_claim) < len(damages):
        return float("nan")
    value, first = claim["value"], of_claim[0]
    whole = {
        "common": lambda: 100 * overlap(of_claim),
        "gap": lambda: 100 * gap(first),
        "band": lambda: 100 * band(first.weights, int((~first.genes).sum())),
        "individuals": lambda: float(_finals(of_claim, "fitness", positive=True).size),
    }
    if value in whole:
        return whole[value]()
    numbers = _finals(of_claim, value, positive=claim.get("positive", False))
    return _SCALES[value] * float(numbers.mean()) if numbers.size else float("nan")


def _finals(evolutions: Sequence[EvolutionRun], value: str, *, positive: bool) -> Floats:
    """A value of all individuals of the last generations, or of those of positive fitness."""
    parts = [trial.rated[value][-1][(trial.rated["fitness"][-1] > 0) | (not positive)] for trial in evolutions]
    return np.concatenate(parts)


def claims_table(part: Part, rows: DataFrame, claims: Sequence[Claim], split: str) -> Table:
    """Return the table of the text's numbers beside the means of our networks'."""
    networks = [trials(part, runs) for _, runs in rows.groupby("seed")]
    columns = [Column("what"), Column("ours", format=".2f"), Column("text", format=".2f", published=True)]
    table = []
    for claim in claims:
        numbers = np.array([ours(claim, evolutions) for evolutions in networks])
        there = numbers[np.isfinite(numbers)]
        table.append([claim["words"], float(there.mean()) if len(there) else None, claim["theirs"]])
    caption = (
        "What the text says of its final populations, on MNIST, beside ours, judged where they were evolved: means over the "
        "networks. Of the text's pruned range of weights two readings are shown: where none is left, and what the removed "
        "ones would span if they were the nearest to zero."
    )
    return Table("population-claims", caption, columns, table, part.basis(rows, split))
