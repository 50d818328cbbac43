"""The figures of all kinds: what is drawn, and what the page may tell at the pointer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from secateur.lab.show.figures import (
    accuracy_by_sparsity,
    bars_with_intervals,
    box,
    class_bars,
    heatmap,
    histogram,
    individuals,
    path,
    ridge,
    scatter,
    trade_off,
)
from secateur.lab.show.marks import layout
from secateur.lab.show.style import PALETTE, svg
from secateur.types import InputError, UnknownNameError

RUNS = pd.DataFrame(
    {
        "method": ["l1"] * 4 + ["l2"] * 2,
        "sparsity": [0.5, 0.5, 0.9, 0.9, 0.5, 0.9],
        "accuracy": [0.8, 0.9, 0.3, 0.5, 0.7, 0.2],
        "ms": [1.0, 3.0, 0.5, 0.5, 1.5, 1.0],
    }
)


def told(figure: Any) -> list[dict[str, Any]]:
    """The points of a figure with their words, once it has been drawn."""
    text, found = svg(figure), layout(figure)
    for name in found["artists"]:
        assert text.count(f'id="{name}"') == 1, "what the page switches is in the drawing, once"
    for _, names in found["legend"]:
        assert all(f'id="{name}"' in text for name in names)
    return [point | {"rows": dict(point["rows"])} for point in found["points"]]


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_each_mean_is_told_with_its_interval_and_runs() -> None:
    first, *_ = told(accuracy_by_sparsity(RUNS))
    assert first["s"] == ["l1"]
    # Two values 0.1 apart: t(0.975, 1) = 12.706 times 0.1 / 2 to both sides, and no more than all.
    assert first["rows"] == {"removed": "50 %", "accuracy": "85.00 %", "95 %": "21.47 % to 100.00 %", "runs": "2"}
    single = told(accuracy_by_sparsity(RUNS))[2]
    assert single["rows"] == {"removed": "50 %", "accuracy": "70.00 %", "runs": "1"}


def test_points_lie_where_they_are_drawn() -> None:
    """The marker's own place in the SVG is the check: a `use` element with x and y."""
    figure = trade_off(RUNS, cost="ms", label="Latency (ms)", logarithmic=True)
    points = told(figure)
    text = svg(figure)
    for point in points:
        near = [
            use
            for use in text.split("<use ")[1:]
            if 'x="' in use
            and abs(float(use.split('x="')[1].split('"')[0]) - point["x"]) < 0.2
            and abs(float(use.split(' y="')[1].split('"')[0]) - point["y"]) < 0.2
        ]
        assert near, point


def test_published_points_belong_to_their_method_and_to_all_published() -> None:
    theirs = pd.DataFrame({"method": ["l2"], "sparsity": [0.5], "accuracy": [0.72]})
    figure = accuracy_by_sparsity(RUNS, published=theirs, baseline=0.9)
    assert ["l2", "published"] in [point["s"] for point in told(figure)]
    series = {name for names in layout(figure)["artists"].values() for name in names}
    assert series == {"l1", "l2", "published", "unpruned"} == set(legend(figure))


def test_points_outside_the_axes_are_not_told() -> None:
    figure = trade_off(RUNS, cost="ms", label="Latency (ms)")
    figure.axes[0].set_xlim(0.9, 3.0)
    svg(figure)
    assert {dict(point["rows"])["Latency (ms)"] for point in layout(figure)["points"]} == {"2", "1.5", "1"}


def test_boxes_are_the_quartiles() -> None:
    draws = pd.DataFrame({"n": [1] * 5 + [2] * 5, "accuracy": [0.1, 0.2, 0.3, 0.4, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5]})
    theirs = pd.DataFrame({"n": [1], "min": [0.0], "25%": [0.3], "50%": [0.4], "75%": [0.5], "max": [0.6]})
    figure = box(draws, x="n", value="accuracy", published=theirs)
    ours, again, published = told(figure)
    assert ours["rows"] == {
        "at": "1",
        "median": "0.3",
        "middle half": "0.2 to 0.4",
        "range": "0.1 to 0.9",
        "draws": "5",
    }
    assert again["rows"]["range"] == "0.5 to 0.5"
    assert published["s"] == ["published"]
    assert "draws" not in published["rows"]
    first = figure.axes[0].patches[0]
    assert (first.get_y(), first.get_height()) == (pytest.approx(0.2), pytest.approx(0.2))
    assert legend(figure) == ["ours", "published"]
    with pytest.raises(UnknownNameError, match="column of the published table '75%'"):
        box(draws, x="n", value="accuracy", published=theirs.drop(columns="75%"))


def test_ridges_stand_on_their_groups_and_peak_where_the_values_are() -> None:
    rows = pd.DataFrame({"generation": [0] * 30 + [5] * 3, "fitness": [*np.linspace(0, 1, 30), 2.0, 2.0, 2.0]})
    figure = ridge(rows, group="generation", value="fitness")
    first, last = (line.get_xydata() for line in figure.axes[0].lines)
    assert first[first[:, 1].argmin(), 0] == pytest.approx(0.5, abs=0.02)
    assert last[last[:, 1].argmin(), 0] == pytest.approx(2.0, abs=0.02)
    assert last[:, 1].min() == pytest.approx(1 - 1.7), "equal values are one narrow peak on the second line"
    assert told(figure)[1]["rows"] == {"generation": "5", "mean": "2", "range": "2 to 2", "values": "3"}


def test_histograms_share_bins_and_mark_regions() -> None:
    values = {"before": [0.0, 1.0, 2.0, 4.0], "after": [0.0, 0.0, 0.0, 0.0]}
    figure = histogram(values, label="weight", bins=4, regions={"zero": (-0.5, 0.5), "worse": (3, 9)})
    points = told(figure)
    assert [p["rows"]["share"] for p in points if p["s"] == ["before"]] == ["25 %"] * 4
    assert [p["rows"] for p in points if p["s"] == ["after"]] == [
        {"from": "0", "to": "1", "values": "4", "share": "100 %"}
    ]
    assert [text.get_text() for text in figure.axes[0].texts] == ["zero", "worse"]
    assert figure.axes[0].texts[1].get_position()[0] == 3.5, "a region that reaches beyond is named in what is seen"
    with pytest.raises(InputError, match="histogram of 'weight': 1 values, all must be finite"):
        histogram({"a": [math.nan]}, label="weight")
    with pytest.raises(InputError, match="0 values"):
        histogram({}, label="weight")


def test_a_path_is_the_mean_with_its_range() -> None:
    rows = pd.DataFrame({"method": ["a", "a", "a", "b"], "step": [0, 0, 1, 0], "loss": [1.0, 3.0, 0.5, 2.0]})
    figure = path(rows, logarithmic=True)
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[0, 2.0], [1, 0.5]]
    assert told(figure)[0]["rows"] == {"step": "0", "loss": "2", "range": "1 to 3", "runs": "2"}
    assert figure.axes[0].get_yscale() == "log"
    assert legend(figure) == ["a", "b"]


def test_bars_have_intervals_where_there_is_spread() -> None:
    figure = bars_with_intervals(RUNS, value="accuracy", by="sparsity", share=True)
    assert legend(figure) == ["0.5", "0.9"]
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx([0.85, 0.7, 0.4, 0.2])
    points = told(figure)
    assert [("95 %" in point["rows"]) for point in points] == [True, False, True, False]
    assert points[0]["rows"]["accuracy"] == "85.00 %"
    with pytest.raises(InputError, match="has no rows"):
        bars_with_intervals(RUNS[:0], value="accuracy")


def test_a_heat_map_writes_what_fits() -> None:
    table = pd.DataFrame([[0.5, math.nan], [-2.0, 0.0]], index=["l1", "l2"], columns=["cat", "dog"])
    figure = heatmap(table, label="change", diverging=True)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.5", "−2", "0"]
    mesh = figure.axes[0].collections[0]
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-2.0, 2.0), "zero is the middle"
    cells = told(figure)
    assert (cells[2]["s"], cells[2]["rows"]) == (["l2"], {"cat": "−2"})
    assert cells[1]["rows"] == {"dog": "–"}
    wide = heatmap(pd.DataFrame(np.arange(5000.0).reshape(50, 100)), label="weight")
    assert not wide.axes[0].texts
    assert "<image" in svg(wide), "a drawing of so many cells would be larger than their picture"
    with pytest.raises(InputError, match="heat map of 'x': there is no finite number in 1 cells"):
        heatmap(pd.DataFrame([[math.nan]]), label="x")


def test_scatter_tells_the_height_over_its_contours() -> None:
    found = pd.DataFrame({"method": ["ga", "hill"], "points": [0.5, -1.0], "removed": [10.0, 40.0]})
    figure = scatter(
        found, x="removed", y="points", height=lambda x, y: 2 * x + y, height_label="fitness", levels=[30, 60]
    )
    assert [point["rows"]["fitness"] for point in told(figure)] == ["20.5", "79"]
    contours = figure.axes[0].collections[-1]
    (vertex, *_), _ = (line.vertices for line in contours.get_paths())
    assert 2 * vertex[0] + vertex[1] == pytest.approx(30)
    assert PALETTE[0] == figure.axes[0].lines[0].get_color()


def test_class_bars_tell_the_change() -> None:
    figure = class_bars(["cat"], [0.9], [0.8], notes=["(95 % −12.0 to −8.0)"])
    assert told(figure)[1]["rows"] == {
        "class": "cat",
        "accuracy": "80 %",
        "change": "−10.0 points (95 % −12.0 to −8.0)",
    }


def test_equal_figures_give_equal_bytes() -> None:
    assert svg(trade_off(RUNS, cost="ms", label="ms")) == svg(trade_off(RUNS, cost="ms", label="ms"))


def test_every_individual_has_a_line_and_marked_ones_stand_out() -> None:
    rows = pd.DataFrame(
        {
            "generation": [0, 0, 1, 1],
            "individual": [0, 1, 0, 1],
            "fitness": [0.0, -1.0, 0.5, 0.2],
            "removed": [0, 0.1] * 2,
        }
    )
    values = {"fitness": "Fitness", "removed": "Removed"}
    figure = individuals(rows, step="generation", values=values, marked={"best": 0}, shares=["removed"])
    fitness, removed = figure.axes
    assert [line.get_ydata().tolist() for line in fitness.lines] == [[0.0, 0.5], [-1.0, 0.2], [0.0, 0.5]]
    assert legend(figure) == ["an individual", "best"]
    assert [point["rows"] for point in told(figure)[-2:]] == [
        {"generation": "0", "best": "0 %"},
        {"generation": "1", "best": "0 %"},
    ]
    assert removed.yaxis.get_major_formatter()(0.1, 0) in ("10 %", "10.0 %")
    with pytest.raises(UnknownNameError, match="column of the table 'loss'"):
        individuals(rows, step="generation", values={"loss": "Loss"})


@pytest.mark.parametrize(("last", "whole"), [(20, True), (2.5, False)])
def test_ticks_are_whole_where_steps_are(last: float, whole: bool) -> None:
    rows = pd.DataFrame({"method": "a", "step": [0, 1, last], "loss": [1.0, 0.5, 0.2]})
    ticks = path(rows).axes[0].get_xticks()
    assert all(float(tick).is_integer() for tick in ticks) == whole


def test_the_second_axis_is_the_first_one_moved() -> None:
    rows = pd.DataFrame({"method": "a", "step": [0, 100], "change": [0.0, -1.0]})
    figure = path(rows, value="change", beside=("Accuracy (%)", 95.0))
    svg(figure)
    (right,) = figure.axes[0].child_axes
    assert np.array(right.get_ylim()) == pytest.approx(np.array(figure.axes[0].get_ylim()) + 95)
    assert right.get_ylabel() == "Accuracy (%)"


@pytest.mark.parametrize(
    "names", [[f"genetic {n} %" for n in (10, 30, 50, 70, 90)], ["a long name " * 5, "b" * 70, "c"]]
)
def test_legends_lie_inside_the_picture(names: list[str]) -> None:
    rows = pd.DataFrame({"method": names, "step": 0, "loss": 1.0})
    figure = path(rows)
    svg(figure)
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert sorted(legend(figure)) == sorted(names)


def test_several_histograms_on_one_scale() -> None:
    scale = {"bins": [0.0, 1.0, 2.0], "counts": True, "most": 4}
    figures = [histogram({"weights": values}, label="weight", **scale) for values in ([0.5] * 3, [1.5])]
    assert {figure.axes[0].get_ylim() for figure in figures} == {(0.0, 4.0)}
    assert {figure.axes[0].get_xlim() for figure in figures} == {(0.0, 2.0)}
    assert told(figures[0])[0]["rows"] == {"from": "0", "to": "1", "values": "3", "share": "100 %"}
    assert figures[0].axes[0].patches[-1].get_data().values.tolist() == [3, 0]


def test_blank_cells_are_unlike_any_number() -> None:
    table = pd.DataFrame([[-1.0, math.nan, 1e-9]])
    figure = heatmap(table, label="weight", diverging=True, blank="removed")
    mesh = figure.axes[0].collections[0]
    svg(figure)
    removed, near_zero = mesh.get_facecolors()[1:3]
    assert abs(removed[:3] - near_zero[:3]).max() > 0.25
    assert legend(figure) == ["removed"]
    assert figure.axes[0].get_xlim() == (0.0, 3.0)


def test_falling_colours_run_the_other_way() -> None:
    table = pd.DataFrame([[-1.0, 1.0]])
    colours = []
    for falling in (False, True):
        figure = heatmap(table, label="change", diverging=True, falling=falling)
        svg(figure)
        colours.append(figure.axes[0].collections[0].get_facecolors().tolist())
    assert colours[0] == colours[1][::-1]
