"""secateur: find what a trained network does not need, cut it out for real, and show what it cost.

>>> import torch
>>> from torch import nn
>>> import secateur as sc
>>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
>>> small = sc.prune(model, torch.zeros(1, 8), criterion="l2", sparsity=0.5).model
>>> small[0].out_features
8
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        transforms,
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
    "transforms",
    "weights",
]

# torch takes seconds to import: what needs none of it, such as the help of the command line, must not wait for it.
_NAMES = {
    "secateur.compression": ("compress",),
    "secateur.measure": ("evaluate",),
    "secateur.pruning": ("prune",),
    "secateur.result": ("Result",),
    "secateur.runtimes": ("export",),
    "secateur.saving": ("load",),
    "secateur.selection": ("select",),
    "secateur.structure": ("blocks", "channels", "cut", "mask", "weights"),
    "secateur.train": ("distill", "fit"),
    "secateur.types": (
        "CutError",
        "DataError",
        "ExportError",
        "FileError",
        "InputError",
        "Keep",
        "MissingLibraryError",
        "Scores",
        "SecateurError",
        "Site",
        "Sites",
        "TraceError",
        "UnknownNameError",
        "VerificationError",
    ),
}
_PLACES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what the name stands for, when it is asked for first."""
    if name in _PLACES:
        value = getattr(import_module(_PLACES[name]), name)
        globals()[name] = value
        return value
    if not name.startswith("_") and find_spec(f"secateur.{name}") is not None:
        return import_module(f"secateur.{name}")
    raise AttributeError(f"module 'secateur' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
