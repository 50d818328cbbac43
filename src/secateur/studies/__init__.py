"""The studies: one file for each published experiment, and the demonstration."""

from secateur.lab.study import Study
from secateur.studies import demo, fathollahi
from secateur.types import unknown_name

__all__ = ["STUDIES", "by_name"]

STUDIES: dict[str, Study] = {study.name: study for study in (demo.STUDY, fathollahi.STUDY)}


def by_name(name: str) -> Study:
    """Return the study called `name`.

    >>> by_name("fathollahi").source.year
    2022
    """
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    return STUDIES[name]
