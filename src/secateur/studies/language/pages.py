"""The report on what a language model bears: perplexities by criterion, width, depth and repair, beside the uncut model's."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Card, Column, Picture, Section
from secateur.lab.show.judgement import paired
from secateur.lab.show.sections import interval, mean, pick
from secateur.lab.show.style import styles
from secateur.lab.show.words import formatted, percent
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["NOTES", "cards", "sections", "words"]

NOTES = (
    "Sequences of tokens are drawn from the text by the seed: {untouched} tokens for figures alone, {calibration} that criteria "
    "and repairs look at. Sequences of one document can be among both. The decoder is trained by the seed on all but the "
    "untouched ones; a model from a folder was trained elsewhere, perhaps on this very text, and only the draw differs. So its "
    "intervals say what the luck of the text does, not what another model would.",
    "Perplexity is e to the mean cross-entropy of a token, given those before it in its sequence. × dense is the cut model's ÷ "
    "the uncut model's on the same tokens; the loss is the logarithm of the perplexity, in nats a token.",
    "The walk (`secateur.stream.walk`) cuts block by block, on what the blocks before it make of the calibration text; nothing "
    "is trained. Repair `layer` refits each down-projection to what it made in the uncut model, `stream` to the residual stream "
    "of the uncut model (ridge least squares). Output-norm scores a neuron by its activations' root mean square times the norm "
    "of its column of the down-projection; elimination takes neurons one after the other by what the refitted layer would miss; "
    "l2 looks at weights alone, and random is the control.",
    "Whole blocks go by influence (1 less the mean cosine of input and output: Men et al., 2024), all at once, or by the measured "
    "loss, one after the other. MLPs are cut behind the blocks that the first way has taken. Single weights are zeros, each "
    "matrix by itself (magnitude and Wanda within each row): nothing gets smaller.",
)

RATIO = Column("× dense", format=".3f")


def _ratios(rows: DataFrame) -> Any:
    return rows["perplexity"] / rows["dense_perplexity"]


def _columns(*further: Mean) -> list[Mean]:
    return [
        Mean("perplexity", Column("perplexity", format=".2f")),
        Mean(_ratios, RATIO, "95 % of it"),
        *further,
        Mean("parameters_removed", Column("parameters removed", format=".1%")),
        Mean("seconds", Column("processor seconds", format=".3g")),
        Mean(lambda rows: rows["seed"].nunique(), Column("seeds")),
    ]


def sections(part: Part) -> list[Section]:
    """Return the sections of the report."""
    cut = _cut(part)
    makers: dict[str, Callable[[], list[Block]]] = {
        "What a cut costs": lambda: _curves(part, cut),
        "What repair gains": lambda: _repairs(part, cut),
        "More than luck?": lambda: _tests(cut),
        "Whole blocks": lambda: _depth(part, part.kind("drop"), cut),
        "Single weights": lambda: _single(part, part.kind("sparsify")),
        "Where the stream loses": lambda: _missing(part, cut),
        "The uncut model": lambda: _dense(part),
    }
    return [Section(title, blocks) for title, make in makers.items() if (blocks := make())]


def _cut(part: Part) -> DataFrame:
    rows = part.pruned
    return rows.astype({"blocks": int}) if len(rows) else rows


def _curves(part: Part, cut: DataFrame) -> list[Block]:
    if not len(cut) or not cut["loss"].notna().any():
        return []
    basis = part.basis(cut, "untouched text")
    rows = pick(cut, blocks=cut["blocks"].min())
    named = rows.assign(criterion=rows["method"], method=rows["method"] + ", " + rows["repair"])
    dense = mean(_uncut(part), "loss")
    drawing = figures.loss_by_sparsity(
        named, baseline=dense, look=styles(named["method"]), label="Loss of a token (log perplexity)"
    )
    best = rows.groupby("method")["loss"].mean().idxmin()
    alt = f"Loss by the part of every MLP removed, one line a criterion and repair; {best} loses least."
    caption = "Loss of a token on untouched text, by the part of every MLP that is cut; after the comma the repair."
    data = named[["method", "sparsity", "seed", "loss", "perplexity"]]
    groups = {
        "blocks": Column("blocks gone"),
        "sparsity": Column("of MLPs cut", format=".0%"),
        "method": Column("criterion"),
        "repair": Column("repair"),
    }
    words_ = "Perplexity on untouched text, beside the uncut model's on the same text; no training."
    return [
        Picture("perplexity", drawing, caption, alt, basis.also("mean and 95 % interval of the mean"), data),
        grouped(cut, "cuts", words_, groups, _columns(), basis, sort=True),
    ]


def _repairs(part: Part, cut: DataFrame) -> list[Block]:
    """What a repair leaves of the rise of the loss, by seed."""
    if not len(cut) or cut["repair"].nunique() < 2 or "none" not in set(cut["repair"]):
        return []
    keys = ["method", "sparsity", "blocks", "seed"]
    bare = pick(cut, repair="none").set_index(keys)["perplexity"].rename("bare")
    rows = cut[cut["repair"] != "none"].join(bare, on=keys)
    columns = [
        Mean(lambda r: r["perplexity"] / r["bare"], Column("÷ unrepaired", format=".3f"), "95 %"),
        Mean(_ratios, RATIO),
        Mean(lambda r: r["bare"] / r["dense_perplexity"], Column("unrepaired, × dense", format=".3f")),
    ]
    groups = {
        "sparsity": Column("of MLPs cut", format=".0%"),
        "blocks": Column("blocks gone"),
        "method": Column("criterion"),
        "repair": Column("repair"),
    }
    caption = (
        "The perplexity with a repair ÷ that without, of the same neurons cut, or of those that it chooses on the way."
    )
    table = grouped(rows, "repairs", caption, groups, columns, part.basis(rows, "untouched text"), sort=True)
    tests = paired(
        cut,
        "repair-tests",
        "Repair against none: the loss of a token.",
        baseline="none",
        value="loss",
        by="repair",
        within=("sparsity", "blocks", "method"),
        better="lower",
    )
    return [table, *tests]


def _tests(cut: DataFrame) -> list[Block]:
    if not len(cut) or "random" not in set(cut["method"]):
        return []
    return paired(
        cut,
        "against-random",
        "Each criterion against random: the loss of a token.",
        baseline="random",
        value="loss",
        within=("sparsity", "blocks", "repair"),
        better="lower",
    )


def _depth(part: Part, dropped: DataFrame, cut: DataFrame) -> list[Block]:
    if not len(dropped):
        return []
    dropped = dropped.astype({"blocks": int})
    gone = dropped["removed"].map(lambda names: ", ".join(name.rpartition(".")[2] for name in names))
    rows = dropped.assign(gone=gone)
    which = Mean(lambda r: "; ".join(dict.fromkeys(r["gone"])), Column("which, by seed"))
    groups = {"blocks": Column("blocks gone"), "by": Column("chosen by")}
    caption = "Perplexity without whole blocks; the numbers of those that went, in the order in which they did."
    table = grouped(rows, "blocks", caption, groups, _columns(which), part.basis(rows, "untouched text"), sort=True)
    blocks: list[Block] = [table]
    if len(cut) and cut["blocks"].nunique() > 1:
        blocks.append("What MLPs cut behind them cost stands in the table of cuts above.")
    return blocks


def _single(part: Part, rows: DataFrame) -> list[Block]:
    if not len(rows):
        return []
    groups = {"sparsity": Column("zeros", format=".0%"), "method": Column("method")}
    caption = "Perplexity with single weights of every block's matrices at zero, nothing trained."
    return [grouped(rows, "weights", caption, groups, _columns(), part.basis(rows, "untouched text"), sort=True)]


def _missing(part: Part, cut: DataFrame) -> list[Block]:
    if not len(cut):
        return []
    least = cut["sparsity"].min()
    rows = pick(cut, sparsity=least, blocks=cut["blocks"].min())
    by_id = (rows["method"] + ", " + rows["repair"]).rename("method")
    lines = part.lines(rows)[["id", "step", "missing"]].merge(rows[["id"]].assign(method=by_id), on="id")
    drawing = figures.path(
        lines,
        value="missing",
        label=("Block", "Part of the stream missing"),
        look=styles(lines["method"]),
        share=True,
        logarithmic=True,
    )
    ends = lines[lines["step"] == lines["step"].max()].groupby("method")["missing"].mean()
    alt = f"Behind the last block most is missing with {ends.idxmax()}, least with {ends.idxmin()}."
    caption = (
        f"How much of the square of the uncut model's residual stream is missing behind each block, with {percent(least)} of every "
        "MLP cut, on the calibration text."
    )
    data = lines[["method", "step", "missing"]]
    return [Picture("missing", drawing, caption, alt, part.basis(rows, "calibration text"), data)]


def _uncut(part: Part) -> DataFrame:
    return part.trained if len(part.trained) else part.kind("load")


def _dense(part: Part) -> list[Block]:
    rows = _uncut(part)
    columns = [
        Mean("perplexity", Column("perplexity", format=".3f")),
        Mean("parameters", Column("parameters", format=",.0f")),
        Mean("bytes", Column("bytes", format=",.0f")),
        Mean(lambda r: r["weights"].iloc[0], Column("weights")),
    ]
    caption = "The uncut model on the untouched text of each seed; its weights are known by the first digits of their SHA-256."
    return [grouped(rows, "dense", caption, {"seed": Column("seed")}, columns, part.basis(rows, "untouched text"))]


def words(part: Part) -> list[str]:
    """Return what cuts and repairs cost, in sentences."""
    cut = _cut(part)
    if not len(cut):
        return []
    sentences = [
        f"Uncut, the model has a perplexity of {formatted(mean(_uncut(part), 'perplexity'), '.2f')} on untouched text."
    ]
    whole = pick(cut, blocks=cut["blocks"].min())
    for sparsity, rows in whole.groupby("sparsity"):
        by = _ratios(rows).groupby([rows["method"], rows["repair"]]).mean()
        best, worst = by.idxmin(), by.idxmax()
        sentences.append(
            f"With {percent(sparsity)} of every MLP cut it is {formatted(by[best], '.3f')} times as much at best "
            f"({best[0]}, repair {best[1]}) and {formatted(by[worst], '.3g')} times at worst ({worst[0]}, repair {worst[1]})."
        )
    dropped = part.kind("drop")
    if len(dropped):
        count = dropped["blocks"].min()
        by = _ratios(pick(dropped, blocks=count)).groupby(pick(dropped, blocks=count)["by"]).mean()
        gone = "one block is" if count == 1 else f"{count} blocks are"
        sentences.append(
            f"Where {gone} gone, chosen by {by.idxmin()}, it is {formatted(by.min(), '.3f')} times as much."
        )
    return [" ".join(sentences)]


def cards(part: Part) -> list[Card]:
    """Return the least cut by the best criterion of it, without repair and with each."""
    cut = _cut(part)
    if not len(cut):
        return []
    rows = pick(cut, sparsity=cut["sparsity"].min(), blocks=cut["blocks"].min())
    best = rows.groupby("method")["perplexity"].mean().idxmin()
    heads = []
    for repair, group in pick(rows, method=best).groupby("repair", sort=False):
        ratios = _ratios(group)
        heads.append(
            Card(
                f"{percent(rows['sparsity'].iloc[0])} of MLPs, repair {repair}",
                f"{formatted(ratios.mean(), '.3f')} × dense",
                f"perplexity, {best}",
                interval(ratios, within=(0, inf), shape=".3f"),
            )
        )
    return heads
