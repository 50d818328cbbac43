"""The rooms of the house: a module imports only from rooms above its own, and never in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import secateur

ROOT = Path(secateur.__file__).parent
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

# The order of docs/architecture.md. Rooms on one line may not import each other.
ORDER = [
    {"types"},
    {"checks"},
    {"hints"},
    {"randomness"},
    {"copies", "switches", "trees", "untouched", "wrappers"},
    {"deadline", "files", "progress", "state", "state_dicts"},
    {"calls", "coding"},
    {"labelled"},
    {"losses"},
    {"structure"},
    {"activations", "equations"},
    {"rate"},
    {"selection"},
    {"runtimes"},
    {"measure"},
    {"edits"},
    {"saving"},
    {"result"},
    {"criteria"},
    {"allocate"},
    {"repair"},
    {"solvers"},
    {"stream"},
    {"schedules"},
    {"search"},
    {"data", "models"},
    {"train"},
    {"transforms"},
    {"pruning"},
    {"compression"},
    {"integrations"},
    {"lab"},
    {"studies"},
    {"testing"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
MODULES = sorted(ROOT.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


KNOWN = {module_name(m) for m in MODULES}


def imports(path: Path) -> set[str]:
    """The secateur modules that `path` imports, inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import; write the full name"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from secateur import data` takes the room, not the public face.
            names |= whole if whole <= KNOWN else whole | {node.module}
    return names & KNOWN


def room(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else None


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_upwards(path: Path) -> None:
    here = room(module_name(path))
    if here is None or here in {"__init__", "__main__"}:
        return  # the public face gathers every room
    assert here in LEVEL, f"{path.name}: room {here!r} is not in the order; add it there and to docs/architecture.md"
    for name in imports(path):
        there = room(name)
        assert there is not None, f"{path}: imports the public face; import from the room itself"
        assert there == here or LEVEL[there] < LEVEL[here], f"{path}: {here} may not import {there}"


@pytest.mark.parametrize("path", sorted((ROOT / "integrations").glob("*.py")), ids=lambda p: p.name)
def test_integrations_know_rooms_by_their_public_names(path: Path) -> None:
    """What another library's models need of ours, anybody's own can have."""
    for name in imports(path):
        assert name.count(".") == 1, f"{path.name}: {name} is inside a room; import from the room itself"


LAB = ["plan", "keep", "show", "drive"]


@pytest.mark.parametrize("path", sorted((ROOT / "lab").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_rooms_of_the_lab_import_upwards(path: Path) -> None:
    """What stands under TYPE_CHECKING is not imported: a study's results know of the store and the report in type alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if ast.unparse(getattr(node, "test", node)) != "TYPE_CHECKING"]
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    here = path.relative_to(ROOT / "lab").parts[0]
    for name in modules:
        if name.startswith("secateur.lab.") and here in LAB:
            assert LAB.index(name.split(".")[2]) <= LAB.index(here), f"{path}: {here} may not import {name}"


def test_no_circle_between_modules() -> None:
    graph = {module_name(p): imports(p) - {module_name(p)} for p in MODULES}
    graph.pop("secateur", None)
    check_no_circle(graph)


def test_no_circle_between_benchmarks() -> None:
    files = {path.stem: path for path in BENCHMARKS.glob("*.py")}

    def imported(path: Path) -> set[str]:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        return names & set(files)

    graph = {name: imported(path) for name, path in files.items()}
    assert graph["coverage_models"] >= {"coverage_transformers", "coverage_libraries"}
    check_no_circle(graph)


def check_no_circle(graph: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "circle of imports: " + " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for other in sorted(graph.get(name, ())):
            # A package gathers its own modules; they do not import it back.
            if not name.startswith(other + "."):
                visit(other, (*path, name))
        done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_no_two_types_share_a_name() -> None:
    """A reader who meets a name knows which type it is."""
    places: dict[str, list[str]] = {}
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(file.relative_to(ROOT)))
    shared = {name: files for name, files in places.items() if len(files) > 1}
    assert not shared, shared
