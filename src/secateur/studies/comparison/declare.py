"""A comparison of prunings as a study: what differs are its name, its options and what was published."""

from __future__ import annotations

from functools import partial
from typing import Literal

from secateur.lab.plan.options import Options
from secateur.lab.plan.study import Publication, Study
from secateur.lab.show.published import Published
from secateur.studies.comparison.cells import cells
from secateur.studies.comparison.options import OPTIONS
from secateur.studies.comparison.pages import sections
from secateur.studies.comparison.words import cards, notes, words
from secateur.studies.kit.parts import study

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
        published: figures to stand beside ours.
    """
    theirs = published or Published()
    return study(
        name,
        title,
        summary,
        source=source,
        options=options,
        cells=cells,
        sections=partial(sections, published=theirs),
        words=words,
        cards=cards,
        notes=lambda results: [*notes(results), *theirs.notes],
        trained=False,
        lead="accuracy",
        best=best,
    )
