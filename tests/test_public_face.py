"""The public face: few names, all in their place, and no function that hides a module."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib.metadata import requires
from itertools import takewhile

import pytest

import secateur as sc

NAMESPACES = [
    *(
        "allocate",
        "criteria",
        "data",
        "edits",
        "measure",
        "models",
        "repair",
        "runtimes",
        "schedules",
        "search",
        "solvers",
        "train",
        "transforms",
    ),
]


def packages(package: types.ModuleType) -> Iterator[types.ModuleType]:
    yield package
    for info in pkgutil.iter_modules(package.__path__):
        if info.ispkg:
            yield from packages(importlib.import_module(f"{package.__name__}.{info.name}"))


def test_the_face_is_small() -> None:
    assert len(sc.__all__) <= 41
    assert sc.__all__ == sorted(sc.__all__)
    assert all(hasattr(sc, name) for name in sc.__all__)


@pytest.mark.parametrize("name", NAMESPACES)
def test_a_namespace_is_a_package_whose_names_are_there(name: str) -> None:
    namespace = getattr(sc, name)
    assert isinstance(namespace, types.ModuleType)
    assert name in sc.__all__
    missing = [inner for inner in namespace.__all__ if not hasattr(namespace, inner)]
    assert not missing


def test_the_core_imports_torch_numpy_and_safetensors_alone() -> None:
    """`pip install secateur` is light: nothing of the extras is loaded by any public name, and nothing at all by the import."""
    code = (
        "import sys, importlib.metadata as m; owners = m.packages_distributions(); import secateur as sc\n"
        "def loaded(): return {d for name in list(sys.modules) for d in owners.get(name, ())}\n"
        "assert 'torch' not in loaded(), 'the import alone loads torch'\n"
        "[getattr(sc, name) for name in sc.__all__]; print(*sorted(loaded()))"
    )
    names = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    ours = {"filelock", "numpy", "rich", "safetensors", "secateur", "torch", "typer"}
    extras = {
        "".join(takewhile(lambda c: c.isalnum() or c in "-_", line)).lower()
        for line in requires("secateur") or ()
        if "extra ==" in line
    }
    assert {"torch", "numpy", "safetensors"} <= names
    assert not names & (extras - ours)


def test_no_name_hides_a_module() -> None:
    hidden = [
        f"{package.__name__}.{info.name}"
        for package in packages(sc)
        for info in pkgutil.iter_modules(package.__path__)
        if not isinstance(importlib.import_module(f"{package.__name__}.{info.name}"), types.ModuleType)
        or not isinstance(getattr(package, info.name), types.ModuleType)
    ]
    assert hidden == []
