"""The report of the classifiers: units left, accuracy, and the least active unit by cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Card, Column, Picture, Section, Table
from secateur.lab.show.sections import by_seed, mean, mean_card, pick
from secateur.lab.show.style import styles
from secateur.lab.show.words import formatted, named
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["CIFAR_NOTES", "MNIST_NOTES", "cards", "sections", "words"]

_COMMON = (
    "Every network is trained for {cycles} · {epochs} + {settle} passes over the first {images} training images in batches of "
    "{batch_size}; after each {epochs} passes activations are counted over them, behind each ReLU, and the units that a way "
    "names are really cut; the last passes are without penalty and distortion, the rate going to zero along a cosine.",
    "'activation' cuts units that never fire; 'fires in at most 1 %' takes the probability instead of the count; 'outliers' "
    "those whose count lies below mean − 2 standard deviations of their layer; 'distorted' multiplies the weights between "
    "cycles; the group lasso takes activations up to 0.01 for zero.",
    "The text prints no figures of this network. Rated on the first {rated} test images.",
)

MNIST_NOTES = (
    "The text trains with RMSProp, learning rate 0.0001, for 20,000 steps of 50 on MNIST. By default a tenth of these are "
    "taken, on 4,000 images: twelve networks take a quarter of an hour of one core then.",
    "1-D convolutions are a heading of the text without words: each convolution is a column of its kernel's height and then a "
    "row of its width, with as many channels between them. The higher rate is 0.001, with momentum 0.9.",
    *_COMMON,
)

CIFAR_NOTES = (
    "The text's distortions: a random crop of 24 from 32 pixels, flips, brightness by up to 63 of 255, contrast by 0.2 to 1.8, "
    "and each image standardised; Adam as it comes; how many steps of how many images it leaves open. CIFAR-10 is "
    "taken with data=cifar-10; elsewhere images are brought into its form: grey in three channels, padded to 32 pixels.",
    "Counted and rated on centre crops.",
    *_COMMON,
)


def sections(part: Part) -> list[Section]:
    """Return the sections of the report."""
    cells = part.kind("cycle")
    return [Section("Units left, and the accuracy", [_table(part, cells), *_least_active(part, cells)])]


def _table(part: Part, cells: DataFrame) -> Table:
    columns = [
        Mean(lambda rows: _text(rows, "left"), Column("units left by layer")),
        Mean("units_removed", Column("units removed", format=".1%")),
        Mean("accuracy", Column("accuracy", format=".4f"), "95 %"),
        Mean("loss", Column("loss", format=".4f")),
        Mean(
            lambda rows: 1 - rows["parameters"] / rows["parameters_before"], Column("parameters removed", format=".1%")
        ),
        Mean(lambda rows: 1 - rows["macs"] / rows["macs_before"], Column("MACs removed", format=".1%")),
        Mean(lambda rows: _text(rows, "ending"), Column("why it ended")),
    ]
    caption = "What is left of the networks, and what they answer (the means of the networks; widths of each)."
    return grouped(cells, "left", caption, {"way": Column("way")}, columns, part.basis(cells, "test images"))


def _text(rows: DataFrame, name: str) -> str:
    return "; ".join(dict.fromkeys(str(value) for value in rows[name].dropna())) if name in rows else ""


def _least_active(part: Part, cells: DataFrame) -> list[Block]:
    history = part.lines(cells).merge(cells[["id"]], on="id") if len(part.histories) else part.histories
    if not len(history):
        return []
    drawing = figures.path(
        history,
        value="least_active",
        by="way",
        label=("Cycle", "Least active unit"),
        look=styles(cells["way"]),
        share=True,
    )
    last = history.groupby("way", sort=False)["least_active"].agg(lambda values: values.iloc[-1])
    alt = "In the end the least active unit fires in: " + named(last, ".1%") + "."
    caption = "How often the least active unit of all layers fires, after each cycle's training."
    return [
        Picture(
            "least-active", drawing, caption, alt, part.basis(cells), history[["way", "seed", "step", "least_active"]]
        )
    ]


def words(part: Part) -> list[str]:
    """Return the summary."""
    cells, sentences = part.kind("cycle"), []
    for way in dict.fromkeys(cells["way"]):
        rows = pick(cells, way=way)
        share = mean(rows, "units_removed")
        cut = f"; {formatted(share, '.1%')} of the units are cut" if share == share else ""
        sentences.append(f"{way}: accuracy {formatted(mean(rows, 'accuracy'), '.4f')}{cut}.")
    return sentences


def cards(part: Part) -> list[Card]:
    """Return the cards."""
    cells = part.kind("cycle")
    unpruned = pick(cells, way="unpruned")
    return (
        [mean_card("unpruned", by_seed(unpruned, "accuracy"), "test accuracy", within=(0, 1))] if len(unpruned) else []
    )
