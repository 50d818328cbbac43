"""The studies after L. Charpentier, 2020."""

from secateur.studies.charpentier import (
    classes,
    exhaustive_greedy,
    factors,
    importance,
    precomputed,
    random,
    reinit,
    shrink,
    vgg,
)

__all__ = ["STUDIES"]

STUDIES = (
    random.STUDY,
    shrink.STUDY,
    importance.STUDY,
    factors.BATCH_SIZE,
    factors.DROPOUT,
    reinit.STUDY,
    classes.STUDY,
    precomputed.STUDY,
    exhaustive_greedy.STUDY,
    vgg.STUDY,
)
