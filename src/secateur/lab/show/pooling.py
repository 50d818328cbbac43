"""Which cells may be averaged: those that differ in nothing but their seed, nor do the cells that they build upon."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from secateur.files import require
from secateur.lab.plan.recipe import SEEDS, Json, Recipe, canonical

if TYPE_CHECKING:
    from pandas import DataFrame

    from secateur.lab.keep.store import Store

__all__ = ["apart", "deciding", "with_needed"]


def with_needed(stores: Sequence[Store], ids: Iterable[str]) -> dict[str, Recipe]:
    """Return the recipes of cells, and of all cells that they build upon, directly or not, by id."""
    recipes: dict[str, Recipe] = {}
    missing = set(ids)
    while missing:
        records = [record for store in stores for record in store.records(sorted(missing))]
        recipes |= {record.id: record.recipe for record in records}
        missing = {need for record in records for need in record.recipe.needs} - set(recipes)
    return recipes


def deciding(recipes: Mapping[str, Recipe], ids: Sequence[str]) -> DataFrame:
    """Return all that decides what each cell computes but its seed: one row a cell, one column a parameter.

    What the cells that it builds upon were told stands as ``kind.name``, such as ``train.epochs``; the ids of those
    that are in no store as ``needs``, for nothing else is known of them. Lists and mappings are JSON texts.

    >>> train = Recipe("toy", "train", {"seed": 0, "epochs": 30})
    >>> cut = Recipe("toy", "prune", {"seed": 0, "method": "l1"}, (train.id,))
    >>> deciding({one.id: one for one in (train, cut)}, [cut.id]).to_dict("records")
    [{'study': 'toy', 'kind': 'prune', 'method': 'l1', 'train.epochs': 30}]
    """
    return require("pandas", "lab").DataFrame([_facts(recipes, identity) for identity in ids], dtype=object)


def _facts(recipes: Mapping[str, Recipe], identity: str) -> dict[str, Json]:
    recipe = recipes[identity]
    facts = {"study": recipe.study, "kind": recipe.kind, **_parameters(recipe)}
    values: dict[str, list[Json]] = {}
    for need, needed in _ancestors(recipes, recipe):
        parameters = (
            {"needs": need} if needed is None else {f"{needed.kind}.{n}": v for n, v in _parameters(needed).items()}
        )
        for name, value in parameters.items():
            values.setdefault(name, []).append(value)
    for name, several in values.items():
        different = sorted({canonical(value) for value in several})
        facts[name] = several[0] if len(different) == 1 else ", ".join(different)
    return {name: canonical(value) if isinstance(value, (list, dict)) else value for name, value in facts.items()}


def _parameters(recipe: Recipe) -> dict[str, Json]:
    # What is at its default takes no part in the id: it is what a cell was that did not have the option yet.
    return {n: value for n, value in recipe.given.items() if not (n in SEEDS and isinstance(value, int))}


def _ancestors(recipes: Mapping[str, Recipe], recipe: Recipe) -> Iterator[tuple[str, Recipe | None]]:
    """All cells that one builds upon, each once; None where there is no record."""
    waiting, met = list(recipe.needs), set(recipe.needs)
    while waiting:
        need = waiting.pop(0)
        needed = recipes.get(need)
        yield need, needed
        further = [other for other in (needed.needs if needed else ()) if other not in met]
        waiting, met = waiting + further, met | set(further)


def apart(facts: DataFrame, by: DataFrame) -> list[str]:
    """Return the columns of `facts` that tell cells of one group apart, the fewest that tell all of them.

    Args:
        facts: from `deciding`.
        by: the columns that make the groups, of the same rows.

    >>> import pandas
    >>> facts = pandas.DataFrame({"kind": ["prune", "dense"], "minimum": [1, None], "data": "digits"})
    >>> apart(facts, pandas.DataFrame({"method": ["l1", "l1"]}))
    ['kind']
    """
    # By spelling: a flag is no count, and what is missing is a value like another.
    keys = by.map(repr).agg("\x00".join, axis=1)
    columns: list[str] = []
    count = keys.nunique()
    for name in facts.columns:
        finer = keys + "\x00" + facts[name].map(repr)
        if finer.nunique() > count:
            columns, keys, count = [*columns, str(name)], finer, finer.nunique()
    return columns
