"""The report: one page that needs nothing, says what is missing, and is the same every time."""

from __future__ import annotations

import base64
import csv
import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy_study import STUDY

from secateur.lab import Card, Column, Picture, Report, Section, Store, Table, build_report, run_study, write_report
from secateur.lab.keep.records import Record
from secateur.lab.plan.recipe import Recipe
from secateur.lab.show.figures import class_bars
from secateur.lab.show.report import html, markdown
from secateur.lab.show.style import svg
from secateur.types import FileError, InputError, UnknownNameError

SMALL = {"seeds": 2, "sparsities": [0.2, 0.5, 0.9]}
NASTY = '<script>alert("x")</script> & $5 * _b_ | [c](d)'


class Page(HTMLParser):
    """Collects what a test asks about: tags with their attributes, ids, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("toy"))
    run_study(STUDY, store, SMALL, progress=False)
    return write_report(STUDY, store, SMALL, command="secateur study run toy --seeds 2").parent


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page((written / "report.html").read_text(encoding="utf-8"))


def nasty_picture() -> Picture:
    return Picture("bars", class_bars([NASTY], [0.5], [0.4]), NASTY, NASTY, NASTY)


def test_every_file_is_there(written: Path) -> None:
    names = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    figures = ["learning-curves", "accuracy", "loss", "trade-off-ms", "trade-off-mb", "classes"]
    assert names == {
        "report.html",
        "report.md",
        *(f"figures/{name}.{suffix}" for name in figures for suffix in ("svg", "png")),
        *(f"tables/{name}.csv" for name in ("learning-curves", "accuracy", "pruning")),
    }


def test_the_page_needs_nothing_else(page: Page) -> None:
    names = {name for name, _ in page.tags}
    assert names.isdisjoint({"link", "img", "iframe", "object"})
    assert [script.get("src") for script in page.all("script")] == [None, None], "its data, and its own script"
    for _, attrs in page.tags:
        for key, value in attrs.items():
            assert not key.startswith("on")
            if key in {"href", "src", "xlink:href"}:
                assert re.match(r"#|figures/|data:(image/svg\+xml|text/csv);", value or ""), value


def test_every_link_leads_somewhere(page: Page, written: Path) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs[key] or "" for _, attrs in page.tags for key in ("href", "xlink:href") if key in attrs]
    assert len(links) > 20
    for link in (link for link in links if not link.startswith("data:")):
        assert link[1:] in ids if link.startswith("#") else (written / link).is_file(), link


def test_the_page_can_be_saved_in_parts(page: Page, written: Path) -> None:
    """What a link holds is the file of that name."""
    saved = {
        attrs["download"]: attrs["href"] for attrs in page.all("a") if (attrs.get("href") or "").startswith("data:")
    }
    assert len(saved) == 6 + 3
    for name, link in saved.items():
        folder = "figures" if str(name).endswith(".svg") else "tables"
        assert base64.b64decode(str(link).partition("base64,")[2]) == (written / folder / str(name)).read_bytes()


def test_the_page_may_do_nothing_but_run_its_own_script(page: Page) -> None:
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def test_tables_and_figures_can_be_read_aloud(page: Page) -> None:
    assert all(attrs["scope"] in {"col", "row"} for attrs in page.all("th"))
    assert len(page.all("svg")) == 2 * 6, "each figure in two forms"
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in page.all("svg"))
    assert page.all("html")[0]["lang"] == "en"


def test_the_page_says_where_it_comes_from(page: Page) -> None:
    for words in (
        "After N. Obody, 2024, On pruning toys",
        "secateur study run toy --seeds 2",
        "Computed from: mean and 95 % interval of 2 seeds, test set of 10,000 images.",
        "Unpruned accuracy",
        "0, 1",
    ):
        assert words in page.text


def test_the_same_results_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    store = Store(written.parent, create=False)
    write_report(STUDY, store, SMALL, directory=tmp_path, command="secateur study run toy --seeds 2")
    for path in written.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(written)).read_bytes(), path


def test_csv_by_hand(written: Path) -> None:
    with (written / "tables" / "pruning.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["Method", "Sparsity", "Accuracy", "± std", "Accuracy, published", "Loss (nats)"]
    assert rows[1][:2] == ["neuron", "0.2"]
    assert rows[1][4] == "0.884"
    assert len(rows) == 7


def test_png_is_large_enough(written: Path) -> None:
    data = (written / "figures" / "accuracy.png").read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (1440, 800)


def test_svg_text_is_text(written: Path) -> None:
    text = (written / "figures" / "accuracy.svg").read_text(encoding="utf-8")
    assert ">Test accuracy</text>" in text
    assert "dc:date" not in text


def test_markdown_form(written: Path) -> None:
    text = (written / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Pruning weights or neurons of a five-layer network on Fashion-MNIST\n")
    assert "| neuron | 20\N{NO-BREAK SPACE}% |" in text
    assert "](figures/accuracy.svg)" in text
    assert "| --- | ---: | ---: |" in text


def test_options_that_no_run_had_are_told_from_no_run_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for count, words in ((1, "1 cell of others"), (2, "2 cells of others")):
        store.put(Record(Recipe("toy", "prune", {"sparsity": 0.1 * count}), {"accuracy": 0.5}))
        with pytest.raises(
            InputError, match=rf"no finished cell of these options in .*, which holds {words}; .*report"
        ):
            build_report(STUDY, store, SMALL)


def test_a_partial_report_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(InputError, match=r"no finished cell in .*; run it first"):
        build_report(STUDY, store, SMALL)
    run_study(STUDY, store, SMALL | {"seeds": 1}, progress=False)
    report = build_report(STUDY, store, SMALL)
    assert report.summary[0] == "This report is not complete: 7 of 14 cells are not finished."
    # What was run, in a comment; then the command.
    assert report.command.splitlines()[-1] == "secateur study run toy --seeds 2 --set 'sparsities=[0.2,0.5,0.9]'"


def test_all_text_is_escaped() -> None:
    table = Table("t", NASTY, [Column(NASTY, NASTY)], [[NASTY]], NASTY)
    section = Section(NASTY, [NASTY, table, nasty_picture()])
    report = Report(NASTY, [NASTY], [Card(NASTY, NASTY, NASTY)], [section], NASTY, NASTY, {NASTY: NASTY})
    text = html(report, {"bars": svg(nasty_picture().figure)})
    assert [script.get("type") for script in Page(text).all("script")] == ["application/json", None]
    assert Page(text).text.count(NASTY) >= 15
    assert "<script" not in markdown(report).replace(r"\<script", "").replace(f"    {NASTY}", "")


def test_best_values_are_marked() -> None:
    columns = [Column("m"), Column("up", best="max"), Column("down", format=".2f", best="min")]
    table = Table("t", "", columns, [["a", 1, 0.5], ["b", 3, None], ["c", 3, 0.25]])
    text = html(Report("R", sections=[Section("S", [table])]), {})
    assert re.findall(r"<strong>(.*?)</strong>", text) == ["3", "3", "0.25"]
    assert text.count('class="number"') == 5
    assert text.count('class="number good"') == 3
    assert "| b | **3** | – |" in markdown(Report("R", sections=[Section("S", [table])]))


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        (Column("x", format=".1%"), 0.8851, "88.5\N{NO-BREAK SPACE}%"),
        (Column("x", format=",.0f"), 2384000, "2,384,000"),
        (Column("x"), -0.5, "−0.5"),
        (Column("x"), np.int64(12345678), "12345678"),
        (Column("x"), np.float32(0.5), "0.5"),
        (Column("x"), True, "yes"),
        (Column("x"), None, "–"),
        (Column("x", format=".2f"), "a-b", "a-b"),
    ],
)
def test_how_values_are_written(column: Column, value: object, text: str) -> None:
    assert column.text(value) == text


def test_equal_titles_have_their_own_anchors() -> None:
    text = html(Report("R", sections=[Section("A", []), Section("A", [])]), {})
    assert 'id="s1-a"' in text
    assert 'id="s2-a"' in text


def test_bad_blocks() -> None:
    with pytest.raises(InputError, match="table name 'a/b' cannot name a file"):
        Table("a/b", "", [Column("x")], [])
    with pytest.raises(InputError, match="has no columns"):
        Table("a", "", [], [])
    with pytest.raises(InputError, match=r"has 1 columns, but the row \[1, 2\] has 2"):
        Table("a", "", [Column("x")], [[1, 2]])
    with pytest.raises(InputError, match=r"column 'x': .*give a format such as"):
        Column("x", format="nonsense")
    with pytest.raises(InputError, match="best is 'most'"):
        Column("x", best="most")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="figure 'f' has no alt text"):
        Picture("f", nasty_picture().figure, "c", " ")
    with pytest.raises(UnknownNameError, match="unknown column of the data frame 'y'"):
        Table.of(pd.DataFrame({"x": [1]}), "t", "", [Column("y")])
    twice = [nasty_picture(), nasty_picture()]
    with pytest.raises(InputError, match="two blocks are named bars"):
        Report("R", sections=[Section("S", twice)])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot write"):
        Report("R").write(tmp_path / "file")


def test_warnings_stand_above_the_picture(tmp_path: Path) -> None:
    words = [
        "Half can go.",
        "cnn-4: WARNING: 1 of 2 networks have not learnt.",
        "This report is not complete: 3 cells.",
    ]
    report = Report("Warned", words, sections=[Section("s", [Table("t", "T.", [Column("x")], [[1.0]])])])
    page = report.write(tmp_path)
    html, plain = page.read_text(encoding="utf-8"), (tmp_path / "report.md").read_text(encoding="utf-8")
    assert html.count('<p class="warning">') == 2
    for text in (html.split('<section id="summary"')[1], plain):
        places = [text.index(words[n]) for n in (1, 2, 0)]
        assert places == sorted(places)
        assert all(text.count(line) == 1 for line in words)
