"""E. Çallı, 2017, section 1.3.2: weights that share few values, by the bits of an index and by how k-means begins."""

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


def _settings(initialisation: str, scope: str, settled: Mapping[str, Json]) -> Sequence[WaySetting]:
    options = {"initialisation": initialisation, "scope": scope, "coder": "packed"}
    return [
        WaySetting(f"{bits} bit{'s' if bits > 1 else ''}", float(bits), {**options, "bits": bits})
        for bits in settled["bits"]
    ]


LINEAR, EXACT = "linear", "exact"

WAYS: Mapping[str, SettingsOf] = {
    LINEAR: partial(_settings, LINEAR, "layer"),
    "density": partial(_settings, "density", "layer"),
    "random": partial(_settings, "random", "layer"),
    EXACT: partial(_settings, EXACT, "layer"),
    "linear, one for all layers": partial(_settings, LINEAR, "global"),
    "exact, one for all layers": partial(_settings, EXACT, "global"),
}

PAGES = Pages(
    "Bits of an index, and how the centroids begin",
    "Bits of an index",
    lambda _: True,
    {
        LINEAR: ("density", "random", EXACT),
        EXACT: ("exact, one for all layers",),
    },
    ("bytes_left", "coded_left"),
)

STUDY = study(
    "calli-share",
    "Weights that share few values",
    "A dense network whose weights take 2 to 32 values by k-means, begun in three ways or solved exactly, a codebook for each "
    "layer or one for all; its file, its accuracy, and the accuracy when the values are trained.",
    source=SOURCE,
    options=smaller_options(
        tuple(WAYS),
        Option("bits", "count", [1, 2, 3, 4, 5], "bits of an index", least=1, many="list"),
        model="lenet-300-100",
    ),
    cells=lambda name, settled: list(cells(name, settled, "share", WAYS)),
    sections=PAGES.sections,
    words=PAGES.words,
    cards=PAGES.cards,
    notes=(
        "The text's ways to begin are those of Han, Mao and Dally (2016): linear, density, random; 'exact' is the least squared "
        "error that there is. Trained are the values; which weight has which stays.",
        "Bytes are those of the tensors on disk, indices packed in n bits, or coded by lzma; biases stay as they are.",
        *NOTES,
    ),
)
