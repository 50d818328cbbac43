"""What a table or figure was computed from, and the command that lists the same rows again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.checks import is_number
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Planned, Results
from secateur.lab.show.blocks import Basis
from secateur.lab.show.shares import ASKED

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Origins", "reproduce"]


@dataclass(frozen=True, eq=False)
class Origins:
    """Tells what rows of a store a block was made of.

    Attributes:
        store: all rows of the store, of which the blocks show some.
        keys: the columns by which blocks choose their rows.

    >>> import pandas
    >>> rows = {"id": list("abc"), "study": "toy", "kind": "prune", "method": ["l1", "l1", "l2"], "seed": [0, 1, 0]}
    >>> frame = pandas.DataFrame(rows)
    >>> basis = Origins(frame).of(frame[frame["method"] == "l1"], "test set")
    >>> print(basis, "|", basis.query)
    2 seeds, test set | secateur runs list --study toy --kind prune --where method=l1
    """

    store: DataFrame
    keys: Sequence[str] = ("method", "sparsity", "seed")

    @classmethod
    def among(cls, results: Results) -> Origins:
        """Return what tells the rows of `results` from all others in its store: the recipes' parameters."""
        records = results.store.records(results.frame["id"])
        plain = {
            name: None for record in records for name, value in record.recipe.parameters.items() if _is_plain(value)
        }
        return cls(results.store.frame(), list({"method": None, "sparsity": None} | plain))

    def of(self, rows: DataFrame, split: str, *, having: str = "") -> Basis:
        """Return the basis of a block that was made of `rows`.

        Args:
            rows: rows of the store.
            split: the data that the numbers were measured on, such as ``"test set of digits"``.
            having: a metric above zero that all of `rows` have, and by which they were chosen.
        """
        seeds = rows["seed"].nunique() if "seed" in rows else 0
        words = f"{seeds} seed{'s' if seeds != 1 else ''}, {split}" if seeds else split
        return Basis(words, self._query(rows, having), tuple(rows["id"]))

    def _query(self, rows: DataFrame, having: str) -> str:
        left = self.store.reset_index(drop=True)
        if ASKED in rows:  # what the store calls the sparsity
            rows = rows.assign(sparsity=rows[ASKED])
        words = ["secateur", "runs", "list"]
        for name in ("study", "kind"):
            values = set(rows[name])
            if len(values) == 1:
                words += [f"--{name}", *values]
                left = left[left[name].isin(values)]
        for key in self.keys:
            if key in rows and key in left and not left[key].isin(set(rows[key])).all():
                for condition, fits in _conditions(rows[key], left[key]):
                    words += ["--where", condition]
                    left = left[fits[left.index]]
        if having:
            words += ["--where", f"{having}>0"]
            left = left[left[having] > 0]
        query = shlex.join(words)
        # What no condition could leave out: other options of the same study, in the same store.
        extra = len(set(left["id"]) - set(rows["id"]))
        return query + (f"  # and {extra} more" if extra else "")


def _is_plain(value: Json) -> bool:
    return isinstance(value, str) or is_number(value)


def _conditions(chosen: Any, among: Any) -> list[tuple[str, Any]]:
    values = sorted(set(chosen.dropna()))
    if not values:
        return []
    name, least, most = among.name, values[0], values[-1]
    if len(values) == 1:
        return [(f"{name}={_told(least)}", among == least)]
    if isinstance(least, str):
        return []
    tests = [(f"{name}>={_told(least)}", among >= least), (f"{name}<={_told(most)}", among <= most)]
    return [(words, fits) for words, fits in tests if not fits.all()]


def _told(value: Any) -> Any:
    """A whole number as one: a column with gaps holds floats.

    >>> _told(2000.0), _told(0.5), _told("l1")
    (2000, 0.5, 'l1')
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


def reproduce(planned: Planned, environment: Mapping[str, str]) -> str:
    """Return the command that runs a study again with its options, and with what it was run.

    The lines can be pasted into a shell: what it was run with stands in a comment.

    >>> from secateur.lab.plan.study import Study
    >>> study = Study("toy", "Toy", None, "", lambda _: [], lambda _: None, {"seeds": 3, "data": "digits"})
    >>> planned = Planned(study, {"seeds": 3, "data": "a b"}, [])
    >>> print(reproduce(planned, {"secateur": "0.1.0", "commit": "62464d6461a9"}))
    # secateur 0.1.0, commit 62464d6461a9
    secateur study run toy --seeds 3 --set 'data=a b'
    """
    study = planned.study
    words = ["secateur", "study", "run", str(study.file or study.name)]
    for name, value in planned.options.items():
        if name == "seeds" and isinstance(value, int):
            words += ["--seeds", str(value)]
        elif value != study.defaults[name]:
            words += ["--data-dir", str(value)] if name == "data_dir" else ["--set", f"{name}={_value(value)}"]
    versions = [
        f"{name} {environment[key]}"
        for name, key in (("secateur", "secateur"), ("commit", "commit"))
        if environment.get(key)
    ]
    return (f"# {', '.join(versions)}\n" if versions else "") + shlex.join(words)


def _value(value: Json) -> str:
    """An option as ``--set`` reads it back: plain text where that is no JSON, else JSON."""
    text = json.dumps(value, separators=(",", ":"))
    if not isinstance(value, str):
        return text
    try:
        json.loads(value)
    except ValueError:
        return value
    return text
