"""The studies after E. Çallı, 2017."""

from secateur.studies.calli import autoencoder, classifiers, summation

__all__ = ["STUDIES"]

STUDIES = (summation.STUDY, autoencoder.STUDY, classifiers.MNIST, classifiers.CIFAR)
