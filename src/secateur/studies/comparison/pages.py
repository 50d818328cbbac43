"""The report of a comparison of weight and neuron pruning: its sections, and the tables of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur import data
from secateur.lab.basis import Origins
from secateur.lab.blocks import Basis, Block, Column, Section, Table
from secateur.lab.classes import class_damage
from secateur.lab.judgement import areas, front, judged
from secateur.lab.published import Published
from secateur.lab.report import Report
from secateur.lab.sections import interval, mean, pick, sweep, sweep_table, trade_offs, training
from secateur.lab.study import Results
from secateur.lab.style import styles
from secateur.studies.comparison.cells import METHODS
from secateur.studies.comparison.words import cards, method_caption, notes, summary

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["pages"]


def pages(results: Results, title: str, published: Published | None = None) -> Report:
    """Return the report; a study that has not finished yet shows what there is."""
    published = published or Published()
    trained, pruned, dense = (pick(results.frame, kind=kind) for kind in ("train", "prune", "dense"))
    origins, test = Origins.among(results), f"test set of {results.options['data']}"
    sections = []
    if len(trained):
        histories = results.store.histories(trained["id"])
        sections.append(training(trained, histories, origins.of(trained, test), published=published))
    if len(pruned):
        basis = origins.of(pruned, test)
        sections.insert(0, Section("At a glance", [_overview(pruned, trained, basis)]))
        sections += [
            _damage(pruned, trained, published, origins, test),
            _faster(pruned, trained, basis),
            _gain(pruned, trained, dense, origins, test),
            _judgement(pruned, origins, test),
            _classes(results, pruned, trained, basis),
        ]
    sections.append(Section("How it was done", [*notes(results), *published.notes]))
    return Report(
        title,
        summary=summary(pruned, trained, dense) if len(pruned) else ["Nothing has been computed yet."],
        cards=cards(pruned, trained) if len(pruned) else [],
        sections=sections,
    )


def _overview(pruned: DataFrame, trained: DataFrame, basis: Basis) -> Table:
    """One row for the unpruned networks, and one for each method at half and at nine tenths removed."""
    columns = [
        Column("network"),
        Column("accuracy", format=".4f"),
        Column("loss", format=".4f"),
        Column("parameters", format=",.0f"),
        Column("non-zero", format=",.0f"),
        Column("kilobytes", format=",.0f"),
        Column("speedup", format=".2f"),
    ]
    base = [mean(trained, "accuracy"), mean(trained, "loss"), mean(trained, "parameters"), mean(trained, "nonzero")]
    rows: list[list[Any]] = [["unpruned", *base, mean(trained, "bytes") / 1000, 1.0]]
    for method in _methods(pruned):
        for sparsity in (0.5, 0.8):
            runs = pick(pruned, method=method, sparsity=sparsity)
            if len(runs):
                rows.append(_overview_row(method, sparsity, runs))
    caption = "Unpruned, weight-pruned (zeros in the same shapes) and neuron-cut networks; means, no retraining. Speedup at batch 256."
    return Table("overview", caption, columns, rows, basis)


def _overview_row(method: str, sparsity: float, runs: DataFrame) -> list[Any]:
    really = METHODS[method][0] == "channels" and "cut_parameters" in runs and runs["cut_parameters"].notna().any()
    label = f"{method} {'cut' if really else 'pruned'} {100 * sparsity:.4g} %"
    if really:
        cut, runs = runs["cut_parameters"].notna(), runs[runs["cut_parameters"].notna()]
        label += "" if cut.all() else f" ({cut.sum()} of {len(cut)} networks)"
    prefix, speed = ("cut_", "speedup_cut_256") if really else ("", "speedup_masked_256")
    sizes = [mean(runs, f"{prefix}{key}") for key in ("parameters", "nonzero", "bytes")]
    return [label, mean(runs, "accuracy"), mean(runs, "loss"), *sizes[:2], sizes[2] / 1000, mean(runs, speed)]


def _damage(pruned: DataFrame, trained: DataFrame, published: Published, origins: Origins, test: str) -> Section:
    base = {name: mean(trained, name) for name in ("accuracy", "loss")}
    blocks = sweep(pruned, base, origins.of(pruned, test), look=styles(METHODS), published=published)
    for method in _methods(pruned):
        rows = pick(pruned, method=method)
        name = f"damage-{method.replace(' ', '-')}"
        theirs = published.points.get(method)
        blocks.append(sweep_table(rows, name, method_caption(method), origins.of(rows, test), theirs=theirs))
    return Section("What pruning costs", blocks)


def _faster(pruned: DataFrame, trained: DataFrame, basis: Basis) -> Section:
    columns = [
        Column("removed", format=".0%"),
        Column("weight pruning", "points", format="+.2f"),
        Column("neuron pruning", "points", format="+.2f"),
        Column("neuron − weight", "points", format="+.2f"),
        Column("95 %"),
    ]
    rows = []
    for sparsity in _sparsities(pruned):
        weight, neuron = (
            pick(pruned, method=m, sparsity=sparsity).set_index("seed")["accuracy"] for m in ("weight", "neuron")
        )
        base = trained.set_index("seed")["accuracy"]
        gap = (100 * (neuron - weight)).dropna()
        if len(gap):
            rows.append(
                [
                    sparsity,
                    float((100 * (weight - base)).mean()),
                    float((100 * (neuron - base)).mean()),
                    float(gap.mean()),
                    interval(gap),
                ]
            )
    caption = (
        "Change of test accuracy against the unpruned network, global magnitude pruning; differences paired by seed."
    )
    return Section("Neurons go sooner than weights", [Table("gap", caption, columns, rows, basis)])


def _gain(pruned: DataFrame, trained: DataFrame, dense: DataFrame, origins: Origins, test: str) -> Section:
    if "cut_parameters" not in pruned:
        return Section("What cutting gains", ["No network could be cut."])
    really = pruned[pruned["cut_parameters"].notna()]
    shown = [method for method in ("neuron", "neuron per layer") if method in set(pruned["method"])]
    blocks: list[Block] = [
        _gain_table(really, pruned, method, origins.of(pick(pruned, method=method), test)) for method in shown
    ]
    blocks += _from_scratch(pruned, trained, dense, origins, test)
    columns = ["method", "sparsity", "seed", "accuracy"]
    cost = really[[*columns, "ms_cut_256", "cut_bytes", "cut_macs"]].rename(
        columns={"ms_cut_256": "ms", "cut_bytes": "bytes", "cut_macs": "macs"}
    )
    axes = {
        "ms": ("Milliseconds for a batch of 256, one thread", mean(really, "ms_unpruned_256"), "latency"),
        "bytes": ("Bytes of the saved file", mean(trained, "bytes"), "bytes"),
        "macs": ("Multiply-accumulates for one image", mean(trained, "macs"), "macs"),
    }
    caption = "Points say which part of the neurons was cut."
    basis, base = origins.of(really, test, having="cut_parameters"), mean(trained, "accuracy")
    blocks += trade_offs(cost, axes, base, basis, look=styles(METHODS), caption=caption)
    return Section("What cutting gains", blocks)


def _from_scratch(pruned: DataFrame, trained: DataFrame, dense: DataFrame, origins: Origins, test: str) -> list[Block]:
    """The cut networks beside networks of their shape that were trained from scratch, paired by seed."""
    if not len(dense) or "accuracy" not in dense:
        return []
    columns = [
        Column("method"),
        Column("removed", format=".0%"),
        Column("parameters", format=",.0f"),
        Column("unpruned", format=".4f"),
        Column("cut, not retrained", format=".4f"),
        Column("small, from scratch", format=".4f"),
        Column("scratch − cut", "points", format="+.2f"),
        Column("95 %"),
        Column("scratch − unpruned", "points", format="+.2f"),
        Column("95 % of it"),
    ]
    base, rows = trained.set_index("seed")["accuracy"], []
    for (method, sparsity), group in dense.groupby(["method", "sparsity"], sort=False):
        own = group.set_index("seed")["accuracy"].dropna()
        cut = pick(pruned, method=method, sparsity=sparsity).set_index("seed")["accuracy"]
        if len(own):
            means = [series[own.index].mean() for series in (base, cut, own)]
            row = [method, sparsity, mean(group, "parameters"), *means]
            for gap in (100 * (own - cut).dropna(), 100 * (own - base).dropna()):
                row += [gap.mean(), interval(gap)]
            rows.append(row)
    caption = (
        "The control: networks of the cut networks' widths, trained from scratch as long as the large ones, with seeds of "
        "their own (Liu et al., 2019). The cut networks were not retrained. Differences are paired by seed."
    )
    words = (
        "A cut is worth its trouble only where the small network could not simply have been trained: so each cut network "
        "stands beside a small one that never was large."
    )
    return [words, Table("from-scratch", caption, columns, rows, origins.of(dense, test))] if rows else []


def _gain_table(really: DataFrame, pruned: DataFrame, method: str, basis: Basis) -> Table:
    columns = [
        Column("removed", format=".0%"),
        Column("parameters", format=",.0f"),
        Column("MACs", format=",.0f"),
        Column("bytes", format=",.0f"),
        Column("speedup cut, batch 1", format=".2f"),
        Column("speedup cut, batch 256", format=".2f"),
        Column("speedup masked, batch 256", format=".2f"),
        Column("accuracy", format=".4f"),
        Column("difference from masked", format=".1e"),
        Column("networks cut"),
    ]
    keys = [
        "cut_parameters",
        "cut_macs",
        "cut_bytes",
        "speedup_cut_1",
        "speedup_cut_256",
        "speedup_masked_256",
        "accuracy",
        "cut_difference",
    ]
    rows = []
    for sparsity in _sparsities(pick(pruned, method=method)):
        runs, all_runs = pick(really, method=method, sparsity=sparsity), pick(pruned, method=method, sparsity=sparsity)
        means = [mean(runs, key) for key in keys[:-1]] + [
            float(runs["cut_difference"].max()) if len(runs) else float("nan")
        ]
        rows.append([sparsity, *means, f"{len(runs)} of {len(all_runs)}"])
    caption = (
        f"{method.capitalize()} pruning, really cut: means over the networks that could be. Where a layer lost all its "
        "neurons nothing is left to cut (the network is constant). Speedup is unpruned ÷ pruned time, measured in turns "
        "in one run at one thread."
    )
    return Table(f"gain-{method.replace(' ', '-')}", caption, columns, rows, basis)


CONTROLS = {
    kind: [m for m in METHODS if m.startswith(kind.split()[0]) and m != kind] for kind in METHODS if "random" in kind
}
"""Blind pruning of the same units: what every method must beat."""


def _judgement(pruned: DataFrame, origins: Origins, test: str) -> Section:
    rows = pruned[pruned["accuracy"].notna()]
    basis = origins.of(rows, test)
    blocks = [*judged(rows, CONTROLS, basis), *areas(rows, basis)]
    if "cut_parameters" in rows:
        blocks += front(rows, "cut_parameters", "parameters", basis)
    return Section("More than luck?", blocks or ["There is nothing to compare yet."])


def _classes(results: Results, pruned: DataFrame, trained: DataFrame, basis: Basis) -> Section:
    names = data.info(results.options["data"]).classes
    return Section("Which classes a cut hurts", class_damage(trained, pruned, names, method="neuron", basis=basis))


def _sparsities(frame: DataFrame) -> list[float]:
    return sorted(set(frame["sparsity"]))


def _methods(pruned: DataFrame) -> list[str]:
    return [m for m in METHODS if m in set(pruned["method"])]
