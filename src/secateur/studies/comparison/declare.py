"""A comparison of prunings as a study: what differs are its name, its options and what was published."""

from __future__ import annotations

from typing import Literal

from secateur.lab.plan.options import Options
from secateur.lab.plan.study import Publication, Results, Study
from secateur.lab.show.blocks import Section
from secateur.lab.show.published import Published
from secateur.studies.comparison.cells import cells
from secateur.studies.comparison.options import OPTIONS
from secateur.studies.comparison.pages import sections
from secateur.studies.comparison.words import cards, notes, words
from secateur.studies.kit.networks import grid
from secateur.studies.kit.parts import Part, study

__all__ = ["comparison"]

_BEST: tuple[str, Literal["max", "min"]] = ("accuracy", "max")


def comparison(
    name: str,
    title: str,
    summary: str,
    *,
    options: Options = OPTIONS,
    source: Publication | None = None,
    published: Published | None = None,
    best: tuple[str, Literal["max", "min"]] | None = _BEST,
) -> Study:
    """Return the study that compares prunings on some networks and data sets.

    Args:
        name, title, summary, source, best: as `Study` has them.
        options: the options of a comparison, with defaults of one's own.
        published: figures to stand beside ours, where networks and data are those of the options' defaults.
    """
    theirs = published or Published()

    def shown_sections(part: Part) -> list[Section]:
        return sections(part, theirs if (part.data, part.model) in grid(options) else Published())

    def shown_notes(results: Results) -> list[str]:
        return [*notes(results), *(theirs.notes if set(grid(results.options)) & set(grid(options)) else ())]

    return study(
        name,
        title,
        summary,
        source=source,
        options=options,
        cells=cells,
        sections=shown_sections,
        words=words,
        cards=cards,
        notes=shown_notes,
        trained=False,
        lead="accuracy",
        best=best,
    )
