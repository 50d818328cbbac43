"""The studies: one file for each published experiment, and the demonstration."""

from secateur.lab.study import Study
from secateur.studies import (
    charpentier_batch_size,
    charpentier_classes,
    charpentier_dropout,
    charpentier_importance,
    charpentier_random,
    charpentier_reinit,
    charpentier_shrink,
    criteria_shootout,
    custom,
    demo,
    fathollahi,
)
from secateur.types import unknown_name

__all__ = ["STUDIES", "by_name"]

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        demo.STUDY,
        fathollahi.STUDY,
        charpentier_random.STUDY,
        charpentier_shrink.STUDY,
        charpentier_importance.STUDY,
        charpentier_batch_size.STUDY,
        charpentier_dropout.STUDY,
        charpentier_reinit.STUDY,
        charpentier_classes.STUDY,
        criteria_shootout.STUDY,
    )
}


def by_name(name: str) -> Study:
    """Return the study called `name`, or the one that a TOML file describes (`secateur.studies.custom`).

    Raises:
        UnknownNameError: there is no such study.
        FileError, InputError: the file cannot be read, or says what makes no sense.

    >>> by_name("fathollahi").source.year
    2022
    """
    if name.endswith(".toml"):
        return custom.from_toml(name, taken=STUDIES)
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    return STUDIES[name]
