"""secateur: find what a trained network does not need, cut it out for real, and show what it cost.

>>> import torch
>>> from torch import nn
>>> import secateur as sc
>>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
>>> small = sc.prune(model, torch.zeros(1, 8), criterion="l2", sparsity=0.5).model
>>> small[0].out_features
8
"""

from secateur import data, measure, models
from secateur.criteria import (
    CRITERIA,
    ClassAccuracy,
    Correlation,
    Energy,
    GeometricMedian,
    Lamp,
    LossChange,
    LossChanges,
    Magnitude,
    NextLayer,
    NormScale,
    Random,
    SecondOrder,
    Taylor,
    evaluate_keeps,
)
from secateur.measure.agreement import Agreement, agreement
from secateur.prune import Result, prune
from secateur.saving import load, read_report
from secateur.schedules import Exhaustive, Greedy, Iterative, Precomputed, Pruned, RandomShrink
from secateur.select import select
from secateur.structure import Structure, blocks, channels, cut, mask, weights
from secateur.train import History, Reinitialise, TrainOptions, fit
from secateur.types import (
    CutError,
    DataError,
    FileError,
    InputError,
    Keep,
    Scores,
    SecateurError,
    Site,
    Sites,
    TraceError,
    UnknownNameError,
    VerificationError,
)

__version__ = "0.1.0"

__all__ = [
    "CRITERIA",
    "Agreement",
    "ClassAccuracy",
    "Correlation",
    "CutError",
    "DataError",
    "Energy",
    "Exhaustive",
    "FileError",
    "GeometricMedian",
    "Greedy",
    "History",
    "InputError",
    "Iterative",
    "Keep",
    "Lamp",
    "LossChange",
    "LossChanges",
    "Magnitude",
    "NextLayer",
    "NormScale",
    "Precomputed",
    "Pruned",
    "Random",
    "RandomShrink",
    "Reinitialise",
    "Result",
    "Scores",
    "SecateurError",
    "SecondOrder",
    "Site",
    "Sites",
    "Structure",
    "Taylor",
    "TraceError",
    "TrainOptions",
    "UnknownNameError",
    "VerificationError",
    "agreement",
    "blocks",
    "channels",
    "cut",
    "data",
    "evaluate_keeps",
    "fit",
    "load",
    "mask",
    "measure",
    "models",
    "prune",
    "read_report",
    "select",
    "weights",
]
