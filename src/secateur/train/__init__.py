"""Training: one readable loop, extended by small callbacks, and resumed to the bit from its checkpoint."""

from secateur.labelled import Data, Samples
from secateur.losses import loss_function
from secateur.train.callbacks import Callback, LogEpochs, Run
from secateur.train.cycle import TrainCycle
from secateur.train.distillation import Distillation, distill
from secateur.train.distortion import Distortion
from secateur.train.history import EpochRecord, History
from secateur.train.loop import fit
from secateur.train.masks import HoldZeros, TrainingMasks
from secateur.train.movement import SumMovement
from secateur.train.options import TrainOptions
from secateur.train.penalties import ActivationPenalty, GroupLasso, WeightPenalty
from secateur.train.recovery import Recovery, recover
from secateur.train.reinitialise import Reinitialise
from secateur.train.replicas import fit_replicas, pays
from secateur.train.rewind import RewindRate
from secateur.train.sparse import GradualMagnitude, RigL, SparseEvolution
from secateur.train.tickets import TrainSparse, TrainTicket

__all__ = [
    "ActivationPenalty",
    "Callback",
    "Data",
    "Distillation",
    "Distortion",
    "EpochRecord",
    "GradualMagnitude",
    "GroupLasso",
    "History",
    "HoldZeros",
    "LogEpochs",
    "Recovery",
    "Reinitialise",
    "RewindRate",
    "RigL",
    "Run",
    "Samples",
    "SparseEvolution",
    "SumMovement",
    "TrainCycle",
    "TrainOptions",
    "TrainSparse",
    "TrainTicket",
    "TrainingMasks",
    "WeightPenalty",
    "distill",
    "fit",
    "fit_replicas",
    "loss_function",
    "pays",
    "recover",
]
