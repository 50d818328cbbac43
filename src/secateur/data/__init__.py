"""The data sets of the published experiments, by name, and any folder of images.

>>> from secateur import data
>>> images, labels = data.load("digits", "test")
>>> images.shape, data.info("digits").classes[int(labels[0])]
(torch.Size([297, 1, 8, 8]), '1')
"""

from secateur.data.loading import load, stream
from secateur.data.registry import Download, File, Info, info, is_local, names, train_count
from secateur.data.split import BatchView, Split
from secateur.data.streaming import AUGMENTATIONS, Images, Stream

__all__ = [
    "AUGMENTATIONS",
    "BatchView",
    "Download",
    "File",
    "Images",
    "Info",
    "Split",
    "Stream",
    "info",
    "is_local",
    "load",
    "names",
    "stream",
    "train_count",
]
