"""Mutation testing by sampling: which small changes of the rooms' code do the rooms' own tests see?

    python benchmarks/mutants.py --count 200 --rooms selection rate criteria solvers structure

A mutant differs in one comparison, operator, number, truth value or `not`. Each is run against the tests of its room (and its
file's doctests) in a forked process, until one fails. What is not decided in the time that a mutant has is counted by itself.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from math import sqrt
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot,
    ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div,
    ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def places(tree: ast.Module) -> Iterator[ast.AST]:
    """What can be changed; annotations and asserts, which say nothing that runs, are left out."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Assert | ast.AnnAssign) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ):
            continue
        if (
            (isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS)
            or (isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS)
            or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))
            or (isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float))
        ):
            yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            stack += [*node.args.defaults, *[d for d in node.args.kw_defaults if d], *node.body]
        else:
            stack += ast.iter_child_nodes(node)


def change(node: ast.AST) -> str:
    """Change a node in place; return what was done."""
    before = ast.unparse(node)
    if isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()  # type: ignore[assignment]
    elif isinstance(node, ast.BinOp | ast.BoolOp):
        node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
    elif isinstance(node, ast.UnaryOp):
        node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant):
        node.value = (not node.value) if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]
    return f"line {getattr(node, 'lineno', '?')}: {before} → {ast.unparse(node)}"


def mutants(rooms: list[str], seed: int) -> Iterator[tuple[str, Path, str, str]]:
    """Yield room, file, its changed text and the change, at random over all places of the rooms, for ever."""
    files = [(room, file) for room in rooms for file in sorted((ROOT / "src/secateur" / room).rglob("*.py"))]
    table = [
        (room, file, place) for room, file in files for place in range(len(list(places(ast.parse(file.read_text())))))
    ]
    chance = random.Random(seed)
    chance.shuffle(table)
    for room, file, place in table:
        tree = ast.parse(file.read_text())
        said = change(list(places(tree))[place])
        yield room, file, ast.unparse(ast.fix_missing_locations(tree)), said


def tried(copy: Path, room: str, file: Path, text: str, seconds: float) -> str:
    """Run a room's tests on one mutant; return what came of it."""
    target = copy / file.relative_to(ROOT / "src")
    before = target.read_text()
    target.write_text(text)
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        sys.path[:0] = [str(copy), str(ROOT / "tests")]
        os.environ["PYTHONPATH"] = str(copy)
        os.setpgid(0, 0)
        folder = tempfile.mkdtemp()
        options = [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--basetemp={folder}/pt",
            f"--rootdir={ROOT}",
            "-c",
            str(ROOT / "pyproject.toml"),
        ]
        code = 3
        try:
            code = int(pytest.main([*options, str(target), str(ROOT / "tests" / room)]))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(code)
    deadline, status = time.monotonic() + seconds, None
    while status is None and time.monotonic() < deadline:
        ended, code = os.waitpid(child, os.WNOHANG)
        status = code if ended else None
        time.sleep(0.05)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    target.write_text(before)
    return "undecided" if status is None else "survived" if status == 0 else "killed"


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson)."""
    z, share = 1.96, hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


def main() -> None:
    """Sample mutants, and print what became of each and of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300.0, help="that a mutant has")
    parser.add_argument("--minutes", type=float, default=1e9, help="that all have")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="+", default=["structure", "selection", "rate", "criteria", "solvers"])
    options = parser.parse_args()
    import torch  # noqa: F401  (once, for all children)

    copy = Path(tempfile.mkdtemp()) / "src"
    shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
    sys.dont_write_bytecode = True
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + 60 * options.minutes
    for number, (room, file, text, said) in enumerate(mutants(options.rooms, options.seed)):
        if number >= options.count or time.monotonic() > end:
            break
        outcome = tried(copy, room, file, text, options.seconds)
        outcomes[outcome] += 1
        print(f"{outcome:9} {file.relative_to(ROOT / 'src/secateur')} {said}", flush=True)
    decided = outcomes["killed"] + outcomes["survived"]
    if decided:
        low, high = wilson(outcomes["killed"], decided)
        print(
            f"{dict(outcomes)}: {outcomes['killed'] / decided:.1%} of the decided are killed (95 %: {low:.1%} to {high:.1%})"
        )


if __name__ == "__main__":
    main()
