"""The report on a VGG-16 that was made smaller."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secateur import data
from secateur.files import require
from secateur.lab import figures
from secateur.lab.blocks import Basis, Block, Card, Column, Picture, Section, Table
from secateur.lab.classes import class_damage
from secateur.lab.judgement import paired
from secateur.lab.report import Report
from secateur.lab.sections import interval, mean, pick, trade_offs, training
from secateur.lab.study import Results
from secateur.lab.style import styles
from secateur.studies.charpentier.measured import LABELS, METHODS
from secateur.studies.kit.parts import Part, report

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["WAYS", "pages"]

WAYS = ("at once", "in steps")
_LOOK = styles([f"{method}, {way}" for way in WAYS for method in METHODS])


def pages(results: Results, title: str) -> Report:
    """Return the report; it bears with cells that are not there yet."""
    # The network is no option of this study; its parts are told apart by the data set alone.
    named = replace(results, options={**results.options, "model": "vgg-16"})
    return report(named, title, _sections, _summary, _cards, [_note(results), *_NOTES], trained=False)


def _sections(part: Part) -> list[Section]:
    # Trained networks have the name that builds them, not that of the measured ones.
    trained = pick(part.results.frame, kind="train", data=part.data)
    made = [training(trained, part.results.store.histories(trained["id"]), part.basis(trained))]
    made += [_worth(part)] if len(part.measured) else []
    ended = _ended(part)
    return [*made, _costs(part, ended), _gains(part, ended), _classes(part, ended)] if len(ended) else made


def _summary(part: Part) -> list[str]:
    ended = _ended(part)
    return [_words(part, ended)] if len(ended) else ["Nothing has been cut yet."]


_NOTES = (
    "At once: all units go by loss changes measured on the whole network, and fine-tuning follows. In steps: an equal "
    "part goes at each step, measured anew on the network that is left, with fine-tuning after each step; both train for "
    "as many epochs in all. The controls leave as many units in each layer as the loss change does at the same step, so "
    "that all networks of one way and one sparsity have one shape. The unpruned network, trained on for as long, shows "
    "what the further training alone does. Random units are drawn by the seed of the network.",
    "Units are measured and chosen on training images, epochs on validation images; test images are only looked at in the "
    "end. Chapter 6 of the text is a heading alone: the reading is ours, and there is no published figure to compare with.",
)


def _note(results: Results) -> str:
    options = results.options
    return (
        f"VGG-16 with batch norms at {options['width']:g} of its width, on images padded to 32×32 with zeros, "
        f"{options['epochs']} epochs of Adam at batches of {options['batch_size']}, without dropout. Filters and neurons are "
        f"measured on the first {options['measured']:,} training images. Fine-tuning takes "
        f"{options['steps'] * options['tune_epochs']} epochs in all over the first {options['tune_images']:,} training "
        f"images, at a learning rate of {options['tune_lr']:g}."
    )


def _ended(part: Part) -> DataFrame:
    """The cut networks after their last step."""
    if not len(part.pruned):
        return part.pruned
    rows = part.pruned[part.pruned["step"] == part.pruned["steps"]]
    return rows.assign(named=[f"{row['method']}, {row['way']}" for row in rows.to_dict("records")])


def _cut(ended: DataFrame) -> DataFrame:
    return ended[ended["method"] != "unpruned"]


def _words(part: Part, ended: DataFrame) -> str:
    base, said = mean(part.measured, "accuracy"), []
    for sparsity in sorted(set(_cut(ended)["sparsity"])):
        means = pick(_cut(ended), sparsity=sparsity).groupby("named", sort=False)["accuracy"].mean()
        said.append(
            f"with {100 * sparsity:.4g} % of the units cut {means.max():.4f} by {means.idxmax()} (least: {means.min():.4f} by "
            f"{means.idxmin()})"
        )
    return f"The whole network has a test accuracy of {base:.4f}; fine-tuned it reaches {'; '.join(said)}."


def _cards(part: Part) -> list[Card]:
    ended = _ended(part)
    runs = pick(ended, method=METHODS[0], way=WAYS[0]) if len(ended) else ended
    if not len(runs):
        return []
    most = max(runs["sparsity"])
    small = pick(runs, sparsity=most)
    share = mean(small, "macs") / mean(part.measured, "macs")
    label = f"multiply-accumulates left with {100 * most:.4g} % of the units cut by loss change"
    return [Card(label, f"{share:.1%}", f"test accuracy {mean(small, 'accuracy'):.4f}")]


def _worth(part: Part) -> Section:
    """Labels and loss changes by layer."""
    pandas = require("pandas", "lab")
    rows, changes = [], []
    for place, layer in enumerate(part.measured["by_site"].iloc[0], 1):
        counts = [found[layer] for found in part.measured["by_site"]]
        means = [sum(count[label] for count in counts) / len(counts) for label in LABELS]
        rows.append([f"{place:02}. {layer.removeprefix('vgg.')}", sum(counts[0].values()), *means])
        kept = [part.results.store.artefact(identity)[f"change.{layer}"] for identity in part.measured["id"]]
        changes += [{"layer": rows[-1][0], "change": 1000 * x} for change in kept for x in change.tolist()]
    columns = [Column("layer"), Column("units"), *(Column(label, format=".1f") for label in LABELS)]
    shown = pandas.DataFrame(changes)
    low, high = shown["change"].quantile([0.01, 0.99])
    inner = shown[(shown["change"] >= low) & (shown["change"] <= high)]
    drawn = figures.ridge(inner, group="layer", value="change", label=("Δ of the training loss, thousandths", "layer"))
    medians = shown.groupby("layer")["change"].median()
    alt = "Median loss change by layer, in thousandths: " + ", ".join(f"{n} {x:.3g}" for n, x in medians.items())
    images = int(part.measured["images"].iloc[0])
    basis = part.basis(part.measured, f"measured on {images:,} training images")
    caption = "Units whose removal raises the training loss (important), lowers it (worse), or neither beyond chance (zero); means."
    said = "How the loss changes of each layer's units are spread; the middle 98 % of all units."
    table = Table("layers", caption, columns, rows, basis)
    return Section("What the filters are worth", [table, Picture("changes", drawn, said, alt, basis, shown)])


def _costs(part: Part, ended: DataFrame) -> Section:
    basis = part.basis(_cut(ended))
    blocks: list[Block] = [_accuracies(part, ended, basis)]
    if len(_cut(ended)):
        shown = _cut(ended)[["named", "sparsity", "seed", "accuracy"]].rename(columns={"named": "method"})
        base = mean(part.measured, "accuracy")
        drawn = figures.accuracy_by_sparsity(shown, baseline=base, look=_LOOK)
        means = shown.groupby(["method", "sparsity"], sort=False)["accuracy"].mean()
        alt = "Mean test accuracy: " + ", ".join(f"{m} {100 * s:.4g} % {x:.4f}" for (m, s), x in means.items())
        blocks.append(
            Picture(
                "accuracy", drawn, "Test accuracy after fine-tuning, by the part of the units cut.", alt, basis, shown
            )
        )
    return Section("What cutting costs", [*blocks, *_tests(ended)])


def _accuracies(part: Part, ended: DataFrame, basis: Basis) -> Table:
    columns = [
        Column("way"),
        Column("removed", format=".0%"),
        Column("method"),
        Column("cut alone", format=".4f"),
        Column("fine-tuned", format=".4f"),
        Column("95 %"),
        Column("loss", format=".4f"),
        Column("validation accuracy", format=".4f"),
        Column("training accuracy", format=".4f"),
    ]
    keys = ("loss", "validation_accuracy", "train_accuracy")
    base = part.measured
    rows: list[list[Any]] = [
        [
            "–",
            0.0,
            "unpruned",
            None,
            mean(base, "accuracy"),
            interval(base["accuracy"]),
            *(mean(base, key) for key in keys),
        ]
    ]
    for (way, sparsity, method), runs in ended.groupby(["way", "sparsity", "method"], sort=False):
        label = "unpruned, trained on" if method == "unpruned" else method
        rated = [mean(runs, "cut_accuracy"), mean(runs, "accuracy"), interval(runs["accuracy"])]
        rows.append([way, sparsity, label, *rated, *(mean(runs, key) for key in keys)])
    caption = (
        "Test accuracy right after the last cut and after fine-tuning, the loss on the test set, and the accuracies on "
        "validation images and on the training images that the units were measured on."
    )
    return Table("costs", caption, columns, rows, basis)


def _tests(ended: DataFrame) -> list[Block]:
    runs, words = _cut(ended), "Test accuracy after fine-tuning:"
    methods = f"{words} the controls against the loss change."
    ways = f"{words} in steps against at once."
    return [
        *paired(runs, "compare-methods", methods, baseline=METHODS[0], within=("way", "sparsity")),
        *paired(runs, "compare-ways", ways, by="way", baseline=WAYS[0], within=("method", "sparsity")),
    ]


def _gains(part: Part, ended: DataFrame) -> Section:
    """Size and speed; the methods share their shapes, so those of the loss change stand for all."""
    columns = [
        Column("way"),
        Column("removed", format=".0%"),
        Column("parameters", format=",.0f"),
        Column("MACs", format=",.0f"),
        Column("bytes", format=",.0f"),
        Column("ms, batch 1", format=".3f"),
        Column("speedup, batch 1", format=".2f"),
        Column("ms, batch 256", format=".1f"),
        Column("speedup, batch 256", format=".2f"),
        Column("accuracy", format=".4f"),
    ]
    keys = ("parameters", "macs", "bytes", "ms_cut_1", "speedup_1", "ms_cut_256", "speedup_256", "accuracy")
    runs = pick(ended, method=METHODS[0])
    sizes = [mean(part.measured, key) for key in keys[:3]]
    rows: list[list[Any]] = [
        [
            "unpruned",
            0.0,
            *sizes,
            mean(runs, "ms_unpruned_1"),
            1.0,
            mean(runs, "ms_unpruned_256"),
            1.0,
            mean(part.measured, "accuracy"),
        ]
    ]
    for (way, sparsity), group in runs.groupby(["way", "sparsity"], sort=False):
        rows.append([way, sparsity, *(mean(group, key) for key in keys)])
    caption = (
        "Really cut networks, by loss change: size, and milliseconds of a batch in turns with the unpruned network, median "
        "of 15. Networks of the controls have the same shapes."
    )
    blocks: list[Block] = [Table("gains", caption, columns, rows, part.basis(runs))]
    if len(_cut(ended)):
        shown = _cut(ended)[["named", "sparsity", "seed", "accuracy", "macs"]].rename(columns={"named": "method"})
        axes = {"macs": ("Multiply-accumulates for one image", mean(part.measured, "macs"), "macs")}
        blocks += trade_offs(shown, axes, mean(part.measured, "accuracy"), part.basis(_cut(ended)), look=_LOOK)
    return Section("What cutting gains", blocks)


def _classes(part: Part, ended: DataFrame) -> Section:
    names = data.info(part.data).classes
    after = _cut(ended).assign(method=_cut(ended)["named"])
    first = f"{METHODS[0]}, {WAYS[0]}"
    blocks = class_damage(part.measured, after, names, method=first, basis=part.basis(after)) if len(after) else []
    return Section("Which classes a cut hurts", blocks)
