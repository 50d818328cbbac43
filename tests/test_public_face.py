"""The public face: few names, all in their place, and no function that hides a module."""

from __future__ import annotations

import importlib
import pkgutil
import types
from collections.abc import Iterator

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


def test_no_name_hides_a_module() -> None:
    hidden = [
        f"{package.__name__}.{info.name}"
        for package in packages(sc)
        for info in pkgutil.iter_modules(package.__path__)
        if not isinstance(importlib.import_module(f"{package.__name__}.{info.name}"), types.ModuleType)
        or not isinstance(getattr(package, info.name), types.ModuleType)
    ]
    assert hidden == []
