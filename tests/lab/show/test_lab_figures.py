"""Figures: what is drawn is what the table says."""

from __future__ import annotations

import math

import matplotlib
import numpy as np
import pandas as pd
import pytest

from secateur.lab.show.figures import (
    accuracy_by_sparsity,
    class_bars,
    learning_curves,
    loss_by_sparsity,
    trade_off,
)
from secateur.lab.show.style import PALETTE, inline_svg, png, styles, svg
from secateur.types import InputError, UnknownNameError

RUNS = pd.DataFrame(
    {
        "method": ["l1"] * 4 + ["l2"] * 2,
        "sparsity": [0.5, 0.5, 0.9, 0.9, 0.5, 0.9],
        "accuracy": [0.8, 0.9, 0.3, 0.5, 0.7, 0.2],
        "loss": [0.5, 0.7, 1.0, 2.0, 0.6, 20.0],
        "ms": [1.0, 3.0, 0.5, 0.5, 1.5, 1.0],
    }
)


def line(figure: object, label: str) -> np.ndarray:
    """The points of the line of that label in the first axes."""
    (found,) = [one for one in figure.axes[0].lines if one.get_label() == label]  # type: ignore[attr-defined]
    return np.asarray(found.get_xydata())


def legend(figure: object) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]  # type: ignore[attr-defined]


def test_sweep_draws_the_means_and_the_band() -> None:
    figure = accuracy_by_sparsity(RUNS, baseline=0.95)
    np.testing.assert_allclose(line(figure, "l1"), [[50, 0.85], [90, 0.4]])
    np.testing.assert_allclose(line(figure, "l2"), [[50, 0.7], [90, 0.2]])
    # Two values 0.1 apart: t(0.975, 1) = 12.706 times 0.1 / 2, which is above 1 here.
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == 1
    assert legend(figure) == ["l1", "l2", "unpruned"]
    assert figure.axes[0].get_ylim() == pytest.approx((0.2 - 0.045, 0.95 + 0.045))


def test_published_points_are_hollow_and_in_the_methods_colour() -> None:
    theirs = pd.DataFrame({"method": ["l2"], "sparsity": [0.5], "accuracy": [0.72]})
    figure = accuracy_by_sparsity(RUNS, published=theirs)
    (points,) = [one for one in figure.axes[0].lines if one.get_xydata().tolist() == [[50.0, 0.72]]]
    assert points.get_markerfacecolor() == "none"
    assert points.get_color() == PALETTE[1]
    assert legend(figure) == ["l1", "l2", "published"]
    stranger = theirs.assign(method="l3")
    with pytest.raises(UnknownNameError, match="method in the published table 'l3'"):
        accuracy_by_sparsity(RUNS, published=stranger)


def test_a_method_keeps_its_look_in_every_figure() -> None:
    look = styles(["random", "l2", "l1"])
    one = accuracy_by_sparsity(RUNS, look=look)
    two = trade_off(RUNS, cost="ms", label="Latency (ms)", look=look)
    for figure in (one, two):
        colours = {item.get_label(): item.get_color() for item in figure.axes[0].lines}
        assert (colours["l1"], colours["l2"]) == (PALETTE[2], PALETTE[1])
    with pytest.raises(UnknownNameError, match="method without a style 'l1'"):
        accuracy_by_sparsity(RUNS, look=styles(["l2"]))


def test_loss_on_a_logarithmic_axis() -> None:
    figure = loss_by_sparsity(RUNS, logarithmic=True)
    assert figure.axes[0].get_yscale() == "log"
    assert "mathdefault" not in svg(figure)
    assert figure.axes[0].get_ylim() == pytest.approx((0.6 / 1.15, 20 * 1.15))


def test_trade_off_draws_means_and_writes_the_sparsity() -> None:
    figure = trade_off(RUNS, cost="ms", label="Latency (ms)", baseline=(4.0, 0.95))
    np.testing.assert_allclose(line(figure, "l1"), [[2.0, 0.85], [0.5, 0.4]])
    np.testing.assert_allclose(line(figure, "unpruned"), [[4.0, 0.95]])
    assert [text.get_text() for text in figure.axes[0].texts] == ["50 %", "90 %", "50 %", "90 %"]


def test_crowded_points_are_not_all_labelled() -> None:
    crowd = pd.DataFrame({"method": "m", "sparsity": np.arange(10) / 100, "ms": 1.0, "accuracy": 0.9})
    far = pd.DataFrame({"method": ["m"], "sparsity": [0.9], "ms": [5.0], "accuracy": [0.1]})
    figure = trade_off(pd.concat([crowd, far]), cost="ms", label="Latency (ms)")
    assert [text.get_text() for text in figure.axes[0].texts] == ["0 %", "90 %"]


def test_learning_curves_mark_the_best_epoch() -> None:
    rows = {
        "epoch": [1, 2, 3] * 2,
        "train_loss": [3.0, 2.0, 1.0, 5.0, 4.0, 3.0],
        "validation_loss": [3.0, 1.0, 2.0, 3.0, 2.0, 2.0],
        "train_accuracy": [0.1, 0.2, 0.3] * 2,
        "validation_accuracy": [0.1, 0.3, 0.2] * 2,
    }
    figure = learning_curves(pd.DataFrame(rows))
    np.testing.assert_allclose(line(figure, "training"), [[1, 4], [2, 3], [3, 2]])
    assert line(figure, "best epoch on average (2)")[0][0] == 2
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (1.0, 5.0)
    with pytest.raises(UnknownNameError, match="column of the table 'validation_error'"):
        learning_curves(pd.DataFrame(rows), best="validation_error")


def test_class_bars_write_the_change() -> None:
    figure = class_bars(["a", "b", "c"], [0.9, 0.5, math.nan], [0.8, 0.625, 0.5])
    assert [text.get_text() for text in figure.axes[0].texts] == ["−10.0", "+12.5"]
    assert [bar.get_width() for bar in figure.axes[0].patches[:2]] == [0.9, 0.5]
    with pytest.raises(InputError, match="got 2 classes, 1 before and 2 after"):
        class_bars(["a", "b"], [0.1], [0.1, 0.2])


def test_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="has no rows"):
        accuracy_by_sparsity(RUNS[:0])
    with pytest.raises(UnknownNameError, match="column of the table 'energy'"):
        trade_off(RUNS, cost="energy", label="Energy (J)")


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    png(accuracy_by_sparsity(RUNS))
    assert dict(matplotlib.rcParams) == before


def test_drawing_does_not_depend_on_matplotlibs_settings() -> None:
    plain = svg(accuracy_by_sparsity(RUNS))
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert svg(accuracy_by_sparsity(RUNS)) == plain


def test_inline_svg_has_its_own_ids_and_variables() -> None:
    text = inline_svg(svg(accuracy_by_sparsity(RUNS)), "one", 'say "hello"')
    assert text.startswith("<svg ")
    assert 'aria-label="say &quot;hello&quot;"' in text
    assert "var(--plot-0072b2, #0072b2)" in text
    assert 'id="one-' in text
    assert "url(#one-" in text
    assert "<metadata>" not in text


def test_styles_differ_beyond_the_palette() -> None:
    looks = styles(str(number) for number in range(20))
    assert len(set(looks.values())) == 20
