"""The studies after L. Charpentier, 2020."""

from secateur.studies.charpentier import (
    batch_size,
    classes,
    dropout,
    exhaustive_greedy,
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
    batch_size.STUDY,
    dropout.STUDY,
    reinit.STUDY,
    classes.STUDY,
    precomputed.STUDY,
    exhaustive_greedy.STUDY,
    vgg.STUDY,
)
