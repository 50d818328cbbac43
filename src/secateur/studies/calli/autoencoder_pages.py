"""The report of the auto-encoder: channels left by block, the loss beside networks trained as long, and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Card, Column, Picture, Section, Table
from secateur.lab.show.sections import mean, pick
from secateur.lab.show.style import styles
from secateur.lab.show.words import formatted, named
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part
from secateur.studies.kit.published import published

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["NOTES", "cards", "sections", "words"]

BLOCKS = ("encoder1", "encoder2", "decoder1")

NOTES = (
    "Every network is trained for {cycles} · {epochs} + {settle} passes over the first {images} training images, by Adam with "
    "learning rate 0.004 (unless a way says another) in batches of {batch_size}; images are in [0, 1], the loss is the mean "
    "squared error. A cycle has {epochs} passes; its last {settle} passes, and those of cycles that were not needed, are "
    "without penalty and distortion, the rate going to zero along a cosine. So all have trained as long.",
    "After each cycle every channel's activations that are not zero are counted over the training images, behind the ReLU. "
    "'activation' cuts the channels that never fire, 'outliers' those whose count lies below mean − 2 standard deviations of "
    "their block, as the text has it. 'regularised' is an L1 on the norms' scales. The text names no initialisation here; its "
    "classifiers' is taken, a normal of 0.1, truncated at 0.2.",
    "Behind a batch norm the size of the incoming weights changes nothing, so a channel's group is the norm's scale and shift "
    "and the weights that read the channel; it is of encoder 1 and (five times as strong) decoder 1, the blocks in which the "
    "text's pruned network is smaller. Activations up to 0.01 count as zero there, as penalised weights tremble about zero by the learning rate.",
    "The last transposed convolution computes each quarter of the pixels (even or odd rows and columns) with other entries of "
    "its kernel; behind its norm and ReLU a whole quarter may be shut from the beginning, and then makes nearly all of the loss. "
    "That lies in the draw, so each network is compared with the unpruned one of its own draw, and the median of the four "
    "quarters' losses stands beside the mean.",
    "The strengths were chosen with another seed on MNIST-5k, by the loss on its test images; the loss shown is that on test "
    "images, too.",
)


def sections(part: Part) -> list[Section]:
    """Return the sections of the report."""
    rows = _all(part)
    cells = part.kind("cycle")
    return [
        Section("Channels left, and what they cost", [_table(part, rows)]),
        Section("Cycle by cycle", _by_cycle(part, cells)),
        Section("What comes out", _pictures(part, rows)),
    ]


def _all(part: Part) -> DataFrame:
    """The networks that were not pruned first."""
    cells = part.cells
    return cells[cells["kind"].isin(["scratch", "cycle"])].sort_values("kind", ascending=False, kind="stable")


def _beside(rows: DataFrame, group: DataFrame) -> float:
    """How much higher the losses of a group are than that of the unpruned network of the same seed, on average, as a share."""
    whole = pick(rows, way="unpruned").set_index("seed")["loss"]
    shares: Any = group["loss"] / group["seed"].map(whole) - 1
    return float(shares.mean())


def _table(part: Part, rows: DataFrame) -> Table:
    theirs = published("calli")["autoencoder"]
    columns = [
        *(Mean(name, Column(name, format=".1f")) for name in BLOCKS),
        Mean("loss", Column("loss", format=".5f"), "95 %"),
        Mean(lambda group: _beside(rows, group), Column("beside unpruned", format="+.1%")),
        Mean("open_loss", Column("median quarter", format=".5f")),
        Mean("parameters", Column("parameters", format=",.0f")),
        Mean("macs", Column("MACs", format=",.0f")),
    ]
    published_row = ["published", *theirs["pruned"], None, "", None, None, None, None]
    caption = (
        "Channels left in each block (the means of the networks), the reconstruction loss on test images, and the size."
    )
    return grouped(
        rows,
        "channels",
        caption,
        {"way": Column("way")},
        columns,
        part.basis(rows, "test images"),
        first=[published_row],
    )


def _by_cycle(part: Part, cells: DataFrame) -> list[Block]:
    history = part.lines(cells).merge(cells[["id"]], on="id")
    if not len(history) or "units" not in history:
        return []
    blocks: list[Block] = []
    look = styles(cells["way"])
    for value, label, words_, share in (
        ("units", "Channels left", "Channels left in all blocks after each cycle", False),
        (
            "least_active",
            "Least active channel",
            "How often the least active channel fires after each cycle's training",
            True,
        ),
    ):
        measured = history.dropna(subset=[value])
        drawing = figures.path(measured, value=value, by="way", label=("Cycle", label), look=look, share=share)
        last = measured.groupby("way", sort=False)[value].agg(lambda values: values.iloc[-1])
        alt = f"{label} in the end: " + named(last, ".3g") + "."
        name = value.replace("_", "-")
        blocks.append(
            Picture(name, drawing, f"{words_}.", alt, part.basis(cells), measured[["way", "seed", "step", value]])
        )
    return blocks


def _pictures(part: Part, rows: DataFrame) -> list[Block]:
    """The first test images, and how they come out of the unpruned network and of the pruned ones."""
    seed = rows["seed"].min()
    first_rows = pick(rows, seed=seed)
    strips: dict[str, Any] = {}
    for row in first_rows.to_dict("records"):
        tensors = part.results.store.artefact(row["id"])
        strips.setdefault("images", tensors["images"][:, 0].numpy())
        strips[row["way"]] = tensors["reconstructed"][:, 0].numpy()
    caption = "The first test images, and what each network makes of them (one seed)."
    losses = ", ".join(f"{row['way']} {formatted(row['loss'], '.4f')}" for row in first_rows.to_dict("records"))
    alt = f"Rows of images. The losses are: {losses}."
    return [Picture("reconstructions", figures.images(strips), caption, alt, part.basis(first_rows, "test images"))]


def within_reach(rows: DataFrame) -> DataFrame:
    """Return the pruned networks with no more channels than the published one in any block."""
    most = published("calli")["autoencoder"]["pruned"]
    small = rows[rows["kind"] == "cycle"]
    for name, channels in zip(BLOCKS, most, strict=True):
        small = small[small[name] <= channels]
    return small


def words(part: Part) -> list[str]:
    """Return the summary."""
    rows = _all(part)
    sentences = []
    for way in dict.fromkeys(rows["way"]):
        group = pick(rows, way=way)
        left = ", ".join(formatted(mean(group, name), ".0f") for name in BLOCKS)
        beside = "" if way == "unpruned" else f" ({formatted(_beside(rows, group), '+.1%')} beside unpruned)"
        quarter = f"median quarter {formatted(mean(group, 'open_loss'), '.5f')}"
        sentences.append(f"{way}: {left} channels, loss {formatted(mean(group, 'loss'), '.5f')}{beside}, {quarter}.")
    return sentences


def cards(part: Part) -> list[Card]:
    """Return the card of the best network that is no larger than the published one."""
    rows = _all(part)
    small = within_reach(rows)
    if not len(small):
        return []
    best = small.loc[small["loss"].idxmin()]
    left = ", ".join(formatted(best[name], ".0f") for name in BLOCKS)
    return [
        Card(
            f"channels left, {best['way']}",
            left,
            f"loss {formatted(_beside(rows, small.loc[[best.name]]), '+.1%')} beside unpruned",
            "the best of all runs",
        )
    ]
