"""secateur: find what a trained network does not need, cut it out for real, and show what it cost.

>>> import torch
>>> from torch import nn
>>> import secateur as sc
>>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
>>> small = sc.prune(model, torch.zeros(1, 8), criterion="l2", sparsity=0.5).model
>>> small[0].out_features
8
"""

from secateur import (
    allocate,
    criteria,
    data,
    edits,
    measure,
    models,
    repair,
    runtimes,
    schedules,
    search,
    solvers,
    train,
)
from secateur.compression import compress
from secateur.measure import evaluate
from secateur.pruning import prune
from secateur.result import Result
from secateur.runtimes import export
from secateur.saving import load
from secateur.selection import select
from secateur.structure import blocks, channels, cut, mask, weights
from secateur.train import distill, fit
from secateur.types import (
    CutError,
    DataError,
    ExportError,
    FileError,
    InputError,
    Keep,
    MissingLibraryError,
    Scores,
    SecateurError,
    Site,
    Sites,
    TraceError,
    UnknownNameError,
    VerificationError,
)

__version__ = "0.2.0"

__all__ = [
    "CutError",
    "DataError",
    "ExportError",
    "FileError",
    "InputError",
    "Keep",
    "MissingLibraryError",
    "Result",
    "Scores",
    "SecateurError",
    "Site",
    "Sites",
    "TraceError",
    "UnknownNameError",
    "VerificationError",
    "allocate",
    "blocks",
    "channels",
    "compress",
    "criteria",
    "cut",
    "data",
    "distill",
    "edits",
    "evaluate",
    "export",
    "fit",
    "load",
    "mask",
    "measure",
    "models",
    "prune",
    "repair",
    "runtimes",
    "schedules",
    "search",
    "select",
    "solvers",
    "train",
    "weights",
]
