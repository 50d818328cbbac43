"""The studies: one file for each published experiment, and the demonstration."""

from secateur.lab.study import Study
from secateur.studies import (
    charpentier_batch_size,
    charpentier_classes,
    charpentier_dropout,
    charpentier_exhaustive_greedy,
    charpentier_importance,
    charpentier_precomputed,
    charpentier_random,
    charpentier_reinit,
    charpentier_shrink,
    charpentier_vgg,
    criteria_shootout,
    custom,
    demo,
    fathollahi,
    janjic_dropout,
    janjic_energy_resnet101,
    janjic_energy_vgg16,
    janjic_ga_cnn,
    janjic_ga_mlp,
    janjic_iterative,
    janjic_replace,
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
        charpentier_precomputed.STUDY,
        charpentier_exhaustive_greedy.STUDY,
        charpentier_vgg.STUDY,
        janjic_energy_vgg16.STUDY,
        janjic_energy_resnet101.STUDY,
        janjic_dropout.STUDY,
        janjic_iterative.STUDY,
        janjic_ga_mlp.STUDY,
        janjic_ga_cnn.STUDY,
        janjic_replace.STUDY,
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
