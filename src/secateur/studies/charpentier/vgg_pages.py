"""The report on a VGG-16 that was made smaller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.files import require
from secateur.lab.plan.study import Results
from secateur.lab.show import figures
from secateur.lab.show.blocks import Basis, Block, Card, Column, Picture, Section, Table
from secateur.lab.show.class_damage import class_damage
from secateur.lab.show.judgement import paired
from secateur.lab.show.sections import by_seed, mean, mean_card, pick, trade_offs, training
from secateur.lab.show.style import styles
from secateur.lab.show.words import formatted, named, percent
from secateur.studies.charpentier.measured import LABELS
from secateur.studies.kit.controls import METHODS
from secateur.studies.kit.grouped import Mean, grouped, means
from secateur.studies.kit.parts import Part

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["WAYS", "cards", "notes", "sections", "words"]

WAYS = ("at once", "in steps")
_LOOK = styles([f"{method}, {way}" for way in WAYS for method in METHODS])


def sections(part: Part) -> list[Section]:
    """Return the sections on the training, the filters, and on what cuts cost, gain and hurt."""
    # Trained networks have the name that builds them, not that of the measured ones.
    trained = pick(part.results.frame, kind="train", data=part.data)
    parts = [training(trained, part.results.store.histories(trained["id"]), part.basis(trained))]
    parts += [_worth(part)] if len(part.measured) else []
    ended = _ended(part)
    return [*parts, _costs(part, ended), _gains(part, ended), _classes(part, ended)] if len(ended) else parts


def words(part: Part) -> list[str]:
    """Return which way to each sparsity leaves most accuracy, and which least."""
    ended = _ended(part)
    if not len(ended):
        return ["Nothing has been cut yet."]
    places = []
    for sparsity in sorted(set(_cut(ended)["sparsity"])):
        means = pick(_cut(ended), sparsity=sparsity).groupby("named", sort=False)["accuracy"].mean()
        places.append(
            f"with {percent(sparsity)} of the units cut {formatted(means.max(), '.4f')} by {means.idxmax()} (least: {formatted(means.min(), '.4f')} by "
            f"{means.idxmin()})"
        )
    base = mean(part.measured, "accuracy")
    return [
        f"The whole network has a test accuracy of {formatted(base, '.4f')}; fine-tuned it reaches {'; '.join(places)}."
    ]


_NOTES = (
    "At once: all units go by loss changes measured on the whole network, and fine-tuning follows. In steps: an equal "
    "part goes at each step, measured anew on the network that is left, with fine-tuning after each step; both train for "
    "as many epochs in all. The controls leave as many units in each layer as the loss change does at the same step, so "
    "that all networks of one way and one sparsity have one shape. The unpruned network, trained on for as long, shows "
    "what the further training alone does. Random units are drawn by the seed of the network.",
    "Units are measured and chosen on training images, epochs on validation images; test images are only looked at in the "
    "end. Chapter 6 of the text is a heading alone: the reading is ours, and there is no published figure to compare with.",
)


def notes(results: Results) -> list[str]:
    """Return how it was done."""
    options = results.options
    return [
        f"VGG-16 with batch norms at {options['width']:g} of its width, on images padded to 32×32 with zeros, "
        f"{options['epochs']} epochs of Adam at batches of {options['batch_size']}, without dropout. Filters and neurons are "
        f"measured on the first {options['measured']:,} training images. Fine-tuning takes "
        f"{options['steps'] * options['tune_epochs']} epochs in all over the first {options['tune_images']:,} training "
        f"images, at a learning rate of {options['tune_lr']:g}.",
        *_NOTES,
    ]


def _ended(part: Part) -> DataFrame:
    """The cut networks after their last step."""
    if not len(part.pruned):
        return part.pruned
    rows = part.pruned[part.pruned["step"] == part.pruned["steps"]]
    return rows.assign(named=[f"{row['method']}, {row['way']}" for row in rows.to_dict("records")])


def _cut(ended: DataFrame) -> DataFrame:
    return ended[ended["method"] != "unpruned"]


def cards(part: Part) -> list[Card]:
    """Return what is left of the work at the greatest sparsity."""
    ended = _ended(part)
    runs = pick(ended, method=METHODS[0], way=WAYS[0]) if len(ended) else ended
    if not len(runs):
        return []
    most = max(runs["sparsity"])
    small = pick(runs, sparsity=most)
    left = by_seed(small, "macs") / by_seed(part.measured, "macs")
    note = f"test accuracy {formatted(mean(small, 'accuracy'), '.4f')}"
    label = f"multiply-accumulates left with {percent(most)} of the units cut by loss change"
    return [mean_card(label, 100 * left, note, shape=".1f", unit=" %", within=(0, 100))]


def _worth(part: Part) -> Section:
    """Labels and loss changes by layer."""
    pandas = require("pandas", "lab")
    rows, changes = [], []
    for place, layer in enumerate(part.measured["by_site"].iloc[0], 1):
        counts = [by_site[layer] for by_site in part.measured["by_site"]]
        means = [sum(count[label] for count in counts) / len(counts) for label in LABELS]
        rows.append([f"{place:02}. {layer.removeprefix('vgg.')}", sum(counts[0].values()), *means])
        tensors = [part.results.store.artefact(identity)[f"change.{layer}"] for identity in part.measured["id"]]
        changes += [{"layer": rows[-1][0], "change": 1000 * x} for tensor in tensors for x in tensor.tolist()]
    columns = [Column("layer"), Column("units"), *(Column(label, format=".1f") for label in LABELS)]
    frame = pandas.DataFrame(changes)
    low, high = frame["change"].quantile([0.01, 0.99])
    inner = frame[(frame["change"] >= low) & (frame["change"] <= high)]
    label = ("Δ of the training loss, thousandths", "layer")
    drawing = figures.ridge(inner, group="layer", value="change", label=label)
    medians = frame.groupby("layer")["change"].median()
    alt = "Median loss change by layer, in thousandths: " + named(medians, ".3g")
    images = int(part.measured["images"].iloc[0])
    basis = part.basis(part.measured, f"measured on {images:,} training images")
    caption = "Units whose removal raises the training loss (important), lowers it (worse), or neither beyond chance (zero); means."
    spread = "How the loss changes of each layer's units are spread; the middle 98 % of all units."
    table = Table("layers", caption, columns, rows, basis)
    return Section("What the filters are worth", [table, Picture("changes", drawing, spread, alt, basis, frame)])


def _costs(part: Part, ended: DataFrame) -> Section:
    basis = part.basis(_cut(ended))
    blocks: list[Block] = [_accuracies(part, ended, basis)]
    if len(_cut(ended)):
        rows = _cut(ended)[["named", "sparsity", "seed", "accuracy"]].rename(columns={"named": "method"})
        drawing = figures.accuracy_by_sparsity(rows, baseline=mean(part.measured, "accuracy"), look=_LOOK)
        means = rows.groupby(["method", "sparsity"], sort=False)["accuracy"].mean()
        alt = "Mean test accuracy: " + ", ".join(
            f"{m} {percent(s)} {formatted(x, '.4f')}" for (m, s), x in means.items()
        )
        caption = "Test accuracy after fine-tuning, by the part of the units cut."
        blocks.append(Picture("accuracy", drawing, caption, alt, basis, rows))
    return Section("What cutting costs", [*blocks, *_tests(ended)])


def _accuracies(part: Part, ended: DataFrame, basis: Basis) -> Table:
    columns = [
        Mean("cut_accuracy", Column("cut alone", format=".4f")),
        Mean("accuracy", Column("fine-tuned", format=".4f"), "95 %"),
        Mean("loss", Column("loss", format=".4f")),
        Mean("validation_accuracy", Column("validation accuracy", format=".4f")),
        Mean("train_accuracy", Column("training accuracy", format=".4f")),
    ]
    groups = {"way": Column("way"), "sparsity": Column("removed", format=".0%"), "named": Column("method")}
    rows = ended.assign(named=ended["method"].replace("unpruned", "unpruned, trained on"))
    caption = (
        "Test accuracy right after the last cut and after fine-tuning, the loss on the test set, and the accuracies on "
        "validation images and on the training images that the units were measured on."
    )
    whole = ["–", 0.0, "unpruned", *means(part.measured, columns)]
    return grouped(rows, "costs", caption, groups, columns, basis, first=[whole])


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
        Mean("parameters", Column("parameters", format=",.0f")),
        Mean("macs", Column("MACs", format=",.0f")),
        Mean("bytes", Column("bytes", format=",.0f")),
        Mean("ms_cut_1", Column("ms, batch 1", format=".3f")),
        Mean("speedup_1", Column("speedup, batch 1", format=".2f")),
        Mean("ms_cut_256", Column("ms, batch 256", format=".1f")),
        Mean("speedup_256", Column("speedup, batch 256", format=".2f")),
        Mean("accuracy", Column("accuracy", format=".4f")),
    ]
    runs = pick(ended, method=METHODS[0])
    speed = {f"ms_cut_{batch}": mean(runs, f"ms_unpruned_{batch}") for batch in (1, 256)}
    whole = part.measured.assign(**speed, speedup_1=1.0, speedup_256=1.0)
    caption = (
        "Really cut networks, by loss change: size, and milliseconds of a batch in turns with the unpruned network, median "
        "of 15. Networks of the controls have the same shapes."
    )
    groups = {"way": Column("way"), "sparsity": Column("removed", format=".0%")}
    first = [["unpruned", 0.0, *means(whole, columns)]]
    blocks: list[Block] = [grouped(runs, "gains", caption, groups, columns, part.basis(runs), first=first)]
    if len(_cut(ended)):
        rows = _cut(ended)[["named", "sparsity", "seed", "accuracy", "macs"]].rename(columns={"named": "method"})
        axes = {"macs": ("Multiply-accumulates for one image", mean(part.measured, "macs"), "macs")}
        blocks += trade_offs(rows, axes, mean(part.measured, "accuracy"), part.basis(_cut(ended)), look=_LOOK)
    return Section("What cutting gains", blocks)


def _classes(part: Part, ended: DataFrame) -> Section:
    after = _cut(ended).assign(method=_cut(ended)["named"])
    first = f"{METHODS[0]}, {WAYS[0]}"
    blocks = (
        class_damage(part.measured, after, part.classes, method=first, basis=part.basis(after)) if len(after) else []
    )
    return Section("Which classes a cut hurts", blocks)
