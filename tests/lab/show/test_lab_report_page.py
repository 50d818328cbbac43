"""The report in a browser: what its script does, and that it does no harm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import COMMAND, Browser
from toy_study import STUDY

from secateur.lab import Basis, Column, Picture, Report, Section, Store, Table, run_study, write_report
from secateur.lab.show.figures import class_bars
from secateur.studies import by_name

pytestmark = [pytest.mark.slow, pytest.mark.skipif(COMMAND is None, reason="chromium is not on this machine")]
HOSTILE = '</script><script>document.title="owned"</script><!--<img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("toy"))
    few = {"seeds": 2, "sparsities": [0.2, 0.5, 0.9]}
    run_study(STUDY, store, few, progress=False)
    return write_report(STUDY, store, few)


@pytest.fixture
def page(browser: Browser, toy: Path) -> Browser:
    browser.complaints.clear()
    browser.open(toy)
    return browser


def middle(page: Browser, element: str) -> tuple[float, float]:
    """Scroll an element into view, and return its middle."""
    script = f"""(() => {{ const it = {element}; it.scrollIntoView({{block: "center", behavior: "instant"}});
        const box = it.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"""
    x, y = page.ask(script)
    return x, y


def test_the_script_runs_without_a_complaint(page: Browser) -> None:
    assert page.ask("document.documentElement.dataset.script") == "ready"
    assert page.ask("performance.getEntriesByType('resource').length") == 0, "nothing is fetched"
    assert page.complaints == []


def test_the_values_stand_at_the_pointer(page: Browser) -> None:
    figure = 'document.querySelector("#figure-accuracy svg")'
    middle(page, figure)
    point = page.ask('JSON.parse(document.getElementById("marks").textContent).accuracy.points.find(p => p.x > 200)')
    x, y = page.ask(
        f"""(() => {{ const at = new DOMPoint({point["x"]}, {point["y"]}).matrixTransform({figure}.getScreenCTM());
        return [at.x, at.y]; }})()"""
    )
    page.move(x + 2, y)
    assert page.ask('getComputedStyle(document.getElementById("tip")).visibility') == "visible"
    assert page.ask('document.querySelector("#tip b").textContent') == ", ".join(point["s"])
    shown = page.ask('[...document.querySelectorAll("#tip dd")].map(e => e.textContent)')
    assert shown == [value for _, value in point["rows"]]
    page.move(5, 5)
    assert page.ask('getComputedStyle(document.getElementById("tip")).visibility') == "hidden"


def test_the_arrow_keys_step_through_the_values(page: Browser) -> None:
    page.ask('document.querySelector("#figure-accuracy .plot").focus()')
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.press(key)
        seen.append(page.ask('document.getElementById("tip").textContent'))
    assert seen[0] == seen[2] != seen[1]
    page.press("Escape")
    assert page.ask('getComputedStyle(document.getElementById("tip")).visibility') == "hidden"


def off(page: Browser) -> list[str]:
    return sorted(page.ask('[...document.querySelectorAll(".off")].map(e => e.closest("figure").id)'))


def test_a_legend_entry_hides_its_series_in_all_figures(page: Browser) -> None:
    entry = "document.querySelector('#figure-accuracy .switch[aria-label=\"show neuron\"]')"
    page.click(*middle(page, entry))
    assert {"figure-accuracy", "figure-loss", "figure-trade-off-ms", "figure-trade-off-mb"} == set(off(page))
    assert page.ask(f'{entry}.getAttribute("aria-pressed")') == "false"
    assert page.ask("document.querySelector('.off').getBoundingClientRect().width") == 0
    page.media("print")
    assert page.ask("document.querySelector('.off').getBoundingClientRect().width") > 0, "paper shows everything"
    assert page.ask("document.querySelector('.controls').getBoundingClientRect().width") == 0
    page.media("")
    page.ask(f"{entry}.focus()")
    page.press("Enter")
    assert off(page) == []
    assert page.pdf() > 10_000


def test_tables_are_sorted_by_any_column(page: Browser) -> None:
    column = 'document.querySelectorAll("#table-pruning thead button")[2]'
    read = '[...document.querySelectorAll("#table-pruning tbody tr")].map(r => Number(r.cells[2].dataset.key))'
    before = page.ask(read)
    page.click(*middle(page, column))
    assert page.ask(read) == sorted(before)
    page.click(*middle(page, column))
    assert page.ask(read) == sorted(before, reverse=True)
    assert page.ask(f'{column}.parentElement.getAttribute("aria-sort")') == "descending"
    page.ask(f"{column}.focus()")
    page.press("Enter")
    assert page.ask(read) == before


def test_light_or_dark_is_chosen_and_kept(page: Browser, toy: Path) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.ask(colour)
    choose = 'const s = document.getElementById("theme"); s.value = "{}"; s.dispatchEvent(new Event("change"));'
    page.ask(f"(() => {{ {choose.format('dark')} }})()")
    dark = page.ask(colour)
    assert dark != light
    page.open(toy)
    assert page.ask(colour) == dark
    page.ask(f"(() => {{ {choose.format('auto')} }})()")
    assert page.ask(colour) == light


def test_files_are_saved_from_the_page_itself(page: Browser, toy: Path) -> None:
    for kind, file in (("SVG", "figures/accuracy.svg"), ("CSV", "tables/accuracy.csv")):
        link = f'[...document.querySelectorAll("#figure-accuracy .files a")].find(a => a.textContent === "{kind}")'
        text = page.ask(
            f'new TextDecoder().decode(Uint8Array.from(atob({link}.href.split(",")[1]), c => c.charCodeAt(0)))'
        )
        assert text == (toy.parent / file).read_text(encoding="utf-8")


LOOKS = [(1280, False, ""), (1280, True, ""), (400, False, ""), (400, True, ""), (1000, False, "print")]
"""Widths, light or dark, and paper (A4 across)."""


@pytest.mark.parametrize(("width", "dark", "medium"), LOOKS)
def test_nothing_is_cut_off(page: Browser, toy: Path, width: int, dark: bool, medium: str) -> None:
    """Also what is folded, once it is opened."""
    page.size(width, dark=dark)
    page.media(medium)
    page.open(toy)
    page.ask('document.querySelectorAll("details").forEach((one) => { one.open = true; })')
    assert page.cut_off() == []
    forms = page.ask('[...document.querySelectorAll("#figure-accuracy .plot")].map((plot) => plot.checkVisibility())')
    assert forms == [width > 640, width <= 640], "each width has a form of the figure"
    assert page.complaints == []
    page.media("")
    page.size(1100)


_DIGITS = {"data": "digits", "seeds": 2, "epochs": 2, "validation": 300}
_LENET = {"model": "lenet-300-100", "model_options": {"input_size": 8}}
REAL = {
    "demo": {"seeds": 2, "epochs": 3},
    "fathollahi": {**_DIGITS, **_LENET},
    "criteria-shootout": {
        **_DIGITS,
        "model": ["lenet-300-100", "cnn-4"],
        "model_options": {"lenet-300-100": {"input_size": 8}, "cnn-4": {"width": 0.25}},
        "images": 300,
        "shown": 64,
        "criteria": ["random", "magnitude", "l1", "taylor"],
        "tune_images": 100,
    },
}


@pytest.mark.parametrize("name", REAL)
def test_nothing_of_a_study_is_cut_off(browser: Browser, tmp_path: Path, name: str) -> None:
    """Of its report as it is written, with all that is folded open."""
    study, store = by_name(name), Store(tmp_path)
    assert run_study(study, store, REAL[name], progress=False).exit_code == 0
    report = write_report(study, store, REAL[name])
    browser.complaints.clear()
    for width, dark, medium in LOOKS:
        browser.size(width, dark=dark)
        browser.media(medium)
        browser.open(report)
        browser.ask('document.querySelectorAll("details").forEach((one) => { one.open = true; })')
        assert (width, medium, browser.cut_off()) == (width, medium, [])
    assert browser.complaints == []
    browser.media("")
    browser.size(1100)


def test_a_wide_table_says_once_what_is_the_same_in_all_rows(browser: Browser, tmp_path: Path) -> None:
    columns = [Column(f"c{place}") for place in range(13)]
    rows = [[f"row {row}", *range(11), 1 - row] for row in range(2)]
    browser.open(Report("Wide", sections=[Section("s", [Table("t", "Wide.", columns, rows)])]).write(tmp_path))
    assert browser.ask('[...document.querySelectorAll("thead th")].map((one) => one.innerText)') == ["c0", "c12"]
    caption = browser.ask('document.getElementById("caption-t").innerText')
    assert "Wide. In all rows: c1 0, c2 1, c3 2, " in caption
    assert (tmp_path / "tables" / "t.csv").read_text().startswith("c0,c1,c2,")


def test_the_contents_are_grouped_by_network(browser: Browser, tmp_path: Path) -> None:
    sections = [Section(title, ["…"]).within("digits", model) for model in ("a", "b") for title in ("Costs", "Gains")]
    browser.open(Report("Two", sections=[*sections, Section("How", ["…"])]).write(tmp_path))
    lines = browser.ask('[...document.querySelectorAll("nav li")].map((one) => one.textContent)')
    assert lines == ["Summary", "a on digits", "Costs", "Gains", "b on digits", "Costs", "Gains", "How"]
    assert browser.ask('document.querySelectorAll("h2")[0].innerText') == "a on digits: Costs"


@pytest.mark.parametrize(("width", "dark", "medium"), LOOKS)
def test_a_long_command_is_broken_and_not_cut_off(
    browser: Browser, tmp_path: Path, width: int, dark: bool, medium: str
) -> None:
    command = "secateur study run fathollahi " + " ".join(f"--set 'methods=[\"method {n}\"]'" for n in range(40))
    browser.size(width, dark=dark)
    browser.media(medium)
    browser.open(Report("Long", command=command + " " + "x" * 300).write(tmp_path))
    assert browser.cut_off() == []
    browser.media("")
    browser.size(1100)


def test_what_is_too_wide_is_noticed(browser: Browser, tmp_path: Path) -> None:
    """Else the test above could not fail."""
    table = Table("t", "Wide.", [Column("x" * 400)] * 3, [[1.0, 2.0, 3.0]])
    browser.open(Report("Wide", sections=[Section("s", [table])]).write(tmp_path))
    assert browser.cut_off()


def test_the_page_leads_with_the_picture_and_then_the_numbers(page: Browser) -> None:
    order = page.ask('[...document.getElementById("summary").children].map((one) => one.id || one.className)')
    assert order[:3] == ["figure-learning-curves", "cards", "lead"]
    assert page.ask('document.querySelectorAll("#figure-learning-curves").length') == 1, "and does not repeat it"


def test_long_tables_are_folded_and_unfolded_on_paper(page: Browser, tmp_path: Path) -> None:
    rows = [[f"row {place}", place] for place in range(15)]
    columns = [Column("name"), Column("x")]
    sections = [Section("s", [Table("long", "Long.", columns, rows), Table("short", "Short.", columns, rows[:14])])]
    page.open(Report("Tables", sections=sections).write(tmp_path))
    seen = '[...document.querySelectorAll("table")].map((table) => table.checkVisibility())'
    assert page.ask(seen) == [False, True]
    page.media("print")
    assert page.ask(seen) == [True, True]
    page.media("")


def test_many_findings_are_folded_and_unfolded_on_paper(page: Browser, tmp_path: Path) -> None:
    for count, seen_there in ((6, 6), (9, 4)):
        words = [f"Finding {number}." for number in range(count)]
        page.open(Report("Much", ["WARNING: see below.", *words]).write(tmp_path))
        seen = '[...document.querySelectorAll("p.lead")].filter((one) => one.checkVisibility()).length'
        assert page.ask(seen) == seen_there
        page.media("print")
        assert page.ask(seen) == count
        page.media("")


def test_a_narrow_page_has_its_values_at_the_pointer_too(page: Browser, toy: Path) -> None:
    page.size(400)
    page.open(toy)
    page.ask('document.querySelector("#figure-accuracy .plot.narrow").focus()')
    page.press("ArrowRight")
    assert page.ask('document.querySelectorAll("#tip dd").length') > 1
    page.size(1100)  # turned: the other form takes over
    page.ask('document.querySelector("#figure-accuracy .plot.wide").focus()')
    page.press("ArrowRight")
    assert page.ask('getComputedStyle(document.getElementById("tip")).visibility') == "visible"


def test_hostile_names_stay_words(browser: Browser, tmp_path: Path) -> None:
    browser.complaints.clear()
    basis = Basis(HOSTILE, HOSTILE, (HOSTILE,))
    names = (HOSTILE, f"{HOSTILE} after")
    picture = Picture("bars", class_bars([HOSTILE], [0.5], [0.4], names=names), HOSTILE, HOSTILE, basis)
    table = Table("t", HOSTILE, [Column(HOSTILE), Column("x")], [[HOSTILE, 1.0], ["a", 2.0]], basis)
    browser.open(Report(HOSTILE, sections=[Section(HOSTILE, [picture, table])]).write(tmp_path))
    assert browser.ask("document.documentElement.dataset.script") == "ready"
    assert browser.ask("document.title") == HOSTILE
    assert browser.ask("document.querySelectorAll('script').length") == 2
    assert browser.ask("document.querySelectorAll('img').length") == 0
    seen = 'document.querySelector(".query").checkVisibility()'
    assert not browser.ask(seen), "folded"
    browser.media("print")
    assert browser.ask(seen), "paper cannot be unfolded"
    browser.media("")
    browser.ask('document.querySelector(".plot").focus()')
    browser.press("ArrowRight")
    assert HOSTILE in browser.ask('document.getElementById("tip").textContent')
    assert json.dumps(browser.complaints) == "[]"
