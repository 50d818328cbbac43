"""The reports of networks that were made smaller: what each way costs and answers, and paired tests of the ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Card, Column, Picture, Section, Table
from secateur.lab.show.judgement import paired, untested
from secateur.lab.show.sections import by_seed, mean, mean_card, pick
from secateur.lab.show.stats import compare
from secateur.lab.show.style import styles
from secateur.lab.show.words import formatted, named
from secateur.studies.calli.smaller import UNCHANGED
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["NOTES", "Pages"]

NOTES = (
    "Networks are trained for {epochs} passes over the first {train_images} training images; the best of them by the loss on "
    "{validation} others is taken. Each is changed in every way and rated on the first {rated} test images, then trained on for "
    "{tune} passes (Adam, rate 0.0005) with what was done to it held, and rated again. '"
    + UNCHANGED
    + "' is trained on as "
    "long. Where a way looks at images, they are {few} of the training images, drawn by the seed.",
    "Tests are paired over the seeds of networks, t-tests with Holm's correction within a table.",
)

LEFT = (
    ("macs_left", "MACs left"),
    ("parameters_left", "parameters left"),
    ("bytes_left", "bytes left"),
    ("coded_left", "bytes left, entropy coded"),
)


@dataclass(frozen=True)
class Pages:
    """The pages of one study.

    Attributes:
        title: of the section.
        amount: what `amount` is, for the axis.
        drawn: picks the rows that are drawn, by their setting.
        tests: the baseline of each table of paired tests, and the ways that are compared with it.
        left: which of the costs are shown: names of `LEFT`.
        further: sections after the others.
    """

    title: str
    amount: str
    drawn: Callable[[str], bool]
    tests: Mapping[str, Sequence[str]]
    left: Sequence[str]
    further: Callable[[Part], list[Section]] = lambda _: []

    def sections(self, part: Part) -> list[Section]:
        """Return the sections of the report."""
        rows = part.kind("smaller")
        if not len(rows):
            return self.further(part)
        body = [self._table(part, rows), *self._pictures(part, rows)]
        return [Section(self.title, [*body, *self._tests(rows)]), *self.further(part)]

    def _table(self, part: Part, rows: DataFrame) -> Table:
        columns = [
            Mean("accuracy", Column("accuracy", format=".4f"), "95 %"),
            Mean("tuned", Column("trained on", format=".4f"), "95 % "),
            *(Mean(name, Column(title, format=".1%")) for name, title in LEFT if name in self.left),
            Mean(len, Column("networks")),
        ]
        groups = {"way": Column("way"), "setting": Column("setting")}
        caption = "Accuracy before and after the training, and what is left (means over networks)."
        return grouped(rows, "smaller", caption, groups, columns, part.basis(rows, "test images"))

    def _pictures(self, part: Part, rows: DataFrame) -> list[Block]:
        rows = rows[
            [way != UNCHANGED and self.drawn(name) for way, name in zip(rows["way"], rows["setting"], strict=True)]
        ]
        blocks: list[Block] = []
        for value, words in (("accuracy", "untrained"), ("tuned", "trained on")):
            if rows["amount"].nunique() < 2:
                continue
            look = styles(rows["way"])
            label = (self.amount, f"Test accuracy, {words}")
            drawing = figures.path(rows, step="amount", value=value, by="way", label=label, look=look, share=True)
            means = rows.groupby("way", sort=False)[value].mean()
            alt = "Mean accuracy: " + named(means, ".1%") + "."
            table = rows[["way", "seed", "amount", value]]
            caption = f"Test accuracy, {words}, by {self.amount.lower()}."
            blocks.append(Picture(f"smaller-{value}", drawing, caption, alt, part.basis(rows), table))
        return blocks

    def _tests(self, rows: DataFrame) -> list[Block]:
        blocks: list[Block] = []
        for number, (baseline, compared) in enumerate(self.tests.items()):
            some = rows[rows["way"].isin([baseline, *compared])]
            for value, words in (("accuracy", "untrained"), ("tuned", "trained on")):
                caption = f"Test accuracy, {words}, against {baseline}."
                name = f"tests-{value}-{number}"
                blocks += paired(some, name, caption, baseline=baseline, value=value, by="way", within=("setting",))
        return blocks

    def words(self, part: Part) -> list[str]:
        """Return the summary."""
        rows = part.kind("smaller")
        sentences = []
        for way in dict.fromkeys(rows["way"]) if len(rows) else ():
            some = pick(rows, way=way)
            settings = [self._setting(name, pick(some, setting=name)) for name in dict.fromkeys(some["setting"])]
            sentences.append(f"{way}: {'; '.join(settings)}.")
        return [*sentences, *(self._judged(rows, *test) for test in self.tests.items())] if len(rows) else []

    def _setting(self, name: str, rows: DataFrame) -> str:
        accuracies = f"{formatted(mean(rows, 'accuracy'), '.1%')}, trained on {formatted(mean(rows, 'tuned'), '.1%')}"
        if not name:
            return accuracies
        costs = ", ".join(
            f"{formatted(mean(rows, key), '.1%')} {_short(title)}" for key, title in LEFT if key in self.left
        )
        return f"{name}: {accuracies} ({costs})"

    def _judged(self, rows: DataFrame, baseline: str, compared: Sequence[str]) -> str:
        """Where the ways are better or worse than a baseline, by the paired tests."""
        some = rows[rows["way"].isin([baseline, *compared])]
        if untested(some, baseline, by="way"):
            return ""
        clauses = []
        for value, words in (("accuracy", "untrained"), ("tuned", "trained on")):
            tests = compare(some, value=value, by="way", baseline=baseline, within=("setting",))
            for way in dict.fromkeys(tests["way"]):
                of_way = tests[tests["way"] == way]
                settings = {v: list(of_way[of_way["verdict"] == v]["setting"]) for v in ("better", "worse")}
                parts = [f"{verdict} at {', '.join(at)}" for verdict, at in settings.items() if at]
                clauses.append(f"{way}, {words}: {' and '.join(parts) or 'no difference shown'}")
        return f"Against {baseline}, paired: {'; '.join(clauses)}."

    def cards(self, part: Part) -> list[Card]:
        """Return the cards."""
        rows = part.kind("smaller")
        rows = pick(rows, way=UNCHANGED) if len(rows) else rows
        return [mean_card(UNCHANGED, by_seed(rows, "accuracy"), "test accuracy", within=(0, 1))] if len(rows) else []


def _short(title: str) -> str:
    return title.replace(" left", "").replace("bytes, entropy coded", "coded")
