"""E. Çallı, 2017, section 1.6: weights of n bits, rounded after the training or trained so."""

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

CHANNEL, TENSOR = "per channel", "per tensor"


def _settings(options: Mapping[str, Json], settled: Mapping[str, Json]) -> Sequence[WaySetting]:
    shared = {**options, "coder": "packed"}
    return [WaySetting(f"{bits} bits", float(bits), {**shared, "bits": bits}) for bits in settled["bits"]]


WAYS: Mapping[str, SettingsOf] = {
    TENSOR: partial(_settings, {"per": "tensor"}),
    CHANNEL: partial(_settings, {"per": "channel"}),
    "per channel, whole range": partial(_settings, {"per": "channel", "spread": "max"}),
    "per channel, zero anywhere": partial(_settings, {"per": "channel", "symmetric": False}),
}

PAGES = Pages(
    "Bits of a weight",
    "Bits of a weight",
    lambda _: True,
    {
        TENSOR: (CHANNEL,),
        CHANNEL: ("per channel, whole range", "per channel, zero anywhere"),
    },
    ("bytes_left", "coded_left"),
)

STUDY = study(
    "calli-quantise",
    "Weights of few bits",
    "A dense network whose weights have 2 to 8 bits, a scale for each tensor or each channel, rounded after the training or "
    "trained as they answer when they are rounded.",
    source=SOURCE,
    options=smaller_options(
        tuple(WAYS),
        Option("bits", "count", [2, 3, 4, 5, 6, 7, 8], "bits of a weight", least=2, many="list"),
        model="lenet-300-100",
    ),
    cells=lambda name, settled: list(cells(name, settled, "quantize", WAYS)),
    sections=PAGES.sections,
    words=PAGES.words,
    cards=PAGES.cards,
    notes=(
        "The grid is that of the least squared error, symmetric around zero; 'whole range' spans to the farthest weight, 'zero "
        "anywhere' from the least to the greatest. 'Trained on' begins from the exact weights, on the grid of the rounded ones, "
        "with the gradient going past the rounding (straight-through).",
        "Inputs of layers are not rounded, and the module computes in floating point: accuracy and bytes are told, not speed.",
        *NOTES,
    ),
)
