"""The studies: a folder for each publication, and ones for the comparison of criteria and for language models."""

from secateur.checks import check_name
from secateur.lab.plan.study import Study
from secateur.studies import calli, charpentier, comparison, janjic, language, shootout, wijnja
from secateur.studies.comparison import custom

__all__ = ["STUDIES", "by_name"]

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        *comparison.STUDIES,
        *charpentier.STUDIES,
        *janjic.STUDIES,
        *calli.STUDIES,
        *wijnja.STUDIES,
        *shootout.STUDIES,
        *language.STUDIES,
    )
}


def by_name(name: str) -> Study:
    """Return the study called `name`, or the one that a TOML file describes (`secateur.studies.comparison.custom`).

    Raises:
        UnknownNameError: there is no such study.
        FileError, InputError: the file cannot be read, or says what makes no sense.

    >>> by_name("fathollahi").source.year
    2022
    """
    if name.endswith(".toml"):
        return custom.from_toml(name, reserved=STUDIES)
    check_name("study", name, STUDIES)
    return STUDIES[name]
