"""Training: one readable loop, extended by small callbacks, and resumed to the bit from its checkpoint."""

from secateur.labelled import Data, Samples
from secateur.losses import loss_function
from secateur.train.callbacks import Callback, HoldZeros, LogEpochs, Run
from secateur.train.distillation import Distillation, distill
from secateur.train.history import EpochRecord, History
from secateur.train.loop import fit
from secateur.train.movement import SumMovement
from secateur.train.options import TrainOptions
from secateur.train.reinitialise import Reinitialise
from secateur.train.rewind import RewindRate

__all__ = [
    "Callback",
    "Data",
    "Distillation",
    "EpochRecord",
    "History",
    "HoldZeros",
    "LogEpochs",
    "Reinitialise",
    "RewindRate",
    "Run",
    "Samples",
    "SumMovement",
    "TrainOptions",
    "distill",
    "fit",
    "loss_function",
]
