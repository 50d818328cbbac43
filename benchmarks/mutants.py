"""Mutation testing by sampling: which small changes of the rooms' code do the rooms' own tests see?

    python benchmarks/mutants.py --count 200 --results build/mutants.jsonl

A mutant differs in one comparison, operator, number, truth value or `not`. The tests of a room (and its doctests) are collected
once; each runs once, and says which lines it runs. Then a forked process for each mutant gives the changed function its new
code, and runs the tests that run the changed line, the quick ones first, until one fails. What is changed outside of functions is imported anew.
What has an outcome in the file of results is not run again, so that a run can be interrupted; `--again survived` draws none, and runs
those in the file once more that are still to be found in the code, after tests were written; `--table` prints what is in the file.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from math import sqrt
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any
from zlib import crc32

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "secateur"
ROOMS = ["structure", "selection", "rate", "criteria", "solvers"]
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot,
    ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div,
    ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
LEFT_OUT = {"strict", "init", "repr", "compare", "kw_only"}
"""Arguments of `zip` and of a dataclass's `field`."""
FAULT = 99
MODULE = ""
"""The name that stands for what no function holds; every test that comes into the file concerns it."""


@dataclass(frozen=True)
class Mutant:
    """One changed place of one file, with the function and the line where it is, and what came of it."""

    room: str
    file: str
    place: int
    where: str
    change: str
    outcome: str = ""
    seconds: float = 0.0
    test: str = ""

    @property
    def function(self) -> str:
        return self.where.partition(":")[0]


# The places that can be changed


def places(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """What can be changed, and the qualified name of the function around it.

    Left out are asserts, a zip's `strict` among them, imports for types, and what decorates: that a dataclass is frozen or compared,
    or a field of it shown, is seen by no outcome.
    """
    stack: list[tuple[ast.AST, str, str]] = [(tree, MODULE, "")]
    while stack:
        node, function, scope = stack.pop()
        if isinstance(node, ast.Assert) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            continue
        if isinstance(node, ast.keyword) and node.arg in LEFT_OUT:
            continue
        if can_change(node):
            yield node, function
        if isinstance(node, FUNCTIONS):
            # Defaults are worked out where the function is made.
            defaults = [*node.args.defaults, *[value for value in node.args.kw_defaults if value]]
            stack += [(child, function, scope) for child in defaults]
            name = scope + node.name
            stack += [(child, name, f"{name}.<locals>.") for child in node.body]
        elif isinstance(node, ast.ClassDef):
            stack += [(child, function, f"{scope}{node.name}.") for child in node.body]
        elif isinstance(node, ast.AnnAssign):
            stack += [(node.value, function, scope)] if node.value else []
        else:
            stack += [(child, function, scope) for child in ast.iter_child_nodes(node)]


def can_change(node: ast.AST) -> bool:
    """Whether it is a comparison, an operator, a `not`, a number or a truth value."""
    return (
        (isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS)
        or (isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS)
        or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))
        or (isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float))
    )


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
    return f"{before} → {ast.unparse(node)}"


def mutated(file: Path, place: int) -> tuple[ast.Module, str]:
    """A file with one place changed, and the name of the function around it."""
    tree = ast.parse(file.read_text())
    node, function = list(places(tree))[place]
    change(node)
    return ast.fix_missing_locations(tree), function


def statement_of(tree: ast.Module, place: int) -> ast.stmt:
    """The statement around a place."""
    node: Any = list(places(tree))[place][0]
    around = (each for each in ast.walk(tree) if isinstance(each, ast.stmt) and node in ast.walk(each))
    return max(around, key=lambda each: (each.lineno, -(each.end_lineno or 0)))


def statement_lines(file: Path, place: int) -> set[int]:
    """The lines of the statement around a place, without those of its body."""
    statement = statement_of(ast.parse(file.read_text()), place)
    body = getattr(statement, "body", None)
    last = max(body[0].lineno - 1, statement.lineno) if body else statement.end_lineno or statement.lineno
    return set(range(statement.lineno, last + 1))


def bound(file: Path, place: int) -> set[str]:
    """The names that the statement around a place makes: of variables, fields, a function or a class."""
    statement = statement_of(ast.parse(file.read_text()), place)
    if isinstance(statement, FUNCTIONS | ast.ClassDef):
        return {statement.name}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def using(room: Path, names: set[str]) -> set[tuple[str, str]]:
    """The functions of a room in which one of some names stands, or that have it."""
    users: set[tuple[str, str]] = set()
    for file in sorted(room.rglob("*.py")):
        name = str(file.relative_to(room.parent))
        waiting = [(ast.parse(file.read_text()), MODULE, "")]  # type: list[tuple[ast.AST, str, str]]
        while waiting:
            node, function, scope = waiting.pop()
            if isinstance(node, FUNCTIONS):
                function, scope = scope + node.name, f"{scope}{node.name}.<locals>."
            elif isinstance(node, ast.ClassDef):
                scope = f"{scope}{node.name}."
            if names & {getattr(node, part, None) for part in ("id", "attr", "name", "arg")}:
                users.add((name, function))
            waiting += [(child, function, scope) for child in ast.iter_child_nodes(node)]
    return {(name, function) for name, function in users if function != MODULE}


def mutants_of(room: str, file: Path) -> list[Mutant]:
    """All mutants of a file."""
    each = places(ast.parse(file.read_text())) if file.exists() else ()
    name = str(file.relative_to(SOURCE))
    return [
        Mutant(room, name, place, f"{function}:{getattr(node, 'lineno', '')}", change(deepcopy(node)))
        for place, (node, function) in enumerate(each)
    ]


def sample(rooms: list[str], seed: int, count: int) -> list[Mutant]:
    """Mutants of the rooms, drawn from all places with the same chance."""
    files = [(room, file) for room in rooms for file in sorted((SOURCE / room).rglob("*.py"))]
    table = [mutant for room, file in files for mutant in mutants_of(room, file)]
    random.Random(seed).shuffle(table)
    return table[:count]


def relocated(mutants: Iterable[Mutant]) -> Iterator[Mutant]:
    """The mutants at the places where they are now; those that are in the code no more have the outcome `gone`."""
    by_file: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        if mutant.file not in by_file:
            by_file[mutant.file] = mutants_of(mutant.room, SOURCE / mutant.file)
        alike = [m for m in by_file[mutant.file] if (m.function, m.change) == (mutant.function, mutant.change)]
        now = min(alike, key=lambda m: abs(m.place - mutant.place), default=None)
        yield replace(mutant, outcome="gone") if now is None else replace(mutant, place=now.place, where=now.where)


# Which tests call which functions


class Watch:
    """A plugin of pytest: the functions that each test calls in a room, the lines that it runs there, and the seconds that it takes."""

    def __init__(self, package: Path, room: str) -> None:
        self.package, self.tests = package, {}  # type: tuple[Path, dict[str, Any]]
        self.folder = f"{package / room}{os.sep}"
        self.called: set[tuple[str, str]] = set()
        self.left: dict[CodeType, set[int]] = {}

    def trace(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        code = frame.f_code
        if not code.co_filename.startswith(self.folder):
            return None
        if code not in self.left:
            self.called.add((self.name(code), code.co_qualname))
            self.left[code] = {line for _, _, line in code.co_lines() if line}
        return self.line if self.left[code] else None

    def line(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any]:
        self.left[frame.f_code].discard(frame.f_lineno)
        return self.line

    def name(self, code: CodeType) -> str:
        return str(Path(code.co_filename).relative_to(self.package))

    def lines(self) -> dict[str, list[int]]:
        """The lines that a test ran, by the file and its text."""
        ran: dict[str, set[int]] = {}
        for code, left in self.left.items():
            ran.setdefault(self.name(code), set()).update({line for _, _, line in code.co_lines() if line} - left)
        return {version_of(self.package, name): sorted(lines) for name, lines in ran.items()}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.called, self.left, start = set(), {}, time.monotonic()
        threading.settrace(self.trace)
        sys.settrace(self.trace)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
        self.tests[name_of(item)] = {
            "seconds": time.monotonic() - start,
            "calls": sorted(self.called),
            "lines": self.lines(),
        }


def version_of(package: Path, name: str) -> str:
    """A file's name with what tells its text from that of another day, as lines move."""
    return f"{name} {crc32((package / name).read_bytes())}"


def name_of(item: pytest.Item) -> str:
    """A test's name that holds wherever the package was copied to."""
    path = str(item.path)
    folder = f"{ROOT}{os.sep}" if path.startswith(str(ROOT)) else f"{path.partition('/secateur/')[0]}{os.sep}"
    return f"{path.removeprefix(folder)}::{item.nodeid.partition('::')[2]}"


def collect(copy: Path, paths: list[str], plugin: object, folder: str) -> int:
    """Collect tests of the package in a folder, in this process, and let a plugin run them."""
    sys.path[:0] = [str(copy), str(ROOT / "tests")]
    os.environ["PYTHONPATH"] = str(copy)
    where = [f"--basetemp={folder}/pt", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml")]
    return int(pytest.main(["-q", "-p", "no:cacheprovider", *where, *paths], [plugin]))


def first_failure(items: list[pytest.Item]) -> str:
    """Run tests until one fails; its name, or nothing."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if item.session.testsfailed:
            return name_of(item)
    return ""


def tests_of(
    mutant: Mutant, function: str, tests: dict[str, Any], seconds: float, package: Path
) -> tuple[list[str], float]:
    """The tests that run a mutant's line, as many as fit into the seconds; and how long they take.

    The quickest come first, and a further case of a test as if it took so many times as long: other tests see more.
    Where the file has other lines by now, those that call the function. Of what no function holds, those that call a function
    in which its name stands, or else any of the file; and those that call nothing, or import at most, as they look at values.
    """
    version, names = version_of(package, mutant.file), set[str]()
    if function == MODULE:
        users = using(package / mutant.room, bound(package / mutant.file, mutant.place))
        for name, about in tests.items():
            calls = {(file, called) for file, called in about["calls"] if called != "<module>"}
            if not calls or calls & users or (not users and any(file == mutant.file for file, _ in calls)):
                names.add(name)
    else:
        callers = [name for name in tests if [mutant.file, function] in tests[name]["calls"]]
        lines = statement_lines(package / mutant.file, mutant.place)
        names |= {
            n for n in callers if version not in tests[n]["lines"] or lines.intersection(tests[n]["lines"][version])
        }
    cases = Counter[str]()
    late: dict[str, float] = {}
    for name in sorted(names, key=lambda name: tests[name]["seconds"]):
        cases[name.partition("[")[0]] += 1
        late[name] = tests[name]["seconds"] * cases[name.partition("[")[0]]
    total, within = 0.0, list[str]()
    for name in sorted(late, key=late.__getitem__):
        total += tests[name]["seconds"]
        if total > seconds and within:
            break
        within.append(name)
    return within, total


# One mutant


def in_child(work: Callable[[], object], seconds: float) -> int | None:
    """Do something in a forked process that says nothing; its exit status, None where it ran on."""
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.setpgid(0, 0)
        code = FAULT
        with contextlib.suppress(BaseException):
            code = int(work() or 0)  # type: ignore[call-overload]
        os._exit(code)  # FAULT where it raised something
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def give_new_code(path: Path, tree: ast.Module) -> None:
    """Give every function of a file that was imported the code that it has in a changed tree."""
    waiting, codes = [compile(tree, str(path), "exec")], {}  # type: tuple[list[CodeType], dict[tuple[str, int], CodeType]]
    while waiting:
        code = waiting.pop()
        codes[code.co_qualname, code.co_firstlineno] = code
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename == str(path):
            thing.__code__ = codes[thing.__code__.co_qualname, thing.__code__.co_firstlineno]


@dataclass
class Rooms:
    """A plugin of pytest that runs mutants of one room on the tests that were collected.

    Attributes:
        todo: the mutants.
        copy: the package that is imported.
        map_file: which functions each test calls.
        options: the command line.
        alone: run the tests of one mutant in this process, which imported the changed file.
    """

    todo: list[Mutant]
    copy: Path
    map_file: Path
    options: argparse.Namespace
    alone: str = ""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the mutants in the place of the tests."""
        items = {name_of(item): item for item in session.items}
        if self.alone:
            names = json.loads(self.map_file.with_suffix(".names").read_text())
            Path(self.alone).write_text(first_failure([items[name] for name in names if name in items]))
            return True
        tests = self.read_map(items)
        new = [item for name, item in items.items() if name not in tests]
        for path, of_file in groupby(new, key=lambda item: item.path):
            if in_child(lambda: self.write_map(list(of_file), tests), 7200) != 0:  # noqa: B023  (waited for)
                raise SystemExit(f"a test of {path} fails before anything is changed")
            tests = self.read_map(items)
        for mutant in self.todo:
            self.run(mutant, tests, items)
        return True

    def read_map(self, items: Container[str]) -> dict[str, Any]:
        """What is written about those tests that are still there."""
        tests = json.loads(self.map_file.read_text()) if self.map_file.exists() else {}
        return {name: about for name, about in tests.items() if name in items}

    def write_map(self, items: list[pytest.Item], tests: dict[str, Any]) -> int:
        """Write which functions each test calls."""
        watch = Watch(self.copy / "secateur", self.map_file.stem)
        items[0].config.pluginmanager.register(watch)
        failed = first_failure(items)
        if not failed:
            self.map_file.write_text(json.dumps(tests | watch.tests))
        return bool(failed)

    def run(self, mutant: Mutant, tests: dict[str, Any], items: dict[str, pytest.Item]) -> None:
        """Run the tests that call a mutant's function on it, and write down what came of it."""
        began = time.monotonic()
        path = self.copy / "secateur" / mutant.file
        tree, function = mutated(path, mutant.place)
        names, expected = tests_of(mutant, function, tests, self.options.seconds, self.copy / "secateur")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            told = Path(folder) / "failed"

            def patched() -> None:
                give_new_code(path, tree)
                told.write_text("")
                told.write_text(first_failure([items[name] for name in names]))

            def imported() -> None:
                self.map_file.with_suffix(".names").write_text(json.dumps(names))
                paths = sorted({str(items[name].path) for name in names})
                plugin = replace(self, alone=str(told))
                forget(self.copy)
                collect(self.copy, paths, plugin, folder)

            before = path.read_text()
            path.write_text(ast.unparse(tree))  # for processes that tests start
            try:
                # Four times as long as without the change, and what it takes to import and collect.
                limit = 60 + 4 * min(expected, self.options.seconds)
                status = in_child(imported if function == MODULE else patched, limit) if names else 0
            finally:
                path.write_text(before)
            begun, failed = told.exists(), told.read_text() if told.exists() else ""
        whole = expected <= self.options.seconds  # else some of its tests had no time
        outcome = "not reached" if not names else "ran on" if status is None else "survived" if whole else "undecided"
        if status or failed:
            if function != MODULE and not begun:
                raise SystemExit(f"{mutant}: the function could not be given its new code")
            outcome = "killed"
        self.write(replace(mutant, outcome=outcome, seconds=round(time.monotonic() - began, 1), test=failed))

    def write(self, mutant: Mutant) -> None:
        """Add an outcome to the file of results."""
        with self.options.results.open("a") as file:
            file.write(line_of(mutant))


def forget(copy: Path) -> None:
    """Forget the modules of the package and of the tests, so that they are imported anew."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith((str(copy), str(ROOT / "tests"))):
            del sys.modules[name]


# All of them


def read_results(file: Path) -> dict[tuple[str, int], Mutant]:
    """The outcomes in a file; the last of each place."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {(mutant.file, mutant.place): mutant for mutant in (Mutant(**json.loads(line)) for line in lines)}


def line_of(mutant: Mutant) -> str:
    """A line of the file of results."""
    return json.dumps(asdict(mutant), ensure_ascii=False) + "\n"


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson)."""
    z, share = 1.96, hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


def table(mutants: list[Mutant]) -> str:
    """The outcomes by room, in Markdown; a mutant on which the tests do not end is seen as well, one whose code is gone is none."""
    lines = [
        "| room | mutants | killed | ran on | survived | undecided | not reached | seen (95 %) |",
        "| --- |" + " --- |" * 7,
    ]
    for room in [*dict.fromkeys(mutant.room for mutant in mutants), "all"]:
        counts = Counter(m.outcome for m in mutants if room in (m.room, "all") and m.outcome != "gone")
        total, seen = counts.total(), counts["killed"] + counts["ran on"]
        low, high = wilson(seen, total)
        cells = [room, total, *(counts[key] for key in ("killed", "ran on", "survived", "undecided", "not reached"))]
        lines.append(f"| {' | '.join(map(str, cells))} | {seen / total:.0%} ({low:.0%} to {high:.0%}) |")
    return "\n".join(lines)


def options_of(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120.0, help="of tests that a mutant is run against")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="+", default=ROOMS)
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "mutants.jsonl")
    parser.add_argument("--again", nargs="*", default=[], help="outcomes to be run once more, as survived")
    parser.add_argument("--table", action="store_true", help="print all results in the file, and run nothing")
    return parser.parse_args(arguments)


def main() -> None:
    """Sample mutants, and write what became of each and of all."""
    options = options_of(sys.argv[1:])
    results = read_results(options.results)
    if options.again:
        results = {(mutant.file, mutant.place): mutant for mutant in relocated(results.values())}
        options.results.write_text("".join(map(line_of, results.values())))
        run_all([mutant for mutant in results.values() if mutant.outcome in options.again], options)
    elif not options.table:
        mutants = sample(options.rooms, options.seed, options.count)
        run_all([mutant for mutant in mutants if (mutant.file, mutant.place) not in results], options)
    print(table(list(read_results(options.results).values())))


def run_all(todo: list[Mutant], options: argparse.Namespace) -> None:
    """Run the mutants of one room after another, each in a process that collects the room's tests."""
    import torch._dynamo
    import torch.export  # noqa: F401  (once, for all children)

    options.results.parent.mkdir(parents=True, exist_ok=True)
    sys.dont_write_bytecode = True
    for room, _ in reversed(Counter(mutant.room for mutant in todo).most_common()):  # the smallest first
        with tempfile.TemporaryDirectory() as temporary:
            copy = Path(temporary) / "src"
            shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
            ours = [mutant for mutant in todo if mutant.room == room]
            plugin = Rooms(ours, copy, options.results.parent / f"{room}.json", options)
            paths = [str(ROOT / "tests" / room), str(copy / "secateur" / room)]
            in_child(lambda: collect(copy, paths, plugin, temporary), 10**9)  # noqa: B023  (waited for)


if __name__ == "__main__":
    main()
