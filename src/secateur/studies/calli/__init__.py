"""The studies after E. Çallı, 2017."""

from secateur.studies.calli import (
    autoencoder,
    classifiers,
    combine,
    factorise,
    mobile,
    quantise,
    share,
    structures,
    summation,
)

__all__ = ["STUDIES"]

STUDIES = (
    summation.STUDY,
    autoencoder.STUDY,
    classifiers.MNIST,
    classifiers.CIFAR,
    factorise.STUDY,
    share.STUDY,
    quantise.STUDY,
    structures.STUDY,
    mobile.STUDY,
    combine.STUDY,
)
