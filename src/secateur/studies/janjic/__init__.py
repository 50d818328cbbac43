"""The studies after S. Janjić, 2018."""

from secateur.studies.janjic import (
    dropout,
    ga_cnn,
    ga_mlp,
    iterative,
    replace,
    resnet101,
    vgg16,
)

__all__ = ["STUDIES"]

STUDIES = (
    vgg16.STUDY,
    resnet101.STUDY,
    dropout.STUDY,
    iterative.STUDY,
    ga_mlp.STUDY,
    ga_cnn.STUDY,
    replace.STUDY,
)
