"""The studies after S. Janjić, 2018."""

from secateur.studies.janjic import dropout, ga, ga_filters, iterative, replace, resnet101, vgg16

__all__ = ["STUDIES"]

STUDIES = (
    vgg16.STUDY,
    resnet101.STUDY,
    dropout.STUDY,
    iterative.VGG,
    iterative.RESNET,
    ga.MLP,
    ga.CNN,
    ga_filters.STUDY,
    replace.STUDY,
)
