"""What a comparison of methods amounts to: tests against the controls, one number a curve, and who is on the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from secateur.lab.show.blocks import Basis, Block, Column, Table
from secateur.lab.show.sections import interval
from secateur.lab.show.stats import area, compare, pareto
from secateur.lab.show.stats.columns import SHARE
from secateur.lab.show.stats.comparisons import UNTESTED
from secateur.lab.show.tables import comparison_table
from secateur.lab.show.words import file_name
from secateur.measure import has_learnt

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["areas", "front", "judged", "paired", "untested"]


def untested(frame: DataFrame, control: object, *, value: str = "accuracy", by: str = "method") -> str:
    """Return why nothing can be tested against a control, in words; empty where something can.

    >>> import pandas
    >>> untested(pandas.DataFrame({"method": ["l2"], "seed": [0], "accuracy": [0.9]}), "random")
    'there is no run of random'
    """
    rows = frame[frame[by].notna()]
    if control not in set(rows[by]):
        return f"there is no run of {control}"
    if rows[by].nunique() < 2:
        return f"there is nothing beside {control}"
    seeds = rows[rows[value].notna()].groupby(by)["seed"].agg(set)
    shared = [len(seeds.get(control, set()) & others) for name, others in seeds.items() if name != control]
    return "that takes two seeds at least" if max(shared, default=0) < 2 else ""


def paired(
    frame: DataFrame,
    name: str,
    caption: str,
    *,
    baseline: object,
    value: str = "accuracy",
    by: str = "method",
    within: Sequence[str] = ("sparsity",),
    better: Literal["higher", "lower"] = "higher",
    words: Mapping[str, str] | None = None,
) -> list[Block]:
    """Return the table of paired tests against a baseline, or the sentence that nothing was tested, and why.

    Args:
        frame: one row a run, with ``seed``.
        name, caption: the table's.
        baseline, value, by, within, better: as for `secateur.lab.show.stats.compare`.
        words: what to call verdicts, where a value is neither good nor bad.

    >>> import pandas
    >>> runs = pandas.DataFrame({"method": ["l2", "random"], "seed": 0, "sparsity": 0.5, "accuracy": [0.9, 0.8]})
    >>> paired(runs, "tests", "Accuracies.", baseline="random")
    ['Accuracies. Not tested: that takes two seeds at least.']
    """
    reason = untested(frame, baseline, value=value, by=by)
    if reason:
        return [f"{caption} {UNTESTED.capitalize()}: {reason}."]
    tests = compare(frame, value=value, by=by, baseline=baseline, within=within, better=better)
    return [comparison_table(tests.assign(verdict=tests["verdict"].replace(words or {})), name, caption)]


def judged(
    frame: DataFrame,
    controls: Mapping[str, Sequence[str]],
    basis: Basis,
    *,
    value: str = "accuracy",
    within: Sequence[str] = ("sparsity",),
) -> list[Block]:
    """Return paired tests of each method against its control, and a sentence that says what they show.

    Args:
        frame: one row a run, with ``method``, ``seed``, the columns of `within`, and `value`.
        controls: control → the methods that it is the control of; where one is not there, that is said.
        basis: what the rows are.
        value: the column to compare.
        within: the columns within which methods are compared.

    >>> import pandas
    >>> runs = pandas.DataFrame({"method": ["l2"] * 3 + ["random"] * 3, "seed": [0, 1, 2] * 2, "sparsity": 0.5,
    ...                          "accuracy": [0.90, 0.88, 0.89, 0.80, 0.79, 0.78]})
    >>> judged(runs, {"random": ["l2"]}, Basis("3 seeds"))[0]
    'l2 is better than random in 1 of 1 comparisons, worse in 0 (p corrected below 0.05; 3 pairs at most).'
    """
    blocks: list[Block] = []
    for control, methods in controls.items():
        rows = frame[frame["method"].isin([control, *methods])]
        names = [name for name in dict.fromkeys(rows["method"]) if name != control]
        if not names:
            continue
        reason = untested(rows, control, value=value)
        if reason:
            blocks.append(f"{', '.join(names)}: not tested against {control}, for {reason}.")
            continue
        tests = compare(rows, value=value, baseline=control, within=within)
        blocks += [
            _counted(str(name), control, method_tests) for name, method_tests in tests.groupby("method", sort=False)
        ]
        table = comparison_table(tests, f"against-{file_name(control)}", f"Each method against {control}: {value}.")
        blocks.append(replace(table, basis=basis.also(str(table.basis))))
    return blocks


def _counted(method: str, control: str, tests: DataFrame) -> str:
    """In how many of the tests that took place a method is better or worse than its control."""
    run_tests = tests[tests["verdict"] != UNTESTED]
    if not len(run_tests):
        return f"{method}: not tested against {control}, for no two runs are pairs whose differences vary."
    verdicts = run_tests["verdict"].value_counts()
    return (
        f"{method} is better than {control} in {verdicts.get('better', 0)} of {len(run_tests)} comparisons, worse in "
        f"{verdicts.get('worse', 0)} (p corrected below 0.05; {int(run_tests['n'].max())} pairs at most)."
    )


def areas(frame: DataFrame, basis: Basis) -> list[Block]:
    """Return one number a method: its accuracy averaged over the sparsities (the area under the curve).

    Curves of another range than most, as in a study under way, are left out.
    """
    ranges = frame.groupby(["method", "seed"])["sparsity"].agg(["min", "max", "size"])
    usual = ranges.value_counts().index[0] if len(ranges) else (0, 0, 0)
    whole = ranges[(ranges == list(usual)).all(axis=1)].index
    curves = frame[frame.set_index(["method", "seed"]).index.isin(whole)]
    if usual[2] < 2 or not len(curves):
        return []
    heights = area(curves)
    rows = [
        [method, group["area"].mean(), interval(group["area"], within=SHARE), len(group)]
        for method, group in heights.groupby("method", sort=False)
    ]
    rows.sort(key=lambda row: -float(row[1]))
    columns = [Column("method"), Column("mean accuracy", format=".4f", best="max"), Column("95 %"), Column("seeds")]
    caption = (
        f"Accuracy averaged over all sparsities from {100 * usual[0]:g} to {100 * usual[1]:g} % (area under the "
        "accuracy–sparsity curve), the highest first."
    )
    return [Table("areas", caption, columns, rows, basis)]


def _learnt(runs: DataFrame) -> bool:
    """Whether networks of one kind are better than blind answers, by their mean accuracy of each class."""
    if "class_accuracy" not in runs:
        return True
    class_accuracies = [classes for classes in runs["class_accuracy"] if isinstance(classes, (list, tuple))]
    return has_learnt([sum(values) / len(values) for values in zip(*class_accuracies, strict=True)])


def front(frame: DataFrame, cost: str, label: str, basis: Basis) -> list[Block]:
    """Return the networks that no other beats in both accuracy and cost, means over seeds.

    Networks at chance level have no place there, however small they are: those of which the mean of the classes'
    accuracies is no better than blind answers' (`secateur.measure.has_learnt`).

    Args:
        frame: one row a run, with ``method``, ``sparsity``, ``accuracy`` and `cost`, and ``class_accuracy`` where there is.
        cost: a column where less is better, such as parameters.
        label: what it is called.
        basis: what the rows are.
    """
    frame = frame[frame[cost].notna()]
    groups = frame.groupby(["method", "sparsity"], sort=False)
    means = groups[["accuracy", cost]].mean().dropna()
    learnt = [_learnt(groups.get_group(key)) for key in means.index]
    blind, means = learnt.count(False), means[learnt].reset_index()
    if not len(means):
        return (
            [f"No network is better than chance, so there is no Pareto front of accuracy and {label}."] if blind else []
        )
    best = means[pareto(means, maximise=["accuracy"], minimise=[cost])].sort_values(cost, ascending=False)
    columns = [
        Column("method"),
        Column("removed", format=".0%", key="sparsity"),
        Column(label, format=",.0f", key=cost),
        Column("accuracy", format=".4f"),
    ]
    caption = f"The Pareto front: networks that no other one beats in both accuracy and {label}."
    if blind:
        caption += f" {blind} at chance level {'is' if blind == 1 else 'are'} left out."
    return [Table.of(best, f"front-{cost.replace('_', '-')}", caption, columns, basis)]
