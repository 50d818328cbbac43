"""The report of a comparison of weight and neuron pruning: its sections, and the tables of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import nan
from typing import TYPE_CHECKING, Any

from secateur.lab.show.blocks import Block, Column, Section, Table
from secateur.lab.show.class_damage import class_damage
from secateur.lab.show.judgement import areas, front, judged
from secateur.lab.show.published import Published
from secateur.lab.show.sections import mean, pick, several, sweep, sweep_table, trade_offs, training
from secateur.lab.show.shares import ASKED
from secateur.lab.show.style import Style, styles
from secateur.lab.show.words import file_name, percent
from secateur.studies.comparison.options import METHODS, Pruning, methods_of
from secateur.studies.comparison.words import beside, method_caption
from secateur.studies.kit.grouped import Mean, grouped, means
from secateur.studies.kit.parts import UNPRUNED, Part

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["sections"]


def _controls(part: Part) -> dict[str, list[str]]:
    """Blind pruning of the same units: what every method must beat."""
    methods = _methods(part)
    return {
        control: [label for label, method in methods.items() if _is_control_of(label, methods[control], method)]
        for control in methods
        if methods[control].is_random
    }


def _is_control_of(label: str, control: Pruning, method: Pruning) -> bool:
    """Methods with a name have one control a unit; those of a grid the one that goes as they go."""
    if method.unit != control.unit or method.is_random:
        return False
    return label in METHODS or replace(method, criterion="random") == control or bool(method.solver)


def sections(part: Part, published: Published) -> list[Section]:
    """Return the sections; a study that has not finished yet shows what there is."""
    parts = []
    if len(part.trained):
        parts.append(training(part.trained, part.epochs, part.basis(part.trained), published=published))
    if len(part.pruned):
        parts.insert(0, Section("At a glance", [_overview(part)]))
        parts += [_damage(part, published), *_faster(part), _gain(part), _judgement(part), _classes(part)]
    return parts


def _overview(part: Part) -> Table:
    """One row for the unpruned networks, and one for each method at half and at nine tenths removed."""
    columns = [
        Mean("accuracy", Column("accuracy", format=".4f")),
        Mean("loss", Column("loss", format=".4f")),
        Mean("parameters", Column("parameters", format=",.0f")),
        Mean("nonzero", Column("non-zero", format=",.0f")),
        Mean(lambda rows: mean(rows, "bytes") / 1000, Column("kilobytes", format=",.0f")),
        Mean("speedup", Column("speedup", format=".2f")),
    ]
    rows = [[name, *means(runs.assign(speedup=1.0), columns)] for name, runs in part.unpruned.items()]
    asked = sorted(set(part.pruned[ASKED]))
    for name, method in _methods(part).items():
        for sparsity in sorted(set(asked) & {0.5, 0.8}) or asked[:3]:
            runs = part.pruned[(part.pruned["method"] == name) & (part.pruned[ASKED] == sparsity)]
            if len(runs):
                label, runs = _as_used(name, method, runs["sparsity"].iloc[0], runs)
                rows.append([label, *means(runs, columns)])
    units = {method.unit for method in _methods(part).values()}
    pruned = [
        *(["networks with weights pruned (zeros in the same shapes)"] if "weights" in units else []),
        *(["networks really cut"] if len(_cut(part.pruned)) else []),
        *(["networks of which no channel was cut"] if "channels" in units and not len(_cut(part.pruned)) else []),
    ]
    over = "means, " if several(part.pruned) else ""
    caption = f"The unpruned networks, {' and '.join(pruned)}; {over}{_retraining(part)}. Speedup at batch 256."
    headings = [Column("network"), *(column.column for column in columns)]
    return Table("overview", caption, headings, rows, part.basis(part.pruned))


def _retraining(part: Part) -> str:
    if all(method.finetune for method in _methods(part).values()):
        return "fine-tuned"
    return "fine-tuned where its name says so" if any(m.finetune for m in _methods(part).values()) else "no retraining"


def _as_used(label: str, method: Pruning, sparsity: float, runs: DataFrame) -> tuple[str, DataFrame]:
    """What is left of the networks as one would use it, cut where that could be, and what it is called."""
    cut = _cut(runs)
    if method.unit != "channels" or not len(cut):
        speedup = runs.get("speedup_masked_256")
        return f"{label} pruned {percent(sparsity)}", runs.assign(speedup=speedup)
    sizes = {key: cut[f"cut_{key}"] for key in ("parameters", "nonzero", "bytes")}
    some = "" if len(cut) == len(runs) else f" ({len(cut)} of {len(runs)} networks)"
    return f"{label} cut {percent(sparsity)}{some}", cut.assign(**sizes, speedup=cut["speedup_cut_256"])


def _cut(rows: DataFrame) -> DataFrame:
    """The networks that were really cut."""
    return rows[rows["cut_parameters"].notna()] if "cut_parameters" in rows else rows[:0]


def _damage(part: Part, published: Published) -> Section:
    unpruned = {name: {key: mean(rows, key) for key in ("accuracy", "loss")} for name, rows in part.unpruned.items()}
    unpruned = unpruned or {UNPRUNED: {"accuracy": nan, "loss": nan}}
    beside = {
        label: name if (name := method.unpruned) in unpruned else UNPRUNED for label, method in _methods(part).items()
    }
    blocks = sweep(
        part.pruned,
        unpruned,
        part.basis(part.pruned),
        look=_look(part),
        beside=beside,
        published=published,
        training=_retraining(part),
    )
    for label, method in _methods(part).items():
        rows = pick(part.pruned, method=label)
        theirs = published.points.get(label)
        name = f"damage-{file_name(label)}"
        blocks.append(sweep_table(rows, name, method_caption(label, method), part.basis(rows), theirs=theirs))
    return Section("What pruning costs", blocks)


def _look(part: Part) -> dict[str, Style]:
    return styles([*METHODS, *methods_of(part.options)])


def _faster(part: Part) -> list[Section]:
    """What neurons lose before weights do, where both are pruned by magnitude."""
    if not {"weight", "neuron"} <= set(part.pruned["method"]):
        return []
    columns = [
        Mean("weight", Column("weight pruning", "points", format="+.2f")),
        Mean("neuron", Column("neuron pruning", "points", format="+.2f")),
        Mean("gap", Column("neuron − weight", "points", format="+.2f"), "95 %"),
    ]
    rows = part.pruned[part.pruned["method"].isin(["weight", "neuron"])]
    rows = rows.pivot(index=["sparsity", "seed"], columns="method", values="accuracy")
    rows = rows.reindex(columns=["weight", "neuron"]).reset_index()
    base = rows["seed"].map(part.trained.set_index("seed")["accuracy"])
    rows = rows.assign(
        **{name: 100 * (rows[name] - base) for name in ("weight", "neuron")}, gap=rows["neuron"] - rows["weight"]
    )
    rows["gap"] *= 100
    rows = rows[rows.groupby("sparsity")["gap"].transform("count") > 0]
    caption = (
        "Change of test accuracy against the unpruned network, global magnitude pruning; differences paired by seed."
    )
    groups = {"sparsity": Column("removed", format=".0%")}
    table = grouped(rows, "gap", caption, groups, columns, part.basis(part.pruned), sort=True)
    return [Section("Neurons go sooner than weights", [table])]


def _gain(part: Part) -> Section:
    cut, trained = _cut(part.pruned), part.trained
    if "cut_parameters" not in part.pruned:
        return Section("What cutting gains", ["No network could be cut."])
    methods = [name for name, m in _methods(part).items() if m.unit == "channels" and not m.is_random]
    blocks: list[Block] = [*(_gain_table(part, method) for method in methods), *_from_scratch(part)]
    columns = ["method", "sparsity", "seed", "accuracy"]
    cost = cut[[*columns, "ms_cut_256", "cut_bytes", "cut_macs"]].rename(
        columns={"ms_cut_256": "ms", "cut_bytes": "bytes", "cut_macs": "macs"}
    )
    axes = {
        "ms": ("Milliseconds for a batch of 256, one thread", mean(cut, "ms_unpruned_256"), "latency"),
        "bytes": ("Bytes of the saved file", mean(trained, "bytes"), "bytes"),
        "macs": ("Multiply-accumulates for one image", mean(trained, "macs"), "macs"),
    }
    basis = part.origins.of(cut, f"test set of {part.data}", having="cut_parameters")
    caption = "Points say which part of the neurons was cut."
    lines = {method.unpruned for label, method in _methods(part).items() if label in set(cost["method"])}
    unpruned = part.unpruned.get(lines.pop(), trained) if len(lines) == 1 else trained
    blocks += trade_offs(cost, axes, mean(unpruned, "accuracy"), basis, look=_look(part), caption=caption)
    return Section("What cutting gains", blocks)


def _from_scratch(part: Part) -> list[Block]:
    """The cut networks beside networks of their shape that were trained from scratch, paired by seed."""
    dense = part.kind("dense")
    if "accuracy" not in dense:
        return []
    cut = part.pruned.set_index(["method", ASKED, "seed"])[["accuracy", "sparsity"]]
    cut = cut.rename(columns={"accuracy": "cut", "sparsity": "removed"})
    rows = dense.rename(columns={"sparsity": ASKED}).join(cut, on=["method", ASKED, "seed"])
    rows = rows.assign(sparsity=rows["removed"].fillna(rows[ASKED]), base=beside(part, rows))
    rows = rows[rows["accuracy"].notna()]
    columns = [
        Mean("parameters", Column("parameters", format=",.0f")),
        Mean("base", Column("unpruned", format=".4f")),
        Mean("cut", Column(_cut_how(part), format=".4f")),
        Mean("accuracy", Column("small, from scratch", format=".4f")),
        Mean(_gap("cut"), Column("scratch − cut", "points", format="+.2f"), "95 %"),
        Mean(_gap("base"), Column("scratch − unpruned", "points", format="+.2f"), "95 % of it"),
    ]
    caption = (
        "The control: networks of the cut networks' widths, trained from scratch as long as the large ones, with seeds of "
        "their own (Liu et al., 2019). Differences are paired by seed."
    )
    words = (
        "A cut is worth its trouble only where the small network could not simply have been trained: so each cut network "
        "stands beside a small one that never was large."
    )
    groups = {"method": Column("method"), "sparsity": Column("removed", format=".0%")}
    table = grouped(rows, "from-scratch", caption, groups, columns, part.basis(dense))
    return [words, table] if table.rows else []


def _cut_how(part: Part) -> str:
    tuned = any(method.finetune for method in _methods(part).values())
    return f"cut, {_retraining(part)}" if tuned else "cut, not retrained"


def _gap(key: str) -> Callable[[DataFrame], Any]:
    return lambda rows: (100 * (rows["accuracy"] - rows[key])).dropna()


def _gain_table(part: Part, method: str) -> Table:
    def cut(key: str) -> Callable[[DataFrame], Any]:
        return lambda rows: mean(_cut(rows), key)

    def greatest(rows: DataFrame) -> float:
        return float(rows["cut_difference"].max()) if "cut_difference" in rows else nan

    columns = [
        Mean("cut_parameters", Column("parameters", format=",.0f")),
        Mean("cut_macs", Column("MACs", format=",.0f")),
        Mean("cut_bytes", Column("bytes", format=",.0f")),
        Mean("speedup_cut_1", Column("speedup cut, batch 1", format=".2f")),
        Mean("speedup_cut_256", Column("speedup cut, batch 256", format=".2f")),
        Mean(cut("speedup_masked_256"), Column("speedup masked, batch 256", format=".2f")),
        Mean(cut("accuracy"), Column("accuracy", format=".4f")),
        Mean(greatest, Column("difference from masked", format=".1e")),
        Mean(lambda rows: f"{len(_cut(rows))} of {len(rows)}", Column("networks cut")),
    ]
    rows = pick(part.pruned, method=method)
    how = f"{method.capitalize()} pruning" if method in METHODS else f"Channels removed by {method}"
    over = "means over the networks that could be" if several(rows) else "the network, where it could be"
    caption = (
        f"{how}, really cut: {over}. Where a layer lost all its "
        "neurons nothing is left to cut (the network is constant). Speedup is unpruned ÷ pruned time, measured in turns "
        "in one run at one thread."
    )
    name, groups = f"gain-{file_name(method)}", {"sparsity": Column("removed", format=".0%")}
    return grouped(rows, name, caption, groups, columns, part.basis(rows), sort=True)


def _judgement(part: Part) -> Section:
    rows = part.pruned[part.pruned["accuracy"].notna()]
    basis = part.basis(rows)
    blocks = [*judged(rows, _controls(part), basis), *areas(rows, basis)]
    if "cut_parameters" in rows:
        blocks += front(rows, "cut_parameters", "parameters", basis)
    return Section("More than luck?", blocks or ["There is nothing to compare yet."])


def _classes(part: Part) -> Section:
    methods = _methods(part)
    usual = next((name for name, m in methods.items() if m.unit == "channels" and not m.is_random), next(iter(methods)))
    method = "neuron" if "neuron" in methods else usual
    # Only those that are held against the same networks, and of which something was removed.
    alike = [label for label, other in methods.items() if other.unpruned == methods[method].unpruned]
    rows = part.pruned[part.pruned["method"].isin(alike) & (part.pruned["sparsity"] > 0)]
    before = part.unpruned.get(methods[method].unpruned, part.trained)
    blocks = class_damage(before, rows, part.classes, method=method, basis=part.basis(rows)) if len(rows) else []
    return Section("Which classes a cut hurts", blocks or ["Nothing was removed, or no classes were told apart."])


def _methods(part: Part) -> dict[str, Pruning]:
    """The methods of which there are results, in the order of the options."""
    finished = set(part.pruned["method"])
    return {label: method for label, method in methods_of(part.options).items() if label in finished}
