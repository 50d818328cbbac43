"""The report of a comparison of weight and neuron pruning: tables, figures, and what they say in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur import data
from secateur.lab import figures
from secateur.lab.blocks import Block, Card, Column, Picture, Section, Table
from secateur.lab.report import Report
from secateur.lab.stats import Summary, summarise
from secateur.lab.study import Results
from secateur.lab.style import styles
from secateur.studies.comparison import METHODS

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Published", "pages"]

Points = Mapping[str, Mapping[float, tuple[float | None, float | None]]]


@dataclass(frozen=True)
class Published:
    """The publication's figures.

    Attributes:
        baseline: accuracy and loss of the unpruned network.
        points: method → sparsity → (accuracy, loss); None where the text does not show the number.
        notes: how its ambiguous passages were read.
    """

    baseline: tuple[float | None, float | None] = (None, None)
    points: Points = None  # type: ignore[assignment]
    notes: Sequence[str] = ()

    def at(self, method: str, sparsity: float, which: int) -> float | None:
        """Return the published accuracy (0) or loss (1) of a method at a sparsity, if there is one."""
        return ((self.points or {}).get(method, {}).get(sparsity) or (None, None))[which]

    def frame(self, which: int, name: str) -> DataFrame | None:
        """Return the published points of accuracy (0) or loss (1) as a data frame, None if there are none."""
        import pandas

        rows = [
            {"method": method, "sparsity": sparsity, name: pair[which]}
            for method, found in (self.points or {}).items()
            for sparsity, pair in found.items()
            if pair[which] is not None
        ]
        return pandas.DataFrame(rows) if rows else None


def pages(results: Results, title: str, published: Published, command: str, source: str) -> Report:
    """Return the report; a study that has not finished yet shows what there is."""
    frame = results.frame
    trained, pruned = frame[frame["kind"] == "train"], frame[frame["kind"] == "prune"]
    basis = f"{len(trained)} seed{'s' if len(trained) != 1 else ''}, test set of {results.options['data']}"
    sections = [_training(results, trained, published, basis)] if len(trained) else []
    if len(pruned):
        sections.insert(0, Section("At a glance", [_overview(pruned, trained, basis)]))
        sections += [
            _damage(pruned, trained, published, basis),
            _faster(pruned, trained, basis),
            _gain(pruned, trained, basis),
            _classes(results, pruned, trained, basis),
        ]
    sections.append(Section("How it was done", [*_method_notes(results), *published.notes]))
    return Report(
        title,
        summary=_summary(pruned, trained) if len(pruned) else ["Nothing has been computed yet."],
        cards=_cards(pruned, trained) if len(pruned) else [],
        sections=sections,
        source=source,
        command=command,
    )


def _of(frame: DataFrame, method: str, sparsity: float | None = None) -> DataFrame:
    chosen = frame[frame["method"] == method]
    return chosen if sparsity is None else chosen[chosen["sparsity"] == sparsity]


def _mean(frame: DataFrame, column: str) -> float:
    return float(frame[column].mean()) if column in frame and frame[column].notna().any() else float("nan")


def _interval(values: Any) -> str:
    found: Summary = summarise(values)
    half = found.high - found.mean
    return f"± {half:.4f}" if half == half else ""


def _sparsities(pruned: DataFrame) -> list[float]:
    return sorted(set(pruned["sparsity"]))


def _methods(pruned: DataFrame) -> list[str]:
    return [m for m in METHODS if m in set(pruned["method"])]


def _summary(pruned: DataFrame, trained: DataFrame) -> list[str]:
    base = _mean(trained, "accuracy")
    words = [f"Unpruned, the networks reach a mean test accuracy of {base:.4f} (loss {_mean(trained, 'loss'):.4f})."]
    for method in ("weight", "neuron"):
        found = [s for s in _sparsities(pruned) if _mean(_of(pruned, method, s), "accuracy") >= base - 0.01]
        if method in set(pruned["method"]):
            most = f"up to {100 * max(found):.4g} % of them" if found else "at none of the sparsities tried"
            words.append(
                f"Removing {method}s by magnitude, globally and without retraining, costs at most one point {most}."
            )
    return [" ".join(words), _cut_words(pruned)]


def _cut_words(pruned: DataFrame) -> str:
    if "cut_parameters" not in pruned:
        return ""
    really = pruned[pruned["cut_parameters"].notna()]
    worst = float(really["cut_difference"].max())
    half = _of(really, "neuron", 0.5)
    words = f"{len(really)} neuron-pruned networks were really cut; on all test images they differ from the masked ones by at most {worst:.1e} (relative)."
    if len(half):
        words += (
            f" With half of the neurons cut, {_mean(half, 'parameters_removed'):.0%} of the parameters are gone and a "
            f"batch of 256 takes 1/{_mean(half, 'speedup_cut_256'):.1f} of the time; the masked network is no faster "
            f"({_mean(half, 'speedup_masked_256'):.2f}×)."
        )
    return words


def _cards(pruned: DataFrame, trained: DataFrame) -> list[Card]:
    cards = [Card("unpruned accuracy", f"{_mean(trained, 'accuracy'):.4f}", f"test set, {len(trained)} seeds")]
    for method in ("weight", "neuron"):
        half = _of(pruned, method, 0.5)
        if len(half):
            drop = 100 * (_mean(half, "accuracy") - _mean(trained, "accuracy"))
            cards.append(
                Card(
                    f"50 % of {method}s removed",
                    f"{drop:+.2f} points".replace("-", "−"),
                    "global magnitude, no retraining",
                )
            )
    fifth = _of(pruned, "neuron per layer", 0.5)
    if len(fifth) and "speedup_cut_256" in fifth:
        cards.append(
            Card(
                "cut, half of each layer",
                f"{_mean(fifth, 'speedup_cut_256'):.1f}× faster",
                f"accuracy {_mean(fifth, 'accuracy'):.4f}, batch 256, one thread",
            )
        )
    return cards


def _overview(pruned: DataFrame, trained: DataFrame, basis: str) -> Table:
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
    base = [_mean(trained, "accuracy"), _mean(trained, "loss"), _mean(trained, "parameters"), _mean(trained, "nonzero")]
    rows: list[list[Any]] = [["unpruned", *base, _mean(trained, "bytes") / 1000, 1.0]]
    for method in _methods(pruned):
        for sparsity in (0.5, 0.8):
            runs = _of(pruned, method, sparsity)
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
    sizes = [_mean(runs, f"{prefix}{key}") for key in ("parameters", "nonzero", "bytes")]
    return [label, _mean(runs, "accuracy"), _mean(runs, "loss"), *sizes[:2], sizes[2] / 1000, _mean(runs, speed)]


def _training(results: Results, trained: DataFrame, published: Published, basis: str) -> Section:
    columns = [
        Column("seed"),
        Column("best epoch", key="best_epoch"),
        Column("accuracy", format=".4f"),
        Column("loss", format=".4f"),
        Column("parameters", format=",.0f"),
    ]
    table = Table.of(
        trained, "baselines", "The trained networks, unpruned, at the epoch of lowest validation loss.", columns, basis
    )
    rows = [list(r) for r in table.rows]
    rows.append(["mean", None, _mean(trained, "accuracy"), _mean(trained, "loss"), None])
    if published.baseline[0] is not None:
        rows.append(["published", None, *published.baseline, None])
    blocks: list[Block] = [Table(table.name, table.caption, columns, rows, basis)]
    history = results.histories
    if len(history):
        blocks.append(
            Picture(
                "learning-curves",
                figures.learning_curves(history),
                "Training and validation loss and accuracy by epoch; the dotted line is the epoch kept.",
                "Line charts of loss and accuracy over epochs for training and validation data.",
                f"{len(trained)} seeds; validation images held out of the training set",
                history,
            )
        )
    return Section("Training", blocks)


def _damage(pruned: DataFrame, trained: DataFrame, published: Published, basis: str) -> Section:
    look = styles(list(METHODS))
    base = {name: _mean(trained, name) for name in ("accuracy", "loss")}
    hollow = "; hollow markers are the published figures" if published.points else ""
    shown = pruned[["method", "sparsity", "seed", "accuracy", "loss"]]
    blocks: list[Block] = [
        Picture(
            "accuracy",
            figures.accuracy_by_sparsity(
                shown, published=published.frame(0, "accuracy"), baseline=base["accuracy"], look=look
            ),
            f"Test accuracy by the part removed, no retraining{hollow}.",
            "Weight pruning keeps its accuracy far longer than neuron pruning as sparsity grows.",
            f"{basis}; mean and 95 % interval of the mean",
            shown,
        ),
        Picture(
            "loss",
            figures.loss_by_sparsity(
                shown, published=published.frame(1, "loss"), baseline=base["loss"], look=look, logarithmic=True
            ),
            f"Test loss by the part removed, no retraining{hollow}.",
            "Loss grows with sparsity, sooner for neurons than for weights.",
            f"{basis}; mean and 95 % interval of the mean",
            shown,
        ),
    ]
    blocks += [_damage_table(pruned, published, method, basis) for method in _methods(pruned)]
    return Section("What pruning costs", blocks)


def _damage_table(pruned: DataFrame, published: Published, method: str, basis: str) -> Table:
    theirs = method in (published.points or {})
    columns = [
        Column("removed", format=".0%"),
        Column("parameters removed", format=".1%"),
        Column("accuracy", format=".4f"),
        Column("95 %"),
        Column("loss", format=".4f"),
        Column("95 % of loss"),
    ]
    if theirs:
        columns += [Column("accuracy", format=".4f", published=True), Column("loss", format=".4f", published=True)]
    rows = []
    for sparsity in _sparsities(_of(pruned, method)):
        runs = _of(pruned, method, sparsity)
        row: list[Any] = [
            sparsity,
            _mean(runs, "parameters_removed"),
            _mean(runs, "accuracy"),
            _interval(runs["accuracy"]),
        ]
        row += [_mean(runs, "loss"), _interval(runs["loss"])]
        rows.append(row + ([published.at(method, sparsity, 0), published.at(method, sparsity, 1)] if theirs else []))
    unit, criterion, scope = METHODS[method]
    name = {
        "magnitude": "lowest L2 norm of incoming weights" if unit == "channels" else "lowest magnitude",
        "random": "at random",
    }[criterion]
    where = {"global": "all layers pooled", "layer": "in each layer alone"}[scope]
    what = "neurons" if unit == "channels" else "weights"
    return Table(
        f"damage-{method.replace(' ', '-')}",
        f"{what.capitalize()} removed, {name}, {where}; not retrained.",
        columns,
        rows,
        basis,
    )


def _faster(pruned: DataFrame, trained: DataFrame, basis: str) -> Section:
    columns = [
        Column("removed", format=".0%"),
        Column("weight pruning", "points", format="+.2f"),
        Column("neuron pruning", "points", format="+.2f"),
        Column("neuron − weight", "points", format="+.2f"),
        Column("95 %"),
    ]
    rows = []
    for sparsity in _sparsities(pruned):
        weight, neuron = (_of(pruned, m, sparsity).set_index("seed")["accuracy"] for m in ("weight", "neuron"))
        base = trained.set_index("seed")["accuracy"]
        gap = (100 * (neuron - weight)).dropna()
        if len(gap):
            rows.append(
                [
                    sparsity,
                    float((100 * (weight - base)).mean()),
                    float((100 * (neuron - base)).mean()),
                    float(gap.mean()),
                    _interval(gap),
                ]
            )
    caption = (
        "Change of test accuracy against the unpruned network, global magnitude pruning; differences paired by seed."
    )
    return Section("Neurons go sooner than weights", [Table("gap", caption, columns, rows, basis)])


def _gain(pruned: DataFrame, trained: DataFrame, basis: str) -> Section:
    if "cut_parameters" not in pruned:
        return Section("What cutting gains", ["No network could be cut."])
    really = pruned[pruned["cut_parameters"].notna()]
    blocks: list[Block] = [
        _gain_table(really, pruned, m, basis) for m in ("neuron", "neuron per layer") if len(_of(pruned, m))
    ]
    cost = really[["method", "sparsity", "seed", "accuracy", "ms_cut_256", "cut_bytes", "cut_macs"]].rename(
        columns={"ms_cut_256": "ms", "cut_bytes": "bytes", "cut_macs": "macs"}
    )
    base = _mean(trained, "accuracy")
    axes = {
        "ms": ("Milliseconds for a batch of 256, one thread", _mean(really, "ms_unpruned_256"), "latency"),
        "bytes": ("Bytes of the saved file", _mean(trained, "bytes"), "bytes"),
        "macs": ("Multiply-accumulates for one image", _mean(trained, "macs"), "macs"),
    }
    for column, (label, before, name) in axes.items():
        figure = figures.trade_off(
            cost, cost=column, label=label, baseline=(before, base), look=styles(list(METHODS)), logarithmic=True
        )
        blocks.append(
            Picture(
                f"trade-off-{name}",
                figure,
                f"What accuracy costs: {label.lower()}. Points say which part of the neurons was cut.",
                f"Accuracy against {label.lower()} for networks that were really cut.",
                basis,
                cost,
            )
        )
    return Section("What cutting gains", blocks)


def _gain_table(really: DataFrame, pruned: DataFrame, method: str, basis: str) -> Table:
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
    for sparsity in _sparsities(_of(pruned, method)):
        runs, all_runs = _of(really, method, sparsity), _of(pruned, method, sparsity)
        means = [_mean(runs, key) for key in keys[:-1]] + [
            float(runs["cut_difference"].max()) if len(runs) else float("nan")
        ]
        rows.append([sparsity, *means, f"{len(runs)} of {len(all_runs)}"])
    caption = (
        f"{method.capitalize()} pruning, really cut: means over the networks that could be. Where a layer lost all its "
        "neurons nothing is left to cut (the network is constant). Speedup is unpruned ÷ pruned time, measured in turns "
        "in one run at one thread."
    )
    return Table(f"gain-{method.replace(' ', '-')}", caption, columns, rows, basis)


def _classes(results: Results, pruned: DataFrame, trained: DataFrame, basis: str) -> Section:
    names = data.info(results.options["data"]).classes
    method = "neuron" if len(_of(pruned, "neuron")) else _methods(pruned)[0]
    base = _mean(trained, "accuracy")
    hurt = [s for s in _sparsities(_of(pruned, method)) if _mean(_of(pruned, method, s), "accuracy") < base - 0.01]
    sparsity = hurt[0] if hurt else _sparsities(pruned)[-1]
    before, after = (_class_means(f) for f in (trained, _of(pruned, method, sparsity)))
    order = sorted(range(len(names)), key=lambda i: after[i] - before[i])
    words = ", ".join(f"{names[i]} ({100 * (after[i] - before[i]):+.1f} points)".replace("-", "−") for i in order[:3])
    figure = figures.class_bars(
        names, before, after, names=("unpruned", f"{100 * sparsity:.4g} % of {method}s removed")
    )
    picture = Picture(
        "classes",
        figure,
        f"Test accuracy of each class, unpruned and with {100 * sparsity:.4g} % of the {method}s removed.",
        "Bars of the accuracy of each class before and after pruning.",
        basis,
    )
    return Section(
        "Which classes a cut hurts",
        [f"Hurt most: {words}. Shown is the first sparsity at which the mean accuracy has fallen by a point.", picture],
    )


def _class_means(frame: DataFrame) -> list[float]:
    rows = list(frame["class_accuracy"])
    return [sum(row[i] for row in rows) / len(rows) for i in range(len(rows[0]))]


def _method_notes(results: Results) -> list[str]:
    o = results.options
    return [
        f"Each network ({o['model']}) is trained for {o['epochs']} epochs of Adam (learning rate 0.001, batch {o['batch_size']}); the last "
        f"{o['validation']} training images are the validation set, and the weights of the epoch with the lowest "
        "validation loss are kept. Pruning follows without retraining. Test images are used for reporting only: no choice was made on them.",
        "Weight pruning pools the entries of the hidden layers' weight matrices. Neuron pruning ranks the hidden neurons by the L2 norm "
        "of their incoming weights; the output layer is kept. Random pruning is the control: the same numbers, chosen blindly.",
        "A masked network has zeros where something was removed and keeps its shapes, so it is neither smaller nor faster. "
        "A cut network is a smaller one; before it is measured, its outputs on all test images are compared with the masked network's.",
    ]
