"""secateur: find what a trained network does not need, cut it out for real, and show what it cost.

>>> import torch
>>> from torch import nn
>>> import secateur as sc
>>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
>>> small = sc.prune(model, torch.zeros(1, 8), criterion="l2", sparsity=0.5).model
>>> small[0].out_features
8
"""

from secateur import data, measure, models, search, solvers
from secateur.allocate import Sensitivity, erk, sensitivity
from secateur.budget import budget
from secateur.criteria import (
    CRITERIA,
    CRITERIA_OF_DATA,
    ActivationRank,
    ActiveFraction,
    ClassAccuracy,
    Correlation,
    Energy,
    GeometricMedian,
    GraSP,
    HessianTrace,
    Lamp,
    LossChange,
    LossChanges,
    Magnitude,
    MeanActivation,
    Movement,
    NextLayer,
    NormScale,
    OptimalBrainDamage,
    OptimalBrainSurgeon,
    Random,
    Reconstruction,
    SecondOrder,
    Snip,
    SynFlow,
    Taylor,
    Wanda,
    evaluate_keeps,
)
from secateur.measure.agreement import Agreement, agreement
from secateur.prune import prune
from secateur.repair import recalibrate, repair
from secateur.result import Result
from secateur.saving import load
from secateur.schedules import Exhaustive, Greedy, Iterative, Precomputed, RandomShrink
from secateur.select import select
from secateur.structure import Structure, blocks, channels, cut, mask, weights
from secateur.train import History, Reinitialise, RewindRate, TrainOptions, distill, fit
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
    "CRITERIA_OF_DATA",
    "ActivationRank",
    "ActiveFraction",
    "Agreement",
    "ClassAccuracy",
    "Correlation",
    "CutError",
    "DataError",
    "Energy",
    "Exhaustive",
    "FileError",
    "GeometricMedian",
    "GraSP",
    "Greedy",
    "HessianTrace",
    "History",
    "InputError",
    "Iterative",
    "Keep",
    "Lamp",
    "LossChange",
    "LossChanges",
    "Magnitude",
    "MeanActivation",
    "Movement",
    "NextLayer",
    "NormScale",
    "OptimalBrainDamage",
    "OptimalBrainSurgeon",
    "Precomputed",
    "Random",
    "RandomShrink",
    "Reconstruction",
    "Reinitialise",
    "Result",
    "RewindRate",
    "Scores",
    "SecateurError",
    "SecondOrder",
    "Sensitivity",
    "Site",
    "Sites",
    "Snip",
    "Structure",
    "SynFlow",
    "Taylor",
    "TraceError",
    "TrainOptions",
    "UnknownNameError",
    "VerificationError",
    "Wanda",
    "agreement",
    "blocks",
    "budget",
    "channels",
    "cut",
    "data",
    "distill",
    "erk",
    "evaluate_keeps",
    "fit",
    "load",
    "mask",
    "measure",
    "models",
    "prune",
    "recalibrate",
    "repair",
    "search",
    "select",
    "sensitivity",
    "solvers",
    "weights",
]
