"""The report's sections on lottery tickets: beside their controls, over a longer training, and under other ways to prune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Column, Picture
from secateur.lab.show.judgement import judged, paired
from secateur.lab.show.sections import mean, pick
from secateur.lab.show.stats import summarise
from secateur.lab.show.style import styles
from secateur.lab.show.words import bounds, formatted, named, percent
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["longer", "lottery", "lottery_words", "others"]

SPARSE = 0.9
"""From this sparsity on, what is claimed of tickets is tested."""


def lottery(part: Part, rows: DataFrame) -> list[Block]:
    """Return tickets of one scheme beside their controls: the curve, the table, and paired tests."""
    scheme = part.options["control_scheme"]
    runs = pick(rows, scheme=scheme)
    levels = set(runs[runs["treatment"] != "ticket"]["sparsity"])
    runs = runs[runs["sparsity"].isin(levels)]
    dense = pick(pick(rows, scheme=scheme), sparsity=0.0, treatment="ticket").set_index("seed")["accuracy"]
    runs = runs.assign(method=runs["treatment"], gain=100 * (runs["accuracy"] - runs["seed"].map(dense)))
    basis = part.basis(runs, "test images")
    columns = [
        Mean("accuracy", Column("accuracy", format=".4f"), "95 %"),
        Mean("gain", Column("beside unpruned", "points", format="+.2f"), "95 %"),
    ]
    groups = {"sparsity": Column("removed", format=".1%"), "method": Column("network")}
    caption = f"Tickets of {scheme} and their controls, beside the unpruned network of the same seed; means."
    drawing = figures.accuracy_by_sparsity(
        runs, baseline=float(dense.mean()), look=styles(runs["method"]), density=True
    )
    ends = runs[runs["sparsity"] == max(levels)].groupby("method")["accuracy"].mean()
    alt = f"At the sparsest: {named(ends)}."
    picture = Picture(
        "lottery-curve",
        drawing,
        "Tickets and their controls: test accuracy by weights left.",
        alt,
        basis,
        runs[["method", "seed", "sparsity", "accuracy"]],
    )
    controls = [name for name in dict.fromkeys(runs["method"]) if name != "ticket"]
    tests = [
        block
        for control in controls
        for block in judged(runs[runs["method"].isin(["ticket", control])], {control: ["ticket"]}, basis)
    ]
    return [picture, grouped(runs, "lottery", caption, groups, columns, basis, sort=True), *tests]


def longer(part: Part) -> list[Block]:
    """Return what becomes of a ticket's lead as training grows longer."""
    rows = part.kind("long")
    history = part.lines(rows)
    drawing = figures.path(
        history,
        value="accuracy",
        by="treatment",
        label=("Pass over the training images", "Validation accuracy"),
        share=True,
    )
    wide = history.pivot_table(index=["step", "seed"], columns="treatment", values="accuracy").reset_index()
    controls = [name for name in dict.fromkeys(rows["treatment"]) if name != "ticket"]
    for name in controls:
        wide[name] = 100 * (wide["ticket"] - wide[name])
    columns = [Mean(name, Column(f"over {name}", "points", format="+.2f"), f"95 %, {name}") for name in controls]
    steps = sorted(set(wide["step"]))
    sampled = wide[wide["step"].isin(steps[:: max(1, len(steps) // 8)] + steps[-1:])]
    removed = percent(rows["sparsity"].iloc[0])
    caption = f"How far tickets of {removed} removed are ahead as training grows longer, paired by seed."
    basis = part.basis(rows, "validation images")
    table = grouped(sampled, "longer", caption, {"step": Column("passes")}, columns, basis, sort=True)
    end = wide[wide["step"] == steps[-1]]
    leads = [f"{formatted(mean(end, name), '+.2f')} points over {name}" for name in controls]
    alt = f"At the last pass tickets lead by {', '.join(leads)}."
    picture = Picture(
        "longer-curve",
        drawing,
        f"Validation accuracy over the training: tickets of {removed} removed, and controls.",
        alt,
        basis,
        history[["treatment", "seed", "step", "accuracy"]],
    )
    return [picture, table]


def others(part: Part, baseline: str) -> list[Block]:
    """Return the schemes under other ways to prune, tested against the `baseline`."""
    rows = part.kind("other")
    basis = part.basis(rows, "test images")
    columns = [Mean("accuracy", Column("accuracy", format=".4f"), "95 %")]
    groups = {"way": Column("way"), "sparsity": Column("removed", format=".1%"), "scheme": Column("scheme")}
    caption = (
        "The same networks pruned otherwise: at once after one training and trained again from the start (one-shot), and "
        "before any training (SNIP)."
    )
    blocks: list[Block] = [grouped(rows, "others", caption, groups, columns, basis, sort=True)]
    for way, group in rows.groupby("way", sort=False):
        blocks += paired(
            group,
            f"others-{way}",
            f"Schemes under {way}, against the best under iterative pruning.",
            baseline=baseline,
            by="scheme",
        )
    return blocks


def lottery_words(part: Part, rows: DataFrame) -> list[str]:
    """Return how far tickets are ahead, in words."""
    scheme = part.options["control_scheme"]
    runs = pick(rows, scheme=scheme)
    sparse = runs[(runs["sparsity"] >= SPARSE) & (runs["treatment"] != "ticket")]
    if not len(sparse):
        return []
    level = sparse["sparsity"].min()
    at = runs[runs["sparsity"] == level].set_index(["treatment", "seed"])["accuracy"]
    dense = pick(runs, sparsity=0.0, treatment="ticket").set_index("seed")["accuracy"]
    gaps = {"the unpruned network": at["ticket"] - dense}
    gaps |= {name: at["ticket"] - at[name] for name in dict.fromkeys(sparse["treatment"])}
    gap_words = [f"{_gap(values)} {name}" for name, values in gaps.items()]
    return [
        f"With {percent(level)} of the weights removed, tickets of {scheme} lie {', '.join(gap_words)} (points of test accuracy, "
        "paired by seed).",
        *_longer_words(part),
    ]


def _longer_words(part: Part) -> list[str]:
    rows = part.kind("long")
    if not len(rows) or "unpruned" not in set(rows["treatment"]):
        return []
    history = part.lines(rows)
    table = history.pivot_table(index=["step", "seed"], columns="treatment", values="accuracy")
    lead = table["ticket"] - table["unpruned"]
    first, last = (steps for steps in (lead.index.levels[0][0], lead.index.levels[0][-1]))
    return [
        f"On validation images their lead over the unpruned network goes from {_gap(lead[first])} after {first} passes to "
        f"{_gap(lead[last])} after {last}."
    ]


def _gap(values: Any) -> str:
    gaps = [100 * float(value) for value in values.dropna()]
    if not gaps:
        return "–"
    summary = summarise(gaps)
    side = "above" if summary.mean >= 0 else "below"
    if summary.low != summary.low:
        return f"{formatted(abs(summary.mean), '.2f')} {side}"
    return f"{formatted(abs(summary.mean), '.2f')} ({bounds(summary.low, summary.high)}) {side}"
