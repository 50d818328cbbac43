"""E. Çallı, 2017, section 1.3.1: layers written as products of lower rank, by weights or by what they do on data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json
from secateur.studies.calli.common import SOURCE
from secateur.studies.calli.smaller import SettingsOf, WaySetting, cells, smaller_options
from secateur.studies.calli.smaller_pages import NOTES, Pages
from secateur.studies.kit.parts import study

__all__ = ["STUDY", "WAYS"]

SVD, DATA, REFIT = "SVD", "SVD on data", "SVD on data, refitted"


def _settings(method: str, aware: Mapping[str, Json], every: bool, settled: Mapping[str, Json]) -> Sequence[WaySetting]:
    """By shares of the MACs; for the ways that are compared in more detail, by energy and by ranks, too."""
    options = {"method": method, **{name: value for name, value in aware.items() if value}}

    def made(name: str, amount: float, **more: Json) -> WaySetting:
        return WaySetting(name, amount, {**options, **more}, with_data=bool(aware))

    rows = [made(f"MACs {share:g}", share, macs=share) for share in settled["macs"]]
    if every:
        rows += [made(f"energy {share:g}", share, energy=share) for share in settled["energies"]]
        rows += [made(f"rank {rank}", float(rank), rank=rank) for rank in settled["ranks"]]
        rows += [made("the bound", 0.0, rank="bound")]
    return rows


WAYS: Mapping[str, SettingsOf] = {
    SVD: partial(_settings, "svd", {}, True),
    DATA: partial(_settings, "svd", {"refit": False}, True),
    REFIT: partial(_settings, "svd", {"refit": True}, False),
    "spatial": partial(_settings, "spatial", {}, False),
    "Tucker-2": partial(_settings, "tucker", {}, False),
    "spatial on data, refitted": partial(_settings, "spatial", {"refit": True}, False),
}

PAGES = Pages(
    "Rank, multiply–accumulates and accuracy",
    "Share of the MACs asked for",
    lambda setting: setting.startswith("MACs"),
    {SVD: (DATA, REFIT, "spatial", "Tucker-2")},
    ("macs_left", "parameters_left"),
)

STUDY = study(
    "calli-factorise",
    "Layers as products of lower rank",
    "A convolutional network split by SVD, spatially and by Tucker-2, at shares of its MACs, by energy, by rank and at the "
    "bound n < m₁m₂/(m₁ + m₂), by weights and by data, before and after a training.",
    source=SOURCE,
    options=smaller_options(
        tuple(WAYS),
        Option("macs", "part", [0.25, 0.5], "shares of the MACs that are left", many="list"),
        Option("energies", "part", [0.9], "shares of the energy that layers keep", many="list"),
        Option("ranks", "count", [8], "ranks of every layer", least=1, many="list"),
        model="conv-2",
        model_options={"width": 0.25},
    ),
    cells=lambda name, settled: list(cells(name, settled, "low-rank", WAYS)),
    sections=PAGES.sections,
    words=PAGES.words,
    cards=PAGES.cards,
    notes=(
        "The text asks in its margin what to do where XW is not exactly equal: '"
        + DATA
        + "' takes the factors that change the "
        "layer's outputs least on images, '"
        + REFIT
        + "' fits each to the unchanged model's outputs behind the changed layers.",
        "A rank below the bound makes a layer cheaper; others stay whole. Below a rank a layer of fewer channels stays whole, too.",
        *NOTES,
    ),
)
