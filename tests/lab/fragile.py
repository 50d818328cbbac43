"""Cells that end badly, for the tests of the executors."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from secateur.lab import Cell, Context, Outcome, Recipe, Report, Study


def behave(context: Context) -> Outcome:
    """Do what the recipe says."""
    how = context["how"]
    print(f"about to {how}")
    BEHAVIOUR[how](context)
    return Outcome({"threads": torch.get_num_threads(), "pid": os.getpid(), "x": torch.rand(1).item()})


def _die(context: Context) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_once(context: Context) -> None:
    """Die, but not when the file is there that the first try has made."""
    mark = Path(context.options["folder"]) / context.recipe.id
    if not mark.exists():
        mark.touch()
        _die(context)


def _raise(context: Context) -> None:
    raise ValueError("as it\nwas told")


BEHAVIOUR = {
    "work": lambda context: None,
    "sleep": lambda context: time.sleep(context.options["sleep"]),
    "die": _die,
    "die once": _die_once,
    "raise": _raise,
    "exit": lambda context: sys.exit(3),
    "crash": lambda context: os.abort(),
}


def odd(context: Context) -> Outcome:
    """Give back what cannot be kept."""
    metrics = {"set": {"x": {1}}, "numpy": {"x": np.float32(1.0)}}
    artefacts = {"array": {"w": np.ones(2)}, "sparse": {"w": torch.eye(3).to_sparse()}}
    how = context["how"]
    return Outcome(metrics.get(how, {}), artefact=artefacts.get(how))  # type: ignore[arg-type]


def study(*hows: str, run: object = behave) -> Study:
    recipes = [Recipe("fragile", "cell", {"how": how, "n": n}) for n, how in enumerate(hows)]
    cells = [Cell(recipe, run) for recipe in recipes]  # type: ignore[arg-type]
    defaults = {"folder": "", "sleep": 0.0}
    return Study("fragile", "F", None, "", lambda options: cells, lambda results: Report("F"), defaults)
