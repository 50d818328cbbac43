"""The documents are true: their code runs and prints what they show, their commands exist, and nothing is missing."""

from __future__ import annotations

import contextlib
import csv
import inspect
import io
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

import secateur
from secateur import cli, data, models
from secateur.compression.history import Compression
from secateur.compression.journal import Trial
from secateur.criteria import CRITERIA
from secateur.measure import parameters
from secateur.measure.side_by_side import Bench, BenchRow
from secateur.result.report import PruneReport, SiteReport
from secateur.studies import STUDIES
from secateur.types import MissingLibraryError, SecateurError
from test_architecture import ORDER
from test_supply import declared
from test_supply import name_of as name_of_library

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "AGENTS.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if "results" not in page.parts),
]
FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
NUMBER = re.compile(r"\d[\d.,]*(e[+-]?\d+)?")
COMMANDS: Any = typer.main.get_command(cli.app)
# What a line measures differs from machine to machine; its form does not.
MEASURED = ("latency", "verified", "goal", "trial", "WARNING: outputs")
CHEAP = ("list", "train", "compress", "prune", "evaluate", "study list")

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the documents are not beside the tests")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(*names: str) -> str:
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and content."""
    return [(m[1], m[3]) for m in FENCE.finditer(page.read_text(encoding="utf-8"))]


def files_of(page: Path) -> dict[str, str]:
    """The blocks with a title: files that the reader writes."""
    return {m[2]: m[3] for m in FENCE.finditer(page.read_text(encoding="utf-8")) if m[2]}


@contextlib.contextmanager
def written(page: Path) -> Iterator[dict[str, str]]:
    """Write a page's files into the working folder, from which Python imports them meanwhile; gives name by content."""
    files = files_of(page)
    for name, content in files.items():
        Path(name).write_text(content, encoding="utf-8")
    path = list(sys.path)
    sys.path.append(str(Path.cwd()))
    try:
        yield {content: name for name, content in files.items()}
    finally:
        sys.path[:] = path
        for name in files:
            sys.modules.pop(Path(name).stem, None)


def form(line: str) -> str:
    """A line with its numbers and spaces made alike."""
    return " ".join(NUMBER.sub("#", line).split())


def comparable(text: str) -> list[str]:
    return [form(line) if line.startswith(MEASURED) else line.rstrip() for line in text.strip().splitlines()]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in, so that what an example writes goes away."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("MPLBACKEND", "agg")
    return tmp_path


@pytest.mark.parametrize("page", [p for p in PAGES if any(kind == "python" for kind, _ in blocks(p))], ids=name_of)
def test_python_blocks_print_what_the_page_shows(page: Path, elsewhere: Path) -> None:
    """The blocks of a page are one script, a file among them is run as one; a `text` block after one is what it prints."""
    found = [*blocks(page), ("", "")]
    module = type(sys)("secateur_docs_example")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        for (kind, code), (after, shown) in pairwise(found):
            if kind != "python":
                continue
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), written(page) as files:
                if code in files:
                    runpy.run_path(str(Path.cwd() / files[code]), run_name="__main__")
                else:
                    exec(compile(code, name_of(page), "exec"), module.__dict__)
            if after == "text":
                assert comparable(printed.getvalue()) == comparable(shown)
            else:
                assert not printed.getvalue(), f"{name_of(page)} does not show what this prints: {code}"
        for picture in re.findall(r"!\[[^\]]*\]\(([^)/]+\.svg)\)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert (elsewhere / picture).stat().st_size > 1000
    except MissingLibraryError as error:
        pytest.skip(f"{missing(error)} is not installed, which is none of those that the tests need")
    finally:
        del sys.modules[module.__name__]


def missing(error: MissingLibraryError) -> str:
    """The library that an error says is missing; it must be so, and be none that the tests are installed with."""
    assert isinstance(error.__cause__, ImportError), error
    library = str(error.__cause__.name).partition(".")[0]
    assert find_spec(library) is None, f"{library} is installed, and something else is wrong: {error}"
    core, extras = declared()
    needed = {
        name_of_library(text) for text in [*core, *extras["dev"], *(t for e in in_dev(extras) for t in extras[e])]
    }
    assert library.lower().replace("_", "-") not in needed, f"{library} is installed with the tests: {error}"
    return library


def in_dev(extras: dict[str, list[str]]) -> list[str]:
    """The extras that the one for development brings."""
    brought = next(text for text in extras["dev"] if text.startswith("secateur["))
    return brought.partition("[")[2].rstrip("]").split(",")


@pytest.mark.parametrize(
    ("name", "words"),
    [("json", "is installed, and something else"), ("no_such_library", None), ("pytest_xdist", "with the tests")],
)
def test_only_a_library_that_may_be_missing_is_a_reason_to_skip(name: str, words: str | None) -> None:
    error = MissingLibraryError("this needs it")
    error.__cause__ = ImportError("no", name=name)
    if words is None:
        assert missing(error) == name
        return
    with pytest.raises(AssertionError, match=words):
        missing(error)


def console(page: Path) -> list[tuple[list[str], str]]:
    """The `$ secateur …` lines of a page with the output that the page shows for each."""
    found: list[tuple[list[str], str]] = []
    for kind, content in blocks(page):
        if kind == "console":
            for part in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
                line, _, output = part.partition("\n")
                found.append((shlex.split(line), output))
    return found


def inline(page: Path) -> list[list[str]]:
    """Whole commands in the running text, such as `secateur study run demo`."""
    plain = FENCE.sub("", page.read_text(encoding="utf-8"))
    spans = re.findall(r"(?<!`)`(secateur [^`\n]+)`", plain)
    return [shlex.split(span) for span in spans]


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words after `secateur` name, and the words that are left."""
    command, rest = COMMANDS, words
    if len(words) == 1 and words[0] in options_of(COMMANDS) | {"--help"}:
        return command, []
    while hasattr(command, "commands"):
        assert rest, f"`secateur {' '.join(words)}` names no command"
        assert rest[0] in command.commands, f"there is no command `secateur {' '.join(words)}`"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def options_of(command: Any) -> set[str]:
    return {o for p in command.params for o in p.opts if o.startswith("--")} - {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_that_are_shown_exist(page: Path) -> None:
    for words in [line for line, _ in console(page)] + inline(page):
        assert words[0] == "secateur"
        command, rest = find_command(words[1:])
        used = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert used <= options_of(command), f"{name_of(page)}: {' '.join(words)}"


def is_cheap(words: list[str], page: Path) -> bool:
    """Whether it takes seconds; a study does that the page itself writes."""
    return " ".join(words[1:]).startswith(CHEAP) or bool(set(words) & set(files_of(page)))


@pytest.mark.parametrize("page", [p for p in PAGES if any(is_cheap(w, p) for w, _ in console(p))], ids=name_of)
def test_cheap_commands_do_what_is_shown(
    page: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECATEUR_JOBS", "1")
    for words, shown in console(page):
        if not is_cheap(words, page):
            assert not shown, "output that no test checks"
            continue
        monkeypatch.setattr(sys, "argv", words)
        with written(page), pytest.raises(SystemExit) as end:
            cli.main()
        printed, problem = capsys.readouterr()
        assert end.value.code == 0, f"{' '.join(words)}: {problem}"
        if shown:
            assert [form(line) for line in printed.splitlines()] == [form(line) for line in shown.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{name_of(page)} links to {target}"
        assert not anchor or anchor in anchors(file), f"{name_of(page)} links to {target}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_anchors_are_those_of_the_headings(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `two`: three\n```sh\n# no heading\n```\n", encoding="utf-8")
    assert anchors(page) == {"one-two-three"}


def walk(command: Any, name: str = "secateur") -> Iterator[tuple[str, Any]]:
    for word, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, f"{name} {word}")
    if not hasattr(command, "commands"):
        yield name, command


def section(page: str, heading: str) -> str:
    """What stands under the heading that begins so."""
    found = re.search(rf"^(#+) `?{re.escape(heading)}\b.*?$(.*?)(?=^#{{1,2}} |\Z)", text_of(page), re.M | re.S)
    assert found, f"{page} has no section {heading!r}"
    return found[2]


@pytest.mark.parametrize(("name", "command"), list(walk(COMMANDS)), ids=lambda v: v if isinstance(v, str) else "")
def test_every_command_and_option_is_documented(name: str, command: Any) -> None:
    rows = set(re.findall(r"^\| `(--[\w-]+)` \|", section("docs/cli.md", name), re.M))
    assert rows == options_of(command)


@pytest.mark.parametrize(("name", "command"), list(walk(COMMANDS)), ids=lambda v: v if isinstance(v, str) else "")
def test_every_command_shows_an_example_of_itself(name: str, command: Any) -> None:
    examples = [shlex.split(line) for line in (command.epilog or "").splitlines() if line.startswith("  secateur ")]
    assert examples, f"{name} --help has no example"
    for words in examples:
        named, rest = find_command(words[1:])
        assert named.name == command.name
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= options_of(command)


def test_assistants_are_told_what_every_command_prints_as_json() -> None:
    rows = dict(re.findall(r"^\| `([\w ]+)` \| (.*) \|$", text_of("AGENTS.md"), re.M))
    commands = {name.removeprefix("secateur "): command for name, command in walk(COMMANDS)}
    assert set(rows) == {name for name, command in commands.items() if "--json" in options_of(command)}
    report, _, history = text_of("AGENTS.md").partition("\nThe *report*:")[2].partition("\n`compression`:")
    for text, kinds in (
        (report, (PruneReport, SiteReport)),
        (history, (Compression, Trial)),
        (rows["bench"], (Bench, BenchRow)),
    ):
        assert {field.name for kind in kinds for field in fields(kind)} <= set(re.findall(r"`(\w+)`", text))


def test_the_figures_of_the_texts_stand_in_the_findings() -> None:
    figures = set(re.findall(r"\d[\d,]*\.\d+|\d{1,3}(?:,\d{3})+", text_of("docs/theses.md")))
    assert len(figures) > 30
    assert {f for f in figures if f not in text_of("docs/results/findings.md", "README.md")} == set()


def test_links_of_the_index_for_machines_lead_somewhere() -> None:
    targets = LINK.findall(text_of("llms.txt"))
    assert all((ROOT / target).exists() for target in targets), targets


def test_the_documented_defaults_are_the_real_ones() -> None:
    for name, command in walk(COMMANDS):
        rows = dict(re.findall(r"^\| `(--[\w-]+)` \| .*; `?([\w.]+)`? \|$", section("docs/cli.md", name), re.M))
        for parameter in command.params:
            shown = rows.get(parameter.opts[0])
            if shown is not None and parameter.default not in (None, []):
                assert str(parameter.default) == shown, f"{name} {parameter.opts[0]}"


def test_every_criterion_is_documented() -> None:
    first, _, _ = text_of("docs/criteria.md").partition("\n## ")  # further tables are of what has no name
    rows = re.findall(r"^\| `([\w-]+)` \|", first, re.M)
    assert sorted(rows) == sorted(name for name, row in CRITERIA.items() if not row.needs_data)
    named = re.search(r"takes them by name.*?\.\n", text_of("docs/criteria.md"), re.S)
    assert named is not None
    assert sorted(re.findall(r"`([a-z-]+)`", named.group(0))) == sorted(
        name for name, row in CRITERIA.items() if row.needs_data
    )


def test_every_study_and_its_source_is_documented() -> None:
    for study in STUDIES.values():
        words = " ".join(section("docs/studies.md", study.name).split())
        if study.source is not None:
            assert study.source.author in words
            assert str(study.source.year) in words
            assert study.source.title in words
            assert f"| {study.source.key} |" in text_of("docs/studies.md")
        for option in study.defaults:
            assert f"`{option}`" in text_of("docs/studies.md"), f"{study.name} {option}"


def test_every_data_set_is_documented_with_its_counts() -> None:
    page = text_of("docs/data-and-models.md")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*)$", page, re.M))
    for name in data.names():
        counts = data.info(name).counts
        wanted = f"{counts['train']:,} + {counts['test']:,}" if counts else "yours"
        assert rows[name].startswith(f"{wanted} |"), name


@pytest.mark.parametrize("name", models.names())
def test_every_model_is_documented_with_its_parameters(name: str) -> None:
    import torch

    with torch.device("meta"):
        try:
            count = sum(p.numel() for p in models.build(name).parameters())
        except (RuntimeError, NotImplementedError):
            count = 0
    count = count or parameters(models.build(name)).total
    shape = "×".join(map(str, models.input_shape(name)))
    assert re.search(rf"^\| `{name}` \| .* \| {shape} \| {count:,} \|$", text_of("docs/data-and-models.md"), re.M)


def test_the_rooms_are_those_of_the_architecture_test() -> None:
    table = section("docs/architecture.md", "The rooms")
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", table, re.M)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == ORDER


def test_the_results_in_the_readme_are_those_of_the_study() -> None:
    """docs/results/fathollahi.csv is the report's tables/overview.csv."""
    with (ROOT / "docs" / "results" / "fathollahi.csv").open(encoding="utf-8", newline="") as file:
        known = {row["network"].replace("\N{NO-BREAK SPACE}", " "): row for row in csv.DictReader(file)}
    formats = {"accuracy": ".4f", "loss": ".4f", "parameters": ",.0f", "kilobytes": ",.0f", "speedup": ".2f"}
    finds = section("README.md", "What it finds").partition("\n### ")[0]
    shown = re.findall(r"^\| ([\w %]+?) \| (\d.*) \|$", finds, re.M)
    assert len(shown) >= 4
    for name, cells in shown:
        assert cells.split(" | ") == [format(float(known[name][key]), how) for key, how in formats.items()], name


def test_the_criteria_in_the_readme_are_those_of_the_shoot_out() -> None:
    with (ROOT / "docs" / "results" / "shootout.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["unit"], row["scope"]) == ("channels", "layer")]
    known = {(row["network"], row["criterion"]): row for row in rows}
    shown = re.findall(
        r"^\| ([\w ]+?) \| (\d.*) \|$", section("README.md", "Which criterion").partition("\n### ")[0], re.M
    )
    assert len(shown) >= 5
    for name, cells in shown:
        found = [known[network, name] for network in ("cnn-4", "lenet-300-100")]
        numbers = [row[key] for key in ("accuracy over sparsities", "fine-tuned") for row in found]
        assert cells.split(" | ") == [format(float(number), ".3f") for number in numbers], name


def test_the_coverage_in_the_readme_is_that_of_the_benchmark() -> None:
    found = dict(re.findall(r"^\| (\w+) \| (\d+ \| \d+ \| \d+) \|", text_of("docs/results/coverage.md"), re.M))
    shown = re.findall(r"^\| [^|]+ \| (\d+ \| \d+ \| \d+) \|$", text_of("README.md"), re.M)
    assert shown == [found[suite] for suite in ("torchvision", "timm", "transformers", "zoo")]


PUBLIC = sorted(secateur.__all__)


def kind_of(name: str) -> str:
    """What a public name owes its reader: an example (functions, criteria, options), or a sentence (all else)."""
    thing = getattr(secateur, name)
    if inspect.ismodule(thing):
        return "module"
    if inspect.isclass(thing) and issubclass(thing, SecateurError):
        return "error"
    if inspect.isfunction(thing) or (inspect.isclass(thing) and name in {"Magnitude", "Random", "TrainOptions"}):
        return "example"
    return "value"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_explained(name: str) -> None:
    """Functions, criteria and options have an example, theirs or a page's; errors and value types a sentence."""
    thing = getattr(secateur, name)
    doc = inspect.getdoc(thing) or ""
    assert doc, f"secateur.{name} has no docstring"
    if kind_of(name) == "example":
        shown = any(f"sc.{name}(" in code for page in PAGES for kind, code in blocks(page) if kind == "python")
        assert ">>>" in doc or shown, f"no example of secateur.{name} in its docstring or in the documents"
    elif inspect.isclass(thing) or inspect.ismodule(thing):
        assert doc.partition("\n")[0].endswith((".", ",")), f"secateur.{name}: {doc.partition(chr(10))[0]!r}"


@pytest.mark.parametrize("name", [n for n in PUBLIC if kind_of(n) == "error"])
def test_every_error_is_in_the_guide(name: str) -> None:
    if name != "SecateurError":
        assert f"| `{name}` |" in text_of("docs/guide.md")


def test_every_public_namespace_has_a_page_in_the_reference() -> None:
    """Its names are then there, too: the page shows all that stands in the namespace's `__all__`."""
    config = text_of("mkdocs.yml")
    for name in secateur.__all__:
        if inspect.ismodule(getattr(secateur, name)):
            assert f"::: secateur.{name}\n" in text_of(f"docs/reference/{name}.md")
            assert f" reference/{name}.md\n" in config


GALLERY = [page for page in PAGES if page.parent.name == "gallery" and page.stem != "index"]


@pytest.mark.parametrize("page", GALLERY, ids=name_of)
def test_a_page_of_the_gallery_makes_the_picture_that_it_shows(page: Path) -> None:
    picture = f"{page.stem}.svg"
    code = "\n".join(code for kind, code in blocks(page) if kind == "python")
    assert f'.savefig("{picture}")' in code
    assert f"]({picture})" in page.read_text(encoding="utf-8")
    assert f"]({page.name})" in text_of("docs/gallery/index.md")
    assert "</svg>" in (page.parent / picture).read_text(encoding="utf-8")


def test_every_page_is_found_from_the_site() -> None:
    config = text_of("mkdocs.yml")
    for page in (ROOT / "docs").rglob("*.md"):
        assert f" {page.relative_to(ROOT / 'docs')}\n" in config, page
